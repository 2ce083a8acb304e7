//! The instances of one component in one session.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::Sandbox;
use crate::environment::Environment;
use crate::error::{Full, SandboxError};
use crate::instance::Instance;
use crate::program::Program;
use crate::slice::{LastUse, Refused, Seat, Slice, SliceLimits, SliceUsage};

/// How much one call may see of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// An instance is used again after a clean return, as a container would be: module globals live on.
    #[default]
    Session,
    /// Every call has a fresh instance.
    Call,
}

/// No instance could be had.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// There was no room for another instance, and none became free.
    #[error("{full}, and nothing became free within {} s", .waited.as_secs_f64())]
    Busy {
        /// What is full.
        full: Full,
        /// How long was waited.
        waited: Duration,
    },
    /// A new instance could not be made.
    #[error(transparent)]
    Start(#[from] SandboxError),
}

/// Lends instances of one program in one session, and makes them when they are needed and its session's
/// [`Slice`] has room.
///
/// Idle instances stay for the next call until [`Pool::shrink`], until the slice needs their room for others, or until
/// the pool is dropped.
#[derive(Debug)]
pub struct Pool {
    sandbox: Arc<Sandbox>,
    program: Arc<Program>,
    environment: Arc<Environment>,
    isolation: Isolation,
    instances: usize,
    permits: Arc<Semaphore>,
    /// Counts what the pool uses; the limits are its parent's, the session's slice.
    slice: Arc<Slice>,
    // Boxed, since an instance changes hands several times for each call.
    idle: Mutex<BTreeMap<LastUse, Box<Instance>>>,
}

/// Where a call finds its instance.
enum Place {
    Idle(Box<Instance>),
    New(Seat),
}

impl Pool {
    /// A pool of at most `instances` live instances; none is made yet.
    pub fn new(
        sandbox: Arc<Sandbox>,
        program: Arc<Program>,
        environment: Arc<Environment>,
        isolation: Isolation,
        instances: usize,
    ) -> Arc<Self> {
        let slice = Slice::new(SliceLimits::UNLIMITED, Some(Arc::clone(&environment.slice)));
        Arc::new(Self {
            sandbox,
            program,
            environment,
            isolation,
            instances,
            permits: Arc::new(Semaphore::new(instances)),
            slice,
            idle: Mutex::default(),
        })
    }

    /// An idle instance, or a new one, for which an idle one of another pool may have to go; waits while there is
    /// neither.
    ///
    /// # Errors
    /// [`PoolError::Busy`] when none can be had within `wait`; at once when the program needs more memory than its slice
    /// has in all, or a new instance cannot be made.
    pub async fn checkout(self: &Arc<Self>, wait: Duration) -> Result<Lease, PoolError> {
        let mut full = Full::Pool {
            instances: self.instances,
        };
        let found = tokio::time::timeout(wait, async {
            let permit = self.permit().await;
            let place = self.place(&mut full).await?;
            Ok::<_, SandboxError>((permit, place))
        })
        .await;
        match found {
            Ok(found) => {
                let (permit, place) = found?;
                self.lend(permit, place).await
            }
            Err(_) => Err(PoolError::Busy { full, waited: wait }),
        }
    }

