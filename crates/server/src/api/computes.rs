//! Computes: slices of the host that sessions run on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_session::machine::{Event, Step};
use flowcell_session::{
    Change, Compute, ComputeKind, ComputeState, Name, Resources, Role, UserName, Workspace,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::flows::workspace;
use super::page::{Page, PageParams};
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Body, Creation, Params, entity_tag, if_match};
use crate::problem::{Kind, Problem};

/// A compute.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ComputeView {
    /// The name.
    #[schema(value_type = String)]
    pub name: Name,
    /// `serverless` or `instance`.
    #[schema(value_type = String, example = "instance")]
    pub kind: ComputeKind,
    /// Its owner, the only one who can use it.
    #[schema(value_type = String)]
    pub user: UserName,
    /// The name of its type.
    #[schema(value_type = String)]
    pub instance_type: Name,
    /// What its sessions may use together.
    pub resources: ResourcesView,
    /// `running`, `idle` (running, without sessions), `stopping`, `stopped` or `deleting`.
    #[schema(example = "running")]
    pub state: String,
    /// Why it is in this state.
    pub reason: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// Seconds without use after which it stops; kind `instance` only.
    pub idle_seconds: Option<u64>,
    /// When one of its sessions was last used.
    #[schema(value_type = String, format = DateTime)]
    pub last_use: Timestamp,
    /// When it will stop, should it not be used before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub stop_at: Option<Timestamp>,
    /// Counts its changes; also the entity tag.
    pub revision: u64,
    /// Its sessions that are not stopped.
    pub sessions: Vec<ComputeSession>,
    /// Calls under way in all of them.
    pub active_calls: usize,
    /// What they use.
    pub used: ComputeUsage,
}

/// A session on a compute.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ComputeSession {
    /// The session.
    #[schema(value_type = String)]
    pub id: Name,
    /// Its flow.
    #[schema(value_type = String)]
    pub flow: Name,
    /// Its state.
    pub state: String,
    /// Calls under way.
    pub active_calls: usize,
}

/// What the sessions of a compute use.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct ComputeUsage {
    /// Memory of all instances, in bytes.
    pub memory_bytes: u64,
    /// Instances, busy and idle.
    pub instances: usize,
    /// CPU time since the compute started, in seconds.
    pub cpu_seconds: f64,
    /// How long calls were held back to keep to the CPU share, in seconds.
    pub throttled_seconds: f64,
}

/// Resources.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct ResourcesView {
    /// Memory of all instances together, in MiB.
    pub memory_mib: u64,
    /// CPU share, in thousandths of a core.
    pub cpu_millis: u64,
    /// Instances at once.
    pub instances: u64,
}

impl From<Resources> for ResourcesView {
    fn from(resources: Resources) -> Self {
        Self {
            memory_mib: resources.memory_mib,
            cpu_millis: resources.cpu_millis,
            instances: resources.instances,
        }
    }
}

/// An instance type.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InstanceTypeView {
    /// The name.
    #[schema(value_type = String)]
    pub name: Name,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// What a compute of this type may use.
    pub resources: ResourcesView,
    /// What an hour costs, in the operator's unit.
    pub price_per_hour: f64,
}

/// A new compute of kind `instance`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCompute {
    /// The name.
    #[schema(value_type = String)]
    pub name: Name,
    /// The name of its type, or an alias; the host chooses one, if absent.
    pub instance_type: Option<String>,
    /// Seconds without use after which it stops; the host's default, if absent.
    pub idle_seconds: Option<u64>,
}

/// What changes of a compute.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateCompute {
    /// Seconds without use after which it stops.
    pub idle_seconds: u64,
}

/// How to delete or stop a compute.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct StopParams {
    /// Only say what would be stopped.
    pub dry_run: bool,
}

/// What stopping or deleting a compute stops.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StopView {
    /// The sessions that are stopped.
    #[schema(value_type = Vec<String>)]
    pub sessions: Vec<Name>,
    /// Calls under way in them, which end.
    pub active_calls: usize,
    /// Whether this was only asked.
    pub dry_run: bool,
}

/// Lists the instance types.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/instance-types", tag = "computes",
    params(("workspace" = String, Path)), responses((status = 200, body = Page<InstanceTypeView>)))]
pub async fn types(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
) -> Result<Json<Page<InstanceTypeView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let catalog = &app.sessions().settings().rules.catalog;
    let items = catalog.0.iter().map(|one| InstanceTypeView {
        name: one.name.clone(),
        aliases: one.aliases.clone(),
        resources: one.resources.into(),
        price_per_hour: one.price_per_hour,
    });
    Ok(Json(Page {
        items: items.collect(),
        next_cursor: None,
    }))
}

