//! What is known of a session.

use flowcell_egress::Rule;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::compute::ComputeKind;
use crate::name::{Name, UserName};

/// Shortest idle time, in seconds.
pub const MIN_IDLE_SECONDS: u64 = 60;
/// Longest idle time: seven days.
pub const MAX_IDLE_SECONDS: u64 = 7 * 24 * 3600;

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// Its working copy and environment are being made ready.
    Starting,
    /// It takes calls.
    Running,
    /// It takes calls, and holds no memory: its instances are stored, and the next call goes on from there.
    Hibernated,
    /// Its calls are being ended, its instances and files deleted.
    Stopping,
    /// It holds nothing any more.
    Stopped,
    /// It could not be started.
    Failed,
}

impl SessionState {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Hibernated => "hibernated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Whether a session in this state has a place on a compute.
    pub fn is_live(self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Running | Self::Hibernated | Self::Stopping
        )
    }

    /// Whether a session in this state takes calls.
    pub fn takes_calls(self) -> bool {
        matches!(self, Self::Running | Self::Hibernated)
    }
}

/// As whom a session reaches other services; the words are those of a run's YAML.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Identity {
    /// As the user whose session it is.
    #[default]
    UserIdentity,
    /// As an identity of the workspace.
    Managed {
        /// Which one; without it, the workspace's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_id: Option<String>,
    },
}

/// A base image: what a session asked for, and what that was when its life began. A life has one image, whatever becomes of
/// the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What it goes by: `name:tag` in the store, or `registry/repository:tag`.
    pub reference: String,
    /// The digest of the bundle's manifest, which names it in the store; nothing until a registry's image was pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The digest that its registry has it under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// Who named it.
    #[serde(default)]
    pub named_by: NamedBy,
    /// Why it is not the one that the flow names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Image {
    /// What the store has it under: the digest, since a name can be given to another bundle.
    pub fn in_store(&self) -> &str {
        self.digest.as_deref().unwrap_or(&self.reference)
    }
}

/// Who named a session's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedBy {
    /// Whoever started the session.
    User,
    /// The flow's file.
    Flow,
    /// Nobody: it is the host's default.
    #[default]
    Default,
}

/// What a session's requirements have brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// The digest of what was asked for.
    pub asked: String,
    /// The environment's digest; nothing when the image has all that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The digest of the lock, whose text is in the store.
    pub lock: String,
    /// What was installed beside the image.
    pub installed: Vec<InstalledPackage>,
    /// What whoever wrote the requirements should know.
    pub notes: Vec<String>,
    /// Since when the session has them.
    pub since: Timestamp,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its license, as it names it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Bytes of its files.
    pub size: u64,
}

/// A session: one flow, on one compute at a time.
///
/// Its identity is kept from start to start, so its history tells of all its lives; `generation` counts them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The workspace.
    pub workspace: Name,
    /// The identifier.
    pub id: Name,
    /// The flow.
    pub flow: Name,
    /// Whose it is: the owner of its compute.
    pub user: UserName,
    /// The first of its lives that were this user's: what is known of earlier ones is not for them.
    #[serde(default)]
    pub owned_since: u64,
    /// Where it is in its life.
    pub state: SessionState,
    /// Why it is there.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it was first started.
    pub created: Timestamp,
    /// Counts the changes; the entity tag.
    pub revision: u64,
    /// Counts its lives: a reset, a move and a start after a stop each begin a new one, with an empty memory and disk.
    pub generation: u64,
    /// The compute that it is on, or was on.
    pub compute: Name,
    /// That compute's kind.
    pub compute_kind: ComputeKind,
    /// That compute's type.
    pub instance_type: Name,
    /// How compute and type were chosen.
    pub choice: String,
    /// Seconds without use after which it is deleted.
    pub idle_seconds: u64,
    /// As whom it reaches other services.
    pub identity: Identity,
    /// What its tools may ask of the network, of what its workspace allows.
    #[serde(default, skip_serializing_if = "Rule::is_empty")]
    pub network: Rule,
    /// Its base image.
    pub image: Box<Image>,
    /// What its requirements have brought, in this life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<Box<Packages>>,
    /// When it was last used, as far as the registry knows; the running session knows better.
    pub last_use: Timestamp,
    /// What is stored of it while it is hibernated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
    /// The session that its first life went on from, as a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<Box<ForkedFrom>>,
}

/// What is stored of a hibernated session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Instances.
    pub instances: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Since when.
    pub since: Timestamp,
}

/// Where a fork has its files and its memory from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkedFrom {
    /// The session, which may be gone by now.
    pub session: Name,
    /// Its flow.
    pub flow: Name,
    /// Which of its lives.
    pub generation: u64,
    /// [`Session::memory`] of that session.
    #[serde(default)]
    pub memory: String,
}

impl Session {
    /// Names where the memory of this life began: in itself, or, of a fork, in the session that it is a copy of.
    /// Placeholders of secrets are made by it, so those that are in copied memory go on to be good.
    pub fn memory(&self) -> String {
        match &self.forked_from {
            Some(from) if self.generation == 1 && !from.memory.is_empty() => from.memory.clone(),
            _ => format!("{} {} {}", self.id, self.created, self.generation),
        }
    }
}

/// Something that happened to a session, or to a compute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// When.
    pub at: Timestamp,
    /// The state that it led to.
    pub state: String,
    /// What happened and why, for people.
    pub what: String,
    /// Who did it; nothing where the host did.
    pub by: Option<UserName>,
    /// Which of the session's lives it belongs to.
    pub generation: u64,
}
