//! A connection.

use std::fmt;

use flowcell_egress::Origin;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{ConnectionError, Limit};
use crate::kind::{AUTH_MODE, ConnectionType};
use crate::secret::{HIDDEN, Secret, is_scrubbed};
use crate::{MAX_BYTES, MAX_FIELDS, MAX_KEY, MAX_NAME, MAX_VALUE};

/// Where promptflow keeps the class of a strongly typed custom connection among its settings.
pub(crate) const STRONG_TYPE: [(&str, &str); 4] = [
    ("module", "promptflow.connection.module"),
    ("custom_type", "promptflow.connection.custom_type"),
    ("package", "promptflow.connection.package"),
    ("package_version", "promptflow.connection.package_version"),
];
/// The token of an identity, among the secrets.
const TOKEN: &str = "token";
/// Why there is none, among the settings.
const NO_TOKEN: &str = "no_token";
/// Where OpenAI is, when a connection does not say.
const OPEN_AI: &str = "https://api.openai.com";
/// Where SerpAPI is.
const SERP: &str = "https://serpapi.com";

/// Settings and secrets under a name. Printing it shows no secret, and neither does JSON that serde makes of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    pub(crate) name: String,
    pub(crate) kind: ConnectionType,
    pub(crate) configs: IndexMap<String, String>,
    pub(crate) secrets: IndexMap<String, Secret>,
}

impl Connection {
    /// A connection from its parts, as they were kept. They are not checked again.
    pub fn from_parts(
        name: String,
        kind: ConnectionType,
        configs: IndexMap<String, String>,
        secrets: IndexMap<String, Secret>,
    ) -> Self {
        Self {
            name,
            kind,
            configs,
            secrets,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its type.
    pub fn kind(&self) -> ConnectionType {
        self.kind
    }

    /// Its settings.
    pub fn configs(&self) -> &IndexMap<String, String> {
        &self.configs
    }

    /// Its secrets.
    pub fn secrets(&self) -> &IndexMap<String, Secret> {
        &self.secrets
    }

    /// Whether it signs in with the identity of whoever uses it, instead of a key.
    pub fn uses_identity(&self) -> bool {
        self.configs
            .get(AUTH_MODE)
            .is_some_and(|mode| self.kind.has_auth_mode() && mode != "key")
    }

    /// What the token of an identity must be for; `None` for types that take none.
    pub fn scope(&self) -> Option<&'static str> {
        match self.kind {
            ConnectionType::CognitiveSearch => Some("https://search.azure.com/.default"),
            kind if kind.has_auth_mode() => Some("https://cognitiveservices.azure.com/.default"),
            _ => None,
        }
    }

    /// The connection with the token of an identity, or why there is none: a secret like any other.
    #[must_use]
    pub fn with_token(&self, token: Result<Secret, String>) -> Self {
        let mut with = self.clone();
        match token {
            Ok(token) => drop(with.secrets.insert(TOKEN.to_owned(), token)),
            Err(why) => drop(with.configs.insert(NO_TOKEN.to_owned(), why)),
        }
        with
    }

    /// Where its secrets may be sent: its own endpoint. Of a custom connection, every setting that is an http or https URL.
    /// A connection without any has secrets that can be sent nowhere.
    pub fn origins(&self) -> Vec<Origin> {
        let config = |name: &str| self.configs.get(name).map(String::as_str);
        let urls: Vec<&str> = match self.kind {
            ConnectionType::OpenAi => vec![config("base_url").unwrap_or(OPEN_AI)],
            ConnectionType::Serp => vec![SERP],
            ConnectionType::AzureAiServices
            | ConnectionType::AzureContentSafety
            | ConnectionType::FormRecognizer => config("endpoint").into_iter().collect(),
            ConnectionType::Custom => self.configs.values().map(String::as_str).collect(),
            ConnectionType::AzureOpenAi
            | ConnectionType::Serverless
            | ConnectionType::Qdrant
            | ConnectionType::Weaviate
            | ConnectionType::CognitiveSearch => config("api_base").into_iter().collect(),
        };
        let mut origins: Vec<Origin> = urls
            .into_iter()
            .filter_map(|url| url.trim().parse().ok())
            .collect();
        origins.sort();
        origins.dedup();
        origins
    }

    /// The connection as `pf connection show` prints it, secrets as `******`.
    pub fn shown(&self) -> Map<String, Value> {
        self.written(|_| HIDDEN.to_owned())
    }

    /// The connection in the form of a file, with each secret as this function says.
    pub fn written(&self, secret: impl Fn(&Secret) -> String) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
        put("name", self.name.as_str().into());
        put("type", self.kind.as_str().into());
        let module = self.kind.module();
        if self.kind == ConnectionType::Custom {
            let mut configs = self.configs.clone();
            let strong = STRONG_TYPE.map(|(field, key)| Some((field, configs.get(key)?.clone())));
            if strong.iter().all(Option::is_some) {
                configs.retain(|key, _| STRONG_TYPE.iter().all(|(_, own)| own != key));
                for (field, value) in strong.into_iter().flatten() {
                    put(field, value.into());
                }
            } else {
                put("module", module.into());
            }
            let configs: Map<String, Value> = configs
                .into_iter()
                .map(|(key, value)| (key, value.into()))
                .collect();
            put("configs", configs.into());
            let secrets: Map<String, Value> = self
                .secrets
                .iter()
                .map(|(key, value)| (key.clone(), secret(value).into()))
                .collect();
            put("secrets", secrets.into());
            return map;
        }
        put("module", module.into());
        for (key, value) in &self.secrets {
            put(key, secret(value).into());
        }
        for (key, value) in &self.configs {
            put(key, value.as_str().into());
        }
        map
    }

