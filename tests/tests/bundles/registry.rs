//! Debian's `docker-registry`, started for a test and ended with it; and artifacts that no client would make.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use flowcell_tests::repository;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Longest time until it listens. It is waited for what it says, not for the time.
const START: Duration = Duration::from_secs(120);
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// bcrypt of `opensesame`.
const HTPASSWD: &str = "ana:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi\n";

pub(crate) struct Registry {
    process: Child,
    /// `127.0.0.1:port`.
    pub(crate) host: String,
    folder: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| String::new())
    }

    /// One that knows ana and her password, and nobody else.
    pub(crate) fn protected() -> Self {
        Self::start_with(|folder| {
            let file = folder.join("htpasswd");
            std::fs::write(&file, HTPASSWD).unwrap();
            format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                file.display()
            )
        })
    }

    fn start_with(auth: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let auth = auth(folder.path());
        let config = format!(
            "version: 0.1\nlog:\n  level: info\n  formatter: text\n\
             storage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n  secret: of-this-test\n{auth}",
            folder.path().join("storage").display()
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new(&*BINARY)
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
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        // The registry ends with the test, also with one that fails here.
        let mut registry = Self {
            process,
            host: String::new(),
            folder,
        };
        let mut log = String::new();
        while registry.host.is_empty() {
            let line = receiver.recv_timeout(START);
            let line = line.unwrap_or_else(|_| panic!("the registry does not listen:\n{log}"));
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find(['"', ' ', ',']).unwrap_or(rest.len());
                registry.host = rest[..end].to_owned();
            }
            log.push_str(&format!("{line}\n"));
        }
        registry
    }

    /// Ends it before the test does.
    pub(crate) fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// The file that it keeps a blob in.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.folder.path().join(format!(
            "storage/docker/registry/v2/blobs/sha256/{}/{hex}/data",
            &hex[..2]
        ))
    }

    /// Puts a blob there; gives its descriptor.
    pub(crate) fn put_blob(&self, repository: &str, kind: &str, content: &[u8]) -> Value {
        let client = reqwest::blocking::Client::new();
        let base = format!("http://{}/v2/{repository}", self.host);
        let begun = client.post(format!("{base}/blobs/uploads/")).send();
        let begun = begun.unwrap();
        let place = begun.headers()["location"].to_str().unwrap();
        let separator = if place.contains('?') { '&' } else { '?' };
        let digest = digest(content);
        let done = client
            .put(format!("{place}{separator}digest={digest}"))
            .body(content.to_vec())
            .send()
            .unwrap();
        assert_eq!(done.status(), 201, "{done:?}");
        json!({ "mediaType": kind, "digest": digest, "size": content.len() })
    }

    /// Puts any manifest there; gives the image's name.
    pub(crate) fn put_manifest(&self, image: &str, manifest: &Value) -> String {
        let (repository, tag) = image.split_once(':').unwrap();
        let done = reqwest::blocking::Client::new()
            .put(format!(
                "http://{}/v2/{repository}/manifests/{tag}",
                self.host
            ))
            .header("content-type", manifest["mediaType"].as_str().unwrap())
            .body(manifest.to_string())
            .send()
            .unwrap();
        assert_eq!(done.status(), 201, "{:?}", done.text());
        format!("{}/{image}", self.host)
    }

    /// Puts an artifact there that looks like a bundle, with this manifest of flowcell's and these layers.
    pub(crate) fn put_bundle(&self, image: &str, bundle: &Value, layers: &[Value]) -> String {
        let (repository, _) = image.split_once(':').unwrap();
        let own = self.put_blob(
            repository,
            "application/vnd.flowcell.bundle.manifest.v1+json",
            bundle.to_string().as_bytes(),
        );
        let config = self.put_blob(repository, CONFIG, b"{}");
        let all: Vec<&Value> = layers.iter().chain([&own]).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": config,
            "layers": all,
        });
        self.put_manifest(image, &manifest)
    }
}

pub(crate) fn digest(content: &[u8]) -> String {
    let digits: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{digits}")
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.end();
    }
}

static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(path) = std::env::var_os("FLOWCELL_DOCKER_REGISTRY") {
        return path.into();
    }
    let mut process = Command::new(repository().join("tests/registry.sh"))
        .stdout(Stdio::piped())
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
});