    /// The same without waiting; `None` when there is neither an idle instance nor room for a new one.
    ///
    /// # Errors
    /// When a new instance cannot be made.
    pub async fn try_checkout(self: &Arc<Self>) -> Result<Option<Lease>, PoolError> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return Ok(None);
        };
        match self.try_place() {
            Ok(place) => self.lend(permit, place).await.map(Some),
            Err(refused) if refused.forever => Err(SandboxError::NoRoom(refused.full).into()),
            Err(_) => Ok(None),
        }
    }

    /// Drops the instances that have been idle for at least this long; [`Duration::ZERO`] means all idle ones. Gives
    /// their number.
    pub fn shrink(&self, idle_for: Duration) -> usize {
        let Some(latest) = Instant::now().checked_sub(idle_for) else {
            return 0;
        };
        let dropped = {
            let mut idle = self.lock();
            let kept = idle.split_off(&(latest, u64::MAX));
            let dropped = std::mem::replace(&mut *idle, kept);
            for last_use in dropped.keys() {
                self.environment.slice.unregister_idle(*last_use);
            }
            dropped
        };
        dropped.len()
    }

    /// What the pool's instances use now, and what its calls have used in total.
    pub fn usage(&self) -> SliceUsage {
        SliceUsage {
            idle: self.lock().len(),
            ..self.slice.usage()
        }
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.permits).acquire_owned().await {
            Ok(permit) => permit,
            // The semaphore is never closed; a closed one would have nothing to give either.
            Err(_) => std::future::pending().await,
        }
    }

    /// A place as soon as there is one. What is missing for it meanwhile is noted in `full`.
    async fn place(&self, full: &mut Full) -> Result<Place, SandboxError> {
        let mut refused = match self.try_place() {
            Ok(place) => return Ok(place),
            Err(refused) => refused,
        };
        loop {
            if refused.forever {
                return Err(SandboxError::NoRoom(refused.full));
            }
            *full = refused.full;
            let slice = refused.slice;
            let mut freed = pin!(slice.freed().notified());
            // Listens from here on, so that nothing is missed that happens after the next try.
            freed.as_mut().enable();
            refused = match self.try_place() {
                Ok(place) => return Ok(place),
                Err(refused) => refused,
            };
            // Another slice may be the full one by now: then that is to be listened to.
            if Arc::ptr_eq(&slice, &refused.slice) {
                freed.await;
            }
        }
    }

    fn try_place(&self) -> Result<Place, Refused> {
        // The one used last is the likeliest to be in the processor's caches.
        let latest = {
            let mut idle = self.lock();
            let latest = idle.pop_last();
            if let Some((last_use, _)) = &latest {
                self.environment.slice.unregister_idle(*last_use);
            }
            latest
        };
        match latest {
            Some((_, instance)) => Ok(Place::Idle(instance)),
            None => self.slice.admit(self.program.memory()).map(Place::New),
        }
    }

    async fn lend(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        place: Place,
    ) -> Result<Lease, PoolError> {
        let instance = match place {
            Place::Idle(instance) => instance,
            Place::New(seat) => Box::new(
                Instance::start_in(seat, &self.sandbox, &self.program, &self.environment).await?,
            ),
        };
        Ok(Lease {
            instance: Some(instance),
            pool: Arc::clone(self),
            _permit: permit,
        })
    }

    /// Keeps an instance for the next call, and tells those who may need its room.
    fn keep(self: &Arc<Self>, instance: Box<Instance>) {
        let slice = &self.environment.slice;
        {
            let mut idle = self.lock();
            let last_use = (Instant::now(), instance.id());
            slice.register_idle(last_use, &Arc::downgrade(self));
            idle.insert(last_use, instance);
        }
        slice.wake();
    }

    /// Takes out a certain idle instance, if it is still there.
    pub(crate) fn take(&self, last_use: LastUse) -> Option<Box<Instance>> {
        let mut idle = self.lock();
        let instance = idle.remove(&last_use)?;
        self.environment.slice.unregister_idle(last_use);
        Some(instance)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LastUse, Box<Instance>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shrink(Duration::ZERO);
    }
}

/// An instance on loan; it goes back to its pool when dropped, unless it is broken or must not be shared.
#[derive(Debug)]
pub struct Lease {
    // Empty only while being dropped.
    instance: Option<Box<Instance>>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl std::ops::Deref for Lease {
    type Target = Instance;

    #[expect(clippy::expect_used, reason = "only `drop` takes the instance out")]
    fn deref(&self) -> &Instance {
        self.instance.as_ref().expect("a lease holds its instance")
    }
}

impl std::ops::DerefMut for Lease {
    #[expect(clippy::expect_used, reason = "only `drop` takes the instance out")]
    fn deref_mut(&mut self) -> &mut Instance {
        self.instance.as_mut().expect("a lease holds its instance")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut instance) = self.instance.take()
            && !instance.is_broken()
            && self.pool.isolation == Isolation::Session
        {
            instance.listen(None);
            self.pool.keep(instance);
        }
    }
}
