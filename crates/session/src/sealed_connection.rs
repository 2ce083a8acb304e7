//! Sealing the secrets of a connection, wherever it is kept.

use flowcell_connection::{Connection, ConnectionType, HIDDEN};
use indexmap::IndexMap;

use crate::secrets::{Sealed, SecretError, Secrets};

/// A connection as it is kept, its secrets as `******`.
pub fn closed_connection(
    name: &str,
    kind: ConnectionType,
    configs: &IndexMap<String, String>,
    sealed: &IndexMap<String, Sealed>,
) -> Connection {
    let hidden = |field: &String| (field.clone(), HIDDEN.to_owned().into());
    let secrets = sealed.keys().map(hidden).collect();
    Connection::from_parts(name.to_owned(), kind, configs.clone(), secrets)
}

/// Seals each secret of a connection, for its field, whoever it belongs to (`owner`) and the connection's address.
///
/// # Errors
/// When the system has no random numbers.
pub fn seal_connection(
    connection: &Connection,
    owner: &str,
    secrets: &Secrets,
) -> Result<IndexMap<String, Sealed>, SecretError> {
    let sealed = connection.secrets().iter().map(|(field, secret)| {
        let place = place(connection, owner, field);
        let sealed = secrets.seal(&place, secret.reveal().as_bytes())?;
        Ok((field.clone(), sealed))
    });
    sealed.collect()
}

/// A [closed](closed_connection()) connection with its secrets.
///
/// # Errors
/// When one was sealed by a key that is not there, or for another owner, field or address.
pub fn open_connection(
    closed: &Connection,
    sealed: &IndexMap<String, Sealed>,
    owner: &str,
    secrets: &Secrets,
) -> Result<Connection, SecretError> {
    let opened = sealed.iter().map(|(field, sealed)| {
        let text = secrets.open(&place(closed, owner, field), sealed)?;
        let text = String::from_utf8(text).map_err(|_| SecretError::Broken)?;
        Ok((field.clone(), text.into()))
    });
    let opened: Result<_, SecretError> = opened.collect();
    Ok(Connection::from_parts(
        closed.name().to_owned(),
        closed.kind(),
        closed.configs().clone(),
        opened?,
    ))
}

/// What a sealed field belongs to. The address is part of it, so nobody can have a secret sent elsewhere by changing the
/// record.
fn place(connection: &Connection, owner: &str, field: &str) -> String {
    let origins = connection.origins();
    let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
    let (name, origins) = (connection.name(), origins.join(" "));
    format!("{owner}\n{name}\n{field}\n{origins}")
}
