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
