//! Searches by SerpApi.

use serde_json::Value;

use crate::coerce::{dumps, is_true, text, to_int};
use crate::failure::Failure;
use crate::http::{Host, Method, Request, escaped};
use crate::openai::not_json;
use crate::tools::arguments::Arguments;

const SEARCH: &str = "https://serpapi.com/search";
const FAILED: &str = "SerpAPI search request failed:";

/// A search's results.
pub fn search(host: &dyn Host, given: Arguments) -> Result<Value, Failure> {
    let connection = given.connection()?;
    let engine = given.text("engine");
    let is_google = engine.to_lowercase() == "google";
    let mut query = vec![("q", given.text("query"))];
    if !given.get("location").is_null() {
        query.push(("location", given.text("location")));
    }
    query.push(("api_key", connection.required("api_key")?.to_owned()));
    query.push(("engine", engine));
    if given.get("safe") == "active" {
        let (name, value) = if is_google {
            ("safe", "Active")
        } else {
            ("safeSearch", "Strict")
        };
        query.push((name, value.to_owned()));
    }
    let count = to_int(given.get("num"))?;
    if is_true(&count) && !text(&count).starts_with('-') {
        query.push((if is_google { "num" } else { "count" }, text(&count)));
    }
    query.push(("source", "python".to_owned()));
    let query: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={}", escaped(value, "")))
        .collect();
    let request = Request {
        method: Method::Get,
        url: format!("{SEARCH}?{}", query.join("&")),
        headers: Vec::new(),
        body: Vec::new(),
    };
    let unexpected = |failure: Failure| {
        eprintln!("Unexpected exception occurs: {failure}");
        Failure::system("SerpAPISystemError", format!("{FAILED} {failure}"))
    };
    let network = |error: crate::http::NetworkError| {
        unexpected(Failure::python("ConnectionError", error.to_string()))
    };
    let response = host.send(request).map_err(network)?;
    let status = response.status;
    let answer = response.text().map_err(network)?;
    let parsed: Result<Value, Failure> =
        serde_json::from_str(&answer).map_err(|error| not_json(&error));
    if status == 200 {
        return parsed.map_err(unexpected);
    }
    let message = match parsed {
        Ok(body) => {
            eprintln!("Response text json: {}", dumps(&body));
            Some(&body["error"])
                .filter(|error| is_true(error))
                .map(text)
        }
        Err(failure) => {
            eprintln!(
                "Unexpected exception occurs while extract error message from response: {failure}"
            );
            None
        }
    };
    let message = message.unwrap_or_else(|| format!("{FAILED} {answer}"));
    Err(if status >= 500 {
        Failure::system("SerpAPISystemError", message)
    } else {
        Failure::user("SerpAPIUserError", message)
    })
}
