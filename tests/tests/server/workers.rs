//! Worker processes: what the end of one costs, who shares one, and that a host without them does the same.

use std::thread;

use flowcell_tests::FlowFolder;
use flowcell_tests::server::{Client, Server, Session, Setup, Worker, wait_until, workspace};
use serde_json::{Value, json};

/// Counts in memory and in a file: `[memory, file]`, and then does what it is told.
const COUNT: &str = "import os, time\nfrom promptflow.core import tool\ncount = 0\n@tool\ndef t(how: str):\n    global count\n    count += 1\n    with open('count', 'a') as file: file.write('x')\n    print('counted', flush=True)\n    while how == 'spin': pass\n    while how == 'sleep': time.sleep(60)\n    while how == 'wait' and not os.path.exists('go'): time.sleep(0.01)\n    return [count, os.path.getsize('count')]\n";
const INPUTS: [(&str, &str); 1] = [("how", "string")];

fn with_workers(workers: usize) -> Server {
    Server::configured(&format!("[host]\nworkers = {workers}\n"))
}

fn count(session: &Session) -> Value {
    session.out(json!({"how": ""}))
}

/// The same after a worker was killed: a call that comes before its host has noticed is lost with it.
fn count_again(session: &Session) -> Value {
    let answer = wait_until("the host has noticed", || {
        let answer = session.request(&json!({"inputs": {"how": ""}}));
        (answer.json["type"] != "/problems/worker-lost").then_some(answer)
    });
    answer.is(200).json["outputs"]["out"].clone()
}

fn busy(session: &Session) {
    session.wait_until("it is busy", |shown| shown["instances"]["busy"] == 1);
}

/// The one worker that is not among these.
fn another(server: &Server, but: &[Worker]) -> Worker {
    let mut workers = server.workers();
    workers.retain(|worker| !but.contains(worker));
    assert_eq!(workers.len(), 1, "{workers:?} beside {but:?}");
    workers[0]
}

fn gone(workers: &[Worker]) {
    wait_until("the workers are gone", || {
        let alive = workers.iter().any(|worker| worker.is_alive());
        (!alive).then_some(())
    });
}

#[test]
fn a_worker_that_dies_costs_its_sessions_their_memory_only() {
    let server = with_workers(2);
    assert_eq!(server.workers(), []);
    let admin = server.admin();
    let first = admin.python("first", COUNT, &INPUTS);
    assert_eq!(count(&first), json!([1, 1]));
    let worker = another(&server, &[]);
    let second = admin.python("second", COUNT, &INPUTS);
    assert_eq!(count(&second), json!([1, 1]));
    another(&server, &[worker]);

    let used = first.show()["cpu_seconds"].as_f64().unwrap();
    let calls: Vec<_> = ["spin", "sleep"]
        .iter()
        .map(|how| first.begin(how, json!({ "how": how })))
        .collect();
    let other = second.begin("other", json!({"how": "wait"}));
    busy(&second);
    worker.kill();
    for call in calls {
        let answer = call.join().unwrap();
        answer.is_problem(503, "worker-lost", &[&first.id, "call again"]);
        assert_eq!(answer.header("retry-after"), "1");
    }
    // What was stored is there, and what was used counts.
    assert_eq!(first.show()["state"], "running");
    assert_eq!(first.show()["instances"], json!({"busy": 0, "idle": 0}));
    assert!(first.show()["cpu_seconds"].as_f64().unwrap() >= used);
    let counted = count(&first);
    assert_eq!(counted[0], 1, "{counted}");
    assert!(counted[1].as_u64().unwrap() >= 2, "{counted}");
    // Nobody else has noticed: the same instance goes on.
    admin.write("second", "go", "");
    second
        .client
        .delete(&second.path("/calls/other"))
        .expect(204);
    other.join().unwrap().expect(409);
    assert!(count(&second)[1].as_u64().unwrap() > 2);
    assert_eq!(server.workers().len(), 2);
}

#[test]
fn a_call_in_another_worker_goes_on() {
    let server = with_workers(2);
    let admin = server.admin();
    let first = admin.python("first", COUNT, &INPUTS);
    count(&first);
    let worker = another(&server, &[]);
    let second = admin.python("second", COUNT, &INPUTS);
    for round in 1..=3 {
        assert_eq!(count(&second), json!([round, round]));
        if round == 2 {
            worker.kill();
            gone(&[worker]);
        }
    }
    assert_eq!(count_again(&first), json!([1, 2]));
}

