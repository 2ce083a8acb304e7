//! Why a request was not made, or its answer not had.

use std::fmt;
use std::time::Duration;

/// A part of a request or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The address.
    Address,
    /// The request's body.
    Request,
    /// The answer's body.
    Answer,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Address => "address",
            Self::Request => "request's body",
            Self::Answer => "answer's body",
        })
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The connection.
    Connection,
    /// The beginning of the answer.
    Answer,
    /// Another part of the answer's body.
    Next,
    /// All of a request and its answer.
    Whole,
}

impl fmt::Display for Wait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Connection => "the connection",
            Self::Answer => "the beginning of the answer",
            Self::Next => "the next part of the answer",
            Self::Whole => "the whole request",
        })
    }
}

/// Why a request was not made, or its answer not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Its address is none.
    #[error("{0} is no address that can be asked")]
    Address(String),
    /// The policy has no place for it.
    #[error("{what} is not allowed: {why}")]
    Denied {
        /// The host, or the method.
        what: String,
        /// Which rule, and the way out.
        why: String,
    },
    /// The host's address is one that is not everybody's.
    #[error("{host} has an address in a private network, which sessions are not let into")]
    Private {
        /// The host.
        host: String,
    },
    /// Its name has no address.
    #[error("{host} cannot be found: {reason}")]
    Unknown {
        /// The host.
        host: String,
        /// What the look-up said.
        reason: String,
    },
    /// A placeholder where its secret does not belong.
    #[error(
        "a secret of the connection {connection} was to go to {to}; it goes to its own endpoint only"
    )]
    Misplaced {
        /// The connection; `?` when nobody knows the placeholder any more.
        connection: String,
        /// Whom the request was for.
        to: String,
    },
    /// More than fits.
    #[error("the {what} has more than {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: Part,
        /// Most bytes.
        limit: u64,
    },
    /// Too many, too fast.
    #[error("the session makes more than {limit} requests a minute")]
    TooMany {
        /// So many are allowed.
        limit: u32,
    },
    /// Too slow.
    #[error("{what} took more than {} s", .limit.as_secs_f64())]
    Timeout {
        /// What took too long.
        what: Wait,
        /// The limit.
        limit: Duration,
    },
    /// No connection, or one that broke.
    #[error("{host}: {reason}")]
    Connection {
        /// The host.
        host: String,
        /// What happened, without an address.
        reason: String,
        /// Whether no connection was made at all.
        is_connect: bool,
    },
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// The guest broke its request off.
    #[error("the request's body broke off: {0}")]
    Guest(String),
    /// No client could be made.
    #[error("no client for requests: {0}")]
    Setup(String),
}

impl EgressError {
    /// Whether a rule was against the request.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Address(_)
            | Self::Denied { .. }
            | Self::Private { .. }
            | Self::Misplaced { .. }
            | Self::TooMany { .. } => true,
            Self::TooLarge { what, .. } => *what != Part::Answer,
            Self::Unknown { .. }
            | Self::Timeout { .. }
            | Self::Connection { .. }
            | Self::Broken(_)
            | Self::Guest(_)
            | Self::Setup(_) => false,
        }
    }
}
