//! What a flow IS: the text of `flow.dag.yaml` in, a checked graph of typed nodes out.
//!
//! The crate knows promptflow's file format and its rules: references, conversion of inputs, variants, activation, and the messages
//! for everything that can be wrong. It knows nothing of how a node runs.
//!
//! It must never do I/O, start a thread, wait, or execute anything a flow says. The text of a flow is untrusted: it is read with
//! limits on size, depth and aliases, and no input makes this crate panic.
//!
//! ```
//! use flowcell_flow::{Assignment, Flow};
//!
//! # fn main() -> Result<(), flowcell_flow::FlowError> {
//! let text = r#"
//! inputs:
//!   question: {type: string}
//! outputs:
//!   answer: {type: string, reference: "${shout.output}"}
//! nodes:
//! - name: shout
//!   type: python
//!   source: {type: code, path: shout.py}
//!   inputs: {text: "${inputs.question}"}
//! "#;
//! let mut flow = Flow::parse(text, "example")?;
//! flow.with_variant(None)?;
//! let graph = flow.validate()?;
//! assert_eq!(graph.order, [0]);
//! assert_eq!(flow.nodes[0].inputs["text"], Assignment::FlowInput("question".to_owned()));
//! # Ok(())
//! # }
//! ```

mod activation;
mod entry;
mod error;
mod graph;
mod inputs;
mod json;
mod lint;
mod literals;
mod media;
mod parse;
mod property;
mod pyjson;
mod reference;
mod schema;
mod value_type;
mod variants;
mod yaml;
mod yaml_scalar;

pub use activation::{BypassReason, Decision, decide};
pub use entry::{AGGREGATE, Entry, EntryKind, Parameter};
pub use error::{ErrorKind, FlowError, Location};
pub use graph::Graph;
pub use inputs::{JsonMap, NodeTestInputs};
pub use json::{
    Json, NON_FINITE_KEY, as_non_finite, float, float_repr, python_eq, python_json,
    python_json_compact, python_repr, python_str, python_truth,
};
pub use lint::{Finding, Severity};
pub use literals::{NodeInput, coerce_literals};
pub use media::ImagePlace;
pub use property::{PropertyPath, Step};
pub use pyjson::{JsonProblem, python_loads, python_loads_why};
pub use reference::Assignment;
pub use schema::{
    Activate, Environment, Flow, FlowKind, InputDef, Language, MessageFormat, Node, NodeKind,
    NodeVariants, OutputDef, Source, SourceKind,
};
pub use value_type::{CoerceError, UnknownValueType, ValueType};
pub use variants::VariantChoice;
pub use yaml::{MAX_BYTES, MAX_DEPTH, MAX_EXPANDED_BYTES, MAX_NODES, yaml_to_json};
