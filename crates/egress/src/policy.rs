//! What may be asked.

use http::Method;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::address::is_public;
use crate::error::EgressError;
use crate::exchange::short;
use crate::host::HostPattern;
use crate::origin::Origin;
use crate::secrets::Secrets;

/// Host patterns that a rule may have.
pub const MAX_HOSTS: usize = 500;
/// Methods that a rule may have.
pub const MAX_METHODS: usize = 50;
/// Bytes of all host patterns of a rule: rules are kept with each session, and go along with each call.
pub const MAX_RULE: usize = 16 << 10;
/// Longest method, in bytes.
const MAX_METHOD: usize = 50;

/// Which requests are allowed. What is absent is no limit; an empty list allows nothing. Endpoints of connections that the
/// flow uses are allowed whatever rules say: whoever made the connection has allowed them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Hosts, with their ports.
    pub allowed_hosts: Option<Vec<HostPattern>>,
    /// Methods, as they are sent: `GET`.
    pub allowed_methods: Option<Vec<String>>,
}

/// A rule that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Too many hosts.
    #[error("allowed_hosts: {0} hosts, and {MAX_HOSTS} are allowed")]
    Hosts(usize),
    /// Too long.
    #[error("allowed_hosts: {0} bytes, and {MAX_RULE} are allowed")]
    Bytes(usize),
    /// Too many methods.
    #[error("allowed_methods: {0} methods, and {MAX_METHODS} are allowed")]
    Methods(usize),
    /// No method.
    #[error("allowed_methods: '{0}' is no method; write them as they are sent, like GET")]
    Method(String),
}

impl Rule {
    /// Whether it allows everything.
    pub fn is_empty(&self) -> bool {
        self.allowed_hosts.is_none() && self.allowed_methods.is_none()
    }

    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), RuleError> {
        let hosts = self.allowed_hosts.as_ref().map_or(0, Vec::len);
        if hosts > MAX_HOSTS {
            return Err(RuleError::Hosts(hosts));
        }
        let patterns = self.allowed_hosts.iter().flatten();
        let bytes = patterns.map(|pattern| pattern.to_string().len()).sum();
        if bytes > MAX_RULE {
            return Err(RuleError::Bytes(bytes));
        }
        let methods = self.allowed_methods.as_deref().unwrap_or_default();
        if methods.len() > MAX_METHODS {
            return Err(RuleError::Methods(methods.len()));
        }
        // Methods are told from each other by case (RFC 9110, 9.1), so `get` would allow nothing that anybody sends.
        let is_method = |method: &&String| {
            method.len() <= MAX_METHOD
                && Method::from_bytes(method.as_bytes()).is_ok()
                && !method.bytes().any(|byte| byte.is_ascii_lowercase())
        };
        match methods.iter().find(|method| !is_method(method)) {
            Some(wrong) => Err(RuleError::Method(wrong.chars().take(MAX_METHOD).collect())),
            None => Ok(()),
        }
    }

    fn allows_host(&self, origin: &Origin) -> bool {
        let matches = |pattern: &HostPattern| pattern.matches(origin.host(), origin.port());
        let hosts = self.allowed_hosts.as_ref();
        hosts.is_none_or(|hosts| hosts.iter().any(matches))
    }

    fn allows_method(&self, method: &Method) -> bool {
        let methods = self.allowed_methods.as_ref();
        methods.is_none_or(|methods| methods.iter().any(|one| one == method.as_str()))
    }
}

/// What a session may ask: what all of the rules allow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Rules, with who has made each: `the server`, `the workspace`.
    pub rules: Vec<(&'static str, Rule)>,
    /// Hosts that may have addresses which are not public. Only whoever runs the host can know which.
    pub private: Vec<HostPattern>,
    /// Whether the endpoints of connections may have such addresses: where connections are made by whoever runs the host.
    pub private_endpoints: bool,
}

impl Policy {
    /// Whom a request is for, if it may be made as far as its address and method tell.
    ///
    /// # Errors
    /// Why it may not.
    pub(crate) fn check(
        &self,
        method: &Method,
        url: &Url,
        secrets: &Secrets,
    ) -> Result<Origin, EgressError> {
        let address = || EgressError::Address(shown(url));
        let origin = Origin::of(url).ok_or_else(address)?;
        // `https://good.example@evil.example/` misleads readers, and who it is meant for.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(address());
        }
        if !secrets.is_endpoint(&origin) {
            for (whose, rule) in &self.rules {
                if !rule.allows_host(&origin) {
                    return Err(EgressError::Denied {
                        what: format!("{}:{}", origin.host(), origin.port()),
                        why: format!(
                            "it is not among the hosts that {whose} allows, and no connection of the flow leads there"
                        ),
                    });
                }
                if !rule.allows_method(method) {
                    return Err(EgressError::Denied {
                        what: format!("the method {}", short(method.as_str())),
                        why: format!("it is not among the methods that {whose} allows"),
                    });
                }
            }
        }
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(_)) | None => None,
        };
        match literal {
            Some(address) if !is_public(address) && !self.may_be_private(&origin, secrets) => {
                Err(EgressError::Private {
                    host: origin.host().to_owned(),
                })
            }
            _ => Ok(origin),
        }
    }

    /// Whether a host may have an address that is not public.
    pub(crate) fn may_be_private(&self, origin: &Origin, secrets: &Secrets) -> bool {
        let matches = |pattern: &HostPattern| pattern.matches(origin.host(), origin.port());
        self.private.iter().any(matches) || (self.private_endpoints && secrets.is_endpoint(origin))
    }
}

/// An address without what may be a secret in it.
pub(crate) fn shown(url: &Url) -> String {
    let scheme = url.scheme();
    match url.host_str() {
        Some(host) => format!("{scheme}://{host}"),
        None => scheme.to_owned(),
    }
}
