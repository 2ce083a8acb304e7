//! Why a bundle could not be built, found or used.

use std::io;
use std::path::{Path, PathBuf};

use flowcell_sandbox::{Fault, ProgramError, SandboxError};

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no such bundle in the store.
    #[error("there is no bundle {reference} in {store}{}", hint(.reference, .available))]
    NotFound {
        /// What was asked for.
        reference: String,
        /// Where it was looked for.
        store: String,
        /// What there is instead.
        available: Vec<String>,
    },
    /// A name, version or reference has characters that it must not have.
    #[error(
        "`{0}` is not a bundle reference; write `name:version` with letters, digits, `.`, `_` and `-`, or `registry/repository:tag`"
    )]
    Reference(String),
    /// `bundle.toml` does not parse.
    #[error("{} is not a bundle recipe: {message}", .path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// A manifest does not parse.
    #[error("the manifest {digest} is damaged: {message}; build the bundle again")]
    Manifest {
        /// Its digest.
        digest: String,
        /// What is wrong.
        message: String,
    },
    /// A stored file does not have the content that its name says.
    #[error("{} is damaged: its content is {found}; delete it and build the bundle again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The digest of what it holds.
        found: String,
    },
    /// A store whose folder is a link to another store's.
    #[error(
        "{} is a link, so whoever uses what is there may not be known here; collect the store that it leads to", .0.display()
    )]
    Linked(PathBuf),
    /// What a registry has is something else.
    #[error(
        "{reference} is {what}, and no flowcell bundle; `flowcell bundle push` makes one of those"
    )]
    NotABundle {
        /// What was asked for.
        reference: String,
        /// What it is instead.
        what: String,
    },
    /// A bundle of others has what no bundle may have.
    #[error("{reference} is not taken: {problem}; ask whoever pushed it for another")]
    Refused {
        /// What was asked for.
        reference: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file is something else.
    #[error("{name} is {what}, and no app; `flowcell flow build` makes one")]
    NotAnApp {
        /// The file.
        name: String,
        /// What it is instead.
        what: String,
    },
    /// An app of others has what no app may have, or lacks something.
    #[error("{name} is not taken: {problem}; ask whoever built it for another")]
    AppRefused {
        /// The file.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tree cannot be packed or unpacked.
    #[error("{tree} is no tree of a bundle: {problem}")]
    Tree {
        /// The archive's digest, or the folder.
        tree: String,
        /// What is wrong.
        problem: String,
    },
    /// A registry.
    #[error(transparent)]
    Registry(#[from] flowcell_registry::RegistryError),
    /// A build script failed.
    #[error("{script} failed ({status}); its last lines:\n{output}")]
    Script {
        /// The script.
        script: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// A component cannot be used.
    #[error("{name} cannot be used: {source}")]
    Program {
        /// The component's name or file.
        name: String,
        /// Why.
        source: ProgramError,
    },
    /// A component could not be asked for its tools, or Python could not compile the bundle's modules.
    #[error("{name}: {what}")]
    Guest {
        /// The component's name.
        name: String,
        /// What failed.
        what: String,
    },
    /// The sandbox could not be set up.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl BundleError {
    /// Whether it is about a file that somebody has brought, and no fault of the host's.
    pub fn is_about_app(&self) -> bool {
        matches!(self, Self::NotAnApp { .. } | Self::AppRefused { .. })
    }

    pub(crate) fn fault(name: &str, fault: &Fault) -> Self {
        Self::Guest {
            name: name.to_owned(),
            what: fault.to_string(),
        }
    }
}

fn hint(reference: &str, available: &[String]) -> String {
    if reference.contains('/') {
        format!("; `flowcell bundle pull {reference}` gets it")
    } else if available.is_empty() {
        "; make the base bundle with `flowcell bundle build`".to_owned()
    } else {
        format!("; there is {}", available.join(", "))
    }
}

/// Adds to an I/O error what was tried on which path.
pub trait IoContext<T> {
    /// `action` is a verb: `read`, `write`.
    fn io(self, action: &'static str, path: &Path) -> Result<T, BundleError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn io(self, action: &'static str, path: &Path) -> Result<T, BundleError> {
        self.map_err(|source| BundleError::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

/// An error with all that caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
