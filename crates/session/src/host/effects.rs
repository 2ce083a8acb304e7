//! What the state machine asks for: sessions are opened and closed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flowcell_worker::{ComputeSpec, NetworkSpec, SessionId, SessionSpec, WorkerError};

use super::copy::{CopyError, WorkingCopy};
use super::environments::{EnvironmentError, Environments};
use super::idle::left;
use super::live::Live;
use super::{Inner, Key, SessionEvent, Timer, blocking, compute_id};
use crate::compute::{Compute, ComputeState};
use crate::machine::{self, Effect, Event, Step};
use crate::name::Name;
use crate::registry::Durability;
use crate::session::{Image, Packages, Session, SessionState};
use crate::state::{Change, Workspace};

/// A session that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Its life is over already.
    #[error("the session has another life by now")]
    Over,
    /// Its files.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Its base image.
    #[error("{0}")]
    Image(String),
    /// What is to run it.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// What its requirements ask for.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// What it was to go on from.
    #[error(
        "the copy of the session that it is forked from was lost before it could start; fork it again"
    )]
    Lost,
}

impl Inner {
    /// Carries out effects, one after the other.
    pub(super) async fn carry_out(self: Arc<Self>, workspace: Name, effects: Vec<Effect>) {
        for effect in effects {
            let event = match effect {
                Effect::Open {
                    session,
                    generation,
                } => match self.open_first(&workspace, &session, generation).await {
                    Ok((image, packages)) => Event::Opened {
                        session,
                        generation,
                        image: image.map(Box::new),
                        packages,
                    },
                    Err(OpenError::Over) => continue,
                    Err(error) => {
                        tracing::warn!(%workspace, %session, error = &error as &dyn std::error::Error, "a session could not start");
                        let why = match &error {
                            OpenError::Copy(copy) if copy.is_full() => {
                                "the host's disk is full".to_owned()
                            }
                            error => error.to_string(),
                        };
                        self.remove_copy(&workspace, &session, generation).await;
                        Event::OpenFailed {
                            session,
                            generation,
                            why,
                        }
                    }
                },
                Effect::Close {
                    session,
                    generation,
                } => {
                    self.close(&workspace, &session, generation).await;
                    Event::Closed {
                        session,
                        generation,
                    }
                }
            };
            let happened = self
                .happen(&workspace, event, Durability::Written, |_| Vec::new())
                .await;
            if let Err(error) = happened {
                // The registry still says what is to be done, so the next start of the host does it again.
                tracing::error!(%workspace, error = &error as &dyn std::error::Error, "a session's new state could not be stored");
            }
        }
    }

    /// Opens a session for the first time in a life: its image is pulled and what its requirements ask for is installed
    /// before.
    async fn open_first(
        self: &Arc<Self>,
        workspace: &Name,
        id: &Name,
        generation: u64,
    ) -> Result<(Option<Image>, Option<Box<Packages>>), OpenError> {
        let key = (workspace.clone(), id.clone());
        let session = self.session(&key).map_err(|_| OpenError::Over)?;
        if session.generation != generation {
            return Err(OpenError::Over);
        }
        let brought = self.bring(&session).await?;
        let image = brought.as_ref().unwrap_or(&session.image);
        let packages = match session.packages.clone() {
            // A fork has the packages of the session that its memory comes from.
            Some(packages) => {
                self.restore(&session, image, &packages).await?;
                Some(packages)
            }
            None => self.packages(&session, image, &|_| {}).await?,
        };
        self.open(workspace, id, generation, image, packages.as_deref())
            .await?;
        Ok((brought, packages))
    }

    /// Opens a session that has begun its life already.
    pub(super) async fn open_again(
        self: &Arc<Self>,
        session: &Session,
    ) -> Result<Arc<Live>, OpenError> {
        self.bring(session).await?;
        let (image, packages) = (&session.image, session.packages.as_deref());
        if let Some(packages) = packages {
            self.restore(session, image, packages).await?;
        }
        let (workspace, id) = (&session.workspace, &session.id);
        self.open(workspace, id, session.generation, image, packages)
            .await
    }

    /// What a session's flow asks for now, over an image. `hear` is told of each long step.
    pub(super) async fn packages(
        &self,
        session: &Session,
        image: &Image,
        hear: &(dyn Fn(String) + Sync),
    ) -> Result<Option<Box<Packages>>, EnvironmentError> {
        let ledger = Arc::clone(&self.ledger);
        let (workspace, flow) = (session.workspace.clone(), session.flow.clone());
        let Some(asked) = Environments::asked(ledger, workspace, flow).await? else {
            return Ok(None);
        };
        let credentials = self.index_credentials(session)?;
        let made = self
            .environments
            .make(image.in_store(), asked, credentials, hear);
        Ok(Some(Box::new(made.await?)))
    }

