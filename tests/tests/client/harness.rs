//! A server with a home of its own, and the command line as its client.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use flowcell_tests::binary;
use flowcell_tests::server::make_home;
use regex::Regex;
use serde_json::Value;
use tempfile::TempDir;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A server on a port of its own. It ends with the test.
pub(crate) struct Server {
    process: Child,
    url: String,
    key: String,
    _home: TempDir,
}

impl Server {
    /// Starts a server with these settings in its environment.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_home(folder.path());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut process = Command::new(binary())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env_clear()
            .env("FLOWCELL_HOME", folder.path())
            .env("FLOWCELL__HOST__INSTANCES", "16")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (mut url, mut key) = (None, None);
        while url.is_none() {
            let Some(line) = lines.next() else {
                let log = fs::read_to_string(folder.path().join("log"));
                panic!("the server has ended: {}", log.unwrap());
            };
            let line = line.unwrap();
            if line.starts_with("fc_") {
                key = Some(line);
            } else if let Some(address) = line.strip_prefix("flowcell serves ") {
                url = Some(address.to_owned());
            }
        }
        Self {
            process,
            url: url.unwrap(),
            key: key.unwrap(),
            _home: folder,
        }
    }

    /// The first user's command line.
    pub(crate) fn client(&self) -> Client {
        Client::of(&self.url).with("FLOWCELL_KEY", &self.key)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A command line with its environment.
pub(crate) struct Client {
    environment: BTreeMap<String, String>,
    config: std::sync::Arc<TempDir>,
}

impl Client {
    pub(crate) fn without_host() -> Self {
        let config = tempfile::tempdir().unwrap();
        let folder = config.path().to_str().unwrap().to_owned();
        Self {
            environment: BTreeMap::from([("XDG_CONFIG_HOME".to_owned(), folder)]),
            config: config.into(),
        }
    }

    pub(crate) fn of(url: &str) -> Self {
        Self::without_host().with("FLOWCELL_HOST", url)
    }

    /// The same with another environment variable.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut environment = self.environment.clone();
        environment.insert(name.to_owned(), value.to_owned());
        Self {
            environment,
            config: self.config.clone(),
        }
    }

    /// The folder of the configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.config.path().to_owned()
    }

    /// Starts a command.
    pub(crate) fn spawn<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Child {
        Command::new(binary())
            .args(arguments)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs a command with some standard input.
    pub(crate) fn run_with<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Ended {
        let mut child = self.spawn(arguments);
        // A command that reads none of it may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let mut stderr = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let mut stdout = String::new();
        let mut out = child.stdout.take().unwrap();
        out.read_to_string(&mut stdout).unwrap();
        Ended {
            code: child.wait().unwrap().code(),
            stdout,
            stderr: errors.join().unwrap(),
        }
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        self.run_with(arguments, "")
    }

    /// Runs a command that succeeds.
    #[track_caller]
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        ended
    }

    /// Runs a command that fails, and gives what it says about that.
    #[track_caller]
    pub(crate) fn fails<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        ended.stderr
    }

    /// Runs a command that succeeds with one JSON value, and says nothing else.
    #[track_caller]
    pub(crate) fn json<S: Into<std::ffi::OsString>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Value {
        let mut all: Vec<_> = arguments.into_iter().map(Into::into).collect();
        all.extend(["--output".into(), "json".into()]);
        let ended = self.ok(all);
        serde_json::from_str(&ended.stdout).unwrap()
    }
}

/// A command and everything that a person sees of it, without what differs from run to run.
pub(crate) fn seen(arguments: &[&str], ended: &Ended) -> String {
    static VARYING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "[time]"),
            (r"\bs-[0-9a-f]{20}\b", "[session]"),
            (r"\bc-[0-9a-f]{32}\b", "[call]"),
            (r"(?m)^  c-[0-9a-f]{8}\b", "  [call]"),
            (r"\bserverless-[0-9a-f]{20}\b", "[compute]"),
            (r"fc_[0-9a-f]{16}_[-\w]+", "[key]"),
            (
                r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
                "[client_id]",
            ),
            (r"\b[0-9a-f]{16}\b", "[id]"),
            (r"http://127.0.0.1:\d{4,}", "[host]"),
            (r"after \d+ ms", "after [n] ms"),
            (
                r"\d+ MiB of the host's memory",
                "[n] MiB of the host's memory",
            ),
            (r"(?m)^memory .*$", "memory      [size]"),
            (r"(?m)^CPU time .*$", "CPU time    [time]"),
            (r"(?m)^CPU .* held back", "CPU         [time]"),
            (r"(?m)^instances .*$", "instances   [number]"),
            (r"(?m)^! waiting .* \.\.\.\n", ""),
            // The width of columns depends on what is in them.
            (r" {2,}", "  "),
        ]
        .into_iter()
        .map(|(pattern, name)| (Regex::new(pattern).unwrap(), name))
        .collect()
    });
    let mut text = format!("$ flowcell {}\n{}", arguments.join(" "), ended.stdout);
    for line in ended.stderr.lines() {
        text.push_str(&format!("! {line}\n"));
    }
    for (pattern, name) in &*VARYING {
        text = pattern.replace_all(&text, *name).into_owned();
    }
    format!("{text}exit: {}\n", ended.code.unwrap())
}
