//! The interfaces of promptflow's own services under each session, beside recorded answers of the real ones.
//!
//! `tests/contracts/record.py` recorded the answers of promptflow 1.18.5. Here the same requests go to flowcell. What
//! differs is in [`DIFFERENCES`] and in `docs/differences.md`, or is evened out by [`normal`].

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use flowcell_tests::server::make_home;
use flowcell_tests::{binary, lenient_json, repository};
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
        make_home(folder.path());
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

    /// How many calls are under way.
    fn calls(&self, session: &str) -> usize {
        let (_, answer) = self.json("GET", &format!("{session}/calls"), &json!({}));
        answer["items"].as_array().map_or(0, Vec::len)
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

/// Of a request to the executor interface: status and answer.
fn executor(server: &Server, session: &str, path: &str, body: &Value) -> (u16, Value) {
    server.json("POST", &format!("{session}/executor{path}"), body)
}

fn base(more: &Value) -> Value {
    let mut body = json!({ "working_dir": "/w", "flow_file": "flow.dag.yaml", "output_dir": "/o" });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[test]
fn answers_are_compact_and_keep_their_text() {
    let server = Server::start();
    let session = server.session("values", &flow_folder("values"));
    let body = base(&json!({ "run_id": "r", "inputs": { "number": -1 } })).to_string();
    let path = format!("{session}/executor/execution/flow");
    let answer = server.ask(&server.key, "POST", &path, &json!({}), Some(body));
    let text = answer.text().unwrap();
    let start = r#"{"output":{"zebra":{"nan":NaN,"big":12345678901234567890123,"é":["ü",null,true,{"b":1,"a":2.0}],"#;
    assert!(text.starts_with(start), "{text}");
}

#[test]
fn streams_are_events() {
    let server = Server::start();
    let session = server.session("stream", &flow_folder("stream"));
    let headers = json!({ "accept": "text/event-stream" });
    let path = format!("{session}/serve/score");
    let body = Some(r#"{"text": "a b c"}"#.to_owned());
    let answer = server.ask(&server.key, "POST", &path, &headers, body);
    assert_eq!(
        answer.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let expected = "data: {\"length\": 5}\n\ndata: {\"answer\": \"a \"}\n\ndata: {\"answer\": \"b \"}\n\ndata: {\"answer\": \"c \"}\n\n";
    assert_eq!(answer.text().unwrap(), expected);
}

#[test]
fn wrong_bodies() {
    let server = Server::start();
    let session = server.session("one", &flow_folder("one"));
    let post = |path: &str, body: &Value| executor(&server, &session, path, body);
    let kinds = |(status, answer): (u16, Value)| {
        assert_eq!(status, 422, "{answer}");
        let details = answer["detail"].as_array().unwrap().clone();
        details
            .iter()
            .map(|detail| detail["type"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        kinds(post("/execution/flow", &json!([1]))),
        ["model_attributes_type"]
    );
    assert_eq!(
        kinds(post("/execution/flow", &json!(null))),
        ["model_attributes_type"]
    );
    assert_eq!(
        kinds(post(
            "/execution/node",
            &base(&json!({ "flow_inputs": null }))
        )),
        ["missing", "missing", "dict_type"]
    );
    for (number, kind) in [
        (json!(1.5), "int_from_float"),
        (json!(-1), "greater_than_equal"),
        (json!([]), "int_type"),
        (json!("99999999999999999999999"), "int_parsing"),
    ] {
        let body = json!({ "run_id": "r", "line_number": number, "inputs": {} });
        assert_eq!(kinds(post("/execution", &body)), [kind]);
    }
    let long = json!({ "run_id": "r".repeat(300) });
    assert_eq!(kinds(post("/execution/cancel", &long)), ["string_too_long"]);
    let tools = json!({ "working_dir": "/w", "tools": { "a.py": { "tool_type": 1 }, "b.py": 2 } });
    assert_eq!(
        kinds(post("/tool/meta", &tools)),
        ["string_type", "dict_type"]
    );
    let many: serde_json::Map<String, Value> = (0..300)
        .map(|number| (format!("{number}.py"), json!({})))
        .collect();
    let tools = json!({ "working_dir": "/w", "tools": many });
    assert_eq!(kinds(post("/tool/meta", &tools)), ["too_long"]);
    // Paths lead nowhere, whatever they say.
    let tools =
        json!({ "working_dir": "/etc", "tools": { "/etc/passwd": { "tool_type": "prompt" } } });
    let (status, answer) = post("/tool/meta", &tools);
    assert_eq!(status, 200);
    assert!(
        answer["errors"]["/etc/passwd"]["error"].is_object(),
        "{answer}"
    );
    let odd = json!({ "run_id": "r", "environment_variables": { "A": 1 } });
    let (status, answer) = post("/execution/flow", &base(&odd));
    assert_eq!(
        (status, &answer["error"]["innerError"]["code"]),
        (500, &json!("TypeError"))
    );
    // What is wrong is repeated for each field, unless it is large.
    let large = json!({ "more": "x".repeat(1 << 20) });
    let (status, answer) = post("/execution/flow", &large);
    assert_eq!((status, &answer["detail"][0]["input"]), (422, &Value::Null));
    // Flows that cannot be opened are promptflow's errors in both.
    let broken = flow_folder("fails");
    let path = "/flows/one/files/shout.py";
    let code = fs::read_to_string(broken.join("two.py")).unwrap();
    let good = fs::read_to_string(flow_folder("one").join("shout.py")).unwrap();
    let put = |content: String| {
        let answer = server.ask(&server.key, "PUT", path, &json!({}), Some(content));
        assert!(answer.status().is_success());
    };
    put(code);
    let run = base(&json!({ "run_id": "r", "inputs": { "text": "x" } }));
    for path in ["/execution/flow", "/initialize"] {
        let (status, answer) = post(path, &run);
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &json!("UserError")),
            "{answer}"
        );
    }
    let (status, answer) = server.json(
        "POST",
        &format!("{session}/serve/score"),
        &json!({ "text": "x" }),
    );
    assert_eq!(
        (status, &answer["error"]["code"]),
        (400, &json!("UserError")),
        "{answer}"
    );
    put(good);
    // A body that is larger than the host takes is refused by its head: sending it could meet a closed connection.
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    write!(
        stream,
        "POST /v1/workspaces/default{session}/executor/execution/flow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\nConnection: close\r\n\r\n",
        server.key
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("/problems/too-large"), "{answer}");
    let (status, _) = post(
        "/execution/flow",
        &base(&json!({ "run_id": "r", "inputs": { "text": "x" } })),
    );
    assert_eq!(status, 200);
}

#[test]
fn a_batch_at_a_time() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let flow = "inputs: {wait: {type: double}}\noutputs: {o: {type: string, reference: '${n.output}'}}\nnodes:\n- {name: n, type: python, source: {type: code, path: n.py}, inputs: {wait: '${inputs.wait}'}}\n";
    let code = "import os\nimport time\nfrom promptflow.core import tool\n\n\n@tool\ndef n(wait: float):\n    time.sleep(wait)\n    return os.environ.get('WHO')\n";
    fs::write(folder.path().join("flow.dag.yaml"), flow).unwrap();
    fs::write(folder.path().join("n.py"), code).unwrap();
    let session = server.session("slow", folder.path());
    let post = |path: &str, body: &Value| executor(&server, &session, path, body);
    let class = |answer: &Value| {
        answer["error"]["innerError"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let line = |number: u64, wait: f64| json!({ "run_id": "b", "line_number": number, "inputs": { "wait": wait } });
    assert_eq!(
        class(&post("/execution", &line(0, 0.0)).1),
        "UninitializedError"
    );
    let begin =
        |who: &str| base(&json!({ "worker_count": 2, "environment_variables": { "WHO": who } }));
    assert_eq!(post("/initialize", &begin("a")).0, 200);
    // Nothing is under way, so another one may begin.
    assert_eq!(post("/initialize", &begin("b")).0, 200);
    assert_eq!(post("/execution", &line(0, 0.0)).1["output"]["o"], "b");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| post("/execution", &line(1, 100.0)));
        while server.calls(&session) == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let (status, answer) = post("/initialize", &begin("c"));
        assert_eq!((status, class(&answer).as_str()), (400, "BatchInProgress"));
        assert_eq!(
            post("/finalize", &json!({})),
            (200, json!({ "status": "finalized" }))
        );
        let (status, answer) = slow.join().unwrap();
        assert_eq!(
            (status, class(&answer).as_str()),
            (400, "ExecutionCanceledError")
        );
    });
    assert_eq!(
        class(&post("/execution", &line(2, 0.0)).1),
        "UninitializedError"
    );
    assert_eq!(
        class(&post("/finalize", &json!({})).1),
        "UninitializedError"
    );
    // A line has the batch's time.
    let short = base(&json!({ "line_timeout_sec": 1 }));
    assert_eq!(post("/initialize", &short).0, 200);
    let (status, answer) = post("/execution", &line(3, 100.0));
    let error = &answer["run_info"]["error"];
    assert_eq!(
        (status, &error["message"]),
        (
            200,
            &json!("Line 3 execution timeout for exceeding 1 seconds")
        )
    );
    // The next life of the session does not know it.
    let (status, _) = server.json("POST", &format!("{session}/reset"), &json!({}));
    assert_eq!(status, 200);
    assert_eq!(
        class(&post("/execution", &line(4, 0.0)).1),
        "UninitializedError"
    );
    // Runs are canceled by their identifier.
    std::thread::scope(|scope| {
        let run = base(&json!({ "run_id": "long", "inputs": { "wait": 100 } }));
        let slow = scope.spawn(move || post("/execution/flow", &run));
        while server.calls(&session) == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let run = json!({ "run_id": "long" });
        assert_eq!(
            post("/execution/cancel", &run),
            (200, json!({ "status": "canceled" }))
        );
        let (status, answer) = slow.join().unwrap();
        assert_eq!(
            (status, class(&answer).as_str()),
            (400, "ExecutionCanceledError")
        );
        assert_eq!(
            answer["error"]["message"],
            "The execution for run long is canceled."
        );
    });
}

#[test]
fn of_others_and_without_a_key() {
    let server = Server::start();
    let session = server.session("one", &flow_folder("one"));
    let users = format!("{}/v1/users", server.url);
    let send = |address: &str, body: Value| {
        let request = server.client.post(address).bearer_auth(&server.key);
        let answer = request.json(&body).send().unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().unwrap());
        answer.json::<Value>().unwrap()
    };
    send(&users, json!({ "name": "eve" }));
    let key = send(&format!("{users}/eve/keys"), json!({ "description": "k" }));
    let key = key["key"].as_str().unwrap();
    for (role, expected) in [(None, 404), (Some("data-scientist"), 403)] {
        if let Some(role) = role {
            let path = "/roles/eve";
            let (status, answer) = server.json("PUT", path, &json!({ "role": role }));
            assert!(status < 300, "{answer}");
        }
        for path in [
            "/executor/health",
            "/serve/health",
            "/serve/swagger.json",
            "/executor/tool/package_tools",
        ] {
            let answer = server.ask(key, "GET", &format!("{session}{path}"), &json!({}), None);
            assert_eq!(answer.status().as_u16(), expected, "{path}");
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
        }
        for path in [
            "/executor/finalize",
            "/executor/execution/flow",
            "/executor/execution/cancel",
            "/serve/score",
        ] {
            let answer = server.ask(
                key,
                "POST",
                &format!("{session}{path}"),
                &json!({}),
                Some("{}".to_owned()),
            );
            assert_eq!(answer.status().as_u16(), expected, "{path}");
        }
    }
    let answer = server.ask(
        "wrong",
        "GET",
        &format!("{session}/serve/health"),
        &json!({}),
        None,
    );
    assert_eq!(answer.status().as_u16(), 401);
}

#[test]
fn differences_are_documented() {
    let documented = fs::read_to_string(repository().join("docs/differences.md")).unwrap();
    for (.., words) in DIFFERENCES {
        assert!(documented.contains(words), "{words}");
    }
}
