//! The sessions that run here: their open flows, and the slices of their computes.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use flowcell_bundle::{DigestError, Reference};
use flowcell_connection::ConnectionSet;
use flowcell_egress::Gate;
use flowcell_executor::{
    Host, RunError, Session, SessionOptions, Status, StoredOptions, Workspace, prepare_image,
};
use flowcell_flow::JsonMap;
use flowcell_sandbox::{Limits, Owner, Slice, SliceLimits};
use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::network::{RequestListener, Trust};
use crate::news::{Hear, Heard};
use crate::parts::Outlet;
use crate::perform::{self, Traced};
use crate::spec::{ComputeId, ComputeSpec, Job, SessionId, SessionSpec, Setup};
use crate::stored::{Hibernated, Holds, Prepared};
use crate::usage::{Snapshot, Told, Used};
use crate::work::{Answer, Work};

/// Ways in which a session's flow is kept open at once: variants and environment variables that calls bring along.
const MAX_SETUPS: usize = 8;
/// How long the end of a session waits for its jobs, which were cancelled, and then for whoever stores its instances.
const END: Duration = Duration::from_secs(10);
/// How often it is looked whether jobs have given back their instances before a session hibernates, and the pause between.
const LOOKS: u32 = 100;
const LOOK: Duration = Duration::from_millis(10);

/// What runs here.
pub(crate) struct Flows {
    executor: Arc<Host>,
    /// What all sessions here may use together.
    slice: Arc<Slice>,
    held: Mutex<Held>,
    trust: Trust,
    /// Hears of the requests that guests make.
    requests: RequestListener,
    /// Where guests run: apart from whoever serves requests, so that a guest at work holds up no request.
    guests: Handle,
}

#[derive(Default)]
struct Held {
    /// A compute's slice is there as long as a session has it.
    computes: HashMap<ComputeId, Weak<Slice>>,
    sessions: HashMap<SessionId, Arc<Live>>,
}

/// A session that runs here.
struct Live {
    compute: ComputeId,
    /// Its own, without limits of its own: it counts what the session uses of the compute.
    slice: Arc<Slice>,
    limits: SliceLimits,
    /// What the requests of its guests go through.
    gate: OnceLock<Arc<Gate>>,
    /// The jobs under way.
    jobs: TaskTracker,
    open: tokio::sync::Mutex<Open>,
}

/// The flow, as it is open.
#[derive(Default)]
struct Open {
    /// The flow's revision in the copy.
    revision: u64,
    /// The latest of the jobs' moments.
    order: u64,
    /// The digest of its files.
    files: Option<String>,
    /// The packages that it was opened with.
    site: Option<String>,
    /// The connections that they have.
    connections: Arc<ConnectionSet>,
    flows: HashMap<Setup, OpenFlow>,
    /// How often any of them was asked for.
    uses: u64,
}

struct OpenFlow {
    flow: Arc<Session>,
    /// When it was asked for last, as a number of [`Open::uses`].
    last_use: u64,
}

impl Open {
    fn get(&mut self, setup: &Setup) -> Option<Arc<Session>> {
        let open = self.flows.get_mut(setup)?;
        self.uses += 1;
        open.last_use = self.uses;
        Some(Arc::clone(&open.flow))
    }

    fn insert(&mut self, setup: Setup, flow: Arc<Session>) {
        self.uses += 1;
        let last_use = self.uses;
        self.flows.insert(setup, OpenFlow { flow, last_use });
    }

    /// Closes the flow in the way in which it was not used for the longest, so that it goes on when it is opened again.
    async fn close_one(&mut self) {
        let idle = self.flows.iter().filter(|(_, open)| !is_used(&open.flow));
        let Some((setup, _)) = idle.min_by_key(|(_, open)| open.last_use) else {
            return;
        };
        let setup = setup.clone();
        if let Some(OpenFlow { flow, .. }) = self.flows.remove(&setup) {
            let stored = flow.hibernate().await;
            if !stored.kept.is_empty() {
                tracing::info!(
                    why = stored.kept.join("; "),
                    "instances were dropped, with what they held, since the session is called in too many ways"
                );
                flow.shrink();
            }
        }
    }
}

