//! Finds out which wasmtime is built in, so that compiled code and `flowcell --version` can name it.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    println!("cargo::rerun-if-changed=../../wit");
    let version = std::fs::read_to_string(Path::new("../../Cargo.lock"))
        .ok()
        .and_then(|lock| wasmtime_version(&lock))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=FLOWCELL_WASMTIME_VERSION={version}");
}

fn wasmtime_version(lock: &str) -> Option<String> {
    let (_, after) = lock.split_once("name = \"wasmtime\"\nversion = \"")?;
    Some(after.split_once('"')?.0.to_owned())
}
