//! Garbage: what nobody uses goes, least recently used first, until the store has no more than it may.
//!
//! What goes is first moved into `trash`, while nothing can be taken into use (see `lease.rs`) and after another look at what
//! is used, and deleted then. So nothing is ever there by half, and a collection that dies has at most left something in
//! `trash`, which the next one deletes.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::error::{BundleError, IoContext as _};
use crate::lease::{LOCK, gate};
use crate::store::{PARTIAL, Store};
use crate::survey::{Item, Kind, Sizes, Survey, check_own, hex};
use crate::uses::{Uses, is_alive, processes};

/// Bytes that a store may have where nobody says otherwise.
pub const DEFAULT_STORE_SIZE: u64 = 20 << 30;
/// Things that are moved away at once: nothing can be taken into use meanwhile.
const AT_ONCE: usize = 200;
/// What came of a pull is gone on from for so long.
const RESUMABLE: Duration = Duration::from_secs(24 * 3_600);
/// Folders below `cache` in which things are made beside each other.
const MAKING: [&str; 5] = ["bases", "layers", "sites", "trees", "wheels"];

/// What a collection is to do.
#[derive(Debug, Clone, Default)]
pub struct Collection {
    /// Bytes of the disk that the store may have.
    pub size: u64,
    /// The engines whose compiled code is of use ([`flowcell_sandbox::Sandbox::compatibility_key`]).
    pub engines: Vec<String>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// Something that has gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// What it was.
    pub kind: Kind,
    /// Its digest, or what else named it.
    pub name: String,
    /// Bytes of the disk that are free without it: what it shared with others is theirs.
    pub bytes: u64,
}

/// What has come of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Bytes of the store before it.
    pub before: u64,
    /// Bytes after it. More than it may have, where that is in use.
    pub after: u64,
    /// What has gone, in this order.
    pub removed: Vec<Removed>,
    /// What processes that died have left: leases, locks, and what they were making.
    pub leftovers: usize,
}

/// What a store holds of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub items: usize,
    /// Their size on the disk.
    pub bytes: u64,
    /// How many of them are in use.
    pub used_items: usize,
    /// The size of those.
    pub used_bytes: u64,
}

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes on the disk, of all of it.
    pub bytes: u64,
    /// By kind; what several share is the first one's.
    pub kinds: BTreeMap<Kind, Amount>,
    /// Bytes of all else: folders, names, locks, and what is being made.
    pub other_bytes: u64,
    /// Processes that use it.
    pub processes: usize,
}

/// What a store holds, and what of it is in use.
///
/// # Errors
/// When it cannot be read.
pub fn stats(store: &Store, engines: &[String]) -> Result<StoreStats, BundleError> {
    let mut survey = Survey::of(store)?;
    let uses = Uses::of(store, engines)?;
    uses.group(&mut survey, store);
    let mut sizes = Sizes::default();
    let mut kinds: BTreeMap<Kind, Amount> = Kind::ALL
        .into_iter()
        .map(|kind| (kind, Amount::default()))
        .collect();
    survey.items.sort_by_key(|item| item.kind);
    for item in &survey.items {
        let bytes = sizes.add(&item.inodes);
        let amount = kinds.entry(item.kind).or_default();
        let is_used = uses.has(item);
        // All bundles that are used are one item.
        let items = match item.kind {
            Kind::Bundle if is_used => uses.bundles(),
            _ => 1,
        };
        amount.items += items;
        amount.bytes += bytes;
        if is_used {
            amount.used_items += items;
            amount.used_bytes += bytes;
        }
    }
    let other_bytes = sizes.add(&survey.rest);
    let mut alive = 0;
    for folder in processes(store)? {
        alive += usize::from(is_alive(&folder)?);
    }
    Ok(StoreStats {
        bytes: sizes.total,
        kinds,
        other_bytes,
        processes: alive,
    })
}

