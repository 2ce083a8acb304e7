//! The host itself: health, metrics, traces, and the description of the API.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use flowcell_tests::repository;
use flowcell_tests::server::{STUCK, Server, Setup, wait_until};
use serde_json::{Value, json};

const TOOL: &str = "from promptflow.core import tool\n@tool\ndef t(): return 1\n";

#[test]
fn health_needs_no_key() {
    let server = Server::start();
    let nobody = server.client("");
    assert_eq!(nobody.get("/healthz").is(200).json, json!({"status": "ok"}));
    assert_eq!(nobody.get("/readyz").is(200).json, json!({"status": "ok"}));
    let version = nobody.get("/version").is(200).json;
    assert!(version["flowcell"].is_string() && version["wasmtime"].is_string());
}

#[test]
fn a_host_without_a_base_image_is_not_ready() {
    let server = Server::configured("[sessions]\nbase_image = \"gone:1.0\"\n");
    let nobody = server.client("");
    nobody.get("/healthz").expect(200);
    let answer = nobody.get("/readyz");
    answer.is_problem(503, "unavailable", &["base image"]);
    assert!(!answer.header("retry-after").is_empty());
}

fn metrics(server: &Server) -> BTreeMap<String, f64> {
    let text = server.admin().get("/metrics").is(200).body;
    let text = String::from_utf8(text).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn metrics_count_what_happens() {
    let server = Server::start();
    let admin = server.admin();
    let session = admin.python("secretive", TOOL, &[]);
    session.call(json!({}));
    session.call(json!({}));
    session.call(json!({"unknown": 1}));
    let counted = metrics(&server);
    let get = |name: &str| counted.get(name).copied().unwrap_or(-1.0);
    let calls = get("flowcell_calls_total{status=\"Completed\"}")
        + get("flowcell_calls_total{status=\"Failed\"}").max(0.0);
    assert!((calls - 3.0).abs() < 0.1, "{counted:#?}");
    assert!(
        (get("flowcell_sessions{state=\"running\"}") - 1.0).abs() < 0.1,
        "{counted:#?}"
    );
    assert!((get("flowcell_computes") - 1.0).abs() < 0.1);
    assert!(get("flowcell_instances_idle") >= 1.0);
    assert!(get("flowcell_instance_memory_bytes") > 1e6);
    assert!(get("flowcell_guest_cpu_seconds") > 0.0);
    let text = admin.get("/metrics").body;
    let text = String::from_utf8_lossy(&text);
    assert!(
        !text.contains("secretive") && !text.contains(&session.id),
        "metrics name tenants"
    );
    session.stop();
    wait_until("the instances are gone", || {
        let counted = metrics(&server);
        (counted["flowcell_instances_idle"] + counted["flowcell_instance_memory_bytes"] == 0.0)
            .then_some(())
    });
    server.client("").get("/metrics").expect(401);
    server.user("ann", "owner").get("/metrics").expect(403);
    let open = Server::configured("[telemetry]\npublic_metrics = true\n");
    open.client("").get("/metrics").expect(200);
}

/// Hears what is sent to it over HTTP: paths and bodies.
fn receiver() -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, sender) = (stream.unwrap(), sender.clone());
            thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                loop {
                    let mut head = Vec::new();
                    let mut line = String::new();
                    while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                        head.push(std::mem::take(&mut line));
                    }
                    let Some(first) = head.first() else { return };
                    let length = head.iter().find_map(|line| {
                        let line = line.to_lowercase();
                        line.strip_prefix("content-length:")?.trim().parse().ok()
                    });
                    let mut body = vec![0; length.unwrap_or(0)];
                    reader.read_exact(&mut body).unwrap();
                    let _ = sender.send((first.clone(), body));
                    let _ = reader
                        .get_mut()
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                }
            });
        }
    });
    (address, received)
}

