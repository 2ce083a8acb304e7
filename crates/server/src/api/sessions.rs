//! Compute sessions.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_egress::Rule;
use flowcell_session::machine::{Event, Step, Wish};
use flowcell_session::{
    CannotHibernate, ComputeKind, Happening, Identity, Name, Role, Session, SessionKey,
    SessionState, Usage, UserName,
};
use flowcell_worker::Look;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use utoipa::{IntoParams, ToSchema};

use super::base_images::{ImageView, available, image_for, image_now};
use super::flows::workspace;
use super::hibernation::{ForkedFromView, MemoryView, StoredView, UsageView};
use super::page::{Page, PageParams};
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Body, Creation, Params, entity_tag, if_match};
use crate::problem::{Kind, Problem};

/// A session.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// The identifier.
    #[schema(value_type = String)]
    pub id: Name,
    /// Its flow.
    #[schema(value_type = String)]
    pub flow: Name,
    /// Whose it is.
    #[schema(value_type = String)]
    pub user: UserName,
    /// `starting`, `running`, `hibernated`, `stopping`, `stopped` or `failed`.
    #[schema(value_type = String, example = "running")]
    pub state: SessionState,
    /// Why it is in this state.
    pub reason: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When it was first started.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// Counts its changes; also the entity tag.
    pub revision: u64,
    /// Counts its lives; each begins with an empty memory and disk.
    pub generation: u64,
    /// The compute that it is, or was last, on.
    pub compute: SessionCompute,
    /// Seconds without use after which it is deleted.
    pub idle_seconds: u64,
    /// As whom it reaches other services.
    #[schema(value_type = IdentityView)]
    pub identity: Identity,
    /// What its tools may ask of the network, of what the workspace and the host allow.
    #[schema(value_type = NetworkRule)]
    #[serde(default)]
    pub network: Rule,
    /// Its base image.
    pub base_image: ImageView,
    /// Its instances.
    pub instances: Instances,
    /// Memory of its instances, in bytes.
    pub memory_bytes: u64,
    /// CPU time that its calls have used in this life, in seconds.
    pub cpu_seconds: f64,
    /// Calls that have ended in this life.
    pub calls: u64,
    /// Calls under way.
    pub active_calls: usize,
    /// When it was last used.
    #[schema(value_type = String, format = DateTime)]
    pub last_use: Timestamp,
    /// When it will be deleted, should it not be used before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub evict_at: Option<Timestamp>,
    /// What is stored of it while it is hibernated.
    #[serde(default)]
    pub stored: Option<StoredView>,
    /// Why instances stayed in memory when it was to hibernate last.
    #[serde(default)]
    pub kept: Vec<String>,
    /// Why instances were dropped when it was to hibernate last.
    #[serde(default)]
    pub dropped: Vec<String>,
    /// What becomes of instances that cannot be stored: `keep` or `drop`, as the host is set.
    #[schema(value_type = String, example = "keep")]
    #[serde(default)]
    pub cannot_hibernate: CannotHibernate,
    /// What its instances have cost in this life.
    #[serde(default)]
    pub usage: UsageView,
    /// Its memory and its image; only where one session is shown, and not while its worker is too busy to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryView>,
    /// The session that it began as a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<ForkedFromView>,
}

/// The compute of a session.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionCompute {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// `serverless` or `instance`.
    #[schema(value_type = String, example = "serverless")]
    pub kind: ComputeKind,
    /// Its type.
    #[schema(value_type = String)]
    pub instance_type: Name,
    /// How compute and type were chosen.
    pub choice: String,
}

/// An identity: `{"type": "user_identity"}` or `{"type": "managed", "client_id": "…"}`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct IdentityView {
    /// `user_identity` or `managed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which managed identity.
    pub client_id: Option<String>,
}

/// What may be asked of the network. Hosts and their ports, and methods; what is absent or null is no limit, an empty list
/// allows nothing. Each of host, workspace and session can only take away from what the one before it allows; endpoints of
/// connections that the flow uses are always allowed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NetworkRule {
    /// Hosts: `api.example.com` (https), `api.example.com:8080`, `api.example.com:*`, `*.example.com`, `*`; at most 500.
    pub allowed_hosts: Option<Vec<String>>,
    /// Methods as they are sent, like `GET`; at most 50.
    pub allowed_methods: Option<Vec<String>>,
}

/// Instances of a session.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Instances {
    /// In a call.
    pub busy: usize,
    /// Waiting for one.
    pub idle: usize,
}

