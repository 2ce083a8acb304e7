//! What a connection IS: promptflow's connection types and files in, checked settings and secrets out; and the
//! placeholders that guests get in place of the secrets.
//!
//! The crate knows the types, their fields and promptflow's words for what can be wrong with them. It must never do I/O,
//! wait, or keep anything; what comes in is untrusted and has limits, and nothing that it prints holds a secret. Text of a
//! secret leaves it in four ways only: [`Secret::reveal`], [`Held::secret`], [`Fields::reveal`], and a serializer of a
//! binary format, which is how it gets from one process of a host to another.

mod connection;
mod dotenv;
mod error;
mod kind;
mod placeholder;
mod read;
mod secret;
mod set;

pub use connection::Connection;
pub use error::{ConnectionError, Limit};
pub use kind::ConnectionType;
pub use placeholder::{Held, PlaceholderKey, Placeholders, is_placeholder};
pub use read::{Fields, MAX_FILE};
pub use secret::{HIDDEN, Secret, is_scrubbed};
pub use set::{ConnectionSet, Connections};

/// Longest name of a connection, in bytes.
pub const MAX_NAME: usize = 128;
/// Fields that a connection may have.
pub const MAX_FIELDS: usize = 64;
/// Longest name of a field, in bytes.
pub const MAX_KEY: usize = 128;
/// Longest value of a field, in bytes.
pub const MAX_VALUE: usize = 16 << 10;
/// Names and values of all fields of a connection together, in bytes.
pub const MAX_BYTES: usize = 64 << 10;
/// Connections that can be given together.
pub const MAX_CONNECTIONS: usize = 100;
