//! Calls: what they answer, how they are limited, and how they end.

use std::thread;

use flowcell_tests::FlowFolder;
use flowcell_tests::server::Server;
use serde_json::{Value, json};

const ECHO: &str = "from promptflow.core import tool\n@tool\ndef t(x): return x\n";
const FOREVER: &str = "from promptflow.core import tool\n@tool\ndef t(how: str):\n    if how == 'spin':\n        while True: pass\n    if how == 'sleep':\n        import time\n        while True: time.sleep(60)\n    return how\n";

#[test]
fn values_travel_as_the_flow_made_them() {
    let server = Server::start();
    let echo = server.admin().python("echo", ECHO, &[("x", "object")]);
    for value in [
        json!({"a": [1, 2.5, null, true, "é"]}),
        serde_json::from_str("123456789012345678901234567890").unwrap(),
    ] {
        assert_eq!(echo.out(json!({"x": value})), value);
    }
    let admin = server.admin();
    let code = "from promptflow.core import tool\n@tool\ndef t(): return [float('nan'), float('inf'), 1]\n";
    let session = admin.python("nan", code, &[]);
    assert_eq!(session.out(json!({})), json!([null, null, 1]));
}

#[test]
fn a_flow_that_fails_is_answered_all_the_same() {
    let server = Server::start();
    let code = "from promptflow.core import tool\n@tool\ndef t():\n    print('before')\n    raise ValueError('no good')\n";
    let session = server.admin().python("fails", code, &[]);
    let answer = session.call(json!({}));
    assert_eq!(answer["status"], "Failed");
    assert_eq!(answer["error"]["class"], "ToolExecutionError");
    assert_eq!(answer["error"]["node"], "tool");
    let node = &answer["nodes"][0];
    assert_eq!(node["name"], "tool");
    assert_eq!(node["logs"]["stdout"], "before\n");
    assert_eq!(session.show()["calls"], 1);
}

#[test]
fn canceling_stops_the_guest_at_once() {
    let server = Server::start();
    let session = server
        .admin()
        .python("forever", FOREVER, &[("how", "string")]);
    assert_eq!(session.out(json!({"how": "no"})), "no");
    for how in ["spin", "sleep"] {
        let call = session.begin("c1", json!({ "how": how }));
        session.wait_until("it is busy", |shown| shown["instances"]["busy"] == 1);
        let admin = &session.client;
        admin.delete(&session.path("/calls/c1")).expect(204);
        call.join()
            .unwrap()
            .is_problem(409, "canceled", &["canceled"]);
        session.wait_until("nothing is busy", |shown| {
            shown["instances"]["busy"] == 0 && shown["active_calls"] == 0
        });
        let used = session.show()["cpu_seconds"].as_f64().unwrap();
        thread::sleep(std::time::Duration::from_millis(300));
        let later = session.show()["cpu_seconds"].as_f64().unwrap();
        assert!(later - used < 0.05, "the guest goes on: {used} {later}");
        admin.delete(&session.path("/calls/c1")).expect(404);
        assert_eq!(session.out(json!({"how": "no"})), "no");
    }
}

#[test]
fn a_client_that_goes_away_takes_its_guest_with_it() {
    use std::io::Write as _;
    let server = Server::start();
    let session = server
        .admin()
        .python("forever", FOREVER, &[("how", "string")]);
    for how in ["spin", "sleep"] {
        let body = json!({"inputs": {"how": how}, "id": "left"}).to_string();
        let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
        write!(
            stream,
            "POST {} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            session.path("/calls"),
            session.client.key(),
            body.len()
        )
        .unwrap();
        session.wait_until("it is busy", |shown| shown["instances"]["busy"] == 1);
        drop(stream);
        session.wait_until("nothing is busy", |shown| {
            shown["instances"]["busy"] == 0 && shown["active_calls"] == 0
        });
    }
    assert_eq!(session.out(json!({"how": "no"})), "no");
}

#[test]
fn one_node_or_a_variant_can_be_called() {
    let server = Server::start();
    let yaml = "inputs:\n  x: {type: int}\noutputs:\n  out: {type: int, reference: \"${second.output}\"}\n\
        nodes:\n\
        - {name: first, use_variants: true}\n\
        - {name: second, type: python, source: {type: code, path: add.py}, inputs: {x: \"${first.output}\", y: 1}}\n\
        node_variants:\n  first:\n    default_variant_id: small\n    variants:\n\
        \x20     small: {node: {type: python, source: {type: code, path: add.py}, inputs: {x: \"${inputs.x}\", y: 10}}}\n\
        \x20     large: {node: {type: python, source: {type: code, path: add.py}, inputs: {x: \"${inputs.x}\", y: 1000}}}\n";
    let code =
        "from promptflow.core import tool\n@tool\ndef add(x: int, y: int) -> int: return x + y\n";
    let folder = FlowFolder::new()
        .file("flow.dag.yaml", yaml)
        .file("add.py", code);
    let admin = server.admin();
    admin.upload("sums", &folder);
    let session = admin.session("sums");
    assert_eq!(session.out(json!({"x": 1})), 12);
    let call = |body: Value| session.request(&body).is(200).json;
    let answer = call(json!({"inputs": {"x": 1}, "variant": "${first.large}"}));
    assert_eq!(answer["outputs"]["out"], 1002, "{answer:#}");
    let answer = call(json!({"inputs": {"first.output": 5}, "node": "second"}));
    assert_eq!(answer["outputs"], 6, "{answer:#}");
    let answer = call(json!({"inputs": {}, "node": "third"}));
    assert_eq!(answer["status"], "Failed", "{answer:#}");
    let answer = call(json!({"inputs": {"x": 1}, "variant": "${first.gone}"}));
    assert_eq!(answer["status"], "Failed", "{answer:#}");
    assert_eq!(session.out(json!({"x": 1})), 12);
}

