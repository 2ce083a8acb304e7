//! The sections of the configuration, with their defaults.

use std::net::SocketAddr;
use std::path::PathBuf;

use flowcell_bundle::{CompileLimits, DEFAULT_STORE_SIZE};
use flowcell_egress::{HostPattern, Limits, Rule};
use flowcell_session::{
    CannotHibernate, MAX_IDLE_SECONDS, MIN_IDLE_SECONDS, Name, Quota, Quotas, Resources,
};
use flowcell_worker::{IndexSettings, NetworkSpec, RegistrySettings};
use serde::{Deserialize, Serialize};

use crate::keys::KeyText;

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address and port.
    pub listen: SocketAddr,
    /// Certificate chain and private key (PEM files); with them the server speaks TLS.
    pub tls: Option<TlsConfig>,
    /// Bytes of a request's body, but for uploads of flows.
    pub body_bytes: usize,
    /// Bytes of an upload.
    pub upload_bytes: usize,
    /// Seconds that a request may take, but for calls and event streams.
    pub request_seconds: u64,
    /// Seconds that a client may take for a request's head; 1 to 300.
    pub header_seconds: u64,
    /// Connections that are open at once; more wait.
    pub connections: usize,
    /// Requests of one key in a second, on average.
    pub requests_per_second: u32,
    /// Requests of one key at once, beyond the average.
    pub request_burst: u32,
    /// Seconds that calls under way get at shutdown.
    pub shutdown_seconds: u64,
    /// Threads that serve requests; 0 for one for each core.
    pub threads: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8420)),
            tls: None,
            body_bytes: 8 << 20,
            upload_bytes: 64 << 20,
            request_seconds: 60,
            header_seconds: 15,
            connections: 16_384,
            requests_per_second: 20_000,
            request_burst: 20_000,
            shutdown_seconds: 20,
            threads: 0,
        }
    }
}

impl ServerConfig {
    /// The longest body that any operation takes, in bytes.
    pub(crate) fn longest_body(&self) -> u64 {
        self.body_bytes.max(self.upload_bytes) as u64
    }
}

/// `[server.tls]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// `[auth]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// The identity provider whose tokens are taken beside API keys.
    pub oidc: Option<OidcConfig>,
}

/// `[auth.oidc]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// The `aud` that they must have.
    pub audience: String,
    /// Where its keys are.
    pub jwks_url: String,
    /// The claim that names the user.
    #[serde(default = "default_claim")]
    pub user_claim: String,
    /// What is put before the claim to make the user's name here, so that no token can name a user of this host.
    #[serde(default = "default_prefix")]
    pub user_prefix: String,
}

fn default_claim() -> String {
    "sub".to_owned()
}

fn default_prefix() -> String {
    "oidc:".to_owned()
}

/// `[host]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Memory for all instances together, in MiB; 0 for half of the machine's.
    pub memory_mib: u64,
    /// Instances that may be alive at once, over all sessions; 1 to 4096. Each reserves 4 GiB of address space.
    pub instances: u32,
    /// How often memory, CPU and instances may be promised to computes. Most computes use little of their size.
    pub overcommit: u64,
    /// Threads that run guests, in each worker; 0 for one for each core.
    pub threads: usize,
    /// Processes that run sessions, at most 64; 0 to run them in the host's own process. Without it there is one for
    /// each core, up to 8, as long as each has memory for four instances. Each worker has an equal share of the memory
    /// and the instances, and so has each dedicated one: no compute gets more than its worker has.
    pub workers: Option<usize>,
    /// Workspaces whose sessions run in a worker of their own, beside the others; at most 64.
    pub dedicated: Vec<Name>,
    /// Memory that the compilation of a component in a flow's folder may take, in MiB; 256 to 65536.
    pub compile_memory_mib: u64,
    /// CPU time that it may take, in seconds; 1 to 3600.
    pub compile_seconds: u64,
}

impl Default for HostConfig {
    fn default() -> Self {
        let compile = CompileLimits::default();
        Self {
            memory_mib: 0,
            instances: 1_024,
            overcommit: 1_000,
            threads: 0,
            workers: None,
            dedicated: Vec::new(),
            compile_memory_mib: compile.memory >> 20,
            compile_seconds: compile.cpu_seconds,
        }
    }
}

