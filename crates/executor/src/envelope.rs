//! A result as one JSON object.

use std::borrow::Cow;

use flowcell_flow::{as_non_finite, python_loads};
use serde_json::{Value, json};

use crate::error::{Code, RunError};
use crate::result::{FlowResult, is_strict_json};

/// Which JSON is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Python's, which has NaN and Infinity: values are the text that they are.
    Python,
    /// RFC 8259's: NaN and Infinity become null.
    Strict,
}

/// A result as one JSON object: `status`, `outputs`, `error`, `metrics`, `nodes`. Values are put in as the text they are,
/// so big numbers keep their digits.
pub fn envelope(result: &FlowResult, dialect: Dialect) -> String {
    let status = result.status().as_str();
    let (outputs, failure) = match &result.outputs {
        Ok(outputs) => (written(outputs, dialect), Value::Null),
        Err(failure) => (Cow::Borrowed("{}"), error_json(failure)),
    };
    let metrics: Vec<String> = result
        .metrics
        .iter()
        .map(|(name, value)| {
            format!(
                "{}: {}",
                Value::from(name.as_str()),
                written(value, dialect)
            )
        })
        .collect();
    let nodes: Vec<Value> = result
        .nodes
        .iter()
        .map(|node| {
            let mut entry = json!({
                "name": node.name,
                "status": node.status.as_str(),
                "duration_ms": (node.duration.as_secs_f64() * 1e6).round() / 1e3,
                "logs": { "stdout": node.logs.stdout, "stderr": node.logs.stderr, "log": node.logs.log },
            });
            if let Some(failure) = &node.error {
                entry["error"] = error_json(failure);
            }
            entry
        })
        .collect();
    format!(
        "{{\"status\": \"{status}\", \"outputs\": {outputs}, \"error\": {failure}, \"metrics\": {{{}}}, \"nodes\": {}}}",
        metrics.join(", "),
        Value::Array(nodes)
    )
}

/// An error as JSON: `class`, `message`, and what else is known.
pub fn error_json(error: &RunError) -> Value {
    let mut entry = json!({
        "class": error.class,
        "message": error.message,
        "code": match error.code {
            Code::User => "UserError",
            Code::System => "SystemError",
        },
    });
    for (key, value) in [
        ("node", &error.node),
        ("traceback", &error.traceback),
        ("help", &error.help),
    ] {
        if let Some(value) = value {
            entry[key] = Value::from(value.as_str());
        }
    }
    entry
}

fn written(text: &str, dialect: Dialect) -> Cow<'_, str> {
    if dialect == Dialect::Python || is_strict_json(text) {
        return Cow::Borrowed(text);
    }
    let value = python_loads(text).map_or(Value::Null, without_non_finite);
    Cow::Owned(value.to_string())
}

fn without_non_finite(value: Value) -> Value {
    if as_non_finite(&value).is_some() {
        return Value::Null;
    }
    match value {
        Value::Array(items) => items.into_iter().map(without_non_finite).collect(),
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, value)| (key, without_non_finite(value)))
            .collect(),
        other => other,
    }
}
