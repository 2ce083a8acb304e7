//! The environments of a store.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use flowcell_bundle::{Digest, Lease, Manifest, Programs, Progress, Store, Thing};
use flowcell_sandbox::Sandbox;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::OnceCell;

use crate::components::{self, ComponentIndexes, Fetched};
use crate::error::{At as _, EnvironmentError};
use crate::fetch::{self, Wheel};
use crate::index::{Credentials, IndexSettings, Indexes};
use crate::layer::{self, Layer};
use crate::lock::{Chosen, Lock, LockedComponent, LockedHere, LockedPackage};
use crate::native;
use crate::platform::{BROUGHT, PythonPlatform};
use crate::python::Python;
use crate::requirements::{Requirements, Wanted};
use crate::resolve::{Installed, resolve};
use crate::site::{self, Assembly, Site};

/// Wheels that are downloaded at the same time.
const DOWNLOADS: usize = 8;
/// Digits of the digest that tells whose Python has compiled a layer.
const MAKER_DIGITS: usize = 32;
/// The tree of a bundle with its Python packages.
const PACKAGES: &str = "/packages";

/// A layer in its folder, which stays as long as the lease is there.
type KeptLayer = ((PathBuf, Layer), Lease);

/// Resolves, locks and installs, in one store.
#[derive(Clone, Copy)]
pub struct Environments<'a> {
    /// The engine.
    pub sandbox: &'a Sandbox,
    /// The store, with what it has compiled.
    pub programs: &'a Programs,
    /// Where packages come from.
    pub indexes: &'a IndexSettings,
    /// Told at the start of each long step.
    pub progress: &'a Progress,
}

/// Requirements that were resolved.
#[derive(Debug, Clone)]
pub struct Locked {
    /// The lock.
    pub lock: Lock,
    /// What whoever wrote the requirements should know.
    pub notes: Vec<String>,
}

/// A base image.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// As it was named.
    pub name: &'a str,
    /// The digest of its manifest.
    pub digest: &'a Digest,
    /// What it holds.
    pub manifest: &'a Manifest,
}

