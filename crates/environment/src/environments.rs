//! The environments of a store.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use flowcell_bundle::{Digest, Manifest, Programs, Progress};
use flowcell_sandbox::Sandbox;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::OnceCell;

use crate::error::{At as _, EnvironmentError};
use crate::fetch::{self, Wheel};
use crate::index::{Credentials, IndexSettings, Indexes};
use crate::layer::{self, Layer};
use crate::lock::{Chosen, Lock, LockedHere, LockedPackage};
use crate::native;
use crate::platform::{BROUGHT, PythonPlatform};
use crate::python::Python;
use crate::requirements::Requirements;
use crate::resolve::resolve;
use crate::site::{self, Assembly, Site};

/// Wheels that are downloaded at the same time.
const DOWNLOADS: usize = 8;
/// Digits of the digest that tells whose Python has compiled a layer.
const MAKER_DIGITS: usize = 32;
/// The tree of a bundle with its Python packages.
const PACKAGES: &str = "/packages";

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
        let wanted = requirements.read(variables).await?;
        (self.progress)(&format!("resolving {}", requirements.file));
        let parsed = &wanted.parsed;
        let lines = (
            parsed.index_url.as_ref().map(|url| url.raw().to_string()),
            parsed
                .extra_index_urls
                .iter()
                .map(|url| url.raw().to_string())
                .collect(),
        );
        for host in &wanted.private_hosts {
            if !credentials.contains_key(host) {
                return Err(EnvironmentError::Index(format!(
                    "{{private}}@{host} asks for the session's credentials for {host}, and it has none; add them to its identity"
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
        let packages = self.programs.store().tree(&packages.digest)?;
        // Whatever the image has needs no index.
        let resolved = match resolve(&wanted, &platform, None, &packages).await {
            Ok(resolved) => resolved,
            Err(_) => {
                let cache = self.cache("index");
                let no_index = parsed.no_index;
                let indexes = Indexes::open(self.indexes, credentials, lines, no_index, &cache);
                let indexes = indexes.await?;
                let mut resolved = resolve(&wanted, &platform, Some(&indexes), &packages).await?;
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
            components: Vec::new(),
        };
        Ok(Locked {
            lock: Lock::new(&version, resolved.packages, here),
            notes: resolved.notes,
        })
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
            let wheels = self.cache("wheels");
            let most = self.indexes.wheel_bytes;
            let wheel = fetch::wheel(&chosen, &indexes.client, &wheels, most).await?;
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
        if chosen.is_empty() {
            return Ok(None);
        }
        let wheels = self.cache("wheels");
        let most = self.indexes.wheel_bytes;
        let maker = Maker::of(image.manifest, &version)?;
        // Nobody is asked for what is here.
        let indexes = OnceCell::new();
        let layers: Vec<(PathBuf, Layer)> = stream::iter(&chosen)
            .map(|chosen| {
                let (wheels, indexes, maker) = (&wheels, &indexes, &maker);
                async move {
                    let found = self.find_layer(chosen, maker)?;
                    if let Some(found) = found {
                        return Ok(found);
                    }
                    let wheel = match fetch::kept(chosen, wheels) {
                        Some(wheel) => wheel,
                        None => {
                            let opening = indexes.get_or_try_init(|| self.client(credentials));
                            let client = &opening.await?.client;
                            (self.progress)(&format!("downloading {}", chosen.filename));
                            fetch::wheel(chosen, client, wheels, most).await?
                        }
                    };
                    self.layer(image.manifest, chosen, &wheel, maker).await
                }
            })
            .buffered(DOWNLOADS)
            .try_collect()
            .await?;
        let only: Vec<Layer> = layers.iter().map(|(_, layer)| layer.clone()).collect();
        let digest = site::digest(&only, &maker.name);
        let sites = self.cache("sites");
        let _turn = turn(&sites, &digest.hex()).await?;
        if let Some(mut site) = site::find(&sites, &digest)? {
            notes.append(&mut site.notes);
            site.notes = notes;
            return Ok(Some(site));
        }
        (self.progress)("putting the environment together");
        let assembly = Assembly::new(&sites, &layers)?;
        let python = self.python();
        let found = native::prove(&python, image.manifest, &assembly.files(), &only).await?;
        let mut site = assembly.end(&sites, &digest, &only, found)?;
        notes.append(&mut site.notes);
        site.notes = notes;
        Ok(Some(site))
    }

    /// An environment that was installed before; `None` when it is gone.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find(programs: &Programs, digest: &Digest) -> Result<Option<Site>, EnvironmentError> {
        site::find(&programs.store().cache().join("sites"), digest)
    }

    /// What asks indexes for wheels that a lock names.
    pub(crate) async fn client(
        &self,
        credentials: &Credentials,
    ) -> Result<Indexes, EnvironmentError> {
        let lines = (None, Vec::new());
        let cache = self.cache("index");
        Indexes::open(self.indexes, credentials, lines, false, &cache).await
    }

    fn find_layer(
        &self,
        chosen: &Chosen,
        maker: &Maker,
    ) -> Result<Option<(PathBuf, Layer)>, EnvironmentError> {
        let Some(sha256) = chosen.wheel.hashes.get("sha256") else {
            return Ok(None);
        };
        let folder = self.layer_folder(&sha256.to_ascii_lowercase(), maker);
        Ok(layer::read(&folder)?.map(|layer| (folder, layer)))
    }

    fn layer_folder(&self, sha256: &str, maker: &Maker) -> PathBuf {
        self.cache("layers")
            .join(format!("{sha256}-{}", maker.name))
    }

    /// The layer of a wheel; it is unpacked and compiled if it is not there.
    async fn layer(
        &self,
        manifest: &Manifest,
        chosen: &Chosen,
        wheel: &Wheel,
        maker: &Maker,
    ) -> Result<(PathBuf, Layer), EnvironmentError> {
        let folder = self.layer_folder(&wheel.sha256, maker);
        let layers = self.cache("layers");
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        let _turn = turn(&layers, &name).await?;
        if let Some(layer) = layer::read(&folder)? {
            return Ok((folder, layer));
        }
        (self.progress)(&format!("installing {}", chosen.filename));
        let partial = tempfile::Builder::new()
            .prefix(".partial-")
            .tempdir_in(&layers)
            .at("write in", &layers)?;
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
        self.python()
            .compile(manifest, &partial.path().join(layer::FILES))
            .await?;
        layer::write(partial.path(), &layer)?;
        match fs::rename(partial.path(), &folder) {
            Ok(()) => {
                // It has moved; there is nothing left to remove.
                let _ = partial.keep();
            }
            Err(error) => return Err(error).at("write", &folder),
        }
        Ok((folder, layer))
    }

    fn python(&self) -> Python<'_> {
        Python {
            sandbox: self.sandbox,
            programs: self.programs,
            progress: self.progress,
        }
    }

    pub(crate) fn cache(&self, name: &str) -> PathBuf {
        self.programs.store().cache().join(name)
    }
}

/// Whose Python has compiled a layer, and has imported what lost its compiled modules. A bundle can be a stranger's, and its
/// Python may write what it likes: what it has made is for that very bundle's code, memory and modules only.
struct Maker {
    /// `cp314-` and a digest.
    name: String,
}

impl Maker {
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
    let lock = File::create(&path).at("write", &path)?;
    let waiting = lock.try_clone().at("open", &path)?;
    let locked = tokio::task::spawn_blocking(move || waiting.lock()).await;
    locked
        .map_err(std::io::Error::other)
        .and_then(|locked| locked)
        .at("lock", &path)?;
    Ok(lock)
}
