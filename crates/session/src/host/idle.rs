//! What is not used goes: instances first, then sessions, then computes.

use std::sync::Arc;
use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};

use super::hibernate::Slept;
use super::{Inner, Key, SessionEvent, Timer, blocking};
use crate::machine::{self, Event};
use crate::name::Name;
use crate::registry::{ANSWER_HOURS, Durability};
use crate::state::Change;

/// How often last uses are stored.
pub(super) const HOUSEKEEPING: Duration = Duration::from_secs(30);
/// Sessions whose last uses are stored in one transaction.
const BATCH: usize = 500;
/// A session is not evicted while a call is under way; it is looked at again after this time.
const BUSY: Duration = Duration::from_secs(5);

impl Inner {
    /// A timer has rung; gives the time after which it shall ring again, if it shall.
    pub(super) async fn rung(self: &Arc<Self>, timer: &Timer) -> Option<Duration> {
        match timer {
            Timer::Session(key, generation) => self.session_rung(key, *generation).await,
            Timer::Compute(key) => self.compute_rung(key).await,
            Timer::Instances(key, generation) => self.instances_rung(key, *generation).await,
            Timer::Housekeeping => {
                self.store_uses().await;
                let inner = Arc::clone(self);
                let forgotten = blocking(move || {
                    let before = Timestamp::now().saturating_sub(ANSWER_HOURS.hours());
                    match before {
                        Ok(before) => inner.ledger.registry().forget_answers(before),
                        Err(_) => Ok(()),
                    }
                });
                if let Err(error) = forgotten.await {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "old answers could not be deleted"
                    );
                }
                Some(HOUSEKEEPING)
            }
        }
    }

    async fn session_rung(self: &Arc<Self>, key: &Key, generation: u64) -> Option<Duration> {
        let (workspace, id) = key;
        let (idle, stored) = {
            let state = self.ledger.state();
            let session = state.workspaces.get(workspace)?.sessions.get(id)?;
            if !session.state.takes_calls() || session.generation != generation {
                return None;
            }
            (Duration::from_secs(session.idle_seconds), session.last_use)
        };
        let live = self.live.get(key).map(|live| Arc::clone(&live));
        if live.as_ref().is_some_and(|live| !live.calls().is_empty()) {
            return Some(idle.min(BUSY));
        }
        let last_use = live.map_or(stored, |live| live.last_use().max(stored));
        let left = left(last_use, idle);
        if !left.is_zero() {
            return Some(left);
        }
        let event = Event::SessionIdle {
            session: id.clone(),
            last_use,
        };
        self.evict(workspace, event).await
    }

    async fn compute_rung(self: &Arc<Self>, key: &Key) -> Option<Duration> {
        let (workspace, name) = key;
        let (idle, last_use, is_busy) = {
            let state = self.ledger.state();
            let workspace = state.workspaces.get(workspace)?;
            let compute = workspace.computes.get(name)?;
            let mut last_use = compute.last_use;
            let mut is_busy = false;
            for session in workspace.sessions_on(name) {
                let key = (session.workspace.clone(), session.id.clone());
                last_use = last_use.max(session.last_use);
                if let Some(live) = self.live.get(&key) {
                    last_use = last_use.max(live.last_use());
                    is_busy |= !live.calls().is_empty();
                }
            }
            let idle = Duration::from_secs(compute.idle_seconds?);
            (idle, last_use, is_busy)
        };
        if is_busy {
            return Some(idle.min(BUSY));
        }
        let left = left(last_use, idle);
        if !left.is_zero() {
            return Some(left);
        }
        let event = Event::ComputeIdle {
            compute: name.clone(),
            last_use,
        };
        self.evict(workspace, event).await
    }

    async fn evict(self: &Arc<Self>, workspace: &Name, event: Event) -> Option<Duration> {
        match self
            .happen(workspace, event, Durability::Written, |_| Vec::new())
            .await
        {
            Ok(step) => {
                Arc::clone(self)
                    .carry_out(workspace.clone(), step.effects)
                    .await;
                None
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "an eviction could not be stored"
                );
                Some(HOUSEKEEPING)
            }
        }
    }

    async fn instances_rung(self: &Arc<Self>, key: &Key, generation: u64) -> Option<Duration> {
        let live = Arc::clone(&*self.live.get(key)?);
        if live.generation != generation {
            return None;
        }
        let idle = self.settings.instances_idle;
        let left = left(live.last_use(), idle);
        if !live.calls().is_empty() {
            return Some(idle);
        }
        if !left.is_zero() {
            return Some(left);
        }
        let Some(quiet) = live.quiet_now() else {
            return Some(idle.min(BUSY));
        };
        // A call that comes from now on sets the timer anew.
        live.is_watched
            .store(false, std::sync::atomic::Ordering::Release);
        let policy = self.settings.cannot_hibernate;
        match self.put_to_sleep(&live, &quiet, None, policy).await {
            Ok(Slept::Wholly) => live.events.push(SessionEvent::ScaledToZero {
                reason: format!("not used for {} s", idle.as_secs()),
            }),
            Ok(Slept::Partly) => {}
            Ok(Slept::Busy) => return Some(idle.min(BUSY)),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "that a session hibernates could not be stored"
            ),
        }
        None
    }

    /// Stores when sessions were last used, for a host that dies.
    pub(super) async fn store_uses(self: &Arc<Self>) {
        let keys: Vec<Key> = self.used().drain().collect();
        for batch in keys.chunks(BATCH) {
            let batch = batch.to_vec();
            let inner = Arc::clone(self);
            let stored = blocking(move || {
                inner.ledger.change(Durability::Written, |state| {
                    let mut changes: Vec<Change> = Vec::new();
                    for key in batch {
                        let Some(live) = inner.live.get(&key) else {
                            continue;
                        };
                        live.is_used
                            .store(false, std::sync::atomic::Ordering::Relaxed);
                        let event = Event::Used {
                            session: live.id.clone(),
                            at: live.last_use(),
                        };
                        let step = machine::step(state, inner.context(), &key.0, &event)?;
                        changes.extend(step.changes);
                    }
                    Ok::<_, machine::Refusal>((changes, ()))
                })
            });
            if let Err(error) = stored.await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "last uses could not be stored"
                );
            }
        }
    }
}

/// What is left of an idle time.
pub(super) fn left(last_use: Timestamp, idle: Duration) -> Duration {
    let since = Timestamp::now().duration_since(last_use);
    idle.saturating_sub(Duration::try_from(since).unwrap_or(Duration::ZERO))
}
