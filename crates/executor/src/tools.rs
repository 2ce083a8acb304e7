//! From nodes to tools: what each node calls, and with which of its literals converted.
//!
//! **A new node type goes here**: a variant of [`Tool`], how it is found ([`Tools::find`]) and given its literals
//! ([`Tools::bind`]), and how it is called
//! (`Line::execute`).

mod component;
mod entry;
mod llm;
mod prompt;
mod python;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use flowcell_bundle::{Tool as ToolDescription, ToolInput};
use flowcell_flow::{
    Flow, Json, MessageFormat, Node, NodeInput, NodeKind, SourceKind, coerce_literals, python_repr,
};
use flowcell_sandbox::{Lease, Pool, ToolInfo};
use indexmap::IndexMap;

use crate::components::Components;
use crate::connections::SessionConnections;
use crate::error::RunError;
use crate::host::Host;
use crate::preparing::Preparation;
use crate::streaming::feeds_outputs_only;
use crate::workspace::Workspace;

pub(crate) use self::llm::Llm;
pub(crate) use self::prompt::{Prompt, read_template, stem};

/// What a node calls.
#[derive(Debug)]
pub(crate) enum Tool {
    /// A function in a Python file of the flow.
    Python {
        /// The file, relative to the flow's folder.
        source: String,
    },
    /// What a flow without a graph calls.
    Entry {
        /// The runner's name for it.
        source: String,
    },
    /// A tool of a component.
    Component { pool: Arc<Pool>, tool: String },
    /// A Jinja template, rendered by a tool of the bundle.
    Prompt(Prompt),
    /// A Jinja template, sent to a model by a tool of the bundle.
    Llm(Box<Llm>),
}

/// What a tool takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    /// The tool's name for itself: a Python function's (`f`, `Class.method`, or what `@tool(name=…)` says), or the name
    /// within a component. A prompt has that of its file, without the extension.
    pub name: String,
    /// What it does, in its own words; empty when it says nothing.
    pub description: String,
    /// Its inputs: those of the constructor, then those of the call. A prompt's are its variables, all required.
    pub inputs: Vec<ToolInput>,
    /// Whether it takes inputs beyond these.
    pub open_inputs: bool,
}

impl From<ToolDescription> for Signature {
    fn from(tool: ToolDescription) -> Self {
        Self {
            name: tool.name,
            description: tool.description,
            inputs: tool.inputs,
            open_inputs: tool.open_inputs,
        }
    }
}

impl From<ToolInfo> for Signature {
    fn from(info: ToolInfo) -> Self {
        ToolDescription::from(info).into()
    }
}

/// A node's tool, without a look at what the node gives it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) tool: Tool,
    pub(crate) signature: Signature,
    /// Names of inputs that go to the tool's constructor.
    pub(crate) init: Vec<String>,
}

/// A node, ready to be called.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) tool: Tool,
    pub(crate) signature: Signature,
    pub(crate) init: Vec<String>,
    /// The node's inputs, with literals converted.
    pub(crate) inputs: IndexMap<String, NodeInput>,
}

impl Resolved {
    /// Whether the tool has a value of its own for an input that is absent.
    pub(crate) fn has_default(&self, input: &str) -> bool {
        self.signature
            .inputs
            .iter()
            .any(|parameter| parameter.name == input && !parameter.required)
    }
}

/// The tools of one session.
pub(crate) struct Tools {
    components: Arc<Components>,
    connections: Arc<SessionConnections>,
    pub(crate) message_format: MessageFormat,
    /// The package tools that the flow names.
    named: HashSet<String>,
    /// The nodes whose outputs are read by prompt and LLM nodes.
    read_by_prompts: HashSet<String>,
    /// The LLM nodes whose answers can be streams.
    streaming: HashSet<String>,
    python: Option<Arc<Pool>>,
    loader: Option<Lease>,
    preparation: Option<Preparation>,
    notes: Vec<String>,
}

impl Tools {
    pub(crate) fn new(
        components: Arc<Components>,
        connections: Arc<SessionConnections>,
        preparation: Option<Preparation>,
        flow: &Flow,
    ) -> Self {
        let sources = flow.nodes.iter().filter_map(|node| node.source.as_ref());
        Self {
            components,
            connections,
            message_format: flow.message_format,
            named: sources.filter_map(|source| source.tool.clone()).collect(),
            read_by_prompts: prompt::read_by_prompts(flow),
            streaming: flow
                .nodes
                .iter()
                .filter(|node| node.kind == Some(NodeKind::Llm) && feeds_outputs_only(flow, node))
                .map(|node| node.name.clone())
                .collect(),
            python: None,
            loader: None,
            preparation,
            notes: Vec::new(),
        }
    }

