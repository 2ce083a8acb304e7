//! Files of images.
//!
//! ```text
//! 16 bytes        "flowcell image 1"
//! u32 LE          length of the description
//! JSON            the description, an `ImageInfo`
//! …               the pages that differ (see `delta`)
//! 32 bytes        BLAKE3 over all of that, keyed with a secret of this host
//! ```
//!
//! The last 32 bytes authenticate the file: who can write into the store but does not have the key can delete images, and
//! no more. They are its identity too. A file appears whole or not at all, and is never changed.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::delta::Delta;
use super::error::ImageError;

const MAGIC: &[u8; 16] = b"flowcell image 1";
/// Bytes of the description at most.
const MAX_INFO: usize = 16 << 10;
const MAC: usize = 32;
/// How the names of files begin that are being written. One that stays belonged to a process that died.
pub(crate) const PARTIAL: &str = ".partial-";

/// The secret with which a host signs its images.
#[derive(Clone)]
pub struct ImageKey([u8; 32]);

impl std::fmt::Debug for ImageKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ImageKey")
    }
}

impl ImageKey {
    /// The key in this file, which is made when it is not there; only the file's owner may read it.
    ///
    /// # Errors
    /// When the file cannot be read or made, or holds something else.
    pub fn open(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => {
                let key = bytes.try_into().map_err(|_| {
                    io::Error::other(format!("{} holds no key of 32 bytes", path.display()))
                })?;
                return Ok(Self(key));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .prefix(PARTIAL)
            .tempfile_in(folder)?;
        file.write_all(&key)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(Self(key)),
            // Another process was faster: its key counts.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Self::open(path),
            Err(error) => Err(error.error),
        }
    }

    /// A key that nobody else has, for images that nobody else shall read.
    #[cfg(test)]
    pub(crate) fn of(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// Whose an image is. Both are checked when it is laid over an instance's memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Owner {
    /// The workspace.
    pub workspace: String,
    /// The session, and which of its lives; `None` for an image that all sessions of the workspace may start from.
    pub session: Option<String>,
}

impl Owner {
    /// Whether something of this owner's may be used by a session that `user` names.
    pub(crate) fn admits(&self, user: &Self) -> Result<(), ImageError> {
        if self.workspace != user.workspace {
            return Err(ImageError::Foreign("workspace"));
        }
        if self.session.is_some() && self.session != user.session {
            return Err(ImageError::Foreign("session"));
        }
        Ok(())
    }
}

/// What an image is; the first part of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInfo {
    /// The digest of the shell whose code it is for.
    pub shell: String,
    /// The digest of the base image.
    pub base: String,
    /// The identity of the image that it lies over, beside the base.
    pub below: Option<String>,
    /// Whose it is.
    pub owner: Owner,
    /// Whether it was copied from another session's: then its instances must not share their random state.
    #[serde(default)]
    pub is_copy: bool,
    /// What it was made from: whatever names its inputs.
    pub made_from: String,
    /// The stored instance that this one went on from, and whose state it has in place of it.
    #[serde(default)]
    pub replaces: Option<String>,
    /// Size of the memory, in bytes.
    pub memory: u64,
    /// Pages of 4 KiB that differ from what is below.
    pub pages: u64,
    /// When it was stored, in milliseconds since 1970.
    pub stored_ms: u64,
    /// The guest's monotonic time then, in nanoseconds.
    pub monotonic_ns: u64,
}

/// An image's file, open, with its description read.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Where it was; it may have gone since, and be used still.
    pub(crate) path: PathBuf,
    file: File,
    pub(crate) info: ImageInfo,
    pub(crate) identity: String,
    /// Size of the file, in bytes.
    pub(crate) size: u64,
    key: Arc<ImageKey>,
}

