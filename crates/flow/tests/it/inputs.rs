//! Inputs of lines and of tests, against the answers of the real promptflow.

use flowcell_flow::{FlowError, Json, python_repr};
use indexmap::IndexMap;
use serde_json::json;

use super::{flow, values};

const TYPES: &str = "
inputs:
  i: {type: int, default: '3'}
  d: {type: double, default: 2}
  b: {type: bool, default: 'true'}
  s: {type: string, default: 1.50}
  l: {type: list, default: '[1,2]'}
  o: {type: object, default: '{\"k\": 1}'}
  e: {type: string, default: ''}
  n: {type: string, default: null}
";

fn message(error: FlowError) -> String {
    format!("{}: {error}", error.class())
}

#[test]
fn defaults_are_converted_too() {
    let values = flow(TYPES)
        .coerce_inputs(&values(r#"{"n": "given", "more": [1]}"#), Some(0))
        .unwrap();
    assert_eq!(
        python_repr(&Json::Object(values)),
        "{'n': 'given', 'more': [1], 'i': 3, 'd': 2.0, 'b': True, 's': '1.5', 'l': [1, 2], 'o': {'k': 1}, 'e': ''}"
    );
}

#[test]
fn what_is_missing_is_told_as_the_caller_knows_it() {
    let flow = flow(TYPES);
    assert_eq!(
        message(flow.flow_test_inputs(&values("{}")).unwrap_err()),
        "UserErrorException: Required input(s) ['n'] are missing for \"flow\"."
    );
    assert_eq!(
        message(flow.coerce_inputs(&values("{}"), Some(4)).unwrap_err()),
        "InputNotFound: The input for flow is incorrect. The value for flow input 'n' is not provided in line 4 of \
         input data. Please review your input data or remove this input in your flow if it's no longer needed."
    );
    assert_eq!(
        message(flow.coerce_inputs(&values("{}"), None).unwrap_err()),
        "InputNotFound: The input for flow is incorrect. The value for flow input 'n' is not provided in input data. \
         Please review your input data or remove this input in your flow if it's no longer needed."
    );
    assert_eq!(
        super::flow("inputs: {a: {type: int}, b: {type: int}}").missing_inputs(&values("{}")),
        ["a", "b"]
    );
}

#[test]
fn wrong_values_are_told_with_their_line() {
    let flow = flow(TYPES);
    let error = |given: &str, line| message(flow.coerce_inputs(&values(given), line).unwrap_err());
    assert_eq!(
        error(r#"{"n": "", "i": "1.5"}"#, Some(0)),
        "InputTypeError: The input for flow is incorrect. The value for flow input 'i' in line 0 of input data does \
         not match the expected type 'int'. Please change flow input type or adjust the input value in your input data."
    );
    assert_eq!(
        error(r#"{"n": "", "b": 1}"#, None),
        "InputTypeError: The input for flow is incorrect. The value for flow input 'b' does not match the expected \
         type 'bool'. Please change flow input type or adjust the input value in your input data."
    );
    assert_eq!(
        error(r#"{"n": "", "l": "abc"}"#, Some(0)),
        "InputParseError: Failed to parse the flow input. The value for flow input 'l' in line 0 of input data was \
         interpreted as JSON string since its type is 'list'. However, the value 'abc' is invalid for JSON parsing. \
         Error details: (JSONDecodeError) Expecting value: line 1 column 1 (char 0). Please make sure your inputs are \
         properly formatted."
    );
    // The first in the flow's order, not in the order given.
    assert!(error(r#"{"n": "", "l": "abc", "d": "x"}"#, None).contains("flow input 'd'"));
}

#[test]
fn a_flow_test_takes_defaults_in_the_flows_order() {
    let given = values(r#"{"zz": 1, "n": "x", "d": 7}"#);
    let inputs = flow(TYPES).flow_test_inputs(&given).unwrap();
    assert_eq!(
        inputs.keys().collect::<Vec<_>>(),
        ["i", "d", "b", "s", "l", "o", "e", "n", "zz"]
    );
    assert_eq!(inputs["d"], json!(7));
    assert_eq!(inputs["i"], json!("3"));
}

#[test]
fn a_chats_history_begins_empty() {
    for input in [
        "chat_history: {type: list}",
        "h: {type: list, is_chat_history: true}",
    ] {
        let name = input.split(':').next().unwrap();
        let flow = flow(&format!("inputs: {{{input}}}"));
        assert_eq!(flow.chat_history(), Some(name));
        assert_eq!(
            flow.flow_test_inputs(&values("{}")).unwrap()[name],
            json!([])
        );
    }
    let flow = flow("inputs: {chat_history: {type: list, is_chat_history: false}}");
    assert_eq!(flow.chat_history(), None);
    assert_eq!(flow.missing_inputs(&values("{}")), ["chat_history"]);
}

#[test]
fn an_aggregation_gets_lists() {
    let flow = flow("inputs: {a: {type: int}, w: {type: int, default: '2'}, x: {type: string}}");
    let given = IndexMap::from([("a".to_owned(), vec![json!("1"), json!(2.0)])]);
    let inputs = flow.coerce_aggregated_inputs(&given, 2).unwrap();
    assert_eq!(json!(inputs), json!({"a": [1, 2], "w": [2, 2]}));
    let given = IndexMap::from([("a".to_owned(), vec![json!("1"), json!("x")])]);
    assert_eq!(
        message(flow.coerce_aggregated_inputs(&given, 2).unwrap_err()),
        "InputTypeError: The input for flow is incorrect. The value for flow input 'a' in line 1 of input data does \
         not match the expected type 'int'. Please change flow input type or adjust the input value in your input data."
    );
}

const NODES: &str = "
inputs:
  a: {type: string, default: w}
  b: {type: int}
nodes:
- {name: n1, type: python, source: {path: d.py}, inputs: {x: '${inputs.a}'}}
- {name: n2, type: python, source: {path: r.py}, inputs: {x: '${n1.output.k}', y: '${inputs.a}', z: 5}}
- {name: n3, type: python, source: {path: r.py}, inputs: {x: '${inputs.b}'}}
- {name: n4, type: python, source: {path: r.py}, inputs: {x: '${n1.output.l[1].m}', y: '${n1.output.k}'}}
- {name: n5, type: python, source: {path: r.py}, inputs: {x: '${inputs.zz}'}}
";

/// The flow inputs and node outputs of a node test.
fn node_test(node: &str, given: &str) -> Result<(Json, Json), String> {
    let inputs = flow(NODES)
        .node_test_inputs(node, &values(given))
        .map_err(message)?;
    Ok((Json::Object(inputs.flow_inputs), json!(inputs.node_outputs)))
}

#[test]
fn a_node_test_takes_references_or_names() {
    for (node, given, flow_inputs, node_outputs) in [
        ("n1", "{}", json!({"a": "w"}), json!({})),
        (
            "n1",
            r#"{"inputs.a": "given"}"#,
            json!({"a": "given"}),
            json!({}),
        ),
        (
            "n1",
            r#"{"flow.a": "given"}"#,
            json!({"a": "given"}),
            json!({}),
        ),
        (
            "n1",
            r#"{"x": "by name"}"#,
            json!({"a": "by name"}),
            json!({}),
        ),
        (
            "n2",
            r#"{"n1.output.k": "K"}"#,
            json!({"a": "w", "z": 5}),
            json!({"n1": {"k": "K"}}),
        ),
        (
            "n2",
            r#"{"x": "X", "y": "Y", "z": 6, "more": 1}"#,
            json!({"a": "Y", "z": 6, "more": 1}),
            json!({"n1": {"k": "X"}}),
        ),
        (
            "n2",
            r#"{"x": {"k": "inside"}}"#,
            json!({"a": "w", "z": 5}),
            json!({"n1": {"k": "inside"}}),
        ),
        (
            "n4",
            r#"{"x": 1, "y": 2}"#,
            json!({}),
            json!({"n1": {"l": [null, {"m": 1}], "k": 2}}),
        ),
    ] {
        assert_eq!(
            node_test(node, given),
            Ok((flow_inputs, node_outputs)),
            "{node} with {given}"
        );
    }
}

#[test]
fn a_node_test_refuses_as_the_cli_does() {
    for (node, given, expected) in [
        (
            "n2",
            "{}",
            "UserErrorException: Required input(s) ['x'] are missing for \"n2\".",
        ),
        (
            "n3",
            "{}",
            "UserErrorException: Required input(s) ['x'] are missing for \"n3\".",
        ),
        (
            "nope",
            "{}",
            "UserErrorException: Cannot find nope in the flow.",
        ),
        (
            "n5",
            "{}",
            "InputNotFound: The input for node is incorrect. Node input 'zz' is not found from flow inputs of node \
             'n5'. Please review the node definition in your flow.",
        ),
    ] {
        assert_eq!(node_test(node, given), Err(expected.to_owned()));
    }
    let flow = flow(NODES);
    assert_eq!(
        flow.coerce_node_inputs("n3", &values(r#"{"b": "7"}"#))
            .unwrap(),
        values(r#"{"b": 7}"#)
    );
    assert_eq!(
        message(
            flow.coerce_node_inputs("n3", &values(r#"{"b": "x"}"#))
                .unwrap_err()
        ),
        "InputTypeError: The input for node is incorrect. Value for input 'x' of node 'n3' is not type 'int'. Please \
         review and rectify the input data."
    );
    assert_eq!(
        message(flow.coerce_node_inputs("n3", &values("{}")).unwrap_err()),
        "InputNotFound: The input for node is incorrect. Node input 'b' is not found in input data for node 'n3'. \
         Please verify the inputs data for the node."
    );
}