#[test]
fn environment_variables_hold_for_one_call() {
    let server = Server::start();
    let code = "import os\nfrom promptflow.core import tool\n@tool\ndef t(): return [os.environ.get('COLOR'), os.environ.get('FLOWCELL_TEST_SECRET')]\n";
    let session = server.admin().python("env", code, &[]);
    let call = |environment: Value| {
        let body = json!({"environment_variables": environment});
        session.request(&body).is(200).json["outputs"]["out"].clone()
    };
    assert_eq!(call(json!({"COLOR": "red"})), json!(["red", null]));
    assert_eq!(call(json!({})), json!([null, null]));
    let many: serde_json::Map<String, Value> =
        (0..101).map(|n| (format!("V{n}"), json!("v"))).collect();
    let answer = session.request(&json!({"environment_variables": many}));
    answer.is_problem(422, "invalid", &["environment_variables", "100"]);
}

#[test]
fn bodies_that_are_not_what_a_call_takes() {
    let server = Server::configured("[server]\nbody_bytes = 10000\n");
    let session = server.admin().python("echo", ECHO, &[("x", "object")]);
    for (body, words) in [
        (json!({"input": {}}), &["input", "unknown field"][..]),
        (json!({"inputs": []}), &["inputs", "expected a map"]),
        (
            json!({"inputs": {}, "node": 1}),
            &["node", "expected a string"],
        ),
        (json!({"inputs": {}, "id": "a b"}), &["'id'", "letters"]),
        (json!("text"), &["the body"]),
    ] {
        session
            .request(&body)
            .is_problem(400, "invalid-body", words);
    }
    let client = &session.client;
    let path = session.path("/calls");
    let json_type = [("content-type", "application/json")];
    for text in ["{\"inputs\": {}", "{} {}", "{\"inputs\": {\"x\": NaN}}", ""] {
        client
            .send("POST", &path, &json_type, text)
            .is_problem(400, "invalid-body", &["the body"]);
    }
    client
        .send("POST", &path, &[("content-type", "text/plain")], "{}")
        .is_problem(415, "unsupported-media-type", &["text/plain"]);
    session
        .request(&json!({"inputs": {"x": "y".repeat(20_000)}}))
        .is_problem(413, "too-large", &[]);
    let answer = session.call(json!({}));
    assert_eq!(
        answer["status"], "Failed",
        "an input is missing: {answer:#}"
    );
}

#[test]
fn a_session_takes_as_many_calls_as_it_may() {
    let server = Server::configured("[sessions]\ncalls = 1\n");
    let session = server
        .admin()
        .python("forever", FOREVER, &[("how", "string")]);
    let call = session.begin("first", json!({"how": "sleep"}));
    let refused = session.request(&json!({"inputs": {"how": "no"}}));
    refused.is_problem(429, "too-many", &["limit"]);
    assert_eq!(refused.header("retry-after"), "1");
    let path = session.path("/calls/first");
    session.client.delete(&path).expect(204);
    call.join().unwrap().expect(409);
    assert_eq!(session.out(json!({"how": "no"})), "no");
}

#[test]
fn two_calls_cannot_have_one_identifier() {
    let server = Server::start();
    let session = server
        .admin()
        .python("forever", FOREVER, &[("how", "string")]);
    let call = session.begin("same", json!({"how": "sleep"}));
    session
        .request(&json!({"inputs": {"how": "no"}, "id": "same"}))
        .is_problem(409, "conflict", &["same"]);
    session
        .client
        .delete(&session.path("/calls/same"))
        .expect(204);
    call.join().unwrap().expect(409);
}

#[test]
fn only_its_user_calls_a_session() {
    let server = Server::start();
    let ann = server.user("ann", "data-scientist");
    let bob = server.user("bob", "data-scientist");
    let session = ann.python("echo", ECHO, &[("x", "object")]);
    for other in [&bob, &server.admin()] {
        session
            .of(other)
            .request(&json!({"inputs": {"x": 1}}))
            .is_problem(403, "forbidden", &["compute of ann"]);
    }
    session.stop();
    session.request(&json!({"inputs": {"x": 1}})).is_problem(
        409,
        "conflict",
        &["stopped by ann", "takes no calls"],
    );
}

