//! Component packages: tools in WebAssembly, which requirements name as they name packages of Python.
//!
//! A *component index* is a place in a registry, `registry.example.com/tools`; the package `word-count` is its repository
//! `word-count`, and each of its tags that is a version (PEP 440) one of its versions: an artifact of one component.

use std::path::PathBuf;
use std::str::FromStr as _;

use flowcell_bundle::{
    Component, Digest, Lease, Programs, Progress, Start, Store, Thing, chain, component_artifact,
};
use flowcell_egress::HostPattern;
use flowcell_registry::{Blob, Client, ImageReference, ReferenceError, RegistryError, Settings};
use flowcell_sandbox::{MAX_COMPONENT, ProgramKind, Sandbox};
use uv_pep440::{Version, VersionSpecifiers};

use crate::error::{At as _, EnvironmentError};
use crate::index::{Credentials, IndexSettings};
use crate::lock::LockedComponent;

/// Versions that a message lists.
const LISTED: usize = 10;

/// The component indexes of a host.
pub(crate) struct ComponentIndexes<'a> {
    client: Client,
    /// `registry/path`, without a slash at the end, in the order in which they are asked.
    indexes: Vec<&'a str>,
    credentials: &'a Credentials,
}

/// A component package on the disk, with its tools.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) path: PathBuf,
    /// Keeps the file until it has another name.
    _lease: Lease,
    pub(crate) version: String,
    pub(crate) component: Component,
}

impl<'a> ComponentIndexes<'a> {
    /// # Errors
    /// When an index is none.
    pub(crate) fn new(
        settings: &'a IndexSettings,
        credentials: &'a Credentials,
    ) -> Result<Self, EnvironmentError> {
        let indexes = settings.component_indexes.iter();
        let indexes: Vec<&str> = indexes.map(|index| index.trim_end_matches('/')).collect();
        let mut registries = Vec::new();
        for index in &indexes {
            let one = reference(index, &repository(index, "package"))?;
            let pattern: Result<HostPattern, _> = one.registry().parse();
            registries.push(pattern.map_err(|error| wrong(index, &error))?);
        }
        let client = Client::new(Settings {
            registries: Some(registries),
            max_blob: MAX_COMPONENT as u64,
            ..Settings::default()
        });
        Ok(Self {
            client: client.map_err(|error| failed(&error))?,
            indexes,
            credentials,
        })
    }

    /// The best version of a package by this name that fits. The first index that has the package is taken, as with
    /// packages of Python: what a later one has by the same name is somebody else's. `None` when no index has it.
    ///
    /// # Errors
    /// When there is such a package and none of its versions fits; when a registry does not say.
    pub(crate) async fn find(
        &self,
        name: &str,
        specifier: &VersionSpecifiers,
        pre: bool,
    ) -> Result<Option<LockedComponent>, EnvironmentError> {
        for index in &self.indexes {
            let repository = repository(index, name);
            let untagged = reference(index, &repository)?;
            let credentials = self.credentials_for(&untagged)?;
            let tags = match self.client.tags(&untagged, &credentials).await {
                Ok(tags) => tags.tags,
                Err(RegistryError::NotFound { .. }) => continue,
                Err(error) => return Err(EnvironmentError::Index(chain(&error))),
            };
            let mut versions: Vec<(Version, &String)> = tags
                .iter()
                .filter_map(|tag| Some((Version::from_str(tag).ok()?, tag)))
                .collect();
            if versions.is_empty() {
                continue;
            }
            versions.sort();
            let Some((version, tag)) = choose(&versions, specifier, pre) else {
                let all = versions.iter().rev().take(LISTED);
                let all: Vec<&str> = all.map(|(_, tag)| tag.as_str()).collect();
                return Err(EnvironmentError::Unresolvable(format!(
                    "the component package {repository} has {}{}, and {name}{specifier} fits none of them",
                    all.join(", "),
                    if versions.len() > LISTED { ", …" } else { "" }
                )));
            };
            let tagged = reference(index, &format!("{repository}:{tag}"))?;
            let found = component_artifact(&self.client, &tagged, &credentials).await;
            let found = found.map_err(|error| EnvironmentError::Index(chain(&error)))?;
            return Ok(Some(LockedComponent {
                name: name.to_owned(),
                version: version.to_string(),
                repository,
                digest: found.digest,
                component: found.component.digest,
                size: found.component.size,
            }));
        }
        Ok(None)
    }

    /// The file of a component package; it is pulled if it is not there, and stays while its lease is held.
    ///
    /// # Errors
    /// When it comes from elsewhere than from this host's indexes, or cannot be had.
    pub(crate) async fn fetch(
        &self,
        locked: &LockedComponent,
        store: &Store,
    ) -> Result<(PathBuf, Lease), EnvironmentError> {
        let lease = store.lease(Thing::Component(locked.component))?;
        let path = kept(store, &locked.component);
        if path.exists() {
            return Ok((path, lease));
        }
        let is_known = self
            .indexes
            .iter()
            .any(|index| locked.repository == repository(index, &locked.name));
        if !is_known {
            return Err(EnvironmentError::Index(format!(
                "the component package {} is in none of the component indexes of this host{}",
                locked.repository,
                match self.indexes.as_slice() {
                    [] => ", which has none".to_owned(),
                    some => format!(": {}", some.join(", ")),
                }
            )));
        }
        let reference: Result<ImageReference, ReferenceError> = locked.repository.parse();
        let reference = reference
            .map_err(|error| EnvironmentError::Index(format!("{}: {error}", locked.repository)))?;
        let by_digest = reference.with_digest(locked.digest);
        let credentials = self.credentials_for(&by_digest)?;
        let components = folder(store);
        std::fs::create_dir_all(&components).at("make the folder", &components)?;
        let blob = Blob {
            digest: locked.component,
            size: locked.size,
        };
        let pulled = self
            .client
            .pull_blob(&by_digest, &blob, &path, &credentials, &|_, _, _| {});
        pulled.await.map_err(|error| failed(&error))?;
        Ok((path, lease))
    }

