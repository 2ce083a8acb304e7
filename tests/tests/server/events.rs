//! Event streams: order, coming back, and the end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use flowcell_tests::server::{Server, workspace};
use serde_json::{Value, json};

const SPEAK: &str = "import sys, time\nfrom promptflow.core import tool\n@tool\ndef t(what: str, wait: float):\n    for line in what.split('|'):\n        print(line, flush=True)\n    time.sleep(wait)\n    return what\n";
const INPUTS: [(&str, &str); 2] = [("what", "string"), ("wait", "double")];

#[test]
fn events_come_in_order() {
    let server = Server::start();
    let session = server.admin().python("speak", SPEAK, &INPUTS);
    let mut events = session.events();
    session
        .request(&json!({"inputs": {"what": "one|two", "wait": 0}, "id": "c1"}))
        .expect(200);
    session.stop();
    let all = events.rest();
    let kinds: Vec<_> = all
        .iter()
        .map(|event| event.kind().to_owned())
        .filter(|kind| kind != "log")
        .collect();
    assert_eq!(
        kinds,
        [
            "state",
            "call_started",
            "node_started",
            "node_ended",
            "call_ended",
            "state"
        ],
        "{all:#?}"
    );
    let text: String = all
        .iter()
        .filter_map(|event| event.json["text"].as_str())
        .collect();
    assert_eq!(text, "one\ntwo\n");
    for event in &all {
        if event.kind() != "state" {
            assert_eq!(event.json["call"], "c1");
        }
    }
    let ended = all
        .iter()
        .find(|event| event.kind() == "call_ended")
        .unwrap();
    assert_eq!(ended.json["status"], "Completed");
    assert_eq!(all.last().unwrap().json["state"], "stopping");
    let mut ids: Vec<_> = all.iter().map(|event| event.id.clone()).collect();
    ids.dedup();
    assert_eq!(ids.len(), all.len());
    session
        .client
        .get(&session.path("/events"))
        .is_problem(409, "conflict", &["stopped"]);
}

#[test]
fn what_is_printed_comes_while_the_call_goes_on() {
    let server = Server::start();
    let session = server.admin().python("speak", SPEAK, &INPUTS);
    let mut events = session.events();
    let call = session.begin("c", json!({"what": "hello", "wait": 1000}));
    let log = events.wait_for("log");
    assert_eq!(log.json["text"].as_str().unwrap().trim(), "hello");
    assert_eq!(log.json["stream"], "stdout");
    assert_eq!(log.json["node"], "tool");
    assert!(!call.is_finished());
    session.client.delete(&session.path("/calls/c")).expect(204);
    assert_eq!(events.wait_for("call_ended").json["status"], "Canceled");
    call.join().unwrap().expect(409);
}

#[test]
fn whoever_comes_back_gets_what_was_missed() {
    let mut server = Server::start();
    let session = server.admin().python("speak", SPEAK, &INPUTS);
    let call = |what: &str| session.out(json!({"what": what, "wait": 0}));
    call("a");
    let mut events = session.events();
    let last = events.wait_for("call_ended").id;
    drop(events);
    call("b");
    let mut events = session.events_after(&last);
    let first = events.next_event().unwrap();
    assert_eq!(first.kind(), "call_started");
    assert!(
        events.wait_for("log").json["text"]
            .as_str()
            .unwrap()
            .starts_with('b')
    );
    // More than the server keeps.
    let last = events.wait_for("call_ended").id;
    for _ in 0..150 {
        call("c");
    }
    let missed = session.events_after(&last).next_event().unwrap();
    assert_eq!(missed.kind(), "missed");
    assert!(missed.json["events"].as_u64().unwrap() > 0);
    // Another life, another log.
    server.kill();
    server.restart();
    let mut events = session.events_after(&missed.id);
    assert_eq!(
        events.next_event().unwrap().json,
        json!({"type": "missed", "events": 0})
    );
    assert_eq!(events.next_event().unwrap().kind(), "state");
    let path = session.path("/events");
    for nonsense in ["x", "1-", "-1", "é"] {
        let headers = [("last-event-id", nonsense)];
        session.client.send("GET", &path, &headers, "").is_problem(
            400,
            "bad-request",
            &["Last-Event-ID"],
        );
    }
    session
        .client
        .get(&workspace("/sessions/gone/events"))
        .expect(404);
}

#[test]
fn a_stream_ends_with_the_life_of_its_session() {
    let server = Server::start();
    let session = server.admin().python("speak", SPEAK, &INPUTS);
    let mut events = session.events();
    session.client.post(&session.path("/reset"), Value::Null);
    events.rest();
    session.wait_for("running");
    let mut next = session.events();
    session.out(json!({"what": "x", "wait": 0}));
    next.wait_for("call_ended");
}

#[test]
fn a_slow_reader_holds_nobody_up() {
    let server = Server::start();
    let session = server.admin().python("speak", SPEAK, &INPUTS);
    let mut slow = TcpStream::connect(server.address()).unwrap();
    write!(
        slow,
        "GET {} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\n\r\n",
        session.path("/events"),
        session.client.key()
    )
    .unwrap();
    let mut head = [0; 20];
    slow.read_exact(&mut head).unwrap();
    assert!(
        head.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    let mut fast = session.events();
    // Far more than all buffers between here and there hold.
    let line = "x".repeat(15_000);
    for _ in 0..100 {
        let what = [line.as_str(); 6].join("|");
        let answer = session.call(json!({"what": what, "wait": 0}));
        assert_eq!(answer["status"], "Completed");
        fast.wait_for("call_ended");
    }
    // It reads on, and hears what it has missed.
    let mut text = String::new();
    let mut chunk = vec![0; 1 << 16];
    while !text.contains("\"missed\"") {
        let count = slow.read(&mut chunk).unwrap();
        assert!(count > 0, "the stream ended");
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
}

#[test]
fn many_watch_one_session() {
    let server = Server::start();
    let session = server.admin().python("speak", SPEAK, &INPUTS);
    let mut watchers: Vec<_> = (0..50).map(|_| session.events()).collect();
    session.out(json!({"what": "x", "wait": 0}));
    for watcher in &mut watchers {
        assert!(
            watcher.wait_for("log").json["text"]
                .as_str()
                .unwrap()
                .starts_with('x')
        );
        watcher.wait_for("call_ended");
    }
}
