//! The registry in an SQLite database.
//!
//! Records are JSON text under their kind and key: the state machine works on the state in memory, so the database has
//! nothing to query but what memory does not hold (files, histories, old answers).

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Durability, FileInfo, MAX_HISTORY, Registry, RegistryError};
use crate::credential::{CredentialHost, CredentialKind, Holder};
use crate::digest::sha256;
use crate::name::{Name, UserName};
use crate::session::Happening;
use crate::state::{Answered, Change};

/// Counts up with every change of the tables or records that older versions cannot read.
const FORMAT: i64 = 1;

const TABLES: &str = "
CREATE TABLE record (kind TEXT NOT NULL, key TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE file (
    workspace TEXT NOT NULL, flow TEXT NOT NULL, path TEXT NOT NULL,
    size INTEGER NOT NULL, digest TEXT NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (workspace, flow, path)
);
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, workspace TEXT NOT NULL, session TEXT NOT NULL, json TEXT NOT NULL
);
CREATE INDEX history_of_session ON history (workspace, session, number);
CREATE TABLE answered (
    user TEXT NOT NULL, key TEXT NOT NULL, at INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY (user, key)
) WITHOUT ROWID;
CREATE INDEX answered_at ON answered (at);
";

/// Keeps everything in one file, with write-ahead logging beside it.
#[derive(Debug)]
pub struct SqliteRegistry {
    writer: Mutex<Connection>,
    // Reads go on while something is written.
    reader: Mutex<Connection>,
}

impl SqliteRegistry {
    /// Opens the database, and makes it if it is not there.
    ///
    /// # Errors
    /// When the file cannot be opened, or is of a later version.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let writer = Connection::open(path)?;
        writer.pragma_update(None, "journal_mode", "WAL")?;
        writer.busy_timeout(std::time::Duration::from_secs(5))?;
        let found: i64 = writer.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match found {
            0 => {
                let tables = format!("BEGIN; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;");
                writer.execute_batch(&tables)?;
            }
            FORMAT => {}
            found => {
                return Err(RegistryError::Format {
                    found,
                    known: FORMAT,
                });
            }
        }
        let reader = Connection::open(path)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(Self {
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
        })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<rusqlite::Error> for RegistryError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(Box::new(error)),
            _ => Self::Database(Box::new(error)),
        }
    }
}

/// The kinds of records, in the order in which they are read: a workspace comes before what is in it.
#[derive(Debug, Clone, Copy)]
enum Kind {
    User,
    Key,
    Workspace,
    Role,
    Identity,
    Grant,
    Credential,
    Connection,
    Flow,
    Compute,
    Session,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::User,
        Self::Key,
        Self::Workspace,
        Self::Role,
        Self::Identity,
        Self::Grant,
        Self::Credential,
        Self::Connection,
        Self::Flow,
        Self::Compute,
        Self::Session,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Key => "key",
            Self::Workspace => "workspace",
            Self::Role => "role",
            Self::Identity => "identity",
            Self::Grant => "grant",
            Self::Credential => "credential",
            Self::Connection => "connection",
            Self::Flow => "flow",
            Self::Compute => "compute",
            Self::Session => "session",
        }
    }

    fn read(self, json: &str) -> Result<Change, RegistryError> {
        fn parse<T: DeserializeOwned>(kind: Kind, json: &str) -> Result<T, RegistryError> {
            serde_json::from_str(json).map_err(|source| RegistryError::Record {
                kind: kind.as_str().to_owned(),
                source,
            })
        }
        Ok(match self {
            Self::User => Change::PutUser(parse(self, json)?),
            Self::Key => Change::PutKey(parse(self, json)?),
            Self::Workspace => Change::PutWorkspace(parse(self, json)?),
            Self::Role => {
                let (workspace, user, role) = parse(self, json)?;
                Change::PutRole {
                    workspace,
                    user,
                    role,
                }
            }
            Self::Identity => Change::PutIdentity(parse(self, json)?),
            Self::Grant => {
                let (workspace, identity, user) = parse(self, json)?;
                Change::PutGrant {
                    workspace,
                    identity,
                    user,
                }
            }
            Self::Credential => Change::PutCredential(parse(self, json)?),
            Self::Connection => Change::PutConnection(parse(self, json)?),
            Self::Flow => Change::PutFlow(parse(self, json)?),
            Self::Compute => Change::PutCompute(parse(self, json)?),
            Self::Session => Change::PutSession(parse(self, json)?),
        })
    }
}

