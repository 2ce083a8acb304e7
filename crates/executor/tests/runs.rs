//! Lines, aggregation and single nodes apart, and what a run tells while it goes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{flow, json, map, open};
use flowcell_executor::{FlowResult, NodeStatus, RunEvent, RunOptions, Session};
use flowcell_flow::NodeTestInputs;
use flowcell_tests::FlowFolder;
use serde_json::{Value, json};

/// A line node (with a condition), and aggregation nodes over it, over the input, and over each other.
const BATCH: &str = "
inputs:
  x: {type: int}
  d: {type: string, default: dd}
outputs:
  o: {type: int, reference: '${inputs.x}'}
nodes:
- name: line
  type: python
  source: {type: code, path: line.py}
  inputs: {x: '${inputs.x}'}
  activate: {when: '${inputs.d}', is: dd}
- name: sum
  type: python
  source: {type: code, path: sum.py}
  inputs: {whole: '${line.output}', v: '${line.output.v}', xs: '${inputs.x}', ds: '${inputs.d}', literal: 5}
  aggregation: true
- name: after
  type: python
  source: {type: code, path: after.py}
  inputs: {total: '${sum.output}'}
  aggregation: true
";
const LINE: (&str, &str) = ("line.py", "def f(x):\n    return {'v': x}");
const SUM: (&str, &str) = (
    "sum.py",
    "def f(whole, v, xs, ds, literal):\n    log_metric('lines', len(v))\n    return [whole, v, xs, ds, literal]",
);
const AFTER: (&str, &str) = (
    "after.py",
    "def f(total):\n    print(total)\n    return len(total)",
);

fn batch() -> FlowFolder {
    flow(BATCH, &[LINE, SUM, AFTER])
}

async fn line(
    session: &Session,
    inputs: Value,
    number: Option<u64>,
) -> flowcell_executor::LineResult {
    session
        .run_line(&map(inputs), number, &RunOptions::default())
        .await
}

