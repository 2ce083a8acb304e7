//! Completions: `AzureOpenAI.completion` and `OpenAI.completion`.

use serde_json::{Value, json};

use crate::coerce::{is_true, json_float, to_bool, to_float, to_int};
use crate::failure::Failure;
use crate::http::Host;
use crate::messages;
use crate::openai::Client;
use crate::openai::error::CallError;
use crate::tools::Provider;
use crate::tools::arguments::Arguments;
use crate::tools::chat::first_choice;

const PATH: &str = "/completions";

/// Completes a text.
pub fn completion(
    host: &dyn Host,
    provider: Provider,
    given: Arguments,
) -> Result<Value, CallError> {
    let client = Client::new(host, &given.connection()?, "aoai-tool")?;
    let is_azure = provider == Provider::Azure;
    let prompt = messages::text(&given.text("prompt"), given.rest.clone())?;
    let or_null = |name: &str| {
        Some(given.get(name).clone())
            .filter(is_true)
            .unwrap_or_default()
    };
    let float = |name: &str| json_float(to_float(given.get(name))?);
    let int_unless = |name: &str, absent: bool| match given.get(name) {
        _ if absent => Ok(Value::Null),
        value => to_int(value),
    };
    let stream = to_bool(given.get("stream"));
    let mut body = json!({
        "model": given.get(if is_azure { "deployment_name" } else { "model" }),
        "prompt": prompt,
        "suffix": or_null("suffix"),
        "max_tokens": int_unless("max_tokens", given.get("max_tokens").is_null())?,
        "temperature": float("temperature")?,
        "top_p": float("top_p")?,
        "n": to_int(given.get("n"))?,
        "stream": stream,
        "logprobs": int_unless("logprobs", !is_true(given.get("logprobs")))?,
        "echo": to_bool(given.get("echo")),
        "stop": or_null("stop"),
        "best_of": to_int(given.get("best_of"))?,
        "logit_bias": Some(given.get("logit_bias").clone()).filter(is_true).unwrap_or(json!({})),
        "user": given.get("user"),
    });
    for name in ["presence_penalty", "frequency_penalty"] {
        match given.get(name) {
            // Azure's tool leaves them out, OpenAI's sends null.
            Value::Null if is_azure => {}
            Value::Null => body[name] = Value::Null,
            value if is_azure => body[name] = value.clone(),
            _ => body[name] = float(name)?,
        }
    }
    if stream {
        return Ok(client.stream(PATH, &body)?.joined()?.into());
    }
    let answer = client.call(PATH, &body)?;
    match first_choice(&answer)? {
        Value::Object(choice) => Ok(choice.get("text").cloned().unwrap_or_default()),
        _ => Err(Failure::python("AttributeError", "a choice has no attribute 'text'").into()),
    }
}
