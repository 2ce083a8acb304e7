//! `flowcell serve` under test: a server of its own for each test, on a home of its own over the shared bundles.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::blocking::Client as Http;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::flow::FlowFolder;
use crate::process::{binary, home};

/// What has not happened after this time never will; no test waits for it in the ordinary case.
pub const STUCK: Duration = Duration::from_secs(60);
/// A pause between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// The workspace that a fresh server has.
const WORKSPACE: &str = "default";

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// The configuration file's text; without it there is none.
    pub config: Option<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Files that it may have open.
    pub open_files: Option<u64>,
    /// Bytes that a file of it may have.
    pub file_bytes: Option<u64>,
    /// A certificate that clients trust (PEM).
    pub root: Option<String>,
}

impl Setup {
    /// With this configuration.
    pub fn config(text: impl Into<String>) -> Self {
        Self {
            config: Some(text.into()),
            ..Self::default()
        }
    }
}

/// A server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    home: TempDir,
    setup: Setup,
    running: Option<Running>,
    base: Base,
    http: Http,
    key: String,
}

/// Where the server is: it has another port after each start, and clients follow.
type Base = Arc<RwLock<String>>;

#[derive(Debug)]
struct Running {
    child: Child,
    stderr: Arc<Mutex<String>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
            let from = log.len().saturating_sub(8_000);
            let from = log.ceil_char_boundary(from);
            #[expect(clippy::print_stderr, reason = "for whoever looks at a failed test")]
            {
                eprintln!("the server's log:\n{}", &log[from..]);
            }
        }
    }
}

/// How a server that was told to stop has ended.
#[derive(Debug)]
pub struct Stopped {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it logged.
    pub stderr: String,
}

#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]
impl Server {
    /// A fresh server without a configuration file.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    /// A fresh server with this configuration.
    #[track_caller]
    pub fn configured(config: &str) -> Self {
        Self::with(Setup::config(config))
    }

    /// A fresh server.
    #[track_caller]
    pub fn with(setup: Setup) -> Self {
        Self::on(tempfile::tempdir().unwrap(), setup)
    }

    /// A fresh server whose data is in this folder.
    #[track_caller]
    pub fn on(folder: TempDir, setup: Setup) -> Self {
        make_home(folder.path());
        let mut http = Http::builder().no_proxy().timeout(None);
        if let Some(root) = &setup.root {
            let root = reqwest::Certificate::from_pem(root.as_bytes()).unwrap();
            http = http.tls_certs_only([root]);
        }
        let http = http.build().unwrap();
        let mut server = Self {
            home: folder,
            setup,
            running: None,
            base: Arc::default(),
            http,
            key: String::new(),
        };
        server.restart();
        assert!(server.key.starts_with("fc_"), "no first key was printed");
        server
    }

