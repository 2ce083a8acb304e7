//! The literal inputs of nodes, converted to the types of the tool's parameters.
//!
//! Rules: `ToolResolver._convert_literal_input_types`. References are not converted at all, whatever their value turns out to be.

use indexmap::IndexMap;

use crate::error::{ErrorKind, FlowError};
use crate::json::{Json, python_repr, python_str};
use crate::reference::Assignment;
use crate::schema::Node;
use crate::value_type::ValueType;

/// A node's input, ready to be resolved when the node runs.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeInput {
    /// A literal, converted if the tool says its type.
    Value(Json),
    /// A reference.
    Reference(Assignment),
    /// The name of a connection, and the types of connection the tool takes.
    Connection {
        /// As written in the flow; text in any flow that works.
        name: Json,
        /// The class names, first the one the tool prefers.
        types: Vec<String>,
    },
    /// An image, to be loaded by the executor: a path, a URL, base64 text or a mapping.
    Image(Json),
    /// A literal with images inside it, to be loaded by the executor.
    Images(Json),
    /// The path of an assistant's definition, to be loaded by the executor.
    AssistantDefinition(Json),
}

/// Whether a parameter type is the class of a connection.
///
/// promptflow asks a registry of classes; their names all end like this.
fn is_connection(type_name: &str) -> bool {
    type_name.ends_with("Connection")
}

/// The inputs of a node with its literals converted.
///
/// `types_of` gives the types of a parameter of the tool as the tool's metadata has them, of which only the first counts; `None` for
/// names that are no parameter, which take any value as it is. Literals that are null or `""` are dropped: the parameter's default
/// applies.
///
/// # Errors
/// `ResolveToolError` for a value that cannot be converted, or a type that is unknown.
pub fn coerce_literals<'t>(
    node: &Node,
    types_of: impl Fn(&str) -> Option<&'t [String]>,
) -> Result<IndexMap<String, NodeInput>, FlowError> {
    let mut inputs = IndexMap::new();
    for (name, assignment) in &node.inputs {
        let input = match assignment {
            Assignment::Literal(value) if value.is_null() || value.as_str() == Some("") => continue,
            Assignment::Literal(value) => match types_of(name) {
                Some(types) => literal(node, name, value, types)?,
                None => NodeInput::Value(value.clone()),
            },
            reference => NodeInput::Reference(reference.clone()),
        };
        inputs.insert(name.clone(), input);
    }
    Ok(inputs)
}

fn literal(
    node: &Node,
    name: &str,
    value: &Json,
    types: &[String],
) -> Result<NodeInput, FlowError> {
    let failed = |class, message| {
        FlowError::from(ErrorKind::ResolveToolError {
            node: node.name.clone(),
            class,
            message,
        })
        .at(node.marks.input(name))
    };
    let Some(first) = types.first() else {
        return Ok(NodeInput::Value(value.clone()));
    };
    if is_connection(first) {
        return Ok(NodeInput::Connection {
            name: value.clone(),
            types: types.to_vec(),
        });
    }
    // promptflow reads the types of a tool's metadata in any case.
    match first.to_lowercase().parse::<ValueType>() {
        Ok(ValueType::Image) => Ok(NodeInput::Image(value.clone())),
        Ok(ValueType::AssistantDefinition) => Ok(NodeInput::AssistantDefinition(value.clone())),
        Ok(value_type) => value_type
            .coerce(value.clone())
            .map(NodeInput::Value)
            .map_err(|_| {
                let message = format!(
                    "Input '{name}' for node '{}' of value '{}' is not type {value_type}.",
                    node.name,
                    python_str(value)
                );
                failed("NodeInputValidationError", message)
            }),
        Err(_) => {
            let message = format!(
                "Unresolved input type {}, please check if it is supported in current version.",
                python_repr(&Json::from(first.as_str()))
            );
            Err(failed("ValueTypeUnresolved", message))
        }
    }
}