/// Lists the computes, with their sessions.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/computes", tag = "computes",
    params(("workspace" = String, Path), PageParams), responses((status = 200, body = Page<ComputeView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<ComputeView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let state = app.ledger().state();
    let workspace = workspace(&state, &name)?;
    page.of(&workspace.computes, |_, compute| {
        Some(view(&app, workspace, compute))
    })
    .map(Json)
}

/// Makes a compute of kind `instance`, which is yours.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/computes", tag = "computes",
    params(("workspace" = String, Path)), request_body = CreateCompute,
    responses((status = 201, body = ComputeView), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    headers: HeaderMap,
    body: Body<CreateCompute>,
) -> Result<Response, Response> {
    let refuse = |problem: Problem| problem.into_response();
    caller
        .require(&app, &name, Role::DataScientist)
        .map_err(refuse)?;
    let computes = format!("/v1/workspaces/{name}/computes");
    let what = format!("POST {computes}");
    let creation = Creation::begin(&app, &caller, &headers, &what, &body.bytes).await?;
    let location = format!("{computes}/{}", body.value.name);
    let event = Event::CreateCompute {
        user: caller.user,
        name: body.value.name,
        instance_type: body.value.instance_type,
        idle_seconds: body.value.idle_seconds,
    };
    let answer = {
        let (app, name, location) = (Arc::clone(&app), name.clone(), location.clone());
        move |step: &Step| {
            let view = view_of(&app, &name, step);
            let answered = creation.answered(StatusCode::CREATED, &location, &view);
            answered.into_iter().collect()
        }
    };
    let (step, _) = app
        .sessions()
        .happen(&name, event, answer)
        .await
        .map_err(|error| refuse(error.into()))?;
    let view = view_of(&app, &name, &step);
    let revision = view.as_ref().map_or(1, |view| view.revision);
    let headers = [
        (header::LOCATION, location),
        (header::ETAG, entity_tag(revision)),
    ];
    Ok((StatusCode::CREATED, headers, Json(view)).into_response())
}

/// Shows a compute.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/computes/{compute}", tag = "computes",
    params(("workspace" = String, Path), ("compute" = String, Path)),
    responses((status = 200, body = ComputeView), (status = 404, body = Problem)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, compute)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    shown(&app, &name, &compute)
}

/// Changes a compute's idle time.
#[utoipa::path(patch, path = "/v1/workspaces/{workspace}/computes/{compute}", tag = "computes",
    params(("workspace" = String, Path), ("compute" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The compute's entity tag")),
    request_body = UpdateCompute,
    responses((status = 200, body = ComputeView), (status = 404, body = Problem), (status = 412, body = Problem),
        (status = 422, body = Problem)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, compute)): At<(Name, Name)>,
    headers: HeaderMap,
    body: Body<UpdateCompute>,
) -> Result<Response, Problem> {
    own_or_owner(&app, &caller, &name, &compute)?;
    let event = Event::UpdateCompute {
        user: caller.user,
        compute: compute.clone(),
        seen: if_match(&headers)?,
        idle_seconds: body.value.idle_seconds,
    };
    app.sessions().happen(&name, event, |_| Vec::new()).await?;
    shown(&app, &name, &compute)
}

/// Starts a compute that is stopped. It also starts when a session needs it.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/computes/{compute}/start", tag = "computes",
    params(("workspace" = String, Path), ("compute" = String, Path)),
    responses((status = 200, body = ComputeView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn start(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, compute)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::DataScientist)?;
    let event = Event::StartCompute {
        user: caller.user,
        compute: compute.clone(),
    };
    app.sessions().happen(&name, event, |_| Vec::new()).await?;
    shown(&app, &name, &compute)
}

/// Stops a compute, and its sessions with it. A serverless compute is deleted by this.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/computes/{compute}/stop", tag = "computes",
    params(("workspace" = String, Path), ("compute" = String, Path), StopParams),
    responses((status = 200, body = StopView), (status = 404, body = Problem)))]
pub async fn stop(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, compute)): At<(Name, Name)>,
    Params(parameters): Params<StopParams>,
) -> Result<Json<StopView>, Problem> {
    own_or_owner(&app, &caller, &name, &compute)?;
    let event = Event::StopCompute {
        user: caller.user,
        compute,
    };
    stopping(&app, &name, event, parameters.dry_run).await
}

/// Deletes a compute, and stops its sessions; the answer says which.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}/computes/{compute}", tag = "computes",
    params(("workspace" = String, Path), ("compute" = String, Path), StopParams),
    responses((status = 200, body = StopView), (status = 404, body = Problem)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, compute)): At<(Name, Name)>,
    Params(parameters): Params<StopParams>,
) -> Result<Json<StopView>, Problem> {
    own_or_owner(&app, &caller, &name, &compute)?;
    let event = Event::DeleteCompute {
        user: caller.user,
        compute,
    };
    stopping(&app, &name, event, parameters.dry_run).await
}

