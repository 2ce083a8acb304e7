//! Values on their way through the graph.

use std::sync::Arc;

use flowcell_flow::{Json, python_json};

use crate::streaming::Answering;

/// A node's output.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// JSON, as text: it is handed from guest to guest without being parsed.
    Json(Arc<str>),
    /// A Python object, which stays in the lane whose instance made it.
    Object(Object),
    /// A stream of items, of a node that is still at work; only outputs of the flow read it.
    Answering(Answering),
    /// The output of a node that was bypassed: Python's `None`.
    Bypassed,
}

/// Where a Python object is.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) lane: usize,
    pub(crate) id: u64,
}

impl Value {
    pub(crate) fn from_json(json: &Json) -> Self {
        Self::Json(python_json(json).into())
    }
}
