//! Open models behind an endpoint of their own: `OpenModelLLM.call`.
//!
//! promptflow looks endpoints up in Azure, by Azure's packages. Here a connection says where the model is: a custom one with
//! `endpoint_url`, `model_family` and `endpoint_api_key`, or a serverless one. The host gives that which the endpoint's name
//! says (`localConnection/NAME`).

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::coerce::{dumps, strip, text};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::http::{Host, Method, NetworkError, Request};
use crate::messages;
use crate::messages::escape::Escapes;
use crate::messages::roles;
use crate::openai::not_json;
use crate::tools::arguments::Arguments;

/// The model that promptflow names to serverless endpoints.
const SERVERLESS_MODEL: &str = "llama-2-7b-hf";
const LLAMA: &str = "LLaMa";
/// The families that promptflow knows: their names in connections, and to endpoints.
const FAMILIES: [(&str, &str); 4] = [
    ("LLAMA", LLAMA),
    ("DOLLY", "Dolly"),
    ("GPT2", "GPT-2"),
    ("FALCON", "Falcon"),
];
const ROLES: [&str; 3] = ["system", "user", "assistant"];
/// How often the endpoint is asked, and how long is waited: 6 s, 18 s, 54 s, 162 s.
const TRIES: u32 = 5;
const FIRST_PAUSE: u64 = 6;

/// Where a model is.
struct Endpoint {
    url: String,
    key: String,
    family: &'static str,
}

fn online(message: String) -> Failure {
    Failure::user("OpenModelLLMOnlineEndpointError", message)
}

fn user(message: impl Into<String>) -> Failure {
    Failure::user("OpenModelLLMUserError", message)
}

/// The model's text.
pub fn call(host: &dyn Host, given: Arguments) -> Result<Value, Failure> {
    let deployment = Some(given.text("deployment_name"))
        .filter(|_| !given.get("deployment_name").is_null())
        .map(|name| strip(&name).to_owned())
        .filter(|name| !name.is_empty() && name != "default");
    let is_chat = given.get("api") == "chat";
    let endpoint = endpoint(&given, is_chat)?;
    let prompt = messages::text(&given.text("prompt"), given.rest.clone())?;
    let mut parameters = given
        .get("model_kwargs")
        .as_object()
        .cloned()
        .unwrap_or_default();
    for name in ["top_p", "temperature", "max_new_tokens"] {
        parameters.insert(name.to_owned(), given.get(name).clone());
    }
    let is_serverless = is_serverless(&endpoint.url);
    let body = body(&endpoint, is_chat, is_serverless, &prompt, parameters)?;
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut headers = vec![
        header("content-type", "application/json"),
        header("authorization", &format!("Bearer {}", endpoint.key)),
        header(
            "x-ms-user-agent",
            &format!("PromptFlow/OpenModelLLM/{}", endpoint.family),
        ),
    ];
    headers.extend(deployment.map(|name| header("azureml-model-deployment", &name)));
    for attempt in 0..TRIES {
        let request = Request {
            method: Method::Post,
            url: endpoint.url.clone(),
            headers: headers.clone(),
            body: body.clone().into_bytes(),
        };
        let failure = match ask(host, request, endpoint.family, is_chat, is_serverless) {
            Ok(answer) => return Ok(answer),
            Err(failure) if failure.class == "OpenModelLLMOnlineEndpointError" => failure,
            Err(failure) => return Err(failure),
        };
        if attempt + 1 == TRIES {
            let message = format!("Exception hit calling Online Endpoint: {failure}");
            eprintln!("{message}");
            return Err(online(message));
        }
        host.sleep(Duration::from_secs(FIRST_PAUSE * 3u64.pow(attempt)));
    }
    Err(online("the endpoint was not asked".to_owned()))
}

fn endpoint(given: &Arguments, is_chat: bool) -> Result<Endpoint, Failure> {
    let own = ["endpoint_url", "endpoint_api_key", "model_family"];
    let set = own.iter().filter(|name| !given.get(name).is_null()).count();
    if set == own.len() {
        return Ok(Endpoint {
            url: given.text("endpoint_url"),
            key: given.text("endpoint_api_key"),
            family: family(&given.text("model_family"))?,
        });
    }
    if set > 0 {
        return Err(Failure::user(
            "OpenModelLLMKeyValidationError",
            "Endpoint connection via kwargs not fully set.\nIf using kwargs, the following values must be set: \
             endpoint_url, endpoint_api_key, and model_family",
        ));
    }
    if given.get("connection").is_null() {
        let name = given.text("endpoint_name");
        return Err(user(format!(
            "The endpoint '{name}' cannot be looked up in Azure here. Make a serverless connection of the endpoint's name, or \
             a custom one with endpoint_url, model_family and the secret endpoint_api_key; or name any as endpoint_name: \
             localConnection/NAME."
        )));
    }
    let connection = given.connection()?;
    let (url, key, family) = match connection.class.as_str() {
        "ServerlessConnection" => (
            connection.required("api_base")?,
            connection.required("api_key")?,
            LLAMA,
        ),
        _ => {
            let key = needed(
                &connection,
                "endpoint_api_key",
                "secret key",
                "endpoint_api_key",
            )?;
            let keys = "endpoint_url,model_family";
            let url = needed(&connection, "endpoint_url", "key", keys)?;
            (
                url,
                key,
                self::family(needed(&connection, "model_family", "key", keys)?)?,
            )
        }
    };
    let mut url = url.to_owned();
    let suffix = if is_chat {
        "/v1/chat/completions"
    } else {
        "/v1/completions"
    };
    let is_serverless = is_serverless(&url) || connection.class == "ServerlessConnection";
    if is_serverless && !url.ends_with(suffix) {
        url = format!("{}{suffix}", url.trim_end_matches("/v1"));
    }
    Ok(Endpoint {
        url,
        key: key.to_owned(),
        family,
    })
}

