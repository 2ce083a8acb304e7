//! Spans that a guest tells of: the parts of a call's work, for its trace.
//!
//! What a guest says is for people, and is a tenant's: it changes nothing here. Times are the host's.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Spans of one call beyond this number are not recorded.
const SPANS: usize = 1_000;
/// Text of all spans of one call, in bytes; what comes beyond it is left out.
const BYTES: usize = 4 << 20;
/// Longest name of a span or an attribute, in bytes.
const NAME: usize = 256;
/// Attributes whose values are what was asked and answered.
const CONTENT: [&str; 4] = [
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "inputs",
    "output",
];

/// A part of a call's work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Which of the call's spans it is part of, by its place among them; of the call itself if there is none. It stands before
    /// its parts.
    pub parent: Option<usize>,
    /// Its name.
    pub name: String,
    /// When it began.
    pub started: SystemTime,
    /// How long it took; `None` when the call ended before it.
    pub duration: Option<Duration>,
    /// What the guest says of it, by OpenTelemetry's semantic conventions: the text of a JSON object.
    pub attributes: String,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// The spans of one call.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// Whether attributes may be what was asked and answered.
    pub(crate) records_content: bool,
    spans: Vec<Open>,
    bytes: usize,
    /// Spans that were begun, recorded or not: their numbers are handed out in this order.
    begun: u64,
}

#[derive(Debug)]
struct Open {
    parent: Option<usize>,
    name: String,
    started: (SystemTime, Instant),
    duration: Option<Duration>,
    attributes: Map<String, Value>,
    error: Option<String>,
}

impl Recorder {
    /// Begins a span; its number.
    pub(crate) fn start(&mut self, parent: Option<u64>, name: String, attributes: &str) -> u64 {
        let number = self.begun;
        self.begun += 1;
        if self.spans.len() < SPANS {
            let name = cut(name, NAME);
            self.bytes += name.len();
            let attributes = self.read(attributes);
            let place = parent.and_then(|parent| usize::try_from(parent).ok());
            self.spans.push(Open {
                parent: place.filter(|place| *place < self.spans.len()),
                name,
                started: (SystemTime::now(), Instant::now()),
                duration: None,
                attributes,
                error: None,
            });
        }
        number
    }

    /// Ends a span that has not ended.
    pub(crate) fn end(&mut self, span: u64, attributes: &str, error: Option<String>) {
        let attributes = self.read(attributes);
        let error = error
            .filter(|_| self.bytes < BYTES)
            .map(|error| cut(error, BYTES - self.bytes));
        self.bytes += error.as_ref().map_or(0, String::len);
        let span = usize::try_from(span)
            .ok()
            .and_then(|place| self.spans.get_mut(place));
        if let Some(span) = span.filter(|span| span.duration.is_none()) {
            span.duration = Some(span.started.1.elapsed());
            span.attributes.extend(attributes);
            span.error = error;
        }
    }

    /// Adds the spans of a tool that the guest has called.
    pub(crate) fn take_over(&mut self, spans: Vec<Span>) {
        let first = self.spans.len();
        // The guest waits for the tool, so the tool's work is part of what has not ended.
        let caller = self.spans.iter().rposition(|span| span.duration.is_none());
        for span in spans {
            // Its numbers are the same as places for as long as there is room.
            if self.spans.len() >= SPANS || self.bytes + span.attributes.len() > BYTES {
                return;
            }
            self.begun += 1;
            let attributes = self.read(&span.attributes);
            self.spans.push(Open {
                parent: span.parent.map_or(caller, |place| Some(place + first)),
                started: (span.started, Instant::now()),
                duration: span.duration,
                attributes,
                name: span.name,
                error: span.error,
            });
        }
    }

    /// The spans since the last call.
    pub(crate) fn take(&mut self) -> Vec<Span> {
        self.bytes = 0;
        self.begun = 0;
        let spans = std::mem::take(&mut self.spans).into_iter();
        spans
            .map(|span| Span {
                parent: span.parent,
                name: span.name,
                started: span.started.0,
                duration: span.duration,
                attributes: Value::Object(span.attributes).to_string(),
                error: span.error,
            })
            .collect()
    }

