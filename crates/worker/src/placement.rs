//! Which worker a compute is in, and what each compute and session has used.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::spec::{ComputeId, SessionId};
use crate::usage::{Snapshot, Used};

/// Sessions whose end is remembered.
const ENDED: usize = 100;

/// What was used: in workers that are gone, and in the present one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Account {
    before: Used,
    now: Used,
}

impl Account {
    pub(crate) fn used(&self) -> Used {
        self.before.and(self.now)
    }

    pub(crate) fn set(&mut self, now: Used) {
        self.now = now;
    }

    /// The worker is gone: only totals are left.
    pub(crate) fn close(&mut self) {
        self.before = self.before.and(self.now.totals());
        self.now = Used::default();
    }
}

/// The computes and sessions that have a place.
#[derive(Debug, Default)]
pub(crate) struct Placements {
    computes: HashMap<ComputeId, Placed>,
    sessions: HashMap<SessionId, (ComputeId, Account)>,
    /// What computes used whose sessions are all gone.
    left: HashMap<ComputeId, Account>,
    /// Sessions that ended of late, and the worker that each was in.
    ended: VecDeque<(SessionId, usize)>,
}

#[derive(Debug)]
struct Placed {
    worker: usize,
    sessions: HashSet<SessionId>,
    account: Account,
    memory: u64,
    /// Whether its account goes with it.
    is_forgotten: bool,
}

impl Placements {
    /// The worker of a session: its compute's. A compute that has none gets that with the fewest computes, and among
    /// those the one that uses the least memory.
    pub(crate) fn place(
        &mut self,
        session: &SessionId,
        compute: &ComputeId,
        memory: u64,
        among: &[usize],
        used: impl Fn(usize) -> u64,
    ) -> Option<usize> {
        let worker = match self.computes.get(compute) {
            Some(placed) => placed.worker,
            None => {
                let mut counts: HashMap<usize, usize> = HashMap::new();
                for placed in self.computes.values() {
                    *counts.entry(placed.worker).or_default() += 1;
                }
                let computes = |worker: usize| counts.get(&worker).copied().unwrap_or(0);
                among
                    .iter()
                    .copied()
                    .min_by_key(|worker| (computes(*worker), used(*worker)))?
            }
        };
        let left = &mut self.left;
        let placed = self
            .computes
            .entry(compute.clone())
            .or_insert_with(|| Placed {
                worker,
                sessions: HashSet::new(),
                account: left.remove(compute).unwrap_or_default(),
                memory,
                is_forgotten: false,
            });
        placed.is_forgotten = false;
        if placed.sessions.insert(session.clone()) {
            self.sessions
                .insert(session.clone(), (compute.clone(), Account::default()));
        }
        Some(worker)
    }

    /// The worker of a session that has a place.
    pub(crate) fn worker(&self, session: &SessionId) -> Option<usize> {
        let (compute, _) = self.sessions.get(session)?;
        Some(self.computes.get(compute)?.worker)
    }

    /// Whether a session is in a worker, or was until a short time ago: what is told of it comes a little later than its end.
    pub(crate) fn was_in(&self, session: &SessionId, worker: usize) -> bool {
        match self.worker(session) {
            Some(now) => now == worker,
            None => self
                .ended
                .iter()
                .any(|(ended, of)| ended == session && *of == worker),
        }
    }

    /// A session has ended; the place of its compute goes with the last of them.
    pub(crate) fn remove(&mut self, session: &SessionId) {
        let Some((compute, _)) = self.sessions.remove(session) else {
            return;
        };
        let Some(placed) = self.computes.get_mut(&compute) else {
            return;
        };
        placed.sessions.remove(session);
        if self.ended.len() >= ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((session.clone(), placed.worker));
        if placed.sessions.is_empty()
            && let Some(mut placed) = self.computes.remove(&compute)
        {
            if placed.is_forgotten {
                return;
            }
            placed.account.close();
            self.left.insert(compute, placed.account);
        }
    }

    /// What a compute has used is of no interest any more, once its sessions are gone.
    pub(crate) fn forget(&mut self, compute: &ComputeId) {
        self.left.remove(compute);
        if let Some(placed) = self.computes.get_mut(compute) {
            placed.is_forgotten = true;
        }
    }

