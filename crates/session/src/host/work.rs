//! Calls into a session.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use flowcell_executor as executor;
use flowcell_executor::{NodeTool, Observer, RunError, RunEvent, SessionOptions, Workspace};
use flowcell_sandbox::{Limits, Stream};

use super::copy::CopyError;
use super::effects::OpenError;
use super::events::Watcher;
use super::live::{AdmissionError, Live, Setup};
use super::{Inner, Key, SessionEvent, SessionHost, Timer, blocking};
use crate::session::{Session, SessionState};

/// Longest text without an end of line that is held back, in bytes.
const MAX_UNFINISHED: usize = 8 << 10;

/// A call that did not come to its work, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no such session.
    #[error("there is no session '{0}' in this workspace")]
    NotFound(String),
    /// The session takes no calls.
    #[error("session {session} is {state} ({reason}), so it takes no calls")]
    NotRunning {
        /// The session.
        session: String,
        /// Its state.
        state: &'static str,
        /// Why it is in it.
        reason: String,
    },
    /// Too many calls, or two with one identifier.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The call was cancelled, or its session ended.
    #[error("the call was canceled")]
    Canceled,
    /// The flow's files could not be written.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The environment cannot be used any more.
    #[error("{0}")]
    Environment(String),
}

impl SessionHost {
    /// Watches a session's events.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn watch(
        &self,
        session: &Key,
        last: Option<super::EventId>,
    ) -> Result<Watcher, CallError> {
        Ok(self.inner.live(session).await?.events.watch(last))
    }

    /// Notes that somebody uses a session without a call.
    pub fn touch(&self, session: &Key) {
        if let Some(live) = self.inner.live.get(session) {
            self.inner.touch(session, &live);
        }
    }

    /// Runs some work in a session, as a call: it can be cancelled under its identifier, and it is when this future is
    /// dropped. `work` gets the open flow (or why it cannot be opened) and whom to tell what happens; it says by
    /// `status` how it ended.
    ///
    /// # Errors
    /// When the session does not run or has too many calls, or the call is cancelled.
    pub async fn call<T, F>(
        &self,
        session: &Key,
        id: Option<String>,
        setup: Setup,
        status: fn(&T) -> &'static str,
        work: impl FnOnce(Result<Arc<executor::Session>, RunError>, Observer) -> F + Send + 'static,
    ) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let inner = &self.inner;
        let live = inner.live(session).await?;
        let id = id.unwrap_or_else(fresh_call);
        let guard = live.admit(id, inner.settings.calls_per_session)?;
        let started = Instant::now();
        inner.touch(session, &live);
        inner.watch_instances(session, &live);
        guard.event(SessionEvent::CallStarted {
            call: guard.id().to_owned(),
        });
        let token = guard.token();
        let observer = observer(&live, guard.id());
        let task = {
            let (inner, live) = (Arc::clone(inner), Arc::clone(&live));
            let tracker = live.tracker.clone();
            let work = async move {
                let opened = inner.flow(&live, &setup).await?;
                Ok(work(opened, observer).await)
            };
            let cancelable = async move {
                tokio::select! {
                    biased;
                    () = token.cancelled() => Err(CallError::Canceled),
                    done = work => done,
                }
            };
            tracker.spawn_on(cancelable, &self.inner.guests)
        };
        // Should this future be dropped, the guard goes and cancels the task.
        let done = match task.await {
            Ok(done) => done,
            Err(_) => Err(CallError::Canceled),
        };
        let word = match &done {
            Ok(done) => status(done),
            Err(CallError::Canceled) => "Canceled",
            Err(_) => "Failed",
        };
        guard.event(SessionEvent::CallEnded {
            call: guard.id().to_owned(),
            status: word,
            duration_ms: milliseconds(started.elapsed()),
        });
        done
    }
}

