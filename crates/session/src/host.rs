//! Sessions at work: carries out what the state machine decides, and runs calls.

mod base_images;
mod clock;
mod copy;
mod credentials;
mod effects;
mod environments;
mod events;
mod fork;
mod garbage;
mod hibernate;
mod idle;
mod install;
mod live;
mod once;
mod recent;
mod requests;
mod tokens;
mod traces;
mod work;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use flowcell_bundle::{Reference, Store};
use flowcell_worker::{ComputeId, Installer, NetworkSpec, Used, Workers};
use jiff::Timestamp;
use tokio::task::JoinHandle;

use self::base_images::BaseImages;
use self::clock::{Clock, Timer};
pub use self::copy::CopyError;
pub use self::credentials::CredentialsError;
use self::environments::Environments;
pub use self::environments::{EnvironmentError, EnvironmentSettings};
pub use self::events::{EventId, InvalidEventId, SessionEvent, Watched, Watcher};
pub use self::fork::{Fork, ForkError};
pub use self::garbage::GarbageSettings;
pub use self::hibernate::{CannotHibernate, HibernateError, NotStored};
pub use self::install::{Installing, SessionInstallError};
use self::live::Live;
pub use self::live::{ActiveCall, AdmissionError, Usage};
pub use self::requests::{Request, Requests};
use self::tokens::Tokens;
use self::traces::Traces;
pub use self::traces::{CallTrace, TraceListener, TraceParent};
pub use self::work::{Call, CallError};
use crate::ledger::{ChangeError, Ledger};
use crate::machine::{self, Context, Event, Refusal, Rules, Step};
use crate::name::Name;
use crate::registry::Durability;
use crate::secrets::Secrets;
use crate::session::Session;

/// Locks that serialise what is done to a session: sessions share them, by a hash of the key.
const LOCKS: usize = 64;

/// Sessions that are stored at once when the host ends.
const ASLEEP_AT_ONCE: usize = 8;
/// The longest time that storing them takes longer than calls may, when the host ends.
const LAST_SLEEP: Duration = Duration::from_secs(5);

/// How a host runs its sessions.
#[derive(Clone)]
pub struct HostSettings {
    /// The folder for working copies.
    pub folder: PathBuf,
    /// The bundle of flows that name none.
    pub bundle: Reference,
    /// The rules of the state machine.
    pub rules: Rules,
    /// A session without use for this time hibernates.
    pub instances_idle: Duration,
    /// What becomes of its instances that cannot be stored.
    pub cannot_hibernate: CannotHibernate,
    /// Calls that a session may have under way.
    pub calls_per_session: usize,
    /// Longest time of a call.
    pub call_time: Duration,
    /// How long a call waits for an instance.
    pub instance_wait: Duration,
    /// Most memory of one instance, in bytes; a compute with less memory gives less.
    pub instance_memory: usize,
    /// Most bytes that may have changed of an idle instance that is stored.
    pub stored_memory: u64,
    /// How environments are made.
    pub environments: EnvironmentSettings,
    /// What seals the credentials of identities.
    pub secrets: Secrets,
    /// What sessions may ask of the network.
    pub network: NetworkSpec,
    /// The requests that they have made, which their workers tell of.
    pub requests: Arc<Requests>,
    /// Who hears of the traces of calls.
    pub traces: Option<TraceListener>,
}

/// A session or a compute: its workspace and its name there.
pub type Key = (Name, Name);

/// Runs the sessions of a ledger.
#[derive(Debug, Clone)]
pub struct SessionHost {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    store: Store,
    ledger: Arc<Ledger>,
    settings: HostSettings,
    /// Where guests run: apart from whoever serves requests, so that a guest at work holds up no request.
    workers: Workers,
    environments: Environments,
    images: BaseImages,
    live: DashMap<Key, Arc<Live>>,
    locks: Vec<tokio::sync::Mutex<()>>,
    used: Mutex<HashSet<Key>>,
    traces: Traces,
    tokens: Tokens,
    /// Counts the moments at which jobs were told what they may do.
    orders: AtomicU64,
    clock: Clock,
    /// Tells the event logs of this start of the host from those of others.
    started: u64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SessionHost")
            .field("live", &self.live.len())
            .finish_non_exhaustive()
    }
}

