//! From nodes to tools: what each node calls, and with which of its literals converted.
//!
//! **A new node type goes here**: a variant of [`Tool`], how it is found ([`Tools::resolve`]), and how it is called
//! (`line::call`).

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowcell_bundle::{Manifest, ToolInput};
use flowcell_flow::{
    Flow, Json, MessageFormat, Node, NodeInput, NodeKind, SourceKind, coerce_literals, python_repr,
};
use flowcell_sandbox::{
    Environment, ErrorKind, Isolation, Lease, LoadError, Parameter, Pool, Program, ProgramKind,
    ToolError, ToolInfo,
};
use indexmap::IndexMap;
use serde::Deserialize;

use crate::error::RunError;
use crate::files::FileError;
use crate::host::Host;
use crate::workspace::Workspace;

/// The built-in tool behind prompt nodes.
pub(crate) const RENDER: &str = "promptflow.tools.template_rendering.render_template_jinja2";
/// Its companion that says which variables a template has.
const INSPECT: &str = "promptflow.tools.template_rendering.inspect_template";
/// Largest prompt template, in bytes.
const MAX_TEMPLATE: u64 = 4 << 20;

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

/// What [`INSPECT`] answers.
#[derive(Debug, Deserialize)]
struct Inspected {
    variables: Vec<String>,
    error: Option<TemplateError>,
}

