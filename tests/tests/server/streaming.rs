//! Answers that go out while they come.

use flowcell_tests::FlowFolder;
use flowcell_tests::openai::{Fault, Server as Models};
use flowcell_tests::server::{Client, Server, Session, Setup, workspace};
use serde_json::{Value, json};

/// A model's answer, in chunks of the mock's forty letters.
const WORDS: &str = "Forty letters of text are one chunk here, and a long answer is several chunks, one after the other.";

/// A flow whose generator is an output beside another.
fn generator(code: &str) -> FlowFolder {
    FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs:\n  text: {type: string}\noutputs:\n  length: {type: int, reference: '${count.output}'}\n  \
             answer: {type: string, reference: '${words.output}'}\nnodes:\n- name: words\n  type: python\n  \
             source: {type: code, path: words.py}\n  inputs: {text: '${inputs.text}'}\n- name: count\n  type: python\n  \
             source: {type: code, path: count.py}\n  inputs: {text: '${inputs.text}'}\n",
        )
        .file("count.py", "from promptflow.core import tool\n@tool\ndef count(text: str):\n    return len(text)\n")
        .file("words.py", code)
}

/// A flow that asks a model; with a node that reads what it says, if there is to be one.
fn asking(reader: bool) -> FlowFolder {
    let (output, more) = if reader {
        (
            "read",
            "- name: read\n  type: python\n  source: {type: code, path: read.py}\n  inputs: {text: '${ask.output}'}\n",
        )
    } else {
        ("ask", "")
    };
    FlowFolder::new()
        .file(
            "flow.dag.yaml",
            format!(
                "inputs:\n  q: {{type: string}}\noutputs:\n  said: {{type: string, reference: '${{inputs.q}}'}}\n  \
                 answer: {{type: string, reference: '${{{output}.output}}'}}\nnodes:\n- name: ask\n  type: llm\n  \
                 source: {{type: code, path: ask.jinja2}}\n  inputs: {{model: m, q: '${{inputs.q}}'}}\n  \
                 connection: model\n  api: chat\n{more}"
            ),
        )
        .file("ask.jinja2", "# user:\n{{ q }}\n")
        .file("read.py", "from promptflow.core import tool\n@tool\ndef read(text: str):\n    return text.upper()\n")
}

/// A server that may ask this machine, with a connection to a service there, and a session.
fn models(flow: &FlowFolder) -> (Models, Server, Client, Session) {
    let models = Models::start();
    let setup = Setup::config("[network]\nprivate_hosts = [\"127.0.0.1:*\"]\n");
    let server = Server::with(setup);
    let admin = server.admin();
    let connection = json!({"type": "open_ai", "api_key": "sk", "base_url": models.v1()});
    let path = workspace("/connections/model");
    admin.put(&path, connection).expect(201);
    admin.upload("asking", flow).expect(201);
    let session = admin.session("asking");
    (models, server, admin, session)
}

fn question() -> Value {
    json!({ "q": format!("[[reply: {WORDS}]]") })
}

#[test]
fn a_generator_s_items_go_out_one_by_one() {
    let server = Server::start();
    let admin = server.admin();
    let code = "from promptflow.core import tool\n@tool\ndef words(text: str):\n    for word in text.split():\n        \
                yield word\n    yield {'n': [1, None]}\n";
    admin.upload("words", &generator(code)).expect(201);
    let session = admin.session("words");
    let score = session.path("/serve/score");
    let events = admin.stream(&score, &json!({ "text": "a b" }));
    let events: Vec<Value> = events.map(Result::unwrap).collect();
    assert_eq!(
        events,
        [
            json!({ "length": 3 }),
            json!({ "answer": "a" }),
            json!({ "answer": "b" }),
            json!({ "answer": { "n": [1, null] } }),
        ]
    );
    // Who does not ask for a stream gets all of it at once.
    let whole = admin.post(&score, json!({ "text": "a b" })).is(200);
    assert_eq!(
        whole.json,
        json!({ "length": 3, "answer": "ab{'n': [1, None]}" })
    );
}