impl SessionHost {
    /// Describes the tools of a session's nodes, from the flow's present files.
    ///
    /// # Errors
    /// When the session does not run; inside, when nothing of the flow can be loaded.
    pub async fn describe(
        &self,
        session: &Key,
    ) -> Result<Result<Vec<NodeTool>, RunError>, CallError> {
        self.inspect(session, |executor, workspace, options| async move {
            executor::describe(&executor, &workspace, &options).await
        })
        .await
    }

    /// Looks at a session's files with its environment, in place of a call.
    ///
    /// # Errors
    /// When the session does not run; inside, when the flow cannot be read, or what `look` says.
    pub async fn inspect<T, F>(
        &self,
        session: &Key,
        look: impl FnOnce(Arc<executor::Host>, Workspace, SessionOptions) -> F + Send + 'static,
    ) -> Result<Result<T, RunError>, CallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RunError>> + Send,
    {
        let live = self.inner.live(session).await?;
        let guard = live.admit(fresh_call(), self.inner.settings.calls_per_session)?;
        self.inner.touch(session, &live);
        let (inner, token) = (Arc::clone(&self.inner), guard.token());
        let tracker = live.tracker.clone();
        let work = async move {
            inner.update_copy(&live).await?;
            let workspace = match Workspace::open(live.copy.folder(), live.flow.as_str()) {
                Ok(workspace) => workspace,
                Err(error) => return Ok(Err(error)),
            };
            let options = inner.options(&live);
            Ok(look(Arc::clone(&inner.executor), workspace, options).await)
        };
        let cancelable = async move {
            tokio::select! {
                biased;
                () = token.cancelled() => Err(CallError::Canceled),
                looked = work => looked,
            }
        };
        let looked = tracker.spawn_on(cancelable, &self.inner.guests).await;
        looked.unwrap_or(Err(CallError::Canceled))
    }
}

fn fresh_call() -> String {
    format!("c-{}", uuid::Uuid::new_v4().simple())
}

