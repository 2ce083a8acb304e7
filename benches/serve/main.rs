//! The server's figures: session start, calls over HTTP beside promptflow's two servers, memory of idle sessions,
//! evictions.
//!
//! `cargo build --release -p flowcell && cargo bench -p flowcell-benches --bench serve`; with `-- --promptflow`
//! promptflow's servers are measured in the same run, and with `-- --only start,calls,memory,hibernated,evictions` some parts only.
//! Needs the bundles that `./demo.sh` makes, and wrk.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod calls;
mod hibernated;

use std::time::{Duration, Instant};

use flowcell_benches::peers::Result;
use flowcell_benches::{Times, print_machine};
use serde_json::json;

use flowcell_benches::server::Server;

/// Sessions that are started and timed.
const STARTS: usize = 300;
/// Sessions without instances whose memory is measured, and which are then evicted.
const IDLE: usize = 10_000;
/// Sessions with one warm Python instance whose memory is measured.
const WARM: usize = 1_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let only = arguments
        .iter()
        .position(|argument| argument == "--only")
        .and_then(|index| arguments.get(index + 1));
    let wanted = |part: &str| only.is_none_or(|only| only.split(',').any(|one| one == part));
    let promptflow = arguments.iter().any(|argument| argument == "--promptflow");
    print_machine();
    if wanted("start") {
        start()?;
    }
    if wanted("calls") {
        calls::calls(promptflow)?;
    }
    if wanted("memory") {
        warm_memory()?;
    }
    if wanted("hibernated") {
        hibernated::hibernated()?;
    }
    if wanted("memory") || wanted("evictions") {
        idle_memory_and_evictions()?;
    }
    Ok(())
}

/// Sessions with a ready environment, one after the other over one connection.
fn start() -> Result<()> {
    let server = Server::start()?;
    let mut times = Times::default();
    let mut first_calls = Times::default();
    for index in 0..STARTS {
        let flow = format!("flow-{index}");
        server.upload(&flow)?;
        let started = Instant::now();
        let session = server.start_session(&flow)?;
        times.push(started.elapsed());
        let started = Instant::now();
        server.call(&session)?;
        first_calls.push(started.elapsed());
    }
    Times::print_head("session start over HTTP");
    times.print("start, until it runs (to reach: p99 10 ms)", None);
    first_calls.print("its first call (instance made, flow imported)", None);
    Ok(())
}

fn warm_memory() -> Result<()> {
    let server = Server::start()?;
    // What the first session brings with it for all: the engine's pages, the runner's code.
    let flow = "flow-first";
    server.upload(flow)?;
    server.call(&server.start_session(flow)?)?;
    let before = server.pss()?;
    let maps = server.maps()?;
    for index in 0..WARM {
        let flow = format!("flow-{index}");
        server.upload(&flow)?;
        server.call(&server.start_session(&flow)?)?;
    }
    let (instances, after) = (server.idle_instances()?, server.pss()?);
    println!(
        "\n{WARM} sessions, each with a warm Python instance ({instances} are alive): {:.2} MiB PSS for each (to reach: 3); {} memory mappings more",
        mib(after.saturating_sub(before)) / WARM as f64,
        server.maps()? - maps
    );
    Ok(())
}

fn idle_memory_and_evictions() -> Result<()> {
    let server = Server::start()?;
    let measured = "flow-measured";
    server.upload(measured)?;
    let measured = server.start_session(measured)?;
    for _ in 0..100 {
        server.call(&measured)?;
    }
    let before = server.pss()?;
    let mut sessions = Vec::with_capacity(IDLE);
    for index in 0..IDLE {
        let flow = format!("flow-{index}");
        server.upload(&flow)?;
        sessions.push((server.start_session(&flow)?, Instant::now()));
    }
    let after = server.pss()?;
    println!(
        "\n{IDLE} sessions without instances: {:.1} KiB PSS for each (to reach: 64)",
        mib(after.saturating_sub(before)) * 1024.0 / IDLE as f64
    );

    let mut quiet = Times::default();
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let started = Instant::now();
        server.call(&measured)?;
        quiet.push(started.elapsed());
    }
    // All become due in the same second.
    let due = Instant::now() + Duration::from_secs(60);
    for (session, used) in &sessions {
        let idle = due.saturating_duration_since(*used).as_secs();
        server.update(session, &json!({ "idle_seconds": idle }))?;
    }
    let there = server.running()?;
    if there != IDLE as u64 + 1 {
        return Err(format!("only {there} sessions are there before they are due").into());
    }
    std::thread::sleep(due.saturating_duration_since(Instant::now() + Duration::from_secs(2)));
    let mut meanwhile = Times::default();
    let mut evicted = None;
    let end = due + Duration::from_secs(120);
    let mut looked = Instant::now();
    while Instant::now() < end {
        let started = Instant::now();
        server.call(&measured)?;
        meanwhile.push(started.elapsed());
        if looked.elapsed() > Duration::from_millis(500) {
            looked = Instant::now();
            if server.running()? <= 1 {
                evicted = Some(Instant::now().saturating_duration_since(due));
                break;
            }
        }
    }
    Times::print_head("calls while 10,000 sessions are evicted");
    quiet.print("before", None);
    meanwhile.print("meanwhile", Some(&quiet));
    println!(
        "longest call: {:.1} ms before, {:.1} ms meanwhile (to reach: no pause over 50 ms); all gone {} s after they were due",
        quiet.quantile(1.0).as_secs_f64() * 1e3,
        meanwhile.quantile(1.0).as_secs_f64() * 1e3,
        evicted.map_or_else(
            || "more than 120".to_owned(),
            |time| format!("{:.1}", time.as_secs_f64())
        )
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
