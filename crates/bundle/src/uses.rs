//! What in a store is used: by names, by processes that live, by sessions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flowcell_registry::Digest;

use crate::error::{BundleError, IoContext as _};
use crate::lease::{LOCK, Thing, things};
use crate::manifest::{Manifest, Reference, Start};
use crate::store::Store;
use crate::survey::{Item, Kind, Survey, hex};

/// What is used, as of one moment.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// What has a lease or a root.
    things: HashSet<Thing>,
    /// Bundles that are used, with their blobs.
    bundles: HashSet<Digest>,
    blobs: HashSet<Digest>,
    /// Components whose compiled code belongs to a bundle that is used.
    code: HashSet<Digest>,
    /// The engines whose code is of use.
    engines: Vec<String>,
    /// Bundles that nobody uses: when that was last different, and their blobs.
    pub(crate) unused: BTreeMap<(SystemTime, Digest), Vec<Digest>>,
}

impl Uses {
    /// Looks at names, leases and roots. Code of other engines than these is of no use.
    ///
    /// # Errors
    /// When the store cannot be read; when a bundle that is used cannot be understood, so that what belongs to it is not
    /// known.
    pub(crate) fn of(store: &Store, engines: &[String]) -> Result<Self, BundleError> {
        let mut uses = Self {
            things: things(&store.root().join("roots"))?.into_iter().collect(),
            engines: engines.to_vec(),
            ..Self::default()
        };
        for folder in processes(store)? {
            if is_alive(&folder)? {
                uses.things.extend(things(&folder)?);
            }
        }
        let mut used: Vec<Digest> = named(store)?;
        used.extend(uses.things.iter().filter_map(|thing| match thing {
            Thing::Bundle(digest) => Some(*digest),
            _ => None,
        }));
        for digest in used {
            if !uses.bundles.insert(digest) {
                continue;
            }
            uses.blobs.insert(digest);
            let manifest = match store.read_manifest(&digest) {
                Ok(manifest) => manifest,
                // Somebody looks for what is not there.
                Err(BundleError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            uses.blobs.extend(blobs(&manifest));
            uses.code.extend(code(&manifest));
        }
        let marks = store.root().join("manifests");
        for entry in fs::read_dir(&marks).io("list", &marks)? {
            let entry = entry.io("list", &marks)?;
            let Some(digest) = entry.file_name().to_str().and_then(hex) else {
                continue;
            };
            if uses.bundles.contains(&digest) {
                continue;
            }
            let last_use = entry.metadata().and_then(|metadata| metadata.modified());
            let last_use = last_use.unwrap_or(SystemTime::UNIX_EPOCH);
            // One that cannot be read is its manifest and nothing else.
            let manifest = store.read_manifest(&digest).ok();
            let blobs = manifest.as_ref().map(blobs).unwrap_or_default();
            uses.unused.insert((last_use, digest), blobs);
        }
        Ok(uses)
    }

    /// Whether something must stay.
    pub(crate) fn has(&self, item: &Item) -> bool {
        let builds = self.builds();
        let (engine, rest) = item.name.split_once('/').unwrap_or(("", &item.name));
        let digest = hex(rest.strip_prefix("tenants/").unwrap_or(rest));
        let has = |thing: fn(Digest) -> Thing| {
            digest.is_some_and(|digest| self.things.contains(&thing(digest)))
        };
        let is_blob = digest.is_some_and(|digest| self.blobs.contains(&digest));
        match item.kind {
            Kind::Bundle => builds || digest.is_some_and(|digest| self.bundles.contains(&digest)),
            Kind::Blob => builds || is_blob || has(Thing::Blob),
            Kind::Tree => builds || is_blob,
            Kind::Base => builds || is_blob || has(Thing::Code),
            Kind::Code if rest.starts_with("tenants/") => has(Thing::Code),
            Kind::Code => {
                let is_bundles = digest.is_some_and(|digest| self.code.contains(&digest));
                let is_current = self.engines.iter().any(|one| one == engine);
                builds || has(Thing::Code) || (is_bundles && is_current)
            }
            // Whoever has it open keeps it.
            Kind::Image => false,
            Kind::Index => self.things.contains(&Thing::Index),
            Kind::Wheel => has(Thing::Wheel),
            Kind::Component => has(Thing::Component),
            Kind::Layer => self.things.contains(&Thing::Layer(item.name.clone())),
            Kind::Site => has(Thing::Site),
        }
    }

    /// Puts the blobs of bundles together: what several have belongs to one that is used, or to the one that was used last,
    /// and goes with that. What was made from blobs was used when their bundle was.
    pub(crate) fn group(&self, survey: &mut Survey, store: &Store) {
        let mut of: HashMap<Digest, (SystemTime, Digest)> = HashMap::new();
        let mut last_uses: HashMap<Digest, SystemTime> = HashMap::new();
        for (&(last_use, bundle), blobs) in self.unused.iter().rev() {
            for blob in blobs.iter().chain([&bundle]) {
                last_uses.entry(*blob).or_insert(last_use);
                if !self.blobs.contains(blob) {
                    of.entry(*blob).or_insert((last_use, bundle));
                }
            }
        }
        let mut bundles: BTreeMap<Digest, Item> = BTreeMap::new();
        let mut used: Vec<Item> = Vec::new();
        let mut rest = Vec::new();
        for mut item in survey.items.drain(..) {
            let name = item.name.rsplit('/').next().and_then(hex);
            let Some(digest) = name else {
                rest.push(item);
                continue;
            };
            if item.kind != Kind::Blob {
                if let Some(last_use) = last_uses.get(&digest)
                    && matches!(item.kind, Kind::Tree | Kind::Base | Kind::Code)
                {
                    item.last_use = item.last_use.max(*last_use);
                }
                rest.push(item);
                continue;
            }
            if self.blobs.contains(&digest) {
                item.kind = Kind::Bundle;
                used.push(item);
                continue;
            }
            let Some(&(last_use, bundle)) = of.get(&digest) else {
                rest.push(item);
                continue;
            };
            let whole = bundles.entry(bundle).or_insert_with(|| Item {
                kind: Kind::Bundle,
                name: bundle.hex(),
                // Without its mark it is no bundle any more, whatever is left of it.
                paths: vec![store.root().join("manifests").join(bundle.hex())],
                last_use,
                inodes: Vec::new(),
            });
            if digest == bundle {
                whole.paths.splice(1..1, item.paths);
            } else {
                whole.paths.extend(item.paths);
            }
            whole.inodes.extend(item.inodes);
        }
        survey.items = rest;
        survey.items.extend(bundles.into_values());
        survey.items.extend(self.used_bundles(used));
    }

    /// The blobs that are used, as one thing for each bundle would count them several times.
    fn used_bundles(&self, blobs: Vec<Item>) -> Option<Item> {
        let mut blobs = blobs.into_iter();
        let mut whole = blobs.next()?;
        for blob in blobs {
            whole.paths.extend(blob.paths);
            whole.inodes.extend(blob.inodes);
        }
        // Any bundle's name will do: all of them are used.
        if let Some(bundle) = self.bundles.iter().next() {
            whole.name = bundle.hex();
        }
        Some(whole)
    }

    /// Whether a bundle that is used has this blob.
    pub(crate) fn needs(&self, blob: &Digest) -> bool {
        self.blobs.contains(blob)
    }

    /// Whether somebody builds or pulls a bundle.
    pub(crate) fn builds(&self) -> bool {
        self.things.contains(&Thing::AllBlobs)
    }

    /// How many bundles are used.
    pub(crate) fn bundles(&self) -> usize {
        self.bundles.len()
    }
}

/// The digests that names point to.
fn named(store: &Store) -> Result<Vec<Digest>, BundleError> {
    let mut digests = Vec::new();
    for reference in store.list()? {
        digests.extend(resolved(store, &reference)?);
    }
    digests.extend(store.all_pulled()?.into_iter().map(|pulled| pulled.bundle));
    Ok(digests)
}

/// `None` when the name was removed a moment ago.
fn resolved(store: &Store, reference: &Reference) -> Result<Option<Digest>, BundleError> {
    match store.resolve(reference) {
        Err(BundleError::NotFound { .. }) => Ok(None),
        resolved => resolved.map(Some),
    }
}

fn blobs(manifest: &Manifest) -> Vec<Digest> {
    let trees = manifest.trees.iter().map(|tree| tree.digest);
    let mut blobs: Vec<Digest> = trees.collect();
    for component in &manifest.components {
        blobs.push(component.digest);
        if let Start::Image { shell, base, .. } = &component.start {
            blobs.extend([*shell, *base]);
        }
    }
    blobs
}

/// The components that are run as they are, or in their shells.
fn code(manifest: &Manifest) -> Vec<Digest> {
    let components = manifest.components.iter();
    components
        .map(|component| match &component.start {
            Start::Image { shell, .. } => *shell,
            Start::Ordinary | Start::Unsuitable(_) => component.digest,
        })
        .collect()
}

/// The folders of processes, also of those that are gone.
pub(crate) fn processes(store: &Store) -> Result<Vec<PathBuf>, BundleError> {
    let folder = store.root().join("leases");
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).io("list", &folder)? {
        let path = entry.io("list", &folder)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether the process of a folder lives.
pub(crate) fn is_alive(folder: &Path) -> Result<bool, BundleError> {
    let path = folder.join(LOCK);
    let lock = match File::open(&path) {
        // It is ending, or has died while it began.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        lock => lock.io("read", &path)?,
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).io("lock", &path),
    }
}
