//! What a line of a flow costs in a session that has run before: the whole, and what is not its tools' calls.
//!
//! `cargo bench -p flowcell-benches --bench line`; needs the bundles that `./demo.sh` makes.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowcell_benches::{Times, home, print_machine, repository};
use flowcell_executor::{
    Host, HostOptions, RunOptions, Session, SessionOptions, Workspace, WorkspaceLimits,
};
use flowcell_flow::JsonMap;
use flowcell_sandbox::SandboxConfig;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LINES: usize = 20_000;

fn main() -> Result<()> {
    print_machine();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<()> {
    let host = Host::new(HostOptions {
        store: home(),
        sandbox: SandboxConfig::default(),
        compiler: flowcell_bundle::Compiler::Here,
        progress: Arc::new(|step: &str| println!("{step} ...")),
    })?;
    let flow = repository().join("benches/flow");
    let workspace = Workspace::copy_of(&flow, &WorkspaceLimits::default())?;
    let mut options = SessionOptions::new("promptflow:0.1.0".parse()?);
    // As many as can be at work: more would only take the caches from each other.
    options.instances = std::thread::available_parallelism()?.get();
    let session = Arc::new(Session::open(&host, workspace, options).await?);
    line(&session).await?;

    Times::print_head("a line of benches/flow (three Python nodes)");
    let (mut lines, mut calls, mut others) = (Times::default(), Times::default(), Times::default());
    for _ in 0..LINES {
        let (whole, in_nodes) = line(&session).await?;
        lines.push(whole);
        calls.push(in_nodes);
        others.push(whole.saturating_sub(in_nodes));
    }
    lines.print("the whole line", None);
    calls.print("its nodes, from start to end", None);
    others.print("what is between them", None);

    for clients in [1, 2, 4, 16] {
        let started = Instant::now();
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let session = Arc::clone(&session);
                tokio::spawn(async move {
                    for _ in 0..LINES / clients {
                        if line(&session).await.is_err() {
                            return false;
                        }
                    }
                    true
                })
            })
            .collect();
        for task in tasks {
            if !task.await? {
                return Err("a line failed".into());
            }
        }
        let rate = LINES as f64 / started.elapsed().as_secs_f64();
        println!("{clients:>3} at a time: {rate:>8.0} lines/s");
    }
    Ok(())
}

/// Runs a line; its time, and that of its nodes.
async fn line(session: &Session) -> Result<(Duration, Duration)> {
    let started = Instant::now();
    let result = session.run(&JsonMap::new(), &RunOptions::default()).await;
    let whole = started.elapsed();
    result.outputs.map_err(|error| error.message)?;
    Ok((whole, result.nodes.iter().map(|node| node.duration).sum()))
}