/// How a session shall start. Everything but the flow has a default.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartSession {
    /// The flow.
    #[schema(value_type = String)]
    #[serde(default)]
    pub flow: Option<Name>,
    /// `serverless` (the default) or `instance`.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_kind: Option<ComputeKind>,
    /// The type of a serverless compute, by name or alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// A compute of yours, by name.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<Name>,
    /// Seconds without use after which the session is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
    /// As whom it reaches other services; serverless computes only.
    #[schema(value_type = Option<IdentityView>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// What its tools may ask of the network, of what the workspace and the host allow: all of it, if absent.
    #[schema(value_type = Option<NetworkRule>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Rule>,
    /// The base image, instead of the flow's: `name:tag` of this host, or `registry/repository:tag` (or `@digest`) in a
    /// registry that the host allows. Serverless computes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_image: Option<String>,
}

/// Settings that change; those that are absent stay.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateSession {
    /// Another kind of compute: the session moves.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_kind: Option<ComputeKind>,
    /// Another type: the session is reset on a compute of that size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// Another compute of the session's user: the session moves.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute: Option<Name>,
    /// Another idle time; it holds at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
    /// Another identity; it holds at once.
    #[schema(value_type = Option<IdentityView>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Another rule for what its tools may ask of the network, in place of all of the present one; it holds for requests of
    /// the calls that begin from now on.
    #[schema(value_type = Option<NetworkRule>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Rule>,
}

/// How to start a session.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct StartParams {
    /// Only answer with the settings that would apply.
    pub dry_run: bool,
}

/// How to reset a session.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ResetParams {
    /// Go on with what the session's image is by now.
    pub update_image: bool,
}

/// A line of a session's history.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HappeningView {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The state that it led to.
    pub state: String,
    /// What happened and why.
    pub what: String,
    /// Who did it; absent where the host did.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<UserName>,
    /// Which of the session's lives it belongs to.
    pub generation: u64,
}

impl From<Happening> for HappeningView {
    fn from(happening: Happening) -> Self {
        Self {
            at: happening.at,
            state: happening.state,
            what: happening.what,
            by: happening.by,
            generation: happening.generation,
        }
    }
}

/// Something that takes long.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its identifier.
    pub id: String,
    /// `InProgress`, `Succeeded` or `Failed`; Azure's words.
    pub status: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The session that it is about.
    #[schema(value_type = String)]
    pub session: Name,
}

/// A node and its tool.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ToolView {
    /// The node.
    pub node: String,
    /// The node's type, if it is a known one.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Where the tool is: a file of the flow, or a tool of the base image.
    pub source: Option<String>,
    /// What the tool does, in its author's words.
    pub description: Option<String>,
    /// The tool's parameters; absent when it cannot be loaded.
    pub inputs: Option<Vec<ToolInputView>>,
    /// What is wrong with the node or its tool.
    pub problems: Vec<ProblemView>,
}

/// A parameter of a tool.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ToolInputView {
    /// The name.
    pub name: String,
    /// The types that it takes, in promptflow's words.
    pub types: Vec<String>,
    /// Its default, as JSON.
    pub default: Option<serde_json::Value>,
    /// Whether it must be given.
    pub required: bool,
}

/// Something that is wrong with a flow.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ProblemView {
    /// `error` or `warning`.
    pub severity: String,
    /// promptflow's error class.
    pub class: String,
    /// What is wrong.
    pub message: String,
    /// The line of the flow's file.
    pub line: Option<usize>,
    /// The way out, if it is known.
    pub help: Option<String>,
}

