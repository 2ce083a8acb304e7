//! Credentials: what registries, package indexes and endpoints of connections get to know, kept sealed.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{Name, UserName};
use crate::secrets::{Sealed, SecretError, Secrets};
use crate::sign_in::SignIn;
use crate::state::Workspace;

/// Longest token and password, in bytes.
pub const MAX_SECRET: usize = 16 << 10;
/// Longest user name, in bytes.
pub const MAX_USERNAME: usize = 1_024;
/// Longest host with port, in bytes.
const MAX_HOST: usize = 255;

/// What kind of host a credential is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    /// An index of Python packages.
    Index,
    /// A registry of base images.
    Registry,
    /// The endpoint of connections that sign in with an identity (`auth_mode: meid_token`).
    Connection,
}

impl CredentialKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Index, Self::Registry, Self::Connection];

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Registry => "registry",
            Self::Connection => "connection",
        }
    }
}

impl std::str::FromStr for CredentialKind {
    type Err = InvalidCredential;

    fn from_str(text: &str) -> Result<Self, InvalidCredential> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or(InvalidCredential::Kind)
    }
}

/// What is wrong with a credential. No variant shows what was given: it may be a secret at the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCredential {
    /// The kind.
    #[error("the kind of a credential is index, registry or connection")]
    Kind,
    /// The host.
    #[error(
        "a host is like packages.example.com or packages.example.com:8443: without protocol, user, path or '*', and at most 255 characters"
    )]
    Host,
    /// Neither or both of token and password.
    #[error(
        "give token, or username and password; for a connection token, or tenant, client_id and client_secret"
    )]
    Form,
    /// A client of an authority.
    #[error("{0}: 1 to {MAX_SECRET} characters are allowed, without control characters")]
    SignIn(&'static str),
    /// The address of an authority.
    #[error("authority: an address like https://login.microsoftonline.com is expected")]
    Authority,
    /// A token.
    #[error("token: 1 to {MAX_SECRET} visible ASCII characters are allowed")]
    Token,
    /// A user name.
    #[error("username: 1 to {MAX_USERNAME} bytes are allowed, without ':' and control characters")]
    Username,
    /// A password.
    #[error("password: 1 to {MAX_SECRET} bytes are allowed, without control characters")]
    Password,
}

/// A host, exactly: with its port unless that is 443.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialHost(String);

impl CredentialHost {
    /// Reads a host.
    ///
    /// # Errors
    /// When the text is none.
    pub fn new(text: &str) -> Result<Self, InvalidCredential> {
        let fits =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        if text.is_empty() || text.len() > MAX_HOST || !text.chars().all(fits) {
            return Err(InvalidCredential::Host);
        }
        let url = url::Url::parse(&format!("https://{text}/"));
        let url = url.map_err(|_| InvalidCredential::Host)?;
        let host = url.host_str().ok_or(InvalidCredential::Host)?;
        Ok(Self(match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CredentialHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for CredentialHost {
    type Error = InvalidCredential;

    fn try_from(text: String) -> Result<Self, InvalidCredential> {
        Self::new(&text)
    }
}

impl From<CredentialHost> for String {
    fn from(host: CredentialHost) -> Self {
        host.0
    }
}

/// Who holds a credential, in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// An identity of the workspace.
    Identity(Name),
    /// A user, for their own sessions there.
    User(UserName),
}

/// A credential's key from its parts as a request has them.
///
/// # Errors
/// When one is not what it should be.
pub fn credential_key(
    holder: Holder,
    kind: &str,
    host: &str,
) -> Result<CredentialKey, InvalidCredential> {
    let kind: CredentialKind = kind.parse()?;
    Ok((holder, kind, CredentialHost::new(host)?))
}

/// What makes a credential. Printing it shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CredentialSecret {
    /// A token: a registry's or an endpoint's bearer token, or what `{private}` stands for in the address of an index.
    Token(String),
    /// A user's name and password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// Where a token comes from.
    SignIn(Box<SignIn>),
}

impl fmt::Debug for CredentialSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("******")
    }
}

impl CredentialSecret {
    /// Checks what was given.
    ///
    /// # Errors
    /// When it is neither a token nor a name with a password, or one of them is too long or cannot be sent.
    pub fn new(
        token: Option<String>,
        username: Option<String>,
        password: Option<String>,
    ) -> Result<Self, InvalidCredential> {
        let secret = match (token, username, password) {
            (Some(token), None, None) => Self::Token(token),
            (None, Some(username), Some(password)) => Self::Password { username, password },
            _ => return Err(InvalidCredential::Form),
        };
        match &secret {
            Self::Token(token)
                if token.is_empty()
                    || token.len() > MAX_SECRET
                    || !token.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                Err(InvalidCredential::Token)
            }
            Self::Password { username, .. }
                if username.is_empty()
                    || username.len() > MAX_USERNAME
                    || username.contains(|c: char| c == ':' || c.is_control()) =>
            {
                Err(InvalidCredential::Username)
            }
            Self::Password { password, .. }
                if password.is_empty()
                    || password.len() > MAX_SECRET
                    || password.contains(char::is_control) =>
            {
                Err(InvalidCredential::Password)
            }
            _ => Ok(secret),
        }
    }

    /// Checks what gets tokens for a connection.
    ///
    /// # Errors
    /// When a part of it is missing, too long or cannot be sent.
    pub fn sign_in(sign_in: SignIn) -> Result<Self, InvalidCredential> {
        let texts = [
            ("tenant", Some(&sign_in.tenant)),
            ("client_id", Some(&sign_in.client_id)),
            ("client_secret", Some(&sign_in.client_secret)),
            ("scope", sign_in.scope.as_ref()),
            ("authority", sign_in.authority.as_ref()),
        ];
        for (name, text) in texts {
            let is_wrong = |text: &String| {
                text.is_empty() || text.len() > MAX_SECRET || text.contains(char::is_control)
            };
            if text.is_some_and(is_wrong) {
                return Err(InvalidCredential::SignIn(name));
            }
        }
        if sign_in.address().is_err() {
            return Err(InvalidCredential::Authority);
        }
        Ok(Self::SignIn(Box::new(sign_in)))
    }

    /// Whether hosts of a kind take it.
    pub fn fits(&self, kind: CredentialKind) -> bool {
        match self {
            Self::Token(_) => true,
            Self::Password { .. } => kind != CredentialKind::Connection,
            Self::SignIn(_) => kind == CredentialKind::Connection,
        }
    }
}

