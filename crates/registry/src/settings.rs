//! What a client may do, and how much of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::RegistryError;
use crate::place::Place;
use crate::reference::{self, ImageReference};

/// What a client may do, and how much of it. All limits are enforced, whatever a registry announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Most bytes of a manifest. 4 MiB, which the OCI distribution specification asks registries to accept at least
    /// ("Pushing manifests").
    pub max_manifest: u64,
    /// Most bytes of a config. 4 MiB.
    pub max_config: u64,
    /// Most bytes of a blob. 4 GiB.
    pub max_blob: u64,
    /// Most bytes of an artifact: of the config and all layers that a manifest names, or of all blobs of one call. 8 GiB.
    pub max_artifact: u64,
    /// Most layers of a manifest, and blobs of one call. 128.
    pub max_layers: usize,
    /// Most tags of a listing. 10,000.
    pub max_tags: usize,
    /// Blobs that are moved at the same time, by all uses of a client together; at least 1. 4.
    pub max_transfers: usize,
    /// How often a failed request is tried again. 4.
    pub retries: u32,
    /// The wait before the first of these; it doubles from one to the next. Of each wait, a random half or less is left
    /// out. 500 ms.
    pub retry_delay: Duration,
    /// The longest wait between two tries. 10 s.
    pub max_retry_delay: Duration,
    /// The longest rest that a registry can ask for (`Retry-After`); if it wants more, it is not tried again. 60 s.
    pub max_retry_after: Duration,
    /// How long a connection may take to be made. 10 s.
    pub connect_timeout: Duration,
    /// How long nothing may come, or be taken. 60 s.
    pub idle_timeout: Duration,
    /// How long one call may take, with all its tries; for [`pull_blobs`](crate::Client::pull_blobs) each blob. 1 h.
    pub whole_timeout: Duration,
    /// The registries that may be used; any if there is no list.
    pub registries: Option<Vec<HostPattern>>,
    /// The hosts that a registry may refer to for tokens, content and uploads, besides itself; any if there is no list.
    pub other_hosts: Option<Vec<HostPattern>>,
    /// Certificates (PEM, one or more in each) of authorities that are trusted besides the system's.
    pub root_certificates: Vec<Vec<u8>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_manifest: 4 << 20,
            max_config: 4 << 20,
            max_blob: 4 << 30,
            max_artifact: 8 << 30,
            max_layers: 128,
            max_tags: 10_000,
            max_transfers: 4,
            retries: 4,
            retry_delay: Duration::from_millis(500),
            max_retry_delay: Duration::from_secs(10),
            max_retry_after: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            whole_timeout: Duration::from_secs(3600),
            registries: None,
            other_hosts: None,
            root_certificates: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether the registry of an image may be used.
    pub fn allows(&self, image: &ImageReference) -> bool {
        let matches = |allowed: &Vec<HostPattern>| {
            Place::of(image).is_ok_and(|place| place.origin().matches(allowed))
        };
        self.registries.as_ref().is_none_or(matches)
    }

    /// # Errors
    /// When nothing could be done with them.
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        let timeouts = [self.connect_timeout, self.idle_timeout, self.whole_timeout];
        if self.max_transfers == 0 {
            return Err(RegistryError::Settings(
                "`max_transfers` must be 1 or more".to_owned(),
            ));
        }
        if timeouts.iter().any(Duration::is_zero) {
            return Err(RegistryError::Settings(
                "timeouts must be longer than 0".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Hosts that are allowed: `registry.example.com` (https' own port), `registry.example.com:5000`, `registry.example.com:*`
/// (all ports), `*.example.com` (all hosts below it, but not itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    below: bool,
    host: String,
    port: Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Any,
    One(u16),
}

/// https' own port.
pub(crate) const HTTPS: u16 = 443;

/// A text that is no pattern of hosts.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a pattern of hosts; write `host`, `host:port`, `host:*` or `*.domain`")]
pub struct HostPatternError(String);

impl HostPattern {
    /// `host` is in lower case, with brackets if it is an IPv6 address.
    pub(crate) fn matches(&self, host: &str, port: u16) -> bool {
        let is_port = match self.port {
            Port::Any => true,
            Port::One(one) => one == port,
        };
        let is_host = if self.below {
            host.strip_suffix(&self.host)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        } else {
            host == self.host
        };
        is_port && is_host
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || HostPatternError(text.chars().take(100).collect());
        let (below, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (rest, any_port) = match rest.strip_suffix(":*") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let host = reference::registry(rest).ok_or_else(error)?;
        let (host, port) = split_port(&host);
        if any_port && port.is_some() {
            return Err(error());
        }
        Ok(Self {
            below,
            host: host.to_owned(),
            port: match port {
                None if any_port => Port::Any,
                port => Port::One(port.unwrap_or(HTTPS)),
            },
        })
    }
}

/// A registry's host and its port, if it has one.
pub(crate) fn split_port(registry: &str) -> (&str, Option<u16>) {
    match registry.rsplit_once(':') {
        Some((host, port)) if !registry.ends_with(']') => (host, port.parse().ok()),
        _ => (registry, None),
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        write!(formatter, "{below}{}", self.host)?;
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
            "*",
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

    #[test]
    fn settings_that_allow_nothing_are_refused() {
        let settings = Settings {
            max_transfers: 0,
            ..Settings::default()
        };
        assert!(settings.check().is_err());
        let settings = Settings {
            idle_timeout: Duration::ZERO,
            ..Settings::default()
        };
        assert!(settings.check().is_err());
        assert!(Settings::default().check().is_ok());
    }
}