    /// The data folder.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.running.as_ref().unwrap().child.id()
    }

    /// `http://address:port`.
    pub fn url(&self) -> String {
        self.base.read().unwrap().clone()
    }

    /// `address:port`.
    pub fn address(&self) -> String {
        let url = self.url();
        url.split_once("://").unwrap().1.to_owned()
    }

    /// What the server has logged since it was started last.
    pub fn log(&self) -> String {
        self.running
            .as_ref()
            .unwrap()
            .stderr
            .lock()
            .unwrap()
            .clone()
    }

    /// Changes how the server is started from the next time on.
    pub fn set_up(&mut self, change: impl FnOnce(&mut Setup)) {
        change(&mut self.setup);
    }

    /// The first user, who administers the host and owns the first workspace.
    pub fn admin(&self) -> Client {
        self.client(&self.key)
    }

    /// Whoever has this key.
    pub fn client(&self, key: &str) -> Client {
        Client {
            base: Arc::clone(&self.base),
            http: self.http.clone(),
            key: key.to_owned(),
        }
    }

    /// A new user with this role (`owner`, `data-scientist`, `reader`) in the first workspace; none if it is empty.
    #[track_caller]
    pub fn user(&self, name: &str, role: &str) -> Client {
        let admin = self.admin();
        admin.post("/v1/users", json!({"name": name})).expect(201);
        if !role.is_empty() {
            let path = workspace(&format!("/roles/{name}"));
            admin.put(&path, json!({"role": role})).expect(200);
        }
        let key = admin.post(&format!("/v1/users/{name}/keys"), json!({}));
        self.client(key.expect(201).json["key"].as_str().unwrap())
    }

    /// Its worker processes.
    #[track_caller]
    pub fn workers(&self) -> Vec<Worker> {
        let host = self.id().to_string();
        let mut workers = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().map_while(Result::ok) {
            let Ok(id) = entry.file_name().to_string_lossy().parse() else {
                continue;
            };
            let worker = Worker { id };
            if worker.stat(1).is_some_and(|parent| parent == host) && worker.runs_sessions() {
                workers.push(worker);
            }
        }
        workers
    }

    /// Kills the server as a power cut would (SIGKILL).
    pub fn kill(&mut self) {
        drop(self.running.take());
    }

    /// Tells the server to stop (SIGTERM), without waiting for it.
    pub fn terminate(&self) {
        let id = i32::try_from(self.id()).unwrap();
        #[expect(
            unsafe_code,
            reason = "the standard library sends no signals but SIGKILL"
        )]
        // SAFETY: the child has not been waited for, so the identifier is still its own.
        let sent = unsafe { libc::kill(id, libc::SIGTERM) };
        assert_eq!(sent, 0);
    }

    /// Waits for a server that was told to stop.
    #[track_caller]
    pub fn wait(&mut self) -> Stopped {
        let mut running = self.running.take().unwrap();
        let status = ended(&mut running.child);
        let stderr = running.stderr.lock().unwrap().clone();
        Stopped {
            code: status.code(),
            stderr,
        }
    }

    /// Stops the server gracefully.
    #[track_caller]
    pub fn stop(&mut self) -> Stopped {
        self.terminate();
        self.wait()
    }

    /// Starts the server on the same home; kills it first if it runs.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        let mut child = self.command().spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = collect(child.stderr.take().unwrap(), &log);
        let lines = lines(child.stdout.take().unwrap());
        self.running = Some(Running { child, stderr: log });
        loop {
            let line = match lines.recv_timeout(STUCK) {
                Ok(line) => line,
                Err(error) => {
                    self.kill();
                    stderr.join().unwrap();
                    panic!("the server does not start: {error}");
                }
            };
            if line.starts_with("fc_") {
                self.key = line;
            } else if let Some(url) = line.strip_prefix("flowcell serves ") {
                *self.base.write().unwrap() = url.to_owned();
                return;
            }
        }
    }

    /// The command that starts the server.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env_clear()
            .env("FLOWCELL_HOME", self.home())
            .env("FLOWCELL_TEST_SECRET", "hunter2-of-the-host")
            .env("HOME", "/nonexistent")
            .envs(self.setup.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some(text) = &self.setup.config {
            let path = self.home().join("flowcell.toml");
            fs::write(&path, text).unwrap();
            command.arg("--config").arg(path);
        }
        limit(&mut command, libc::RLIMIT_NOFILE, self.setup.open_files);
        limit(&mut command, libc::RLIMIT_FSIZE, self.setup.file_bytes);
        command
    }
}

/// A worker process of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    id: i32,
}

impl Worker {
    /// Its identifier.
    pub fn id(self) -> i32 {
        self.id
    }