impl Environments<'_> {
    /// Finds a set of versions for what the image does not have. `variables` are those that lines may name.
    ///
    /// # Errors
    /// When there is none, or the requirements ask for what is not done here, or an index does not answer.
    pub async fn lock(
        &self,
        image: Image<'_>,
        requirements: &Requirements,
        variables: &BTreeMap<String, String>,
        credentials: &Credentials,
    ) -> Result<Locked, EnvironmentError> {
        let (platform, version) = platform(image.manifest)?;
        let mut wanted = requirements.read(variables).await?;
        (self.progress)(&format!("resolving {}", requirements.file));
        let parsed = &wanted.parsed;
        let no_index = parsed.no_index;
        let lines = (
            parsed.index_url.as_ref().map(|url| url.raw().to_string()),
            parsed
                .extra_index_urls
                .iter()
                .map(|url| url.raw().to_string())
                .collect(),
        );
        for host in &wanted.private_hosts {
            if !credentials.has(host) {
                return Err(EnvironmentError::Index(format!(
                    "{{private}}@{host} asks for the credentials of the session's identity for {host}, and it has none; set them (`flowcell credential set {host} --kind index`), or give the session an identity that has them"
                )));
            }
        }
        let packages = image
            .manifest
            .trees
            .iter()
            .find(|tree| tree.mount == PACKAGES);
        let packages = packages.ok_or_else(|| {
            EnvironmentError::Host("the base image has no folder of packages".to_owned())
        })?;
        let installed = Installed::below(&self.store().tree(&packages.digest)?)?;
        let mut components = Vec::new();
        // Whatever the image has needs no index.
        let resolved = match resolve(&wanted, &platform, None, &installed).await {
            Ok(resolved) => resolved,
            Err(_) => {
                let indexes = self.client(credentials, lines, no_index).await?;
                components = self
                    .components(&mut wanted, &platform, &installed, credentials)
                    .await?;
                let mut resolved = resolve(&wanted, &platform, Some(&indexes), &installed).await?;
                for package in &mut resolved.packages {
                    self.fill_in(package, &platform, &indexes).await?;
                }
                resolved
            }
        };
        let here = LockedHere {
            image: image.name.to_owned(),
            image_digest: *image.digest,
            requirements: Some(requirements.digest()),
            components,
        };
        Ok(Locked {
            lock: Lock::new(&version, resolved.packages, here),
            notes: resolved.notes,
        })
    }

    /// Takes what component indexes have out of what is wanted.
    async fn components(
        &self,
        wanted: &mut Wanted,
        platform: &PythonPlatform,
        installed: &Installed,
        credentials: &Credentials,
    ) -> Result<Vec<LockedComponent>, EnvironmentError> {
        if self.indexes.component_indexes.is_empty() {
            return Ok(Vec::new());
        }
        let indexes = ComponentIndexes::new(self.indexes, credentials)?;
        let mut found = Vec::new();
        for (name, specifier) in wanted.by_name(platform) {
            if installed.has(&name) {
                continue;
            }
            let text = name.to_string();
            if let Some(component) = indexes.find(&text, &specifier, wanted.pre).await? {
                wanted.leave_out(&name);
                found.push(component);
            }
        }
        Ok(found)
    }

    /// Gives the wheel that will be used its hash where the index has not told any: a lock without says nothing (PEP 751).
    async fn fill_in(
        &self,
        package: &mut LockedPackage,
        platform: &PythonPlatform,
        indexes: &Indexes,
    ) -> Result<(), EnvironmentError> {
        let chosen = package.choose(platform)?;
        if chosen.wheel.hashes.is_empty() {
            let most = self.indexes.wheel_bytes;
            let wheel = fetch::wheel(&chosen, &indexes.client, self.store(), most).await?;
            let hash = ("sha256".to_owned(), wheel.sha256);
            let entries = package
                .wheels
                .iter_mut()
                .map(|one| (&one.url, &mut one.hashes));
            let archive = package
                .archive
                .iter_mut()
                .map(|one| (&one.url, &mut one.hashes));
            for (url, hashes) in entries.chain(archive) {
                if *url == chosen.wheel.url {
                    hashes.extend([hash.clone()]);
                }
            }
            package.wheels.retain(|wheel| !wheel.hashes.is_empty());
        }
        Ok(())
    }

    /// Installs what a lock says; `None` when that is nothing. `file` is the lock's name for messages.
    ///
    /// # Errors
    /// When a wheel cannot be had, is not what it should be, or does not run here.
    pub async fn install(
        &self,
        image: Image<'_>,
        file: &str,
        lock: &Lock,
        credentials: &Credentials,
    ) -> Result<Option<Site>, EnvironmentError> {
        let (_, version) = platform(image.manifest)?;
        let (chosen, mut notes) = choose(image, file, lock)?;
        let here = lock.components();
        if chosen.is_empty() && here.is_empty() {
            return Ok(None);
        }
        let components = self.fetch_components(here, credentials).await?;
        let maker = Maker::of(image.manifest, &version)?;
        let python = Python::new(self.sandbox, self.programs, self.progress);
        // Nobody is asked for what is here.
        let indexes = OnceCell::new();
        let layers: Vec<KeptLayer> = stream::iter(&chosen)
            .map(|chosen| {
                let (indexes, maker, python) = (&indexes, &maker, &python);
                async move {
                    if let Some(found) = self.find_layer(chosen, maker)? {
                        return Ok(found);
                    }
                    let wheel = self.wheel(chosen, indexes, credentials).await?;
                    self.layer((image.manifest, python), chosen, &wheel, maker)
                        .await
                }
            })
            .buffered(DOWNLOADS)
            .try_collect()
            .await?;
        // The leases are kept until their files have names in the environment too.
        let (layers, _leases): (Vec<(PathBuf, Layer)>, Vec<Lease>) = layers.into_iter().unzip();
        let only: Vec<Layer> = layers.iter().map(|(_, layer)| layer.clone()).collect();
        let digest = site::digest(&only, &components, &maker.name);
        let _turn = turn(&site::sites(self.store()), &digest.hex()).await?;
        if let Some(mut site) = site::find(self.store(), &digest)? {
            notes.append(&mut site.notes);
            site.notes = notes;
            return Ok(Some(site));
        }
        (self.progress)("putting the environment together");
        let assembly = Assembly::new(self.store(), &layers, &components)?;
        let found = native::prove(&python, image.manifest, &assembly.files(), &only).await?;
        let mut site = assembly.end(self.store(), &digest, &only, &components, found)?;
        notes.append(&mut site.notes);
        site.notes = notes;
        Ok(Some(site))
    }

    async fn fetch_components(
        &self,
        locked: &[LockedComponent],
        credentials: &Credentials,
    ) -> Result<Vec<Fetched>, EnvironmentError> {
        let mut fetched = Vec::new();
        if locked.is_empty() {
            return Ok(fetched);
        }
        let indexes = ComponentIndexes::new(self.indexes, credentials)?;
        for one in locked {
            (self.progress)(&format!("getting the component {}", one.shown()));
            let kept = indexes.fetch(one, self.store()).await?;
            let (sandbox, programs) = (self.sandbox, self.programs);
            fetched.push(components::describe(sandbox, programs, self.progress, one, kept).await?);
        }
        Ok(fetched)
    }

    /// An environment that was installed before; `None` when it is gone.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find(store: &Store, digest: &Digest) -> Result<Option<Site>, EnvironmentError> {
        site::find(store, digest)
    }

    /// What asks indexes: the host's, with those that lines of requirements name.
    async fn client(
        &self,
        credentials: &Credentials,
        lines: (Option<String>, Vec<String>),
        no_index: bool,
    ) -> Result<Indexes, EnvironmentError> {
        let lease = self.store().lease(Thing::Index)?;
        let cache = self.answers(credentials);
        Indexes::open(self.indexes, credentials, lines, no_index, (&cache, lease)).await
    }

    /// The wheel that a lock names; it is downloaded if it is not here. `indexes` is opened for the first such.
    pub(crate) async fn wheel(
        &self,
        chosen: &Chosen,
        indexes: &OnceCell<Indexes>,
        credentials: &Credentials,
    ) -> Result<Wheel, EnvironmentError> {
        if let Some(wheel) = fetch::kept(chosen, self.store())? {
            return Ok(wheel);
        }
        let opening =
            indexes.get_or_try_init(|| self.client(credentials, (None, Vec::new()), false));
        let client = &opening.await?.client;
        (self.progress)(&format!("downloading {}", chosen.filename));
        fetch::wheel(chosen, client, self.store(), self.indexes.wheel_bytes).await
    }

    fn find_layer(
        &self,
        chosen: &Chosen,
        maker: &Maker,
    ) -> Result<Option<KeptLayer>, EnvironmentError> {
        let Some(sha256) = chosen.wheel.hashes.get("sha256") else {
            return Ok(None);
        };
        let name = maker.layer(&sha256.to_ascii_lowercase());
        let lease = self.store().lease(Thing::Layer(name.clone()))?;
        let folder = self.cache("layers").join(name);
        Ok(layer::read(&folder)?.map(|layer| ((folder, layer), lease)))
    }

    /// The layer of a wheel; it is unpacked and compiled if it is not there.
    async fn layer(
        &self,
        (manifest, python): (&Manifest, &Python<'_>),
        chosen: &Chosen,
        wheel: &Wheel,
        maker: &Maker,
    ) -> Result<KeptLayer, EnvironmentError> {
        let name = maker.layer(&wheel.sha256);
        let lease = self.store().lease(Thing::Layer(name.clone()))?;
        let layers = self.cache("layers");
        let folder = layers.join(&name);
        let _turn = turn(&layers, &name).await?;
        if let Some(layer) = layer::read(&folder)? {
            return Ok(((folder, layer), lease));
        }
        (self.progress)(&format!("installing {}", chosen.filename));
        let partial = self.store().partial_folder(&layers)?;
        let unpacked = {
            let (wheel, filename, partial) = (
                wheel.clone(),
                chosen.filename.clone(),
                partial.path().to_owned(),
            );
            tokio::task::spawn_blocking(move || {
                layer::unpack(&wheel.path, &filename, &wheel.sha256, &partial)
            })
        };
        let layer = unpacked.await.map_err(|_| {
            EnvironmentError::Host(format!("{} cannot be unpacked", chosen.filename))
        })??;
        let work = self.store().partial_folder(&layers)?;
        let files = partial.path().join(layer::FILES);
        python.compile(manifest, &files, work.path()).await?;
        layer::write(partial.path(), &layer)?;
        // One that cannot be read is of another version, or of a host that lost power.
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).at("delete", &folder);
            }
            _ => partial.persist(&folder).at("write", &folder)?,
        }
        Ok(((folder, layer), lease))
    }

    pub(crate) fn indexes(&self) -> &IndexSettings {
        self.indexes
    }

    pub(crate) fn store(&self) -> &Store {
        self.programs.store()
    }

    /// Where answers of indexes are kept: what was answered to some credentials is for no others.
    fn answers(&self, credentials: &Credentials) -> PathBuf {
        match credentials.scope() {
            "" => self.cache("index"),
            scope => self.cache("index-by-credentials").join(scope),
        }
    }

    fn cache(&self, name: &str) -> PathBuf {
        self.store().cache().join(name)
    }
}