#[test]
fn all_sessions_of_a_compute_are_in_one_worker() {
    let server = with_workers(3);
    let admin = server.admin();
    let first = admin.python("first", COUNT, &INPUTS);
    let compute = first.show()["compute"]["name"].clone();
    for flow in ["second", "third"] {
        admin.upload(flow, &FlowFolder::python(COUNT, &INPUTS));
        let settings = json!({"flow": flow, "compute": compute});
        count(&admin.start(&settings));
    }
    assert_eq!(server.workers().len(), 1);
    assert_eq!(
        admin.python("fourth", COUNT, &INPUTS).show()["state"],
        "running"
    );
    assert_eq!(server.workers().len(), 2);
    let text = admin.get("/metrics").body;
    let text = String::from_utf8(text).unwrap();
    for line in [
        "flowcell_workers 2",
        "flowcell_worker_restarts 0",
        "flowcell_worker_sessions{worker=\"0\"} 3",
        "flowcell_worker_sessions{worker=\"1\"} 1",
        "flowcell_worker_sessions{worker=\"2\"} 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in {text}"
        );
    }
}

#[test]
fn a_host_that_ends_leaves_no_worker() {
    for is_killed in [true, false] {
        let mut server =
            Server::configured("[host]\nworkers = 2\n[server]\nshutdown_seconds = 1\n");
        let admin = server.admin();
        let mut calls = Vec::new();
        for how in ["spin", "sleep"] {
            let session = admin.python(how, COUNT, &INPUTS);
            let body = json!({"inputs": {"how": how}});
            let (client, path) = (session.client.clone(), session.path("/calls"));
            calls.push(thread::spawn(move || {
                let headers = [("content-type", "application/json")];
                // The connection may be cut.
                let _ = client.try_send("POST", &path, &headers, body.to_string().into());
            }));
            busy(&session);
        }
        let workers = server.workers();
        assert_eq!(workers.len(), 2);
        if is_killed {
            server.kill();
        } else {
            let stopped = server.stop();
            assert_eq!(stopped.code, Some(0));
            assert!(
                stopped.stderr.contains("a worker process ended"),
                "{}",
                stopped.stderr
            );
            assert!(
                !stopped.stderr.contains("process is lost"),
                "{}",
                stopped.stderr
            );
        }
        gone(&workers);
        for call in calls {
            call.join().unwrap();
        }
        // And what was stored is there for the next.
        server.restart();
        assert_eq!(server.workers(), []);
    }
}

/// A session of a flow in some workspace; its path.
fn session_in(admin: &Client, workspace: &str, flow: &str) -> String {
    let base = format!("/v1/workspaces/{workspace}");
    let archive = flowcell_tests::server::tar(&FlowFolder::python(COUNT, &INPUTS).path());
    let headers = [("content-type", "application/x-tar")];
    let put = admin.send(
        "PUT",
        &format!("{base}/flows/{flow}/files"),
        &headers,
        archive,
    );
    assert!(matches!(put.status, 200 | 201), "{put:#?}");
    let started = admin.post(&format!("{base}/sessions"), json!({"flow": flow}));
    let path = format!("{base}/sessions/{}", started.text("id"));
    wait_until("the session runs", || {
        (admin.get(&path).is(200).json["state"] == "running").then_some(())
    });
    path
}

fn count_in(admin: &Client, session: &str) -> Value {
    let call = || admin.post(&format!("{session}/calls"), json!({"inputs": {"how": ""}}));
    let mut called = call();
    // The host may not have heard yet that a worker has ended.
    if called.status == 503 {
        called.is_problem(503, "worker-lost", &[]);
        called = call();
    }
    called.is(200).json["outputs"]["out"].clone()
}

#[test]
fn a_dedicated_workspace_shares_its_worker_with_nobody() {
    let server = Server::configured("[host]\nworkers = 1\ndedicated = [\"bank\", \"lab\"]\n");
    let admin = server.admin();
    for name in ["bank", "lab"] {
        admin
            .post("/v1/workspaces", json!({"name": name}))
            .expect(201);
    }
    let mut known: Vec<Worker> = Vec::new();
    let mut sessions = Vec::new();
    for name in ["bank", "default", "lab"] {
        let session = session_in(&admin, name, "one");
        count_in(&admin, &session);
        known.push(another(&server, &known));
        sessions.push(session);
    }
    // More of each go where the first of it is.
    for name in ["bank", "default", "lab"] {
        count_in(&admin, &session_in(&admin, name, "two"));
    }
    assert_eq!(server.workers().len(), 3);
    known[0].kill();
    gone(&known[..1]);
    let counted: Vec<_> = sessions
        .iter()
        .map(|session| count_in(&admin, session)[0].clone())
        .collect();
    assert_eq!(counted, [1, 2, 2]);
}

