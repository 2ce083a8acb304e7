//! Connections as files, command lines and requests have them.

use std::fmt;

use flowcell_flow::yaml_to_json;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::connection::{Connection, STRONG_TYPE, check_name};
use crate::dotenv;
use crate::error::{ConnectionError, Limit};
use crate::kind::{API_KEY, AUTH_MODE, ConnectionType, Need};
use crate::secret::{HIDDEN, Secret};
use crate::{MAX_FIELDS, MAX_VALUE};

/// Longest file, in bytes.
pub const MAX_FILE: usize = 1 << 20;

const MISSING: &str = "Missing data for required field.";
const NO_TEXT: &str = "Not a valid string.";
const NULL: &str = "Field may not be null.";
/// Keys that promptflow writes itself, and that say nothing to whoever reads them.
const WRITTEN: [&str; 4] = [
    "created_date",
    "last_modified_date",
    "expiry_time",
    "$schema",
];

/// What a file or a request says of a connection, unchecked. Printing it shows the names of fields only.
#[derive(Clone, Default, PartialEq)]
pub struct Fields(Map<String, Value>);

impl fmt::Debug for Fields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

impl From<Map<String, Value>> for Fields {
    fn from(map: Map<String, Value>) -> Self {
        Self(map)
    }
}

/// A YAML or JSON document.
pub(crate) fn document(text: &str) -> Result<Value, ConnectionError> {
    if text.len() > MAX_FILE {
        return Err(ConnectionError::Syntax(format!(
            "a file of connections may have {} KiB",
            MAX_FILE >> 10
        )));
    }
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with(['{', '['])
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    yaml_to_json(text).map_err(|error| ConnectionError::Syntax(error.to_string()))
}

impl Fields {
    /// Reads a connection's YAML file; JSON will do.
    ///
    /// # Errors
    /// When it is no mapping.
    pub fn from_yaml(text: &str) -> Result<Self, ConnectionError> {
        match document(text)? {
            Value::Object(map) => Ok(Self(map)),
            Value::Null => Err(ConnectionError::NoType),
            Value::Array(_) => Err(ConnectionError::Shape("a list")),
            _ => Err(ConnectionError::Shape("one value")),
        }
    }

