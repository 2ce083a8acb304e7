//! The content-addressed store.
//!
//! ```text
//! <root>/blobs/sha256/<hex>          components, tree archives, manifests
//! <root>/bundles/<name>/<version>    the digest of a bundle's manifest
//! <root>/pulled/<hex>                a registry's image, and the digest of its bundle's manifest
//! <root>/manifests/<hex>             empty: this blob is a bundle's manifest, checked
//! <root>/built/<hex>                 empty: this component was built on this machine
//! <root>/cache/                      compiled code, unpacked trees, memory images and packages; may be deleted
//! <root>/leases/, <root>/roots/      what is in use
//! <root>/trash/                      what is being deleted
//! ```
//! Files appear whole or not at all: each is written under a temporary name, synced, and renamed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{BundleError, IoContext as _};
use crate::lease::Leases;
use flowcell_registry::Digest;

/// A store on the local disk.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    leases: Arc<Leases>,
}

/// How the names of files and folders begin that are being made.
pub(crate) const PARTIAL: &str = ".partial-";

impl Store {
    /// The store in this folder, which is made when it is not there.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, BundleError> {
        let root = root.into();
        for folder in [
            "blobs/sha256",
            "bundles",
            "pulled",
            "manifests",
            "built",
            "cache",
            "cache/images",
            "leases",
            "roots",
            "trash",
        ] {
            let path = root.join(folder);
            fs::create_dir_all(&path).io("make the folder", &path)?;
        }
        Ok(Self {
            leases: Arc::new(Leases::new(&root)),
            root,
        })
    }

    pub(crate) fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// The folder that the store is in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder for files of memory images.
    pub fn images(&self) -> PathBuf {
        self.cache().join("images")
    }

    /// The folder of what can be made again.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Where the bytes of this name are, if they are there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Keeps these bytes and gives their name.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, BundleError> {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        if !path.exists() {
            self.write_whole(&path, bytes)?;
        }
        Ok(digest)
    }

    /// The bytes of this name, checked.
    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>, BundleError> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).io("read", &path)?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(BundleError::Damaged {
                path,
                found: found.to_string(),
            });
        }
        Ok(bytes)
    }

    /// Notes that a component was built on this machine, so its code is compiled without the limits for a stranger's.
    pub(crate) fn mark_built(&self, component: &Digest) -> Result<(), BundleError> {
        self.write_whole(&self.root.join("built").join(component.hex()), b"")
    }

    /// Whether a component was built on this machine. What was only pulled was not.
    pub(crate) fn was_built(&self, component: &Digest) -> bool {
        self.root.join("built").join(component.hex()).exists()
    }

    /// Writes a file that appears whole or not at all, and is on the disk when this returns. Its folder has to be there.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
        let mut file = self.partial_file(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(bytes).io("write", path)?;
        self.keep(file, path)
    }

    /// Gives a [partial file](Self::partial_file) its name, in the folder that it was made in; it is on the disk when this
    /// returns.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep(&self, file: tempfile::NamedTempFile, path: &Path) -> Result<(), BundleError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        file.as_file().sync_all().io("write", path)?;
        file.persist(path)
            .map_err(|error| error.error)
            .io("write", path)?;
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .io("write in", folder)
    }

    /// A file in a folder of this store that gets its name when it is whole. Should its process die, it is collected.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn partial_file(&self, folder: &Path) -> Result<tempfile::NamedTempFile, BundleError> {
        let _gate = self.enter()?;
        let made = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder);
        // What is locked has somebody who writes it.
        made.and_then(|file| file.as_file().lock().map(|()| file))
            .io("write in", folder)
    }

    /// The same for a folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn partial_folder(&self, folder: &Path) -> Result<PartialFolder, BundleError> {
        let _gate = self.enter()?;
        let made = || {
            let made = tempfile::Builder::new()
                .prefix(PARTIAL)
                .tempdir_in(folder)?;
            let lock = File::open(made.path())?;
            lock.lock()?;
            Ok(PartialFolder {
                folder: made,
                _lock: lock,
            })
        };
        made().io("write in", folder)
    }
}

/// A folder that gets its name when it is whole, and is deleted otherwise.
#[derive(Debug)]
pub struct PartialFolder {
    folder: tempfile::TempDir,
    // Given up when it is closed.
    _lock: File,
}

impl PartialFolder {
    /// Where it is meanwhile.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// When that cannot be done; when there is such a folder, which has something in it.
    pub fn persist(self, path: &Path) -> io::Result<()> {
        fs::rename(self.folder.path(), path)?;
        // It has moved; there is nothing left to remove.
        let _ = self.folder.keep();
        Ok(())
    }
}

pub(crate) fn names(folder: &Path) -> Result<Vec<String>, BundleError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).io("list", folder)? {
        if let Ok(name) = entry.io("list", folder)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Notes that a file is used now, so that [`trim`] keeps it longest.
pub fn touch(path: &Path) {
    let touched = fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!(path = %path.display(), %error, "a file keeps its time of use");
    }
}

