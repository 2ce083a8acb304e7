//! How untrusted code runs: engine, limits, directories, instances and their pools.
//!
//! Everything a flow's author wrote, and every component, runs behind this crate and nowhere else. The crate knows the
//! contract (`wit/`) but not flows; what to call, and with what, is the executor's business. It must never give a
//! guest anything of the host's that is not listed in its [`Environment`].
//!
//! The life of a call: a [`Program`] is compiled once per component; a [`Pool`] of one session lends an [`Instance`];
//! the instance runs one call under [`Limits`] and answers with a [`Call`], which carries what the guest printed and
//! used whether or not it succeeded. A [`Fault`] (trap, timeout, a limit) ends the instance, never the host. What all
//! instances of several sessions may use together is a [`Slice`].

mod answer;
mod called;
mod contract;
mod emitted;
mod engine;
mod environment;
mod error;
mod filesystem;
mod guest;
mod hibernation;
mod image;
mod instance;
mod json;
mod limits;
mod metered;
mod network;
mod output;
mod pool;
mod program;
mod quota;
mod slice;
mod spans;

pub use called::{Callee, FoundTool, Tools};
pub use contract::{
    Argument, ErrorKind, LoadError, Outcome, Parameter, Request, ToolError, ToolInfo,
};
pub use engine::{CodeKind, Sandbox, SandboxConfig, WASMTIME_VERSION};
pub use environment::{Access, Environment, Mount};
pub use error::{Fault, Full, ProgramError, SandboxError};
pub use hibernation::Hibernation;
pub use image::{
    Base, Destination, Image, ImageError, ImageInfo, ImageKey, Mode, Owner, Shell, ShellError,
    SpreadUsage, StoreError, Stored, WeakImage,
};
pub use instance::{Call, Instance, Usage};
pub use limits::Limits;
pub use output::{Listener, Logs, Stream};
pub use pool::{Hibernated, Isolation, Lease, Pool, PoolError, PoolOptions};
pub use program::{MAX_COMPONENT, Program, ProgramKind};
pub use slice::{Slice, SliceLimits, SliceUsage};
pub use spans::Span;
