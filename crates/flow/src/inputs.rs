//! The inputs of a flow test, of a line and of a node test: defaults, conversion, and what is missing.
//!
//! Rules: `FlowValidator.ensure_flow_inputs_type` and `apply_default_value_for_input` for a line; `TestSubmitter.resolve_data` for the
//! tests of the CLI, which looks for missing inputs before anything runs.

use indexmap::IndexMap;

use crate::entry::Entry;
use crate::error::{ErrorKind, FlowError, nearest, suggest};
use crate::json::Json;
use crate::property::{PropertyPath, Step};
use crate::reference::Assignment;
use crate::schema::{Flow, InputDef};
use crate::value_type::CoerceError;

/// Values by name.
pub type JsonMap = serde_json::Map<String, Json>;

/// What a node test runs with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeTestInputs {
    /// The flow inputs the node refers to, defaults applied, not yet converted; and given values nobody asked for.
    pub flow_inputs: JsonMap,
    /// The outputs of the nodes the node refers to.
    pub node_outputs: IndexMap<String, Json>,
    /// The names of given values that neither the flow nor the node knows; promptflow warns of them.
    pub unknown: Vec<String>,
}

impl Flow {
    /// The inputs of one line: defaults for what is not given, then every declared input converted to its type.
    ///
    /// The given values come first and keep their order; inputs the flow does not declare are kept untouched. `line` is the number
    /// of the line from 0, for messages; `None` when there is no such thing (serving).
    ///
    /// # Errors
    /// `InputNotFound` for the first input without a value, then `InputTypeError` or `InputParseError` for the first that cannot be
    /// converted, in the flow's order.
    pub fn coerce_inputs(&self, given: &JsonMap, line: Option<u64>) -> Result<JsonMap, FlowError> {
        // Of flows without a graph promptflow does not say the line.
        let line = line.filter(|_| self.entry.is_none());
        let mut values = self.given_or_sample(given).clone();
        for (name, input) in self.checked_inputs() {
            if let (false, Some(default)) = (values.contains_key(name), &input.default) {
                values.insert(name.clone(), default.clone());
            }
        }
        if let Some((name, input)) = self
            .checked_inputs()
            .find(|(name, _)| !values.contains_key(*name))
        {
            let help = suggest(
                name,
                given
                    .keys()
                    .filter(|name| !self.inputs.contains_key(*name))
                    .map(String::as_str),
            );
            return Err(FlowError::from(ErrorKind::InputNotFound {
                input: name.clone(),
                line,
            })
            .at(input.at)
            .with_help(help));
        }
        for (name, input) in self.checked_inputs() {
            if let Some(value) = values.get_mut(name) {
                *value = coerce_input(name, input, value.take(), line)?;
            }
        }
        Ok(values)
    }

    /// What is given, or the sample of a flow without a graph when nothing is.
    fn given_or_sample<'v>(&'v self, given: &'v JsonMap) -> &'v JsonMap {
        let sample = self.entry.as_ref().and_then(Entry::sample_inputs);
        sample.filter(|_| given.is_empty()).unwrap_or(given)
    }

    /// The inputs that must be there, and are converted: all but those of an entry that have the default `""`, which promptflow
    /// takes for None.
    pub(crate) fn checked_inputs(&self) -> impl Iterator<Item = (&String, &InputDef)> {
        let inputs = self.inputs.iter();
        inputs.filter(|(_, input)| {
            let is_empty = input.default.as_ref().and_then(Json::as_str) == Some("");
            self.entry.is_none() || !is_empty
        })
    }

    /// Converts the flow inputs of an aggregation: for each declared input the list of its values, one per completed line.
    ///
    /// Inputs that are not given but have a default get it once per line, `lines` times.
    ///
    /// # Errors
    /// As [`coerce_inputs`](Flow::coerce_inputs), where the line is the place in the list.
    pub fn coerce_aggregated_inputs(
        &self,
        given: &IndexMap<String, Vec<Json>>,
        lines: usize,
    ) -> Result<IndexMap<String, Vec<Json>>, FlowError> {
        let mut converted = IndexMap::new();
        for (name, input) in &self.inputs {
            let values = match (given.get(name), &input.default) {
                (Some(values), _) => values.clone(),
                (None, Some(default)) => vec![default.clone(); lines],
                (None, None) => continue,
            };
            let values = (0..)
                .zip(values)
                .map(|(line, value)| coerce_input(name, input, value, Some(line)));
            converted.insert(name.clone(), values.collect::<Result<_, _>>()?);
        }
        Ok(converted)
    }

