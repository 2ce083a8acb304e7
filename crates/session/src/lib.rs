//! Compute sessions: who may have them, how they live, and what they run.
//!
//! [`machine`] is the pure part: a state and an event give changes and effects. A [`Registry`] keeps the changes, and the
//! [`Ledger`] holds the state in memory in front of it: nothing is true before it is stored. A [`SessionHost`] carries out
//! the effects and runs calls. Who may ask for what is decided by whoever asks this crate; it knows roles, but no
//! requests.

mod compute;
mod connection;
mod credential;
mod digest;
mod files;
mod host;
mod identity;
mod ledger;
pub mod machine;
mod name;
mod quota;
mod registry;
mod reseal;
mod sealed_connection;
mod secrets;
mod session;
mod sign_in;
mod state;
mod tenancy;

pub use compute::{Catalog, Compute, ComputeKind, ComputeState, InstanceType, Resources};
pub use connection::{
    MAX_CONNECTION_BYTES, StoredConnection, StoredConnectionError, delete_connection,
    put_connection,
};
pub use credential::{
    CredentialHost, CredentialKey, CredentialKind, CredentialSecret, Holder, InvalidCredential,
    MAX_SECRET, MAX_USERNAME, StoredCredential, credential_key,
};
pub use digest::sha256;
pub use files::{
    ArchiveError, EditError, FileLimits, Files, FlowPath, Format, InvalidPath, TooLarge, edit,
    flow_in, replace, unpack,
};
pub use host::{
    ActiveCall, AdmissionError, Call, CallError, CallTrace, CannotHibernate, CopyError,
    CredentialsError, EnvironmentError, EnvironmentSettings, EventId, Fork, ForkError,
    GarbageSettings, HappenError, HibernateError, HostSettings, Installing, InvalidEventId,
    Key as SessionKey, NotStored, Request, Requests, SessionEvent, SessionHost,
    SessionInstallError, TraceListener, TraceParent, Usage, Watched, Watcher,
};
pub use identity::{
    IdentityError, IdentityKind, MAX_CREDENTIALS, MAX_GRANTS, MAX_IDENTITIES, WantedIdentities,
    WorkspaceIdentity, create_identity, delete_credential, delete_identity, grant, own_identity,
    put_credential, set_identities, withdraw,
};
pub use ledger::{ChangeError, Ledger};
pub use name::{InvalidName, Name, UserName};
pub use quota::{Quota, QuotaExceeded, Quotas, Used, check as check_quota};
pub use registry::{Durability, FileInfo, MemoryRegistry, Registry, RegistryError, SqliteRegistry};
pub use reseal::{ResealError, reseal};
pub use sealed_connection::{closed_connection, open_connection, seal_connection};
pub use secrets::{Sealed, SecretError, SecretKey, Secrets};
pub use session::{
    ForkedFrom, Happening, Identity, Image, InstalledPackage, MAX_IDLE_SECONDS, MIN_IDLE_SECONDS,
    NamedBy, Packages, Session, SessionState, Stored,
};
pub use sign_in::{AUTHORITY, SignIn, SignInError, Token};
pub use state::{Answered, Change, State, Workspace};
pub use tenancy::{CarriedImage, Flow, Key, MAX_FLOWS, Role, User, WorkspaceRecord};
