//! The configuration: one file, with every limit.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Serialized};
use flowcell_bundle::{CompileLimits, DEFAULT_STORE_SIZE};
use flowcell_registry::HostPattern;
use flowcell_session::machine::Rules;
use flowcell_session::{
    CannotHibernate, Catalog, FileLimits, InstanceType, MAX_IDLE_SECONDS, MIN_IDLE_SECONDS, Name,
    Quota, Quotas, Resources,
};
use flowcell_worker::{IndexSettings, RegistrySettings};
use serde::{Deserialize, Serialize};

use crate::keys::KeyText;

/// Environment variables with this prefix override the file: `FLOWCELL__SERVER__LISTEN` is `server.listen`.
pub const ENVIRONMENT: &str = "FLOWCELL__";
/// Most workers, and most dedicated ones.
const MAX_WORKERS: u64 = 64;
/// Most workers that nobody has asked for.
const MOST_BY_DEFAULT: usize = 8;
/// Longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{} is not TOML: {source}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// A key is unknown, or its value has the wrong type.
    #[error("{0}")]
    Key(String),
    /// A value is out of range.
    #[error("{key}: {problem}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong, and the way out.
        problem: String,
    },
}

/// Everything that an operator can set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the server listens, and what it takes from clients.
    pub server: ServerConfig,
    /// Who may come in.
    pub auth: AuthConfig,
    /// What the host has for sessions.
    pub host: HostConfig,
    /// How sessions live.
    pub sessions: SessionsConfig,
    /// Where packages come from.
    pub packages: PackagesConfig,
    /// Where base images come from.
    pub images: ImagesConfig,
    /// How large the store may be.
    pub store: StoreConfig,
    /// What seals the credentials of identities.
    pub secrets: SecretsConfig,
    /// How much flows may hold.
    pub flows: FileLimits,
    /// How much workspaces and users may have.
    pub quotas: QuotasConfig,
    /// The instance types; without any, there is a default set.
    pub instance_types: Vec<InstanceTypeConfig>,
    /// What is told to whom.
    pub telemetry: TelemetryConfig,
}

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

