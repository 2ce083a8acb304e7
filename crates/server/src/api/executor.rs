//! The interface of promptflow's executor service, for each session: what drove a container drives a session.
//!
//! Who may call is flowcell's to say, with its own problem details; everything behind that is as promptflow 1.18 answers.
//! Paths in requests are the client's: nothing is read from or written to them. What runs is the session's flow.

mod batch;
mod fields;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_bundle::Digest;
use flowcell_executor::{Code, RunError, framed, package_tools_json, presented};
use flowcell_flow::{Json, JsonMap, python_json_compact};
use flowcell_session::{Call, CallError, Name, SessionKey};
use flowcell_worker::{Answer, Look, Run, Setup, Values};
use serde_json::json;

use self::batch::Batch;
pub(crate) use self::batch::Batches;
use self::fields::Fields;
use super::sessions::{find, usable};
use crate::app::{App, blocking};
use crate::auth::Caller;
use crate::extract::{At, of_body};
use crate::problem::Problem;

/// The version of promptflow whose interface this is.
pub(super) const PROMPTFLOW: &str = "1.18.5";
/// Environment variables that a request may bring along.
const MAX_VARIABLES: usize = 100;
/// Environment variables that promptflow does not take from requests.
const DENIED_VARIABLES: [&str; 3] = ["PYTHONWARNINGS", "BROWSER", "PF_USE_SANDBOX_FOR_JINJA"];
/// Files that one request may ask about.
const MAX_FILES: usize = 200;
/// Longest identifier of a run.
const MAX_RUN_ID: usize = 255;
/// What promptflow's service can do that a session can too.
const FEATURES: [(&str, &str, &str); 7] = [
    (
        "ActivateConfig",
        "Bypass node execution when the node does not meet activate condition.",
        "Ready",
    ),
    ("Image", "Support image input and output.", "Ready"),
    (
        "EnvironmentVariablesInYaml",
        "Support environment variables in flow.dag.yaml.",
        "Ready",
    ),
    ("BatchTimeout", "Support batch timeout.", "Ready"),
    (
        "BatchWorkerCount",
        "Supports users explicitly specifying the worker count for batch run.",
        "Ready",
    ),
    ("ResumeBatchRun", "Support resuming batch run.", "E2ETest"),
    (
        "OpenaiVisionMessageFormat",
        "Support openai vision message format type.",
        "E2ETest",
    ),
];

/// An answer that is no 200: in promptflow's shape, or flowcell's own problem.
enum Refused {
    /// A body of the wrong shape, as FastAPI says it.
    Body(Json),
    /// An error of promptflow's, with its `debugInfo` or not.
    Error(Box<RunError>, bool),
    Problem(Box<Problem>),
}

impl From<Json> for Refused {
    fn from(detail: Json) -> Self {
        Self::Body(detail)
    }
}

