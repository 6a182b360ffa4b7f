//! The examples of `docs/api.md`, run as written in one shell against an installation.

use crate::document::blocks;
use crate::scene::{Scene, executors};
use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// Between the answers of two examples.
const SEPARATOR: &str = "\necho; echo '=====';\n";

#[tokio::test]
async fn the_examples_of_the_api_work_as_written() -> Result<()> {
    let blocks = blocks("docs/api.md", "sh")?;
    let (preamble, examples) = blocks.split_first().context("docs/api.md has no examples")?;
    let scene = Scene::start(executors(1)).await?;
    let folder = scene.installation.workdir.join(".orchestr8");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("token"), &scene.api().token)?;
    std::fs::write(folder.join("url"), &scene.api().url)?;
    let parts: Vec<&str> = ["set -e\nunset ORCHESTR8_URL ORCHESTR8_TOKEN\n", preamble]
        .into_iter()
        .chain(examples.iter().flat_map(|example| [SEPARATOR, example]))
        .collect();
    let script = parts.concat();
    let output = Command::new("bash").arg("-c").arg(script).current_dir(&scene.installation.workdir).output().await?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let answers: Vec<&str> = printed.split("=====").skip(1).collect();
    ensure!(answers.len() == examples.len() && answers.len() >= 7, "{printed}");
    ensure!(answers[1].contains(r#""result":"hello""#), "the result of the first task is missing in {}", answers[1]);
    for (example, answer) in examples.iter().zip(&answers) {
        let refused = answer.contains("/problems/");
        ensure!(refused == example.contains("soon"), "{example}\nanswers\n{answer}");
    }
    scene.finish().await;
    Ok(())
}
