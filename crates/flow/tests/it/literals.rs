//! Literal inputs of nodes, typed by the tool.

use flowcell_flow::{Json, NodeInput, coerce_literals};
use indexmap::IndexMap;
use serde_json::json;

/// The inputs of a node, each with the types of its parameter; no types for no parameter.
fn convert(
    inputs: &[(&str, Json, &[&str])],
) -> Result<IndexMap<String, NodeInput>, (String, String)> {
    let values: serde_json::Map<String, Json> = inputs
        .iter()
        .map(|(name, value, _)| ((*name).to_owned(), value.clone()))
        .collect();
    let values = Json::Object(values);
    let flow = super::flow(&format!(
        "nodes:\n- {{name: n1, type: python, source: {{path: r.py}}, inputs: {values}}}"
    ));
    let types: IndexMap<&str, Vec<String>> = inputs
        .iter()
        .filter(|(_, _, types)| !types.is_empty())
        .map(|(name, _, types)| (*name, types.iter().map(|text| (*text).to_owned()).collect()))
        .collect();
    coerce_literals(&flow.nodes[0], |name| types.get(name).map(Vec::as_slice))
        .map_err(|error| (error.class().to_owned(), error.to_string()))
}

fn one(value: Json, types: &[&str]) -> Result<NodeInput, (String, String)> {
    convert(&[("x", value, types)]).map(|inputs| inputs["x"].clone())
}

#[test]
fn null_and_empty_text_are_dropped() {
    let inputs = convert(&[
        ("x", json!(null), &["string"]),
        ("y", json!(""), &["int"]),
        ("z", json!(" "), &["string"]),
        ("w", json!(0), &["int"]),
        ("v", json!([]), &["list"]),
        ("u", json!({}), &["object"]),
        ("q", json!(false), &["bool"]),
    ])
    .unwrap();
    assert_eq!(inputs.keys().collect::<Vec<_>>(), ["z", "w", "v", "u", "q"]);
}

#[test]
fn the_first_type_decides() {
    for (value, types, expected) in [
        (json!("3"), ["int"].as_slice(), json!(3)),
        (json!(2.7), &["int"], json!(2)),
        (json!("2.5"), &["double"], json!(2.5)),
        (json!(5), &["string"], json!("5")),
        (json!("[1, \"x\"]"), &["list"], json!([1, "x"])),
        (json!("9"), &["object"], json!(9)),
        (json!("not json"), &["object"], json!("not json")),
        (json!("7"), &["int", "string"], json!(7)),
        (json!("7"), &["STRING"], json!("7")),
        (json!("7"), &[], json!("7")),
    ] {
        assert_eq!(
            one(value.clone(), types),
            Ok(NodeInput::Value(expected)),
            "{value} as {types:?}"
        );
    }
}

#[test]
fn what_needs_loading_is_left() {
    assert_eq!(
        one(
            json!("my_conn"),
            &["OpenAIConnection", "AzureOpenAIConnection"]
        ),
        Ok(NodeInput::Connection {
            name: json!("my_conn"),
            types: vec![
                "OpenAIConnection".to_owned(),
                "AzureOpenAIConnection".to_owned()
            ]
        })
    );
    assert_eq!(
        one(json!("a.png"), &["image"]),
        Ok(NodeInput::Image(json!("a.png")))
    );
    assert!(matches!(
        one(json!("${inputs.a}"), &["int"]),
        Ok(NodeInput::Reference(_))
    ));
}

#[test]
fn refusals_are_promptflows() {
    for (value, types, message) in [
        (
            json!("abc"),
            "int",
            "Tool load failed in 'n1': (NodeInputValidationError) Input 'x' for node 'n1' of value 'abc' is not type int.",
        ),
        (
            json!("yes"),
            "bool",
            "Tool load failed in 'n1': (NodeInputValidationError) Input 'x' for node 'n1' of value 'yes' is not type bool.",
        ),
        (
            json!({"a": [true]}),
            "list",
            "Tool load failed in 'n1': (NodeInputValidationError) Input 'x' for node 'n1' of value '{'a': [True]}' is \
             not type list.",
        ),
        (
            json!("a"),
            "Foo",
            "Tool load failed in 'n1': (ValueTypeUnresolved) Unresolved input type 'Foo', please check if it is \
             supported in current version.",
        ),
    ] {
        assert_eq!(
            one(value, &[types]),
            Err(("ResolveToolError".to_owned(), message.to_owned()))
        );
    }
}