impl std::fmt::Debug for Flows {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Flows").finish_non_exhaustive()
    }
}

impl Flows {
    pub(crate) fn new(
        executor: Arc<Host>,
        memory: u64,
        instances: usize,
        guests: Handle,
        requests: RequestListener,
    ) -> Self {
        let limits = SliceLimits {
            memory,
            instances,
            ..SliceLimits::UNLIMITED
        };
        Self {
            executor,
            slice: Slice::new(limits, None),
            held: Mutex::default(),
            trust: Trust::default(),
            requests,
            guests,
        }
    }

    /// Makes sure of a session's base image.
    pub(crate) async fn open(self: &Arc<Self>, session: SessionSpec) -> Result<(), String> {
        let live = self.live(&session);
        let executor = Arc::clone(&self.executor);
        let image = session.image.clone();
        let load = move || perform::load_image(&executor, &image);
        match self.guests.spawn_blocking(load).await {
            Ok(loaded) => {
                loaded?;
                self.prepare(live, session);
                Ok(())
            }
            Err(_) => Err("the host failed".to_owned()),
        }
    }

    /// Makes a session's image in the background, if it is not there; until then its instances start without.
    fn prepare(self: &Arc<Self>, live: Arc<Live>, session: SessionSpec) {
        let flows = Arc::clone(self);
        self.guests.spawn(async move {
            let opened = Workspace::open(Path::new(&session.folder), &session.flow);
            let options = flows.options(&live, &session);
            if let (Ok(workspace), Ok(options)) = (opened, options)
                && let Err(error) = prepare_image(&flows.executor, &workspace, &options)
            {
                // Whoever calls it is told in full.
                tracing::debug!(%error, "a session's image is not made");
            }
        });
    }

