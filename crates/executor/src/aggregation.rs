//! Aggregation nodes: they run once, after all lines, over the lists of the lines' values.
//!
//! Rules: promptflow's `extract_aggregation_inputs` for a line, `FlowExecutor.exec_aggregation` for the rest. What the
//! nodes read of the lines is gathered by reference (`${node.output.property}`).

use std::collections::HashSet;
use std::sync::Arc;

use flowcell_flow::{Assignment, FlowError, Json, JsonMap, Node, python_repr};
use indexmap::IndexMap;

use crate::error::RunError;
use crate::inputs::Argument;
use crate::line::Line;
use crate::result::FlowResult;
use crate::run_options::RunOptions;
use crate::runs::{aggregation_nodes, begin};
use crate::session::Inner;
use crate::value::Value;

/// Runs the aggregation nodes over lists with a value for each line.
pub(crate) async fn run_aggregation(
    session: &Arc<Inner>,
    inputs: &JsonMap,
    aggregation_inputs: &JsonMap,
    options: &RunOptions,
) -> FlowResult {
    let mut result = FlowResult::new(Vec::new());
    if session.graph.aggregation.is_empty() {
        result.outputs = Ok("{}".to_owned());
        return result;
    }
    let begun = async {
        let inputs = aggregated_inputs(session, inputs, aggregation_inputs)?;
        check_gathered(session, aggregation_inputs)?;
        begin(session, Ok(inputs), None, options).await
    };
    let mut line = match begun.await {
        Ok(line) => line,
        Err(error) => return FlowResult::failed(error),
    };
    let loaded = async {
        let mut gathered = IndexMap::with_capacity(aggregation_inputs.len());
        for (reference, values) in aggregation_inputs {
            let argument = line.load_output(values).await?.into();
            gathered.insert(reference.clone(), argument);
        }
        Ok(gathered)
    };
    match loaded.await {
        Ok(gathered) => line.gathered = gathered,
        Err(error) => {
            line.lanes.close().await;
            return FlowResult::failed(error);
        }
    }
    let line = Arc::new(line);
    let work = async {
        line.aggregate(&mut result).await;
        line.aggregation_outputs().await
    };
    let outputs = line.finish(work).await;
    result.outputs = outputs;
    result
}

impl Line {
    /// What nodes read of the nodes of this line: each of their references, and what it leads to.
    ///
    /// # Errors
    /// Where a reference leads nowhere. promptflow says so when the line is over, and the line has failed then.
    pub(crate) async fn gather(
        &self,
        nodes: impl IntoIterator<Item = &Node>,
    ) -> Result<IndexMap<String, Argument>, RunError> {
        let mut gathered = IndexMap::new();
        for (reference, from, section, property) in nodes
            .into_iter()
            .flat_map(|node| line_references(&self.session, node))
        {
            if section != "output" {
                return Err(FlowError::unsupported_reference(from, section).into());
            }
            let key = reference.to_string();
            if !gathered.contains_key(&key) {
                let argument = self.property(from, self.output(from)?, property).await?;
                gathered.insert(key, argument);
            }
        }
        Ok(gathered)
    }

    /// Runs the aggregation nodes.
    ///
    /// A failure ends the node and those that read it; the run is Completed all the same, which is promptflow's rule.
    pub(crate) async fn aggregate(&self, result: &mut FlowResult) {
        let graph = &self.session.graph;
        let mut failed = HashSet::new();
        for index in &graph.aggregation {
            if graph.dependencies[*index]
                .iter()
                .any(|on| failed.contains(on))
            {
                failed.insert(*index);
                continue;
            }
            let mut end = self.node(*index, true).await;
            result.metrics.extend(std::mem::take(&mut end.metrics));
            if let Err(error) = self.record(end, &mut result.nodes) {
                failed.insert(*index);
                let name = &self.session.flow.nodes[*index].name;
                result
                    .warnings
                    .push(format!("Aggregation node '{name}' failed: {error}"));
            }
        }
    }

    /// The outputs of the aggregation nodes that completed.
    async fn aggregation_outputs(&self) -> Result<String, RunError> {
        let mut entries = Vec::new();
        for node in aggregation_nodes(&self.session) {
            if let Ok(value @ (Value::Json(_) | Value::Object(_))) = self.output(&node.name) {
                let text = self.dumped(&node.name, value).await?;
                entries.push(format!("{}: {text}", Json::from(node.name.as_str())));
            }
        }
        Ok(format!("{{{}}}", entries.join(", ")))
    }
}

