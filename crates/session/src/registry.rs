//! Where the state is kept.

mod memory;
mod sqlite;

use bytes::Bytes;
use jiff::Timestamp;

pub use self::memory::MemoryRegistry;
pub use self::sqlite::SqliteRegistry;
use crate::name::{Name, UserName};
use crate::session::Happening;
use crate::state::{Answered, Change};

/// Lines of history that are kept of each session; the oldest go first.
pub(crate) const MAX_HISTORY: u64 = 1_000;
/// How long the answer to an `Idempotency-Key` is kept, in hours.
pub(crate) const ANSWER_HOURS: i64 = 24;

/// A registry that failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The disk is full; nothing was stored.
    #[error("the disk of the registry is full; nothing was stored")]
    Full(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database failed.
    #[error("the registry failed")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record cannot be read.
    #[error("the registry holds a {kind} that this version cannot read")]
    Record {
        /// Kind of record.
        kind: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The database was made by another version.
    #[error(
        "the registry's format is {found}, and this version of flowcell knows {known}; use the version that made it"
    )]
    Format {
        /// The format of the database.
        found: i64,
        /// The format that is known.
        known: i64,
    },
}

/// How sure it must be that changes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// They outlast the power supply: somebody is told that they are done.
    Synced,
    /// They outlast this process. Should the machine die, recovery comes to them again.
    Written,
}

/// A file of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// The path from the flow's folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content, in hexadecimal digits.
    pub digest: String,
}

/// Keeps changes.
pub trait Registry: Send + Sync + 'static {
    /// Everything that [`crate::State`] holds, as the changes that make it.
    ///
    /// # Errors
    /// When the registry cannot be read.
    fn load(&self) -> Result<Vec<Change>, RegistryError>;

    /// Stores changes: all of them, or, on an error, none.
    ///
    /// # Errors
    /// When the disk is full, or the registry fails.
    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), RegistryError>;

    /// The files of a flow, by path.
    ///
    /// # Errors
    /// When the registry cannot be read.
    fn files(&self, workspace: &Name, flow: &Name) -> Result<Vec<FileInfo>, RegistryError>;

    /// A file's content.
    ///
    /// # Errors
    /// When the registry cannot be read.
    fn file(
        &self,
        workspace: &Name,
        flow: &Name,
        path: &str,
    ) -> Result<Option<Bytes>, RegistryError>;

    /// A session's history, latest first: at most `most` lines before the line `before`. Lines are numbered.
    ///
    /// # Errors
    /// When the registry cannot be read.
    fn history(
        &self,
        workspace: &Name,
        session: &Name,
        before: Option<u64>,
        most: u64,
    ) -> Result<Vec<(u64, Happening)>, RegistryError>;

    /// The answer that was given to a user's request with this `Idempotency-Key`.
    ///
    /// # Errors
    /// When the registry cannot be read.
    fn answered(&self, user: &UserName, key: &str) -> Result<Option<Answered>, RegistryError>;

    /// Forgets answers that were given before a time.
    ///
    /// # Errors
    /// When the registry fails.
    fn forget_answers(&self, before: Timestamp) -> Result<(), RegistryError>;
}
