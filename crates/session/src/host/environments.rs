//! What sessions' requirements come to: asked for once for all that want the same, and made in a process of its own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use flowcell_bundle::Store;
use flowcell_flow::Flow;
use flowcell_worker::{
    Asked, Credentials, IndexSettings, InstallError, InstallJob, Installed, Installer,
    WorkerCommand, asked, text_of,
};
use jiff::Timestamp;

use super::blocking;
use crate::digest::sha256;
use crate::ledger::Ledger;
use crate::name::Name;
use crate::registry::RegistryError;
use crate::session::{InstalledPackage, Packages, Session};

/// How long versions that were found for requirements count as the newest.
const FRESH: Duration = Duration::from_secs(600);
/// Environments that are remembered.
const MAX_KNOWN: usize = 1_000;
/// Names that a flow's file can have.
const FLOW_FILES: [&str; 2] = ["flow.dag.yaml", "flow.dag.yml"];

/// How environments are made.
#[derive(Debug, Clone)]
pub struct EnvironmentSettings {
    /// Where packages come from.
    pub indexes: IndexSettings,
    /// How long one may take to make.
    pub time: Duration,
    /// How a process that makes one is started.
    pub installer: WorkerCommand,
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

/// Whoever comes first makes it, while others that want the same wait.
type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Installed)>>>;

pub(super) struct Environments {
    store: Store,
    indexes: IndexSettings,
    installer: Installer,
    known: DashMap<String, Slot>,
}

impl Environments {
    pub(super) fn new(store: Store, settings: EnvironmentSettings) -> Self {
        Self {
            store,
            indexes: settings.indexes,
            installer: Installer::new(settings.installer, settings.time),
            known: DashMap::new(),
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
            let text = FLOW_FILES.iter().find_map(|file| read(file).ok().flatten());
            let text = text.filter(|text| text.len() <= flowcell_flow::MAX_BYTES);
            let parsed = text.and_then(|text| Flow::parse(&text, flow.as_str()).ok());
            let found = parsed.map_or(Ok(None), |parsed| asked(&parsed, &read));
            match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Some(error) => Err(EnvironmentError::Registry(Arc::new(error))),
                None => found.map_err(|error| EnvironmentError::Wrong(error.message)),
            }
        };
        blocking(look).await
    }

    /// Makes an environment over a session's image, unless it was made before. `hear` is told of each long step.
    pub(super) async fn make(
        &self,
        session: &Session,
        asked: Asked,
        credentials: Credentials,
        hear: &(dyn Fn(String) + Sync),
    ) -> Result<Packages, EnvironmentError> {
        let failed = |error: &dyn std::error::Error| EnvironmentError::Failed(error.to_string());
        let of = asked_digest(&asked)?;
        let is_lock = matches!(asked, Asked::Lock(_));
        // Whoever has other credentials may get something else for the same question, or nothing.
        let key = (&session.image.digest, &of, credentials.scope());
        let key = sha256(&serde_json::to_vec(&key).map_err(|error| failed(&error))?);
        if self.known.len() >= MAX_KNOWN {
            self.known.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        let slot = Arc::clone(&*self.known.entry(key).or_default());
        let mut slot = slot.lock().await;
        let known = slot.as_ref().filter(|(since, installed)| {
            (is_lock || since.elapsed() < FRESH) && self.is_there(installed.site.as_deref())
        });
        let installed = match known {
            Some((_, installed)) => installed.clone(),
            None => {
                let job = InstallJob {
                    store: self.store.root().to_owned(),
                    image: session.image.reference.clone(),
                    asked,
                    indexes: self.indexes.clone(),
                    credentials,
                };
                let installed = self.installer.install(&job, hear).await?;
                *slot = Some((Instant::now(), installed.clone()));
                installed
            }
        };
        let (store, lock) = (self.store.clone(), installed.lock.clone());
        let lock = blocking(move || store.put(lock.as_bytes())).await;
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
        session: &Session,
        packages: &Packages,
        credentials: impl FnOnce() -> Result<Credentials, EnvironmentError>,
    ) -> Result<(), EnvironmentError> {
        if self.is_there(packages.site.as_deref()) {
            return Ok(());
        }
        let lock = self.lock(packages).await?;
        let made = self
            .make(session, Asked::Lock(lock), credentials()?, &|_| {})
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
            let digest: flowcell_bundle::Digest = site.parse().ok()?;
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
