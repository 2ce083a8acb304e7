//! Batches: what `/initialize` sets up and `/finalize` ends.

use std::sync::Arc;
use std::time::Duration;

use dashmap::{DashMap, Entry};
use flowcell_session::{SessionKey, State};
use flowcell_worker::Setup;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// promptflow's number of workers.
const WORKERS: u64 = 4;
/// promptflow's `LINE_TIMEOUT_SEC`.
const LINE_SECONDS: u64 = 600;

/// A batch that was initialised.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The life of the session that it belongs to.
    generation: u64,
    pub(super) setup: Setup,
    pub(super) line_time: Duration,
    /// A place for each line that may run at once; the others wait.
    pub(super) workers: Semaphore,
    /// Set when the batch is over: its lines end.
    pub(super) ended: CancellationToken,
}

impl Batch {
    pub(super) fn new(
        generation: u64,
        setup: Setup,
        line_seconds: Option<u64>,
        workers: Option<u64>,
        most: usize,
    ) -> Self {
        // promptflow takes 0 for nothing said, in both.
        let workers = workers.filter(|number| *number > 0).unwrap_or(WORKERS);
        let seconds = line_seconds.filter(|seconds| *seconds > 0);
        Self {
            generation,
            setup,
            line_time: Duration::from_secs(seconds.unwrap_or(LINE_SECONDS)),
            workers: Semaphore::new(
                usize::try_from(workers)
                    .unwrap_or(most)
                    .clamp(1, most.max(1)),
            ),
            ended: CancellationToken::new(),
        }
    }
}

/// The batches of all sessions: at most one for each life of a session, and gone with it.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    batches: DashMap<SessionKey, Arc<Batch>>,
}

impl Batches {
    /// The batch of a session's present life.
    pub(super) fn get(&self, state: &State, key: &SessionKey) -> Option<Arc<Batch>> {
        let batch = self.batches.get(key).map(|batch| Arc::clone(&batch))?;
        (generation(state, key) == Some(batch.generation)).then_some(batch)
    }

    /// Puts a batch in place of the one before, if no line of that is under way. Batches of sessions that are over are
    /// forgotten.
    pub(super) fn put(&self, state: &State, key: SessionKey, batch: Batch) -> bool {
        self.batches
            .retain(|key, batch| generation(state, key) == Some(batch.generation));
        match self.batches.entry(key) {
            // Whoever runs a line of it holds it too.
            Entry::Occupied(present) if Arc::strong_count(present.get()) > 1 => false,
            Entry::Occupied(mut present) => {
                present.insert(Arc::new(batch));
                true
            }
            Entry::Vacant(place) => {
                place.insert(Arc::new(batch));
                true
            }
        }
    }

    /// Ends a session's batch; whether there was one.
    pub(super) fn end(&self, state: &State, key: &SessionKey) -> bool {
        match self.batches.remove(key) {
            Some((_, batch)) => {
                batch.ended.cancel();
                generation(state, key) == Some(batch.generation)
            }
            None => false,
        }
    }
}

/// The number of a session's life, while it lives.
pub(super) fn generation(state: &State, (workspace, id): &SessionKey) -> Option<u64> {
    let session = state.workspaces.get(workspace)?.sessions.get(id)?;
    session.state.is_live().then_some(session.generation)
}
