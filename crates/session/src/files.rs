//! The files of flows: where they may lie, how many there may be, and how they come out of archives.

mod archive;
mod path;

use std::collections::BTreeMap;

use bytes::Bytes;
use flowcell_worker::text_of;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::archive::{ArchiveError, Format, unpack};
pub use self::path::{FlowPath, InvalidPath};
use crate::registry::FileInfo;
use crate::state::Change;
use crate::tenancy::Flow;

/// How much a flow may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileLimits {
    /// Bytes in one file.
    pub file_bytes: u64,
    /// Bytes in all files of a flow.
    pub flow_bytes: u64,
    /// Files of a flow.
    pub flow_files: u64,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self {
            file_bytes: 16 << 20,
            flow_bytes: 64 << 20,
            flow_files: 2_000,
        }
    }
}

/// Files that are too many or too large.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// One file.
    #[error("file '{path}' has more than {limit} bytes, which a file may have")]
    File {
        /// The path.
        path: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// All files.
    #[error("the flow's files have more than {limit} bytes, which a flow may have")]
    Flow {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The number of files.
    #[error("the flow has more than {limit} files, which a flow may have")]
    Files {
        /// The limit.
        limit: u64,
    },
}

/// Names of the file that says what a flow is.
const FLOW_FILES: [&str; 4] = [
    "flow.dag.yaml",
    "flow.dag.yml",
    "flow.flex.yaml",
    "flow.flex.yml",
];

/// What a flow's file says, if it can be read: a flow that is wrong can have a session, in which it is mended. `name` is for
/// messages, and `read` gives a file of the flow.
///
/// # Errors
/// Those of `read`.
pub fn flow_in<E>(
    name: &str,
    read: impl Fn(&str) -> Result<Option<Bytes>, E>,
) -> Result<Option<flowcell_flow::Flow>, E> {
    for file in FLOW_FILES {
        if let Some(content) = read(file)? {
            let fits = content.len() <= flowcell_flow::MAX_BYTES;
            let text = fits.then(|| text_of(content.into())).and_then(Result::ok);
            return Ok(text.and_then(|text| flowcell_flow::Flow::parse(&text, name).ok()));
        }
    }
    Ok(None)
}

/// Files by path.
pub type Files = BTreeMap<FlowPath, Bytes>;

/// The changes that give a flow these files in place of all that it has; see [`Flow::new`] for one that is new.
///
/// # Errors
/// When the files are beyond the limits.
pub fn replace(
    old: &Flow,
    old_files: &[FileInfo],
    files: &Files,
    now: Timestamp,
    limits: &FileLimits,
) -> Result<(Flow, Vec<Change>), TooLarge> {
    let mut bytes = 0;
    for (path, content) in files {
        check_file(path, content, limits)?;
        bytes += content.len() as u64;
    }
    let flow = Flow {
        modified: now,
        revision: old.revision + 1,
        files: files.len() as u64,
        bytes,
        ..old.clone()
    };
    check_flow(&flow, limits)?;
    let mut changes = vec![Change::PutFlow(flow.clone())];
    let gone = old_files
        .iter()
        .filter(|info| !files.contains_key(info.path.as_str()));
    changes.extend(gone.map(|info| Change::DeleteFile {
        workspace: flow.workspace.clone(),
        flow: flow.name.clone(),
        path: info.path.clone(),
    }));
    changes.extend(files.iter().map(|(path, content)| Change::PutFile {
        workspace: flow.workspace.clone(),
        flow: flow.name.clone(),
        path: path.as_str().to_owned(),
        content: content.clone(),
    }));
    Ok((flow, changes))
}

/// A change of one file that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// Too large.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// A file where a folder is, or the other way round.
    #[error(
        "'{path}' cannot be a file: '{other}' is in the flow, and one would have to be a folder"
    )]
    InTheWay {
        /// The new path.
        path: String,
        /// The path that is there.
        other: String,
    },
}

/// The changes that give one file of a flow new content, or (with `None`) delete it.
///
/// # Errors
/// When the flow would be beyond the limits, or the path goes through another file.
pub fn edit(
    old: &Flow,
    old_files: &[FileInfo],
    path: &FlowPath,
    content: Option<Bytes>,
    now: Timestamp,
    limits: &FileLimits,
) -> Result<(Flow, Vec<Change>), EditError> {
    let before = old_files.iter().find(|info| info.path == path.as_str());
    let mut flow = Flow {
        modified: now,
        revision: old.revision + 1,
        bytes: old.bytes - before.map_or(0, |info| info.size.min(old.bytes)),
        files: old.files - u64::from(before.is_some() && old.files > 0),
        ..old.clone()
    };
    let change = match content {
        None => Change::DeleteFile {
            workspace: old.workspace.clone(),
            flow: old.name.clone(),
            path: path.as_str().to_owned(),
        },
        Some(content) => {
            check_file(path, &content, limits)?;
            let in_the_way = |info: &&FileInfo| {
                is_below(&info.path, path.as_str()) || is_below(path.as_str(), &info.path)
            };
            if let Some(other) = old_files.iter().find(in_the_way) {
                return Err(EditError::InTheWay {
                    path: path.as_str().to_owned(),
                    other: other.path.clone(),
                });
            }
            flow.bytes += content.len() as u64;
            flow.files += 1;
            check_flow(&flow, limits)?;
            Change::PutFile {
                workspace: old.workspace.clone(),
                flow: old.name.clone(),
                path: path.as_str().to_owned(),
                content,
            }
        }
    };
    Ok((flow.clone(), vec![Change::PutFlow(flow), change]))
}

/// Whether `path` is in the folder `folder`.
fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn check_file(path: &FlowPath, content: &[u8], limits: &FileLimits) -> Result<(), TooLarge> {
    if content.len() as u64 > limits.file_bytes {
        return Err(TooLarge::File {
            path: path.as_str().to_owned(),
            limit: limits.file_bytes,
        });
    }
    Ok(())
}

fn check_flow(flow: &Flow, limits: &FileLimits) -> Result<(), TooLarge> {
    if flow.files > limits.flow_files {
        return Err(TooLarge::Files {
            limit: limits.flow_files,
        });
    }
    if flow.bytes > limits.flow_bytes {
        return Err(TooLarge::Flow {
            limit: limits.flow_bytes,
        });
    }
    Ok(())
}
