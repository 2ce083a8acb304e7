//! Calls into a session.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use flowcell_connection::ConnectionSet;
use flowcell_worker::{
    Answer, Hear, Heard, Job, Look, NetworkSpec, News, Run, Setup, Taker, Tokens, Work, WorkerError,
};
use jiff::Timestamp;

use super::copy::CopyError;
use super::effects::OpenError;
use super::events::Watcher;
use super::live::{AdmissionError, CallGuard, Live, Still};
use super::requests::Request;
use super::tokens::Signer;
use super::traces::{CallTrace, TraceParent};
use super::{HappenError, Inner, Key, SessionEvent, SessionHost, Timer, blocking};
use crate::connection::open_all;
use crate::name::UserName;
use crate::session::Session;

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
    /// What runs the session failed, or is not there.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// That the session goes on could not be stored.
    #[error(transparent)]
    Happen(#[from] HappenError),
}

/// Whether some work is one that a hibernated session goes on for.
#[derive(Debug)]
pub(super) enum Waking {
    /// It does not need its instances.
    No,
    /// A call.
    ByCall,
    /// A user asks for just this.
    By(UserName),
}

/// A call that is asked for.
#[derive(Debug)]
pub struct Call {
    /// Its identifier; one is made, if absent.
    pub id: Option<String>,
    /// How the flow is set up for it.
    pub setup: Setup,
    /// What is run.
    pub run: Run,
    /// Who takes the answer, where it comes in parts: all of them before the call is done.
    pub taker: Option<Taker>,
    /// Its place in somebody else's trace.
    pub parent: Option<TraceParent>,
}

impl Call {
    /// A call in the flow's usual set-up, whose answer comes as a whole.
    pub fn of(run: Run) -> Self {
        Self {
            id: None,
            setup: Setup::default(),
            run,
            taker: None,
            parent: None,
        }
    }
}

/// Some work, and who takes what comes of it.
#[derive(Debug)]
pub(super) struct Asked {
    setup: Setup,
    work: Work,
    waking: Waking,
    taker: Option<Taker>,
}

impl Asked {
    /// Work in a flow's usual set-up, whose answer comes as a whole.
    pub(super) fn of(work: Work, waking: Waking) -> Self {
        Self {
            setup: Setup::default(),
            work,
            waking,
            taker: None,
        }
    }
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

    /// What happened in a session's calls of late, the last first, from one of its lives on.
    pub fn traces(&self, session: &Session, since: u64) -> Vec<Arc<CallTrace>> {
        let mut traces = self
            .inner
            .traces
            .of(&(session.workspace.clone(), session.id.clone()));
        // A workspace that was deleted may have had a session of this name.
        traces.retain(|trace| trace.ended >= session.created && trace.generation >= since);
        traces
    }

    /// The requests that a session's guests have made of late, the last first, from one of its lives on.
    pub fn requests(&self, session: &Session, since: u64) -> Vec<(u64, Arc<Request>)> {
        let key = (session.workspace.clone(), session.id.clone());
        let mut requests = self.inner.settings.requests.of(&key);
        // A workspace that was deleted may have had a session of this name.
        requests
            .retain(|(_, request)| request.ended >= session.created && request.generation >= since);
        requests
    }

    /// Tokens that models have counted in all calls since the host started.
    pub fn tokens(&self) -> Tokens {
        self.inner.traces.tokens()
    }

    /// Notes that somebody uses a session without a call.
    pub fn touch(&self, session: &Key) {
        if let Some(live) = self.inner.live.get(session) {
            self.inner.touch(session, &live);
        }
    }

    /// Runs a session's flow, as a call: it can be cancelled under its identifier, and it is when this future is dropped.
    ///
    /// # Errors
    /// When the session does not run or has too many calls, or the call is cancelled or loses its worker.
    pub async fn call(&self, session: &Key, call: Call) -> Result<Answer, CallError> {
        let Call {
            id,
            setup,
            run,
            taker,
            parent,
        } = call;
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
        let asked = Asked {
            setup,
            work: Work::Run(run),
            waking: Waking::ByCall,
            taker,
        };
        let done = inner.work(&live, &guard, asked).await;
        let word = match &done {
            Ok(done) => done.status.as_str(),
            Err(CallError::Canceled) => "Canceled",
            Err(_) => "Failed",
        };
        guard.event(SessionEvent::CallEnded {
            call: guard.id().to_owned(),
            status: word,
            duration_ms: milliseconds(started.elapsed()),
        });
        let mut answer = done?;
        if let Some(trace) = answer.trace.take() {
            let traced = Arc::new(CallTrace {
                id: parent.map_or_else(|| uuid::Uuid::new_v4().as_u128(), |parent| parent.trace),
                parent: parent.map(|parent| parent.span),
                call: guard.id().to_owned(),
                session: session.1.clone(),
                generation: live.generation,
                flow: live.flow.clone(),
                ended: Timestamp::now(),
                trace,
            });
            if let Some(listener) = &inner.settings.traces {
                listener(&traced);
            }
            inner.traces.keep(session, traced);
        }
        Ok(answer)
    }

    /// Looks at a session's files with its environment, in place of a call.
    ///
    /// # Errors
    /// When the session does not run, or what runs it is lost.
    pub async fn look(&self, session: &Key, look: Look) -> Result<Answer, CallError> {
        let live = self.inner.live(session).await?;
        let guard = live.admit(fresh_call(), self.inner.settings.calls_per_session)?;
        self.inner.touch(session, &live);
        self.inner
            .work(&live, &guard, Asked::of(Work::Look(look), Waking::No))
            .await
    }
}

