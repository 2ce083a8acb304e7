//! Copying a flow's folder: links are resolved, what is no part of a flow is left out.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use flowcell_flow::Flow;

use super::{WorkspaceLimits, cannot, missing_include};
use crate::error::RunError;

/// Folders that are no part of a flow: histories, caches and what earlier runs left.
const SKIPPED: [&str; 5] = [
    ".git",
    ".promptflow",
    ".runs",
    "__pycache__",
    "node_modules",
];
/// Deepest folder that is copied. Links can make a tree without end.
const MAX_DEPTH: usize = 32;

/// A copy in the making.
pub(super) struct Copy<'a> {
    limits: &'a WorkspaceLimits,
    bytes: u64,
    files: u64,
    root: PathBuf,
    pub(super) notes: Vec<String>,
}

impl<'a> Copy<'a> {
    pub(super) fn new(source: &Path, limits: &'a WorkspaceLimits) -> Self {
        Self {
            limits,
            bytes: 0,
            files: 0,
            root: source.canonicalize().unwrap_or_else(|_| source.to_owned()),
            notes: Vec::new(),
        }
    }

    pub(super) fn folder(
        &mut self,
        source: &Path,
        target: &Path,
        depth: usize,
    ) -> Result<(), RunError> {
        if depth > MAX_DEPTH {
            return Err(RunError::user(
                "ValidationException",
                format!(
                    "{} is more than {MAX_DEPTH} folders deep; is there a link that leads back?",
                    source.display()
                ),
            ));
        }
        self.count(source, 0)?;
        fs::create_dir_all(target).map_err(|error| cannot("make", target, &error))?;
        let mut entries = fs::read_dir(source)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| cannot("list", source, &error))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = entry.file_name();
            self.note_link(&path);
            // Follows links: the copy is made on the user's own machine, with the user's own rights.
            let Ok(metadata) = fs::metadata(&path) else {
                self.notes
                    .push(format!("{} leads nowhere and was left out", path.display()));
                continue;
            };
            if metadata.is_dir() {
                let skipped = SKIPPED.iter().any(|skipped| name == *skipped);
                if skipped || path.join("pyvenv.cfg").exists() {
                    continue;
                }
                self.folder(&path, &target.join(&name), depth + 1)?;
            } else if metadata.is_file() {
                self.file(&path, &target.join(&name), metadata.len())?;
            } else {
                self.notes.push(format!(
                    "{} is neither file nor folder and was left out",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    fn file(&mut self, source: &Path, target: &Path, size: u64) -> Result<(), RunError> {
        self.count(source, size)?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|error| cannot("make", parent, &error))?;
        }
        let bytes = fs::read(source).map_err(|error| cannot("read", source, &error))?;
        // Not `fs::copy`: a read-only source must not make a copy that the flow's tools cannot write.
        fs::write(target, bytes).map_err(|error| cannot("write", target, &error))
    }

    fn count(&mut self, path: &Path, bytes: u64) -> Result<(), RunError> {
        self.files += 1;
        self.bytes += bytes;
        if self.files > self.limits.files || self.bytes > self.limits.bytes {
            return Err(RunError::user(
                "ValidationException",
                format!(
                    "the flow's folder is too large: at {} it has {} files and {} MiB; {} files and {} MiB are allowed",
                    path.display(),
                    self.files,
                    self.bytes >> 20,
                    self.limits.files,
                    self.limits.bytes >> 20
                ),
            )
            .help("move what the flow does not need out of the folder"));
        }
        Ok(())
    }

    fn note_link(&mut self, path: &Path) {
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        if !is_link {
            return;
        }
        if let Ok(leads_to) = path.canonicalize()
            && !leads_to.starts_with(&self.root)
        {
            self.notes.push(format!(
                "{} is a link to {}, outside of the flow; its target was copied",
                path.display(),
                leads_to.display()
            ));
        }
    }

    /// promptflow's rule: each item goes to its own name in the flow's folder, over what is there.
    pub(super) fn includes(
        &mut self,
        flow: &Flow,
        source: &Path,
        target: &Path,
    ) -> Result<(), RunError> {
        let mut seen = HashSet::new();
        for include in &flow.additional_includes {
            let missing = || missing_include(include);
            let path = source.join(include);
            let Ok(path) = path.canonicalize() else {
                return Err(missing());
            };
            let Some(name) = path.file_name() else {
                return Err(missing());
            };
            let place = target.join(name);
            if !seen.insert(name.to_owned()) || place.exists() {
                self.notes.push(format!(
                    "additional include {include} takes the place of {}",
                    name.to_string_lossy()
                ));
            }
            let metadata = fs::metadata(&path).map_err(|_| missing())?;
            if metadata.is_dir() {
                self.folder(&path, &place, 1)?;
            } else {
                self.file(&path, &place, metadata.len())?;
            }
        }
        Ok(())
    }
}
