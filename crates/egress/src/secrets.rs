//! Secrets, and what guests know in their place.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue};
use memchr::memmem;
use url::Url;
use url::form_urlencoded::byte_serialize;

use crate::error::EgressError;
use crate::origin::Origin;

/// What every placeholder begins with; hexadecimal digits follow, 32 of them.
pub const PLACEHOLDER: &str = "flowcell-secret-";
const DIGITS: usize = 32;
/// Shorter secrets are not looked for in answers: they would be found in what has nothing to do with them.
const SHORTEST: usize = 8;

/// A secret field of a connection.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// What guests have in its place: [`PLACEHOLDER`], and 32 hexadecimal digits.
    pub placeholder: String,
    /// The secret.
    pub value: String,
    /// The connection's name, for messages.
    pub connection: String,
    /// Whom it may go to.
    pub origins: Vec<Origin>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Secret")
            .field("connection", &self.connection)
            .field("value", &"******")
            .finish_non_exhaustive()
    }
}

/// The secrets that a session's requests may carry, and the endpoints of its connections, which may be asked wherever else it
/// may ask.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    by_placeholder: HashMap<String, Secret>,
    endpoints: Vec<Origin>,
}

/// Knows the secrets of a session.
pub trait Keeper: fmt::Debug + Send + Sync {
    /// Those of this moment. It is asked at each request, and must not wait.
    fn secrets(&self) -> Secrets;
}

/// These, whenever.
impl Keeper for Secrets {
    fn secrets(&self) -> Secrets {
        self.clone()
    }
}

/// How a text has to be written where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Json,
    Url,
}

impl Form {
    fn write<'a>(self, value: &'a str) -> Cow<'a, str> {
        match self {
            Self::Plain => value.into(),
            Self::Url => byte_serialize(value.as_bytes()).collect(),
            Self::Json => {
                let quoted = serde_json::Value::from(value).to_string();
                let inner = quoted
                    .strip_prefix('"')
                    .and_then(|rest| rest.strip_suffix('"'));
                inner.unwrap_or_default().to_owned().into()
            }
        }
    }
}

impl Secrets {
    /// Some secrets, and endpoints of connections.
    pub fn new(secrets: impl IntoIterator<Item = Secret>, endpoints: Vec<Origin>) -> Self {
        let secrets = secrets.into_iter();
        Self {
            by_placeholder: secrets.map(|one| (one.placeholder.clone(), one)).collect(),
            endpoints,
        }
    }

    pub(crate) fn is_endpoint(&self, origin: &Origin) -> bool {
        self.endpoints.contains(origin)
    }

    /// Whether any may go to an origin.
    pub(crate) fn has(&self, to: &Origin) -> bool {
        self.by_placeholder
            .values()
            .any(|secret| secret.origins.contains(to))
    }

    /// Puts secrets in the place of their placeholders; `None` when there is none.
    ///
    /// # Errors
    /// When one is not for this origin, or nobody knows it: what a session that was copied has from before, say.
    pub(crate) fn reveal(
        &self,
        bytes: &[u8],
        to: &Origin,
        form: Form,
    ) -> Result<Option<Vec<u8>>, EgressError> {
        let mut revealed = Vec::new();
        let mut done = 0;
        for at in memmem::find_iter(bytes, PLACEHOLDER) {
            let end = at + PLACEHOLDER.len() + DIGITS;
            let name = bytes
                .get(at..end)
                .and_then(|name| std::str::from_utf8(name).ok());
            let secret = name.and_then(|name| self.by_placeholder.get(name));
            let Some(secret) = secret.filter(|secret| secret.origins.contains(to)) else {
                return Err(EgressError::Misplaced {
                    connection: secret.map_or("?", |secret| &secret.connection).to_owned(),
                    to: to.to_string(),
                });
            };
            revealed.extend_from_slice(&bytes[done..at]);
            revealed.extend_from_slice(form.write(&secret.value).as_bytes());
            done = end;
        }
        if done == 0 {
            return Ok(None);
        }
        revealed.extend_from_slice(&bytes[done..]);
        Ok(Some(revealed))
    }

    /// The same for all values of headers. Names and passwords of HTTP's basic authentication (RFC 7617) are looked into.
    pub(crate) fn reveal_headers(
        &self,
        headers: &mut HeaderMap,
        to: &Origin,
    ) -> Result<(), EgressError> {
        let unfit = || EgressError::Denied {
            what: "a header".to_owned(),
            why: "a secret in it has characters that no header can have".to_owned(),
        };
        for (name, value) in headers.iter_mut() {
            // Names are in lower case, as placeholders are.
            self.reveal(name.as_str().as_bytes(), to, Form::Plain)?
                .map_or(Ok(()), |_| Err(unfit()))?;
            let is_authorization = *name == AUTHORIZATION || *name == PROXY_AUTHORIZATION;
            let basic = is_authorization.then(|| basic(value.as_bytes())).flatten();
            let revealed = match basic {
                Some(decoded) => self
                    .reveal(&decoded, to, Form::Plain)?
                    .map(|bytes| format!("Basic {}", STANDARD.encode(bytes)).into_bytes()),
                None => self.reveal(value.as_bytes(), to, Form::Plain)?,
            };
            if let Some(bytes) = revealed {
                *value = HeaderValue::from_bytes(&bytes).map_err(|_| unfit())?;
                value.set_sensitive(true);
            }
        }
        Ok(())
    }

    /// The same for an address: in its query only.
    pub(crate) fn reveal_url(&self, url: &mut Url, to: &Origin) -> Result<(), EgressError> {
        if self.reveal(url.path().as_bytes(), to, Form::Url)?.is_some() {
            return Err(EgressError::Denied {
                what: "a secret in an address's path".to_owned(),
                why: "secrets go into headers, queries, and bodies of JSON or forms".to_owned(),
            });
        }
        let query = url.query().unwrap_or_default();
        let revealed = self.reveal(query.as_bytes(), to, Form::Url)?;
        if let Some(query) = revealed.and_then(|bytes| String::from_utf8(bytes).ok()) {
            url.set_query(Some(&query));
        }
        Ok(())
    }

    /// What stands for the secrets of an origin in its answers.
    pub(crate) fn hidden(&self, from: &Origin) -> Vec<(Vec<u8>, Vec<u8>)> {
        let of = self
            .by_placeholder
            .values()
            .filter(|secret| secret.origins.contains(from));
        let long = of.filter(|secret| secret.value.len() >= SHORTEST);
        let mut hidden: Vec<_> = long
            .map(|secret| {
                let (value, placeholder) = (&secret.value, &secret.placeholder);
                (value.clone().into_bytes(), placeholder.clone().into_bytes())
            })
            .collect();
        // One can begin like another.
        hidden.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        hidden
    }
}

fn basic(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = value.split_at_checked("basic ".len())?;
    let is_basic = scheme.eq_ignore_ascii_case(b"basic ");
    is_basic
        .then(|| STANDARD.decode(rest.trim_ascii()).ok())
        .flatten()
}
