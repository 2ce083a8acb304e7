//! The instances of one component in one session.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};

use crate::engine::Sandbox;
use crate::environment::Environment;
use crate::error::{Fault, Full, SandboxError};
use crate::hibernation::{Asleep, Hibernation, delete, tried, untried};
use crate::image::Image;
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
/// Idle instances stay for the next call until [`Pool::shrink`] or [`Pool::hibernate`], until the slice needs their room
/// for others, or until the pool is dropped. A call prefers an instance that is idle to one that is stored, and that to a
/// new one.
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
    /// What new instances start from, where that is more than the program's base.
    image: Mutex<Option<Image>>,
    hibernation: Option<Hibernation>,
    /// What is stored, that which was used last at the end; not known before it is first asked for.
    asleep: Mutex<Option<Vec<Asleep>>>,
    /// Why something that was stored is gone, or could not be read, for the next call to be told.
    lost: Mutex<Option<SandboxError>>,
    /// Held while an instance is being stored, so that whoever needs one waits for that one.
    settling: AsyncMutex<()>,
}

/// What a [`Pool`] lends, and to how many.
#[derive(Debug)]
pub struct PoolOptions {
    /// The program.
    pub program: Arc<Program>,
    /// What its instances are given.
    pub environment: Arc<Environment>,
    /// How much one call may see of another.
    pub isolation: Isolation,
    /// Most live instances.
    pub instances: usize,
    /// What new instances start from, where that is more than the program's base.
    pub image: Option<Image>,
    /// Where idle instances are stored. Of no use for a program that has its data in its code, and where calls do not
    /// share instances.
    pub hibernation: Option<Hibernation>,
}

/// What came of storing a pool's idle instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hibernated {
    /// Instances that are stored now, with those of earlier.
    pub instances: usize,
    /// Bytes of their files.
    pub bytes: u64,
    /// Why others are not stored: those stay as they are.
    pub kept: Vec<String>,
}

/// Where a call finds its instance.
enum Place {
    Idle(Box<Instance>),
    Asleep(Seat, Asleep),
    New(Seat),
}

impl Pool {
    /// A pool; no instance is made yet.
    pub fn new(sandbox: Arc<Sandbox>, options: PoolOptions) -> Arc<Self> {
        let PoolOptions {
            program,
            environment,
            isolation,
            instances,
            image,
            hibernation,
        } = options;
        let slice = Slice::new(SliceLimits::UNLIMITED, Some(Arc::clone(&environment.slice)));
        let can_be_stored = isolation == Isolation::Session && program.base().is_some();
        Arc::new(Self {
            sandbox,
            program,
            environment,
            isolation,
            instances,
            permits: Arc::new(Semaphore::new(instances)),
            slice,
            idle: Mutex::default(),
            image: Mutex::new(image),
            hibernation: hibernation.filter(|_| can_be_stored),
            asleep: Mutex::default(),
            lost: Mutex::default(),
            settling: AsyncMutex::default(),
        })
    }

    /// The program whose instances it lends.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Lets new instances start from an image.
    pub fn set_image(&self, image: Image) {
        *self.image.lock().unwrap_or_else(PoisonError::into_inner) = Some(image);
    }

    /// What new instances start from; `None` for a program that has its data in its code.
    pub fn image(&self) -> Option<Image> {
        let image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        image.as_ref().or(self.program.base()).cloned()
    }

    /// An idle instance, or a new one, for which an idle one of another pool may have to go; waits while there is
    /// neither.
    ///
    /// # Errors
    /// [`PoolError::Busy`] when none can be had within `wait`; at once when the program needs more memory than its slice
    /// has in all, or a new instance cannot be made.
    pub async fn checkout(self: &Arc<Self>, wait: Duration) -> Result<Lease, PoolError> {
        self.checkout_in(wait, false).await
    }

    /// The same for a call that another instance makes, and waits for: where all places of the slice are taken, it gets one
    /// that does not count, and is dropped afterwards.
    pub(crate) async fn checkout_beside(
        self: &Arc<Self>,
        wait: Duration,
    ) -> Result<Lease, PoolError> {
        self.checkout_in(wait, true).await
    }

