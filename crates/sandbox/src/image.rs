//! Memory images: what an instance's memory is when it starts.
//!
//! A component that can be a [`Shell`] is compiled once, without its data. Its instances begin as zeros, and an [`Image`]
//! is laid over them: the bundle's [`Base`], mapped copy-on-write, and up to two deltas, the session's (its flow's modules
//! imported) and a hibernation's (what its calls left behind).

mod delta;
mod error;
mod file;
mod filled;
mod memory;
mod shell;
mod spread;
mod storing;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

pub use self::error::{ImageError, StoreError};
pub use self::file::{ImageInfo, ImageKey, Owner};
pub(crate) use self::file::{Layer, PARTIAL};
use self::memory::MappedFile;
pub(crate) use self::memory::{AtRest, GuestMemories, GuestMemory, PAGE, made_by};
pub(crate) use self::shell::{GROW, SETTLE};
pub use self::shell::{Shell, ShellError};
pub use self::spread::SpreadUsage;
pub(crate) use self::spread::Spreads;
pub(crate) use self::storing::store;
pub use self::storing::{Destination, Stored};

/// What a memory can have at all, in bytes.
const MAX_MEMORY: u64 = 1 << 32;

/// The memory that all instances of a shell begin with: one file, mapped into each of them.
#[derive(Debug)]
pub struct Base {
    file: MappedFile,
    digest: String,
}

impl Base {
    /// A base with this content, whose digest the caller has checked; an empty one says that nothing has run in it yet.
    /// Its pages lie in a file without a name in `folder`.
    ///
    /// # Errors
    /// When the content is not whole pages, or the file cannot be written.
    pub fn new(folder: &Path, content: &[u8], digest: &str) -> io::Result<Arc<Self>> {
        Self::of(MappedFile::new(folder, content)?, digest)
    }

    /// A base of this digest whose pages are in a file: those with this [`Base::hash`]. Nobody may change the file any
    /// more, but it can be replaced. Processes that open it share its pages.
    ///
    /// # Errors
    /// When the file cannot be read, and [`io::ErrorKind::InvalidData`] when it holds something else.
    pub fn open(path: &Path, hash: &str, digest: &str) -> io::Result<Arc<Self>> {
        let file = MappedFile::open(path)?;
        if Self::hash(file.bytes()) != hash {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file holds another base image, or a damaged one",
            ));
        }
        Self::of(file, digest)
    }

    /// What names the content of a base: its BLAKE3 hash, in hexadecimal.
    pub fn hash(content: &[u8]) -> String {
        blake3::hash(content).to_hex().to_string()
    }

    fn of(file: MappedFile, digest: &str) -> io::Result<Arc<Self>> {
        if !file.len().is_multiple_of(PAGE) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the base image is not made of whole pages",
            ));
        }
        Ok(Arc::new(Self {
            file,
            digest: digest.to_owned(),
        }))
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.file.len() as u64
    }

    /// Its digest.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// How an image's pages get into an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The base is mapped; there is nothing else.
    Base,
    /// The base is mapped, and the pages that differ are copied: memory for each instance, and no disk.
    Copied,
    /// A file of all pages is mapped: disk for the image, and little memory for each instance.
    Mapped,
}

/// What an instance's memory is when it starts.
#[derive(Debug, Clone)]
pub struct Image {
    inner: Arc<Inner>,
}

/// An image, as long as somebody else uses it.
#[derive(Debug, Clone)]
pub struct WeakImage {
    inner: Weak<Inner>,
}

impl WeakImage {
    /// The image, if somebody uses it.
    pub fn upgrade(&self) -> Option<Image> {
        let inner = self.inner.upgrade()?;
        Some(Image { inner })
    }
}

#[derive(Debug)]
struct Inner {
    /// The shell's digest.
    shell: String,
    base: Arc<Base>,
    /// What is laid over another image; nothing for the base alone.
    top: Option<(Image, Layer)>,
    /// All pages, once the image is used by many instances.
    whole: Mutex<Option<Arc<MappedFile>>>,
    starts: AtomicU64,
}

