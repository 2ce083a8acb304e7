//! The disk quota of a session.
//!
//! A counter that only grows: every byte written and every file made is charged, whether or not it replaces something.
//! When the counter meets the limit, the directories are measured, the counter takes the true value, and the charge is
//! tried again. So ordinary writes cost an addition, deleting files gives room back, and nothing that a guest does
//! (overwriting, holes, hard links) can make the counter fall below what the disk holds. The one thing that measuring
//! cannot see is a file that was deleted while open; those are kept track of until they are closed.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Identifies a file while it exists (its device and inode, hashed by wasmtime-wasi).
pub(crate) type FileIdentity = (u64, u64);

/// Bytes and files that a session holds in its writable directories, and the most that it may.
#[derive(Debug)]
pub(crate) struct Quota {
    writable: Vec<PathBuf>,
    most_bytes: u64,
    most_files: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    files: u64,
    measured: bool,
    open: HashMap<FileIdentity, Open>,
}

#[derive(Debug, Default)]
struct Open {
    count: u32,
    /// Bytes that are still on the disk although no name leads to them; `None` while the file has a name.
    unlinked: Option<u64>,
}

/// The session's disk quota is used up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QuotaExceeded;

impl Quota {
    pub(crate) fn new(writable: Vec<PathBuf>, most_bytes: u64, most_files: u64) -> Self {
        Self {
            writable,
            most_bytes,
            most_files,
            state: Mutex::default(),
        }
    }

    /// Charges bytes that are about to be written to a file.
    pub(crate) fn charge_bytes(
        &self,
        bytes: u64,
        identity: Option<FileIdentity>,
    ) -> Result<(), QuotaExceeded> {
        let mut state = self.lock();
        self.fit(&mut state, bytes, 0)?;
        state.bytes += bytes;
        if let Some(unlinked) = identity
            .and_then(|identity| state.open.get_mut(&identity))
            .and_then(|open| open.unlinked.as_mut())
        {
            *unlinked += bytes;
        }
        Ok(())
    }

    /// Charges a file, folder or link that is about to be made.
    pub(crate) fn charge_file(&self) -> Result<(), QuotaExceeded> {
        let mut state = self.lock();
        self.fit(&mut state, 0, 1)?;
        state.files += 1;
        Ok(())
    }

    /// Notes that a file is open, until the guard is dropped.
    pub(crate) fn opened(self: &Arc<Self>, identity: FileIdentity) -> OpenFile {
        self.lock().open.entry(identity).or_default().count += 1;
        OpenFile {
            quota: Arc::clone(self),
            identity,
        }
    }

    /// Notes that the last name of a file of `size` bytes is gone; it counts on while somebody has it open.
    pub(crate) fn unlinked(&self, identity: FileIdentity, size: u64) {
        if let Some(open) = self.lock().open.get_mut(&identity) {
            open.unlinked = Some(size);
        }
    }

    fn fit(&self, state: &mut State, bytes: u64, files: u64) -> Result<(), QuotaExceeded> {
        let fits = |state: &State| {
            state.measured
                && state.bytes.saturating_add(bytes) <= self.most_bytes
                && state.files.saturating_add(files) <= self.most_files
        };
        if fits(state) {
            return Ok(());
        }
        let unlinked: u64 = state.open.values().filter_map(|open| open.unlinked).sum();
        let (on_disk, count) = measure(&self.writable);
        state.bytes = on_disk.saturating_add(unlinked);
        state.files = count;
        state.measured = true;
        if fits(state) {
            Ok(())
        } else {
            Err(QuotaExceeded)
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that a guest has open.
#[derive(Debug)]
pub(crate) struct OpenFile {
    quota: Arc<Quota>,
    identity: FileIdentity,
}

impl OpenFile {
    pub(crate) fn identity(&self) -> FileIdentity {
        self.identity
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let mut state = self.quota.lock();
        if let Some(open) = state.open.get_mut(&self.identity) {
            open.count -= 1;
            if open.count == 0 {
                state.open.remove(&self.identity);
            }
        }
    }
}

/// Bytes and entries below some directories; a file with several names counts once. What cannot be read counts nothing,
/// because the guest cannot have made it.
fn measure(directories: &[PathBuf]) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;

    let mut bytes = 0_u64;
    let mut files = 0_u64;
    let mut seen = HashSet::new();
    let mut pending: Vec<PathBuf> = directories.to_vec();
    while let Some(directory) = pending.pop() {
        for (path, metadata) in entries(&directory) {
            files += 1;
            if metadata.is_dir() {
                pending.push(path);
            } else if seen.insert((metadata.dev(), metadata.ino())) {
                bytes = bytes.saturating_add(metadata.len());
            }
        }
    }
    (bytes, files)
}

fn entries(directory: &Path) -> Vec<(PathBuf, std::fs::Metadata)> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn quota(directory: &Path, bytes: u64, files: u64) -> Arc<Quota> {
        Arc::new(Quota::new(vec![directory.to_owned()], bytes, files))
    }

    #[test]
    fn refuses_what_exceeds_the_limit_and_forgets_what_was_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let quota = quota(directory.path(), 100, 10);
        let file = directory.path().join("a");
        quota.charge_bytes(80, None).unwrap();
        std::fs::write(&file, [0; 80]).unwrap();
        assert_eq!(quota.charge_bytes(30, None), Err(QuotaExceeded));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(quota.charge_bytes(30, None), Ok(()));
    }

    #[test]
    fn counts_a_deleted_file_while_it_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let quota = quota(directory.path(), 100, 10);
        let open = quota.opened((1, 1));
        quota.charge_bytes(60, Some((1, 1))).unwrap();
        quota.unlinked((1, 1), 60);
        quota.charge_bytes(20, Some((1, 1))).unwrap();
        assert_eq!(quota.charge_bytes(40, None), Err(QuotaExceeded));
        drop(open);
        assert_eq!(quota.charge_bytes(40, None), Ok(()));
    }

    #[test]
    fn counts_files() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("there"), "").unwrap();
        let quota = quota(directory.path(), 100, 2);
        quota.charge_file().unwrap();
        std::fs::write(directory.path().join("made"), "").unwrap();
        assert_eq!(quota.charge_file(), Err(QuotaExceeded));
    }
}
