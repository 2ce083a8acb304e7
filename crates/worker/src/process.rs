//! The worker process's side of the boundary.
//!
//! It serves one socket, which is its standard input, and is gone as soon as that closes: a host that dies, however it
//! dies, leaves no worker behind.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowcell_bundle::{CompileProcess, Compiler};
use flowcell_executor::RunError;
use tokio::io::{AsyncWriteExt as _, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::flows::Flows;
use crate::local;
use crate::network::RequestListener;
use crate::news::{Hear, Heard};
use crate::parts::Outlet;
use crate::spec::{Job, SessionId};
use crate::steps::{Frame, Frames, Steps};
use crate::usage::{Snapshot, Told};
use crate::wire::{
    self, Begin, FrameError, MAX_FRAME, MAX_HEARD, MAX_REQUESTED, Message, Operation, Reply,
    Request,
};
use crate::work::Answer;

/// How often what is in use is told while something is under way.
const TICK: Duration = Duration::from_millis(100);
/// Ticks without news after which what is in use without a job is taken to stay so.
const QUIET: u32 = 100;
/// News that wait to be sent, in bytes; what comes beyond that is not told.
const MAX_WAITING: usize = 32 << 20;

/// A worker that could not go on.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("standard input is no socket of a host")]
    Socket(#[source] std::io::Error),
    #[error("cannot set up the worker")]
    SetUp(#[from] local::SetUpError),
    #[error("the host sent what cannot be understood")]
    Frame(#[from] FrameError),
}

/// Runs a worker: `program` with `compile` as arguments is what compiles tenants' components.
pub fn main(program: PathBuf, compile: Vec<std::ffi::OsString>) -> ExitCode {
    close_others();
    match serve(program, compile) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a worker failed");
            ExitCode::FAILURE
        }
    }
}

/// Closes whatever was inherited besides the three standard streams, from a host that had it without knowing.
#[expect(unsafe_code, reason = "nothing else closes files that nobody owns")]
fn close_others() {
    // SAFETY: nothing of this program has been opened yet, so no file that is closed has an owner here.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if closed != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "files of the host's may be open in a worker");
    }
}

fn serve(program: PathBuf, compile: Vec<std::ffi::OsString>) -> Result<(), Failed> {
    let socket = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(StdStream::from)
        .map_err(Failed::Socket)?;
    socket.set_nonblocking(true).map_err(Failed::Socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(local::SetUpError::Threads)?;
    runtime.block_on(async {
        let socket = UnixStream::from_std(socket).map_err(Failed::Socket)?;
        let (reader, writer) = socket.into_split();
        let mut reader = BufReader::new(reader);
        let Some(begin) = wire::read(&mut reader, MAX_FRAME).await? else {
            return Ok(());
        };
        let begin: Begin = wire::decode(&begin)?;
        let compiler = CompileProcess::new(program, compile, begin.compile_limits());
        let progress = Arc::new(|step: &str| tracing::info!("{step}"));
        let (frames, sent) = mpsc::unbounded_channel();
        let requests = requested(frames.clone());
        let compiler = Compiler::Process(compiler);
        let (flows, _guests) = local::flows(&begin, compiler, progress, requests)?;
        let worker = Arc::new(Worker {
            flows,
            frames,
            waiting: AtomicUsize::new(0),
            jobs: Mutex::default(),
            told: Mutex::default(),
            active: Notify::new(),
        });
        tokio::spawn(Arc::clone(&worker).write(sent, writer));
        tokio::spawn(Arc::clone(&worker).watch());
        let ended = worker.read(reader).await;
        // At once, whatever guests are doing: should they be dropped one by one, they would be taken for given up, and
        // what they went on from be deleted.
        match ended {
            Ok(()) => std::process::exit(0),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a worker ends");
                std::process::exit(1)
            }
        }
    })
}

/// Tells the host of each request. None is left out, however many wait: a session can make so many a minute.
fn requested(frames: Frames) -> RequestListener {
    Arc::new(move |session, exchange| {
        let session = session.clone();
        match wire::encode(&Message::Requested { session, exchange }, MAX_REQUESTED) {
            Ok(message) => {
                // Fails when the host is gone.
                let _ = frames.send(vec![Frame { message, news: 0 }]);
            }
            Err(error) => tracing::error!(%error, "a request could not be told"),
        }
    })
}

