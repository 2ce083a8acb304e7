//! The connections of a session: found by name where its options say, given to guests without their secrets.
//!
//! A connection is looked for when the session is opened, so that one that is missing or of the wrong type is said then;
//! what a node gets is made at each call, so that a change of the connection is in force from the next call on.

use std::sync::{Arc, PoisonError, RwLock};

use flowcell_connection::{Connection, ConnectionError, Connections, PlaceholderKey, Placeholders};
use flowcell_egress as egress;
use flowcell_egress::{Keeper, Secrets};
use serde_json::{Value, json};

use crate::error::RunError;
use crate::session::SessionOptions;

/// How the runner knows a connection among the inputs of a node.
const MARK: &str = "$connection";

/// The connections of a session, and the placeholders that its guests have got.
#[derive(Debug)]
pub struct SessionConnections {
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    source: Arc<dyn Connections>,
    used: Placeholders,
}

impl From<ConnectionError> for RunError {
    fn from(error: ConnectionError) -> Self {
        let help = error.help();
        Self {
            help,
            ..Self::user(error.class(), error.to_string())
        }
    }
}

impl SessionConnections {
    pub(crate) fn new(options: &SessionOptions) -> Result<Arc<Self>, RunError> {
        let key = match &options.placeholders {
            Some(key) => key.clone(),
            None => PlaceholderKey::random()?,
        };
        let inner = Inner {
            source: Arc::clone(&options.connections),
            used: Placeholders::new(key),
        };
        Ok(Arc::new(Self {
            inner: RwLock::new(inner),
        }))
    }

    /// Looks at the placeholders that guests may have, and at the connections that they stand for.
    pub fn placeholders<T>(&self, look: impl FnOnce(&Placeholders) -> T) -> T {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        look(&inner.used)
    }

    /// Finds a connection; the session uses it from now on.
    ///
    /// # Errors
    /// `ConnectionNotFoundError` when it is not there, and why it cannot be read when it cannot.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Connection>, RunError> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = inner.used.connection(name) {
            return Ok(Arc::clone(known));
        }
        let found = inner.source.get(name)?;
        let found = found.ok_or_else(|| RunError::no_connection(name))?;
        inner.used.put(Arc::clone(&found));
        Ok(found)
    }

    /// Takes other connections in place of those that there were. Guests keep their placeholders, which stand for the new
    /// secrets; those of connections that are gone stand for nothing.
    pub(crate) fn replace(&self, source: Arc<dyn Connections>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let used: Vec<String> = inner
            .used
            .connections()
            .map(|one| one.name().to_owned())
            .collect();
        for name in used {
            match source.get(&name) {
                Ok(Some(connection)) => inner.used.put(connection),
                Ok(None) | Err(_) => inner.used.remove(&name),
            }
        }
        inner.source = source;
    }

    /// promptflow's execution dictionary of a connection, with placeholders.
    pub(crate) fn document(&self, name: &str) -> Result<Value, RunError> {
        self.find(name)?;
        let document = self.placeholders(|used| used.document(name));
        document.ok_or_else(|| RunError::no_connection(name))
    }

    /// The same as the Python runner takes it, which makes an object of promptflow's class of it.
    pub(crate) fn object(&self, name: &str) -> Result<Value, RunError> {
        let document = self.document(name)?;
        let Value::Object(mut document) = document else {
            return Ok(document);
        };
        let secret_keys = document.remove("secret_keys").unwrap_or_default();
        let is_secret = |key: &str| {
            let mut keys = secret_keys.as_array().into_iter().flatten();
            keys.any(|secret| secret == key)
        };
        let (mut configs, mut secrets) = (serde_json::Map::new(), serde_json::Map::new());
        if let Some(Value::Object(values)) = document.remove("value") {
            for (key, value) in values {
                let part = if is_secret(&key) {
                    &mut secrets
                } else {
                    &mut configs
                };
                part.insert(key, value);
            }
        }
        Ok(json!({ MARK: {
            "type": document["type"],
            "name": document["name"],
            "configs": configs,
            "secrets": secrets,
        } }))
    }

    /// The value of an environment variable: `${connection.field}` is a field of a connection, a secret one as its
    /// placeholder. A field that the connection does not have leaves the text as it is, as in promptflow.
    ///
    /// # Errors
    /// As [`SessionConnections::find`].
    pub(crate) fn variable(&self, variable: &str, value: &str) -> Result<Option<String>, RunError> {
        let Some((name, field)) = reference(value) else {
            return Ok(None);
        };
        self.find(name).map_err(|mut error| {
            let place = format!("environment variable {variable} refers to it");
            error.help = Some(match error.help {
                Some(help) => format!("{place}; {help}"),
                None => place,
            });
            error
        })?;
        Ok(self.placeholders(|used| used.field(name, field)))
    }
}

impl Keeper for SessionConnections {
    fn secrets(&self) -> Secrets {
        self.placeholders(|used| {
            let secrets = used.all().map(|(placeholder, held)| egress::Secret {
                placeholder: placeholder.to_owned(),
                value: held.secret().to_owned(),
                connection: held.connection.name().to_owned(),
                origins: held.origins(),
            });
            let endpoints = used.connections().flat_map(|one| one.origins());
            Secrets::new(secrets, endpoints.collect())
        })
    }
}

/// What `${connection.field}` names.
fn reference(value: &str) -> Option<(&str, &str)> {
    let inner = value.strip_prefix("${")?.strip_suffix('}')?;
    inner.split_once('.')
}
