//! Sessions hibernate, go on, and begin as copies of others.

use std::fs;
use std::path::{Path, PathBuf};

use flowcell_tests::FlowFolder;
use flowcell_tests::server::{Client, Server, Session, wait_until, workspace};
use serde_json::{Value, json};

/// Counts in memory and on the disk, and draws a number.
const COUNT: &str = "import os, random, time\nfrom promptflow.core import tool\ncount = 0\ndef more(path):\n    with open(path, 'a') as file: file.write('x')\n    return os.path.getsize(path)\n@tool\ndef t(wait: float):\n    global count\n    count += 1\n    time.sleep(wait)\n    return [count, more('count'), more('/tmp/count'), random.random()]\n";

/// The same with a file that is open as long as the module is loaded.
const OPEN: &str = "from promptflow.core import tool\nfile = open('journal.txt', 'w')\ncount = 0\n@tool\ndef t():\n    global count\n    count += 1\n    return count\n";

fn counting(client: &Client, flow: &str) -> Session {
    client.upload(flow, &FlowFolder::python(COUNT, &[("wait", "double")]));
    client.session(flow)
}

fn counted(session: &Session) -> Value {
    let mut out = session.out(json!({"wait": 0}));
    out.as_array_mut().unwrap().truncate(3);
    out
}

#[track_caller]
fn hibernate(session: &Session) -> Value {
    let path = session.path("/hibernate");
    let shown = session.client.post(&path, Value::Null).is(200).json;
    assert_eq!(shown["state"], "hibernated", "{shown:#}");
    shown
}

#[track_caller]
fn fork(session: &Session, flow: &str) -> Session {
    let path = session.path("/fork");
    let answer = session.client.post(&path, json!({ "flow": flow }));
    assert!(matches!(answer.status, 201 | 202), "{answer:#?}");
    let forked = Session {
        client: session.client.clone(),
        id: answer.text("id").to_owned(),
    };
    forked.wait_for("running");
    forked
}

/// The files below a folder whose name ends so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                pending.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

/// What is stored of a session's present life.
fn stored(server: &Server, session: &Session) -> Vec<PathBuf> {
    let generation = &session.show()["generation"];
    let name = format!("default+{}+{generation}", session.id);
    files(&server.home().join("server/sessions").join(name), ".asleep")
}

fn is_private_gone(shown: &Value) -> bool {
    shown["instances"] == json!({"busy": 0, "idle": 0}) && shown["memory_bytes"] == 0
}

