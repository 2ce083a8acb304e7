//! The server under measurement.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::peers::{Result, release_binary};
use crate::{home, repository};

/// Limits that do not stand in the way of what is measured.
const CONFIG: &str = "
[server]
requests_per_second = 1000000
request_burst = 1000000
[host]
instances = 1100
memory_mib = 65536
overcommit = 100000
[sessions]
calls = 2000
min_idle_seconds = 1
instances_idle_seconds = 600
[quotas.workspace]
sessions = 100000
computes = 100000
memory_mib = 1000000000
cpu_millis = 1000000000
instances = 1000000
[quotas.user]
sessions = 100000
computes = 100000
memory_mib = 1000000000
cpu_millis = 1000000000
instances = 1000000
[[instance_types]]
name = \"large\"
memory_mib = 4096
cpu_millis = 4000
instances = 16
[[instance_types]]
name = \"huge\"
memory_mib = 16384
cpu_millis = 16000
instances = 1050
";
/// How often it is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(2);
/// What a call sends: the payload that all comparisons use.
pub const INPUTS: &str = r#"{"text": "The quick brown fox jumps over the lazy dog. The dog sleeps while the fox runs on and on through the quiet wood.", "top": 3}"#;

/// A server; ended when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    home: TempDir,
    client: Client,
    archive: Vec<u8>,
    /// A key that may do all.
    pub key: String,
    /// The address of the workspace.
    pub base: String,
    /// The address of the server.
    pub url: String,
}

impl Server {
    /// A server on a fresh host with the bundles of the usual store.
    pub fn start() -> Result<Self> {
        Self::configured("")
    }

    /// The same, with more sections in its configuration.
    pub fn configured(more: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir_all(folder.path().join("cache"))?;
        for name in [
            "blobs",
            "built",
            "bundles",
            "manifests",
            "cache/compiled",
            "cache/trees",
            "cache/bases",
        ] {
            symlink(home().canonicalize()?.join(name), folder.path().join(name))?;
        }
        let config = folder.path().join("config.toml");
        fs::write(&config, format!("{CONFIG}{more}"))?;
        let mut child = Command::new(release_binary()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .env("FLOWCELL_HOME", folder.path())
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()?;
        let (mut key, mut url) = (None, None);
        let stdout = child.stdout.take().ok_or("the server has no output")?;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if line.starts_with("fc_") {
                key = Some(line);
            } else if let Some(address) = line.strip_prefix("flowcell serves ") {
                url = Some(address.to_owned());
                break;
            }
        }
        let url = url.ok_or("the server did not start")?;
        Ok(Self {
            child,
            home: folder,
            client: Client::new(),
            archive: archive(&repository().join("benches/flow"))?,
            key: key.ok_or("the server gave no key")?,
            base: format!("{url}/v1/workspaces/default"),
            url,
        })
    }