    fn credentials_for(
        &self,
        reference: &ImageReference,
    ) -> Result<flowcell_registry::Credentials, EnvironmentError> {
        let registry = reference.registry();
        let made = match self.credentials.registry(registry) {
            None => Ok(flowcell_registry::Credentials::anonymous()),
            Some(one) => one.for_registry(registry),
        };
        made.map_err(|error| EnvironmentError::Index(error.to_string()))
    }
}

fn folder(store: &Store) -> PathBuf {
    store.cache().join("components")
}

/// Where the component of a package is, if it is there.
pub(crate) fn kept(store: &Store, component: &Digest) -> PathBuf {
    folder(store).join(format!("{}.wasm", component.hex()))
}

/// Keeps the component of a package, whose digest it has.
///
/// # Errors
/// When it cannot be written.
pub fn keep_component(
    store: &Store,
    digest: &Digest,
    bytes: &[u8],
) -> Result<(), EnvironmentError> {
    let components = folder(store);
    std::fs::create_dir_all(&components).at("make the folder", &components)?;
    let path = kept(store, digest);
    if !path.exists() {
        store.write_whole(&path, bytes)?;
    }
    Ok(())
}

/// Compiles a component within its limits, and asks it for its tools, in a sandbox.
///
/// # Errors
/// When it is none, or has no tools.
pub(crate) async fn describe(
    sandbox: &Sandbox,
    programs: &Programs,
    progress: &Progress,
    locked: &LockedComponent,
    (path, lease): (PathBuf, Lease),
) -> Result<Fetched, EnvironmentError> {
    let unusable = |problem: String| EnvironmentError::Package {
        package: locked.shown(),
        problem,
    };
    let bytes = std::fs::read(&path).at("read", &path)?;
    let program = programs.untrusted(&bytes, &locked.name, progress);
    let program = program.map_err(|error| unusable(error.to_string()))?;
    if program.kind() != ProgramKind::Tool {
        return Err(unusable("it is a Python runner, and no tool".to_owned()));
    }
    let tools = flowcell_bundle::describe(&locked.name, sandbox, &program).await;
    let tools = tools.map_err(|error| unusable(error.to_string()))?;
    if tools.is_empty() {
        return Err(unusable("it has no tools".to_owned()));
    }
    Ok(Fetched {
        path,
        _lease: lease,
        version: locked.version.clone(),
        component: Component {
            // As a module of Python would be named.
            name: locked.name.replace('-', "_"),
            kind: ProgramKind::Tool,
            digest: locked.component,
            size: locked.size,
            tools,
            start: Start::Ordinary,
        },
    })
}

/// The best of some versions, the lowest first. One before a release is taken where it is asked for, or there is no other
/// (PEP 440, "Handling of pre-releases").
fn choose<'v>(
    versions: &'v [(Version, &'v String)],
    specifier: &VersionSpecifiers,
    pre: bool,
) -> Option<&'v (Version, &'v String)> {
    let wants_pre = pre
        || specifier.iter().any(|one| one.version().any_prerelease())
        || versions.iter().all(|(version, _)| version.any_prerelease());
    versions.iter().rev().find(|(version, _)| {
        (wants_pre || !version.any_prerelease()) && specifier.contains(version)
    })
}

/// The repository of a package.
fn repository(index: &str, name: &str) -> String {
    format!("{index}/{name}")
}

/// What is asked of an index.
fn reference(index: &str, text: &str) -> Result<ImageReference, EnvironmentError> {
    let parsed = text.parse();
    parsed.map_err(|error: ReferenceError| wrong(index, &error))
}

fn wrong(index: &str, error: &dyn std::error::Error) -> EnvironmentError {
    EnvironmentError::Index(format!("the component index {index}: {error}"))
}

fn failed(error: &RegistryError) -> EnvironmentError {
    match error {
        RegistryError::DiskFull { .. } | RegistryError::Io { .. } => {
            EnvironmentError::Host(chain(error))
        }
        _ => EnvironmentError::Index(chain(error)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn versions_are_chosen_as_pep_440_has_it() {
        let texts: Vec<String> = ["0.9", "1.0", "1.1rc1", "1.1", "2.0b1"]
            .map(str::to_owned)
            .into();
        let versions: Vec<_> = texts
            .iter()
            .map(|text| (Version::from_str(text).unwrap(), text))
            .collect();
        for (specifier, pre, expected) in [
            ("", false, Some("1.1")),
            ("", true, Some("2.0b1")),
            ("<1.1", false, Some("1.0")),
            (">=1.1rc1,<1.1", false, None),
            ("==1.1rc1", false, Some("1.1rc1")),
            (">1.1", false, None),
            ("~=1.0", false, Some("1.1")),
        ] {
            let parsed = VersionSpecifiers::from_str(specifier).unwrap();
            let chosen = choose(&versions, &parsed, pre).map(|(_, tag)| tag.as_str());
            assert_eq!(chosen, expected, "{specifier}");
        }
        let only = [(Version::from_str("1.0a1").unwrap(), &texts[0])];
        let any = VersionSpecifiers::from_str("").unwrap();
        assert!(choose(&only, &any, false).is_some());
    }
}
