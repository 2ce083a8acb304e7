//! A bounded share of the host that the pools of several sessions use together.
//!
//! Slices form a tree: the host's is the root, a compute's is below it, and each pool has one of its own, without
//! limits, which counts what the pool uses. Whatever an instance takes is charged to its pool's slice and to every slice
//! above it, and given back when the instance is gone.
//!
//! Memory and instances are refused when they are used up, after idle instances have been stored or dropped, the one that
//! was used least recently first. CPU time is never refused, only delayed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::Full;
use crate::pool::Pool;

/// CPU time that a slice may use at once after it was at rest; with more than one core, on each of them. It must be well
/// above an epoch's tick, since running calls pay for theirs all at the same time.
const BURST: Duration = Duration::from_millis(100);
/// The smallest share of CPU time, in cores: with less, a call would hardly ever end.
const LEAST_CPU: f64 = 0.001;

/// When an idle instance was used last, and its number.
pub(crate) type LastUse = (Instant, u64);

/// What a [`Slice`] may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SliceLimits {
    /// Linear memory over all live instances, in bytes.
    pub memory: u64,
    /// Share of CPU time, in cores, over all calls; infinite for no limit. Less than 0.001 counts as that.
    pub cpu: f64,
    /// Instances that may be alive at once, whether at work or idle.
    pub instances: usize,
}

impl SliceLimits {
    /// No limits.
    pub const UNLIMITED: Self = Self {
        memory: u64::MAX,
        cpu: f64::INFINITY,
        instances: usize::MAX,
    };
}

/// What is in use of a [`Slice`], or by a [`Pool`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SliceUsage {
    /// Linear memory of all live instances, in bytes.
    pub memory: u64,
    /// Live instances, at work or idle.
    pub instances: usize,
    /// Those of them that no call uses.
    pub idle: usize,
    /// Calls that were begun, in total.
    pub calls: u64,
    /// CPU time of all calls and of starting instances, in total.
    pub cpu_time: Duration,
    /// Time for which calls were held up because the CPU share of a slice was used up, in total over all calls.
    pub throttled: Duration,
    /// Instances that were made, those that went on from being stored included, in total.
    pub starts: u64,
    /// Time that this took.
    pub start_time: Duration,
    /// Instances that went on from being stored, in total.
    pub resumes: u64,
    /// Instances that were stored, in total.
    pub hibernations: u64,
    /// Time that this took.
    pub hibernate_time: Duration,
}

impl SliceUsage {
    /// Instances that are lent or being started.
    pub fn busy(&self) -> usize {
        self.instances.saturating_sub(self.idle)
    }
}

/// A share of the host that the pools of several sessions use together, usually a part of another slice.
///
/// The slice of a whole host should have [`SandboxConfig::instances`](crate::SandboxConfig::instances) as its limit of
/// instances, and all others be below it: then an instance is waited for, or made room for, before the engine would have
/// to refuse it.
#[derive(Debug)]
pub struct Slice {
    limits: SliceLimits,
    parent: Option<Arc<Slice>>,
    // Locked after a pool's idle instances and before the parent's state.
    state: Mutex<State>,
    bucket: Option<Mutex<Bucket>>,
    calls: AtomicU64,
    cpu_nanos: AtomicU64,
    throttled_nanos: AtomicU64,
    starts: AtomicU64,
    start_nanos: AtomicU64,
    resumes: AtomicU64,
    hibernations: AtomicU64,
    hibernate_nanos: AtomicU64,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    memory: u64,
    instances: usize,
    /// The pools of all idle instances of this slice and those below it. An entry comes and goes while the pool's idle
    /// instances are locked, so that it is there exactly as long as the instance is in its pool.
    idle: BTreeMap<LastUse, Weak<Pool>>,
}

/// A slice had no room.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The one that is full.
    pub(crate) slice: Arc<Slice>,
    /// Of what.
    pub(crate) full: Full,
    /// Whether it would have no room even if nothing else were in it.
    pub(crate) forever: bool,
}

