//! A host that gives answers which were made before, one after the other, and remembers what it was asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::harness::Client;

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    headers: Vec<String>,
}

impl Request {
    /// A header's value; nothing if there is none.
    pub(crate) fn header(&self, name: &str) -> String {
        let values = self
            .headers
            .iter()
            .filter_map(|header| header.split_once(": "));
        let found = values
            .into_iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    }
}

pub(crate) struct Canned {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Canned {
    /// Answers each connection with the next of these answers; one without bytes is a connection that breaks.
    pub(crate) fn start(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::clone(&requests);
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                let mut head = Vec::new();
                loop {
                    let mut line = String::new();
                    if lines.read_line(&mut line).unwrap() == 0 || line.trim().is_empty() {
                        break;
                    }
                    head.push(line.trim().to_owned());
                }
                let request = Request {
                    line: head.first().cloned().unwrap_or_default(),
                    headers: head,
                };
                let length = request.header("content-length").parse().unwrap_or(0);
                lines.take(length).read_to_end(&mut Vec::new()).unwrap();
                asked.lock().unwrap().push(request);
                stream.write_all(&answer).unwrap();
            }
        });
        Self { url, requests }
    }

    pub(crate) fn client(&self) -> Client {
        Client::of(&self.url).with("FLOWCELL_KEY", "fc_a_b")
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// An answer with a body of JSON.
pub(crate) fn json(status: u16, headers: &[&str], body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let mut text = format!("HTTP/1.1 {status} -\r\nconnection: close\r\n");
    for header in headers {
        text.push_str(&format!("{header}\r\n"));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}

/// A stream of events, which ends as it should, or breaks.
pub(crate) fn events(events: &[(&str, Value)], ends: bool) -> Vec<u8> {
    let mut text =
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_owned();
    for (id, data) in events {
        let event = format!(": alive\n\nid: {id}\ndata: {data}\n\n");
        text.push_str(&format!("{:x}\r\n{event}\r\n", event.len()));
    }
    if ends {
        text.push_str("0\r\n\r\n");
    }
    text.into_bytes()
}

/// A flow with a session.
pub(crate) fn flow() -> Value {
    let time = "2026-01-02T03:04:05Z";
    serde_json::json!({
        "name": "f", "created_by": "u", "created": time, "modified": time, "revision": 1, "files": 1, "bytes": 1,
        "session": "s-1"
    })
}

/// A session in a state.
pub(crate) fn session(state: &str) -> Value {
    let time = "2026-01-02T03:04:05Z";
    serde_json::json!({
        "id": "s-1", "flow": "f", "user": "u", "state": state, "reason": "as it was told", "since": time,
        "created": time, "revision": 1, "generation": 1,
        "compute": { "name": "c", "kind": "serverless", "instance_type": "small", "choice": "it was named" },
        "idle_seconds": 3600, "identity": { "type": "user_identity" },
        "base_image": { "reference": "a:1", "digest": "sha256:0" }, "instances": { "busy": 0, "idle": 0 },
        "memory_bytes": 0, "cpu_seconds": 0.5, "calls": 0, "active_calls": 0, "last_use": time, "evict_at": null
    })
}
