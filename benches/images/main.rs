//! What memory images cost: building them, starting from them, hibernation, resumption and forks, with the memory, the
//! mappings and the disk that they take. Beside them, in the same run: the same runner without images, and a process of
//! CPython with the same imports. The crate `eryx` has a bench of its own, in `benches/eryx`.
//!
//! `cargo bench -p flowcell-benches --bench images`; needs the bundles that `./demo.sh` makes.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod memory;
mod peers;
mod processes;
mod setup;

use std::time::Instant;

use flowcell_benches::peers::Result;
use flowcell_benches::{Times, print_machine};
use flowcell_sandbox::{Image, Instance};

use crate::memory::Memory;
use crate::setup::{Flow, Setup, call, expect_count};

/// Flows of their own, each with an image.
const SESSIONS: usize = 200;
/// Repetitions for one flow.
const RUNS: usize = 200;

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == processes::ARGUMENT) {
        return processes::be_one();
    }
    print_machine();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()?;
    let setup = Setup::new()?;
    runtime.block_on(async {
        one_flow(&setup).await?;
        distinct_sessions(&setup).await?;
        peers::without_images().await
    })?;
    processes::measure()?;
    peers::native_python()
}

/// Starts, hibernation, resumption and forks of one flow, from its pages copied and from a file of all of them.
async fn one_flow(setup: &Setup) -> Result<()> {
    let flow = setup.flow(0)?;
    let (mut build, mut stored) = (Times::default(), None);
    for _ in 0..20 {
        let begun = Instant::now();
        stored = Some(flow.build().await?);
        build.push(begun.elapsed());
    }
    let stored = stored.ok_or("no image was built")?;
    println!(
        "\nimage of a flow with jinja2 and a table of 2,000 entries, over a base of {} KiB: {} KiB of pages differ, {} KiB on the disk (to reach: 500)",
        setup.base().memory() >> 10,
        stored.changed >> 10,
        stored.size >> 10
    );
    Times::print_head("one flow");
    build.print(
        "image build: start, import, store, sync (to reach: 20 ms)",
        None,
    );
    let image = stored.image;
    lifecycle(&flow, &image, "copied").await?;
    let begun = Instant::now();
    image.spread(setup.folder(), &flow.owner)?;
    println!(
        "writing a file of all pages: {:.1} ms",
        begun.elapsed().as_secs_f64() * 1e3
    );
    lifecycle(&flow, &image, "mapped").await
}

async fn lifecycle(flow: &Flow<'_>, image: &Image, mode: &str) -> Result<()> {
    let [mut start, mut first, mut both, mut warm, mut fresh] =
        std::array::from_fn(|_| Times::default());
    for _ in 0..RUNS {
        let begun = Instant::now();
        let mut instance = flow.start(image).await?;
        start.push(begun.elapsed());
        let called = Instant::now();
        call(&mut instance).await?;
        first.push(called.elapsed());
        both.push(begun.elapsed());
        let called = Instant::now();
        call(&mut instance).await?;
        warm.push(called.elapsed());
        let dropped = Instant::now();
        drop(instance);
        fresh.push(both.last() + dropped.elapsed());
    }
    start.print(&format!("{mode}: start"), None);
    first.print(&format!("{mode}: first call"), None);
    both.print(
        &format!("{mode}: start and first call (to reach: p99 5 ms)"),
        None,
    );
    warm.print(&format!("{mode}: second call"), None);
    fresh.print(
        &format!("{mode}: fresh call: start, call, drop (to reach: 2 ms)"),
        None,
    );

    let [mut asleep, mut synced, mut resume, mut answer, mut fork] =
        std::array::from_fn(|_| Times::default());
    let mut sizes = (0, 0);
    for run in 0..RUNS {
        let mut instance = flow.start(image).await?;
        call(&mut instance).await?;
        call(&mut instance).await?;
        let begun = Instant::now();
        // A name of its own each time, as pools give them.
        let name = format!("{mode}-{run}");
        let stored = flow.hibernate(instance, &name).await?;
        asleep.push(begun.elapsed());
        stored.image.sync()?;
        synced.push(begun.elapsed());
        sizes = (stored.changed >> 10, stored.size >> 10);

        let begun = Instant::now();
        let mut instance = flow.resume(image, &name).await?;
        resume.push(begun.elapsed());
        expect_count(&mut instance, 3).await?;
        answer.push(begun.elapsed());
        if run % 4 == 0 {
            let begun = Instant::now();
            let mut other = flow.resume(image, &name).await?;
            expect_count(&mut other, 3).await?;
            fork.push(begun.elapsed());
            expect_count(&mut instance, 4).await?;
        }
    }
    println!(
        "hibernation after two calls: {} KiB of pages differ, {} KiB on the disk (to reach: 50)",
        sizes.0, sizes.1
    );
    asleep.print(
        &format!("{mode}: hibernate, until its memory is free (to reach: 2 ms)"),
        None,
    );
    synced.print(&format!("{mode}: hibernate, until it is on the disk"), None);
    resume.print(&format!("{mode}: resume"), None);
    answer.print(&format!("{mode}: resume and call (to reach: 5 ms)"), None);
    fork.print(
        &format!("{mode}: fork: a second instance from it, and its call"),
        None,
    );
    Ok(())
}

/// Sessions whose flows differ, so that each has an image of its own.
async fn distinct_sessions(setup: &Setup) -> Result<()> {
    let mut flows = Vec::with_capacity(SESSIONS);
    let (mut build, mut disk) = (Times::default(), 0);
    for number in 1..=SESSIONS {
        let flow = setup.flow(number)?;
        let begun = Instant::now();
        let stored = flow.build().await?;
        build.push(begun.elapsed());
        disk += stored.size;
        flows.push(flow);
    }
    Times::print_head(&format!("{SESSIONS} sessions of different flows"));
    build.print("image build", None);
    for mode in ["copied", "mapped"] {
        let mut images = Vec::with_capacity(SESSIONS);
        for flow in &flows {
            let image = flow.found()?;
            if mode == "mapped" {
                image.spread(setup.folder(), &flow.owner)?;
            }
            images.push(image);
        }
        let mut first = Times::default();
        let before = Memory::now()?;
        let mut live: Vec<Instance> = Vec::with_capacity(2 * SESSIONS);
        for _ in 0..2 {
            for (flow, image) in flows.iter().zip(&images) {
                let begun = Instant::now();
                let mut instance = flow.start(image).await?;
                call(&mut instance).await?;
                first.push(begun.elapsed());
                live.push(instance);
            }
        }
        let now = Memory::now()?;
        first.print(
            &format!("{mode}: start and first call (to reach: p99 5 ms)"),
            None,
        );
        let each = now.since(&before).divided(SESSIONS as u64);
        println!(
            "{mode}: a session with two live instances: {} KiB private (to reach: 4,096), {} KiB PSS, {} mappings; {} KiB of images on the disk each",
            each.private,
            each.pss,
            each.mappings,
            (disk >> 10) / SESSIONS as u64
        );
        let mut asleep = Times::default();
        for (index, instance) in live.drain(..).enumerate() {
            let flow = &flows[index % SESSIONS];
            let begun = Instant::now();
            flow.hibernate(instance, &format!("{mode}-asleep-{index}"))
                .await?;
            asleep.push(begun.elapsed());
        }
        asleep.print(&format!("{mode}: hibernate"), None);
    }
    Ok(())
}
