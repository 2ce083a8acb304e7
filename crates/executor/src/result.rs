//! What came of a flow.

use std::time::Duration;

use flowcell_sandbox::Logs;
use indexmap::IndexMap;
use serde_json::value::RawValue;

use crate::error::RunError;

/// Whether a flow, or a single node's test, answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has outputs.
    Completed,
    /// It has an error.
    Failed,
}

/// What became of a node; promptflow's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug)]
pub struct NodeResult {
    /// The node's name.
    pub name: String,
    /// What became of it.
    pub status: NodeStatus,
    /// Wall-clock time from its start to its end; zero when it did not run.
    pub duration: Duration,
    /// What it printed.
    pub logs: Logs,
    /// Why it failed, where the flow went on all the same (an aggregation node).
    pub error: Option<RunError>,
}

/// What came of a flow's line, or of a single node.
#[derive(Debug)]
pub struct FlowResult {
    /// The outputs: an object for a flow, the node's value for a node. Text as Python's `json.dumps` writes it, so it
    /// may hold NaN and Infinity.
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
            metrics: IndexMap::new(),
            nodes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Whether it answered.
    pub fn status(&self) -> Status {
        if self.outputs.is_ok() {
            Status::Completed
        } else {
            Status::Failed
        }
    }
}

/// Whether a text is JSON in the strict sense, without Python's NaN and Infinity.
pub(crate) fn is_strict_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}
