//! stdout and stderr of a command: read as fast as they come, only their end kept.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Read at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// The end of one stream.
#[derive(Debug)]
pub struct Captured {
    kept: BytesMut,
    kept_bytes_max: usize,
    bytes_total: u64,
}

impl Captured {
    /// Keeps the last `kept_bytes_max` (while reading up to twice that).
    #[must_use]
    pub fn new(kept_bytes_max: usize) -> Self {
        Self { kept: BytesMut::new(), kept_bytes_max, bytes_total: 0 }
    }

    /// Reads to the end of the stream. Can be dropped at any time: what was read stays.
    pub async fn fill(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        loop {
            self.kept.reserve(CHUNK_BYTES);
            // A stream that cannot be read any more has ended, whatever the reason.
            let Ok(read @ 1..) = stream.read_buf(&mut self.kept).await else { return };
            self.bytes_total += read as u64;
            self.trim(2 * self.kept_bytes_max);
        }
    }

    /// All of it, if nothing was left out.
    #[must_use]
    pub fn whole(&self) -> Option<&[u8]> {
        (self.bytes_total == self.kept.len() as u64).then_some(&self.kept)
    }

    /// How much there was in all.
    #[must_use]
    pub const fn bytes_total(&self) -> u64 {
        self.bytes_total
    }

    /// The last `bytes_max`.
    #[must_use]
    pub fn tail(&self, bytes_max: usize) -> Bytes {
        Bytes::copy_from_slice(&self.kept[self.kept.len().saturating_sub(bytes_max)..])
    }

    fn trim(&mut self, threshold_bytes: usize) {
        if self.kept.len() > threshold_bytes {
            let surplus = self.kept.len() - self.kept_bytes_max;
            self.kept = BytesMut::from(&self.kept[surplus..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_kept_and_the_whole_only_while_it_is_one() {
        let mut captured = Captured::new(4);
        captured.fill(Some(&b"12345678"[..])).await;
        assert_eq!((captured.whole(), captured.tail(3)), (Some(&b"12345678"[..]), Bytes::from_static(b"678")));
        captured.fill(Some(&b"9"[..])).await;
        assert_eq!((captured.whole(), captured.tail(9)), (None, Bytes::from_static(b"6789")));
    }
}
