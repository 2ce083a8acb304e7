//! Folders as archives: the same folder gives the same bytes.
//!
//! An archive that was pulled is a stranger's. Only files are taken from it, each once and below its folder; there are no
//! links and no other headers than those that [`pack`] writes, and names, files and bytes are counted as they come.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use crate::error::{BundleError, IoContext as _};
use crate::store::{PartialFolder, Store};
use flowcell_registry::Digest;

/// Balances 0.3 s of packing against size; unpacking does not depend on it.
const ZSTD_LEVEL: i32 = 6;

/// What a tree may have.
const LIMITS: Limits = Limits {
    bytes: 4 << 30,
    files: 200_000,
};
/// Bytes of a file's name, with its folders.
const MAX_NAME: u64 = 1_024;
/// Folders that a file is in.
const MAX_DEPTH: usize = 64;
/// Bytes of a block of an archive; each file has one as its header.
const BLOCK: u64 = 512;

/// What all trees of a bundle may have together that comes with an app: whoever may edit flows can upload one.
pub(crate) const APP_LIMITS: Limits = Limits {
    bytes: 1 << 30,
    files: 100_000,
};
/// What a flow may have that comes with its whole environment: as much as any folder of a flow.
pub(crate) const FLOW_LIMITS: Limits = Limits {
    bytes: 128 << 20,
    files: 5_000,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    bytes: u64,
    files: usize,
}

impl Limits {
    /// Bytes that an archive within these limits has at most: headers and padding are counted with the files.
    pub(crate) fn tar_bytes(self) -> u64 {
        (self.files as u64)
            .saturating_mul(4 * BLOCK + MAX_NAME)
            .saturating_add(self.bytes)
    }
}

/// Packs the files below `folder`: sorted, without times, owners or modes.
pub(crate) fn pack(folder: &Path) -> Result<Vec<u8>, BundleError> {
    let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL).io("compress", folder)?;
    append_sorted(folder, &mut encoder, LIMITS)?;
    encoder.finish().io("compress", folder)
}

/// The files of a flow's folder, as [`pack`] has those of a tree before they are compressed.
pub(crate) fn tar(folder: &Path) -> Result<Vec<u8>, BundleError> {
    let mut archive = Vec::new();
    append_sorted(folder, &mut archive, FLOW_LIMITS)?;
    Ok(archive)
}

fn append_sorted(
    folder: &Path,
    archive: &mut impl Write,
    limits: Limits,
) -> Result<(), BundleError> {
    let wrong = |problem: String| BundleError::Tree {
        tree: folder.display().to_string(),
        problem,
    };
    let mut builder = tar::Builder::new(archive);
    let mut count = Count::of(limits);
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.map_err(std::io::Error::from).io("list", folder)?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.path();
        let name = path.strip_prefix(folder).unwrap_or(path);
        let bytes = fs::read(path).io("read", path)?;
        place(name.as_os_str().as_encoded_bytes())
            .and_then(|_| count.add(bytes.len() as u64))
            .map_err(wrong)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        builder
            .append_data(&mut header, name, bytes.as_slice())
            .io("pack", path)?;
    }
    builder.finish().io("pack", folder)
}

impl Store {
    /// The folder that a tree's archive unpacks to; unpacked on first use.
    pub fn tree(&self, digest: &Digest) -> Result<PathBuf, BundleError> {
        let trees = self.cache().join("trees");
        let folder = trees.join(digest.hex());
        if folder.is_dir() {
            return Ok(folder);
        }
        let archive = self.get(digest)?;
        if let Some(staged) = self.stage_tree(digest, &archive, LIMITS)? {
            staged.commit()?;
        }
        Ok(folder)
    }

    /// Unpacks a tree's archive beside its place; `None` when it is there already.
    pub(crate) fn stage_tree(
        &self,
        digest: &Digest,
        archive: &[u8],
        limits: Limits,
    ) -> Result<Option<StagedTree>, BundleError> {
        let trees = self.cache().join("trees");
        let folder = trees.join(digest.hex());
        if folder.is_dir() {
            return Ok(None);
        }
        fs::create_dir_all(&trees).io("make the folder", &trees)?;
        let partial = self.partial_folder(&trees)?;
        let left =
            unpack(archive, partial.path(), limits).map_err(|problem| BundleError::Tree {
                tree: digest.to_string(),
                problem,
            })?;
        Ok(Some(StagedTree {
            partial,
            folder,
            left,
        }))
    }
}

/// A tree that was unpacked, without its name; it goes when nobody gives it that.
pub(crate) struct StagedTree {
    partial: PartialFolder,
    folder: PathBuf,
    /// What it has left of its limits.
    pub(crate) left: Limits,
}

