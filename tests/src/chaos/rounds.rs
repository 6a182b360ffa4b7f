//! One round after the other: strike, heal, and wait until work runs again.

use super::fault::{Spot, Strike};
use super::faults;
use super::plan::Round;
use super::recovery::{Measure, Meter};
use super::settings::Settings;
use super::stage::Stage;
use anyhow::Result;
use std::time::{Duration, Instant};

/// Between two looks after the processes.
const TEND_INTERVAL: Duration = Duration::from_millis(20);

/// What came of a round.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// Which faults.
    pub round: Round,
    /// When it began, from the start of the run.
    pub begun: Duration,
    /// Until work ran again; none: not while it was watched.
    pub recovery: Option<Duration>,
}

/// Strikes at the stage.
#[derive(Debug)]
pub struct Striker<'a> {
    /// Where.
    pub stage: &'a mut Stage,
    /// Measures.
    pub meter: &'a Meter,
    /// The time base.
    pub settings: &'a Settings,
    /// When the run began.
    pub begun: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Strike,
    Heal,
}

/// Tasks that a strike took from an executor.
#[derive(Debug)]
struct Taken {
    tasks: Vec<String>,
    struck: Instant,
}

impl Striker<'_> {
    /// Carries out a round and waits until work runs again, or patience ends.
    ///
    /// # Errors
    /// When a fault cannot be made.
    pub async fn round(&mut self, round: Round) -> Result<Recovered> {
        let begun = self.begun.elapsed();
        eprintln!("{:7.1} s  {round}", begun.as_secs_f64());
        let single = round.is_one_by_one();
        let (mut measures, mut taken, mut from) = (Vec::new(), Vec::new(), Instant::now());
        let start = Instant::now();
        for (at, step, strike) in steps(&round) {
            self.until(start + self.settings.bases(at)).await?;
            let now = Instant::now();
            match step {
                Step::Strike => {
                    taken.extend(self.strike(strike).await?);
                    if !strike.fault.blocks() {
                        from = now;
                    }
                    if single && !strike.fault.blocks() {
                        measures.push(self.meter.probe(now));
                        measures.extend(taken.drain(..).map(|taken: Taken| self.meter.run_again(taken.tasks, (taken.struck, now))));
                    }
                }
                Step::Heal => {
                    faults::heal(self.stage, strike.fault).await?;
                    if strike.fault.blocks() {
                        from = Instant::now();
                    }
                }
            }
        }
        measures.push(self.meter.probe(if single { Instant::now() } else { from }));
        measures.extend(taken.into_iter().map(|taken| self.meter.run_again(taken.tasks, (taken.struck, from))));
        let recovery = self.slowest(measures).await?;
        let shown = recovery.map_or("not while it was watched".to_owned(), |recovery| format!("{:.2} s", recovery.as_secs_f64()));
        eprintln!("{:7.1} s      work runs again: {shown}", self.begun.elapsed().as_secs_f64());
        Ok(Recovered { round, begun, recovery })
    }

    /// What an executor had open when it was struck.
    async fn strike(&mut self, strike: Strike) -> Result<Option<Taken>> {
        let struck = Instant::now();
        faults::strike(self.stage, strike.fault).await?;
        let Some(executor) = strike.fault.takes_runs_of() else { return Ok(None) };
        self.meter.load.ledger.read()?;
        let tasks = self.meter.load.ledger.seen().take_open(&Spot::Executor(executor).to_string());
        eprintln!("               {} interrupted", tasks.len());
        Ok(Some(Taken { tasks, struck }))
    }

    async fn until(&mut self, then: Instant) -> Result<()> {
        while Instant::now() < then {
            self.stage.tend().await?;
            tokio::time::sleep(TEND_INTERVAL.min(then.saturating_duration_since(Instant::now()))).await;
        }
        Ok(())
    }

    async fn slowest(&mut self, measures: Vec<Measure>) -> Result<Option<Duration>> {
        while measures.iter().any(|measure| !measure.is_finished()) {
            self.stage.tend().await?;
            tokio::time::sleep(TEND_INTERVAL).await;
        }
        let mut slowest = Some(Duration::ZERO);
        for measure in measures {
            slowest = slowest.zip(measure.await?).map(|(slowest, measured)| slowest.max(measured));
        }
        Ok(slowest)
    }
}

/// In the order of time, in bases.
fn steps(round: &Round) -> Vec<(f64, Step, Strike)> {
    let both = |strike: &Strike| [(strike.after, Step::Strike, *strike), (strike.after + strike.hold, Step::Heal, *strike)];
    let mut steps: Vec<_> = round.strikes.iter().flat_map(both).collect();
    steps.sort_by(|(first, ..), (second, ..)| first.total_cmp(second));
    steps
}
