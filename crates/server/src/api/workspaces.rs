//! Workspaces, and roles in them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_egress::Rule;
use flowcell_session::{
    Change, Name, Quota, Role, State as Stored, Used, UserName, Workspace, WorkspaceRecord,
    own_identity, set_identities,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Page, PageParams};
use super::sessions::NetworkRule;
use super::workspace_identity::{IdentityUpdate, WorkspaceIdentityView};
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Body, Creation, Params};
use crate::problem::{Kind, Problem};

/// A workspace.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceView {
    /// The name.
    #[schema(value_type = String)]
    pub name: Name,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// Its identities.
    pub identity: WorkspaceIdentityView,
    /// Whether traces hold what models and tools are asked and what they answer.
    pub trace_content: bool,
    /// What the tools of its sessions may ask of the network, of what the host allows.
    #[schema(value_type = NetworkRule)]
    #[serde(default)]
    pub network: Rule,
}

/// What changes of a workspace; what is absent stays.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateWorkspace {
    /// The identities that it shall have, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityUpdate>,
    /// Whether traces hold what models and tools are asked and what they answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_content: Option<bool>,
    /// What the tools of its sessions may ask of the network, in place of all of the present rule; it holds for requests of
    /// the calls that begin from now on.
    #[schema(value_type = Option<NetworkRule>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Rule>,
}

/// A new workspace.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspace {
    /// The name.
    #[schema(value_type = String)]
    pub name: Name,
    /// Its first owner; you, if absent.
    #[schema(value_type = Option<String>)]
    pub owner: Option<UserName>,
}

/// A user's role.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RoleView {
    /// The user.
    #[schema(value_type = String)]
    pub user: UserName,
    /// The role.
    #[schema(value_type = String, example = "data-scientist")]
    pub role: Role,
}

/// A role to be granted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantRole {
    /// `owner`, `data-scientist` or `reader`.
    #[schema(value_type = String, example = "data-scientist")]
    pub role: Role,
}

/// Quotas, and what is used of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaView {
    /// The workspace's.
    pub workspace: Usage,
    /// The caller's in it.
    pub user: Usage,
}

/// A quota, and what is used of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Usage {
    /// The most that there may be.
    #[schema(value_type = Object)]
    pub limit: Quota,
    /// What there is.
    #[schema(value_type = Object)]
    pub used: Used,
}

/// Lists the workspaces in which you have a role; all of them, if you administer the host.
#[utoipa::path(get, path = "/v1/workspaces", tag = "workspaces", params(PageParams),
    responses((status = 200, body = Page<WorkspaceView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<WorkspaceView>>, Problem> {
    let state = app.ledger().state();
    page.of(&state.workspaces, |_, workspace| {
        let is_mine = caller.admin || workspace.roles.contains_key(&caller.user);
        is_mine.then(|| view(workspace))
    })
    .map(Json)
}

/// Makes a workspace. Administrators only.
#[utoipa::path(post, path = "/v1/workspaces", tag = "workspaces", request_body = CreateWorkspace,
    responses((status = 201, body = WorkspaceView), (status = 409, body = Problem)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body<CreateWorkspace>,
) -> Result<Response, Response> {
    caller
        .require_admin()
        .map_err(IntoResponse::into_response)?;
    let creation =
        Creation::begin(&app, &caller, &headers, "POST /v1/workspaces", &body.bytes).await?;
    let record = WorkspaceRecord {
        name: body.value.name,
        created: Timestamp::now(),
        trace_content: false,
        network: Rule::default(),
    };
    let owner = body.value.owner.unwrap_or_else(|| caller.user.clone());
    let location = format!("/v1/workspaces/{}", record.name);
    let changes = vec![
        Change::PutWorkspace(record.clone()),
        own_identity(&record, &caller.user),
        Change::PutRole {
            workspace: record.name.clone(),
            user: owner,
            role: Role::Owner,
        },
    ];
    let view =
        after(&Stored::default(), &changes, &record.name).map_err(IntoResponse::into_response)?;
    let answered = creation.answered(StatusCode::CREATED, &location, &view);
    app.change(move |state| {
        if state.workspaces.contains_key(&record.name) {
            return Err(Problem::new(
                Kind::Conflict,
                format!("there is a workspace '{}' already", record.name),
            ));
        }
        // Kept until it is stored: the request cannot be begun again before.
        Ok((changes.into_iter().chain(answered).collect(), creation))
    })
    .await
    .map_err(IntoResponse::into_response)?;
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(view),
    )
        .into_response())
}