#[test]
fn a_stream_that_fails_breaks_off() {
    let server = Server::start();
    let admin = server.admin();
    let code = "from promptflow.core import tool\n@tool\ndef words(text: str):\n    yield 'one'\n    \
                raise ValueError('no more')\n";
    admin.upload("words", &generator(code)).expect(201);
    let session = admin.session("words");
    let mut events = admin.stream(&session.path("/serve/score"), &json!({ "text": "a" }));
    assert_eq!(events.next().unwrap().unwrap(), json!({ "length": 1 }));
    assert_eq!(events.next().unwrap().unwrap(), json!({ "answer": "one" }));
    let broken = events.next().unwrap();
    assert!(broken.is_err(), "{broken:?}");
    // The session goes on.
    let mut events = admin.stream(&session.path("/serve/score"), &json!({ "text": "ab" }));
    assert_eq!(events.next().unwrap().unwrap(), json!({ "length": 2 }));
}

#[test]
fn a_stream_without_an_end_is_bounded() {
    let server = Server::start();
    let admin = server.admin();
    let code = "from promptflow.core import tool\n@tool\ndef words(text: str):\n    while True:\n        yield 'x' * 100_000\n";
    admin.upload("words", &generator(code)).expect(201);
    let session = admin.session("words");
    let events = admin.stream(&session.path("/serve/score"), &json!({ "text": "a" }));
    let (mut bytes, mut broken) = (0, false);
    for event in events {
        match event {
            Ok(event) => bytes += event["answer"].as_str().map_or(0, str::len),
            Err(_) => broken = true,
        }
    }
    assert!(broken && bytes > 1 << 20 && bytes <= 64 << 20, "{bytes}");
}

#[test]
fn a_model_s_answer_is_there_before_its_end() {
    let (models, _server, admin, session) = models(&asking(false));
    models.fault(Fault::HeldInStream(2));
    let mut events = admin.stream(&session.path("/serve/score"), &question());
    assert_eq!(events.next().unwrap().unwrap()["said"], question()["q"]);
    // The model has not said more than this.
    let first = events.next().unwrap().unwrap();
    let first = first["answer"].as_str().unwrap().to_owned();
    assert!(
        WORDS.starts_with(&first) && first.len() < WORDS.len(),
        "{first}"
    );
    models.release();
    let rest = events.map(|event| event.unwrap()["answer"].as_str().unwrap().to_owned());
    let rest: Vec<String> = rest.collect();
    assert!(!rest.is_empty());
    assert_eq!(first + &rest.concat(), WORDS);
    assert!(models.requests()[0].body["stream"] == true);
}

#[test]
fn an_answer_that_another_node_reads_is_no_stream() {
    let (models, _server, admin, session) = models(&asking(true));
    let score = session.path("/serve/score");
    let headers = [("accept", "text/event-stream")];
    let refused = admin.request_with("POST", &score, &headers, &question());
    assert_eq!(refused.is(406).json["error"]["code"], "UserError");
    let both = [("accept", "text/event-stream, application/json")];
    let whole = admin
        .request_with("POST", &score, &both, &question())
        .is(200);
    assert_eq!(whole.json["answer"], WORDS.to_uppercase());
    assert!(
        models
            .requests()
            .iter()
            .all(|request| request.body["stream"] == false)
    );
}

#[test]
fn an_error_of_the_model_s_comes_instead_of_a_stream() {
    let (models, _server, admin, session) = models(&asking(false));
    models.fault(Fault::Status(400, "not this way"));
    let headers = [("accept", "text/event-stream")];
    let failed = admin.request_with("POST", &session.path("/serve/score"), &headers, &question());
    let failed = failed.is(400).json;
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("not this way"), "{failed}");
}

#[test]
fn a_client_that_leaves_ends_the_model_s_answer() {
    let (models, _server, admin, session) = models(&asking(false));
    models.fault(Fault::HeldInStream(2));
    let mut events = admin.stream(&session.path("/serve/score"), &question());
    events.next().unwrap().unwrap();
    events.next().unwrap().unwrap();
    drop(events);
    // The service finds its connection closed while it still holds the rest.
    models.wait_for_abandoned(1);
    session.wait_until("its call has ended", |session| session["active_calls"] == 0);
}
