//! Pools that share a slice of the host: what one holds another cannot have, and what is idle is nobody's.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use flowcell_sandbox::{
    Call, Environment, Fault, Full, Lease, Limits, Pool, PoolError, Program, SandboxError, Slice,
    SliceLimits, SliceUsage, ToolError,
};

use crate::{limits, program, tool};

/// No test that passes waits that long.
const LONG: Duration = Duration::from_secs(120);
const PAGE: u64 = 64 << 10;
/// What an instance of [`GROW`] has at first.
const INITIAL: u64 = 2 * PAGE;

/// Takes a page of memory for each byte of its inputs after the first two, and traps if it gets none.
static GROW: LazyLock<Arc<Program>> = LazyLock::new(|| {
    let body = "(if (i32.eq (memory.grow (i32.sub (local.get 3) (i32.const 2))) (i32.const -1)) (then (unreachable))) (call $answer (i32.const 16) (i32.const 6))";
    Arc::new(program(&tool(body)).unwrap())
});
static SPIN: LazyLock<Arc<Program>> =
    LazyLock::new(|| Arc::new(program(&tool("(loop $l (br $l)) (unreachable)")).unwrap()));

fn instances(instances: usize) -> SliceLimits {
    SliceLimits {
        instances,
        ..SliceLimits::UNLIMITED
    }
}

fn memory(pages: u64) -> SliceLimits {
    SliceLimits {
        memory: pages * PAGE,
        ..SliceLimits::UNLIMITED
    }
}

fn cpu(cpu: f64) -> SliceLimits {
    SliceLimits {
        cpu,
        ..SliceLimits::UNLIMITED
    }
}

fn pool_of(program: &Arc<Program>, slice: &Arc<Slice>, limits: Limits) -> Arc<Pool> {
    let environment = Environment::new(Vec::new(), Vec::new(), limits).with_slice(slice.clone());
    crate::pool_of(program, environment, 8)
}

fn pool(slice: &Arc<Slice>) -> Arc<Pool> {
    pool_of(&GROW, slice, limits())
}

async fn lease(pool: &Arc<Pool>) -> Lease {
    pool.checkout(LONG).await.unwrap()
}

async fn grow(instance: &mut Lease, pages: usize) -> Result<String, Fault> {
    let inputs = format!("{{}}{}", " ".repeat(pages));
    let call: Call<Result<String, ToolError>> = instance.invoke("any", inputs).await;
    call.result.map(Result::unwrap)
}

/// How many instances of a pool are at work, and how many are idle.
fn live(pool: &Pool) -> (usize, usize) {
    (pool.usage().busy(), pool.usage().idle)
}

