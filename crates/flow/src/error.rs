//! What can be wrong with a flow, in promptflow's classes and words.
//!
//! Users, scripts and the web know promptflow's messages, so each [`ErrorKind`] prints exactly what promptflow prints, and
//! [`FlowError::class`] is the name of the Python exception. What we add stands beside it: a [`Location`] in `flow.dag.yaml`, and
//! [`help`](FlowError::help).

use std::fmt;

use crate::json::{Json, python_repr, python_str, repr_list, repr_set};
use crate::value_type::ValueType;

/// A place in the text of `flow.dag.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

/// A problem with a flow, its inputs or its references.
///
/// Displays as promptflow's message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}", .inner.kind)]
pub struct FlowError {
    inner: Box<Inner>,
}

#[derive(Debug, Clone, PartialEq)]
struct Inner {
    kind: ErrorKind,
    location: Option<Location>,
    help: Option<String>,
}

impl FlowError {
    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.inner.kind
    }

    /// promptflow's name of the exception, e.g. `NodeReferenceNotFound`.
    pub fn class(&self) -> &'static str {
        self.inner.kind.class()
    }

    /// promptflow's first error code: `UserError`, or `SystemError` for what it does not expect to happen.
    pub fn code(&self) -> &'static str {
        self.inner.kind.code()
    }

    /// Where in `flow.dag.yaml`, if the problem is there.
    pub fn location(&self) -> Option<Location> {
        self.inner.location
    }

    /// The way out, if we know one that the message does not tell.
    pub fn help(&self) -> Option<&str> {
        self.inner.help.as_deref()
    }

    /// The same error at a place.
    #[must_use]
    pub fn at(mut self, location: Location) -> FlowError {
        self.inner.location = Some(location);
        self
    }

    /// The same error with advice, unless that is `None`.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<Option<String>>) -> FlowError {
        if let Some(help) = help.into() {
            self.inner.help = Some(help);
        }
        self
    }

    /// A reference to another section than `output`: `${node.section}`. promptflow finds this when the value is needed.
    pub fn unsupported_reference(node: &str, section: &str) -> FlowError {
        ErrorKind::UnsupportedReference {
            node: node.to_owned(),
            section: section.to_owned(),
        }
        .into()
    }

    /// A property path that leads nowhere in the output of `node`. promptflow finds this when the value is needed.
    pub fn invalid_reference_property(node: &str, property: &str) -> FlowError {
        ErrorKind::InvalidReferenceProperty {
            node: node.to_owned(),
            property: property.to_owned(),
        }
        .into()
    }

    /// A flow input that is needed (by an activate condition, say) and not there.
    pub fn flow_input_not_found<S: AsRef<str>>(
        input: &str,
        there: impl IntoIterator<Item = S>,
    ) -> FlowError {
        let there: Vec<String> = there
            .into_iter()
            .map(|name| name.as_ref().to_owned())
            .collect();
        ErrorKind::FlowInputNotFound {
            input: input.to_owned(),
            there: there.join(", "),
        }
        .into()
    }

    /// A flow without inputs in batch mode.
    pub fn no_inputs_in_batch_mode() -> FlowError {
        ErrorKind::NoInputsInBatchMode.into()
    }
}

impl From<ErrorKind> for FlowError {
    fn from(kind: ErrorKind) -> FlowError {
        FlowError {
            inner: Box::new(Inner {
                kind,
                location: None,
                help: None,
            }),
        }
    }
}

/// Text that tells where an input value came from, the way promptflow puts it.
fn in_line(line: &Option<u64>) -> String {
    line.map_or_else(String::new, |line| format!(" in line {line} of input data"))
}

fn in_line_or_data(line: &Option<u64>) -> String {
    line.map_or_else(
        || "in input data".to_owned(),
        |line| format!("in line {line} of input data"),
    )
}

