//! Attempts from end to end: real processes, real directories.

use super::*;
use crate::shim::tests::{alive, shim_program};
use orchestr8_proto::ids::ExecutionId;
use orchestr8_proto::wire::dispatch::Kind;
use orchestr8_proto::wire::{Dispatch, EnvironmentVariable, HandlerKind, OUTPUT_BYTES_MAX, RunKind, TAIL_BYTES_MAX};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use tempfile::TempDir;

/// An executor's settings, and where its attempts leave traces.
struct Place {
    directory: TempDir,
    settings: WorkSettings,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).expect("own directory");
        let path = std::env::var("PATH").expect("PATH");
        let settings = WorkSettings {
            shim_program: shim_program(),
            run_root: directory.path().join("runs"),
            workdirs_allowed: Vec::new(),
            environment: [("PATH".into(), path), ("LANG".into(), "C".into())].into(),
            user: None,
            grace: Duration::from_millis(300),
            handlers: Handlers::builtin(),
        };
        Self { directory, settings }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    async fn run(&self, dispatch: Dispatch) -> WorkReport {
        self.run_until(dispatch, CancellationToken::new()).await
    }

    async fn run_until(&self, dispatch: Dispatch, kill: CancellationToken) -> WorkReport {
        let running = run(Arc::new(self.settings.clone()), assignment(dispatch), kill);
        let report = tokio::time::timeout(Duration::from_secs(20), running).await.expect("an attempt always ends");
        let left = std::fs::read_dir(&self.settings.run_root).map_or(0, Iterator::count);
        assert_eq!(left, 0, "directories are left in run_root");
        report
    }

    async fn script(&self, script: &str) -> WorkReport {
        self.run(script_dispatch(script)).await
    }
}

fn assignment(dispatch: Dispatch) -> Assignment {
    let task_id = ExecutionId::generate(1, 3, &mut rand::rng()).task(0);
    Assignment { dispatch, task_id, dispatch_id: DispatchId::random(), run_id: RunId::random() }
}

fn script_dispatch(script: &str) -> Dispatch {
    let kind = Some(Kind::Run(RunKind { script: script.into() }));
    Dispatch { task_name: "t".into(), workflow_name: "w".into(), attempt: 2, kind, ..Dispatch::default() }
}

fn handler_dispatch(name: &str, with_json: &'static str) -> Dispatch {
    Dispatch {
        attempt: 1,
        kind: Some(Kind::Handler(HandlerKind { name: name.into() })),
        with_json: with_json.into(),
        ..Dispatch::default()
    }
}

#[track_caller]
fn output_of(report: &WorkReport) -> &str {
    match &report.result {
        WorkResult::Completed { output_json } => std::str::from_utf8(output_json).expect("JSON"),
        other => panic!("{other:?}, stderr: {:?}", report.stderr_tail),
    }
}

