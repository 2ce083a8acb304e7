//! Flows of a workspace.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_session::machine::Refusal;
use flowcell_session::{Change, Flow, MAX_FLOWS, Name, Role, UserName, Workspace};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Page, PageParams};
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Body, Creation, Params, entity_tag};
use crate::problem::{Kind, Problem};

/// A flow.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FlowView {
    /// The name.
    #[schema(value_type = String)]
    pub name: Name,
    /// Who made it.
    #[schema(value_type = String)]
    pub created_by: UserName,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When a file of it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub modified: Timestamp,
    /// Counts its changes; also the entity tag.
    pub revision: u64,
    /// Number of its files.
    pub files: u64,
    /// Bytes in all of them.
    pub bytes: u64,
    /// Its session, if it ever had one.
    #[schema(value_type = Option<String>)]
    pub session: Option<Name>,
    /// The digest of the base image that came with its files, where these were uploaded as an app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

impl FlowView {
    pub(crate) fn of(flow: &Flow, workspace: &Workspace) -> Self {
        Self {
            name: flow.name.clone(),
            created_by: flow.created_by.clone(),
            created: flow.created,
            modified: flow.modified,
            revision: flow.revision,
            files: flow.files,
            bytes: flow.bytes,
            session: workspace.session_of.get(&flow.name).cloned(),
            image: flow.image.as_ref().map(|image| image.digest.clone()),
        }
    }
}

/// A new flow. Its files are uploaded afterwards.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateFlow {
    /// The name.
    #[schema(value_type = String)]
    pub name: Name,
}

/// Lists the flows.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/flows", tag = "flows",
    params(("workspace" = String, Path), PageParams), responses((status = 200, body = Page<FlowView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<FlowView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let state = app.ledger().state();
    let workspace = workspace(&state, &name)?;
    page.of(&workspace.flows, |_, flow| {
        Some(FlowView::of(flow, workspace))
    })
    .map(Json)
}

/// Makes a flow without files.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/flows", tag = "flows",
    params(("workspace" = String, Path)), request_body = CreateFlow,
    responses((status = 201, body = FlowView), (status = 409, body = Problem)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    headers: HeaderMap,
    body: Body<CreateFlow>,
) -> Result<Response, Response> {
    let refuse = |problem: Problem| problem.into_response();
    caller
        .require(&app, &name, Role::DataScientist)
        .map_err(refuse)?;
    let flows = format!("/v1/workspaces/{name}/flows");
    let creation = Creation::begin(
        &app,
        &caller,
        &headers,
        &format!("POST {flows}"),
        &body.bytes,
    )
    .await?;
    let now = Timestamp::now();
    let flow = Flow {
        revision: 1,
        ..Flow::new(name, body.value.name, caller.user, now)
    };
    let location = format!("{flows}/{}", flow.name);
    let view = FlowView {
        name: flow.name.clone(),
        created_by: flow.created_by.clone(),
        created: now,
        modified: now,
        revision: 1,
        files: 0,
        bytes: 0,
        session: None,
        image: None,
    };
    let answered = creation.answered(StatusCode::CREATED, &location, &view);
    app.change(move |state| {
        let workspace = workspace(state, &flow.workspace)?;
        if workspace.flows.contains_key(&flow.name) {
            return Err(Problem::new(
                Kind::Conflict,
                format!("there is a flow '{}' already", flow.name),
            ));
        }
        room_for_a_flow(workspace)?;
        let changes = [Change::PutFlow(flow)].into_iter().chain(answered);
        // Kept until it is stored: the request cannot be begun again before.
        Ok((changes.collect(), creation))
    })
    .await
    .map_err(refuse)?;
    let headers = [
        (header::LOCATION, location),
        (header::ETAG, entity_tag(view.revision)),
    ];
    Ok((StatusCode::CREATED, headers, Json(view)).into_response())
}

/// Shows a flow.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/flows/{flow}", tag = "flows",
    params(("workspace" = String, Path), ("flow" = String, Path)),
    responses((status = 200, body = FlowView), (status = 404, body = Problem)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, flow)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let state = app.ledger().state();
    let workspace = workspace(&state, &name)?;
    let found = find(workspace, &flow)?;
    let headers = [(header::ETAG, entity_tag(found.revision))];
    Ok((headers, Json(FlowView::of(found, workspace))).into_response())
}

/// Deletes a flow, with its files and the history of its session. The session must be stopped.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}/flows/{flow}", tag = "flows",
    params(("workspace" = String, Path), ("flow" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, flow)): At<(Name, Name)>,
) -> Result<StatusCode, Problem> {
    caller.require(&app, &name, Role::DataScientist)?;
    app.change(move |state| {
        let workspace = workspace(state, &name)?;
        find(workspace, &flow)?;
        let mut changes = Vec::new();
        let session = workspace.session_of.get(&flow);
        if let Some(session) = session.and_then(|id| workspace.sessions.get(id)) {
            if session.state.is_live() {
                return Err(Problem::new(
                    Kind::Conflict,
                    format!(
                        "flow '{flow}' has session {} of {}, which is {}; stop it first",
                        session.id,
                        session.user,
                        session.state.as_str()
                    ),
                ));
            }
            changes.push(Change::DeleteSession {
                workspace: name.clone(),
                session: session.id.clone(),
            });
        }
        changes.push(Change::DeleteFlow {
            workspace: name,
            flow,
        });
        Ok((changes, ()))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The workspace, for somebody who has a role in it.
pub(crate) fn workspace<'a>(
    state: &'a flowcell_session::State,
    name: &Name,
) -> Result<&'a Workspace, Problem> {
    let found = state.workspaces.get(name);
    found.ok_or_else(|| Problem::not_found("workspace", name.as_str()))
}

pub(crate) fn find<'a>(workspace: &'a Workspace, flow: &Name) -> Result<&'a Flow, Problem> {
    let found = workspace.flows.get(flow);
    found.ok_or_else(|| Problem::not_found("flow", flow.as_str()))
}

pub(crate) fn room_for_a_flow(workspace: &Workspace) -> Result<(), Problem> {
    if workspace.flows.len() < MAX_FLOWS {
        return Ok(());
    }
    Err(Refusal::TooManyFlows(MAX_FLOWS).into())
}
