//! `flowcell flow test` as a whole process, beside `pf flow test` on the same flow in the same run.
//!
//! `cargo bench -p flowcell-benches --bench flow_test`; with `-- --promptflow` it makes a virtual environment with
//! promptflow (some minutes, once) and measures both. Needs the bundles that `./demo.sh` makes.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flowcell_benches::{Times, home, print_machine, repository};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PROMPTFLOW: &str = "promptflow==1.18.5";
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
    run(ours())?;
    let (times, memory) = measure(ours, RUNS)?;
    Times::print_head("flow test, whole process");
    times.print("flowcell flow test", None);
    println!("  peak memory {memory} MiB (to reach: at most 150)");

    if std::env::args().any(|argument| argument == "--promptflow") {
        let pf = promptflow()?;
        let theirs = || {
            let mut command = Command::new(&pf);
            command
                .args(["flow", "test", "--flow"])
                .arg(&flow)
                // Its fastest: no trace service beside it.
                .env("PF_DISABLE_TRACING", "true");
            command
        };
        run(theirs())?;
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

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// The binary in the same profile as this bench.
fn release_binary() -> Result<PathBuf> {
    let bench = std::env::current_exe()?;
    let profile = bench
        .parent()
        .and_then(Path::parent)
        .ok_or("the bench has no target folder")?;
    let binary = profile.join("flowcell");
    if !binary.is_file() {
        return Err(format!(
            "{} is not there; run `cargo build --release -p flowcell`",
            binary.display()
        )
        .into());
    }
    Ok(binary)
}

/// promptflow's command line, in a virtual environment below the target folder.
fn promptflow() -> Result<PathBuf> {
    let environment = repository().join("target/promptflow-venv");
    let pf = environment.join("bin/pf");
    if !pf.is_file() {
        println!("installing {PROMPTFLOW} into {} ...", environment.display());
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&environment);
        run(make)?;
        let mut install = Command::new(environment.join("bin/pip"));
        install.args(["install", "--quiet", PROMPTFLOW]);
        run(install)?;
        let mut quiet = Command::new(&pf);
        quiet.args([
            "config",
            "set",
            "trace.destination=none",
            "telemetry.enabled=false",
        ]);
        run(quiet)?;
    }
    Ok(pf)
}

fn run(mut command: Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
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