impl From<RunError> for Refused {
    fn from(error: RunError) -> Self {
        Self::Error(Box::new(error), false)
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl Refused {
    /// promptflow's errors that come from a process of their own have their `debugInfo`.
    fn debug(error: RunError) -> Self {
        Self::Error(Box::new(error), true)
    }

    fn call(error: CallError, run: &str) -> Self {
        match error {
            CallError::Canceled => Self::debug(canceled(run)),
            error => Self::Problem(Box::new(error.into())),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Body(detail) => answer(StatusCode::UNPROCESSABLE_ENTITY, &detail),
            Self::Error(error, debug) => {
                let status = match error.code {
                    Code::User => StatusCode::BAD_REQUEST,
                    Code::System => StatusCode::INTERNAL_SERVER_ERROR,
                };
                answer(status, &framed(presented(&error, debug)))
            }
            Self::Problem(problem) => problem.into_response(),
        }
    }
}

fn canceled(run: &str) -> RunError {
    RunError::user(
        "ExecutionCanceledError",
        format!("The execution for run {run} is canceled."),
    )
}

/// JSON as promptflow's service writes it.
fn answer(status: StatusCode, value: &Json) -> Response {
    sent(status, python_json_compact(value, false, false))
}

fn sent(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn ok(value: &Json) -> Response {
    answer(StatusCode::OK, value)
}

/// Tells that the session can be reached.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/health", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 404, body = Problem)))]
pub async fn health(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<&'static str, Problem> {
    usable(&app, &caller, &name, &id)?;
    Ok("healthy")
}

/// Tells the version of promptflow whose interface this is, and what of its features there is.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/version", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem)))]
pub async fn version(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    usable(&app, &caller, &name, &id)?;
    let features = FEATURES.map(|(name, description, state)| {
        json!({ "name": name, "description": description, "state": state, "component": "executor" })
    });
    Ok(ok(&json!({
        "status": "healthy",
        "version": PROMPTFLOW,
        "commit_id": "unknown",
        "feature_list": features,
    })))
}

/// What all requests that set up a flow have.
struct Base {
    working_dir: String,
    flow_file: String,
    variables: JsonMap,
    init: JsonMap,
}

impl Base {
    fn read(fields: &mut Fields) -> Self {
        fields.optional_mapping("operation_context");
        let working_dir = fields.path("working_dir");
        let flow_file = fields.path("flow_file");
        fields.path("output_dir");
        fields.optional_string("log_path");
        // There are no connections yet: a flow that needs one says so when it is opened.
        fields.optional_mapping("connections");
        let variables = fields.optional_mapping("environment_variables");
        for name in ["flow_name", "flow_logs_folder"] {
            fields.optional_string(name);
        }
        Self {
            working_dir,
            flow_file,
            variables: variables.unwrap_or_default(),
            init: JsonMap::new(),
        }
    }

    /// promptflow's check of the paths, as text: neither is looked for.
    fn check(&self) -> Result<(), RunError> {
        let Self {
            working_dir,
            flow_file,
            ..
        } = self;
        let invalid = |message| RunError::user("FlowFilePathInvalid", message);
        if !working_dir.starts_with('/') || flow_file.starts_with('/') {
            return Err(invalid(format!(
                "The working directory path ({working_dir}) or flow file path ({flow_file}) is invalid. The working directory should be a absolute path and the flow file path should be relative to the working directory."
            )));
        }
        let mut depth = 0_usize;
        for part in flow_file.split('/') {
            match part {
                "" | "." => {}
                ".." if depth == 0 => {
                    return Err(invalid(format!(
                        "The flow file path ({flow_file}) is invalid. The path should be in the working directory."
                    )));
                }
                ".." => depth -= 1,
                _ => depth += 1,
            }
        }
        Ok(())
    }

    fn setup(&self) -> Result<Setup, RunError> {
        if self.variables.len() > MAX_VARIABLES {
            return Err(RunError::usage(format!(
                "environment_variables: there are more than {MAX_VARIABLES}"
            )));
        }
        let mut environment_variables = Vec::new();
        for (name, value) in &self.variables {
            if DENIED_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let Json::String(value) = value else {
                return Err(RunError::system(
                    "TypeError",
                    format!("environment variable {name}: str expected"),
                ));
            };
            environment_variables.push((name.clone(), value.clone()));
        }
        Ok(Setup {
            variant: None,
            environment_variables,
            init: (!self.init.is_empty()).then(|| Values::from(&self.init)),
        })
    }
}

fn run_id(fields: &mut Fields) -> String {
    let id = fields.string("run_id");
    if id.len() > MAX_RUN_ID {
        let message = format!("String should have at most {MAX_RUN_ID} characters");
        fields.refuse(&["run_id"], "string_too_long", &message, id.into());
        return String::new();
    }
    id
}

/// The body of a request, and the session that it is for.
fn begin(
    app: &App,
    caller: &Caller,
    name: &Name,
    id: &Name,
    body: Result<Bytes, BytesRejection>,
) -> Result<(SessionKey, Fields), Refused> {
    let key = usable(app, caller, name, id)?;
    let body = body.map_err(of_body)?;
    Ok((key, Fields::read(&body)?))
}

/// Runs a session's flow; what comes of it counts.
async fn ran(
    app: &App,
    key: &SessionKey,
    id: Option<&str>,
    setup: Setup,
    run: Run,
) -> Result<Answer, CallError> {
    let begun = Instant::now();
    let call = Call {
        id: id.map(str::to_owned),
        setup,
        ..Call::of(run)
    };
    let call = app.sessions().call(key, call);
    let answer = call.await?;
    app.metrics().call(answer.status.as_str(), begun.elapsed());
    Ok(answer)
}

/// Runs the flow once, aggregation included.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/execution/flow", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)), request_body = Object,
    responses((status = 200, body = Object), (status = 400, body = Object), (status = 422, body = Object),
        (status = 500, body = Object), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn execute_flow(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answered = async {
        let (key, mut fields) = begin(&app, &caller, &name, &id, body)?;
        let base = Base::read(&mut fields);
        let run = run_id(&mut fields);
        let inputs = fields.optional_mapping("inputs").unwrap_or_default();
        fields.check()?;
        base.check().map_err(Refused::debug)?;
        let setup = base.setup().map_err(Refused::debug)?;
        let work = Run::Flow {
            run: run.clone(),
            inputs: Values::from(&inputs),
        };
        let answer = ran(&app, &key, Some(&run), setup, work).await;
        let answer = answer.map_err(|error| Refused::call(error, &run))?;
        let text = answer.body.map_err(Refused::debug)?;
        Ok::<_, Refused>(sent(StatusCode::OK, text))
    };
    answered.await.unwrap_or_else(IntoResponse::into_response)
}

/// Runs one node.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/execution/node", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)), request_body = Object,
    responses((status = 200, body = Object), (status = 400, body = Object), (status = 422, body = Object),
        (status = 500, body = Object), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn execute_node(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answered = async {
        let (key, mut fields) = begin(&app, &caller, &name, &id, body)?;
        let base = Base::read(&mut fields);
        let run = run_id(&mut fields);
        let node = fields.string("node_name");
        let flow_inputs = fields.defaulted_mapping("flow_inputs");
        let node_outputs = fields.defaulted_mapping("dependency_nodes_outputs");
        fields.check()?;
        base.check().map_err(Refused::debug)?;
        let setup = base.setup().map_err(Refused::debug)?;
        let work = Run::Node {
            node,
            flow_file: base.flow_file,
            flow_inputs: Values::from(&flow_inputs),
            node_outputs: Values::from(&node_outputs),
        };
        let answer = ran(&app, &key, Some(&run), setup, work).await;
        let answer = answer.map_err(|error| Refused::call(error, &run))?;
        let text = answer.body.map_err(Refused::debug)?;
        Ok::<_, Refused>(sent(StatusCode::OK, text))
    };
    answered.await.unwrap_or_else(IntoResponse::into_response)
}

/// Cancels a run of a flow or a node by its identifier. An unknown one is answered likewise.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/execution/cancel", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)), request_body = Object,
    responses((status = 200, body = Object), (status = 422, body = Object), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub async fn cancel(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let canceled = || {
        let (key, mut fields) = begin(&app, &caller, &name, &id, body)?;
        fields.optional_mapping("operation_context");
        let run = run_id(&mut fields);
        fields.check()?;
        app.sessions().cancel(&key, &run);
        Ok::<_, Refused>(ok(&json!({ "status": "canceled" })))
    };
    canceled().unwrap_or_else(IntoResponse::into_response)
}

/// Begins a batch: opens the flow with these environment variables. A session has one batch at a time.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/initialize", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)), request_body = Object,
    responses((status = 200, body = Object), (status = 400, body = Object), (status = 422, body = Object),
        (status = 500, body = Object), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn initialize(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let initialized = async {
        let (key, mut fields) = begin(&app, &caller, &name, &id, body)?;
        let mut base = Base::read(&mut fields);
        let workers = fields.optional_integer("worker_count");
        let line_seconds = fields.optional_integer("line_timeout_sec");
        base.init = fields.optional_mapping("init_kwargs").unwrap_or_default();
        fields.check()?;
        base.check()?;
        let setup = base.setup()?;
        let generation = find(&app, &name, &id)?.generation;
        let opened = app
            .sessions()
            .call(
                &key,
                Call {
                    setup: setup.clone(),
                    ..Call::of(Run::Initialize)
                },
            )
            .await
            .map_err(|error| Refused::call(error, "initialize"))?;
        let definition = opened.body?;
        let most = app.sessions().settings().calls_per_session;
        let batch = Batch::new(generation, setup, line_seconds, workers, most);
        if !app.batches.put(&app.ledger().state(), key, batch) {
            return Err(Refused::from(RunError::user(
                "BatchInProgress",
                "Lines of another batch are under way in this session. Wait for them, or send '/finalize', which ends them.",
            )));
        }
        Ok(sent(StatusCode::OK, definition))
    };
    initialized
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

/// The session's batch.
fn present(app: &App, key: &SessionKey) -> Result<Arc<Batch>, RunError> {
    let batch = app.batches.get(&app.ledger().state(), key);
    batch.ok_or_else(uninitialized)
}

fn uninitialized() -> RunError {
    RunError::system(
        "UninitializedError",
        "Please initialize the executor service with the '/initialize' api before sending execution requests.",
    )
}

/// Runs a line of the batch.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/execution", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)), request_body = Object,
    responses((status = 200, body = Object), (status = 400, body = Object), (status = 422, body = Object),
        (status = 500, body = Object), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn execute_line(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answered = async {
        let (key, mut fields) = begin(&app, &caller, &name, &id, body)?;
        fields.optional_mapping("operation_context");
        let run = run_id(&mut fields);
        let number = fields.integer("line_number");
        let inputs = fields.mapping("inputs");
        fields.check()?;
        let batch = present(&app, &key)?;
        let line_time = batch.line_time;
        let line = format!("{run}_{number}");
        let begun = async {
            let _worker = batch.workers.acquire().await;
            let work = Run::Line {
                run,
                number,
                inputs: Values::from(&inputs),
                time: line_time,
            };
            let answer = ran(&app, &key, Some(&line), batch.setup.clone(), work).await;
            let answer = answer.map_err(|error| Refused::call(error, &line))?;
            Ok::<_, Refused>(sent(StatusCode::OK, answer.body?))
        };
        tokio::select! {
            biased;
            // Going away ends the call.
            () = batch.ended.cancelled() => Err(Refused::from(canceled(&line))),
            ran = begun => ran,
        }
    };
    answered.await.unwrap_or_else(IntoResponse::into_response)
}

/// Runs the aggregation nodes over the lines of the batch.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/aggregation", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)), request_body = Object,
    responses((status = 200, body = Object), (status = 400, body = Object), (status = 422, body = Object),
        (status = 500, body = Object), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn aggregate(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answered = async {
        let (key, mut fields) = begin(&app, &caller, &name, &id, body)?;
        fields.optional_mapping("operation_context");
        let run = run_id(&mut fields);
        let inputs = fields.optional_mapping("batch_inputs").unwrap_or_default();
        let gathered = fields.mapping_or_list("aggregation_inputs");
        fields.check()?;
        let batch = present(&app, &key)?;
        let work = match gathered {
            Json::Object(gathered) => Run::Aggregate {
                run: run.clone(),
                inputs: Values::from(&inputs),
                gathered: Values::from(&gathered),
            },
            answers => Run::AggregateAnswers {
                run: run.clone(),
                answers: answers.to_string(),
            },
        };
        let call = Call {
            id: Some(run.clone()),
            setup: batch.setup.clone(),
            ..Call::of(work)
        };
        let call = app.sessions().call(&key, call);
        let answer = tokio::select! {
            biased;
            () = batch.ended.cancelled() => return Err(Refused::from(canceled(&run))),
            answer = call => answer.map_err(|error| Refused::call(error, &run))?,
        };
        Ok(sent(StatusCode::OK, answer.body?))
    };
    answered.await.unwrap_or_else(IntoResponse::into_response)
}

/// Ends the batch; lines that are still under way end with it.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/finalize", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Object), (status = 500, body = Object), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub async fn finalize(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Response {
    let finalized = || {
        let key = usable(&app, &caller, &name, &id)?;
        if !app.batches.end(&app.ledger().state(), &key) {
            return Err(Refused::from(uninitialized()));
        }
        Ok(ok(&json!({ "status": "finalized" })))
    };
    finalized().unwrap_or_else(IntoResponse::into_response)
}

/// Describes the tools in files of the flow's folder.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/tool/meta", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)), request_body = Object,
    responses((status = 200, body = Object), (status = 422, body = Object), (status = 403, body = Problem),
        (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn meta(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let described = async {
        let (key, mut fields) = begin(&app, &caller, &name, &id, body)?;
        fields.optional_mapping("operation_context");
        fields.path("working_dir");
        let files = files(&mut fields);
        fields.check()?;
        let described = app.sessions().look(&key, Look::ToolMeta { files }).await;
        let described = described.map_err(Problem::from)?;
        Ok::<_, Refused>(sent(StatusCode::OK, described.body?))
    };
    described.await.unwrap_or_else(IntoResponse::into_response)
}

/// `{path: {"tool_type": kind}}`.
fn files(fields: &mut Fields) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let tools = fields.mapping("tools");
    if tools.len() > MAX_FILES {
        let message = format!("Dictionary should have at most {MAX_FILES} items");
        fields.refuse(&["tools"], "too_long", &message, tools.len().into());
        return files;
    }
    for (path, config) in tools {
        let mut kind = String::new();
        for (name, value) in fields.as_mapping(&["tools", &path], config) {
            let Json::String(text) = value else {
                let place = ["tools", &path, &name];
                fields.refuse(
                    &place,
                    "string_type",
                    "Input should be a valid string",
                    value,
                );
                continue;
            };
            if name == "tool_type" {
                kind = text;
            }
        }
        files.push((path, kind));
    }
    files
}

/// Lists the tools of the session's image.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions/{session}/executor/tool/package_tools", tag = "executor",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Object), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn package_tools(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    usable(&app, &caller, &name, &id)?;
    let session = find(&app, &name, &id)?;
    let store = app.sessions().store().clone();
    let tools = blocking(move || {
        let site = session.packages.as_ref();
        let site = site.and_then(|packages| packages.site.as_deref());
        let site: Option<Digest> = site
            .map(str::parse)
            .transpose()
            .map_err(|error| Problem::internal(&error))?;
        package_tools_json(&store, session.image.in_store(), site.as_ref())
            .map_err(|error| Problem::internal(&error))
    });
    Ok(ok(&tools.await??))
}
