//! Sessions that sleep.

use std::time::Instant;

use flowcell_benches::Times;
use flowcell_benches::peers::Result;

use flowcell_benches::server::Server;

/// Sessions that are put to sleep, and those of them that are called then.
const SESSIONS: usize = 10_000;
const CALLED: usize = 1_000;

/// What hibernated sessions take of the host, and how long calls to them take.
pub(crate) fn hibernated() -> Result<()> {
    let server = Server::start()?;
    // What the first session brings with it for all.
    let flow = "flow-first";
    server.upload(flow)?;
    let first = server.start_session(flow)?;
    server.call(&first)?;
    server.hibernate(&first)?;
    let (before, disk) = (server.pss()?, server.disk_of_sessions()?);
    let (mut first_calls, mut asleep) = (Times::default(), Times::default());
    let mut sessions = Vec::with_capacity(SESSIONS);
    for index in 0..SESSIONS {
        let flow = format!("flow-{index}");
        server.upload(&flow)?;
        let session = server.start_session(&flow)?;
        let begun = Instant::now();
        server.call(&session)?;
        first_calls.push(begun.elapsed());
        let begun = Instant::now();
        server.hibernate(&session)?;
        asleep.push(begun.elapsed());
        sessions.push(session);
    }
    let memory = server.pss()?.saturating_sub(before) as f64 / 1024.0 / SESSIONS as f64;
    let disk = server.disk_of_sessions()?.saturating_sub(disk) as f64 / 1024.0 / SESSIONS as f64;
    println!(
        "\n{SESSIONS} hibernated sessions: {memory:.1} KiB PSS of all processes for each (to reach: 20), {disk:.0} KiB on the disk, working copy included"
    );
    let mut calls = Times::default();
    // Spread over all, in an order that has nothing to do with theirs; the same in each run.
    let mut next = 7_usize;
    for _ in 0..CALLED {
        next = (next * 48_271 + 11) % SESSIONS;
        let begun = Instant::now();
        server.call(&sessions[next])?;
        calls.push(begun.elapsed());
    }
    Times::print_head("sessions over HTTP");
    first_calls.print("the first call of a session whose image is there", None);
    asleep.print(
        "hibernate, until it is on the disk and in the registry",
        None,
    );
    calls.print("a call to a hibernated session (to reach: 5 ms)", None);
    Ok(())
}
