//! The files of a working copy, as the host reads them.
//!
//! Tools can write to the copy: a file's import, before the next node's template is read, is enough. A link that a tool
//! left there may lead anywhere, so the host never goes by a path of the copy; cap-std resolves it below the folder.

use std::io::{self, Read as _};
use std::path::{Component, Path};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt as _};

/// Names of a folder that are looked at.
const MAX_NAMES: usize = 10_000;

/// The folder of a working copy.
#[derive(Debug)]
pub(crate) struct FlowFiles(Dir);

/// Why a file of the flow was not read.
#[derive(Debug)]
pub(crate) enum FileError {
    /// The path, or a link on it, leads out of the flow's folder.
    Outside,
    /// No file is there.
    Missing,
    /// It has more bytes than it may.
    TooLarge {
        /// Bytes that it may have.
        limit: u64,
    },
    /// What the system said.
    Io(io::Error),
}

impl FlowFiles {
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        Dir::open_ambient_dir(folder, ambient_authority()).map(Self)
    }

    /// Whether a node can name this file.
    pub(crate) fn check(&self, path: &str) -> Result<(), FileError> {
        self.open(path).map(|_| ())
    }

    /// Whether something has this name, be it a file or a folder.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.exists(path)
    }

    /// The names of what is in it; not more than a flow may have files.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = self.0.entries().into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.take(MAX_NAMES).collect()
    }

    /// What a file holds.
    pub(crate) fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        // Its length is no promise: a tool may be writing to it.
        self.open(path)?
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(FileError::Io)?;
        if bytes.len() as u64 > limit {
            return Err(FileError::TooLarge { limit });
        }
        Ok(bytes)
    }

    fn open(&self, path: &str) -> Result<File, FileError> {
        if leaves(Path::new(path)) {
            return Err(FileError::Outside);
        }
        let mut options = OpenOptions::new();
        // Opening a fifo would wait for whoever writes to it.
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let file = self
            .0
            .open_with(path, &options)
            .map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => FileError::Outside,
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FileError::Missing,
                _ => FileError::Io(error),
            })?;
        if file.metadata().map_err(FileError::Io)?.is_file() {
            Ok(file)
        } else {
            Err(FileError::Missing)
        }
    }
}

fn leaves(path: &Path) -> bool {
    let mut depth = 0_usize;
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder() -> (tempfile::TempDir, FlowFiles) {
        let root = tempfile::tempdir().unwrap();
        let flow = root.path().join("flow");
        std::fs::create_dir_all(flow.join("sub")).unwrap();
        std::fs::write(root.path().join("secret"), "secret").unwrap();
        std::fs::write(flow.join("sub/file"), "inside").unwrap();
        let files = FlowFiles::new(&flow).unwrap();
        (root, files)
    }

    #[test]
    fn reads_files_of_the_folder() {
        let (root, files) = folder();
        symlink("sub/file", root.path().join("flow/link")).unwrap();
        for path in ["sub/file", "./sub/../sub/file", "link"] {
            assert_eq!(files.read(path, 6).unwrap(), b"inside", "{path}");
        }
        assert!(matches!(
            files.read("sub/file", 5),
            Err(FileError::TooLarge { limit: 5 })
        ));
        for path in ["sub", "gone", "sub/file/x", ""] {
            assert!(
                matches!(
                    files.read(path, 6),
                    Err(FileError::Missing | FileError::Io(_))
                ),
                "{path}"
            );
        }
    }

    #[test]
    fn nothing_leads_out_of_it() {
        let (root, files) = folder();
        let flow = root.path().join("flow");
        symlink("../secret", flow.join("relative")).unwrap();
        symlink(root.path().join("secret"), flow.join("absolute")).unwrap();
        symlink("..", flow.join("parent")).unwrap();
        symlink("relative", flow.join("chain")).unwrap();
        let absolute = root.path().join("secret");
        for path in [
            "../secret",
            "sub/../../secret",
            absolute.to_str().unwrap(),
            "relative",
            "absolute",
            "parent/secret",
            "chain",
        ] {
            assert!(
                matches!(files.check(path), Err(FileError::Outside)),
                "{path}"
            );
            assert!(
                matches!(files.read(path, 100), Err(FileError::Outside)),
                "{path}"
            );
        }
    }
}
