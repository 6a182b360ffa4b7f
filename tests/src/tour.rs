//! The tour of the README: every command is run against an `orchestr8 dev`, and what it prints is compared.
//!
//! In a block marked `console tour` a line that starts with `$ ` is a command. The lines below it are what it prints:
//! `…` stands for any text in a line, alone in a line for any lines; runs of spaces are one. `[exit code N]` is the
//! exit code, 0 where there is none. All commands share one shell.

use crate::document::blocks;
use crate::harness::process::ProcessPlan;
use crate::harness::{Process, binary, wait_for};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const ANYTHING: &str = "…";
/// From the start of `dev` to its being up, on a loaded machine.
const UP_MAX: Duration = Duration::from_mins(2);

/// A command of the tour and what it shall do.
#[derive(Debug, Default, PartialEq)]
struct Step {
    command: String,
    lines: Vec<String>,
    exit_code: i32,
}

#[tokio::test]
async fn the_tour_of_the_readme_works_as_written() -> Result<()> {
    let steps: Vec<Step> = blocks("README.md", "console tour")?.iter().flat_map(|block| steps(block)).collect();
    ensure!(steps.len() >= 15, "the README has only {} steps", steps.len());
    let folder = tempfile::tempdir()?;
    // The servers of a `dev` of root run as another user, who has to pass.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
    let mut dev = start_dev(folder.path()).await?;
    let script = script(&steps, folder.path());
    let environment = environment(&folder.path().join("data"))?;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).current_dir(binary::workspace()).envs(environment).stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || shell.status()).await??;
    ensure!(ended.success(), "the shell of the tour ended with {ended}");
    let mut wrong = String::new();
    for (number, step) in steps.iter().enumerate() {
        let printed = std::fs::read_to_string(folder.path().join(format!("out-{number}")))?;
        let exit_code: i32 = std::fs::read_to_string(folder.path().join(format!("code-{number}")))?.trim().parse()?;
        let lines: Vec<&str> = printed.lines().collect();
        let shown: Vec<&str> = step.lines.iter().map(String::as_str).collect();
        if exit_code != step.exit_code || !lines_match(&shown, &lines) {
            writeln!(wrong, "$ {}\n{printed}[exit code {exit_code}], but the README shows\n{}", step.command, step.lines.join("\n"))?;
        }
    }
    dev.terminate().await?;
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// `orchestr8 dev`, up.
async fn start_dev(folder: &Path) -> Result<Process> {
    let log = folder.join("dev.log");
    let data = folder.join("data");
    let words = ["dev", "--executors", "1", "--data"].map(str::to_owned).into_iter().chain([data.to_string_lossy().into_owned()]).collect();
    let tools = ("ORCHESTR8_TOOLS".to_owned(), binary::workspace().join(".orchestr8/tools").to_string_lossy().into_owned());
    let dev =
        Process::start(ProcessPlan { name: "dev".to_owned(), program: None, words, environment: vec![tools], log: log.clone() }).await?;
    let up = async || Ok(std::fs::read_to_string(&log)?.lines().any(|line| line == "ready").then_some(()));
    wait_for("`orchestr8 dev` to be up", UP_MAX, up).await.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    Ok(dev)
}

/// What the tour's shell knows: the binary, the address, the token.
fn environment(data: &Path) -> Result<Vec<(String, String)>> {
    let folder = binary::orchestr8()?.parent().context("a program lies in a folder")?.to_path_buf();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let read = |name: &str| std::fs::read_to_string(data.join(name)).map(|text| text.trim().to_owned());
    let pairs = [("PATH", path), ("ORCHESTR8_URL", read("url")?), ("ORCHESTR8_TOKEN", read("token")?)];
    Ok(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// All commands for one shell, each with its output and exit code in files.
fn script(steps: &[Step], folder: &Path) -> String {
    let folder = folder.display();
    let one =
        |(number, step): (usize, &Step)| format!("{{ {}\n}} >{folder}/out-{number} 2>&1\necho $? >{folder}/code-{number}\n", step.command);
    steps.iter().enumerate().map(one).collect::<String>() + "exit 0\n"
}

fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        let exit_code = line.strip_prefix("[exit code ").and_then(|rest| rest.strip_suffix(']')).and_then(|code| code.parse().ok());
        match (line.strip_prefix("$ "), steps.last_mut(), exit_code) {
            (Some(command), _, _) => steps.push(Step { command: command.to_owned(), ..Step::default() }),
            (None, Some(step), Some(code)) => step.exit_code = code,
            (None, Some(step), None) => step.lines.push(line.to_owned()),
            (None, None, _) => {}
        }
    }
    steps
}

/// Whether `shown` describes all of `lines`.
fn lines_match(shown: &[&str], lines: &[&str]) -> bool {
    let Some((first, rest)) = shown.split_first() else { return lines.is_empty() };
    if *first == ANYTHING {
        return (0..=lines.len()).any(|skipped| lines_match(rest, &lines[skipped..]));
    }
    lines.split_first().is_some_and(|(line, left)| line_matches(&spaced(first), &spaced(line)) && lines_match(rest, left))
}

fn line_matches(shown: &str, line: &str) -> bool {
    match shown.split_once(ANYTHING) {
        None => shown == line,
        Some((start, rest)) => {
            let Some(left) = line.strip_prefix(start) else { return false };
            (0..=left.len()).filter(|at| left.is_char_boundary(*at)).any(|at| line_matches(rest, &left[at..]))
        }
    }
}

fn spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn steps_have_commands_lines_and_exit_codes() {
    let expected = [
        Step { command: "a $x".to_owned(), lines: vec!["one".to_owned(), "  two".to_owned()], exit_code: 0 },
        Step { command: "b".to_owned(), lines: Vec::new(), exit_code: 124 },
    ];
    assert_eq!(steps("$ a $x\none\n  two\n$ b\n[exit code 124]\n"), expected);
}

#[test]
fn an_ellipsis_stands_for_anything_and_nothing_else_does() {
    assert!(lines_match(&["id …", "…", "end"], &["id 7", "a", "b", "end"]));
    assert!(lines_match(&["…"], &[]) && lines_match(&["a   b"], &["  a b"]) && lines_match(&["…x…"], &["axb"]));
    assert!(!lines_match(&["id …"], &["id 7", "more"]));
    assert!(!lines_match(&["…", "end"], &["a"]) && !lines_match(&["a…c"], &["ab"]) && !lines_match(&[], &["a"]));
}
