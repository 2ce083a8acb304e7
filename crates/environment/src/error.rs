//! What can stand between a list of requirements and an environment.

use std::path::PathBuf;

use flowcell_bundle::BundleError;

/// Why there is no environment. Messages are for whoever wrote the requirements: they name the line or package and the
/// way out.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The requirements cannot be read as such, or ask for what is not done here.
    #[error("{file}: {problem}")]
    Requirements {
        /// The file, as the flow names it.
        file: String,
        /// What is wrong, and the way out.
        problem: String,
    },
    /// No set of versions fits; the resolver's own words.
    #[error("the requirements cannot be resolved: {0}")]
    Unresolvable(String),
    /// An index is not to be used, or did not answer as it should.
    #[error("{0}")]
    Index(String),
    /// The lock is none, or does not fit.
    #[error("{file}: {problem}")]
    Lock {
        /// The file.
        file: String,
        /// What is wrong, and the way out.
        problem: String,
    },
    /// A package that cannot be used here.
    #[error("{package} cannot be used here: {problem}")]
    Package {
        /// Name and version.
        package: String,
        /// Why, and the way out.
        problem: String,
    },
    /// More than is allowed.
    #[error("{what}: more than {limit} {unit} are not taken")]
    TooMuch {
        /// What is too large or too many.
        what: String,
        /// How much is allowed.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// A bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A file of the host.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something of the host's own failed.
    #[error("{0}")]
    Host(String),
}

impl EnvironmentError {
    /// Whether whoever wrote the requirements can do something about it.
    pub fn is_users(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Host(_) | Self::Bundle(_))
    }
}

/// Says with which file something failed.
pub(crate) trait At<T> {
    /// Adds what was tried, with which file.
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T, EnvironmentError>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T, EnvironmentError> {
        self.map_err(|source| EnvironmentError::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

/// Whether an error comes of a disk that takes no more, which nobody's requirements are to blame for.
pub(crate) fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let is_full = |error: &(dyn std::error::Error + 'static)| {
        let error = error.downcast_ref::<std::io::Error>();
        error
            .is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    };
    std::iter::successors(Some(error), |error| error.source()).any(is_full)
}
