//! Session images: what is in a runner's memory once a flow's modules are imported.
//!
//! An image is named by all that it is made from: the flow's files, how it is set up, the bundle, the workspace. Equal
//! inputs give one image, made once by whoever comes first, in the background; sessions start without it meanwhile. It is
//! made from the flow's files as they were uploaded, in a folder of its own, so nothing of a session can get into what
//! other sessions start from.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use flowcell_bundle::{Digest, Store, touch, trim};
use flowcell_sandbox::{Destination, Image, ImageError, ImageKey, Owner, Pool, Program, WeakImage};
use serde::Serialize;

/// Version of the way in which images are made; another one makes them anew.
const SCHEMA: u32 = 1;
/// Most bytes of memory that an import may change.
const MAX_CHANGED: u64 = 256 << 20;
/// Most bytes of a file.
const MAX_FILE: u64 = MAX_CHANGED + (1 << 20);
/// Bytes of all images' files together; those that were used least recently go.
const MAX_FILES: u64 = 2 << 30;
/// After this time it is tried again to make an image that could not be made.
const RETRY: Duration = Duration::from_secs(600);
/// How the names of folders begin in which images are made.
const BUILDING: &str = ".building-";
/// Images whose failure is remembered.
const MAX_FAILED: usize = 1_000;
/// Images that wait for being made, or are being made.
const MAX_BUILDING: usize = 64;
/// How long the making of one may take: others wait for it.
pub(crate) const BUILD_TIME: Duration = Duration::from_secs(60);

/// What an image is made from.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MadeFrom<'a> {
    /// The digest of the list of the flow's files.
    pub(crate) files: &'a str,
    /// The variant.
    pub(crate) variant: Option<&'a str>,
    /// Environment variables: imports can read them.
    pub(crate) variables: &'a [(String, String)],
    /// The bundle's trees, and its components, whose functions may be imported.
    pub(crate) parts: Vec<String>,
    /// What the flow's requirements have brought.
    pub(crate) site: Option<Digest>,
}

/// Where a session stands with its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    /// It has none: why.
    None(String),
    /// It is being made.
    Building,
    /// New instances start from it.
    Ready {
        /// Size of its file, in bytes.
        bytes: u64,
        /// Bytes of memory in which it differs from the bundle's base.
        changed: u64,
    },
}

/// An image that was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// What stands in the way is in the flow.
    #[error("{0}")]
    Unsuitable(String),
    /// The session has ended since, or has other files. Another one with the same files may come.
    #[error("the flow's files were changed meanwhile")]
    Gone,
    /// A file.
    #[error("cannot write the image")]
    Io(#[from] io::Error),
}

/// The images of a store.
#[derive(Debug)]
pub(crate) struct SessionImages {
    folder: PathBuf,
    key_file: PathBuf,
    state: Mutex<State>,
    /// One at a time: it is work that nobody waits for.
    building: tokio::sync::Semaphore,
}

#[derive(Debug, Default)]
struct State {
    key: Option<Arc<ImageKey>>,
    /// Those that sessions use: nobody else keeps a file open that may have been deleted.
    known: HashMap<String, WeakImage>,
    building: HashMap<String, Vec<Weak<Pool>>>,
    failed: HashMap<String, (Instant, String)>,
}

impl SessionImages {
    pub(crate) fn new(store: &Store) -> Arc<Self> {
        Arc::new(Self {
            folder: store.images().join("sessions"),
            key_file: store.root().join("image.key"),
            state: Mutex::default(),
            building: tokio::sync::Semaphore::new(1),
        })
    }

    /// The key with which this host signs images.
    pub(crate) fn key(&self) -> io::Result<Arc<ImageKey>> {
        let mut state = self.lock();
        if let Some(key) = &state.key {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(ImageKey::open(&self.key_file)?);
        state.key = Some(Arc::clone(&key));
        Ok(key)
    }

    /// The bytes of that key, which nobody but this host knows.
    pub(crate) fn secret(&self) -> io::Result<Vec<u8>> {
        // It makes the file.
        self.key()?;
        fs::read(&self.key_file)
    }

    /// The name of an image: the digest of what it is made from.
    pub(crate) fn name(from: &MadeFrom<'_>, program: &Program, owner: &Owner) -> Option<String> {
        let base = program.base()?;
        let inputs = (SCHEMA, &owner.workspace, base.shell(), base.base(), from);
        let text = serde_json::to_vec(&inputs).ok()?;
        Some(Digest::of(&text).hex())
    }

    /// The image of this name, if it has been made.
    pub(crate) fn find(&self, name: &str, program: &Program, owner: &Owner) -> Option<Image> {
        if let Some(image) = self.lock().known.get(name).and_then(WeakImage::upgrade) {
            return Some(image);
        }
        let path = self.path(name);
        if !path.exists() {
            return None;
        }
        let key = self.key().ok()?;
        match program.base()?.with(&path, &key, owner, MAX_FILE) {
            Ok(image) => {
                touch(&path);
                self.remember(name, &image);
                Some(image)
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "an image is made again"
                );
                // What cannot be read just now may be as it should.
                if !matches!(error, ImageError::Io { .. }) {
                    let _ = fs::remove_file(&path);
                }
                None
            }
        }
    }

