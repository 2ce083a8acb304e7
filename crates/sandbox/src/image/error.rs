//! Why an image cannot be used, or not be made.

use std::io;
use std::path::{Path, PathBuf};

/// People read these, and are told no folder of the host's.
fn name(path: &Path) -> std::ffi::os_str::Display<'_> {
    path.file_name().unwrap_or_default().display()
}

/// An image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is not what was written.
    #[error("the image is damaged: {0}")]
    Damaged(&'static str),
    /// This host has not written it, or somebody has changed it since.
    #[error("the image was not written by this host, or was changed since")]
    NotAuthentic,
    /// It was made with other code, or over another image.
    #[error("the image does not fit: its {what} is {found}, and {expected} is needed")]
    Misfit {
        /// What does not fit.
        what: &'static str,
        /// What the image says.
        found: String,
        /// What there is.
        expected: String,
    },
    /// It belongs to another workspace or session.
    #[error("the image belongs to another {0}")]
    Foreign(&'static str),
    /// It needs more memory than the instance may have.
    #[error("the image needs {needed} bytes of memory, and {limit} is the limit")]
    TooLarge {
        /// What it needs, in bytes.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A file could not be read, or memory not be mapped.
    #[error("cannot use the file {} of an image", name(.path))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Memory could not be mapped.
    #[error("cannot map the image")]
    Map(#[source] io::Error),
}

impl ImageError {
    /// Whether the image itself may be as it should: the host could not read or map it just now, or there is too little
    /// memory for it at present.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Map(_) | Self::TooLarge { .. })
    }
}

/// An instance cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its state is more than its memory.
    #[error("its component runs without images")]
    Ordinary,
    /// Something in it would not survive; it can go on, for now without being stored.
    #[error("{}", .0.join("; "))]
    Busy(Vec<String>),
    /// Its memory, or what changed of it, is more than may be stored.
    #[error("{size} bytes of its memory have changed, and {limit} may be stored")]
    TooLarge {
        /// What has changed, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The session has stored as much as it may.
    #[error("{size} bytes of the session are stored, and {limit} may be")]
    Full {
        /// What is stored, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// It failed, and is of no use any more.
    #[error("it failed while it was made ready: {0}")]
    Failed(#[source] crate::Fault),
    /// The image below it can no longer be used.
    #[error(transparent)]
    Below(#[from] ImageError),
    /// The file could not be written.
    #[error("cannot write the file {} of an image", name(.path))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