/// Deletes what nobody uses until the store has the size that it may have, and what processes that died have left. `told` is
/// called for each thing once it is moved away, or with [`Collection::dry_run`] would be.
///
/// It may run beside anything else in the store, and waits for other collections.
///
/// # Errors
/// When the store cannot be read or written to; when its folders are links to those of another store.
pub fn collect(
    store: &Store,
    collection: &Collection,
    told: &mut dyn FnMut(&Removed),
) -> Result<Collected, BundleError> {
    check_own(store)?;
    let trash = Trash::open(store)?;
    let mut collected = Collected::default();
    if !collection.dry_run {
        trash.empty()?;
        collected.leftovers = trash.sweep()?;
        trash.empty()?;
    }
    let mut survey = Survey::of(store)?;
    let uses = Uses::of(store, &collection.engines)?;
    uses.group(&mut survey, store);
    let mut sizes = Sizes::default();
    for item in &survey.items {
        sizes.add(&item.inodes);
    }
    sizes.add(&survey.rest);
    collected.before = sizes.total;
    let mut unused: Vec<Item> = survey.items;
    unused.retain(|item| !uses.has(item));
    unused.sort_by(|one, other| {
        (one.last_use, one.kind, &one.name).cmp(&(other.last_use, other.kind, &other.name))
    });
    let mut unused = unused.into_iter().peekable();
    while sizes.total > collection.size && unused.peek().is_some() {
        let mut turn = Vec::new();
        // What goes is decided by the sizes as they would be.
        let mut left = sizes.total;
        while left > collection.size && turn.len() < AT_ONCE {
            let Some(item) = unused.next() else { break };
            left = left.saturating_sub(item.inodes.iter().map(|inode| inode.bytes).sum());
            turn.push(item);
        }
        let gone = if collection.dry_run {
            turn
        } else {
            trash.take(turn, &collection.engines)?
        };
        for item in gone {
            let removed = Removed {
                kind: item.kind,
                bytes: sizes.remove(&item.inodes),
                name: item.name,
            };
            told(&removed);
            collected.removed.push(removed);
        }
        if !collection.dry_run {
            trash.empty()?;
        }
    }
    collected.after = sizes.total;
    Ok(collected)
}

/// The folder for what is being deleted, and the right to do so.
struct Trash<'a> {
    store: &'a Store,
    folder: PathBuf,
    // One collection at a time. Given up when it is closed.
    _turn: File,
}

impl<'a> Trash<'a> {
    fn open(store: &'a Store) -> Result<Self, BundleError> {
        let folder = store.root().join("trash");
        let path = folder.join(LOCK);
        let turn = File::options().append(true).create(true).open(&path);
        let turn = turn.io("write", &path)?;
        turn.lock().io("lock", &path)?;
        Ok(Self {
            store,
            folder,
            _turn: turn,
        })
    }

    /// Nothing is taken into use while this is held.
    fn close_gate(&self) -> Result<File, BundleError> {
        let closed = gate(self.store.root()).and_then(|gate| gate.lock().map(|()| gate));
        closed.io("lock", &self.store.root().join("leases"))
    }

