//! Whom a request is for, and whom it goes to.

use std::fmt;
use std::net::IpAddr;

use flowcell_egress::{HTTPS, HostPattern};
use reqwest::Url;

use crate::error::RegistryError;
use crate::reference::ImageReference;

/// Whom a request is for.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The image.
    pub(crate) image: ImageReference,
    /// The image, as errors name it.
    pub(crate) name: String,
    /// The registry's root.
    base: Url,
}

impl Place {
    /// Plain HTTP is for registries on the same machine only: nobody is on the way who could read or change it.
    ///
    /// # Errors
    /// When the registry's host makes no address.
    pub(crate) fn of(image: &ImageReference) -> Result<Self, RegistryError> {
        let registry = image.registry();
        let scheme = if is_loopback(split_port(registry).0) {
            "http"
        } else {
            "https"
        };
        let base = Url::parse(&format!("{scheme}://{registry}/"));
        let base = base.map_err(|error| RegistryError::Settings(format!("{registry}: {error}")))?;
        Ok(Self {
            image: image.clone(),
            name: image.to_string(),
            base,
        })
    }

    pub(crate) fn registry(&self) -> &str {
        self.image.registry()
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin::of(&self.base)
    }

    /// The address of something of this image's repository.
    ///
    /// # Errors
    /// When it makes no address.
    pub(crate) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let path = format!("/v2/{}/{path}", self.image.repository());
        let url = self.base.join(&path);
        url.map_err(|error| self.answer(format!("{path} makes no address: {error}")))
    }

    pub(crate) fn answer(&self, message: impl Into<String>) -> RegistryError {
        RegistryError::Answer {
            reference: self.name.clone(),
            registry: self.registry().to_owned(),
            message: message.into(),
        }
    }

    pub(crate) fn too_large(
        &self,
        what: impl Into<String>,
        limit: u64,
        unit: &'static str,
    ) -> RegistryError {
        RegistryError::TooLarge {
            reference: self.name.clone(),
            what: what.into(),
            limit,
            unit,
        }
    }
}

/// Scheme, host and port: whom a request goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    pub(crate) fn of(url: &Url) -> Self {
        Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default().unwrap_or(HTTPS),
        }
    }

    pub(crate) fn matches(&self, patterns: &[HostPattern]) -> bool {
        let matches = |pattern: &HostPattern| pattern.matches(&self.host, self.port);
        patterns.iter().any(matches)
    }

    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// A registry's host and its port, if it has one.
fn split_port(registry: &str) -> (&str, Option<u16>) {
    match registry.rsplit_once(':') {
        Some((host, port)) if !registry.ends_with(']') => (host, port.parse().ok()),
        _ => (registry, None),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn place(image: &str) -> Place {
        Place::of(&image.parse().unwrap()).unwrap()
    }

    #[test]
    fn plain_http_is_for_the_same_machine_only() {
        for (image, base) in [
            ("localhost/a", "http://localhost/v2/a/x"),
            ("localhost:5000/a", "http://localhost:5000/v2/a/x"),
            ("127.8.9.1:5000/a", "http://127.8.9.1:5000/v2/a/x"),
            ("[::1]:5000/a", "http://[::1]:5000/v2/a/x"),
            (
                "registry.example.com/a",
                "https://registry.example.com/v2/a/x",
            ),
            (
                "localhost.example.com/a",
                "https://localhost.example.com/v2/a/x",
            ),
            (
                "127.0.0.1.example.com/a",
                "https://127.0.0.1.example.com/v2/a/x",
            ),
            ("192.0.2.1:80/a", "https://192.0.2.1:80/v2/a/x"),
            ("[::2]/a", "https://[::2]/v2/a/x"),
            ("[::ffff:127.0.0.1]/a", "https://[::ffff:7f00:1]/v2/a/x"),
        ] {
            assert_eq!(place(image).url("x").unwrap().as_str(), base);
        }
    }
}