#[test]
fn traces_go_to_the_receiver() {
    let (address, received) = receiver();
    let mut server = Server::with(Setup::config(format!(
        "[telemetry]\notlp_endpoint = \"{address}\"\n"
    )));
    server
        .admin()
        .send("GET", "/v1/me", &[("x-request-id", "traced-request")], "")
        .expect(200);
    let session = server.admin().python("traced-flow", TOOL, &[]);
    session.request(&json!({ "id": "traced-call" })).expect(200);
    assert_eq!(server.stop().code, Some(0));
    let mut wanted = vec!["traced-request", "traced-call"];
    while !wanted.is_empty() {
        let (head, body) = received.recv_timeout(STUCK).unwrap();
        assert!(head.starts_with("POST /v1/traces"), "{head}");
        let body = String::from_utf8_lossy(&body).into_owned();
        wanted.retain(|text| !body.contains(text));
    }
}

#[test]
fn a_receiver_that_is_away_holds_nobody_up() {
    let mut server = Server::configured("[telemetry]\notlp_endpoint = \"http://127.0.0.1:1\"\n");
    server.admin().get("/v1/me").expect(200);
    assert_eq!(server.stop().code, Some(0));
}

/// All operations of the description, with something for each of their parameters.
fn operations(document: &Value) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for (pattern, operations) in document["paths"].as_object().unwrap() {
        let mut path = pattern.clone();
        while let (Some(start), Some(end)) = (path.find('{'), path.find('}')) {
            path.replace_range(start..=end, "x");
        }
        for method in operations.as_object().unwrap().keys() {
            all.push((method.to_uppercase(), pattern.clone(), path.clone()));
        }
    }
    all
}

#[test]
fn the_description_is_the_one_that_is_kept() {
    let server = Server::start();
    let document = server.client("").get("/openapi.json").is(200).json;
    let text = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
    let kept = repository().join("docs/openapi.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&kept, &text).unwrap();
    }
    let is_same = std::fs::read_to_string(&kept).is_ok_and(|kept| kept == text);
    assert!(
        is_same,
        "docs/openapi.json is another one; run this test with UPDATE=1, and look at what has changed"
    );
}

#[test]
fn the_description_describes() {
    let server = Server::start();
    let document = server.client("").get("/openapi.json").is(200).json;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let text = document.to_string();
    let mut names = std::collections::BTreeSet::new();
    for (pattern, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let context = format!("{method} {pattern}");
            assert!(
                !operation["summary"].as_str().unwrap_or_default().is_empty(),
                "{context} has no summary"
            );
            let id = operation["operationId"].as_str().unwrap();
            assert!(
                names.insert(id.to_owned()),
                "two operations are called {id}"
            );
            let parameters = operation["parameters"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            for part in pattern
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            {
                let is_described = parameters
                    .iter()
                    .any(|one| one["name"] == part && one["in"] == "path");
                assert!(is_described, "{context}: parameter {part}");
            }
        }
    }
    // References lead somewhere.
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "there is no schema {name}"
        );
    }
}

#[test]
fn every_operation_that_is_described_is_there() {
    let server = Server::start();
    let admin = server.admin();
    let document = admin.get("/openapi.json").is(200).json;
    let page = String::from_utf8(admin.get("/docs").is(200).body).unwrap();
    let all = operations(&document);
    assert!(all.len() >= 48, "{}", all.len());
    for (method, pattern, path) in all {
        if pattern.ends_with("/events") {
            continue;
        }
        let answer = admin.request(&method, &path, &Value::Null);
        let is_there = answer.status != 405 && !answer.detail().contains("no path");
        assert!(is_there, "{method} {pattern}: {answer:#?}");
        assert!(
            page.contains(&format!("<code>{method} {pattern}</code>")),
            "/docs does not show {method} {pattern}"
        );
    }
    assert!(
        !page.contains("src=") && !page.contains("@import"),
        "the page needs something from elsewhere"
    );
}
