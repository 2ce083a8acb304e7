//! What may be asked.

use http::Method;
use url::{Host, Url};

use crate::address::is_public;
use crate::error::EgressError;
use crate::host::HostPattern;
use crate::origin::Origin;
use crate::secrets::Secrets;

/// What a session may ask.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Hosts.
    pub hosts: Vec<HostPattern>,
    /// Hosts that may have addresses which are not public. Only whoever runs the host can know which.
    pub private: Vec<HostPattern>,
    /// Whether the endpoints of connections may have such addresses: where connections are made by whoever runs the host.
    pub private_endpoints: bool,
    /// Methods; all when there is no list.
    pub methods: Option<Vec<Method>>,
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
        let is_listed = self
            .hosts
            .iter()
            .any(|pattern| pattern.matches(origin.host(), origin.port()));
        if !is_listed && !secrets.is_endpoint(&origin) {
            return Err(EgressError::Denied {
                what: format!("{}:{}", origin.host(), origin.port()),
                why: "it is not among the allowed hosts, and no connection of the flow leads there"
                    .to_owned(),
            });
        }
        let is_method = |methods: &Vec<Method>| methods.contains(method);
        if !self.methods.as_ref().is_none_or(is_method) {
            return Err(EgressError::Denied {
                what: format!("the method {method}"),
                why: "it is not among the allowed ones".to_owned(),
            });
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