/// The problems, one per message of promptflow. Several messages can share a [class](ErrorKind::class).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ErrorKind {
    /// The text is no YAML, or exceeds a limit. promptflow shows ruamel's `ScannerError` or `ParserError` in other words.
    #[error("{message}")]
    YamlParseError { message: String },

    /// A key twice in one mapping. The message is the one of ruamel, the YAML library of promptflow.
    #[error("{message}")]
    DuplicateKeyError { message: String },

    /// A part of the definition has the wrong shape, where promptflow fails with a Python error of no help.
    #[error(
        "The definition of {what} is incorrect: {why}. Please check your flow yaml and resubmit."
    )]
    Malformed { what: String, why: String },

    /// A key that must be there is not. promptflow shows Python's bare `KeyError: 'type'`.
    #[error("{}", python_repr(&Json::from(*key)))]
    KeyError { key: &'static str, of: String },

    #[error("{} is not a valid ValueType", python_repr(.value))]
    InvalidValueType { value: Json },

    #[error("{} is not a valid ToolType", python_repr(.value))]
    InvalidToolType { value: Json },

    /// An `activate` without `when` or without `is`.
    #[error(
        "The definition of activate config for node {node} is incorrect. Please check your flow yaml and resubmit."
    )]
    HalfActivate { node: String },

    #[error("Node {node} does not have source defined.")]
    NoSource { node: String },

    /// A tool, or its inputs, could not be made ready; `class` and `message` are those of the inner exception.
    #[error("Tool load failed in '{node}': ({class}) {message}")]
    ResolveToolError {
        node: String,
        class: &'static str,
        message: String,
    },

    /// A combination of node type and source type that promptflow refuses.
    #[error("{message}")]
    NotImplementedError { message: String },

    #[error(
        "Invalid node definitions found in the flow graph. Node with name '{node}' appears more than once in the node \
         definitions in your flow, which is not allowed. To address this issue, please review your flow and either \
         rename or remove nodes with identical names."
    )]
    DuplicateNodeName { node: String },

    #[error(
        "Invalid node definitions found in the flow graph. Node '{node}' references flow input '{input}' which is not \
         defined in your flow. To resolve this issue, please review your flow, ensuring that you either add the \
         missing flow inputs or adjust node reference to the correct flow input."
    )]
    InputReferenceNotFound { node: String, input: String },

    #[error(
        "Invalid node definitions found in the flow graph. Node '{node}' references a non-existent node '{reference}' \
         in your flow. Please review your flow to ensure that the node name is accurately specified."
    )]
    NodeReferenceNotFound { node: String, reference: String },

    /// A node of the line needs the result of an aggregation.
    #[error(
        "Invalid node definitions found in the flow graph. Non-aggregate node '{node}' cannot reference aggregate \
         nodes {}. Please review and rectify the node reference.", repr_set(.references)
    )]
    AggregationReferenced {
        node: String,
        references: Vec<String>,
    },

    /// The condition of an aggregation node needs a node of the line.
    #[error(
        "Invalid node definitions found in the flow graph. Non-aggregation node '{reference}' cannot be referenced in \
         the activate config of the aggregation node '{node}'. Please review and rectify the node reference."
    )]
    AggregationActivatedByLine { node: String, reference: String },

    #[error(
        "Invalid node definitions found in the flow graph. Node circular dependency has been detected among the nodes \
         in your flow. Kindly review the reference relationships for the nodes {} and resolve the circular reference \
         issue in the flow.", repr_list(.nodes)
    )]
    NodeCircularDependency { nodes: Vec<String> },

    #[error(
        "The output '{output}' for flow is incorrect. The reference is not specified for the output '{output}' in the \
         flow. To rectify this, ensure that you accurately specify the reference in the flow."
    )]
    EmptyOutputReference { output: String },

    #[error(
        "The output '{output}' for flow is incorrect. The output '{output}' references non-existent flow input \
         '{input}' in your flow. Please carefully review your flow and correct the reference definition for the \
         output in question."
    )]
    OutputInputNotFound { output: String, input: String },

    #[error(
        "The output '{output}' for flow is incorrect. The output '{output}' references non-existent node '{node}' in \
         your flow. To resolve this issue, please carefully review your flow and correct the reference definition \
         for the output in question."
    )]
    OutputNodeNotFound { output: String, node: String },

    /// The CLI's refusal, for a flow test (`of` is `flow`) or a node test (`of` is the node).
    #[error("Required input(s) {} are missing for \"{of}\".", repr_list(.inputs))]
    MissingInputs { inputs: Vec<String>, of: String },

    #[error(
        "The input for flow is incorrect. The value for flow input '{input}' is not provided {}. Please review your \
         input data or remove this input in your flow if it's no longer needed.", in_line_or_data(.line)
    )]
    InputNotFound { input: String, line: Option<u64> },

    #[error(
        "The input for flow is incorrect. The value for flow input '{input}'{} does not match the expected type \
         '{expected}'. Please change flow input type or adjust the input value in your input data.", in_line(.line)
    )]
    InputTypeError {
        input: String,
        line: Option<u64>,
        expected: ValueType,
    },

    #[error(
        "Failed to parse the flow input. The value for flow input '{input}'{} was interpreted as JSON string since \
         its type is '{expected}'. However, the value '{}' is invalid for JSON parsing. Error details: \
         (JSONDecodeError) {details}. Please make sure your inputs are properly formatted.",
        in_line(.line), python_str(.value)
    )]
    InputParseError {
        input: String,
        line: Option<u64>,
        expected: ValueType,
        value: Json,
        details: String,
    },

    #[error(
        "The input for flow cannot be empty in batch mode. Please review your flow and provide valid inputs."
    )]
    NoInputsInBatchMode,

    /// In a node test: the node refers to an input the flow does not have.
    #[error(
        "The input for node is incorrect. Node input '{input}' is not found from flow inputs of node '{node}'. Please \
         review the node definition in your flow."
    )]
    NodeInputUndefined { node: String, input: String },

    /// In a node test: a flow input the node refers to has no value.
    #[error(
        "The input for node is incorrect. Node input '{input}' is not found in input data for node '{node}'. Please \
         verify the inputs data for the node."
    )]
    NodeInputMissing { node: String, input: String },

    /// In a node test: the value of a flow input is of the wrong type.
    #[error(
        "The input for node is incorrect. Value for input '{input}' of node '{node}' is not type '{expected}'. Please \
         review and rectify the input data."
    )]
    NodeInputTypeError {
        node: String,
        input: String,
        expected: ValueType,
    },

    #[error("Cannot find {node} in the flow.")]
    NodeNotInFlow { node: String },

    #[error(
        "Invalid variant format: {text}, variant should be in format of ${{TUNING_NODE.VARIANT}}"
    )]
    InvalidVariantFormat { text: String },

    /// The missing space is promptflow's.
    #[error("Invalid entry '{entry}'.The entry should be in the format of '<module>:<function>'.")]
    InvalidFlexFlowEntry { entry: String },

    /// A `.prompty` without a front matter.
    #[error(
        "Illegal formatting of prompty. The prompt file is in markdown format and can be divided into two parts, the \
         first part is in YAML format and contains connection and model information. The second part is the prompt \
         template."
    )]
    IllegalPrompty,

    /// What promptflow's SDK says about variants: class `InvalidFlowError`.
    #[error("{message}")]
    InvalidFlowError { message: String },

    #[error(
        "Flow execution failed. The section '{section}' of reference is currently unsupported. Please specify the \
         output part of the node '{node}'."
    )]
    UnsupportedReference { node: String, section: String },

    #[error(
        "Flow execution failed. Invalid property '{property}' when accessing the node '{node}'. Please check the \
         property and try again."
    )]
    InvalidReferenceProperty { node: String, property: String },

    #[error(
        "Flow execution failed. The input '{input}' is not found from flow inputs '{there}'. Please check the input \
         name and try again."
    )]
    FlowInputNotFound { input: String, there: String },
}

