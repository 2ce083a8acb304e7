//! The interfaces of promptflow's own services under each session, beside recorded answers of the real ones.
//!
//! `tests/contracts/record.py` recorded the answers of promptflow 1.18.5. Here the same requests go to flowcell. What
//! differs is in [`DIFFERENCES`] and in `docs/differences.md`, or is evened out by [`normal`].

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use flowcell_tests::{binary, home, lenient_json, repository};
use regex::Regex;
use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Answers that are not promptflow's: flow, interface, number of the request, and a line of `docs/differences.md`.
const DIFFERENCES: &[(&str, &str, usize, &str)] = &[
    (
        "bench",
        "serve",
        3,
        "paths that the serving interface does not have",
    ),
    (
        "bench",
        "serve",
        4,
        "paths that the serving interface does not have",
    ),
    (
        "bench",
        "executor",
        1,
        "features that the executor interface lists",
    ),
    (
        "bench",
        "executor",
        19,
        "paths that the executor interface does not have",
    ),
    (
        "bench",
        "executor",
        20,
        "paths that the executor interface does not have",
    ),
    (
        "values",
        "executor",
        0,
        "environment variables of the flow, in the executor interface",
    ),
    (
        "fails",
        "executor",
        1,
        "`output` of a line whose outputs are not JSON",
    ),
    ("stream", "serve", 1, "`Accept: text/event-stream`"),
    ("stream", "serve", 2, "`Accept: text/event-stream`"),
];

struct Server {
    process: Child,
    url: String,
    key: String,
    client: Client,
    _home: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for part in ["blobs", "bundles", "cache"] {
            symlink(
                home().join(part).canonicalize().unwrap(),
                folder.path().join(part),
            )
            .unwrap();
        }
        let mut process = Command::new(binary())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("FLOWCELL_HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut key = None;
        let url = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some(at) = line.find("fc_") {
                key = line[at..].split_whitespace().next().map(str::to_owned);
            }
            if let Some((_, url)) = line.split_once("flowcell serves ") {
                break url.trim().to_owned();
            }
        };
        let timeout = Duration::from_secs(300);
        Self {
            process,
            url,
            key: key.unwrap(),
            client: Client::builder().timeout(timeout).build().unwrap(),
            _home: folder,
        }
    }

    fn ask(
        &self,
        key: &str,
        method: &str,
        path: &str,
        headers: &Value,
        body: Option<String>,
    ) -> Response {
        let address = format!("{}/v1/workspaces/default{path}", self.url);
        let mut request = self
            .client
            .request(method.parse().unwrap(), address)
            .bearer_auth(key);
        for (name, value) in headers.as_object().into_iter().flatten() {
            request = request.header(name, value.as_str().unwrap());
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        request.send().unwrap()
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let headers = json!({ "content-type": "application/json" });
        let answer = self.ask(&self.key, method, path, &headers, Some(body.to_string()));
        let status = answer.status().as_u16();
        let text = answer.text().unwrap();
        (status, lenient_json(&text).unwrap_or(Value::String(text)))
    }

    /// Uploads a flow and starts a session; the session's path.
    fn session(&self, flow: &str, folder: &Path) -> String {
        let (status, answer) = self.json("POST", "/flows", &json!({ "name": flow }));
        assert_eq!(status, 201, "{answer}");
        for file in fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            if !file.file_type().unwrap().is_file() {
                continue;
            }
            let name = file.file_name().into_string().unwrap();
            let content = fs::read_to_string(file.path()).unwrap();
            let path = format!("/flows/{flow}/files/{name}");
            let answer = self.ask(&self.key, "PUT", &path, &json!({}), Some(content));
            assert!(answer.status().is_success(), "{}", answer.text().unwrap());
        }
        let (status, answer) = self.json("POST", "/sessions", &json!({ "flow": flow }));
        assert_eq!(status, 201, "{answer}");
        format!("/sessions/{}", answer["id"].as_str().unwrap())
    }
}

fn flow_folder(flow: &str) -> std::path::PathBuf {
    match flow {
        "bench" => repository().join("benches/flow"),
        "agg" => repository().join("tests/conformance/agg"),
        own => repository().join("tests/contracts/flows").join(own),
    }
}

