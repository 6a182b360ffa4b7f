//! What `orchestr8 dev` says of itself: the port that it took instead, its executors, and its end.

use crate::harness::process::ProcessPlan;
use crate::harness::{Process, binary, wait_for};
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

/// From the start of `dev` to its being up, on a loaded machine.
const UP_MAX: Duration = Duration::from_mins(2);
/// The coordinator's port where nothing else has it.
const PORT_DEFAULT: u16 = 8_088;

async fn dev(folder: &Path, words: &[&str]) -> Result<Process> {
    use std::os::unix::fs::PermissionsExt;
    // The servers of a `dev` of root run as another user, who has to pass.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))?;
    let data = folder.join("data").to_string_lossy().into_owned();
    let words = ["dev", "--data", &data].iter().chain(words).map(|word| (*word).to_owned()).collect();
    let tools = ("ORCHESTR8_TOOLS".to_owned(), binary::workspace().join(".orchestr8/tools").to_string_lossy().into_owned());
    Process::start(ProcessPlan { name: "dev".to_owned(), program: None, words, environment: vec![tools], log: folder.join("dev.log") })
        .await
}

#[tokio::test]
async fn dev_tells_the_port_that_it_took_instead_and_its_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Where somebody else has the port already, it is taken as well.
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT_DEFAULT)).ok();
    let mut dev = dev(folder.path(), &["--executors", "2"]).await?;
    let said = || std::fs::read_to_string(folder.path().join("dev.log"));
    let up = async || Ok(said()?.lines().any(|line| line == "ready").then_some(()));
    wait_for("`orchestr8 dev` to be up", UP_MAX, up).await.with_context(|| said().unwrap_or_default())?;
    dev.terminate().await?;
    let said = said()?;
    let instead = said.lines().find(|line| line.starts_with("port 8088 is taken")).with_context(|| said.clone())?;
    let port = instead.rsplit(' ').next().context("a port")?;
    assert!(said.contains(&format!("coordinator  http://127.0.0.1:{port}\n")), "{said}");
    assert!(said.contains("executors    executor-1 to executor-2\n"), "{said}");
    let processes = said.lines().find_map(|line| line.strip_prefix("processes    ")).with_context(|| said.clone())?;
    let named: Vec<(&str, bool)> =
        processes.split(", ").filter_map(|one| one.split_once(' ')).map(|(name, pid)| (name, pid.parse::<i32>().is_ok())).collect();
    assert_eq!(named, [("coordinator", true), ("executor-1", true), ("executor-2", true)], "{said}");
    // What takes long, as on a loaded machine, is explained.
    let is_end = |line: &&str| !line.starts_with("waiting for ");
    let end: Vec<&str> = said.lines().skip_while(|line| *line != "stopping").filter(is_end).collect();
    let data = folder.path().canonicalize()?.join("data");
    assert_eq!(end, ["stopping", &format!("stopped; data is kept in {}", data.display())], "{said}");
    Ok(())
}

/// A `dev` that must fail before it starts or makes anything: its exit code and words.
async fn refused(folder: &Path, words: &[&str]) -> Result<(Option<i32>, String)> {
    let mut dev = dev(folder, words).await?;
    let report = tokio::time::timeout(UP_MAX, dev.ended()).await??;
    let said = std::fs::read_to_string(folder.join("dev.log"))?;
    assert!(!folder.join("data").exists(), "{words:?} left the folder: {said}");
    Ok((report.exit_code, said))
}

#[tokio::test]
async fn what_cannot_work_is_said_before_anything_is_made() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (code, said) = refused(folder.path(), &["--reset-only"]).await?;
    assert!(code == Some(64) && said.contains("there is no such folder"), "{code:?} {said}");
    let (code, said) = refused(folder.path(), &["--postgres-port", "80"]).await?;
    assert!(code == Some(2) && said.contains("1024"), "{code:?} {said}");
    let (code, said) = refused(folder.path(), &["--run", "/not/there.yaml"]).await?;
    assert!(code == Some(2) && said.contains("/not/there.yaml: it cannot be read"), "{code:?} {said}");
    let hello = binary::workspace().join("examples/hello.yaml").to_string_lossy().into_owned();
    let (code, said) = refused(folder.path(), &["--run", &hello, "--input", "nam=x"]).await?;
    assert!(code == Some(1) && said.contains("\"name\" is a required property"), "{code:?} {said}");
    Ok(())
}

#[tokio::test]
async fn a_taken_port_that_was_asked_for_is_a_configuration_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = taken.local_addr()?.port().to_string();
    let mut dev = dev(folder.path(), &["--executors", "0", "--port", &port]).await?;
    let report = tokio::time::timeout(UP_MAX, dev.ended()).await??;
    let said = std::fs::read_to_string(folder.path().join("dev.log"))?;
    assert!(report.exit_code == Some(64) && said.contains(&format!("--port {port}")), "{report:?} {said}");
    Ok(())
}