/// Lists the sessions, stopped ones included.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions", tag = "sessions",
    params(("workspace" = String, Path), PageParams), responses((status = 200, body = Page<SessionView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<SessionView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let state = app.ledger().state();
    let workspace = workspace(&state, &name)?;
    page.of(&workspace.sessions, |_, session| Some(view(&app, session)))
        .map(Json)
}

/// Starts the session of a flow. A flow has at most one; one that was stopped starts again, with these settings.
///
/// The answer is 201 when it runs, and 202 with an operation when it takes long. With `dry_run` nothing is started, and
/// the answer (200) shows the settings that would apply.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions", tag = "sessions",
    params(("workspace" = String, Path), StartParams,
        ("Idempotency-Key" = Option<String>, Header, description = "Makes it safe to send the request again")),
    request_body = StartSession,
    responses((status = 200, body = SessionView, description = "What a dry run would start"), (status = 201, body = SessionView),
        (status = 202, body = SessionView), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn start(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    Params(parameters): Params<StartParams>,
    headers: HeaderMap,
    body: Body<StartSession>,
) -> Result<Response, Response> {
    let refuse = |problem: Problem| problem.into_response();
    caller
        .require(&app, &name, Role::DataScientist)
        .map_err(refuse)?;
    let sessions = format!("/v1/workspaces/{name}/sessions");
    let what = format!("POST {sessions}");
    let request = body.value;
    let flow = request.flow.ok_or_else(|| {
        refuse(Problem::new(
            Kind::InvalidBody,
            "'flow' in the body: name the flow whose session shall start",
        ))
    })?;
    super::flows::find(
        workspace(&app.ledger().state(), &name).map_err(refuse)?,
        &flow,
    )
    .map_err(refuse)?;
    let image = image_for(&app, &name, &flow, request.base_image.as_deref())
        .await
        .map_err(refuse)?;
    let event = Event::Start {
        user: caller.user.clone(),
        flow,
        id: fresh("s"),
        compute: fresh("serverless"),
        image: Box::new(image),
        wish: Wish {
            compute_kind: request.compute_kind,
            instance_type: request.instance_type,
            compute: request.compute,
            idle_seconds: request.idle_seconds,
            identity: request.identity,
            network: request.network,
            names_image: request.base_image.is_some(),
        },
    };
    if parameters.dry_run {
        let step = app.sessions().foresee(&name, &event);
        let step = step.map_err(|refusal| refuse(refusal.into()))?;
        let view = step.session().map(|session| view(&app, session));
        return Ok(Json(view).into_response());
    }
    let creation = Creation::begin(&app, &caller, &headers, &what, &body.bytes).await?;
    let answer = {
        let (app, sessions) = (Arc::clone(&app), sessions.clone());
        move |step: &Step| {
            let answered = step.session().and_then(|session| {
                let location = format!("{sessions}/{}", session.id);
                creation.answered(StatusCode::ACCEPTED, &location, &view(&app, session))
            });
            answered.into_iter().collect()
        }
    };
    let (step, done) = app
        .sessions()
        .happen(&name, event, answer)
        .await
        .map_err(|error| refuse(error.into()))?;
    let session = step.session().map(|session| session.id.clone());
    let session = session.ok_or_else(|| refuse(Problem::not_found("session", "")))?;
    settled(&app, &name, &session, done, StatusCode::CREATED)
        .await
        .map_err(refuse)
}

/// Shows a session.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions/{session}", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = SessionView), (status = 404, body = Problem)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let session = find(&app, &name, &id)?;
    let headers = [(header::ETAG, entity_tag(session.revision))];
    let mut view = view(&app, &session);
    (view.memory, view.base_image.available) =
        tokio::join!(MemoryView::of(&app, &session), available(&app, &session));
    Ok((headers, Json(view)).into_response())
}

/// Changes settings. Idle time, identity and network hold at once; another type or compute resets the session there.
#[utoipa::path(patch, path = "/v1/workspaces/{workspace}/sessions/{session}", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The session's entity tag")),
    request_body = UpdateSession,
    responses((status = 200, body = SessionView), (status = 202, body = SessionView), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 422, body = Problem)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    headers: HeaderMap,
    body: Body<UpdateSession>,
) -> Result<Response, Problem> {
    own_or_owner(&app, &caller, &name, &id)?;
    let request = body.value;
    let event = Event::Update {
        user: caller.user,
        session: id.clone(),
        seen: if_match(&headers)?,
        compute: fresh("serverless"),
        wish: Wish {
            compute_kind: request.compute_kind,
            instance_type: request.instance_type,
            compute: request.compute,
            idle_seconds: request.idle_seconds,
            identity: request.identity,
            network: request.network,
            names_image: false,
        },
    };
    let (_, done) = app.sessions().happen(&name, event, |_| Vec::new()).await?;
    settled(&app, &name, &id, done, StatusCode::OK).await
}

/// Deletes the session and makes it anew with the same environment: memory and files are as at its first start.
///
/// With `update_image` it gets what its image is by now: what `base_image.available` of the session shows.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/reset", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path), ResetParams,
        ("If-Match" = Option<String>, Header, description = "The session's entity tag")),
    responses((status = 200, body = SessionView), (status = 202, body = SessionView), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem)))]
