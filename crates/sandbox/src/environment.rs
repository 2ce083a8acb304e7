//! What a session gives to its instances.

use std::path::PathBuf;
use std::sync::Arc;

use flowcell_egress::Egress;

use crate::called::Tools;
use crate::image::Owner;
use crate::limits::Limits;
use crate::quota::Quota;
use crate::slice::Slice;

/// What a guest may do in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read files and list folders.
    ReadOnly,
    /// Also change them, within the session's disk quota.
    ReadWrite,
}

/// A directory of the host that a guest sees. Nothing outside of it can be reached through it, by `..` or by links.
#[derive(Debug, Clone)]
pub struct Mount {
    /// The directory on the host.
    pub host: PathBuf,
    /// The absolute path under which the guest sees it.
    pub guest: String,
    /// What the guest may do there.
    pub access: Access,
}

/// The directories, environment variables and limits that all instances of one session share.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Directories, in the order in which the guest sees them.
    pub mounts: Vec<Mount>,
    /// Environment variables. Nothing of the host's own environment is added.
    pub variables: Vec<(String, String)>,
    /// Limits of every instance and call.
    pub limits: Limits,
    /// The share of the host that all instances take their memory, CPU time and number from.
    pub slice: Arc<Slice>,
    /// Whose instances these are: they start from no image of anybody else's.
    pub owner: Owner,
    /// Where its requests go; without it none does.
    pub network: Option<Arc<Egress>>,
    /// What Python code can call beside its own.
    pub tools: Option<Arc<dyn Tools>>,
    pub(crate) quota: Arc<Quota>,
}

impl Environment {
    /// An environment over these directories, in a slice of its own without limits.
    pub fn new(mounts: Vec<Mount>, variables: Vec<(String, String)>, limits: Limits) -> Self {
        let writable = mounts
            .iter()
            .filter(|mount| mount.access == Access::ReadWrite)
            .map(|mount| mount.host.clone())
            .collect();
        let quota = Arc::new(Quota::new(writable, limits.disk_bytes, limits.disk_files));
        Self {
            mounts,
            variables,
            limits,
            slice: Slice::unlimited(),
            owner: Owner::default(),
            network: None,
            tools: None,
            quota,
        }
    }

    /// The same in a slice that it shares with others.
    pub fn with_slice(self, slice: Arc<Slice>) -> Self {
        Self { slice, ..self }
    }

    /// The same for a certain owner.
    pub fn with_owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// The same with a way out.
    pub fn with_network(self, network: Arc<Egress>) -> Self {
        Self {
            network: Some(network),
            ..self
        }
    }

    /// The same with tools that Python code can call. It shares the disk quota with the one that it is made from.
    pub fn with_tools(self, tools: Arc<dyn Tools>) -> Self {
        Self {
            tools: Some(tools),
            ..self
        }
    }
}
