//! Idle instances of one session, stored while nobody calls them.
//!
//! ```text
//! <folder>/<identity>.below                the image that they lie over: a link, so that it stays as long as they do
//! <folder>/<when>-<number>.<tries>.asleep  one instance
//! ```
//!
//! A file stays when its instance goes on, until that instance is stored again or is gone for good. So after a crash the
//! session goes on from what was stored last; what that takes the place of is deleted once it is on the disk. `tries`
//! counts how often the file was gone on from: an instance that takes its process down each time is given up after
//! [`MAX_TRIES`].

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::image::{Destination, Image, ImageError, ImageKey, Owner, PARTIAL, StoreError};

/// How often an instance is gone on from before its file is given up.
const MAX_TRIES: u32 = 3;
/// Most files of a folder that are looked at.
const MAX_FILES: usize = 1_000;
/// Bytes that a file may have beyond what its pages may.
const SLACK: u64 = 1 << 20;
/// Most bytes of a file that instances lie over.
const MAX_BELOW: u64 = 1 << 30;
const ASLEEP: &str = "asleep";
const BELOW: &str = "below";

/// Where and as what a session's idle instances are stored.
#[derive(Debug, Clone)]
pub struct Hibernation {
    /// The folder; nothing else is in it.
    pub folder: PathBuf,
    /// The host's key.
    pub key: Arc<ImageKey>,
    /// The session.
    pub owner: Owner,
    /// What names the code and settings that the instances run with: those of others are not gone on from.
    pub made_from: String,
    /// Most bytes that may have changed of one instance's memory.
    pub limit: u64,
    /// The folder with all such folders of the session, and the bytes in it from which on nothing more is stored.
    pub within: Option<(PathBuf, u64)>,
}

/// An instance that is stored.
#[derive(Debug, Clone)]
pub(crate) struct Asleep {
    pub(crate) image: Image,
    pub(crate) file: PathBuf,
    /// Size of the file, in bytes.
    pub(crate) size: u64,
}

impl Hibernation {
    /// What is stored from earlier, the one that was used last at the end; `base` is what sessions' images lie over.
    ///
    /// What can never be gone on from is deleted, and told.
    ///
    /// # Errors
    /// When a file cannot be read just now. Nothing is deleted then.
    pub(crate) fn stored(
        &self,
        base: &Image,
    ) -> Result<(Vec<Asleep>, Vec<ImageError>), ImageError> {
        let (mut found, mut lost) = (Vec::<Asleep>::new(), Vec::new());
        let mut files = self.files(ASLEEP)?;
        files.sort();
        for file in files {
            match self.open(base, &file) {
                Ok(image) => found.push(Asleep {
                    size: image.file().map_or(0, |(_, size)| size),
                    image,
                    file,
                }),
                Err(error) if error.is_passing() => return Err(error),
                Err(error) => lost.push((error, file)),
            }
        }
        let replaced = found.iter();
        let replaced = replaced.filter_map(|asleep| asleep.image.info()?.replaces.clone());
        let replaced: HashSet<String> = replaced.collect();
        found.retain(|asleep| {
            let is_over = name(&asleep.file).is_some_and(|name| replaced.contains(name));
            if is_over {
                delete(&asleep.file);
            }
            !is_over
        });
        lost.iter().for_each(|(_, file)| delete(file));
        if found.is_empty() {
            self.files(BELOW)?.iter().for_each(|file| delete(file));
        }
        // Of processes that died: nobody else writes here before this has been looked at.
        for file in self.entries()? {
            let name = file.file_name().and_then(OsStr::to_str);
            if name.is_some_and(|name| name.starts_with(PARTIAL)) {
                delete(&file);
            }
        }
        Ok((found, lost.into_iter().map(|(error, _)| error).collect()))
    }

    fn open(&self, base: &Image, file: &Path) -> Result<Image, ImageError> {
        let tries = tries(file).unwrap_or(MAX_TRIES);
        if tries >= MAX_TRIES {
            return Err(ImageError::Damaged(
                "its process ended each time that it was gone on from",
            ));
        }
        let image = self.lay_out(base, file)?;
        if image
            .info()
            .is_none_or(|info| info.made_from != self.made_from)
        {
            return Err(ImageError::Misfit {
                what: "flow or setting",
                found: "another".to_owned(),
                expected: "the present one".to_owned(),
            });
        }
        Ok(image)
    }