#[test]
fn a_session_that_hibernates_goes_on_after_a_crash() {
    let mut server = Server::start();
    let session = counting(&server.admin(), "count");
    assert_eq!(counted(&session), json!([1, 1, 1]));
    let shown = hibernate(&session);
    assert_eq!(shown["reason"], "hibernated by admin");
    assert_eq!(shown["stored"]["instances"], 1);
    assert!(shown["stored"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(shown["stored"]["since"], shown["since"]);
    assert_eq!(shown["kept"], json!([]));
    let gone = session.wait_until("its memory is free", is_private_gone);
    assert_eq!(gone["usage"]["hibernations"], 1, "{gone:#}");
    // Nothing more happens to one that hibernates already.
    assert_eq!(hibernate(&session)["stored"], shown["stored"]);
    server.kill();
    server.restart();
    let shown = session.show();
    assert_eq!(shown["state"], "hibernated");
    assert_eq!(counted(&session), json!([2, 2, 2]));
    let shown = session.wait_for("running");
    assert_eq!(shown["reason"], "resumed by a call");
    assert_eq!(shown["stored"], Value::Null);
    let shown = session.wait_until("it says what it did", |shown| {
        shown["usage"]["resumes"] == 1
    });
    assert!(shown["usage"]["starts"].as_u64().unwrap() >= 1, "{shown:#}");
    // What it went on from outlasts a crash as well.
    server.kill();
    server.restart();
    assert_eq!(counted(&session), json!([2, 3, 3]));
    let lines: Vec<String> = session
        .history()
        .iter()
        .map(|line| line["state"].as_str().unwrap().to_owned())
        .collect();
    // Only what a user asked for is told.
    assert_eq!(lines, ["hibernated", "running", "starting"]);
}

#[test]
fn a_session_that_nobody_uses_hibernates() {
    let mut server = Server::configured("[sessions]\ninstances_idle_seconds = 1\n");
    let session = counting(&server.admin(), "count");
    let revision = session.show()["revision"].clone();
    let mut events = session.events();
    assert_eq!(counted(&session), json!([1, 1, 1]));
    events.wait_for("scaled_to_zero");
    let shown = session.wait_for("hibernated");
    assert_eq!(shown["stored"]["instances"], 1);
    assert_eq!(shown["revision"], revision);
    assert!(shown["evict_at"].is_string());
    assert_eq!(counted(&session), json!([2, 2, 2]));
    session.wait_for("hibernated");
    server.kill();
    server.restart();
    assert_eq!(counted(&session), json!([3, 3, 3]));
    session.wait_for("hibernated");
    let history = session.history();
    assert_eq!(history.len(), 2, "{history:#?}");
    session.stop();
    assert_eq!(stored(&server, &session), Vec::<PathBuf>::new());
    assert_eq!(session.show()["stored"], Value::Null);
}

#[test]
fn a_server_that_is_stopped_keeps_what_sessions_hold() {
    let mut server = Server::start();
    let admin = server.admin();
    let sessions = ["a", "b"].map(|flow| counting(&admin, flow));
    for session in &sessions {
        assert_eq!(counted(session), json!([1, 1, 1]));
    }
    let stopped = server.stop();
    assert_eq!(stopped.code, Some(0));
    server.restart();
    for session in &sessions {
        assert_eq!(session.show()["state"], "hibernated", "{}", stopped.stderr);
        assert_eq!(counted(session), json!([2, 2, 2]));
    }
}

#[test]
fn sessions_in_the_hosts_own_process_hibernate_too() {
    let mut server = Server::configured("[host]\nworkers = 0\n");
    let session = counting(&server.admin(), "count");
    counted(&session);
    hibernate(&session);
    let forked = fork(&session, "copy");
    assert_eq!(counted(&forked), json!([2, 2, 2]));
    assert_eq!(server.stop().code, Some(0));
    server.restart();
    assert_eq!(counted(&session), json!([2, 2, 2]));
    assert_eq!(counted(&forked), json!([3, 3, 3]));
}

#[test]
fn resuming_makes_a_session_ready() {
    let server = Server::start();
    let session = counting(&server.admin(), "count");
    counted(&session);
    hibernate(&session);
    let path = session.path("/resume");
    let shown = session.client.post(&path, Value::Null).is(200).json;
    assert_eq!(shown["state"], "running");
    assert_eq!(shown["reason"], "resumed by admin");
    let shown = session.wait_until("its instance waits for a call", |shown| {
        shown["instances"] == json!({"busy": 0, "idle": 1})
    });
    assert_eq!(shown["usage"]["resumes"], 1);
    assert!(
        shown["memory"]["private_bytes"].as_u64().unwrap() > 0,
        "{shown:#}"
    );
    assert!(shown["memory"]["image"]["state"].is_string());
    session.client.post(&path, Value::Null).expect(200);
    assert_eq!(counted(&session), json!([2, 2, 2]));
    assert_eq!(session.show()["usage"]["resumes"], 1);
    hibernate(&session);
    let fresh = counting(&server.admin(), "fresh");
    let path = fresh.path("/hibernate");
    let shown = fresh.client.post(&path, Value::Null).is(200).json;
    assert_eq!(shown["state"], "running", "nothing is in memory yet");
    fresh.stop();
    for what in ["hibernate", "resume"] {
        let path = fresh.path(&format!("/{what}"));
        let refused = fresh.client.post(&path, Value::Null);
        refused.is_problem(409, "conflict", &["stopped"]);
    }
}

#[test]
fn a_fork_goes_its_own_way() {
    let mut server = Server::start();
    let admin = server.admin();
    let session = counting(&admin, "count");
    counted(&session);
    counted(&session);
    let path = session.path("/fork");
    let key = [("idempotency-key", "once")];
    let body = json!({"flow": "copy", "idle_seconds": 100});
    let answer = admin.request_with("POST", &path, &key, &body);
    assert!(matches!(answer.status, 201 | 202), "{answer:#?}");
    let again = admin.request_with("POST", &path, &key, &body);
    assert_eq!(again.json["id"], answer.json["id"]);
    let forked = Session {
        client: admin.clone(),
        id: answer.text("id").to_owned(),
    };
    let shown = forked.wait_for("running");
    let source = session.show();
    assert_eq!(source["state"], "hibernated");
    assert_eq!(shown["flow"], "copy");
    assert_eq!(shown["idle_seconds"], 100);
    let from = json!({"session": session.id, "flow": "count", "generation": 1});
    assert_eq!(shown["forked_from"], from);
    assert_eq!(
        shown["compute"]["instance_type"],
        source["compute"]["instance_type"]
    );
    let numbers = [&session, &forked].map(|one| {
        let out = one.out(json!({"wait": 0}));
        assert_eq!(out.as_array().unwrap()[..3], [3, 3, 3]);
        out[3].clone()
    });
    assert_ne!(numbers[0], numbers[1]);
    counted(&session);
    counted(&session);
    assert_eq!(counted(&forked), json!([4, 4, 4]));
    assert_eq!(counted(&session), json!([6, 6, 6]));
    // The copy outlasts what it was copied from.
    hibernate(&forked);
    session.stop();
    admin.delete(&workspace("/flows/count")).expect(204);
    server.kill();
    server.restart();
    assert_eq!(counted(&forked), json!([5, 5, 5]));
    let second = fork(&forked, "second");
    assert_eq!(counted(&second), json!([6, 6, 6]));
    let tool = workspace("/flows/second/files/tool.py");
    assert_eq!(admin.get(&tool).is(200).body, COUNT.as_bytes());
}

#[test]
fn a_fork_that_a_crash_ends_is_there_as_a_whole_or_not_at_all() {
    let mut server = Server::start();
    let admin = server.admin();
    let session = counting(&admin, "count");
    counted(&session);
    let sessions = server.home().join("server/sessions");
    let folders = |ids: &[&str]| {
        let all = fs::read_dir(&sessions).unwrap();
        let all = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        all.filter(|name| !ids.iter().any(|id| name.contains(id)))
            .collect::<Vec<_>>()
    };
    // What a host leaves that dies while it copies.
    fs::create_dir_all(sessions.join("default+s-half+1/flow")).unwrap();
    for number in 0..6 {
        let flow = format!("copy-{number}");
        let (client, path, body) = (
            admin.clone(),
            session.path("/fork"),
            json!({ "flow": flow }).to_string(),
        );
        let forking = std::thread::spawn(move || {
            let headers = [("content-type", "application/json")];
            let _ = client.try_send("POST", &path, &headers, body.into_bytes());
        });
        let is_under_way = || {
            let more = folders(&[&session.id, "s-half"]);
            (!more.is_empty() || forking.is_finished()).then_some(())
        };
        wait_until("the fork is under way", is_under_way);
        // Each time a little later.
        for _ in 0..number {
            folders(&[]);
        }
        server.kill();
        forking.join().unwrap();
        server.restart();
        let found = admin.get(&workspace(&format!("/flows/{flow}")));
        let mut known = vec![session.id.clone()];
        if found.status == 200 {
            let forked = Session {
                client: admin.clone(),
                id: found.text("session").to_owned(),
            };
            forked.wait_until("it has started", |shown| shown["state"] != "starting");
            assert_eq!(counted(&forked), json!([2, 2, 2]));
            known.push(forked.id.clone());
            forked.stop();
        } else {
            found.expect(404);
        }
        let ids: Vec<&str> = known.iter().map(String::as_str).collect();
        wait_until("nothing else is left", || {
            folders(&ids).is_empty().then_some(())
        });
    }
    assert_eq!(counted(&session), json!([2, 2, 2]));
}

#[test]
fn forks_are_refused_with_reasons() {
    let server = Server::start();
    let admin = server.admin();
    let session = counting(&admin, "count");
    let path = session.path("/fork");
    admin
        .post(&path, json!({"flow": "count"}))
        .is_problem(409, "conflict", &["'count' already"]);
    admin
        .post(&path, json!({}))
        .is_problem(400, "invalid-body", &["flow"]);
    admin
        .post(&path, json!({"flow": "copy", "compute": "none"}))
        .is_problem(404, "not-found", &["none"]);
    let call = session.begin("slow", json!({"wait": 1000}));
    for (path, body) in [
        (session.path("/hibernate"), Value::Null),
        (path.clone(), json!({"flow": "copy"})),
    ] {
        admin
            .post(&path, body)
            .is_problem(409, "busy", &["calls under way"]);
    }
    admin.delete(&session.path("/calls/slow")).expect(204);
    call.join().unwrap();
    let open = admin.python("open", OPEN, &[]);
    open.out(json!({}));
    let refused = admin.post(&open.path("/fork"), json!({"flow": "copy"}));
    refused.is_problem(409, "cannot-store", &["journal.txt"]);
    assert_eq!(refused.json["reasons"].as_array().unwrap().len(), 1);
    admin.get(&workspace("/flows/copy")).expect(404);
    let left = files(&server.home().join("server/sessions"), "files.json");
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn what_cannot_be_stored_stays_in_memory_and_says_why() {
    let server = Server::start();
    let session = server.admin().python("open", OPEN, &[]);
    assert_eq!(session.out(json!({})), 1);
    let mut events = session.events();
    let path = session.path("/hibernate");
    let shown = session.client.post(&path, Value::Null).is(200).json;
    assert_eq!(shown["state"], "running");
    assert_eq!(shown["cannot_hibernate"], "keep");
    let kept = shown["kept"].as_array().unwrap();
    assert_eq!(kept.len(), 1, "{shown:#}");
    assert!(
        kept[0].as_str().unwrap().contains("journal.txt"),
        "{kept:?}"
    );
    let event = events.wait_for("not_stored");
    assert_eq!(event.json["reasons"], shown["kept"]);
    assert_eq!(event.json["dropped"], false);
    assert_eq!(session.out(json!({})), 2);
}

#[test]
fn what_cannot_be_stored_is_dropped_where_the_host_says_so() {
    let server = Server::configured("[sessions]\ncannot_hibernate = \"drop\"\n");
    let session = server.admin().python("open", OPEN, &[]);
    assert_eq!(session.out(json!({})), 1);
    let path = session.path("/hibernate");
    let shown = session.client.post(&path, Value::Null).is(200).json;
    assert_eq!(shown["state"], "running");
    assert_eq!(shown["cannot_hibernate"], "drop");
    assert_eq!(shown["kept"], json!([]));
    let dropped = shown["dropped"][0].as_str().unwrap();
    assert!(dropped.contains("journal.txt"), "{dropped}");
    session.wait_until("its memory is free", is_private_gone);
    assert_eq!(session.out(json!({})), 1);
}

#[test]
fn an_edit_is_in_force_when_a_session_goes_on() {
    let mut server = Server::start();
    let admin = server.admin();
    let session = counting(&admin, "count");
    counted(&session);
    hibernate(&session);
    let edited = COUNT.replace("count = 0", "count = 100");
    admin.write("count", "tool.py", &edited);
    server.kill();
    server.restart();
    assert_eq!(counted(&session), json!([101, 2, 2]));
}

#[test]
fn a_new_life_begins_with_nothing_stored() {
    let server = Server::start();
    let admin = server.admin();
    let session = counting(&admin, "count");
    counted(&session);
    hibernate(&session);
    let path = session.path("/reset");
    admin.post(&path, Value::Null).expect(200);
    let shown = session.wait_for("running");
    assert_eq!(shown["stored"], Value::Null);
    assert_eq!(counted(&session), json!([1, 1, 1]));
    hibernate(&session);
    assert_eq!(stored(&server, &session).len(), 1);
    session.stop();
    let left = || files(&server.home().join("server/sessions"), ".asleep");
    wait_until("nothing is stored", || left().is_empty().then_some(()));
}

/// An error that a call gives because of what is stored, and none after that.
#[track_caller]
fn is_told_once(session: &Session) {
    let answer = session.call(json!({"wait": 0}));
    assert_eq!(answer["status"], "Failed", "{answer:#}");
    let error = answer["error"].to_string();
    assert!(error.contains("begins anew"), "{answer:#}");
    // On the disk nothing was lost.
    assert_eq!(counted(session)[0], 1);
}

#[test]
fn what_is_stored_and_damaged_is_told_once() {
    let mut server = Server::start();
    let admin = server.admin();
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("empty", |bytes| bytes.clear()),
        ("short", |bytes| bytes.truncate(bytes.len() / 2)),
        ("head", |bytes| bytes[10] ^= 1),
        ("pages", |bytes| {
            let middle = bytes.len() / 2;
            for byte in &mut bytes[middle..middle + 4_096] {
                *byte ^= 0x55;
            }
        }),
    ];
    let sessions: Vec<Session> = damages
        .iter()
        .map(|(flow, _)| {
            let session = counting(&admin, flow);
            counted(&session);
            hibernate(&session);
            session
        })
        .collect();
    let swapped = ["one", "other"].map(|flow| {
        let session = counting(&admin, flow);
        counted(&session);
        hibernate(&session);
        session
    });
    server.kill();
    server.restart();
    for (session, (_, damage)) in sessions.iter().zip(damages) {
        let file = stored(&server, session).remove(0);
        let mut bytes = fs::read(&file).unwrap();
        damage(&mut bytes);
        fs::write(&file, bytes).unwrap();
    }
    let [one, other] = swapped
        .each_ref()
        .map(|session| stored(&server, session).remove(0));
    let both = [&one, &other].map(|file| fs::read(file).unwrap());
    fs::write(&one, &both[1]).unwrap();
    fs::write(&other, &both[0]).unwrap();
    for session in sessions.iter().chain(&swapped) {
        is_told_once(session);
    }
    // Resuming tells it too.
    let session = &sessions[0];
    hibernate(session);
    server.kill();
    server.restart();
    fs::write(stored(&server, session).remove(0), "nonsense").unwrap();
    let refused = admin.post(&session.path("/resume"), Value::Null);
    assert!(refused.detail().contains("begins anew"), "{refused:#?}");
    assert_eq!(counted(session)[0], 1);
}

#[test]
fn metrics_count_what_hibernates() {
    let server = Server::start();
    let session = counting(&server.admin(), "count");
    counted(&session);
    hibernate(&session);
    counted(&session);
    hibernate(&session);
    let metrics = || {
        let text = server.admin().get("/metrics").is(200).body;
        String::from_utf8(text).unwrap()
    };
    for line in [
        "flowcell_sessions{state=\"hibernated\"} 1\n",
        "flowcell_instances_resumed_total 1\n",
        "flowcell_instances_hibernated_total 2\n",
    ] {
        wait_until("metrics say so", || metrics().contains(line).then_some(()));
    }
    let text = metrics();
    for name in [
        "instances_started_total",
        "hibernated_bytes",
        "instance_start_seconds",
        "instance_hibernate_seconds",
    ] {
        let name = format!("flowcell_{name} ");
        let line = text.lines().find(|line| line.starts_with(&name));
        let value: f64 = line.unwrap()[name.len()..].parse().unwrap();
        assert!(value > 0.0, "{name}");
    }
}

#[test]
fn looks_leave_what_is_stored_alone() {
    let server = Server::start();
    let session = counting(&server.admin(), "count");
    counted(&session);
    hibernate(&session);
    let before = stored(&server, &session);
    for _ in 0..4 {
        session.client.get(&session.path("/tools")).expect(200);
    }
    assert_eq!(stored(&server, &session), before);
    assert_eq!(counted(&session), json!([2, 2, 2]));
}

#[test]
fn calls_with_many_environments_cost_no_state() {
    let server = Server::start();
    let session = counting(&server.admin(), "count");
    counted(&session);
    hibernate(&session);
    assert_eq!(counted(&session)[0], 2);
    for number in 0..10 {
        let body =
            json!({"inputs": {"wait": 0}, "environment_variables": {"NUMBER": number.to_string()}});
        assert_eq!(session.request(&body).is(200).json["outputs"]["out"][0], 1);
    }
    assert_eq!(counted(&session)[0], 3);
}

#[test]
fn equal_files_cost_no_state_and_others_do() {
    let server = Server::start();
    let session = counting(&server.admin(), "count");
    counted(&session);
    let admin = server.admin();
    let flow = FlowFolder::python(COUNT, &[("wait", "double")]);
    admin.upload("count", &flow);
    assert_eq!(counted(&session)[0], 2);
    hibernate(&session);
    admin.upload("count", &flow);
    assert_eq!(counted(&session)[0], 3);
    let other = COUNT.replace("count = 0", "count = 10");
    admin.upload("count", &FlowFolder::python(&other, &[("wait", "double")]));
    assert_eq!(counted(&session)[0], 11);
    hibernate(&session);
    // Back to files that had state before: that is gone.
    admin.upload("count", &flow);
    assert_eq!(counted(&session)[0], 1);
}

#[test]
fn a_session_that_takes_long_to_get_ready_costs_others_nothing() {
    const SLOW: &str = "import time\nfrom promptflow.core import tool\nclass Slow:\n    def __del__(self): time.sleep(60)\n@tool\ndef t():\n    slow = Slow()\n    slow.itself = slow\n    return 1\n";
    let server = Server::configured("[host]\nworkers = 1\n");
    let admin = server.admin();
    let other = counting(&admin, "other");
    assert_eq!(counted(&other)[0], 1);
    admin.upload("slow", &FlowFolder::python(SLOW, &[]));
    let slow = admin.session("slow");
    assert_eq!(slow.out(json!({})), 1);
    let workers = server.workers();
    let path = slow.path("/hibernate");
    let shown = admin.post(&path, Value::Null).is(200).json;
    assert_eq!(shown["state"], "running", "{shown:#}");
    assert_eq!(shown["instances"], json!({"busy": 0, "idle": 0}));
    assert_eq!(counted(&other)[0], 2);
    assert_eq!(server.workers(), workers);
    assert_eq!(slow.out(json!({})), 1);
}
