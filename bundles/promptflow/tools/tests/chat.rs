//! Makes messages of what promptflow itself has made messages of (`chat.json`, written by `record_chat.py`) and compares.

use std::collections::BTreeSet;

use promptflow_tools::failure::Failure;
use promptflow_tools::messages::escape::Escapes;
use promptflow_tools::messages::{self, INPUTS_TO_ESCAPE, Manner, PROMPT_RESULTS, image, roles};
use serde_json::{Map, Value, json};

/// Prompts where the two differ on purpose, each with the reason.
const DIFFERENT: &[(&str, &str)] = &[];

fn cases(kind: &str) -> Vec<Value> {
    let recorded: Value =
        serde_json::from_str(include_str!("chat.json")).expect("chat.json is JSON");
    let cases = recorded[kind].as_array().cloned().unwrap_or_default();
    assert!(!cases.is_empty(), "no cases of {kind}");
    cases
}

fn check(kind: &str, key: &str, make: impl Fn(&Value) -> Result<Vec<Value>, Failure>) {
    let known: BTreeSet<&str> = DIFFERENT.iter().map(|(text, _)| *text).collect();
    let mut differences = Vec::new();
    for case in cases(kind) {
        let (want, got) = match make(&case) {
            Ok(messages) => (case["messages"].clone(), json!(messages)),
            Err(failure) => (
                json!([case["error"], case["message"]]),
                json!([failure.class, failure.message]),
            ),
        };
        if (want != got) != known.contains(case[key].as_str().unwrap_or_default()) {
            differences.push(format!("{case}\nwant {want}\ngot  {got}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

fn map(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

#[test]
fn parses_roles_as_promptflow_does() {
    check("chats", "text", |case| {
        let text = case["text"].as_str().unwrap_or_default();
        roles::parse(text, &[], &roles::ALL, image::DETAIL, &Escapes::default())
    });
}

#[test]
fn builds_messages_as_promptflow_does() {
    check("built", "template", |case| {
        let mut inputs = map(&case["inputs"]);
        inputs.insert(INPUTS_TO_ESCAPE.to_owned(), case["escape"].clone());
        let manner = Manner {
            chat_lists: case["chat_lists"] == true,
            images: false,
        };
        messages::build(
            case["template"].as_str().unwrap_or_default(),
            inputs,
            manner,
        )
    });
}

#[test]
fn prompts_in_prompts_keep_what_users_wrote_apart() {
    check("chained", "reader", |case| {
        let mut inputs = map(&case["inputs"]);
        inputs.insert(INPUTS_TO_ESCAPE.to_owned(), case["escape"].clone());
        let result =
            messages::prompt_result(case["template"].as_str().unwrap_or_default(), inputs)?;
        let mut inputs = map(&case["others"]);
        inputs.insert("p".to_owned(), result["text"].clone());
        inputs.insert(INPUTS_TO_ESCAPE.to_owned(), case["other_escape"].clone());
        if !result["escaped"].is_null() {
            let result = json!({ "escaped": result["escaped"], "mapping": result["mapping"] });
            inputs.insert(PROMPT_RESULTS.to_owned(), json!({ "p": result }));
        }
        messages::build(
            case["reader"].as_str().unwrap_or_default(),
            inputs,
            Manner::default(),
        )
    });
}
