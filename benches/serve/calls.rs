//! Warm calls over HTTP, by wrk: flowcell, `pf flow serve`, and gunicorn with two workers, one after the other.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flowcell_benches::peers::{Result, copy, promptflow};
use flowcell_benches::repository;

use flowcell_benches::server::{INPUTS, Server};

/// Connections at once.
const CONNECTIONS: [u32; 3] = [1, 4, 16];
/// How long each is measured, in seconds.
const SECONDS: u32 = 8;
/// promptflow's servers take some seconds to start.
const START_TIME: Duration = Duration::from_secs(60);

struct Load {
    requests_per_second: f64,
    p50: String,
    p99: String,
    bad: String,
}

pub(crate) fn calls(with_promptflow: bool) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut results: Vec<(&str, Vec<Load>)> = Vec::new();
    {
        let server = Server::start()?;
        server.upload("bench")?;
        let session = server.start_session("bench")?;
        let target = format!("{}/sessions/{session}/calls", server.base);
        let body = format!("{{\"inputs\": {INPUTS}}}");
        let script = script(folder.path(), &body, Some(&server.key))?;
        results.push(("flowcell serve", load(&target, &script)?));
    }
    if with_promptflow {
        let flow = folder.path().join("flow");
        copy(&repository().join("benches/flow"), &flow)?;
        let script = script(folder.path(), INPUTS, None)?;
        let port = free_port()?;
        let mut pf = Command::new(promptflow("pf")?);
        pf.args([
            "flow",
            "serve",
            "--skip-open-browser",
            "--port",
            &port,
            "--source",
        ])
        .arg(&flow);
        results.push(("pf flow serve", peer(pf, &flow, &port, &script)?));
        let port = free_port()?;
        let mut gunicorn = Command::new(promptflow("gunicorn")?);
        gunicorn
            .args(["-w", "2", "--threads", "1", "--timeout", "300", "-b"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("promptflow.core._serving.app:create_app(engine='flask')")
            .env("PROMPTFLOW_PROJECT_PATH", &flow)
            .current_dir(folder.path());
        results.push((
            "gunicorn, 2 workers",
            peer(gunicorn, &flow, &port, &script)?,
        ));
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

/// A wrk script that posts a body and counts other answers than 200.
fn script(folder: &Path, body: &str, key: Option<&str>) -> Result<std::path::PathBuf> {
    let path = folder.join(if key.is_some() {
        "calls.lua"
    } else {
        "score.lua"
    });
    let authorization = key.map_or_else(String::new, |key| {
        format!("wrk.headers[\"Authorization\"] = \"Bearer {key}\"\n")
    });
    fs::write(
        &path,
        format!(
            "wrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\n{authorization}wrk.body = [==[{body}]==]\n\
             function done(summary, latency, requests)\n\
             io.write(string.format(\"RESULT %f %.2fms %.2fms %d\\n\", summary.requests / (summary.duration / 1e6),\n\
             latency:percentile(50) / 1000, latency:percentile(99) / 1000, summary.errors.status + summary.errors.timeout))\nend\n"
        ),
    )?;
    Ok(path)
}

fn load(target: &str, script: &Path) -> Result<Vec<Load>> {
    // Instances are made, caches are warm.
    wrk(target, script, 16, 3)?;
    CONNECTIONS
        .iter()
        .map(|connections| wrk(target, script, *connections, SECONDS))
        .collect()
}

fn wrk(target: &str, script: &Path, connections: u32, seconds: u32) -> Result<Load> {
    let output = Command::new("wrk")
        .args(["-t1", "--timeout", "30s"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{seconds}s"))
        .arg("-s")
        .arg(script)
        .arg(target)
        .output()
        .map_err(|error| format!("wrk cannot be run ({error}); install it"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let line = line.ok_or_else(|| format!("wrk failed: {text}"))?;
    let mut parts = line.split_whitespace().map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Ok(Load {
        requests_per_second: next().parse()?,
        p50: next(),
        p99: next(),
        bad: next(),
    })
}

/// One of promptflow's servers, at its fastest: quiet, and without traces.
fn peer(mut command: Command, flow: &Path, port: &str, script: &Path) -> Result<Vec<Load>> {
    let child = command
        .env("PF_DISABLE_TRACING", "true")
        .env("PF_LOGGING_LEVEL", "WARNING")
        .env("PROMPTFLOW_PROJECT_PATH", flow)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let _running = Running(child);
    let began = Instant::now();
    while TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
        if began.elapsed() > START_TIME {
            return Err(format!("{command:?} does not listen").into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    load(&format!("http://127.0.0.1:{port}/score"), script)
}

/// A process that ends with the measurement.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // gunicorn ends its workers when it is asked to end.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn free_port() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port()
        .to_string())
}
