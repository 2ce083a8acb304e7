//! Keys of secrets change at a start of the host: everything is sealed anew, or nothing is.

use crate::connection::StoredConnection;
use crate::credential::{CredentialHost, StoredCredential, seal};
use crate::ledger::{ChangeError, Ledger};
use crate::name::Name;
use crate::registry::{Durability, RegistryError};
use crate::secrets::{Sealed, SecretError, Secrets};
use crate::state::{Change, State, Workspace};

/// A host that cannot start with its keys. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// The key that sealed something is not there.
    #[error(
        "{count} credentials or connections are sealed by the key {sealed_by}, and this host has {known}; give that key as secrets.key, secrets.key_file or among the previous ones (secrets.previous_keys, secrets.previous_key_files), or, if it is lost with them, list it under secrets.lost_keys. Nothing was changed"
    )]
    UnknownKey {
        /// How many.
        count: usize,
        /// The key's identifier.
        sealed_by: String,
        /// Those of the host's keys.
        known: String,
    },
    /// One does not open by the key that is named in it.
    #[error(
        "the credential for {host} in workspace '{workspace}' cannot be sealed anew; start with the old key, delete the credential, and try again. Nothing was changed"
    )]
    Broken {
        /// The workspace.
        workspace: Name,
        /// The credential's host.
        host: CredentialHost,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// A connection does not open by the key that is named in it.
    #[error(
        "the connection '{connection}' in workspace '{workspace}' cannot be sealed anew; start with the old key, delete the connection, and try again. Nothing was changed"
    )]
    BrokenConnection {
        /// The workspace.
        workspace: Name,
        /// The connection.
        connection: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// The registry.
    #[error(transparent)]
    Registry(RegistryError),
}

/// Seals everything by the host's present key that another one has sealed, and deletes what the `lost` ones have, all of it
/// or nothing; says how many it were. Afterwards no other key is needed any more.
///
/// # Errors
/// When something is sealed by a key that is not there, or does not open.
pub fn reseal(ledger: &Ledger, secrets: &Secrets, lost: &[String]) -> Result<usize, ResealError> {
    let resealed = ledger.change(Durability::Synced, |state| {
        let mut changes = Vec::new();
        let workspaces = state.workspaces.values();
        for (workspace, credential) in workspaces.flat_map(|workspace| {
            let credentials = workspace.credentials.values();
            credentials.map(move |credential| (workspace, credential))
        }) {
            if credential.sealed.key() == secrets.current().id() {
                continue;
            }
            if lost.iter().any(|key| key == credential.sealed.key()) {
                changes.push(Change::DeleteCredential {
                    workspace: credential.workspace.clone(),
                    holder: credential.holder.clone(),
                    kind: credential.kind,
                    host: credential.host.clone(),
                });
                continue;
            }
            let anew = credential
                .open(workspace, secrets)
                .and_then(|secret| seal(workspace, secrets, &credential.key(), &secret));
            let sealed = anew.map_err(|source| match source {
                SecretError::UnknownKey { sealed_by, known } => ResealError::UnknownKey {
                    count: sealed_by_key(state, &sealed_by),
                    sealed_by,
                    known,
                },
                source => ResealError::Broken {
                    workspace: credential.workspace.clone(),
                    host: credential.host.clone(),
                    source,
                },
            })?;
            changes.push(Change::PutCredential(StoredCredential {
                sealed,
                ..credential.clone()
            }));
        }
        for (workspace, connection) in workspaces_with_connections(state) {
            let mut keys = connection.secrets.values().map(Sealed::key);
            if keys.all(|key| key == secrets.current().id()) {
                continue;
            }
            let mut keys = connection.secrets.values().map(Sealed::key);
            if keys.any(|key| lost.iter().any(|lost| lost == key)) {
                changes.push(Change::DeleteConnection {
                    workspace: connection.workspace.clone(),
                    connection: connection.name.clone(),
                });
                continue;
            }
            let resealed = connection.resealed(workspace, secrets);
            let resealed = resealed.map_err(|source| match source {
                SecretError::UnknownKey { sealed_by, known } => ResealError::UnknownKey {
                    count: sealed_by_key(state, &sealed_by),
                    sealed_by,
                    known,
                },
                source => ResealError::BrokenConnection {
                    workspace: connection.workspace.clone(),
                    connection: connection.name.clone(),
                    source,
                },
            })?;
            changes.push(Change::PutConnection(resealed));
        }
        let count = changes.len();
        Ok((changes, count))
    });
    resealed.map_err(|error| match error {
        ChangeError::Refused(error) => error,
        ChangeError::Registry(error) => ResealError::Registry(error),
    })
}

fn sealed_by_key(state: &State, key: &str) -> usize {
    let workspaces = state.workspaces.values();
    let credentials = workspaces.flat_map(|workspace| workspace.credentials.values());
    let credentials = credentials.filter(|credential| credential.sealed.key() == key);
    let connections = workspaces_with_connections(state);
    let connections = connections.filter(|(_, connection)| {
        let mut keys = connection.secrets.values().map(Sealed::key);
        keys.any(|one| one == key)
    });
    credentials.count() + connections.count()
}

fn workspaces_with_connections(
    state: &State,
) -> impl Iterator<Item = (&Workspace, &StoredConnection)> {
    let workspaces = state.workspaces.values();
    workspaces.flat_map(|workspace| {
        let connections = workspace.connections.values();
        connections.map(move |connection| (workspace, connection))
    })
}
