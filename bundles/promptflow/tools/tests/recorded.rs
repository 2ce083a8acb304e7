//! Calls what promptflow itself has called (`api.json`, written by `record_api.py`), and compares what is asked of the
//! service and what is made of its answer.

#[path = "support/host.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod host;
#[path = "../../../../tests/src/openai.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod openai;

use host::Tcp;
use openai::{Fault, Server};
use promptflow_tools::tools::call;
use serde_json::{Map, Value, json};

/// Messages in the errors of cases where the two differ on purpose, each with the reason.
const DIFFERENT: &[(&str, &str)] = &[(
    "'OpenAI' object has no attribute 'connection'",
    "an error while promptflow looks for advice",
)];

fn connection(kind: &str, server: &Server) -> Value {
    let (class, value) = match kind {
        "azure" => (
            "AzureOpenAIConnection",
            json!({ "api_key": "key-a", "api_base": server.url() + "/", "api_version": "2024-02-01" }),
        ),
        "openai" => (
            "OpenAIConnection",
            json!({ "api_key": "key-o", "base_url": server.v1(), "organization": "org" }),
        ),
        _ => (
            "ServerlessConnection",
            json!({ "api_key": "key-s", "api_base": server.url() }),
        ),
    };
    json!({ "type": class, "name": "c", "value": value })
}

fn text(value: &Value) -> &'static str {
    String::leak(value.as_str().unwrap_or_default().to_owned())
}

/// The server's faults, as they were when the case was recorded.
fn fault(recorded: &Value) -> Fault {
    let status = recorded[0]
        .as_u64()
        .and_then(|status| status.try_into().ok())
        .unwrap_or(500);
    Fault::Body {
        status,
        body: text(&recorded[1]),
        retry_after: recorded[2].get("retry-after").map(text),
    }
}

#[test]
fn asks_and_answers_as_promptflow_does() {
    let recorded: Vec<Value> =
        serde_json::from_str(include_str!("api.json")).expect("api.json is JSON");
    assert!(recorded.len() > 80, "only {} cases", recorded.len());
    let mut differences = Vec::new();
    for case in &recorded {
        let (server, host) = (Server::start(), Tcp::default());
        case["faults"]
            .as_array()
            .into_iter()
            .flatten()
            .for_each(|one| server.fault(fault(one)));
        let mut inputs: Map<String, Value> =
            case["inputs"].as_object().cloned().unwrap_or_default();
        inputs.insert(
            "connection".to_owned(),
            connection(case["connection"].as_str().unwrap_or_default(), &server),
        );
        let outcome = call(&host, case["tool"].as_str().unwrap_or_default(), &inputs);
        let requests = server.requests();
        let asked = requests.first().map(|request| {
            let wanted = case["request"]["headers"].as_object().into_iter().flatten();
            let headers: Map<String, Value> = wanted
                .map(|(name, _)| (name.clone(), request.header(name).into()))
                .collect();
            json!({ "path": request.path, "body": request.body, "headers": headers })
        });
        let pauses: Vec<f64> = host
            .pauses()
            .iter()
            .map(|pause| pause.as_secs_f64())
            .collect();
        let want_pauses: Vec<f64> = case["pauses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect();
        let (want, got) = match outcome {
            Ok(answer) => (json!([case["answer"]]), json!([answer])),
            Err(failure) => (
                json!([case["error"], case["message"]]),
                json!([failure.class, failure.message]),
            ),
        };
        let pairs = [
            (want, got),
            (case["request"].clone(), asked.unwrap_or_default()),
            (case["asked"].clone(), requests.len().into()),
            (json!(want_pauses), json!(pauses)),
        ];
        let differs = pairs.iter().any(|(want, got)| plain(want) != plain(got));
        if differs
            != DIFFERENT
                .iter()
                .any(|(message, _)| case["message"] == *message)
        {
            differences.push(format!(
                "{case}\n{}",
                pairs
                    .map(|(want, got)| format!("want {want}\ngot  {got}"))
                    .join("\n")
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} cases:\n{}",
        differences.len(),
        differences.join("\n\n")
    );
}

/// Numbers compared as numbers: `1` and `1.0` are the same.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, |number| json!(number)),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(members) => {
            let mut members: Vec<(String, Value)> = members
                .iter()
                .map(|(name, member)| (name.clone(), plain(member)))
                .collect();
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            Value::Object(members.into_iter().collect())
        }
        other => other.clone(),
    }
}
