//! Why something could not be moved.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::Digest;
use crate::reference::ReferenceError;

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A text is no image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The settings, or credentials, cannot be used.
    #[error("the settings for registries cannot be used: {0}")]
    Settings(String),
    /// This host's list of registries does not have it.
    #[error(
        "{reference}: the registry {registry} is not in this host's list of allowed registries; it allows {}",
        list(.allowed)
    )]
    NotAllowed {
        /// What was asked for.
        reference: String,
        /// Its registry.
        registry: String,
        /// The list.
        allowed: Vec<String>,
    },
    /// The registry sent the client to a place where it does not go.
    #[error("{reference}: the registry refers to {address}, which is not used: {why}")]
    Redirect {
        /// What was asked for.
        reference: String,
        /// The address, without path and query, which may have secrets.
        address: String,
        /// The rule.
        why: &'static str,
    },
    /// Credentials for one registry were given for another.
    #[error(
        "{reference}: the credentials are for {registry}, so they are not sent; log in to this registry"
    )]
    OtherCredentials {
        /// What was asked for.
        reference: String,
        /// What the credentials are for.
        registry: String,
    },
    /// There is no such image, tag or blob.
    #[error("{reference}: the registry has no such {what}; check the name, and whether it was pushed{}", said(.message))]
    NotFound {
        /// What was asked for.
        reference: String,
        /// `image or tag`, or a blob's digest.
        what: String,
        /// What the registry said.
        message: String,
    },
    /// The registry refuses it.
    #[error(
        "{reference}: {registry} does not permit this {}{}",
        if *.anonymous { "without credentials; log in to it" } else { "with these credentials" },
        said(.message)
    )]
    NotPermitted {
        /// What was asked for.
        reference: String,
        /// Its registry.
        registry: String,
        /// Whether there were no credentials.
        anonymous: bool,
        /// What the registry said.
        message: String,
    },
    /// Content is not what its name says.
    #[error(
        "{reference}: the content has the digest {found} and should have {expected}; it was thrown away. Try again, and if it stays so, push the image again"
    )]
    WrongDigest {
        /// What was asked for.
        reference: String,
        /// The name.
        expected: Digest,
        /// The digest of the content.
        found: Digest,
    },
    /// Content has another size than its descriptor says.
    #[error("{reference}: the blob {digest} should have {expected} bytes, and the registry sends {}{found}", if *.or_more { "at least " } else { "" })]
    WrongSize {
        /// What was asked for.
        reference: String,
        /// The blob.
        digest: Digest,
        /// Bytes by its descriptor.
        expected: u64,
        /// Bytes that came or were announced.
        found: u64,
        /// Whether there may be more.
        or_more: bool,
    },
    /// It is larger than this host takes.
    #[error(
        "{reference}: {what} is too large: this host takes {limit} {unit} at most; raise the limit, or make it smaller"
    )]
    TooLarge {
        /// What was asked for.
        reference: String,
        /// `the manifest`, `the blob sha256:…`, …
        what: String,
        /// The limit.
        limit: u64,
        /// What the limit counts.
        unit: &'static str,
    },
    /// A manifest does not parse.
    #[error("{reference}: the manifest is damaged: {message}")]
    Manifest {
        /// What was asked for.
        reference: String,
        /// What is wrong.
        message: String,
    },
    /// The registry answers in a way that has no meaning here.
    #[error("{reference}: {registry} gave an answer that cannot be used: {message}")]
    Answer {
        /// What was asked for.
        reference: String,
        /// Its registry.
        registry: String,
        /// The answer.
        message: String,
    },
    /// Who answers cannot prove to be who was asked (TLS).
    #[error(
        "{reference}: the certificate of {address} is not trusted; if it is of an authority of your own, add that authority's certificate to the settings"
    )]
    Certificate {
        /// What was asked for.
        reference: String,
        /// Who was asked.
        address: String,
        /// What is wrong with the certificate.
        #[source]
        source: Trouble,
    },
    /// The registry could not be reached, or did not get it done.
    #[error("{reference}: {registry} could not be used after {tries} {}; try again later", if *.tries == 1 { "try" } else { "tries" })]
    Unavailable {
        /// What was asked for.
        reference: String,
        /// Its registry.
        registry: String,
        /// How often it was tried.
        tries: u32,
        /// What happened the last time.
        #[source]
        source: Trouble,
    },
    /// It took longer than it may.
    #[error("{reference}: this took longer than {} s; what came stays, and the next try goes on from there", .limit.as_secs_f64())]
    TimedOut {
        /// What was asked for.
        reference: String,
        /// The limit.
        limit: Duration,
    },
    /// The disk is full.
    #[error("the disk is full: cannot write {}; make room and try again", .path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file could not be read or written.
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
    /// What is to be pushed is not what its descriptor says.
    #[error(
        "{reference}: what is to be pushed as {digest} was changed meanwhile, or is damaged: {message}"
    )]
    Source {
        /// Where it is to be pushed to.
        reference: String,
        /// Its name.
        digest: Digest,
        /// What is wrong.
        message: String,
    },
}

/// What may be better the next time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// It answered that it cannot at the moment (408, 429 or 5xx).
    #[error("it answered {status}{}{}", wait(.retry_after), said(.message))]
    Status {
        /// HTTP status.
        status: u16,
        /// When it wants to be asked again, if it said so.
        retry_after: Option<Duration>,
        /// What it said.
        message: String,
    },
    /// The connection could not be made, or broke.
    #[error("the connection failed")]
    Connection(#[source] Box<dyn StdError + Send + Sync>),
    /// Nothing came, or could be sent, for so long.
    #[error("it was silent for {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// The answer ended too early.
    #[error("the connection ended after {done} of {total} bytes")]
    CutOff {
        /// Bytes that are there.
        done: u64,
        /// Bytes that should be.
        total: u64,
    },
}

fn said(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(" (it says: {message})")
    }
}

fn wait(retry_after: &Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |time| {
        format!(", and wants {} s of rest", time.as_secs())
    })
}

fn list(allowed: &[String]) -> String {
    if allowed.is_empty() {
        "none".to_owned()
    } else {
        allowed.join(", ")
    }
}

/// What a stranger said, fit to be shown: one line, not too long.
pub(crate) fn quoted(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(300)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// Adds to an I/O error what was tried on which path.
pub(crate) trait IoContext<T> {
    /// `action` is a verb: `read`, `write`.
    fn io(self, action: &'static str, path: &Path) -> Result<T, RegistryError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn io(self, action: &'static str, path: &Path) -> Result<T, RegistryError> {
        self.map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    RegistryError::DiskFull { path, source }
                }
                _ => RegistryError::Io {
                    action,
                    path,
                    source,
                },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_as_such() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let failed: io::Result<()> = Err(full);
        let error = failed.io("write", Path::new("/store/a"));
        let text = error
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(
            text.contains("disk is full") && text.contains("/store/a"),
            "{text}"
        );
    }

    #[test]
    fn what_a_stranger_says_is_one_short_line() {
        let text = quoted(&format!("\x1b[31mno\r\n{}", "a".repeat(1_000)));
        assert!(text.len() <= 300 && text.starts_with("[31mno"), "{text}");
        assert!(!text.contains(char::is_control));
    }
}
