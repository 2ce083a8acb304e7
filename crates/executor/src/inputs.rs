//! What a node is called with: its literals and references, as arguments.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowcell_flow::{
    Activate, Assignment, FlowError, Json, NodeInput, PropertyPath, ValueType, python_eq,
    python_json,
};
use flowcell_sandbox::Call;

use crate::error::RunError;
use crate::images;
use crate::lanes::Held;
use crate::line::Line;
use crate::streaming::unread;
use crate::tools::{Resolved, Tool};
use crate::value::{Object, Value};

/// An input's value.
#[derive(Debug, Clone)]
pub(crate) enum Argument {
    /// JSON text.
    Json(Arc<str>),
    /// A Python object in some lane.
    Object(Object),
    /// A list of Python objects: what an aggregation node gets from nodes whose outputs are not JSON.
    Objects(Vec<Object>),
}

impl From<Value> for Argument {
    fn from(value: Value) -> Self {
        match value {
            Value::Json(text) => Self::Json(text),
            Value::Object(object) => Self::Object(object),
            // A stream is no value; `property` refuses it.
            Value::Bypassed | Value::Answering(_) => Self::null(),
        }
    }
}

/// Named arguments.
pub(crate) type Arguments = Vec<(String, Argument)>;

impl Argument {
    pub(crate) fn null() -> Self {
        Self::Json("null".into())
    }

    pub(crate) fn json(value: &Json) -> Self {
        Self::Json(python_json(value).into())
    }

    /// The value in a list of one, as an aggregation node gets it in a flow test.
    pub(crate) fn listed(self) -> Self {
        match self {
            Self::Json(text) => Self::Json(format!("[{text}]").into()),
            Self::Object(object) => Self::Objects(vec![object]),
            Self::Objects(objects) => Self::Objects(objects),
        }
    }

    fn objects(&self) -> &[Object] {
        match self {
            Self::Json(_) => &[],
            Self::Object(object) => std::slice::from_ref(object),
            Self::Objects(objects) => objects,
        }
    }
}

/// The lane that holds most of the objects among the arguments; the lowest of several.
pub(crate) fn home(arguments: &Arguments) -> Option<usize> {
    let mut counts = BTreeMap::<usize, usize>::new();
    for (_, argument) in arguments {
        for object in argument.objects() {
            *counts.entry(object.lane).or_default() += 1;
        }
    }
    let most = counts.values().max().copied()?;
    counts
        .into_iter()
        .find(|(_, count)| *count == most)
        .map(|(lane, _)| lane)
}

impl Line {
    /// The arguments of a node whose dependencies are settled.
    pub(crate) async fn arguments(&self, resolved: &Resolved) -> Result<Arguments, RunError> {
        let format = self.session.flow.message_format;
        // Templates are filled by a component, which knows no Python objects.
        let is_llm = matches!(resolved.tool, Tool::Llm(_));
        let mut arguments = Vec::with_capacity(resolved.inputs.len());
        for (name, input) in &resolved.inputs {
            let argument = match input {
                NodeInput::Value(value) | NodeInput::AssistantDefinition(value) => {
                    Argument::json(value)
                }
                NodeInput::Image(value) if is_llm => {
                    let loaded = self.load_literal(name, value, ValueType::Image);
                    loaded.await?.into()
                }
                NodeInput::Images(value) if is_llm => {
                    let loaded = self.load_literal(name, value, ValueType::Object);
                    loaded.await?.into()
                }
                NodeInput::Image(value) => {
                    Argument::json(&images::marked(value, ValueType::Image, format))
                }
                NodeInput::Images(value) => {
                    Argument::json(&images::marked(value, ValueType::Object, format))
                }
                NodeInput::Connection { name, .. } => {
                    let name = flowcell_flow::python_str(name);
                    let connections = &self.session.connections;
                    Argument::json(&match resolved.tool {
                        Tool::Python { .. } | Tool::Entry { .. } => connections.object(&name)?,
                        Tool::Component { .. } | Tool::Prompt(_) | Tool::Llm(_) => {
                            connections.document(&name)?
                        }
                    })
                }
                NodeInput::Reference(Assignment::Literal(value)) => Argument::json(value),
                // An entry has defaults of its own.
                NodeInput::Reference(Assignment::FlowInput(input))
                    if matches!(resolved.tool, Tool::Entry { .. })
                        && !self.inputs.contains_key(input) =>
                {
                    continue;
                }
                NodeInput::Reference(Assignment::FlowInput(input)) => self.flow_value(input)?,
                NodeInput::Reference(
                    reference @ Assignment::NodeOutput {
                        node: from,
                        section,
                        property,
                    },
                ) => {
                    if let Some(gathered) = self.gathered(reference) {
                        arguments.push((name.clone(), gathered.clone()));
                        continue;
                    }
                    if section != "output" {
                        return Err(FlowError::unsupported_reference(from, section).into());
                    }
                    match self.output(from)? {
                        Value::Bypassed if resolved.has_default(name) => continue,
                        Value::Bypassed => Argument::null(),
                        value => self.property(from, value, property).await?,
                    }
                }
            };
            arguments.push((name.clone(), argument));
        }
        Ok(arguments)
    }

    /// A flow input's value, as it was given and converted.
    pub(crate) fn flow_input(&self, name: &str) -> Result<&Json, RunError> {
        let there = self.inputs.keys();
        self.inputs
            .get(name)
            .ok_or_else(|| FlowError::flow_input_not_found(name, there).into())
    }

    /// A flow input's value as an argument: its images loaded, if it has any.
    pub(crate) fn flow_value(&self, name: &str) -> Result<Argument, RunError> {
        match self.media.get(name) {
            Some(argument) => Ok(argument.clone()),
            None => Ok(Argument::json(self.flow_input(name)?)),
        }
    }

