//! Striking and healing.
//!
//! - [`processes`]: killed, paused, stopped, cut off
//! - [`streams`]: what vanishes from JetStream, and from its files
//! - [`database`]: sessions that end, a database that goes back

pub mod database;
pub mod processes;
pub mod streams;

use super::plan::{Fault, Spot};
use super::proxy::Route;
use super::stage::Stage;
use anyhow::Result;

/// Begins a fault.
///
/// # Errors
/// When it cannot be done; the run is of no use then.
pub async fn strike(stage: &mut Stage, fault: Fault) -> Result<()> {
    if let Some(executor) = fault.silences() {
        stage.history.leaves(Spot::Executor(executor).to_string());
    }
    match fault {
        Fault::Kill(spot) => processes::kill(stage, spot).await,
        Fault::Pause(spot) => processes::pause(stage, spot),
        Fault::Stop(spot) => processes::stop(stage, spot).await,
        Fault::Cut(line, route) => {
            stage.set(line, route);
            Ok(())
        }
        Fault::WipeNats => stage.installation.nats("wipe nats").await.map(drop),
        Fault::DeleteStream(stream) => streams::delete_stream(stage, stream).await,
        Fault::DeleteConsumer(stream) => streams::delete_consumers(stage, stream).await,
        Fault::CutTail(stream) => streams::cut_tail(stage, stream).await,
        Fault::EndSessions => database::end_sessions(stage).await,
        Fault::RestoreDatabase => database::copy(stage).await,
    }
}

/// Ends a fault.
///
/// # Errors
/// When it cannot be done; the run is of no use then.
pub async fn heal(stage: &mut Stage, fault: Fault) -> Result<()> {
    match fault {
        Fault::Kill(spot) | Fault::Stop(spot) => processes::start(stage, spot).await?,
        Fault::Pause(spot) => processes::resume(stage, spot)?,
        Fault::Cut(line, _) => stage.set(line, Route::Open),
        Fault::WipeNats | Fault::CutTail(_) => processes::start(stage, Spot::Nats).await?,
        Fault::DeleteStream(_) | Fault::DeleteConsumer(_) | Fault::EndSessions => {}
        Fault::RestoreDatabase => database::restore(stage).await?,
    }
    if let Some(executor) = fault.silences() {
        stage.history.returns(&Spot::Executor(executor).to_string());
    }
    Ok(())
}
