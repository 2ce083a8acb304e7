//! The connections of this machine's user: a file below the home whose secrets are sealed by a key in another file, which
//! only the user can read. It needs no keyring, so it works where nobody is logged in.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowcell_connection::{
    Connection, ConnectionError, ConnectionType, Connections, MAX_CONNECTIONS,
};
use flowcell_executor::RunError;
use flowcell_session::{Sealed, SecretError, SecretKey, Secrets, open_connection, seal_connection};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The variable that a server's key is in, too.
const KEY_VARIABLE: &str = "FLOWCELL__SECRETS__KEY";
/// Whose connections they are.
const OWNER: &str = "flowcell local connection";
/// Version of the file's form.
const FORMAT: u32 = 1;
/// Longest file, in bytes: all connections, sealed.
const MAX_STORE: u64 = 32 << 20;
/// Bytes of a file with a key.
const MAX_KEY_FILE: u64 = 4 << 10;

/// The store.
#[derive(Debug, Clone)]
pub(crate) struct LocalStore {
    folder: PathBuf,
}

/// A connection as it is kept, and when it was changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    #[serde(rename = "type")]
    kind: ConnectionType,
    configs: IndexMap<String, String>,
    secrets: IndexMap<String, Sealed>,
    created: Timestamp,
    modified: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    format: u32,
    connections: BTreeMap<String, Kept>,
}

impl Default for Contents {
    fn default() -> Self {
        Self {
            format: FORMAT,
            connections: BTreeMap::new(),
        }
    }
}

/// A connection of the store.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) connection: Connection,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
}

/// Opens the connection that is there; one that is to be replaced need not open.
pub(crate) type Old<'a> = dyn Fn() -> Result<Connection, RunError> + 'a;

/// Somebody holds the store, and nobody else changes it meanwhile.
struct Lock {
    _file: File,
}

fn failed(path: &Path, what: &str, error: impl std::fmt::Display) -> RunError {
    RunError::user(
        "ConnectionStoreError",
        format!("cannot {what} {}: {error}", path.display()),
    )
}

impl LocalStore {
    /// The store below a home.
    pub(crate) fn new(home: &Path) -> Self {
        Self {
            folder: home.join("connections"),
        }
    }

    /// All connections, secrets as `******`: this takes no key.
    pub(crate) fn list(&self) -> Result<Vec<Entry>, RunError> {
        let contents = self.read()?;
        let entries = contents.connections.into_iter();
        Ok(entries.map(|(name, kept)| closed(&name, &kept)).collect())
    }

    /// A connection, secrets as `******`.
    pub(crate) fn show(&self, name: &str) -> Result<Entry, RunError> {
        let kept = self.read()?.connections.remove(name);
        let kept = kept.ok_or_else(|| ConnectionError::NotFound(name.to_owned()))?;
        Ok(closed(name, &kept))
    }

