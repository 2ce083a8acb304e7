//! The working copy of a session: the flow's files as its tools see them, on disk.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};

use crate::name::Name;
use crate::registry::{FileInfo, Registry, RegistryError};

/// Which files were put into the copy, so that an edit changes those and leaves alone what tools have written.
const MANIFEST: &str = "files.json";
/// The flow's files.
const FLOW: &str = "flow";
/// What tools see as `/tmp`.
const TEMPORARY: &str = "tmp";

/// A working copy that could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The disk.
    #[error("cannot write the session's working copy")]
    Disk(#[source] io::Error),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// There is more than a session may have.
    #[error("the session's files are larger or more than a session's disk may hold; delete some")]
    TooLarge,
}

impl CopyError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Disk(error) => matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Registry(RegistryError::Full(_)) => true,
            Self::Registry(_) | Self::TooLarge => false,
        }
    }
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// The folder of one life of a session.
#[derive(Debug, Clone)]
pub(super) struct WorkingCopy {
    folder: PathBuf,
}

impl WorkingCopy {
    /// The folders that tools see.
    pub(super) const FOLDERS: [&str; 2] = [FLOW, TEMPORARY];

    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the files of the flow that are not in the copy as they are in the registry, and deletes those that were
    /// deleted there. What tools wrote stays, unless it is in the way.
    pub(super) fn update(
        &self,
        registry: &dyn Registry,
        workspace: &Name,
        flow: &Name,
    ) -> Result<(), CopyError> {
        let flow_folder = self.folder.join(FLOW);
        std::fs::create_dir_all(&flow_folder)?;
        std::fs::create_dir_all(self.folder.join(TEMPORARY))?;
        // Tools may have put links anywhere below it; a `Dir` does not follow them out.
        let root = Dir::open_ambient_dir(&flow_folder, ambient_authority())?;
        let before = self.manifest();
        let files = registry.files(workspace, flow)?;
        let now: BTreeMap<&str, &str> = files
            .iter()
            .map(|FileInfo { path, digest, .. }| (path.as_str(), digest.as_str()))
            .collect();
        for path in before
            .keys()
            .filter(|path| !now.contains_key(path.as_str()))
        {
            remove(&root, path)?;
        }
        for (path, digest) in &now {
            if before.get(*path).is_some_and(|before| before == digest) {
                continue;
            }
            // A file that was deleted meanwhile is left out at the next update.
            if let Some(content) = registry.file(workspace, flow, path)? {
                write(&root, path, &content)?;
            }
        }
        // Last, and whole: a copy that was not finished is written again.
        let text = serde_json::to_vec(&now).map_err(io::Error::from)?;
        let temporary = self.folder.join("files.json.new");
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, self.folder.join(MANIFEST))?;
        Ok(())
    }

    /// Whether all that belongs into the copy has been in it.
    pub(super) fn is_finished(&self) -> bool {
        self.folder.join(MANIFEST).exists()
    }

    /// Another copy has all that this one has, and is finished with it.
    pub(super) fn finish_as(&self, other: &Self) -> Result<(), CopyError> {
        std::fs::copy(self.folder.join(MANIFEST), other.folder.join(MANIFEST))?;
        Ok(())
    }

    /// What the copy was made of; empty when it was never finished.
    fn manifest(&self) -> BTreeMap<String, String> {
        std::fs::read(self.folder.join(MANIFEST))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// Deletes the copy.
    pub(super) fn delete(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn remove(root: &Dir, path: &str) -> io::Result<()> {
    match root.symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => root.remove_dir_all(path),
        Ok(_) => root.remove_file(path),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether nothing can be at a path: it is not there, or it goes through a file or a link that leads out.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

/// Writes a file, with folders around it; whatever else a tool has put in these places goes.
fn write(root: &Dir, path: &str, content: &[u8]) -> io::Result<()> {
    for (end, _) in path.match_indices('/') {
        let folder = &path[..end];
        let is_folder = root
            .symlink_metadata(folder)
            .is_ok_and(|metadata| metadata.is_dir());
        if !is_folder {
            remove(root, folder)?;
            root.create_dir(folder)?;
        }
    }
    remove(root, path)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    root.open_with(path, &options)?.write_all(content)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::registry::{Durability, MemoryRegistry};
    use crate::state::Change;

    struct Fixture {
        folder: tempfile::TempDir,
        registry: MemoryRegistry,
        names: (Name, Name),
    }

    impl Fixture {
        fn new(files: &[(&str, &str)]) -> Self {
            let fixture = Self {
                folder: tempfile::tempdir().unwrap(),
                registry: MemoryRegistry::default(),
                names: (Name::new("w").unwrap(), Name::new("f").unwrap()),
            };
            for (path, content) in files {
                fixture.put(path, Some(content));
            }
            fixture.update();
            fixture
        }

        fn put(&self, path: &str, content: Option<&str>) {
            let (workspace, flow) = self.names.clone();
            let path = path.to_owned();
            let change = match content {
                Some(content) => Change::PutFile {
                    workspace,
                    flow,
                    path,
                    content: Bytes::copy_from_slice(content.as_bytes()),
                },
                None => Change::DeleteFile {
                    workspace,
                    flow,
                    path,
                },
            };
            self.registry
                .commit(&[change], Durability::Written)
                .unwrap();
        }

        fn update(&self) {
            WorkingCopy::new(self.folder.path().join("copy"))
                .update(&self.registry, &self.names.0, &self.names.1)
                .unwrap();
        }

        fn path(&self, path: &str) -> PathBuf {
            self.folder.path().join("copy/flow").join(path)
        }

        fn read(&self, path: &str) -> Option<String> {
            std::fs::read_to_string(self.path(path)).ok()
        }
    }

    #[test]
    fn edits_come_and_what_tools_wrote_stays() {
        let fixture = Fixture::new(&[("a.py", "1"), ("b/c.py", "2"), ("d.py", "3")]);
        assert_eq!(fixture.read("b/c.py").as_deref(), Some("2"));
        std::fs::write(fixture.path("a.py"), "changed by a tool").unwrap();
        std::fs::write(fixture.path("new.txt"), "made by a tool").unwrap();
        fixture.put("b/c.py", Some("4"));
        fixture.put("d.py", None);
        fixture.update();
        assert_eq!(fixture.read("b/c.py").as_deref(), Some("4"));
        assert_eq!(fixture.read("d.py"), None);
        assert_eq!(fixture.read("a.py").as_deref(), Some("changed by a tool"));
        assert_eq!(fixture.read("new.txt").as_deref(), Some("made by a tool"));
    }

    #[test]
    fn links_that_tools_made_are_not_followed() {
        let fixture = Fixture::new(&[("a/b.py", "1"), ("c.py", "2")]);
        let outside = fixture.folder.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("b.py"), "precious").unwrap();
        std::fs::remove_dir_all(fixture.path("a")).unwrap();
        std::os::unix::fs::symlink(&outside, fixture.path("a")).unwrap();
        std::fs::remove_file(fixture.path("c.py")).unwrap();
        std::os::unix::fs::symlink(outside.join("b.py"), fixture.path("c.py")).unwrap();
        fixture.put("a/b.py", Some("new"));
        fixture.put("c.py", Some("new"));
        fixture.update();
        assert_eq!(fixture.read("a/b.py").as_deref(), Some("new"));
        assert_eq!(fixture.read("c.py").as_deref(), Some("new"));
        let precious = std::fs::read_to_string(outside.join("b.py")).unwrap();
        assert_eq!(precious, "precious");
        std::fs::remove_dir_all(fixture.path("a")).unwrap();
        std::os::unix::fs::symlink(&outside, fixture.path("a")).unwrap();
        fixture.put("a/b.py", None);
        fixture.update();
        assert!(outside.join("b.py").exists());
    }

    #[test]
    fn a_copy_that_was_not_finished_is_written_again() {
        let fixture = Fixture::new(&[("a.py", "1")]);
        std::fs::remove_file(fixture.folder.path().join("copy/files.json")).unwrap();
        std::fs::write(fixture.path("a.py"), "half").unwrap();
        fixture.update();
        assert_eq!(fixture.read("a.py").as_deref(), Some("1"));
    }

    #[test]
    fn files_and_folders_take_each_others_place() {
        let fixture = Fixture::new(&[("a", "file")]);
        fixture.put("a", None);
        fixture.put("a/b", Some("now a folder"));
        fixture.update();
        assert_eq!(fixture.read("a/b").as_deref(), Some("now a folder"));
        fixture.put("a/b", None);
        fixture.put("a", Some("file again"));
        fixture.update();
        assert_eq!(fixture.read("a").as_deref(), Some("file again"));
    }
}
