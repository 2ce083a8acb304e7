//! All workers of a host.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use flowcell_bundle::{CompileLimits, CompileProcess, Compiler, Progress};
use flowcell_egress::Exchange;
use flowcell_executor::RunError;

use crate::flows::Flows;
use crate::local::{self, Guests, SetUpError};
use crate::network::RequestListener;
use crate::news::Hear;
use crate::parts::Taker;
use crate::placement::{Account, Placements};
use crate::remote::{Listening, Owner, Process, RequestError, WorkerCommand};
use crate::spec::{ComputeId, Job, SessionId, SessionSpec};
use crate::stored::{Hibernated, Holds};
use crate::usage::{Snapshot, Used};
use crate::wire::{Begin, FrameError, Operation, Reply};
use crate::work::Answer;

/// A worker that lived this long was not in trouble from its start.
const SOUND: Duration = Duration::from_secs(60);
/// Ends in a row after which a worker is started again at once.
const AT_ONCE: u32 = 3;
/// Longest rest before a worker is started again.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// A worker that takes longer to end a session is stuck, and is killed.
const END_TIME: Duration = Duration::from_secs(30);
/// How long others wait for a worker to store or drop a session's instances: that it takes long can be the session's doing,
/// and goes on.
const LEAVE_TIME: Duration = Duration::from_secs(20);

/// How a host's workers are set up.
pub struct WorkersSettings {
    /// Processes for the sessions of all workspaces but the dedicated ones; 0 to run all sessions in this process.
    pub count: usize,
    /// Workspaces that have a process of their own.
    pub dedicated: Vec<String>,
    /// Memory of all instances, in bytes; each worker has an equal share.
    pub memory: u64,
    /// Instances that may be alive at once; each worker has an equal share.
    pub instances: u32,
    /// Most memory of any instance, in bytes.
    pub instance_memory: u64,
    /// Threads that run guests, in each worker.
    pub threads: u32,
    /// The folder of the bundle store.
    pub store: PathBuf,
    /// What the compilation of a tenant's component may use.
    pub compile: CompileLimits,
    /// How a worker's process is started.
    pub worker: WorkerCommand,
    /// How a process that compiles is started.
    pub compiler: WorkerCommand,
    /// Told at the start of each long step in this process.
    pub progress: Arc<Progress>,
    /// Hears of the requests that guests make.
    pub requests: RequestListener,
}

/// What is to run sessions cannot.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The worker's process ended.
    #[error(
        "the worker process that ran session {session} has ended, and with it what the session had in memory; call again: the session opens anew"
    )]
    Lost {
        /// The session.
        session: String,
    },
    /// The worker's process ended too often.
    #[error(
        "the worker process of session {session} has ended {times} times in a row and is not started again for {seconds} s; call again then"
    )]
    Resting {
        /// The session.
        session: String,
        /// How often.
        times: u32,
        /// For how long, in seconds.
        seconds: u64,
    },
    /// A process could not be started.
    #[error("the worker process of session {session} cannot be started; call again later")]
    Start {
        /// The session.
        session: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is asked for is too long to be sent to a worker.
    #[error("what is asked of session {session} has {size} bytes, and {limit} are allowed")]
    TooLong {
        /// The session.
        session: String,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

/// How many workers there are, and what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Processes that are alive.
    pub alive: usize,
    /// Processes that were started in place of one that had ended.
    pub restarts: u64,
    /// The sessions in each worker.
    pub sessions: Vec<usize>,
}

/// The workers of a host.
#[derive(Debug, Clone)]
pub struct Workers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    slots: Vec<Slot>,
    /// Slots that are a workspace's own.
    dedicated: Vec<(String, usize)>,
    /// Slots of all others.
    shared: Vec<usize>,
    placements: Mutex<Placements>,
    memory: u64,
    restarts: AtomicU64,
    requests: Heeded,
}

/// Who hears of requests.
struct Heeded(RequestListener);

