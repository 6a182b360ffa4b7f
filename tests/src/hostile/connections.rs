//! Connections without end, and such that say nothing: those beyond the bound wait, and hold up nobody who is connected.

use crate::scene::{SOON, Scene, coordinator_words, noop};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECTIONS_MAX: usize = 8;

#[tokio::test]
async fn connections_beyond_the_bound_wait_until_others_end() -> Result<()> {
    let scene = Scene::start(coordinator_words(&["--connections-max", &CONNECTIONS_MAX.to_string()])).await?;
    let task = scene.submit(&noop(&json!(1))).await?;
    let address = scene.api().url.strip_prefix("http://").context("an address")?.to_owned();
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(&address).await?);
    }
    let mut asking = TcpStream::connect(&address).await?;
    asking.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    let early = tokio::time::timeout(Duration::from_millis(300), asking.read_to_string(&mut answer)).await;
    ensure!(early.is_err(), "it was answered beyond the bound: {answer}");
    // Whoever is connected already goes on.
    assert_eq!(scene.result(&task).await?["status"], "completed");
    silent.truncate(2);
    tokio::time::timeout(SOON, asking.read_to_string(&mut answer)).await??;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    scene.finish().await;
    Ok(())
}
