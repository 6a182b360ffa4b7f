//! The shim alone, as `orchestr8 shim` is, in a program so small that it starts in a fraction of the time and memory: an executor
//! starts one for every command, and takes this one where it lies beside `orchestr8`.

use orchestr8_executor::shim::{SMALL_VERSION, run_shim};
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == "--version") {
        println!("{SMALL_VERSION}");
        return ExitCode::SUCCESS;
    }
    run_shim()
}