#[test]
fn sessions_share_nothing() {
    let server = Server::start();
    let code = "import os\nfrom promptflow.core import tool\nkept = []\n@tool\ndef t(x: str):\n    kept.append(x)\n    seen = [kept, sorted(os.listdir('/tmp')), os.path.exists('mine')]\n    open('/tmp/' + x, 'w').close()\n    open('mine', 'w').close()\n    return seen\n";
    let ann = server.user("ann", "data-scientist");
    let bob = server.user("bob", "data-scientist");
    let first = ann.python("first", code, &[("x", "string")]);
    let second = ann.python("second", code, &[("x", "string")]);
    let third = bob.python("third", code, &[("x", "string")]);
    assert_eq!(first.out(json!({"x": "a"})), json!([["a"], [], false]));
    for session in [second, third] {
        assert_eq!(session.out(json!({"x": "b"})), json!([["b"], [], false]));
    }
    assert_eq!(
        first.out(json!({"x": "c"})),
        json!([["a", "c"], ["a"], true])
    );
}

#[test]
fn a_hostile_session_does_not_keep_others_from_their_work() {
    let server = Server::start();
    let hostile = "from promptflow.core import tool\n@tool\ndef t(how: str):\n    if how == 'spin':\n        while True: pass\n    if how == 'hoard':\n        hoard = []\n        while True: hoard.append(bytearray(1 << 20))\n    if how == 'print':\n        while True: print('x' * 100000)\n    if how == 'deep':\n        f = lambda n: f(n + 1)\n        return f(0)\n    if how == 'exit':\n        import os\n        os._exit(3)\n    if how == 'abort':\n        import os\n        os.abort()\n";
    let eve = server.user("eve", "data-scientist");
    let ann = server.user("ann", "data-scientist");
    eve.upload("evil", &FlowFolder::python(hostile, &[("how", "string")]));
    let evil = eve.start(&json!({"flow": "evil", "instance_type": "small"}));
    let good = ann.python("good", ECHO, &[("x", "object")]);
    assert_eq!(good.out(json!({"x": 0})), 0);
    let endless = [
        evil.begin("e1", json!({"how": "spin"})),
        evil.begin("e2", json!({"how": "print"})),
    ];
    for (number, how) in ["hoard", "deep", "exit", "abort"].iter().enumerate() {
        let answer = evil.call(json!({ "how": how }));
        assert_eq!(answer["status"], "Failed", "{how}: {answer:#}");
        assert_eq!(good.out(json!({"x": number})), number);
    }
    for call in ["e1", "e2"] {
        let path = evil.path(&format!("/calls/{call}"));
        eve.delete(&path).expect(204);
    }
    for call in endless {
        call.join().unwrap().expect(409);
    }
    evil.wait_until("nothing is busy", |shown| shown["instances"]["busy"] == 0);
}

#[test]
fn a_call_that_takes_too_long_is_ended() {
    let server = Server::configured("[sessions]\ncall_seconds = 1\n");
    let session = server
        .admin()
        .python("forever", FOREVER, &[("how", "string")]);
    for how in ["spin", "sleep"] {
        let answer = session.call(json!({ "how": how }));
        assert_eq!(answer["status"], "Failed", "{answer:#}");
        let class = answer["error"]["class"].as_str().unwrap();
        assert!(class.contains("Time"), "{answer:#}");
        session.wait_until("nothing is busy", |shown| shown["instances"]["busy"] == 0);
    }
}

#[test]
fn tools_are_described() {
    let server = Server::start();
    let session = server.admin().python("echo", ECHO, &[("x", "object")]);
    let tools = session.client.get(&session.path("/tools")).is(200).json;
    let tool = &tools["items"][0];
    assert_eq!(tool["node"], "tool", "{tools:#}");
    assert_eq!(tool["source"], "tool.py");
    assert_eq!(tool["inputs"][0]["name"], "x");
    session.client.write("echo", "tool.py", "import gone\n");
    let tools = session.client.get(&session.path("/tools")).is(200).json;
    let problem = tools["items"][0]["problems"].to_string();
    assert!(problem.contains("gone"), "{tools:#}");
}

#[test]
fn canceling_stops_calls_that_wait_for_an_instance() {
    let server = Server::start();
    let session = server
        .admin()
        .python("forever", FOREVER, &[("how", "string")]);
    session.stop();
    let session = session
        .client
        .start(&json!({"flow": "forever", "instance_type": "small"}));
    let calls: Vec<_> = (0..8)
        .map(|n| session.begin(&format!("c{n}"), json!({"how": "sleep"})))
        .collect();
    session.wait_until("all instances are busy", |shown| {
        shown["instances"]["busy"] == 4
    });
    for n in 0..8 {
        let path = session.path(&format!("/calls/c{n}"));
        session.client.delete(&path).expect(204);
    }
    for call in calls {
        call.join().unwrap().expect(409);
    }
    session.wait_until("nothing is busy", |shown| shown["instances"]["busy"] == 0);
    assert_eq!(session.out(json!({"how": "no"})), "no");
}