/// An event that led to nothing, because it was refused or could not be stored.
pub type HappenError = ChangeError<Refusal>;

impl SessionHost {
    /// A host, and with it all that a host which died before has left undone.
    ///
    /// Its base images are in `store`, and its sessions run in `workers`.
    pub fn start(
        store: Store,
        ledger: Arc<Ledger>,
        settings: HostSettings,
        workers: Workers,
    ) -> Self {
        let (clock, set) = Clock::new();
        let EnvironmentSettings {
            indexes,
            time,
            installer,
            registries,
        } = settings.environments.clone();
        let installer = Arc::new(Installer::new(installer, time));
        let tokens = Tokens::new(settings.network.clone());
        let inner = Arc::new(Inner {
            environments: Environments::new(store.clone(), indexes, Arc::clone(&installer)),
            images: BaseImages::new(store.clone(), installer, registries),
            store,
            ledger,
            settings,
            workers,
            live: DashMap::new(),
            locks: (0..LOCKS).map(|_| tokio::sync::Mutex::default()).collect(),
            used: Mutex::default(),
            traces: Traces::default(),
            tokens,
            orders: AtomicU64::new(0),
            clock,
            started: u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0),
        });
        tokio::spawn(clock::run(Arc::downgrade(&inner), set));
        inner.recover();
        Self { inner }
    }

    /// The ledger.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.inner.ledger
    }

    /// The store of base images.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The settings.
    pub fn settings(&self) -> &HostSettings {
        &self.inner.settings
    }

    /// Where the sessions run.
    pub fn workers(&self) -> &Workers {
        &self.inner.workers
    }

    /// What a compute uses; `None` when none of its sessions has run since the host started.
    pub fn used_by(&self, compute: &Key) -> Option<Used> {
        self.inner.workers.compute(&compute_id(compute))
    }

    /// What an event would lead to.
    ///
    /// # Errors
    /// When it would be refused.
    pub fn foresee(&self, workspace: &Name, event: &Event) -> Result<Step, Refusal> {
        let inner = &self.inner;
        machine::step(&inner.ledger.state(), inner.context(), workspace, event)
    }

    /// Takes in an event: what it changes is stored when this returns; what is to be done then goes on, and ends with
    /// the handle. `more` gives further changes that are stored together with the event's; what it holds is held until
    /// they are stored.
    ///
    /// # Errors
    /// When the event is refused, or the registry fails.
    pub async fn happen(
        &self,
        workspace: &Name,
        event: Event,
        more: impl Fn(&Step) -> Vec<crate::state::Change> + Send + 'static,
    ) -> Result<(Step, JoinHandle<()>), HappenError> {
        let step = self
            .inner
            .happen(workspace, event, Durability::Synced, more)
            .await?;
        let done = tokio::spawn(
            Arc::clone(&self.inner).carry_out(workspace.clone(), step.effects.clone()),
        );
        Ok((step, done))
    }

    /// Usage of a session's present life; zeros when nothing of it is in memory.
    pub fn usage(&self, session: &Key) -> Usage {
        let live = self.inner.live.get(session);
        live.map_or_else(Usage::default, |live| {
            live.usage(self.inner.workers.session(&live.session))
        })
    }

    /// When a session was last used.
    pub fn last_use(&self, session: &Session) -> Timestamp {
        let key = (session.workspace.clone(), session.id.clone());
        let live = self.inner.live.get(&key);
        live.map_or(session.last_use, |live| {
            live.last_use().max(session.last_use)
        })
    }

    /// The digest that a registry has an image under by now, as a session may see it. An answer of the last minute will do.
    ///
    /// # Errors
    /// When the registry cannot be asked, or has no such image.
    pub async fn artifact_now(
        &self,
        session: &Session,
        reference: &str,
    ) -> Result<Option<String>, EnvironmentError> {
        let credential = self.inner.registry_credential(session, reference)?;
        self.inner.images.look(reference, credential).await
    }

    /// The calls that are under way in a session.
    pub fn calls(&self, session: &Key) -> Vec<ActiveCall> {
        let live = self.inner.live.get(session);
        let mut calls: Vec<ActiveCall> =
            live.map_or_else(Vec::new, |live| live.calls().values().cloned().collect());
        calls.sort_by(|a, b| a.started.cmp(&b.started).then_with(|| a.id.cmp(&b.id)));
        calls
    }

    /// Cancels a call; whether there was one. Its guests stop at once.
    pub fn cancel(&self, session: &Key, call: &str) -> bool {
        let Some(live) = self.inner.live.get(session) else {
            return false;
        };
        let calls = live.calls();
        calls.get(call).map(|call| call.cancel.cancel()).is_some()
    }

    /// Ends all calls, stores what is idle and when sessions were last used, and stops the workers. The sessions are
    /// there at the next start.
    pub async fn shut_down(&self, wait: Duration) {
        let inner = &self.inner;
        let lives: Vec<Arc<Live>> = inner.live.iter().map(|live| Arc::clone(&live)).collect();
        let calls_end = tokio::time::Instant::now() + wait;
        // Sessions at work until then get a little longer for what they have beside their calls.
        let end = calls_end + wait.min(LAST_SLEEP);
        let at_once = tokio::sync::Semaphore::new(ASLEEP_AT_ONCE);
        let ends = lives.iter().map(async |live| {
            live.tracker.close();
            let ended = tokio::time::timeout_at(calls_end, live.tracker.wait());
            if ended.await.is_err() {
                live.ending.cancel();
                live.tracker.wait().await;
            }
            let _permit = at_once.acquire().await;
            inner.put_to_last_sleep(live, end).await
        });
        let _asleep = futures_util::future::join_all(ends).await;
        inner.store_uses().await;
        inner.workers.stop().await;
    }
}

