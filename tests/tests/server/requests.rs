//! What sessions may ask of the network, and what is known of each request afterwards.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use flowcell_tests::FlowFolder;
use flowcell_tests::openai::Server as Models;
use flowcell_tests::server::{Client, Server, Session, Setup, wait_until, workspace};
use serde_json::{Value, json};

const SECRET: &str = "sk-hunter2-of-the-requests";

/// A flow that asks a model, and then whatever address it is given, by a method.
fn flow() -> FlowFolder {
    FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs:\n  url: {type: string}\n  method: {type: string, default: GET}\noutputs:\n  \
             out: {type: object, reference: '${get.output}'}\nnodes:\n\
             - name: ask\n  type: llm\n  source: {type: code, path: ask.jinja2}\n  inputs: {model: m}\n  \
             connection: model\n  api: chat\n- name: get\n  type: python\n  source: {type: code, path: get.py}\n  \
             inputs: {text: '${ask.output}', url: '${inputs.url}', method: '${inputs.method}'}\n",
        )
        .file("ask.jinja2", "# user:\nhello [[reply: yes]]\n")
        .file(
            "get.py",
            "import urllib.request, urllib.error\nfrom promptflow.core import tool\n@tool\n\
             def get(text: str, url: str, method: str):\n    try:\n        \
             request = urllib.request.Request(url, method=method, data=b'1234' if method == 'POST' else None)\n        \
             answer = urllib.request.urlopen(request)\n        answer.read()\n        return answer.status\n    \
             except urllib.error.HTTPError as error:\n        return error.code\n    \
             except OSError as error:\n        return str(error)\n",
        )
}

fn start(config: &str) -> (Models, Server, Client, Session) {
    let models = Models::start();
    let config = format!("[network]\nprivate_hosts = [\"127.0.0.1:*\"]\n{config}");
    let server = Server::with(Setup::config(config));
    let admin = server.admin();
    let connection = json!({"type": "open_ai", "api_key": SECRET, "base_url": models.v1()});
    let path = workspace("/connections/model");
    admin.put(&path, connection).expect(201);
    admin.upload("asking", &flow()).expect(201);
    let session = admin.session("asking");
    (models, server, admin, session)
}

