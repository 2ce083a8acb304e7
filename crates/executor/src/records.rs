//! Results as promptflow's executor service writes them: `LineResult`, `AggregationResult`, and the records of runs
//! (`FlowRunInfo`, `RunInfo`) in them.
//!
//! Rules: promptflow's `contracts/run_info.py`, `_core/run_tracker.py`, `executor/_result.py`.

use std::time::{Duration, SystemTime};

use flowcell_flow::{AGGREGATE, Flow, Json, JsonMap, python_loads};
use jiff::Timestamp;
use serde_json::json;

use crate::error::RunError;
use crate::presented::presented;
use crate::result::{FlowResult, LineResult, NodeResult, NodeStatus};
use crate::trace::{Tokens, tokens};

/// What a record says of its run beyond the result.
#[derive(Debug, Clone)]
pub struct RunOf {
    /// The run's identifier.
    pub run_id: String,
    /// The line's number in it.
    pub line: u64,
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Whether the line is one of a batch: promptflow leaves out some things then.
    pub in_batch: bool,
}

/// A time as Python's `datetime.utcnow().isoformat()` writes it.
pub fn record_time(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

/// promptflow's `LineResult` of a line with these inputs. In a flow test, `aggregation` is what came of the flow's
/// aggregation nodes, if it has any.
pub fn line_record(
    flow: &Flow,
    of: &RunOf,
    given: &JsonMap,
    result: &LineResult,
    aggregation: Option<&FlowResult>,
) -> Json {
    let index = of.line;
    let run = format!("{}_{index}", of.run_id);
    let output = result.outputs.as_deref().map_or(Json::Null, parsed);
    let error = error_or_null(result.outputs.as_ref().err());
    let is_refused = result.outputs.is_err() && result.nodes.is_empty() && result.inputs.is_empty();
    let inputs: Json = match (is_refused, of.in_batch) {
        (false, _) => Json::Object((*result.inputs).clone()),
        (true, true) => Json::Null,
        (true, false) => Json::Object(with_defaults(flow, given)),
    };
    let mut node_infos = JsonMap::new();
    // To promptflow a flow without a graph has no nodes.
    let nodes: &[NodeResult] = match flow.entry {
        Some(_) => &[],
        None => &result.nodes,
    };
    for node in nodes {
        let parents = (of.run_id.as_str(), run.as_str());
        let id = format!("{}_{}_{index}", of.run_id, node.name);
        let info = node_record(node, parents, &id, Some(index), !of.in_batch, format(flow));
        node_infos.insert(node.name.clone(), info);
    }
    if let Some(aggregation) = aggregation {
        node_infos.extend(reduce_records(flow, &of.run_id, aggregation, true));
    }
    let mut system_metrics = json!({ "duration": seconds(of.duration) });
    if !result.nodes.is_empty() {
        let Tokens { input, output } = tokens(&result.nodes);
        system_metrics["prompt_tokens"] = input.into();
        system_metrics["completion_tokens"] = output.into();
        system_metrics["total_tokens"] = input.saturating_add(output).into();
    }
    let ended = of.started + of.duration;
    let trace = json!({
        "name": "flow",
        "node_name": "flow",
        "type": "Flow",
        "start_time": since_epoch(of.started),
        "end_time": since_epoch(ended),
        "children": [],
        "system_metrics": system_metrics,
        "inputs": inputs,
        "output": output,
        "error": error,
    });
    let run_info = json!({
        "run_id": run,
        "status": if result.outputs.is_ok() { "Completed" } else { "Failed" },
        "error": error,
        "inputs": inputs,
        "output": output,
        "metrics": aggregation.map(metrics),
        "request": null,
        "parent_run_id": of.run_id,
        "root_run_id": of.run_id,
        "source_run_id": null,
        "flow_id": "default_flow_id",
        "start_time": record_time(of.started),
        "end_time": record_time(ended),
        "index": index,
        "api_calls": [trace],
        "name": "",
        "description": "",
        "tags": null,
        "system_metrics": system_metrics,
        "result": if of.in_batch { Json::Null } else { output.clone() },
        "upload_metrics": false,
        "otel_trace_id": null,
        "message_format": format(flow),
    });
    let aggregation_inputs = aggregation
        .is_none()
        .then(|| aggregation_inputs(&result.aggregation_inputs, |value| value));
    let output = match (result.answer.as_deref().map(parsed), output) {
        (Some(answer), _) => answer,
        (None, Json::Object(mut entries)) if flow.entry.is_some() && of.in_batch => {
            entries.insert("line_number".to_owned(), index.into());
            Json::Object(entries)
        }
        (None, Json::Null) if flow.entry.is_none() => json!({}),
        (None, output) => output,
    };
    json!({
        "output": output,
        "aggregation_inputs": aggregation_inputs,
        "run_info": run_info,
        "node_run_infos": node_infos,
    })
}

/// promptflow's `AggregationResult`.
pub fn aggregation_record(flow: &Flow, run_id: &str, result: &FlowResult) -> Json {
    if flow.entry.is_some() {
        let outputs = result.outputs.as_deref().map_or(Json::Null, parsed);
        return json!({
            "output": outputs.get(AGGREGATE),
            "metrics": metrics(result),
            "node_run_infos": {},
        });
    }
    json!({
        // Empty in promptflow too.
        "output": {},
        "metrics": metrics(result),
        "node_run_infos": reduce_records(flow, run_id, result, false),
    })
}

/// promptflow's `RunInfo` of a node that was run by itself.
///
/// # Errors
/// When the node was not reached.
pub fn single_node_record(flow: &Flow, result: &FlowResult) -> Result<Json, RunError> {
    let Some(node) = result.nodes.first() else {
        return Err(match &result.outputs {
            Err(error) => error.clone(),
            Ok(_) => RunError::system("SystemErrorException", "the node was not reached"),
        });
    };
    // promptflow makes up both; it does not use the request's.
    let run = uuid::Uuid::new_v4().to_string();
    let is_reduced = flow.node(&node.name).is_some_and(|node| node.aggregation);
    let id = if is_reduced {
        format!("{run}_{}_reduce", node.name)
    } else {
        format!("{run}_{}_{}", node.name, uuid::Uuid::new_v4())
    };
    let parents = (run.as_str(), run.as_str());
    Ok(node_record(node, parents, &id, None, true, format(flow)))
}

/// What the aggregation of a flow test works on: the lists of the one line's values.
pub fn listed(values: &JsonMap) -> JsonMap {
    let listed = |(name, value): (&String, &Json)| (name.clone(), json!([value]));
    values.iter().map(listed).collect()
}

/// A line's aggregation inputs as values.
pub fn listed_aggregation_inputs(result: &LineResult) -> JsonMap {
    aggregation_inputs(&result.aggregation_inputs, |value| json!([value]))
}

fn aggregation_inputs(
    texts: &indexmap::IndexMap<String, String>,
    form: impl Fn(Json) -> Json,
) -> JsonMap {
    let entries = texts.iter();
    entries
        .map(|(name, text)| (name.clone(), form(parsed(text))))
        .collect()
}

fn reduce_records(flow: &Flow, run_id: &str, result: &FlowResult, with_result: bool) -> JsonMap {
    let mut infos = JsonMap::new();
    for node in &result.nodes {
        let id = format!("{run_id}_{}_reduce", node.name);
        let info = node_record(node, (run_id, run_id), &id, None, with_result, format(flow));
        infos.insert(node.name.clone(), info);
    }
    infos
}

/// `parents` are the flow's run and the line's.
fn node_record(
    node: &NodeResult,
    parents: (&str, &str),
    id: &str,
    index: Option<u64>,
    with_result: bool,
    message_format: &str,
) -> Json {
    let is_bypassed = node.status == NodeStatus::Bypassed;
    let captured = node.captured.as_ref();
    let inputs = captured.map(|captured| parsed(&captured.inputs));
    let output = captured
        .and_then(|captured| captured.output.as_deref())
        .map_or(Json::Null, parsed);
    let logs =
        (!is_bypassed).then(|| json!({ "stdout": node.logs.stdout, "stderr": node.logs.stderr }));
    let error = match (&node.error, node.status) {
        (None, NodeStatus::Canceled) => Some(RunError::user(
            "ToolCanceledError",
            "Tool execution is canceled because: Received cancel request.",
        )),
        (error, _) => error.clone(),
    };
    json!({
        "node": node.name,
        "flow_run_id": parents.0,
        "run_id": id,
        "status": node.status.as_str(),
        "inputs": inputs,
        "output": output,
        "metrics": null,
        "error": error_or_null(error.as_ref()),
        "parent_run_id": parents.1,
        "start_time": record_time(node.started),
        "end_time": record_time(node.started + node.duration),
        "index": index,
        "api_calls": [],
        "cached_run_id": null,
        "cached_flow_run_id": null,
        "logs": logs,
        "system_metrics": (!is_bypassed).then(|| json!({ "duration": seconds(node.duration) })),
        "result": if with_result { output } else { Json::Null },
        "message_format": message_format,
    })
}

fn error_or_null(error: Option<&RunError>) -> Json {
    error.map_or(Json::Null, |error| presented(error, true))
}

fn metrics(result: &FlowResult) -> JsonMap {
    let metrics = result.metrics.iter();
    metrics
        .map(|(name, text)| (name.clone(), parsed(text)))
        .collect()
}

fn with_defaults(flow: &Flow, given: &JsonMap) -> JsonMap {
    let mut inputs = given.clone();
    for (name, input) in &flow.inputs {
        if let (false, Some(default)) = (inputs.contains_key(name), &input.default) {
            inputs.insert(name.clone(), default.clone());
        }
    }
    inputs
}

/// Values come as JSON text; one that is too deep to be read stays text.
fn parsed(text: &str) -> Json {
    python_loads(text).unwrap_or_else(|| Json::String(text.to_owned()))
}

fn format(flow: &Flow) -> &'static str {
    match flow.message_format {
        flowcell_flow::MessageFormat::Basic => "basic",
        flowcell_flow::MessageFormat::OpenaiVision => "openai-vision",
    }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

fn since_epoch(time: SystemTime) -> f64 {
    seconds(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}
