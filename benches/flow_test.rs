//! `flowcell flow test` as a whole process, beside `pf flow test` on the same flow in the same run.
//!
//! `cargo bench -p flowcell-benches --bench flow_test`; with `-- --promptflow` it makes a virtual environment with
//! promptflow (some minutes, once) and measures both. Needs the bundles that `./demo.sh` makes.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flowcell_benches::peers::{Result, copy, promptflow, release_binary, run};
use flowcell_benches::{Times, home, print_machine, repository};

const RUNS: usize = 20;
const PROMPTFLOW_RUNS: usize = 5;

fn main() -> Result<()> {
    print_machine();
    // A copy: promptflow leaves files beside the flow.
    let folder = tempfile::tempdir()?;
    let flow = folder.path().join("flow");
    copy(&repository().join("benches/flow"), &flow)?;
    let flowcell = release_binary()?;
    let ours = || {
        let mut command = Command::new(&flowcell);
        command
            .args(["flow", "test", "--flow"])
            .arg(&flow)
            .env("FLOWCELL_HOME", home());
        command
    };
    // The first run compiles what is not compiled yet.
    run(&mut ours())?;
    let (times, memory) = measure(ours, RUNS)?;
    Times::print_head("flow test, whole process");
    times.print("flowcell flow test", None);
    println!("  peak memory {memory} MiB (to reach: at most 150)");

    if std::env::args().any(|argument| argument == "--promptflow") {
        let pf = promptflow("pf")?;
        let theirs = || {
            let mut command = Command::new(&pf);
            command
                .args(["flow", "test", "--flow"])
                .arg(&flow)
                // Its fastest: no trace service beside it.
                .env("PF_DISABLE_TRACING", "true");
            command
        };
        run(&mut theirs())?;
        let (pf_times, pf_memory) = measure(theirs, PROMPTFLOW_RUNS)?;
        pf_times.print("pf flow test", Some(&times));
        println!("  peak memory {pf_memory} MiB");
        let ratio = pf_times.quantile(0.5).as_secs_f64() / times.quantile(0.5).as_secs_f64();
        println!("flowcell is {ratio:.0} times as fast (to reach: 20)");
    } else {
        println!("(add `-- --promptflow` to measure pf flow test beside it)");
    }
    Ok(())
}

/// Times of some runs, and the largest memory of any, in MiB.
fn measure(command: impl Fn() -> Command, runs: usize) -> Result<(Times, u64)> {
    let mut times = Times::default();
    let mut peak = 0;
    for _ in 0..runs {
        let started = Instant::now();
        let mut child = command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let status = format!("/proc/{}/status", child.id());
        // The high-water mark is in the process's status until it has been waited for.
        let ended = loop {
            peak = peak.max(high_water(&status));
            if let Some(ended) = child.try_wait()? {
                break ended;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        times.push(started.elapsed());
        if !ended.success() {
            return Err(format!("{:?} failed", command()).into());
        }
    }
    Ok((times, peak >> 10))
}

fn high_water(status: &str) -> u64 {
    std::fs::read_to_string(status)
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}