    /// How long an instance is waited for.
    fn wait(&self) -> Duration {
        self.components.wait()
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

    /// How the session's Python instances are stored.
    pub(crate) fn take_preparation(&mut self) -> Option<Preparation> {
        self.preparation.take()
    }

    /// Makes sure of a Python runner where the bundle has one: a flow's inputs may hold images, which it loads.
    pub(crate) fn with_python(&mut self, host: &Host) -> Result<(), RunError> {
        if self.components.manifest().python_runner().is_some() {
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
        let found = self.find(host, workspace, node).await?;
        self.bind(host, node, found).await
    }

    /// Finds a node's tool and what it takes.
    pub(crate) async fn find(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
    ) -> Result<Found, RunError> {
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
        let found = match (node.kind, source.map(|source| &source.kind)) {
            (Some(NodeKind::Python), Some(SourceKind::Package)) => self.package(node),
            (Some(NodeKind::Python), Some(SourceKind::Entry)) => {
                self.entry(host, workspace, node).await
            }
            (Some(NodeKind::Python), _) => {
                let source = code(&node.name)?;
                let loaded = self.load(host, workspace, &node.name, &source).await;
                loaded.map(|info| python::found(source, info))
            }
            (Some(NodeKind::Prompt), _) => self.prompt(workspace, node, &code(&node.name)?).await,
            (Some(NodeKind::Wasm), Some(SourceKind::Package)) => self.package(node),
            (Some(NodeKind::Wasm), _) => self.wasm(host, workspace, node, &code(&node.name)?).await,
            (Some(NodeKind::Llm), _) => self.llm(workspace, node).await,
            (Some(NodeKind::CustomLlm), _) => self.custom_llm(workspace, node).await,
            (Some(NodeKind::Csharp | NodeKind::Action) | None, _) => {
                let kind = node.kind.map_or("none", NodeKind::as_str);
                Err(RunError::user(
                    "NotImplementedError",
                    format!("Tool type {kind} is not supported yet."),
                ))
            }
        };
        found.map_err(|error| error.in_node(&node.name))
    }

    /// Converts a node's literals to what its tool takes.
    pub(crate) async fn bind(
        &mut self,
        host: &Host,
        node: &Node,
        found: Found,
    ) -> Result<Resolved, RunError> {
        let inputs = match &found.tool {
            Tool::Prompt(_) => prompt::inputs(node, &found.signature),
            Tool::Llm(llm) => self.llm_inputs(host, node, llm, &found.signature).await,
            Tool::Python { .. } => self.python_inputs(host, node, &found.signature).await,
            Tool::Entry { .. } | Tool::Component { .. } => self.converted(node, &found.signature),
        };
        let inputs = inputs.and_then(|mut inputs| {
            self.name_endpoint(node, &mut inputs)?;
            Ok(inputs)
        });
        Ok(Resolved {
            inputs: inputs.map_err(|error| error.in_node(&node.name))?,
            tool: found.tool,
            signature: found.signature,
            init: found.init,
        })
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
            (Some(NodeKind::Python), Some(SourceKind::Code), Some(path)) => self
                .load(host, workspace, &node.name, path)
                .await
                .map(|_| ()),
            (Some(NodeKind::Python), Some(SourceKind::Package), _)
            | (Some(NodeKind::CustomLlm), _, _)
                if self.components.tool(tool.unwrap_or_default()).is_none() =>
            {
                Err(self.no_such_tool(node))
            }
            _ => Ok(()),
        };
        searched.map_err(|error| error.in_node(&node.name))
    }

    /// A node's inputs, with literals converted to the types of the tool's, and connections looked for.
    fn converted(
        &self,
        node: &Node,
        signature: &Signature,
    ) -> Result<IndexMap<String, NodeInput>, RunError> {
        let types = |name: &str| {
            let input = signature.inputs.iter().find(|input| input.name == name);
            input.map(|input| input.types.as_slice())
        };
        let inputs = coerce_literals(node, types)?;
        for (input, value) in &inputs {
            if let NodeInput::Connection { name, types } = value {
                let found = self.connections.find(&flowcell_flow::python_str(name))?;
                check_type(node, input, found.kind().class_name(), types)?;
            }
        }
        Ok(inputs)
    }
}

/// promptflow's check of a connection's type (`ToolResolver._convert_to_connection_value`).
fn check_type(node: &Node, input: &str, class: &str, types: &[String]) -> Result<(), RunError> {
    if types.iter().any(|one| one == class) {
        return Ok(());
    }
    let node = &node.name;
    let valid: Json = types.iter().map(String::as_str).collect();
    Err(RunError::user(
        "ResolveToolError",
        format!(
            "Tool load failed in '{node}': (NodeInputValidationError) Input '{input}' for node '{node}' of type '{class}' is not supported, valid types {}.",
            python_repr(&valid)
        ),
    ))
}
