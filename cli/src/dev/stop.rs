//! The signals that end `dev`: the first asks for an orderly stop, the second ends it at once.

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use std::future::Future;
use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether the end was asked for.
#[derive(Debug)]
pub struct Stop {
    asked: watch::Receiver<bool>,
}

impl Stop {
    /// Listens from now on to Ctrl-C, SIGTERM and the end of the terminal.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (tell, asked) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                // The shims end everything by themselves, so that leaving at once orphans nothing.
                if tell.send_replace(true) {
                    std::process::exit(i32::from(super::EXIT_INTERRUPTED));
                }
            }
        });
        Ok(Self { asked })
    }

    /// Returns when the end was asked for.
    pub async fn requested(&self) {
        // The sender lives as long as the runtime, so this cannot fail before.
        self.asked.clone().wait_for(|asked| *asked).await.ok();
    }

    /// What `work` gives, or `None` when the end is asked for first; then `work` is dropped.
    pub async fn unless<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.requested() => None,
            done = work => Some(done),
        }
    }
}

/// From now on the end of the process that started this one asks for the end as well: a `make` that is killed passes nothing on.
///
/// # Errors
/// What the system said.
pub fn follow_parent() -> io::Result<()> {
    Ok(set_pdeathsig(Signal::SIGTERM)?)
}
