//! Load over HTTP by wrk, and promptflow's servers under it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::peers::Result;

/// promptflow's servers take some seconds to start.
const START_TIME: Duration = Duration::from_secs(60);

/// What wrk has measured.
#[derive(Debug)]
pub struct Load {
    /// Answers a second.
    pub requests_per_second: f64,
    /// The median, with its unit.
    pub p50: String,
    /// The 99th percentile, with its unit.
    pub p99: String,
    /// Answers that are not 200, and requests that were given up.
    pub bad: String,
}

/// Writes a wrk script that posts a body with these headers.
pub fn script(path: PathBuf, headers: &[(&str, &str)], body: &str) -> Result<PathBuf> {
    let headers = headers.iter();
    let headers = headers.map(|(name, value)| format!("wrk.headers[\"{name}\"] = \"{value}\"\n"));
    let headers: String = headers.collect();
    fs::write(
        &path,
        format!(
            "wrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\n{headers}wrk.body = [==[{body}]==]\n\
             function done(summary, latency, requests)\n\
             io.write(string.format(\"RESULT %f %.2fms %.2fms %d\\n\", summary.requests / (summary.duration / 1e6),\n\
             latency:percentile(50) / 1000, latency:percentile(99) / 1000, summary.errors.status + summary.errors.timeout))\nend\n"
        ),
    )?;
    Ok(path)
}

/// Runs wrk with so many connections for so long.
pub fn wrk(target: &str, script: &Path, connections: u32, seconds: u32) -> Result<Load> {
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

/// One of promptflow's servers; it ends when this is dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    port: String,
}

impl Peer {
    /// Starts a server at its fastest, quiet and without traces. `command` is given a free port.
    pub fn start(flow: &Path, command: impl FnOnce(&str) -> Result<Command>) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let port = port.to_string();
        let mut command = command(&port)?;
        let child = command
            .env("PF_DISABLE_TRACING", "true")
            .env("PF_LOGGING_LEVEL", "WARNING")
            .env("PROMPTFLOW_PROJECT_PATH", flow)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let peer = Self { child, port };
        let began = Instant::now();
        while TcpStream::connect(format!("127.0.0.1:{}", peer.port)).is_err() {
            if began.elapsed() > START_TIME {
                return Err(format!("{command:?} does not listen").into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(peer)
    }

    /// gunicorn with two workers, as `pf flow build` sets it up.
    pub fn gunicorn(flow: &Path) -> Result<Self> {
        Self::gunicorn_with(flow, &[])
    }

    /// The same with these variables in its environment.
    pub fn gunicorn_with(flow: &Path, variables: &[(&str, &Path)]) -> Result<Self> {
        Self::start(flow, |port| {
            let mut gunicorn = Command::new(crate::peers::promptflow("gunicorn")?);
            gunicorn
                .args(["-w", "2", "--threads", "1", "--timeout", "300", "-b"])
                .arg(format!("127.0.0.1:{port}"))
                .arg("promptflow.core._serving.app:create_app(engine='flask')")
                .envs(variables.iter().copied())
                .current_dir(flow.parent().unwrap_or(flow));
            Ok(gunicorn)
        })
    }

    /// Where it takes calls.
    pub fn score(&self) -> String {
        format!("http://127.0.0.1:{}/score", self.port)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // gunicorn ends its workers when it is asked to end.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}
