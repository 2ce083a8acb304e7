//! What is in use, for whoever collects garbage.
//!
//! ```text
//! <root>/leases/lock               held shared while something is taken into use, and alone while garbage is moved away
//! <root>/leases/<process>/lock     held for as long as the process lives
//! <root>/leases/<process>/<thing>  empty: the process uses the thing
//! <root>/roots/<thing>             empty: a session of the store's server has the thing, whether the server runs or not
//! ```
//! Whoever wants a thing takes a lease first, and looks for it then: what is there under a lease stays, and what is not is
//! made. A collection that had begun before has moved it away by then; a later one sees the lease.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use flowcell_registry::Digest;

use crate::error::{BundleError, IoContext as _};
use crate::manifest::{Manifest, Reference};
use crate::store::{Store, touch};
use crate::survey::hex;

/// Longest name of a layer.
const MAX_NAME: usize = 128;
/// A root that was noted this short a while ago is there.
const FRESH: Duration = Duration::from_secs(900);
/// A root that no session has is kept for so long: the session that it is for may not be stored yet.
const GRACE: Duration = Duration::from_secs(3_600);

/// Something in a store that can be in use.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Thing {
    /// A bundle, by the digest of its manifest: with all blobs that it names, and what is made from these.
    Bundle(Digest),
    /// A blob that belongs to no bundle.
    Blob(Digest),
    /// All blobs, bundles and what is made from them: a bundle is being built or pulled.
    AllBlobs,
    /// Compiled code, or an unpacked memory, of a component.
    Code(Digest),
    /// An environment.
    Site(Digest),
    /// An unpacked wheel: the name of its folder.
    Layer(String),
    /// A wheel.
    Wheel(Digest),
    /// A component package.
    Component(Digest),
    /// What indexes have answered.
    Index,
}

impl fmt::Display for Thing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(digest) => write!(formatter, "bundle-{}", digest.hex()),
            Self::Blob(digest) => write!(formatter, "blob-{}", digest.hex()),
            Self::AllBlobs => formatter.write_str("blobs"),
            Self::Code(digest) => write!(formatter, "code-{}", digest.hex()),
            Self::Site(digest) => write!(formatter, "site-{}", digest.hex()),
            Self::Layer(name) => write!(formatter, "layer-{name}"),
            Self::Wheel(digest) => write!(formatter, "wheel-{}", digest.hex()),
            Self::Component(digest) => write!(formatter, "component-{}", digest.hex()),
            Self::Index => formatter.write_str("index"),
        }
    }
}

impl Thing {
    /// The thing of this name, if it is one's.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text.split_once('-') {
            None if text == "blobs" => Self::AllBlobs,
            None if text == "index" => Self::Index,
            Some(("bundle", digits)) => Self::Bundle(hex(digits)?),
            Some(("blob", digits)) => Self::Blob(hex(digits)?),
            Some(("code", digits)) => Self::Code(hex(digits)?),
            Some(("site", digits)) => Self::Site(hex(digits)?),
            Some(("wheel", digits)) => Self::Wheel(hex(digits)?),
            Some(("component", digits)) => Self::Component(hex(digits)?),
            Some(("layer", name)) if is_name(name) => Self::Layer(name.to_owned()),
            _ => return None,
        })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

/// While this is there, what it is for is not collected.
#[derive(Clone)]
pub struct Lease(Arc<Held>);

struct Held {
    thing: Thing,
    leases: Arc<Leases>,
}

impl Lease {
    /// What it is for.
    pub fn thing(&self) -> &Thing {
        &self.0.thing
    }
}

impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        self.thing() == other.thing()
    }
}

impl Eq for Lease {}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Lease({})", self.thing())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leases.give_back(&self.thing);
    }
}

/// What this process uses of a store.
#[derive(Debug)]
pub(crate) struct Leases {
    root: PathBuf,
    state: Mutex<State>,
    /// When roots were last noted.
    roots: Mutex<HashMap<Thing, SystemTime>>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    held: HashMap<Thing, usize>,
}

/// This process, as others see it.
#[derive(Debug)]
struct Process {
    folder: PathBuf,
    // Given up when it is closed.
    _lock: File,
}

