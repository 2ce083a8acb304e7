//! Why a flow or a node failed, in promptflow's classes and words.

use std::error::Error;
use std::sync::Arc;

use flowcell_bundle::BundleError;
use flowcell_connection::ConnectionError;
use flowcell_flow::FlowError;
use flowcell_sandbox::{ErrorKind, Fault, PoolError, SandboxError, ToolError};
use serde::{Deserialize, Serialize};

/// Whose error it is; promptflow's root error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Code {
    /// The flow's author, or whoever gave its inputs, can mend it.
    User,
    /// The host, or a tool that failed in a way that promptflow does not foresee.
    System,
}

/// A failure, as it is reported. One that was sent from one process to another has the texts of its causes as its source.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct RunError {
    /// The error's class: promptflow's, or that of the tool's own exception, or a [`Fault`]'s.
    pub class: String,
    /// Whose error it is.
    pub code: Code,
    /// What happened.
    pub message: String,
    /// What to do about it, where that is known and the message does not say it.
    pub help: Option<String>,
    /// The node in which it happened.
    pub node: Option<String>,
    /// The tool's own frames, most recent last.
    pub traceback: Option<String>,
    /// The failure below, where the message does not tell it already.
    #[source]
    #[serde(with = "causes")]
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

impl RunError {
    /// A wrong argument of whoever calls: promptflow's `UserErrorException`.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::user("UserErrorException", message)
    }

    /// An error of whoever asks, in a class of promptflow's.
    pub fn user(class: &str, message: impl Into<String>) -> Self {
        Self {
            class: class.to_owned(),
            code: Code::User,
            message: message.into(),
            help: None,
            node: None,
            traceback: None,
            source: None,
        }
    }

    /// An error of the host, in a class of promptflow's.
    pub fn system(class: &str, message: impl Into<String>) -> Self {
        Self {
            code: Code::System,
            ..Self::user(class, message)
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn in_node(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    pub(crate) fn caused_by(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// A connection that is not there.
    pub(crate) fn no_connection(name: &str) -> Self {
        ConnectionError::NotFound(name.to_owned()).into()
    }

    /// The error of a tool's call: promptflow's own exceptions as they are, any other as `ToolExecutionError`.
    pub(crate) fn tool(node: &str, error: ToolError) -> Self {
        if error.own {
            return Self::own(error).in_node(node);
        }
        let message = format!(
            "Execution failure in '{node}': ({}) {}",
            error.type_name, error.message
        );
        Self {
            traceback: non_empty(error.traceback),
            ..Self::user("ToolExecutionError", message)
        }
        .in_node(node)
    }

    /// A guest's error under its own class.
    pub(crate) fn own(error: ToolError) -> Self {
        Self {
            code: match error.kind {
                ErrorKind::User => Code::User,
                ErrorKind::System => Code::System,
            },
            traceback: non_empty(error.traceback),
            ..Self::user(&error.type_name, error.message)
        }
    }

    /// A call that ended without an answer.
    pub(crate) fn fault(node: &str, fault: Fault) -> Self {
        let class = fault.class();
        Self::user(
            class,
            format!("Execution failure in '{node}': ({class}) {fault}"),
        )
        .in_node(node)
        .caused_by(fault)
    }

    /// A node for which there was no instance.
    pub(crate) fn pool(node: &str, error: PoolError) -> Self {
        match error {
            PoolError::Busy { .. } => Self::system(
                "NoInstanceAvailable",
                format!("Node '{node}' could not start: {error}"),
            )
            .help("allow more instances, or call again later"),
            PoolError::Start(error) => Self::from(error),
        }
        .in_node(node)
    }
}

/// The causes of an error as text.
mod causes {
    use super::{Arc, Deserialize, Error, Serialize};

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Causes(String);

    type Source = Option<Arc<dyn Error + Send + Sync>>;

    pub(super) fn serialize<S: serde::Serializer>(
        source: &Source,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = source.as_ref().map(|error| {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            text
        });
        text.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Source, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.map(|text| Arc::new(Causes(text)) as Arc<dyn Error + Send + Sync>))
    }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl From<FlowError> for RunError {
    fn from(error: FlowError) -> Self {
        let mut message = error.to_string();
        let place = error
            .location()
            .map(|location| format!("flow file, {location}"));
        let help = match (place, error.help()) {
            (Some(place), Some(help)) => Some(format!("{place}: {help}")),
            (place, help) => place.or(help.map(str::to_owned)),
        };
        if message.is_empty() {
            message = error.class().to_owned();
        }
        Self {
            class: error.class().to_owned(),
            code: if error.code() == "UserError" {
                Code::User
            } else {
                Code::System
            },
            help,
            ..Self::user("", message)
        }
    }
}

impl From<BundleError> for RunError {
    fn from(error: BundleError) -> Self {
        let text = match &error {
            BundleError::Io { source, .. } => format!("{error}: {source}"),
            other => other.to_string(),
        };
        if error.is_about_app() {
            return Self::user("InvalidApp", text);
        }
        Self::system("BundleError", text).caused_by(error)
    }
}

impl From<SandboxError> for RunError {
    fn from(error: SandboxError) -> Self {
        // The path on the host means nothing to whoever reads this, and may be none of their business.
        let mut message = match &error {
            SandboxError::Mount { guest, .. } => format!("cannot mount {guest}"),
            other => other.to_string(),
        };
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self::system("SandboxError", message).caused_by(error)
    }
}
