//! Flows without a graph: flex flows, which call a function or an object of a class, and prompties.
//!
//! Such a flow has one node, which calls the entry with the flow's inputs. What the flow's file leaves open the entry's signature
//! says, which is known when its module has been imported: the executor adds it.

use std::sync::LazyLock;

use indexmap::IndexMap;
use regex::Regex;

use crate::error::{ErrorKind, FlowError, Location};
use crate::inputs::JsonMap;
use crate::json::{Json, constant_pattern};
use crate::reference::Assignment;
use crate::schema::{
    Flow, InputDef, Language, Node, NodeKind, NodeMarks, OutputDef, Source, SourceKind,
};
use crate::value_type::ValueType;

/// The method of an entry's class that gets the answers of all lines, and the name of the node that calls it.
pub const AGGREGATE: &str = "__aggregate__";

static TARGET: LazyLock<Regex> =
    LazyLock::new(|| constant_pattern(r"^[a-zA-Z0-9_.]+:[a-zA-Z0-9_]+$"));

/// What a flow without a graph calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// `module:function` or `module:Class`, or the prompty's file; as written.
    pub target: String,
    /// What the class's constructor takes, as far as the file says it.
    pub init: IndexMap<String, Parameter>,
    /// What a call without inputs has as such (`inputs`), and one without a constructor's (`init`); a prompty's inputs. It may
    /// refer to files until it is resolved.
    pub sample: Json,
    pub(crate) at: Location,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A function or class of a module.
    Code {
        /// The folder of the module, relative to the flow's; none for the flow's own.
        folder: Option<String>,
    },
    /// A prompt with its model.
    Prompty,
}

/// What a class's constructor takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// A value type, a class of connections, or one of configurations of models. It is not enforced.
    pub type_name: Option<String>,
    /// The value when none is given.
    pub default: Option<Json>,
}

impl Entry {
    pub(crate) fn new(kind: EntryKind, target: String, at: Location) -> Self {
        Self {
            kind,
            target,
            init: IndexMap::new(),
            sample: Json::Null,
            at,
        }
    }

    /// The entry in the runner's terms.
    pub fn source(&self) -> String {
        match &self.kind {
            EntryKind::Code { folder } => match folder.as_deref().map(folder_within) {
                Some(Some(folder)) if !folder.is_empty() => {
                    format!("entry:{folder}/{}", self.target)
                }
                _ => format!("entry:{}", self.target),
            },
            EntryKind::Prompty => format!("entry:{}", self.target),
        }
    }

    /// The inputs of a call that has none.
    pub fn sample_inputs(&self) -> Option<&JsonMap> {
        match self.kind {
            EntryKind::Code { .. } => self.sample.get("inputs")?.as_object(),
            EntryKind::Prompty => self.sample.as_object(),
        }
    }

    /// What the constructor gets: what is given, or else the sample's; then defaults. promptflow takes the default `""` for none.
    pub fn init_values(&self, given: &JsonMap) -> JsonMap {
        let sample = self.sample.get("init").and_then(Json::as_object);
        let mut values = match sample {
            Some(sample) if given.is_empty() => sample.clone(),
            _ => given.clone(),
        };
        for (name, parameter) in &self.init {
            match &parameter.default {
                Some(default)
                    if !default.is_null()
                        && default.as_str() != Some("")
                        && !values.contains_key(name) =>
                {
                    values.insert(name.clone(), default.clone());
                }
                _ => {}
            }
        }
        values
    }

    /// The flow's input that a parameter of the entry takes.
    pub fn input(&self, value_type: ValueType) -> InputDef {
        InputDef {
            value_type,
            default: None,
            description: None,
            enum_values: Vec::new(),
            is_chat_input: false,
            is_chat_history: None,
            at: self.at,
        }
    }

    /// The flow's output that a member of the entry's answer is.
    pub fn output(&self, value_type: ValueType) -> OutputDef {
        OutputDef {
            value_type,
            reference: Assignment::Literal(Json::from("")),
            description: None,
            evaluation_only: false,
            is_chat_output: false,
            at: self.at,
            reference_at: self.at,
        }
    }

    /// The name of the node that calls the entry.
    fn name(&self) -> &str {
        match self.kind {
            EntryKind::Code { .. } => self.target.rsplit(':').next().unwrap_or_default(),
            EntryKind::Prompty => self.target.trim_end_matches(".prompty"),
        }
    }

    fn node(&self) -> Node {
        Node::of_entry(self.name(), self.source(), self.at)
    }

    /// The node that calls the class's aggregation, with the answers of all lines as its input `parameter`.
    pub fn aggregation(&self, parameter: &str) -> Node {
        let mut node = Node::of_entry(AGGREGATE, format!("{}.{AGGREGATE}", self.source()), self.at);
        node.aggregation = true;
        let answers = Assignment::NodeOutput {
            node: self.name().to_owned(),
            section: "output".to_owned(),
            property: String::new(),
        };
        node.inputs.insert(parameter.to_owned(), answers);
        node
    }

    pub(crate) fn check(&self, language: Language) -> Result<(), FlowError> {
        let EntryKind::Code { folder } = &self.kind else {
            return Ok(());
        };
        if language == Language::Csharp {
            let message = "Flex flows in C# are not supported.".to_owned();
            return Err(FlowError::from(ErrorKind::NotImplementedError { message }).at(self.at));
        }
        if !TARGET.is_match(&self.target) {
            let entry = self.target.clone();
            return Err(FlowError::from(ErrorKind::InvalidFlexFlowEntry { entry }).at(self.at));
        }
        if let Some(folder) = folder
            && folder_within(folder).is_none()
        {
            let message = format!("The code '{folder}' is not in the flow's folder.");
            return Err(FlowError::from(ErrorKind::InvalidFlowError { message })
                .at(self.at)
                .with_help(
                    "move the code into the flow's folder, or name it under additional_includes"
                        .to_owned(),
                ));
        }
        Ok(())
    }
}

/// A path in the flow's folder without `.` and `..`; none for one that leads out of it.
fn folder_within(path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

impl Node {
    fn of_entry(name: &str, source: String, at: Location) -> Self {
        Self {
            name: name.to_owned(),
            kind: Some(NodeKind::Python),
            source: Some(Source {
                kind: SourceKind::Entry,
                path: Some(source),
                tool: None,
            }),
            inputs: IndexMap::new(),
            connection: None,
            api: None,
            provider: None,
            module: None,
            aggregation: false,
            use_variants: false,
            activate: None,
            comment: None,
            enable_cache: false,
            marks: NodeMarks {
                node: at,
                name: at,
                inputs: IndexMap::new(),
                activate: None,
            },
        }
    }
}

impl Flow {
    pub(crate) fn with_entry(self, entry: Entry) -> Self {
        Self {
            nodes: vec![entry.node()],
            entry: Some(entry),
            ..self
        }
    }
}