    async fn checkout_in(
        self: &Arc<Self>,
        wait: Duration,
        beside: bool,
    ) -> Result<Lease, PoolError> {
        let mut full = Full::Pool {
            instances: self.instances,
        };
        let found = tokio::time::timeout(wait, async {
            let permit = self.permit().await;
            let place = self.place(&mut full, beside).await?;
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
        match self.try_place().await {
            Ok(place) => self.lend(permit, place).await.map(Some),
            Err(refused) if refused.forever => Err(SandboxError::NoRoom(refused.full).into()),
            Err(_) => Ok(None),
        }
    }

    /// Drops the instances that have been idle for at least this long, and what they hold; [`Duration::ZERO`] means all
    /// idle ones. Gives their number.
    pub fn shrink(&self, idle_for: Duration) -> usize {
        let dropped = self.take_idle_for(idle_for);
        for instance in dropped.values() {
            forget_file(instance);
        }
        dropped.len()
    }

    /// Stores the instances that have been idle for at least this long, and frees their memory; returns when all is on the
    /// disk. Instances of a pool that stores none are dropped.
    pub async fn hibernate(self: &Arc<Self>, idle_for: Duration) -> Hibernated {
        if self.hibernation.is_none() {
            self.shrink(idle_for);
            return Hibernated::default();
        }
        let pool = Arc::clone(self);
        // It is done to the end, whatever becomes of the caller.
        let stored = tokio::spawn(async move {
            let _settling = pool.settling.lock().await;
            let (mut stored, mut kept) = (Vec::new(), Vec::new());
            for instance in pool.take_idle_for(idle_for).into_values() {
                match pool.put_to_sleep(instance).await {
                    Ok(image) => stored.push(image),
                    Err((instance, why)) => {
                        match instance {
                            Some(instance) => pool.keep(instance),
                            None => tracing::warn!(why, "an instance is lost"),
                        }
                        if !kept.contains(&why) {
                            kept.push(why);
                        }
                    }
                }
            }
            (stored, kept)
        });
        let (stored, kept) = stored.await.unwrap_or_default();
        // Calls can go on from them already.
        make_sure(stored).await;
        self.with_asleep(|asleep| Hibernated {
            instances: asleep.len(),
            bytes: asleep.iter().map(|asleep| asleep.size).sum(),
            kept,
        })
    }

    /// Goes on from what is stored, so that the next calls find idle instances. What has no room at this moment stays
    /// stored.
    ///
    /// # Errors
    /// When an instance is lost, or cannot be made.
    pub async fn resume(self: &Arc<Self>) -> Result<(), PoolError> {
        // Those that are idle already are lent first, and all go back together.
        let mut lent = Vec::new();
        while self.with_asleep(|asleep| !asleep.is_empty()) {
            match self.try_checkout().await? {
                Some(lease) => lent.push(lease),
                None => return Ok(()),
            }
        }
        Ok(self.tell_loss()?)
    }

    /// An error once for what was stored and is gone: whoever goes on without it should know.
    fn tell_loss(&self) -> Result<(), SandboxError> {
        self.lock_lost().take().map_or(Ok(()), Err)
    }

    fn lock_lost(&self) -> MutexGuard<'_, Option<SandboxError>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes its room from an idle instance, if it is still there: it is stored, or dropped where that is not possible.
    ///
    /// The storing goes on should the caller be dropped meanwhile: who needs the room has no say in another's state.
    pub(crate) async fn give_up(self: &Arc<Self>, last_use: LastUse) -> bool {
        if self.hibernation.is_none() {
            return self.take(last_use).is_some();
        }
        let pool = Arc::clone(self);
        let given_up = tokio::spawn(async move {
            let _settling = pool.settling.lock().await;
            let Some(instance) = pool.take(last_use) else {
                return false;
            };
            match pool.put_to_sleep(instance).await {
                // Who needs the room does not wait for the disk.
                Ok(stored) => drop(tokio::spawn(make_sure(vec![stored]))),
                Err((instance, why)) => {
                    tracing::info!(
                        why,
                        "an instance was dropped to make room, with what it held"
                    );
                    if let Some(instance) = instance {
                        forget_file(&instance);
                    }
                }
            }
            true
        });
        given_up.await.unwrap_or(false)
    }

    /// Stores an instance, and drops it; otherwise gives it back, if it is still of use, with the reason. What it went on
    /// from is to be deleted once the new file is on the disk.
    async fn put_to_sleep(
        &self,
        mut instance: Box<Instance>,
    ) -> Result<Replacement, (Option<Box<Instance>>, String)> {
        let Some(hibernation) = &self.hibernation else {
            return Err((Some(instance), "its pool stores none".to_owned()));
        };
        let begun = Instant::now();
        let image = instance.image();
        let below = match image {
            Some(image) if image.is_private() => image.below(),
            image => image,
        };
        let kept = hibernation.has_room();
        let kept = kept.and_then(|()| Ok(hibernation.keep_below(below)?));
        let slept_in = instance.slept_in.clone();
        let stored = match kept {
            Ok(()) => {
                let destination = hibernation.destination(slept_in.as_deref());
                instance.store(&destination).await
            }
            Err(error) => Err(error),
        };
        match stored {
            Ok(stored) => {
                let file = stored.image.file().map(|(file, _)| file.to_owned());
                let asleep = Asleep {
                    file: file.unwrap_or_default(),
                    size: stored.size,
                    image: stored.image.clone(),
                };
                self.with_asleep(|all| all.push(asleep));
                drop(instance);
                self.slice.count_hibernation(begun.elapsed());
                Ok(Replacement {
                    image: stored.image,
                    of: slept_in,
                })
            }
            Err(error) if instance.is_broken() => {
                forget_file(&instance);
                Err((None, error.to_string()))
            }
            Err(error) => Err((Some(instance), with_causes(&error))),
        }
    }

    fn take_idle_for(&self, idle_for: Duration) -> BTreeMap<LastUse, Box<Instance>> {
        let Some(latest) = Instant::now().checked_sub(idle_for) else {
            return BTreeMap::new();
        };
        let mut idle = self.lock();
        let kept = idle.split_off(&(latest, u64::MAX));
        let taken = std::mem::replace(&mut *idle, kept);
        for last_use in taken.keys() {
            self.environment.slice.unregister_idle(*last_use);
        }
        taken
    }

    /// What the pool's instances use now, and what its calls have used in total.
    pub fn usage(&self) -> SliceUsage {
        SliceUsage {
            idle: self.lock().len(),
            ..self.slice.usage()
        }
    }

    /// Memory that idle instances have for themselves alone, in bytes: pages that they changed, or that were copied for
    /// them. Nothing is known of programs that have their data in their code.
    pub fn private_memory(&self) -> u64 {
        let mut idle = self.lock();
        idle.values_mut()
            .map(|instance| instance.private_memory())
            .sum()
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.permits).acquire_owned().await {
            Ok(permit) => permit,
            // The semaphore is never closed; a closed one would have nothing to give either.
            Err(_) => std::future::pending().await,
        }
    }

    /// A place as soon as there is one. What is missing for it meanwhile is noted in `full`.
    async fn place(&self, full: &mut Full, beside: bool) -> Result<Place, SandboxError> {
        let mut refused = match self.try_place().await {
            Ok(place) => return Ok(place),
            Err(refused) => refused,
        };
        loop {
            if beside && matches!(refused.full, Full::Instances { .. }) {
                match self.slice.admit_beside(self.memory()).await {
                    Ok(seat) => return Ok(Place::New(seat)),
                    Err(no_memory) => refused = no_memory,
                }
            }
            if refused.forever {
                return Err(SandboxError::NoRoom(refused.full));
            }
            *full = refused.full;
            let slice = refused.slice;
            let mut freed = pin!(slice.freed().notified());
            // Listens from here on, so that nothing is missed that happens after the next try.
            freed.as_mut().enable();
            refused = match self.try_place().await {
                Ok(place) => return Ok(place),
                Err(refused) => refused,
            };
            // Another slice may be the full one by now: then that is to be listened to.
            if Arc::ptr_eq(&slice, &refused.slice) {
                freed.await;
            }
        }
    }

    async fn try_place(&self) -> Result<Place, Refused> {
        if let Some(instance) = self.take_last() {
            return Ok(Place::Idle(instance));
        }
        if self.hibernation.is_some() {
            let asleep = {
                let _settled = self.settling.lock().await;
                self.with_asleep(Vec::pop)
            };
            if let Some(asleep) = asleep {
                // Back in its place if it is not taken after all.
                let mut taken = Taken {
                    pool: self,
                    is_tried: false,
                    asleep: Some(asleep),
                };
                let memory = taken
                    .asleep
                    .as_ref()
                    .map_or(0, |asleep| asleep.image.memory());
                let seat = self.slice.admit(memory).await?;
                if let Some(asleep) = taken.asleep.take() {
                    return Ok(Place::Asleep(seat, asleep));
                }
            }
            // One that could not be stored is idle again.
            if let Some(instance) = self.take_last() {
                return Ok(Place::Idle(instance));
            }
        }
        self.slice.admit(self.memory()).await.map(Place::New)
    }

    /// What a new instance has from its start, in bytes.
    fn memory(&self) -> u64 {
        let memory = self.image().map(|image| image.memory());
        memory.unwrap_or(self.program.memory())
    }

    /// The idle instance that was used last: the one likeliest to be in the processor's caches.
    fn take_last(&self) -> Option<Box<Instance>> {
        let mut idle = self.lock();
        let (last_use, instance) = idle.pop_last()?;
        self.environment.slice.unregister_idle(last_use);
        Some(instance)
    }

    async fn lend(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        place: Place,
    ) -> Result<Lease, PoolError> {
        let instance = match place {
            Place::Idle(instance) => instance,
            Place::Asleep(seat, asleep) => Box::new(self.go_on(seat, asleep).await?),
            Place::New(seat) => {
                self.tell_loss()?;
                Box::new(self.begin(seat).await?)
            }
        };
        Ok(Lease {
            instance: Some(instance),
            pool: Arc::clone(self),
            _permit: permit,
        })
    }

    async fn start(&self, seat: Seat, image: Option<&Image>) -> Result<Instance, SandboxError> {
        let begun = Instant::now();
        let started =
            Instance::start_in(seat, &self.sandbox, &self.program, &self.environment, image).await;
        self.slice.count_start(begun.elapsed());
        started
    }

    /// A new instance.
    async fn begin(&self, seat: Seat) -> Result<Instance, SandboxError> {
        let image = self.image();
        if let Some(image) = &image {
            self.spread_if_busy(image);
        }
        match self.start(seat, image.as_ref()).await {
            // Without its image it takes longer, and does the same.
            Err(SandboxError::Image(error)) if image.is_some() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "an image is not used any more"
                );
                *self.image.lock().unwrap_or_else(PoisonError::into_inner) = None;
                let memory = self.program.memory();
                let seat = self.slice.admit(memory).await;
                let seat = seat.map_err(|refused| SandboxError::NoRoom(refused.full))?;
                self.start(seat, None).await
            }
            started => started,
        }
    }

    /// Sees to it that an image which is used a lot gets a file of all its pages, without waiting for it.
    fn spread_if_busy(&self, image: &Image) {
        if self.sandbox.spreads().wants(image) {
            let (sandbox, image) = (Arc::clone(&self.sandbox), image.clone());
            let owner = self.environment.owner.clone();
            tokio::task::spawn_blocking(move || sandbox.spreads().spread(&image, &owner));
        }
    }

    /// An instance that was stored.
    async fn go_on(&self, seat: Seat, asleep: Asleep) -> Result<Instance, SandboxError> {
        let file = tried(&asleep.file).unwrap_or_else(|error| {
            tracing::warn!(%error, "a stored instance's file keeps its name");
            asleep.file.clone()
        });
        let image = asleep.image.clone();
        // Back in its place should the caller be dropped meanwhile, or should this fail for another reason.
        let mut taken = Taken {
            pool: self,
            is_tried: file != asleep.file,
            asleep: Some(Asleep {
                file: file.clone(),
                ..asleep
            }),
        };
        match self.start(seat, Some(&image)).await {
            Ok(mut instance) => {
                taken.asleep = None;
                instance.slept_in = Some(file);
                self.slice.count_resume();
                Ok(instance)
            }
            Err(error) => {
                match &error {
                    SandboxError::Image(image) if !image.is_passing() => {}
                    // It may have had too little time; it counts as a try.
                    SandboxError::Resume(Fault::Timeout { .. } | Fault::CpuTime { .. }) => {
                        taken.is_tried = false;
                        return Err(error);
                    }
                    SandboxError::Resume(_) => {}
                    _ => return Err(error),
                }
                taken.asleep = None;
                delete(&file);
                Err(SandboxError::Lost(Box::new(error)))
            }
        }
    }

    /// Looks at what is stored; it is read from the disk at first.
    fn with_asleep<T>(&self, look: impl FnOnce(&mut Vec<Asleep>) -> T) -> T {
        let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asleep) = &mut *asleep {
            return look(asleep);
        }
        let (Some(hibernation), Some(base)) = (&self.hibernation, self.program.base()) else {
            return look(asleep.insert(Vec::new()));
        };
        match hibernation.stored(base) {
            Ok((stored, lost)) => {
                for why in lost {
                    tracing::warn!(owner = ?hibernation.owner, error = &why as &dyn std::error::Error, "a stored instance is lost");
                    *self.lock_lost() = Some(SandboxError::Lost(Box::new(why.into())));
                }
                look(asleep.insert(stored))
            }
            // Read again when it is needed again.
            Err(why) => {
                tracing::warn!(owner = ?hibernation.owner, error = &why as &dyn std::error::Error, "what is stored cannot be read");
                *self.lock_lost() = Some(why.into());
                look(&mut Vec::new())
            }
        }
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
    fn take(&self, last_use: LastUse) -> Option<Box<Instance>> {
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
        self.take_idle_for(Duration::ZERO);
    }
}