    /// Reads a `.env` file: a custom connection whose variables are its secrets. `variable` is the environment, for
    /// `${NAME}` in values.
    ///
    /// # Errors
    /// When it is none, or there is no name.
    pub fn from_dotenv(
        text: &str,
        name: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConnectionError> {
        let name = name.ok_or(ConnectionError::EnvironmentName)?;
        if text.len() > MAX_FILE {
            return Err(ConnectionError::TooMuch(Limit::Bytes));
        }
        let variables = dotenv::read(text, &variable)?;
        if variables.is_empty() {
            return Err(ConnectionError::EmptyEnvironment);
        }
        let secrets: Map<String, Value> = variables
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_default().into()))
            .collect();
        let mut map = Map::new();
        map.insert("name".to_owned(), name.into());
        map.insert("type".to_owned(), ConnectionType::Custom.as_str().into());
        map.insert("secrets".to_owned(), secrets.into());
        Ok(Self(map))
    }

    /// A connection as it is, to be changed; its secrets are not told.
    pub fn of(connection: &Connection) -> Self {
        Self(connection.written(|_| HIDDEN.to_owned()))
    }

    /// Gives it a name.
    pub fn set_name(&mut self, name: &str) {
        self.0.insert("name".to_owned(), name.into());
    }

    /// The name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.0.get("name").and_then(Value::as_str)
    }

    /// Sets a field, as `--set` does: `api_key`, or `configs.KEY` and `secrets.KEY`.
    pub fn set(&mut self, field: &str, value: &str) {
        let part = field.split_once('.');
        let part = part.filter(|(part, _)| matches!(*part, "configs" | "secrets"));
        match part {
            Some((part, key)) => {
                let all = self.0.entry(part).or_insert_with(|| Map::new().into());
                if !all.is_object() {
                    *all = Map::new().into();
                }
                if let Some(all) = all.as_object_mut() {
                    all.insert(key.to_owned(), value.into());
                }
            }
            None => {
                self.0.insert(field.to_owned(), value.into());
            }
        }
    }

    /// All of it, with the secrets that were given: what is sent to whoever keeps the connection.
    pub fn reveal(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Takes in changes; null takes a field away (RFC 7396).
    pub fn merge(&mut self, changes: Self) {
        for (field, value) in changes.0 {
            match (self.0.get_mut(&field), value) {
                (_, Value::Null) => {
                    self.0.remove(&field);
                }
                (Some(Value::Object(old)), Value::Object(new)) => {
                    for (key, value) in new {
                        if value.is_null() {
                            old.remove(&key);
                        } else {
                            old.insert(key, value);
                        }
                    }
                }
                (_, value) => {
                    self.0.insert(field, value);
                }
            }
        }
    }

    /// Puts in variables of the environment for `${env:NAME}`.
    ///
    /// # Errors
    /// When one is not there.
    pub fn resolve(
        &mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConnectionError> {
        let resolve = |value: &mut Value| {
            let Some(name) = value.as_str().and_then(reference) else {
                return Ok(());
            };
            let found = variable(name);
            let found = found.ok_or_else(|| ConnectionError::NoVariable(name.to_owned()))?;
            *value = found.into();
            Ok(())
        };
        for value in self.0.values_mut() {
            match value {
                Value::Object(inner) => inner.values_mut().try_for_each(&resolve)?,
                value => resolve(value)?,
            }
        }
        Ok(())
    }

    /// Whether a value is `${env:NAME}` still.
    pub fn has_references(&self) -> bool {
        let is_reference = |value: &Value| value.as_str().and_then(reference).is_some();
        self.0.values().any(|value| match value {
            Value::Object(inner) => inner.values().any(is_reference),
            value => is_reference(value),
        })
    }

    /// The fields that no connection of this type has, and that are left out therefore.
    pub fn unknown(&self) -> Vec<&str> {
        let Ok(kind) = self.kind() else {
            return Vec::new();
        };
        let names = kind.field_names();
        self.0
            .keys()
            .map(String::as_str)
            .filter(|key| {
                !matches!(*key, "name" | "type" | "module")
                    && !WRITTEN.contains(key)
                    && !names.contains(key)
            })
            .collect()
    }

    /// Refuses fields that the type does not have.
    ///
    /// # Errors
    /// When there is one.
    pub fn check_known(&self) -> Result<(), ConnectionError> {
        match self.unknown().first() {
            None => Ok(()),
            Some(field) => Err(ConnectionError::UnknownField {
                kind: self.kind()?,
                field: field.chars().take(80).collect(),
            }),
        }
    }

    /// The connection that this describes. Secrets may still be open; [`Connection::check`] asks for them.
    ///
    /// # Errors
    /// When it is none, in promptflow's words.
    pub fn connection(&self) -> Result<Connection, ConnectionError> {
        let kind = self.kind()?;
        let mut problems = Problems {
            kind,
            found: Vec::new(),
        };
        let name = problems
            .text("name", self.0.get("name"))
            .unwrap_or_default();
        let (configs, secrets) = if kind == ConnectionType::Custom {
            self.custom(&mut problems)
        } else {
            self.plain(kind, &mut problems)
        };
        problems.check()?;
        if !name.is_empty() {
            check_name(&name)?;
        }
        if configs.len() + secrets.len() > MAX_FIELDS {
            return Err(ConnectionError::TooMuch(Limit::Fields));
        }
        Ok(Connection::from_parts(name, kind, configs, secrets))
    }

    fn kind(&self) -> Result<ConnectionType, ConnectionError> {
        let text = match self.0.get("type") {
            None | Some(Value::Null) => return Err(ConnectionError::NoType),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        ConnectionType::parse(&text).ok_or_else(|| {
            let shown: String = camel(&text).chars().take(80).collect();
            ConnectionError::UnknownType(shown)
        })
    }

    fn plain(
        &self,
        kind: ConnectionType,
        problems: &mut Problems,
    ) -> (IndexMap<String, String>, IndexMap<String, Secret>) {
        let mut configs = IndexMap::new();
        let mut secrets = IndexMap::new();
        for setting in kind.settings() {
            let given = self.0.get(setting.name);
            // promptflow lets this one be null.
            let given = given.filter(|value| setting.name != AUTH_MODE || !value.is_null());
            let value = match (problems.text(setting.name, given), setting.need) {
                (Some(value), _) => value,
                (None, Need::Default(value)) => value.to_owned(),
                (None, Need::Required) => {
                    if given.is_none() {
                        problems.add(setting.name, MISSING);
                    }
                    continue;
                }
                (None, Need::Optional) => continue,
            };
            // What Azure's service writes for "none".
            if setting.name == "base_url" && matches!(value.as_str(), "" | "_") {
                continue;
            }
            configs.insert(setting.name.to_owned(), value);
        }
        let given = self.0.get(API_KEY);
        let key = problems.text(API_KEY, given);
        if let Some(mode) = configs.get_mut(AUTH_MODE) {
            match mode.to_lowercase().as_str() {
                // One meaning, and flows know it by promptflow's word.
                "meid_token" | "identity" => {
                    "meid_token".clone_into(mode);
                    return (configs, secrets);
                }
                "key" => "key".clone_into(mode),
                _ => {
                    let shown: String = mode.chars().take(80).collect();
                    let shown = flowcell_flow::python_repr(&shown.into());
                    problems.found.push(format!(
                        "'{AUTH_MODE}': [\"Value {shown} passed is not in set ['meid_token', 'key']\"]"
                    ));
                }
            }
            if key.as_deref().unwrap_or_default().is_empty() && problems.found.is_empty() {
                problems.found.push(format!(
                    "'_schema': [\"'{API_KEY}' is required for key auth mode connection.\"]"
                ));
            }
        } else if given.is_none() {
            problems.add(API_KEY, MISSING);
        }
        secrets.insert(API_KEY.to_owned(), key.unwrap_or_default().into());
        (configs, secrets)
    }

    fn custom(
        &self,
        problems: &mut Problems,
    ) -> (IndexMap<String, String>, IndexMap<String, Secret>) {
        let mut configs = problems.texts("configs", self.0.get("configs"));
        let given = self.0.get("secrets");
        if given.is_none() {
            problems.add("secrets", MISSING);
        }
        let secrets = problems.texts("secrets", given);
        if self
            .0
            .get("custom_type")
            .is_some_and(|value| !value.is_null())
        {
            for (field, key) in STRONG_TYPE {
                let given = self.0.get(field);
                if given.is_none() {
                    problems.add(field, MISSING);
                }
                if let Some(value) = problems.text(field, given) {
                    configs.insert(key.to_owned(), value);
                }
            }
        }
        let secrets = secrets.into_iter();
        let secrets = secrets.map(|(key, value)| (key, value.into())).collect();
        (configs, secrets)
    }
}

/// What is wrong with the fields, all of it: marshmallow says so too.
struct Problems {
    kind: ConnectionType,
    found: Vec<String>,
}

impl Problems {
    fn add(&mut self, field: &str, problem: &str) {
        self.found.push(format!("'{field}': ['{problem}']"));
    }

    fn text(&mut self, field: &str, value: Option<&Value>) -> Option<String> {
        match value? {
            Value::String(text) if text.len() > MAX_VALUE => {
                self.add(field, &format!("Longer than {MAX_VALUE} bytes."));
                None
            }
            Value::String(text) => Some(text.clone()),
            Value::Null => {
                self.add(field, NULL);
                None
            }
            _ => {
                self.add(field, NO_TEXT);
                None
            }
        }
    }

    fn texts(&mut self, field: &str, value: Option<&Value>) -> IndexMap<String, String> {
        let mut texts = IndexMap::new();
        match value {
            None => {}
            Some(Value::Null) => self.add(field, NULL),
            Some(Value::Object(map)) => {
                let mut wrong = Vec::new();
                for (key, value) in map {
                    let problem = match value {
                        Value::String(text) => {
                            texts.insert(key.clone(), text.clone());
                            continue;
                        }
                        Value::Null => NULL,
                        _ => NO_TEXT,
                    };
                    let key: String = key.chars().take(80).collect();
                    wrong.push(format!("'{key}': {{'value': ['{problem}']}}"));
                }
                if !wrong.is_empty() {
                    self.found
                        .push(format!("'{field}': {{{}}}", wrong.join(", ")));
                }
            }
            Some(_) => self.add(field, "Not a valid mapping type."),
        }
        texts
    }

    fn check(self) -> Result<(), ConnectionError> {
        if self.found.is_empty() {
            return Ok(());
        }
        Err(ConnectionError::Field {
            problem: self.found.join(", "),
            kind: self.kind,
        })
    }
}

/// The name in `${env:NAME}`.
fn reference(text: &str) -> Option<&str> {
    let name = text.trim().strip_prefix("${env:")?.strip_suffix('}')?;
    (!name.is_empty()).then_some(name)
}

/// promptflow's `snake_to_camel`.
fn camel(text: &str) -> String {
    let mut done = String::new();
    let mut begins = true;
    for c in text.chars() {
        if c == '_' {
            if begins && !done.is_empty() {
                done.push('_');
            }
            begins = true;
            continue;
        }
        if begins {
            done.extend(c.to_uppercase());
        } else {
            done.push(c);
        }
        begins = false;
    }
    done
}
