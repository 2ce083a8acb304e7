//! What a worker is told about a session, so that it can open it whenever it must.

use std::ffi::OsString;
use std::time::Duration;

use flowcell_connection::ConnectionSet;
use serde::{Deserialize, Serialize};

use crate::network::NetworkSpec;
use crate::work::{Values, Work};

/// One life of a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId {
    /// Its workspace.
    pub workspace: String,
    /// Its name there.
    pub session: String,
    /// Which of its lives.
    pub generation: u64,
}

/// A compute.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ComputeId {
    /// Its workspace.
    pub workspace: String,
    /// Its name there.
    pub compute: String,
}

/// A compute and what its sessions may use together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeSpec {
    /// Which.
    pub id: ComputeId,
    /// Memory of all instances, in bytes.
    pub memory: u64,
    /// CPU share, in thousandths of a core.
    pub cpu_millis: u64,
    /// Instances.
    pub instances: u64,
}

/// All that is needed to open a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSpec {
    /// Which.
    pub id: SessionId,
    /// The compute that it runs on.
    pub compute: ComputeSpec,
    /// The folder of its working copy.
    pub folder: OsString,
    /// The flow's name.
    pub flow: String,
    /// Names where its memory began: the same for a session and its forks, another one for each other life.
    pub memory: String,
    /// Its base image, `name:version`.
    pub image: String,
    /// The digest of what its requirements have brought, if they have.
    pub site: Option<String>,
    /// Most memory of one instance, in bytes.
    pub instance_memory: u64,
    /// Longest time of a call.
    pub call_time: Duration,
    /// How long a node waits for an instance.
    pub instance_wait: Duration,
    /// Most bytes that may have changed of an idle instance that is stored.
    pub stored_memory: u64,
    /// What it may ask of the network.
    pub network: Box<NetworkSpec>,
}

/// Bytes and files that the tools of a session may have on the disk.
pub fn disk_limits() -> (u64, u64) {
    let limits = flowcell_sandbox::Limits::default();
    (limits.disk_bytes, limits.disk_files)
}

/// What a call changes of how the flow is set up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Setup {
    /// `${node.variant}`.
    pub variant: Option<String>,
    /// Environment variables over the flow's own.
    pub environment_variables: Vec<(String, String)>,
    /// What the class that is a flow's entry is made with.
    pub init: Option<Values>,
}

/// Some work of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The session.
    pub session: SessionSpec,
    /// The revision of the flow that is in the working copy: flows that were opened from another one are opened anew.
    pub revision: u64,
    /// How the flow is set up.
    pub setup: Setup,
    /// What the flow may use, with secrets.
    pub connections: ConnectionSet,
    /// Tells when it was that the session's connections and network were these: what an earlier job says does not take the
    /// place of what a later one has said.
    pub order: u64,
    /// Whether the trace holds what models and tools were asked and what they answered.
    pub record_content: bool,
    /// The work.
    pub work: Work,
}
