//! What Restate runs: a task that does nothing, a chain of durable steps, and a fan of calls.

use restate_sdk::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tasks that have run since the last look.
static RUN: AtomicU64 = AtomicU64::new(0);

struct Bench;

#[service(name = "bench")]
impl Bench {
    /// Ends at once.
    #[handler]
    async fn task(&self, _context: Context<'_>, number: u64) -> HandlerResult<u64> {
        RUN.fetch_add(1, Ordering::Relaxed);
        Ok(number)
    }

    /// How many tasks have run.
    #[handler]
    async fn run_so_far(&self, _context: Context<'_>, _nothing: u64) -> HandlerResult<u64> {
        Ok(RUN.load(Ordering::Relaxed))
    }

    /// So many durable steps, one after another.
    #[handler]
    async fn chain(&self, context: Context<'_>, steps: u64) -> HandlerResult<u64> {
        let mut last = 0;
        for step in 0..steps {
            last = context.run(|| async move { Ok(step) }).await?;
        }
        Ok(last)
    }

    /// One step, so many calls at once, one step.
    #[handler]
    async fn fan(&self, context: Context<'_>, width: u64) -> HandlerResult<u64> {
        context.run(|| async { Ok(1_u64) }).await?;
        let calls: Vec<_> = (0..width).map(|number| context.service_client::<BenchClient>().task(number).call()).collect();
        let mut sum = 0;
        for call in calls {
            sum += call.await?;
        }
        Ok(context.run(|| async move { Ok(sum) }).await?)
    }
}

#[tokio::main]
async fn main() {
    let port = std::env::var("SERVICE_PORT").expect("run.sh names it");
    let address = format!("127.0.0.1:{port}").parse().expect("a port");
    HttpServer::new(Endpoint::builder().bind(Bench).build()).listen_and_serve(address).await;
}
