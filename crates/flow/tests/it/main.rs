//! The crate's behaviour as its users see it: text in, graph or message out.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod activation;
mod entries;
mod graph;
mod inputs;
mod lint;
mod literals;
mod messages;
mod variants;
mod yaml;

use flowcell_flow::{Flow, Json, JsonMap};

/// A flow that must parse.
fn flow(text: &str) -> Flow {
    Flow::parse(text, "test").unwrap()
}

/// Values by name from JSON text.
fn values(text: &str) -> JsonMap {
    match serde_json::from_str(text).unwrap() {
        Json::Object(entries) => entries,
        other => panic!("not a mapping: {other}"),
    }
}
