//! A session that runs: its working copy, its open flow, its calls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowcell_worker::{SessionId, SessionSpec, Used};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::copy::WorkingCopy;
use super::events::{EventLog, SessionEvent};
use super::hibernate::NotStored;
use super::install::Installing;
use crate::name::Name;
use crate::session::SessionState;

/// A call under way.
#[derive(Debug, Clone, Serialize)]
pub struct ActiveCall {
    /// Its identifier.
    pub id: String,
    /// When it began.
    pub started: Timestamp,
    #[serde(skip)]
    pub(super) cancel: CancellationToken,
}

/// What a session has used in this life.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Instances that a call is using.
    pub busy: usize,
    /// Instances that wait for a call.
    pub idle: usize,
    /// Memory of all of them, in bytes.
    pub memory: u64,
    /// CPU time of all calls.
    pub cpu_time: Duration,
    /// Calls that have ended.
    pub calls: u64,
    /// Instances that were made, those that went on from being stored included.
    pub starts: u64,
    /// Instances that went on from being stored.
    pub resumes: u64,
    /// Instances that were stored.
    pub hibernations: u64,
    /// Time that it took to make instances.
    pub start_time: Duration,
    /// Time that it took to store them.
    pub hibernate_time: Duration,
}

/// One life of a session.
pub(super) struct Live {
    pub(super) workspace: Name,
    pub(super) id: Name,
    pub(super) flow: Name,
    pub(super) generation: u64,
    pub(super) session: SessionId,
    /// What its worker is told about it; only its packages change.
    spec: Mutex<SessionSpec>,
    installing: Mutex<Installing>,
    pub(super) copy: WorkingCopy,
    pub(super) events: Arc<EventLog>,
    pub(super) tracker: TaskTracker,
    /// Set when the session ends: every call ends with it.
    pub(super) ending: CancellationToken,
    /// Whether its last use is newer than the registry's.
    pub(super) is_used: AtomicBool,
    /// Whether a timer for its instances is set.
    pub(super) is_watched: AtomicBool,
    /// Whether the registry says that it is hibernated.
    pub(super) is_asleep: AtomicBool,
    /// Calls share it while they may have instances; whoever stores those has it alone.
    pub(super) gate: Arc<RwLock<()>>,
    not_stored: Mutex<NotStored>,
    last_use: AtomicI64,
    calls_ended: AtomicU64,
    calls: Mutex<HashMap<String, ActiveCall>>,
    /// The flow's revision in the copy. Whoever opens the flow shares it; whoever changes the files has it alone.
    revision: Arc<RwLock<u64>>,
}

/// A session does not hibernate while this is there.
pub(super) type Inside = OwnedRwLockReadGuard<()>;

/// The copy does not change while this is there.
pub(super) type Still = OwnedRwLockReadGuard<u64>;

impl std::fmt::Debug for Live {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Live")
            .field("id", &self.id)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// No room for another call, or not under this identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// All places are taken.
    #[error("session {session} has {limit} calls under way, which is its limit")]
    TooMany {
        /// The session.
        session: Name,
        /// The limit.
        limit: usize,
    },
    /// A call with this identifier is under way.
    #[error("a call '{0}' is under way already")]
    Duplicate(String),
}

impl Live {
    pub(super) fn new(
        session: &crate::session::Session,
        spec: SessionSpec,
        copy: WorkingCopy,
        revision: u64,
        log: u64,
    ) -> Self {
        Self {
            workspace: session.workspace.clone(),
            id: session.id.clone(),
            flow: session.flow.clone(),
            generation: session.generation,
            session: spec.id.clone(),
            spec: Mutex::new(spec),
            installing: Mutex::default(),
            copy,
            events: Arc::new(EventLog::new(log)),
            tracker: TaskTracker::new(),
            ending: CancellationToken::new(),
            is_used: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            is_asleep: AtomicBool::new(session.state == SessionState::Hibernated),
            gate: Arc::default(),
            not_stored: Mutex::default(),
            last_use: AtomicI64::new(session.last_use.as_millisecond()),
            calls_ended: AtomicU64::new(0),
            calls: Mutex::default(),
            revision: Arc::new(RwLock::new(revision)),
        }
    }