/// Deletes the files in a folder that were changed least recently, of those with this extension, until they have no more
/// than so many bytes together. Whoever has one open keeps it.
///
/// # Errors
/// When the folder cannot be read, or a file not be deleted.
pub fn trim(folder: &Path, extension: &str, most: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|other| other == extension) {
            let metadata = match fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            files.push((metadata.modified()?, metadata.len(), path));
        }
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
    for (_, size, path) in files {
        if total <= most {
            break;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // Whoever collects garbage was faster.
            _ => total -= size,
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;
    use crate::manifest::{Manifest, Reference};

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store")).unwrap();
        (folder, store)
    }

    fn manifest(version: &str) -> Manifest {
        Manifest::new("name", version)
    }

    #[test]
    fn gives_back_what_was_put() {
        let (_folder, store) = store();
        let digest = store.put(b"content").unwrap();
        assert_eq!(store.put(b"content").unwrap(), digest);
        assert_eq!(store.get(&digest).unwrap(), b"content");
    }

    #[test]
    fn the_files_that_were_used_last_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let now = std::time::SystemTime::now();
        for (age, name) in ["c.x", "a.x", "b.x", "older.y"].iter().enumerate() {
            let path = folder.path().join(name);
            fs::write(&path, [0; 10]).unwrap();
            let changed = now - std::time::Duration::from_secs(age as u64);
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(changed).unwrap();
        }
        let left = |most| {
            trim(folder.path(), "x", most).unwrap();
            let mut names = names(folder.path()).unwrap();
            names.sort();
            names
        };
        assert_eq!(left(30), ["a.x", "b.x", "c.x", "older.y"]);
        assert_eq!(left(29), ["a.x", "c.x", "older.y"]);
        assert_eq!(left(5), ["older.y"]);
    }

    #[test]
    fn damaged_content_is_never_given_out() {
        let (_folder, store) = store();
        let digest = store.put(b"content").unwrap();
        for damage in [&b"contenT"[..], b"", b"content and more"] {
            fs::write(store.blob_path(&digest), damage).unwrap();
            let error = store.get(&digest).unwrap_err();
            assert!(
                matches!(&error, BundleError::Damaged { path, .. } if *path == store.blob_path(&digest)),
                "{error}"
            );
        }
    }

    #[test]
    fn what_a_writer_left_halfway_is_no_content() {
        let (_folder, store) = store();
        let reference: Reference = "name:1".parse().unwrap();
        store.put_manifest(&manifest("1")).unwrap();
        fs::write(store.root().join("bundles/name/.partial-abc"), "half").unwrap();
        fs::write(store.root().join("blobs/sha256/.partial-abc"), "half").unwrap();
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&reference));
        assert_eq!(store.manifest(&reference).unwrap(), manifest("1"));
    }

    #[test]
    fn writers_at_the_same_time_agree() {
        let (_folder, store) = store();
        let content: Vec<Vec<u8>> = (0..4_u8).map(|byte| vec![byte; 100_000]).collect();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for bytes in &content {
                        let digest = store.put(bytes).unwrap();
                        assert_eq!(store.get(&digest).unwrap(), *bytes);
                    }
                    store.put_manifest(&manifest("1")).unwrap();
                });
            }
        });
        let left: Vec<String> = names(&store.root().join("blobs/sha256")).unwrap();
        assert_eq!(left.len(), content.len() + 1, "{left:?}");
        assert_eq!(
            store.manifest(&"name:1".parse().unwrap()).unwrap(),
            manifest("1")
        );
    }

    #[test]
    fn a_version_can_be_pointed_to_something_else() {
        let (_folder, store) = store();
        let first = store.put_manifest(&manifest("1")).unwrap();
        let changed = Manifest {
            trees: vec![crate::manifest::Tree {
                mount: "/packages".to_owned(),
                digest: first,
                size: 1,
            }],
            ..manifest("1")
        };
        let second = store.put_manifest(&changed).unwrap();
        assert_ne!(first, second);
        assert_eq!(store.resolve(&"name:1".parse().unwrap()).unwrap(), second);
    }

    #[test]
    fn what_is_not_there_or_not_understood_is_said() {
        let (_folder, store) = store();
        let reference: Reference = "name:1".parse().unwrap();
        let error = store.manifest(&reference).unwrap_err().to_string();
        assert!(
            error.contains("name:1") && error.contains("flowcell bundle build"),
            "{error}"
        );
        store.put_manifest(&manifest("2")).unwrap();
        let error = store.manifest(&reference).unwrap_err().to_string();
        assert!(error.contains("there is name:2"), "{error}");

        let future = Manifest {
            schema: 2,
            ..manifest("1")
        };
        let error = store.put_manifest(&future).unwrap_err().to_string();
        assert!(error.contains("format 2"), "{error}");
        let future = store
            .put(&serde_json::to_vec_pretty(&future).unwrap())
            .unwrap();
        fs::write(store.root().join("bundles/name/1"), future.to_string()).unwrap();
        let error = store.manifest(&reference).unwrap_err().to_string();
        assert!(
            error.contains(&future.to_string()) && error.contains("format 2"),
            "{error}"
        );
        fs::write(store.root().join("bundles/name/1"), "sha256:nonsense").unwrap();
        let error = store.manifest(&reference).unwrap_err();
        assert!(matches!(error, BundleError::Damaged { .. }), "{error}");
        let no_manifest = store.put(b"{}").unwrap();
        fs::write(store.root().join("bundles/name/1"), no_manifest.to_string()).unwrap();
        let error = store.manifest(&reference).unwrap_err();
        assert!(matches!(error, BundleError::Manifest { .. }), "{error}");
    }
}
