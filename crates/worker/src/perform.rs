//! Work, done over the executor and finished: its answers need nothing of the flow any more.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use flowcell_bundle::BundleError;
use flowcell_executor::{
    Accepted, Dialect, FlowResult, Host, LineResult, NodeStatus, RunError, RunOf, RunOptions,
    Session, SessionOptions, Status, Tracer, Workspace, aggregation_record, complete_flow,
    describe, described_json, envelope, line_record, listed, listed_aggregation_inputs,
    served_inputs, served_outputs, served_part, single_node_record, swagger, tool_meta,
    tool_meta_json,
};
use flowcell_flow::{Json, JsonMap, NodeTestInputs, python_json_compact, python_loads};
use serde_json::json;
use tokio::sync::mpsc;

use crate::news::{Hear, observer};
use crate::parts::Outlet;
use crate::work::{Answer, Look, Run};

/// What of a run is traced.
pub(crate) struct Traced<'a> {
    /// The flow's name.
    pub(crate) name: &'a str,
    /// Whether the trace holds what was asked and answered.
    pub(crate) record_content: bool,
}

/// Runs an open flow; one that could not be opened is answered with its error, in the form of what was asked for. The
/// answer has the run's trace.
pub(crate) async fn run(
    flow: Result<Arc<Session>, RunError>,
    run: Run,
    traced: Traced<'_>,
    hear: Hear,
    outlet: &Outlet,
) -> Answer {
    let Traced {
        name,
        record_content,
    } = traced;
    let tracer = Arc::new(Tracer::new(record_content));
    let observer = observer(hear);
    let traced = Arc::clone(&tracer);
    let options = RunOptions {
        observer: Some(Arc::new(move |event| {
            traced.hear(event);
            observer(event);
        })),
        capture: record_content,
        record_content,
        ..RunOptions::default()
    };
    let is_traced = run != Run::Initialize;
    let (started, since) = (SystemTime::now(), Instant::now());
    let (mut answer, error) = answer(flow, run, options, outlet).await;
    if is_traced {
        let (status, duration) = (answer.status, since.elapsed());
        let error = error.as_ref().or(answer.body.as_ref().err());
        answer.trace = Some(tracer.finish(name, started, duration, status, error));
    }
    answer
}

/// A run's answer, and its error where that is in the answer's text.
async fn answer(
    flow: Result<Arc<Session>, RunError>,
    run: Run,
    options: RunOptions,
    outlet: &Outlet,
) -> (Answer, Option<RunError>) {
    if let Run::Call { inputs, node } = run {
        let result = match flow {
            Ok(flow) => call(&flow, &inputs, node, &options).await,
            Err(error) => Err(error),
        };
        let result = result.unwrap_or_else(FlowResult::failed);
        let answer = Answer::json(result.status(), envelope(&result, Dialect::Strict));
        return (answer, result.outputs.err());
    }
    let answer = match flow {
        Ok(flow) => recorded(&flow, run, options, outlet).await,
        Err(error) => Err(error),
    };
    (answer.unwrap_or_else(Answer::failed), None)
}

async fn call(
    flow: &Session,
    inputs: &crate::work::Values,
    node: Option<String>,
    options: &RunOptions,
) -> Result<FlowResult, RunError> {
    let inputs = inputs.read()?;
    Ok(match node {
        Some(node) => {
            let given = flow.flow().node_test_inputs(&node, &inputs)?;
            flow.run_node(&node, &given, options).await
        }
        None => flow.run(&inputs, options).await,
    })
}