    /// Makes sure that the store has what a session's requirements have brought.
    async fn restore(
        &self,
        session: &Session,
        image: &Image,
        packages: &Packages,
    ) -> Result<(), EnvironmentError> {
        let credentials = || self.index_credentials(session);
        self.environments
            .restore(image.in_store(), packages, credentials)
            .await
    }

    /// Makes sure that the store has a session's image.
    async fn bring(&self, session: &Session) -> Result<Option<Image>, EnvironmentError> {
        let credential = || self.registry_credential(session, &session.image.reference);
        let default = &self.settings.bundle;
        self.images.bring(&session.image, credential, default).await
    }

    /// Makes a session's working copy, over an image and packages that are there.
    pub(super) async fn open(
        self: &Arc<Self>,
        workspace: &Name,
        id: &Name,
        generation: u64,
        image: &Image,
        packages: Option<&Packages>,
    ) -> Result<Arc<Live>, OpenError> {
        let key = (workspace.clone(), id.clone());
        let _lock = self.lock(&key).lock().await;
        if let Some(live) = self.live.get(&key)
            && live.generation == generation
        {
            return Ok(Arc::clone(&live));
        }
        let (session, compute, revision, network) = {
            let state = self.ledger.state();
            let workspace = state.workspaces.get(workspace).ok_or(OpenError::Over)?;
            let session = workspace.sessions.get(id).ok_or(OpenError::Over)?;
            let compute = workspace
                .computes
                .get(&session.compute)
                .ok_or(OpenError::Over)?;
            let flow = workspace.flows.get(&session.flow).ok_or(OpenError::Over)?;
            let is_due = session.state == SessionState::Starting || session.state.takes_calls();
            if session.generation != generation || !is_due {
                return Err(OpenError::Over);
            }
            let network = self.network(workspace, session);
            (session.clone(), compute.clone(), flow.revision, network)
        };
        let copy = WorkingCopy::new(self.folder(workspace, id, generation));
        if !Self::is_whole(&session, &copy) {
            return Err(OpenError::Lost);
        }
        let (inner, to_write) = (Arc::clone(self), copy.clone());
        let (of, flow) = (session.workspace.clone(), session.flow.clone());
        blocking(move || to_write.update(inner.ledger.registry(), &of, &flow)).await?;
        let spec = self.spec(&session, &compute, &copy, (image, packages), network);
        // So that the first call does not wait for it.
        let loaded = self.workers.open(spec.clone()).await?;
        loaded.map_err(|why| {
            let image = &image.reference;
            OpenError::Image(format!("base image {image} cannot be used: {why}"))
        })?;
        let log = self.started.wrapping_add(generation);
        let live = Arc::new(Live::new(&session, spec, copy, revision, log));
        let state = match session.state {
            SessionState::Starting => SessionState::Running,
            state => state,
        };
        live.events.push(SessionEvent::State {
            state: state.as_str().to_owned(),
            reason: session.reason,
        });
        self.live.insert(key, Arc::clone(&live));
        Ok(live)
    }

    /// What a session's worker is told about it.
    pub(super) fn spec(
        &self,
        session: &Session,
        compute: &Compute,
        copy: &WorkingCopy,
        (image, packages): (&Image, Option<&Packages>),
        network: Box<NetworkSpec>,
    ) -> SessionSpec {
        SessionSpec {
            id: SessionId {
                workspace: session.workspace.to_string(),
                session: session.id.to_string(),
                generation: session.generation,
            },
            compute: ComputeSpec {
                id: compute_id(&(compute.workspace.clone(), compute.name.clone())),
                memory: compute.resources.memory_mib << 20,
                cpu_millis: compute.resources.cpu_millis,
                instances: compute.resources.instances,
            },
            folder: copy.folder().into(),
            flow: session.flow.to_string(),
            memory: session.memory(),
            image: image.in_store().to_owned(),
            site: packages.and_then(|packages| packages.site.clone()),
            stored_memory: self.settings.stored_memory,
            network,
            instance_memory: self.settings.instance_memory as u64,
            call_time: self.settings.call_time,
            instance_wait: self.settings.instance_wait,
        }
    }

    /// What a session may ask of the network.
    pub(super) fn network(&self, workspace: &Workspace, session: &Session) -> Box<NetworkSpec> {
        Box::new(NetworkSpec {
            workspace: workspace.record.network.clone(),
            session: session.network.clone(),
            ..self.settings.network.clone()
        })
    }