impl ErrorKind {
    /// promptflow's name of the exception.
    pub fn class(&self) -> &'static str {
        match self {
            ErrorKind::YamlParseError { .. } => "YamlParseError",
            ErrorKind::DuplicateKeyError { .. } => "DuplicateKeyError",
            ErrorKind::Malformed { .. } | ErrorKind::HalfActivate { .. } => "FlowDefinitionError",
            ErrorKind::KeyError { .. } => "KeyError",
            ErrorKind::InvalidValueType { .. } | ErrorKind::InvalidToolType { .. } => "ValueError",
            ErrorKind::NoSource { .. }
            | ErrorKind::MissingInputs { .. }
            | ErrorKind::NodeNotInFlow { .. }
            | ErrorKind::IllegalPrompty
            | ErrorKind::InvalidVariantFormat { .. } => "UserErrorException",
            ErrorKind::InvalidFlexFlowEntry { .. } => "InvalidFlexFlowEntry",
            ErrorKind::ResolveToolError { .. } => "ResolveToolError",
            ErrorKind::NotImplementedError { .. } => "NotImplementedError",
            ErrorKind::DuplicateNodeName { .. } => "DuplicateNodeName",
            ErrorKind::InputReferenceNotFound { .. } => "InputReferenceNotFound",
            ErrorKind::NodeReferenceNotFound { .. } => "NodeReferenceNotFound",
            ErrorKind::AggregationReferenced { .. }
            | ErrorKind::AggregationActivatedByLine { .. } => "InvalidNodeReference",
            ErrorKind::NodeCircularDependency { .. } => "NodeCircularDependency",
            ErrorKind::EmptyOutputReference { .. } => "EmptyOutputReference",
            ErrorKind::OutputInputNotFound { .. } | ErrorKind::OutputNodeNotFound { .. } => {
                "OutputReferenceNotFound"
            }
            ErrorKind::InputNotFound { .. }
            | ErrorKind::NoInputsInBatchMode
            | ErrorKind::NodeInputUndefined { .. }
            | ErrorKind::NodeInputMissing { .. }
            | ErrorKind::FlowInputNotFound { .. } => "InputNotFound",
            ErrorKind::InputTypeError { .. } | ErrorKind::NodeInputTypeError { .. } => {
                "InputTypeError"
            }
            ErrorKind::InputParseError { .. } => "InputParseError",
            ErrorKind::InvalidFlowError { .. } => "InvalidFlowError",
            ErrorKind::UnsupportedReference { .. } => "UnsupportedReference",
            ErrorKind::InvalidReferenceProperty { .. } => "InvalidReferenceProperty",
        }
    }

    /// `UserError` for promptflow's own exceptions, `SystemError` for the Python exceptions it lets through.
    pub fn code(&self) -> &'static str {
        match self {
            ErrorKind::YamlParseError { .. }
            | ErrorKind::DuplicateKeyError { .. }
            | ErrorKind::KeyError { .. }
            | ErrorKind::InvalidValueType { .. }
            | ErrorKind::InvalidToolType { .. }
            | ErrorKind::NotImplementedError { .. } => "SystemError",
            ErrorKind::ResolveToolError { class, .. } if *class == "NotImplementedError" => {
                "SystemError"
            }
            _ => "UserError",
        }
    }
}