    fn send(&self, request: RequestBuilder) -> Result<Value> {
        let response = request.bearer_auth(&self.key).send()?;
        let status = response.status();
        let body: Value = response.json()?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(format!("{status}: {body}").into())
        }
    }

    /// Uploads the flow of all comparisons under this name.
    pub fn upload(&self, flow: &str) -> Result<()> {
        self.upload_archive(flow, self.archive.clone())
    }

    /// Uploads a flow as an archive under this name.
    pub fn upload_archive(&self, flow: &str, archive: Vec<u8>) -> Result<()> {
        let request = self
            .client
            .put(format!("{}/flows/{flow}/files", self.base))
            .header("content-type", "application/x-tar")
            .body(archive);
        self.send(request).map(drop)
    }

    /// Starts a session; it is given when it runs.
    pub fn start_session(&self, flow: &str) -> Result<String> {
        self.start_with(&json!({ "flow": flow }))
    }

    /// The same on a compute of this type.
    pub fn start_session_of(&self, flow: &str, instance_type: &str) -> Result<String> {
        self.start_with(&json!({ "flow": flow, "instance_type": instance_type }))
    }

    fn start_with(&self, settings: &Value) -> Result<String> {
        let request = self
            .client
            .post(format!("{}/sessions", self.base))
            .json(settings);
        let mut session = self.send(request)?;
        while session["state"] == "starting" {
            std::thread::sleep(LOOK);
            session = self.show(session["id"].as_str().unwrap_or_default())?;
        }
        if session["state"] != "running" {
            return Err(format!("the session does not run: {session}").into());
        }
        Ok(session["id"].as_str().unwrap_or_default().to_owned())
    }

    /// Makes a connection of the workspace.
    pub fn put_connection(&self, name: &str, connection: &Value) -> Result<()> {
        let url = format!("{}/connections/{name}", self.base);
        self.send(self.client.put(url).json(connection)).map(drop)
    }

    /// Shows a session.
    pub fn show(&self, session: &str) -> Result<Value> {
        self.send(self.client.get(format!("{}/sessions/{session}", self.base)))
    }

    /// Stops a session, and waits until it has.
    pub fn stop(&self, session: &str) -> Result<()> {
        let url = format!("{}/sessions/{session}/stop", self.base);
        self.send(self.client.post(url))?;
        while self.show(session)?["state"] != "stopped" {
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The folder of its data.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Calls a session with the payload of all comparisons.
    pub fn call(&self, session: &str) -> Result<()> {
        self.call_with(session, INPUTS)
    }

    /// Calls a session with these inputs, as JSON text.
    pub fn call_with(&self, session: &str, inputs: &str) -> Result<()> {
        let request = self
            .client
            .post(format!("{}/sessions/{session}/calls", self.base))
            .header("content-type", "application/json")
            .body(format!("{{\"inputs\": {inputs}}}"));
        let answer = self.send(request)?;
        if answer["status"] == "Completed" {
            Ok(())
        } else {
            Err(answer.to_string().into())
        }
    }

    /// Stores a session's instances.
    pub fn hibernate(&self, session: &str) -> Result<()> {
        let request = self
            .client
            .post(format!("{}/sessions/{session}/hibernate", self.base));
        let session = self.send(request)?;
        if session["state"] == "hibernated" {
            Ok(())
        } else {
            Err(session.to_string().into())
        }
    }

    /// Changes settings of a session.
    pub fn update(&self, session: &str, settings: &Value) -> Result<()> {
        let request = self
            .client
            .patch(format!("{}/sessions/{session}", self.base))
            .json(settings);
        self.send(request).map(drop)
    }

    /// Sessions that are not stopped.
    pub fn running(&self) -> Result<u64> {
        let quota = self.send(self.client.get(format!("{}/quota", self.base)))?;
        Ok(quota["workspace"]["used"]["sessions"].as_u64().unwrap_or(0))
    }

    /// Instances that wait for a call.
    pub fn idle_instances(&self) -> Result<u64> {
        let metrics = self
            .client
            .get(format!("{}/metrics", self.url))
            .bearer_auth(&self.key)
            .send()?
            .text()?;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("flowcell_instances_idle "));
        Ok(line.and_then(|number| number.parse().ok()).unwrap_or(0))
    }

    /// Memory of the host and its workers, in bytes: their share of what they share with others included.
    pub fn pss(&self) -> Result<u64> {
        let of_one = |process: u32| -> Result<u64> {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
            let kib = rollup.lines().find_map(|line| {
                let kib = line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?;
                kib.parse::<u64>().ok()
            });
            Ok(kib.ok_or("the kernel does not tell the PSS")? << 10)
        };
        self.processes()?.into_iter().map(of_one).sum()
    }

    /// Memory mappings of the host and its workers.
    pub fn maps(&self) -> Result<usize> {
        let of_one = |process: u32| -> Result<usize> {
            let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
            Ok(maps.lines().count())
        };
        self.processes()?.into_iter().map(of_one).sum()
    }

    /// The host, and the workers that it has started, from whichever of its threads.
    fn processes(&self) -> Result<Vec<u32>> {
        let host = self.child.id();
        let mut processes = vec![host];
        for thread in fs::read_dir(format!("/proc/{host}/task"))? {
            let children = fs::read_to_string(thread?.path().join("children"))?;
            let children = children.split_whitespace().map(str::parse);
            processes.extend(children.collect::<std::result::Result<Vec<u32>, _>>()?);
        }
        Ok(processes)
    }

    /// What the folders of sessions take of the disk, in bytes.
    pub fn disk_of_sessions(&self) -> Result<u64> {
        let folder = self.home.path().join("server/sessions");
        let used = Command::new("du").arg("-sk").arg(folder).output()?;
        let used = String::from_utf8(used.stdout)?;
        let kib: u64 = used
            .split_whitespace()
            .next()
            .ok_or("du says nothing")?
            .parse()?;
        Ok(kib << 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder as an archive.
pub fn archive(folder: &Path) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", folder)?;
    Ok(archive.into_inner()?)
}
