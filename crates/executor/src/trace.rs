//! What happened in a run, as a tree of spans: the flow, its nodes, and what their tools tell of their work.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use flowcell_sandbox::Logs;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::error::RunError;
use crate::result::{NodeResult, NodeStatus, Status};
use crate::run_options::RunEvent;

/// Most spans of a trace; what comes later in a run is left out.
const MAX_SPANS: usize = 5_000;
/// Most bytes of attributes in a trace; spans beyond it have none.
const MAX_ATTRIBUTES: usize = 16 << 20;

/// What a span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanKind {
    /// A run of the flow.
    Flow,
    /// A node.
    Node,
    /// A request to a model.
    Model,
    /// A function that its author has marked, or another part of a tool's work.
    Function,
}

/// How what a span is of has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanStatus {
    /// Well.
    Ok,
    /// With an error.
    Error,
    /// It was left out, since its condition was not met.
    Bypassed,
    /// It was stopped, or its tool has not told of its end.
    Canceled,
}

/// A part of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceSpan {
    /// The span that it is part of, by its place in the trace; none for the first, which is the flow's.
    pub parent: Option<usize>,
    /// Its name: the flow's, a node's, or what its tool says.
    pub name: String,
    /// What it is of.
    pub kind: SpanKind,
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// How it ended.
    pub status: SpanStatus,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What is known of it, by OpenTelemetry's semantic conventions: the text of a JSON object.
    pub attributes: String,
}

/// A run's spans, each behind the one that it is part of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The spans, the flow's first.
    pub spans: Vec<TraceSpan>,
}

impl Trace {
    /// Tokens of all its requests to models.
    pub fn tokens(&self) -> Tokens {
        let flow = self.spans.first();
        flow.map_or_else(Tokens::default, |flow| {
            Telling::read(&flow.attributes).tokens()
        })
    }
}

/// Tokens that models have counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Of what was asked.
    pub input: u64,
    /// Of what was answered.
    pub output: u64,
}

impl Tokens {
    /// Those that a span's attributes tell of.
    pub fn of(attributes: &Map<String, Value>) -> Self {
        let count = |name: &str| attributes.get(name).and_then(Value::as_u64).unwrap_or(0);
        Self {
            input: count("gen_ai.usage.input_tokens"),
            output: count("gen_ai.usage.output_tokens"),
        }
    }

    /// These and others.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
        }
    }
}

/// Tokens that the nodes' requests to models took.
pub(crate) fn tokens(nodes: &[NodeResult]) -> Tokens {
    let spans = nodes.iter().flat_map(|node| &node.spans);
    let tokens = spans.map(|span| Telling::read(&span.attributes).tokens());
    tokens.fold(Tokens::default(), Tokens::and)
}

/// Makes a run's trace of its events.
#[derive(Debug)]
pub struct Tracer {
    record_content: bool,
    nodes: Mutex<Vec<NodeResult>>,
}

impl Tracer {
    /// A tracer. `record_content` says whether nodes' inputs and outputs are in the trace, where a run captures them: it may do so
    /// for its answer alone.
    pub fn new(record_content: bool) -> Self {
        Self {
            record_content,
            nodes: Mutex::default(),
        }
    }

    /// Takes in an event.
    pub fn hear(&self, event: RunEvent<'_>) {
        match event {
            RunEvent::NodeEnded(node) => self.nodes().push(self.traced(node)),
            RunEvent::StreamEnded(node) => {
                let mut nodes = self.nodes();
                let streamed = nodes.iter_mut().rfind(|other| other.name == node.name);
                if let Some(streamed) = streamed {
                    *streamed = self.traced(node);
                }
            }
            _ => {}
        }
    }

    /// What the trace has of a node; not what it printed.
    fn traced(&self, node: &NodeResult) -> NodeResult {
        let captured = node.captured.as_ref().filter(|_| self.record_content);
        NodeResult {
            name: node.name.clone(),
            status: node.status,
            started: node.started,
            duration: node.duration,
            logs: Logs::default(),
            spans: node.spans.clone(),
            error: node.error.clone(),
            captured: captured.cloned(),
        }
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<NodeResult>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trace of a run that is over.
    pub fn finish(
        &self,
        flow: &str,
        started: SystemTime,
        duration: Duration,
        status: Status,
        error: Option<&RunError>,
    ) -> Trace {
        let nodes = std::mem::take(&mut *self.nodes());
        let mut adding = Adding::default();
        let tokens = tokens(&nodes);
        let mut attributes = BTreeMap::from([("span_type", json!("Flow"))]);
        if tokens != Tokens::default() {
            attributes.insert("gen_ai.usage.input_tokens", tokens.input.into());
            attributes.insert("gen_ai.usage.output_tokens", tokens.output.into());
        }
        // A run whose answer is its record has its error in there, and that of a node.
        let of_node = nodes.iter().rev().find_map(|node| node.error.as_ref());
        let error = match status {
            Status::Completed => None,
            Status::Failed => error.or(of_node),
        };
        if let Some(error) = error {
            attributes.insert("error.type", error.class.as_str().into());
        }
        adding.add(TraceSpan {
            parent: None,
            name: flow.to_owned(),
            kind: SpanKind::Flow,
            started,
            duration,
            status: match status {
                Status::Completed => SpanStatus::Ok,
                Status::Failed => SpanStatus::Error,
            },
            error: error.map(|error| error.message.clone()),
            attributes: json!(attributes).to_string(),
        });
        for node in nodes {
            adding.node(node);
        }
        Trace {
            spans: adding.spans,
        }
    }
}

#[derive(Default)]
struct Adding {
    spans: Vec<TraceSpan>,
    bytes: usize,
}

impl Adding {
    /// Adds a span; its place, if there was one for it.
    fn add(&mut self, mut span: TraceSpan) -> Option<usize> {
        if self.spans.len() >= MAX_SPANS {
            return None;
        }
        if self.bytes + span.attributes.len() > MAX_ATTRIBUTES {
            span.attributes = "{}".to_owned();
        }
        self.bytes += span.attributes.len();
        self.spans.push(span);
        Some(self.spans.len() - 1)
    }