    /// Where an image stands that is not there.
    pub(crate) fn state(&self, name: &str) -> ImageState {
        let state = self.lock();
        if state.building.contains_key(name) {
            return ImageState::Building;
        }
        match state.failed.get(name) {
            Some((_, why)) => ImageState::None(why.clone()),
            None => ImageState::None("it has not been made yet".to_owned()),
        }
    }

    /// Begins to make an image for a pool; `None` when somebody else is at it, when it could not be made a short while ago,
    /// or when too many others wait. Who else is at it brings it to this pool too.
    pub(crate) fn begin(self: &Arc<Self>, name: &str, pool: &Arc<Pool>) -> Option<Build> {
        let mut state = self.lock();
        let is_hopeless = state
            .failed
            .get(name)
            .is_some_and(|(at, _)| at.elapsed() < RETRY);
        if let Some(pools) = state.building.get_mut(name) {
            pools.retain(|pool| pool.strong_count() > 0);
            pools.push(Arc::downgrade(pool));
            return None;
        }
        if is_hopeless || state.building.len() >= MAX_BUILDING {
            return None;
        }
        let pools = vec![Arc::downgrade(pool)];
        state.building.insert(name.to_owned(), pools);
        state.failed.remove(name);
        Some(Build {
            images: Arc::clone(self),
            name: name.to_owned(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.image"))
    }

    fn remember(&self, name: &str, image: &Image) {
        let mut state = self.lock();
        // What nobody uses is found again on the disk.
        if state.known.len() >= MAX_FAILED {
            state.known.retain(|_, image| image.upgrade().is_some());
        }
        state.known.insert(name.to_owned(), image.downgrade());
    }

    /// Deletes what builds have left behind whose process died. Whoever builds holds the lock.
    fn clean(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let begins = |with: &str| name.to_str().is_some_and(|name| name.starts_with(with));
            let deleted = if begins(BUILDING) {
                fs::remove_dir_all(entry.path())
            } else if begins(".partial-") {
                fs::remove_file(entry.path())
            } else {
                Ok(())
            };
            if let Err(error) = deleted {
                tracing::warn!(%error, ?name, "what a build left behind could not be deleted");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The making of an image.
#[derive(Debug)]
pub(crate) struct Build {
    images: Arc<SessionImages>,
    name: String,
}

impl Build {
    /// Waits for its turn, in this process and among all that share the store.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub(crate) async fn turn(&self) -> io::Result<Turn<'_>> {
        let permit = self.images.building.acquire().await.ok();
        fs::create_dir_all(&self.images.folder)?;
        let lock = File::create(self.images.folder.join(".lock"))?;
        let waiting = lock.try_clone()?;
        let locked = tokio::task::spawn_blocking(move || waiting.lock()).await;
        locked.map_err(io::Error::other)??;
        self.images.clean();
        Ok(Turn {
            _permit: permit,
            _lock: lock,
        })
    }

    /// A folder for what the making needs, deleted with it.
    pub(crate) fn scratch(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix(BUILDING)
            .tempdir_in(&self.images.folder)
    }

    /// Where the image goes.
    pub(crate) fn destination(&self, owner: &Owner) -> io::Result<Destination> {
        Ok(Destination {
            path: self.images.path(&self.name),
            key: self.images.key()?,
            owner: Owner {
                workspace: owner.workspace.clone(),
                session: None,
            },
            made_from: self.name.clone(),
            replaces: None,
            limit: MAX_CHANGED,
            lasting: true,
        })
    }

    /// The image, if somebody else has made it while this one waited.
    pub(crate) fn found(&self, program: &Program, owner: &Owner) -> Option<Image> {
        self.images.find(&self.name, program, owner)
    }

    /// Ends with the image, which all pools get that wait for it, or with why there is none.
    pub(crate) fn end(self, made: &Result<Image, BuildError>) {
        match made {
            Ok(image) => {
                self.images.remember(&self.name, image);
                let pools = self.images.lock().building.remove(&self.name);
                for pool in pools
                    .into_iter()
                    .flatten()
                    .filter_map(|pool| pool.upgrade())
                {
                    pool.set_image(image.clone());
                }
                if let Err(error) = trim(&self.images.folder, "image", MAX_FILES) {
                    tracing::warn!(%error, "old images could not be deleted");
                }
            }
            Err(BuildError::Gone) => {}
            Err(error) => {
                let mut state = self.images.lock();
                if state.failed.len() >= MAX_FAILED {
                    state.failed.clear();
                }
                let failed = (Instant::now(), error.to_string());
                state.failed.insert(self.name.clone(), failed);
            }
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.images.lock().building.remove(&self.name);
    }
}

/// While this is there, nobody else makes an image in the same store.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _permit: Option<tokio::sync::SemaphorePermit<'a>>,
    // Given up when it is closed.
    _lock: File,
}

/// Copies the files of a list, each with the content that the list says, from one folder to another.
///
/// # Errors
/// When a file is another by now: a tool of the session has changed it.
pub(crate) fn copy_sources(
    sources: &crate::workspace::Sources,
    to: &Path,
) -> Result<(), BuildError> {
    for (path, digest) in sources.files() {
        let content = sources.read(path).map_err(BuildError::Unsuitable)?;
        if Digest::of(&content).hex() != *digest {
            return Err(BuildError::Unsuitable(format!(
                "{path} was changed by a tool, so an image would not be the flow's"
            )));
        }
        let target = to.join(path);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&target, content)?;
    }
    Ok(())
}