/// A stored instance that is about to be gone on from; it goes back to its pool when dropped.
struct Taken<'a> {
    pool: &'a Pool,
    asleep: Option<Asleep>,
    /// Whether its file says that it was gone on from once more, which then was not so.
    is_tried: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(mut asleep) = self.asleep.take() {
            if self.is_tried {
                match untried(&asleep.file) {
                    Ok(file) => asleep.file = file,
                    Err(error) => tracing::warn!(%error, "a stored instance's file keeps its name"),
                }
            }
            self.pool.with_asleep(|all| all.push(asleep));
        }
    }
}

/// An instance that was stored, and the file that it went on from before.
#[derive(Debug)]
struct Replacement {
    image: Image,
    of: Option<PathBuf>,
}

/// Sees to it that what was stored is on the disk, and then deletes what it takes the place of.
async fn make_sure(stored: Vec<Replacement>) {
    let synced = tokio::task::spawn_blocking(move || {
        for Replacement { image, of } in stored {
            match image.sync() {
                Ok(()) => of.iter().for_each(|file| delete(file)),
                Err(error) => {
                    tracing::warn!(%error, "a stored instance may be lost if the power fails");
                }
            }
        }
    });
    if synced.await.is_err() {
        tracing::warn!("stored instances may be lost if the power fails");
    }
}

/// Deletes what an instance went on from: its state is gone for good.
fn forget_file(instance: &Instance) {
    if let Some(file) = &instance.slept_in {
        delete(file);
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
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
        let Some(mut instance) = self.instance.take() else {
            return;
        };
        let is_over = self.pool.isolation == Isolation::Call || !instance.is_counted();
        if instance.is_broken() || is_over {
            forget_file(&instance);
        } else {
            instance.listen(None);
            self.pool.keep(instance);
        }
    }
}
