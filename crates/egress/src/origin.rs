//! Whom a request goes to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

/// Scheme, host and port (RFC 6454), all in the one way in which they can be written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin {
    is_https: bool,
    /// In lower case, with brackets if it is an IPv6 address.
    host: String,
    port: u16,
}

impl Origin {
    /// That of an address of the web; `None` for others.
    pub fn of(url: &Url) -> Option<Self> {
        let is_https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        Some(Self {
            is_https,
            host: url.host_str()?.to_owned(),
            port: url.port_or_known_default()?,
        })
    }

    /// Whether requests to it are encrypted.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// Its host, in lower case, with brackets if it is an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(formatter, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl FromStr for Origin {
    type Err = String;

    /// Takes any address of the web, of which it is the beginning.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|error| format!("{text} is no address: {error}"))?;
        Self::of(&url).ok_or_else(|| format!("{text} is no address of the web"))
    }
}

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.to_string()
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
            let origin: Origin = text.trim().parse().unwrap();
            assert_eq!(origin.to_string(), expected);
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
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
