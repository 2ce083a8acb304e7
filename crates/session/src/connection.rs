//! Connections of a workspace: settings in the clear, secrets sealed. Pure, as the state machine is.

use flowcell_connection::{
    Connection, ConnectionError, ConnectionSet, ConnectionType, MAX_CONNECTIONS,
};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::machine::{Refusal, check_seen};
use crate::name::{Name, UserName};
use crate::sealed_connection::{closed_connection, open_connection, seal_connection};
use crate::secrets::{Sealed, SecretError, Secrets};
use crate::state::{Change, State, Workspace};

/// Bytes of all connections of a workspace, as [`StoredConnection::bytes`] counts them: they go along with each call.
pub const MAX_CONNECTION_BYTES: u64 = 512 << 10;

/// A connection as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredConnection {
    /// The workspace.
    pub workspace: Name,
    /// The name.
    pub name: String,
    /// The type.
    pub kind: ConnectionType,
    /// The settings.
    pub configs: IndexMap<String, String>,
    /// The secrets, each sealed for its field, this workspace and the connection's address.
    pub secrets: IndexMap<String, Sealed>,
    /// Names and values of all fields, in bytes.
    pub bytes: u64,
    /// Who has changed it last.
    pub set_by: UserName,
    /// When it was made.
    pub created: Timestamp,
    /// When it was changed last.
    pub modified: Timestamp,
    /// Counts its changes; the entity tag.
    pub revision: u64,
}

/// An operation on connections that was not done.
#[derive(Debug, thiserror::Error)]
pub enum StoredConnectionError {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection is none.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// A secret could not be sealed or opened.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl StoredConnection {
    /// The connection with its secrets as `******`.
    pub fn closed(&self) -> Connection {
        closed_connection(&self.name, self.kind, &self.configs, &self.secrets)
    }

    /// The connection with its secrets.
    ///
    /// # Errors
    /// When one was sealed by a key that is not there, or for another place or address.
    pub(crate) fn open(
        &self,
        workspace: &Workspace,
        secrets: &Secrets,
    ) -> Result<Connection, SecretError> {
        open_connection(&self.closed(), &self.secrets, &owner(workspace), secrets)
    }

    /// The same, sealed anew by the present key.
    pub(crate) fn resealed(
        &self,
        workspace: &Workspace,
        secrets: &Secrets,
    ) -> Result<Self, SecretError> {
        let connection = self.open(workspace, secrets)?;
        Ok(Self {
            secrets: seal_connection(&connection, &owner(workspace), secrets)?,
            ..self.clone()
        })
    }
}

/// Whose connections a workspace's are.
fn owner(workspace: &Workspace) -> String {
    let record = &workspace.record;
    format!("flowcell connection\n{} {}", record.name, record.created)
}

/// All connections of a workspace, with their secrets. One that does not open is left out, and the log says so.
pub(crate) fn open_all(workspace: &Workspace, secrets: &Secrets) -> ConnectionSet {
    let opened = workspace.connections.values().filter_map(|stored| {
        let opened = stored.open(workspace, secrets);
        if let Err(error) = &opened {
            tracing::error!(
                workspace = %workspace.record.name, connection = stored.name,
                error = error as &dyn std::error::Error,
                "a connection cannot be opened"
            );
        }
        opened.ok()
    });
    opened.collect()
}

impl Workspace {
    /// A connection by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn connection(&self, name: &str) -> Result<&StoredConnection, Refusal> {
        self.connections.get(name).ok_or_else(|| Refusal::NotFound {
            what: "connection",
            name: name.chars().take(128).collect(),
        })
    }
}

/// Puts in a connection, in place of any other of its name. A secret that is not told (`******`) stays what it was, as
/// long as the connection's address stays, too: otherwise whoever may change a connection could have its secrets sent to
/// themselves. `seen` is the revision that it must have.
///
/// # Errors
/// When the connection is none, there are too many, it was changed meanwhile, or it cannot be sealed.
pub fn put_connection(
    state: &State,
    secrets: &Secrets,
    workspace: &Name,
    mut connection: Connection,
    seen: Option<u64>,
    (by, now): (&UserName, Timestamp),
) -> Result<StoredConnection, StoredConnectionError> {
    let of = state.workspace(workspace)?;
    let old = of.connections.get(connection.name());
    if seen.is_some() {
        check_seen(seen, of.connection(connection.name())?.revision)?;
    }
    // One whose secrets are all given anew need not open.
    if let Some(old) = old
        && connection.has_open_secrets()
    {
        connection.check_moved(&old.closed())?;
        connection.keep_secrets(&old.open(of, secrets)?);
    }
    connection.check()?;
    let all = of.connections.values();
    let others = all.filter(|one| one.name != connection.name());
    let (mut count, mut bytes) = (1, bytes(&connection));
    for other in others {
        count += 1;
        bytes += other.bytes;
    }
    if count > MAX_CONNECTIONS {
        return Err(Refusal::TooMany(format!(
            "a workspace may have {MAX_CONNECTIONS} connections; delete some"
        ))
        .into());
    }
    if bytes > MAX_CONNECTION_BYTES {
        return Err(Refusal::TooMany(format!(
            "the connections of a workspace may have {} KiB together; delete some",
            MAX_CONNECTION_BYTES >> 10
        ))
        .into());
    }
    Ok(StoredConnection {
        workspace: workspace.clone(),
        name: connection.name().to_owned(),
        kind: connection.kind(),
        configs: connection.configs().clone(),
        secrets: seal_connection(&connection, &owner(of), secrets)?,
        bytes: self::bytes(&connection),
        set_by: by.clone(),
        created: old.map_or(now, |old| old.created),
        modified: now,
        revision: old.map_or(1, |old| old.revision + 1),
    })
}

fn bytes(connection: &Connection) -> u64 {
    let configs = connection.configs().iter();
    let configs = configs.map(|(key, value)| key.len() + value.len());
    let secrets = connection.secrets().iter();
    let secrets = secrets.map(|(key, secret)| key.len() + secret.reveal().len());
    configs.chain(secrets).sum::<usize>() as u64 + connection.name().len() as u64
}

/// Deletes a connection.
///
/// # Errors
/// When it is not there, or was changed meanwhile.
pub fn delete_connection(
    state: &State,
    workspace: &Name,
    name: &str,
    seen: Option<u64>,
) -> Result<Change, Refusal> {
    let stored = state.workspace(workspace)?.connection(name)?;
    check_seen(seen, stored.revision)?;
    Ok(Change::DeleteConnection {
        workspace: workspace.clone(),
        connection: name.to_owned(),
    })
}
