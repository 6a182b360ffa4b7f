//! Real processes: what a shim does to a command's tree.

use super::beside::SMALL_PROGRAM;
use super::{NO_HUGE_PAGES, Shim, ShimError, ShimReport, ShimSpec, StopSignal};
use nix::sys::prctl::get_thp_disable;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// What `cargo test -p orchestr8-executor` builds beside the tests.
pub fn shim_program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let program = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join(SMALL_PROGRAM);
    assert!(program.exists(), "{} is missing: run `cargo build -p orchestr8-executor --bins`", program.display());
    program
}

/// Whether the process runs (a zombie does not).
pub fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

async fn until_dead(pid: i32) {
    let start = Instant::now();
    while alive(pid) {
        assert!(start.elapsed() < PATIENCE, "process {pid} still runs");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn spec(script: &str) -> ShimSpec {
    ShimSpec {
        argv: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        env: [("PATH".into(), std::env::var("PATH").expect("PATH"))].into(),
        cwd: "/".into(),
        uid: None,
        gid: None,
        timeout_ms: None,
        grace_ms: 10_000,
        orphan_grace_ms: None,
        stop_signal: StopSignal::Term,
    }
}

/// A started shim and the lines of its command's stdout.
async fn start(spec: &ShimSpec) -> (Shim, Lines<BufReader<ChildStdout>>) {
    let mut shim = Shim::spawn(&shim_program(), spec, Stdio::piped(), Stdio::inherit()).expect("spawned");
    shim.started().await.expect("started");
    let stdout = shim.take_stdout().expect("piped");
    (shim, BufReader::new(stdout).lines())
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("readable").expect("a line")
}

async fn pid(lines: &mut Lines<BufReader<ChildStdout>>) -> i32 {
    line(lines).await.trim().parse().expect("a process id")
}

async fn ended(shim: &mut Shim) -> Result<ShimReport, ShimError> {
    tokio::time::timeout(PATIENCE, shim.ended()).await.expect("in time")
}

/// A program that stands in for the shim, or goes before it.
fn script(folder: &Path, text: &str) -> PathBuf {
    let program = folder.join("script");
    // Another process writes it: what is open for writing, also in a child that another test starts just then, cannot be started.
    let mut writer = std::process::Command::new("/bin/sh");
    writer.args(["-c", r#"printf %s "$1" > "$0" && chmod 755 "$0""#]).arg(&program).arg(text);
    assert!(writer.status().expect("a shell").success(), "{} is written", program.display());
    program
}

/// The shim of a command is its parent.
fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("alive");
    stat.rsplit_once(") ").expect("a name").1.split(' ').nth(1).expect("a parent").parse().expect("a number")
}

#[tokio::test]
async fn the_end_of_a_command_is_reported_with_what_it_used() {
    let (mut shim, _lines) = start(&spec("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 7")).await;
    let report = ended(&mut shim).await.expect("a report");
    assert_eq!((report.exit_code, report.signal, report.timed_out, report.stopped, report.survivors), (Some(7), None, false, false, 0));
    assert!(report.cpu_time_us > 0 && report.memory_peak_bytes > 100_000, "{report:?}");
    let (mut shim, _lines) = start(&spec("kill -9 $$")).await;
    assert_eq!(ended(&mut shim).await.expect("a report").signal, Some(9));
}

#[tokio::test]
async fn what_cannot_be_started_is_named_with_directory_and_reason() {
    let unknown = ShimSpec { argv: vec!["no-such-program".into()], ..spec("") };
    let mut shim = Shim::spawn(&shim_program(), &unknown, Stdio::null(), Stdio::null()).expect("spawned");
    let error = shim.started().await.expect_err("no such program").to_string();
    assert!(error.contains("no-such-program") && error.contains("in /:") && error.contains("No such file"), "{error}");
    let no_shim = Shim::spawn(Path::new("/no/shim"), &unknown, Stdio::null(), Stdio::null()).expect_err("no such shim");
    assert!(matches!(no_shim, ShimError::Start { .. }) && no_shim.to_string().contains("/no/shim"));
}

#[tokio::test]
async fn what_a_command_leaves_behind_dies_with_it() {
    // A daemon in a session of its own, whose parent is gone.
    let script = "trap 'exit 0' USR1; (setsid sh -c 'echo $$; kill -USR1 '$$'; exec sleep 1000' &); while :; do sleep 0.01; done";
    let (mut shim, mut lines) = start(&spec(script)).await;
    let daemon = pid(&mut lines).await;
    assert_eq!(ended(&mut shim).await.expect("a report").exit_code, Some(0));
    assert!(!alive(daemon));
}

#[tokio::test]
async fn a_timeout_ends_the_tree_even_where_the_signal_is_ignored() {
    let script = "trap '' TERM; setsid sh -c 'echo $$; exec sleep 1000' & sh -c 'echo $$; exec sleep 1000' & while :; do sleep 1; done";
    let (mut shim, mut lines) = start(&ShimSpec { timeout_ms: Some(200), grace_ms: 100, ..spec(script) }).await;
    let tree = [pid(&mut lines).await, pid(&mut lines).await];
    let report = ended(&mut shim).await.expect("a report");
    assert_eq!((report.timed_out, report.stopped, report.signal), (true, false, Some(9)));
    assert!(!tree.into_iter().any(alive));
}

#[tokio::test]
async fn a_stopped_group_may_use_its_grace_and_no_more_of_it_than_it_needs() {
    // The shell dies of the signal at once; its child, in the same group, takes a moment to put things in order.
    let child = r#"trap "sleep 0.2; echo tidy; exit" TERM; echo ready; while :; do sleep 0.01; done"#;
    let (mut shim, mut lines) = start(&spec(&format!("sh -c '{child}' & wait"))).await;
    assert_eq!(line(&mut lines).await, "ready");
    let asked = Instant::now();
    shim.stop().await;
    let report = ended(&mut shim).await.expect("a report");
    assert_eq!((report.stopped, report.timed_out, report.signal), (true, false, Some(15)));
    assert_eq!(line(&mut lines).await, "tidy");
    assert!(asked.elapsed() < Duration::from_secs(5), "did not wait for all of the grace");
}

#[tokio::test]
async fn the_stop_signal_is_the_one_asked_for() {
    // Without a child: a shell may end by the signal itself when that ended its child.
    let spec = ShimSpec { stop_signal: StopSignal::Int, ..spec("trap 'exit 3' INT; echo ready; while :; do :; done") };
    let (mut shim, mut lines) = start(&spec).await;
    assert_eq!(line(&mut lines).await, "ready");
    shim.stop().await;
    assert_eq!(ended(&mut shim).await.expect("a report").exit_code, Some(3));
}

#[tokio::test]
async fn what_the_executors_shell_ignored_its_commands_do_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ignoring = format!("#!/bin/sh\ntrap '' INT QUIT HUP CHLD USR1\nexec '{}' \"$@\"\n", shim_program().display());
    let program = script(folder.path(), &ignoring);
    for (stop_signal, number) in [(StopSignal::Int, 2), (StopSignal::Quit, 3)] {
        let shows = "grep -e SigIgn -e SigBlk /proc/self/status; exec sleep 1000";
        let spec = ShimSpec { stop_signal, ..spec(shows) };
        let mut shim = Shim::spawn(&program, &spec, Stdio::piped(), Stdio::inherit()).expect("spawned");
        let mut lines = BufReader::new(shim.take_stdout().expect("piped")).lines();
        shim.started().await.expect("started");
        for mask in ["SigBlk:", "SigIgn:"] {
            let shown = line(&mut lines).await;
            let digits = shown.strip_prefix(mask).expect("in this order").trim();
            // Of the standard signals: those above are the C library's own.
            assert_eq!(u64::from_str_radix(digits, 16).expect("a mask") & 0x7fff_ffff, 0, "{shown}");
        }
        shim.stop().await;
        let report = ended(&mut shim).await.expect("a report");
        assert_eq!((report.signal, report.stopped), (Some(number), true));
    }
}

#[tokio::test]
async fn a_stop_right_behind_the_spec_is_heard() {
    let mut shim = Shim::spawn(&shim_program(), &spec("exec sleep 1000"), Stdio::null(), Stdio::null()).expect("spawned");
    shim.stop().await;
    assert!(ended(&mut shim).await.expect("a report").stopped);
}

#[tokio::test]
async fn the_parents_death_ends_the_tree() {
    let (shim, mut lines) = start(&spec("setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait")).await;
    let tree = [pid(&mut lines).await, pid(&mut lines).await];
    drop(shim);
    for pid in tree {
        until_dead(pid).await;
    }
}

#[tokio::test]
async fn who_does_not_end_in_the_parents_name_is_killed_soon_after_the_parents_death() {
    // The grace is longer than any test waits; the second parent dies after it asked for the end.
    let deaf = "trap '' TERM; echo $$; while :; do sleep 0.01; done";
    let spec = ShimSpec { grace_ms: 100_000, orphan_grace_ms: Some(100), ..spec(deaf) };
    for asks_before in [0, 1] {
        let (mut shim, mut lines) = start(&spec).await;
        let command = pid(&mut lines).await;
        for _ in 0..asks_before {
            shim.stop().await;
        }
        drop(shim);
        until_dead(command).await;
    }
}

#[tokio::test]
async fn a_terminals_signals_do_not_reach_the_shim_but_the_commands_default_is_kept() {
    let script = "(read line < /dev/tty) 2>/dev/null || echo no terminal; while :; do sleep 0.01; done";
    let (mut shim, mut lines) = start(&spec(script)).await;
    assert_eq!(line(&mut lines).await, "no terminal");
    let command = shim.started().await.expect("started");
    let process = parent_of(command);
    let environment = std::fs::read_to_string(format!("/proc/{process}/environ")).expect("the shim lives");
    let (name, value) = NO_HUGE_PAGES;
    let given = if get_thp_disable() == Ok(false) { format!("{name}={value}\0") } else { String::new() };
    assert_eq!(environment, given, "the command's user can read the shim's environment");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        kill(Pid::from_raw(process), signal).expect("the shim lives");
    }
    kill(Pid::from_raw(command), Signal::SIGTERM).expect("the command lives");
    let report = ended(&mut shim).await.expect("the shim lives and reports");
    assert_eq!((report.signal, report.stopped), (Some(15), false));
}

#[tokio::test]
async fn a_shim_that_is_asked_to_end_before_it_has_its_orders_never_started_the_command() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = script(folder.path(), "#!/bin/sh\nkill -TERM $$\n");
    let mut shim = Shim::spawn(&program, &spec("echo never"), Stdio::null(), Stdio::null()).expect("it starts");
    assert!(matches!(ended(&mut shim).await, Err(ShimError::Unstarted(Signal::SIGTERM))));
}

