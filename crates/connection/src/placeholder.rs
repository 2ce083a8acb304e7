//! What guests get in place of secrets.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use flowcell_egress::{Origin, PLACEHOLDER};

use crate::connection::Connection;
use crate::error::ConnectionError;

/// Bytes of a placeholder's digits.
const BYTES: usize = 16;

/// Whether a text has the form of a placeholder, of whatever session.
pub fn is_placeholder(text: &str) -> bool {
    text.strip_prefix(PLACEHOLDER).is_some_and(|digits| {
        digits.len() == 2 * BYTES
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// What the placeholders of one session are made by. Printing it shows nothing.
#[derive(Clone)]
pub struct PlaceholderKey(hmac::Key);

impl PlaceholderKey {
    /// A random one: its placeholders are good for as long as it is kept.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn random() -> Result<Self, ConnectionError> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ConnectionError::System)?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The key of one session of a host, from a secret of that host: the same each time.
    pub fn of_session(secret: &[u8], session: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let context = format!("flowcell key of placeholders\n{session}");
        let tag = hmac::sign(&key, context.as_bytes());
        Self(hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref()))
    }

    /// The placeholder of a connection's field.
    pub fn token(&self, connection: &str, field: &str) -> String {
        // The length keeps the two apart.
        let text = format!("{}\n{connection}{field}", connection.len());
        let tag = hmac::sign(&self.0, text.as_bytes());
        let mut token = PLACEHOLDER.to_owned();
        for byte in tag.as_ref().iter().take(BYTES) {
            token.push_str(&format!("{byte:02x}"));
        }
        token
    }
}

impl fmt::Debug for PlaceholderKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PlaceholderKey")
    }
}

/// The placeholders that a session's guests may have seen, and what each stands for. Printing it shows no secret.
#[derive(Debug, Clone)]
pub struct Placeholders {
    key: PlaceholderKey,
    /// The connection and the field of each placeholder.
    known: HashMap<String, (String, String)>,
    connections: HashMap<String, Arc<Connection>>,
}

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// The field.
    pub field: &'a str,
}

impl Held<'_> {
    /// The secret itself.
    pub fn secret(&self) -> &str {
        let secret = self.connection.secrets().get(self.field);
        secret.map(crate::Secret::reveal).unwrap_or_default()
    }

    /// The only places that it may be sent to.
    pub fn origins(&self) -> Vec<Origin> {
        self.connection.origins()
    }
}

impl Placeholders {
    /// Without any connection yet.
    pub fn new(key: PlaceholderKey) -> Self {
        Self {
            key,
            known: HashMap::new(),
            connections: HashMap::new(),
        }
    }

    /// Takes in a connection, in place of the one of its name. Its placeholders stay what they were.
    pub fn put(&mut self, connection: Arc<Connection>) {
        let name = connection.name().to_owned();
        self.remove(&name);
        for field in connection.secrets().keys() {
            let token = self.key.token(&name, field);
            self.known.insert(token, (name.clone(), field.clone()));
        }
        self.connections.insert(name, connection);
    }

    /// Takes out a connection: its placeholders stand for nothing any more.
    pub fn remove(&mut self, connection: &str) {
        self.known.retain(|_, (name, _)| name != connection);
        self.connections.remove(connection);
    }

    /// What a placeholder stands for.
    pub fn find(&self, token: &str) -> Option<Held<'_>> {
        let (name, field) = self.known.get(token)?;
        let connection = self.connections.get(name)?;
        connection
            .secrets()
            .contains_key(field)
            .then_some(Held { connection, field })
    }

    /// All placeholders, with what they stand for.
    pub fn all(&self) -> impl Iterator<Item = (&str, Held<'_>)> {
        let known = self.known.keys();
        known.filter_map(|token| Some((token.as_str(), self.find(token)?)))
    }

    /// A connection that was taken in.
    pub fn connection(&self, name: &str) -> Option<&Arc<Connection>> {
        self.connections.get(name)
    }

    /// All connections that were taken in: those that the session uses.
    pub fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.connections.values()
    }

    /// What a guest gets of a connection that was taken in.
    pub fn document(&self, name: &str) -> Option<serde_json::Value> {
        let connection = self.connections.get(name)?;
        Some(connection.document(|field| self.key.token(name, field)))
    }

    /// A field of a connection that was taken in, as a guest gets it.
    pub fn field(&self, name: &str, field: &str) -> Option<String> {
        let connection = self.connections.get(name)?;
        connection.field(field, |field| self.key.token(name, field))
    }
}
