//! What happened in calls: spans of flow, nodes, functions and models.

use flowcell_tests::FlowFolder;
use flowcell_tests::openai::Server as Models;
use flowcell_tests::server::{Client, Server, Session, Setup, workspace};
use serde_json::{Value, json};

/// A flow that asks a model by a node and by promptflow's function, within a function that is marked.
fn flow() -> FlowFolder {
    FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs:\n  q: {type: string}\noutputs:\n  answer: {type: string, reference: '${twice.output}'}\nnodes:\n\
             - name: ask\n  type: llm\n  source: {type: code, path: ask.jinja2}\n  inputs: {model: m, q: '${inputs.q}'}\n  \
             connection: model\n  api: chat\n- name: twice\n  type: python\n  source: {type: code, path: twice.py}\n  \
             inputs: {text: '${ask.output}', model: model}\n",
        )
        .file("ask.jinja2", "# user:\n{{ q }}\n")
        .file(
            "twice.py",
            "from promptflow.connections import OpenAIConnection\nfrom promptflow.core import tool\n\
             from promptflow.tracing import trace\n@trace\ndef again(text, model):\n    \
             from promptflow.tools.openai import chat\n    return chat(model, prompt='# user:\\n' + text, model='n')\n\
             @tool\ndef twice(text: str, model: OpenAIConnection):\n    return again(text, model)\n",
        )
}

fn start() -> (Models, Server, Client, Session) {
    let models = Models::start();
    let setup = Setup::config("[network]\nprivate_hosts = [\"127.0.0.1:*\"]\n");
    let server = Server::with(setup);
    let admin = server.admin();
    let connection = json!({"type": "open_ai", "api_key": "sk-hunter2", "base_url": models.v1()});
    let path = workspace("/connections/model");
    admin.put(&path, connection).expect(201);
    admin.upload("traced", &flow()).expect(201);
    let session = admin.session("traced");
    (models, server, admin, session)
}

/// The spans with their parents' names.
fn tree(trace: &Value) -> Vec<(&str, &str, &str)> {
    let spans = trace["spans"].as_array().unwrap();
    let name = |place: &Value| {
        let parent = place
            .as_u64()
            .and_then(|place| spans.get(usize::try_from(place).ok()?));
        parent.map_or("", |span| span["name"].as_str().unwrap())
    };
    let each = spans.iter().map(|span| {
        let text = |member: &str| span[member].as_str().unwrap();
        (text("kind"), text("name"), name(&span["parent"]))
    });
    each.collect()
}

#[test]
fn a_call_has_a_trace() {
    let (_models, server, admin, session) = start();
    let question = json!({ "q": "the secret question [[reply: yes]]" });
    let called = admin.post(
        &session.path("/calls"),
        json!({ "inputs": question, "id": "mine" }),
    );
    assert_eq!(called.is(200).json["status"], "Completed");
    let listed = admin.get(&session.path("/traces")).is(200).json;
    let [summary] = listed["items"].as_array().unwrap().as_slice() else {
        panic!("{listed}");
    };
    assert_eq!(
        (&summary["call"], &summary["status"]),
        (&json!("mine"), &json!("ok"))
    );
    assert_eq!(summary["tokens"], json!({ "input": 22, "output": 8 }));
    let by_call = admin.get(&session.path("/traces/mine")).is(200).json;
    let id = summary["id"].as_str().unwrap();
    let by_id = admin
        .get(&session.path(&format!("/traces/{id}")))
        .is(200)
        .json;
    assert_eq!(by_call, by_id);
    assert_eq!(
        tree(&by_id),
        [
            ("flow", "traced", ""),
            ("node", "ask", "traced"),
            ("model", "chat m", "ask"),
            ("node", "twice", "traced"),
            ("function", "again", "twice"),
            ("model", "chat n", "again"),
        ]
    );
    let model = &by_id["spans"][2]["attributes"];
    assert_eq!(model["gen_ai.usage.input_tokens"], 11);
    assert_eq!(model["gen_ai.request.model"], "m");
    // Nobody has allowed it to hold what was asked.
    assert!(!by_id.to_string().contains("secret question"), "{by_id}");
    // What it took is counted.
    let metrics = admin.get("/metrics").is(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        metrics.contains("flowcell_model_input_tokens_total 22"),
        "{metrics}"
    );
    admin
        .get(&session.path("/traces/other"))
        .is_problem(404, "not-found", &["other"]);
    drop(server);
}