/// `[sessions]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionsConfig {
    /// The base image of flows that name none, as `name:version`; nothing means the one that belongs to this version.
    pub base_image: Option<String>,
    /// Idle time of sessions and computes that name none, in seconds.
    pub idle_seconds: u64,
    /// Shortest idle time that can be asked for, in seconds.
    pub min_idle_seconds: u64,
    /// Longest idle time that can be asked for, in seconds; at most 7 days.
    pub max_idle_seconds: u64,
    /// Seconds without use after which a session hibernates: its instances are stored, and their memory is freed.
    pub instances_idle_seconds: u64,
    /// Memory that may have changed of an instance that is stored, in MiB; 1 to 1024. One that has changed more stays as
    /// it is.
    pub stored_memory_mib: u64,
    /// What becomes of an instance that cannot be stored, because of an open file for example: `keep` leaves it in
    /// memory until its session ends or memory runs short, `drop` drops it with what it holds.
    pub cannot_hibernate: CannotHibernate,
    /// Calls that a session may have under way.
    pub calls: usize,
    /// Seconds that a call may take.
    pub call_seconds: u64,
    /// Seconds that a call waits for an instance.
    pub instance_wait_seconds: u64,
    /// Memory of one instance, in MiB; 16 to 1024.
    pub instance_memory_mib: usize,
    /// Seconds that the start of a session is waited for before it is answered with an operation.
    pub start_wait_seconds: u64,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self {
            base_image: None,
            idle_seconds: 3_600,
            min_idle_seconds: MIN_IDLE_SECONDS,
            max_idle_seconds: MAX_IDLE_SECONDS,
            instances_idle_seconds: 60,
            stored_memory_mib: 128,
            cannot_hibernate: CannotHibernate::Keep,
            calls: 64,
            call_seconds: 600,
            instance_wait_seconds: 30,
            instance_memory_mib: 512,
            start_wait_seconds: 5,
        }
    }
}

/// `[packages]`: where sessions' requirements come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackagesConfig {
    /// The index of requirements that name none; nothing means the Python Package Index.
    pub index_url: Option<String>,
    /// Indexes that are asked before that one.
    pub extra_index_urls: Vec<String>,
    /// The only hosts that may be asked, with their port unless it is the protocol's own; any, when it is empty.
    pub allowed_hosts: Vec<String>,
    /// Hosts that may have private addresses, and speak http.
    pub trusted_hosts: Vec<String>,
    /// Places in registries where component packages are (`registry.example.com/tools`), which are asked before any index
    /// of Python's.
    pub component_indexes: Vec<String>,
    /// Size of a wheel, in MiB; 1 to 2048.
    pub wheel_mib: u64,
    /// Seconds that an environment may take to make; 10 to 3600.
    pub install_seconds: u64,
}

impl Default for PackagesConfig {
    fn default() -> Self {
        Self {
            index_url: None,
            extra_index_urls: Vec::new(),
            allowed_hosts: Vec::new(),
            trusted_hosts: Vec::new(),
            component_indexes: Vec::new(),
            wheel_mib: 256,
            install_seconds: 600,
        }
    }
}

impl PackagesConfig {
    pub(crate) fn indexes(&self) -> IndexSettings {
        IndexSettings {
            index_url: self.index_url.clone(),
            extra_index_urls: self.extra_index_urls.clone(),
            allowed_hosts: self.allowed_hosts.clone(),
            trusted_hosts: self.trusted_hosts.clone(),
            component_indexes: self.component_indexes.clone(),
            wheel_bytes: self.wheel_mib << 20,
            ..IndexSettings::default()
        }
    }
}

/// `[images]`: where sessions' base images come from, beside those of this host.
///
/// Hosts are written as `registry.example.com`, `registry.example.com:5000`, `registry.example.com:*` (any port) or
/// `*.example.com` (all hosts below it). Registries are asked over https, but for those on this machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// The registries that may be asked; none, when it is empty.
    pub registries: Vec<String>,
    /// The hosts that they may refer to for tokens and content, besides themselves; any, when it is empty.
    pub other_hosts: Vec<String>,
}

impl ImagesConfig {
    pub(crate) fn settings(&self) -> RegistrySettings {
        RegistrySettings {
            registries: self.registries.clone(),
            other_hosts: self.other_hosts.clone(),
        }
    }
}

/// `[network]`: what the tools of sessions may ask, by HTTP and in no other way.
///
/// Hosts are written as in `[images]`; `*` is any host. Whatever is allowed here, addresses in private networks, this
/// machine's own and those of clouds' metadata are not asked, but for the hosts of `private_hosts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// The hosts that may be asked; endpoints of a flow's connections may be asked, too. Any, by https and http, if nothing
    /// else is said.
    pub allowed_hosts: Vec<HostPattern>,
    /// The methods that may be used, as they are sent (`GET`); any, if nothing else is said.
    pub allowed_methods: Option<Vec<String>>,
    /// The hosts among them that may have addresses which are not public.
    pub private_hosts: Vec<HostPattern>,
    /// A PEM file of authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// What one session's requests may take.
    pub limits: Limits,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        let any = ["*", "*:80"].into_iter();
        Self {
            allowed_hosts: any.filter_map(|pattern| pattern.parse().ok()).collect(),
            allowed_methods: None,
            private_hosts: Vec::new(),
            ca_file: None,
            limits: Limits::default(),
        }
    }
}

