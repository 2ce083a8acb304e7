//! What a session is asked to do, and what comes of it.

use std::time::Duration;

use flowcell_executor::{RunError, Status, Trace};
use flowcell_flow::JsonMap;
use serde::{Deserialize, Serialize};

/// A JSON object as text. Numbers keep the text they were written with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Values(String);

impl From<&JsonMap> for Values {
    fn from(values: &JsonMap) -> Self {
        // Keys are texts and values are JSON, so there is nothing that could not be written.
        Self(serde_json::to_string(values).unwrap_or_default())
    }
}

impl Values {
    pub(crate) fn read(&self) -> Result<JsonMap, RunError> {
        serde_json::from_str(&self.0)
            .map_err(|error| RunError::system("ValueError", format!("inputs: {error}")))
    }
}

/// What a session is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// Runs the open flow.
    Run(Run),
    /// Looks at the flow's files.
    Look(Look),
    /// Opens the flow and goes on from its stored instances; the answer has no text.
    Resume,
}

/// Runs of an open flow, as the API and promptflow's own two interfaces ask for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Run {
    /// The flow, or one of its nodes, once; the answer is an envelope, also of a flow that fails.
    Call {
        /// The flow's inputs, or the node's.
        inputs: Values,
        /// The node.
        node: Option<String>,
    },
    /// The flow once, aggregation included; the answer is promptflow's `LineResult`.
    Flow {
        /// The run's identifier.
        run: String,
        /// The flow's inputs.
        inputs: Values,
    },
    /// A line of a batch; the answer is promptflow's `LineResult`.
    Line {
        /// The run's identifier.
        run: String,
        /// The line's number.
        number: u64,
        /// The flow's inputs.
        inputs: Values,
        /// The time that it may take.
        time: Duration,
    },
    /// One node; the answer is promptflow's `RunInfo`.
    Node {
        /// The node.
        node: String,
        /// The flow's file, for messages.
        flow_file: String,
        /// The flow's inputs that it reads.
        flow_inputs: Values,
        /// The outputs of the nodes that it reads.
        node_outputs: Values,
    },
    /// Nothing but opening the flow; the answer says what promptflow tells of a flow at the start of a batch.
    Initialize,
    /// The aggregation over a batch; the answer is promptflow's `AggregationResult`.
    Aggregate {
        /// The run's identifier.
        run: String,
        /// The inputs of the lines.
        inputs: Values,
        /// What the aggregation nodes read of the lines, by reference.
        gathered: Values,
    },
    /// The aggregation of a flow without a graph over a batch; the answer is likewise.
    AggregateAnswers {
        /// The run's identifier.
        run: String,
        /// What the entry has returned for each line, a JSON array.
        answers: String,
    },
    /// The flow once, as a deployed one; the answer has its outputs only. Where one of them is a stream, and the request takes
    /// streams, it goes out in parts.
    Score {
        /// The request's body.
        body: Vec<u8>,
        /// The request's `Accept`.
        accept: String,
    },
}

/// Looks at a flow's files that may be without a flow that opens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Look {
    /// What the nodes call, and what is wrong with it; the answer is a JSON array.
    Describe,
    /// What the served flow takes and gives; the answer is a description by OpenAPI.
    Swagger {
        /// The flow's name.
        name: String,
        /// Its samples, JSON.
        samples: Option<String>,
    },
    /// What single files hold: promptflow's `/tool/meta`.
    ToolMeta {
        /// Paths, and promptflow's kind of tool for each.
        files: Vec<(String, String)>,
    },
}

/// What came of some work, in the form in which it goes out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// Whether the flow answered. A failure may have a body too, if the interface has one for it.
    pub status: Status,
    /// The text, JSON, or why there is none. It is empty where the answer went out in parts.
    pub body: Result<String, RunError>,
    /// What happened in a run.
    pub trace: Option<Trace>,
}

impl Answer {
    pub(crate) fn json(status: Status, text: String) -> Self {
        Self {
            status,
            body: Ok(text),
            trace: None,
        }
    }

    pub(crate) fn failed(error: RunError) -> Self {
        Self {
            status: Status::Failed,
            body: Err(error),
            trace: None,
        }
    }
}
