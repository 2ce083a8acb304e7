//! A Python index on loopback (PEP 503, 691 and 658), and wheels made on the spot. It does what indexes do wrong, too.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Cursor, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use base64::Engine as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;

/// A wheel in the making.
#[derive(Debug, Clone)]
pub struct Wheel {
    name: String,
    version: String,
    tag: String,
    requires: Vec<String>,
    metadata: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    link: Option<(String, String)>,
}

impl Wheel {
    /// A wheel of Python only, with nothing in it.
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            tag: "py3-none-any".to_owned(),
            requires: Vec::new(),
            metadata: Vec::new(),
            files: Vec::new(),
            link: None,
        }
    }

    /// Adds a file.
    pub fn file(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.files
            .push((path.to_owned(), content.as_ref().to_vec()));
        self
    }

    /// Needs another package.
    pub fn requires(mut self, requirement: &str) -> Self {
        self.requires.push(requirement.to_owned());
        self
    }

    /// Adds a line to its metadata.
    pub fn metadata(mut self, line: &str) -> Self {
        self.metadata.push(line.to_owned());
        self
    }

    /// Is for this platform (`cp314-cp314-manylinux_2_17_x86_64`).
    pub fn tag(mut self, tag: &str) -> Self {
        self.tag = tag.to_owned();
        self
    }

    /// Adds a symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.link = Some((path.to_owned(), target.to_owned()));
        self
    }

    /// Its file name.
    pub fn filename(&self) -> String {
        let name = self.name.replace('-', "_");
        format!("{name}-{}-{}.whl", self.version, self.tag)
    }

    fn core_metadata(&self) -> String {
        let mut text = format!(
            "Metadata-Version: 2.1\nName: {}\nVersion: {}\n",
            self.name, self.version
        );
        for requirement in &self.requires {
            text.push_str(&format!("Requires-Dist: {requirement}\n"));
        }
        for line in &self.metadata {
            text.push_str(&format!("{line}\n"));
        }
        text
    }

    /// Its bytes.
    #[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
    pub fn bytes(&self) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default();
        let info = format!("{}-{}.dist-info", self.name.replace('-', "_"), self.version);
        let own = [
            (
                format!("{info}/METADATA"),
                self.core_metadata().into_bytes(),
            ),
            (
                format!("{info}/WHEEL"),
                format!("Wheel-Version: 1.0\nTag: {}\n", self.tag).into_bytes(),
            ),
            (format!("{info}/RECORD"), Vec::new()),
        ];
        for (path, content) in self.files.iter().chain(&own) {
            archive.start_file(path.as_str(), options).unwrap();
            archive.write_all(content).unwrap();
        }
        if let Some((path, target)) = &self.link {
            archive
                .add_symlink(path.as_str(), target.as_str(), options)
                .unwrap();
        }
        archive.finish().unwrap().into_inner()
    }
}

/// What an index does wrong with a file.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Answers this status so many times.
    Status(u16, u32),
    /// Closes the connection in the middle, so many times.
    CutOff(u32),
    /// Says this file has the hash of something else.
    WrongHash,
    /// Sends other bytes than it has promised.
    OtherBytes,
    /// Never answers.
    Silence,
    /// Sends the visitor elsewhere.
    Redirect(&'static str),
}

#[derive(Debug, Default)]
struct State {
    /// By normalized name, then by file name: the bytes, and the metadata.
    packages: BTreeMap<String, BTreeMap<String, (Vec<u8>, String)>>,
    yanked: Vec<String>,
    faults: HashMap<String, Fault>,
    requests: Vec<String>,
    /// What was shown with each request (`Authorization`).
    shown: Vec<Option<String>>,
    password: Option<(String, String)>,
    html: bool,
}