    /// Puts in a connection, in place of any other of its name. `decide` makes it of the one that is there.
    pub(crate) fn put(
        &self,
        name: &str,
        decide: impl FnOnce(&Old<'_>) -> Result<Connection, RunError>,
    ) -> Result<Entry, RunError> {
        let _lock = self.lock()?;
        let mut contents = self.read()?;
        let is_empty = contents
            .connections
            .values()
            .all(|one| one.secrets.is_empty());
        let secrets = self.secrets(is_empty)?;
        let kept = contents.connections.get(name);
        let created = kept.map(|kept| kept.created);
        let connection = decide(&|| match kept {
            Some(kept) => opened(name, kept, &secrets),
            None => Err(ConnectionError::NotFound(name.to_owned()).into()),
        })?;
        connection.check()?;
        let now = Timestamp::now();
        let name = connection.name().to_owned();
        if !contents.connections.contains_key(&name)
            && contents.connections.len() >= MAX_CONNECTIONS
        {
            return Err(RunError::usage(format!(
                "there are {MAX_CONNECTIONS} connections, which is the limit; delete some"
            )));
        }
        let kept = Kept {
            kind: connection.kind(),
            configs: connection.configs().clone(),
            secrets: sealed(&connection, &secrets)?,
            created: created.unwrap_or(now),
            modified: now,
        };
        contents.connections.insert(name, kept.clone());
        self.write(&contents)?;
        Ok(Entry {
            connection,
            created: kept.created,
            modified: kept.modified,
        })
    }

    /// Deletes a connection.
    pub(crate) fn delete(&self, name: &str) -> Result<(), RunError> {
        let _lock = self.lock()?;
        let mut contents = self.read()?;
        if contents.connections.remove(name).is_none() {
            return Err(ConnectionError::NotFound(name.to_owned()).into());
        }
        self.write(&contents)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("connections.json")
    }

    fn key_file(&self) -> PathBuf {
        self.folder.join("connections.key")
    }

    fn lock(&self) -> Result<Lock, RunError> {
        fs::create_dir_all(&self.folder).map_err(|error| failed(&self.folder, "make", error))?;
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&self.folder, private)
            .map_err(|error| failed(&self.folder, "protect", error))?;
        let path = self.folder.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed(&path, "open", error))?;
        file.lock().map_err(|error| failed(&path, "lock", error))?;
        Ok(Lock { _file: file })
    }

    fn read(&self) -> Result<Contents, RunError> {
        let path = self.file();
        let text = match read_limited(&path, MAX_STORE) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Contents::default()),
            Err(error) => return Err(failed(&path, "read", error)),
        };
        let contents: Contents =
            serde_json::from_str(&text).map_err(|error| failed(&path, "understand", error))?;
        if contents.format != FORMAT {
            let other = format!("its format is {}, and {FORMAT} is known", contents.format);
            return Err(failed(&path, "understand", other));
        }
        Ok(contents)
    }

    /// All of the file anew, or nothing.
    fn write(&self, contents: &Contents) -> Result<(), RunError> {
        let path = self.file();
        let text =
            serde_json::to_vec_pretty(contents).map_err(|error| failed(&path, "write", error))?;
        write_private(&self.folder, &path, &text).map_err(|error| failed(&path, "write", error))
    }

    /// The key of the environment, or that of the file, which opens still what it has sealed. A file is made when nothing
    /// has been sealed yet.
    fn secrets(&self, may_make: bool) -> Result<Secrets, RunError> {
        let wrong = |place: &str, error: SecretError| {
            RunError::user("ConnectionStoreError", format!("{place}: {error}"))
        };
        let path = self.key_file();
        let of_file = match read_limited(&path, MAX_KEY_FILE) {
            Ok(text) => {
                let key = SecretKey::parse(&text);
                Some(key.map_err(|error| wrong(&path.display().to_string(), error))?)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&path, "read", error)),
        };
        let given = std::env::var(KEY_VARIABLE).ok();
        if let Some(text) = given.filter(|text| !text.trim().is_empty()) {
            let key = SecretKey::parse(&text).map_err(|error| wrong(KEY_VARIABLE, error))?;
            return Ok(Secrets::new(key, of_file.into_iter().collect()));
        }
        if let Some(key) = of_file {
            return Ok(Secrets::new(key, Vec::new()));
        }
        if !may_make {
            return Err(RunError::user(
                "DecryptConnectionError",
                format!(
                    "the key file {} is gone, and the secrets of connections are sealed by it; put it back, give the key in {KEY_VARIABLE}, or delete {} and create them anew",
                    path.display(),
                    self.file().display()
                ),
            ));
        }
        let system = |error| wrong("a new key", error);
        let key = SecretKey::generate().map_err(system)?;
        let text = format!("{}\n", key.reveal());
        write_private(&self.folder, &path, text.as_bytes())
            .map_err(|error| failed(&path, "write", error))?;
        Ok(Secrets::new(key, Vec::new()))
    }
}

impl Connections for LocalStore {
    fn get(&self, name: &str) -> Result<Option<Arc<Connection>>, ConnectionError> {
        let unreadable = |error: RunError| ConnectionError::Unreadable {
            name: name.to_owned(),
            problem: error.message,
        };
        let contents = self.read().map_err(unreadable)?;
        let Some(kept) = contents.connections.get(name) else {
            return Ok(None);
        };
        if kept.secrets.is_empty() {
            return Ok(Some(Arc::new(closed(name, kept).connection)));
        }
        let secrets = self.secrets(false).map_err(unreadable)?;
        let connection = opened(name, kept, &secrets).map_err(unreadable)?;
        Ok(Some(Arc::new(connection)))
    }
}

fn closed(name: &str, kept: &Kept) -> Entry {
    Entry {
        connection: flowcell_session::closed_connection(
            name,
            kept.kind,
            &kept.configs,
            &kept.secrets,
        ),
        created: kept.created,
        modified: kept.modified,
    }
}

fn opened(name: &str, kept: &Kept, secrets: &Secrets) -> Result<Connection, RunError> {
    let closed = closed(name, kept).connection;
    let opened = open_connection(&closed, &kept.secrets, OWNER, secrets);
    let unreadable = |error: SecretError| ConnectionError::Unreadable {
        name: name.to_owned(),
        problem: error.to_string(),
    };
    Ok(opened.map_err(unreadable)?)
}

fn sealed(
    connection: &Connection,
    secrets: &Secrets,
) -> Result<IndexMap<String, Sealed>, RunError> {
    seal_connection(connection, OWNER, secrets)
        .map_err(|error| RunError::system("ConnectionStoreError", error.to_string()))
}

fn read_limited(path: &Path, most: u64) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(std::io::Error::other("it is too long"));
    }
    Ok(text)
}

/// A file that only its owner can read, all of it or nothing. Temporary files have mode 0600.
fn write_private(folder: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}
