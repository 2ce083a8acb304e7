//! Memory of guests that start from images. All unsafe code of images is here.
//!
//! wasmtime asks [`GuestMemories`] for each linear memory and gets zeros, as it must. Once the instance is made, and before
//! it runs, the host lays the image over it: the base file is mapped copy-on-write, so a page costs nothing until it is
//! touched, and only memory of its own once it is written.
//!
//! What makes that sound:
//! - The host touches a memory only through [`AtRest`], which borrows the store exclusively: no guest code of that store
//!   runs meanwhile, and wasmtime itself reads guests' memory only in calls that need the store too.
//! - Files that are mapped ([`MappedFile`]) have no name, so nobody can shorten or change them, which would be a SIGBUS or a
//!   change under a reader; or they are base images, which the host only ever replaces by renaming, like compiled code.

#![expect(unsafe_code, reason = "address space is managed by hand, here only")]

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};
use tokio::task_local;
use wasmtime::{LinearMemory, MemoryCreator, MemoryType, Store};

use crate::guest::Guest;

/// Bytes of a page of the host's, as far as images know; checked when an engine for images is made.
pub(crate) const PAGE: usize = 4096;

task_local! {
    /// Where the memory that an instance gets while it is made is to be told. A plain thread-local would not do: the
    /// making may change threads.
    static MADE: OnceLock<Arc<GuestMemory>>;
}

/// Address space of one guest: accessible up to its size, reserved and guarded beyond, as wasmtime asks for it.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    start: NonNull<u8>,
    /// All that is reserved, guards included.
    total: usize,
    /// The most that the memory can grow to.
    capacity: usize,
    size: AtomicUsize,
}

// SAFETY: it is address space, which belongs to no thread; what is in it is reached through `AtRest` or by wasmtime only.
unsafe impl Send for GuestMemory {}
// SAFETY: shared references give the address and the size; see `AtRest` for the content.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    fn reserve(minimum: usize, capacity: usize, guard: usize) -> io::Result<Self> {
        let capacity = capacity.max(minimum);
        let total = capacity
            .checked_add(guard)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: new address space at a place of the system's choice.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                total,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Self {
            start,
            total,
            capacity,
            size: AtomicUsize::new(0),
        };
        memory.grow_to(minimum)?;
        Ok(memory)
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Acquire)
    }

    /// Called after the system refused to map something over the first `len` bytes. It may have unmapped them before it
    /// did (where memory is not overcommitted, say): whatever came to lie there would be unmapped with this memory.
    fn fill_hole(&self, len: usize) {
        let start = self.start.as_ptr().cast();
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: takes only what nothing is mapped at. It fails where the range is as it was.
        let filled = unsafe { mmap_anonymous(start, len, ProtFlags::empty(), flags) };
        if let Ok(elsewhere) = filled
            && elsewhere != start
        {
            // SAFETY: mapped just now, by a system that does not know the flag.
            let _ = unsafe { munmap(elsewhere, len) };
        }
    }

    /// Makes more of it accessible; it is zero.
    fn grow_to(&self, size: usize) -> io::Result<()> {
        let old = self.size();
        if size > self.capacity {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if size > old {
            // SAFETY: the range is inside of what `reserve` has mapped, and nothing of it is in use yet.
            unsafe {
                mprotect(
                    self.start.as_ptr().add(old).cast(),
                    size - old,
                    MprotectFlags::READ | MprotectFlags::WRITE,
                )?;
            }
            self.size.store(size, Ordering::Release);
        }
        Ok(())
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `reserve`, and the last reference is gone.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.total) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "a guest's memory could not be given back");
        }
    }
}

/// Gives wasmtime the memories of an engine for images.
#[derive(Debug)]
pub(crate) struct GuestMemories;

struct Linear(Arc<GuestMemory>);

// SAFETY: `reserve` gives zeroed memory with all that wasmtime wants reserved and guarded, at a fixed place.
unsafe impl MemoryCreator for GuestMemories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let capacity = reserved.or(maximum).unwrap_or(minimum);
        let memory = GuestMemory::reserve(minimum, capacity, guard)
            .map_err(|error| format!("no address space: {error}"))?;
        let memory = Arc::new(memory);
        let told = MADE.try_with(|made| made.set(Arc::clone(&memory)));
        match told {
            Ok(Err(_)) => Err("the component has several memories".to_owned()),
            // Whoever makes an instance without asking for its memory does not get it.
            Ok(Ok(())) | Err(_) => Ok(Box::new(Linear(memory))),
        }
    }
}

// SAFETY: the memory never moves, and is accessible up to its size.
unsafe impl LinearMemory for Linear {
    fn byte_size(&self) -> usize {
        self.0.size()
    }

    fn byte_capacity(&self) -> usize {
        self.0.capacity
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        self.0.grow_to(size).map_err(wasmtime::Error::from)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.start.as_ptr()
    }
}

/// Runs what makes one instance, and gives the memory that the instance got.
pub(crate) async fn made_by<T>(making: impl Future<Output = T>) -> (T, Option<Arc<GuestMemory>>) {
    MADE.scope(OnceLock::new(), async move {
        let made = making.await;
        let memory = MADE.with(|memory| memory.get().cloned());
        (made, memory)
    })
    .await
}

