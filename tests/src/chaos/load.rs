//! Mixed workflows through the public API, each under an idempotency key, steadily until the faults end.

use super::draws::Draws;
use super::fault::COORDINATORS;
use super::ledger::{Ledger, SCRIPT};
use super::rows::FINAL;
use super::settings::Settings;
use crate::harness::Api;
use anyhow::{Result, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinSet;

/// What is submitted together.
const BATCH: usize = 10;
/// Tasks that start no process, submitted together: so that many are under way at every moment.
const FLOOD: usize = 100;
/// Tasks between the first and the last of a fan-out.
const FAN: usize = 5;
/// One execution in so many is cancelled.
const CANCEL_ONE_IN: usize = 12;
/// One submission in so many is waited for, at every coordinator that is there all the time: one of them at least does not own it.
const WAIT_ONE_IN: usize = 8;
/// Submissions that are not answered yet: beyond them, a turn is left out.
const OPEN_MAX: usize = 64;
/// How long one request waits for an end.
const WAIT: Duration = Duration::from_secs(20);
/// Between two tries of a request.
const TRY_INTERVAL: Duration = Duration::from_millis(20);
/// Enough for the two failures that are wanted, and for what a fault may add.
const ATTEMPTS: u32 = 8;

/// What an execution is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One task that ends at once.
    Quick,
    /// One task that lasts long enough to be claimed.
    Long,
    /// Ten quick ones in one submission.
    Batch,
    /// A hundred that start no process, in one submission.
    Flood,
    /// Three tasks, one after the other.
    Chain,
    /// One, five, one.
    Fan,
    /// One task that fails twice first.
    Retry,
    /// One task that must not start twice.
    Once,
    /// Two tasks with a timer between them.
    Sleep,
    /// One urgent task that shows that work runs.
    Probe,
}

const MIX: [Kind; 15] = [
    Kind::Quick,
    Kind::Quick,
    Kind::Long,
    Kind::Long,
    Kind::Long,
    Kind::Batch,
    Kind::Flood,
    Kind::Flood,
    Kind::Chain,
    Kind::Chain,
    Kind::Fan,
    Kind::Retry,
    Kind::Once,
    Kind::Once,
    Kind::Sleep,
];

/// A submission.
#[derive(Debug, Clone)]
pub struct Order {
    /// What it is.
    pub kind: Kind,
    /// The idempotency key.
    pub key: String,
    /// Where it is posted.
    pub path: &'static str,
    /// What is posted.
    pub body: Value,
    /// The coordinator that is asked first.
    pub first: usize,
}

/// What is done with a submission after it was accepted.
#[derive(Debug, Clone, Copy)]
struct Then {
    cancel: Option<Duration>,
    wait: bool,
}

/// A submission that was answered with ids.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// What was submitted.
    pub order: Order,
    /// The executions.
    pub executions: Vec<String>,
    /// The single tasks, where there are such.
    pub tasks: Vec<String>,
    /// When the answer came.
    pub at: SystemTime,
}

/// What the API promised.
#[derive(Debug, Default)]
pub struct Book {
    /// In the order of the answers.
    pub accepted: Vec<Accepted>,
    /// Executions that somebody asked to cancel.
    pub cancelled: HashSet<String>,
    /// Submissions that were refused for good, or never answered.
    pub refused: Vec<String>,
    /// Executions whose end a coordinator did not tell to who waited for it there.
    pub unwaited: Vec<(String, String)>,
}

/// Asks one coordinator after the other until one answers.
#[derive(Debug, Clone)]
pub struct Client {
    /// One for each coordinator.
    pub apis: Vec<Api>,
    /// For one answer.
    pub timeout: Duration,
}

/// Makes submissions and keeps what was promised.
#[derive(Debug, Clone)]
pub struct Load {
    /// To the coordinators.
    pub client: Client,
    /// What really ran.
    pub ledger: Arc<Ledger>,
    settings: Settings,
    book: Arc<Mutex<Book>>,
}

impl Load {
    /// With an empty book.
    #[must_use]
    pub fn new(client: Client, ledger: Arc<Ledger>, settings: Settings) -> Self {
        Self { client, ledger, settings, book: Arc::default() }
    }

