//! Folders as archives: the same folder gives the same bytes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::{BundleError, IoContext as _};
use crate::store::Store;

/// Balances 0.3 s of packing against size; unpacking does not depend on it.
const ZSTD_LEVEL: i32 = 6;

/// Packs the files below `folder`: sorted, without times, owners or modes.
pub(crate) fn pack(folder: &Path) -> Result<Vec<u8>, BundleError> {
    let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL).io("compress", folder)?;
    append_sorted(folder, &mut encoder)?;
    encoder.finish().io("compress", folder)
}

fn append_sorted(folder: &Path, archive: &mut impl Write) -> Result<(), BundleError> {
    let mut builder = tar::Builder::new(archive);
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.map_err(std::io::Error::from).io("list", folder)?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.path();
        let name = path.strip_prefix(folder).unwrap_or(path);
        let bytes = fs::read(path).io("read", path)?;
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
        fs::create_dir_all(&trees).io("make the folder", &trees)?;
        let partial = tempfile::Builder::new()
            .prefix(".partial-")
            .tempdir_in(&trees)
            .io("write in", &trees)?;
        let decoder =
            zstd::Decoder::new(archive.as_slice()).io("decompress", &self.blob_path(digest))?;
        let mut archive = tar::Archive::new(decoder);
        archive.set_preserve_mtime(false);
        // `unpack` keeps every entry below the folder.
        archive
            .unpack(partial.path())
            .io("unpack", &self.blob_path(digest))?;
        match fs::rename(partial.path(), &folder) {
            Ok(()) => {
                // The folder has moved; there is nothing left to remove.
                let _ = partial.keep();
                Ok(folder)
            }
            // Another process was faster; its folder has the same content.
            Err(_) if folder.is_dir() => Ok(folder),
            Err(error) => Err(error).io("write", &folder),
        }
    }
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

    #[test]
    fn an_archive_cannot_write_outside_of_its_folder() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path().join("store")).unwrap();
        let mut builder = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        // `append_data` would refuse the name, so it is written into the header.
        let name = b"../../../../escaped";
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        builder.append(&header, &b"evil"[..]).unwrap();
        let archive = builder.into_inner().unwrap().finish().unwrap();
        let digest = store.put(&archive).unwrap();
        let _ = store.tree(&digest);
        assert!(!home.path().join("escaped").exists());
        assert!(!home.path().join("store/escaped").exists());
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