    /// Kills it (SIGKILL).
    pub fn kill(self) {
        #[expect(
            unsafe_code,
            reason = "the standard library kills only what it started"
        )]
        // SAFETY: nothing but a signal is sent. Its host has not been told to end it, so the identifier is its own.
        let sent = unsafe { libc::kill(self.id, libc::SIGKILL) };
        assert_eq!(sent, 0);
    }

    /// Whether it is there and not only waited for.
    pub fn is_alive(self) -> bool {
        self.stat(0).is_some_and(|state| state != "Z")
    }

    /// A file that tells of it, such as `environ`.
    pub fn told(self, file: &str) -> Vec<u8> {
        fs::read(format!("/proc/{}/{file}", self.id)).unwrap_or_default()
    }

    /// What it has open.
    pub fn open_files(self) -> Vec<PathBuf> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.id));
        let files = files.into_iter().flatten().map_while(Result::ok);
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .collect()
    }

    fn runs_sessions(self) -> bool {
        let line = self.told("cmdline");
        let mut arguments = line.split(|byte| *byte == 0).skip(1);
        arguments.next() == Some(b"worker") && arguments.next() == Some(b"")
    }

    /// A field of its state behind the name: 0 is the state, 1 the parent.
    fn stat(self, field: usize) -> Option<String> {
        let stat = self.told("stat");
        let stat = String::from_utf8_lossy(&stat);
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_whitespace().nth(field).map(str::to_owned)
    }
}

/// Makes a folder a home over the shared bundles: what bundles need is linked, what a host writes (images, too) is its own.
/// One that has bundles is left as it is.
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
pub fn make_home(folder: &Path) {
    if folder.join("blobs").exists() {
        return;
    }
    fs::create_dir_all(folder.join("cache")).unwrap();
    for shared in [
        "blobs",
        "built",
        "bundles",
        "manifests",
        "cache/compiled",
        "cache/trees",
        "cache/bases",
    ] {
        // A store that nobody has used yet has not all of them.
        fs::create_dir_all(home().join(shared)).unwrap();
        let target = fs::canonicalize(home().join(shared)).unwrap();
        std::os::unix::fs::symlink(target, folder.join(shared)).unwrap();
    }
}

/// A home with a store of its own, in which garbage can be collected: its files are further names of those that are shared.
///
/// # Panics
/// When it cannot be made.
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
pub fn own_home() -> TempDir {
    // Beside the shared one: a file has its names on one disk.
    let beside = home().parent().unwrap_or(home());
    let folder = tempfile::tempdir_in(beside).unwrap();
    fs::create_dir(folder.path().join("cache")).unwrap();
    for part in [
        "blobs",
        "bundles",
        "manifests",
        "built",
        "cache/compiled",
        "cache/trees",
        "cache/bases",
    ] {
        if home().join(part).exists() {
            // What is stamped at each use is no other test's to stamp.
            let is_stamped = ["manifests", "cache/compiled"].contains(&part);
            let mut copy = Command::new("cp");
            copy.arg(if is_stamped { "-a" } else { "-al" })
                .arg(home().join(part))
                .arg(folder.path().join(part));
            assert!(copy.status().unwrap().success(), "cp {part}");
        }
    }
    // A file takes its blocks when it is written, and what is in a store is counted in blocks.
    let mut sync = Command::new("sync");
    sync.arg("-f").arg(folder.path());
    assert!(sync.status().unwrap().success(), "sync");
    folder
}

/// Bounds what a process may have.
fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, most: Option<u64>) {
    let Some(most) = most else { return };
    let set = move || {
        let limit = libc::rlimit {
            rlim_cur: most,
            rlim_max: most,
        };
        #[expect(unsafe_code, reason = "the standard library sets no limits")]
        // SAFETY: the pointer is to a live variable of the right type; the calls are safe after a fork.
        let result = unsafe {
            // Going beyond it is then an error of the write, not the end of the process.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::setrlimit(resource, &raw const limit)
        };
        if result == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    };
    #[expect(unsafe_code, reason = "limits are set between fork and exec")]
    // SAFETY: the closure allocates nothing and calls only what is safe after a fork.
    unsafe {
        command.pre_exec(set);
    }
}

/// Waits for the end of a process that is about to end.
///
/// # Panics
/// When it does not end.
#[track_caller]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
pub fn ended(child: &mut Child) -> ExitStatus {
    wait_until("the process has ended", || child.try_wait().unwrap())
}

