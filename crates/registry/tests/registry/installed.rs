//! Debian's `docker-registry`, started for a test and ended with it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

/// Longest time until it listens. It is waited for what it says, not for the time.
const START: Duration = Duration::from_secs(120);

pub(crate) struct Registry {
    process: Child,
    /// `127.0.0.1:port`.
    pub(crate) registry: String,
    folder: tempfile::TempDir,
}

impl Registry {
    /// One that keeps what it is given in a folder of its own. `auth` is that section of its configuration (YAML).
    pub(crate) fn start(auth: &str) -> Self {
        Self::start_with(|_| auth.to_owned())
    }

    /// The same; `auth` may put files into the folder.
    pub(crate) fn start_with(auth: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("storage");
        let auth = auth(folder.path());
        let config = format!(
            "version: 0.1\n\
             log:\n  level: info\n  formatter: text\n\
             storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:0\n  secret: of-this-test\n{auth}",
            storage.display()
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new(binary())
            .arg("serve")
            .arg(&file)
            .env_clear()
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = process.stderr.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(log).lines().map_while(Result::ok);
            for line in lines.by_ref() {
                if let Some(address) = address(&line) {
                    let _ = sender.send(Ok(address));
                } else {
                    let _ = sender.send(Err(line));
                }
            }
        });
        let mut registry = Self {
            process,
            registry: String::new(),
            folder,
        };
        let mut log = String::new();
        registry.registry = loop {
            match receiver.recv_timeout(START) {
                Ok(Ok(address)) => break address,
                Ok(Err(line)) => log.push_str(&format!("{line}\n")),
                Err(_) => panic!("the registry does not listen:\n{log}"),
            }
        };
        registry
    }

    /// The files of all blobs that it has.
    pub(crate) fn blobs(&self) -> Vec<PathBuf> {
        let root = self
            .folder
            .path()
            .join("storage/docker/registry/v2/blobs/sha256");
        let mut blobs = Vec::new();
        let mut folders = vec![root];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    blobs.push(path);
                }
            }
        }
        blobs
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `… msg="listening on 127.0.0.1:43211" …`: from then on connections are taken.
fn address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("listening on ")?;
    let end = rest.find(['"', ' ', ',']).unwrap_or(rest.len());
    rest.get(..end).map(str::to_owned)
}

fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("FLOWCELL_DOCKER_REGISTRY") {
            return path.into();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/registry.sh");
        let mut process = Command::new(script)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut path = String::new();
        let mut output = process.stdout.take().unwrap();
        output.read_to_string(&mut path).unwrap();
        assert!(
            process.wait().unwrap().success(),
            "tests/registry.sh failed"
        );
        path.trim().into()
    })
}
