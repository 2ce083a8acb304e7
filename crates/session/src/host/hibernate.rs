//! Sessions hibernate: their idle instances are stored, and their memory is freed. The next call goes on from there.
//!
//! Nothing of a call may be under way meanwhile, or its instance would be left out. So each call holds a session's gate
//! from before it looks for an instance until it has given it back, and whoever stores holds the gate alone: calls that
//! come then wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flowcell_worker::{Holds, Work};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedRwLockWriteGuard;

use super::live::Live;
use super::work::{Asked, Waking, fresh_call};
use super::{CallError, HappenError, Inner, Key, SessionEvent, SessionHost};
use crate::machine::Event;
use crate::name::{Name, UserName};
use crate::registry::Durability;
use crate::session::SessionState;

/// How long whoever asks for it waits for what is left of calls that have ended.
const SETTLING: Duration = Duration::from_secs(2);
/// How long a look at a session waits for its worker.
const LOOK: Duration = Duration::from_millis(250);

/// What becomes of instances that are idle and cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CannotHibernate {
    /// They stay in memory until the session ends, or memory runs short.
    #[default]
    Keep,
    /// They are dropped, with what they hold.
    Drop,
}

/// Why instances of a session were not stored when it was to hibernate last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotStored {
    /// Of those that stayed in memory.
    pub kept: Vec<String>,
    /// Of those that were dropped.
    pub dropped: Vec<String>,
}

/// A session that did not hibernate.
#[derive(Debug, thiserror::Error)]
pub enum HibernateError {
    /// It is at work.
    #[error(
        "session {0} has calls under way; it can hibernate when they have ended, or were cancelled"
    )]
    Busy(Name),
    /// It is not there, or takes no calls, or cannot be opened.
    #[error(transparent)]
    Session(#[from] CallError),
    /// That it has hibernated could not be stored. Its instances are.
    #[error(transparent)]
    Happen(#[from] HappenError),
}

/// Nothing of a session is under way, and nothing begins, while this is there.
pub(super) type Quiet = OwnedRwLockWriteGuard<()>;

impl SessionHost {
    /// Stores a session's idle instances and frees their memory. It is hibernated then, unless there were none, or some
    /// cannot be stored: [`SessionHost::not_stored`] says why.
    ///
    /// # Errors
    /// When calls are under way, or the session takes none.
    pub async fn hibernate(&self, session: &Key, by: UserName) -> Result<(), HibernateError> {
        let (inner, key) = (Arc::clone(&self.inner), session.clone());
        // Goes on when whoever asks has gone: half of it would leave the session between two states.
        let hibernated = tokio::spawn(async move {
            if inner.session(&key)?.state == SessionState::Hibernated {
                return Ok(());
            }
            let live = inner.live(&key).await?;
            let quiet = live.quiet().await;
            let quiet = quiet.ok_or_else(|| HibernateError::Busy(live.id.clone()))?;
            let policy = inner.settings.cannot_hibernate;
            match inner.put_to_sleep(&live, &quiet, Some(by), policy).await? {
                Slept::Wholly | Slept::Partly => Ok(()),
                Slept::Busy => Err(HibernateError::Busy(live.id.clone())),
            }
        });
        ended(hibernated).await
    }

    /// Opens a session's flow and goes on from what is stored, so that its next call is fast.
    ///
    /// # Errors
    /// When the session takes no calls, or has too many; when it cannot be opened, or what was stored is lost.
    pub async fn resume(
        &self,
        session: &Key,
        by: UserName,
    ) -> Result<flowcell_worker::Answer, CallError> {
        let inner = &self.inner;
        let live = inner.live(session).await?;
        let guard = live.admit(fresh_call(), inner.settings.calls_per_session)?;
        inner.touch(session, &live);
        inner.watch_instances(session, &live);
        let waking = Waking::By(by);
        inner
            .work(&live, &guard, Asked::of(Work::Resume, waking))
            .await
    }

    /// What could not be stored when a session was to hibernate last.
    pub fn not_stored(&self, session: &Key) -> NotStored {
        let live = self.inner.live.get(session);
        live.map_or_else(NotStored::default, |live| live.not_stored().clone())
    }

    /// What a session holds of its worker; `None` when that is nothing, or its worker does not say at once.
    pub async fn inspect(&self, session: &Key) -> Option<Holds> {
        let live = Arc::clone(&*self.inner.live.get(session)?);
        let looked = self.inner.workers.inspect(&live.session);
        tokio::time::timeout(LOOK, looked).await.ok().flatten()
    }
}

/// What a task gives. A panic in it goes on here.
pub(super) async fn ended<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

/// What came of putting a session to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slept {
    /// Nothing is left in memory.
    Wholly,
    /// Something could not be stored, and stays.
    Partly,
    /// Something was still in use by a call that had ended or was cancelled.
    Busy,
}

impl Live {
    /// Nothing under way, at this moment; `None` when something is.
    pub(super) fn quiet_now(&self) -> Option<Quiet> {
        if !self.calls().is_empty() {
            return None;
        }
        Arc::clone(&self.gate).try_write_owned().ok()
    }

    /// The same, but for what is left of calls that have ended, which is waited for.
    pub(super) async fn quiet(&self) -> Option<Quiet> {
        if !self.calls().is_empty() {
            return None;
        }
        let quiet = Arc::clone(&self.gate).write_owned();
        tokio::time::timeout(SETTLING, quiet).await.ok()
    }
}