async fn aggregate(session: &Session, inputs: Value, aggregation_inputs: Value) -> FlowResult {
    let (inputs, aggregation_inputs) = (map(inputs), map(aggregation_inputs));
    session
        .aggregate(&inputs, &aggregation_inputs, &RunOptions::default())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_give_what_the_aggregation_takes() {
    let flow = batch();
    let session = open(&flow, |_| {}).await.unwrap();
    let mut lists: Vec<(String, Vec<Value>)> = Vec::new();
    for x in ["1", "2"] {
        let result = line(&session, json!({ "x": x, "more": 1 }), Some(0)).await;
        assert_eq!(result.outputs.unwrap(), format!("{{\"o\": {x}}}"));
        // Converted, with defaults, and with what the flow does not know.
        let inputs = Value::Object((*result.inputs).clone());
        assert_eq!(inputs, json!({ "x": json(x), "more": 1, "d": "dd" }));
        assert_eq!(result.nodes.len(), 1);
        for (place, (reference, text)) in result.aggregation_inputs.into_iter().enumerate() {
            if lists.len() <= place {
                lists.push((reference, Vec::new()));
            }
            lists[place].1.push(json(&text));
        }
    }
    let aggregation_inputs =
        json!({ "${line.output}": [{"v": 1}, {"v": 2}], "${line.output.v}": [1, 2] });
    let collected = lists
        .into_iter()
        .map(|(key, list)| (key, Value::Array(list)));
    assert_eq!(Value::Object(collected.collect()), aggregation_inputs);

    // Inputs are converted; one with a default is repeated; one that the flow does not have is dropped.
    let result = aggregate(
        &session,
        json!({ "x": ["1", 2], "zz": [0, 0] }),
        aggregation_inputs,
    )
    .await;
    assert_eq!(
        json(&result.outputs.unwrap()),
        json!({ "sum": [[{"v": 1}, {"v": 2}], [1, 2], [1, 2], ["dd", "dd"], 5], "after": 5 })
    );
    assert_eq!(result.metrics["lines"], "2");
    assert!(result.nodes[1].logs.stdout.contains("'dd'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregation_of_no_lines_and_of_bypassed_ones() {
    let flow = batch();
    let session = open(&flow, |_| {}).await.unwrap();
    let nothing = json!({ "${line.output}": [], "${line.output.v}": [] });
    let result = aggregate(&session, json!({ "x": [], "d": [] }), nothing).await;
    assert_eq!(
        json(&result.outputs.unwrap())["sum"],
        json!([[], [], [], [], 5])
    );

    // promptflow: a property of a bypassed node's None is an error of the line, although its outputs are there.
    let result = line(&session, json!({ "x": 1, "d": "off" }), Some(0)).await;
    let error = result.outputs.unwrap_err();
    assert_eq!(error.class, "InvalidReferenceProperty");
    assert!(result.aggregation_inputs.is_empty());
    assert_eq!(result.nodes[0].status, NodeStatus::Bypassed);
    let test = session
        .run(&map(json!({ "x": 1, "d": "off" })), &RunOptions::default())
        .await;
    assert_eq!(test.outputs.unwrap_err().class, "InvalidReferenceProperty");

    // Without the property, the aggregation runs over None: what it reads of a line is no dependency.
    let whole = BATCH.replace("${line.output.v}", "${line.output}");
    let flow = common::flow(&whole, &[LINE, SUM, AFTER]);
    let session = open(&flow, |_| {}).await.unwrap();
    let result = line(&session, json!({ "x": 1, "d": "off" }), None).await;
    assert_eq!(result.aggregation_inputs["${line.output}"], "null");
    let test = session
        .run(&map(json!({ "x": 1, "d": "off" })), &RunOptions::default())
        .await;
    assert_eq!(test.metrics["lines"], "1");
    let statuses: Vec<_> = test.nodes.iter().map(|node| node.status).collect();
    let completed = NodeStatus::Completed;
    assert_eq!(statuses, [NodeStatus::Bypassed, completed, completed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_lists_are_refused_in_promptflows_words() {
    let flow = batch();
    let session = open(&flow, |_| {}).await.unwrap();
    let good = json!({ "${line.output}": [1], "${line.output.v}": [1] });
    let start = "The input for aggregation is incorrect. ";
    for (inputs, aggregation_inputs, class, message) in [
        (json!({ "x": "a" }), good.clone(), "InvalidAggregationInput", format!("{start}The value for aggregated flow input 'x' should be a list, but received str. Please adjust the input value to match the expected format.")),
        (json!({ "x": [1] }), json!({ "${line.output}": {} }), "InvalidAggregationInput", format!("{start}The value for aggregated reference input '${{line.output}}' should be a list, but received dict. Please adjust the input value to match the expected format.")),
        (json!({ "x": [1], "d": [] }), good.clone(), "InvalidAggregationInput", format!("{start}The length of all aggregated inputs should be the same. Current input lengths are: {{'x': 1, 'd': 0, '${{line.output}}': 1, '${{line.output.v}}': 1}}. Please adjust the input value in your input data.")),
        (json!({ "${line.output}": [1] }), good.clone(), "InvalidAggregationInput", format!("{start}The input '${{line.output}}' appears in both aggregated flow input and aggregated reference input. Please remove one of them and try the operation again.")),
        (json!({ "x": ["no number"] }), good.clone(), "InputTypeError", "The input for flow is incorrect. The value for flow input 'x' in line 0 of input data does not match the expected type 'int'. Please change flow input type or adjust the input value in your input data.".to_owned()),
        (json!({ "x": [1] }), json!({ "${line.output}": [1] }), "NoNodeExecutedError", "No nodes are ready for execution, but the flow is not completed.".to_owned()),
    ] {
        let error = aggregate(&session, inputs, aggregation_inputs).await.outputs.unwrap_err();
        assert_eq!((error.class.as_str(), error.message), (class, message));
    }
    // An input that nothing gives: the node that reads it fails, and with it the one behind.
    let result = aggregate(&session, json!({}), good).await;
    assert_eq!(result.outputs.unwrap(), "{}");
    assert_eq!(result.nodes.len(), 1);
    assert_eq!(
        result.nodes[0].error.as_ref().unwrap().class,
        "InputNotFound"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_aggregation_node_stops_only_what_reads_it() {
    let yaml = "inputs: {}\noutputs: {}\nnodes:\n- {name: line, type: python, source: {type: code, path: line.py}, inputs: {}}\n- {name: bad, type: python, source: {type: code, path: bad.py}, inputs: {xs: '${line.output}'}, aggregation: true}\n- {name: behind, type: python, source: {type: code, path: id.py}, inputs: {x: '${bad.output}'}, aggregation: true}\n- {name: other, type: python, source: {type: code, path: id.py}, inputs: {x: '${line.output}'}, aggregation: true}\n";
    let flow = flow(
        yaml,
        &[
            ("line.py", "def f(): return {1}"),
            ("bad.py", "def f(xs): raise ValueError('no')"),
            ("id.py", "def f(x): return tuple(x)"),
        ],
    );
    let session = open(&flow, |_| {}).await.unwrap();
    // A set has no JSON form; its repr stands for it.
    let result = line(&session, json!({}), None).await;
    assert_eq!(result.aggregation_inputs["${line.output}"], "\"{1}\"");
    let result = aggregate(&session, json!({}), json!({ "${line.output}": [1, 2] })).await;
    assert_eq!(result.outputs.unwrap(), "{\"other\": [1, 2]}");
    let ends: Vec<_> = result
        .nodes
        .iter()
        .map(|node| (node.name.as_str(), node.status, node.error.is_some()))
        .collect();
    assert_eq!(
        ends,
        [
            ("bad", NodeStatus::Failed, true),
            ("other", NodeStatus::Completed, false)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregation_loads_images_and_a_flow_without_it_has_nothing_to_do() {
    let yaml = "inputs:\n  i: {type: image}\noutputs: {}\nnodes:\n- {name: line, type: python, source: {type: code, path: line.py}, inputs: {i: '${inputs.i}'}}\n- {name: kinds, type: python, source: {type: code, path: kinds.py}, inputs: {a: '${line.output}', b: '${inputs.i}'}, aggregation: true}\n";
    let flow = flow(
        yaml,
        &[
            ("line.py", "def f(i): return i"),
            (
                "kinds.py",
                "def f(a, b): return [type(x).__name__ for x in a + b]",
            ),
        ],
    );
    let session = open(&flow, |_| {}).await.unwrap();
    let image = json!({ "data:image/png;base64": "iVBORw0KGgo=" });
    let result = line(&session, json!({ "i": image }), None).await;
    result.outputs.unwrap();
    let given = json(&result.aggregation_inputs["${line.output}"]);
    assert_eq!(given, image);
    let result = aggregate(
        &session,
        json!({ "i": [image] }),
        json!({ "${line.output}": [given] }),
    )
    .await;
    assert_eq!(
        result.outputs.unwrap(),
        "{\"kinds\": [\"Image\",\"Image\"]}"
    );

    let plain = FlowFolder::python(
        "from promptflow.core import tool\n@tool\ndef t(): return 1\n",
        &[],
    );
    let session = open(&plain, |_| {}).await.unwrap();
    let result = aggregate(&session, json!({}), json!({})).await;
    assert_eq!(result.outputs.unwrap(), "{}");
    assert!(
        line(&session, json!({}), None)
            .await
            .aggregation_inputs
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_have_the_number_of_the_line() {
    let flow = FlowFolder::python(
        "from promptflow.core import tool\n@tool\ndef t(x: int):\n    while True: pass\n",
        &[("x", "int")],
    );
    let session = open(&flow, |options| {
        options.limits.wall_time = Duration::from_millis(500);
    })
    .await
    .unwrap();
    for (number, missing, late) in [
        (Some(7), "in line 7 of", "Line 7 execution timeout"),
        (
            None,
            "not provided in input data",
            "Line None execution timeout",
        ),
    ] {
        let error = line(&session, json!({}), number).await.outputs.unwrap_err();
        assert_eq!(error.class, "InputNotFound");
        assert!(error.message.contains(missing), "{error:?}");
        let error = line(&session, json!({ "x": 1 }), number)
            .await
            .outputs
            .unwrap_err();
        assert_eq!(error.class, "LineExecutionTimeoutError");
        assert!(error.message.contains(late), "{error:?}");
    }
}

/// Two nodes at the same time, then one that reads both, and one that is bypassed.
const DIAMOND: &str = "
inputs:
  how: {type: string}
outputs:
  o: {type: string, reference: '${last.output}'}
nodes:
- {name: a, type: python, source: {type: code, path: a.py}, inputs: {how: '${inputs.how}'}}
- {name: b, type: python, source: {type: code, path: b.py}, inputs: {how: '${inputs.how}'}}
- {name: off, type: python, source: {type: code, path: b.py}, inputs: {how: x}, activate: {when: '${inputs.how}', is: never}}
- {name: last, type: python, source: {type: code, path: last.py}, inputs: {a: '${a.output}', b: '${b.output}', off: '${off.output}'}}
";

fn diamond() -> FlowFolder {
    flow(
        DIAMOND,
        &[
            (
                "a.py",
                "def f(how):\n    if how == 'fail': raise ValueError('no')\n    print('a', how)\n    return how",
            ),
            (
                "b.py",
                "def f(how):\n    while how == 'fail': pass\n    return how",
            ),
            ("last.py", "def f(a, b, off): return f'{a}{b}{off}'"),
        ],
    )
}

async fn watched(session: &Session, how: &str) -> (FlowResult, Vec<String>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&events);
    let options = RunOptions {
        observer: Some(Arc::new(move |event: RunEvent<'_>| {
            let text = match event {
                RunEvent::NodeStarted { node } => format!("start {node}"),
                RunEvent::NodeEnded(node) => {
                    let printed = node.logs.stdout.trim_end();
                    format!("end {} {} {printed}", node.name, node.status.as_str())
                }
                _ => return,
            };
            heard.lock().unwrap().push(text.trim_end().to_owned());
        })),
        ..RunOptions::default()
    };
    let result = session.run(&map(json!({ "how": how })), &options).await;
    let events = events.lock().unwrap().clone();
    (result, events)
}

fn place(events: &[String], event: &str) -> usize {
    let place = events.iter().position(|other| other == event);
    place.unwrap_or_else(|| panic!("no {event:?} in {events:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_the_order_of_what_happens() {
    let flow = diamond();
    let session = open(&flow, |_| {}).await.unwrap();
    let (result, events) = watched(&session, "x").await;
    assert_eq!(result.outputs.unwrap(), "{\"o\": \"xxNone\"}");
    assert_eq!(events.len(), 7, "{events:?}");
    let last = place(&events, "start last");
    for before in ["end a Completed a x", "end b Completed", "end off Bypassed"] {
        assert!(place(&events, before) < last, "{events:?}");
    }
    assert!(place(&events, "start a") < place(&events, "end a Completed a x"));
    assert!(place(&events, "start b") < place(&events, "end b Completed"));
    assert_eq!(events.last().unwrap(), "end last Completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_ends_the_others_and_everybody_hears_of_it() {
    let flow = diamond();
    let session = open(&flow, |_| {}).await.unwrap();
    let (result, events) = watched(&session, "fail").await;
    assert_eq!(result.outputs.unwrap_err().class, "ToolExecutionError");
    place(&events, "end a Failed");
    place(&events, "end b Canceled");
    // Whether the bypassed node was begun by then is a matter of luck.
    assert!(events.last().unwrap().ends_with(" Canceled"), "{events:?}");
    assert!(!events.iter().any(|event| event.contains("last")));
    let failed = result.nodes.iter().find(|node| node.name == "a").unwrap();
    assert_eq!(failed.error.as_ref().unwrap().class, "ToolExecutionError");
    // The session goes on.
    watched(&session, "x").await.0.outputs.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_values_are_the_nodes_and_change_nothing() {
    let yaml = "inputs:\n  x: {type: int}\noutputs:\n  o: {type: string, reference: '${stream.output}'}\n  p: {type: list, reference: '${pair.output}'}\nnodes:\n- {name: stream, type: python, source: {type: code, path: stream.py}, inputs: {x: '${inputs.x}'}}\n- {name: pair, type: python, source: {type: code, path: pair.py}, inputs: {x: '${inputs.x}', y: text}}\n- {name: set, type: python, source: {type: code, path: set.py}, inputs: {pair: '${pair.output}'}}\n- {name: bad, type: python, source: {type: code, path: bad.py}, inputs: {s: '${set.output}'}, activate: {when: '${inputs.x}', is: 2}}\n";
    let flow = flow(
        yaml,
        &[
            ("stream.py", "def f(x): yield from 'abc'"),
            ("pair.py", "def f(x, y): return (x, float('nan'))"),
            ("set.py", "def f(pair): return {pair[0]}"),
            ("bad.py", "def f(s): raise ValueError('no')"),
        ],
    );
    let session = open(&flow, |_| {}).await.unwrap();
    let capture = RunOptions {
        capture: true,
        ..RunOptions::default()
    };
    let plain = session
        .run(&map(json!({ "x": 1 })), &RunOptions::default())
        .await;
    assert!(plain.nodes.iter().all(|node| node.captured.is_none()));
    let result = session.run(&map(json!({ "x": 1 })), &capture).await;
    assert_eq!(result.outputs.unwrap(), plain.outputs.unwrap());
    let of = |result: &[flowcell_executor::NodeResult], name: &str| {
        let node = result.iter().find(|node| node.name == name).unwrap();
        node.captured.clone()
    };
    let pair = of(&result.nodes, "pair").unwrap();
    assert_eq!(pair.inputs, "{\"x\": 1, \"y\": \"text\"}");
    assert_eq!(pair.output.unwrap(), "[1, NaN]");
    let set = of(&result.nodes, "set").unwrap();
    assert_eq!(set.inputs, "{\"pair\": [1, NaN]}");
    assert_eq!(set.output.unwrap(), "\"{1}\"");
    let stream = of(&result.nodes, "stream").unwrap().output.unwrap();
    assert!(stream.starts_with("\"<generator object"), "{stream}");
    assert!(of(&result.nodes, "bad").is_none());

    let failed = session.run(&map(json!({ "x": 2 })), &capture).await;
    let bad = of(&failed.nodes, "bad").unwrap();
    assert_eq!(
        (bad.inputs.as_str(), bad.output),
        ("{\"s\": \"{2}\"}", None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_takes_what_it_is_given() {
    let flow = batch();
    let session = open(&flow, |_| {}).await.unwrap();
    let given = |inputs: Value, outputs: Value| NodeTestInputs {
        flow_inputs: map(inputs),
        node_outputs: map(outputs).into_iter().collect(),
        unknown: Vec::new(),
    };
    let options = RunOptions::default();
    // An aggregation node gets lists of one; a reference to another aggregation node stays as it is.
    let sum = given(json!({ "x": 3 }), json!({ "line": { "v": 1 } }));
    let result = session.run_node("sum", &sum, &options).await;
    assert_eq!(
        json(&result.outputs.unwrap()),
        json!([[{"v": 1}], [1], [3], ["dd"], 5])
    );
    let after = given(json!({}), json!({ "sum": [1, 2] }));
    let result = session.run_node("after", &after, &options).await;
    assert_eq!(result.outputs.unwrap(), "2");
    for (node, given, class) in [
        (
            "sum",
            given(json!({ "x": 3 }), json!({})),
            "InputNotFoundFromAncestorNodeOutput",
        ),
        (
            "sum",
            given(json!({ "x": 3 }), json!({ "line": 1 })),
            "InvalidReferenceProperty",
        ),
        (
            "after",
            given(json!({}), json!({})),
            "InputNotFoundFromAncestorNodeOutput",
        ),
        ("line", given(json!({}), json!({})), "InputNotFound"),
        ("nope", given(json!({}), json!({})), "UserErrorException"),
    ] {
        let error = session
            .run_node(node, &given, &options)
            .await
            .outputs
            .unwrap_err();
        assert_eq!(error.class, class, "{error:?}");
    }
}