#[derive(Debug, Deserialize)]
struct TemplateError {
    r#type: String,
    line: Option<u64>,
    message: String,
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
            (Some(NodeKind::Python), Some(SourceKind::Package)) => self.package(host, node).await,
            (Some(NodeKind::Python), _) => {
                self.python(host, workspace, node, code(&node.name)?).await
            }
            (Some(NodeKind::Prompt), _) => {
                self.prompt(host, workspace, node, &code(&node.name)?).await
            }
            (Some(NodeKind::Wasm), Some(SourceKind::Package)) => self.package(host, node).await,
            (Some(NodeKind::Wasm), _) => self.wasm(host, workspace, node, &code(&node.name)?).await,
            (Some(NodeKind::Llm), _) => {
                let connection = node.connection.as_deref().unwrap_or_default();
                Err(RunError::user(
                    "ConnectionNotFoundError",
                    format!("Connection '{connection}' is not found."),
                )
                .help(
                    "LLM nodes need connections, which this version of flowcell does not have yet",
                ))
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

    /// The description of a Python tool, whose file is imported at the first call.
    async fn load(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
        source: &str,
    ) -> Result<ToolInfo, RunError> {
        let missing = || {
            RunError::user(
                "InvalidSource",
                format!(
                    "Load tool failed for node '{}'. Tool file '{source}' can not be found.",
                    node.name
                ),
            )
        };
        match workspace.files().check(source) {
            Ok(()) => {}
            Err(FileError::Missing | FileError::TooLarge { .. } | FileError::Io(_)) => {
                return Err(missing());
            }
            Err(FileError::Outside) => {
                return Err(missing().help(
                    "the path leads out of the flow's folder; move the file into it, or name it under additional_includes",
                ));
            }
        }
        let loader = self.python_loader(host).await?;
        let loaded = loader.load(&node.name, source).await;
        self.note_import(source, &loaded.logs);
        match loaded.result {
            Ok(Ok(info)) => Ok(info),
            Ok(Err(error)) => Err(load_error(error, &workspace.source().join(source))),
            Err(fault) => Err(RunError::fault(&node.name, fault)),
        }
    }

    async fn python(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
        source: String,
    ) -> Result<Resolved, RunError> {
        let info = self.load(host, workspace, node, &source).await?;
        let types: HashMap<&str, &[String]> = info
            .inputs
            .iter()
            .map(|input| (input.name.as_str(), input.types.as_slice()))
            .collect();
        let mut inputs = coerce_literals(node, |name| types.get(name).copied())?;
        refuse_connections(&inputs)?;
        self.literal_images(host, &node.name, &mut inputs, |name| {
            types.contains_key(name)
        })
        .await?;
        let init = info
            .inputs
            .iter()
            .filter(|input| input.init)
            .map(|input| input.name.clone())
            .collect();
        Ok(Resolved {
            tool: Tool::Python { source },
            inputs,
            init,
            open_inputs: info.open_inputs,
            parameters: info
                .inputs
                .into_iter()
                .map(|input: Parameter| input.into())
                .collect(),
        })
    }

    pub(crate) async fn python_loader(&mut self, host: &Host) -> Result<&mut Lease, RunError> {
        // A file whose import trapped leaves a broken instance.
        if self.loader.as_ref().is_none_or(|loader| loader.is_broken()) {
            self.loader = None;
            let pool = self.python_runner(host)?;
            let lease = pool.checkout(self.wait).await;
            self.loader = Some(lease.map_err(|error| RunError::pool("", error))?);
        }
        match &mut self.loader {
            Some(loader) => Ok(loader),
            None => Err(RunError::system(
                "SystemErrorException",
                "there is no Python instance",
            )),
        }
    }

    fn python_runner(&mut self, host: &Host) -> Result<Arc<Pool>, RunError> {
        if let Some(pool) = &self.python {
            return Ok(Arc::clone(pool));
        }
        let reference = self.manifest.reference();
        let runner = self.manifest.python_runner().ok_or_else(|| {
            RunError::user("BundleError", format!("the bundle {reference} has no Python runner, which the flow's Python nodes need"))
        })?;
        let program = host.programs.component(runner, host.progress())?;
        let pool = self.pool(host, program);
        self.python = Some(Arc::clone(&pool));
        Ok(pool)
    }

    fn note_import(&mut self, source: &str, logs: &flowcell_sandbox::Logs) {
        for text in [&logs.stdout, &logs.stderr, &logs.log] {
            if !text.is_empty() {
                self.notes.push(format!(
                    "{source} printed while it was imported: {}",
                    text.trim_end()
                ));
            }
        }
    }

    async fn package(&mut self, host: &Host, node: &Node) -> Result<Resolved, RunError> {
        let id = node
            .source
            .as_ref()
            .and_then(|source| source.tool.clone())
            .unwrap_or_default();
        let Some((pool, tool, parameters, open_inputs)) = self.bundled(host, &id)? else {
            return Err(self.no_such_tool(node));
        };
        component(node, pool, tool, parameters, open_inputs)
    }

    /// A tool of the bundle by its id: its pool, name, parameters, and whether it takes more.
    #[expect(clippy::type_complexity, reason = "used in this file only")]
    fn bundled(
        &mut self,
        host: &Host,
        id: &str,
    ) -> Result<Option<(Arc<Pool>, String, Vec<ToolInput>, bool)>, RunError> {
        let Some((component, tool)) = self.manifest.tool(id) else {
            return Ok(None);
        };
        let (component, tool) = (component.clone(), tool.clone());
        let pool = match self.pools.get(&component.name) {
            Some(pool) => Arc::clone(pool),
            None => {
                let program = host.programs.component(&component, host.progress())?;
                let pool = self.pool(host, program);
                self.pools.insert(component.name, Arc::clone(&pool));
                pool
            }
        };
        Ok(Some((pool, tool.name, tool.inputs, tool.open_inputs)))
    }

    fn no_such_tool(&self, node: &Node) -> RunError {
        let id = node
            .source
            .as_ref()
            .and_then(|source| source.tool.as_deref())
            .unwrap_or_default();
        let names = |ids: &mut dyn Iterator<Item = String>| {
            python_repr(&Json::Array(ids.map(Json::from).collect()))
        };
        let all = self.manifest.tool_ids();
        // promptflow collects only the tools that the flow names, and says "all" to those that it found among them.
        let mut named = all.iter().filter(|id| self.named.contains(*id)).cloned();
        RunError::user(
            "PackageToolNotFoundError",
            format!(
                "Package tool '{id}' is not found in the current environment. All available package tools are: {}.",
                names(&mut named)
            ),
        )
        .help(format!(
            "the bundle {} has {}",
            self.manifest.reference(),
            names(&mut all.iter().cloned())
        ))
    }

    async fn wasm(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
        path: &str,
    ) -> Result<Resolved, RunError> {
        let invalid = |what: String| {
            RunError::user(
                "InvalidSource",
                format!("Load tool failed for node '{}'. {what}", node.name),
            )
        };
        let bytes = workspace
            .files()
            .read(path, flowcell_sandbox::MAX_COMPONENT as u64)
            .map_err(|error| {
                invalid(match error {
                    FileError::Missing => format!("Tool file '{path}' can not be found."),
                    FileError::Outside => {
                        format!("Tool file '{path}' lies outside of the flow's folder.")
                    }
                    FileError::TooLarge { limit } => {
                        format!(
                            "Tool file '{path}' has more than {limit} bytes, which is the limit."
                        )
                    }
                    FileError::Io(error) => format!("Tool file '{path}' cannot be read: {error}."),
                })
            })?;
        let program = host
            .programs
            .bytes(&bytes, path, host.progress())
            .map_err(|error| invalid(format!("Tool file {error}")))?;
        if program.kind() != ProgramKind::Tool {
            return Err(invalid(format!(
                "Tool file '{path}' is a Python runner, not a tool."
            )));
        }
        let pool = self.pool(host, program);
        let mut instance = pool
            .checkout(self.wait)
            .await
            .map_err(|error| RunError::pool(&node.name, error))?;
        let tools = instance
            .describe()
            .await
            .result
            .map_err(|fault| RunError::fault(&node.name, fault))?;
        drop(instance);
        let wanted = node
            .source
            .as_ref()
            .and_then(|source| source.tool.as_deref());
        let names = || {
            let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
            names.join(", ")
        };
        let tool = match (wanted, tools.as_slice()) {
            (Some(wanted), _) => {
                tools
                    .iter()
                    .find(|tool| tool.name == wanted)
                    .ok_or_else(|| {
                        invalid(format!(
                            "Tool file '{path}' has no tool '{wanted}'; it has {}.",
                            names()
                        ))
                    })?
            }
            (None, [only]) => only,
            (None, _) => {
                return Err(invalid(format!(
                    "Tool file '{path}' has several tools; name one of them as source.tool: {}.",
                    names()
                )));
            }
        };
        let parameters = tool.inputs.iter().cloned().map(ToolInput::from).collect();
        component(node, pool, tool.name.clone(), parameters, tool.open_inputs)
    }

    async fn prompt(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
        path: &str,
    ) -> Result<Resolved, RunError> {
        let unresolved = |class: &str, message: String| {
            RunError::user(
                "ResolveToolError",
                format!("Tool load failed in '{}': ({class}) {message}", node.name),
            )
        };
        let template = read_template(workspace, path).map_err(|what| {
            let place = format!(
                "Node source path '{path}' is invalid on node '{}'",
                node.name
            );
            unresolved(
                "InvalidSource",
                match what {
                    None => format!("{place}."),
                    Some(what) => format!("{place}: the file {what}."),
                },
            )
        })?;
        let Some((pool, inspect, ..)) = self.bundled(host, INSPECT)? else {
            return Err(RunError::user(
                "BundleError",
                format!(
                    "the bundle {} cannot render prompts: it has no tool {INSPECT}",
                    self.manifest.reference()
                ),
            ));
        };
        let mut instance = pool
            .checkout(self.wait)
            .await
            .map_err(|error| RunError::pool(&node.name, error))?;
        let inputs = serde_json::json!({ "template": template }).to_string();
        let answer = instance.invoke(&inspect, inputs).await.result;
        let answer = answer.map_err(|fault| RunError::fault(&node.name, fault))?;
        let answer = answer.map_err(|error| RunError::tool(&node.name, error))?;
        drop(instance);
        let inspected: Inspected = serde_json::from_str(&answer).map_err(|error| {
            RunError::system(
                "BundleError",
                format!("{INSPECT} answered {answer}: {error}"),
            )
        })?;
        if let Some(error) = inspected.error {
            let line = error.line.unwrap_or(1);
            return Err(RunError::system(
                "ResolveToolError",
                format!(
                    "Tool load failed in '{}': Jinja parsing failed at line {line}: ({}) {}",
                    node.name, error.r#type, error.message
                ),
            ));
        }
        if inspected
            .variables
            .iter()
            .any(|variable| variable == "template")
        {
            return Err(unresolved(
                "NodeInputValidationError",
                format!(
                    "Invalid inputs {{'template'}} in prompt template of node {}. These inputs are duplicated with the reserved parameters of prompt tool.",
                    node.name
                ),
            ));
        }
        // Unlike those of Python nodes, a prompt's literals are taken as they are, null and "" included.
        let inputs = node
            .inputs
            .iter()
            .map(|(name, assignment)| {
                let input = match assignment {
                    flowcell_flow::Assignment::Literal(value) => NodeInput::Value(value.clone()),
                    reference => NodeInput::Reference(reference.clone()),
                };
                (name.clone(), input)
            })
            .collect();
        Ok(Resolved {
            tool: Tool::Prompt { pool, template },
            inputs,
            parameters: Vec::new(),
            open_inputs: true,
            init: Vec::new(),
        })
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

fn component(
    node: &Node,
    pool: Arc<Pool>,
    tool: String,
    parameters: Vec<ToolInput>,
    open_inputs: bool,
) -> Result<Resolved, RunError> {
    let types: HashMap<&str, &[String]> = parameters
        .iter()
        .map(|input| (input.name.as_str(), input.types.as_slice()))
        .collect();
    let inputs = coerce_literals(node, |name| types.get(name).copied())?;
    refuse_connections(&inputs)?;
    Ok(Resolved {
        tool: Tool::Component { pool, tool },
        inputs,
        parameters,
        open_inputs,
        init: Vec::new(),
    })
}

fn refuse_connections(inputs: &IndexMap<String, NodeInput>) -> Result<(), RunError> {
    for input in inputs.values() {
        if let NodeInput::Connection { name, .. } = input {
            let name = flowcell_flow::python_str(name);
            return Err(RunError::user(
                "ConnectionNotFoundError",
                format!("Connection '{name}' is not found."),
            )
            .help("this version of flowcell does not have connections yet"));
        }
    }
    Ok(())
}

/// A template's text; otherwise what is wrong with the file, if there is one.
fn read_template(workspace: &Workspace, path: &str) -> Result<String, Option<String>> {
    let bytes = workspace.files().read(path, MAX_TEMPLATE);
    let bytes = bytes.map_err(|error| match error {
        FileError::Missing => None,
        FileError::Outside => Some("lies outside of the flow's folder".to_owned()),
        FileError::TooLarge { limit } => Some(format!("has more than {limit} bytes")),
        FileError::Io(error) => Some(format!("cannot be read: {error}")),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Some(format!(
            "is not UTF-8: the byte at {place} is wrong; save it as UTF-8"
        ))
    })
}

fn load_error(error: LoadError, path: &Path) -> RunError {
    let one = "Please make sure you have one and only one tool definition in your script.";
    match error {
        LoadError::ImportFailed(error) => {
            let ToolError {
                kind,
                type_name,
                message,
                traceback,
                ..
            } = error;
            let message = format!(
                "Failed to load python module from file '{}': ({type_name}) {message}",
                path.display()
            );
            RunError {
                code: match kind {
                    ErrorKind::User => crate::error::Code::User,
                    ErrorKind::System => crate::error::Code::System,
                },
                traceback: (!traceback.is_empty()).then_some(traceback),
                ..RunError::user("PythonLoadError", message)
            }
        }
        LoadError::NoTool => RunError::user(
            "NoToolDefined",
            format!("No tool found in the python script. {one}"),
        ),
        LoadError::SeveralTools(names) => RunError::user(
            "MultipleToolsDefined",
            format!(
                "Expected 1 but collected {} tools: {}. {one}",
                names.len(),
                names.join(", ")
            ),
        ),
    }
}
