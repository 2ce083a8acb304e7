//! What came of a flow.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flowcell_flow::JsonMap;
use flowcell_sandbox::{Logs, Span};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::RunError;

/// Whether a flow, or a single node's test, answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It has outputs.
    Completed,
    /// It has an error.
    Failed,
}

/// What became of a node; promptflow's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeStatus {
    /// It has an output.
    Completed,
    /// It failed.
    Failed,
    /// Its condition was not met, or nothing that it needs has run.
    Bypassed,
    /// It was stopped, because another node failed or the time was up.
    Canceled,
}

impl Status {
    /// promptflow's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Failed => "Failed",
        }
    }

    /// That of an outcome.
    pub fn of<T, E>(outcome: &Result<T, E>) -> Self {
        if outcome.is_ok() {
            Self::Completed
        } else {
            Self::Failed
        }
    }
}

impl NodeStatus {
    /// promptflow's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Bypassed => "Bypassed",
            Self::Canceled => "Canceled",
        }
    }
}

/// What became of one node.
#[derive(Debug, Clone)]
pub struct NodeResult {
    /// The node's name.
    pub name: String,
    /// What became of it.
    pub status: NodeStatus,
    /// When its turn came.
    pub started: SystemTime,
    /// Wall-clock time from then to its end.
    pub duration: Duration,
    /// What it printed.
    pub logs: Logs,
    /// The parts of its work that it told of.
    pub spans: Vec<Span>,
    /// Why it failed.
    pub error: Option<RunError>,
    /// Its inputs and output, when [`RunOptions::capture`](crate::RunOptions::capture) asks for them and it was called.
    pub captured: Option<Captured>,
}

/// The values of a node's call, as promptflow records them in a run's `node_run_infos`.
///
/// Text as Python's `json.dumps` writes it, so it may hold NaN and Infinity. A value without a JSON form is its `repr`,
/// shortened; so is a stream, which would be spent by being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// A JSON object: what the tool was called with. Inputs of a tool's constructor are not in it.
    pub inputs: String,
    /// What it returned; `None` when it failed or was stopped.
    pub output: Option<String>,
}

/// What came of a flow test, of a single node, or of an aggregation.
#[derive(Debug)]
pub struct FlowResult {
    /// The outputs: an object for a flow, the node's value for a node, and for an aggregation an object with the value
    /// of each node that completed. Text as Python's `json.dumps` writes it, so it may hold NaN and Infinity.
    pub outputs: Result<String, RunError>,
    /// Metrics that aggregation nodes recorded, as JSON text.
    pub metrics: IndexMap<String, String>,
    /// The nodes that were reached, in the order in which they ended.
    pub nodes: Vec<NodeResult>,
    /// Warnings, as promptflow gives them.
    pub warnings: Vec<String>,
}

impl FlowResult {
    /// A flow that failed before any node ran.
    pub fn failed(error: RunError) -> Self {
        Self {
            outputs: Err(error),
            ..Self::new(Vec::new())
        }
    }

    /// A result that has nothing yet.
    pub(crate) fn new(warnings: Vec<String>) -> Self {
        Self {
            outputs: Ok(String::new()),
            metrics: IndexMap::new(),
            nodes: Vec::new(),
            warnings,
        }
    }

    /// Whether it answered.
    pub fn status(&self) -> Status {
        Status::of(&self.outputs)
    }
}

/// What came of a line: promptflow's `LineResult`.
#[derive(Debug)]
pub struct LineResult {
    /// The flow's outputs as the text of a JSON object, as in [`FlowResult::outputs`].
    pub outputs: Result<String, RunError>,
    /// What the aggregation nodes read of this line, as JSON text: by each reference that they have to a node of the
    /// line (`${node.output.property}`) what it leads to. Empty when the line failed.
    ///
    /// A value that is not JSON is given as a flow's output would be, or as its `repr` where that is not possible.
    pub aggregation_inputs: IndexMap<String, String>,
    /// What the entry of a flow without a graph has returned, as JSON text: its aggregation reads it of the line. `None` where
    /// that is a dict of JSON, which the outputs are.
    pub answer: Option<String>,
    /// The nodes that were reached, in the order in which they ended.
    pub nodes: Vec<NodeResult>,
    /// The inputs with defaults, converted to the flow's types; empty when that failed.
    pub inputs: Arc<JsonMap>,
    /// Warnings, as promptflow gives them.
    pub warnings: Vec<String>,
    /// The output that went out in parts, when [`RunOptions::parts`](crate::RunOptions::parts) asks for them. It is not among the
    /// outputs then.
    pub streamed: Option<String>,
}

impl LineResult {
    pub(crate) fn failed(error: RunError) -> Self {
        Self {
            outputs: Err(error),
            aggregation_inputs: IndexMap::new(),
            answer: None,
            nodes: Vec::new(),
            inputs: Arc::default(),
            warnings: Vec::new(),
            streamed: None,
        }
    }
}

/// Whether a text is JSON in the strict sense, without Python's NaN and Infinity.
pub(crate) fn is_strict_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}
