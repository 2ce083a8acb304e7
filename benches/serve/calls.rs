//! Warm calls over HTTP, by wrk: flowcell, `pf flow serve`, and gunicorn with two workers, one after the other.

use std::path::Path;
use std::process::Command;

use flowcell_benches::load::{Load, Peer, script, wrk};
use flowcell_benches::peers::{Result, copy, promptflow};
use flowcell_benches::repository;
use flowcell_benches::server::{INPUTS, Server};

/// Connections at once.
const CONNECTIONS: [u32; 3] = [1, 4, 16];
/// How long each is measured, in seconds.
const SECONDS: u32 = 8;

pub(crate) fn calls(with_promptflow: bool) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut results: Vec<(&str, Vec<Load>)> = Vec::new();
    {
        let server = Server::start()?;
        server.upload("bench")?;
        let session = server.start_session("bench")?;
        let target = format!("{}/sessions/{session}/calls", server.base);
        let body = format!("{{\"inputs\": {INPUTS}}}");
        let key = format!("Bearer {}", server.key);
        let path = folder.path().join("calls.lua");
        let script = script(path, &[("Authorization", &key)], &body)?;
        results.push(("flowcell serve", load(&target, &script)?));
    }
    if with_promptflow {
        let flow = folder.path().join("flow");
        copy(&repository().join("benches/flow"), &flow)?;
        let script = script(folder.path().join("score.lua"), &[], INPUTS)?;
        let pf = Peer::start(&flow, |port| {
            let mut pf = Command::new(promptflow("pf")?);
            pf.args(["flow", "serve", "--skip-open-browser", "--port", port]);
            pf.arg("--source").arg(&flow);
            Ok(pf)
        })?;
        results.push(("pf flow serve", load(&pf.score(), &script)?));
        drop(pf);
        let gunicorn = Peer::gunicorn(&flow)?;
        results.push(("gunicorn, 2 workers", load(&gunicorn.score(), &script)?));
    }
    println!("\ncalls over HTTP (requests/s, p50, p99, answers that are not 200)");
    for (name, loads) in &results {
        for (connections, load) in CONNECTIONS.iter().zip(loads) {
            println!(
                "{name:<22} {connections:>3} connections {:>9.0}/s {:>10} {:>10} {:>4}",
                load.requests_per_second, load.p50, load.p99, load.bad
            );
        }
    }
    let at_16 = |loads: &[Load]| loads.last().map_or(0.0, |load| load.requests_per_second);
    if let Some((ours, theirs)) = results.split_first()
        && let Some(best) = theirs
            .iter()
            .map(|(_, loads)| at_16(loads))
            .reduce(f64::max)
    {
        println!(
            "flowcell answers {:.1} times as many requests as the better of the two at 16 connections (to reach: 10)",
            at_16(&ours.1) / best
        );
    }
    Ok(())
}

fn load(target: &str, script: &Path) -> Result<Vec<Load>> {
    // Instances are made, caches are warm.
    wrk(target, script, 16, 3)?;
    CONNECTIONS
        .iter()
        .map(|connections| wrk(target, script, *connections, SECONDS))
        .collect()
}
