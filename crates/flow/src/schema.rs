//! What a flow consists of: the parts of `flow.dag.yaml` as types.
//!
//! Rules: promptflow's `contracts/flow.py` and the SDK's schema. Parsing is in [`parse`](crate::parse), checking in
//! [`graph`](crate::graph) and [`lint`](crate::lint).

use std::fmt;

use indexmap::IndexMap;

use crate::entry::Entry;
use crate::error::Location;
use crate::json::Json;
use crate::lint::Finding;
use crate::reference::Assignment;
use crate::value_type::ValueType;

/// A flow, as `flow.dag.yaml` defines it.
///
/// Parsed, but not yet checked: apply the variants with [`Flow::with_variant`], then check with [`Flow::validate`].
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// The name in the file, or the default name given.
    pub name: String,
    /// Standard, chat or evaluation.
    pub kind: FlowKind,
    /// The name for people.
    pub display_name: Option<String>,
    /// What the flow is for.
    pub description: Option<String>,
    /// Free labels.
    pub tags: IndexMap<String, String>,
    /// The inputs, in the file's order.
    pub inputs: IndexMap<String, InputDef>,
    /// The outputs, in the file's order.
    pub outputs: IndexMap<String, OutputDef>,
    /// The nodes, in the file's order.
    pub nodes: Vec<Node>,
    /// The variants of nodes, by the node's name.
    pub node_variants: IndexMap<String, NodeVariants>,
    /// Image and requirements, where the file says something about them.
    pub environment: Option<Environment>,
    /// Environment variables for the nodes, as text (lists and mappings as JSON, others as Python's `str()`).
    /// A value `${connection.key}` stands for a field of a connection.
    pub environment_variables: IndexMap<String, String>,
    /// Files and folders that belong to the flow and lie elsewhere; relative to the flow's folder, as written.
    pub additional_includes: Vec<String>,
    /// The language of the flow's code.
    pub language: Language,
    /// How images are written in inputs and outputs.
    pub message_format: MessageFormat,
    /// What is called in place of a graph, if the flow has none: it is a flex flow or a prompty then, and `nodes` has one
    /// node, which calls the entry.
    pub entry: Option<Entry>,
    /// What was noticed while parsing: unknown keys and the like. [`Flow::lint`] repeats it.
    pub(crate) notes: Vec<Finding>,
}

/// `type` of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlowKind {
    /// `standard`, or nothing.
    #[default]
    Standard,
    /// `chat`.
    Chat,
    /// `evaluation`.
    Evaluation,
}

/// `language` of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    /// `python`, or nothing.
    #[default]
    Python,
    /// `csharp`: parsed, but flowcell does not run it.
    Csharp,
}

/// `message_format` of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MessageFormat {
    /// `basic`, or nothing: `{"data:image/png;path": "a.png"}`.
    #[default]
    Basic,
    /// `openai-vision`: `{"type": "image_url", "image_url": {"url": …}}`.
    OpenaiVision,
}

/// An input of the flow.
#[derive(Debug, Clone, PartialEq)]
pub struct InputDef {
    /// What values are converted to.
    pub value_type: ValueType,
    /// The value when none is given. `default: null` is no default.
    pub default: Option<Json>,
    /// What the input is for.
    pub description: Option<String>,
    /// The values a form may offer; promptflow does not enforce them.
    pub enum_values: Vec<Json>,
    /// Whether this input is what the user of a chat says.
    pub is_chat_input: bool,
    /// Whether this input is what was said before; `None` if the file is silent, then the name `chat_history` decides.
    pub is_chat_history: Option<bool>,
    /// Where the input is defined.
    pub(crate) at: Location,
}

/// An output of the flow.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputDef {
    /// Said by the file, never enforced.
    pub value_type: ValueType,
    /// Where the value comes from. The literal `""` if the file does not say.
    pub reference: Assignment,
    /// What the output is for.
    pub description: Option<String>,
    /// Whether only evaluations use the output.
    pub evaluation_only: bool,
    /// Whether this output is the answer of a chat.
    pub is_chat_output: bool,
    /// Where the output is defined.
    pub(crate) at: Location,
    /// Where its reference is.
    pub(crate) reference_at: Location,
}

