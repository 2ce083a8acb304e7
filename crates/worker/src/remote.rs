//! The host's side of a worker process.
//!
//! Whatever comes from it is checked: it runs tenants' code. A worker that says what it must not is killed, and so is
//! whatever is left of one whose socket has closed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowcell_egress::Exchange;
use tokio::io::{AsyncWriteExt as _, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::news::Hear;
use crate::parts::{Part, Taker, WINDOW, room};
use crate::spec::SessionId;
use crate::usage::Snapshot;
use crate::wire::{
    self, Begin, FrameError, MAX_FRAME, MAX_HEARD, MAX_REQUESTED, Message, Operation, Reply,
    Request,
};

/// Variables of the host's environment that a worker gets; all others may be secrets.
const ENVIRONMENT: [&str; 3] = ["RUST_BACKTRACE", "RUST_LOG", "TMPDIR"];

/// How a worker's process is started: a program whose process calls [`main`](crate::main) when it gets these arguments.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A worker process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its identifier.
    pub(crate) id: u32,
    /// Frames for it; `None` when no more are to come, and it is to end.
    requests: Mutex<Option<mpsc::UnboundedSender<Vec<u8>>>>,
    pending: Mutex<Pending>,
    kill: CancellationToken,
    gone: CancellationToken,
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    is_gone: bool,
}

/// An operation whose reply is awaited.
struct Waiting {
    kind: Kind,
    listening: Option<Listening>,
    /// Bytes of parts that came and were not yet taken.
    under_way: Arc<AtomicUsize>,
    reply: oneshot::Sender<Reply>,
}

/// Who is told of a job before its answer is there.
#[derive(Clone)]
pub(crate) struct Listening {
    /// Whoever hears of what happens.
    pub(crate) hear: Hear,
    /// Whoever takes the answer's parts, where it comes in parts.
    pub(crate) taker: Option<Taker>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Waiting")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Which reply fits an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Opened,
    Answer,
    Hibernated,
    Forked,
    Holds,
    Ended,
}

impl Kind {
    fn of_operation(operation: &Operation) -> Self {
        match operation {
            Operation::Open(_) => Self::Opened,
            Operation::Work(_) => Self::Answer,
            Operation::Hibernate(_) => Self::Hibernated,
            Operation::Fork { .. } => Self::Forked,
            Operation::Inspect(_) => Self::Holds,
            Operation::Shrink(_) | Operation::End(_) => Self::Ended,
        }
    }

    fn of_reply(reply: &Reply) -> Self {
        match reply {
            Reply::Opened(_) => Self::Opened,
            Reply::Answer(_) => Self::Answer,
            Reply::Hibernated(_) => Self::Hibernated,
            Reply::Forked(_) => Self::Forked,
            Reply::Holds(_) => Self::Holds,
            Reply::Ended => Self::Ended,
        }
    }
}

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The process has ended.
    #[error("the worker process has ended")]
    Gone,
    /// The request cannot be sent.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Why a worker is not listened to any more.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("its socket closed")]
    Closed,
    #[error("it was told to end")]
    Killed,
    #[error("it sent {0}")]
    Frame(#[from] FrameError),
    #[error("it told of job {0}, which nobody has asked for")]
    UnknownJob(u64),
    #[error("it gave a reply of another kind than asked for")]
    WrongReply,
    #[error("it sent more of job {0}'s answer than fits its window")]
    TooMuch(u64),
}

/// Who is told about a process.
pub(crate) trait Owner: Send + Sync + 'static {
    /// It told what is in use.
    fn used(&self, used: Snapshot);
    /// A guest of a session has made a request.
    fn requested(&self, session: &SessionId, exchange: Exchange);
    /// It has ended. Whoever waits for it hears of it after this.
    fn ended(&self, process: &Arc<Process>);
}

