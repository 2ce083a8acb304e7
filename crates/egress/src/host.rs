//! Patterns of hosts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Host;

/// Hosts that are allowed: `api.example.com` (https' own port), `api.example.com:8443`, `api.example.com:*` (all ports),
/// `*.example.com` (all hosts below it, but not itself), `*` (all hosts).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    names: Names,
    port: Port,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    Any,
    Below(String),
    One(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Any,
    One(u16),
}

/// Longest name of a host, in bytes (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
/// https' own port.
pub const HTTPS: u16 = 443;

/// A text that is no pattern of hosts.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a pattern of hosts; write `host`, `host:port`, `host:*`, `*.domain` or `*`")]
pub struct HostPatternError(String);

impl HostPattern {
    /// Whether it has a host on a port. `host` is in lower case, with brackets if it is an IPv6 address.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let is_port = match self.port {
            Port::Any => true,
            Port::One(one) => one == port,
        };
        let is_host = match &self.names {
            Names::Any => true,
            Names::One(one) => host == one,
            Names::Below(domain) => host
                .strip_suffix(domain)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        };
        is_port && is_host
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || HostPatternError(text.chars().take(100).collect());
        let (rest, any_port) = match text.strip_suffix(":*") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (rest, port) = match rest.rsplit_once(':') {
            Some((name, port)) if !rest.ends_with(']') => {
                let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
                let port: Option<u16> = port.parse().ok().filter(|port| is_number && *port > 0);
                (name, Some(port.ok_or_else(error)?))
            }
            _ => (rest, None),
        };
        let port = match (port, any_port) {
            (Some(_), true) => return Err(error()),
            (None, true) => Port::Any,
            (port, false) => Port::One(port.unwrap_or(HTTPS)),
        };
        let host = |text: &str| match Host::parse(text) {
            Ok(host) if text.len() <= MAX_NAME && !text.contains(['%', '*']) => {
                Ok(host.to_string())
            }
            _ => Err(error()),
        };
        let names = match rest.strip_prefix("*.") {
            None if rest == "*" => Names::Any,
            None => Names::One(host(rest)?),
            Some(domain) => Names::Below(host(domain)?),
        };
        Ok(Self { names, port })
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.names {
            Names::Any => formatter.write_str("*")?,
            Names::Below(domain) => write!(formatter, "*.{domain}")?,
            Names::One(host) => formatter.write_str(host)?,
        }
        match self.port {
            Port::Any => formatter.write_str(":*"),
            Port::One(HTTPS) => Ok(()),
            Port::One(port) => write!(formatter, ":{port}"),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_hosts_and_ports() {
        for (pattern, host, port, expected) in [
            ("registry.example.com", "registry.example.com", 443, true),
            ("Registry.example.com", "registry.example.com", 443, true),
            ("registry.example.com", "registry.example.com", 5000, false),
            ("registry.example.com", "a.registry.example.com", 443, false),
            (
                "registry.example.com",
                "registry.example.com.evil.example",
                443,
                false,
            ),
            (
                "registry.example.com:5000",
                "registry.example.com",
                5000,
                true,
            ),
            (
                "registry.example.com:5000",
                "registry.example.com",
                443,
                false,
            ),
            ("registry.example.com:*", "registry.example.com", 1, true),
            ("*.example.com", "a.b.example.com", 443, true),
            ("*.example.com", "a.example.com", 5000, false),
            ("*.example.com:*", "a.example.com", 5000, true),
            ("*.example.com", "example.com", 443, false),
            ("*.example.com", ".example.com", 443, false),
            ("*.example.com", "evilexample.com", 443, false),
            ("*", "anything.example", 443, true),
            ("*", "anything.example", 80, false),
            ("*:*", "[::1]", 80, true),
            ("*:80", "a", 80, true),
            ("[::1]:*", "[::1]", 80, true),
            ("[::1]:5", "[::1]", 5, true),
            ("[::1]", "[::1]", 443, true),
        ] {
            let parsed: HostPattern = pattern.parse().unwrap();
            assert_eq!(
                parsed.matches(host, port),
                expected,
                "{pattern} {host}:{port}"
            );
            assert_eq!(parsed.to_string(), pattern.to_lowercase());
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "*:*:*",
            "*a",
            "*.",
            "a.*",
            "https://a",
            "a/b",
            "a:0",
            "a:b",
            "a:5:*",
            "a b",
            "**.a",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