struct Worker {
    flows: Arc<Flows>,
    frames: Frames,
    /// Bytes of news in `frames`.
    waiting: AtomicUsize,
    jobs: Mutex<HashMap<u64, Running>>,
    /// What the host knows of what is in use.
    told: Mutex<Told>,
    active: Notify,
}

/// A job.
struct Running {
    cancel: CancellationToken,
    /// Room for parts of its answer.
    window: Arc<Semaphore>,
}

impl Worker {
    async fn read(self: &Arc<Self>, mut reader: BufReader<OwnedReadHalf>) -> Result<(), Failed> {
        while let Some(request) = wire::read(&mut reader, MAX_FRAME).await? {
            match wire::decode(&request)? {
                Request::Do { id, operation } => self.perform(id, *operation),
                Request::Cancel { id } => {
                    if let Some(job) = self.jobs().get(&id) {
                        job.cancel.cancel();
                    }
                }
                Request::Taken { id, bytes } => {
                    if let Some(job) = self.jobs().get(&id) {
                        job.window.add_permits(bytes as usize);
                    }
                }
            }
        }
        Ok(())
    }

    async fn write(
        self: Arc<Self>,
        mut frames: mpsc::UnboundedReceiver<Vec<Frame>>,
        writer: OwnedWriteHalf,
    ) {
        let mut writer = BufWriter::new(writer);
        while let Some(together) = frames.recv().await {
            let written = async {
                for frame in together {
                    self.waiting.fetch_sub(frame.news, Ordering::Relaxed);
                    wire::write(&mut writer, &frame.message).await?;
                }
                if frames.is_empty() {
                    writer.flush().await?;
                }
                Ok::<_, FrameError>(())
            };
            // The host is gone, which the reader finds too.
            if written.await.is_err() {
                return;
            }
        }
    }

    fn perform(self: &Arc<Self>, id: u64, operation: Operation) {
        let worker = Arc::clone(self);
        let operation = match operation {
            // At once: what comes next may be its end.
            Operation::Work(job) => return self.begin(id, job),
            operation => operation,
        };
        tokio::spawn(async move {
            match operation {
                Operation::Work(job) => worker.begin(id, job),
                Operation::Open(session) => {
                    let opened = worker.flows.open(session).await;
                    worker.done(id, Reply::Opened(opened));
                }
                Operation::Hibernate(session) => {
                    let hibernated = worker.flows.hibernate(&session).await;
                    worker.tell(&worker.flows.snapshot(&session));
                    worker.done(id, Reply::Hibernated(hibernated));
                }
                Operation::Shrink(session) => {
                    worker.flows.shrink(&session).await;
                    worker.tell(&worker.flows.snapshot(&session));
                    worker.done(id, Reply::Ended);
                }
                Operation::Fork { from, to } => {
                    let forked = worker.flows.fork(from, to).await;
                    worker.done(id, Reply::Forked(forked));
                }
                Operation::Inspect(session) => {
                    let holds = worker.flows.inspect(&session).await;
                    worker.done(id, Reply::Holds(holds));
                }
                Operation::End(session) => {
                    let last = worker.flows.end(&session).await;
                    worker.tell(&last);
                    worker.told().forget(&session);
                    worker.done(id, Reply::Ended);
                }
            }
        });
    }

    fn begin(self: &Arc<Self>, id: u64, job: Job) {
        let cancel = CancellationToken::new();
        let window = Outlet::window();
        let running = Running {
            cancel: cancel.clone(),
            window: Arc::clone(&window),
        };
        self.jobs().insert(id, running);
        self.active.notify_one();
        let session = job.session.id.clone();
        let steps = Arc::new(Steps::new(self.frames.clone()));
        let hear = self.hear(id, &steps);
        let outlet = Outlet::new(window, {
            let steps = Arc::clone(&steps);
            move |text| part(id, text, &steps)
        });
        let done = {
            let (worker, steps) = (Arc::clone(self), Arc::clone(&steps));
            move |answer| worker.answered(id, &session, answer, &steps)
        };
        let job = self.flows.begin(job, hear, outlet, cancel, done);
        self.flows.spawn(steps.follow(job));
    }