/// A guest's memory while the guest is at rest.
pub(crate) struct AtRest<'a> {
    memory: Arc<GuestMemory>,
    // Keeps the guest from running.
    _store: &'a mut Store<Guest>,
}

impl<'a> AtRest<'a> {
    /// The memory of the store's instance; `None` when that has none that starts from images.
    pub(crate) fn of(store: &'a mut Store<Guest>) -> Option<Self> {
        let memory = Arc::clone(store.data().linear.get()?);
        Some(Self {
            memory,
            _store: store,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped and accessible, and nobody writes to it while `self` borrows the store.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr(), self.memory.size()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively, so this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start.as_ptr(), self.memory.size()) }
    }

    /// Lays a file over the memory's beginning, in place of whatever is there.
    ///
    /// # Errors
    /// When the file is longer than the memory, or the system refuses; the memory is of no use then.
    pub(crate) fn lay(&mut self, file: &MappedFile) -> io::Result<()> {
        if file.len() > self.memory.size() {
            return Err(io::Error::other("the image is larger than the memory"));
        }
        // SAFETY: the range is a part of the guest's own memory, and nobody has a reference into it.
        let laid = unsafe {
            mmap(
                self.memory.start.as_ptr().cast(),
                file.len(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                &file.file,
                0,
            )
        };
        if let Err(error) = laid {
            self.memory.fill_hole(file.len());
            return Err(error.into());
        }
        Ok(())
    }

    /// Tells the system that these pages, in ascending order, are about to be written to. Each would be mapped to be read
    /// first, then be copied, and all cores be told so; this way they are copied at once. It changes no content, and may
    /// do nothing.
    pub(crate) fn will_write(&mut self, pages: impl Iterator<Item = u32>) {
        let mut pages = pages.map(|page| page as usize).peekable();
        while let Some(first) = pages.next() {
            let mut end = first + 1;
            while pages.next_if_eq(&end).is_some() {
                end += 1;
            }
            if end * PAGE > self.memory.size() {
                return;
            }
            // SAFETY: the range is inside of the accessible memory, and its content stays as it is.
            let told = unsafe {
                madvise(
                    self.memory.start.as_ptr().add(first * PAGE).cast(),
                    (end - first) * PAGE,
                    Advice::LinuxPopulateWrite,
                )
            };
            // Before Linux 5.14, or without memory; the writes will say.
            if told.is_err() {
                return;
            }
        }
    }

    /// The pages that may differ from what was laid over the memory, by number: those that are this process's own.
    /// Where the system does not tell, all.
    pub(crate) fn touched(&self) -> Vec<u32> {
        let pages = self.memory.size() / PAGE;
        let touched = self.own_pages(pages);
        touched.unwrap_or_else(|| (0..u32::try_from(pages).unwrap_or(u32::MAX)).collect())
    }

    /// Bytes of pages that are this process's own; 0 where the system does not tell.
    pub(crate) fn private(&self) -> u64 {
        let touched = self.own_pages(self.memory.size() / PAGE);
        touched.map_or(0, |pages| (pages.len() * PAGE) as u64)
    }

    /// Linux's `/proc/self/pagemap` has 64 bits for each page: present (63), swapped (62), of a file or shared (61).
    fn own_pages(&self, pages: usize) -> Option<Vec<u32>> {
        static PAGEMAP: OnceLock<Option<File>> = OnceLock::new();
        let pagemap = PAGEMAP.get_or_init(|| File::open("/proc/self/pagemap").ok());
        let mut entries = vec![0; pages * 8];
        let first = self.memory.start.as_ptr().addr() / PAGE;
        let read = pagemap
            .as_ref()?
            .read_exact_at(&mut entries, first as u64 * 8);
        read.ok()?;
        let own = |entry: &[u8]| {
            let bits = entry.last().copied().unwrap_or(0);
            bits & 0b1100_0000 != 0 && bits & 0b0010_0000 == 0
        };
        let touched = (0_u32..).zip(entries.chunks_exact(8));
        Some(
            touched
                .filter(|(_, entry)| own(entry))
                .map(|(page, _)| page)
                .collect(),
        )
    }
}

/// A file that nobody changes, mapped to be read here and laid over guests' memories.
///
/// Its pages are in the page cache of the disk that it is on, which the system can take back.
#[derive(Debug)]
pub(crate) struct MappedFile {
    file: File,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: nobody writes to the file once it is mapped.
unsafe impl Send for MappedFile {}
// SAFETY: as above.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// A file without a name, with this content, in a folder's file system.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn new(folder: &Path, content: &[u8]) -> io::Result<Self> {
        let mut file = tempfile::tempfile_in(folder)?;
        file.write_all(content)?;
        Self::map(file, content.len())
    }

    /// The file at a path, under which the host never changes one, but only puts another in its place.
    ///
    /// # Errors
    /// When it cannot be read, or is empty.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        Self::map(file, len)
    }

    fn map(file: File, len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an image has at least one page",
            ));
        }
        // SAFETY: new address space; the file has this length, and nobody shortens it.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED,
                &file,
                0,
            )?
        };
        Ok(Self {
            file,
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            len,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, and never written.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; no reference outlives `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "an image could not be unmapped");
        }
    }
}
