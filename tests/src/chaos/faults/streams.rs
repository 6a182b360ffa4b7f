//! Streams and consumers that vanish, and files that lose their end.

use super::super::broker;
use super::super::fault::Spot;
use super::super::stage::Stage;
use super::processes;
use crate::harness::servers::connect_nats;
use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, Context};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// The most that a cut takes: what a server writes within its interval of flushing, here one second.
const CUT_BYTES_MAX: u64 = 8 * 1024;
/// The least, so that a message goes.
const CUT_BYTES_MIN: u64 = 100;

/// Deletes a stream; one that is gone already stays so.
///
/// # Errors
/// When nats-server does not answer.
pub async fn delete_stream(stage: &Stage, stream: &str) -> Result<()> {
    jetstream(stage).await?.delete_stream(stream).await.ok(); // It may be gone from the round before.
    Ok(())
}

/// Deletes all consumers of a stream.
///
/// # Errors
/// When nats-server does not answer.
pub async fn delete_consumers(stage: &Stage, stream: &str) -> Result<()> {
    let jetstream = jetstream(stage).await?;
    let Ok(found) = jetstream.get_stream(stream).await else { return Ok(()) };
    let names: Vec<String> = futures::TryStreamExt::try_collect(found.consumer_names()).await?;
    for name in names {
        jetstream.delete_consumer_from_stream(name, stream).await.ok(); // Its owner may have been faster.
    }
    Ok(())
}

/// Kills a nats-server and cuts off the end of the stream's last block.
///
/// # Errors
/// When the server does not run or the file cannot be cut.
pub async fn cut_tail(stage: &mut Stage, stream: &str, spot: Spot) -> Result<()> {
    processes::kill(stage, spot).await?;
    let folder = broker::store(stage, spot)?.join("jetstream/$G/streams").join(stream).join("msgs");
    let Some(block) = last_block(&folder)? else { return Ok(()) };
    let file = OpenOptions::new().write(true).open(block)?;
    let length_bytes = file.metadata()?.len();
    let cut_bytes = (length_bytes / 3).clamp(CUT_BYTES_MIN, CUT_BYTES_MAX);
    Ok(file.set_len(length_bytes.saturating_sub(cut_bytes))?)
}

async fn jetstream(stage: &Stage) -> Result<Context> {
    let mut last = None;
    for url in &stage.nats_urls {
        match connect_nats(url).await {
            Ok(client) => return Ok(jetstream::new(client)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("there is a server")?)
}

/// `NUMBER.blk` with the highest number; none where the stream holds nothing.
fn last_block(folder: &Path) -> Result<Option<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_suffix(".blk")?.parse::<u64>().ok();
    Ok(paths.into_iter().filter(|path| number(path).is_some()).max_by_key(number))
}