/// Looks again and again until there is something to be seen.
///
/// # Panics
/// When there never is.
#[track_caller]
#[expect(clippy::panic, reason = "a test that waits in vain has failed")]
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        if started.elapsed() > STUCK {
            panic!("after {STUCK:?} it is not so that {what}");
        }
        thread::sleep(LOOK);
    }
}

/// A path in the first workspace.
pub fn workspace(path: &str) -> String {
    format!("/v1/workspaces/{WORKSPACE}{path}")
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // The pipe is read to its end even when nobody listens: a full one would hold up the server.
            let _ = sender.send(line);
        }
    });
    receiver
}

fn collect(stream: impl Read + Send + 'static, log: &Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
        }
    })
}

/// Somebody with an API key.
#[derive(Debug, Clone)]
pub struct Client {
    base: Base,
    http: Http,
    key: String,
}

/// An answer.
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers, by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// The body as JSON; null when it is none.
    pub json: Value,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &String::from_utf8_lossy(&self.body))
            .finish()
    }
}

#[expect(clippy::panic, reason = "a test stops where it fails")]
impl Response {
    /// Checks the status.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    #[must_use]
    pub fn is(self, status: u16) -> Self {
        self.expect(status);
        self
    }

    /// The same, for who needs the answer no longer.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        if self.status != status {
            let body = String::from_utf8_lossy(&self.body);
            panic!("status {} instead of {status}: {body}", self.status);
        }
        self
    }

    /// Checks that it is a problem of this kind whose text has these words.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn is_problem(&self, status: u16, kind: &str, words: &[&str]) -> &Self {
        self.expect(status);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.json["type"], format!("/problems/{kind}"), "{self:#?}");
        assert_eq!(self.json["status"], status);
        for word in words {
            assert!(self.detail().contains(word), "no {word:?} in {self:#?}");
        }
        self
    }

    /// What a problem says.
    pub fn detail(&self) -> &str {
        self.text("detail")
    }

    /// A member that is a text; empty if it is not.
    pub fn text(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }

    /// A header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The entity tag.
    pub fn tag(&self) -> String {
        self.header("etag").to_owned()
    }
}

#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]
impl Client {
    /// The API key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// `http://address:port`.
    pub fn url(&self) -> String {
        self.base.read().unwrap().clone()
    }