impl std::fmt::Debug for Heeded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Heeded")
    }
}

/// A place for a worker.
#[derive(Debug)]
enum Slot {
    Here { flows: Arc<Flows>, _guests: Guests },
    Process(Box<Seat>),
}

/// A place for a process.
#[derive(Debug)]
struct Seat {
    worker: WorkerCommand,
    begin: Begin,
    state: Mutex<SeatState>,
}

#[derive(Debug, Default)]
struct SeatState {
    process: Option<Arc<Process>>,
    was_started: bool,
    started: Option<Instant>,
    /// Ends in a row.
    ends: u32,
    rests_until: Option<Instant>,
    account: Account,
}

impl Seat {
    fn state(&self) -> MutexGuard<'_, SeatState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SeatState {
    /// Notes an end that nobody has asked for.
    fn ended(&mut self, now: Instant) {
        let lived = self.started.map_or(Duration::ZERO, |started| now - started);
        self.ends = if lived >= SOUND {
            1
        } else {
            self.ends.saturating_add(1)
        };
        self.rests_until = rest(self.ends).map(|rest| now + rest);
    }
}

/// How long a worker rests that has ended so often in a row.
fn rest(ends: u32) -> Option<Duration> {
    let beyond = ends.checked_sub(AT_ONCE)?;
    let rest = Duration::from_secs(1) * 2_u32.saturating_pow(beyond.min(16));
    Some(rest.min(LONGEST_REST))
}

impl Workers {
    /// Sets up the workers. Processes are started when they get their first session.
    ///
    /// # Errors
    /// When sessions are to run in this process and it lacks what they need.
    pub fn new(settings: WorkersSettings) -> Result<Self, RunError> {
        let workers = (settings.count + settings.dedicated.len()).max(1);
        let share = u32::try_from(workers).unwrap_or(u32::MAX);
        let begin = Begin {
            store: settings.store.into(),
            memory: settings.memory / u64::from(share),
            instances: (settings.instances / share).max(1),
            instance_memory: settings.instance_memory,
            threads: settings.threads,
            compile_memory: settings.compile.memory,
            compile_seconds: settings.compile.cpu_seconds,
        };
        let memory = begin.memory.saturating_mul(workers as u64);
        let slots = if settings.count == 0 {
            let WorkerCommand { program, arguments } = settings.compiler;
            let compiler = CompileProcess::new(program, arguments, settings.compile);
            let requests = Arc::clone(&settings.requests);
            let compiler = Compiler::Process(compiler);
            let made = local::flows(&begin, compiler, settings.progress, requests);
            let (flows, guests) = made.map_err(|error| match error {
                SetUpError::Executor(error) => error,
                SetUpError::Threads(_) => {
                    RunError::system("SystemErrorException", error.to_string())
                }
            })?;
            vec![Slot::Here {
                flows,
                _guests: guests,
            }]
        } else {
            let seat = || {
                Slot::Process(Box::new(Seat {
                    worker: settings.worker.clone(),
                    begin: begin.clone(),
                    state: Mutex::default(),
                }))
            };
            std::iter::repeat_with(seat).take(workers).collect()
        };
        let shared = settings.count.max(1);
        Ok(Self {
            inner: Arc::new(Inner {
                slots,
                dedicated: settings.dedicated.into_iter().zip(shared..).collect(),
                shared: (0..shared).collect(),
                placements: Mutex::default(),
                memory,
                restarts: AtomicU64::new(0),
                requests: Heeded(settings.requests),
            }),
        })
    }

    /// Makes sure of a session's base image, in the worker that the session will run in.
    ///
    /// # Errors
    /// When there is no such worker; inside, why the image cannot be used.
    pub async fn open(&self, session: SessionSpec) -> Result<Result<(), String>, WorkerError> {
        let worker = self.place(&session);
        let id = session.id.clone();
        let reply = self
            .request(worker, &id, Operation::Open(session), None)
            .await?;
        match reply {
            Some(Reply::Opened(opened)) => Ok(opened),
            _ => Err(lost(&id)),
        }
    }

