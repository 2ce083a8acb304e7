//! How package indexes are reached: the resolver's own client, behind a guard.
//!
//! Requirements come from flows, so a line can name any address. The guard looks at each request, and at each redirect:
//! whether the host may be asked at all, by which protocol, and whether its addresses are public; it adds the credentials
//! that are for this host, and lets no answer grow without end.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowcell_bundle::{Lease, chain};
use flowcell_egress::is_public;
use flowcell_registry::{Credentials as RegistryCredentials, RegistryError};
use http_body_util::Limited;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Request, Response, ResponseBuilderExt as _, Url};
use reqwest_middleware::{Middleware, Next};
use serde::{Deserialize, Serialize};
use uv_cache::Cache;
use uv_client::{
    AuthIntegration, BaseClientBuilder, Connectivity, ExtraMiddleware, RegistryClient,
    RegistryClientBuilder,
};
use uv_configuration::IndexStrategy;
use uv_distribution_types::{Index, IndexLocations, IndexUrl};

use crate::error::EnvironmentError;

/// Bytes of an answer that is no wheel.
const MAX_ANSWER: u64 = 64 << 20;
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// Times that a request is repeated after an answer that says to come again, or a lost connection.
const RETRIES: u32 = 3;
const CONNECT: Duration = Duration::from_secs(10);

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexSettings {
    /// The index that is asked where requirements name none (`--index-url`); the Python Package Index without it.
    pub index_url: Option<String>,
    /// Indexes that are asked before that one (`--extra-index-url`).
    pub extra_index_urls: Vec<String>,
    /// The only hosts that may be asked; any, when it is empty. A host stands with its port (`host:8080`) unless that is
    /// the protocol's own.
    pub allowed_hosts: Vec<String>,
    /// Hosts that may have private addresses, and speak http; `localhost` and the loopback addresses among them only if
    /// they are listed.
    pub trusted_hosts: Vec<String>,
    /// Whether any host may have a private address: for whoever runs only their own flows.
    pub private_addresses: bool,
    /// Places in registries where component packages are (`registry.example.com/tools`), in the order in which they are
    /// asked, and before any index of Python's.
    pub component_indexes: Vec<String>,
    /// Bytes of a wheel.
    pub wheel_bytes: u64,
    /// Seconds in which nothing may come before a request has failed.
    pub read_seconds: u64,
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            index_url: None,
            extra_index_urls: Vec::new(),
            allowed_hosts: Vec::new(),
            trusted_hosts: Vec::new(),
            private_addresses: false,
            component_indexes: Vec::new(),
            wheel_bytes: 256 << 20,
            read_seconds: 30,
        }
    }
}

/// What a host gets to know to let a session in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The user; for a token, whatever the host expects.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Credential")
    }
}

impl Credential {
    /// As a registry is shown it: `host` or `host:port`.
    ///
    /// # Errors
    /// When it has what cannot be sent.
    pub fn for_registry(&self, registry: &str) -> Result<RegistryCredentials, RegistryError> {
        match self.password.as_str() {
            "" => RegistryCredentials::bearer(registry, self.username.as_str()),
            password => RegistryCredentials::basic(registry, self.username.as_str(), password),
        }
    }

    /// A token, as pip sends it for `https://TOKEN@host/`: in place of the user's name, without a password.
    pub fn token(token: String) -> Self {
        Self {
            username: token,
            password: String::new(),
        }
    }
}

/// Credentials by host, which stands with its port unless that is the protocol's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    hosts: BTreeMap<String, Credential>,
    /// For registries of component packages.
    #[serde(default)]
    registries: BTreeMap<String, Credential>,
    /// A digest of what marks them; empty without any.
    scope: String,
}

impl Credentials {
    /// Adds one for a host, in place of any other. `mark` tells it from all others, and must tell nothing of it: a hash of it
    /// is on the disk.
    pub fn add(&mut self, host: String, credential: Credential, mark: &str) {
        self.mark(&host, mark);
        self.hosts.insert(host, credential);
    }

