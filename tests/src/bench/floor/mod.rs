//! The smallest program with the shape of the engine, and its workloads: what the parts allow on this machine.
//!
//! Submit (one insert) → stream of tasks → executor → stream of results → collector (one statement a batch: store the
//! results, mark the tasks, insert what follows) → dispatch of what follows. Tasks are committed before their dispatch,
//! results before their ack, one task a message. No API, no leases, no retries, no timers, no payloads that are read.

mod parts;
mod program;

use super::figures::{Figures, as_f64, percentile_ms, rate};
use super::scale::{CHAIN_LENGTH, Scale};
use super::stage::Stage;
use anyhow::Result;
pub use program::{Program, Shape};
use std::time::Instant;

/// Tasks of one insert where ours are submitted singly: the submissions that a busy engine gathers anyway.
const SINGLE_BATCH: usize = 500;

/// All workloads in turn, each on empty tables and streams.
///
/// # Errors
/// When a part of the program fails, or the results are not as many as the tasks.
pub async fn workloads(stage: &Stage, scale: &Scale) -> Result<Figures> {
    let mut figures = w1_single(stage, scale).await?;
    figures.extend(w1_batch(stage, scale).await?);
    figures.extend(w2(stage, scale).await?);
    figures.extend(w3(stage, scale).await?);
    Ok(figures)
}

async fn w1_single(stage: &Stage, scale: &Scale) -> Result<Figures> {
    let mut program = Program::start(stage, Shape::Independent).await?;
    let before = stage.floor.read().await?;
    let elapsed = run_independent(&mut program, scale.tasks, SINGLE_BATCH).await?;
    let mut figures = stage.floor.read().await?.per_task(&before, as_f64(scale.tasks), 0);
    figures.insert("w1_single_tasks_per_s".to_owned(), rate(scale.tasks, elapsed));
    let (first, mut samples) = (scale.tasks, Vec::new());
    for sample in 0..scale.warm_up + scale.samples {
        let begun = Instant::now();
        program.submit_and_wait(&[first + sample], 1).await?;
        samples.push(begun.elapsed());
    }
    let samples = &mut samples[scale.warm_up..];
    figures.insert("one_task_p50_ms".to_owned(), percentile_ms(samples, 50));
    figures.insert("one_task_p99_ms".to_owned(), percentile_ms(samples, 99));
    program.stop(first + scale.warm_up + scale.samples).await?;
    Ok(figures)
}

async fn w1_batch(stage: &Stage, scale: &Scale) -> Result<Figures> {
    let mut program = Program::start(stage, Shape::Independent).await?;
    let elapsed = run_independent(&mut program, scale.tasks, scale.batch).await?;
    program.stop(scale.tasks).await?;
    Ok(Figures::from([("w1_batch_tasks_per_s".to_owned(), rate(scale.tasks, elapsed))]))
}

async fn run_independent(program: &mut Program, tasks: usize, batch: usize) -> Result<std::time::Duration> {
    let ids: Vec<usize> = (0..tasks).collect();
    program.expect(tasks);
    let begun = Instant::now();
    for chunk in ids.chunks(batch) {
        program.submit(chunk).await?;
    }
    program.wait().await?;
    Ok(begun.elapsed())
}

async fn w2(stage: &Stage, scale: &Scale) -> Result<Figures> {
    let mut program = Program::start(stage, Shape::Chains).await?;
    let firsts: Vec<usize> = (0..scale.chains).map(|chain| chain * CHAIN_LENGTH).collect();
    let steps = scale.chains * CHAIN_LENGTH;
    let begun = Instant::now();
    program.submit_and_wait(&firsts, steps).await?;
    let elapsed = begun.elapsed();
    let mut samples = Vec::new();
    for chain in 0..scale.chain_samples {
        let begun = Instant::now();
        program.submit_and_wait(&[(scale.chains + chain) * CHAIN_LENGTH], CHAIN_LENGTH).await?;
        samples.push(begun.elapsed().div_f64(as_f64(CHAIN_LENGTH)));
    }
    program.stop((scale.chains + scale.chain_samples) * CHAIN_LENGTH).await?;
    Ok(Figures::from([("w2_steps_per_s".to_owned(), rate(steps, elapsed)), ("w2_step_p50_ms".to_owned(), percentile_ms(&mut samples, 50))]))
}

async fn w3(stage: &Stage, scale: &Scale) -> Result<Figures> {
    let mut program = Program::start(stage, Shape::Fan(scale.fan)).await?;
    let begun = Instant::now();
    program.submit_and_wait(&[0], scale.fan + 2).await?;
    let elapsed = begun.elapsed();
    program.stop(scale.fan + 2).await?;
    Ok(Figures::from([("w3_total_ms".to_owned(), elapsed.as_secs_f64() * 1e3)]))
}
