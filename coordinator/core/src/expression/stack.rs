//! A stack that is large enough for the deepest expression that the limits allow.
//!
//! The parser and the evaluator of CEL recurse with large frames (without optimization 170 KiB for each bracket), so that a dozen
//! brackets would overflow the 2 MiB of an ordinary thread, which ends the process. Their work runs on a thread of its own instead.

use std::cell::Cell;
use std::thread;

/// Reserved, not touched: only what is used costs memory.
const STACK_BYTES: usize = 64 * 1024 * 1024;

thread_local! {
    static IS_LARGE: Cell<bool> = const { Cell::new(false) };
}

/// Calls `work` on a large stack, in this thread if it has one already.
///
/// # Panics
/// When `work` does, or when the system has no thread left.
pub(crate) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if IS_LARGE.get() {
        return work();
    }
    thread::scope(|scope| {
        let marked = || {
            IS_LARGE.set(true);
            work()
        };
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, marked);
        thread.expect("the process may start a thread").join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