    /// Sends a request; an error when no answer comes.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> reqwest::Result<Response> {
        let url = format!("{}{path}", self.url());
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, url).body(body);
        if !self.key.is_empty() {
            request = request.bearer_auth(&self.key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send()?;
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value)
            })
            .collect();
        let body = response.bytes()?.to_vec();
        Ok(Response {
            status,
            headers,
            json: serde_json::from_slice(&body).unwrap_or_default(),
            body,
        })
    }

    /// Sends a request.
    #[track_caller]
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Response {
        match self.try_send(method, path, headers, body.into()) {
            Ok(response) => response,
            Err(error) => panic!("{method} {path}: {error:?}"),
        }
    }

    /// Asks for a stream of events; each is read when it is asked for.
    ///
    /// # Panics
    /// When no answer comes, or another one.
    #[track_caller]
    pub fn stream(&self, path: &str, json: &Value) -> Stream {
        let response = self
            .http
            .post(format!("{}{path}", self.url()))
            .bearer_auth(&self.key)
            .header("accept", "text/event-stream")
            .header("content-type", "application/json")
            .body(json.to_string())
            .send()
            .unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert_eq!(kind, "text/event-stream; charset=utf-8");
        Stream(BufReader::new(response))
    }

    /// Sends a request with JSON, or without a body if it is null.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, json: &Value) -> Response {
        self.request_with(method, path, &[], json)
    }

    /// The same with more headers.
    #[track_caller]
    pub fn request_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        json: &Value,
    ) -> Response {
        if json.is_null() {
            return self.send(method, path, headers, "");
        }
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        self.send(method, path, &all, json.to_string())
    }

    /// GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &Value::Null)
    }

    /// POST with JSON.
    #[track_caller]
    pub fn post(&self, path: &str, json: Value) -> Response {
        self.request("POST", path, &json)
    }

    /// PUT with JSON.
    #[track_caller]
    pub fn put(&self, path: &str, json: Value) -> Response {
        self.request("PUT", path, &json)
    }

    /// PATCH with JSON.
    #[track_caller]
    pub fn patch(&self, path: &str, json: Value) -> Response {
        self.request("PATCH", path, &json)
    }

    /// DELETE.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path, &Value::Null)
    }

    /// Uploads a folder as a flow of the first workspace.
    #[track_caller]
    pub fn upload(&self, name: &str, folder: &FlowFolder) -> Response {
        let path = workspace(&format!("/flows/{name}/files"));
        let headers = [("content-type", "application/x-tar")];
        let response = self.send("PUT", &path, &headers, tar(&folder.path()));
        assert!(matches!(response.status, 200 | 201), "{response:#?}");
        response
    }

    /// Writes one file of a flow.
    #[track_caller]
    pub fn write(&self, flow: &str, path: &str, content: &str) -> Response {
        let path = workspace(&format!("/flows/{flow}/files/{path}"));
        self.send("PUT", &path, &[], content).is(200)
    }

    /// Starts the session of a flow on a serverless compute with CPU time to spare, and gives it when it runs.
    #[track_caller]
    pub fn session(&self, flow: &str) -> Session {
        self.start(&json!({"flow": flow, "instance_type": "large"}))
    }

    /// Starts a session with these settings, and gives it when it runs.
    #[track_caller]
    pub fn start(&self, settings: &Value) -> Session {
        let answer = self.request("POST", &workspace("/sessions"), settings);
        assert!(matches!(answer.status, 201 | 202), "{answer:#?}");
        let session = Session {
            client: self.clone(),
            id: answer.text("id").to_owned(),
        };
        session.wait_for("running");
        session
    }

    /// A flow of one Python tool with its session.
    #[track_caller]
    pub fn python(&self, flow: &str, code: &str, inputs: &[(&str, &str)]) -> Session {
        self.upload(flow, &FlowFolder::python(code, inputs));
        self.session(flow)
    }
}

/// A session, as its user sees it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Whose it is.
    pub client: Client,
    /// Its identifier.
    pub id: String,
}

#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]
impl Session {
    /// Its path with more behind it.
    pub fn path(&self, more: &str) -> String {
        workspace(&format!("/sessions/{}{more}", self.id))
    }

    /// The same session for somebody else.
    #[must_use]
    pub fn of(&self, client: &Client) -> Self {
        Self {
            client: client.clone(),
            id: self.id.clone(),
        }
    }

    /// As it is now.
    #[track_caller]
    pub fn show(&self) -> Value {
        self.client.get(&self.path("")).is(200).json
    }

    /// Waits until it is in a state, and shows it.
    #[track_caller]
    pub fn wait_for(&self, state: &str) -> Value {
        self.wait_until(&format!("it is {state}"), |session| {
            session["state"] == state
        })
    }