    /// What was promised so far.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Submits until `ended`, then waits for the answers that are still open.
    pub async fn run(self, ended: Arc<AtomicBool>) {
        let mut draws = Draws::new(self.settings.seed.wrapping_add(1));
        let mut open = JoinSet::new();
        let mut turns = tokio::time::interval(Duration::from_millis(300) + self.settings.time_base.mul_f64(0.7));
        while !ended.load(Ordering::Relaxed) {
            turns.tick().await;
            while open.try_join_next().is_some() {}
            let kind = *draws.one(&MIX);
            let cancel = (draws.below(CANCEL_ONE_IN) == 0).then(|| self.settings.bases(draws.between((0.0, 10.0))));
            let then = Then { cancel, wait: draws.below(WAIT_ONE_IN) == 0 };
            if open.len() < OPEN_MAX {
                open.spawn(self.clone().submit_and_follow(self.order(kind, &mut draws), then));
            }
        }
        while open.join_next().await.is_some() {}
    }

    /// Submits until it is accepted; what came of it.
    ///
    /// # Errors
    /// When it is refused for good, or nobody accepts it in time.
    pub async fn submit(&self, order: &Order) -> Result<Accepted> {
        let answer = self.client.submit(order, Instant::now() + self.patience()).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.book().refused.push(format!("{:?} {}: {error:#}", order.kind, order.key));
                return Err(error);
            }
        };
        let each: Vec<&Value> = answer.as_array().map_or_else(|| vec![&answer], |many| many.iter().collect());
        let ids = |key: &str| each.iter().filter_map(|one| one[key].as_str().map(str::to_owned)).collect();
        let accepted = Accepted { order: order.clone(), executions: ids("workflow_id"), tasks: ids("task_id"), at: SystemTime::now() };
        self.book().accepted.push(accepted.clone());
        Ok(accepted)
    }

    /// A submission of this kind under a fresh key.
    pub fn order(&self, kind: Kind, draws: &mut Draws) -> Order {
        let key = uuid::Uuid::new_v4().to_string();
        let (path, mut body) = self.body(kind, draws);
        match &mut body {
            Value::Array(many) => many.iter_mut().for_each(|one| one["metadata"] = json!({"key": key})),
            single => single["metadata"] = json!({"key": key}),
        }
        Order { kind, key, path, body, first: draws.below(self.client.apis.len()) }
    }

    /// How long a submission may take: any outage, and the time after it.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.settings.bases(150.0) + Duration::from_secs(30)
    }

    /// A cancel goes to another coordinator than the submission.
    async fn submit_and_follow(self, order: Order, then: Then) {
        let Ok(accepted) = self.submit(&order).await else { return };
        if let Some(after) = then.cancel {
            tokio::time::sleep(after).await;
            for execution in &accepted.executions {
                self.book().cancelled.insert(execution.clone());
                let path = format!("/api/v1/workflows/{execution}/cancel");
                self.client.cancel(&path, order.first + 1, Instant::now() + self.settings.bases(30.0)).await;
            }
        }
        if let Some(execution) = accepted.executions.first().filter(|_| then.wait) {
            for coordinator in 0..COORDINATORS {
                let waited = self.client.wait(execution, coordinator, Instant::now() + self.patience() * 2).await;
                self.book().unwaited.extend(waited.err().map(|error| (execution.clone(), error.to_string())));
            }
        }
    }

    fn body(&self, kind: Kind, draws: &mut Draws) -> (&'static str, Value) {
        let work = || self.settings.bases(20.0).as_secs_f64();
        let quick = || self.task(kind, 0.0);
        let single = |task: Value| ("/api/v1/tasks", task);
        let named = |name: &str, needs: &[&str]| merged(quick(), &json!({"name": name, "needs": needs}));
        let workflow = |tasks: Vec<Value>| ("/api/v1/workflows", json!({"definition": {"name": format!("{kind:?}"), "tasks": tasks}}));
        match kind {
            Kind::Quick => single(quick()),
            Kind::Probe => single(merged(quick(), &json!({"priority": "critical"}))),
            Kind::Long => single(self.task(kind, work() * draws.between((1.0, 3.0)))),
            Kind::Once => single(merged(self.task(kind, work() * draws.between((0.0, 2.0))), &json!({"at_most_once": true}))),
            Kind::Batch => single((0..BATCH).map(|_| quick()).collect()),
            Kind::Flood => single((0..FLOOD).map(|number| json!({"handler": "noop", "with": {"output": number}})).collect()),
            Kind::Retry => single(merged(quick(), &json!({"retry_backoff": {"max_attempts": ATTEMPTS, "initial_interval": "200ms"}}))),
            Kind::Chain => workflow(vec![named("a", &[]), named("b", &["a"]), named("c", &["b"])]),
            Kind::Fan => workflow(self.fan(kind)),
            Kind::Sleep => {
                let pause = json!({"name": "pause", "sleep": format!("{}ms", self.settings.bases(5.0).as_millis()), "needs": ["a"]});
                workflow(vec![named("a", &[]), pause, named("b", &["pause"])])
            }
        }
    }

    fn fan(&self, kind: Kind) -> Vec<Value> {
        let middle: Vec<String> = (0..FAN).map(|number| format!("m{number}")).collect();
        let named = |name: &str, needs: Value| merged(self.task(kind, 0.0), &json!({"name": name, "needs": needs}));
        let first = std::iter::once(named("first", json!([])));
        let between = middle.iter().map(|name| named(name, json!(["first"])));
        first.chain(between).chain([named("last", json!(middle))]).collect()
    }

    fn task(&self, kind: Kind, work_s: f64) -> Value {
        let word = if kind == Kind::Once { "once" } else { "many" };
        let failures = if kind == Kind::Retry { 2 } else { 0 };
        let work_s = format!("{work_s:.3}");
        let work_s = if work_s == "0.000" { "0" } else { &work_s };
        json!({"run": SCRIPT, "env": {"LEDGER": self.ledger.file(), "KIND": word, "WORK_S": work_s, "FAILURES": failures.to_string()}})
    }
}