async fn stopping(
    app: &App,
    name: &Name,
    event: Event,
    dry_run: bool,
) -> Result<Json<StopView>, Problem> {
    let sessions = app.sessions();
    let foreseen = sessions.foresee(name, &event)?;
    let (step, active_calls) = if dry_run {
        let calls = active_calls(app, &foreseen);
        (foreseen, calls)
    } else {
        // Counted before they end.
        let calls = active_calls(app, &foreseen);
        let (step, _) = sessions.happen(name, event, |_| Vec::new()).await?;
        (step, calls)
    };
    Ok(Json(StopView {
        sessions: step.stops().map(|session| session.id.clone()).collect(),
        active_calls,
        dry_run,
    }))
}

fn active_calls(app: &App, step: &Step) -> usize {
    step.stops()
        .map(|session| {
            let key = (session.workspace.clone(), session.id.clone());
            app.sessions().calls(&key).len()
        })
        .sum()
}

/// Computes are changed by whoever owns them, and by the owners of the workspace.
fn own_or_owner(app: &App, caller: &Caller, name: &Name, compute: &Name) -> Result<(), Problem> {
    let role = caller.require(app, name, Role::DataScientist)?;
    let state = app.ledger().state();
    let found = workspace(&state, name)?.computes.get(compute);
    let found = found.ok_or_else(|| Problem::not_found("compute", compute.as_str()))?;
    if role == Role::Owner || found.user == caller.user {
        return Ok(());
    }
    Err(Problem::new(
        Kind::Forbidden,
        format!("compute '{compute}' belongs to {}", found.user),
    ))
}

fn shown(app: &App, name: &Name, compute: &Name) -> Result<Response, Problem> {
    let state = app.ledger().state();
    let workspace = workspace(&state, name)?;
    let found = workspace.computes.get(compute);
    let found = found.ok_or_else(|| Problem::not_found("compute", compute.as_str()))?;
    let headers = [(header::ETAG, entity_tag(found.revision))];
    Ok((headers, Json(view(app, workspace, found))).into_response())
}

/// The compute that a step makes.
fn view_of(app: &App, name: &Name, step: &Step) -> Option<ComputeView> {
    let compute = step.changes.iter().find_map(|change| match change {
        Change::PutCompute(compute) => Some(compute),
        _ => None,
    })?;
    let state = app.ledger().state();
    Some(view(app, state.workspaces.get(name)?, compute))
}

fn view(app: &App, workspace: &Workspace, compute: &Compute) -> ComputeView {
    let mut last_use = compute.last_use;
    let sessions: Vec<ComputeSession> = workspace
        .sessions_on(&compute.name)
        .map(|session| {
            let key = (session.workspace.clone(), session.id.clone());
            last_use = last_use.max(app.sessions().last_use(session));
            ComputeSession {
                id: session.id.clone(),
                flow: session.flow.clone(),
                state: session.state.as_str().to_owned(),
                active_calls: app.sessions().calls(&key).len(),
            }
        })
        .collect();
    let key = (compute.workspace.clone(), compute.name.clone());
    let used = app.sessions().used_by(&key);
    let is_idle = compute.state == ComputeState::Running && sessions.is_empty();
    let stop_at = compute
        .idle_seconds
        .filter(|_| compute.state == ComputeState::Running)
        .and_then(|seconds| {
            let idle = SignedDuration::from_secs(i64::try_from(seconds).ok()?);
            last_use.checked_add(idle).ok()
        });
    ComputeView {
        name: compute.name.clone(),
        kind: compute.kind,
        user: compute.user.clone(),
        instance_type: compute.instance_type.clone(),
        resources: compute.resources.into(),
        state: if is_idle {
            "idle".to_owned()
        } else {
            compute.state.as_str().to_owned()
        },
        reason: compute.reason.clone(),
        since: compute.since,
        created: compute.created,
        idle_seconds: compute.idle_seconds,
        last_use,
        stop_at,
        revision: compute.revision,
        active_calls: sessions.iter().map(|session| session.active_calls).sum(),
        sessions,
        used: used.map_or_else(ComputeUsage::default, |used| ComputeUsage {
            memory_bytes: used.memory,
            instances: usize::try_from(used.instances).unwrap_or(usize::MAX),
            cpu_seconds: used.cpu_time().as_secs_f64(),
            throttled_seconds: used.throttled().as_secs_f64(),
        }),
    }
}