/// Evens out what cannot be the same, and what is known to differ everywhere.
fn normal(value: Value) -> Value {
    static MOVING: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        let pattern = |text: &str| Regex::new(text).unwrap();
        [
            (
                pattern("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
                "UUID",
            ),
            (pattern(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+\d{4}\] "), ""),
            (pattern("at 0x[0-9a-f]+"), "at 0x…"),
            // Wherever the flow is on a host, tools see it here.
            (pattern(r"\{flow\}"), "/flow"),
        ]
    });
    match value {
        Value::String(mut text) => {
            for (pattern, stands_for) in MOVING.iter() {
                text = pattern.replace_all(&text, *stands_for).into_owned();
            }
            text.into()
        }
        Value::Array(items) => items.into_iter().map(normal).collect(),
        Value::Object(entries) => {
            let mut entries: serde_json::Map<String, Value> = entries
                .into_iter()
                .map(|(key, value)| (key, normal(value)))
                .collect();
            for (key, value) in &mut entries {
                let moves = [
                    "start_time",
                    "end_time",
                    "time",
                    "duration",
                    "componentName",
                    "stackTrace",
                    "innerException",
                    "traceback",
                ];
                if moves.contains(&key.as_str()) && !value.is_null() || key == "innerException" {
                    *value = "…".into();
                }
            }
            even_error(&mut entries);
            entries.into()
        }
        other => other,
    }
}

/// "error records" in `docs/differences.md`.
fn even_error(entries: &mut serde_json::Map<String, Value>) {
    if !entries.contains_key("messageFormat") {
        return;
    }
    if entries.get("messageFormat") != Some(&json!("Execution failure in '{node_name}'.")) {
        entries.remove("messageFormat");
        entries.remove("messageParameters");
    }
    for info in entries
        .get_mut("additionalInfo")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if info["type"] == "UserCodeStackTrace" {
            info["info"] = "…".into();
        }
    }
}

fn compared(flow: &str) {
    let recorded = repository().join(format!("tests/contracts/recorded/{flow}.json"));
    let recorded: Value = serde_json::from_str(&fs::read_to_string(recorded).unwrap()).unwrap();
    let server = Server::start();
    let session = server.session(flow, &flow_folder(flow));
    let mut wrong = Vec::new();
    for interface in ["serve", "executor"] {
        for (number, exchange) in recorded[interface].as_array().unwrap().iter().enumerate() {
            let (request, expected) = (&exchange["request"], &exchange["answer"]);
            let [method, path] = ["method", "path"].map(|key| request[key].as_str().unwrap());
            // A path that does not exist: it must not matter.
            let body = request["body"].as_str();
            let body = body.map(|body| body.replace("{flow}", "/nowhere/at/all"));
            let path = format!("{session}/{interface}{path}");
            let answer = server.ask(
                &server.key,
                method,
                &path,
                &request["headers"],
                body.clone(),
            );
            let status = answer.status().as_u16();
            let kind = answer.headers()["content-type"]
                .to_str()
                .unwrap()
                .to_owned();
            let text = answer.text().unwrap();
            let expected_text = expected["body"].as_str().unwrap();
            let is_same = u64::from(status) == expected["status"]
                && kind == expected["headers"]["content-type"]
                && if interface == "serve" {
                    text == expected_text
                } else {
                    values(&text) == values(expected_text)
                };
            let known = DIFFERENCES
                .iter()
                .find(|(of, on, at, _)| (*of, *on, *at) == (flow, interface, number));
            if is_same == known.is_some() {
                wrong.push(format!(
                    "{interface} {number}: {method} {path} {}\n  promptflow {}: {}\n  flowcell   {status}: {}\n  known: {known:?}",
                    body.unwrap_or_default(),
                    expected["status"],
                    values(expected_text),
                    values(&text),
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn values(text: &str) -> Value {
    lenient_json(text).map_or_else(|_| Value::from(text), normal)
}

#[test]
fn bench_flow() {
    compared("bench");
}

#[test]
fn aggregation() {
    compared("agg");
}

#[test]
fn one_input() {
    compared("one");
}

#[test]
fn all_kinds_of_values() {
    compared("values");
}

#[test]
fn failures_and_tool_meta() {
    compared("fails");
}

#[test]
fn streams() {
    compared("stream");
}

#[test]
fn differences_are_documented() {
    let documented = fs::read_to_string(repository().join("docs/differences.md")).unwrap();
    for (.., words) in DIFFERENCES {
        assert!(documented.contains(words), "{words}");
    }
}
