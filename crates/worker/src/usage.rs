//! What is in use, as workers tell it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use flowcell_sandbox::SliceUsage;
use serde::{Deserialize, Serialize};

use crate::spec::{ComputeId, SessionId};

/// What is in use of a worker, by a compute, or by a session. Sums of these never overflow: workers make them up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Memory of all live instances, in bytes.
    pub memory: u64,
    /// Live instances, at work or idle.
    pub instances: u64,
    /// Those of them that no call uses.
    pub idle: u64,
    /// Instances that were made, those that went on from being stored included, in total.
    pub starts: u64,
    /// Instances that went on from being stored, in total.
    pub resumes: u64,
    /// Instances that were stored, in total.
    pub hibernations: u64,
    pub(crate) cpu_nanos: u64,
    pub(crate) throttled_nanos: u64,
    pub(crate) start_nanos: u64,
    pub(crate) hibernate_nanos: u64,
}

impl From<SliceUsage> for Used {
    fn from(usage: SliceUsage) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            memory: usage.memory,
            instances: usage.instances as u64,
            idle: usage.idle as u64,
            starts: usage.starts,
            resumes: usage.resumes,
            hibernations: usage.hibernations,
            cpu_nanos: nanos(usage.cpu_time),
            throttled_nanos: nanos(usage.throttled),
            start_nanos: nanos(usage.start_time),
            hibernate_nanos: nanos(usage.hibernate_time),
        }
    }
}

impl Used {
    /// Instances that a call uses.
    pub fn busy(&self) -> u64 {
        self.instances.saturating_sub(self.idle)
    }

    /// CPU time of all calls, in total.
    pub fn cpu_time(&self) -> Duration {
        Duration::from_nanos(self.cpu_nanos)
    }

    /// Time for which calls were held up to keep to a CPU share, in total.
    pub fn throttled(&self) -> Duration {
        Duration::from_nanos(self.throttled_nanos)
    }

    /// Time that it took to make instances, in total.
    pub fn start_time(&self) -> Duration {
        Duration::from_nanos(self.start_nanos)
    }

    /// Time that it took to store instances, in total.
    pub fn hibernate_time(&self) -> Duration {
        Duration::from_nanos(self.hibernate_nanos)
    }

    /// Both together.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_add(other.memory),
            instances: self.instances.saturating_add(other.instances),
            idle: self.idle.saturating_add(other.idle),
            starts: self.starts.saturating_add(other.starts),
            resumes: self.resumes.saturating_add(other.resumes),
            hibernations: self.hibernations.saturating_add(other.hibernations),
            cpu_nanos: self.cpu_nanos.saturating_add(other.cpu_nanos),
            throttled_nanos: self.throttled_nanos.saturating_add(other.throttled_nanos),
            start_nanos: self.start_nanos.saturating_add(other.start_nanos),
            hibernate_nanos: self.hibernate_nanos.saturating_add(other.hibernate_nanos),
        }
    }

    /// What is left of it when all instances are gone: the totals.
    #[must_use]
    pub(crate) fn totals(self) -> Self {
        Self {
            memory: 0,
            instances: 0,
            idle: 0,
            ..self
        }
    }

    /// The same with no more instances and memory than can be.
    #[must_use]
    pub(crate) fn at_most(self, memory: u64, instances: u64) -> Self {
        Self {
            memory: self.memory.min(memory),
            instances: self.instances.min(instances),
            idle: self.idle.min(instances),
            ..self
        }
    }
}

/// What is in use in a worker; of computes and sessions those where something changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) all: Used,
    pub(crate) computes: Vec<(ComputeId, Used)>,
    pub(crate) sessions: Vec<(SessionId, Used)>,
}

/// What a host was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    all: Used,
    computes: HashMap<ComputeId, Used>,
    sessions: HashMap<SessionId, Used>,
}

impl Told {
    /// What of this is new; it counts as told from now on.
    pub(crate) fn news<'a>(
        &mut self,
        all: Used,
        computes: impl Iterator<Item = (&'a ComputeId, Used)>,
        sessions: impl Iterator<Item = (&'a SessionId, Used)>,
    ) -> Option<Snapshot> {
        let news = Snapshot {
            all,
            computes: changed(&mut self.computes, computes),
            sessions: changed(&mut self.sessions, sessions),
        };
        let is_new = all != self.all || !news.computes.is_empty() || !news.sessions.is_empty();
        self.all = all;
        is_new.then_some(news)
    }

    /// What of a snapshot is new; it counts as told from now on.
    pub(crate) fn news_of(&mut self, used: &Snapshot) -> Option<Snapshot> {
        let computes = used.computes.iter().map(|(id, used)| (id, *used));
        let sessions = used.sessions.iter().map(|(id, used)| (id, *used));
        self.news(used.all, computes, sessions)
    }

    /// A session has ended.
    pub(crate) fn forget(&mut self, session: &SessionId) {
        self.sessions.remove(session);
    }

    /// Forgets computes that are there no more.
    pub(crate) fn keep_computes(&mut self, is_there: impl Fn(&ComputeId) -> bool) {
        self.computes.retain(|id, _| is_there(id));
    }
}

fn changed<'a, I: Clone + Eq + Hash + 'a>(
    told: &mut HashMap<I, Used>,
    now: impl Iterator<Item = (&'a I, Used)>,
) -> Vec<(I, Used)> {
    let mut changed = Vec::new();
    for (id, used) in now {
        // Most are as they were; their names are not copied.
        if told.get(id) != Some(&used) {
            told.insert(id.clone(), used);
            changed.push((id.clone(), used));
        }
    }
    changed
}