/// Writes an image's file: under a temporary name, then under its own. If it `is_synced`, it is on the disk before it gets
/// its name; otherwise [`Layer::sync`] is to follow. A file that a power failure has cut short is not authentic.
pub(crate) fn write(
    path: &Path,
    key: &Arc<ImageKey>,
    info: ImageInfo,
    pages: &[u8],
    is_synced: bool,
) -> io::Result<Layer> {
    let description = serde_json::to_vec(&info)?;
    let length = u32::try_from(description.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(MAGIC.len() + 4 + description.len() + pages.len() + MAC);
    bytes.extend(MAGIC);
    bytes.extend(length.to_le_bytes());
    bytes.extend(description);
    bytes.extend(pages);
    let mac = blake3::keyed_hash(&key.0, &bytes);
    bytes.extend(mac.as_bytes());
    let file = write_whole(path, &bytes, is_synced)?;
    Ok(Layer {
        path: path.to_owned(),
        file,
        info,
        identity: mac.to_hex().to_string(),
        size: bytes.len() as u64,
        key: Arc::clone(key),
    })
}

fn write_whole(path: &Path, bytes: &[u8], is_synced: bool) -> io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder);
    // Errors of `tempfile` name the folder, which is not for everybody who reads them; those of the file itself do not.
    let mut file = made.map_err(|error| io::Error::from(error.kind()))?;
    file.as_file_mut().write_all(bytes)?;
    if is_synced {
        file.as_file().sync_data()?;
    }
    let file = file.persist(path).map_err(|error| error.error)?;
    if is_synced {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

impl Layer {
    /// Opens an image's file for a session.
    pub(crate) fn open(
        path: &Path,
        key: &Arc<ImageKey>,
        user: &Owner,
        limit: u64,
    ) -> Result<Self, ImageError> {
        let file = open(path)?;
        let bytes = read(&file, path, limit)?;
        let (info, _, identity) = parse(&bytes, key)?;
        info.owner.admits(user)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            info,
            identity,
            size: bytes.len() as u64,
            key: Arc::clone(key),
        })
    }

    /// Returns when the file is on the disk, with its name.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// The same image for another owner, in a file of its own; instances that start from it are copies.
    pub(crate) fn copy_for(&self, owner: &Owner, path: &Path) -> Result<Self, ImageError> {
        let bytes = read(&self.file, &self.path, self.size)?;
        let (mut info, pages, identity) = parse(&bytes, &self.key)?;
        if identity != self.identity {
            return Err(ImageError::NotAuthentic);
        }
        info.owner = owner.clone();
        info.is_copy = true;
        write(path, &self.key, info, pages, true).map_err(|source| ImageError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// The file's pages, for a session: once more with all checks, since the disk can fail meanwhile.
    pub(crate) fn delta(&self, user: &Owner) -> Result<Delta, ImageError> {
        let bytes = read(&self.file, &self.path, self.size)?;
        let (info, pages, identity) = parse(&bytes, &self.key)?;
        if identity != self.identity {
            return Err(ImageError::NotAuthentic);
        }
        info.owner.admits(user)?;
        let size = usize::try_from(info.memory).unwrap_or(usize::MAX);
        let delta = Delta::decode(pages, size)?;
        if delta.count() as u64 != info.pages {
            return Err(ImageError::Damaged("it has not as many pages as it says"));
        }
        Ok(delta)
    }

    /// See [`super::Image::keep_at`].
    pub(crate) fn keep_at(&self, path: &Path) -> Result<(), ImageError> {
        let io = |source| ImageError::Io {
            path: path.to_owned(),
            source,
        };
        let own = self.file.metadata().map_err(io)?;
        let is_own = |path: &Path| {
            let found = fs::symlink_metadata(path);
            found.is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()))
        };
        if is_own(path) || (fs::hard_link(&self.path, path).is_ok() && is_own(path)) {
            return Ok(());
        }
        // On another file system, or something else has taken the file's place meanwhile, or the name's.
        let bytes = read(&self.file, &self.path, self.size)?;
        let (.., identity) = parse(&bytes, &self.key)?;
        if identity != self.identity {
            return Err(ImageError::NotAuthentic);
        }
        write_whole(path, &bytes, true).map(|_| ()).map_err(io)
    }
}

fn open(path: &Path) -> Result<File, ImageError> {
    // A link that somebody has put there leads nowhere, and a pipe holds up nobody.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    file.map_err(|source| ImageError::Io {
        path: path.to_owned(),
        source,
    })
}

/// All of a file, up to a size.
fn read(file: &File, path: &Path, limit: u64) -> Result<Vec<u8>, ImageError> {
    let io = |source| ImageError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(ImageError::Damaged("it is no file"));
    }
    let size = metadata.len();
    if size > limit {
        return Err(ImageError::Damaged("it is longer than it may be"));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(ImageError::Damaged("it ends early"))
        }
        Err(error) => Err(io(error)),
    }
}

/// Description, pages and identity of a file with this content.
pub(super) fn parse<'a>(
    bytes: &'a [u8],
    key: &ImageKey,
) -> Result<(ImageInfo, &'a [u8], String), ImageError> {
    let early = ImageError::Damaged("it ends early");
    let Some((signed, mac)) = bytes.split_last_chunk::<MAC>() else {
        return Err(early);
    };
    let expected = blake3::keyed_hash(&key.0, signed);
    // In constant time, by blake3's comparison.
    if expected != *mac {
        return Err(ImageError::NotAuthentic);
    }
    let rest = signed
        .strip_prefix(MAGIC)
        .ok_or(ImageError::Damaged("it is of another format"))?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(early)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_INFO {
        return Err(ImageError::Damaged("its description is too long"));
    }
    let (description, pages) = rest
        .split_at_checked(length)
        .ok_or(ImageError::Damaged("it ends early"))?;
    let info = serde_json::from_slice(description)
        .map_err(|_| ImageError::Damaged("its description cannot be read"))?;
    Ok((info, pages, expected.to_hex().to_string()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests;
