//! Where sessions run: worker processes, or this process, behind one interface.
//!
//! [`Workers`] places each compute, with all its sessions, in a worker, and starts the worker's process when its first
//! session comes. What is asked of a session is data ([`Work`]), what comes of it is finished text ([`Answer`]); both
//! cross the boundary in frames of limited size. A worker runs tenants' code, so this side takes nothing from it on trust:
//! one that sends what it must not is killed like one that crashed.
//!
//! In a worker, [`flows`] holds what is open; [`perform`] runs work over the executor.

mod flows;
mod installer;
mod installing;
mod local;
mod network;
mod news;
mod parts;
mod perform;
mod placement;
mod process;
mod remote;
mod spec;
mod steps;
mod stored;
mod usage;
mod wire;
mod work;
mod workers;

pub use flowcell_environment::{Credential, Credentials, IndexSettings};
pub use flowcell_executor::{
    Asked, SpanKind, SpanStatus, Tokens, Trace, TraceSpan, asked, text_of,
};
pub use installer::{
    InstallError, InstallJob, Installed, Installer, PullJob, Pulled, RegistrySettings,
};
pub use installing::install_for_parent;
pub use network::{NetworkSpec, RequestListener, read as read_authorities};
pub use news::{Hear, Heard, News};
pub use parts::{Part, Taker};
pub use process::main;
pub use remote::WorkerCommand;
pub use spec::{ComputeId, ComputeSpec, Job, SessionId, SessionSpec, Setup, disk_limits};
pub use stored::{Hibernated, Holds, Prepared};
pub use usage::Used;
pub use work::{Answer, Look, Run, Values, Work};
pub use workers::{Counts, WorkerError, Workers, WorkersSettings};