pub async fn reset(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    Params(parameters): Params<ResetParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    own_or_owner(&app, &caller, &name, &id)?;
    let image = if parameters.update_image {
        Some(Box::new(image_now(&app, &find(&app, &name, &id)?).await?))
    } else {
        None
    };
    let event = Event::Reset {
        user: caller.user,
        session: id.clone(),
        seen: if_match(&headers)?,
        compute: fresh("serverless"),
        image,
    };
    let (_, done) = app.sessions().happen(&name, event, |_| Vec::new()).await?;
    settled(&app, &name, &id, done, StatusCode::OK).await
}

/// Stops the session: its calls end, its memory and files are deleted, and a serverless compute goes with its last
/// session. Its history stays.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/stop", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = SessionView), (status = 202, body = SessionView), (status = 404, body = Problem)))]
pub async fn stop(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    own_or_owner(&app, &caller, &name, &id)?;
    let event = Event::Stop {
        user: caller.user,
        session: id.clone(),
    };
    let (_, done) = app.sessions().happen(&name, event, |_| Vec::new()).await?;
    settled(&app, &name, &id, done, StatusCode::OK).await
}

/// Shows what has happened to a session, latest first. It outlasts the session's lives and the host's restarts.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions/{session}/history", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path), PageParams),
    responses((status = 200, body = Page<HappeningView>), (status = 404, body = Problem)))]
pub async fn history(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<HappeningView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    find(&app, &name, &id)?;
    let limit = page.limit()?;
    let before = page.after_number()?;
    let mut lines = app
        .read(move |ledger| {
            ledger
                .registry()
                .history(&name, &id, before, limit as u64 + 1)
        })
        .await?;
    let more = lines.len() > limit;
    lines.truncate(limit);
    let last = lines.last().filter(|_| more);
    Ok(Json(Page {
        next_cursor: last.map(|(number, _)| super::page::cursor(&number.to_string())),
        items: lines.into_iter().map(|(_, line)| line.into()).collect(),
    }))
}

/// Shows how far an operation is: the `Operation-Location` of an answer 202 leads here.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/operations/{operation}", tag = "sessions",
    params(("workspace" = String, Path), ("operation" = String, Path)),
    responses((status = 200, body = Operation), (status = 404, body = Problem)))]
pub async fn operation(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, operation)): At<(Name, String)>,
) -> Result<Json<Operation>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let missing = || Problem::not_found("operation", &operation);
    let (id, generation) = operation.rsplit_once('.').ok_or_else(missing)?;
    let id = Name::new(id).map_err(|_| missing())?;
    let generation: u64 = generation.parse().map_err(|_| missing())?;
    let session = find(&app, &name, &id).map_err(|_| missing())?;
    if generation == 0 || generation > session.generation {
        return Err(missing());
    }
    let is_present = generation == session.generation;
    let status = match session.state {
        SessionState::Starting | SessionState::Stopping if is_present => "InProgress",
        SessionState::Failed if is_present => "Failed",
        _ => "Succeeded",
    };
    Ok(Json(Operation {
        id: operation,
        status: status.to_owned(),
        error: (status == "Failed").then_some(session.reason),
        session: session.id,
    }))
}

/// Loads the tools of all nodes from the flow's present files: every tool's signature, and what is wrong.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions/{session}/tools", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Page<ToolView>), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub async fn tools(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Json<Page<ToolView>>, Problem> {
    let key = usable(&app, &caller, &name, &id)?;
    let described = app.sessions().look(&key, Look::Describe).await?.body?;
    let tools: Vec<ToolView> =
        serde_json::from_str(&described).map_err(|error| Problem::internal(&error))?;
    Ok(Json(Page {
        items: tools,
        next_cursor: None,
    }))
}

/// An identifier that nobody else has.
pub(crate) fn fresh(prefix: &str) -> Name {
    let random = uuid::Uuid::new_v4().simple().to_string();
    Name::generated(prefix, &random[..20])
}