/// A credential as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCredential {
    /// The workspace.
    pub workspace: Name,
    /// Who holds it.
    pub holder: Holder,
    /// What it is for.
    pub kind: CredentialKind,
    /// The only host that it is sent to.
    pub host: CredentialHost,
    /// Who has set it.
    pub set_by: UserName,
    /// When.
    pub set: Timestamp,
    /// The [`CredentialSecret`], sealed.
    pub sealed: Sealed,
}

/// The key of a credential in its workspace.
pub type CredentialKey = (Holder, CredentialKind, CredentialHost);

impl StoredCredential {
    /// Its key in its workspace.
    pub fn key(&self) -> CredentialKey {
        (self.holder.clone(), self.kind, self.host.clone())
    }

    /// Opens it.
    ///
    /// # Errors
    /// When it was sealed by a key that is not there, or for another place.
    pub(crate) fn open(
        &self,
        workspace: &Workspace,
        secrets: &Secrets,
    ) -> Result<CredentialSecret, SecretError> {
        let place = place(workspace, &self.holder, self.kind, &self.host);
        let place = place.ok_or(SecretError::Broken)?;
        let text = secrets.open(&place, &self.sealed)?;
        serde_json::from_slice(&text).map_err(|_| SecretError::Broken)
    }
}

/// Seals a credential.
///
/// # Errors
/// When there is no such holder, or the system's cryptography fails.
pub(crate) fn seal(
    workspace: &Workspace,
    secrets: &Secrets,
    (holder, kind, host): &CredentialKey,
    secret: &CredentialSecret,
) -> Result<Sealed, SecretError> {
    let place = place(workspace, holder, *kind, host).ok_or(SecretError::Broken)?;
    let text = serde_json::to_vec(secret).map_err(|_| SecretError::System)?;
    secrets.seal(&place, &text)
}

/// What a sealed credential belongs to: one of the same names that is made later is another one.
fn place(
    workspace: &Workspace,
    holder: &Holder,
    kind: CredentialKind,
    host: &CredentialHost,
) -> Option<String> {
    let record = &workspace.record;
    let holder = match holder {
        Holder::Identity(name) => {
            let identity = workspace.identities.get(name)?;
            format!(
                "identity {name} {} {}",
                identity.client_id, identity.created
            )
        }
        Holder::User(user) => format!("user {user}"),
    };
    Some(format!(
        "flowcell credential\n{} {}\n{holder}\n{}\n{host}",
        record.name,
        record.created,
        kind.as_str()
    ))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_exact() {
        for (text, expected) in [
            ("packages.example.com", "packages.example.com"),
            ("Packages.Example.com:443", "packages.example.com"),
            ("127.0.0.1:3141", "127.0.0.1:3141"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(CredentialHost::new(text).unwrap().as_str(), expected);
        }
        for bad in [
            "",
            "https://packages.example.com",
            "token@packages.example.com",
            "packages.example.com/simple",
            "*.example.com",
            "a b",
            "é.example",
            "packages.example.com:x",
            "packages.example.com:99999",
            "::1",
            &"x".repeat(256),
        ] {
            let error = CredentialHost::new(bad).unwrap_err();
            assert_eq!(error, InvalidCredential::Host, "{bad}");
        }
    }

    #[test]
    fn secrets_have_bounds() {
        let text = |length| Some("x".repeat(length));
        assert!(CredentialSecret::new(text(MAX_SECRET), None, None).is_ok());
        assert!(CredentialSecret::new(None, text(MAX_USERNAME), text(MAX_SECRET)).is_ok());
        let some = |text: &str| Some(text.to_owned());
        for (token, username, password, expected) in [
            (None, None, None, InvalidCredential::Form),
            (some("t"), some("u"), some("p"), InvalidCredential::Form),
            (some("t"), None, some("p"), InvalidCredential::Form),
            (None, some("u"), None, InvalidCredential::Form),
            (text(MAX_SECRET + 1), None, None, InvalidCredential::Token),
            (some(""), None, None, InvalidCredential::Token),
            (some("a\nb"), None, None, InvalidCredential::Token),
            (some("é"), None, None, InvalidCredential::Token),
            (None, some("a:b"), some("p"), InvalidCredential::Username),
            (
                None,
                text(MAX_USERNAME + 1),
                some("p"),
                InvalidCredential::Username,
            ),
            (None, some("u"), some(""), InvalidCredential::Password),
            (None, some("u"), some("a\rb"), InvalidCredential::Password),
            (
                None,
                some("u"),
                text(MAX_SECRET + 1),
                InvalidCredential::Password,
            ),
        ] {
            assert_eq!(
                CredentialSecret::new(token, username, password),
                Err(expected)
            );
        }
        let secret = CredentialSecret::new(some("hunter2"), None, None).unwrap();
        assert_eq!(format!("{secret:?}"), "******");
    }
}
