//! The configuration: one file, with every limit.

mod sections;

use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Serialized};
use flowcell_egress::HostPattern;
use flowcell_session::machine::Rules;
use flowcell_session::{
    Catalog, FileLimits, InstanceType, MAX_IDLE_SECONDS, Quota, Quotas, Resources,
};
use flowcell_worker::read_authorities;
use serde::{Deserialize, Serialize};

pub(crate) use self::sections::{
    AuthConfig, HostConfig, ImagesConfig, InstanceTypeConfig, NetworkConfig, OidcConfig,
    PackagesConfig, QuotasConfig, SecretsConfig, ServerConfig, SessionsConfig, StoreConfig,
    TelemetryConfig, TlsConfig,
};

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
    /// What tools may ask of the network.
    pub network: NetworkConfig,
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
        self.check_network()?;
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

    fn check_network(&self) -> Result<(), ConfigError> {
        let limits = &self.network.limits;
        for (key, value, most) in [
            ("concurrent", limits.concurrent as u64, 10_000),
            ("per_minute", limits.per_minute.into(), 1_000_000),
            ("request_bytes", limits.request_bytes, 1 << 30),
            ("response_bytes", limits.response_bytes, 4 << 30),
            ("connect_seconds", limits.connect_seconds, 600),
            ("total_seconds", limits.total_seconds, 86_400),
        ] {
            between(&format!("network.limits.{key}"), value, 1, most)?;
        }
        let rule = self.network.rule().check();
        rule.map_err(|error| wrong("network", &error.to_string()))?;
        let authorities = read_authorities(self.network.ca_file.as_deref());
        authorities.map_err(|error| wrong("network.ca_file", &error.message))?;
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
