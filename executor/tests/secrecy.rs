//! What a command can find out about the executor that runs it, when both have the same user. In a process of its own,
//! because it changes who that process is.

use nix::sys::prctl::set_dumpable;
use nix::unistd::{Gid, Uid, chown, setgroups, setresgid, setresuid};
use orchestr8_executor::handlers::Handlers;
use orchestr8_executor::secrecy::close_memory;
use orchestr8_executor::work::{Assignment, WorkReport, WorkResult, WorkSettings, run};
use orchestr8_proto::ids::{DispatchId, ExecutionId, RunId};
use orchestr8_proto::wire::dispatch::Kind;
use orchestr8_proto::wire::{Dispatch, RunKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const NOBODY: u32 = 65_534;

/// The shim where any user can start it.
fn shim_in(directory: &Path) -> PathBuf {
    let copy = directory.join("shim");
    std::fs::copy(env!("CARGO_BIN_EXE_orchestr8-shim"), &copy).expect("cargo made it");
    copy
}

/// An ordinary process of an ordinary user, who owns the directory: root could read everything.
fn become_ordinary(directory: &Path) {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    if Uid::effective().is_root() {
        chown(directory, Some(user), Some(group)).expect("root may");
        setgroups(&[]).expect("root may");
        setresgid(group, group, group).expect("root may");
        setresuid(user, user, user).expect("root may");
    }
    // A change of user closes a process as well; a program that a user starts is open.
    set_dumpable(true).expect("Linux");
}

async fn script(settings: &Arc<WorkSettings>, script: &str) -> WorkReport {
    let task_id = ExecutionId::generate(1, 3, &mut rand::rng()).task(0);
    let kind = Some(Kind::Run(RunKind { script: script.to_owned() }));
    let dispatch = Dispatch { task_name: "t".into(), workflow_name: "w".into(), attempt: 1, kind, ..Dispatch::default() };
    let assignment = Assignment { dispatch, task_id, dispatch_id: DispatchId::random(), run_id: RunId::random() };
    run(settings.clone(), assignment, CancellationToken::new()).await
}

#[test]
fn commands_of_the_same_user_cannot_read_the_executors_environment() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = Arc::new(WorkSettings {
        shim_program: shim_in(directory.path()),
        run_root: directory.path().join("runs"),
        workdirs_allowed: Vec::new(),
        environment: [("PATH".to_owned(), std::env::var("PATH").expect("PATH"))].into(),
        user: None,
        grace: Duration::from_secs(1),
        handlers: Handlers::builtin(),
    });
    become_ordinary(directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let executor = std::process::id();
    let steal = format!("tr '\\0' '\\n' < /proc/{executor}/environ | grep -c ^CARGO_MANIFEST_DIR=");

    let open = runtime.block_on(script(&settings, &steal));
    assert_eq!(open.result, WorkResult::Completed { output_json: "\"1\"".into() }, "there is something to steal: {open:?}");

    close_memory().expect("Linux");
    let closed = runtime.block_on(script(&settings, &steal));
    assert!(matches!(closed.result, WorkResult::Failed { .. }), "{closed:?}");
    assert!(String::from_utf8_lossy(&closed.stderr_tail).contains("Permission denied"), "{closed:?}");
    for file in ["mem", "fd/0"] {
        let closed = runtime.block_on(script(&settings, &format!("head -c 1 /proc/{executor}/{file}")));
        assert!(String::from_utf8_lossy(&closed.stderr_tail).contains("Permission denied"), "{file}: {closed:?}");
    }

    // The shim works, can be looked into, and has nothing to show but the one variable that is no secret.
    let shown = "tr '\\0' '\\n' < /proc/$PPID/environ | grep -vx MIMALLOC_ALLOW_THP=0 | wc -c";
    let shim = runtime.block_on(script(&settings, shown));
    assert_eq!(shim.result, WorkResult::Completed { output_json: "\"0\"".into() }, "{shim:?}");
}