/// An index; its threads end with the process.
#[derive(Debug, Clone)]
pub struct Index {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Index {
    /// Starts one without packages.
    #[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let index = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
        };
        let serving = index.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(stream));
            }
        });
        index
    }

    /// Adds a wheel.
    pub fn add(&self, wheel: &Wheel) {
        let mut state = self.lock();
        let files = state.packages.entry(wheel.name.to_lowercase()).or_default();
        files.insert(wheel.filename(), (wheel.bytes(), wheel.core_metadata()));
    }

    /// Adds a wheel that was made elsewhere.
    ///
    /// # Errors
    /// When it is none.
    pub fn add_wheel(&self, file: &str, bytes: &[u8]) -> zip::result::ZipResult<()> {
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes))?;
        let names = (0..archive.len())
            .map(|at| Ok(archive.by_index(at)?.name()?.into_owned()))
            .collect::<zip::result::ZipResult<Vec<String>>>()?;
        let name = names
            .iter()
            .find(|name| name.ends_with(".dist-info/METADATA"))
            .ok_or(zip::result::ZipError::FileNotFound)?;
        let mut metadata = String::new();
        archive.by_name(name)?.read_to_string(&mut metadata)?;
        let package = file.split('-').next().unwrap_or_default();
        let package = package.replace('_', "-").to_lowercase();
        let mut state = self.lock();
        let files = state.packages.entry(package).or_default();
        files.insert(file.to_owned(), (bytes.to_vec(), metadata));
        Ok(())
    }

    /// Adds a file under a package's name.
    pub fn add_file(&self, package: &str, file: &str, bytes: &[u8]) {
        let mut state = self.lock();
        let files = state.packages.entry(package.to_owned()).or_default();
        files.insert(file.to_owned(), (bytes.to_vec(), String::new()));
    }

    /// Withdraws a file (PEP 592).
    pub fn yank(&self, file: &str) {
        self.lock().yanked.push(file.to_owned());
    }

    /// Does this wrong from now on, with the file or package of this name.
    pub fn fault(&self, name: &str, fault: Fault) {
        self.lock().faults.insert(name.to_owned(), fault);
    }

    /// Answers in HTML, as simple indexes do.
    pub fn speak_html(&self) {
        self.lock().html = true;
    }

    /// Lets in only who knows this.
    pub fn protect(&self, user: &str, password: &str) {
        self.lock().password = Some((user.to_owned(), password.to_owned()));
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Its address, for `--index-url`.
    pub fn url(&self) -> String {
        format!("http://{}/simple/", self.address)
    }

    /// The address of a file.
    pub fn file_url(&self, file: &str) -> String {
        format!("http://{}/files/{file}", self.address)
    }

    /// The paths that were asked for.
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    /// What was shown with each request to be let in (`Authorization`).
    pub fn shown(&self) -> Vec<Option<String>> {
        self.lock().shown.clone()
    }

    /// How often a wheel was downloaded.
    pub fn downloads(&self, file: &str) -> usize {
        let path = format!("/files/{file}");
        self.requests().iter().filter(|one| **one == path).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(reading) = stream.try_clone() else {
            return;
        };
        let mut reader = BufReader::new(reading);
        let mut stream = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
            let mut headers = HashMap::new();
            loop {
                let mut header = String::new();
                if reader.read_line(&mut header).unwrap_or(0) == 0 {
                    return;
                }
                match header.trim_end().split_once(": ") {
                    Some((name, value)) => {
                        headers.insert(name.to_lowercase(), value.to_owned());
                    }
                    None => break,
                }
            }
            let is_head = line.starts_with("HEAD ");
            let Some(answer) = self.answer(&path, &headers) else {
                // Until the visitor has had enough.
                let _ = reader.read(&mut [0]);
                return;
            };
            let head = format!(
                "HTTP/1.1 {}\r\ncontent-length: {}\r\n{}\r\n",
                answer.status,
                answer.body.len(),
                answer.headers
            );
            let body = if is_head {
                &[]
            } else {
                &answer.body[..answer.sent]
            };
            if stream.write_all(head.as_bytes()).is_err()
                || stream.write_all(body).is_err()
                || (!is_head && answer.sent < answer.body.len())
            {
                return;
            }
        }
    }

    fn answer(&self, path: &str, headers: &HashMap<String, String>) -> Option<Answer> {
        let mut state = self.lock();
        state.requests.push(path.to_owned());
        state.shown.push(headers.get("authorization").cloned());
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
        let last = last.to_owned();
        if let Some((user, password)) = &state.password {
            let pair = format!("{user}:{password}");
            let expected = base64::engine::general_purpose::STANDARD.encode(pair);
            if headers.get("authorization") != Some(&format!("Basic {expected}")) {
                return Some(Answer::of(
                    "401 Unauthorized",
                    "text/plain",
                    b"who is there?",
                ));
            }
        }
        match state.faults.get_mut(&last) {
            Some(Fault::Silence) => return None,
            Some(Fault::Status(status, times)) if *times > 0 => {
                *times -= 1;
                let mut answer = Answer::of(&format!("{status} Wrong"), "text/plain", b"not now");
                answer.headers.push_str("retry-after: 0\r\n");
                return Some(answer);
            }
            Some(Fault::Redirect(target)) => {
                let mut answer = Answer::of("302 Found", "text/plain", b"");
                answer.headers.push_str(&format!("location: {target}\r\n"));
                return Some(answer);
            }
            _ => {}
        }
        let answer = if let Some(file) = path.strip_prefix("/files/") {
            self.file(&mut state, file)
        } else {
            self.page(&state, &last, headers)
        };
        Some(answer.unwrap_or_else(|| Answer::of("404 Not Found", "text/plain", b"nothing here")))
    }

    fn file(&self, state: &mut State, file: &str) -> Option<Answer> {
        let wheel = file.strip_suffix(".metadata").unwrap_or(file);
        let (bytes, metadata) = state.packages.values().find_map(|files| files.get(wheel))?;
        if wheel != file {
            return Some(Answer::of("200 OK", "text/plain", metadata.as_bytes()));
        }
        let mut answer = Answer::of("200 OK", "application/octet-stream", bytes);
        match state.faults.get_mut(file) {
            Some(Fault::CutOff(times)) if *times > 0 => {
                *times -= 1;
                answer.sent = answer.body.len() / 2;
            }
            Some(Fault::OtherBytes) => {
                if let Some(byte) = answer.body.last_mut() {
                    *byte ^= 1;
                }
            }
            _ => {}
        }
        Some(answer)
    }

    fn page(&self, state: &State, name: &str, headers: &HashMap<String, String>) -> Option<Answer> {
        let files = state.packages.get(name)?;
        let hash = |file: &str, bytes: &[u8]| match state.faults.get(file) {
            Some(Fault::WrongHash) => hex(&Sha256::digest(b"something else")),
            _ => hex(&Sha256::digest(bytes)),
        };
        let takes_json = headers
            .get("accept")
            .is_some_and(|accept| accept.contains("application/vnd.pypi.simple.v1+json"));
        if state.html || !takes_json {
            let mut page = "<!DOCTYPE html><html><body>".to_owned();
            for (file, (bytes, _)) in files {
                page.push_str(&format!(
                    "<a href=\"/files/{file}#sha256={}\">{file}</a>",
                    hash(file, bytes)
                ));
            }
            page.push_str("</body></html>");
            return Some(Answer::of("200 OK", "text/html", page.as_bytes()));
        }
        let listed: Vec<_> = files
            .iter()
            .map(|(file, (bytes, metadata))| {
                json!({
                    "filename": file,
                    "url": self.file_url(file),
                    "hashes": { "sha256": hash(file, bytes) },
                    "size": bytes.len(),
                    "core-metadata": !metadata.is_empty(),
                    "yanked": state.yanked.contains(file),
                })
            })
            .collect();
        let page = json!({ "meta": { "api-version": "1.1" }, "name": name, "versions": [], "files": listed });
        Some(Answer::of(
            "200 OK",
            "application/vnd.pypi.simple.v1+json",
            page.to_string().as_bytes(),
        ))
    }
}

struct Answer {
    status: String,
    headers: String,
    body: Vec<u8>,
    /// Bytes of the body that are sent.
    sent: usize,
}

impl Answer {
    fn of(status: &str, kind: &str, body: &[u8]) -> Self {
        Self {
            status: status.to_owned(),
            headers: format!("content-type: {kind}\r\n"),
            body: body.to_vec(),
            sent: body.len(),
        }
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