fn needed<'c>(
    connection: &'c Connection,
    name: &str,
    kind: &str,
    all: &str,
) -> Result<&'c str, Failure> {
    connection.field(name).ok_or_else(|| {
        let message = format!(
            "Required {kind} `{name}` not found in given custom connection.\nRequired keys are: {all}."
        );
        Failure::user("OpenModelLLMKeyValidationError", message)
    })
}

fn family(name: &str) -> Result<&'static str, Failure> {
    let known = FAMILIES
        .iter()
        .find(|(code, shown)| *code == name || shown.eq_ignore_ascii_case(name));
    known.map(|(_, shown)| *shown).ok_or_else(|| {
        let codes: Vec<&str> = FAMILIES.iter().map(|(code, _)| *code).collect();
        Failure::user(
            "OpenModelLLMKeyValidationError",
            format!(
                "Given model_family '{name}' not recognized.\nSupported models are: {}.",
                codes.join(",")
            ),
        )
    })
}

/// Whether an endpoint speaks OpenAI's API.
fn is_serverless(url: &str) -> bool {
    url.contains("serverless.ml.azure.com")
        || url.contains("inference.ai.azure.com")
        || url.ends_with("/v1/chat/completions")
        || url.ends_with("/v1/completions")
}

fn body(
    endpoint: &Endpoint,
    is_chat: bool,
    is_serverless: bool,
    prompt: &str,
    mut parameters: Map<String, Value>,
) -> Result<String, Failure> {
    let is_llama = endpoint.family == LLAMA;
    let body = if is_llama && is_serverless {
        parameters.insert(
            "max_tokens".to_owned(),
            parameters["max_new_tokens"].clone(),
        );
        let mut body = if is_chat {
            json!({ "model": SERVERLESS_MODEL, "messages": chat(prompt)?, "n": 1 })
        } else {
            json!({ "prompt": prompt, "n": 1 })
        };
        for (name, value) in parameters {
            body[name] = value;
        }
        body
    } else if is_llama {
        parameters.entry("do_sample").or_insert(true.into());
        let input = if is_chat {
            Value::from(chat(prompt)?)
        } else {
            json!([prompt])
        };
        json!({ "input_data": { "input_string": input, "parameters": parameters } })
    } else {
        json!({ "input_data": { "input_string": [prompt] }, "parameters": parameters })
    };
    Ok(dumps(&body))
}

/// The messages in a prompt, as promptflow reads them for these models.
fn chat(prompt: &str) -> Result<Vec<Value>, Failure> {
    let mut chunks = Vec::new();
    let mut last = 0;
    for (start, role, end) in roles::Markers::new(prompt, &ROLES) {
        chunks.extend([prompt.get(last..start).unwrap_or_default(), role]);
        last = end;
    }
    chunks.push(prompt.get(last..).unwrap_or_default());
    let chunks: Vec<&str> = chunks
        .into_iter()
        .map(strip)
        .filter(|chunk| !chunk.is_empty())
        .collect();
    let messages = chunks.chunks(2).map(|pair| {
        let role = pair.first().copied().unwrap_or_default().to_lowercase();
        roles::check(&role, &ROLES, &Escapes::default()).map_err(|failure| user(failure.message))?;
        let content = pair.get(1).ok_or_else(|| {
            user("Unexpected chat format. Please ensure the query matches the chat format of the model used.")
        })?;
        Ok(json!({ "role": role, "content": content }))
    });
    messages.collect()
}

fn ask(
    host: &dyn Host,
    request: Request,
    family: &str,
    is_chat: bool,
    is_serverless: bool,
) -> Result<Value, Failure> {
    let network = |error: NetworkError| Failure::python("ConnectionError", error.to_string());
    let response = host.send(request).map_err(network)?;
    let status = response.status;
    let answer = response.text().map_err(network)?;
    if status != 200 {
        let message = format!(
            "Request failure while calling Online Endpoint Status:{status}\nError:{answer}"
        );
        eprintln!("{message}");
        return Err(online(message));
    }
    let answer: Value = serde_json::from_str(&answer).map_err(|error| not_json(&error))?;
    let first = &answer["choices"][0];
    let found = match (family == LLAMA, is_serverless, is_chat) {
        (true, true, true) => &first["message"]["content"],
        (true, true, false) => &first["text"],
        (true, false, true) => &answer["output"],
        (true, false, false) => &answer[0]["0"],
        (false, ..) if answer[0]["0"].is_null() => &answer["output"],
        (false, ..) => &answer[0]["0"],
    };
    if found.is_null() {
        let message = format!("Unexpected response format. Response: {}", text(&answer));
        eprintln!("{message}");
        return Err(online(message));
    }
    Ok(found.clone())
}
