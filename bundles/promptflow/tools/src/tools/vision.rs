//! Chats with images: the tools of `aoai_gpt4v` and `openai_gpt4v`.

use serde_json::{Value, json};

use crate::coerce::is_true;
use crate::http::Host;
use crate::messages::{self, Manner, image};
use crate::openai::Client;
use crate::openai::error::CallError;
use crate::tools::Provider;
use crate::tools::arguments::Arguments;
use crate::tools::chat;

/// One chat with images.
pub fn chat(host: &dyn Host, provider: Provider, given: Arguments) -> Result<Value, CallError> {
    let client = Client::new(host, &given.connection()?, "aoai-gpt4v-tool")?;
    let manner = Manner {
        chat_lists: true,
        images: true,
    };
    let template = image::on_own_lines(&given.text("prompt"));
    let mut variables = given.rest.clone();
    variables.insert("detail".to_owned(), given.get("detail").clone());
    let model = match provider {
        Provider::Azure => "deployment_name",
        Provider::OpenAi => "model",
    };
    let mut body = json!({
        "model": given.get(model),
        "messages": messages::build(&template, variables, manner)?,
        "temperature": given.get("temperature"),
        "top_p": given.get("top_p"),
        "n": 1,
        "stream": given.get("stream"),
        "presence_penalty": given.get("presence_penalty"),
        "frequency_penalty": given.get("frequency_penalty"),
    });
    if is_true(given.get("stop")) {
        body["stop"] = given.get("stop").clone();
    }
    for name in ["max_tokens", "seed"] {
        if !given.get(name).is_null() {
            body[name] = given.get(name).clone();
        }
    }
    chat::answer(&client, &body, false)
}