/// How long names may be to be compared, in bytes, and how many are compared: comparing costs the product of the lengths, and a flow
/// can be full of wrong names.
const MAX_COMPARED_BYTES: usize = 50;
const MAX_COMPARED_NAMES: usize = 500;

/// The name among `names` that is most like `wanted`, if one is like enough to have been meant.
pub(crate) fn nearest<'n>(
    wanted: &str,
    names: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let wanted = wanted.trim().to_lowercase();
    if wanted.len() > MAX_COMPARED_BYTES {
        return None;
    }
    names
        .into_iter()
        .take(MAX_COMPARED_NAMES)
        .filter(|name| name.len() <= MAX_COMPARED_BYTES)
        .map(|name| (strsim::osa_distance(&wanted, &name.to_lowercase()), name))
        // A third of the letters may differ, so that one of three is the least.
        .filter(|(distance, name)| {
            *distance <= wanted.chars().count().max(name.chars().count()) / 3
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `did you mean 'x'?`, or the first names there are to choose from, or nothing.
pub(crate) fn suggest<'n>(
    wanted: &str,
    names: impl IntoIterator<Item = &'n str> + Clone,
) -> Option<String> {
    if let Some(name) = nearest(wanted, names.clone()) {
        return Some(format!("did you mean '{name}'?"));
    }
    let names: Vec<&str> = names.into_iter().take(12).collect();
    if names.is_empty() {
        None
    } else {
        Some(format!("known: {}", names.join(", ")))
    }
}