impl StagedTree {
    /// Gives it its name.
    pub(crate) fn commit(self) -> Result<(), BundleError> {
        match self.partial.persist(&self.folder) {
            Ok(()) => Ok(()),
            // Another process was faster; its folder has the same content.
            Err(_) if self.folder.is_dir() => Ok(()),
            Err(error) => Err(error).io("write", &self.folder),
        }
    }
}

/// Files and bytes, as they come.
struct Count {
    left: Limits,
    limits: Limits,
}

impl Count {
    fn of(limits: Limits) -> Self {
        Self {
            left: limits,
            limits,
        }
    }

    fn add(&mut self, bytes: u64) -> Result<(), String> {
        let files = self.left.files.checked_sub(1);
        self.left.files =
            files.ok_or_else(|| format!("it has more than {} files", self.limits.files))?;
        let left = self.left.bytes.checked_sub(bytes);
        self.left.bytes =
            left.ok_or_else(|| format!("its files have more than {} bytes", self.limits.bytes))?;
        Ok(())
    }
}

/// Where a file of this name goes.
///
/// # Errors
/// When a tree may not have the name; why.
fn place(name: &[u8]) -> Result<PathBuf, String> {
    let shown = || {
        let name: String = String::from_utf8_lossy(name).chars().take(100).collect();
        format!("{name:?}")
    };
    let text = std::str::from_utf8(name).map_err(|_| format!("{} is no UTF-8 text", shown()))?;
    if name.len() as u64 > MAX_NAME {
        return Err(format!("the name {} is too long", shown()));
    }
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(part) => path.push(part),
            _ => return Err(format!("{} leads out of its folder", shown())),
        }
    }
    let depth = path.components().count();
    if depth == 0 || depth > MAX_DEPTH || text.contains('\0') {
        return Err(format!("{} is no name of a file", shown()));
    }
    Ok(path)
}

/// Unpacks an archive into a folder, which is empty; gives what is left of the limits.
fn unpack(packed: &[u8], folder: &Path, limits: Limits) -> Result<Limits, String> {
    let failed = |error: io::Error| format!("it cannot be read: {error}");
    let decoder = zstd::Decoder::new(packed).map_err(failed)?;
    unpack_tar(decoder, folder, limits)
}

/// The same for one that is not compressed.
pub(crate) fn unpack_tar(
    archive: impl Read,
    folder: &Path,
    limits: Limits,
) -> Result<Limits, String> {
    let failed = |error: io::Error| format!("it cannot be read: {error}");
    // Whatever its headers say, no more than this comes out of it.
    let mut archive = tar::Archive::new(archive.take(limits.tar_bytes()));
    let mut count = Count::of(limits);
    let mut folders = HashSet::new();
    let mut long_name = None;
    // Raw: otherwise the reader would take in names of any length before they are seen here.
    for entry in archive.entries().map_err(failed)?.raw(true) {
        let mut entry = entry.map_err(failed)?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() && long_name.is_none() {
            let mut name = Vec::new();
            let reading = (&mut entry).take(MAX_NAME + 2).read_to_end(&mut name);
            reading.map_err(failed)?;
            // It ends with a NUL.
            let name = name.strip_suffix(b"\0").unwrap_or(&name);
            place(name)?;
            long_name = Some(name.to_vec());
            continue;
        }
        let name = match long_name.take() {
            Some(name) => name,
            None => entry.path_bytes().into_owned(),
        };
        let path = place(&name)?;
        let shown = path.display();
        if !kind.is_file() {
            return Err(format!("{shown} in it is no ordinary file"));
        }
        let size = entry.size();
        count.add(size)?;
        let target = folder.join(&path);
        if let Some(parent) = path.parent()
            && !folders.contains(parent)
        {
            let parent = parent.to_owned();
            fs::create_dir_all(folder.join(&parent)).map_err(|error| write(&path, &error))?;
            folders.insert(parent);
        }
        let file = fs::File::options()
            .write(true)
            .create_new(true)
            .open(&target);
        let mut file = match file {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(format!("{shown} is in it twice"));
            }
            file => file.map_err(|error| write(&path, &error))?,
        };
        let copied = io::copy(&mut entry, &mut file).map_err(failed)?;
        if copied != size {
            return Err(format!("it ends within {shown}"));
        }
    }
    Ok(count.left)
}

