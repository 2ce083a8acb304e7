//! Who is there: users, their keys, workspaces, and roles in them.

use flowcell_egress::Rule;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{Name, UserName};

/// Flows that a workspace may have.
pub const MAX_FLOWS: usize = 20_000;

/// What a user may do in a workspace. Each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Looks at everything.
    Reader,
    /// Edits flows, and has computes, sessions and runs of its own.
    DataScientist,
    /// Everything, and role assignments.
    Owner,
}

impl Role {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::DataScientist => "data-scientist",
            Self::Owner => "owner",
        }
    }
}

/// Somebody who may hold API keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: UserName,
    /// Whether the user administers this host: makes users, keys and workspaces.
    pub admin: bool,
    /// When it was made.
    pub created: Timestamp,
}

/// An API key. The secret itself is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The public part of the key.
    pub id: String,
    /// Whose it is.
    pub user: UserName,
    /// SHA-256 of the secret, in hexadecimal digits. The secret has more than 256 random bits, so a plain hash cannot be inverted.
    pub hash: String,
    /// What it is for, in the words of whoever made it.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
}

/// A workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceRecord {
    /// The name.
    pub name: Name,
    /// When it was made.
    pub created: Timestamp,
    /// Whether traces hold what models and tools are asked and what they answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trace_content: bool,
    /// What the tools of its sessions may ask of the network, of what the host allows.
    #[serde(default, skip_serializing_if = "Rule::is_empty")]
    pub network: Rule,
}

/// A flow of a workspace; its files are in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The workspace.
    pub workspace: Name,
    /// The name.
    pub name: Name,
    /// Who made it.
    pub created_by: UserName,
    /// When it was made.
    pub created: Timestamp,
    /// When a file was last changed.
    pub modified: Timestamp,
    /// Counts the changes; the entity tag.
    pub revision: u64,
    /// Number of files.
    pub files: u64,
    /// Bytes in all files.
    pub bytes: u64,
    /// The base image that came with its files, where these came as an app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<CarriedImage>,
}

/// A base image that came with a flow's files. It counts as long as the flow's own file names the image that it named then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedImage {
    /// The digests of the wheels that came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wheels: Vec<String>,
    /// The digest of its manifest.
    pub digest: String,
    /// The image that the flow's file named, if it named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<String>,
}

impl Flow {
    /// A flow without files, which no registry knows yet: its revision is 0.
    pub fn new(workspace: Name, name: Name, user: UserName, now: Timestamp) -> Self {
        Self {
            workspace,
            name,
            created_by: user,
            created: now,
            modified: now,
            revision: 0,
            files: 0,
            bytes: 0,
            image: None,
        }
    }
}