    /// What its worker is told about it.
    pub(super) fn spec(&self) -> SessionSpec {
        self.spec
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Calls that begin from now on have these packages.
    pub(super) fn set_site(&self, site: Option<String>) {
        self.spec
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .site = site;
    }

    /// Where the installation of packages stands.
    pub(super) fn installing(&self) -> Installing {
        self.lock_installing().clone()
    }

    /// Whether nobody else is at it.
    pub(super) fn begin_install(&self) -> bool {
        let mut installing = self.lock_installing();
        if installing.step.is_some() {
            return false;
        }
        installing.step = Some("starting".to_owned());
        true
    }

    pub(super) fn install_step(&self, step: String) {
        self.lock_installing().step = Some(step);
    }

    pub(super) fn end_install(&self, failed: Option<(Timestamp, String)>) {
        *self.lock_installing() = Installing { step: None, failed };
    }

    fn lock_installing(&self) -> MutexGuard<'_, Installing> {
        self.installing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the session is used now; whether it was not known to be used since the registry was last told.
    pub(super) fn touch(&self) -> bool {
        self.last_use
            .fetch_max(Timestamp::now().as_millisecond(), Ordering::Relaxed);
        !self.is_used.swap(true, Ordering::Relaxed)
    }

    pub(super) fn last_use(&self) -> Timestamp {
        Timestamp::from_millisecond(self.last_use.load(Ordering::Relaxed)).unwrap_or(Timestamp::MIN)
    }

    /// What could not be stored when it was to hibernate last.
    pub(super) fn not_stored(&self) -> MutexGuard<'_, NotStored> {
        self.not_stored
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds as little as possible: nobody may use it for days.
    pub(super) fn slim(&self) {
        self.events.forget();
        self.calls().shrink_to_fit();
    }

    /// The calls under way.
    pub(super) fn calls(&self) -> MutexGuard<'_, HashMap<String, ActiveCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a call; it is under way until the guard is dropped.
    pub(super) fn admit(
        self: &Arc<Self>,
        id: String,
        limit: usize,
    ) -> Result<CallGuard, AdmissionError> {
        let mut calls = self.calls();
        if calls.contains_key(&id) {
            return Err(AdmissionError::Duplicate(id));
        }
        if calls.len() >= limit {
            return Err(AdmissionError::TooMany {
                session: self.id.clone(),
                limit,
            });
        }
        let cancel = self.ending.child_token();
        let call = ActiveCall {
            id: id.clone(),
            started: Timestamp::now(),
            cancel: cancel.clone(),
        };
        calls.insert(id.clone(), call);
        Ok(CallGuard {
            live: Arc::clone(self),
            id,
            cancel,
        })
    }

    /// The copy, up to date with the flow's files: `update` writes them when `revision` is another one than before.
    pub(super) async fn still<E>(
        &self,
        revision: impl Fn() -> u64,
        update: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<Still, E> {
        let present = Arc::clone(&self.revision).read_owned().await;
        if *present == revision() {
            return Ok(present);
        }
        drop(present);
        let mut present = Arc::clone(&self.revision).write_owned().await;
        // Somebody else may have written them meanwhile.
        let revision = revision();
        if *present != revision {
            update().await?;
            *present = revision;
        }
        Ok(present.downgrade())
    }

    pub(super) fn usage(&self, used: Used) -> Usage {
        let number = |count| usize::try_from(count).unwrap_or(usize::MAX);
        Usage {
            busy: number(used.busy()),
            idle: number(used.idle),
            memory: used.memory,
            cpu_time: used.cpu_time(),
            calls: self.calls_ended.load(Ordering::Relaxed),
            starts: used.starts,
            resumes: used.resumes,
            hibernations: used.hibernations,
            start_time: used.start_time(),
            hibernate_time: used.hibernate_time(),
        }
    }
}

/// A call's place. Dropping it cancels whatever of the call is still at work.
#[derive(Debug)]
pub(super) struct CallGuard {
    live: Arc<Live>,
    id: String,
    cancel: CancellationToken,
}

impl CallGuard {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    pub(super) fn event(&self, event: SessionEvent) {
        self.live.events.push(event);
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.live.calls().remove(&self.id);
        self.live.calls_ended.fetch_add(1, Ordering::Relaxed);
        self.live.touch();
    }
}