#[test]
fn a_worker_gets_nothing_of_its_host() {
    let server = Server::with(Setup {
        config: Some("[host]\nworkers = 1\n".to_owned()),
        environment: vec![("FLOWCELL__SESSIONS__CALLS".to_owned(), "7".to_owned())],
        ..Setup::default()
    });
    let session = server.admin().python("count", COUNT, &INPUTS);
    count(&session);
    let worker = another(&server, &[]);
    let environment = worker.told("environ");
    let environment = String::from_utf8_lossy(&environment);
    for secret in ["FLOWCELL", "hunter2", "HOME"] {
        assert!(!environment.contains(secret), "{environment}");
    }
    let files = worker.open_files();
    assert!(!files.is_empty());
    for file in &files {
        let file = file.to_string_lossy();
        assert!(
            !file.contains("registry") && !file.ends_with("/server/lock"),
            "{files:?}"
        );
    }
    let sockets = files
        .iter()
        .filter(|file| file.to_string_lossy().starts_with("socket:"));
    let mut sockets: Vec<_> = sockets.collect();
    sockets.sort();
    sockets.dedup();
    // That to the host, once as standard input and once as what the worker made of it; and a pair that tokio makes.
    assert!(sockets.len() <= 3, "{files:?}");
}

#[test]
fn a_worker_that_dies_again_and_again_is_left_to_rest() {
    let server = with_workers(1);
    let session = server.admin().python("count", COUNT, &INPUTS);
    let mut ends = 0;
    let refused = loop {
        let answer = session.request(&json!({"inputs": {"how": ""}}));
        if answer.json["type"] == "/problems/worker-lost" {
            continue;
        }
        if answer.status != 200 {
            break answer;
        }
        let worker = another(&server, &[]);
        worker.kill();
        gone(&[worker]);
        ends += 1;
        assert!(ends < 20, "it is started again and again");
    };
    refused.is_problem(503, "unavailable", &["in a row", "call again", &session.id]);
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(server.workers(), []);
    let counted = wait_until("the worker is started again", || {
        let answer = session.request(&json!({"inputs": {"how": ""}}));
        (answer.status == 200).then(|| answer.json["outputs"]["out"].clone())
    });
    assert_eq!(counted[0], 1);
    another(&server, &[]);
}

/// Runs a test in a host with workers and in one without.
fn both(test: impl Fn(&Server)) {
    for workers in [0, 2] {
        let server = with_workers(workers);
        test(&server);
        assert_eq!(server.workers().is_empty(), workers == 0);
    }
}

#[test]
fn a_session_lives_alike_with_and_without_workers() {
    both(|server| {
        let admin = server.admin();
        let session = admin.python("count", COUNT, &INPUTS);
        let mut events = session.events();
        assert_eq!(count(&session), json!([1, 1]));
        assert_eq!(count(&session), json!([2, 2]));
        let kinds: Vec<_> = (0..6).filter_map(|_| events.next_event()).collect();
        let kinds: Vec<&str> = kinds.iter().map(|event| event.kind()).collect();
        let expected = [
            "state",
            "call_started",
            "node_started",
            "log",
            "node_ended",
            "call_ended",
        ];
        assert_eq!(kinds, expected);
        let shown = session.wait_until("the instance is idle", |shown| {
            shown["instances"] == json!({"busy": 0, "idle": 1})
        });
        assert_eq!(shown["calls"], 2);
        assert!(shown["cpu_seconds"].as_f64().unwrap() > 0.0);
        assert!(shown["memory_bytes"].as_u64().unwrap() > 1 << 20);
        // An edit is seen by the next call; what tools wrote stays.
        admin.write(
            "count",
            "tool.py",
            &COUNT.replace("return [count", "return [-count"),
        );
        assert_eq!(count(&session), json!([-1, 3]));
        let tools = admin.get(&session.path("/tools")).is(200).json;
        assert_eq!(tools["items"][0]["inputs"][0]["name"], "how");
        session.stop();
        let compute = admin.get(&workspace("/computes")).is(200).json;
        assert_eq!(compute["items"], json!([]));
    });
}