/// Whose Python has compiled a layer, and has imported what lost its compiled modules. A bundle can be a stranger's, and its
/// Python may write what it likes: what it has made is for that very bundle's code, memory and modules only.
struct Maker {
    /// `cp314-` and a digest.
    name: String,
}

impl Maker {
    /// The folder of a wheel that it has compiled.
    fn layer(&self, sha256: &str) -> String {
        format!("{sha256}-{}", self.name)
    }

    fn of(manifest: &Manifest, version: &str) -> Result<Self, EnvironmentError> {
        let mut short = version.split('.');
        let (major, minor) = (short.next(), short.next());
        let trees: Vec<_> = manifest
            .trees
            .iter()
            .map(|tree| (&tree.mount, &tree.digest))
            .collect();
        let runner = manifest.python_runner();
        let runner = runner.map(|runner| (&runner.digest, &runner.start));
        let text = serde_json::to_vec(&(version, runner, trees))
            .map_err(|error| EnvironmentError::Host(error.to_string()))?;
        let digest = Digest::of(&text).hex();
        Ok(Self {
            name: format!(
                "cp{}{}-{}",
                major.unwrap_or_default(),
                minor.unwrap_or_default(),
                digest.get(..MAKER_DIGITS).unwrap_or_default()
            ),
        })
    }
}