    /// Attributes as far as they are an object's, are allowed, and have room.
    fn read(&mut self, attributes: &str) -> Map<String, Value> {
        if self.bytes + attributes.len() > BYTES {
            return Map::new();
        }
        let Ok(mut read) = serde_json::from_str::<Map<String, Value>>(attributes) else {
            return Map::new();
        };
        read.retain(|name, _| {
            name.len() <= NAME && (self.records_content || !CONTENT.contains(&name.as_str()))
        });
        self.bytes += attributes.len();
        read
    }
}

fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn recorder(records_content: bool) -> Recorder {
        Recorder {
            records_content,
            ..Recorder::default()
        }
    }

    fn attributes(span: &Span) -> Value {
        serde_json::from_str(&span.attributes).unwrap_or_default()
    }

    #[test]
    fn spans_have_parents_times_and_attributes() {
        let mut recorder = recorder(true);
        let outer = recorder.start(None, "outer".to_owned(), r#"{"a": 1}"#);
        let inner = recorder.start(Some(outer), "inner".to_owned(), r#"{"inputs": "x"}"#);
        recorder.end(inner, r#"{"output": [1]}"#, Some("why".to_owned()));
        // Once more is once too much.
        recorder.end(inner, r#"{"output": [2]}"#, None);
        let spans = recorder.take();
        assert_eq!(spans.len(), 2);
        assert_eq!((spans[0].parent, spans[0].duration), (None, None));
        assert_eq!(attributes(&spans[0]), json!({ "a": 1 }));
        assert_eq!(spans[1].parent, Some(0));
        assert!(spans[1].duration.is_some());
        assert_eq!(
            attributes(&spans[1]),
            json!({ "inputs": "x", "output": [1] })
        );
        assert_eq!(spans[1].error.as_deref(), Some("why"));
        assert_eq!(recorder.start(None, "next".to_owned(), "{}"), 0);
    }

    #[test]
    fn spans_of_tools_that_are_called_stand_behind_the_caller_s() {
        let mut called = recorder(false);
        let request = called.start(None, "request".to_owned(), "{}");
        called.start(Some(request), "part".to_owned(), "{}");
        let mut caller = recorder(false);
        let outer = caller.start(None, "outer".to_owned(), "{}");
        caller.take_over(called.take());
        let inner = caller.start(Some(outer), "inner".to_owned(), "{}");
        caller.end(inner, r#"{"x": 1}"#, None);
        let spans = caller.take();
        let found = spans.iter().map(|span| (span.name.as_str(), span.parent));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [
                ("outer", None),
                ("request", Some(0)),
                ("part", Some(1)),
                ("inner", Some(0))
            ]
        );
        assert_eq!(attributes(&spans[3]), json!({ "x": 1 }));
    }

    #[test]
    fn contents_are_dropped_where_they_are_not_wanted() {
        let mut recorder = recorder(false);
        let span = recorder.start(None, "s".to_owned(), r#"{"inputs": "x", "b": 1}"#);
        recorder.end(
            span,
            r#"{"gen_ai.output.messages": [], "output": 2, "c": 3}"#,
            None,
        );
        assert_eq!(attributes(&recorder.take()[0]), json!({ "b": 1, "c": 3 }));
    }

    #[test]
    fn what_a_guest_says_is_bounded() {
        let mut recorder = recorder(true);
        // Nonsense: no such parent, no object, names and texts that are too long, numbers that nobody has.
        recorder.start(Some(u64::MAX), "n".repeat(NAME * 2), "[1]");
        recorder.end(u64::MAX, "{", Some("e".to_owned()));
        let large = format!(
            r#"{{"x": "{}", "{}": 1}}"#,
            "v".repeat(BYTES / 4),
            "k".repeat(NAME + 1)
        );
        for _ in 0..SPANS * 2 {
            let span = recorder.start(Some(0), "s".to_owned(), &large);
            recorder.end(span, &large, Some("e".repeat(BYTES)));
        }
        let spans = recorder.take();
        assert_eq!(spans.len(), SPANS);
        assert_eq!((spans[0].parent, spans[0].name.len()), (None, NAME));
        let text = |span: &Span| {
            span.name.len() + span.attributes.len() + span.error.as_ref().map_or(0, String::len)
        };
        assert!(spans.iter().map(text).sum::<usize>() < BYTES + SPANS * (NAME + 2));
        assert!(!spans[1].attributes.contains("kkk"));
    }
}