#[test]
fn a_call_that_is_cancelled_stops_its_guest_with_and_without_workers() {
    both(|server| {
        let session = server.admin().python("count", COUNT, &INPUTS);
        for how in ["spin", "sleep"] {
            let call = session.begin("c", json!({ "how": how }));
            busy(&session);
            session.client.delete(&session.path("/calls/c")).expect(204);
            call.join()
                .unwrap()
                .is_problem(409, "canceled", &["canceled"]);
            session.wait_until("nothing is busy", |shown| shown["instances"]["busy"] == 0);
        }
        // Its end is waited for as well.
        let call = session.begin("c", json!({"how": "spin"}));
        busy(&session);
        session.stop();
        call.join()
            .unwrap()
            .is_problem(409, "canceled", &["canceled"]);
    });
}

#[test]
fn promptflows_interfaces_answer_with_and_without_workers() {
    both(|server| {
        let session = server.admin().python("count", COUNT, &INPUTS);
        let score = session.path("/serve/score");
        let answer = session.client.post(&score, json!({"how": ""})).is(200);
        assert_eq!(answer.json, json!({"out": [1, 1]}));
        assert!(answer.body.ends_with(b"\n"));
        let missing = session.client.post(&score, json!({})).is(400);
        assert_eq!(missing.json["error"]["code"], "UserError");
        let run = |body: Value| {
            let mut all =
                json!({"working_dir": "/f", "flow_file": "flow.dag.yaml", "output_dir": "/o"});
            all.as_object_mut()
                .unwrap()
                .extend(body.as_object().unwrap().clone());
            session
                .client
                .post(&session.path("/executor/execution/flow"), all)
        };
        let record = run(json!({"run_id": "r", "inputs": {"how": ""}})).is(200);
        assert_eq!(record.json["output"]["out"], json!([2, 2]));
        assert_eq!(record.json["run_info"]["run_id"], "r_0");
        let failed = run(json!({"run_id": "r", "environment_variables": {"A": "${c.d}"}}));
        assert_eq!(
            failed.is(400).json["error"]["debugInfo"]["type"],
            "ConnectionNotFoundError"
        );
    });
}

/// A component of one function whose compilation takes far more memory and time than it has bytes: each of many
/// branches sets one of many variables, and all of them are read at the end.
fn costly() -> Vec<u8> {
    let (variables, branches) = (5_000_u32, 100_000_u32);
    let mut code = leb(1);
    code.extend(leb(variables));
    code.push(0x7f);
    for branch in 0..branches {
        // local.get 0, if, local.get 0, local.set, end
        code.extend([0x20, 0, 0x04, 0x40, 0x20, 0, 0x21]);
        code.extend(leb(1 + branch % variables));
        code.push(0x0b);
    }
    code.extend([0x20, 0]);
    for variable in 0..variables {
        code.push(0x20);
        code.extend(leb(1 + variable));
        code.push(0x6a);
    }
    code.push(0x0b);
    let mut functions = leb(1);
    functions.extend(leb(u32::try_from(code.len()).unwrap()));
    functions.extend(code);
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend(section(1, &[1, 0x60, 1, 0x7f, 1, 0x7f]));
    module.extend(section(3, &[1, 0]));
    module.extend(section(10, &functions));
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    component.extend(section(1, &module));
    component
}

fn section(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut section = vec![kind];
    section.extend(leb(u32::try_from(content.len()).unwrap()));
    section.extend(content);
    section
}

fn leb(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn costly_flow() -> FlowFolder {
    let yaml = "inputs: {}\noutputs: {}\nnodes:\n- {name: big, type: wasm, source: {type: code, path: big.wasm}, inputs: {}}\n";
    FlowFolder::new()
        .file("flow.dag.yaml", yaml)
        .file("big.wasm", costly())
}

#[test]
fn a_component_that_is_costly_to_compile_is_refused() {
    let refused = costly_flow().test(&[]);
    refused.assert_failure(
        "InvalidSource",
        &["big.wasm", "takes more than", "MiB of memory"],
    );
    for (limits, words) in [
        ("compile_memory_mib = 256\n", ["256 MiB of memory"; 2]),
        (
            "compile_memory_mib = 65536\ncompile_seconds = 1\n",
            // On a busy machine the clock is the first.
            ["1 s of CPU time", "takes more than 4 s"],
        ),
    ] {
        for workers in [0, 1] {
            let server = Server::configured(&format!("[host]\nworkers = {workers}\n{limits}"));
            let admin = server.admin();
            admin.upload("big", &costly_flow());
            let answer = admin.session("big").call(json!({}));
            assert_eq!(answer["status"], "Failed");
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(
                message.contains("big.wasm") && words.iter().any(|words| message.contains(words)),
                "{message}"
            );
            // Everybody else goes on.
            assert_eq!(count(&admin.python("count", COUNT, &INPUTS)), json!([1, 1]));
            assert_eq!(server.workers().len(), workers);
        }
    }
}
