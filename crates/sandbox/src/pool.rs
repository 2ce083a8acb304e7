//! The instances of one component in one session.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::Sandbox;
use crate::environment::Environment;
use crate::error::SandboxError;
use crate::instance::Instance;
use crate::program::Program;

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
    /// All instances are at work.
    #[error("all {instances} instances are busy, and none became free within {} s", .waited.as_secs_f64())]
    Busy {
        /// How many there are.
        instances: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// A new instance could not be made.
    #[error(transparent)]
    Start(#[from] SandboxError),
}

/// Lends instances of one program in one session, and makes them when they are needed.
#[derive(Debug)]
pub struct Pool {
    sandbox: Arc<Sandbox>,
    program: Arc<Program>,
    environment: Arc<Environment>,
    isolation: Isolation,
    instances: usize,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Instance>>,
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
        Arc::new(Self {
            sandbox,
            program,
            environment,
            isolation,
            instances,
            permits: Arc::new(Semaphore::new(instances)),
            idle: Mutex::default(),
        })
    }

    /// An idle instance, or a new one; waits when all are lent.
    ///
    /// # Errors
    /// [`PoolError::Busy`] when none becomes free within `wait`.
    pub async fn checkout(self: &Arc<Self>, wait: Duration) -> Result<Lease, PoolError> {
        let permit = tokio::time::timeout(wait, Arc::clone(&self.permits).acquire_owned()).await;
        match permit {
            Ok(Ok(permit)) => self.lend(permit).await,
            // The semaphore is never closed; a closed one would have nothing to give either.
            Ok(Err(_)) | Err(_) => Err(PoolError::Busy {
                instances: self.instances,
                waited: wait,
            }),
        }
    }

    /// The same without waiting; `None` when all are lent.
    ///
    /// # Errors
    /// When a new instance cannot be made.
    pub async fn try_checkout(self: &Arc<Self>) -> Result<Option<Lease>, PoolError> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => self.lend(permit).await.map(Some),
            Err(_) => Ok(None),
        }
    }

    async fn lend(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Result<Lease, PoolError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let instance = match idle {
            Some(instance) => instance,
            None => Instance::start(&self.sandbox, &self.program, &self.environment).await?,
        };
        Ok(Lease {
            instance: Some(instance),
            pool: Arc::clone(self),
            _permit: permit,
        })
    }
}

/// An instance on loan; it goes back to its pool when dropped, unless it is broken or must not be shared.
#[derive(Debug)]
pub struct Lease {
    // Empty only while being dropped.
    instance: Option<Instance>,
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
        if let Some(instance) = self.instance.take()
            && !instance.is_broken()
            && self.pool.isolation == Isolation::Session
        {
            self.pool
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(instance);
        }
    }
}
