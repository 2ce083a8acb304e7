//! The keys of secrets: where they come from.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use flowcell_session::{SecretError, SecretKey, Secrets};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::SecretsConfig;

/// The file beside the registry.
const FILE: &str = "secrets.key";
/// Bytes of a file with a key.
const MAX_FILE: u64 = 4 << 10;

/// A key, or several with commas between them, as the environment has them. Shown as `******`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText(String);

impl fmt::Debug for KeyText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("******")
    }
}

impl Serialize for KeyText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("******")
    }
}

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Text(String),
            List(Vec<String>),
            // The environment takes what is only digits for a number.
            Other(serde::de::IgnoredAny),
        }

        match Given::deserialize(deserializer)? {
            Given::Text(text) => Ok(Self(text)),
            Given::List(list) => Ok(Self(list.join(","))),
            // What was there instead may be a key.
            Given::Other(_) => Err(serde::de::Error::custom(SecretError::Key)),
        }
    }
}

/// Keys that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file.
    #[error("cannot use the key file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that others can read.
    #[error("the key file {} can be read by everybody; `chmod 600` it, and think of the key as known", path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// A file that is gone.
    #[error(
        "the key file {} is gone, and credentials are sealed by the key {sealed_by} that was in it; put it back, or give that key as secrets.key. If it is lost, so are they: list it under secrets.lost_keys", path.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
        /// The key's identifier.
        sealed_by: String,
    },
    /// A text.
    #[error("{place}: {source}")]
    Key {
        /// Where it is from.
        place: String,
        /// What is wrong.
        #[source]
        source: SecretError,
    },
}

/// The keys that the configuration names. Where it names none, the key is in a file in `folder`, which is made unless
/// something is `sealed_by` a key already.
///
/// # Errors
/// When one cannot be read, is none, or is there for everybody to read.
pub(crate) fn secrets(
    config: &SecretsConfig,
    folder: &Path,
    sealed_by: Option<&str>,
) -> Result<Secrets, KeyError> {
    let current = match (&config.key, &config.key_file) {
        (Some(text), _) => key("secrets.key", &text.0)?,
        (None, Some(path)) => read(path)?,
        (None, None) => {
            let path = folder.join(FILE);
            match (path.try_exists(), sealed_by) {
                (Ok(true), _) => read(&path)?,
                (Ok(false), None) => make(&path)?,
                (Ok(false), Some(sealed_by)) => {
                    let sealed_by = sealed_by.to_owned();
                    return Err(KeyError::Gone { path, sealed_by });
                }
                (Err(source), _) => return Err(KeyError::File { path, source }),
            }
        }
    };
    let files = config.previous_key_files.iter().map(|path| read(path));
    let texts = config.previous_keys.iter().flat_map(|all| all.0.split(','));
    let texts = texts.filter(|text| !text.trim().is_empty());
    let texts = texts.map(|text| key("secrets.previous_keys", text));
    let previous: Result<Vec<SecretKey>, KeyError> = files.chain(texts).collect();
    Ok(Secrets::new(current, previous?))
}

fn key(place: &str, text: &str) -> Result<SecretKey, KeyError> {
    SecretKey::parse(text).map_err(|source| KeyError::Key {
        place: place.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<SecretKey, KeyError> {
    let failed = |source| KeyError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(KeyError::Open {
            path: path.to_owned(),
        });
    }
    let mut text = String::new();
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(failed)?;
    key(&path.display().to_string(), &text)
}

/// Makes a file with a new key. It is there whole or not at all, and on the disk before anything is sealed by the key.
fn make(path: &Path) -> Result<SecretKey, KeyError> {
    let made = SecretKey::generate().map_err(|source| KeyError::Key {
        place: path.display().to_string(),
        source,
    })?;
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        // What a start that was killed has left.
        let _ = fs::remove_file(&partial);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)?;
        writeln!(file, "{}", made.reveal())?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| KeyError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(made)
}
