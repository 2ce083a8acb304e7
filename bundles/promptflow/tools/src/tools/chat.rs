//! Chats: `AzureOpenAI.chat` and `OpenAI.chat`.

use serde_json::{Map, Value, json};

use crate::coerce::{is_true, text, to_bool, to_int};
use crate::failure::Failure;
use crate::http::Host;
use crate::messages::{self, Manner};
use crate::openai::Client;
use crate::openai::error::CallError;
use crate::tools::arguments::Arguments;
use crate::tools::{Provider, functions};

pub const PATH: &str = "/chat/completions";
/// What a message has, in the order in which promptflow's message has it; what is absent is null.
const MESSAGE: [&str; 7] = [
    "content",
    "refusal",
    "role",
    "annotations",
    "audio",
    "function_call",
    "tool_calls",
];

/// One chat: the answer's text, or its whole message when there were functions or tools.
pub fn chat(host: &dyn Host, provider: Provider, given: Arguments) -> Result<Value, CallError> {
    let client = Client::new(host, &given.connection()?, "aoai-tool")?;
    let is_azure = provider == Provider::Azure;
    let manner = Manner {
        chat_lists: is_azure,
        images: false,
    };
    let messages = messages::build(&given.text("prompt"), given.rest.clone(), manner)?;
    let stream = to_bool(given.get("stream"));
    let mut body = json!({
        "model": given.get(if is_azure { "deployment_name" } else { "model" }),
        "messages": messages,
        "temperature": given.get("temperature"),
        "top_p": given.get("top_p"),
    });
    if is_azure {
        body["n"] = given.get("n").clone();
    }
    body["stream"] = stream.into();
    let (tools, called) = (given.get("tools"), given.get("functions"));
    if is_true(tools) {
        let choice = given.get("tool_choice");
        body["tool_choice"] = if is_azure {
            functions::check_tools(tools)?;
            functions::tool_choice(choice)?
        } else {
            choice.clone()
        };
        body["tools"] = tools.clone();
    } else if is_true(called) {
        functions::check_functions(called)?;
        body["functions"] = called.clone();
        body["function_call"] = functions::function_call(given.get("function_call"))?;
    }
    let most = given.get("max_tokens");
    if !most.is_null() && text(most).to_lowercase() != "inf" {
        body["max_tokens"] = to_int(most)?;
    }
    for name in ["stop", "logit_bias", "response_format", "user"] {
        if is_true(given.get(name)) {
            body[name] = given.get(name).clone();
        }
    }
    for name in ["seed", "presence_penalty", "frequency_penalty"] {
        if !given.get(name).is_null() {
            body[name] = given.get(name).clone();
        }
    }
    if stream && !called.is_null() {
        // promptflow finds this out once the answer comes.
        client.stream(PATH, &body)?;
        return Err(Failure::user(
            "FunctionCallNotSupportedInStreamMode",
            "Function calling has not been supported by stream mode yet.",
        )
        .into());
    }
    answer(&client, &body, is_true(called) || is_true(tools))
}

/// Sends a chat and takes out of the answer what promptflow returns.
pub fn answer(client: &Client, body: &Value, whole: bool) -> Result<Value, CallError> {
    if is_true(&body["stream"]) {
        return Ok(client.stream(PATH, body)?.joined()?.into());
    }
    let answer = client.call(PATH, body)?;
    let message = &first_choice(&answer)?["message"];
    let Value::Object(members) = message else {
        let why = "'NoneType' object has no attribute 'content'";
        return Err(Failure::python("AttributeError", why).into());
    };
    if !whole {
        return Ok(message["content"].clone());
    }
    let known = MESSAGE.iter().map(|name| (*name).to_owned());
    let mut message: Map<String, Value> = known.map(|name| (name, Value::Null)).collect();
    message.extend(members.clone());
    Ok(Value::Object(message))
}

/// The first choice of an answer.
pub fn first_choice(answer: &Value) -> Result<&Value, Failure> {
    match &answer["choices"] {
        Value::Array(choices) => choices
            .first()
            .ok_or_else(|| Failure::python("IndexError", "list index out of range")),
        _ => Err(Failure::python(
            "TypeError",
            "'NoneType' object is not subscriptable",
        )),
    }
}