    /// Deletes what is in it.
    fn empty(&self) -> Result<(), BundleError> {
        for entry in fs::read_dir(&self.folder).io("list", &self.folder)? {
            let path = entry.io("list", &self.folder)?.path();
            if path.file_name().is_some_and(|name| name == LOCK) {
                continue;
            }
            crash_point();
            let is_folder = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            let deleted = if is_folder {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            deleted.io("delete", &path)?;
        }
        Ok(())
    }

    /// Moves a file or folder here. No folder is made for it, so that there is a way on when the disk is full.
    fn put(&self, path: &Path) -> Result<(), BundleError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        for number in 0.. {
            let place = self.folder.join(format!("{number}-{name}"));
            if fs::symlink_metadata(&place).is_ok() {
                continue;
            }
            crash_point();
            return match fs::rename(path, &place) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error).io("delete", path),
                _ => Ok(()),
            };
        }
        Ok(())
    }

    /// Moves things here that are still not used; gives those.
    fn take(&self, items: Vec<Item>, engines: &[String]) -> Result<Vec<Item>, BundleError> {
        let _gate = self.close_gate()?;
        let uses = Uses::of(self.store, engines)?;
        let is_new = |path: &Path, last_use: SystemTime| {
            let metadata = fs::symlink_metadata(path);
            let changed = metadata.and_then(|metadata| metadata.modified());
            changed.is_ok_and(|changed| changed > last_use)
        };
        let mut gone = Vec::new();
        for item in items {
            // A bundle that shares blobs with one that has come to use meanwhile is looked at again the next time.
            let is_blob_used = item.kind == Kind::Bundle && self.shares(&item, &uses);
            let is_used = uses.has(&item)
                || is_blob_used
                || item
                    .paths
                    .first()
                    .is_some_and(|path| is_new(path, item.last_use));
            if !is_used {
                for path in &item.paths {
                    self.put(path)?;
                }
                gone.push(item);
            }
        }
        Ok(gone)
    }

    fn shares(&self, item: &Item, uses: &Uses) -> bool {
        item.paths.iter().skip(1).any(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(hex).is_some_and(|digest| uses.needs(&digest))
        })
    }

    /// Moves here what processes that died have left; how many things.
    fn sweep(&self) -> Result<usize, BundleError> {
        let _gate = self.close_gate()?;
        let mut count = 0;
        for folder in processes(self.store)? {
            if !is_alive(&folder)? {
                self.put(&folder)?;
                count += 1;
            }
        }
        let uses = Uses::of(self.store, &[])?;
        for folder in self.folders()? {
            for entry in fs::read_dir(&folder).io("list", &folder)? {
                let path = entry.io("list", &folder)?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                let Some(name) = name else { continue };
                let is_ours = match name.strip_prefix(PARTIAL) {
                    // What came of a pull.
                    Some(rest) if hex(rest).is_some() => !uses.builds() && is_old(&path),
                    Some(_) => true,
                    None => name.starts_with(".lock-"),
                };
                // Whoever waits for the lock finds, when it has it, that the file is gone.
                if is_ours && let Some(_lock) = lock_free(&path) {
                    self.put(&path)?;
                    count += 1;
                }
            }
        }
        count += self.sweep_images()?;
        Ok(count)
    }

    /// Where things are made.
    fn folders(&self) -> Result<Vec<PathBuf>, BundleError> {
        let root = self.store.root();
        let mut folders: Vec<PathBuf> = ["blobs/sha256", "pulled", "manifests", "built", "roots"]
            .map(|part| root.join(part))
            .to_vec();
        folders.extend(MAKING.map(|part| self.store.cache().join(part)));
        folders.extend(subfolders(&root.join("bundles"))?);
        for engine in subfolders(&self.store.cache().join("compiled"))? {
            folders.push(engine.join("tenants"));
            folders.push(engine);
        }
        folders.retain(|folder| folder.is_dir());
        Ok(folders)
    }

    /// The same for those who make sessions' images. They hold a lock together, and delete each other's themselves.
    fn sweep_images(&self) -> Result<usize, BundleError> {
        let folder = self.store.images().join("sessions");
        let Some(_lock) = lock_free(&folder.join(".lock")) else {
            return Ok(0);
        };
        let mut count = 0;
        for entry in fs::read_dir(&folder).io("list", &folder)? {
            let entry = entry.io("list", &folder)?;
            let name = entry.file_name();
            let begins = |with: &str| name.to_str().is_some_and(|name| name.starts_with(with));
            if begins(".building-") || begins(PARTIAL) {
                self.put(&entry.path())?;
                count += 1;
            }
        }
        Ok(count)
    }
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, BundleError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.io("list", folder)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.io("list", folder)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

/// The lock of a file or folder, if nobody holds it.
fn lock_free(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    match file.try_lock() {
        Ok(()) => Some(file),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(error)) => {
            tracing::warn!(path = %path.display(), %error, "it cannot be told whether this is in use");
            None
        }
    }
}

fn is_old(path: &Path) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|changed| changed.elapsed().unwrap_or_default() >= RESUMABLE)
}

/// A place at which tests end the process.
#[cfg(not(test))]
fn crash_point() {}

#[cfg(test)]
use tests::crash_point;

#[cfg(test)]
mod tests;
