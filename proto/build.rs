//! Generates the wire types from `wire/orchestr8.proto` without a `protoc`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=wire/orchestr8.proto");
    let descriptors = protox::compile(["wire/orchestr8.proto"], ["wire"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
