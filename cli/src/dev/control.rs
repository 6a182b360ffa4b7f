//! `--servers-only`: the addresses as one line of JSON, then orders on stdin, until its end.
//!
//! An order is a line `start|stop|kill postgres|nats` or `wipe nats`; the answer is a line
//! `{"done": ORDER, "postgres_pid": …, "nats_pid": …}` or `{"failed": ORDER, "error": …}`. `stop` is orderly, `kill` is
//! SIGKILL, and what was stopped or killed stays down until `start`; what dies otherwise is started again at once.

use super::child::Order;
use super::place::Place;
use super::servers::{Name, Nats, Postgres, Servers, nats};
use super::stop::Stop;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use tokio::sync::mpsc;

/// A caller that sends more orders than it awaits answers is held up.
const ORDERS_MAX: usize = 16;

/// Serves until stdin ends or a signal comes.
pub async fn serve(servers: &Servers, place: &Place, stop: &Stop) {
    let mut orders = stdin_lines();
    say(&json!({
        "database_url": servers.postgres.as_ref().map(Postgres::url),
        "nats_url": servers.nats.as_ref().map(Nats::url),
        "postgres_pid": postgres_pid(servers),
        "nats_pid": nats_pid(servers),
        "data": place.root,
    }));
    while let Some(Some(line)) = stop.unless(orders.recv()).await {
        let answer = match obey(&line, servers, place).await {
            Ok(()) => json!({"done": line, "postgres_pid": postgres_pid(servers), "nats_pid": nats_pid(servers)}),
            Err(error) => json!({"failed": line, "error": error}),
        };
        say(&answer);
    }
}

async fn obey(line: &str, servers: &Servers, place: &Place) -> Result<(), String> {
    let (name, order) = match line {
        "start postgres" => (Name::Postgres, Order::Start),
        "stop postgres" => (Name::Postgres, Order::Stop),
        "kill postgres" => (Name::Postgres, Order::Kill),
        "start nats" => (Name::Nats, Order::Start),
        "stop nats" => (Name::Nats, Order::Stop),
        "kill nats" => (Name::Nats, Order::Kill),
        "wipe nats" => return wipe(servers, place).await,
        _ => return Err("unknown order: write start, stop or kill, then postgres or nats; or wipe nats".to_owned()),
    };
    servers.order(name, order, place).await.map_err(|error| error.to_string())
}

/// The store is lost while the server is down, as when its disk is: it comes up empty at the next start.
async fn wipe(servers: &Servers, place: &Place) -> Result<(), String> {
    servers.order(Name::Nats, Order::Kill, place).await.map_err(|error| error.to_string())?;
    nats::wipe(place).map_err(|error| error.to_string())
}

fn postgres_pid(servers: &Servers) -> Option<i32> {
    servers.postgres.as_ref().and_then(Postgres::pid)
}

fn nats_pid(servers: &Servers) -> Option<i32> {
    servers.nats.as_ref().and_then(Nats::pid)
}

/// A reader that is gone ends us by the end of stdin, so a failed write needs no word.
fn say(line: &Value) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).ok();
}

/// A thread of its own, because a blocked read of stdin cannot be given up; it ends with the process.
fn stdin_lines() -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel(ORDERS_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(line.trim().to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}