/// Tells a session's watchers what happens in a call; printed text line by line, whatever pieces it comes in.
fn observer(live: &Arc<Live>, call: &str) -> Observer {
    let events = Arc::clone(&live.events);
    let call = call.to_owned();
    // Text without its end of line yet, by node and stream.
    let unfinished: Mutex<HashMap<(String, &'static str), String>> = Mutex::default();
    Arc::new(move |event| {
        let call = call.clone();
        let log = |node: &str, stream, text| SessionEvent::Log {
            call: call.clone(),
            node: node.to_owned(),
            stream,
            text,
        };
        match event {
            RunEvent::NodeStarted { node } => events.push(SessionEvent::NodeStarted {
                node: node.to_owned(),
                call,
            }),
            RunEvent::Printed { node, stream, text } => {
                let stream = match stream {
                    Stream::Stdout => "stdout",
                    Stream::Stderr => "stderr",
                    Stream::Log => "log",
                };
                let mut unfinished = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
                let held = unfinished.entry((node.to_owned(), stream)).or_default();
                held.push_str(text);
                let whole = if held.len() > MAX_UNFINISHED {
                    held.len()
                } else {
                    held.rfind('\n').map_or(0, |end| end + 1)
                };
                if whole > 0 {
                    let lines = held.drain(..whole).collect();
                    events.push(log(node, stream, lines));
                }
            }
            RunEvent::NodeEnded(node) => {
                let mut unfinished = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
                if !unfinished.is_empty() {
                    for stream in ["stdout", "stderr", "log"] {
                        let held = unfinished.remove(&(node.name.clone(), stream));
                        if let Some(text) = held.filter(|text| !text.is_empty()) {
                            events.push(log(&node.name, stream, text));
                        }
                    }
                }
                drop(unfinished);
                events.push(SessionEvent::NodeEnded {
                    node: node.name.clone(),
                    status: node.status.as_str(),
                    duration_ms: milliseconds(node.duration),
                    call,
                });
            }
            _ => {}
        }
    })
}

pub(super) fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Inner {
    /// A session's life; it is taken up again when the host has been started anew since.
    pub(super) async fn live(self: &Arc<Self>, key: &Key) -> Result<Arc<Live>, CallError> {
        if let Some(live) = self.live.get(key)
            && !live.ending.is_cancelled()
        {
            return Ok(Arc::clone(&live));
        }
        let session = self.session(key)?;
        if session.state != SessionState::Running {
            return Err(CallError::NotRunning {
                session: session.id.to_string(),
                state: session.state.as_str(),
                reason: session.reason,
            });
        }
        match self.open(&key.0, &key.1, session.generation).await {
            Ok(live) => Ok(live),
            Err(OpenError::Over) => Err(CallError::NotRunning {
                session: session.id.to_string(),
                state: "changing",
                reason: "it was changed a moment ago; try again".to_owned(),
            }),
            Err(OpenError::Copy(error)) => Err(error.into()),
            Err(error @ OpenError::Image(_)) => Err(CallError::Environment(error.to_string())),
        }
    }

    fn session(&self, (workspace, id): &Key) -> Result<Session, CallError> {
        let state = self.ledger.state();
        let workspace = state.workspaces.get(workspace);
        let session = workspace.and_then(|workspace| workspace.sessions.get(id));
        session
            .cloned()
            .ok_or_else(|| CallError::NotFound(id.to_string()))
    }

    pub(super) fn touch(&self, key: &Key, live: &Live) {
        if live.touch() {
            self.used().insert(key.clone());
        }
    }

    /// Sees to it that the session's instances go when they are idle.
    fn watch_instances(&self, key: &Key, live: &Live) {
        if !live.is_watched.swap(true, Ordering::AcqRel) {
            let timer = Timer::Instances(key.clone(), live.generation);
            self.clock.set(timer, self.settings.instances_idle);
        }
    }

    /// The open flow of a life.
    async fn flow(
        self: &Arc<Self>,
        live: &Arc<Live>,
        setup: &Setup,
    ) -> Result<Result<Arc<executor::Session>, RunError>, CallError> {
        let revision = {
            let state = self.ledger.state();
            let workspace = state.workspaces.get(&live.workspace);
            let flow = workspace.and_then(|workspace| workspace.flows.get(&live.flow));
            flow.map_or(0, |flow| flow.revision)
        };
        let update = self.update_copy(live);
        let open = self.open_flow(live, setup);
        Ok(live.session(setup, revision, update, open).await?)
    }

    /// Brings a working copy up to date with the flow's files.
    async fn update_copy(self: &Arc<Self>, live: &Arc<Live>) -> Result<(), CopyError> {
        let (inner, live) = (Arc::clone(self), Arc::clone(live));
        let registry = blocking(move || {
            live.copy
                .update(inner.ledger.registry(), &live.workspace, &live.flow)
        });
        registry.await
    }

    async fn open_flow(&self, live: &Live, setup: &Setup) -> Result<executor::Session, RunError> {
        let workspace = Workspace::open(live.copy.folder(), live.flow.as_str())?;
        let mut options = self.options(live);
        options.variant = setup.variant.as_deref().map(str::parse).transpose()?;
        options.environment_variables = setup.environment_variables.iter().cloned().collect();
        executor::Session::open(&self.executor, workspace, options).await
    }

    pub(super) fn options(&self, live: &Live) -> SessionOptions {
        let mut options = SessionOptions::new(self.settings.bundle.clone());
        options.image = Some(live.image.clone());
        options.slice = Arc::clone(&live.slice);
        let memory = usize::try_from(live.limits.memory).unwrap_or(usize::MAX);
        options.limits = Limits {
            memory: self.settings.instance_memory.min(memory),
            wall_time: self.settings.call_time,
            cpu_time: self.settings.call_time,
            ..Limits::default()
        };
        options.longest_line = self.settings.call_time;
        options.instances = live.limits.instances;
        options.wait = self.settings.instance_wait;
        options
    }
}