#[tokio::test]
async fn a_killed_shim_is_noticed_and_the_commands_group_killed() {
    let (mut shim, mut lines) = start(&spec("sh -c 'echo $$; exec sleep 1000' & echo $$; wait")).await;
    let (one, other) = (pid(&mut lines).await, pid(&mut lines).await);
    let command = shim.started().await.expect("started");
    kill(Pid::from_raw(parent_of(command)), Signal::SIGKILL).expect("the shim runs");
    assert!(matches!(ended(&mut shim).await, Err(ShimError::Vanished)));
    until_dead(one).await;
    until_dead(other).await;
}

#[tokio::test]
async fn a_spec_larger_than_the_sockets_buffer_arrives() {
    let mut spec = spec("echo ${#V1} ${#V9}");
    spec.env.extend((0..10).map(|n| (format!("V{n}"), "x".repeat(100_000))));
    let (mut shim, mut lines) = start(&spec).await;
    assert_eq!(line(&mut lines).await, "100000 100000");
    assert_eq!(ended(&mut shim).await.expect("a report").exit_code, Some(0));
}

#[tokio::test]
async fn a_tree_that_keeps_forking_is_stopped() {
    // Every process replaces itself by two, up to a bound, each in a session of its own.
    let script = "n=0; while :; do setsid sh -c 'sleep 1000' & n=$((n+1)); [ $n = 5 ] && echo ready; [ $n -lt 400 ] || wait; done";
    let (mut shim, mut lines) = start(&ShimSpec { grace_ms: 0, ..spec(script) }).await;
    let command = shim.started().await.expect("started");
    assert_eq!(line(&mut lines).await, "ready");
    shim.stop().await;
    let report = ended(&mut shim).await.expect("a report");
    assert_eq!((report.stopped, report.survivors, alive(command)), (true, 0, false));
}