    /// Does some work in a session, which is opened if it is not. Dropping the future cancels the work. An answer that comes in
    /// parts goes to `taker`, all of it before this is done.
    ///
    /// # Errors
    /// When there is no worker for it, or it ended.
    pub async fn perform(
        &self,
        job: Job,
        hear: Hear,
        taker: Option<Taker>,
    ) -> Result<Answer, WorkerError> {
        let worker = self.place(&job.session);
        let id = job.session.id.clone();
        let listening = Listening { hear, taker };
        let reply = self
            .request(worker, &id, Operation::Work(job), Some(listening))
            .await?;
        match reply {
            Some(Reply::Answer(answer)) => Ok(answer),
            _ => Err(lost(&id)),
        }
    }

    /// Stores a session's idle instances and closes its flow; work under way goes on. `None` when there is nothing of it in
    /// memory, or its worker has ended.
    pub async fn hibernate(&self, session: &SessionId) -> Option<Hibernated> {
        let reply = self.leave(session, Operation::Hibernate(session.clone()));
        match tokio::time::timeout(LEAVE_TIME, reply).await {
            Ok(Some(Reply::Hibernated(hibernated))) => Some(hibernated.within_reason()),
            Ok(_) => None,
            Err(_) => Some(Hibernated {
                in_use: true,
                ..Hibernated::default()
            }),
        }
    }

    /// Drops a session's idle instances, with what they hold; work under way goes on.
    pub async fn shrink(&self, session: &SessionId) {
        let left = self.leave(session, Operation::Shrink(session.clone()));
        if tokio::time::timeout(LEAVE_TIME, left).await.is_err() {
            tracing::warn!(?session, "a session's instances are not dropped yet");
        }
    }

    /// What a session holds of its worker; `None` when that is nothing.
    pub async fn inspect(&self, session: &SessionId) -> Option<Holds> {
        let reply = self.leave(session, Operation::Inspect(session.clone()));
        match reply.await? {
            Reply::Holds(holds) => Some(holds.within_reason()),
            _ => None,
        }
    }

    /// Copies the stored instances of a session to another one, in that one's worker.
    ///
    /// # Errors
    /// When there is no such worker; inside, why nothing could be copied.
    pub async fn fork(
        &self,
        from: SessionSpec,
        to: SessionSpec,
    ) -> Result<Result<u64, String>, WorkerError> {
        let worker = self.place(&to);
        let id = to.id.clone();
        let operation = Operation::Fork { from, to };
        match self.request(worker, &id, operation, None).await? {
            Some(Reply::Forked(forked)) => Ok(forked),
            _ => Err(lost(&id)),
        }
    }

    /// Ends a session's life: what is under way was cancelled before, and nothing of it is left after this.
    pub async fn end(&self, session: &SessionId) {
        let left = self.leave(session, Operation::End(session.clone()));
        if tokio::time::timeout(END_TIME, left).await.is_err()
            && let Some(process) = self.process_of(session)
        {
            tracing::error!(
                worker = process.id,
                "a worker process does not end a session"
            );
            process.kill();
        }
        self.placements().remove(session);
    }

    /// The process that a session is in.
    fn process_of(&self, session: &SessionId) -> Option<Arc<Process>> {
        let worker = self.placements().worker(session)?;
        match self.inner.slots.get(worker)? {
            Slot::Process(seat) => seat.state().process.clone(),
            Slot::Here { .. } => None,
        }
    }

