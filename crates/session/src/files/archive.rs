//! Flows in archives.

use std::io::{Cursor, Read};

use bytes::Bytes;

use super::path::{FlowPath, InvalidPath};
use super::{FLOW_FILES, FileLimits, Files, TooLarge, is_below};

/// Folders that are no part of a flow wherever they are: histories, caches, and what archivers add.
const SKIPPED: [&str; 6] = [
    ".git",
    ".promptflow",
    ".runs",
    "__MACOSX",
    "__pycache__",
    "node_modules",
];
/// Entries that an archive may have for each file that a flow may have: folders count as entries too.
const ENTRIES_PER_FILE: u64 = 8;
/// What an archive's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// POSIX tar.
    Tar,
    /// The same, compressed by gzip.
    TarGzip,
    /// ZIP, stored or deflated.
    Zip,
}

/// An archive that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is damaged, or something else.
    #[error("the archive cannot be read: {0}")]
    Damaged(String),
    /// An entry's path.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// An entry is neither file nor folder.
    #[error("'{path}' in the archive is a {kind}; only files and folders are taken")]
    NotAFile {
        /// The entry.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// Two entries for one path, or a file where another entry needs a folder.
    #[error("'{path}' is in the archive twice, as two files or as file and folder")]
    Twice {
        /// The path.
        path: String,
    },
    /// It holds too much.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// It holds nothing.
    #[error("the archive holds no files")]
    Empty,
}

/// The files of an archive. When all of them are in one folder which is the flow's, that folder is left off.
///
/// # Errors
/// When the archive is damaged, holds links or special files, leads out of its folder, or is beyond the limits once
/// unpacked: it is not unpacked any further than that.
pub fn unpack(bytes: &[u8], format: Format, limits: &FileLimits) -> Result<Files, ArchiveError> {
    let mut unpacked = Unpacked {
        limits,
        files: Files::new(),
        bytes: 0,
        entries: 0,
    };
    match format {
        Format::Tar => unpacked.tar(bytes)?,
        Format::TarGzip => unpacked.tar(flate2::read::MultiGzDecoder::new(bytes))?,
        Format::Zip => unpacked.zip(bytes)?,
    }
    if unpacked.files.is_empty() {
        return Err(ArchiveError::Empty);
    }
    let files = without_outer_folder(unpacked.files);
    let paths: Vec<&FlowPath> = files.keys().collect();
    for (index, path) in paths.iter().enumerate() {
        // Whatever is below a path comes after it, but not necessarily next: 'a', 'a-b', 'a/b'.
        let below = paths[index + 1..]
            .iter()
            .take_while(|other| other.as_str().starts_with(path.as_str()))
            .any(|other| is_below(other.as_str(), path.as_str()));
        if below {
            return Err(ArchiveError::Twice {
                path: path.as_str().to_owned(),
            });
        }
    }
    Ok(files)
}

fn damaged(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Damaged(error.to_string())
}

struct Unpacked<'a> {
    limits: &'a FileLimits,
    files: Files,
    bytes: u64,
    entries: u64,
}

impl Unpacked<'_> {
    fn tar(&mut self, archive: impl Read) -> Result<(), ArchiveError> {
        // A bomb may also be in what is between the files: headers, padding, names.
        let most = self
            .limits
            .flow_bytes
            .saturating_mul(2)
            .saturating_add(16 << 20);
        let mut archive = tar::Archive::new(archive.take(most));
        for entry in archive.entries().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            let kind = entry.header().entry_type();
            let path = entry.path_bytes();
            let path = std::str::from_utf8(&path)
                .map_err(|_| damaged("a path is not UTF-8"))?
                .to_owned();
            self.entry()?;
            if kind.is_dir() || kind.is_pax_global_extensions() {
                continue;
            }
            if !(kind.is_file() || kind.is_contiguous()) {
                let kind = match kind {
                    kind if kind.is_symlink() => "symbolic link",
                    kind if kind.is_hard_link() => "hard link",
                    _ => "special file",
                };
                return Err(ArchiveError::NotAFile { path, kind });
            }
            self.file(&path, entry)?;
        }
        Ok(())
    }

    fn zip(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
        for index in 0..archive.len() {
            let entry = archive.by_index(index).map_err(damaged)?;
            self.entry()?;
            if entry.is_dir() {
                continue;
            }
            let path = entry.name().map_err(damaged)?.into_owned();
            // The type bits of a Unix mode; archives from elsewhere have none.
            let kind = entry.unix_mode().map_or(0, |mode| mode & 0o170_000);
            if kind != 0 && kind != 0o100_000 {
                let kind = if kind == 0o120_000 {
                    "symbolic link"
                } else {
                    "special file"
                };
                return Err(ArchiveError::NotAFile { path, kind });
            }
            self.file(&path, entry)?;
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<(), ArchiveError> {
        self.entries += 1;
        let most = self.limits.flow_files.saturating_mul(ENTRIES_PER_FILE);
        if self.entries > most {
            return Err(TooLarge::Files {
                limit: self.limits.flow_files,
            }
            .into());
        }
        Ok(())
    }

    fn file(&mut self, path: &str, mut content: impl Read) -> Result<(), ArchiveError> {
        // tar made from inside of a folder writes './name'.
        let path = FlowPath::new(path.strip_prefix("./").unwrap_or(path))?;
        let skipped = path
            .as_str()
            .split('/')
            .any(|part| SKIPPED.contains(&part) || part == ".DS_Store");
        if skipped {
            return Ok(());
        }
        if self.files.len() as u64 >= self.limits.flow_files {
            return Err(TooLarge::Files {
                limit: self.limits.flow_files,
            }
            .into());
        }
        let left = self.limits.flow_bytes - self.bytes;
        let most = left.min(self.limits.file_bytes);
        let mut bytes = Vec::new();
        content
            .by_ref()
            .take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(damaged)?;
        let size = bytes.len() as u64;
        if size > self.limits.file_bytes {
            return Err(TooLarge::File {
                path: path.as_str().to_owned(),
                limit: self.limits.file_bytes,
            }
            .into());
        }
        if size > left {
            return Err(TooLarge::Flow {
                limit: self.limits.flow_bytes,
            }
            .into());
        }
        self.bytes += size;
        if self
            .files
            .insert(path.clone(), Bytes::from(bytes))
            .is_some()
        {
            return Err(ArchiveError::Twice {
                path: path.as_str().to_owned(),
            });
        }
        Ok(())
    }
}

/// Leaves off the folder around everything, if there is one and the flow's file is in it.
fn without_outer_folder(files: Files) -> Files {
    let Some((outer, _)) = files
        .keys()
        .next()
        .and_then(|first| first.as_str().split_once('/'))
    else {
        return files;
    };
    let prefix = format!("{outer}/");
    let is_prompty = |path: &FlowPath| {
        let inner = path.as_str().strip_prefix(&prefix).unwrap_or_default();
        inner.ends_with(".prompty") && !inner.contains('/')
    };
    let is_flow = FLOW_FILES
        .iter()
        .any(|name| files.contains_key(format!("{prefix}{name}").as_str()))
        || files.keys().any(is_prompty);
    if !is_flow || !files.keys().all(|path| path.as_str().starts_with(&prefix)) {
        return files;
    }
    files
        .into_iter()
        .filter_map(|(path, content)| {
            let inner = FlowPath::new(path.as_str().strip_prefix(&prefix)?).ok()?;
            Some((inner, content))
        })
        .collect()
}