impl Process {
    /// Starts a worker.
    pub(crate) fn start(
        command: &WorkerCommand,
        begin: &Begin,
        owner: impl Owner,
    ) -> io::Result<Arc<Self>> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut starting = Command::new(&command.program);
        starting
            .args(&command.arguments)
            .arg0("flowcell")
            .env_clear()
            .envs(
                ENVIRONMENT
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null());
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        let (requests, sent) = mpsc::unbounded_channel();
        let begin = wire::encode(begin, MAX_FRAME).map_err(io::Error::other)?;
        let child = starting.spawn()?;
        // Closes the worker's end here, so that the socket closes with the worker.
        drop(starting);
        // The receiver is here.
        let _ = requests.send(begin);
        let process = Arc::new(Self {
            id: child.id(),
            requests: Mutex::new(Some(requests)),
            pending: Mutex::default(),
            kill: CancellationToken::new(),
            gone: CancellationToken::new(),
        });
        tracing::info!(worker = process.id, "a worker process started");
        tokio::spawn(write(sent, writer));
        tokio::spawn(Arc::clone(&process).serve(reader, child, owner));
        Ok(process)
    }

    /// Asks for something and waits for the reply. Dropping the future cancels a job.
    pub(crate) async fn request(
        &self,
        operation: Operation,
        listening: Option<Listening>,
    ) -> Result<Reply, RequestError> {
        let kind = Kind::of_operation(&operation);
        let (sender, reply) = oneshot::channel();
        let waiting = Waiting {
            kind,
            listening,
            under_way: Arc::default(),
            reply: sender,
        };
        let id = self.pending().add(waiting).ok_or(RequestError::Gone)?;
        let asked = Asked { process: self, id };
        let operation = Box::new(operation);
        let request = wire::encode(&Request::Do { id, operation }, MAX_FRAME)?;
        self.send(request);
        let reply = reply.await.map_err(|_| RequestError::Gone);
        drop(asked);
        reply
    }

    /// Lets the process end when it has read what was sent; waits for that.
    pub(crate) async fn stop(&self) {
        drop(self.requests().take());
        self.gone.cancelled().await;
    }

    /// Kills the process.
    pub(crate) fn kill(&self) {
        self.kill.cancel();
    }

    /// Whether it was told to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.requests().is_none()
    }

    fn send(&self, request: Vec<u8>) {
        if let Some(requests) = &*self.requests() {
            // Fails when the process is gone, of which whoever waits hears.
            let _ = requests.send(request);
        }
    }

    async fn serve(self: Arc<Self>, reader: OwnedReadHalf, mut child: Child, owner: impl Owner) {
        let end = tokio::select! {
            end = self.read(reader, &owner) => end,
            () = self.kill.cancelled() => End::Killed,
        };
        if let Err(error) = child.kill() {
            tracing::error!(worker = self.id, %error, "a worker process could not be killed");
        }
        let status = tokio::task::spawn_blocking(move || child.wait()).await;
        self.log(&end, status.map_err(io::Error::other).flatten());
        owner.ended(&self);
        let waiting = {
            let mut pending = self.pending();
            pending.is_gone = true;
            std::mem::take(&mut pending.waiting)
        };
        // Whoever waits finds its sender gone.
        drop(waiting);
        self.gone.cancel();
    }

    fn log(&self, end: &End, status: io::Result<ExitStatus>) {
        let worker = self.id;
        match status {
            Ok(status) if self.is_ending() => {
                tracing::info!(worker, %status, "a worker process ended");
            }
            Ok(status) => {
                let why = end as &dyn std::error::Error;
                tracing::error!(worker, %status, why, "a worker process is lost");
            }
            Err(error) => tracing::error!(worker, %error, "a worker process cannot be waited for"),
        }
    }

    async fn read(self: &Arc<Self>, reader: OwnedReadHalf, owner: &impl Owner) -> End {
        let mut reader = BufReader::new(reader);
        loop {
            let taken = match wire::read(&mut reader, MAX_FRAME).await {
                Ok(Some(message)) => self.take(&message, owner),
                Ok(None) => return End::Closed,
                Err(error) => return error.into(),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    fn take(self: &Arc<Self>, bytes: &[u8], owner: &impl Owner) -> Result<(), End> {
        match wire::decode(bytes)? {
            Message::Used(used) => owner.used(used),
            Message::Heard { id, heard } => {
                at_most(bytes, MAX_HEARD)?;
                let listening = {
                    let pending = self.pending();
                    let waiting = pending.known(id)?;
                    waiting.and_then(|waiting| waiting.listening.clone())
                };
                if let Some(listening) = listening {
                    (listening.hear)(heard);
                }
            }
            Message::Part { id, text } => self.take_part(id, text)?,
            Message::Requested { session, exchange } => {
                at_most(bytes, MAX_REQUESTED)?;
                owner.requested(&session, exchange);
            }
            Message::Done { id, reply } => {
                let waiting = {
                    let mut pending = self.pending();
                    let kind = pending.known(id)?.map(|waiting| waiting.kind);
                    if kind.is_some_and(|kind| kind != Kind::of_reply(&reply)) {
                        return Err(End::WrongReply);
                    }
                    pending.waiting.remove(&id)
                };
                if let Some(waiting) = waiting {
                    // Whoever waited may have gone at this moment.
                    let _ = waiting.reply.send(reply);
                }
            }
        }
        Ok(())
    }

    fn take_part(self: &Arc<Self>, id: u64, text: String) -> Result<(), End> {
        let bytes = room(&text);
        let (under_way, taker) = {
            let pending = self.pending();
            // Nobody waits for the rest of what was cancelled.
            let Some(waiting) = pending.known(id)? else {
                return Ok(());
            };
            let taker = waiting.listening.as_ref();
            let taker = taker.and_then(|listening| listening.taker.clone());
            (Arc::clone(&waiting.under_way), taker)
        };
        let before = under_way.fetch_add(bytes as usize, Ordering::AcqRel);
        if before + bytes as usize > WINDOW {
            return Err(End::TooMuch(id));
        }
        let process = Arc::downgrade(self);
        let part = Part::new(text, move || {
            under_way.fetch_sub(bytes as usize, Ordering::AcqRel);
            if let Some(process) = process.upgrade()
                && let Ok(taken) = wire::encode(&Request::Taken { id, bytes }, MAX_FRAME)
            {
                process.send(taken);
            }
        });
        if let Some(taker) = taker {
            // Whoever took the parts may have gone at this moment.
            let _ = taker.send(part);
        }
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, Option<mpsc::UnboundedSender<Vec<u8>>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn at_most(message: &[u8], limit: usize) -> Result<(), FrameError> {
    if message.len() > limit {
        let size = message.len();
        return Err(FrameError::TooLong { size, limit });
    }
    Ok(())
}

impl Pending {
    /// The number under which something waits; `None` when there is nobody to wait for.
    fn add(&mut self, waiting: Waiting) -> Option<u64> {
        if self.is_gone {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.waiting.insert(id, waiting);
        Some(id)
    }

    /// Who waits under a number. Nobody does if it was cancelled, but the number must have been given.
    fn known(&self, id: u64) -> Result<Option<&Waiting>, End> {
        if id >= self.next {
            return Err(End::UnknownJob(id));
        }
        Ok(self.waiting.get(&id))
    }
}

/// Something that was asked for; cancelled when dropped before there is a reply.
struct Asked<'p> {
    process: &'p Process,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let waiting = self.process.pending().waiting.remove(&self.id);
        if waiting.is_some_and(|waiting| waiting.kind == Kind::Answer)
            && let Ok(cancel) = wire::encode(&Request::Cancel { id: self.id }, MAX_FRAME)
        {
            self.process.send(cancel);
        }
    }
}

async fn write(mut requests: mpsc::UnboundedReceiver<Vec<u8>>, writer: OwnedWriteHalf) {
    let mut writer = BufWriter::new(writer);
    while let Some(request) = requests.recv().await {
        let written = async {
            wire::write(&mut writer, &request).await?;
            if requests.is_empty() {
                writer.flush().await?;
            }
            Ok::<_, FrameError>(())
        };
        // The worker is gone, which the reader finds too.
        if written.await.is_err() {
            return;
        }
    }
    // The worker ends when it finds that nothing more will come.
    let _ = writer.shutdown().await;
}