    /// Takes in what a worker tells; what it tells of others' computes and sessions does not count.
    pub(crate) fn take_in(&mut self, worker: usize, used: Snapshot) {
        for (id, used) in used.computes {
            if let Some(placed) = self.computes.get_mut(&id)
                && placed.worker == worker
            {
                placed.account.set(used.at_most(placed.memory, u64::MAX));
            }
        }
        for (id, used) in used.sessions {
            if let Some((compute, account)) = self.sessions.get_mut(&id)
                && let Some(placed) = self.computes.get(compute)
                && placed.worker == worker
            {
                account.set(used.at_most(placed.memory, u64::MAX));
            }
        }
    }

    /// A worker is gone, and with it all instances. Its computes keep their place.
    pub(crate) fn close(&mut self, worker: usize) {
        for placed in self.computes.values_mut() {
            if placed.worker == worker {
                placed.account.close();
                for session in &placed.sessions {
                    if let Some((_, account)) = self.sessions.get_mut(session) {
                        account.close();
                    }
                }
            }
        }
    }

    /// What a session has used.
    pub(crate) fn session(&self, session: &SessionId) -> Used {
        let account = self.sessions.get(session);
        account.map_or_else(Used::default, |(_, account)| account.used())
    }

    /// What a compute has used; `None` when it has never run.
    pub(crate) fn compute(&self, compute: &ComputeId) -> Option<Used> {
        let placed = self.computes.get(compute).map(|placed| &placed.account);
        placed.or(self.left.get(compute)).map(Account::used)
    }

    /// The sessions in a worker.
    pub(crate) fn sessions(&self, worker: usize) -> usize {
        let placed = self.computes.values();
        let here = placed.filter(|placed| placed.worker == worker);
        here.map(|placed| placed.sessions.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u64) -> SessionId {
        SessionId {
            workspace: "w".to_owned(),
            session: format!("s{number}"),
            generation: 1,
        }
    }

    fn compute(number: u64) -> ComputeId {
        ComputeId {
            workspace: "w".to_owned(),
            compute: format!("c{number}"),
        }
    }

    fn place(placements: &mut Placements, at: u64, on: u64) -> Option<usize> {
        placements.place(&session(at), &compute(on), 100, &[0, 1], |worker| {
            [5, 3][worker]
        })
    }

    fn used(memory: u64) -> Used {
        Used {
            memory,
            instances: 1,
            ..Used::default()
        }
    }

    #[test]
    fn a_compute_goes_where_there_is_most_room_and_stays() {
        let mut placements = Placements::default();
        assert_eq!(place(&mut placements, 1, 1), Some(1));
        assert_eq!(place(&mut placements, 2, 2), Some(0));
        assert_eq!(place(&mut placements, 3, 3), Some(1));
        assert_eq!(place(&mut placements, 4, 1), Some(1));
        assert_eq!((placements.sessions(0), placements.sessions(1)), (1, 3));
        placements.remove(&session(1));
        assert_eq!(place(&mut placements, 5, 1), Some(1));
        for number in [2, 4, 5] {
            placements.remove(&session(number));
        }
        // Nothing of it is left, so it may go elsewhere.
        assert_eq!(place(&mut placements, 6, 1), Some(0));
        assert_eq!(placements.worker(&session(5)), None);
    }

    #[test]
    fn workers_tell_of_their_own_only_and_no_more_than_can_be() {
        let mut placements = Placements::default();
        place(&mut placements, 1, 1);
        let tell = |memory| Snapshot {
            computes: vec![(compute(1), used(memory)), (compute(9), used(memory))],
            sessions: vec![(session(1), used(memory)), (session(9), used(memory))],
            ..Snapshot::default()
        };
        placements.take_in(0, tell(50));
        assert_eq!(placements.session(&session(1)), Used::default());
        placements.take_in(1, tell(u64::MAX));
        assert_eq!(placements.session(&session(1)), used(100));
        assert_eq!(placements.compute(&compute(1)), Some(used(100)));
        assert_eq!(placements.compute(&compute(9)), None);
        placements.close(1);
        assert_eq!(placements.session(&session(1)), Used::default());
    }
}