    /// A job, which counts as under way from now on; [`Self::spawn`] does it. `done` hears of its answer; of none if the job
    /// was cancelled.
    pub(crate) fn begin<D: FnOnce(Option<Answer>) + Send + 'static>(
        self: &Arc<Self>,
        job: Job,
        hear: Hear,
        outlet: Outlet,
        cancel: CancellationToken,
        done: D,
    ) -> impl Future<Output = ()> + Send + use<D> {
        let live = self.live(&job.session);
        let jobs = live.jobs.clone();
        let flows = Arc::clone(self);
        let work = async move {
            let work = AssertUnwindSafe(flows.job(&live, job, hear, &outlet)).catch_unwind();
            let answer = tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                answer = work => Some(answer.unwrap_or_else(|_| {
                    Answer::failed(RunError::system("SystemErrorException", "the host failed"))
                })),
            };
            // The guests are gone by now, so whatever the answer leads to finds them gone.
            done(answer);
        };
        jobs.track_future(work)
    }

    /// Does a job where guests run.
    pub(crate) fn spawn(&self, job: impl Future<Output = ()> + Send + 'static) {
        self.guests.spawn(job);
    }

    async fn job(&self, live: &Live, job: Job, hear: Hear, outlet: &Outlet) -> Answer {
        let Job {
            session,
            revision,
            setup,
            connections,
            order,
            record_content,
            work,
        } = job;
        let revision = (revision, order);
        match work {
            Work::Run(run) => {
                let flow = self.flow(live, &session, &setup, revision, connections);
                let flow = flow.await;
                hear(Heard::Opened);
                let traced = Traced {
                    name: &session.flow,
                    record_content,
                };
                perform::run(flow, run, traced, hear, outlet).await
            }
            Work::Resume => {
                let flow = self.flow(live, &session, &setup, revision, connections);
                let flow = flow.await;
                hear(Heard::Opened);
                let resumed = match flow {
                    Ok(flow) => flow.resume().await,
                    Err(error) => Err(error),
                };
                resumed.map_or_else(Answer::failed, |()| {
                    Answer::json(Status::Completed, "null".to_owned())
                })
            }
            Work::Look(look) => {
                let opened = Workspace::open(Path::new(&session.folder), &session.flow);
                hear(Heard::Opened);
                let options = self.options(live, &session);
                match (opened, options) {
                    (Ok(workspace), Ok(mut options)) => {
                        // It must not go on from the session's stored instances: its own are thrown away.
                        options.stored = None;
                        options.connections = Arc::new(connections);
                        perform::look(&self.executor, &workspace, &options, look).await
                    }
                    (Err(error), _) | (_, Err(error)) => Answer::failed(error),
                }
            }
        }
    }

    /// The flow in this setup, from these files.
    async fn flow(
        &self,
        live: &Live,
        session: &SessionSpec,
        setup: &Setup,
        (revision, order): (u64, u64),
        connections: ConnectionSet,
    ) -> Result<Arc<Session>, RunError> {
        let mut open = live.open.lock().await;
        let is_latest = order >= open.order;
        if is_latest {
            open.order = order;
            // What is allowed may have changed, however long the flow has been open.
            self.gate(live, session)?
                .set_policy(session.network.policy());
        }
        let folder = Path::new(&session.folder);
        if open.revision != revision {
            let files = Workspace::files_digest(folder);
            // Equal files can have another revision.
            if files.is_none() || files != open.files {
                open.flows.values().for_each(|open| open.flow.shrink());
                open.flows.clear();
            }
            open.files = files;
            open.revision = revision;
        }
        if open.site != session.site {
            // Calls under way end with what they began with.
            open.flows.values().for_each(|open| open.flow.shrink());
            open.flows.clear();
            open.site.clone_from(&session.site);
        }
        if is_latest && *open.connections != connections {
            let connections = Arc::new(connections);
            open.connections = Arc::clone(&connections);
            // Secrets may change under a session at work; what its instances have in their environment may not.
            open.flows.retain(|_, open| {
                let goes_on = open.flow.replace_connections(connections.clone());
                if !goes_on {
                    open.flow.shrink();
                }
                goes_on
            });
        }
        if let Some(flow) = open.get(setup) {
            return Ok(flow);
        }
        let workspace = Workspace::open(folder, &session.flow)?;
        let mut options = self.options(live, session)?;
        options.variant = setup.variant.as_deref().map(str::parse).transpose()?;
        options.environment_variables = setup.environment_variables.iter().cloned().collect();
        options.init = match &setup.init {
            Some(init) => init.read()?,
            None => JsonMap::new(),
        };
        options.connections = open.connections.clone();
        let flow = Arc::new(Session::open(&self.executor, workspace, options).await?);
        flow.prepare(&self.executor);
        if open.flows.len() >= MAX_SETUPS {
            open.close_one().await;
        }
        open.insert(setup.clone(), Arc::clone(&flow));
        Ok(flow)
    }

    fn options(&self, live: &Live, session: &SessionSpec) -> Result<SessionOptions, RunError> {
        let image: Reference = session.image.parse()?;
        let mut options = SessionOptions::new(image.clone());
        options.image = Some(image);
        let site = session.site.as_deref().map(str::parse).transpose();
        let site = site.map_err(|error: DigestError| {
            RunError::system("EnvironmentError", error.to_string())
        })?;
        options.site = site.map(|site| self.executor.site(&site)).transpose()?;
        options.slice = Arc::clone(&live.slice);
        let memory = session.instance_memory.min(live.limits.memory);
        options.limits = Limits {
            memory: usize::try_from(memory).unwrap_or(usize::MAX),
            wall_time: session.call_time,
            cpu_time: session.call_time,
            ..Limits::default()
        };
        options.longest_line = session.call_time;
        options.instances = live.limits.instances;
        options.wait = session.instance_wait;
        options.placeholders = Some(
            self.executor
                .placeholder_key(&session.id.workspace, &session.memory)?,
        );
        options.network = Some(self.gate(live, session)?);
        options.stored = Some(StoredOptions {
            owner: owner(&session.id),
            limit: session.stored_memory,
        });
        Ok(options)
    }

    /// What the session's requests go through.
    fn gate(&self, live: &Live, session: &SessionSpec) -> Result<Arc<Gate>, RunError> {
        if let Some(gate) = live.gate.get() {
            return Ok(Arc::clone(gate));
        }
        let requests = Arc::clone(&self.requests);
        let gate = session.network.gate(&session.id, &self.trust, requests)?;
        Ok(Arc::clone(live.gate.get_or_init(|| gate)))
    }

    /// Stores a session's idle instances and closes its flow, as far as all could be stored; jobs under way keep theirs.
    pub(crate) async fn hibernate(&self, session: &SessionId) -> Hibernated {
        let Some(live) = self.held().sessions.get(session).map(Arc::clone) else {
            return Hibernated::default();
        };
        // It runs guests.
        let stored = self.guests.spawn(async move {
            let mut open = live.open.lock().await;
            let mut stored = Hibernated::default();
            let mut kept = HashMap::new();
            for (setup, OpenFlow { flow, last_use }) in open.flows.drain() {
                // A job that was cancelled, or has just answered, gives back its instances a moment later.
                for _ in 0..LOOKS {
                    if !is_used(&flow) {
                        break;
                    }
                    tokio::time::sleep(LOOK).await;
                }
                let of_flow = flow.hibernate().await;
                // What a job gives back after this must find its pool, or it would be gone.
                let is_used = is_used(&flow);
                stored.in_use |= is_used;
                if is_used || !of_flow.kept.is_empty() {
                    kept.insert(setup, OpenFlow { flow, last_use });
                }
                stored = stored.and(of_flow);
            }
            open.flows = kept;
            stored
        });
        stored.await.unwrap_or_default().within_reason()
    }

    /// Drops a session's idle instances; jobs under way keep theirs.
    pub(crate) async fn shrink(&self, session: &SessionId) {
        let Some(live) = self.held().sessions.get(session).map(Arc::clone) else {
            return;
        };
        let mut open = live.open.lock().await;
        open.flows.values().for_each(|open| open.flow.shrink());
        open.flows.retain(|_, open| is_used(&open.flow));
    }

    /// Copies the stored instances of a session to another one.
    pub(crate) async fn fork(&self, from: SessionSpec, to: SessionSpec) -> Result<u64, String> {
        let executor = Arc::clone(&self.executor);
        let copy = move || {
            let bundle = from.image.parse().map_err(RunError::from)?;
            let (source, target) = (owner(&from.id), owner(&to.id));
            flowcell_executor::fork(
                &executor,
                &bundle,
                (Path::new(&from.folder), &source),
                (Path::new(&to.folder), &target),
            )
        };
        match self.guests.spawn_blocking(copy).await {
            Ok(Ok(copied)) => Ok(copied as u64),
            Ok(Err(error)) => Err(error.message),
            Err(_) => Err("the host failed".to_owned()),
        }
    }

    /// What a session holds here, as its flow's usual set-up has it.
    pub(crate) async fn inspect(&self, session: &SessionId) -> Holds {
        let nothing = || Holds {
            image: Prepared::None("its flow is not open".to_owned()),
            private_memory: 0,
        };
        let Some(live) = self.held().sessions.get(session).map(Arc::clone) else {
            return nothing();
        };
        let open = live.open.lock().await;
        let Some(flow) = open
            .flows
            .get(&Setup::default())
            .or(open.flows.values().next())
        else {
            return nothing();
        };
        let private = open.flows.values().map(|open| open.flow.private_memory());
        Holds {
            image: flow.flow.image_state(&self.executor).into(),
            private_memory: private.sum(),
        }
        .within_reason()
    }

    /// Ends a session, whose jobs have ended or were cancelled; waits until nothing of it is left, and says what it
    /// has used.
    pub(crate) async fn end(&self, session: &SessionId) -> Snapshot {
        let Some(live) = self.held().sessions.remove(session) else {
            return Snapshot {
                all: self.used(),
                ..Snapshot::default()
            };
        };
        live.jobs.close();
        // A job that is compiling sees only afterwards that it was cancelled. Guests that are slow to get ready for being
        // stored can be the session's doing. Both end by themselves, and the host need not wait for them.
        let left = async {
            tokio::time::timeout(END, live.jobs.wait()).await?;
            tokio::time::timeout(END, live.open.lock()).await
        };
        match left.await {
            Ok(mut open) => open.flows.clear(),
            Err(_) => tracing::warn!(?session, "something of a session goes on after its end"),
        }
        let compute = self.compute(&live.compute);
        Snapshot {
            all: self.used(),
            computes: compute.into_iter().collect(),
            sessions: vec![(session.clone(), live.slice.usage().into())],
        }
    }

    /// What is in use here, and of one session and its compute.
    pub(crate) fn snapshot(&self, of: &SessionId) -> Snapshot {
        let live = self.held().sessions.get(of).map(Arc::clone);
        let session = live
            .as_ref()
            .map(|live| (of.clone(), live.slice.usage().into()));
        let compute = live.and_then(|live| self.compute(&live.compute));
        Snapshot {
            all: self.used(),
            computes: compute.into_iter().collect(),
            sessions: session.into_iter().collect(),
        }
    }

    /// What all sessions here use.
    pub(crate) fn used(&self) -> Used {
        self.slice.usage().into()
    }

    /// What is in use here and was not told yet; it counts as told from now on.
    pub(crate) fn news(&self, told: &mut Told) -> Option<Snapshot> {
        let held = self.held();
        told.keep_computes(|id| held.computes.contains_key(id));
        let computes = held.computes.iter();
        let computes =
            computes.filter_map(|(id, slice)| Some((id, slice.upgrade()?.usage().into())));
        let sessions = held.sessions.iter();
        let sessions = sessions.map(|(id, live)| (id, live.slice.usage().into()));
        told.news(self.used(), computes, sessions)
    }

    /// What a compute uses here, if any of its sessions is here.
    pub(crate) fn compute(&self, id: &ComputeId) -> Option<(ComputeId, Used)> {
        let slice = self.held().computes.get(id)?.upgrade()?;
        Some((id.clone(), slice.usage().into()))
    }

    fn live(&self, session: &SessionSpec) -> Arc<Live> {
        let mut held = self.held();
        if let Some(live) = held.sessions.get(&session.id) {
            return Arc::clone(live);
        }
        let slice = held.slice(&session.compute, &self.slice);
        let live = Arc::new(Live {
            compute: session.compute.id.clone(),
            limits: *slice.limits(),
            slice: Slice::new(SliceLimits::UNLIMITED, Some(slice)),
            gate: OnceLock::new(),
            jobs: TaskTracker::new(),
            open: tokio::sync::Mutex::default(),
        });
        held.sessions.insert(session.id.clone(), Arc::clone(&live));
        live
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a job has a flow, or instances of it.
fn is_used(flow: &Arc<Session>) -> bool {
    Arc::strong_count(flow) > 1 || flow.is_used()
}

/// Who may start from a session's stored instances: that session, in the same of its lives.
fn owner(session: &SessionId) -> Owner {
    Owner {
        workspace: session.workspace.clone(),
        session: Some(format!("{}+{}", session.session, session.generation)),
    }
}

impl Held {
    fn slice(&mut self, compute: &ComputeSpec, host: &Arc<Slice>) -> Arc<Slice> {
        if let Some(slice) = self.computes.get(&compute.id).and_then(Weak::upgrade) {
            return slice;
        }
        self.computes.retain(|_, slice| slice.strong_count() > 0);
        let limits = SliceLimits {
            memory: compute.memory,
            cpu: compute.cpu_millis as f64 / 1000.0,
            instances: usize::try_from(compute.instances).unwrap_or(usize::MAX),
        };
        let slice = Slice::new(limits, Some(Arc::clone(host)));
        self.computes
            .insert(compute.id.clone(), Arc::downgrade(&slice));
        slice
    }
}
