//! Flows without a graph.

use flowcell_flow::{AGGREGATE, Assignment, EntryKind, Flow, FlowError, JsonMap, SourceKind};
use serde_json::json;

use crate::flow;

const FLEX: &str = "entry: deep.er:Class\ncode: ./src/../lib\ninputs:\n  n: {type: int, default: 3}\n  open: {type: int, default: ''}\n\
                    init:\n  a: {type: AzureOpenAIModelConfiguration}\n  b: {type: string, default: of the file}\n  c: {type: string, default: ''}\n\
                    sample:\n  inputs: {n: 7}\n  init: {a: sample}\nnodes: []\n";

fn map(value: serde_json::Value) -> JsonMap {
    value.as_object().cloned().unwrap_or_default()
}

#[test]
fn a_flex_flow_has_a_node_that_calls_its_entry() {
    let flow = flow(FLEX);
    let entry = flow.entry.clone().unwrap();
    assert_eq!(entry.source(), "entry:lib/deep.er:Class");
    let [node] = flow.nodes.as_slice() else {
        panic!("{:?}", flow.nodes)
    };
    let source = node.source.clone().unwrap();
    assert_eq!(
        (node.name.as_str(), &source.kind),
        ("Class", &SourceKind::Entry)
    );
    assert_eq!(source.path.as_deref(), Some("entry:lib/deep.er:Class"));
    let graph = flow.validate().unwrap();
    assert_eq!((graph.line, graph.aggregation), (vec![0], vec![]));

    let mut aggregating = flow.clone();
    aggregating.nodes.push(entry.aggregation("results"));
    let graph = aggregating.validate().unwrap();
    assert_eq!((graph.line, graph.aggregation), (vec![0], vec![1]));
    let node = &aggregating.nodes[1];
    assert_eq!(node.name, AGGREGATE);
    assert_eq!(
        node.inputs["results"],
        Assignment::parse(&json!("${Class}"))
    );

    let notes: Vec<String> = flow.lint().into_iter().map(|note| note.message).collect();
    assert_eq!(
        notes,
        ["The key 'nodes' of the flex flow is unknown and ignored."]
    );
}

#[test]
fn what_a_flex_flow_is_called_with() {
    let flow = flow(FLEX);
    let inputs = |given| {
        flow.coerce_inputs(&map(given), Some(4))
            .map_err(|error| error.to_string())
    };
    assert_eq!(inputs(json!({})), Ok(map(json!({ "n": 7 }))));
    assert_eq!(
        inputs(json!({ "x": 1 })),
        Ok(map(json!({ "x": 1, "n": 3 })))
    );
    // A default that is empty is none, and no type.
    assert_eq!(
        inputs(json!({ "open": [], "n": "4" })),
        Ok(map(json!({ "open": [], "n": 4 })))
    );
    assert_eq!(
        inputs(json!({ "n": "x" })),
        Err("The input for flow is incorrect. The value for flow input 'n' does not match the expected type 'int'. Please change \
             flow input type or adjust the input value in your input data.".to_owned())
    );
    let entry = flow.entry.unwrap();
    let init = |given| entry.init_values(&map(given));
    assert_eq!(
        init(json!({})),
        map(json!({ "a": "sample", "b": "of the file" }))
    );
    assert_eq!(init(json!({ "b": 1 })), map(json!({ "b": 1 })));
}

#[test]
fn a_prompty_is_its_front_matter() {
    let text = "\r\n----\r\nname: Asks\r\ntags: [a]\r\nmodel: {api: chat}\r\ninputs:\r\n  q: {type: string}\r\n----\r\nuser:\r\n{{q}}\r\n--- \r\n";
    let flow = Flow::parse_prompty(text, "ask.prompty", "ask").unwrap();
    let entry = flow.entry.clone().unwrap();
    assert_eq!(
        (flow.name.as_str(), entry.kind.clone()),
        ("Asks", EntryKind::Prompty)
    );
    assert_eq!(entry.source(), "entry:ask.prompty");
    assert_eq!(flow.nodes[0].name, "ask");
    assert_eq!(flow.inputs.keys().collect::<Vec<_>>(), ["q"]);
    assert_eq!(flow.lint(), []);
    let error = |text: &str| Flow::parse_prompty(text, "a.prompty", "a").unwrap_err();
    let shown = |error: FlowError| (error.class(), error.location().map(|at| at.to_string()));
    for none in ["", "user:\nwhat?\n", "---\nname: a\n", "---"] {
        let error = error(none);
        assert!(
            error
                .to_string()
                .starts_with("Illegal formatting of prompty."),
            "{none}: {error}"
        );
    }
    assert_eq!(
        shown(error("---\nname: a\ninputs:\n  q: {type: text}\n---\n")),
        ("ValueError", Some("line 4 column 13".to_owned()))
    );
    assert_eq!(
        shown(error("---\n- a\n---\n")),
        ("FlowDefinitionError", Some("line 2 column 1".to_owned()))
    );
}
