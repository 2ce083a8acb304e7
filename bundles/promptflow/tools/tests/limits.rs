//! Streams cut into pieces anywhere, answers without an end, and texts made to be costly.

use std::time::Duration;

use promptflow_tools::http::{Host, MAX_ANSWER, NetworkError, Request, Response};
use promptflow_tools::messages::escape::Escapes;
use promptflow_tools::messages::{literal, roles};
use promptflow_tools::openai::stream::Events;
use promptflow_tools::tools::call;
use serde_json::{Map, Value, json};

fn events(text: &str, size: usize) -> Vec<String> {
    let parts: Vec<_> = text
        .as_bytes()
        .chunks(size)
        .map(|part| Ok(part.to_vec()))
        .collect();
    let events = Events::new(Box::new(parts.into_iter()));
    events.map(|event| event.expect("an event")).collect()
}

#[test]
fn events_are_the_same_however_they_come() {
    let text = ": a remark\n\ndata: one\n\ndata:two\r\ndata: \u{6f22}\u{5b57}\r\n\r\nevent: x\rid: 3\rdata: three\r\rdata\n\nretry: 1\n\ndata: cut off\n";
    for size in 1..text.len() {
        let want = ["one", "two\n\u{6f22}\u{5b57}", "three", ""];
        assert_eq!(events(text, size), want, "in pieces of {size}");
    }
}

#[test]
fn a_stream_that_breaks_off_is_an_error() {
    let parts = vec![
        Ok(b"data: a\n\nda".to_vec()),
        Err(NetworkError::Connection("gone".to_owned())),
    ];
    let mut events = Events::new(Box::new(parts.into_iter()));
    assert_eq!(events.next().expect("an event").expect("good"), "a");
    let error = events.next().expect("an error").expect_err("bad");
    assert_eq!(
        (error.class.as_str(), error.message.as_str()),
        ("RemoteProtocolError", "gone")
    );
}

/// A host whose answers never end.
struct Endless(&'static [u8]);

impl Host for Endless {
    fn send(&self, _: Request) -> Result<Response, NetworkError> {
        let part = self.0.repeat((1 << 20) / self.0.len());
        let body = std::iter::repeat_with(move || Ok(part.clone()));
        Ok(Response {
            status: 200,
            headers: Vec::new(),
            body: Box::new(body),
        })
    }

    fn sleep(&self, _: Duration) {}

    fn emit(&self, _: &Value) {}

    fn start_span(&self, _: &str, _: &Value) -> u64 {
        0
    }

    fn end_span(&self, _: u64, _: &Value, _: Option<&str>) {}

    fn records_content(&self) -> bool {
        false
    }
}

fn ask(host: &Endless, stream: bool) -> String {
    let connection = json!({ "type": "OpenAIConnection", "value": { "api_key": "k" } });
    let inputs = json!({ "connection": connection, "prompt": "user:\nq", "stream": stream });
    let inputs: Map<String, Value> = inputs.as_object().cloned().unwrap_or_default();
    call(host, "promptflow.tools.openai.OpenAI.chat", &inputs)
        .expect_err("an error")
        .message
}

#[test]
fn answers_without_an_end_are_refused() {
    let limit = format!("the answer has more than {MAX_ANSWER} bytes, which is the limit");
    assert!(ask(&Endless(b"x"), false).starts_with("OpenAI API hits APIConnectionError: "));
    assert_eq!(
        ask(&Endless(b"x"), true),
        format!("OpenAI API hits exception: ValueError: {limit}")
    );
    assert_eq!(
        ask(&Endless(b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"), true),
        format!("OpenAI API hits exception: ValueError: {limit}")
    );
    let chunk = b"data: {\"choices\": [{\"delta\": {\"content\": \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}}]}\n\n";
    assert_eq!(
        ask(&Endless(chunk), true),
        format!("OpenAI API hits exception: ValueError: {limit}")
    );
}

#[test]
fn texts_made_to_be_costly_are_read() {
    let many = 1 << 16;
    let texts = [
        " \n".repeat(many),
        "#".repeat(many),
        "user\n".repeat(many),
        "user:\n".repeat(many / 16),
        format!("user:\n{}", "name:\n".repeat(many / 16)),
        format!("user:\nname:\n{}", "a".repeat(many)),
        format!("assistant:\n{}", "tool_calls:\n[".repeat(many / 16)),
        format!("assistant:\ntool_calls:\n{}]", "[".repeat(many)),
    ];
    for text in &texts {
        let _ = roles::parse(text, &[], &roles::ALL, "auto", &Escapes::default());
    }
    assert_eq!(literal::parse(&"[".repeat(many)), None);
    assert_eq!(
        literal::parse(&format!("{}1{}", "[".repeat(80), "]".repeat(80))),
        None
    );
}