    /// Does what needs no worker when there is none.
    async fn leave(&self, session: &SessionId, operation: Operation) -> Option<Reply> {
        let worker = self.placements().worker(session)?;
        if let Some(Slot::Here { flows, .. }) = self.inner.slots.get(worker) {
            return local::perform(flows, operation, None).await;
        }
        match self.process_of(session)?.request(operation, None).await {
            Ok(reply) => Some(reply),
            Err(RequestError::Gone) => None,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a worker did not do what it was asked for"
                );
                None
            }
        }
    }

    /// What a compute has used is of no interest any more.
    pub fn forget(&self, compute: &ComputeId) {
        self.placements().forget(compute);
    }

    /// What a session uses.
    pub fn session(&self, session: &SessionId) -> Used {
        for slot in &self.inner.slots {
            if let Slot::Here { flows, .. } = slot {
                let here = flows.snapshot(session);
                self.placements().take_in(0, here);
            }
        }
        self.placements().session(session)
    }

    /// What a compute uses; `None` when none of its sessions has run.
    pub fn compute(&self, compute: &ComputeId) -> Option<Used> {
        for slot in &self.inner.slots {
            if let Slot::Here { flows, .. } = slot {
                let here = Snapshot {
                    computes: flows.compute(compute).into_iter().collect(),
                    ..Snapshot::default()
                };
                self.placements().take_in(0, here);
            }
        }
        self.placements().compute(compute)
    }

    /// What all sessions together use.
    pub fn used(&self) -> Used {
        let slots = self.inner.slots.iter();
        let used = slots.map(|slot| match slot {
            Slot::Here { flows, .. } => flows.used(),
            Slot::Process(seat) => seat.state().account.used(),
        });
        used.fold(Used::default(), Used::and)
    }

    /// Memory that all sessions together may use, in bytes.
    pub fn memory(&self) -> u64 {
        self.inner.memory
    }

    /// How many workers there are, and what is in them.
    pub fn counts(&self) -> Counts {
        let alive = self.inner.slots.iter().filter(|slot| match slot {
            Slot::Here { .. } => false,
            Slot::Process(seat) => seat.state().process.is_some(),
        });
        let alive = alive.count();
        let placements = self.placements();
        Counts {
            alive,
            restarts: self.inner.restarts.load(Ordering::Relaxed),
            sessions: (0..self.inner.slots.len())
                .map(|worker| placements.sessions(worker))
                .collect(),
        }
    }

    /// Ends all worker processes.
    pub async fn stop(&self) {
        for slot in &self.inner.slots {
            if let Slot::Process(seat) = slot {
                let process = seat.state().process.clone();
                if let Some(process) = process
                    && tokio::time::timeout(END_TIME, process.stop())
                        .await
                        .is_err()
                {
                    process.kill();
                }
            }
        }
    }

    /// The worker of a session.
    fn place(&self, session: &SessionSpec) -> usize {
        let inner = &self.inner;
        let workspace = &session.id.workspace;
        let own = inner.dedicated.iter().find(|(name, _)| name == workspace);
        let own = own.map(|(_, worker)| [*worker]);
        let among = own.as_ref().map_or(inner.shared.as_slice(), |own| own);
        let used = |worker: usize| match inner.slots.get(worker) {
            Some(Slot::Process(seat)) => seat.state().account.used().memory,
            _ => 0,
        };
        let compute = &session.compute;
        let placed = self
            .placements()
            .place(&session.id, &compute.id, compute.memory, among, used);
        placed.unwrap_or(0)
    }

    /// Does something in a worker; `None` when the work was cancelled there.
    async fn request(
        &self,
        worker: usize,
        session: &SessionId,
        operation: Operation,
        listening: Option<Listening>,
    ) -> Result<Option<Reply>, WorkerError> {
        match self.inner.slots.get(worker) {
            Some(Slot::Here { flows, .. }) => Ok(local::perform(flows, operation, listening).await),
            Some(Slot::Process(seat)) => {
                let process = self.process(worker, seat, session)?;
                match process.request(operation, listening).await {
                    Ok(reply) => Ok(Some(reply)),
                    Err(RequestError::Gone) => Err(lost(session)),
                    Err(RequestError::Frame(FrameError::TooLong { size, limit })) => {
                        Err(WorkerError::TooLong {
                            session: session.session.clone(),
                            size,
                            limit,
                        })
                    }
                    Err(RequestError::Frame(error)) => Err(WorkerError::Start {
                        session: session.session.clone(),
                        source: std::io::Error::other(error),
                    }),
                }
            }
            None => Err(lost(session)),
        }
    }

    /// The process in a seat; it is started if there is none.
    fn process(
        &self,
        worker: usize,
        seat: &Seat,
        session: &SessionId,
    ) -> Result<Arc<Process>, WorkerError> {
        let mut state = seat.state();
        if let Some(process) = &state.process {
            return Ok(Arc::clone(process));
        }
        let now = Instant::now();
        if let Some(until) = state.rests_until.filter(|until| *until > now) {
            return Err(WorkerError::Resting {
                session: session.session.clone(),
                times: state.ends,
                seconds: (until - now).as_secs() + 1,
            });
        }
        let owner = Occupied {
            workers: Arc::downgrade(&self.inner),
            worker,
        };
        let started = Process::start(&seat.worker, &seat.begin, owner);
        let process = started.map_err(|source| {
            state.ended(now);
            WorkerError::Start {
                session: session.session.clone(),
                source,
            }
        })?;
        if std::mem::replace(&mut state.was_started, true) {
            self.inner.restarts.fetch_add(1, Ordering::Relaxed);
        }
        state.started = Some(now);
        state.process = Some(Arc::clone(&process));
        Ok(process)
    }

    fn placements(&self) -> MutexGuard<'_, Placements> {
        self.inner.placements()
    }
}

