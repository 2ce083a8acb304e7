//! Computes: slices of the host, and the types that size them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{Name, UserName};

/// Resources, of an instance type, a quota, or what is used of one.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Memory of all instances together, in MiB.
    pub memory_mib: u64,
    /// CPU share, in thousandths of a core.
    pub cpu_millis: u64,
    /// Instances that are alive at once.
    pub instances: u64,
}

impl Resources {
    /// Whether this fits into `free`.
    pub fn fits(&self, free: &Self) -> bool {
        self.memory_mib <= free.memory_mib
            && self.cpu_millis <= free.cpu_millis
            && self.instances <= free.instances
    }

    /// The sum.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            instances: self.instances.saturating_add(other.instances),
        }
    }

    /// What is left after `other`; nothing is less than zero.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self {
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            instances: self.instances.saturating_sub(other.instances),
        }
    }
}

impl std::fmt::Display for Resources {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} MiB of memory, {} millicores, {} instances",
            self.memory_mib, self.cpu_millis, self.instances
        )
    }
}

/// A named size of computes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InstanceType {
    /// The name.
    pub name: Name,
    /// Other names for it, such as Azure's `Standard_DS3_v2`; letter case does not count.
    pub aliases: Vec<String>,
    /// What a compute of this type may use.
    #[serde(flatten)]
    pub resources: Resources,
    /// What an hour costs, in the operator's own unit: it orders the types when the host chooses.
    pub price_per_hour: f64,
}

/// The types that there are.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Catalog(pub Vec<InstanceType>);

impl Catalog {
    /// The type with this name or alias.
    pub fn find(&self, name: &str) -> Option<&InstanceType> {
        self.0.iter().find(|instance_type| {
            instance_type.name.as_str() == name
                || instance_type
                    .aliases
                    .iter()
                    .any(|alias| alias.eq_ignore_ascii_case(name))
        })
    }

    /// All names, for messages.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|one| one.name.as_str()).collect();
        names.join(", ")
    }
}

impl Default for Catalog {
    /// Three sizes; the aliases are the sizes that Azure's documents use in their examples.
    fn default() -> Self {
        let size = |name: &str, aliases: &[&str], memory_mib, cpu_millis, instances, price| {
            Name::new(name).ok().map(|name| InstanceType {
                name,
                aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
                resources: Resources {
                    memory_mib,
                    cpu_millis,
                    instances,
                },
                price_per_hour: price,
            })
        };
        Self(
            [
                size("small", &["Standard_DS1_v2"], 512, 500, 4, 0.01),
                size(
                    "medium",
                    &["Standard_DS2_v2", "Standard_E4s_v3"],
                    2_048,
                    1_000,
                    8,
                    0.04,
                ),
                size(
                    "large",
                    &["Standard_DS3_v2", "Standard_DS11_v2", "Standard_D4s_v3"],
                    8_192,
                    2_000,
                    16,
                    0.16,
                ),
            ]
            .into_iter()
            .flatten()
            .collect(),
        )
    }
}

/// How a compute comes and goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeKind {
    /// Made when a session needs one, deleted with its last session.
    Serverless,
    /// Made by its owner; stops when it is idle, and starts again on use.
    Instance,
}

impl ComputeKind {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serverless => "serverless",
            Self::Instance => "instance",
        }
    }
}

/// Where a compute is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeState {
    /// It takes sessions.
    Running,
    /// Its sessions are being stopped, then it is.
    Stopping,
    /// It holds no sessions, and nothing of the quota but itself. It starts again on use.
    Stopped,
    /// Its sessions are being stopped, then it is gone.
    Deleting,
}

impl ComputeState {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
        }
    }
}

/// A slice of the host, for the sessions of one user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compute {
    /// The workspace.
    pub workspace: Name,
    /// The name.
    pub name: Name,
    /// Its owner, the only one who may use it.
    pub user: UserName,
    /// How it comes and goes.
    pub kind: ComputeKind,
    /// The name of its type.
    pub instance_type: Name,
    /// What its sessions may use together: the type's, at the time it was made.
    pub resources: Resources,
    /// Seconds without use after which it stops; kind `instance` only.
    pub idle_seconds: Option<u64>,
    /// Where it is in its life.
    pub state: ComputeState,
    /// Why it is as it is.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it was made.
    pub created: Timestamp,
    /// When a session of it was last used, or it was made or started.
    pub last_use: Timestamp,
    /// Counts the changes; the entity tag.
    pub revision: u64,
}

impl Compute {
    /// Whether its resources count against quotas.
    pub fn holds_resources(&self) -> bool {
        self.state != ComputeState::Stopped
    }
}
