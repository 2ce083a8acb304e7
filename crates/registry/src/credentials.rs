//! What a client proves itself with.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::error::RegistryError;
use crate::reference;

/// What a client proves itself with, and to which registry.
///
/// They are sent to this registry only and, for a token, to the address that the registry names for that. Printing them
/// shows no secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Anonymous,
    Basic {
        registry: String,
        user: String,
        password: String,
    },
    Bearer {
        registry: String,
        token: String,
    },
}

impl Credentials {
    /// None.
    pub fn anonymous() -> Self {
        Self(Kind::Anonymous)
    }

    /// A user's name and password, or what the registry gives out in place of a password. `registry` is written as in an
    /// [`ImageReference`](crate::ImageReference): `host` or `host:port`.
    ///
    /// # Errors
    /// When `registry` is not a registry's host, or the user's name contains a `:` (RFC 7617).
    pub fn basic(
        registry: &str,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> Result<Self, RegistryError> {
        let (user, password) = (user.into(), password.into());
        if user.contains(':') {
            return Err(RegistryError::Settings(
                "the name of a registry's user must not contain `:`".to_owned(),
            ));
        }
        Ok(Self(Kind::Basic {
            registry: host(registry)?,
            user,
            password,
        }))
    }

    /// A token that is sent as it is.
    ///
    /// # Errors
    /// When `registry` is not a registry's host, or the token has characters other than visible ASCII (RFC 6750).
    pub fn bearer(registry: &str, token: impl Into<String>) -> Result<Self, RegistryError> {
        let token = token.into();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(RegistryError::Settings(
                "a registry's token must have visible ASCII characters only".to_owned(),
            ));
        }
        Ok(Self(Kind::Bearer {
            registry: host(registry)?,
            token,
        }))
    }

    /// The registry that they are for; `None` if there are none.
    pub fn registry(&self) -> Option<&str> {
        match &self.0 {
            Kind::Anonymous => None,
            Kind::Basic { registry, .. } | Kind::Bearer { registry, .. } => Some(registry),
        }
    }

    /// The value of an `Authorization` header with user and password.
    pub(crate) fn basic_header(&self) -> Option<String> {
        match &self.0 {
            Kind::Basic { user, password, .. } => {
                let encoded = STANDARD.encode(format!("{user}:{password}"));
                Some(format!("Basic {encoded}"))
            }
            Kind::Anonymous | Kind::Bearer { .. } => None,
        }
    }

    /// The value of an `Authorization` header with the token.
    pub(crate) fn bearer_header(&self) -> Option<String> {
        match &self.0 {
            Kind::Bearer { token, .. } => Some(format!("Bearer {token}")),
            Kind::Anonymous | Kind::Basic { .. } => None,
        }
    }

    /// Tells them from others without keeping them.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let (kind, parts) = match &self.0 {
            Kind::Anonymous => ("anonymous", ["", "", ""]),
            Kind::Basic {
                registry,
                user,
                password,
            } => ("basic", [registry.as_str(), user, password]),
            Kind::Bearer { registry, token } => ("bearer", [registry.as_str(), token, ""]),
        };
        let mut hasher = Sha256::new();
        for part in [kind].iter().chain(&parts) {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().into()
    }
}

fn host(text: &str) -> Result<String, RegistryError> {
    reference::registry(text).ok_or_else(|| {
        let start: String = text.chars().take(100).collect();
        RegistryError::Settings(format!(
            "`{start}` is not the host of a registry, `host` or `host:port`"
        ))
    })
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Anonymous => "anonymous",
            Kind::Basic { .. } => "basic",
            Kind::Bearer { .. } => "bearer",
        };
        formatter
            .debug_struct("Credentials")
            .field("kind", &kind)
            .field("registry", &self.registry())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn printing_shows_no_secrets() {
        let basic = Credentials::basic("R.example.com", "ana", "opensesame").unwrap();
        let bearer = Credentials::bearer("r.example.com:5000", "opensesame").unwrap();
        for (credentials, registry) in [(basic, "r.example.com"), (bearer, "r.example.com:5000")] {
            let text = format!("{credentials:?} {credentials:#?}");
            assert!(
                text.contains(registry) && !text.contains("opensesame"),
                "{text}"
            );
            assert!(!text.contains("ana"), "{text}");
        }
    }

    #[test]
    fn others_have_another_fingerprint() {
        let all = [
            Credentials::anonymous(),
            Credentials::basic("r.example.com", "a", "bc").unwrap(),
            Credentials::basic("r.example.com", "ab", "c").unwrap(),
            Credentials::bearer("r.example.com", "abc").unwrap(),
            Credentials::bearer("s.example.com", "abc").unwrap(),
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                assert_eq!(one.fingerprint() == other.fingerprint(), at == other_at);
            }
        }
    }

    #[test]
    fn what_does_not_fit_into_a_header_is_refused() {
        assert!(Credentials::bearer("r.example.com", "a\r\nb").is_err());
        assert!(Credentials::bearer("r.example.com", "").is_err());
        assert!(Credentials::basic("r.example.com", "a:b", "c").is_err());
        assert!(Credentials::basic("https://r.example.com", "a", "c").is_err());
        let any = Credentials::basic("r.example.com", "a", "b\r\nc").unwrap();
        assert_eq!(any.basic_header().unwrap(), "Basic YTpiDQpj");
    }
}
