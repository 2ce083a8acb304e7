//! What the tests share: one host over the bundle that `./test.sh` builds, and limits that end what would never end.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::panic,
    clippy::unwrap_used,
    reason = "no test uses all of it, and a test stops where it fails"
)]

pub(crate) mod kept;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use flowcell_executor::{
    Host, HostOptions, RunError, Session, SessionOptions, Workspace, WorkspaceLimits,
};
use flowcell_flow::JsonMap;
use flowcell_sandbox::SandboxConfig;
use flowcell_tests::FlowFolder;
use serde_json::Value;

pub(crate) static HOST: LazyLock<Host> = LazyLock::new(|| {
    Host::new(HostOptions {
        store: flowcell_tests::home().to_owned(),
        sandbox: SandboxConfig {
            instances: 128,
            ..SandboxConfig::default()
        },
        compiler: flowcell_bundle::Compiler::Here,
        progress: Arc::new(|_: &str| {}),
    })
    .unwrap()
});

/// Ends only what would never end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn options() -> SessionOptions {
    let mut options = SessionOptions::new("promptflow:0.1.0".parse().unwrap());
    options.limits.wall_time = PATIENCE;
    options.limits.memory = 192 << 20;
    options.limits.output = 16 << 20;
    options.limits.disk_bytes = 16 << 20;
    options
}

/// A session over a copy of the flow.
pub(crate) async fn open(
    flow: &FlowFolder,
    change: impl FnOnce(&mut SessionOptions),
) -> Result<Session, RunError> {
    let workspace = Workspace::copy_of(&flow.path(), &WorkspaceLimits::default())?;
    let mut options = options();
    change(&mut options);
    Session::open(&HOST, workspace, options).await
}

/// A flow of Python nodes: its file, and the bodies of its tools by file name.
pub(crate) fn flow(yaml: &str, tools: &[(&str, &str)]) -> FlowFolder {
    let folder = FlowFolder::new().file("flow.dag.yaml", yaml);
    tools.iter().fold(folder, |folder, (name, code)| {
        let code = format!("from promptflow.core import tool, log_metric\n@tool\n{code}\n");
        folder.file(name, code)
    })
}

pub(crate) fn map(value: Value) -> JsonMap {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}
