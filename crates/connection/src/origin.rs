//! Where a connection's secrets may be sent.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

/// A place on the network: scheme, host and port, as RFC 6454 has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: String,
    /// The host, in lower case; an IPv6 address stands in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Origin {
    /// The origin of an http or https URL; `None` for anything else.
    pub fn of(text: &str) -> Option<Self> {
        let url = Url::parse(text.trim()).ok()?;
        if !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        Some(Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str().filter(|host| !host.is_empty())?.to_owned(),
            port: url.port_or_known_default()?,
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact() {
        for (text, expected) in [
            (
                "https://x.openai.azure.com/",
                "https://x.openai.azure.com:443",
            ),
            ("HTTP://Example.COM/a?b", "http://example.com:80"),
            ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080"),
            ("https://[::1]:8443", "https://[::1]:8443"),
            ("http://2130706433/", "http://127.0.0.1:80"),
            (" https://a.example@b.example/ ", "https://b.example:443"),
        ] {
            assert_eq!(Origin::of(text).unwrap().to_string(), expected);
        }
        for text in [
            "",
            "x",
            "example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "https://",
            "//a.example",
        ] {
            assert_eq!(Origin::of(text), None, "{text}");
        }
    }
}