    fn node(&mut self, node: NodeResult) {
        let mut attributes = BTreeMap::from([
            ("span_type", json!("Tool")),
            ("node_name", json!(node.name)),
        ]);
        if let Some(captured) = &node.captured {
            attributes.insert("inputs", captured.inputs.as_str().into());
            if let Some(output) = &captured.output {
                attributes.insert("output", output.as_str().into());
            }
        }
        if let Some(error) = &node.error {
            attributes.insert("error.type", error.class.as_str().into());
        }
        let place = self.add(TraceSpan {
            parent: Some(0),
            name: node.name,
            kind: SpanKind::Node,
            started: node.started,
            duration: node.duration,
            status: match node.status {
                NodeStatus::Completed => SpanStatus::Ok,
                NodeStatus::Failed => SpanStatus::Error,
                NodeStatus::Bypassed => SpanStatus::Bypassed,
                NodeStatus::Canceled => SpanStatus::Canceled,
            },
            error: node.error.map(|error| error.message),
            attributes: json!(attributes).to_string(),
        });
        // By their places among the node's.
        let mut places = Vec::with_capacity(node.spans.len());
        let end = node.started + node.duration;
        for span in node.spans {
            let parent = span.parent.and_then(|parent| places.get(parent).copied());
            let Some(place) = self.add(TraceSpan {
                parent: parent.or(place),
                name: span.name,
                kind: if Telling::read(&span.attributes).is_model {
                    SpanKind::Model
                } else {
                    SpanKind::Function
                },
                started: span.started,
                duration: span
                    .duration
                    .unwrap_or_else(|| end.duration_since(span.started).unwrap_or_default()),
                status: match (&span.error, span.duration) {
                    (Some(_), _) => SpanStatus::Error,
                    (None, Some(_)) => SpanStatus::Ok,
                    (None, None) => SpanStatus::Canceled,
                },
                error: span.error,
                attributes: span.attributes,
            }) else {
                return;
            };
            places.push(place);
        }
    }
}

/// What of a span's attributes means something here. All others are passed over: they can be long.
#[derive(Default, Deserialize)]
struct Telling<'a> {
    #[serde(
        rename = "gen_ai.operation.name",
        default,
        deserialize_with = "is_there"
    )]
    is_model: bool,
    #[serde(rename = "gen_ai.usage.input_tokens", borrow)]
    input: Option<&'a RawValue>,
    #[serde(rename = "gen_ai.usage.output_tokens", borrow)]
    output: Option<&'a RawValue>,
}

impl<'a> Telling<'a> {
    fn read(attributes: &'a str) -> Self {
        serde_json::from_str(attributes).unwrap_or_default()
    }

    fn tokens(&self) -> Tokens {
        // A guest may say anything in a number's place.
        let count = |said: Option<&RawValue>| said.and_then(|said| said.get().parse().ok());
        Tokens {
            input: count(self.input).unwrap_or(0),
            output: count(self.output).unwrap_or(0),
        }
    }
}

fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_may_say_anything_of_its_tokens() {
        let said = |attributes: &Value| {
            let text = attributes.to_string();
            let read = Telling::read(&text);
            // Whoever has the attributes as an object finds the same in them.
            let of = Tokens::of(attributes.as_object().unwrap_or(&Map::new()));
            assert_eq!(read.tokens(), of, "{text}");
            (read.is_model, of.input, of.output)
        };
        let tokens = |input: Value, output: Value| {
            said(&json!({
                "gen_ai.operation.name": null,
                "gen_ai.usage.input_tokens": input,
                "gen_ai.input.messages": [{ "gen_ai.usage.input_tokens": 1 }],
                "gen_ai.usage.output_tokens": output,
            }))
        };
        assert_eq!(tokens(json!(3), json!(u64::MAX)), (true, 3, u64::MAX));
        assert_eq!(tokens(json!("3"), json!(4)), (true, 0, 4));
        assert_eq!(tokens(json!(-1), json!(1.5)), (true, 0, 0));
        assert_eq!(tokens(json!([{ "a": 1 }]), Value::Null), (true, 0, 0));
        assert_eq!(said(&json!({ "other": "{" })), (false, 0, 0));
        assert_eq!(said(&json!("no object")), (false, 0, 0));
    }
}