    /// The names of inputs that are not given and have no default, in the flow's order. A default of null is none.
    ///
    /// A chat's history is never missing: it begins empty.
    pub fn missing_inputs(&self, given: &JsonMap) -> Vec<String> {
        let history = self.chat_history();
        self.inputs
            .iter()
            .filter(|(name, input)| {
                !given.contains_key(*name)
                    && input.default.is_none()
                    && history != Some(name.as_str())
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What a flow test runs with, from the values given to the CLI: the declared inputs in the flow's order, with their defaults
    /// and not yet converted (for that see [`coerce_inputs`](Flow::coerce_inputs)), then what else was given.
    ///
    /// # Errors
    /// `UserErrorException` if inputs are missing: `Required input(s) ['a'] are missing for "flow".` Of a flow without a graph
    /// only [`coerce_inputs`](Flow::coerce_inputs) looks for them.
    pub fn flow_test_inputs(&self, given: &JsonMap) -> Result<JsonMap, FlowError> {
        if self.entry.is_some() {
            return Ok(given.clone());
        }
        let missing = self.missing_inputs(given);
        if let Some(first) = missing.first() {
            let unknown = given
                .keys()
                .filter(|name| !self.inputs.contains_key(*name))
                .map(String::as_str);
            let help = nearest(first, unknown)
                .map(|unknown| format!("'{unknown}' is given, but is no input of the flow"));
            let kind = ErrorKind::MissingInputs {
                inputs: missing,
                of: "flow".to_owned(),
            };
            return Err(FlowError::from(kind).with_help(help));
        }
        let mut rest = given.clone();
        let mut inputs = JsonMap::new();
        for (name, input) in &self.inputs {
            let given = rest.shift_remove(name).or_else(|| input.default.clone());
            // Only a chat's history can be without a value here.
            inputs.insert(
                name.clone(),
                given.unwrap_or_else(|| Json::Array(Vec::new())),
            );
        }
        inputs.append(&mut rest);
        Ok(inputs)
    }

    /// What the test of a single node runs with, from the values given to the CLI.
    ///
    /// A reference to a node is given under `node.output.property`, one to a flow input under `inputs.name` (or `flow.name`), both
    /// also under the name of the node's own input. Literals cannot be overridden: a value given for one is a flow input nobody
    /// reads, as in promptflow.
    ///
    /// # Errors
    /// `UserErrorException` if the flow has no such node or values are missing; `InputNotFound` if the node refers to an input the
    /// flow does not have.
    pub fn node_test_inputs(
        &self,
        node_name: &str,
        given: &JsonMap,
    ) -> Result<NodeTestInputs, FlowError> {
        let Some(node) = self.node(node_name) else {
            let help = suggest(node_name, self.nodes.iter().map(|node| node.name.as_str()));
            return Err(FlowError::from(ErrorKind::NodeNotInFlow {
                node: node_name.to_owned(),
            })
            .with_help(help));
        };
        let mut given = given.clone();
        let mut inputs = NodeTestInputs::default();
        let mut missing = Vec::new();
        for (name, assignment) in &node.inputs {
            match assignment {
                Assignment::NodeOutput {
                    node,
                    section,
                    property,
                } => {
                    let mut reference = format!("{node}.{section}");
                    if !property.is_empty() {
                        reference = format!("{reference}.{property}");
                    }
                    match given
                        .shift_remove(&reference)
                        .or_else(|| given.shift_remove(name))
                    {
                        Some(value) => add_output(&mut inputs.node_outputs, node, property, value),
                        None => missing.push(name.clone()),
                    }
                }
                Assignment::FlowInput(input) => {
                    let value = given
                        .shift_remove(&format!("inputs.{input}"))
                        .or_else(|| given.shift_remove(&format!("flow.{input}")))
                        .or_else(|| given.shift_remove(name));
                    match value {
                        Some(value) => {
                            inputs.flow_inputs.insert(input.clone(), value);
                        }
                        None => match self.inputs.get(input) {
                            Some(InputDef {
                                default: Some(default),
                                ..
                            }) => {
                                inputs.flow_inputs.insert(input.clone(), default.clone());
                            }
                            Some(_) => missing.push(name.clone()),
                            None => {
                                let kind = ErrorKind::NodeInputUndefined {
                                    node: node.name.clone(),
                                    input: input.clone(),
                                };
                                return Err(FlowError::from(kind).at(node.marks.input(name)));
                            }
                        },
                    }
                }
                Assignment::Literal(literal) => {
                    let value = given.shift_remove(name).unwrap_or_else(|| literal.clone());
                    inputs.flow_inputs.insert(name.clone(), value);
                }
            }
        }
        if !missing.is_empty() {
            return Err(ErrorKind::MissingInputs {
                inputs: missing,
                of: node_name.to_owned(),
            }
            .into());
        }
        inputs.unknown = given.keys().cloned().collect();
        inputs.flow_inputs.append(&mut given);
        Ok(inputs)
    }

    /// Converts the flow inputs that a single node refers to, for a node test.
    ///
    /// # Errors
    /// `InputNotFound` if the flow has no such input or it has no value; `InputTypeError` if its value cannot be converted.
    pub fn coerce_node_inputs(
        &self,
        node_name: &str,
        flow_inputs: &JsonMap,
    ) -> Result<JsonMap, FlowError> {
        let mut converted = JsonMap::new();
        let Some(node) = self.node(node_name) else {
            return Err(ErrorKind::NodeNotInFlow {
                node: node_name.to_owned(),
            }
            .into());
        };
        for (name, assignment) in &node.inputs {
            let Some(input) = assignment.flow_input() else {
                continue;
            };
            let at = node.marks.input(name);
            let Some(definition) = self.inputs.get(input) else {
                let kind = ErrorKind::NodeInputUndefined {
                    node: node.name.clone(),
                    input: input.to_owned(),
                };
                return Err(FlowError::from(kind).at(at));
            };
            let Some(value) = flow_inputs.get(input).or(definition.default.as_ref()) else {
                let kind = ErrorKind::NodeInputMissing {
                    node: node.name.clone(),
                    input: input.to_owned(),
                };
                return Err(FlowError::from(kind).at(at));
            };
            let value = definition.value_type.coerce(value.clone()).map_err(|_| {
                FlowError::from(ErrorKind::NodeInputTypeError {
                    node: node.name.clone(),
                    input: name.clone(),
                    expected: definition.value_type,
                })
                .at(at)
            })?;
            converted.insert(input.to_owned(), value);
        }
        Ok(converted)
    }
}

/// Puts a given value where the property path of the reference will find it.
///
/// promptflow makes a mapping with the whole property text as key, so that only a path of one name can find it (`a.b` cannot);
/// here longer paths of names and keys are built too.
fn add_output(outputs: &mut IndexMap<String, Json>, node: &str, property: &str, value: Json) {
    if property.is_empty() {
        outputs.insert(node.to_owned(), value);
        return;
    }
    let path = PropertyPath::parse(property);
    // A whole output is taken as such: the value of the property is read out of it.
    if let Some(inner) = value.get(property).cloned() {
        return add_output_at(outputs, node, &path, inner);
    }
    add_output_at(outputs, node, &path, value);
}

fn add_output_at(
    outputs: &mut IndexMap<String, Json>,
    node: &str,
    path: &PropertyPath,
    value: Json,
) {
    let mut place = outputs.entry(node.to_owned()).or_insert(Json::Null);
    for step in path.steps() {
        place = match step {
            Step::Name(key) | Step::Key(key) => {
                if !place.is_object() {
                    *place = Json::Object(JsonMap::new());
                }
                match place {
                    Json::Object(entries) => entries.entry(key.clone()).or_insert(Json::Null),
                    other => other,
                }
            }
            // A list of which only one item is given cannot be made; the rest of it is null.
            Step::Index(index) if *index < 1024 => {
                if !place.is_array() {
                    *place = Json::Array(Vec::new());
                }
                match place {
                    Json::Array(items) => {
                        if items.len() <= *index {
                            items.resize(index + 1, Json::Null);
                        }
                        match items.get_mut(*index) {
                            Some(item) => item,
                            None => return,
                        }
                    }
                    other => other,
                }
            }
            Step::Index(_) => return,
        };
    }
    *place = value;
}

/// One input's value, converted.
fn coerce_input(
    name: &str,
    input: &InputDef,
    value: Json,
    line: Option<u64>,
) -> Result<Json, FlowError> {
    let expected = input.value_type;
    // The message about JSON text repeats the text.
    let kept = value.clone();
    expected.coerce(value).map_err(|error| {
        let input_name = name.to_owned();
        FlowError::from(match error {
            CoerceError::Json(details) => ErrorKind::InputParseError {
                input: input_name,
                line,
                expected,
                value: kept,
                details,
            },
            CoerceError::Value(_) => ErrorKind::InputTypeError {
                input: input_name,
                line,
                expected,
            },
        })
        .at(input.at)
    })
}
