//! Outputs that leave while they come: answers of models, and generators of Python.
//!
//! promptflow streams one output of a line, after the others. A node whose answer streams has ended, for the line, when its
//! first item is there; what follows is read once all other nodes have ended.

use std::sync::{Arc, Mutex, PoisonError};

use flowcell_flow::{Assignment, Flow, Node};
use flowcell_sandbox::{Call, Logs, Span, ToolError};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::calls::Inputs;
use crate::error::RunError;
use crate::line::{Line, NodeEnd};
use crate::tools::Llm;
use crate::value::{Object, Value};

/// Items that a guest may be ahead of whoever takes them.
const AHEAD: usize = 4;

/// A part of a line's answer. Its texts are JSON as Python's `json.dumps` writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The outputs that are no streams, an object. It comes first.
    Outputs(String),
    /// The next item of the output that is a stream.
    Item {
        /// The output's name.
        output: String,
        /// The item.
        item: String,
    },
}

/// Takes a line's parts; what makes them waits while the channel is full.
pub type Parts = mpsc::Sender<Part>;

/// The answer of a node that is still at work.
#[derive(Debug, Clone)]
pub(crate) struct Answering(Arc<Mutex<Option<Stream>>>);

#[derive(Debug)]
struct Stream {
    first: Option<String>,
    rest: mpsc::Receiver<String>,
    call: AbortOnDropHandle<Call<Result<String, ToolError>>>,
}

/// What a stream is made from.
#[derive(Debug)]
pub(crate) enum Source {
    Node(Answering),
    Object(Object),
}

/// An output that went out in parts.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub(crate) output: String,
    pub(crate) node: String,
    /// What its node printed and told of meanwhile.
    pub(crate) logs: Logs,
    pub(crate) spans: Vec<Span>,
}

/// Whether a node's answer goes to outputs of the flow as it is, and nowhere else.
pub(crate) fn feeds_outputs_only(flow: &Flow, node: &Node) -> bool {
    let of_node = |assignment: &Assignment| match assignment {
        Assignment::NodeOutput {
            node: of, property, ..
        } if *of == node.name => Some(property.is_empty()),
        _ => None,
    };
    let read = flow.nodes.iter().any(|other| {
        let activate = other.activate.iter().map(|activate| &activate.when);
        let mut all = other.inputs.values().chain(activate);
        all.any(|assignment| of_node(assignment).is_some())
    });
    let mut outputs = flow.outputs.values();
    let mut outputs = outputs
        .by_ref()
        .filter_map(|output| of_node(&output.reference));
    let first = outputs.next();
    // Two outputs of one stream would be two streams.
    !read && first == Some(true) && outputs.next().is_none()
}

impl Line {
    /// Sends a prompt to a model whose answer is a stream, and waits for the first item of it.
    pub(crate) async fn streaming_llm(
        &self,
        node: &str,
        llm: &Llm,
        mut inputs: Inputs,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        inputs.retain(|(name, _)| name != "stream");
        inputs.push(("stream".to_owned(), "true".into()));
        let mut instance = self.instance(node, &llm.pool).await?;
        let (items, mut rest) = mpsc::channel(AHEAD);
        let tool = llm.tool.clone();
        let call = AbortOnDropHandle::new(tokio::spawn(async move {
            instance.emit_to(Some(items));
            let call = instance
                .invoke(&tool, crate::calls::json_object(&inputs))
                .await;
            instance.emit_to(None);
            call
        }));
        let first = rest.recv().await;
        if first.is_some() {
            let stream = Stream { first, rest, call };
            return Ok(Value::Answering(Answering(Arc::new(Mutex::new(Some(
                stream,
            ))))));
        }
        let answer = self.called(node, ended(call.await)?, end)?;
        Ok(Value::Json(answer.into()))
    }

    /// Hands out a stream until its end.
    pub(crate) async fn hand_out(
        &self,
        output: &str,
        node: &str,
        source: Source,
        parts: &Parts,
    ) -> Result<Streamed, RunError> {
        let give = async |item: String| {
            let output = output.to_owned();
            let given = parts.send(Part::Item { output, item }).await;
            given.map_err(|_| not_taken())
        };
        let streamed = |logs, spans| Streamed {
            output: output.to_owned(),
            node: node.to_owned(),
            logs,
            spans,
        };
        match source {
            Source::Node(Answering(stream)) => {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(Stream {
                    first,
                    mut rest,
                    call,
                }) = stream
                else {
                    return Err(RunError::system(
                        "SystemErrorException",
                        "a stream is read twice",
                    ));
                };
                if let Some(first) = first {
                    give(first).await?;
                }
                while let Some(item) = rest.recv().await {
                    give(item).await?;
                }
                let Call {
                    result,
                    logs,
                    spans,
                    ..
                } = ended(call.await)?;
                let result = result.map_err(|fault| self.faulted(node, fault))?;
                result.map_err(|error| RunError::tool(node, error))?;
                Ok(streamed(logs, spans))
            }
            Source::Object(object) => {
                let mut held = self.hold(node, object.lane).await?;
                let (items, mut taken) = mpsc::channel(AHEAD);
                let call = async {
                    held.instance().emit_to(Some(items));
                    let call = held.instance().stream(object.id).await;
                    held.instance().emit_to(None);
                    call
                };
                let give = async {
                    while let Some(item) = taken.recv().await {
                        give(item).await?;
                    }
                    Ok::<_, RunError>(())
                };
                let (
                    Call {
                        result,
                        logs,
                        spans,
                        ..
                    },
                    given,
                ) = tokio::join!(call, give);
                given?;
                let result = result.map_err(|fault| self.faulted(node, fault))?;
                result.map_err(|error| self.raised(node, error))?;
                Ok(streamed(logs, spans))
            }
        }
    }
}

fn ended<T>(call: Result<T, tokio::task::JoinError>) -> Result<T, RunError> {
    call.map_err(|error| {
        let message = format!("a node's task ended unexpectedly: {error}");
        RunError::system("SystemErrorException", message)
    })
}

/// Whoever took the parts has gone.
pub(crate) fn not_taken() -> RunError {
    RunError::user("Canceled", "nobody takes the answer any more")
}

/// A stream that something else than an output reads, which no graph should lead to.
pub(crate) fn unread(node: &str) -> RunError {
    let message = format!("the answer of node '{node}' is a stream, which only outputs can read");
    RunError::system("SystemErrorException", message).in_node(node)
}
