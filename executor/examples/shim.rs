//! The shim alone, as `orchestr8 shim` is: what the tests of this crate start.
fn main() -> std::process::ExitCode {
    orchestr8_executor::shim::run_shim()
}
