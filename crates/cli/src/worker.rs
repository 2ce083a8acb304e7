//! `flowcell worker`: the processes that a host starts for its sessions, and for what their tenants want compiled.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use flowcell_bundle::{CompileLimits, compile_for_parent};
use flowcell_worker::{WorkerCommand, install_for_parent};
use tracing::level_filters::LevelFilter;

use crate::terminal;

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Compile a component within these limits: bytes of memory, and seconds of CPU time.
    #[arg(long, num_args = 2, value_names = ["BYTES", "SECONDS"])]
    compile: Option<Vec<u64>>,
    /// Make an environment, within this CPU time in seconds.
    #[arg(long, value_name = "SECONDS", conflicts_with = "compile")]
    install: Option<u64>,
}

pub(crate) fn main(args: &WorkerArgs) -> ExitCode {
    if let Some(seconds) = args.install {
        return install_for_parent(seconds, compiler());
    }
    match args.compile.as_deref() {
        Some([memory, cpu_seconds]) => compile_for_parent(CompileLimits {
            memory: *memory,
            cpu_seconds: *cpu_seconds,
        }),
        _ => {
            terminal::start_logging(LevelFilter::INFO, None);
            let WorkerCommand { program, arguments } = compiler();
            flowcell_worker::main(program, arguments)
        }
    }
}

/// How a worker is started.
pub(crate) fn worker() -> WorkerCommand {
    this(&["worker"])
}

/// How a process that compiles is started.
pub(crate) fn compiler() -> WorkerCommand {
    this(&["worker", "--compile"])
}

/// How a process that makes environments is started.
pub(crate) fn installer() -> WorkerCommand {
    this(&["worker", "--install"])
}

/// This very program, even when another version has taken its place on the disk since it was started.
fn this(arguments: &[&str]) -> WorkerCommand {
    WorkerCommand {
        program: PathBuf::from("/proc/self/exe"),
        arguments: arguments.iter().map(OsString::from).collect(),
    }
}
