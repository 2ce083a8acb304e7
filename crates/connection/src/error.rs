//! What can be wrong with a connection, in promptflow's classes and words where it has them. No message shows a value of
//! a field that may be a secret.

use crate::kind::ConnectionType;
use crate::{MAX_BYTES, MAX_CONNECTIONS, MAX_FIELDS, MAX_KEY, MAX_NAME, MAX_VALUE};

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Fields of a connection.
    Fields,
    /// The name of a field.
    Key,
    /// The value of a field.
    Value,
    /// All fields together.
    Bytes,
    /// Connections in a file.
    Connections,
}

impl Limit {
    fn sentence(self) -> String {
        match self {
            Self::Fields => format!("it may have {MAX_FIELDS} fields"),
            Self::Key => {
                format!("the name of a field has 1 to {MAX_KEY} bytes, without control characters")
            }
            Self::Value => {
                format!("the value of a field may have {MAX_VALUE} bytes, none of them NUL")
            }
            Self::Bytes => format!("its fields may have {MAX_BYTES} bytes together"),
            Self::Connections => format!("a file may have {MAX_CONNECTIONS} connections"),
        }
    }
}

/// A connection that is none, or cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// There is no `type`.
    #[error("type is required for connection.")]
    NoType,
    /// The type is none of promptflow's; as promptflow shows it.
    #[error("Connection type '{0}' is not supported. Supported types are: [{types}]", types = ConnectionType::listed())]
    UnknownType(String),
    /// There is no name.
    #[error("Name is required to create or update connection.")]
    NoName,
    /// The name cannot be one.
    #[error(
        "a connection's name has 1 to {MAX_NAME} bytes, without '/', '{{', '}}' and control characters, without space around it, and is neither '.' nor '..'"
    )]
    Name,
    /// A field is missing or of the wrong type: marshmallow's dictionary.
    #[error("Load connection failed with {{{problem}}}")]
    Field {
        /// `'api_key': ['Missing data for required field.']`
        problem: String,
        /// What the connection was taken for.
        kind: ConnectionType,
    },
    /// A custom connection without secrets.
    #[error(
        "Secrets is required for custom connection, please use CustomConnection(configs={{key1: val1}}, secrets={{key2: val2}}) to initialize custom connection."
    )]
    NoSecrets,
    /// Secrets that were left open.
    #[error("Connection '{name}' secrets [{}] value invalid, please fill them.", quoted(.fields))]
    Open {
        /// The connection.
        name: String,
        /// The fields.
        fields: Vec<String>,
    },
    /// Something of the environment that is not there.
    #[error("Environment variable {0} is not found.")]
    NoVariable(String),
    /// A field that the type does not have, where only those are taken.
    #[error("a connection of type {kind} has no field '{field}'; its fields are {}", .kind.field_names().join(", "))]
    UnknownField {
        /// The type.
        kind: ConnectionType,
        /// The field.
        field: String,
    },
    /// The document is no connection.
    #[error("a connection is a mapping with name and type, and this is {0}")]
    Shape(&'static str),
    /// The file of connections is none.
    #[error(
        "a file of connections is a list of mappings with name and type, or a mapping from name to type and fields: {0}"
    )]
    ListShape(String),
    /// Two with one name.
    #[error("two connections have the name '{0}'")]
    Twice(String),
    /// The text is no YAML and no JSON.
    #[error("{0}")]
    Syntax(String),
    /// A `.env` file without a variable.
    #[error(
        "there is no variable in this .env file, please make sure the file is not empty and readable."
    )]
    EmptyEnvironment,
    /// A `.env` file without a name for what it makes.
    #[error("Please specify --name when creating connection from .env.")]
    EnvironmentName,
    /// Another address for secrets that are kept.
    #[error("the connection's address changes, so its secrets must be given anew: {}", .fields.join(", "))]
    Moved {
        /// The secrets that would be sent elsewhere.
        fields: Vec<String>,
    },
    /// There is too much of something.
    #[error("a connection has limits: {}", .0.sentence())]
    TooMuch(Limit),
    /// There is no such connection.
    #[error("Connection '{0}' is not found.")]
    NotFound(String),
    /// It is there and cannot be read.
    #[error("connection '{name}' cannot be read: {problem}")]
    Unreadable {
        /// The connection.
        name: String,
        /// Why.
        problem: String,
    },
    /// The system's random numbers or cryptography failed.
    #[error("the system's cryptography failed")]
    System,
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    names.join(", ")
}

impl ConnectionError {
    /// promptflow's exception for it.
    pub fn class(&self) -> &'static str {
        match self {
            Self::NoType | Self::UnknownType(_) | Self::Open { .. } => "ValidationException",
            Self::NoName => "ConnectionNameNotSetError",
            Self::NotFound(_) => "ConnectionNotFoundError",
            Self::Unreadable { .. } | Self::System => "DecryptConnectionError",
            _ => "UserErrorException",
        }
    }

    /// The way out, where the message does not say it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Field { kind, .. } => Some(format!(
                "if it is not meant to be of type {}, say so in 'type'",
                kind.type_name()
            )),
            Self::Open { fields, .. } => fields.first().map(|field| {
                format!("give them in the file, as ${{env:NAME}} there, or with --set {field}=VALUE (--set secrets.{field}=VALUE of a custom connection)")
            }),
            Self::NotFound(_) => Some(
                "`flowcell connection create -f FILE` makes one; `flowcell connection list` shows those that there are"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