pub(super) fn fresh_call() -> String {
    format!("c-{}", uuid::Uuid::new_v4().simple())
}

/// Tells a session's watchers what happens in a call, and lets go of the working copy once it was read.
fn hear(live: &Arc<Live>, call: &str, still: Still) -> Hear {
    let events = Arc::clone(&live.events);
    let call = call.to_owned();
    let still = Mutex::new(Some(still));
    Arc::new(move |heard| {
        let call = call.clone();
        events.push(match heard {
            Heard::Opened => {
                drop(still.lock().unwrap_or_else(PoisonError::into_inner).take());
                return;
            }
            Heard::News(News::NodeStarted { node }) => SessionEvent::NodeStarted { node, call },
            Heard::News(News::Printed { node, stream, text }) => SessionEvent::Log {
                call,
                node,
                stream: stream.as_str(),
                text,
            },
            Heard::News(News::NodeEnded {
                node,
                status,
                duration_ms,
            }) => SessionEvent::NodeEnded {
                call,
                node,
                status: status.as_str(),
                duration_ms,
            },
        });
    })
}

pub(super) fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// What a session may use and ask, as the ledger says at one moment.
struct Allowed {
    network: Box<NetworkSpec>,
    /// With secrets: they go to its worker, and no further.
    connections: ConnectionSet,
    /// Whether its traces hold what was asked and answered.
    record_content: bool,
    /// As whom it signs in.
    signer: Signer,
    /// Counts these moments.
    order: u64,
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
        if !session.state.takes_calls() {
            return Err(CallError::NotRunning {
                session: session.id.to_string(),
                state: session.state.as_str(),
                reason: session.reason,
            });
        }
        match self.open_again(&session).await {
            Ok(live) => Ok(live),
            Err(OpenError::Over) => Err(CallError::NotRunning {
                session: session.id.to_string(),
                state: "changing",
                reason: "it was changed a moment ago; try again".to_owned(),
            }),
            Err(OpenError::Copy(error)) => Err(error.into()),
            Err(error @ (OpenError::Image(_) | OpenError::Lost | OpenError::Environment(_))) => {
                Err(CallError::Environment(error.to_string()))
            }
            Err(OpenError::Worker(error)) => Err(error.into()),
        }
    }

    pub(super) fn session(&self, (workspace, id): &Key) -> Result<Session, CallError> {
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
    pub(super) fn watch_instances(&self, key: &Key, live: &Live) {
        if !live.is_watched.swap(true, Ordering::AcqRel) {
            let timer = Timer::Instances(key.clone(), live.generation);
            self.clock.set(timer, self.settings.instances_idle);
        }
    }

    /// Does some work in a life, until it is done or cancelled.
    pub(super) async fn work(
        self: &Arc<Self>,
        live: &Arc<Live>,
        guard: &CallGuard,
        asked: Asked,
    ) -> Result<Answer, CallError> {
        let Asked {
            setup,
            work,
            waking,
            taker,
        } = asked;
        let work = async {
            let inside = Arc::new(Arc::clone(&live.gate).read_owned().await);
            match waking {
                Waking::No => {}
                Waking::ByCall => self.wake(live, Arc::clone(&inside)),
                Waking::By(user) => self.wake_for(live, user).await?,
            }
            let still = self.still(live).await?;
            let mut session = live.spec();
            let Allowed {
                network,
                connections,
                record_content,
                signer,
                order,
            } = self.allowed(live)?;
            session.network = network;
            let connections = self.signed_in(&signer, connections).await;
            let job = Job {
                session,
                revision: *still,
                setup,
                connections,
                order,
                record_content,
                work,
            };
            let hear = hear(live, guard.id(), still);
            let answer = self.workers.perform(job, hear, taker).await;
            drop(inside);
            Ok(answer?)
        };
        let canceled = guard.token();
        // Going away cancels the work, too.
        live.tracker
            .track_future(async {
                tokio::select! {
                    biased;
                    () = canceled.cancelled() => Err(CallError::Canceled),
                    done = work => done,
                }
            })
            .await
    }

    /// What a life may use and ask at this moment.
    fn allowed(&self, live: &Live) -> Result<Allowed, CallError> {
        let state = self.ledger.state();
        let workspace = state.workspaces.get(&live.workspace);
        let found =
            workspace.and_then(|workspace| Some((workspace, workspace.sessions.get(&live.id)?)));
        let (workspace, session) = found.ok_or_else(|| CallError::NotFound(live.id.to_string()))?;
        Ok(Allowed {
            network: self.network(workspace, session),
            connections: open_all(workspace, &self.settings.secrets),
            record_content: workspace.record.trace_content,
            signer: Signer::of(session),
            // While the state cannot change.
            order: self.orders.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// The working copy of a life, up to date.
    async fn still(self: &Arc<Self>, live: &Arc<Live>) -> Result<Still, CopyError> {
        let revision = || {
            let state = self.ledger.state();
            let workspace = state.workspaces.get(&live.workspace);
            let flow = workspace.and_then(|workspace| workspace.flows.get(&live.flow));
            flow.map_or(0, |flow| flow.revision)
        };
        live.still(revision, async || self.update_copy(live).await)
            .await
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
}