/// The wheels that a lock asks for over an image, and what whoever wrote it should know.
pub(crate) fn choose(
    image: Image<'_>,
    file: &str,
    lock: &Lock,
) -> Result<(Vec<Chosen>, Vec<String>), EnvironmentError> {
    let (platform, _) = platform(image.manifest)?;
    let (mut chosen, mut notes) = (Vec::new(), Vec::new());
    for package in lock.wanted(file, &platform)? {
        if BROUGHT.iter().any(|name| name.to_string() == package.name) {
            notes.push(format!(
                "{}: the base image's own {} is used",
                package.shown(),
                package.name
            ));
            continue;
        }
        let python = image.manifest.python.as_ref();
        let is_there = python.is_some_and(|python| {
            python.packages.iter().any(|one| {
                one.name
                    .replace('_', "-")
                    .eq_ignore_ascii_case(&package.name)
                    && package.version.as_ref() == Some(&one.version)
            })
        });
        if !is_there {
            chosen.push(package.choose(&platform)?);
        }
    }
    Ok((chosen, notes))
}

/// What a bundle's Python is to packages, and its version.
fn platform(manifest: &Manifest) -> Result<(PythonPlatform, String), EnvironmentError> {
    let python = manifest
        .python
        .as_ref()
        .ok_or_else(|| EnvironmentError::Requirements {
            file: manifest.reference().to_string(),
            problem: "the base image has no Python, so it takes no requirements".to_owned(),
        })?;
    Ok((
        PythonPlatform::new(&python.version)?,
        python.version.clone(),
    ))
}

/// Waits until nobody else, in this process or another, makes the thing of this name.
async fn turn(folder: &Path, name: &str) -> Result<File, EnvironmentError> {
    fs::create_dir_all(folder).at("make the folder", folder)?;
    let path = folder.join(format!(".lock-{name}"));
    loop {
        let lock = File::create(&path).at("write", &path)?;
        let waiting = lock.try_clone().at("open", &path)?;
        let locked = tokio::task::spawn_blocking(move || waiting.lock()).await;
        locked
            .map_err(std::io::Error::other)
            .and_then(|locked| locked)
            .at("lock", &path)?;
        // A collection deletes those that nobody holds.
        let own = lock.metadata().at("read", &path)?;
        let is_there = |there: fs::Metadata| (there.dev(), there.ino()) == (own.dev(), own.ino());
        if fs::metadata(&path).is_ok_and(is_there) {
            return Ok(lock);
        }
    }
}