    /// What a property path of a reference leads to.
    pub(crate) async fn property(
        &self,
        node: &str,
        value: Value,
        property: &str,
    ) -> Result<Argument, RunError> {
        if let Value::Answering(_) = value {
            return Err(unread(node));
        }
        // Most references have none, and reading one takes a while.
        if property.is_empty() {
            return Ok(value.into());
        }
        let path = PropertyPath::parse(property);
        let invalid = || RunError::from(FlowError::invalid_reference_property(node, property));
        match value {
            value if path.is_empty() => Ok(value.into()),
            Value::Bypassed | Value::Answering(_) => Err(invalid()),
            Value::Json(text) => {
                let value: Json = parse(node, &text)?;
                let found = path.get(&value).ok_or_else(invalid)?;
                Ok(Argument::json(&found))
            }
            Value::Object(object) => {
                let mut held = self.hold(node, object.lane).await?;
                let found = held.instance().property(object.id, property).await;
                match self.ask(node, found)? {
                    Ok(outcome) => Ok(held.value(outcome).into()),
                    // The lookup's own failures; anything else is an exception of the object's code.
                    Err(error)
                        if matches!(
                            error.type_name.as_str(),
                            "KeyError" | "IndexError" | "AttributeError" | "TypeError"
                        ) =>
                    {
                        Err(invalid())
                    }
                    Err(error) => Err(RunError::tool(node, error)),
                }
            }
        }
    }

    /// Whether a node's condition holds.
    pub(crate) async fn is_met(&self, node: &str, activate: &Activate) -> Result<bool, RunError> {
        let argument = match &activate.when {
            Assignment::Literal(value) => return Ok(python_eq(value, &activate.is)),
            Assignment::FlowInput(input) => {
                // In an aggregation this is the list of all lines' values, as in promptflow.
                return Ok(python_eq(self.flow_input(input)?, &activate.is));
            }
            Assignment::NodeOutput {
                node: from,
                section,
                property,
            } => {
                if section != "output" {
                    return Err(FlowError::unsupported_reference(from, section).into());
                }
                self.property(from, self.output(from)?, property).await?
            }
        };
        match argument {
            Argument::Json(text) => Ok(python_eq(&parse(node, &text)?, &activate.is)),
            Argument::Object(object) => {
                let mut held = self.hold(node, object.lane).await?;
                let equal = held
                    .instance()
                    .equals(object.id, python_json(&activate.is))
                    .await;
                self.ask(node, equal)?
                    .map_err(|error| RunError::tool(node, error))
            }
            Argument::Objects(_) => Ok(false),
        }
    }

    /// The lane that an object is in.
    pub(crate) async fn hold(&self, node: &str, lane: usize) -> Result<Held, RunError> {
        let held = self.lanes.lane(lane).await;
        held.filter(|held| !held.is_broken()).ok_or_else(|| {
            RunError::system("ObjectLost", format!("A value that node '{node}' needs was lost: the instance that held it has failed"))
                .in_node(node)
        })
    }

    /// The answer of a guest that was asked about an object. What it printed meanwhile belongs to no node.
    pub(crate) fn ask<T>(&self, node: &str, call: Call<T>) -> Result<T, RunError> {
        call.result.map_err(|fault| self.faulted(node, fault))
    }

    /// Puts arguments into the terms of one lane, bringing objects over from others.
    pub(crate) async fn bring(
        &self,
        node: &str,
        arguments: Arguments,
        home: usize,
    ) -> Result<Vec<(String, Brought)>, RunError> {
        let mut brought = Vec::with_capacity(arguments.len());
        for (name, argument) in arguments {
            let argument = match argument {
                Argument::Json(text) => Brought::Json(text),
                Argument::Object(object) => Brought::Object(self.packed(node, object, home).await?),
                Argument::Objects(objects) => {
                    let mut list = Vec::with_capacity(objects.len());
                    for object in objects {
                        list.push(self.packed(node, object, home).await?);
                    }
                    Brought::Objects(list)
                }
            };
            brought.push((name, argument));
        }
        Ok(brought)
    }

    async fn packed(&self, node: &str, object: Object, home: usize) -> Result<Moved, RunError> {
        if object.lane == home {
            return Ok(Moved::Here(object.id));
        }
        let mut held = self.hold(node, object.lane).await?;
        let packed = self.ask(node, held.instance().pack(object.id).await)?;
        let error = match packed {
            Ok(bytes) => return Ok(Moved::Packed(bytes)),
            Err(error) => error,
        };
        let shown = held.repr(object.id).await;
        Err(RunError::user(
                "ValueNotMovable",
                format!(
                    "Node '{node}' reads values of two nodes that ran at the same time, in different instances, and {} cannot be moved between them: ({}) {}",
                    shown, error.type_name, error.message
                ),
            )
            .in_node(node)
            .help("return plain data (or a class that pickles) from one of the nodes, or let one of them depend on the other"))
    }
}

/// An argument on its way into a certain lane.
pub(crate) enum Brought {
    Json(Arc<str>),
    Object(Moved),
    Objects(Vec<Moved>),
}

/// An object that is in the lane already, or packed to be unpacked there.
pub(crate) enum Moved {
    Here(u64),
    Packed(Vec<u8>),
}

fn parse(node: &str, text: &str) -> Result<Json, RunError> {
    serde_json::from_str(text).map_err(|error| {
        RunError::user(
            "ValueError",
            format!("The value for node '{node}' is not JSON: {error}"),
        )
        .in_node(node)
    })
}
