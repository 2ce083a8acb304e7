//! What is in a store, and what it takes of the disk.
//!
//! Sizes are those of `du`: blocks of files and folders, and a file that has several names (environments share the files
//! of their wheels) counts once.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use flowcell_registry::Digest;
use serde::Serialize;

use crate::error::{BundleError, IoContext as _};
use crate::store::Store;

/// The folders of a store. What else is in its folder (a server's data, keys) is not the store's.
pub(crate) const PARTS: [&str; 9] = [
    "blobs",
    "bundles",
    "pulled",
    "manifests",
    "built",
    "cache",
    "leases",
    "roots",
    "trash",
];
/// Bytes of a block, as the system counts them.
const BLOCK: u64 = 512;

/// What something in a store is. Where things share files, those belong to the first kind that has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A bundle: its manifest, and the blobs that no other bundle has which is used more.
    Bundle,
    /// A blob of no bundle, such as a session's lock.
    Blob,
    /// An unpacked folder of a bundle.
    Tree,
    /// The unpacked memory of a bundle's runner.
    Base,
    /// Compiled code of a component.
    Code,
    /// A session's memory image.
    Image,
    /// What indexes have answered.
    Index,
    /// A wheel, as it was downloaded.
    Wheel,
    /// A component package, as it was downloaded.
    Component,
    /// An unpacked wheel.
    Layer,
    /// An environment.
    Site,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Bundle,
        Self::Blob,
        Self::Tree,
        Self::Base,
        Self::Code,
        Self::Image,
        Self::Index,
        Self::Wheel,
        Self::Component,
        Self::Layer,
        Self::Site,
    ];

    /// Its name, in the plural.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Bundle => "bundles",
            Self::Blob => "other blobs",
            Self::Tree => "unpacked trees",
            Self::Base => "unpacked memories",
            Self::Code => "compiled code",
            Self::Image => "session images",
            Self::Index => "index answers",
            Self::Wheel => "wheels",
            Self::Component => "component packages",
            Self::Layer => "unpacked wheels",
            Self::Site => "environments",
        }
    }
}

/// A file or folder on the disk, however many names it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inode {
    pub(crate) id: (u64, u64),
    pub(crate) bytes: u64,
}

/// Something that is there or not as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    /// Its digest, or what else names it.
    pub(crate) name: String,
    /// What is to be moved away, in this order.
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) last_use: SystemTime,
    pub(crate) inodes: Vec<Inode>,
}

/// All of a store.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) items: Vec<Item>,
    /// What belongs to no item: folders, locks, names, what is being made.
    pub(crate) rest: Vec<Inode>,
}

impl Survey {
    /// Looks at everything. What comes or goes meanwhile is in it or not.
    pub(crate) fn of(store: &Store) -> Result<Self, BundleError> {
        let mut survey = Self::default();
        let mut places: HashMap<PathBuf, usize> = HashMap::new();
        for part in PARTS {
            let folder = store.root().join(part);
            for entry in walkdir::WalkDir::new(&folder).follow_root_links(false) {
                let entry = match entry {
                    Err(error) if is_gone(&error) => continue,
                    entry => entry.map_err(std::io::Error::from).io("look at", &folder)?,
                };
                let metadata = match entry.metadata() {
                    Err(error) if is_gone(&error) => continue,
                    metadata => metadata
                        .map_err(std::io::Error::from)
                        .io("look at", entry.path())?,
                };
                let inode = Inode {
                    id: (metadata.dev(), metadata.ino()),
                    bytes: metadata.blocks() * BLOCK,
                };
                let path = entry.path().strip_prefix(store.root());
                let path = path.unwrap_or(entry.path());
                let Some((kind, name, depth)) = item(path) else {
                    survey.rest.push(inode);
                    continue;
                };
                let own: PathBuf = path.components().take(depth).collect();
                let own = store.root().join(own);
                let place = *places.entry(own.clone()).or_insert_with(|| {
                    survey.items.push(Item {
                        kind,
                        name,
                        paths: vec![own],
                        last_use: SystemTime::UNIX_EPOCH,
                        inodes: Vec::new(),
                    });
                    survey.items.len() - 1
                });
                if let Some(item) = survey.items.get_mut(place) {
                    if item.inodes.is_empty() {
                        // The first is the item's own file or folder.
                        item.last_use = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    }
                    item.inodes.push(inode);
                }
            }
        }
        Ok(survey)
    }
}

fn is_gone(error: &walkdir::Error) -> bool {
    error.io_error().map(std::io::Error::kind) == Some(ErrorKind::NotFound)
}

