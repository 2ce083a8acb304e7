//! Connections, as the host hands them to tools.
//!
//! `{"type": class, "name", "value": {…}, "module", "secret_keys"}`. What stands for a secret is opaque: the host puts the
//! secret in its place when a request leaves for the connection's own address.

use serde_json::{Map, Value};

use crate::failure::Failure;

/// A connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// The class: `AzureOpenAIConnection`.
    pub class: String,
    /// Empty when it has none.
    pub name: String,
    fields: Map<String, Value>,
}

impl Connection {
    /// Reads what came as the input `connection`.
    pub fn read(value: &Value) -> Result<Self, Failure> {
        let class = value["type"].as_str();
        match (class, value["value"].as_object()) {
            (Some(class), Some(fields)) => Ok(Self {
                class: class.to_owned(),
                name: value["name"].as_str().unwrap_or_default().to_owned(),
                fields: fields.clone(),
            }),
            _ => Err(Failure::user(
                "InvalidConnectionType",
                "The input 'connection' is not a connection; give the tool a connection, not its name.",
            )),
        }
    }

    /// A field's text; none when it is absent or empty.
    pub fn field(&self, name: &str) -> Option<&str> {
        // A custom connection keeps its fields in two maps of their own.
        let own = self.fields.get(name);
        let found = own.or_else(|| {
            let maps = ["configs", "secrets"].into_iter();
            maps.filter_map(|map| self.fields.get(map)?.get(name))
                .next()
        });
        found?.as_str().filter(|text| !text.is_empty())
    }

    /// A field that must be there.
    pub fn required(&self, name: &str) -> Result<&str, Failure> {
        self.field(name).ok_or_else(|| {
            let Self {
                class, name: own, ..
            } = self;
            Failure::user(
                "UserErrorException",
                format!("The {class} '{own}' has no '{name}'; set it in the connection."),
            )
        })
    }

    /// What requests show: the key, or the token of an identity where the connection signs in with one.
    pub fn key(&self) -> Result<&str, Failure> {
        if !self.has_identity() {
            return self.required("api_key");
        }
        self.field("token").ok_or_else(|| {
            let why = self.field("no_token").map_or_else(
                || {
                    let Self { class, name, .. } = self;
                    format!("The {class} '{name}' signs in with an identity, and there is no token of one")
                },
                ToOwned::to_owned,
            );
            Failure::user("UserErrorException", why)
        })
    }

    /// Whether requests show a token of an identity instead of a key.
    pub fn has_identity(&self) -> bool {
        let mode = self.field("auth_mode").unwrap_or("key");
        mode != "key"
    }
}