/// Runs whose answers are promptflow's.
async fn recorded(
    flow: &Session,
    run: Run,
    options: RunOptions,
    outlet: &Outlet,
) -> Result<Answer, RunError> {
    let captured = RunOptions {
        capture: true,
        ..options.clone()
    };
    match run {
        // `run` sees to it.
        Run::Call { .. } => Err(RunError::system("SystemErrorException", "no such run")),
        Run::Flow { run, inputs } => whole_flow(flow, run, &inputs.read()?, &captured).await,
        Run::Line {
            run,
            number,
            inputs,
            time,
        } => {
            let inputs = inputs.read()?;
            let options = RunOptions {
                line_time: Some(time),
                ..captured
            };
            let (result, of) = line(flow, run, number, &inputs, &options).await;
            let of = RunOf {
                in_batch: true,
                ..of
            };
            let record = line_record(flow.flow(), &of, &inputs, &result, None);
            Ok(record_answer(Status::of(&result.outputs), &record))
        }
        Run::Node {
            node,
            flow_file,
            flow_inputs,
            node_outputs,
        } => {
            let given = NodeTestInputs {
                flow_inputs: flow_inputs.read()?,
                node_outputs: node_outputs.read()?.into_iter().collect(),
                unknown: Vec::new(),
            };
            single_node(flow, &node, &flow_file, &given, &captured).await
        }
        Run::Initialize => {
            flow.initialize(&options).await?;
            Ok(record_answer(Status::Completed, &definition(flow)))
        }
        Run::Aggregate {
            run,
            inputs,
            gathered,
        } => {
            let result = flow
                .aggregate(&inputs.read()?, &gathered.read()?, &captured)
                .await;
            let status = result.status();
            if let Err(error) = &result.outputs {
                return Err(error.clone());
            }
            let record = aggregation_record(flow.flow(), &run, &result);
            Ok(record_answer(status, &record))
        }
        Run::AggregateAnswers { run, answers } => {
            let answers = serde_json::from_str(&answers).map_err(|error| {
                RunError::system("ValueError", format!("aggregation_inputs: {error}"))
            })?;
            let result = flow.aggregate_answers(answers, &captured).await;
            let status = result.status();
            if let Err(error) = &result.outputs {
                return Err(error.clone());
            }
            let record = aggregation_record(flow.flow(), &run, &result);
            Ok(record_answer(status, &record))
        }
        Run::Score { body, accept } => score(flow, &body, &accept, options, outlet).await,
    }
}

async fn line(
    flow: &Session,
    run_id: String,
    number: u64,
    inputs: &JsonMap,
    options: &RunOptions,
) -> (LineResult, RunOf) {
    let (started, since) = (SystemTime::now(), Instant::now());
    let result = flow.run_line(inputs, Some(number), options).await;
    let of = RunOf {
        run_id,
        line: number,
        started,
        duration: since.elapsed(),
        in_batch: false,
    };
    (result, of)
}

async fn whole_flow(
    flow: &Session,
    run: String,
    inputs: &JsonMap,
    options: &RunOptions,
) -> Result<Answer, RunError> {
    let (result, of) = line(flow, run, 0, inputs, options).await;
    let aggregation = if result.aggregation_inputs.is_empty() {
        None
    } else {
        let (inputs, gathered) = (listed(&result.inputs), listed_aggregation_inputs(&result));
        let aggregated = flow.aggregate(&inputs, &gathered, options).await;
        if let Err(error) = &aggregated.outputs {
            return Err(error.clone());
        }
        Some(aggregated)
    };
    let record = line_record(flow.flow(), &of, inputs, &result, aggregation.as_ref());
    Ok(record_answer(Status::of(&result.outputs), &record))
}

async fn single_node(
    flow: &Session,
    node: &str,
    flow_file: &str,
    given: &NodeTestInputs,
    options: &RunOptions,
) -> Result<Answer, RunError> {
    if flow.flow().node(node).is_none() {
        return Err(RunError::user(
            "SingleNodeValidationError",
            format!(
                "Validation failed when attempting to execute the node. Node '{node}' is not found in flow '{flow_file}'. Please change node name or correct the flow file."
            ),
        ));
    }
    let result = flow.run_node(node, given, options).await;
    // A node that was not called because of what it was given is no run of it.
    if let (Err(error), [reached]) = (&result.outputs, result.nodes.as_slice())
        && reached.captured.is_none()
        && reached.status == NodeStatus::Failed
        && error.class != "ToolExecutionError"
    {
        return Err(error.clone());
    }
    let record = single_node_record(flow.flow(), &result)?;
    Ok(record_answer(result.status(), &record))
}