impl Config {
    /// Reads the file, if there is one, and the environment over it.
    ///
    /// # Errors
    /// When a key is unknown or a value wrong; the error names the key.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            let text = read(path)?;
            let table: toml::Table = text.parse().map_err(|source| ConfigError::Toml {
                path: path.to_owned(),
                source,
            })?;
            for key in ["key", "previous_keys"] {
                let is_there = |secrets: &toml::Value| secrets.get(key).is_some();
                if table.get("secrets").is_some_and(is_there) {
                    return Err(wrong(
                        &format!("secrets.{key}"),
                        &format!(
                            "a configuration file is no place for keys; set {ENVIRONMENT}SECRETS__{}, or name files",
                            key.to_uppercase()
                        ),
                    ));
                }
            }
            figment = figment.merge(Serialized::defaults(table));
        }
        figment = figment.merge(Env::prefixed(ENVIRONMENT).split("__"));
        let mut config: Self = figment
            .extract()
            .map_err(|error| ConfigError::Key(shown(&error)))?;
        config.host.workers = Some(config.workers());
        config.check()?;
        Ok(config)
    }

    /// Checks all ranges.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("server.body_bytes", self.server.body_bytes as u64),
            ("server.upload_bytes", self.server.upload_bytes as u64),
            ("server.request_seconds", self.server.request_seconds),
            ("server.connections", self.server.connections as u64),
            (
                "server.requests_per_second",
                u64::from(self.server.requests_per_second),
            ),
            ("server.request_burst", u64::from(self.server.request_burst)),
            ("host.overcommit", self.host.overcommit),
            ("sessions.min_idle_seconds", self.sessions.min_idle_seconds),
            (
                "sessions.instances_idle_seconds",
                self.sessions.instances_idle_seconds,
            ),
            ("sessions.calls", self.sessions.calls as u64),
            ("sessions.call_seconds", self.sessions.call_seconds),
            ("flows.file_bytes", self.flows.file_bytes),
            ("flows.flow_bytes", self.flows.flow_bytes),
            ("flows.flow_files", self.flows.flow_files),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(wrong(key, "it must be more than 0"));
            }
        }
        let sessions = &self.sessions;
        between("server.header_seconds", self.server.header_seconds, 1, 300)?;
        between("packages.wheel_mib", self.packages.wheel_mib, 1, 2_048)?;
        between(
            "packages.install_seconds",
            self.packages.install_seconds,
            10,
            3_600,
        )?;
        between("store.size_mib", self.store.size_mib, 1, 1 << 40)?;
        between(
            "store.collect_minutes",
            self.store.collect_minutes,
            1,
            10_080,
        )?;
        between("host.instances", u64::from(self.host.instances), 1, 4_096)?;
        self.check_workers()?;
        between(
            "sessions.instance_memory_mib",
            sessions.instance_memory_mib as u64,
            16,
            1_024,
        )?;
        between(
            "sessions.stored_memory_mib",
            sessions.stored_memory_mib,
            1,
            1_024,
        )?;
        between(
            "sessions.max_idle_seconds",
            sessions.max_idle_seconds,
            sessions.min_idle_seconds,
            MAX_IDLE_SECONDS,
        )?;
        between(
            "sessions.idle_seconds",
            sessions.idle_seconds,
            sessions.min_idle_seconds,
            sessions.max_idle_seconds,
        )?;
        for one in &self.instance_types {
            let key = format!("instance_types.{}", one.name);
            if one.memory_mib == 0 || one.cpu_millis == 0 || one.instances == 0 {
                return Err(wrong(
                    &key,
                    "memory_mib, cpu_millis and instances must be more than 0",
                ));
            }
            let others = self.instance_types.iter();
            if others.filter(|other| other.name == one.name).count() > 1 {
                return Err(wrong(&key, "two types have this name"));
            }
        }
        if self.secrets.key.is_some() && self.secrets.key_file.is_some() {
            return Err(wrong(
                "secrets.key",
                "there is a key_file as well; give one of them",
            ));
        }
        if let Some(image) = &sessions.base_image
            && image.parse::<flowcell_bundle::Reference>().is_err()
        {
            return Err(wrong("sessions.base_image", "give it as name:version"));
        }
        for (key, hosts) in [
            ("images.registries", &self.images.registries),
            ("images.other_hosts", &self.images.other_hosts),
        ] {
            for host in hosts {
                let pattern: Result<HostPattern, _> = host.parse();
                pattern.map_err(|error| wrong(key, &error.to_string()))?;
            }
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<(), ConfigError> {
        let host = &self.host;
        let (workers, dedicated) = (self.workers() as u64, host.dedicated.len() as u64);
        between("host.workers", workers, 0, MAX_WORKERS)?;
        between("host.dedicated", dedicated, 0, MAX_WORKERS)?;
        between(
            "host.compile_memory_mib",
            host.compile_memory_mib,
            256,
            65_536,
        )?;
        between("host.compile_seconds", host.compile_seconds, 1, 3_600)?;
        for (at, one) in host.dedicated.iter().enumerate() {
            if host.dedicated.iter().skip(at + 1).any(|other| other == one) {
                let problem = format!("workspace {one} is there twice");
                return Err(wrong("host.dedicated", &problem));
            }
        }
        if workers == 0 {
            if dedicated > 0 {
                let problem = "without workers no workspace can have its own; set host.workers";
                return Err(wrong("host.dedicated", problem));
            }
            return Ok(());
        }
        let all = workers + dedicated;
        let memory = self.host_memory_mib() / all;
        let needed = self.sessions.instance_memory_mib as u64;
        if all > 1 && memory < needed {
            let problem = format!(
                "{all} workers, dedicated ones included, have {memory} MiB of memory each, and one instance may take {needed}; have fewer workers, or set host.memory_mib"
            );
            return Err(wrong("host.workers", &problem));
        }
        if u64::from(host.instances) < all {
            let problem = format!(
                "{all} workers, dedicated ones included, share {} instances; have fewer workers",
                host.instances
            );
            return Err(wrong("host.workers", &problem));
        }
        Ok(())
    }

    /// Worker processes for all workspaces but the dedicated ones; 0 for none.
    pub fn workers(&self) -> usize {
        if let Some(workers) = self.host.workers {
            return workers;
        }
        let instance = (self.sessions.instance_memory_mib as u64).max(1);
        let fitting = self.host_memory_mib() / instance.saturating_mul(4);
        let fitting = fitting.min(u64::from(self.host.instances));
        let own = self.host.dedicated.len() as u64;
        let fitting = usize::try_from(fitting.saturating_sub(own)).unwrap_or(usize::MAX);
        cores().min(MOST_BY_DEFAULT).min(fitting).max(1)
    }

    /// Memory for all instances, in MiB.
    pub fn host_memory_mib(&self) -> u64 {
        match self.host.memory_mib {
            0 => (machine_memory_mib() / 2).max(256),
            memory => memory,
        }
    }

    /// The rules of the state machine.
    pub fn rules(&self) -> Rules {
        let catalog = if self.instance_types.is_empty() {
            Catalog::default()
        } else {
            Catalog(
                self.instance_types
                    .iter()
                    .map(|one| InstanceType {
                        name: one.name.clone(),
                        aliases: one.aliases.clone(),
                        resources: Resources {
                            memory_mib: one.memory_mib,
                            cpu_millis: one.cpu_millis,
                            instances: one.instances,
                        },
                        price_per_hour: one.price_per_hour,
                    })
                    .collect(),
            )
        };
        let cores = cores() as u64;
        let promised = |amount: u64| amount.saturating_mul(self.host.overcommit);
        Rules {
            catalog,
            quotas: Quotas {
                workspace: Quota::from(&self.quotas.workspace),
                user: Quota::from(&self.quotas.user),
            },
            capacity: Resources {
                memory_mib: promised(self.host_memory_mib()),
                cpu_millis: promised(cores * 1_000),
                instances: promised(u64::from(self.host.instances)),
            },
            idle_seconds: self.sessions.idle_seconds,
            min_idle_seconds: self.sessions.min_idle_seconds,
            max_idle_seconds: self.sessions.max_idle_seconds,
        }
    }

    /// The time that a request may take.
    pub fn request_time(&self) -> Duration {
        Duration::from_secs(self.server.request_seconds)
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The machine's memory; what Linux says of it, or 1 GiB where it says nothing.
fn machine_memory_mib() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?;
        kib.parse::<u64>().ok()
    });
    total.map_or(1_024, |kib| kib >> 10)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE {
        return Err(failed(std::io::Error::other(format!(
            "it has {size} bytes, and {MAX_FILE} are allowed"
        ))));
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn between(key: &str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(wrong(
            key,
            &format!("{value} is not between {least} and {most}"),
        ))
    }
}

fn wrong(key: &str, problem: &str) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        problem: problem.to_owned(),
    }
}

/// figment's error with the key in front.
fn shown(error: &figment::Error) -> String {
    let key = error.path.join(".");
    match (&error.kind, key.as_str()) {
        (figment::error::Kind::UnknownField(field, expected), key) => {
            let key = match key {
                "" => field.clone(),
                key if key.ends_with(field.as_str()) => key.to_owned(),
                key => format!("{key}.{field}"),
            };
            format!(
                "{key}: there is no such key; there are: {}",
                expected.join(", ")
            )
        }
        (kind, "") => kind.to_string(),
        (kind, key) => format!("{key}: {kind}"),
    }
}