    /// A file's image, over what it was made over.
    fn lay_out(&self, base: &Image, file: &Path) -> Result<Image, ImageError> {
        let limit = self.limit.saturating_add(SLACK);
        // Found by what is there, since only the file itself says what it lies over.
        let mut below = vec![base.clone()];
        let mut found = Err(ImageError::Damaged("what it lies over is missing"));
        for file in self.files(BELOW)? {
            // One that is of no use may be another instance's.
            match base.with(&file, &self.key, &self.owner, MAX_BELOW) {
                Ok(image) => below.push(image),
                Err(error) if error.is_passing() => return Err(error),
                Err(error) => tracing::warn!(
                    file = %file.display(),
                    error = &error as &dyn std::error::Error,
                    "what stored instances lie over cannot be used"
                ),
            }
        }
        for below in below {
            found = below.with(file, &self.key, &self.owner, limit);
            match &found {
                Err(ImageError::Misfit { .. }) => {}
                _ => break,
            }
        }
        found
    }

    /// Where the next instance goes; `from` is the file that it went on from.
    pub(crate) fn destination(&self, from: Option<&Path>) -> Destination {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_millis());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Names in order of time, among all processes that had the session.
        let file = format!("{now:015}-{}-{number:08}.0.{ASLEEP}", std::process::id());
        Destination {
            path: self.folder.join(file),
            key: Arc::clone(&self.key),
            owner: self.owner.clone(),
            made_from: self.made_from.clone(),
            replaces: from.and_then(name).map(str::to_owned),
            limit: self.limit,
            lasting: false,
        }
    }

    /// Whether there is room for one more instance.
    ///
    /// # Errors
    /// When there is not, or nobody knows.
    pub(crate) fn has_room(&self) -> Result<(), StoreError> {
        let Some((folder, limit)) = &self.within else {
            return Ok(());
        };
        let io = |source| ImageError::Io {
            path: folder.clone(),
            source,
        };
        let mut size: u64 = 0;
        for folder in list(folder).map_err(io)? {
            for file in list(&folder).map_err(io)? {
                size += fs::metadata(&file).map_or(0, |metadata| metadata.len());
            }
        }
        if size < *limit {
            return Ok(());
        }
        Err(StoreError::Full {
            size,
            limit: *limit,
        })
    }

    /// Makes the folder, and keeps the image below there.
    pub(crate) fn keep_below(&self, below: Option<&Image>) -> Result<(), ImageError> {
        fs::create_dir_all(&self.folder).map_err(|source| ImageError::Io {
            path: self.folder.clone(),
            source,
        })?;
        match below.and_then(|below| Some((below, below.identity()?))) {
            Some((below, identity)) => {
                below.keep_at(&self.folder.join(format!("{identity}.{BELOW}")))
            }
            None => Ok(()),
        }
    }

    /// Copies what is stored to another session, whose instances go on from there as copies; gives their number. What
    /// either is made from does not matter here: each copy says it.
    ///
    /// # Errors
    /// When a file cannot be read or written. The other folder then holds some of them.
    pub fn fork(&self, base: &Image, other: &Self) -> Result<usize, ImageError> {
        let mut files = self.files(ASLEEP)?;
        files.sort();
        for file in &files {
            let image = self.lay_out(base, file)?;
            other.keep_below(image.below())?;
            image.copy_for(&other.owner, &other.destination(None).path)?;
        }
        Ok(files.len())
    }

    fn entries(&self) -> Result<Vec<PathBuf>, ImageError> {
        list(&self.folder).map_err(|source| ImageError::Io {
            path: self.folder.clone(),
            source,
        })
    }

    fn files(&self, extension: &str) -> Result<Vec<PathBuf>, ImageError> {
        let mut files = self.entries()?;
        files.retain(|path| path.extension() == Some(OsStr::new(extension)));
        files.truncate(MAX_FILES);
        Ok(files)
    }
}

/// What is in a folder; nothing is in one that is not there.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What names a stored instance, however often it was gone on from.
fn name(file: &Path) -> Option<&str> {
    Path::new(file.file_stem()?).file_stem()?.to_str()
}

fn tries(file: &Path) -> Option<u32> {
    let stem = Path::new(file.file_stem()?);
    stem.extension()?.to_str()?.parse().ok()
}

/// Notes that an instance goes on from its file; gives the file's name then.
pub(crate) fn tried(file: &Path) -> io::Result<PathBuf> {
    rename(file, tries(file).unwrap_or(0).saturating_add(1))
}

/// Notes that it did not go on after all, through no fault of its own.
pub(crate) fn untried(file: &Path) -> io::Result<PathBuf> {
    rename(file, tries(file).unwrap_or(0).saturating_sub(1))
}

fn rename(file: &Path, tries: u32) -> io::Result<PathBuf> {
    let stem = name(file).unwrap_or_default();
    let to = file.with_file_name(format!("{stem}.{tries}.{ASLEEP}"));
    fs::rename(file, &to)?;
    Ok(to)
}

/// Deletes the file of an instance that is gone for good.
pub(crate) fn delete(file: &Path) {
    if let Err(error) = fs::remove_file(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %file.display(), %error, "a stored instance could not be deleted");
    }
}
