//! Runs a flow: its folder becomes a working copy, its nodes' tools are found and checked, and a line goes through the graph.
//!
//! [`Host`] holds what all flows share (engine, store, compiled programs). A [`Workspace`] is a private copy of a flow's
//! folder, the only files of the user's that a guest sees. A [`Session`] is a workspace with its tools resolved and pools
//! of instances; it runs lines and single nodes. This crate decides what runs where and with which values; it never
//! evaluates a flow's code, templates or objects itself.

mod aggregation;
mod app;
mod calls;
mod check;
mod components;
mod connections;
mod describe;
mod doctor;
mod envelope;
mod environment;
mod error;
mod files;
mod host;
mod images;
mod inputs;
mod lanes;
mod line;
mod outputs;
mod package_tools;
mod preparing;
mod presented;
mod prompts;
mod records;
mod result;
mod run_options;
mod runs;
#[cfg(test)]
mod secrets_in_memory;
mod serving;
mod session;
mod session_images;
mod streaming;
mod tool_meta;
mod tools;
mod trace;
mod value;
mod workspace;

pub use app::{BuiltApp, OpenedApp, build_app, import_app, open_app};
pub use check::{Problem, check};
pub use connections::SessionConnections;
pub use describe::{NodeTool, complete_flow, describe, described_json};
pub use doctor::{Diagnosis, Subject, diagnose};
pub use envelope::{Dialect, envelope, error_json};
pub use environment::{
    Asked, EnvironmentOptions, FlowEnvironment, Made, ReadText, asked, flow_requirements, install,
    make_environment, text_of,
};
pub use error::{Code, RunError};
pub use host::{Host, HostOptions};
pub use images::ImageSink;
pub use package_tools::package_tools_json;
pub use preparing::{fork, prepare_image};
pub use presented::{framed, presented};
pub use records::{
    RunOf, aggregation_record, line_record, listed, listed_aggregation_inputs, record_time,
    single_node_record,
};
pub use result::{Captured, FlowResult, LineResult, NodeResult, NodeStatus, Status};
pub use run_options::{Observer, RunEvent, RunOptions};
pub use serving::{Accepted, served_inputs, served_outputs, served_part, swagger};
pub use session::{Session, SessionOptions, StoredOptions};
pub use session_images::ImageState;
pub use streaming::{Part, Parts};
pub use tool_meta::{FileTool, tool_meta, tool_meta_json};
pub use tools::Signature;
pub use trace::{SpanKind, SpanStatus, Tokens, Trace, TraceSpan, Tracer};
pub use workspace::{Workspace, WorkspaceLimits, flow_file};
