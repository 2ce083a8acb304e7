//! What sessions' requirements come to: asked for once for all that want the same, and made in a process of its own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flowcell_bundle::{Digest, DigestError, Store, Thing};
use flowcell_worker::{
    Asked, Credentials, IndexSettings, InstallError, InstallJob, Installed, Installer,
    RegistrySettings, WorkerCommand, asked, text_of,
};
use jiff::Timestamp;

use super::blocking;
use super::once::Once;
use crate::digest::sha256;
use crate::files::flow_in;
use crate::ledger::Ledger;
use crate::name::Name;
use crate::registry::RegistryError;
use crate::session::{InstalledPackage, Packages};

/// How long versions that were found for requirements count as the newest.
const FRESH: Duration = Duration::from_secs(600);
/// Times that an environment is made which is collected before it is used.
const TRIES: u32 = 4;
/// How environments are made.
#[derive(Debug, Clone)]
pub struct EnvironmentSettings {
    /// Where packages come from.
    pub indexes: IndexSettings,
    /// How long one may take to make.
    pub time: Duration,
    /// How a process that makes one is started.
    pub installer: WorkerCommand,
    /// Which registries base images may come from.
    pub registries: RegistrySettings,
}

/// Requirements that did not become an environment.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EnvironmentError {
    /// The flow's files.
    #[error(transparent)]
    Registry(#[from] Arc<RegistryError>),
    /// What the flow says, or its requirements.
    #[error("{0}")]
    Wrong(String),
    /// The host could not do it.
    #[error("{0}")]
    Failed(String),
}

impl EnvironmentError {
    /// Whether whoever wrote the requirements can do something about it.
    pub fn is_users(&self) -> bool {
        matches!(self, Self::Wrong(_))
    }
}

impl From<InstallError> for EnvironmentError {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Wrong(why) => Self::Wrong(why),
            InstallError::Failed(why) => Self::Failed(why),
        }
    }
}

pub(super) struct Environments {
    store: Store,
    indexes: IndexSettings,
    installer: Arc<Installer>,
    known: Once<Installed>,
}

impl Environments {
    pub(super) fn new(store: Store, indexes: IndexSettings, installer: Arc<Installer>) -> Self {
        Self {
            store,
            indexes,
            installer,
            known: Once::default(),
        }
    }

