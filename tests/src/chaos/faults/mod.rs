//! Striking and healing.
//!
//! - [`processes`]: killed, paused, stopped, cut off
//! - [`streams`]: what vanishes from JetStream, and from its files
//! - [`database`]: sessions that end, a database that goes back

pub mod database;
pub mod processes;
pub mod streams;

use super::broker;
use super::fault::{EXECUTORS, Fault, GUEST, Leave, Spot};
use super::stage::Stage;
use crate::harness::proxy::Route;
use anyhow::Result;

/// Begins a fault.
///
/// # Errors
/// When it cannot be done; the run is of no use then.
pub async fn strike(stage: &mut Stage, fault: Fault) -> Result<()> {
    silenced(fault).for_each(|executor| stage.history.leaves(executor.to_string()));
    match fault {
        Fault::Kill(spot) => processes::kill(stage, spot).await,
        Fault::Pause(spot) => processes::pause(stage, spot),
        Fault::Stop(spot) => processes::stop(stage, spot).await,
        Fault::Cut(line, route) => {
            stage.set(line, route);
            Ok(())
        }
        Fault::Wipe(spot) => broker::wipe(stage, spot).await,
        Fault::DeleteStream(stream) => streams::delete_stream(stage, stream).await,
        Fault::DeleteConsumer(stream) => streams::delete_consumers(stage, stream).await,
        Fault::CutTail(stream, spot) => streams::cut_tail(stage, stream, spot).await,
        Fault::Visit(_) => processes::start(stage, Spot::Coordinator(GUEST)).await,
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
        Fault::Kill(spot) | Fault::Stop(spot) | Fault::Wipe(spot) | Fault::CutTail(_, spot) => processes::start(stage, spot).await?,
        Fault::Pause(spot) => processes::resume(stage, spot)?,
        Fault::Cut(line, _) => stage.set(line, Route::Open),
        Fault::Visit(Leave::Orderly) => processes::stop(stage, Spot::Coordinator(GUEST)).await?,
        Fault::Visit(Leave::Sudden) => processes::kill(stage, Spot::Coordinator(GUEST)).await?,
        Fault::DeleteStream(_) | Fault::DeleteConsumer(_) | Fault::EndSessions => {}
        Fault::RestoreDatabase => database::restore(stage).await?,
    }
    silenced(fault).for_each(|executor| stage.history.returns(&executor.to_string()));
    Ok(())
}

/// The executors whose runs may be lost by it.
fn silenced(fault: Fault) -> impl Iterator<Item = Spot> {
    (0..EXECUTORS).filter(move |executor| fault.silences() == Some(*executor) || fault.silences_some()).map(Spot::Executor)
}
