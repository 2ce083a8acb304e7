//! The answer of `--output json`.

use flowcell_executor::{Code, FlowResult, RunError, Status};
use serde_json::{Value, json};

/// One JSON object. Outputs are put in as the text they are: Python's JSON has NaN and Infinity, and big numbers keep
/// their digits.
pub(crate) fn envelope(result: &FlowResult) -> String {
    let status = match result.status() {
        Status::Completed => "Completed",
        Status::Failed => "Failed",
    };
    let (outputs, failure) = match &result.outputs {
        Ok(outputs) => (outputs.as_str(), Value::Null),
        Err(failure) => ("{}", error(failure)),
    };
    let metrics: Vec<String> = result
        .metrics
        .iter()
        .map(|(name, value)| format!("{}: {value}", Value::from(name.as_str())))
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
                entry["error"] = error(failure);
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
pub(crate) fn error(error: &RunError) -> Value {
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