#[expect(clippy::panic, reason = "the test fails")]
fn full(error: PoolError) -> Full {
    match error {
        PoolError::Busy { full, .. } => full,
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn memory_of_two_pools_is_bounded_together() {
    let slice = Slice::new(memory(100), None);
    let (one, two) = (pool(&slice), pool(&slice));
    let mut first = lease(&one).await;
    assert_eq!(slice.usage().memory, INITIAL);
    grow(&mut first, 60).await.unwrap();
    assert_eq!(slice.usage().memory, INITIAL + 60 * PAGE);

    let mut second = lease(&two).await;
    let fault = grow(&mut second, 60).await.unwrap_err();
    assert!(
        matches!(fault, Fault::ComputeMemory { limit } if limit == 100 * PAGE),
        "{fault}"
    );
    assert_eq!(fault.class(), "ComputeMemoryExceeded");
    drop(second);
    assert_eq!(slice.usage().memory, INITIAL + 60 * PAGE);
    assert_eq!(slice.usage().instances, 1);

    // Once the first is idle, the second may have its memory: while its guest runs, that is.
    drop(first);
    assert_eq!(live(&one), (0, 1));
    let mut second = lease(&two).await;
    grow(&mut second, 60).await.unwrap();
    assert_eq!(live(&one), (0, 0));
    assert_eq!(slice.usage().memory, INITIAL + 60 * PAGE);
    assert_eq!(two.usage().memory, INITIAL + 60 * PAGE);

    // An instance's own limit is told from the slice's.
    let own = pool_of(
        &GROW,
        &slice,
        Limits {
            memory: 10 << 16,
            ..limits()
        },
    );
    let fault = grow(&mut lease(&own).await, 20).await.unwrap_err();
    assert_eq!(fault.class(), "MemoryLimitExceeded");
}

#[tokio::test]
async fn memory_that_can_never_be_had_takes_nothing_from_others() {
    let slice = Slice::new(memory(50), None);
    let (one, two) = (pool(&slice), pool(&slice));
    drop(lease(&one).await);
    let fault = grow(&mut lease(&two).await, 60).await.unwrap_err();
    assert_eq!(fault.class(), "ComputeMemoryExceeded");
    assert_eq!(live(&one), (0, 1));

    let tiny = Slice::new(memory(1), None);
    let pool = pool(&tiny);
    for refused in [
        pool.checkout(Duration::MAX).await.unwrap_err(),
        pool.try_checkout().await.unwrap_err(),
    ] {
        assert!(
            matches!(
                refused,
                PoolError::Start(SandboxError::NoRoom(Full::Memory { limit: PAGE }))
            ),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn everything_is_given_back() {
    let host = Slice::new(SliceLimits::UNLIMITED, None);
    let slice = Slice::new(SliceLimits::UNLIMITED, Some(host.clone()));
    let pool = pool(&slice);
    let mut first = lease(&pool).await;
    let second = lease(&pool).await;
    grow(&mut first, 7).await.unwrap();
    drop(second);
    for usage in [host.usage(), slice.usage(), pool.usage()] {
        assert_eq!(usage.memory, 2 * INITIAL + 7 * PAGE);
        assert_eq!((usage.instances, usage.idle, usage.busy()), (2, 1, 1));
        assert_eq!(usage.calls, 1);
        assert!(usage.cpu_time > Duration::ZERO);
    }
    drop(first);
    assert_eq!(live(&pool), (0, 2));
    drop(pool);
    for slice in [host, slice] {
        let usage = slice.usage();
        assert_eq!((usage.memory, usage.instances, usage.idle), (0, 0, 0));
        // What was used stays on the account.
        assert_eq!(usage.calls, 1);
    }
}

#[tokio::test]
async fn the_instance_that_was_idle_longest_makes_room() {
    let slice = Slice::new(instances(3), None);
    let pools = [(); 4].map(|()| pool(&slice));
    for pool in &pools[..3] {
        drop(lease(pool).await);
    }
    drop(lease(&pools[0]).await);
    let _last = lease(&pools[3]).await;
    assert_eq!(
        pools.each_ref().map(|pool| live(pool)),
        [(0, 1), (0, 0), (0, 1), (1, 0)]
    );
    // What is lent again is not idle any more, nor is what is gone.
    let _first = lease(&pools[0]).await;
    let _second = lease(&pools[1]).await;
    assert_eq!(
        pools.each_ref().map(|pool| live(pool)),
        [(1, 0), (1, 0), (0, 0), (1, 0)]
    );
    assert_eq!(slice.usage().idle, 0);
}

#[tokio::test]
async fn busy_names_what_is_full() {
    let moment = Duration::from_millis(1);
    let slice = Slice::new(instances(1), None);
    let (one, two) = (pool(&slice), pool(&slice));
    let held = lease(&one).await;
    let refused = two.checkout(moment).await.unwrap_err();
    assert_eq!(full(refused), Full::Instances { limit: 1 });
    assert!(two.try_checkout().await.unwrap().is_none());
    drop(held);
    assert!(two.try_checkout().await.unwrap().is_some());

    let slice = Slice::new(memory(3), None);
    let (one, two) = (pool(&slice), pool(&slice));
    let held = lease(&one).await;
    let refused = two.checkout(moment).await.unwrap_err();
    assert_eq!(full(refused), Full::Memory { limit: 3 * PAGE });
    assert!(two.try_checkout().await.unwrap().is_none());
    drop(held);
    assert!(two.try_checkout().await.unwrap().is_some());
}

#[tokio::test]
async fn who_waits_is_woken_when_an_instance_is_returned_or_breaks() {
    let slice = Slice::new(instances(1), None);
    let (one, two) = (pool(&slice), pool_of(&SPIN, &slice, crate::short()));
    let held = lease(&one).await;
    // `join!` asks the first before it goes on with the second.
    let (spinning, ()) = tokio::join!(lease(&two), async { drop(held) });
    assert_eq!(live(&one), (0, 0));
    let (again, ()) = tokio::join!(lease(&one), async {
        let mut spinning = spinning;
        spinning
            .invoke("any", String::new())
            .await
            .result
            .unwrap_err();
    });
    assert_eq!((live(&one), live(&two)), ((1, 0), (0, 0)));

    // Another call of the same pool gets the very instance.
    let id = again.id();
    let (same, ()) = tokio::join!(lease(&one), async { drop(again) });
    assert_eq!(same.id(), id);
}

#[tokio::test]
async fn a_full_host_makes_room_in_whatever_slice() {
    let host = Slice::new(instances(2), None);
    let computes = [(); 2].map(|()| Slice::new(instances(2), Some(host.clone())));
    let pools = computes.each_ref().map(pool);
    let busy = lease(&pools[0]).await;
    drop(lease(&pools[0]).await);
    assert_eq!((host.usage().instances, host.usage().idle), (2, 1));

    let other = lease(&pools[1]).await;
    assert_eq!((live(&pools[0]), live(&pools[1])), ((1, 0), (1, 0)));
    let refused = pools[1]
        .checkout(Duration::from_millis(1))
        .await
        .unwrap_err();
    assert_eq!(full(refused), Full::Instances { limit: 2 });
    assert_eq!(computes[1].usage().instances, 1);

    let (more, ()) = tokio::join!(lease(&pools[1]), async { drop(busy) });
    assert_eq!((live(&pools[0]), live(&pools[1])), ((0, 0), (2, 0)));
    drop((other, more));

    let host = Slice::new(memory(100), None);
    let computes = [(); 2].map(|()| Slice::new(memory(80), Some(host.clone())));
    let pools = computes.each_ref().map(pool);
    let mut first = lease(&pools[0]).await;
    grow(&mut first, 50).await.unwrap();
    let mut second = lease(&pools[1]).await;
    let fault = grow(&mut second, 60).await.unwrap_err();
    assert!(
        matches!(fault, Fault::ComputeMemory { limit } if limit == 100 * PAGE),
        "{fault}"
    );
    drop((first, second));
    grow(&mut lease(&pools[1]).await, 60).await.unwrap();
    assert_eq!(live(&pools[0]), (0, 0));
}

#[tokio::test]
async fn idle_instances_are_dropped_by_age() {
    let slice = Slice::new(SliceLimits::UNLIMITED, None);
    let pool = pool(&slice);
    let leases = (lease(&pool).await, lease(&pool).await, lease(&pool).await);
    drop((leases.0, leases.1));
    assert_eq!(pool.shrink(Duration::from_secs(3600)), 0);
    assert_eq!(pool.shrink(Duration::MAX), 0);
    assert_eq!(live(&pool), (1, 2));
    assert_eq!(pool.shrink(Duration::ZERO), 2);
    assert_eq!(pool.shrink(Duration::ZERO), 0);
    assert_eq!(live(&pool), (1, 0));
    assert_eq!((slice.usage().instances, slice.usage().idle), (1, 0));
    drop(leases.2);
    assert_eq!(live(&pool), (0, 1));
}

#[tokio::test]
async fn a_spinning_guest_gets_its_share_of_the_processor() {
    let host = Slice::new(SliceLimits::UNLIMITED, None);
    let slow = Slice::new(cpu(0.1), Some(host.clone()));
    let limits = Limits {
        cpu_time: Duration::from_millis(200),
        ..limits()
    };
    let spinning = pool_of(&SPIN, &slow, limits);
    let started = Instant::now();
    let call = lease(&spinning).await.invoke("any", String::new()).await;
    let fault = call.result.unwrap_err();
    assert!(matches!(fault, Fault::CpuTime { .. }), "{fault}");
    // The next call, of whatever session, begins when all of that but the burst of 100 ms has been earned.
    grow(&mut lease(&pool(&slow)).await, 0).await.unwrap();
    let earned = (call.usage.cpu - Duration::from_millis(100)) * 10;
    assert!(started.elapsed() >= earned, "{:?}", call.usage);
    assert!(slow.usage().throttled > Duration::ZERO);
    assert_eq!(host.usage().throttled, slow.usage().throttled);
    assert!(slow.usage().cpu_time >= call.usage.cpu);
}

#[tokio::test]
async fn a_call_that_is_held_up_ends_at_the_wall_clock_and_holds_up_nobody_else() {
    let host = Slice::new(SliceLimits::UNLIMITED, None);
    let slow = Slice::new(cpu(0.001), Some(host.clone()));
    let spinning = pool_of(&SPIN, &slow, crate::short());
    let good = pool(&host);
    let (fault, ()) = tokio::join!(
        async {
            let mut lease = lease(&spinning).await;
            lease.invoke("any", String::new()).await.result.unwrap_err()
        },
        async {
            for _ in 0..20 {
                grow(&mut lease(&good).await, 0).await.unwrap();
            }
        }
    );
    assert!(matches!(fault, Fault::Timeout { .. }), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_in_a_small_slice_are_all_served() {
    let host = Slice::new(instances(3), None);
    let computes = [2, 3].map(|most| Slice::new(instances(most), Some(host.clone())));
    let pools: Vec<_> = (0..6).map(|index| pool(&computes[index % 2])).collect();
    let calls: Vec<_> = (0..12)
        .map(|index| {
            let pool = pools[index % 6].clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    grow(&mut lease(&pool).await, 1).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let usage = host.usage();
    assert_eq!(usage.calls, 600);
    assert!(usage.instances <= 3 && usage.busy() == 0, "{usage:?}");
    drop(pools);
    let SliceUsage {
        memory,
        instances,
        idle,
        ..
    } = host.usage();
    assert_eq!((memory, instances, idle), (0, 0, 0));
}