fn lost(session: &SessionId) -> WorkerError {
    WorkerError::Lost {
        session: session.session.clone(),
    }
}

impl Inner {
    fn placements(&self) -> MutexGuard<'_, Placements> {
        self.placements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The seat of a process.
struct Occupied {
    workers: Weak<Inner>,
    worker: usize,
}

impl Occupied {
    fn with(&self, tell: impl FnOnce(&Inner, &Seat)) {
        if let Some(inner) = self.workers.upgrade()
            && let Some(Slot::Process(seat)) = inner.slots.get(self.worker)
        {
            tell(&inner, seat);
        }
    }
}

impl Owner for Occupied {
    fn used(&self, used: Snapshot) {
        self.with(|inner, seat| {
            let begin = &seat.begin;
            let all = used.all.at_most(begin.memory, u64::from(begin.instances));
            seat.state().account.set(all);
            inner.placements().take_in(self.worker, used);
        });
    }

    fn requested(&self, session: &SessionId, exchange: Exchange) {
        self.with(|inner, _| {
            if inner.placements().was_in(session, self.worker) {
                (inner.requests.0)(session, exchange);
            } else {
                tracing::warn!(
                    ?session,
                    ?exchange,
                    "a worker told of a request of a session that it does not have"
                );
            }
        });
    }

    fn ended(&self, process: &Arc<Process>) {
        self.with(|inner, seat| {
            let mut state = seat.state();
            state.process = None;
            state.account.close();
            if !process.is_ending() {
                state.ended(Instant::now());
            }
            drop(state);
            inner.placements().close(self.worker);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_ends_again_and_again_rests_longer_and_longer() {
        let now = Instant::now();
        let mut state = SeatState::default();
        let mut rests = Vec::new();
        for _ in 0..9 {
            state.started = Some(now);
            state.ended(now);
            rests.push(state.rests_until.map(|until| (until - now).as_secs()));
        }
        let expected = [None, None, Some(1), Some(2), Some(4), Some(8), Some(16)];
        assert_eq!(rests[..7], expected);
        assert_eq!(rests[7..], [Some(30), Some(30)]);
        state.ended(now + SOUND);
        assert_eq!((state.ends, state.rests_until), (1, None));
    }
}