fn write(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let one = folder(&[("b/x.py", "1"), ("a.py", "2"), ("c", "")]);
        let other = folder(&[("c", ""), ("a.py", "2"), ("b/x.py", "1")]);
        // Neither times, nor modes, nor folders without files count.
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(other.path().join("a.py"), executable).unwrap();
        fs::create_dir(other.path().join("empty")).unwrap();
        assert_eq!(pack(one.path()).unwrap(), pack(other.path()).unwrap());
        let changed = folder(&[("b/x.py", "1"), ("a.py", "3"), ("c", "")]);
        assert_ne!(pack(one.path()).unwrap(), pack(changed.path()).unwrap());
    }

    #[test]
    fn unpacking_gives_the_files_back() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let long = format!("{}/deep.py", "d".repeat(150));
        let source = folder(&[("a.py", "one"), ("sub/b.py", "two"), (&long, "three")]);
        let digest = store.put(&pack(source.path()).unwrap()).unwrap();
        let unpacked = store.tree(&digest).unwrap();
        for (name, content) in [("a.py", "one"), ("sub/b.py", "two"), (&long, "three")] {
            assert_eq!(fs::read_to_string(unpacked.join(name)).unwrap(), content);
        }
        assert_eq!(store.tree(&digest).unwrap(), unpacked);
    }

    #[test]
    fn a_damaged_archive_leaves_no_folder() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        for bytes in [
            &b"no archive"[..],
            &pack(folder(&[("a", "x")]).path()).unwrap()[..20],
        ] {
            let digest = store.put(bytes).unwrap();
            store.tree(&digest).unwrap_err();
            let left = fs::read_dir(home.path().join("cache/trees"))
                .unwrap()
                .count();
            assert_eq!(left, 0);
        }
    }

    /// An archive of one entry whose header is written as it is: the library would refuse some of it.
    fn hostile(name: &[u8], kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(kind);
        if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        builder.append(&header, content).unwrap();
        builder.into_inner().unwrap().finish().unwrap()
    }

    fn refused(archive: &[u8], limits: Limits) -> String {
        let home = tempfile::tempdir().unwrap();
        let inside = home.path().join("a/b/c/inside");
        fs::create_dir_all(&inside).unwrap();
        let error = unpack(archive, &inside, limits).unwrap_err();
        let left = fs::read_dir(home.path()).unwrap().count();
        assert_eq!(left, 1, "it wrote outside of its folder");
        error
    }

    #[test]
    fn what_is_no_file_of_the_folder_is_refused() {
        use tar::EntryType;

        for name in [
            &b"../../../../escaped"[..],
            b"/escaped",
            b"a/../../x",
            b"..",
            b".",
        ] {
            let error = refused(&hostile(name, EntryType::Regular, b"evil"), LIMITS);
            let words = ["leads out", "no name of a file"];
            assert!(words.iter().any(|words| error.contains(words)), "{error}");
        }
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Directory,
            EntryType::Char,
            EntryType::Fifo,
            EntryType::GNUSparse,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
            EntryType::GNULongLink,
        ] {
            let error = refused(&hostile(b"name", kind, b""), LIMITS);
            assert!(error.contains("no ordinary file"), "{kind:?}: {error}");
        }
    }

    #[test]
    fn bombs_are_refused_as_they_unpack() {
        let small = Limits {
            bytes: 1_000,
            files: 2,
        };
        let large = folder(&[("zeros", &"\0".repeat(10_000_000))]);
        let archive = pack(large.path()).unwrap();
        assert!(archive.len() < 2_000, "{}", archive.len());
        let error = refused(&archive, small);
        assert!(error.contains("more than 1000 bytes"), "{error}");

        let many = pack(folder(&[("a", ""), ("b", ""), ("c", "")]).path()).unwrap();
        let error = refused(&many, small);
        assert!(error.contains("more than 2 files"), "{error}");

        // A name that is as long as the archive.
        let name = "n".repeat(10_000_000);
        let archive = hostile(
            b"././@LongLink",
            tar::EntryType::GNULongName,
            name.as_bytes(),
        );
        let error = refused(&archive, LIMITS);
        assert!(error.len() < 300, "{} bytes", error.len());

        let mut limited = Vec::new();
        let error = append_sorted(large.path(), &mut limited, small).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("more than 1000 bytes"), "{error}");
    }

    #[test]
    fn processes_that_unpack_at_the_same_time_agree() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let digest = store
            .put(&pack(folder(&[("a.py", "one")]).path()).unwrap())
            .unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let unpacked = store.tree(&digest).unwrap();
                    assert_eq!(fs::read_to_string(unpacked.join("a.py")).unwrap(), "one");
                });
            }
        });
        assert_eq!(
            fs::read_dir(home.path().join("cache/trees"))
                .unwrap()
                .count(),
            1
        );
    }
}