impl Leases {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            state: Mutex::default(),
            roots: Mutex::default(),
        }
    }

    /// Nothing is collected while this is held, which should be short.
    pub(crate) fn enter(&self) -> io::Result<File> {
        let gate = gate(&self.root)?;
        gate.lock_shared()?;
        Ok(gate)
    }

    fn take(self: &Arc<Self>, thing: Thing) -> io::Result<Lease> {
        let mut state = self.lock();
        if !state.held.contains_key(&thing) {
            let _gate = self.enter()?;
            if state.process.is_none() {
                state.process = Some(Process::begin(&self.root)?);
            }
            if let Some(process) = &state.process {
                File::create(process.folder.join(thing.to_string()))?;
            }
        }
        *state.held.entry(thing.clone()).or_default() += 1;
        drop(state);
        if let Some(path) = stamp(&self.root, &thing) {
            touch(&path);
        }
        Ok(Lease(Arc::new(Held {
            thing,
            leases: Arc::clone(self),
        })))
    }

    fn give_back(&self, thing: &Thing) {
        if let Some(path) = stamp(&self.root, thing) {
            touch(&path);
        }
        let mut state = self.lock();
        let Some(count) = state.held.get_mut(thing) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            state.held.remove(thing);
            if let Some(process) = &state.process {
                let path = process.folder.join(thing.to_string());
                if let Err(error) = fs::remove_file(&path) {
                    tracing::debug!(path = %path.display(), %error, "a lease stays until the process ends");
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if let Some(process) = self.lock().process.take()
            && let Err(error) = fs::remove_dir_all(&process.folder)
        {
            tracing::debug!(%error, "a collection deletes what is left of this process");
        }
    }
}

impl Process {
    /// The gate is held: nobody sees it without its lock.
    fn begin(root: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempdir_in(root.join("leases"))?;
        let lock = File::create(folder.path().join(LOCK))?;
        lock.lock()?;
        Ok(Self {
            folder: folder.keep(),
            _lock: lock,
        })
    }
}

/// What leases and locks of processes are called.
pub(crate) const LOCK: &str = "lock";

/// The file whose lock stands between whoever takes something into use, and whoever moves it away.
pub(crate) fn gate(root: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .append(true)
        .create(true)
        .open(root.join("leases").join(LOCK))
}

/// The file or folder whose time of change is the thing's last use.
fn stamp(root: &Path, thing: &Thing) -> Option<PathBuf> {
    Some(match thing {
        Thing::Bundle(digest) => root.join("manifests").join(digest.hex()),
        Thing::Blob(digest) => root.join("blobs/sha256").join(digest.hex()),
        Thing::Site(digest) => root.join("cache/sites").join(digest.hex()),
        Thing::Layer(name) => root.join("cache/layers").join(name),
        Thing::Wheel(digest) => root
            .join("cache/wheels")
            .join(format!("{}.whl", digest.hex())),
        Thing::Component(digest) => root
            .join("cache/components")
            .join(format!("{}.wasm", digest.hex())),
        Thing::Index => root.join("cache/index"),
        Thing::Code(_) | Thing::AllBlobs => return None,
    })
}

/// A bundle in use.
#[derive(Debug, Clone)]
pub struct Used {
    /// The digest of its manifest.
    pub digest: Digest,
    /// What it holds, under the name that it was asked for.
    pub manifest: Manifest,
    /// Keeps it.
    pub lease: Lease,
}

impl Store {
    /// Takes something into use, whether it is there or not. It stays, if it is there now, until all leases of it are gone.
    ///
    /// # Errors
    /// When the store cannot be written to.
    pub fn lease(&self, thing: Thing) -> Result<Lease, BundleError> {
        let folder = self.root().join("leases");
        self.leases().take(thing).io("write in", &folder)
    }

    /// Takes a bundle into use.
    ///
    /// # Errors
    /// As [`Store::manifest`].
    pub fn use_bundle(&self, reference: &Reference) -> Result<Used, BundleError> {
        let mut digest = self.resolve(reference)?;
        loop {
            let lease = self.lease(Thing::Bundle(digest))?;
            match self.read_manifest(&digest) {
                Ok(manifest) => {
                    return Ok(Used {
                        digest,
                        manifest: Manifest {
                            name: reference.name.clone(),
                            version: reference.version.clone(),
                            ..manifest
                        },
                        lease,
                    });
                }
                Err(error) => {
                    // The name may have been pointed elsewhere before the lease was there, and this one collected.
                    let now = self.resolve(reference)?;
                    if now == digest {
                        return Err(error);
                    }
                    digest = now;
                }
            }
        }
    }

    /// Notes that a session of the store's server has something, which outlives the server's process. What has a root
    /// stays, as with a lease; look for it afterwards.
    ///
    /// # Errors
    /// When the store cannot be written to.
    pub fn add_root(&self, thing: &Thing) -> Result<(), BundleError> {
        let mut roots = self.roots();
        let now = SystemTime::now();
        let is_fresh = |noted: &SystemTime| now.duration_since(*noted).is_ok_and(|age| age < FRESH);
        if roots.get(thing).is_some_and(is_fresh) {
            return Ok(());
        }
        let path = self.root().join("roots").join(thing.to_string());
        let noted = {
            let _gate = self.enter()?;
            File::create(&path).and_then(|file| file.set_modified(now))
        };
        noted.io("write", &path)?;
        let folder = self.root().join("roots");
        let synced = File::open(&folder).and_then(|folder| folder.sync_all());
        synced.io("write in", &folder)?;
        roots.insert(thing.clone(), now);
        Ok(())
    }

    /// Forgets the roots that are not among `used`, but for those that were noted in the last hour. `used` is asked for once
    /// no others are being noted.
    ///
    /// # Errors
    /// When the store cannot be read or written to.
    pub fn retain_roots(
        &self,
        used: impl FnOnce() -> std::collections::HashSet<Thing>,
    ) -> Result<(), BundleError> {
        let mut roots = self.roots();
        let used = used();
        roots.retain(|thing, _| used.contains(thing));
        let folder = self.root().join("roots");
        for entry in fs::read_dir(&folder).io("list", &folder)? {
            let entry = entry.io("list", &folder)?;
            let thing = entry.file_name().to_str().and_then(Thing::parse);
            let Some(thing) = thing else { continue };
            let path = entry.path();
            if used.contains(&thing) {
                continue;
            }
            let noted = entry.metadata().and_then(|metadata| metadata.modified());
            let age = noted.map(|noted| noted.elapsed().unwrap_or_default());
            if age.is_ok_and(|age| age >= GRACE) {
                fs::remove_file(&path).io("delete", &path)?;
            }
        }
        Ok(())
    }

    fn roots(&self) -> MutexGuard<'_, HashMap<Thing, SystemTime>> {
        let roots = &self.leases().roots;
        roots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self) -> Result<File, BundleError> {
        let path = self.root().join("leases").join(LOCK);
        self.leases().enter().io("lock", &path)
    }
}