impl Inner {
    /// Stores a session's idle instances.
    pub(super) async fn put_to_sleep(
        self: &Arc<Self>,
        live: &Live,
        _quiet: &Quiet,
        by: Option<UserName>,
        policy: CannotHibernate,
    ) -> Result<Slept, HappenError> {
        if live.is_asleep.load(Ordering::Acquire) {
            return Ok(Slept::Wholly);
        }
        let stored = self.workers.hibernate(&live.session).await;
        // Of a worker that has ended nothing is left either.
        let stored = stored.unwrap_or_default();
        let mut not_stored = NotStored::default();
        match policy {
            CannotHibernate::Drop if !stored.kept.is_empty() => {
                self.workers.shrink(&live.session).await;
                not_stored.dropped = stored.kept;
            }
            _ => not_stored.kept = stored.kept,
        }
        let is_kept = !not_stored.kept.is_empty();
        for (reasons, dropped) in [(&not_stored.kept, false), (&not_stored.dropped, true)] {
            if !reasons.is_empty() {
                live.events.push(SessionEvent::NotStored {
                    reasons: reasons.clone(),
                    dropped,
                });
            }
        }
        *live.not_stored() = not_stored;
        if stored.in_use {
            return Ok(Slept::Busy);
        }
        if is_kept {
            return Ok(Slept::Partly);
        }
        if stored.instances > 0 {
            let durability = match by {
                Some(_) => Durability::Synced,
                None => Durability::Written,
            };
            let event = Event::Hibernated {
                session: live.id.clone(),
                generation: live.generation,
                instances: stored.instances,
                bytes: stored.bytes,
                by,
            };
            let step = self
                .happen(&live.workspace, event, durability, |_| Vec::new())
                .await?;
            // It may be about to end by now.
            if let Some(session) = step.session() {
                live.is_asleep.store(true, Ordering::Release);
                live.events.push(SessionEvent::State {
                    state: session.state.as_str().to_owned(),
                    reason: session.reason.clone(),
                });
                live.slim();
            }
        }
        Ok(Slept::Wholly)
    }

    /// A session goes on. The registry is told behind it: should the host die before, it says that the session is
    /// hibernated, and what it could go on from is still there.
    pub(super) fn wake(self: &Arc<Self>, live: &Arc<Live>, inside: Arc<super::live::Inside>) {
        if !live.is_asleep.swap(false, Ordering::AcqRel) {
            return;
        }
        let (inner, live) = (Arc::clone(self), Arc::clone(live));
        tokio::spawn(async move {
            // Before it can hibernate again.
            let _inside = inside;
            let told = inner.tell_resumed(&live, None, Durability::Written);
            if let Err(error) = told.await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "that a session has resumed could not be stored"
                );
                // It has gone on all the same: it is to be stored again when it is idle.
            }
        });
    }

    /// The same for somebody who waits until it is stored.
    pub(super) async fn wake_for(
        self: &Arc<Self>,
        live: &Arc<Live>,
        by: UserName,
    ) -> Result<(), HappenError> {
        if !live.is_asleep.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let told = self.tell_resumed(live, Some(by), Durability::Synced).await;
        if told.is_err() {
            live.is_asleep.store(true, Ordering::Release);
        }
        told
    }

    async fn tell_resumed(
        self: &Arc<Self>,
        live: &Live,
        by: Option<UserName>,
        durability: Durability,
    ) -> Result<(), HappenError> {
        let event = Event::Resumed {
            session: live.id.clone(),
            generation: live.generation,
            by,
        };
        let step = self
            .happen(&live.workspace, event, durability, |_| Vec::new())
            .await?;
        if let Some(session) = step.session() {
            live.events.push(SessionEvent::State {
                state: session.state.as_str().to_owned(),
                reason: session.reason.clone(),
            });
        }
        Ok(())
    }

    /// At the end of the host: stores what is idle. `until` is when it must have ended. Nothing begins in the session
    /// while what is returned is there.
    pub(super) async fn put_to_last_sleep(
        self: &Arc<Self>,
        live: &Arc<Live>,
        until: tokio::time::Instant,
    ) -> Option<Quiet> {
        let lost = |why: &str| {
            tracing::warn!(
                workspace = %live.workspace, session = %live.id, why,
                "what a session holds in memory is lost with the end of the host"
            );
        };
        // Calls that have done their work may not have said so yet: who has none under way is not asked.
        let quiet = Arc::clone(&live.gate).write_owned();
        let Ok(quiet) = tokio::time::timeout_at(until, quiet).await else {
            lost("calls are under way");
            return None;
        };
        // And whatever still comes ends at once.
        live.ending.cancel();
        let policy = CannotHibernate::Keep;
        let slept = self.put_to_sleep(live, &quiet, None, policy);
        match tokio::time::timeout_at(until, slept).await {
            Ok(Ok(Slept::Wholly)) => {}
            Ok(Ok(Slept::Partly)) => lost(&live.not_stored().kept.join("; ")),
            Ok(Ok(Slept::Busy)) => lost("calls have not given back their instances"),
            Ok(Err(error)) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "that a session hibernates could not be stored"
            ),
            Err(_) => lost("there was no time to store it"),
        }
        Some(quiet)
    }
}
