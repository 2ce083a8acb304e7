//! Compute sessions: who may have them, how they live, and what they run.
//!
//! [`machine`] is the pure part: a state and an event give changes and effects. A [`Registry`] keeps the changes, and the
//! [`Ledger`] holds the state in memory in front of it: nothing is true before it is stored. A [`SessionHost`] carries out
//! the effects and runs calls. Who may ask for what is decided by whoever asks this crate; it knows roles, but no
//! requests.

mod compute;
mod digest;
mod files;
mod host;
mod ledger;
pub mod machine;
mod name;
mod quota;
mod registry;
mod session;
mod state;
mod tenancy;

pub use compute::{Catalog, Compute, ComputeKind, ComputeState, InstanceType, Resources};
pub use digest::sha256;
pub use files::{
    ArchiveError, EditError, FileLimits, Files, FlowPath, Format, InvalidPath, TooLarge, edit,
    replace, unpack,
};
pub use host::{
    ActiveCall, AdmissionError, CallError, CannotHibernate, CopyError, EnvironmentError,
    EnvironmentSettings, EventId, Fork, ForkError, HappenError, HibernateError, HostSettings,
    Installing, InvalidEventId, Key as SessionKey, NotStored, SessionEvent, SessionHost,
    SessionInstallError, Usage, Watched, Watcher,
};
pub use ledger::{ChangeError, Ledger};
pub use name::{InvalidName, Name, UserName};
pub use quota::{Quota, QuotaExceeded, Quotas, Used, check as check_quota};
pub use registry::{Durability, FileInfo, MemoryRegistry, Registry, RegistryError, SqliteRegistry};
pub use session::{
    ForkedFrom, Happening, Identity, Image, InstalledPackage, MAX_IDLE_SECONDS, MIN_IDLE_SECONDS,
    Packages, Session, SessionState, Stored,
};
pub use state::{Answered, Change, State, Workspace};
pub use tenancy::{CarriedImage, Flow, Key, MAX_FLOWS, Role, User, WorkspaceRecord};