/// Shows a workspace.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}", tag = "workspaces", params(("workspace" = String, Path)),
    responses((status = 200, body = WorkspaceView), (status = 404, body = Problem)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(workspace): At<Name>,
) -> Result<Json<WorkspaceView>, Problem> {
    caller.require(&app, &workspace, Role::Reader)?;
    let state = app.ledger().state();
    let found = state.workspaces.get(&workspace);
    found
        .map(|found| Json(view(found)))
        .ok_or_else(|| Problem::not_found("workspace", workspace.as_str()))
}

/// Changes a workspace: its identities become those that are named, as with `az ml workspace update`, all of them or none.
/// One that would be deleted and holds credentials is refused (409). Owners only.
#[utoipa::path(patch, path = "/v1/workspaces/{workspace}", tag = "workspaces", params(("workspace" = String, Path)),
    request_body = UpdateWorkspace,
    responses((status = 200, body = WorkspaceView), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    body: Body<UpdateWorkspace>,
) -> Result<Json<WorkspaceView>, Problem> {
    caller.require(&app, &name, Role::Owner)?;
    let wanted = body.value.identity.as_ref().map(IdentityUpdate::wanted);
    let wanted = wanted.transpose()?;
    let (trace_content, network) = (body.value.trace_content, body.value.network);
    if let Some(Err(error)) = network.as_ref().map(Rule::check) {
        return Err(Problem::new(Kind::Invalid, format!("network.{error}")));
    }
    let changed = app.change(move |state| {
        let mut changes = match &wanted {
            None => Vec::new(),
            Some(wanted) => set_identities(state, &name, wanted, &caller.user, Timestamp::now())?,
        };
        if (trace_content.is_some() || network.is_some())
            && let Some(workspace) = state.workspaces.get(&name)
        {
            let mut record = workspace.record.clone();
            record.trace_content = trace_content.unwrap_or(record.trace_content);
            record.network = network.unwrap_or(record.network);
            changes.push(Change::PutWorkspace(record));
        }
        let view = after(state, &changes, &name)?;
        Ok((changes, view))
    });
    changed.await.map(Json)
}

/// Deletes a workspace with its flows. Its sessions must be stopped, and its computes deleted. Owners only.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}", tag = "workspaces", params(("workspace" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
) -> Result<StatusCode, Problem> {
    caller.require(&app, &name, Role::Owner)?;
    app.change(move |state| {
        let workspace = state
            .workspaces
            .get(&name)
            .ok_or_else(|| Problem::not_found("workspace", name.as_str()))?;
        if !workspace.on_compute.is_empty() || !workspace.computes.is_empty() {
            return Err(Problem::new(
                Kind::Conflict,
                format!(
                    "workspace '{name}' has {} sessions that are not stopped and {} computes; stop and delete them first",
                    workspace.used.sessions, workspace.used.computes
                ),
            ));
        }
        Ok((vec![Change::DeleteWorkspace(name)], ()))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists who has which role.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/roles", tag = "workspaces",
    params(("workspace" = String, Path), PageParams), responses((status = 200, body = Page<RoleView>)))]
pub async fn roles(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<RoleView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let state = app.ledger().state();
    let workspace = state
        .workspaces
        .get(&name)
        .ok_or_else(|| Problem::not_found("workspace", name.as_str()))?;
    page.of(&workspace.roles, |user, role| {
        Some(RoleView {
            user: user.clone(),
            role: *role,
        })
    })
    .map(Json)
}

/// Grants a role, in place of any other that the user has. It holds at once. Owners only.
#[utoipa::path(put, path = "/v1/workspaces/{workspace}/roles/{user}", tag = "workspaces",
    params(("workspace" = String, Path), ("user" = String, Path)), request_body = GrantRole,
    responses((status = 200, body = RoleView), (status = 403, body = Problem), (status = 409, body = Problem)))]
