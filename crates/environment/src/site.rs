//! An environment's folder: the files of its wheels side by side, as an installer would have put them.
//!
//! The files are links to those of the layers, so an environment costs names and no content. A folder is named by what is in
//! it and appears whole; sessions with equal requirements share it, read-only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use flowcell_bundle::{Component, Digest, Lease, PartialFolder, Store, Thing};
use serde::{Deserialize, Serialize};

use crate::components::Fetched;
use crate::error::{At as _, EnvironmentError};
use crate::layer::{FILES, Layer};

/// Files of an environment.
const MAX_FILES: usize = 100_000;
/// Bytes of all packages of an environment.
const MAX_BYTES: u64 = 2 << 30;
const ABOUT: &str = "site.json";
/// The folder of component packages.
const COMPONENTS: &str = "components";

/// What requirements have brought, ready for instances.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Its name: the digest of what is in it.
    pub digest: Digest,
    /// The folder that instances see as [`crate::SITE`].
    pub folder: PathBuf,
    /// What was installed.
    pub packages: Vec<SitePackage>,
    /// The component packages among it.
    pub components: Vec<SiteComponent>,
    /// What whoever wrote the requirements should know.
    pub notes: Vec<String>,
    /// Keeps it in the store.
    pub lease: Lease,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SitePackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its license, as it names it itself.
    pub license: Option<String>,
    /// Bytes of its files.
    pub size: u64,
}

/// A component package of an environment.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteComponent {
    /// Its version.
    pub version: String,
    /// Its tools, as if a base image had it.
    pub component: Component,
    /// Its file. Whoever has published it is a stranger.
    pub path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct About {
    packages: Vec<SitePackage>,
    #[serde(default)]
    components: Vec<(String, Component)>,
    notes: Vec<String>,
}

/// The name of an environment of these layers and components, for one version of Python.
pub(crate) fn digest(layers: &[Layer], components: &[Fetched], python: &str) -> Digest {
    let mut text = format!("{python}\n");
    for layer in layers {
        text.push_str(&format!("{} {}\n", layer.wheel, layer.sha256));
    }
    for fetched in components {
        let Component { name, digest, .. } = &fetched.component;
        text.push_str(&format!("{name} {} {digest}\n", fetched.version));
    }
    Digest::of(text.as_bytes())
}

/// The folder of all environments.
pub(crate) fn sites(store: &Store) -> PathBuf {
    store.cache().join("sites")
}

/// The environment of this name, if it is there; it stays then.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn find(store: &Store, digest: &Digest) -> Result<Option<Site>, EnvironmentError> {
    let lease = store.lease(Thing::Site(*digest))?;
    let folder = sites(store).join(digest.hex());
    let path = folder.join(ABOUT);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.at("read", &path)?,
    };
    let Ok(About {
        packages,
        components,
        notes,
    }) = serde_json::from_slice(&bytes)
    else {
        // Made by another version: whoever looks for it makes it again.
        fs::remove_dir_all(&folder).at("delete", &folder)?;
        return Ok(None);
    };
    let components = components
        .into_iter()
        .map(|(version, component)| SiteComponent {
            version,
            path: component_path(&folder, &component),
            component,
        });
    Ok(Some(Site {
        digest: *digest,
        components: components.collect(),
        folder: folder.join(FILES),
        packages,
        notes,
        lease,
    }))
}

fn component_path(site: &Path, component: &Component) -> PathBuf {
    site.join(COMPONENTS)
        .join(format!("{}.wasm", component.digest.hex()))
}

/// An environment in the making.
pub(crate) struct Assembly {
    folder: PartialFolder,
}

impl Assembly {
    /// Links the files of the layers, each in its folder, into one, and the components beside it.
    ///
    /// # Errors
    /// When it has too much, or the disk does not take it.
    pub(crate) fn new(
        store: &Store,
        layers: &[(PathBuf, Layer)],
        components: &[Fetched],
    ) -> Result<Self, EnvironmentError> {
        let sizes = layers.iter().map(|(_, layer)| layer.size);
        let more = components.iter().map(|fetched| fetched.component.size);
        let size = sizes.chain(more).fold(0, u64::saturating_add);
        let too_much = |limit: u64, unit: &'static str| EnvironmentError::TooMuch {
            what: "the requirements, with all that these need".to_owned(),
            limit,
            unit,
        };
        if size > MAX_BYTES {
            return Err(too_much(MAX_BYTES, "bytes"));
        }
        let sites = sites(store);
        fs::create_dir_all(&sites).at("make the folder", &sites)?;
        let folder = store.partial_folder(&sites)?;
        let target = folder.path().join(FILES);
        fs::create_dir(&target).at("make the folder", &target)?;
        let mut count = 0;
        for (source, _) in layers {
            let source = source.join(FILES);
            for entry in walkdir::WalkDir::new(&source).min_depth(1) {
                let entry = entry.map_err(io::Error::from).at("list", &source)?;
                let name = entry.path().strip_prefix(&source).unwrap_or(entry.path());
                let place = target.join(name);
                if entry.file_type().is_dir() {
                    fs::create_dir_all(&place).at("make the folder", &place)?;
                    continue;
                }
                count += 1;
                if count > MAX_FILES {
                    return Err(too_much(MAX_FILES as u64, "files"));
                }
                match fs::hard_link(entry.path(), &place) {
                    // Several packages have a file of this name: the last one's stays, as with pip.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        fs::remove_file(&place).at("replace", &place)?;
                        fs::hard_link(entry.path(), &place).at("link", &place)?;
                    }
                    linked => linked.at("link", &place)?,
                }
            }
        }
        let place = folder.path().join(COMPONENTS);
        fs::create_dir(&place).at("make the folder", &place)?;
        for fetched in components {
            let place = component_path(folder.path(), &fetched.component);
            match fs::hard_link(&fetched.path, &place) {
                // Two names for the same component.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => linked.at("link", &place)?,
            }
        }
        Ok(Self { folder })
    }

    /// Where its files are meanwhile.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.path().join(FILES)
    }

    /// Gives it its name.
    pub(crate) fn end(
        self,
        store: &Store,
        digest: &Digest,
        layers: &[Layer],
        components: &[Fetched],
        notes: Vec<String>,
    ) -> Result<Site, EnvironmentError> {
        let packages = layers.iter().map(|layer| SitePackage {
            name: layer.name.clone(),
            version: layer.version.clone(),
            license: layer.license.clone(),
            size: layer.size,
        });
        let more = components.iter().map(|fetched| SitePackage {
            name: fetched.component.name.replace('_', "-"),
            version: fetched.version.clone(),
            license: None,
            size: fetched.component.size,
        });
        let about = About {
            packages: packages.chain(more).collect(),
            components: components
                .iter()
                .map(|fetched| (fetched.version.clone(), fetched.component.clone()))
                .collect(),
            notes,
        };
        let bytes = serde_json::to_vec(&about)
            .map_err(|error| EnvironmentError::Host(error.to_string()))?;
        let path = self.folder.path().join(ABOUT);
        fs::write(&path, bytes).at("write", &path)?;
        let target = sites(store).join(digest.hex());
        // What is there by half is of a host that lost power.
        match fs::remove_dir_all(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).at("delete", &target);
            }
            _ => self.folder.persist(&target).at("write", &target)?,
        }
        find(store, digest)?.ok_or_else(|| {
            EnvironmentError::Host("an environment that was made is gone".to_owned())
        })
    }
}
