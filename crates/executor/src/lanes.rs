//! The Python instances of one line.
//!
//! A line starts with one instance and gets another only when a node is ready while the others are at work. Nodes that
//! run one after the other share an instance, so module globals behave as in promptflow's single process; objects that
//! are not JSON stay in their lane until the line ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowcell_sandbox::{Instance, Lease, Outcome, Pool, PoolError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::value::{Object, Value};

/// One Python instance of a line.
struct Lane {
    instance: Lease,
    /// Whether it keeps objects for the host.
    keeps: bool,
}

/// A lane in use; nobody else can call its instance meanwhile.
pub(crate) struct Held {
    index: usize,
    lane: OwnedMutexGuard<Lane>,
}

impl Held {
    pub(crate) fn instance(&mut self) -> &mut Instance {
        &mut self.lane.instance
    }

    /// What the instance answered, as a value of the line.
    pub(crate) fn value(&mut self, outcome: Outcome) -> Value {
        match outcome {
            Outcome::Json(json) => Value::Json(json.into()),
            Outcome::Object(id) => {
                self.keeps_objects();
                Value::Object(Object {
                    lane: self.index,
                    id,
                })
            }
        }
    }

    /// An object's `repr`, for people; a placeholder where it has none, or not in time.
    pub(crate) async fn repr(&mut self, object: u64) -> String {
        match self.instance().repr(object).await.result {
            Ok(Ok(text)) => text,
            Ok(Err(_)) | Err(_) => "<an object without a repr>".to_owned(),
        }
    }

    /// The instance has objects that it must be told to drop.
    pub(crate) fn keeps_objects(&mut self) {
        self.lane.keeps = true;
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.lane.instance.is_broken()
    }
}

/// The lanes of one line.
pub(crate) struct Lanes {
    pool: Option<Arc<Pool>>,
    wait: Duration,
    lanes: Mutex<Vec<Arc<AsyncMutex<Lane>>>>,
    // Held while a lane is being made, so that a line waits for its first instance only: a line that has one and waited
    // for another could wait for a line that does the same.
    growing: AsyncMutex<()>,
}

impl Lanes {
    pub(crate) fn new(pool: Option<Arc<Pool>>, wait: Duration) -> Self {
        Self {
            pool,
            wait,
            lanes: Mutex::default(),
            growing: AsyncMutex::default(),
        }
    }

    /// An idle lane, or a new one, or the first that becomes free.
    pub(crate) async fn any(&self) -> Result<Held, PoolError> {
        let growing = self.growing.lock().await;
        let lanes = self.all();
        for (index, lane) in lanes.iter().enumerate() {
            if let Ok(lane) = Arc::clone(lane).try_lock_owned()
                && !lane.instance.is_broken()
            {
                return Ok(Held { index, lane });
            }
        }
        let Some(pool) = &self.pool else {
            // Only Python nodes ask, and a session with Python nodes has a pool.
            return Err(PoolError::Busy {
                full: flowcell_sandbox::Full::Pool { instances: 0 },
                waited: Duration::ZERO,
            });
        };
        let lease = if lanes.is_empty() {
            Some(pool.checkout(self.wait).await?)
        } else {
            pool.try_checkout().await?
        };
        if let Some(instance) = lease {
            let new = Arc::new(AsyncMutex::new(Lane {
                instance,
                keeps: false,
            }));
            let lane = Arc::clone(&new).lock_owned().await;
            let mut lanes = self.lock();
            lanes.push(new);
            let index = lanes.len() - 1;
            return Ok(Held { index, lane });
        }
        drop(growing);
        let free = lanes.into_iter().enumerate().map(|(index, lane)| {
            Box::pin(async move {
                let lane = lane.lock_owned().await;
                Held { index, lane }
            })
        });
        let (held, _, _) = futures_util::future::select_all(free).await;
        Ok(held)
    }

    /// A certain lane, when it is free.
    pub(crate) async fn lane(&self, index: usize) -> Option<Held> {
        let lane = self.lock().get(index).cloned()?;
        let lane = lane.lock_owned().await;
        Some(Held { index, lane })
    }

    /// Drops the objects in all lanes, and gives the instances back.
    pub(crate) async fn close(&self) {
        let lanes = std::mem::take(&mut *self.lock());
        for lane in lanes {
            let mut lane = lane.lock().await;
            if lane.keeps && !lane.instance.is_broken() {
                // An instance that cannot even forget is broken now, and is not used again.
                let _ = lane.instance.forget().await;
            }
        }
    }

    fn all(&self) -> Vec<Arc<AsyncMutex<Lane>>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<AsyncMutex<Lane>>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