/// What promptflow answers to `/initialize`.
fn definition(flow: &Session) -> Json {
    let flow = flow.flow();
    let inputs: JsonMap = flow
        .inputs
        .iter()
        .map(|(name, input)| {
            let definition = json!({
                "type": input.value_type.as_str(),
                "default": input.default,
                "description": input.description.as_deref().unwrap_or_default(),
                "enum": input.enum_values,
                "is_chat_input": input.is_chat_input,
                "is_chat_history": input.is_chat_history,
            });
            (name.clone(), definition)
        })
        .collect();
    json!({
        "inputs_definition": inputs,
        "has_aggregation": flow.nodes.iter().any(|node| node.aggregation),
    })
}

async fn score(
    flow: &Session,
    body: &[u8],
    accept: &str,
    options: RunOptions,
    outlet: &Outlet,
) -> Result<Answer, RunError> {
    let accepted = Accepted::new(accept);
    let inputs = served_inputs(flow.flow(), body)?;
    let (parts, mut taken) = mpsc::channel(1);
    let options = RunOptions {
        parts: accepted.events().then_some(parts),
        ..options
    };
    // It owns the options, so that nobody sends parts any more when it has ended.
    let run = async move { flow.run_line(&inputs, None, &options).await };
    let relay = async {
        while let Some(part) = taken.recv().await {
            outlet.put(served_part(flow.flow(), part)).await;
        }
    };
    let (result, ()) = tokio::join!(run, relay);
    let outputs = result.outputs?;
    if result.streamed.is_some() {
        return Ok(Answer::json(Status::Completed, String::new()));
    }
    // promptflow runs the flow before it looks at this, too.
    accepted.check()?;
    let outputs = served_outputs(flow.flow(), &outputs);
    // As Flask writes it.
    let text = format!("{}\n", python_json_compact(&outputs, true, true));
    Ok(Answer::json(Status::Completed, text))
}

/// Looks at a working copy.
pub(crate) async fn look(
    host: &Host,
    workspace: &Workspace,
    options: &SessionOptions,
    look: Look,
) -> Answer {
    let looked = match look {
        Look::Describe => describe(host, workspace, options)
            .await
            .map(|nodes| described_json(&nodes)),
        Look::Swagger { name, samples } => {
            let flow = complete_flow(host, workspace, options).await;
            let samples = samples.as_deref().and_then(python_loads);
            flow.map(|flow| swagger(&flow, &name, samples.as_ref()))
        }
        Look::ToolMeta { files } => {
            let files: Vec<(&str, &str)> = files
                .iter()
                .map(|(path, kind)| (path.as_str(), kind.as_str()))
                .collect();
            let described = tool_meta(host, workspace, options, &files).await;
            described.map(|files| tool_meta_json(&files))
        }
    };
    match looked {
        Ok(record) => record_answer(Status::Completed, &record),
        Err(error) => Answer::failed(error),
    }
}

/// JSON as promptflow's service writes it.
fn record_answer(status: Status, record: &Json) -> Answer {
    Answer::json(status, python_json_compact(record, false, false))
}

/// Makes sure of a base image, so that the first call does not wait for it.
pub(crate) fn load_image(host: &Host, image: &str) -> Result<(), String> {
    let reference = image.parse().map_err(|_| "it is no name".to_owned())?;
    let load = || {
        let used = host.store().use_bundle(&reference)?;
        if let Some(runner) = used.manifest.python_runner() {
            host.programs().component(runner, host.progress())?;
        }
        Ok(())
    };
    load().map_err(|error| {
        tracing::error!(
            image,
            error = &error as &dyn std::error::Error,
            "a base image cannot be used"
        );
        for_tenants(&error)
    })
}

/// An error with a base image, without the host's paths.
fn for_tenants(error: &BundleError) -> String {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        BundleError::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded) => {
            "the host's disk is full".to_owned()
        }
        BundleError::Io { source, .. } => format!("a file of it: {source}"),
        other => other.to_string(),
    }
}