    fn answered(&self, id: u64, session: &SessionId, answer: Option<Answer>, steps: &Steps) {
        self.jobs().remove(&id);
        let done = answer.and_then(|answer| done(id, Reply::Answer(answer)));
        let before = steps.take();
        let news = |told: &mut Told| told.news_of(&self.flows.snapshot(session));
        self.tell_news(before, news, done);
        // What is in use changes once more when the rest of the job is dropped.
        self.active.notify_one();
    }

    fn hear(self: &Arc<Self>, id: u64, steps: &Arc<Steps>) -> Hear {
        let (worker, steps) = (Arc::clone(self), Arc::clone(steps));
        Arc::new(move |heard| {
            let is_news = matches!(heard, Heard::News(_));
            // A message that is too long for news is not told.
            let Ok(message) = wire::encode(&Message::Heard { id, heard }, MAX_HEARD) else {
                return;
            };
            let news = if is_news { message.len() } else { 0 };
            if worker.waiting.fetch_add(news, Ordering::Relaxed) + news > MAX_WAITING {
                worker.waiting.fetch_sub(news, Ordering::Relaxed);
                return;
            }
            steps.tell(Frame { message, news });
        })
    }

    fn done(&self, id: u64, reply: Reply) {
        self.send(done(id, reply).into_iter().collect());
    }

    /// Tells the host what is in use, as far as it does not know it.
    fn tell(&self, used: &Snapshot) {
        self.tell_news(Vec::new(), |told| told.news_of(used), None);
    }

    /// Tells the host what is new of what is in use, between other frames; whether there was anything.
    fn tell_news(
        &self,
        before: Vec<Frame>,
        news: impl FnOnce(&mut Told) -> Option<Snapshot>,
        after: Option<Frame>,
    ) -> bool {
        let mut frames = before;
        let mut told = self.told();
        let news = news(&mut told);
        let is_new = news.is_some();
        if let Some(news) = news {
            match wire::encode(&Message::Used(news), MAX_FRAME) {
                Ok(message) => frames.push(Frame { message, news: 0 }),
                Err(error) => tracing::error!(%error, "what is in use could not be told"),
            }
        }
        frames.extend(after);
        // While `told` is locked, so that what is newer is sent later.
        self.send(frames);
        is_new
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, frames: Vec<Frame>) {
        if !frames.is_empty() {
            // Fails when the host is gone.
            let _ = self.frames.send(frames);
        }
    }

    /// Tells what is in use for as long as it changes.
    async fn watch(self: Arc<Self>) {
        loop {
            self.active.notified().await;
            let mut quiet = 0;
            while quiet < QUIET {
                tokio::time::sleep(TICK).await;
                let changed = self.tell_news(Vec::new(), |told| self.flows.news(told), None);
                let is_idle = self.jobs().is_empty();
                // What a job held is given back some time after its answer.
                if !changed && is_idle && self.flows.used().busy() == 0 {
                    break;
                }
                quiet = if changed || !is_idle { 0 } else { quiet + 1 };
            }
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<u64, Running>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn part(id: u64, text: String, steps: &Steps) {
    match wire::encode(&Message::Part { id, text }, MAX_FRAME) {
        Ok(message) => steps.tell(Frame { message, news: 0 }),
        Err(error) => tracing::error!(%error, "a part of an answer could not be sent"),
    }
}

/// The end of an operation; `None` only if it cannot be sent, which is logged.
fn done(id: u64, reply: Reply) -> Option<Frame> {
    let message = wire::encode(&Message::Done { id, reply }, MAX_FRAME).or_else(|error| {
        let error = RunError::user(
            "OutputLimitExceeded",
            format!("The answer is too long: {error}."),
        );
        let reply = Reply::Answer(Answer::failed(error));
        wire::encode(&Message::Done { id, reply }, MAX_FRAME)
    });
    message
        .map(|message| Frame { message, news: 0 })
        .inspect_err(|error| tracing::error!(%error, "an answer could not be sent"))
        .ok()
}