/// The lists that the aggregation of a flow without a graph reads: the answers of the lines, by the reference to the entry.
pub(crate) fn gathered_answers(session: &Inner, answers: Vec<Json>) -> JsonMap {
    let references = aggregation_nodes(session).flat_map(|node| line_references(session, node));
    references
        .map(|(reference, ..)| (reference.to_string(), Json::Array(answers.clone())))
        .collect()
}

/// The references that an aggregation node has to nodes of a line: as a whole, and node, section and property.
fn line_references<'a>(
    session: &'a Inner,
    node: &'a Node,
) -> impl Iterator<Item = (&'a Assignment, &'a str, &'a str, &'a str)> {
    node.inputs
        .values()
        .filter_map(|reference| match reference {
            Assignment::NodeOutput {
                node,
                section,
                property,
            } if !session.flow.node(node).is_some_and(|from| from.aggregation) => Some((
                reference,
                node.as_str(),
                section.as_str(),
                property.as_str(),
            )),
            _ => None,
        })
}

/// The flow inputs of an aggregation, converted: promptflow's `_validate_aggregation_inputs`, then defaults.
fn aggregated_inputs(
    session: &Inner,
    inputs: &JsonMap,
    aggregation_inputs: &JsonMap,
) -> Result<JsonMap, RunError> {
    let invalid = |what: String, end: &str| {
        RunError::system(
            "InvalidAggregationInput",
            format!("The input for aggregation is incorrect. {what} {end}"),
        )
    };
    let not_a_list = |kind: &str, name: &str, value: &Json| {
        invalid(
            format!(
                "The value for aggregated {kind} input '{name}' should be a list, but received {}.",
                python_type(value)
            ),
            "Please adjust the input value to match the expected format.",
        )
    };
    let mut lists = IndexMap::new();
    let mut lengths = JsonMap::new();
    for (name, value) in inputs {
        if aggregation_inputs.contains_key(name) {
            return Err(invalid(
                format!(
                    "The input '{name}' appears in both aggregated flow input and aggregated reference input."
                ),
                "Please remove one of them and try the operation again.",
            ));
        }
        let Json::Array(values) = value else {
            return Err(not_a_list("flow", name, value));
        };
        lengths.insert(name.clone(), values.len().into());
        lists.insert(name.clone(), values.clone());
    }
    for (reference, value) in aggregation_inputs {
        let Json::Array(values) = value else {
            return Err(not_a_list("reference", reference, value));
        };
        lengths.insert(reference.clone(), values.len().into());
    }
    let mut counts = lengths.values();
    let first = counts.next().cloned();
    if counts.any(|count| Some(count) != first.as_ref()) {
        return Err(invalid(
            format!(
                "The length of all aggregated inputs should be the same. Current input lengths are: {}.",
                python_repr(&Json::Object(lengths))
            ),
            "Please adjust the input value in your input data.",
        ));
    }
    // Without any value to count, promptflow takes it that there was one line.
    let lines = first.and_then(|count| count.as_u64()).unwrap_or(1);
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let converted = session.flow.coerce_aggregated_inputs(&lists, lines)?;
    let converted = converted.into_iter();
    Ok(converted
        .map(|(name, values)| (name, Json::Array(values)))
        .collect())
}

/// Every reference to a line's node must be among what was gathered: a node that waited for it would wait forever.
fn check_gathered(session: &Inner, aggregation_inputs: &JsonMap) -> Result<(), RunError> {
    for node in aggregation_nodes(session) {
        for (reference, ..) in line_references(session, node) {
            let key = reference.to_string();
            if !aggregation_inputs.contains_key(&key) {
                return Err(RunError::system(
                    "NoNodeExecutedError",
                    "No nodes are ready for execution, but the flow is not completed.",
                )
                .in_node(&node.name)
                .help(format!(
                    "the node '{}' reads {key}, which is not among the aggregation inputs",
                    node.name
                )));
            }
        }
    }
    Ok(())
}

/// The name of a JSON value's class in Python.
fn python_type(value: &Json) -> &'static str {
    match value {
        Json::Null => "NoneType",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_f64() => "float",
        Json::Number(_) => "int",
        Json::String(_) => "str",
        Json::Array(_) => "list",
        Json::Object(_) => "dict",
    }
}
