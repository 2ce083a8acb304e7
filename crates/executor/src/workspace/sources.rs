//! The flow's files in a working copy that is kept, as whoever made the copy has listed them.

use std::collections::BTreeMap;
use std::path::Path;

use flowcell_bundle::Digest;

use crate::files::FlowFiles;

/// The list: a JSON object from path to SHA-256, in hexadecimal digits. It lies where no guest sees it.
const LIST: &str = "files.json";
/// Largest file of a flow that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// A flow's files, by path, with their digests.
pub(crate) struct Sources {
    files: BTreeMap<String, String>,
    digest: String,
    copy: FlowFiles,
}

impl Sources {
    pub(crate) fn of(folder: &Path, flow: &Path) -> Option<Self> {
        let list = std::fs::read(folder.join(LIST)).ok()?;
        Some(Self {
            files: serde_json::from_slice(&list).ok()?,
            digest: Digest::of(&list).hex(),
            copy: FlowFiles::new(flow).ok()?,
        })
    }

    /// What tells this list from any other.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    pub(crate) fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// What a file holds now; why it cannot be read otherwise.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let read = self.copy.read(path, MAX_FILE);
        read.map_err(|_| format!("{path} is not as it was uploaded"))
    }
}