    /// Ends a session's life: calls end, instances and files go.
    async fn close(self: &Arc<Self>, workspace: &Name, id: &Name, generation: u64) {
        let key = (workspace.clone(), id.clone());
        let _lock = self.lock(&key).lock().await;
        let of_this_life = |_: &Key, live: &Arc<Live>| live.generation == generation;
        if let Some((_, live)) = self.live.remove_if(&key, of_this_life) {
            live.ending.cancel();
            live.tracker.close();
            live.tracker.wait().await;
            // Whoever is storing or copying it comes to an end first.
            let _quiet = live.gate.write().await;
            self.workers.end(&live.session).await;
            let (state, reason) = {
                let state = self.ledger.state();
                let session = state
                    .workspaces
                    .get(workspace)
                    .and_then(|workspace| workspace.sessions.get(id));
                session.map_or_else(Default::default, |session| {
                    (session.state.as_str().to_owned(), session.reason.clone())
                })
            };
            live.events.push(SessionEvent::State { state, reason });
            live.events.end();
        }
        self.remove_copy(workspace, id, generation).await;
    }

    pub(super) async fn remove_copy(&self, workspace: &Name, id: &Name, generation: u64) {
        let copy = WorkingCopy::new(self.folder(workspace, id, generation));
        if let Err(error) = blocking(move || copy.delete()).await {
            tracing::warn!(%workspace, session = %id, %error, "a working copy could not be deleted");
        }
    }

    pub(super) fn folder(&self, workspace: &Name, session: &Name, generation: u64) -> PathBuf {
        // Flat, so that deleting one leaves no empty folders around it. Names hold no '+'.
        let name = format!("{workspace}+{session}+{generation}");
        self.settings.folder.join(name)
    }

    /// What follows from a step beside its effects: timers are set, what stopped computes have used is forgotten.
    pub(super) fn note(&self, step: &Step) {
        for change in &step.changes {
            match change {
                Change::PutSession(session) if session.state.takes_calls() => {
                    let key = (session.workspace.clone(), session.id.clone());
                    let last_use = self.live.get(&key).map(|live| live.last_use());
                    let last_use = last_use.map_or(session.last_use, |at| at.max(session.last_use));
                    let after = left(last_use, Duration::from_secs(session.idle_seconds));
                    self.clock
                        .set(Timer::Session(key, session.generation), after);
                }
                Change::PutCompute(compute) => {
                    let key = (compute.workspace.clone(), compute.name.clone());
                    match (compute.state, compute.idle_seconds) {
                        (ComputeState::Running, Some(seconds)) => self
                            .clock
                            .set(Timer::Compute(key), std::time::Duration::from_secs(seconds)),
                        (ComputeState::Stopped, _) => self.workers.forget(&compute_id(&key)),
                        _ => {}
                    }
                }
                Change::DeleteCompute { workspace, compute } => {
                    self.workers
                        .forget(&compute_id(&(workspace.clone(), compute.clone())));
                }
                _ => {}
            }
        }
    }

    /// Goes on where a host that died has stopped.
    pub(super) fn recover(self: &Arc<Self>) {
        let (due, known) = {
            let state = self.ledger.state();
            let mut known = std::collections::HashSet::new();
            for workspace in state.workspaces.values() {
                for session in workspace.sessions.values() {
                    if session.state.is_live() {
                        known.insert(self.folder(
                            &workspace.record.name,
                            &session.id,
                            session.generation,
                        ));
                    }
                }
                self.note(&Step {
                    changes: workspace
                        .sessions
                        .values()
                        .cloned()
                        .map(Change::PutSession)
                        .chain(workspace.computes.values().cloned().map(Change::PutCompute))
                        .collect(),
                    effects: Vec::new(),
                });
            }
            (machine::recover(&state), known)
        };
        // Copies of lives that ended while nobody could delete them.
        // Looked for before anything new can be among them.
        let folder = std::fs::read_dir(&self.settings.folder);
        let found = folder.into_iter().flatten().flatten();
        let mut old: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
        old.retain(|path| !known.contains(path));
        tokio::task::spawn_blocking(move || {
            for path in old {
                if let Err(error) = std::fs::remove_dir_all(path) {
                    tracing::warn!(%error, "a working copy of an old session could not be deleted");
                }
            }
        });
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            for (workspace, effect) in due {
                Arc::clone(&inner).carry_out(workspace, vec![effect]).await;
            }
        });
        self.clock
            .set(Timer::Housekeeping, super::idle::HOUSEKEEPING);
    }
}
