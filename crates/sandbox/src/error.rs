//! Why a component could not be used, and why a call ended without an answer.

use std::time::Duration;

/// The host could not set up a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The engine refused its configuration, or the machine refused the engine.
    #[error("cannot set up the WebAssembly engine")]
    Engine(#[source] wasmtime::Error),
    /// A directory could not be given to a guest.
    #[error("cannot mount {path} at {guest}")]
    Mount {
        /// The directory on the host.
        path: String,
        /// Where the guest would have seen it.
        guest: String,
        /// What the system said.
        #[source]
        source: wasmtime::Error,
    },
    /// An instance could not be made.
    #[error("cannot start an instance")]
    Start(#[source] wasmtime::Error),
    /// The image that the instance should start from cannot be used.
    #[error("cannot start an instance from its image")]
    Image(#[from] crate::ImageError),
    /// The guest failed in going on from its image.
    #[error("an instance could not go on from its image: {0}")]
    Resume(Fault),
    /// A stored instance cannot go on. Its state is gone; the next call begins anew.
    #[error("the session's stored state is lost, and its next call begins anew: {0}")]
    Lost(#[source] Box<SandboxError>),
    /// The session's slice has no room for the instance.
    #[error("cannot start an instance: {0}")]
    NoRoom(Full),
    /// The instance needed more memory than it could have, right at its start.
    #[error("cannot start an instance: {0}")]
    Memory(Fault),
}

/// What has no room for another instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The pool: it lends as many instances as it may have.
    #[error("all {instances} instances are busy")]
    Pool {
        /// How many that is.
        instances: usize,
    },
    /// A slice has as many instances as it may have, and none is idle.
    #[error("all {limit} instances that are shared with others are busy")]
    Instances {
        /// How many that is.
        limit: usize,
    },
    /// A slice has not enough memory left, and no idle instance could give its own.
    #[error("too little is left of the {} MiB of memory that are shared with others", .limit >> 20)]
    Memory {
        /// What it has in all, in bytes.
        limit: u64,
    },
}

/// A file is no component that flowcell can run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A core module where a component is needed.
    #[error(
        "it is a core WebAssembly module, not a component; build it for wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// Not WebAssembly at all.
    #[error("it is not WebAssembly: it does not start with the bytes \"\\0asm\"")]
    NotWasm,
    /// Larger than the limit.
    #[error("it is {size} bytes; the limit for a component is {limit}")]
    TooLarge {
        /// Size in bytes.
        size: usize,
        /// Limit in bytes.
        limit: usize,
    },
    /// Damaged, or using a WebAssembly proposal that is switched off.
    #[error(
        "it is damaged or uses a WebAssembly feature that is switched off: {0}; build it again"
    )]
    Invalid(String),
    /// It wants something that the host does not give.
    #[error("it imports {}, which flowcell does not give to tools", .0.join(", "))]
    UnknownImports(Vec<String>),
    /// An import or export has the right name and the wrong type, or an export is missing.
    #[error("it does not fit the tool contract {contract}: {reason}")]
    Contract {
        /// The contract's name and version.
        contract: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// Compiling it took more than a component may take.
    #[error(
        "compiling it was stopped: it takes more than {limit}; make it smaller, above all its largest functions"
    )]
    TooCostly {
        /// The limit, in words.
        limit: String,
    },
    /// The process that compiles it failed.
    #[error("the compiler did not finish: {0}")]
    Compiler(String),
    /// Compiled code could not be read back.
    #[error("its compiled code is unusable: {0}")]
    Compiled(String),
}

/// Why a call ended without an answer of the guest's own. The instance is gone; the session lives on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The wall clock ran out.
    #[error("it did not finish within {}", seconds(.limit))]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// The CPU time ran out.
    #[error("it used more than {} of CPU time", seconds(.limit))]
    CpuTime {
        /// The limit.
        limit: Duration,
    },
    /// The guest asked for more memory than it may have.
    #[error("it needs more memory than the limit of {} MiB", .limit >> 20)]
    Memory {
        /// The limit in bytes.
        limit: usize,
    },
    /// The guest asked for memory that its slice, or one above it, no longer has.
    #[error("it needs more memory than is left of the {} MiB that are shared with others", .limit >> 20)]
    ComputeMemory {
        /// The memory of the slice that is used up, in bytes.
        limit: u64,
    },
    /// The guest's stack is full.
    #[error("it recursed deeper than the stack allows")]
    StackOverflow,
    /// The value that it returned is too large.
    #[error("its value{} is larger than the limit of {limit} bytes", of_size(*.size))]
    OutputTooLarge {
        /// Size in bytes; 0 when the host stopped reading before it was known.
        size: usize,
        /// Limit in bytes.
        limit: usize,
    },
    /// What it gave as a value is no JSON text.
    #[error("its value is not JSON")]
    NotJson,
    /// The guest ended its process.
    #[error("it ended its process with exit code {code}")]
    Exit {
        /// The code.
        code: i32,
    },
    /// Any other trap.
    #[error("it crashed: {reason}")]
    Trap {
        /// What WebAssembly reported.
        reason: String,
    },
}

fn of_size(size: usize) -> String {
    match size {
        0 => String::new(),
        size => format!(" of {size} bytes"),
    }
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

impl Fault {
    /// The class under which the error is shown and can be searched for.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "ExecutionTimeout",
            Self::CpuTime { .. } => "CpuTimeLimitExceeded",
            Self::Memory { .. } => "MemoryLimitExceeded",
            Self::ComputeMemory { .. } => "ComputeMemoryExceeded",
            Self::StackOverflow => "StackLimitExceeded",
            Self::OutputTooLarge { .. } => "OutputLimitExceeded",
            Self::NotJson => "InvalidToolOutput",
            Self::Exit { .. } => "ProcessExit",
            Self::Trap { .. } => "ProcessCrashError",
        }
    }
}