/// A server that answers each request with 200, on a thread that ends with the process.
fn other() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream);
        }
    });
    url
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut all = Vec::new();
    let mut part = [0; 1024];
    while !all.ends_with(b"\r\n\r\n") && !all.ends_with(b"1234") {
        let read = stream.read(&mut part)?;
        all.extend_from_slice(&part[..read]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
}

/// Node, method, host, outcome, status, and bytes of each request.
fn told(page: &Value) -> Vec<(&str, &str, &str, &str, Value, Value)> {
    let items = page["items"].as_array().unwrap().iter();
    let each = items.map(|one| {
        let text = |member: &str| one[member].as_str().unwrap_or_default();
        (
            text("node"),
            text("method"),
            text("to"),
            text("outcome"),
            one["status"].clone(),
            json!([one["sent"], one["received"]]),
        )
    });
    each.collect()
}

#[test]
fn each_request_is_accounted_for() {
    let (models, server, admin, session) = start("allowed_hosts = [\"127.0.0.1:*\"]\n");
    let other = other();
    let ask = |url: &str, method: &str| session.out(json!({ "url": url, "method": method }));
    assert_eq!(ask(&format!("{other}/a/path?a=query"), "POST"), 200);
    let refused = ask("https://elsewhere.example/", "GET");
    assert!(refused.as_str().is_some(), "{refused}");
    let path = session.path("/requests");
    let page = admin.get(&path).is(200).json;
    let all = told(&page);
    let none = Value::Null;
    let model = models.url();
    let asked_model = |one: &(&str, &str, &str, &str, Value, Value)| {
        (one.0, one.1, one.2, one.3) == ("ask", "POST", model.as_str(), "answered") && one.4 == 200
    };
    assert_eq!(all.len(), 4, "{page:#}");
    assert_eq!(
        all[0],
        (
            "get",
            "GET",
            "https://elsewhere.example:443",
            "refused",
            none,
            json!([0, 0])
        )
    );
    assert!(asked_model(&all[1]) && asked_model(&all[3]), "{page:#}");
    assert_eq!(
        all[2],
        (
            "get",
            "POST",
            other.as_str(),
            "answered",
            json!(200),
            json!([4, 2])
        )
    );
    let why = page["items"][0]["error"].as_str().unwrap();
    assert!(why.contains("hosts that the server allows"), "{why}");
    // Neither addresses nor secrets are in it.
    let log = server.log();
    for text in [page.to_string(), log.clone()] {
        for not in [SECRET, "a/path", "query"] {
            assert!(!text.contains(not), "{not} in {text}");
        }
    }
    assert!(log.contains("flowcell::audit") && log.contains("elsewhere.example"));
    // By page, by node, by outcome.
    let first = admin.get(&format!("{path}?limit=3")).is(200).json;
    assert_eq!(told(&first), all[..3]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = admin.get(&format!("{path}?limit=3&cursor={cursor}"));
    assert_eq!(told(&rest.is(200).json), all[3..]);
    let of_node = admin.get(&format!("{path}?node=ask&outcome=answered"));
    assert_eq!(told(&of_node.is(200).json).len(), 2);
    let refused = admin.get(&format!("{path}?outcome=refused")).is(200).json;
    assert_eq!(told(&refused), all[..1]);
    for wrong in ["outcome=lost", "limit=0", "cursor=x", "host=a"] {
        admin.get(&format!("{path}?{wrong}")).expect(400);
    }
    let metrics = admin.get("/metrics").is(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for line in [
        "flowcell_guest_requests_total{outcome=\"answered\"} 3",
        "flowcell_guest_requests_total{outcome=\"refused\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    // They are there when the session is not.
    session.stop();
    assert_eq!(told(&admin.get(&path).is(200).json).len(), 4);
    drop(server);
}

#[test]
fn host_workspace_and_session_each_take_away() {
    let (models, _server, admin, session) = start(
        "allowed_hosts = [\"127.0.0.1:*\"]\nallowed_methods = [\"GET\", \"POST\", \"PUT\"]\n",
    );
    let other = other();
    let here = workspace("");
    let ask = |session: &Session, url: &str, method: &str| {
        let out = session.out(json!({ "url": url, "method": method }));
        let page = admin.get(&session.path("/requests?limit=1")).is(200).json;
        let why = page["items"][0]["error"].as_str().unwrap_or_default();
        match out {
            Value::Number(status) => status.to_string(),
            _ => why.to_owned(),
        }
    };
    let is_refused = |why: &str, by: &str| why.contains(&format!("that {by} allows"));
    assert_eq!(ask(&session, &other, "POST"), "200");
    let why = ask(&session, &other, "DELETE");
    assert!(is_refused(&why, "the server"), "{why}");
    // The workspace allows less; the model's connection goes on all the same, although the list has neither its host nor POST.
    let rule = json!({ "allowed_methods": ["GET"] });
    let view = admin.patch(&here, json!({ "network": rule })).is(200).json;
    assert_eq!(
        view["network"],
        json!({ "allowed_hosts": null, "allowed_methods": ["GET"] })
    );
    let why = ask(&session, &other, "POST");
    assert!(is_refused(&why, "the workspace"), "{why}");
    assert_eq!(ask(&session, &other, "GET"), "200");
    // So does the session, at once and without losing its memory.
    let before = session.show();
    let rule = json!({ "allowed_hosts": ["api.example"] });
    let path = session.path("");
    let changed = admin.patch(&path, json!({ "network": rule })).is(200).json;
    assert_eq!(changed["network"]["allowed_hosts"], json!(["api.example"]));
    assert_eq!(changed["generation"], before["generation"]);
    let why = ask(&session, &other, "GET");
    assert!(is_refused(&why, "the session"), "{why}");
    let reset = admin.post(&session.path("/reset"), Value::Null).is(200);
    assert_eq!(reset.json["network"], changed["network"]);
    // A copy of it may do no more.
    let fork = admin
        .post(&session.path("/fork"), json!({ "flow": "copy" }))
        .is(201);
    assert_eq!(fork.json["network"], changed["network"]);
    // What it allows itself is no more than what the others allow.
    let all = json!({ "network": { "allowed_hosts": ["*:*"] } });
    admin.patch(&path, all).expect(200);
    assert_eq!(ask(&session, &other, "GET"), "200");
    let why = ask(&session, "https://elsewhere.example", "GET");
    assert!(is_refused(&why, "the server"), "{why}");
    // An empty list allows nothing but connections.
    let nothing = json!({ "network": { "allowed_hosts": [] } });
    admin.patch(&here, nothing).expect(200);
    let asked = models.requests().len();
    let why = ask(&session, &other, "GET");
    assert!(is_refused(&why, "the workspace"), "{why}");
    assert_eq!(models.requests().len(), asked + 1);
    admin.patch(&here, json!({ "network": {} })).expect(200);
    assert_eq!(ask(&session, &other, "GET"), "200");
    // A session can begin with a rule.
    admin.upload("other", &flow()).expect(201);
    let rule = json!({ "flow": "other", "network": { "allowed_methods": ["PUT"] } });
    let narrow = admin.start(&rule);
    let why = ask(&narrow, &other, "GET");
    assert!(is_refused(&why, "the session"), "{why}");
    for (rule, status) in [
        (json!({ "allowed_hosts": ["a.example/path"] }), 400),
        (
            json!({ "allowed_hosts": [format!("{}.x", "a".repeat(252))] }),
            400,
        ),
        (
            json!({ "allowed_hosts": vec![format!("{}.x", "a".repeat(60)); 400] }),
            422,
        ),
        (json!({ "allowed_hosts": vec!["a.example"; 501] }), 422),
        (json!({ "allowed_methods": ["get"] }), 422),
        (json!({ "hosts": [] }), 400),
    ] {
        let body = json!({ "network": rule });
        for path in [&path, &here] {
            let refused = admin.patch(path, body.clone());
            assert_eq!(refused.status, status, "{body}: {refused:#?}");
            let detail = refused.detail();
            assert!(
                detail.contains("host") || detail.contains("get"),
                "{detail}"
            );
        }
    }
}

#[test]
fn a_guest_that_asks_without_end_holds_up_nobody_else() {
    const ASKS: &str = "import socket\nheld = []\nfrom promptflow.core import tool\n@tool\ndef f(port: int):\n    \
        held.clear()\n    try:\n        while True:\n            s = socket.create_connection(('127.0.0.1', port))\n            \
        s.sendall(b'GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')\n            held.append(s)\n    \
        except OSError as error:\n        return [len(held), str(error)]\n";
    let (_models, _server, admin, session) = start(
        "allowed_hosts = [\"127.0.0.1:*\"]\n[network.limits]\nconcurrent = 3\nper_minute = 20\n",
    );
    let greedy = admin.python("greedy", ASKS, &[("port", "int")]);
    // It never answers, and tells how many it has been asked by.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (begun, all) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            begun.send(stream).unwrap();
        }
    });
    let under_way = greedy.begin("greedy", json!({ "port": port }));
    let mut open: Vec<TcpStream> = all.iter().take(3).collect();
    // Others are served meanwhile.
    let url = other();
    assert_eq!(session.out(json!({ "url": url })), 200);
    let answer = match admin.delete(&greedy.path("/calls/greedy")).status {
        // It may be over by now.
        202 | 204 | 404 => under_way.join().unwrap(),
        status => panic!("{status}"),
    };
    assert!(matches!(answer.status, 200 | 409 | 499), "{answer:#?}");
    // There were never more than so many of it, and they end when its memory does.
    greedy.stop();
    for stream in &mut open {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    assert!(all.try_recv().is_err());
    wait_until("each of its requests is told", || {
        let page = admin.get(&greedy.path("/requests?limit=1000")).is(200).json;
        let outcomes = told(&page);
        let count = |outcome| outcomes.iter().filter(|one| one.3 == outcome).count();
        // Of those that were too many, the first in a row is told.
        (count("abandoned") + count("failed") >= 3 && outcomes.len() <= 60).then_some(())
    });
}

#[test]
fn an_answer_that_a_guest_does_not_read_ends() {
    const ASKS: &str = "import socket\nheld = []\nfrom promptflow.core import tool\n@tool\ndef f(port: int):\n    \
        s = socket.create_connection(('127.0.0.1', port))\n    s.sendall(b'GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')\n    \
        held.append(s)\n    return s.recv(12).decode()\n";
    let (_models, _server, admin, _session) =
        start("allowed_hosts = [\"127.0.0.1:*\"]\n[network.limits]\ntotal_seconds = 1\n");
    let idle = admin.python("idle", ASKS, &[("port", "int")]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
            .unwrap();
        // Until the other side closes.
        let part = [b'x'; 1 << 16];
        let mut written = 0_u64;
        while written < 100_000_000 && stream.write_all(&part).is_ok() {
            written += part.len() as u64;
        }
        written
    });
    assert_eq!(idle.out(json!({ "port": port })), "HTTP/1.1 200");
    // The call is over, the instance and its socket are there, and nobody reads.
    assert!(served.join().unwrap() < 100_000_000);
    let page = wait_until("it is told", || {
        let page = admin.get(&idle.path("/requests")).is(200).json;
        (!told(&page).is_empty()).then_some(page)
    });
    let why = page["items"][0]["error"].as_str().unwrap();
    assert!(why.contains("more than 1 s"), "{why}");
}

#[test]
fn an_instance_with_idle_connections_is_stored() {
    const ASKS: &str = "import http.client, requests\nfrom promptflow.core import tool\nsession = requests.Session()\n\
        clients = {}\ncalls = 0\n@tool\ndef f(url: str):\n    global calls\n    calls += 1\n    \
        host = url.removeprefix('http://')\n    client = clients.setdefault(host, http.client.HTTPConnection(host))\n    \
        client.request('GET', '/v1/models')\n    one = client.getresponse()\n    one.read()\n    \
        return [calls, one.status, session.get(url + '/v1/models').status_code]\n";
    let (models, _server, admin, _session) = start("allowed_hosts = [\"127.0.0.1:*\"]\n");
    let session = admin.python("keeps", ASKS, &[("url", "string")]);
    let url = json!({ "url": models.url() });
    let first = session.out(url.clone());
    assert_eq!(session.out(url.clone()), json!([2, first[1], first[2]]));
    let hibernated = admin.post(&session.path("/hibernate"), Value::Null).is(200);
    assert_eq!(hibernated.json["state"], "hibernated", "{hibernated:#?}");
    assert_eq!(hibernated.json["stored"]["instances"], 1);
    assert_eq!(session.out(url), json!([3, first[1], first[2]]));
}

#[test]
fn who_takes_over_a_session_does_not_know_what_it_has_asked() {
    let (_models, server, admin, session) = start("allowed_hosts = [\"127.0.0.1:*\"]\n");
    session.stop();
    let other = other();
    let [ann, ben] = ["ann", "ben"].map(|name| server.user(name, "data-scientist"));
    let path = session.path("/requests");
    let traces = session.path("/traces");
    let count = |client: &Client, path: &str| {
        let page = client.get(path).is(200).json;
        page["items"].as_array().unwrap().len()
    };
    let url = json!({ "url": other });
    let of_ann = ann.session("asking");
    assert_eq!(of_ann.id, session.id);
    of_ann.out(url.clone());
    assert_eq!((count(&ann, &path), count(&ann, &traces)), (2, 1));
    ben.get(&path).is_problem(403, "forbidden", &["ann"]);
    // Her own earlier lives are hers.
    of_ann.stop();
    let of_ann = ann.session("asking");
    of_ann.out(url.clone());
    assert_eq!((count(&ann, &path), count(&ann, &traces)), (4, 2));
    of_ann.stop();
    let of_ben = ben.session("asking");
    assert_eq!((count(&ben, &path), count(&ben, &traces)), (0, 0));
    let hers = admin.get(&traces).is(200).json;
    let call = hers["items"][0]["call"].as_str().unwrap();
    ben.get(&format!("{traces}/{call}")).expect(404);
    of_ben.out(url);
    assert_eq!((count(&ben, &path), count(&ben, &traces)), (2, 1));
    ann.get(&path).expect(403);
    // Strangers do not even know whether there is such a workspace, or such a session.
    admin
        .post("/v1/users", json!({ "name": "eve" }))
        .expect(201);
    let key = admin.post("/v1/users/eve/keys", json!({})).is(201);
    let eve = server.client(key.text("key"));
    for of in [
        path.clone(),
        traces.clone(),
        workspace("/sessions/none/requests"),
        workspace("/sessions/none/traces"),
    ] {
        eve.get(&of).is_problem(404, "not-found", &["workspace"]);
    }
    // Owners of the workspace know all of it.
    assert_eq!((count(&admin, &path), count(&admin, &traces)), (6, 3));
}
