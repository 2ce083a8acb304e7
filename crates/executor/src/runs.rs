//! What a session runs: a flow test, a line, a single node.

use std::sync::Arc;

use flowcell_flow::{FlowError, JsonMap, Node, NodeTestInputs};
use indexmap::IndexMap;

use crate::error::RunError;
use crate::line::Line;
use crate::result::{FlowResult, LineResult, NodeResult};
use crate::run_options::{RunEvent, RunOptions};
use crate::session::Inner;
use crate::streaming::Streamed;
use crate::value::Value;

/// A line with its inputs converted and their images loaded.
pub(crate) async fn begin(
    session: &Arc<Inner>,
    inputs: Result<JsonMap, FlowError>,
    number: Option<u64>,
    options: &RunOptions,
) -> Result<Line, RunError> {
    let mut line = Line::new(session, inputs?, number, options);
    match line.load_inputs().await {
        Ok(()) => Ok(line),
        Err(error) => {
            line.lanes.close().await;
            Err(error)
        }
    }
}

/// Makes what a flow's entry needs before its first call.
///
/// # Errors
/// `FlowEntryInitializationError`, and as a call's.
pub(crate) async fn initialize(session: &Arc<Inner>, options: &RunOptions) -> Result<(), RunError> {
    let line = Line::new(session, JsonMap::new(), None, options);
    line.finish(line.make_entry()).await
}

/// Why a line did not begin: promptflow makes an entry's object before it looks at inputs.
async fn not_begun(session: &Arc<Inner>, error: RunError, options: &RunOptions) -> RunError {
    initialize(session, options).await.err().unwrap_or(error)
}

/// Runs the whole flow: a line, and aggregation over it.
pub(crate) async fn run_flow(
    session: &Arc<Inner>,
    given: &JsonMap,
    options: &RunOptions,
) -> FlowResult {
    let flow = &session.flow;
    let inputs = flow
        .flow_test_inputs(given)
        .and_then(|inputs| flow.coerce_inputs(&inputs, Some(0)));
    let line = match begin(session, inputs, Some(0), options).await {
        Ok(line) => Arc::new(line),
        Err(error) => return FlowResult::failed(not_begun(session, error, options).await),
    };
    let mut result = FlowResult::new(session.graph.warnings.clone());
    let work = async {
        line.run_nodes(&mut result.nodes).await?;
        let outputs = line.outputs(&mut result.warnings).await?;
        add_streamed(options, &mut result.nodes, outputs.streamed);
        let gathered = line.gather(aggregation_nodes(session)).await?;
        // promptflow's condition: aggregation that reads nothing of the line's nodes is left out.
        if !gathered.is_empty() {
            let aggregation = Arc::new(line.alone(gathered));
            aggregation.aggregate(&mut result).await;
        }
        Ok(outputs.text)
    };
    let outputs = line.finish(work).await;
    result.outputs = outputs;
    result
}

/// Runs a line without the aggregation.
pub(crate) async fn run_line(
    session: &Arc<Inner>,
    given: &JsonMap,
    number: Option<u64>,
    options: &RunOptions,
) -> LineResult {
    let inputs = session.flow.coerce_inputs(given, number);
    let line = match begin(session, inputs, number, options).await {
        Ok(line) => Arc::new(line),
        Err(error) => return LineResult::failed(not_begun(session, error, options).await),
    };
    let mut nodes = Vec::with_capacity(session.graph.line.len());
    let mut warnings = session.graph.warnings.clone();
    let mut streamed = None;
    let mut answer = None;
    let work = async {
        line.run_nodes(&mut nodes).await?;
        let outputs = line.outputs(&mut warnings).await?;
        streamed = add_streamed(options, &mut nodes, outputs.streamed);
        answer = outputs.answer;
        if session.flow.entry.is_some() {
            // Its aggregation reads whole answers, not what references lead to.
            return Ok((outputs.text, IndexMap::new()));
        }
        let gathered = line.gather(aggregation_nodes(session)).await?;
        let mut aggregation_inputs = IndexMap::with_capacity(gathered.len());
        for (reference, argument) in gathered {
            let text = line.text_of(&reference, argument).await?;
            aggregation_inputs.insert(reference, text);
        }
        Ok((outputs.text, aggregation_inputs))
    };
    let (outputs, aggregation_inputs) = match line.finish(work).await {
        Ok((outputs, aggregation_inputs)) => (Ok(outputs), aggregation_inputs),
        Err(error) => (Err(error), IndexMap::new()),
    };
    LineResult {
        outputs,
        aggregation_inputs,
        answer,
        nodes,
        inputs: Arc::clone(&line.inputs),
        warnings,
        streamed,
    }
}

/// Adds what a node printed and told of while its answer went out; the output's name.
fn add_streamed(
    options: &RunOptions,
    nodes: &mut [NodeResult],
    streamed: Option<Streamed>,
) -> Option<String> {
    let Streamed {
        output,
        node,
        logs,
        spans,
    } = streamed?;
    if let Some(result) = nodes.iter_mut().find(|result| result.name == node) {
        result.logs.stdout += &logs.stdout;
        result.logs.stderr += &logs.stderr;
        result.logs.log += &logs.log;
        result.spans.extend(spans);
        result.duration = result.started.elapsed().unwrap_or(result.duration);
        options.tell(RunEvent::StreamEnded(result));
    }
    Some(output)
}

/// Runs one node.
pub(crate) async fn run_single(
    session: &Arc<Inner>,
    name: &str,
    given: &NodeTestInputs,
    options: &RunOptions,
) -> FlowResult {
    let flow = &session.flow;
    let inputs = flow.coerce_node_inputs(name, &given.flow_inputs);
    let line = match begin(session, inputs, Some(0), options).await {
        Ok(line) => line,
        Err(error) => return FlowResult::failed(error),
    };
    let unknown = given.unknown.iter();
    let mut result = FlowResult::new(
        unknown
            .map(|unread| format!("'{unread}' is given, but node '{name}' does not read it"))
            .collect(),
    );
    let work = async {
        for (node, value) in &given.node_outputs {
            line.settle(node, line.load_output(value).await?);
        }
        let index = flow.nodes.iter().position(|node| node.name == name);
        let index =
            index.ok_or_else(|| RunError::usage(format!("Cannot find {name} in the flow.")))?;
        let node = &flow.nodes[index];
        let aggregation;
        let line = if node.aggregation {
            // The values are given as one line has them, and the node reads lists.
            aggregation = line.alone(line.gather([node]).await?);
            &aggregation
        } else {
            &line
        };
        let end = line.node(index, false).await;
        // Its metrics go nowhere: in promptflow only the aggregation of a run has any.
        let value = line.record(end, &mut result.nodes)?;
        line.dumped(name, value.unwrap_or(Value::Bypassed)).await
    };
    let outputs = line.finish(work).await;
    result.outputs = outputs;
    result
}

/// The nodes that run after all lines.
pub(crate) fn aggregation_nodes(session: &Inner) -> impl Iterator<Item = &Node> {
    let indices = session.graph.aggregation.iter();
    indices.filter_map(|index| session.flow.nodes.get(*index))
}