impl Slice {
    /// An empty slice, which is a part of `parent` if there is one: what it uses is charged to the parent too.
    pub fn new(limits: SliceLimits, parent: Option<Arc<Slice>>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            parent,
            state: Mutex::default(),
            bucket: (limits.cpu != f64::INFINITY).then(|| Mutex::new(Bucket::new(limits.cpu))),
            calls: AtomicU64::new(0),
            cpu_nanos: AtomicU64::new(0),
            throttled_nanos: AtomicU64::new(0),
            starts: AtomicU64::new(0),
            start_nanos: AtomicU64::new(0),
            resumes: AtomicU64::new(0),
            hibernations: AtomicU64::new(0),
            hibernate_nanos: AtomicU64::new(0),
            freed: Notify::new(),
        })
    }

    /// A slice of its own without limits, for a host that serves one user.
    pub fn unlimited() -> Arc<Self> {
        Self::new(SliceLimits::UNLIMITED, None)
    }

    /// What it may use.
    pub fn limits(&self) -> &SliceLimits {
        &self.limits
    }

    /// What is in use. Cheap: nothing is gathered or waited for.
    pub fn usage(&self) -> SliceUsage {
        let nanos = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        let state = self.lock();
        SliceUsage {
            memory: state.memory,
            instances: state.instances,
            idle: state.idle.len(),
            calls: self.calls.load(Ordering::Relaxed),
            cpu_time: nanos(&self.cpu_nanos),
            throttled: nanos(&self.throttled_nanos),
            starts: self.starts.load(Ordering::Relaxed),
            start_time: nanos(&self.start_nanos),
            resumes: self.resumes.load(Ordering::Relaxed),
            hibernations: self.hibernations.load(Ordering::Relaxed),
            hibernate_time: nanos(&self.hibernate_nanos),
        }
    }

    /// Takes room for one more instance with this much memory, for which idle instances may have to go.
    pub(crate) async fn admit(self: &Arc<Self>, memory: u64) -> Result<Seat, Refused> {
        self.seat(1, memory).await
    }

    /// The same for an instance that one with a place works for, which waits for it: it takes memory, and no place, lest
    /// all that have one wait for another.
    pub(crate) async fn admit_beside(self: &Arc<Self>, memory: u64) -> Result<Seat, Refused> {
        self.seat(0, memory).await
    }

    async fn seat(self: &Arc<Self>, instances: usize, memory: u64) -> Result<Seat, Refused> {
        self.make_room(instances, memory).await?;
        Ok(Seat {
            slice: Arc::clone(self),
            instances,
            memory: AtomicU64::new(memory),
        })
    }

    async fn make_room(self: &Arc<Self>, instances: usize, memory: u64) -> Result<(), Refused> {
        loop {
            match self.charge(instances, memory) {
                // On the heap: storing an instance runs a guest, which may need room itself.
                Err(refused) if !refused.forever && Box::pin(refused.slice.reclaim()).await => {}
                ended => return ended,
            }
        }
    }

    /// Charges this slice and all above it, or none of them.
    fn charge(self: &Arc<Self>, instances: usize, memory: u64) -> Result<(), Refused> {
        let mut state = self.lock();
        let most = &self.limits;
        let refuse = |full, forever| {
            Err(Refused {
                slice: Arc::clone(self),
                full,
                forever,
            })
        };
        if instances > most.instances.saturating_sub(state.instances) {
            let limit = most.instances;
            return refuse(Full::Instances { limit }, instances > limit);
        }
        if memory > most.memory.saturating_sub(state.memory) {
            let limit = most.memory;
            return refuse(Full::Memory { limit }, memory > limit);
        }
        if let Some(parent) = &self.parent {
            parent.charge(instances, memory)?;
        }
        state.instances += instances;
        state.memory += memory;
        Ok(())
    }

    /// Takes its room from the idle instance, here or below, that was used least recently; whether there was one. The
    /// instance is stored where its pool can do that, and dropped otherwise.
    async fn reclaim(&self) -> bool {
        loop {
            let (last_use, pool) = {
                let mut state = self.lock();
                let Some(oldest) = state.idle.first_entry() else {
                    return false;
                };
                match oldest.get().upgrade() {
                    Some(pool) => (*oldest.key(), pool),
                    // The pool is being dropped, and its instances with it.
                    None => {
                        oldest.remove();
                        continue;
                    }
                }
            };
            // An instance that is lent at this moment is no longer registered when its pool says that it is gone.
            if pool.give_up(last_use).await {
                return true;
            }
        }
    }

    pub(crate) fn register_idle(&self, last_use: LastUse, pool: &Weak<Pool>) {
        for slice in self.with_ancestors() {
            slice.lock().idle.insert(last_use, Weak::clone(pool));
        }
    }

    pub(crate) fn unregister_idle(&self, last_use: LastUse) {
        for slice in self.with_ancestors() {
            slice.lock().idle.remove(&last_use);
        }
    }

    /// To be waited for by those whom this slice refused: something in it, or below it, became idle or was dropped.
    pub(crate) fn freed(&self) -> &Notify {
        &self.freed
    }

    /// Wakes whoever waits for room here or above.
    pub(crate) fn wake(&self) {
        for slice in self.with_ancestors() {
            slice.freed.notify_waiters();
        }
    }

    pub(crate) fn count_call(&self) {
        for slice in self.with_ancestors() {
            slice.calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_start(&self, time: Duration) {
        for slice in self.with_ancestors() {
            slice.starts.fetch_add(1, Ordering::Relaxed);
            add_nanos(&slice.start_nanos, time);
        }
    }

    pub(crate) fn count_resume(&self) {
        for slice in self.with_ancestors() {
            slice.resumes.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_hibernation(&self, time: Duration) {
        for slice in self.with_ancestors() {
            slice.hibernations.fetch_add(1, Ordering::Relaxed);
            add_nanos(&slice.hibernate_nanos, time);
        }
    }

    /// Charges CPU time; for how long the caller must use none. With no time at all it tells what is owed already.
    pub(crate) fn spend(&self, cpu: Duration) -> Duration {
        let mut wait = Duration::ZERO;
        for slice in self.with_ancestors() {
            add_nanos(&slice.cpu_nanos, cpu);
            if let Some(bucket) = &slice.bucket {
                let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
                wait = wait.max(bucket.spend(cpu, Instant::now()));
            }
        }
        wait
    }

    pub(crate) fn count_throttled(&self, time: Duration) {
        for slice in self.with_ancestors() {
            add_nanos(&slice.throttled_nanos, time);
        }
    }

    fn with_ancestors(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |slice| slice.parent.as_deref())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add_nanos(counter: &AtomicU64, time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    counter.fetch_add(nanos, Ordering::Relaxed);
}

/// What one live instance takes of its slice, given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    slice: Arc<Slice>,
    instances: usize,
    memory: AtomicU64,
}

impl Seat {
    /// Whether it is a place among the instances of its slice, and not only memory.
    pub(crate) fn is_counted(&self) -> bool {
        self.instances > 0
    }

    pub(crate) fn slice(&self) -> &Slice {
        &self.slice
    }

    /// Takes memory up to `bytes` in all.
    ///
    /// # Errors
    /// The limit of the slice that has no room, in bytes.
    pub(crate) async fn grow_to(&self, bytes: u64) -> Result<(), u64> {
        // Only the instance's own thread of control grows it, so nothing comes between these steps.
        let growth = bytes.saturating_sub(self.memory.load(Ordering::Relaxed));
        if growth > 0 {
            self.slice
                .make_room(0, growth)
                .await
                .map_err(|refused| refused.slice.limits.memory)?;
            self.memory.fetch_add(growth, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let memory = *self.memory.get_mut();
        for slice in self.slice.with_ancestors() {
            let mut state = slice.lock();
            state.instances -= self.instances;
            state.memory -= memory;
        }
        self.slice.wake();
    }
}

/// A token bucket for CPU time, kept as the moment at which all time that was spent will have been earned.
///
/// Time is charged after it was used, so the bucket may be in debt; each of several calls then waits for the debt that it
/// found or made, one after the other.
#[derive(Debug)]
struct Bucket {
    cores: f64,
    earned: Option<Instant>,
}

impl Bucket {
    /// A full bucket.
    fn new(cores: f64) -> Self {
        Self {
            // Also what is not a number.
            cores: cores.max(LEAST_CPU),
            earned: None,
        }
    }

    /// Takes CPU time out; how long it takes until the bucket is out of debt.
    fn spend(&mut self, cpu: Duration, now: Instant) -> Duration {
        let full = now.checked_sub(BURST.div_f64(self.cores.min(1.0)));
        let earned = self.earned.max(full).unwrap_or(now) + cpu.div_f64(self.cores);
        self.earned = Some(earned);
        earned.saturating_duration_since(now)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_share() {
        let mut bucket = Bucket::new(0.1);
        let start = Instant::now();
        assert_eq!(bucket.spend(60 * MS, start), Duration::ZERO);
        assert_eq!(bucket.spend(40 * MS, start), Duration::ZERO);
        // From here on 10 ms take 100 ms, for whoever comes.
        assert_eq!(bucket.spend(10 * MS, start), 100 * MS);
        assert_eq!(bucket.spend(10 * MS, start), 200 * MS);
        assert_eq!(bucket.spend(Duration::ZERO, start), 200 * MS);
        assert_eq!(bucket.spend(Duration::ZERO, start + 150 * MS), 50 * MS);
        assert_eq!(bucket.spend(10 * MS, start + 150 * MS), 150 * MS);
        // However long it rests, no more than a burst comes together.
        let later = start + 3_600_000 * MS;
        assert_eq!(bucket.spend(100 * MS, later), Duration::ZERO);
        assert_eq!(bucket.spend(MS, later), 10 * MS);
    }

    #[test]
    fn a_bucket_keeps_the_share_of_a_spinning_guest() {
        let mut bucket = Bucket::new(0.25);
        let start = Instant::now();
        let (mut now, mut used) = (start, Duration::ZERO);
        while now < start + 100_000 * MS {
            // A guest spins for a tick, and is then held up.
            now += 10 * MS;
            used += 10 * MS;
            now += bucket.spend(10 * MS, now);
        }
        let share = used.as_secs_f64() / (now - start).as_secs_f64();
        assert!((0.25..0.252).contains(&share), "{share}");
    }

    #[test]
    fn a_bucket_lets_many_cores_be_busy() {
        let mut bucket = Bucket::new(16.0);
        let start = Instant::now();
        for tick in 1..100 {
            for _ in 0..16 {
                assert_eq!(
                    bucket.spend(10 * MS, start + tick * 10 * MS),
                    Duration::ZERO
                );
            }
        }
    }

    #[test]
    fn shares_without_sense_are_the_least() {
        for cores in [0.0, -1.0, f64::NAN] {
            let mut bucket = Bucket::new(cores);
            let now = Instant::now();
            bucket.spend(BURST, now);
            assert_eq!(bucket.spend(10 * MS, now), 10_000 * MS, "{cores}");
        }
    }

    #[tokio::test]
    async fn a_charge_goes_to_all_or_none() {
        let limits = SliceLimits {
            memory: 100,
            instances: 2,
            ..SliceLimits::UNLIMITED
        };
        let host = Slice::new(limits, None);
        let compute = Slice::new(
            SliceLimits {
                memory: 80,
                ..limits
            },
            Some(host.clone()),
        );
        let other = Slice::new(SliceLimits::UNLIMITED, Some(host.clone()));

        let first = compute.admit(50).await.unwrap();
        let refused = compute.admit(40).await.unwrap_err();
        assert!(Arc::ptr_eq(&refused.slice, &compute) && !refused.forever);
        assert_eq!(refused.full, Full::Memory { limit: 80 });
        assert!(compute.admit(81).await.unwrap_err().forever);

        let second = other.admit(30).await.unwrap();
        second.grow_to(20).await.unwrap();
        second.grow_to(50).await.unwrap();
        assert_eq!(second.grow_to(51).await, Err(100));
        assert_eq!((host.usage().memory, other.usage().memory), (100, 50));
        let refused = compute.admit(0).await.unwrap_err();
        assert!(Arc::ptr_eq(&refused.slice, &host));
        assert_eq!(refused.full, Full::Instances { limit: 2 });
        assert_eq!(compute.usage().instances, 1);

        drop((first, second));
        for slice in [host, compute, other] {
            assert_eq!(slice.usage(), SliceUsage::default());
        }
    }

    #[test]
    fn cpu_time_is_owed_to_every_slice() {
        let share = |cpu| SliceLimits {
            cpu,
            ..SliceLimits::UNLIMITED
        };
        let host = Slice::new(share(1.0), None);
        let compute = Slice::new(share(0.01), Some(host.clone()));
        let free = Slice::new(share(f64::INFINITY), Some(host.clone()));
        assert_eq!(free.spend(BURST), Duration::ZERO);
        // The tenant pays for its own share; the host has earned at least nothing since.
        assert!(compute.spend(BURST) <= BURST);
        assert!(compute.spend(BURST) > 50 * BURST);
        assert!(free.spend(Duration::ZERO) <= 2 * BURST);
        assert_eq!(host.usage().cpu_time, 3 * BURST);
    }
}