#[test]
fn what_a_record_holds_is_not_in_a_trace_that_may_not() {
    let (_models, _server, admin, session) = start();
    let run = json!({
        "run_id": "r", "working_dir": "/w", "flow_file": "flow.dag.yaml", "output_dir": "/o", "connections": {},
        "inputs": { "q": "the secret question [[reply: yes]]" },
    });
    let record = admin
        .post(&session.path("/executor/execution/flow"), run)
        .is(200);
    assert!(record.json.to_string().contains("secret question"));
    let trace = admin.get(&session.path("/traces/r")).is(200).json;
    assert_eq!(tree(&trace).len(), 6);
    assert!(!trace.to_string().contains("secret question"), "{trace}");
}

#[test]
fn a_trace_holds_what_was_asked_where_the_workspace_allows_it() {
    let (_models, _server, admin, session) = start();
    let allowed = admin.patch("/v1/workspaces/default", json!({ "trace_content": true }));
    assert_eq!(allowed.is(200).json["trace_content"], true);
    admin
        .post(
            &session.path("/calls"),
            json!({ "inputs": { "q": "what? [[reply: yes]]" }, "id": "c" }),
        )
        .expect(200);
    let trace = admin.get(&session.path("/traces/c")).is(200).json;
    let model = &trace["spans"][2]["attributes"];
    assert_eq!(
        model["gen_ai.input.messages"][0]["parts"][0]["content"],
        "what? [[reply: yes]]"
    );
    assert_eq!(
        model["gen_ai.output.messages"][0]["parts"][0]["content"],
        "yes"
    );
    assert_eq!(
        trace["spans"][4]["attributes"]["output"]
            .as_str()
            .map(|said| said.contains("yes")),
        Some(true)
    );
    assert!(!trace.to_string().contains("hunter2"), "{trace}");
}

#[test]
fn what_fails_says_so_and_a_trace_can_be_part_of_another() {
    let (models, _server, admin, session) = start();
    models.fault(flowcell_tests::openai::Fault::Status(400, "not this way"));
    let parent = [(
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )];
    let call = json!({ "inputs": { "q": "x" }, "id": "c" });
    let called = admin.request_with("POST", &session.path("/calls"), &parent, &call);
    assert_eq!(called.is(200).json["status"], "Failed");
    let trace = admin.get(&session.path("/traces/c")).is(200).json;
    assert_eq!(trace["trace"]["id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    let statuses: Vec<&Value> = trace["spans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|span| &span["status"])
        .collect();
    assert_eq!(statuses, ["error", "error", "error"]);
    let model = &trace["spans"][2];
    assert_eq!(model["attributes"]["error.type"], "BadRequestError");
    assert!(
        model["error"].as_str().unwrap().contains("not this way"),
        "{model}"
    );
}

#[test]
fn a_stream_s_trace_has_all_of_it() {
    let (_models, _server, admin, _) = start();
    let streaming = FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs:\n  q: {type: string}\noutputs:\n  answer: {type: string, reference: '${ask.output}'}\nnodes:\n\
             - name: ask\n  type: llm\n  source: {type: code, path: ask.jinja2}\n  inputs: {model: m, q: '${inputs.q}'}\n  \
             connection: model\n  api: chat\n",
        )
        .file("ask.jinja2", "# user:\n{{ q }}\n");
    admin.upload("streaming", &streaming).expect(201);
    let session = admin.session("streaming");
    let events = admin.stream(
        &session.path("/serve/score"),
        &json!({ "q": "[[reply: yes]]" }),
    );
    assert!(events.map(Result::unwrap).count() > 0);
    let listed = session.wait_until("its trace is there", |_| {
        let traces = admin.get(&session.path("/traces")).json;
        traces["items"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
    drop(listed);
    let listed = admin.get(&session.path("/traces")).json;
    let id = listed["items"][0]["id"].as_str().unwrap();
    let trace = admin
        .get(&session.path(&format!("/traces/{id}")))
        .is(200)
        .json;
    assert_eq!(
        tree(&trace),
        [
            ("flow", "streaming", ""),
            ("node", "ask", "streaming"),
            ("model", "chat m", "ask")
        ]
    );
    assert_eq!(trace["spans"][2]["status"], "ok");
}
