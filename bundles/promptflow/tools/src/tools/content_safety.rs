//! Texts judged by Azure Content Safety.

use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::http::{Host, Method, NetworkError, Request};
use crate::openai::not_json;
use crate::tools::arguments::Arguments;

const VERSION: &str = "2023-10-01";
/// Each category: its name, the input with its sensitivity, and where older versions put its result.
const CATEGORIES: [(&str, &str, &str); 4] = [
    ("Hate", "hate_category", "hateResult"),
    ("SelfHarm", "self_harm_category", "selfHarmResult"),
    ("Sexual", "sexual_category", "sexualResult"),
    ("Violence", "violence_category", "violenceResult"),
];

fn system(message: String) -> Failure {
    Failure::system("AzureContentSafetySystemError", message)
}

/// What to do with a text, altogether and by category: `Accept` or `Reject`.
pub fn analyze_text(host: &dyn Host, given: Arguments) -> Result<Value, Failure> {
    let connection = given.connection()?;
    let version = connection.field("api_version").unwrap_or(VERSION);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let request = Request {
        method: Method::Post,
        url: format!(
            "{}/contentsafety/text:analyze?api-version={version}",
            connection.required("endpoint")?
        ),
        headers: vec![
            header("ocp-apim-subscription-key", connection.required("api_key")?),
            header("content-type", "application/json"),
            header("ms-azure-ai-sender", "prompt_flow"),
        ],
        body: json!({ "text": given.get("text"), "blocklistNames": [] })
            .to_string()
            .into_bytes(),
    };
    let network = |error: NetworkError| Failure::python("ConnectionError", error.to_string());
    let response = host.send(request).map_err(network)?;
    let status = response.status;
    let answer = response.text().map_err(network)?;
    println!("status code: {status}");
    println!("response txt: {answer}");
    let answer: Value = serde_json::from_str(&answer).map_err(|error| not_json(&error))?;
    if status != 200 {
        let message = answer["error"]["message"].as_str();
        let message = message.ok_or_else(|| Failure::python("KeyError", "'error'"))?;
        return Err(system(format!("Error in detecting content: {message}")));
    }
    judge(&given, &answer, version == VERSION)
}

fn judge(given: &Arguments, answer: &Value, is_new: bool) -> Result<Value, Failure> {
    let invalid = |message: &str| Failure::user("AzureContentSafetyInputValueError", message);
    let mut actions = Map::new();
    let mut reject = false;
    for (name, input, old_result) in CATEGORIES {
        let threshold = match given.get(input).as_str() {
            Some("disable") => None,
            Some("low_sensitivity") => Some(6),
            Some("medium_sensitivity") => Some(4),
            Some("high_sensitivity") => Some(2),
            _ => return Err(invalid("RejectThreshold can only be in (-1, 0, 2, 4, 6)")),
        };
        let result = if is_new {
            let results = answer["categoriesAnalysis"].as_array();
            let found = results
                .into_iter()
                .flatten()
                .find(|result| result["category"] == name);
            found.ok_or_else(|| invalid(&format!("Invalid Category Category.{name}")))?
        } else {
            &answer[old_result]
        };
        let severity = result["severity"].as_f64();
        let severity = severity
            .ok_or_else(|| system(format!("Can not find detection result for Category.{name}")))?;
        let rejects = threshold.is_some_and(|threshold| severity >= f64::from(threshold));
        reject |= rejects;
        actions.insert(name.to_owned(), action(rejects));
    }
    let blocked = if is_new {
        "blocklistsMatch"
    } else {
        "blocklistsMatchResults"
    };
    reject |= answer[blocked]
        .as_array()
        .is_some_and(|matches| !matches.is_empty());
    println!("Action result: {}", Value::from(actions.clone()));
    Ok(json!({ "suggested_action": action(reject), "action_by_category": actions }))
}

fn action(rejects: bool) -> Value {
    if rejects { "Reject" } else { "Accept" }.into()
}