/// A node: one call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The node's name. Any text: spaces, dots and other scripts are allowed.
    pub name: String,
    /// The kind of the tool. `None` only where the file is silent, as for a node that `use_variants` before they are applied;
    /// [`Flow::validate`] refuses it.
    pub kind: Option<NodeKind>,
    /// Where the tool is; refused by [`Flow::validate`] if missing.
    pub source: Option<Source>,
    /// What the tool is called with.
    pub inputs: IndexMap<String, Assignment>,
    /// The name of an LLM node's connection.
    pub connection: Option<String>,
    /// `chat` or `completion` of an LLM node.
    pub api: Option<String>,
    /// The provider of an LLM node; the connection's type decides in fact.
    pub provider: Option<String>,
    /// The module of the provider; legacy.
    pub module: Option<String>,
    /// Whether the node runs once after all lines. Also spelt `reduce`.
    pub aggregation: bool,
    /// Whether the node is replaced by one of its variants.
    pub use_variants: bool,
    /// When the node runs.
    pub activate: Option<Activate>,
    /// A remark.
    pub comment: Option<String>,
    /// Without effect, as in local promptflow.
    pub enable_cache: bool,
    /// Where the parts of the node are.
    pub(crate) marks: NodeMarks,
}

/// Where the parts of a node are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeMarks {
    pub(crate) node: Location,
    pub(crate) name: Location,
    pub(crate) inputs: IndexMap<String, Location>,
    pub(crate) activate: Option<Location>,
}

impl NodeMarks {
    pub(crate) fn input(&self, name: &str) -> Location {
        self.inputs.get(name).copied().unwrap_or(self.node)
    }

    pub(crate) fn activate(&self) -> Location {
        self.activate.unwrap_or(self.node)
    }
}

impl Node {
    /// Where the node is defined in `flow.dag.yaml`.
    pub fn location(&self) -> Location {
        self.marks.node
    }

    /// The names of the nodes this one refers to, by inputs and activate condition, with repetitions.
    pub fn references(&self) -> impl Iterator<Item = &str> {
        let condition = self.activate.iter().map(|activate| &activate.when);
        self.inputs
            .values()
            .chain(condition)
            .filter_map(Assignment::node)
    }
}

/// `type` of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A Python function, in a file or a package.
    Python,
    /// A Jinja template, rendered.
    Prompt,
    /// A Jinja template, sent to a language model.
    Llm,
    /// A package's function that gets a template.
    CustomLlm,
    /// Parsed, but flowcell does not run it.
    Csharp,
    /// Internal to promptflow and refused by it.
    Action,
    /// A component in WebAssembly: flowcell's own.
    Wasm,
}

impl NodeKind {
    /// All kinds with their names in `flow.dag.yaml`.
    pub(crate) const NAMES: [(NodeKind, &'static str); 7] = [
        (NodeKind::Llm, "llm"),
        (NodeKind::Python, "python"),
        (NodeKind::Csharp, "csharp"),
        (NodeKind::Prompt, "prompt"),
        (NodeKind::Action, "action"),
        (NodeKind::CustomLlm, "custom_llm"),
        (NodeKind::Wasm, "wasm"),
    ];

    /// The name in `flow.dag.yaml`.
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("python", |(_, name)| name)
    }

    /// How Python prints the kind: `ToolType.CSHARP`.
    pub(crate) fn python_name(self) -> &'static str {
        match self {
            NodeKind::Python => "ToolType.PYTHON",
            NodeKind::Prompt => "ToolType.PROMPT",
            NodeKind::Llm => "ToolType.LLM",
            NodeKind::CustomLlm => "ToolType.CUSTOM_LLM",
            NodeKind::Csharp => "ToolType.CSHARP",
            NodeKind::Action => "ToolType._ACTION",
            NodeKind::Wasm => "ToolType.WASM",
        }
    }
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a node's tool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// `type` of the source.
    pub kind: SourceKind,
    /// A file of the flow: a script, a template or a component. As written, relative to the flow's folder.
    pub path: Option<String>,
    /// A package's tool: `package.module.function`.
    pub tool: Option<String>,
}