/// Which item a path is of, by what it is from the store's folder: its kind, its name, and how many of the path's parts are
/// the item's own path.
fn item(path: &Path) -> Option<(Kind, String, usize)> {
    let parts: Option<Vec<&str>> = path
        .components()
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    let is_hex = |text: &str| hex(text).is_some();
    let named = |kind, name: &str, depth| Some((kind, name.to_owned(), depth));
    match parts.as_deref()? {
        ["blobs", "sha256", name] if is_hex(name) => named(Kind::Blob, name, 3),
        ["cache", "trees", name, ..] if is_hex(name) => named(Kind::Tree, name, 3),
        ["cache", "bases", file] => {
            let name = file.strip_suffix(".pages").filter(|name| is_hex(name))?;
            named(Kind::Base, name, 3)
        }
        ["cache", "compiled", engine, file] => {
            let name = file.strip_suffix(".cwasm").filter(|name| is_hex(name))?;
            named(Kind::Code, &format!("{engine}/{name}"), 4)
        }
        ["cache", "compiled", engine, "tenants", file] => {
            let name = file.strip_suffix(".cwasm").filter(|name| is_hex(name))?;
            named(Kind::Code, &format!("{engine}/tenants/{name}"), 5)
        }
        ["cache", "images", "sessions", file] => {
            let name = file.strip_suffix(".image").filter(|name| is_hex(name))?;
            named(Kind::Image, name, 4)
        }
        ["cache", "index", ..] => named(Kind::Index, "index", 2),
        ["cache", "index-by-credentials", scope, ..] => named(Kind::Index, scope, 3),
        ["cache", "wheels", file] => {
            let name = file.strip_suffix(".whl").filter(|name| is_hex(name))?;
            named(Kind::Wheel, name, 3)
        }
        ["cache", "components", file] => {
            let name = file.strip_suffix(".wasm").filter(|name| is_hex(name))?;
            named(Kind::Component, name, 3)
        }
        ["cache", "layers", name, ..] => {
            let (digest, _) = name.split_once('-')?;
            hex(digest)?;
            named(Kind::Layer, name, 3)
        }
        ["cache", "sites", name, ..] if is_hex(name) => named(Kind::Site, name, 3),
        _ => None,
    }
}

/// The digest of these digits.
pub(crate) fn hex(text: &str) -> Option<Digest> {
    format!("sha256:{text}").parse().ok()
}

/// Bytes of inodes, by how many things still have each.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    names: HashMap<(u64, u64), usize>,
    pub(crate) total: u64,
}

impl Sizes {
    /// Counts inodes; gives the bytes of those that were not there before.
    pub(crate) fn add(&mut self, inodes: &[Inode]) -> u64 {
        let mut added = 0;
        for inode in inodes {
            let names = self.names.entry(inode.id).or_default();
            *names += 1;
            if *names == 1 {
                added += inode.bytes;
            }
        }
        self.total += added;
        added
    }

    /// Takes inodes out; gives the bytes of those that nothing has any more.
    pub(crate) fn remove(&mut self, inodes: &[Inode]) -> u64 {
        let mut removed = 0;
        for inode in inodes {
            if let Some(names) = self.names.get_mut(&inode.id) {
                *names = names.saturating_sub(1);
                if *names == 0 {
                    removed += inode.bytes;
                }
            }
        }
        self.total = self.total.saturating_sub(removed);
        removed
    }
}

/// Refuses a store whose folders are another's: what is in use there cannot be known here.
pub(crate) fn check_own(store: &Store) -> Result<(), BundleError> {
    let folders = PARTS.iter().map(|part| store.root().join(part));
    let caches = fs::read_dir(store.cache()).into_iter().flatten().flatten();
    for path in folders.chain(caches.map(|entry| entry.path())) {
        let is_link = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
        if is_link {
            return Err(BundleError::Linked(path));
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn files_belong_to_items() {
        let digits = Digest::of(b"x").hex();
        let at = |path: &str| item(Path::new(&path.replace('X', &digits)));
        for (path, kind, depth) in [
            ("blobs/sha256/X", Kind::Blob, 3),
            ("cache/trees/X", Kind::Tree, 3),
            ("cache/trees/X/lib/a.py", Kind::Tree, 3),
            ("cache/bases/X.pages", Kind::Base, 3),
            ("cache/compiled/48-a/X.cwasm", Kind::Code, 4),
            ("cache/compiled/48-a/tenants/X.cwasm", Kind::Code, 5),
            ("cache/images/sessions/X.image", Kind::Image, 4),
            ("cache/index/simple/a", Kind::Index, 2),
            ("cache/index-by-credentials/X/simple/a", Kind::Index, 3),
            ("cache/wheels/X.whl", Kind::Wheel, 3),
            ("cache/components/X.wasm", Kind::Component, 3),
            ("cache/layers/X-cp314/files/a.py", Kind::Layer, 3),
            ("cache/sites/X/site.json", Kind::Site, 3),
        ] {
            let (found, _, own) = at(path).unwrap();
            assert_eq!((found, own), (kind, depth), "{path}");
        }
        for path in [
            "",
            "blobs/sha256",
            "blobs/sha256/.partial-X",
            "blobs/sha256/x",
            "cache/trees/.partial-abc/a",
            "cache/wheels/X",
            "cache/layers/.lock-X-cp314",
            "cache/layers/X",
            "cache/sites/.lock-X",
            "bundles/promptflow/X",
            "leases/lock",
        ] {
            assert_eq!(at(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_shared_counts_once() {
        let inode = |number, bytes| Inode {
            id: (1, number),
            bytes,
        };
        let mut sizes = Sizes::default();
        assert_eq!(sizes.add(&[inode(1, 10), inode(2, 20)]), 30);
        assert_eq!(sizes.add(&[inode(2, 20), inode(3, 40)]), 40);
        assert_eq!(sizes.total, 70);
        assert_eq!(sizes.remove(&[inode(1, 10), inode(2, 20)]), 10);
        assert_eq!(sizes.remove(&[inode(2, 20), inode(3, 40)]), 60);
        assert_eq!(sizes.total, 0);
    }
}