/// The things whose names are in a folder.
pub(crate) fn things(folder: &Path) -> Result<Vec<Thing>, BundleError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.io("list", folder)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.io("list", folder)?.file_name();
        found.extend(name.to_str().and_then(Thing::parse));
    }
    Ok(found)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn all() -> Vec<Thing> {
        let digest = Digest::of(b"x");
        vec![
            Thing::Bundle(digest),
            Thing::Blob(digest),
            Thing::AllBlobs,
            Thing::Code(digest),
            Thing::Site(digest),
            Thing::Layer(format!("{}-cp314", digest.hex())),
            Thing::Wheel(digest),
            Thing::Component(digest),
            Thing::Index,
        ]
    }

    #[test]
    fn things_read_back_as_they_are_written() {
        for thing in all() {
            assert_eq!(Thing::parse(&thing.to_string()).unwrap(), thing);
        }
        for text in [
            "",
            "lock",
            "site-",
            "site-xyz",
            "layer-",
            "layer-../x",
            "blobs-x",
            ".partial-x",
        ] {
            assert_eq!(Thing::parse(text), None, "{text}");
        }
    }

    #[test]
    fn leases_are_files_while_they_are_held() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let held = || -> Vec<Thing> {
            let folders = fs::read_dir(folder.path().join("leases")).unwrap();
            let folders = folders.map(|entry| entry.unwrap().path());
            let mut held: Vec<Thing> = folders
                .filter(|path| path.is_dir())
                .flat_map(|path| things(&path).unwrap())
                .collect();
            held.sort();
            held
        };
        let leases: Vec<Lease> = all()
            .into_iter()
            .map(|thing| store.lease(thing).unwrap())
            .collect();
        let mut expected = all();
        expected.sort();
        assert_eq!(held(), expected);
        // Others of the same thing keep it.
        let again = store.clone().lease(Thing::Index).unwrap();
        drop(leases);
        assert_eq!(held(), [Thing::Index]);
        drop(again);
        assert_eq!(held(), []);
        drop(store);
        let left: Vec<_> = fs::read_dir(folder.path().join("leases"))
            .unwrap()
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn roots_stay_while_a_session_has_them_and_for_an_hour() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let [one, other] = [b"1", b"2"].map(|content| Thing::Site(Digest::of(content)));
        store.add_root(&one).unwrap();
        store.add_root(&other).unwrap();
        let left = || things(&folder.path().join("roots")).unwrap();
        store.retain_roots(std::collections::HashSet::new).unwrap();
        assert_eq!(left().len(), 2);
        for thing in [&one, &other] {
            let path = folder.path().join("roots").join(thing.to_string());
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - 2 * GRACE).unwrap();
        }
        store
            .retain_roots(|| [one.clone()].into_iter().collect())
            .unwrap();
        assert_eq!(left(), [one]);
        // What was forgotten can be noted again.
        store.add_root(&other).unwrap();
        assert_eq!(left().len(), 2);
    }
}