impl Client {
    /// Posts under the order's key until it is accepted.
    ///
    /// # Errors
    /// When it is refused for good, or nobody accepts it until then.
    pub async fn submit(&self, order: &Order, until: Instant) -> Result<Value> {
        let mut last = String::new();
        for api in self.apis.iter().cycle().skip(order.first) {
            let request = api.request(Method::POST, order.path).header("idempotency-key", &order.key).json(&order.body);
            match api.answer(request.timeout(self.timeout)).await {
                Ok((StatusCode::ACCEPTED, answer)) => return Ok(answer),
                Ok((status, answer)) if status.is_client_error() => bail!("refused for good: {status}: {answer}"),
                Ok((status, answer)) => last = format!("{status}: {answer}"),
                Err(error) => last = format!("{error:#}"),
            }
            if Instant::now() > until {
                break;
            }
            tokio::time::sleep(TRY_INTERVAL).await;
        }
        bail!("nobody accepted it; the last answer: {last}")
    }

    /// Gets JSON from whichever coordinator answers with success.
    ///
    /// # Errors
    /// When none does; what each said.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let mut said = Vec::new();
        for api in &self.apis {
            match api.answer(api.request(Method::GET, path).timeout(self.timeout)).await {
                Ok((StatusCode::OK, answer)) => return Ok(answer),
                Ok((status, answer)) => said.push(format!("{status}: {answer}")),
                Err(error) => said.push(format!("{error:#}")),
            }
        }
        bail!("{path}: {}", said.join("; "))
    }

    /// Waits at one coordinator for the end of an execution, with a request that is open until then.
    ///
    /// # Errors
    /// When it does not tell the end until then; what it said last.
    async fn wait(&self, execution: &str, coordinator: usize, until: Instant) -> Result<()> {
        let api = &self.apis[coordinator];
        let path = format!("/api/v1/workflows/{execution}?wait={}s", WAIT.as_secs());
        loop {
            let said = match api.answer(api.request(Method::GET, &path).timeout(WAIT + self.timeout)).await {
                Ok((StatusCode::NOT_FOUND, _)) => return Ok(()), // Where the database lost it; else the verdict misses it.
                Ok((_, answer)) if answer["status"].as_str().is_some_and(|status| FINAL.contains(&status)) => return Ok(()),
                Ok((status, answer)) => format!("{status}: {answer}"),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > until {
                bail!("coordinator-{coordinator} did not tell its end; the last answer: {said}");
            }
            tokio::time::sleep(TRY_INTERVAL).await;
        }
    }

    /// Asks to cancel until somebody answers with success or that it has ended, or the time is over.
    async fn cancel(&self, path: &str, first: usize, until: Instant) {
        for api in self.apis.iter().cycle().skip(first) {
            let answer = api.answer(api.request(Method::POST, path).timeout(self.timeout)).await;
            let done = answer.is_ok_and(|(status, _)| status.is_success() || status.is_client_error());
            if done || Instant::now() > until {
                return;
            }
            tokio::time::sleep(TRY_INTERVAL).await;
        }
    }
}

fn merged(mut task: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        task[key] = value.clone();
    }
    task
}
