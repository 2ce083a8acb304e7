//! From nodes to tools: what each node calls, and with which of its literals converted.
//!
//! **A new node type goes here**: a variant of [`Tool`], how it is found ([`Tools::resolve`]), and how it is called
//! (`Line::execute`).

mod component;
mod prompt;
mod python;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use flowcell_bundle::{Manifest, ToolInput};
use flowcell_flow::{Flow, MessageFormat, Node, NodeInput, NodeKind, SourceKind};
use flowcell_sandbox::{Environment, Isolation, Lease, Pool, Program};
use indexmap::IndexMap;

use crate::error::RunError;
use crate::host::Host;
use crate::workspace::Workspace;

pub(crate) use self::prompt::RENDER;

/// What a node calls.
#[derive(Debug)]
pub(crate) enum Tool {
    /// A function in a Python file of the flow.
    Python {
        /// The file, relative to the flow's folder.
        source: String,
    },
    /// A tool of a component.
    Component { pool: Arc<Pool>, tool: String },
    /// A Jinja template, rendered by a tool of the bundle.
    Prompt { pool: Arc<Pool>, template: String },
}

/// A node, ready to be called.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) tool: Tool,
    pub(crate) inputs: IndexMap<String, NodeInput>,
    pub(crate) parameters: Vec<ToolInput>,
    /// Whether the tool takes inputs beyond its parameters.
    pub(crate) open_inputs: bool,
    /// Names of inputs that go to the tool's constructor.
    pub(crate) init: Vec<String>,
}

impl Resolved {
    /// Whether the tool has a value of its own for an input that is absent.
    pub(crate) fn has_default(&self, input: &str) -> bool {
        self.parameters
            .iter()
            .any(|parameter| parameter.name == input && !parameter.required)
    }
}

/// The tools of one session: its bundle, and a pool for each component that a node has asked for.
pub(crate) struct Tools {
    manifest: Manifest,
    environment: Arc<Environment>,
    isolation: Isolation,
    instances: usize,
    wait: Duration,
    pub(crate) message_format: MessageFormat,
    /// The package tools that the flow names.
    named: HashSet<String>,
    pools: HashMap<String, Arc<Pool>>,
    python: Option<Arc<Pool>>,
    loader: Option<Lease>,
    notes: Vec<String>,
}

impl Tools {
    pub(crate) fn new(
        manifest: Manifest,
        environment: Arc<Environment>,
        isolation: Isolation,
        instances: usize,
        wait: Duration,
        flow: &Flow,
    ) -> Self {
        let sources = flow.nodes.iter().filter_map(|node| node.source.as_ref());
        Self {
            manifest,
            environment,
            isolation,
            instances,
            wait,
            message_format: flow.message_format,
            named: sources.filter_map(|source| source.tool.clone()).collect(),
            pools: HashMap::new(),
            python: None,
            loader: None,
            notes: Vec::new(),
        }
    }

    /// What Python files printed while they were imported.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The pool of the Python runner, if any node needs it. The instance that loaded the nodes' files is in it.
    pub(crate) fn python_pool(mut self) -> Option<Arc<Pool>> {
        self.loader = None;
        self.python
    }

    /// Makes sure of a Python runner where the bundle has one: a flow's inputs may hold images, which it loads.
    pub(crate) fn with_python(&mut self, host: &Host) -> Result<(), RunError> {
        if self.manifest.python_runner().is_some() {
            self.python_runner(host)?;
        }
        Ok(())
    }

    /// Finds a node's tool, and converts the node's literals to what the tool takes.
    pub(crate) async fn resolve(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
    ) -> Result<Resolved, RunError> {
        let source = node.source.as_ref();
        let code = |name: &str| {
            source
                .filter(|source| source.kind == SourceKind::Code)
                .and_then(|source| source.path.clone())
                .ok_or_else(|| {
                    RunError::user(
                        "InvalidSource",
                        format!("Node '{name}' has no source of type code with a path."),
                    )
                })
        };
        let resolved = match (node.kind, source.map(|source| &source.kind)) {
            (Some(NodeKind::Python), Some(SourceKind::Package)) => self.package(host, node),
            (Some(NodeKind::Python), _) => {
                self.python(host, workspace, node, code(&node.name)?).await
            }
            (Some(NodeKind::Prompt), _) => {
                self.prompt(host, workspace, node, &code(&node.name)?).await
            }
            (Some(NodeKind::Wasm), Some(SourceKind::Package)) => self.package(host, node),
            (Some(NodeKind::Wasm), _) => self.wasm(host, workspace, node, &code(&node.name)?).await,
            (Some(NodeKind::Llm), _) => {
                let connection = node.connection.as_deref().unwrap_or_default();
                Err(RunError::no_connection(connection))
            }
            (Some(NodeKind::CustomLlm), _) => Err(self.no_such_tool(node)),
            (Some(NodeKind::Csharp | NodeKind::Action) | None, _) => {
                let kind = node.kind.map_or("none", NodeKind::as_str);
                Err(RunError::user(
                    "NotImplementedError",
                    format!("Tool type {kind} is not supported yet."),
                ))
            }
        };
        resolved.map_err(|error| error.in_node(&node.name))
    }

    /// Loads a node's tool without a look at the node's inputs: promptflow does that with all nodes first.
    pub(crate) async fn search(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
    ) -> Result<(), RunError> {
        let source = node.source.as_ref();
        let path = source.and_then(|source| source.path.as_deref());
        let tool = source.and_then(|source| source.tool.as_deref());
        let searched = match (node.kind, source.map(|source| &source.kind), path) {
            (Some(NodeKind::Python), Some(SourceKind::Code), Some(path)) => {
                self.load(host, workspace, node, path).await.map(|_| ())
            }
            (Some(NodeKind::Python), Some(SourceKind::Package), _)
            | (Some(NodeKind::CustomLlm), _, _)
                if self.manifest.tool(tool.unwrap_or_default()).is_none() =>
            {
                Err(self.no_such_tool(node))
            }
            _ => Ok(()),
        };
        searched.map_err(|error| error.in_node(&node.name))
    }

    fn pool(&self, host: &Host, program: Arc<Program>) -> Arc<Pool> {
        Pool::new(
            Arc::clone(&host.sandbox),
            program,
            Arc::clone(&self.environment),
            self.isolation,
            self.instances,
        )
    }
}

fn refuse_connections(inputs: &IndexMap<String, NodeInput>) -> Result<(), RunError> {
    for input in inputs.values() {
        if let NodeInput::Connection { name, .. } = input {
            let name = flowcell_flow::python_str(name);
            return Err(RunError::no_connection(&name));
        }
    }
    Ok(())
}
