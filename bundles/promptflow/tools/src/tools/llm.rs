//! Tools that choose the provider by the connection: `llm` and `llm_vision`.

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::http::Host;
use crate::tools::arguments::Arguments;
use crate::tools::call;
use crate::tools::catalogue::Tool;

const ALWAYS: [&str; 9] = [
    "prompt",
    "temperature",
    "top_p",
    "stream",
    "stop",
    "max_tokens",
    "presence_penalty",
    "frequency_penalty",
    "connection",
];
const CHAT: [&str; 5] = [
    "logit_bias",
    "tool_choice",
    "tools",
    "response_format",
    "seed",
];
const COMPLETION: [&str; 5] = ["logit_bias", "suffix", "logprobs", "echo", "best_of"];
const VISION: [&str; 2] = ["seed", "detail"];

/// A chat or a completion.
pub fn llm(host: &dyn Host, tool: &Tool, inputs: &Map<String, Value>) -> Result<Value, Failure> {
    let given = bind(tool, inputs)?;
    let is_completion = given.get("api") == "completion";
    let (function, own) = if is_completion {
        ("completion", COMPLETION)
    } else {
        ("chat", CHAT)
    };
    let class = given.connection()?.class;
    let (module, model) = match class.as_str() {
        "AzureOpenAIConnection" => ("aoai.AzureOpenAI", "deployment_name"),
        "OpenAIConnection" | "ServerlessConnection" => ("openai.OpenAI", "model"),
        other => {
            return Err(unsupported(
                other,
                "AzureOpenAIConnection, OpenAIConnection, ServerlessConnection",
            ));
        }
    };
    let id = format!("promptflow.tools.{module}.{function}");
    call(
        host,
        &id,
        &handed_on(given, &[&[model], own.as_slice()].concat()),
    )
}

/// A chat with images.
pub fn vision(host: &dyn Host, tool: &Tool, inputs: &Map<String, Value>) -> Result<Value, Failure> {
    let given = bind(tool, inputs)?;
    let class = given.connection()?.class;
    let (module, model) = match class.as_str() {
        "AzureOpenAIConnection" => ("aoai_gpt4v.AzureOpenAI", "deployment_name"),
        "OpenAIConnection" => ("openai_gpt4v.OpenAI", "model"),
        other => {
            return Err(unsupported(
                other,
                "AzureOpenAIConnection, OpenAIConnection",
            ));
        }
    };
    let id = format!("promptflow.tools.{module}.chat");
    call(
        host,
        &id,
        &handed_on(given, &[&[model], VISION.as_slice()].concat()),
    )
}

fn bind(tool: &Tool, inputs: &Map<String, Value>) -> Result<Arguments, Failure> {
    Arguments::bind(tool, inputs.clone()).map_err(|failure| {
        Failure::user("LLMError", format!("OpenAI API hits exception: {failure}"))
    })
}

/// The inputs of the tool that does it: these parameters, and all that is no parameter.
fn handed_on(mut given: Arguments, more: &[&str]) -> Map<String, Value> {
    let mut inputs = std::mem::take(&mut given.rest);
    for name in ALWAYS.iter().chain(more) {
        inputs.insert((*name).to_owned(), given.get(name).clone());
    }
    inputs
}

fn unsupported(class: &str, known: &str) -> Failure {
    let message = format!(
        "Not Support connection type '{class}' for llm. Connection type should be in [{known}]."
    );
    Failure::user("InvalidConnectionType", message)
}