/// Error type, message, exit code, retryable.
#[track_caller]
fn failure_of(report: &WorkReport) -> (&str, &str, Option<i32>, Retryable) {
    match &report.result {
        WorkResult::Failed { error_type, message, exit_code, retryable, .. } => (error_type, message, *exit_code, *retryable),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn stdout_is_the_output_unless_the_file_is_written() {
    let place = Place::new();
    let report = place.script("echo hello; echo talk >&2").await;
    assert_eq!(output_of(&report), r#""hello""#);
    assert_eq!((&report.stdout_tail[..], &report.stderr_tail[..]), (&b"hello\n"[..], &b"talk\n"[..]));
    assert!(report.cpu_time > Duration::ZERO && report.memory_peak_bytes > 0 && report.duration > Duration::ZERO);
    assert_eq!(
        output_of(&place.script(r#"echo log; echo '{"n": 12345678901234567890123}' > "$ORCHESTR8_OUTPUT""#).await),
        r#"{"n": 12345678901234567890123}"#
    );
    assert_eq!(output_of(&place.script(r#"echo log; : > "$ORCHESTR8_OUTPUT""#).await), r#""log""#);
}

#[tokio::test]
async fn a_failing_command_ends_the_script_with_its_code_and_the_last_line_of_stderr() {
    let place = Place::new();
    let report = place.script("echo first >&2; sh -c 'echo reason >&2; exit 3'; echo never").await;
    assert_eq!(failure_of(&report), ("exit", "exit code 3: reason", Some(3), Retryable::Yes));
    assert_eq!(&report.stdout_tail[..], b"");
    let report = place.script("kill -9 $$").await;
    assert_eq!(failure_of(&report), ("signal", "ended by SIGKILL", None, Retryable::Yes));
}

#[tokio::test]
async fn a_script_may_name_its_interpreter() {
    let place = Place::new();
    assert_eq!(output_of(&place.script("#!/bin/sh\nfalse\necho went on").await), r#""went on""#);
    assert_eq!(output_of(&place.script("#! /usr/bin/env  cat\nbody").await), r##""#! /usr/bin/env  cat\nbody""##);
    let report = place.script("#!/no/interpreter\n").await;
    let (error_type, message, ..) = failure_of(&report);
    assert_eq!(error_type, "spawn");
    assert!(message.contains("/no/interpreter") && message.contains("No such file"), "{message}");
}

#[tokio::test]
async fn values_reach_the_script_as_environment_and_file_and_nothing_is_inherited() {
    let place = Place::new();
    let dispatch = Dispatch {
        with_json: r#"{"file-name": "a b'c", "n": 1, "list": ["x"], "nul": "\u0000"}"#.into(),
        prompt: "do it".into(),
        environment: vec![EnvironmentVariable { name: "OWN".into(), value: "1".into() }],
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        ..script_dispatch("tr '\\0' '\\n' < /proc/self/environ; cat \"$ORCHESTR8_INPUT\" >&2; [ \"$(ls -A)\" = '' ]")
    };
    let report = place.run(dispatch.clone()).await;
    output_of(&report);
    assert_eq!(report.stderr_tail, dispatch.with_json);
    let text = String::from_utf8(report.stdout_tail.to_vec()).expect("UTF-8");
    let found: BTreeMap<_, _> = text.lines().map(|line| line.split_once('=').expect("a variable")).collect();
    for (name, value) in [
        ("WITH_FILE_NAME", "a b'c"),
        ("WITH_N", "1"),
        ("WITH_LIST", r#"["x"]"#),
        ("ORCHESTR8_PROMPT", "do it"),
        ("OWN", "1"),
        ("LANG", "C"),
        ("ORCHESTR8_ATTEMPT", "2"),
        ("ORCHESTR8_TASK_NAME", "t"),
        ("ORCHESTR8_WORKFLOW_NAME", "w"),
        ("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name}");
    }
    let rest = ["PATH", "ORCHESTR8_INPUT", "ORCHESTR8_OUTPUT", "ORCHESTR8_TASK_ID", "ORCHESTR8_WORKFLOW_ID"];
    let shells_own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let unexpected: Vec<_> = found.keys().filter(|name| !rest.contains(name) && !shells_own.contains(name)).collect();
    assert_eq!(unexpected.len(), 10, "more than was given: {unexpected:?}");
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "the test's own environment has something to leak");
}

#[tokio::test]
async fn an_environment_that_cannot_be_is_refused_with_the_remedy() {
    let place = Place::new();
    let long = "x".repeat(128 * 1024);
    for (name, value, says) in [
        ("A-B", "", "letters, digits"),
        ("1A", "", "not starting with a digit"),
        ("", "", "letters"),
        ("ORCHESTR8_OUTPUT", "/etc/passwd", "another name"),
        ("N", "a\0b", "$ORCHESTR8_INPUT"),
        ("L", &long, "131072"),
    ] {
        let environment = vec![EnvironmentVariable { name: name.into(), value: value.into() }];
        let report = place.run(Dispatch { environment, ..script_dispatch("echo ran") }).await;
        let (error_type, message, _, retryable) = failure_of(&report);
        assert_eq!((error_type, retryable), ("environment", Retryable::No));
        assert!(message.contains(name) && message.contains(says), "{message}");
    }
    let report = place.run(Dispatch { with_json: "[1]".into(), ..script_dispatch("echo ran") }).await;
    assert_eq!(failure_of(&report).0, "environment");
}

#[tokio::test]
async fn a_value_that_no_variable_can_hold_fails_before_the_start_unless_the_script_reads_the_file() {
    let place = Place::new();
    let long = "x".repeat(128 * 1024);
    let with = Dispatch { with_json: format!("{{\"long\": \"{long}\", \"n\": 1}}").into(), ..script_dispatch("echo ran") };
    let prompt = Dispatch { prompt: long.clone(), large_values_in_file: true, ..script_dispatch("echo ran") };
    for (dispatch, key, variable) in [(&with, "`with.long`", "WITH_LONG"), (&prompt, "`prompt`", "ORCHESTR8_PROMPT")] {
        let report = place.run(dispatch.clone()).await;
        let (error_type, message, _, retryable) = failure_of(&report);
        assert_eq!((error_type, retryable), ("value_too_large", Retryable::No));
        for part in [key, variable, "131072 bytes", "$ORCHESTR8_INPUT", "`large_values: file`"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(report.stdout_tail.is_empty(), "it must not start");
    }
    let script = "echo ${WITH_LONG-unset} $WITH_N $(wc -c < \"$ORCHESTR8_INPUT\")";
    let report = place.run(Dispatch { large_values_in_file: true, with_json: with.with_json, ..script_dispatch(script) }).await;
    assert_eq!(output_of(&report), format!("\"unset 1 {}\"", long.len() + 20));
}

#[tokio::test]
async fn values_that_the_kernel_takes_singly_but_not_together_are_in_the_file_the_largest_first() {
    let place = Place::new();
    let values = |large: usize| {
        let values: serde_json::Map<_, _> =
            (0..large).map(|number| (format!("v{number:02}"), "x".repeat(100_000 + number).into())).collect();
        serde_json::to_vec(&values).expect("JSON")
    };
    let script = "env | grep -c ^WITH_V; echo ${WITH_V00+has} ${WITH_V29-left} $(wc -c < \"$ORCHESTR8_INPUT\")";
    let with = |large: usize| Dispatch { with_json: values(large).into(), ..script_dispatch(script) };
    let report = place.run(with(30)).await;
    let (error_type, message, _, retryable) = failure_of(&report);
    assert_eq!((error_type, retryable), ("value_too_large", Retryable::No));
    assert!(message.contains("together") && message.contains("`large_values: file`"), "{message}");
    let report = place.run(Dispatch { large_values_in_file: true, ..with(30) }).await;
    assert_eq!(output_of(&report), format!("\"15\\nhas left {}\"", values(30).len()));
    let report = place.run(with(10)).await;
    assert!(output_of(&report).starts_with("\"10\\nhas left "), "{}", output_of(&report));
    let large = |number: usize| EnvironmentVariable { name: format!("OWN_{number}"), value: "x".repeat(100_000) };
    let own = Dispatch { environment: (0..20).map(large).collect(), large_values_in_file: true, ..script_dispatch(script) };
    assert_eq!(failure_of(&place.run(own).await).0, "value_too_large", "nothing of it is in the file");
}

#[tokio::test]
async fn a_workdir_must_lie_where_the_configuration_allows_it() {
    let mut place = Place::new();
    let (allowed, other) = (place.path("allowed"), place.path("allowed-not"));
    std::fs::create_dir_all(allowed.join("sub")).expect("made");
    std::fs::create_dir(&other).expect("made");
    symlink(&other, allowed.join("escape")).expect("made");
    symlink(&allowed, place.path("alias")).expect("made");
    let in_workdir = |path: &Path| Dispatch { workdir: path.display().to_string(), ..script_dispatch("pwd -P; touch made") };
    let report = place.run(in_workdir(&allowed)).await;
    assert!(failure_of(&report).1.contains("(none)"), "{report:?}");
    place.settings.workdirs_allowed = vec!["/no/such/place".into(), allowed.clone()];
    for good in [allowed.join("sub"), allowed.clone(), place.path("alias/sub/..")] {
        let resolved = std::fs::canonicalize(&good).expect("exists");
        assert_eq!(output_of(&place.run(in_workdir(&good)).await), format!("{:?}", resolved.display().to_string()));
        let files = std::fs::read_dir(&resolved).expect("exists").filter(|file| file.as_ref().is_ok_and(|file| file.file_name() == "made"));
        assert_eq!(files.count(), 1);
        std::fs::remove_file(resolved.join("made")).expect("made by the task");
    }
    for bad in
        [other.clone(), allowed.join("escape"), allowed.join("../allowed-not"), "/".into(), "relative".into(), allowed.join("absent")]
    {
        let report = place.run(in_workdir(&bad)).await;
        let (error_type, message, _, retryable) = failure_of(&report);
        assert_eq!((error_type, retryable), ("workdir", Retryable::No));
        assert!(message.contains(&bad.display().to_string()), "{message}");
        let leads_elsewhere = std::fs::canonicalize(&bad).is_ok_and(|resolved| resolved != bad);
        assert_eq!(message.contains("in truth"), leads_elsewhere, "{message}");
    }
    assert!(!other.join("made").exists());
}

#[tokio::test]
async fn a_planted_output_is_not_read() {
    let place = Place::new();
    std::fs::write(place.path("secret"), r#""secret""#).expect("written");
    let secret = place.path("secret").display().to_string();
    for planting in
        [format!("ln -s {secret} \"$ORCHESTR8_OUTPUT\""), "mkfifo \"$ORCHESTR8_OUTPUT\"".into(), "mkdir \"$ORCHESTR8_OUTPUT\"".into()]
    {
        let report = place.script(&planting).await;
        let (error_type, message, _, retryable) = failure_of(&report);
        assert_eq!((error_type, retryable), ("output", Retryable::No), "{planting}");
        assert!(message.contains("regular file"), "{message}");
    }
}

#[tokio::test]
async fn an_output_that_is_no_json_or_too_large_is_refused() {
    let place = Place::new();
    let report = place.script(r#"echo '{"a": ' > "$ORCHESTR8_OUTPUT""#).await;
    let (error_type, message, _, retryable) = failure_of(&report);
    assert_eq!((error_type, retryable), ("output", Retryable::Yes));
    assert!(message.contains("EOF while parsing"), "{message}");
    let report = place.script(r#"head -c 262200 /dev/zero | tr '\0' 1 > "$ORCHESTR8_OUTPUT""#).await;
    let (error_type, message, _, retryable) = failure_of(&report);
    assert_eq!((error_type, retryable), ("output_too_large", Retryable::No));
    assert!(message.contains(&OUTPUT_BYTES_MAX.to_string()) && message.contains("$ORCHESTR8_OUTPUT"), "{message}");
    let report = place.script(r"head -c 262200 /dev/zero | tr '\0' 1").await;
    assert!(output_of(&report).starts_with(r#""[120 bytes left out]"#), "a talkative task does not fail");
    let report = place.script(r#"printf '["\\u0000"]' > "$ORCHESTR8_OUTPUT""#).await;
    assert!(failure_of(&report).1.contains("NUL"));
}

#[tokio::test]
async fn much_output_does_not_block_and_its_end_is_kept() {
    let place = Place::new();
    let flood = r#"yes out | head -c 3000000; yes err | head -c 3000000 >&2; echo last; echo end >&2; echo 1 > "$ORCHESTR8_OUTPUT""#;
    let report = place.script(flood).await;
    assert_eq!(output_of(&report), "1");
    assert_eq!((report.stdout_tail.len(), report.stderr_tail.len()), (TAIL_BYTES_MAX, TAIL_BYTES_MAX));
    assert!(report.stdout_tail.ends_with(b"out\nlast\n") && report.stderr_tail.ends_with(b"err\nend\n"));
}

#[tokio::test]
async fn a_timeout_ends_the_tree_and_keeps_what_was_said() {
    let place = Place::new();
    let script = "trap '' TERM; setsid sleep 1000 & echo $!; sleep 1000 & echo $!; wait; sleep 1000";
    let report = place.run(Dispatch { timeout_ms: 300, ..script_dispatch(script) }).await;
    let (error_type, message, ..) = failure_of(&report);
    assert_eq!(error_type, "timeout");
    assert!(message.contains("0.3 s"), "{message}");
    let pids: Vec<i32> = String::from_utf8_lossy(&report.stdout_tail).lines().map(|pid| pid.parse().expect("a pid")).collect();
    assert_eq!(pids.len(), 2);
    assert!(!pids.into_iter().any(alive));
}

#[tokio::test]
async fn a_kill_ends_the_tree() {
    let place = Place::new();
    let kill = CancellationToken::new();
    let ready = place.path("ready");
    let dispatch = script_dispatch(&format!("setsid sleep 1000 & echo $!; touch {}; sleep 1000", ready.display()));
    let killer = async {
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        kill.cancel();
    };
    let (report, ()) = tokio::join!(place.run_until(dispatch, kill.clone()), killer);
    assert_eq!(failure_of(&report).0, "killed");
    let pid: i32 = String::from_utf8_lossy(&report.stdout_tail).trim().parse().expect("a pid");
    assert!(!alive(pid));
}

#[tokio::test]
async fn a_process_outside_the_tree_that_holds_stdout_does_not_hold_the_attempt() {
    let place = Place::new();
    // This very process opens the command's stdout again and keeps it.
    let held = place.path("held");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; while [ -e {0} ]; do sleep 0.01; done; echo done", held.display());
    let holder = async {
        while !held.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let pid = std::fs::read_to_string(&held).expect("written");
        let stdout = std::fs::OpenOptions::new().write(true).open(format!("/proc/{}/fd/1", pid.trim())).expect("own process");
        std::fs::remove_file(&held).expect("exists");
        stdout
    };
    let (report, _stdout) = tokio::join!(place.script(&script), holder);
    assert_eq!(output_of(&report), r#""done""#);
}

#[tokio::test]
async fn commands_run_as_the_configured_user_without_other_groups() {
    // Only root can become another user; elsewhere there is nothing to test.
    if !nix::unistd::getuid().is_root() {
        return;
    }
    let mut place = Place::new();
    place.settings.user = Some((65_534, 65_533));
    let report = place
        .script(
            r#"printf '["%s", "%s", %s]' "$(id -u)" "$(id -G)" "$(ls | wc -l)" > "$ORCHESTR8_OUTPUT"; touch here; cat "$ORCHESTR8_INPUT""#,
        )
        .await;
    assert_eq!(output_of(&report), r#"["65534", "65533", 0]"#);
    // The timeout's signals reach another user's processes too.
    let report = place.run(Dispatch { timeout_ms: 100, ..script_dispatch("trap '' TERM; setsid sleep 1000 & echo $!; sleep 1000") }).await;
    assert_eq!(failure_of(&report).0, "timeout");
    // A hard link to a file of somebody else, made here as the kernel may forbid it to the user.
    let scratch = place.path("output.json");
    std::fs::write(&scratch, "1").expect("written");
    assert!(matches!(output::from_file(&scratch, Some(65_534)), Err(output::OutputError::NotOwnFile)));
    assert!(matches!(output::from_file(&scratch, Some(0)), Ok(Some(_))));
}

#[tokio::test]
async fn a_shim_that_is_missing_is_a_failure_to_start() {
    let mut place = Place::new();
    place.settings.shim_program = "/no/shim".into();
    let report = place.script("echo ran").await;
    let (error_type, message, _, retryable) = failure_of(&report);
    assert_eq!((error_type, retryable), ("spawn", Retryable::Yes));
    assert!(message.contains("shim_program"), "{message}");
}

#[tokio::test]
async fn handlers_return_fail_and_are_unknown() {
    let place = Place::new();
    assert_eq!(output_of(&place.run(handler_dispatch("noop", r#"{"output": {"a": 1}}"#)).await), r#"{"a":1}"#);
    assert_eq!(output_of(&place.run(handler_dispatch("noop", "")).await), "null");
    let report = place.run(handler_dispatch("fail", r#"{"message": "no luck"}"#)).await;
    assert_eq!(failure_of(&report), ("fail", "no luck", None, Retryable::Yes));
    let report = place.run(handler_dispatch("greet", "")).await;
    assert!(matches!(&report.result, WorkResult::Unsupported { detail } if detail.contains("`greet`") && detail.contains("noop")));
    let report = place.run(Dispatch::default()).await;
    assert!(matches!(report.result, WorkResult::Unsupported { .. }));
    assert_eq!(failure_of(&place.run(handler_dispatch("noop", "[")).await).0, "input");
    assert!(!place.settings.run_root.exists(), "handlers need no directory");
}

#[tokio::test]
async fn a_panicking_handler_is_a_failure() {
    let mut place = Place::new();
    place.settings.handlers = Handlers::builtin().with("panic", |context| async move { panic!("on attempt {}", context.attempt) });
    let report = place.run(handler_dispatch("panic", "")).await;
    assert_eq!(failure_of(&report), ("panic", "the handler panicked: on attempt 1", None, Retryable::Yes));
}

#[tokio::test]
async fn handlers_are_timed_out_and_killed_even_if_they_do_not_listen() {
    let mut place = Place::new();
    place.settings.handlers = Handlers::builtin().with("deaf", |_| std::future::pending());
    let report = place.run(Dispatch { timeout_ms: 20, ..handler_dispatch("deaf", "") }).await;
    assert_eq!(failure_of(&report).0, "timeout");
    for handler in ["deaf", "sleep"] {
        let kill = CancellationToken::new();
        kill.cancel();
        let report = place.run_until(handler_dispatch(handler, r#"{"duration": "1h"}"#), kill).await;
        assert_eq!(failure_of(&report).0, "killed");
    }
}