fn compute_id((workspace, compute): &Key) -> ComputeId {
    ComputeId {
        workspace: workspace.to_string(),
        compute: compute.to_string(),
    }
}

impl Inner {
    fn context(&self) -> Context<'_> {
        let free = self
            .workers
            .memory()
            .saturating_sub(self.workers.used().memory);
        Context {
            now: Timestamp::now(),
            rules: &self.settings.rules,
            free_memory_mib: free >> 20,
        }
    }

    async fn happen(
        self: &Arc<Self>,
        workspace: &Name,
        event: Event,
        durability: Durability,
        more: impl Fn(&Step) -> Vec<crate::state::Change> + Send + 'static,
    ) -> Result<Step, HappenError> {
        let inner = Arc::clone(self);
        let workspace = workspace.clone();
        let step = blocking(move || {
            let step = inner.ledger.change(durability, |state| {
                let mut step = machine::step(state, inner.context(), &workspace, &event)?;
                step.changes.extend(more(&step));
                inner.root(&step.changes);
                Ok((step.changes.clone(), step))
            })?;
            inner.note(&step);
            Ok(step)
        });
        step.await
    }

    fn lock(&self, key: &Key) -> &tokio::sync::Mutex<()> {
        use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        &self.locks[usize::try_from(hash % LOCKS as u64).unwrap_or(0)]
    }

    fn used(&self) -> std::sync::MutexGuard<'_, HashSet<Key>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what blocks on a thread for it. A panic in it goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // A runtime that shuts down takes no more work; whoever waits is gone as well.
            Err(_) => std::future::pending().await,
        },
    }
}