/// Waits for what a change has set going, and answers with the session: as `done` when it has come to an end, and as
/// 202 with an operation when that takes long.
pub(crate) async fn settled(
    app: &App,
    name: &Name,
    id: &Name,
    work: JoinHandle<()>,
    done: StatusCode,
) -> Result<Response, Problem> {
    let wait = Duration::from_secs(app.config().sessions.start_wait_seconds);
    // Should it take longer, it goes on all the same.
    let _ = tokio::time::timeout(wait, work).await;
    let session = find(app, name, id)?;
    let is_settled = !matches!(
        session.state,
        SessionState::Starting | SessionState::Stopping
    );
    let status = if is_settled {
        done
    } else {
        StatusCode::ACCEPTED
    };
    let location = format!("/v1/workspaces/{name}/sessions/{id}");
    let operation = format!(
        "/v1/workspaces/{name}/operations/{id}.{}",
        session.generation
    );
    let mut response = (
        status,
        [
            (header::LOCATION, location),
            (header::ETAG, entity_tag(session.revision)),
        ],
        Json(view(app, &session)),
    )
        .into_response();
    if !is_settled && let Ok(value) = header::HeaderValue::from_str(&operation) {
        response.headers_mut().insert("operation-location", value);
        let soon = header::HeaderValue::from_static("1");
        response.headers_mut().insert(header::RETRY_AFTER, soon);
    }
    Ok(response)
}

pub(crate) fn find(app: &App, name: &Name, id: &Name) -> Result<Session, Problem> {
    let state = app.ledger().state();
    let session = workspace(&state, name)?.sessions.get(id);
    session
        .cloned()
        .ok_or_else(|| Problem::not_found("session", id.as_str()))
}

/// The key of a session that the caller may use: only its own user may, who owns the compute that it runs on.
pub(crate) fn usable(
    app: &App,
    caller: &Caller,
    name: &Name,
    id: &Name,
) -> Result<SessionKey, Problem> {
    caller.require(app, name, Role::DataScientist)?;
    let state = app.ledger().state();
    let session = workspace(&state, name)?.sessions.get(id);
    let session = session.ok_or_else(|| Problem::not_found("session", id.as_str()))?;
    if session.user == caller.user {
        return Ok((name.clone(), id.clone()));
    }
    Err(Problem::new(
        Kind::Forbidden,
        format!(
            "session {id} runs on a compute of {}, which only its owner can use",
            session.user
        ),
    ))
}

/// Sessions are changed and stopped by whoever's they are, and by the owners of the workspace. Gives the caller's role.
pub(crate) fn own_or_owner(
    app: &App,
    caller: &Caller,
    name: &Name,
    id: &Name,
) -> Result<Role, Problem> {
    let role = caller.require(app, name, Role::DataScientist)?;
    let session = find(app, name, id)?;
    if role == Role::Owner || session.user == caller.user {
        return Ok(role);
    }
    Err(Problem::new(
        Kind::Forbidden,
        format!("session {id} belongs to {}", session.user),
    ))
}

/// From which of a session's lives on somebody may know what happened in it: its user from when it became theirs, owners of
/// the workspace from its beginning.
pub(crate) fn known_since(role: Role, session: &Session) -> u64 {
    match role {
        Role::Owner => 0,
        Role::DataScientist | Role::Reader => session.owned_since,
    }
}

pub(crate) fn view(app: &App, session: &Session) -> SessionView {
    let sessions = app.sessions();
    let key = (session.workspace.clone(), session.id.clone());
    let usage = if session.state.is_live() {
        sessions.usage(&key)
    } else {
        Usage::default()
    };
    let last_use = sessions.last_use(session);
    let not_stored = sessions.not_stored(&key);
    let evict_at = session
        .state
        .takes_calls()
        .then(|| {
            let idle = SignedDuration::from_secs(i64::try_from(session.idle_seconds).ok()?);
            last_use.checked_add(idle).ok()
        })
        .flatten();
    SessionView {
        id: session.id.clone(),
        flow: session.flow.clone(),
        user: session.user.clone(),
        state: session.state,
        reason: session.reason.clone(),
        since: session.since,
        created: session.created,
        revision: session.revision,
        generation: session.generation,
        compute: SessionCompute {
            name: session.compute.clone(),
            kind: session.compute_kind,
            instance_type: session.instance_type.clone(),
            choice: session.choice.clone(),
        },
        idle_seconds: session.idle_seconds,
        identity: session.identity.clone(),
        network: session.network.clone(),
        base_image: (*session.image).clone().into(),
        instances: Instances {
            busy: usage.busy,
            idle: usage.idle,
        },
        memory_bytes: usage.memory,
        cpu_seconds: usage.cpu_time.as_secs_f64(),
        calls: usage.calls,
        active_calls: sessions.calls(&key).len(),
        last_use,
        evict_at,
        stored: session.stored.map(Into::into),
        kept: not_stored.kept,
        dropped: not_stored.dropped,
        cannot_hibernate: sessions.settings().cannot_hibernate,
        usage: usage.into(),
        memory: None,
        forked_from: session.forked_from.as_deref().cloned().map(Into::into),
    }
}
