//! The Python instances of one line.
//!
//! A line starts with one instance and gets another only when a node is ready while the others are at work. Nodes that
//! run one after the other share an instance, so module globals behave as in promptflow's single process; objects that
//! are not JSON stay in their lane until the line ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowcell_sandbox::{Lease, Pool, PoolError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// A lane in use; nobody else can call its instance meanwhile.
pub(crate) struct Held {
    pub(crate) index: usize,
    pub(crate) instance: OwnedMutexGuard<Lease>,
}

/// The lanes of one line.
pub(crate) struct Lanes {
    pool: Option<Arc<Pool>>,
    wait: Duration,
    lanes: Mutex<Vec<Arc<AsyncMutex<Lease>>>>,
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
            if let Ok(instance) = Arc::clone(lane).try_lock_owned()
                && !instance.is_broken()
            {
                return Ok(Held { index, instance });
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
        if let Some(lease) = lease {
            let lane = Arc::new(AsyncMutex::new(lease));
            let instance = Arc::clone(&lane).lock_owned().await;
            let mut lanes = self.lock();
            lanes.push(lane);
            let index = lanes.len() - 1;
            return Ok(Held { index, instance });
        }
        drop(growing);
        let free = lanes.into_iter().enumerate().map(|(index, lane)| {
            Box::pin(async move {
                let instance = lane.lock_owned().await;
                Held { index, instance }
            })
        });
        let (held, _, _) = futures_util::future::select_all(free).await;
        Ok(held)
    }

    /// A certain lane, when it is free.
    pub(crate) async fn lane(&self, index: usize) -> Option<Held> {
        let lane = self.lock().get(index).cloned()?;
        let instance = lane.lock_owned().await;
        Some(Held { index, instance })
    }

    /// Drops the objects in all lanes, and gives the instances back.
    pub(crate) async fn close(&self) {
        let lanes = std::mem::take(&mut *self.lock());
        for lane in lanes {
            let mut instance = lane.lock().await;
            if !instance.is_broken() {
                // An instance that cannot even forget is broken now, and is not used again.
                let _ = instance.forget().await;
            }
        }
    }

    fn all(&self) -> Vec<Arc<AsyncMutex<Lease>>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<AsyncMutex<Lease>>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