    /// What a flow's files ask for, if they ask for anything. A flow that cannot be read asks for nothing: its session is
    /// where it is mended.
    pub(super) async fn asked(
        ledger: Arc<Ledger>,
        workspace: Name,
        flow: Name,
    ) -> Result<Option<Asked>, EnvironmentError> {
        let look = move || {
            let registry = ledger.registry();
            let failed: Mutex<Option<RegistryError>> = Mutex::default();
            let read = |file: &str| match registry.file(&workspace, &flow, file) {
                Ok(content) => content.map(|content| text_of(content.into())).transpose(),
                Err(error) => {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Err("it cannot be read".to_owned())
                }
            };
            let parsed = flow_in(flow.as_str(), |file| registry.file(&workspace, &flow, file));
            let parsed = parsed.map_err(|error| EnvironmentError::Registry(Arc::new(error)))?;
            let found = parsed.map_or(Ok(None), |parsed| asked(&parsed, &read));
            match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Some(error) => Err(EnvironmentError::Registry(Arc::new(error))),
                None => found.map_err(|error| EnvironmentError::Wrong(error.message)),
            }
        };
        blocking(look).await
    }

    /// Makes an environment over an image that the store has by this digest, unless it was made before. `hear` is told of
    /// each long step.
    pub(super) async fn make(
        &self,
        image: &str,
        asked: Asked,
        credentials: Credentials,
        hear: &(dyn Fn(String) + Sync),
    ) -> Result<Packages, EnvironmentError> {
        let failed = |error: &dyn std::error::Error| EnvironmentError::Failed(error.to_string());
        let of = asked_digest(&asked)?;
        let is_lock = matches!(asked, Asked::Lock(_));
        // Whoever has other credentials may get something else for the same question, or nothing.
        let slot = self.known.slot(&(image, &of, credentials.scope()))?;
        let mut slot = slot.lock().await;
        let known = slot.as_ref().filter(|(since, installed)| {
            (is_lock || since.elapsed() < FRESH) && self.is_there(installed.site.as_deref())
        });
        let mut installed = known.map(|(_, installed)| installed.clone());
        let job = InstallJob {
            store: self.store.root().to_owned(),
            image: image.to_owned(),
            asked,
            indexes: self.indexes.clone(),
            credentials,
        };
        // It may be collected before it has its root here. What was used last goes last, so that is rare.
        let mut tries = 0;
        let installed = loop {
            let made = match installed.take() {
                Some(made) => made,
                None => {
                    let made = self.installer.install(job.clone(), hear).await?;
                    *slot = Some((Instant::now(), made.clone()));
                    made
                }
            };
            if let Some(site) = &made.site {
                let site = site.parse().map_err(|error: DigestError| failed(&error))?;
                let store = self.store.clone();
                let rooted = blocking(move || store.add_root(&Thing::Site(site))).await;
                rooted.map_err(|error| failed(&error))?;
            }
            if self.is_there(made.site.as_deref()) {
                break made;
            }
            tries += 1;
            if tries == TRIES {
                return Err(EnvironmentError::Failed(
                    "the environment was deleted while it was made; try again, or give the store more room (store.size_mib)".to_owned(),
                ));
            }
        };
        let (store, lock) = (self.store.clone(), installed.lock.clone());
        let lock = blocking(move || {
            store.add_root(&Thing::Blob(Digest::of(lock.as_bytes())))?;
            store.put(lock.as_bytes())
        });
        let lock = lock.await;
        Ok(Packages {
            asked: of,
            site: installed.site,
            lock: lock.map_err(|error| failed(&error))?.to_string(),
            installed: installed
                .packages
                .into_iter()
                .map(|one| InstalledPackage {
                    name: one.name,
                    version: one.version,
                    license: one.license,
                    size: one.size,
                })
                .collect(),
            notes: installed.notes,
            since: Timestamp::now(),
        })
    }

    /// Makes sure that what a session had is still there: its lock brings it back. `credentials` are asked for only then.
    pub(super) async fn restore(
        &self,
        image: &str,
        packages: &Packages,
        credentials: impl FnOnce() -> Result<Credentials, EnvironmentError>,
    ) -> Result<(), EnvironmentError> {
        if self.is_there(packages.site.as_deref()) {
            return Ok(());
        }
        let lock = self.lock(packages).await?;
        let made = self
            .make(image, Asked::Lock(lock), credentials()?, &|_| {})
            .await?;
        if made.site == packages.site {
            return Ok(());
        }
        Err(EnvironmentError::Failed(
            "the session's packages are gone from the store, and its lock gives others; install them again".to_owned(),
        ))
    }

    /// The text of a session's lock.
    pub(super) async fn lock(&self, packages: &Packages) -> Result<String, EnvironmentError> {
        let failed = |error: &dyn std::error::Error| EnvironmentError::Failed(error.to_string());
        let digest = packages.lock.parse().map_err(|error| failed(&error))?;
        let store = self.store.clone();
        let bytes = blocking(move || store.get(&digest)).await;
        let bytes = bytes.map_err(|error| failed(&error))?;
        String::from_utf8(bytes).map_err(|error| failed(&error))
    }

    fn is_there(&self, site: Option<&str>) -> bool {
        let folder = |site: &str| -> Option<PathBuf> {
            let digest: Digest = site.parse().ok()?;
            Some(self.store.cache().join("sites").join(digest.hex()))
        };
        site.is_none_or(|site| folder(site).is_some_and(|folder| folder.is_dir()))
    }
}

/// The name of what is asked for.
pub(super) fn asked_digest(asked: &Asked) -> Result<String, EnvironmentError> {
    let text = serde_json::to_vec(asked);
    let text = text.map_err(|error| EnvironmentError::Failed(error.to_string()))?;
    Ok(sha256(&text))
}