/// A key of something in a workspace; names hold no '/'.
fn within(workspace: &Name, name: &str) -> String {
    format!("{workspace}/{name}")
}

fn granted(workspace: &Name, identity: &Name, user: &UserName) -> String {
    format!("{workspace}/{identity}/{user}")
}

/// What the keys of a holder's credentials begin with, before a '/'.
fn held_by(workspace: &Name, holder: &Holder) -> String {
    match holder {
        Holder::Identity(identity) => format!("{workspace}/identity/{identity}"),
        Holder::User(user) => format!("{workspace}/user/{user}"),
    }
}

fn held(workspace: &Name, holder: &Holder, kind: CredentialKind, host: &CredentialHost) -> String {
    format!("{}/{}/{host}", held_by(workspace, holder), kind.as_str())
}

fn put(
    transaction: &Transaction<'_>,
    kind: Kind,
    key: &str,
    value: &impl Serialize,
) -> Result<(), RegistryError> {
    let json = text(value, kind.as_str())?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO record (kind, key, json) VALUES (?1, ?2, ?3)")?
        .execute(params![kind.as_str(), key, json])?;
    Ok(())
}

fn delete(transaction: &Transaction<'_>, kind: Kind, key: &str) -> Result<(), RegistryError> {
    transaction
        .prepare_cached("DELETE FROM record WHERE kind = ?1 AND key = ?2")?
        .execute(params![kind.as_str(), key])?;
    Ok(())
}

/// Deletes all records of a kind whose keys have this one and a '/' at their beginning.
fn delete_below(transaction: &Transaction<'_>, kind: Kind, key: &str) -> Result<(), RegistryError> {
    // '0' is the character after '/'.
    transaction
        .prepare_cached(
            "DELETE FROM record WHERE kind = ?1 AND key > ?2 || '/' AND key < ?2 || '0'",
        )?
        .execute(params![kind.as_str(), key])?;
    Ok(())
}

fn text(value: &impl Serialize, kind: &str) -> Result<String, RegistryError> {
    serde_json::to_string(value).map_err(|source| RegistryError::Record {
        kind: kind.to_owned(),
        source,
    })
}

