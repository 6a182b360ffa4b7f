//! More outcomes than a lane takes in: what is read ahead of it has a bound in bytes, and nothing is passed over.

use crate::harness::servers::connect_nats;
use crate::harness::wait_for;
use crate::scene::{SOON, Scene, executors};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use orchestr8_coordinator::bus::Bus;
use orchestr8_coordinator::bus::lag::OutcomeReaders;
use orchestr8_coordinator::bus::reader::{Reader, ReaderStart, UNTAKEN_BYTES_MAX};
use orchestr8_coordinator::engine::input::Input;
use orchestr8_nats::{Credentials, NatsSettings};
use orchestr8_proto::names;
use orchestr8_proto::times::ProtocolTimes;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages of the flood: without a bound in bytes all of them would be in memory.
const FLOOD: usize = 96;
/// Of each. No outcome, but that shows only once it is taken in.
const FLOOD_BYTES: usize = 1_000_000;
/// Pulls that are under way beside what was read: one and a half of 16 MiB.
const PULLED_BYTES_MAX: usize = 24 * 1024 * 1024;

/// The next message of the reader: its place in the stream, and its size.
async fn taken(inputs: &mut mpsc::Receiver<Input>) -> Result<(u64, usize)> {
    loop {
        match tokio::time::timeout(SOON, inputs.recv()).await.context("nothing more came")?.context("the reader lives")? {
            Input::Outcomes(message) => return Ok((message.stream_sequence, message.payload.len())),
            Input::ReaderEnded(_, reason) => anyhow::bail!("the reader ended: {reason}"),
            other => println!("{other:?}"),
        }
    }
}

/// The login that an address has, as a coordinator is told it.
fn logged_in(url: &str) -> Result<NatsSettings> {
    let address: async_nats::ServerAddr = url.parse()?;
    let [user, password] = [address.username(), address.password()].map(|text| text.unwrap_or_default().to_owned());
    let bare = format!("nats://{}:{}", address.host(), address.port());
    Ok(NatsSettings { credentials: Credentials::UserPassword { user, password }, ..NatsSettings::open(vec![bare]) })
}

#[tokio::test]
async fn outcomes_that_the_lane_does_not_take_in_stay_in_the_broker() -> Result<()> {
    let scene = Scene::start(executors(0)).await?;
    let jetstream = async_nats::jetstream::new(connect_nats(&scene.installation.nats_url).await?);
    let largest = jetstream.client().server_info().max_payload - 1024;
    let flood = (0..FLOOD).map(|number| if number == FLOOD / 2 { largest } else { FLOOD_BYTES });
    let mut stored = Vec::new();
    for bytes in flood.clone() {
        stored.push(jetstream.publish(names::outcome_subject(3), Bytes::from(vec![b'x'; bytes])).await?);
    }
    let stored = try_join_all(stored.into_iter().map(IntoFuture::into_future)).await?;
    // As many inputs as a lane has room for, and nobody takes them.
    let (sender, mut inputs) = mpsc::channel(256);
    let (times, readers) = (ProtocolTimes::new(Duration::from_millis(100)), OutcomeReaders::default());
    let bus = Bus::connect(&logged_in(&scene.installation.nats_url)?, times, sender.clone()).await?;
    let start = ReaderStart { generation: 1, shards: vec![3], shard_count: 16, from: None };
    let reader = Reader::start(bus, start, sender, &readers);
    let name = loop {
        if let Input::ReaderStarted(_, name) = tokio::time::timeout(SOON, inputs.recv()).await?.context("the reader lives")? {
            break name;
        }
    };
    let stream = jetstream.get_stream(names::OUTCOMES_STREAM).await?;
    let mut before = 0;
    let delivered = wait_for("a reader that stands still", SOON, async || {
        let delivered = stream.consumer_info(&name).await?.delivered.consumer_sequence;
        Ok((delivered > 0 && std::mem::replace(&mut before, delivered) == delivered).then_some(delivered))
    })
    .await?;
    let ahead = usize::try_from(delivered)? * FLOOD_BYTES;
    println!("{delivered} of {FLOOD} messages were read ahead");
    ensure!(ahead <= UNTAKEN_BYTES_MAX + PULLED_BYTES_MAX + 2 * FLOOD_BYTES, "{ahead} bytes are in memory");
    for (bytes, ack) in flood.zip(stored) {
        assert_eq!(taken(&mut inputs).await?, (ack.sequence, bytes));
    }
    drop(reader);
    scene.finish().await;
    Ok(())
}