    /// What a guest gets: promptflow's execution dictionary (`_to_execution_connection_dict`), with each secret as the
    /// placeholder of its field.
    pub fn document(&self, placeholder: impl Fn(&str) -> String) -> Value {
        let configs = self.configs.iter();
        let mut value: Map<String, Value> = configs
            .map(|(key, value)| (key.clone(), value.as_str().into()))
            .collect();
        for field in self.secrets.keys() {
            value.insert(field.clone(), placeholder(field).into());
        }
        let secret_keys: Vec<&String> = self.secrets.keys().collect();
        serde_json::json!({
            "type": self.kind.class_name(),
            "name": self.name,
            "module": self.kind.module(),
            "value": value,
            "secret_keys": secret_keys,
        })
    }

    /// Whether a secret of it is not told.
    pub fn has_open_secrets(&self) -> bool {
        let mut secrets = self.secrets.values();
        secrets.any(|secret| is_scrubbed(secret.reveal()))
    }

    /// Takes from `old` the secrets that are not told here; without one there, they stay open.
    pub fn keep_secrets(&mut self, old: &Self) {
        for (field, secret) in &mut self.secrets {
            if is_scrubbed(secret.reveal())
                && let Some(kept) = old.secrets.get(field)
            {
                *secret = kept.clone();
            }
        }
    }

    /// Refuses secrets that are kept for another address than that of `old`: whoever may change a connection could
    /// have its secrets sent to themselves.
    ///
    /// # Errors
    /// When there are such secrets.
    pub fn check_moved(&self, old: &Self) -> Result<(), ConnectionError> {
        let before = old.origins();
        if self.origins().iter().all(|origin| before.contains(origin)) {
            return Ok(());
        }
        let kept = self.secrets.iter();
        let kept = kept.filter(|(field, secret)| {
            is_scrubbed(secret.reveal()) && old.secrets.contains_key(*field)
        });
        let fields: Vec<String> = kept.map(|(field, _)| field.clone()).collect();
        if fields.is_empty() {
            return Ok(());
        }
        Err(ConnectionError::Moved { fields })
    }

    /// Whether all is there, and within the limits.
    ///
    /// # Errors
    /// When the name cannot be one, a secret was left open, or there is too much of something.
    pub fn check(&self) -> Result<(), ConnectionError> {
        if self.name.is_empty() {
            return Err(ConnectionError::NoName);
        }
        check_name(&self.name)?;
        let open: Vec<String> = self
            .secrets
            .iter()
            .filter(|(_, secret)| is_scrubbed(secret.reveal()))
            .map(|(field, _)| field.clone())
            .collect();
        if !open.is_empty() {
            return Err(ConnectionError::Open {
                name: self.name.clone(),
                fields: open,
            });
        }
        if self.kind == ConnectionType::Custom && self.secrets.is_empty() {
            return Err(ConnectionError::NoSecrets);
        }
        let configs = self
            .configs
            .iter()
            .map(|(key, value)| (key, value.as_str()));
        let secrets = self
            .secrets
            .iter()
            .map(|(key, secret)| (key, secret.reveal()));
        let mut bytes = 0;
        for (index, (key, value)) in configs.chain(secrets).enumerate() {
            let too_much = |limit| Err(ConnectionError::TooMuch(limit));
            if index >= MAX_FIELDS {
                return too_much(Limit::Fields);
            }
            if key.is_empty() || key.len() > MAX_KEY || key.contains(char::is_control) {
                return too_much(Limit::Key);
            }
            if value.len() > MAX_VALUE || value.contains('\0') {
                return too_much(Limit::Value);
            }
            bytes += key.len() + value.len();
            if bytes > MAX_BYTES {
                return too_much(Limit::Bytes);
            }
        }
        Ok(())
    }

    /// A field's value for `${connection.field}` in a text; a secret's is its placeholder.
    pub(crate) fn field(
        &self,
        field: &str,
        placeholder: impl Fn(&str) -> String,
    ) -> Option<String> {
        if self.secrets.contains_key(field) {
            return Some(placeholder(field));
        }
        self.configs.get(field).cloned()
    }
}

/// Whether a text can be a connection's name.
pub(crate) fn check_name(name: &str) -> Result<(), ConnectionError> {
    let is_name = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.trim() == name
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| matches!(c, '/' | '{' | '}') || c.is_control());
    if is_name {
        return Ok(());
    }
    Err(ConnectionError::Name)
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("configs", &self.configs)
            .field("secrets", &self.secrets)
            .finish()
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.name, self.kind)
    }
}
