//! Sessions of flows without a graph: flex flows and prompties.

use flowcell_tests::FlowFolder;
use flowcell_tests::openai::Server as Models;
use flowcell_tests::server::{Client, Server, Session, Setup, workspace};
use serde_json::{Value, json};

const COUNTER: &str = r#"
from dataclasses import dataclass
from typing import TypedDict

class Answer(TypedDict):
    text: str
    count: int

class Counter:
    def __init__(self, start: int, step: int = 1):
        self.count, self.step = start, step
    def __call__(self, text: str, times: int = 1) -> Answer:
        self.count += times * self.step
        return Answer(text=text, count=self.count)
    def __aggregate__(self, results: list):
        return {"sum": sum(result["count"] for result in results), "lines": len(results)}
"#;

fn counter(file: &str) -> FlowFolder {
    FlowFolder::new()
        .file("flow.flex.yaml", file)
        .file("counter.py", COUNTER)
}

fn open(admin: &Client, flow: &FlowFolder) -> Session {
    admin.upload("flex", flow).expect(201);
    admin.session("flex")
}

/// What promptflow's executor service is sent, with more.
fn base(more: Value) -> Value {
    let mut body = json!({
        "run_id": "r", "working_dir": "/w", "flow_file": "flow.flex.yaml", "output_dir": "/o", "connections": {},
        "environment_variables": {}, "log_path": "/l",
    });
    let members = body.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_class_in_calls_of_all_interfaces() {
    let server = Server::start();
    let admin = server.admin();
    let session = open(&admin, &counter("entry: counter:Counter\n"));
    let call = |init: Value| {
        let body = json!({ "inputs": { "text": "a" }, "init": init });
        session.request(&body).is(200).json
    };
    let answer = call(json!({ "start": 5 }));
    assert_eq!(answer["outputs"], json!({ "text": "a", "count": 6 }));
    assert_eq!(answer["metrics"], json!({ "sum": 6, "lines": 1 }));
    assert_eq!(
        call(json!({ "start": 1, "step": 2 }))["outputs"]["count"],
        3
    );
    let failed = call(json!({}));
    assert_eq!(failed["error"]["class"], "FlowEntryInitializationError");

    let post = |path: &str, body: Value| {
        admin
            .post(&session.path(&format!("/executor{path}")), body)
            .is(200)
            .json
    };
    let refused = base(json!({ "init_kwargs": { "begin": 10 } }));
    let refused = admin
        .post(&session.path("/executor/initialize"), refused)
        .is(400);
    let error = &refused.json["error"]["innerError"];
    assert_eq!(error["code"], "FlowEntryInitializationError");
    let begun = post(
        "/initialize",
        base(json!({ "init_kwargs": { "start": 10 }, "worker_count": 1 })),
    );
    assert_eq!(begun["has_aggregation"], true);
    assert_eq!(begun["inputs_definition"]["times"]["type"], "int");
    let mut answers = Vec::new();
    for number in 0..2 {
        let line = post(
            "/execution",
            json!({ "run_id": "r", "line_number": number, "inputs": { "text": "b" } }),
        );
        assert_eq!(line["node_run_infos"], json!({}));
        assert_eq!(line["aggregation_inputs"], json!({}));
        assert_eq!(line["run_info"]["output"]["text"], "b", "{line}");
        assert_eq!(line["output"]["line_number"], number);
        answers.push(line["output"].clone());
    }
    assert_eq!([&answers[0]["count"], &answers[1]["count"]], [11, 12]);
    let aggregated = post(
        "/aggregation",
        json!({ "run_id": "r", "batch_inputs": {}, "aggregation_inputs": answers }),
    );
    let metrics = json!({ "sum": 23, "lines": 2 });
    assert_eq!(
        aggregated,
        json!({ "output": metrics, "metrics": metrics, "node_run_infos": {} })
    );
    let wrong = json!({ "run_id": "r", "aggregation_inputs": "text" });
    admin
        .post(&session.path("/executor/aggregation"), wrong)
        .expect(422);
    let odd = json!({ "run_id": "r", "aggregation_inputs": ["no mapping"] });
    let odd = admin
        .post(&session.path("/executor/aggregation"), odd)
        .is(200);
    assert_eq!(
        odd.json,
        json!({ "output": null, "metrics": {}, "node_run_infos": {} })
    );
}

#[test]
fn a_served_class_is_made_with_what_its_flow_says() {
    let server = Server::start();
    let admin = server.admin();
    let file =
        "entry: counter:Counter\nenvironment_variables:\n  PF_FLOW_INIT_CONFIG: {start: 7}\n";
    let session = open(&admin, &counter(file));
    let score = session.path("/serve/score");
    let answer = admin.post(&score, json!({ "text": "a" })).is(200);
    assert_eq!(answer.json, json!({ "text": "a", "count": 8 }));
    let missing = admin.post(&score, json!({ "times": 1 })).is(400);
    assert_eq!(
        missing.json["error"]["message"],
        "Required input fields ['text'] are missing in request data {'times': 1}"
    );
    let described = admin.get(&session.path("/serve/swagger.json")).is(200).json;
    let operation = &described["paths"]["/score"]["post"];
    let inputs = &operation["requestBody"]["content"]["application/json"]["schema"]["properties"];
    assert_eq!(
        *inputs,
        json!({ "text": { "type": "string" }, "times": { "type": "integer", "default": 1 } })
    );
    let outputs =
        &operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"];
    assert_eq!(
        *outputs,
        json!({ "text": { "type": "string" }, "count": { "type": "integer" } })
    );
}

#[test]
fn what_is_no_mapping_reaches_the_aggregation_as_it_is() {
    let server = Server::start();
    let admin = server.admin();
    let code = "class Flow:\n    def __call__(self, x: int):\n        return f'<{x}>'\n    def __aggregate__(self, all):\n        \
                return {'longest': max(map(len, all))}\n";
    let flow = FlowFolder::new()
        .file("flow.flex.yaml", "entry: code:Flow\n")
        .file("code.py", code);
    let session = open(&admin, &flow);
    let post = |path: &str, body: Value| {
        admin
            .post(&session.path(&format!("/executor{path}")), body)
            .is(200)
            .json
    };
    let whole = post("/execution/flow", base(json!({ "inputs": { "x": 12 } })));
    assert_eq!(whole["output"], "<12>");
    assert_eq!(whole["run_info"]["output"], json!({ "output": "<12>" }));
    assert_eq!(whole["run_info"]["metrics"], Value::Null);
    post("/initialize", base(json!({})));
    let line = post(
        "/execution",
        json!({ "run_id": "r", "line_number": 3, "inputs": { "x": "100" } }),
    );
    let aggregated = post(
        "/aggregation",
        json!({ "run_id": "r", "aggregation_inputs": [line["output"], "a"] }),
    );
    assert_eq!(aggregated["metrics"], json!({ "longest": 5 }));
}

#[test]
fn an_exception_of_the_entry_is_told_as_promptflow_does() {
    let server = Server::start();
    let admin = server.admin();
    let code = "def main(x):\n    raise ValueError(f'not {x}')\n";
    let flow = FlowFolder::new()
        .file("flow.flex.yaml", "entry: code:main\n")
        .file("code.py", code);
    let session = open(&admin, &flow);
    let failed = admin
        .post(
            &session.path("/executor/execution/flow"),
            base(json!({ "inputs": { "x": "y" } })),
        )
        .is(200);
    assert_eq!(failed.json["output"], Value::Null);
    let error = &failed.json["run_info"]["error"];
    assert_eq!(
        error["message"],
        "Execution failure in 'main': (ValueError) not y"
    );
    assert_eq!(error["innerError"]["code"], "ScriptExecutionError");
    assert_eq!(
        error["messageParameters"],
        json!({ "func_name": "main", "error_type_and_message": "(ValueError) not y" })
    );
    let details = &error["additionalInfo"][0];
    assert_eq!(details["type"], "FlexFlowExecutionErrorDetails");
    assert_eq!(
        [&details["info"]["type"], &details["info"]["message"]],
        ["ValueError", "not y"]
    );
    let served = admin
        .post(&session.path("/serve/score"), json!({ "x": "y" }))
        .is(400);
    assert_eq!(
        served.json["error"]["message"],
        "Execution failure in 'main': (ValueError) not y"
    );
}

#[test]
fn a_generator_in_a_dataclass_goes_out_item_by_item() {
    let server = Server::start();
    let admin = server.admin();
    let code = "from dataclasses import dataclass\n\n@dataclass\nclass Answer:\n    words: str\n    length: int\n\n\
                async def words(text):\n    for word in text.split():\n        yield word\n    if 'fail' in text:\n        raise KeyError('end')\n\n\
                def main(text: str) -> Answer:\n    return Answer(words(text), len(text))\n\n\
                def bare(text: str):\n    yield from text\n";
    let flow = |entry: &str| {
        FlowFolder::new()
            .file("flow.flex.yaml", format!("entry: code:{entry}\n"))
            .file("code.py", code)
    };
    let session = open(&admin, &flow("main"));
    let score = session.path("/serve/score");
    let events = admin.stream(&score, &json!({ "text": "a bc" }));
    let events: Vec<Value> = events.map(Result::unwrap).collect();
    assert_eq!(
        events,
        [
            json!({ "length": 4 }),
            json!({ "words": "a" }),
            json!({ "words": "bc" })
        ]
    );
    let whole = admin.post(&score, json!({ "text": "a bc" })).is(200);
    assert_eq!(whole.json, json!({ "words": "abc", "length": 4 }));
    let broken = admin
        .stream(&score, &json!({ "text": "fail" }))
        .last()
        .unwrap();
    assert!(broken.is_err(), "{broken:?}");
    let failed = admin.post(&score, json!({ "text": "fail" })).is(400);
    assert_eq!(
        failed.json["error"]["message"],
        "Execution failure in 'main': (KeyError) 'end'"
    );

    admin.upload("bare", &flow("bare")).expect(201);
    let session = admin.session("bare");
    let events = admin.stream(&session.path("/serve/score"), &json!({ "text": "xy" }));
    let events: Vec<Value> = events.map(Result::unwrap).collect();
    assert_eq!(events, [json!({ "output": "x" }), json!({ "output": "y" })]);
}

#[test]
fn a_session_starts_from_the_memory_with_its_entrys_module() {
    let server = Server::configured("[host]\nworkers = 1\n");
    let admin = server.admin();
    let code = "import os, time\nMADE = str(time.time_ns())\nclass Flow:\n    def __init__(self, x=1):\n        self.x = x\n    \
                def __call__(self, end: bool):\n        if end:\n            os._exit(1)\n        return MADE\n";
    let flow = FlowFolder::new()
        .file("flow.flex.yaml", "entry: code:Flow\n")
        .file("code.py", code);
    let session = open(&admin, &flow);
    let made = || session.call(json!({ "end": false }))["outputs"]["output"].clone();
    made();
    session.wait_until("it starts instances from its image", |shown| {
        shown["memory"]["image"]["state"] == "ready"
    });
    let anew = || {
        assert_eq!(session.call(json!({ "end": true }))["status"], "Failed");
        made()
    };
    let first = anew();
    assert!(first.is_string());
    assert_eq!(first, anew());
}

#[test]
fn a_prompty_is_a_flow() {
    let models = Models::start();
    let server = Server::with(Setup::config(
        "[network]\nprivate_hosts = [\"127.0.0.1:*\"]\n",
    ));
    let admin = server.admin();
    let connection = json!({ "type": "open_ai", "api_key": "sk-true", "base_url": models.v1() });
    admin
        .put(&workspace("/connections/model"), connection)
        .expect(201);
    let prompty = "---\nname: Asking\nmodel:\n  api: chat\n  configuration: {type: openai, connection: model, model: m}\n  \
                   parameters: {stream: true, max_tokens: 9}\ninputs:\n  question: {type: string}\n  \
                   tone: {type: string, default: calm}\nsample:\n  question: '[[reply: from the sample]]'\n---\n\
                   system:\nBe {{tone}}.\nuser:\n{{question}}\n";
    let flow = FlowFolder::new()
        .file("ask.prompty", prompty)
        .file("notes.md", "---\n");
    admin.upload("asking", &flow).expect(201);
    let session = admin.session("asking");
    let score = session.path("/serve/score");
    let said = "[[reply: Forty letters of text are one chunk here, and this has two.]]";
    let events = admin.stream(&score, &json!({ "question": said }));
    let events: Vec<Value> = events.map(Result::unwrap).collect();
    assert!(events.len() > 1, "{events:?}");
    let whole: String = events
        .iter()
        .map(|event| event["output"].as_str().unwrap())
        .collect();
    assert_eq!(
        whole,
        said.trim_start_matches("[[reply: ").trim_end_matches("]]")
    );
    let request = &models.requests()[0];
    assert_eq!(request.header("authorization"), "Bearer sk-true");
    assert_eq!(
        request.body["messages"][0],
        json!({ "role": "system", "content": "Be calm." })
    );
    assert_eq!(request.body["max_tokens"], 9);

    let sampled = session.call(json!({}));
    assert_eq!(
        sampled["outputs"],
        json!({ "output": "from the sample" }),
        "{sampled}"
    );
    let described = admin.get(&session.path("/serve/swagger.json")).is(200).json;
    let inputs = &described["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
        ["schema"]["properties"];
    assert_eq!(
        *inputs,
        json!({ "question": { "type": "string" }, "tone": { "type": "string", "default": "calm" } })
    );
}
