//! The interface of `pf flow serve`, for each session: what a client of a deployed flow calls.
//!
//! Who may call is flowcell's to say, with its own problem details; everything behind that is as promptflow 1.18 answers.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_executor::{Code, RunError, swagger};
use flowcell_flow::{Flow, Json, python_json_compact, python_loads};
use flowcell_session::{Call, CallError, Name, RegistryError};
use flowcell_worker::{Answer, Look, Part, Run};
use futures_util::TryStreamExt as _;
use serde_json::json;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::executor::PROMPTFLOW;
use super::sessions::{find, usable};
use super::traces;
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, of_body};
use crate::problem::{Kind, Problem};

const JSON: &str = "application/json";
/// What of a feedback goes to the log, in bytes.
const MAX_FEEDBACK: usize = 4096;

/// Tells that the flow is served.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions/{session}/serve/health", tag = "serving",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem)))]
pub async fn health(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    usable(&app, &caller, &name, &id)?;
    let health = json!({ "status": "Healthy", "version": PROMPTFLOW });
    Ok(answer(StatusCode::OK, &health))
}

/// Tells the version of promptflow whose interface this is.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions/{session}/serve/version", tag = "serving",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem)))]
pub async fn version(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    usable(&app, &caller, &name, &id)?;
    let version = json!({ "status": "Healthy", "build_info": "", "version": PROMPTFLOW });
    Ok(answer(StatusCode::OK, &version))
}

/// Describes the flow's inputs and outputs (OpenAPI 3.0).
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions/{session}/serve/swagger.json", tag = "serving",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Object), (status = 400, body = Object), (status = 404, body = Problem)))]
pub async fn description(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    let key = usable(&app, &caller, &name, &id)?;
    let flow = find(&app, &name, &id)?.flow;
    let described = app
        .read(move |ledger| {
            let registry = ledger.registry();
            let text = |path: &str| -> Result<Option<String>, RegistryError> {
                let content = registry.file(&name, &flow, path)?;
                Ok(content.and_then(|content| String::from_utf8(content.into()).ok()))
            };
            let file = match text("flow.dag.yaml")? {
                Some(file) => Some(file),
                None => text("flow.dag.yml")?,
            };
            let samples = text("samples.json")?;
            Ok((flow, file, samples))
        })
        .await?;
    let (flow, file, samples) = described;
    // What a flow without a graph takes is known when its entry is loaded.
    match file.map(|file| Flow::parse(&file, flow.as_str())) {
        Some(Ok(parsed)) if parsed.entry.is_none() => {
            let samples = samples.as_deref().and_then(python_loads);
            let described = swagger(&parsed, flow.as_str(), samples.as_ref());
            return Ok(answer(StatusCode::OK, &described));
        }
        Some(Err(error)) => return Ok(failed(&error.into())),
        _ => {}
    }
    let look = Look::Swagger {
        name: flow.to_string(),
        samples,
    };
    let described = app.sessions().look(&key, look).await?;
    Ok(match described.body {
        Ok(text) => {
            let described = python_loads(&text).unwrap_or_default();
            answer(StatusCode::OK, &described)
        }
        Err(error) => failed(&error),
    })
}

/// Runs the flow once, without its aggregation, and answers with its outputs.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/serve/score", tag = "serving",
    params(("workspace" = String, Path), ("session" = String, Path)), request_body = Object,
    responses((status = 200, body = Object), (status = 400, body = Object), (status = 406, body = Object),
        (status = 500, body = Object), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn score(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let key = usable(&app, &caller, &name, &id)?;
    let body = body.map_err(of_body)?;
    let accept: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let run = Run::Score {
        body: body.into(),
        accept: accept.join(","),
    };
    let (taker, mut parts) = mpsc::unbounded_channel();
    let call = Call {
        taker: Some(taker),
        parent: traces::parent(&headers),
        ..Call::of(run)
    };
    let mut call = Box::pin(async move {
        let started = Instant::now();
        let sessions = app.sessions();
        let scored = sessions.call(&key, call).await?;
        app.metrics()
            .call(scored.status.as_str(), started.elapsed());
        Ok(scored)
    });
    let scored: Answer = tokio::select! {
        biased;
        Some(first) = parts.recv() => return Ok(streamed(call, parts, first)),
        scored = &mut call => scored.map_err(|error: CallError| Problem::from(error))?,
    };
    Ok(match scored.body {
        Ok(outputs) => ([(header::CONTENT_TYPE, JSON)], outputs).into_response(),
        Err(error) => failed(&error),
    })
}

/// An answer whose first part is there. What fails from now on breaks it off, as promptflow's does. The call ends when the
/// client has gone.
fn streamed(
    call: impl Future<Output = Result<Answer, CallError>> + Send + Unpin + 'static,
    parts: UnboundedReceiver<Part>,
    first: Part,
) -> Response {
    let streaming = (Some(call), parts, Some(first));
    let events =
        futures_util::stream::try_unfold(streaming, async |(mut call, mut parts, first)| {
            let next = match (first, &mut call) {
                (Some(first), _) => Some(first),
                (None, Some(calling)) => tokio::select! {
                    biased;
                    Some(next) = parts.recv() => Some(next),
                    ended = calling => {
                        call = None;
                        let ended = ended.map_err(Broken::Call);
                        let ended = ended.and_then(|answer| answer.body.map_err(Broken::Flow));
                        if ended.is_err() {
                            // What the client has not been sent yet would be lost with the connection.
                            tokio::task::yield_now().await;
                        }
                        ended?;
                        parts.try_recv().ok()
                    }
                },
                (None, None) => parts.try_recv().ok(),
            };
            let text = next.map(|mut part| Bytes::from(std::mem::take(&mut part.text)));
            Ok::<_, Broken>(text.map(|text| (text, (call, parts, None))))
        });
    let events = events.inspect_err(|error| {
        tracing::info!(
            error = error as &dyn std::error::Error,
            "an answer broke off"
        );
    });
    let kind = "text/event-stream; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(events)).into_response()
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// The call.
    #[error(transparent)]
    Call(CallError),
    /// The flow.
    #[error(transparent)]
    Flow(RunError),
}

/// Takes what a user thinks of an answer; it goes to the host's log.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/serve/feedback", tag = "serving",
    params(("workspace" = String, Path), ("session" = String, Path)), request_body = Object,
    responses((status = 200, body = Object), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn feedback(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let key = usable(&app, &caller, &name, &id)?;
    let body = body.map_err(of_body)?;
    let Ok(text) = std::str::from_utf8(&body) else {
        return Err(Problem::new(Kind::BadRequest, "the body is not UTF-8"));
    };
    app.sessions().touch(&key);
    let text = &text[..text.floor_char_boundary(MAX_FEEDBACK)];
    tracing::info!(session = %id, feedback = text, "promptflow feedback");
    Ok(answer(
        StatusCode::OK,
        &json!({ "status": "Feedback received." }),
    ))
}

fn failed(error: &RunError) -> Response {
    let status = match error.code {
        _ if error.class == "NotAcceptable" => StatusCode::NOT_ACCEPTABLE,
        Code::User => StatusCode::BAD_REQUEST,
        Code::System => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let code = match error.code {
        Code::User => "UserError",
        Code::System => "SystemError",
    };
    answer(
        status,
        &json!({ "error": { "code": code, "message": error.message } }),
    )
}

/// JSON as Flask writes it.
fn answer(status: StatusCode, value: &Json) -> Response {
    let text = format!("{}\n", python_json_compact(value, true, true));
    (status, [(header::CONTENT_TYPE, JSON)], text).into_response()
}