impl NetworkConfig {
    /// What sessions may ask, whatever their workspaces say.
    pub(crate) fn rule(&self) -> Rule {
        Rule {
            allowed_hosts: Some(self.allowed_hosts.clone()),
            allowed_methods: self.allowed_methods.clone(),
        }
    }

    pub(crate) fn spec(&self) -> NetworkSpec {
        NetworkSpec {
            host: self.rule(),
            workspace: Rule::default(),
            session: Rule::default(),
            private: self.private_hosts.clone(),
            ca_file: self.ca_file.clone(),
            limits: self.limits.clone(),
        }
    }
}

/// `[store]`: base images, environments, and what is made from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Size on the disk, in MiB; 1 to 2^40. Beyond it, what nobody uses is deleted, least recently used first.
    pub size_mib: u64,
    /// Minutes from one look at the size to the next; 1 to 10080.
    pub collect_minutes: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            size_mib: DEFAULT_STORE_SIZE >> 20,
            collect_minutes: 60,
        }
    }
}

/// `[secrets]`: the keys that credentials of identities are sealed by. What a previous key has sealed is sealed anew at the
/// start; then that key is not needed any more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// The file with the key: 64 hexadecimal digits, readable for its owner only. Without it, and without a key, there is
    /// one beside the registry, which is made at the first start.
    pub key_file: Option<PathBuf>,
    /// The key itself; from the environment only (`FLOWCELL__SECRETS__KEY`).
    pub key: Option<KeyText>,
    /// Files with the keys before it.
    pub previous_key_files: Vec<PathBuf>,
    /// The keys before it; from the environment only (`FLOWCELL__SECRETS__PREVIOUS_KEYS`, with commas between them).
    pub previous_keys: Option<KeyText>,
    /// Identifiers of keys that are lost: the credentials that they have sealed are deleted at the start.
    pub lost_keys: Vec<String>,
}

/// `[quotas]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuotasConfig {
    /// For each workspace.
    pub workspace: QuotaConfig,
    /// For each user in a workspace.
    pub user: QuotaConfig,
}

impl Default for QuotasConfig {
    fn default() -> Self {
        let quotas = Quotas::default();
        Self {
            workspace: quotas.workspace.into(),
            user: quotas.user.into(),
        }
    }
}

/// `[quotas.workspace]` and `[quotas.user]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaConfig {
    /// Sessions that are not stopped.
    pub sessions: u64,
    /// Computes.
    pub computes: u64,
    /// Memory of the computes, in MiB.
    pub memory_mib: u64,
    /// CPU share of the computes, in thousandths of a core.
    pub cpu_millis: u64,
    /// Instances of the computes.
    pub instances: u64,
}

impl From<Quota> for QuotaConfig {
    fn from(quota: Quota) -> Self {
        Self {
            sessions: quota.sessions,
            computes: quota.computes,
            memory_mib: quota.resources.memory_mib,
            cpu_millis: quota.resources.cpu_millis,
            instances: quota.resources.instances,
        }
    }
}

impl From<&QuotaConfig> for Quota {
    fn from(config: &QuotaConfig) -> Self {
        Self {
            sessions: config.sessions,
            computes: config.computes,
            resources: Resources {
                memory_mib: config.memory_mib,
                cpu_millis: config.cpu_millis,
                instances: config.instances,
            },
        }
    }
}

/// `[[instance_types]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceTypeConfig {
    /// The name.
    pub name: Name,
    /// Other names, such as `Standard_DS3_v2`.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Memory of all instances of a compute together, in MiB.
    pub memory_mib: u64,
    /// CPU share, in thousandths of a core.
    pub cpu_millis: u64,
    /// Instances at once.
    pub instances: u64,
    /// What an hour costs, in a unit of the operator's own.
    #[serde(default)]
    pub price_per_hour: f64,
}

/// `[telemetry]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where traces go: the base address of an OTLP receiver over HTTP, such as `http://localhost:4318`.
    pub otlp_endpoint: Option<String>,
    /// Whether `/metrics` can be read without a key. It names no tenants.
    pub public_metrics: bool,
}
