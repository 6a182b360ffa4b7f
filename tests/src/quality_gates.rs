//! `examples/quality-gates.yaml` on this repository, as `make run` has it, and on repositories made for the test: a tidy one, and
//! one with a mistake for each gate.

use crate::harness::{Api, Installation, InstallationOptions, binary, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A few seconds, on a machine that has them; a whole repository on one that is busy takes a minute.
const GATES_MAX: Duration = Duration::from_mins(5);

/// Nothing in it breaks a rule.
pub const TIDY: [(&str, &str); 5] = [
    ("README.md", "# Tidy\n\nSee [the code](src/main.py), `src/main.py:1` and [this](#tidy).\n"),
    ("src/main.py", "def main():\n    return 1\n"),
    ("Cargo.toml", "[package]\nname = \"tidy\"\nversion = \"0.1.0\"\nedition = \"2024\"\n"),
    ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"tidy\"\nversion = \"0.1.0\"\n"),
    ("src/main.rs", "fn main() {}\n"),
];

/// For each gate, in the order of the definition: its title, a file that it must not let pass, and what it says of it.
fn mistakes() -> [(&'static str, &'static str, String, &'static str); 5] {
    let long = format!("def long():\n{}", "    x = 1\n".repeat(71));
    // Put together here, so that the scan of this repository finds nothing.
    let key = format!("key = {}{}\n", "AKIA", "ABCDEFGHIJKLMNOP");
    [
        ("Formatting", "untidy.txt", "space at the end \n".to_owned(), "`untidy.txt:1`: trailing space"),
        ("Manifests and lock files", "package.json", "{}\n".to_owned(), "`package.json`: dependencies: left absent, but locked ^1"),
        ("Secrets", "conf.txt", key, "`conf.txt:1`: an AWS access key"),
        ("Size and complexity", "long.py", long, "`long.py:1`: `long` has 71 lines, at most 70"),
        ("Documentation links", "broken.md", "[gone](gone.md)\n".to_owned(), "`broken.md:1`: the link `gone.md` leads nowhere"),
    ]
}

/// A git repository below the folder.
pub fn repository(folder: &Path, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let root = folder.join(name);
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        std::fs::write(path, text)?;
    }
    ensure!(Command::new("git").arg("init").arg("-q").arg(&root).status()?.success(), "git init");
    Ok(root)
}

/// The workflow at its end, and its tasks.
pub async fn run_gates(api: &Api, repository: &Path) -> Result<(Value, Vec<Value>)> {
    let definition = std::fs::read_to_string(binary::workspace().join("examples/quality-gates.yaml"))?;
    let input = json!({"repository": repository, "scripts": binary::workspace().join("examples/quality-gates")});
    let accepted = api.post("/api/v1/workflows", &json!({"definition": definition, "input": input})).await?;
    let path = format!("/api/v1/workflows/{}", accepted["workflow_id"].as_str().context("an id")?);
    let look = async || Ok(Some(api.get(&format!("{path}?wait=60s")).await?).filter(|ended| ended["status"] != "running"));
    let ended = wait_for("the end of the gates", GATES_MAX, look).await?;
    let tasks = api.get(&format!("{path}/tasks")).await?;
    Ok((ended, tasks["tasks"].as_array().cloned().context("tasks")?))
}

async fn stdout_of(installation: &Installation, task: &Value) -> Result<String> {
    let task = installation.api.get(&format!("/api/v1/tasks/{}", task["task_id"].as_str().context("an id")?)).await?;
    Ok(task["attempt_history"][0]["stdout_tail"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn this_repository_passes_all_gates() -> Result<()> {
    if !binary::workspace().join(".git").exists() {
        eprintln!("skipped: {} is no work tree of git", binary::workspace().display());
        return Ok(());
    }
    let installation = Installation::start(InstallationOptions::default()).await?;
    let (ended, tasks) = run_gates(&installation.api, &binary::workspace()).await?;
    let report = ended["output"].as_str().with_context(|| format!("{ended} {tasks:?}"))?;
    ensure!(ended["status"] == "completed" && report.contains("\n**All 5 gates passed.**\n"), "{report}");
    installation.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_tidy_repository_passes_and_the_report_says_so() -> Result<()> {
    let installation = Installation::start(InstallationOptions::default()).await?;
    let tidy = repository(&installation.workdir, "tidy", &TIDY)?;
    let (ended, tasks) = run_gates(&installation.api, &tidy).await?;
    let report = ended["output"].as_str().with_context(|| format!("{ended} {tasks:?}"))?;
    ensure!(ended["status"] == "completed" && report.starts_with("# Quality gates: tidy\n\n**All 5 gates passed.**\n"), "{report}");
    for row in
        ["| Secrets | passed in ", "Cargo.lock: 1 member, ", "2 relative links and 1 code path in 1 document", "`main` 1 (src/main.py:1)"]
    {
        ensure!(report.contains(row), "{row}: {report}");
    }
    installation.finish().await;
    Ok(())
}

#[tokio::test]
async fn each_gate_finds_its_mistake_and_the_report_names_it() -> Result<()> {
    let installation = Installation::start(InstallationOptions::default()).await?;
    let lock = ("package-lock.json", r#"{"lockfileVersion": 3, "packages": {"": {"dependencies": {"left": "^1"}}}}"#.to_owned() + "\n");
    for (number, (title, file, text, finding)) in mistakes().iter().enumerate() {
        let mut files = TIDY.to_vec();
        files.push((file, text));
        if *file == "package.json" {
            files.push((lock.0, &lock.1));
        }
        let root = repository(&installation.workdir, &format!("mistake-{number}"), &files)?;
        let (ended, tasks) = run_gates(&installation.api, &root).await?;
        let failed: Vec<usize> = (0..tasks.len()).filter(|index| tasks[*index]["status"] == "failed").collect();
        assert_eq!((&ended["status"], failed.as_slice()), (&json!("failed"), &[number + 1, 6][..]), "{title}: {ended} {tasks:?}");
        let report = stdout_of(&installation, &tasks[6]).await?;
        ensure!(report.contains(&format!("**1 of 5 gates failed: {title}**")) && report.contains(finding), "{title}: {report}");
        ensure!(ended["error"].as_str().is_some_and(|error| error.ends_with(&format!("failed gates: {title}"))), "{ended}");
        ensure!(!format!("{ended}{tasks:?}{report}").contains("ABCDEFGHIJKLMNOP"), "the secret is shown");
    }
    installation.finish().await;
    Ok(())
}