impl Image {
    /// The base alone.
    pub fn of_base(base: Arc<Base>, shell: &str) -> Self {
        Self::new(shell.to_owned(), base, None)
    }

    fn new(shell: String, base: Arc<Base>, top: Option<(Image, Layer)>) -> Self {
        Self {
            inner: Arc::new(Inner {
                shell,
                base,
                top,
                whole: Mutex::default(),
                starts: AtomicU64::new(0),
            }),
        }
    }

    /// This image with what a file holds laid over it, for a session; the file may have `limit` bytes.
    ///
    /// # Errors
    /// When the file is damaged, was not written by this host, is somebody else's, or was made over another image.
    pub fn with(
        &self,
        path: &Path,
        key: &Arc<ImageKey>,
        user: &Owner,
        limit: u64,
    ) -> Result<Self, ImageError> {
        self.over(Layer::open(path, key, user, limit)?)
    }

    fn over(&self, layer: Layer) -> Result<Self, ImageError> {
        let fits = |what, found: &str, expected: &str| {
            if found == expected {
                Ok(())
            } else {
                Err(ImageError::Misfit {
                    what,
                    found: found.to_owned(),
                    expected: expected.to_owned(),
                })
            }
        };
        let info = &layer.info;
        fits("code", &info.shell, &self.inner.shell)?;
        fits("base image", &info.base, self.inner.base.digest())?;
        let below = info.below.as_deref().unwrap_or("none");
        fits("lower image", below, self.identity().unwrap_or("none"))?;
        let is_possible = (self.memory()..=MAX_MEMORY).contains(&info.memory);
        if !is_possible || !info.memory.is_multiple_of(64 << 10) {
            return Err(ImageError::Damaged("its memory has an impossible size"));
        }
        let (shell, base) = (self.inner.shell.clone(), Arc::clone(&self.inner.base));
        Ok(Self::new(shell, base, Some((self.clone(), layer))))
    }

    fn layer(&self) -> Option<&Layer> {
        self.inner.top.as_ref().map(|(_, layer)| layer)
    }

    /// The digest of the code that it is for.
    pub fn shell(&self) -> &str {
        &self.inner.shell
    }

    /// The digest of the base.
    pub fn base(&self) -> &str {
        self.inner.base.digest()
    }

    /// The same, without keeping its file open.
    pub fn downgrade(&self) -> WeakImage {
        WeakImage {
            inner: Arc::downgrade(&self.inner),
        }
    }

    /// The image that it lies over; `None` for the base.
    pub fn below(&self) -> Option<&Image> {
        self.inner.top.as_ref().map(|(below, _)| below)
    }