    /// Waits until something is so, and shows it.
    #[track_caller]
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let started = Instant::now();
        while started.elapsed() < STUCK {
            last = self.show();
            if is_so(&last) {
                return last;
            }
            thread::sleep(LOOK);
        }
        panic!("it never happens that {what}: {last:#}");
    }

    /// Calls the flow with a whole request.
    #[track_caller]
    pub fn request(&self, body: &Value) -> Response {
        self.client.request("POST", &self.path("/calls"), body)
    }

    /// Calls the flow; the answer may be a failure.
    #[track_caller]
    pub fn call(&self, inputs: Value) -> Value {
        self.request(&json!({ "inputs": inputs })).is(200).json
    }

    /// Calls the flow, which succeeds; its output `out`.
    #[track_caller]
    pub fn out(&self, inputs: Value) -> Value {
        let answer = self.call(inputs);
        assert_eq!(answer["status"], "Completed", "{answer:#}");
        answer["outputs"]["out"].clone()
    }

    /// Calls the flow under an identifier, on a thread, and gives the handle when the call is under way.
    #[track_caller]
    pub fn begin(&self, call: &str, inputs: Value) -> thread::JoinHandle<Response> {
        let session = self.clone();
        let body = json!({"inputs": inputs, "id": call});
        let handle = thread::spawn(move || session.request(&body));
        wait_until("the call is under way", || {
            let calls = self.client.get(&self.path("/calls")).is(200).json;
            let calls = calls["items"].as_array().unwrap();
            calls.iter().any(|one| one["id"] == call).then_some(())
        });
        handle
    }

    /// What has happened to it, latest first.
    #[track_caller]
    pub fn history(&self) -> Vec<Value> {
        let page = self.client.get(&self.path("/history")).is(200).json;
        page["items"].as_array().unwrap().clone()
    }

    /// Stops it.
    #[track_caller]
    pub fn stop(&self) {
        let answer = self.client.post(&self.path("/stop"), Value::Null);
        assert!(matches!(answer.status, 200 | 202), "{answer:#?}");
        self.wait_for("stopped");
    }

    /// Watches its events.
    #[track_caller]
    pub fn events(&self) -> Events {
        self.events_after("")
    }

    /// Watches its events from the one after this identifier.
    #[track_caller]
    pub fn events_after(&self, last: &str) -> Events {
        let url = format!("{}{}", self.client.url(), self.path("/events"));
        let mut request = self.client.http.get(url).bearer_auth(&self.client.key);
        if !last.is_empty() {
            request = request.header("last-event-id", last);
        }
        let response = request.send().unwrap();
        let status = response.status().as_u16();
        let (sender, received) = mpsc::channel();
        if status != 200 {
            panic!("status {status}: {}", response.text().unwrap());
        }
        thread::spawn(move || {
            let mut id = String::new();
            for line in BufReader::new(response).lines().map_while(Result::ok) {
                if let Some(found) = line.strip_prefix("id: ") {
                    id = found.to_owned();
                } else if let Some(data) = line.strip_prefix("data: ") {
                    let json = serde_json::from_str(data).unwrap_or_default();
                    let event = SessionEvent {
                        id: id.clone(),
                        json,
                    };
                    if sender.send(event).is_err() {
                        return;
                    }
                }
            }
        });
        Events { received }
    }
}

/// An event of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionEvent {
    /// Its identifier.
    pub id: String,
    /// Its data.
    pub json: Value,
}

impl SessionEvent {
    /// Its type.
    pub fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap_or_default()
    }
}

/// An answer that comes as events, of which only the data counts. Dropping it closes the connection.
#[derive(Debug)]
pub struct Stream(BufReader<reqwest::blocking::Response>);

impl Iterator for Stream {
    type Item = std::io::Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        loop {
            line.clear();
            match self.0.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).map_err(std::io::Error::other));
            }
        }
    }
}

/// An open stream of events.
#[derive(Debug)]
pub struct Events {
    received: Receiver<SessionEvent>,
}

#[expect(clippy::panic, reason = "a test stops where it fails")]
impl Events {
    /// The next event; `None` when the stream has ended.
    ///
    /// # Panics
    /// When neither comes.
    #[track_caller]
    pub fn next_event(&mut self) -> Option<SessionEvent> {
        match self.received.recv_timeout(STUCK) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no event in {STUCK:?}"),
        }
    }

    /// The next event of this type; those before it are dropped.
    ///
    /// # Panics
    /// When the stream ends before.
    #[track_caller]
    pub fn wait_for(&mut self, kind: &str) -> SessionEvent {
        while let Some(event) = self.next_event() {
            if event.kind() == kind {
                return event;
            }
        }
        panic!("the stream ended without an event '{kind}'");
    }

    /// All events up to the end of the stream.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<SessionEvent> {
        std::iter::from_fn(|| self.next_event()).collect()
    }
}

/// A folder as a tar archive.
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
pub fn tar(folder: &Path) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut pending: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            let name = path.strip_prefix(folder).unwrap();
            archive.append_path_with_name(&path, name).unwrap();
        }
    }
    archive.into_inner().unwrap()
}