pub async fn grant(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((workspace, user)): At<(Name, UserName)>,
    body: Body<GrantRole>,
) -> Result<Json<RoleView>, Problem> {
    caller.require(&app, &workspace, Role::Owner)?;
    let role = body.value.role;
    let view = RoleView {
        user: user.clone(),
        role,
    };
    app.change(move |state| {
        if role != Role::Owner {
            keep_an_owner(state, &workspace, &user)?;
        }
        let change = Change::PutRole {
            workspace,
            user,
            role,
        };
        Ok((vec![change], ()))
    })
    .await?;
    Ok(Json(view))
}

/// Withdraws a role. It holds at once. Owners only.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}/roles/{user}", tag = "workspaces",
    params(("workspace" = String, Path), ("user" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn withdraw(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((workspace, user)): At<(Name, UserName)>,
) -> Result<StatusCode, Problem> {
    caller.require(&app, &workspace, Role::Owner)?;
    app.change(move |state| {
        let has_role = state
            .workspaces
            .get(&workspace)
            .is_some_and(|found| found.roles.contains_key(&user));
        if !has_role {
            return Err(Problem::not_found("role of user", user.as_str()));
        }
        keep_an_owner(state, &workspace, &user)?;
        Ok((vec![Change::DeleteRole { workspace, user }], ()))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Shows the quotas, and what is used of them.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/quota", tag = "workspaces", params(("workspace" = String, Path)),
    responses((status = 200, body = QuotaView)))]
pub async fn quota(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
) -> Result<Json<QuotaView>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let quotas = &app.sessions().settings().rules.quotas;
    let state = app.ledger().state();
    let workspace = state
        .workspaces
        .get(&name)
        .ok_or_else(|| Problem::not_found("workspace", name.as_str()))?;
    Ok(Json(QuotaView {
        workspace: Usage {
            limit: quotas.workspace,
            used: Used::of(workspace, None),
        },
        user: Usage {
            limit: quotas.user,
            used: Used::of(workspace, Some(&caller.user)),
        },
    }))
}

fn view(workspace: &Workspace) -> WorkspaceView {
    WorkspaceView {
        name: workspace.record.name.clone(),
        created: workspace.record.created,
        identity: workspace.into(),
        trace_content: workspace.record.trace_content,
        network: workspace.record.network.clone(),
    }
}

/// The workspace as changes leave it.
fn after(state: &Stored, changes: &[Change], name: &Name) -> Result<WorkspaceView, Problem> {
    let workspaces = state.workspaces.get_key_value(name);
    let workspaces = workspaces.map(|(name, workspace)| (name.clone(), workspace.clone()));
    let mut state = Stored {
        workspaces: workspaces.into_iter().collect(),
        ..Stored::default()
    };
    changes.iter().for_each(|change| state.apply(change));
    let found = state.workspaces.get(name).map(view);
    found.ok_or_else(|| Problem::not_found("workspace", name.as_str()))
}

/// Asserts that the workspace has another owner than this user.
pub(crate) fn keep_an_owner(
    state: &flowcell_session::State,
    workspace: &Name,
    user: &UserName,
) -> Result<(), Problem> {
    let roles = state.workspaces.get(workspace).map(|found| &found.roles);
    let mut owners = roles
        .into_iter()
        .flatten()
        .filter(|(_, role)| **role == Role::Owner)
        .map(|(owner, _)| owner);
    match (owners.next(), owners.next()) {
        (Some(only), None) if only == user => Err(Problem::new(
            Kind::Conflict,
            format!(
                "user {user} is the only owner of workspace '{workspace}'; make another one first"
            ),
        )),
        _ => Ok(()),
    }
}
