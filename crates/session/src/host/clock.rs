//! Everything that happens by itself after some time: one timer wheel, no scans.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::time::DelayQueue;

use super::{Inner, Key};

/// What a timer is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Timer {
    /// The idle time of a session's life.
    Session(Key, u64),
    /// The idle time of a compute.
    Compute(Key),
    /// The instances of a session's life.
    Instances(Key, u64),
    /// Last uses are due to be stored, and old answers to be forgotten.
    Housekeeping,
}

/// Sets timers.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    timers: mpsc::UnboundedSender<(Timer, Duration)>,
}

impl Clock {
    /// A clock, and what must be run for it to go.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<(Timer, Duration)>) {
        // As many as there are sessions and computes, which quotas bound.
        let (timers, set) = mpsc::unbounded_channel();
        (Self { timers }, set)
    }

    /// Rings once after a time. A timer that has become pointless when it rings does nothing.
    pub(super) fn set(&self, timer: Timer, after: Duration) {
        // Only a host that is shutting down has nobody who listens.
        let _ = self.timers.send((timer, after));
    }
}

/// Timers whose work goes on at once: many that ring together do not take the whole host.
const AT_ONCE: usize = 8;

/// Runs until the host is gone.
pub(super) async fn run(host: Weak<Inner>, mut set: mpsc::UnboundedReceiver<(Timer, Duration)>) {
    let mut queue = DelayQueue::new();
    // A timer that is set again rings once, at the later setting's time.
    let mut keys = HashMap::new();
    let mut working = JoinSet::new();
    loop {
        let (timer, after) = tokio::select! {
            timer = set.recv() => match timer {
                Some(set) => set,
                None => return,
            },
            Some(ended) = working.join_next() => match ended {
                Ok(Some(again)) => again,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(%error, "a timer's work ended unexpectedly");
                    continue;
                }
            },
            Some(expired) = queue.next(), if working.len() < AT_ONCE => {
                let timer: Timer = expired.into_inner();
                keys.remove(&timer);
                let Some(host) = host.upgrade() else {
                    return;
                };
                working.spawn(async move {
                    let after = host.rung(&timer).await?;
                    Some((timer, after))
                });
                continue;
            }
        };
        match keys.get(&timer) {
            Some(key) => queue.reset(key, after),
            None => {
                let key = queue.insert(timer.clone(), after);
                keys.insert(timer, key);
            }
        }
    }
}
