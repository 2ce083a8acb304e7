//! Several connections, by name.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::MAX_CONNECTIONS;
use crate::connection::Connection;
use crate::error::{ConnectionError, Limit};
use crate::kind::ConnectionType;
use crate::read::{Fields, document};

/// Where connections are, whoever keeps them.
pub trait Connections: Debug + Send + Sync {
    /// A connection by name.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn get(&self, name: &str) -> Result<Option<Arc<Connection>>, ConnectionError>;
}

/// Connections in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionSet(BTreeMap<String, Arc<Connection>>);

impl Connections for ConnectionSet {
    fn get(&self, name: &str) -> Result<Option<Arc<Connection>>, ConnectionError> {
        Ok(self.0.get(name).cloned())
    }
}

impl ConnectionSet {
    /// Reads a file of connections, in YAML or JSON: a list of what `pf connection create` takes, a mapping from names to
    /// the same, or one connection. Each may also be promptflow's execution dictionary. `variable` is the environment.
    ///
    /// # Errors
    /// When it is none, or holds a connection that is none.
    pub fn read(
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConnectionError> {
        let entries = match document(text)? {
            Value::Array(items) => items.into_iter().map(|item| (None, item)).collect(),
            Value::Object(map) if map.get("type").is_some_and(Value::is_string) => {
                vec![(None, Value::Object(map))]
            }
            Value::Object(map) => {
                let named = map.into_iter().map(|(name, item)| (Some(name), item));
                named.collect::<Vec<_>>()
            }
            Value::Null => Vec::new(),
            _ => return Err(ConnectionError::ListShape("it is one value".to_owned())),
        };
        if entries.len() > MAX_CONNECTIONS {
            return Err(ConnectionError::TooMuch(Limit::Connections));
        }
        let mut all = BTreeMap::new();
        for (index, (name, item)) in entries.into_iter().enumerate() {
            let Value::Object(map) = item else {
                let place = name.unwrap_or_else(|| format!("number {}", index + 1));
                let problem = format!("{place} is no mapping");
                return Err(ConnectionError::ListShape(problem));
            };
            let mut fields = Fields::from(flat(map));
            if let Some(name) = &name {
                fields.set_name(name);
            }
            fields.resolve(&variable)?;
            let connection = fields.connection()?;
            connection.check()?;
            let name = connection.name().to_owned();
            if all.insert(name.clone(), Arc::new(connection)).is_some() {
                return Err(ConnectionError::Twice(name));
            }
        }
        Ok(Self(all))
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.0.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Connection> for ConnectionSet {
    fn from_iter<I: IntoIterator<Item = Connection>>(connections: I) -> Self {
        let connections = connections.into_iter();
        Self(
            connections
                .map(|one| (one.name().to_owned(), Arc::new(one)))
                .collect(),
        )
    }
}

impl Serialize for ConnectionSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values().map(AsRef::<Connection>::as_ref))
    }
}

impl<'de> Deserialize<'de> for ConnectionSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = Vec::<Connection>::deserialize(deserializer)?;
        Ok(all.into_iter().collect())
    }
}

/// The form of a file for promptflow's execution dictionary; anything else stays as it is.
fn flat(mut map: Map<String, Value>) -> Map<String, Value> {
    let is_custom = map
        .get("type")
        .and_then(Value::as_str)
        .and_then(ConnectionType::parse)
        == Some(ConnectionType::Custom);
    let Some(Value::Object(values)) = map.remove("value") else {
        return map;
    };
    let secret_keys = map.remove("secret_keys");
    if !is_custom {
        map.extend(values);
        return map;
    }
    let secret_keys: Vec<String> = secret_keys
        .and_then(|keys| serde_json::from_value(keys).ok())
        .unwrap_or_default();
    let (secrets, configs): (Map<String, Value>, Map<String, Value>) = values
        .into_iter()
        .partition(|(key, _)| secret_keys.contains(key));
    map.insert("configs".to_owned(), configs.into());
    map.insert("secrets".to_owned(), secrets.into());
    map
}