fn store(transaction: &Transaction<'_>, change: &Change) -> Result<(), RegistryError> {
    match change {
        Change::PutUser(user) => put(transaction, Kind::User, user.name.as_str(), user),
        Change::DeleteUser(user) => {
            delete(transaction, Kind::User, user.as_str())?;
            transaction.execute(
                "DELETE FROM record WHERE kind = 'key' AND json_extract(json, '$.user') = ?1",
                params![user.as_str()],
            )?;
            transaction.execute(
                "DELETE FROM record WHERE kind = 'role' AND json_extract(json, '$[1]') = ?1",
                params![user.as_str()],
            )?;
            transaction.execute(
                "DELETE FROM record WHERE kind = 'grant' AND json_extract(json, '$[2]') = ?1",
                params![user.as_str()],
            )?;
            transaction.execute(
                "DELETE FROM record WHERE kind = 'credential' AND json_extract(json, '$.holder.user') = ?1",
                params![user.as_str()],
            )?;
            Ok(())
        }
        Change::PutKey(key) => put(transaction, Kind::Key, &key.id, key),
        Change::DeleteKey(id) => delete(transaction, Kind::Key, id),
        Change::PutWorkspace(record) => {
            put(transaction, Kind::Workspace, record.name.as_str(), record)
        }
        Change::DeleteWorkspace(workspace) => {
            delete(transaction, Kind::Workspace, workspace.as_str())?;
            for kind in Kind::ALL {
                delete_below(transaction, kind, workspace.as_str())?;
            }
            for table in ["file", "history"] {
                transaction.execute(
                    &format!("DELETE FROM {table} WHERE workspace = ?1"),
                    params![workspace.as_str()],
                )?;
            }
            Ok(())
        }
        Change::PutRole {
            workspace,
            user,
            role,
        } => put(
            transaction,
            Kind::Role,
            &within(workspace, user.as_str()),
            &(workspace, user, role),
        ),
        Change::DeleteRole { workspace, user } => {
            delete(transaction, Kind::Role, &within(workspace, user.as_str()))?;
            transaction.execute(
                "DELETE FROM record WHERE kind = 'grant' AND json_extract(json, '$[0]') = ?1 AND json_extract(json, '$[2]') = ?2",
                params![workspace.as_str(), user.as_str()],
            )?;
            let held = held_by(workspace, &Holder::User(user.clone()));
            delete_below(transaction, Kind::Credential, &held)
        }
        Change::PutIdentity(identity) => put(
            transaction,
            Kind::Identity,
            &within(&identity.workspace, identity.name.as_str()),
            identity,
        ),
        Change::DeleteIdentity {
            workspace,
            identity,
        } => {
            let key = within(workspace, identity.as_str());
            delete(transaction, Kind::Identity, &key)?;
            delete_below(transaction, Kind::Grant, &key)?;
            let held = held_by(workspace, &Holder::Identity(identity.clone()));
            delete_below(transaction, Kind::Credential, &held)
        }
        Change::PutGrant {
            workspace,
            identity,
            user,
        } => put(
            transaction,
            Kind::Grant,
            &granted(workspace, identity, user),
            &(workspace, identity, user),
        ),
        Change::DeleteGrant {
            workspace,
            identity,
            user,
        } => delete(
            transaction,
            Kind::Grant,
            &granted(workspace, identity, user),
        ),
        Change::PutCredential(credential) => put(
            transaction,
            Kind::Credential,
            &held(
                &credential.workspace,
                &credential.holder,
                credential.kind,
                &credential.host,
            ),
            credential,
        ),
        Change::DeleteCredential {
            workspace,
            holder,
            kind,
            host,
        } => delete(
            transaction,
            Kind::Credential,
            &held(workspace, holder, *kind, host),
        ),
        Change::PutConnection(connection) => put(
            transaction,
            Kind::Connection,
            &within(&connection.workspace, &connection.name),
            connection,
        ),
        Change::DeleteConnection {
            workspace,
            connection,
        } => delete(
            transaction,
            Kind::Connection,
            &within(workspace, connection),
        ),
        Change::PutFlow(flow) => put(
            transaction,
            Kind::Flow,
            &within(&flow.workspace, flow.name.as_str()),
            flow,
        ),
        Change::DeleteFlow { workspace, flow } => {
            delete(transaction, Kind::Flow, &within(workspace, flow.as_str()))?;
            transaction
                .prepare_cached("DELETE FROM file WHERE workspace = ?1 AND flow = ?2")?
                .execute(params![workspace.as_str(), flow.as_str()])?;
            Ok(())
        }
        Change::PutFile {
            workspace,
            flow,
            path,
            content,
        } => {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO file (workspace, flow, path, size, digest, content) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    workspace.as_str(),
                    flow.as_str(),
                    path,
                    content.len() as u64,
                    sha256(content),
                    &content[..]
                ])?;
            Ok(())
        }
        Change::CopyFiles {
            workspace,
            from,
            to,
        } => {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO file (workspace, flow, path, size, digest, content)
                     SELECT workspace, ?3, path, size, digest, content FROM file WHERE workspace = ?1 AND flow = ?2",
                )?
                .execute(params![workspace.as_str(), from.as_str(), to.as_str()])?;
            Ok(())
        }
        Change::DeleteFile {
            workspace,
            flow,
            path,
        } => {
            transaction
                .prepare_cached(
                    "DELETE FROM file WHERE workspace = ?1 AND flow = ?2 AND path = ?3",
                )?
                .execute(params![workspace.as_str(), flow.as_str(), path])?;
            Ok(())
        }
        Change::PutCompute(compute) => put(
            transaction,
            Kind::Compute,
            &within(&compute.workspace, compute.name.as_str()),
            compute,
        ),
        Change::DeleteCompute { workspace, compute } => delete(
            transaction,
            Kind::Compute,
            &within(workspace, compute.as_str()),
        ),
        Change::PutSession(session) => put(
            transaction,
            Kind::Session,
            &within(&session.workspace, session.id.as_str()),
            session,
        ),
        Change::DeleteSession { workspace, session } => {
            delete(
                transaction,
                Kind::Session,
                &within(workspace, session.as_str()),
            )?;
            transaction
                .prepare_cached("DELETE FROM history WHERE workspace = ?1 AND session = ?2")?
                .execute(params![workspace.as_str(), session.as_str()])?;
            Ok(())
        }
        Change::Happened {
            workspace,
            session,
            happening,
        } => {
            transaction
                .prepare_cached(
                    "INSERT INTO history (workspace, session, json) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![
                    workspace.as_str(),
                    session.as_str(),
                    text(happening, "line of history")?
                ])?;
            transaction
                .prepare_cached(
                    "DELETE FROM history WHERE workspace = ?1 AND session = ?2 AND number <=
                     (SELECT number FROM history WHERE workspace = ?1 AND session = ?2 ORDER BY number DESC LIMIT 1 OFFSET ?3)",
                )?
                .execute(params![workspace.as_str(), session.as_str(), MAX_HISTORY])?;
            Ok(())
        }
        Change::Answered(answered) => {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO answered (user, key, at, json) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![
                    answered.user.as_str(),
                    answered.key,
                    answered.at.as_millisecond(),
                    text(answered, "answer")?
                ])?;
            Ok(())
        }
    }
}

