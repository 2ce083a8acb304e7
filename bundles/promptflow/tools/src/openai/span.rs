//! Requests to models in a call's trace, by OpenTelemetry's conventions for generative AI.

use serde_json::{Map, Value, json};

use crate::http::Host;
use crate::openai::error::CallError;

/// What a request says of itself, and the convention's name for it.
const REQUEST: [(&str, &str); 8] = [
    ("model", "gen_ai.request.model"),
    ("temperature", "gen_ai.request.temperature"),
    ("top_p", "gen_ai.request.top_p"),
    ("max_tokens", "gen_ai.request.max_tokens"),
    ("presence_penalty", "gen_ai.request.presence_penalty"),
    ("frequency_penalty", "gen_ai.request.frequency_penalty"),
    ("seed", "gen_ai.request.seed"),
    ("stop", "gen_ai.request.stop_sequences"),
];

/// One request, from when it is sent until this is dropped.
pub struct Span<'h> {
    host: &'h dyn Host,
    id: u64,
    attributes: Map<String, Value>,
    finish_reasons: Vec<Value>,
    error: Option<String>,
}

impl<'h> Span<'h> {
    /// Begins the span of a request to a path of the API.
    pub fn begin(host: &'h dyn Host, provider: &str, path: &str, body: &Value) -> Self {
        let operation = match path {
            "/chat/completions" => "chat",
            "/completions" => "text_completion",
            _ => path.trim_start_matches('/'),
        };
        let mut attributes = json!({
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider,
        });
        for (name, convention) in REQUEST {
            if !body[name].is_null() {
                attributes[convention] = body[name].clone();
            }
        }
        if host.records_content() {
            if let Value::Array(messages) = &body["messages"] {
                attributes["gen_ai.input.messages"] = messages.iter().map(message).collect();
            } else if !body["prompt"].is_null() {
                attributes["gen_ai.input.messages"] = json!([message(
                    &json!({ "role": "user", "content": body["prompt"] })
                )]);
            }
        }
        let model = body["model"].as_str().unwrap_or_default();
        let name = format!("{operation} {model}");
        Self {
            host,
            id: host.start_span(name.trim_end(), &attributes),
            attributes: Map::new(),
            finish_reasons: Vec::new(),
            error: None,
        }
    }

    /// Notes what an answer, or a part of one, says of itself.
    pub fn answered(&mut self, answer: &Value) {
        for (member, convention) in [
            (&answer["id"], "gen_ai.response.id"),
            (&answer["model"], "gen_ai.response.model"),
            (
                &answer["usage"]["prompt_tokens"],
                "gen_ai.usage.input_tokens",
            ),
            (
                &answer["usage"]["completion_tokens"],
                "gen_ai.usage.output_tokens",
            ),
        ] {
            if !member.is_null() {
                self.attributes
                    .insert(convention.to_owned(), member.clone());
            }
        }
        let choices = answer["choices"].as_array().map_or(&[][..], Vec::as_slice);
        let reasons = choices.iter().map(|choice| &choice["finish_reason"]);
        let reasons = reasons.filter(|reason| !reason.is_null());
        self.finish_reasons.extend(reasons.cloned());
        if self.host.records_content() {
            let messages = choices.iter().filter_map(|choice| match choice {
                Value::Object(choice) if choice.contains_key("message") => {
                    Some(message(&choice["message"]))
                }
                Value::Object(choice) if choice.contains_key("text") => Some(message(
                    &json!({ "role": "assistant", "content": choice["text"] }),
                )),
                _ => None,
            });
            let messages: Vec<Value> = messages.collect();
            if !messages.is_empty() {
                self.said(messages.into());
            }
        }
    }

    /// Notes the text of an answer that came in parts.
    pub fn streamed(&mut self, text: &str) {
        if self.host.records_content() {
            let message = message(&json!({ "role": "assistant", "content": text }));
            self.said(json!([message]));
        }
    }

    fn said(&mut self, messages: Value) {
        let name = "gen_ai.output.messages".to_owned();
        self.attributes.insert(name, messages);
    }

    /// Notes why there is no answer.
    pub fn failed(&mut self, error: &CallError) {
        let (class, message) = match error {
            CallError::Api(error) => (error.class, &error.message),
            CallError::Other(failure) => (failure.class.as_str(), &failure.message),
        };
        self.attributes
            .insert("error.type".to_owned(), class.into());
        self.error = Some(message.clone());
    }
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let mut attributes = std::mem::take(&mut self.attributes);
        if !self.finish_reasons.is_empty() {
            let reasons = std::mem::take(&mut self.finish_reasons).into();
            attributes.insert("gen_ai.response.finish_reasons".to_owned(), reasons);
        }
        let error = self.error.as_deref();
        self.host.end_span(self.id, &attributes.into(), error);
    }
}

/// A message of OpenAI's in the form of the convention.
fn message(message: &Value) -> Value {
    let mut parts = Vec::new();
    match &message["content"] {
        Value::Null => {}
        Value::Array(several) => {
            parts.extend(several.iter().map(|part| match part["type"].as_str() {
                Some("text") => json!({ "type": "text", "content": part["text"] }),
                _ => part.clone(),
            }))
        }
        content => parts.push(json!({ "type": "text", "content": content })),
    }
    if let Value::Array(calls) = &message["tool_calls"] {
        parts.extend(calls.iter().map(|call| {
            json!({
                "type": "tool_call",
                "id": call["id"],
                "name": call["function"]["name"],
                "arguments": call["function"]["arguments"],
            })
        }));
    }
    json!({ "role": message["role"], "parts": parts })
}