    /// The same for a registry of component packages.
    pub fn add_registry(&mut self, host: String, credential: Credential, mark: &str) {
        self.mark(&format!("registry {host}"), mark);
        self.registries.insert(host, credential);
    }

    fn mark(&mut self, what: &str, mark: &str) {
        let text = format!("{}\n{what}\n{mark}", self.scope);
        let digest = flowcell_bundle::Digest::of(text.as_bytes());
        self.scope = digest.hex().to_string();
    }

    /// What is for a registry.
    pub(crate) fn registry(&self, host: &str) -> Option<&Credential> {
        self.registries.get(host)
    }

    /// Names them, without telling them: what one set of credentials brought is not for another. Empty without any.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Whether there is one for a host.
    pub fn has(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }
}

/// Which requests are let through.
struct Guard {
    settings: IndexSettings,
    credentials: Credentials,
}

impl Guard {
    /// Why a request to this address is not made.
    fn refusal(&self, url: &Url) -> Option<String> {
        let host = host(url)?;
        let listed = |list: &[String]| list.iter().any(|one| one.eq_ignore_ascii_case(&host));
        let is_trusted = listed(&self.settings.trusted_hosts);
        if !self.settings.allowed_hosts.is_empty()
            && !is_trusted
            && !listed(&self.settings.allowed_hosts)
        {
            return Some(format!(
                "{host} is not among the hosts that packages may come from: {}",
                self.settings.allowed_hosts.join(", ")
            ));
        }
        match url.scheme() {
            "https" => {}
            "http" if is_trusted => {}
            "http" => {
                return Some(format!(
                    "{host} would be asked without encryption; use https, or have the operator list it under trusted_hosts"
                ));
            }
            other => return Some(format!("{host} cannot be asked by {other}; use https")),
        }
        let address = match url.host() {
            Some(url::Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(url::Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        match address {
            Some(address)
                if !is_trusted && !self.settings.private_addresses && !is_public(address) =>
            {
                Some(private(&host))
            }
            _ => None,
        }
    }
}

fn private(host: &str) -> String {
    format!(
        "{host} has an address in a private network; the operator can list it under trusted_hosts"
    )
}

/// The host of an address as lists have it.
pub(crate) fn host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// Looks names up, and keeps back what is not public. The addresses that it gives are those that are connected to.
struct PublicAddresses(Arc<Guard>);

impl Guard {
    /// The addresses of a host that may be connected to.
    async fn addresses(&self, host: &str) -> std::io::Result<Vec<SocketAddr>> {
        let trusted = &self.settings.trusted_hosts;
        let names = |one: &String| {
            one.rsplit_once(':')
                .map_or(one.as_str(), |(name, _)| name)
                .eq_ignore_ascii_case(host)
        };
        let is_trusted = self.settings.private_addresses || trusted.iter().any(names);
        let found = tokio::net::lookup_host((host, 0)).await?;
        let found = found.filter(|address| is_trusted || is_public(address.ip()));
        let found: Vec<SocketAddr> = found.collect();
        if found.is_empty() {
            return Err(std::io::Error::new(
                std::io::ErrorKind::PermissionDenied,
                private(host),
            ));
        }
        Ok(found)
    }
}

impl Guard {
    /// What is said when an index does not let anybody in.
    fn unauthorized(&self, url: &Url) -> String {
        let host = host(url).unwrap_or_default();
        let why = if self.credentials.has(&host) {
            "does not take the credentials that there are for it"
        } else {
            "lets in only those it knows, and there are no credentials for it"
        };
        format!(
            "{host} {why} (401 Unauthorized); set them for the session's identity: `flowcell credential set {host} --kind index`"
        )
    }
}

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Arc::clone(&self.0);
        Box::pin(async move {
            let found = guard.addresses(name.as_str()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[async_trait::async_trait]
impl Middleware for Guard {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut http::Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let refused = |why: String| reqwest_middleware::Error::Middleware(Refused(why).into());
        if let Some(why) = self.refusal(request.url()) {
            return Err(refused(why));
        }
        // The same question again when it connects; this answer is an error that says more, and is not tried again.
        if let Some(url::Host::Domain(name)) = request.url().host()
            && let Err(error) = self.addresses(name).await
            && error.kind() == std::io::ErrorKind::PermissionDenied
        {
            return Err(refused(error.to_string()));
        }
        let credential = host(request.url()).and_then(|host| self.credentials.hosts.get(&host));
        if let Some(credential) = credential
            && !request.headers().contains_key(http::header::AUTHORIZATION)
        {
            request.headers_mut().insert(
                http::header::AUTHORIZATION,
                credential.header().map_err(refused)?,
            );
        }
        let most = if request.url().path().ends_with(".whl") {
            self.settings.wheel_bytes
        } else {
            MAX_ANSWER
        };
        let response = next.run(request, extensions).await?;
        if response.status() == http::StatusCode::UNAUTHORIZED {
            return Err(refused(self.unauthorized(response.url())));
        }
        if response
            .content_length()
            .is_some_and(|length| length > most)
        {
            return Err(refused(format!(
                "{} is larger than {most} bytes",
                response.url().path()
            )));
        }
        let url = response.url().clone();
        let (parts, body) = http::Response::from(response).into_parts();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut limited = http::Response::builder()
            .status(parts.status)
            .version(parts.version)
            .url(url);
        if let Some(headers) = limited.headers_mut() {
            *headers = parts.headers;
        }
        let limited = limited
            .body(reqwest::Body::wrap(Limited::new(body, most)))
            .map_err(|error| refused(error.to_string()))?;
        Ok(limited.into())
    }
}

impl Credential {
    /// Basic authentication (RFC 7617).
    fn header(&self) -> Result<http::HeaderValue, String> {
        use base64::Engine as _;
        let pair = format!("{}:{}", self.username, self.password);
        let text = format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(pair)
        );
        let mut value = http::HeaderValue::from_str(&text).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// A request that was not made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// A client of the indexes, and where they are.
pub(crate) struct Indexes {
    pub(crate) client: RegistryClient,
    pub(crate) locations: IndexLocations,
    /// Keeps the folder with their answers.
    _lease: Lease,
}

impl Indexes {
    /// Opens a client whose answers are kept in the folder `cache`, which `lease` is for. `lines` are the indexes that the requirements name:
    /// first the one in place of the host's, then those beside it.
    ///
    /// # Errors
    /// When an address is none, or is not to be asked.
    pub(crate) async fn open(
        settings: &IndexSettings,
        credentials: &Credentials,
        lines: (Option<String>, Vec<String>),
        no_index: bool,
        (cache, lease): (&Path, Lease),
    ) -> Result<Self, EnvironmentError> {
        let guard = Arc::new(Guard {
            settings: settings.clone(),
            credentials: credentials.clone(),
        });
        let wrong = |url: &str, why: String| {
            EnvironmentError::Index(format!("the index {}: {why}", without_secrets(url)))
        };
        let parse = |url: &str| -> Result<IndexUrl, EnvironmentError> {
            let parsed = Url::parse(url).map_err(|error| wrong(url, error.to_string()))?;
            if let Some(why) = guard.refusal(&parsed) {
                return Err(wrong(url, why));
            }
            IndexUrl::parse(url, None).map_err(|error| wrong(url, error.to_string()))
        };
        let mut indexes = Vec::new();
        for url in lines.1.iter().chain(&settings.extra_index_urls) {
            indexes.push(Index::from_extra_index_url(parse(url)?));
        }
        if let Some(url) = lines.0.as_ref().or(settings.index_url.as_ref()) {
            indexes.push(Index::from_index_url(parse(url)?));
        }
        let locations = IndexLocations::new(indexes, Vec::new(), no_index);
        // Also the one that nobody has named.
        for index in locations.indexes() {
            if let Some(why) = guard.refusal(index.raw_url()) {
                return Err(wrong(index.raw_url().as_str(), why));
            }
        }
        let failed = |error: &dyn std::error::Error| {
            EnvironmentError::Host(format!("no client for package indexes: {}", chain(error)))
        };
        let redirects = Arc::clone(&guard);
        let policy = reqwest::redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error("too many redirects");
            }
            match redirects.refusal(attempt.url()) {
                Some(why) => attempt.error(Refused(why)),
                None => attempt.follow(),
            }
        });
        let read = Duration::from_secs(settings.read_seconds);
        let http = reqwest::Client::builder()
            .user_agent(concat!("flowcell/", env!("CARGO_PKG_VERSION")))
            .redirect(policy)
            .no_proxy()
            .dns_resolver(Arc::new(PublicAddresses(Arc::clone(&guard))))
            .connect_timeout(CONNECT)
            .read_timeout(read)
            .build()
            .map_err(|error| failed(&error))?;
        let base = BaseClientBuilder::new(
            Connectivity::Online,
            true,
            Vec::new(),
            Default::default(),
            read,
            CONNECT,
            RETRIES,
        );
        let base = base
            .custom_client(http)
            .auth_integration(AuthIntegration::NoAuthMiddleware)
            .extra_middleware(ExtraMiddleware(vec![guard]));
        let cache = Cache::from_path(cache).init().await;
        let cache = cache.map_err(|error| failed(&error))?;
        let client = RegistryClientBuilder::new(base, cache)
            .index_locations(locations.clone())
            .index_strategy(IndexStrategy::FirstIndex)
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Self {
            client,
            locations,
            _lease: lease,
        })
    }
}

/// An address without what may be a secret in it.
pub(crate) fn without_secrets(url: &str) -> String {
    match uv_redacted::DisplaySafeUrl::parse(url) {
        Ok(url) => url.to_string(),
        Err(_) => "(not an address)".to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn refusal(settings: IndexSettings, url: &str) -> Option<String> {
        let guard = Guard {
            settings,
            credentials: Credentials::default(),
        };
        guard.refusal(&Url::parse(url).unwrap())
    }

    #[test]
    fn hosts_that_are_not_to_be_asked() {
        let only = |allowed: &[&str], trusted: &[&str]| IndexSettings {
            allowed_hosts: allowed.iter().map(|&host| host.to_owned()).collect(),
            trusted_hosts: trusted.iter().map(|&host| host.to_owned()).collect(),
            ..IndexSettings::default()
        };
        assert_eq!(
            refusal(only(&[], &[]), "https://packages.example.com/simple"),
            None
        );
        assert_eq!(
            refusal(only(&["a.example"], &[]), "https://A.example/simple"),
            None
        );
        assert_eq!(
            refusal(
                only(&["a.example"], &["127.0.0.1:3141"]),
                "http://127.0.0.1:3141/root"
            ),
            None
        );
        for (settings, url, word) in [
            (
                only(&[], &[]),
                "http://packages.example.com/simple",
                "encryption",
            ),
            (only(&[], &[]), "ftp://packages.example.com/simple", "ftp"),
            (
                only(&["a.example"], &[]),
                "https://b.example/simple",
                "a.example",
            ),
            (
                only(&["a.example"], &[]),
                "https://a.example:444/simple",
                "a.example:444",
            ),
            (
                only(&[], &["127.0.0.1:3141"]),
                "http://127.0.0.1:3142/root",
                "127.0.0.1:3142",
            ),
            // Spellings of addresses that are no names.
            (only(&[], &[]), "https://127.1/", "private"),
            (only(&[], &[]), "https://0x7f000001/", "private"),
            (only(&[], &[]), "https://2130706433/", "private"),
            (only(&[], &[]), "https://0177.0.0.1/", "private"),
            (
                only(&[], &[]),
                "https://[::ffff:169.254.169.254]/",
                "private",
            ),
        ] {
            let why = refusal(settings, url).unwrap_or_default();
            assert!(why.contains(word), "{url}: {why}");
        }
    }
}