    /// Returns when its file is on the disk. It blocks.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        self.layer().map_or(Ok(()), Layer::sync)
    }

    /// The same image for another session, in a file of its own.
    ///
    /// # Errors
    /// When its file cannot be read, or the other not be written.
    pub(crate) fn copy_for(&self, owner: &Owner, path: &Path) -> Result<(), ImageError> {
        let Some(layer) = self.layer() else {
            return Err(ImageError::Damaged("the base image has no file of its own"));
        };
        layer.copy_for(owner, path).map(|_| ())
    }

    /// Gives its file another name, under which it stays when the first one is deleted, or copies it there.
    ///
    /// # Errors
    /// When it can neither be linked nor copied.
    pub(crate) fn keep_at(&self, path: &Path) -> Result<(), ImageError> {
        self.layer().map_or(Ok(()), |layer| layer.keep_at(path))
    }

    /// Whether it is one session's alone.
    pub(crate) fn is_private(&self) -> bool {
        self.info().is_some_and(|info| info.owner.session.is_some())
    }

    /// What its file is told by from all others; `None` for the base alone.
    pub fn identity(&self) -> Option<&str> {
        self.layer().map(|layer| layer.identity.as_str())
    }

    /// Linear memory of an instance that starts from it, in bytes.
    pub fn memory(&self) -> u64 {
        let layer = self.layer();
        layer.map_or(self.inner.base.size(), |layer| layer.info.memory)
    }

    /// What its file says of it; `None` for the base alone.
    pub fn info(&self) -> Option<&ImageInfo> {
        self.layer().map(|layer| &layer.info)
    }

    /// Its file, and that file's size in bytes.
    pub fn file(&self) -> Option<(&Path, u64)> {
        let layer = self.layer()?;
        Some((&layer.path, layer.size))
    }

    /// Whether nothing has run in it yet: the memory as a component's data has it.
    pub(crate) fn is_raw(&self) -> bool {
        self.inner.base.digest.is_empty() && self.inner.top.is_none()
    }

    /// The monotonic time of an instance that starts from it: what it was when the image was stored, and the time since.
    pub(crate) fn monotonic_ns(&self) -> u64 {
        let Some(info) = self.info() else { return 0 };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let since = now.saturating_sub(info.stored_ms).saturating_mul(1_000_000);
        info.monotonic_ns.saturating_add(since)
    }

    /// Writes all its pages into a file without a name in `folder`, from which instances start from then on.
    ///
    /// # Errors
    /// When its files cannot be used, or the disk is full.
    pub fn spread(&self, folder: &Path, user: &Owner) -> Result<(), ImageError> {
        let mut bytes = vec![0; usize::try_from(self.memory()).unwrap_or(0)];
        self.copy_to(&mut bytes, user)?;
        let file = MappedFile::new(folder, &bytes).map_err(|source| ImageError::Io {
            path: folder.to_owned(),
            source,
        })?;
        *self.lock() = Some(Arc::new(file));
        Ok(())
    }

    fn copy_to(&self, bytes: &mut [u8], user: &Owner) -> Result<(), ImageError> {
        if let Some(whole) = self.whole() {
            bytes[..whole.len()].copy_from_slice(whole.bytes());
        } else if let Some((below, layer)) = &self.inner.top {
            below.copy_to(bytes, user)?;
            layer.delta(user)?.apply(bytes);
        } else {
            let base = self.inner.base.file.bytes();
            bytes[..base.len()].copy_from_slice(base);
        }
        Ok(())
    }

    /// Gives up the file of all pages; instances that have it mapped keep it. Starts count anew, so that images that are
    /// used alike do not take turns.
    pub fn fold(&self) {
        *self.lock() = None;
        self.inner.starts.store(0, Ordering::Relaxed);
    }

    /// Counts an instance that starts from it; gives how many have.
    pub(crate) fn count_start(&self) -> u64 {
        self.inner.starts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether both are the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether it has a file of all its pages.
    pub fn is_spread(&self) -> bool {
        self.lock().is_some()
    }

    fn whole(&self) -> Option<Arc<MappedFile>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<MappedFile>>> {
        self.inner
            .whole
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays it over a guest's memory, which is zero and at least as large as [`Image::memory`]. Whose it is is checked
    /// here, where the mapping happens.
    pub(crate) fn lay(&self, memory: &mut AtRest<'_>, user: &Owner) -> Result<Mode, ImageError> {
        if let Some(layer) = self.layer() {
            layer.info.owner.admits(user)?;
        }
        if let Some(whole) = self.whole() {
            memory.lay(&whole).map_err(ImageError::Map)?;
            return Ok(Mode::Mapped);
        }
        let Some((below, layer)) = &self.inner.top else {
            memory.lay(&self.inner.base.file).map_err(ImageError::Map)?;
            return Ok(Mode::Base);
        };
        // Read before anything is mapped.
        let delta = layer.delta(user)?;
        below.lay(memory, user)?;
        memory.will_write(delta.pages().map(|(page, _)| page));
        delta.apply(memory.bytes_mut());
        Ok(Mode::Copied)
    }
}
