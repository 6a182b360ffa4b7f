//! What can happen between a coordinator, a broker and executors, as random acts.

use proptest::prelude::*;

/// One act. A number picks among what is there at that moment; if nothing is there, nothing happens.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    /// A published message reaches an executor. It stays in the broker: the next delivery is a repeated one.
    Deliver(u8),
    /// The broker loses a message.
    Wipe(u8),
    /// A run ends.
    Finish(u8, Ending),
    /// A run asks to be the holder; the claim is on its way, perhaps twice.
    Ask(u8),
    /// A run checks its dispatch.
    Check(u8),
    /// A heartbeat lists every living run.
    Beat,
    /// A letter to the coordinator arrives; any letter, so they overtake each other.
    Arrive(u8),
    /// A letter arrives, and a copy of it stays on its way.
    ArriveTwice(u8),
    /// A letter is lost.
    Mislay(u8),
    /// An answer reaches its run.
    Answer(u8),
    /// An answer is lost.
    Silence(u8),
    /// Every outcome that is not confirmed is sent again.
    Resend,
    /// An executor dies with its run.
    Die(u8),
    /// A run is declared lost, rightly or not: one in two times a holder.
    Lose(u8),
    /// Time passes.
    Pass(u16),
    /// A timer fires, rightly or not.
    Due(u8),
    /// The execution is cancelled.
    Cancel,
    /// A task is cancelled.
    CancelTask(u8),
    /// A dispatch turns out to be undeliverable.
    Undeliverable(u8),
}

/// How a run ends, where its state allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With output.
    Completed,
    /// With an error that another attempt may heal.
    Failed,
    /// With an error that none heals.
    FailedForGood,
    /// Its executor stops.
    Drained,
    /// Its executor does not know the kind.
    Unsupported,
}

/// Up to 250 acts. Numbers are drawn and read as acts: a choice among twenty strategies for each takes ten times as long.
pub(super) fn acts() -> impl Strategy<Value = Vec<Act>> {
    proptest::collection::vec(any::<u32>(), 0..250).prop_map(|numbers| numbers.into_iter().map(act).collect())
}

/// How likely each act is, out of 256.
fn act(number: u32) -> Act {
    let [what, pick, more, _] = number.to_le_bytes();
    match what {
        0..48 => Act::Deliver(pick),
        48..52 => Act::Wipe(pick),
        52..92 => Act::Finish(pick, ending(more)),
        92..116 => Act::Ask(pick),
        116..120 => Act::Check(pick),
        120..128 => Act::Beat,
        128..176 => Act::Arrive(pick),
        176..192 => Act::ArriveTwice(pick),
        192..196 => Act::Mislay(pick),
        196..220 => Act::Answer(pick),
        220..224 => Act::Silence(pick),
        224..226 => Act::Resend,
        226..231 => Act::Die(pick),
        231..239 => Act::Lose(pick),
        239..245 => Act::Pass(u16::from(pick) * 20),
        245..252 => Act::Due(pick),
        252 => by_somebody(pick, more),
        253 => Act::Undeliverable(pick),
        254 => Act::CancelTask(pick),
        255 => Act::Pass(u16::MAX),
    }
}

fn by_somebody(pick: u8, more: u8) -> Act {
    if more < 64 { Act::Cancel } else { Act::CancelTask(pick) }
}

fn ending(number: u8) -> Ending {
    match number % 12 {
        0..4 => Ending::Completed,
        4..8 => Ending::Failed,
        8 => Ending::FailedForGood,
        9..11 => Ending::Drained,
        _ => Ending::Unsupported,
    }
}