impl Registry for SqliteRegistry {
    fn load(&self) -> Result<Vec<Change>, RegistryError> {
        let reader = self.reader();
        let mut changes = Vec::new();
        for kind in Kind::ALL {
            let mut statement =
                reader.prepare_cached("SELECT json FROM record WHERE kind = ?1 ORDER BY key")?;
            let mut rows = statement.query(params![kind.as_str()])?;
            while let Some(row) = rows.next()? {
                changes.push(kind.read(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?);
            }
        }
        Ok(changes)
    }

    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), RegistryError> {
        let mut writer = self.writer();
        let synchronous = match durability {
            Durability::Synced => "FULL",
            Durability::Written => "NORMAL",
        };
        writer.pragma_update(None, "synchronous", synchronous)?;
        // Rolled back when dropped.
        let transaction = writer.transaction()?;
        for change in changes {
            store(&transaction, change)?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn files(&self, workspace: &Name, flow: &Name) -> Result<Vec<FileInfo>, RegistryError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached(
            "SELECT path, size, digest FROM file WHERE workspace = ?1 AND flow = ?2 ORDER BY path",
        )?;
        let rows = statement.query_map(params![workspace.as_str(), flow.as_str()], |row| {
            Ok(FileInfo {
                path: row.get(0)?,
                size: row.get(1)?,
                digest: row.get(2)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn file(
        &self,
        workspace: &Name,
        flow: &Name,
        path: &str,
    ) -> Result<Option<Bytes>, RegistryError> {
        let reader = self.reader();
        let content: Option<Vec<u8>> = reader
            .prepare_cached(
                "SELECT content FROM file WHERE workspace = ?1 AND flow = ?2 AND path = ?3",
            )?
            .query_row(params![workspace.as_str(), flow.as_str(), path], |row| {
                row.get(0)
            })
            .optional()?;
        Ok(content.map(Bytes::from))
    }

    fn history(
        &self,
        workspace: &Name,
        session: &Name,
        before: Option<u64>,
        most: u64,
    ) -> Result<Vec<(u64, Happening)>, RegistryError> {
        let before = before.and_then(|before| i64::try_from(before).ok());
        let reader = self.reader();
        let mut statement = reader.prepare_cached(
            "SELECT number, json FROM history WHERE workspace = ?1 AND session = ?2 AND number < ?3 ORDER BY number DESC LIMIT ?4",
        )?;
        let mut rows = statement.query(params![
            workspace.as_str(),
            session.as_str(),
            before.unwrap_or(i64::MAX),
            i64::try_from(most).unwrap_or(i64::MAX)
        ])?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            let json: String = row.get(1)?;
            let happening =
                serde_json::from_str(&json).map_err(|source| RegistryError::Record {
                    kind: "line of history".to_owned(),
                    source,
                })?;
            lines.push((row.get(0)?, happening));
        }
        Ok(lines)
    }

    fn answered(&self, user: &UserName, key: &str) -> Result<Option<Answered>, RegistryError> {
        let reader = self.reader();
        let json: Option<String> = reader
            .prepare_cached("SELECT json FROM answered WHERE user = ?1 AND key = ?2")?
            .query_row(params![user.as_str(), key], |row| row.get(0))
            .optional()?;
        json.map(|json| {
            serde_json::from_str(&json).map_err(|source| RegistryError::Record {
                kind: "answer".to_owned(),
                source,
            })
        })
        .transpose()
    }

    fn forget_answers(&self, before: Timestamp) -> Result<(), RegistryError> {
        self.writer().execute(
            "DELETE FROM answered WHERE at < ?1",
            params![before.as_millisecond()],
        )?;
        Ok(())
    }
}