/// `type` of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// `code`, or nothing: a file of the flow.
    Code,
    /// `package`: a tool of an installed package.
    Package,
    /// `package_with_prompt`: a tool of an installed package with a template of the flow.
    PackageWithPrompt,
    /// The [entry](Flow::entry) of a flow without a graph; no file says it.
    Entry,
    /// Anything else, which promptflow refuses only when it loads the tool.
    Other(String),
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceKind::Code => "code",
            SourceKind::Package => "package",
            SourceKind::PackageWithPrompt => "package_with_prompt",
            SourceKind::Entry => "entry",
            SourceKind::Other(text) => text,
        })
    }
}

/// When a node runs: when `when` equals `is`.
#[derive(Debug, Clone, PartialEq)]
pub struct Activate {
    /// Usually a reference.
    pub when: Assignment,
    /// The value to compare with, by Python's `==` (see [`python_eq`](crate::python_eq)); nothing is converted.
    pub is: Json,
}

/// The variants of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeVariants {
    /// Which variant is used if none is asked for.
    pub default_variant_id: Option<String>,
    /// The nodes to choose from, already under the name they will have in the flow.
    pub variants: IndexMap<String, Node>,
    /// Where the variants are defined.
    pub(crate) at: Location,
}

/// Image and requirements of a flow.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Environment {
    /// A base image: for flowcell a bundle's `name:tag`.
    pub image: Option<String>,
    /// A file with requirements, relative to the flow's folder.
    pub python_requirements_txt: Option<String>,
    /// Everything else the file says (`conda_file`, `setup_sh`, …), not used by flowcell.
    pub others: IndexMap<String, Json>,
}

impl Flow {
    /// The node of this name, the first if there are several.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Whether any node runs after all lines.
    pub fn has_aggregation(&self) -> bool {
        self.nodes.iter().any(|node| node.aggregation)
    }

    /// The name of the input that takes what the user of a chat says: the first marked `is_chat_input`.
    pub fn chat_input(&self) -> Option<&str> {
        self.inputs
            .iter()
            .find(|(_, input)| input.is_chat_input)
            .map(|(name, _)| name.as_str())
    }

    /// The name of the output that is the answer of a chat: the first marked `is_chat_output`.
    pub fn chat_output(&self) -> Option<&str> {
        self.outputs
            .iter()
            .find(|(_, output)| output.is_chat_output)
            .map(|(name, _)| name.as_str())
    }

    /// The name of the input that takes what was said before: the first marked `is_chat_history`, or one named `chat_history` that
    /// is not marked otherwise.
    pub fn chat_history(&self) -> Option<&str> {
        let marked = self
            .inputs
            .iter()
            .find(|(_, input)| input.is_chat_history == Some(true));
        let named = || {
            self.inputs
                .get_key_value("chat_history")
                .filter(|(_, input)| input.is_chat_history.is_none())
        };
        marked.or_else(named).map(|(name, _)| name.as_str())
    }

    /// Why the flow cannot be talked to (`pf flow test --interactive`), `None` if it can. promptflow's words.
    pub fn chat_problem(&self) -> Option<&'static str> {
        let chat_inputs = self
            .inputs
            .values()
            .filter(|input| input.is_chat_input)
            .count();
        let chat_outputs = self
            .outputs
            .values()
            .filter(|output| output.is_chat_output)
            .count();
        if chat_inputs != 1 {
            Some("chat flow does not support multiple chat inputs")
        } else if chat_outputs > 1 {
            Some("chat flow does not support multiple chat outputs")
        } else if chat_outputs == 0 && !self.outputs.is_empty() {
            Some("chat output is not configured")
        } else if self.chat_history().is_none() {
            Some("chat_history is required in the inputs of chat flow")
        } else {
            None
        }
    }
}
