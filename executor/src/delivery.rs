//! What the reply subject of a JetStream message says about its delivery, and the answers to it.

use bytes::Bytes;
use std::time::Duration;

/// Done with: JetStream removes the message.
pub(crate) const ACK: Bytes = Bytes::from_static(b"+ACK");
/// Not taken: deliver it to somebody else at once.
pub(crate) const NAK: Bytes = Bytes::from_static(b"-NAK");
/// Never deliver it again.
pub(crate) const TERM: Bytes = Bytes::from_static(b"+TERM");
/// Still at it: the ack wait starts over.
pub(crate) const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// Not taken: deliver it to somebody else, but not before this time has passed.
pub(crate) fn nak_after(delay: Duration) -> Bytes {
    format!(r#"-NAK {{"delay":{}}}"#, delay.as_nanos()).into()
}

/// One delivery of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery<'a> {
    /// The consumer that it came from.
    pub consumer: &'a str,
    /// How often it was delivered, this time included; from 1.
    pub deliveries: u64,
    /// Its place in the stream.
    pub stream_sequence: u64,
    /// When it was stored, Unix microseconds on JetStream's clock.
    pub stored_us: i64,
    /// Messages that its consumer had left for anybody when this one was sent.
    pub left: u64,
}

impl<'a> Delivery<'a> {
    /// Reads `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time ns>.<pending>` (9 tokens), or the
    /// form with domain and account before the stream (11 tokens, or 12 with a random one at the end).
    pub(crate) fn parse(reply: &'a str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let fields = match tokens.len() {
            7 => &tokens[..],
            9 | 10 => &tokens[2..],
            _ => return None,
        };
        Some(Self {
            consumer: fields[1],
            deliveries: fields[2].parse().ok()?,
            stream_sequence: fields[3].parse().ok()?,
            stored_us: fields[5].parse::<i64>().ok()? / 1_000,
            left: fields[6].parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_say_the_same() {
        let expected = Delivery { consumer: "agents-normal", deliveries: 2, stream_sequence: 7, stored_us: 1_700_000_000_000_001, left: 4 };
        let tail = "ORCHESTR8_TASKS.agents-normal.2.7.9.1700000000000001999.4";
        for reply in [format!("$JS.ACK.{tail}"), format!("$JS.ACK.hub.A1B2.{tail}"), format!("$JS.ACK._.A1B2.{tail}.rnd")] {
            assert_eq!(Delivery::parse(&reply), Some(expected), "{reply}");
        }
    }

    #[test]
    fn anything_else_is_no_delivery() {
        for reply in [
            "",
            "$JS.ACK",
            "$JS.ACK.a.b.c",
            "_INBOX.x",
            "$JS.ACK.s.c.one.2.3.4.5",
            "$JS.ACK.s.c.1.2.3.99999999999999999999.5",
            "$JS.ACK.s.c.1.2.3.4.x",
        ] {
            assert_eq!(Delivery::parse(reply), None, "{reply}");
        }
    }
}
