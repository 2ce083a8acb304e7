//! Identities of a workspace, and who may assign them to sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_session::{
    Change, Holder, IdentityKind, Name, Role, UserName, Workspace, WorkspaceIdentity,
    create_identity, delete_identity,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::flows::workspace;
use super::page::{Page, PageParams};
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Body, Creation, Params};
use crate::problem::Problem;

/// An identity of a workspace.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ManagedIdentityView {
    /// The name; `system` is the workspace's own.
    #[schema(value_type = String)]
    pub name: Name,
    /// `system_assigned` or `user_assigned`.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "user_assigned")]
    pub kind: IdentityKind,
    /// What sessions name it by.
    pub client_id: String,
    /// Credentials that it holds.
    pub credentials: usize,
    /// Whether you may assign it to your sessions.
    pub assign: bool,
    /// Who has made it.
    #[schema(value_type = String)]
    pub created_by: UserName,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
}

/// A new identity.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateIdentity {
    /// The name; without it, the workspace's own identity is made, should it have been deleted.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

/// Somebody who may assign an identity.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GrantView {
    /// The user.
    #[schema(value_type = String)]
    pub user: UserName,
}

/// Lists the identities.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/identities", tag = "identities",
    params(("workspace" = String, Path), PageParams), responses((status = 200, body = Page<ManagedIdentityView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<ManagedIdentityView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let state = app.ledger().state();
    let workspace = workspace(&state, &name)?;
    page.of(&workspace.identities, |_, identity| {
        Some(view(workspace, identity, &caller.user))
    })
    .map(Json)
}

/// Makes an identity. It holds nothing, and only owners may assign it. Owners only.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/identities", tag = "identities",
    params(("workspace" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes it safe to send the request again")),
    request_body = CreateIdentity,
    responses((status = 201, body = ManagedIdentityView), (status = 403, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    headers: HeaderMap,
    body: Body<CreateIdentity>,
) -> Result<Response, Response> {
    let refuse = |problem: Problem| problem.into_response();
    caller.require(&app, &name, Role::Owner).map_err(refuse)?;
    let path = format!("/v1/workspaces/{name}/identities");
    let what = format!("POST {path}");
    let creation = Creation::begin(&app, &caller, &headers, &what, &body.bytes).await?;
    let (location, view) = app
        .change(move |state| {
            let by = &caller.user;
            let identity = create_identity(state, &name, body.value.name, by, Timestamp::now())?;
            let view = view(workspace(state, &name)?, &identity, by);
            let location = format!("{path}/{}", identity.name);
            let answered = creation.answered(StatusCode::CREATED, &location, &view);
            let changes = std::iter::once(Change::PutIdentity(identity)).chain(answered);
            // Kept until it is stored: the request cannot be begun again before.
            Ok((changes.collect(), (location, view, creation)))
        })
        .await
        .map(|(location, view, _)| (location, view))
        .map_err(refuse)?;
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(view),
    )
        .into_response())
}

/// Shows an identity.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/identities/{identity}", tag = "identities",
    params(("workspace" = String, Path), ("identity" = String, Path)),
    responses((status = 200, body = ManagedIdentityView), (status = 404, body = Problem)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, identity)): At<(Name, Name)>,
) -> Result<Json<ManagedIdentityView>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let state = app.ledger().state();
    let workspace = workspace(&state, &name)?;
    let identity = workspace.identity(&identity)?;
    Ok(Json(view(workspace, identity, &caller.user)))
}

/// Deletes an identity with its credentials and grants. Sessions that have it run on with what they have; they cannot
/// be reset or install packages before they get another identity. Owners only.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}/identities/{identity}", tag = "identities",
    params(("workspace" = String, Path), ("identity" = String, Path)),
    responses((status = 204), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, identity)): At<(Name, Name)>,
) -> Result<StatusCode, Problem> {
    caller.require(&app, &name, Role::Owner)?;
    app.change(move |state| Ok((vec![delete_identity(state, &name, &identity)?], ())))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists who may assign an identity, beside the owners of the workspace.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/identities/{identity}/grants", tag = "identities",
    params(("workspace" = String, Path), ("identity" = String, Path), PageParams),
    responses((status = 200, body = Page<GrantView>), (status = 404, body = Problem)))]
pub async fn grants(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, identity)): At<(Name, Name)>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<GrantView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let state = app.ledger().state();
    let workspace = workspace(&state, &name)?;
    workspace.identity(&identity)?;
    let granted = workspace.grants.iter().filter(|(one, _)| *one == identity);
    let users: BTreeMap<UserName, ()> = granted.map(|(_, user)| (user.clone(), ())).collect();
    page.of(&users, |user, ()| Some(GrantView { user: user.clone() }))
        .map(Json)
}

/// Lets a user of the workspace assign an identity to their sessions. It holds at once. Owners only.
#[utoipa::path(put, path = "/v1/workspaces/{workspace}/identities/{identity}/grants/{user}", tag = "identities",
    params(("workspace" = String, Path), ("identity" = String, Path), ("user" = String, Path)),
    responses((status = 200, body = GrantView), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn grant(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, identity, user)): At<(Name, Name, UserName)>,
) -> Result<Json<GrantView>, Problem> {
    caller.require(&app, &name, Role::Owner)?;
    let view = GrantView { user: user.clone() };
    app.change(move |state| {
        let change = flowcell_session::grant(state, &name, &identity, &user)?;
        Ok((vec![change], ()))
    })
    .await?;
    Ok(Json(view))
}

/// Lets a user assign an identity no more. Sessions that have it run on with what they have. Owners only.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}/identities/{identity}/grants/{user}", tag = "identities",
    params(("workspace" = String, Path), ("identity" = String, Path), ("user" = String, Path)),
    responses((status = 204), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn withdraw(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, identity, user)): At<(Name, Name, UserName)>,
) -> Result<StatusCode, Problem> {
    caller.require(&app, &name, Role::Owner)?;
    app.change(move |state| {
        let change = flowcell_session::withdraw(state, &name, &identity, &user)?;
        Ok((vec![change], ()))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(
    workspace: &Workspace,
    identity: &WorkspaceIdentity,
    user: &UserName,
) -> ManagedIdentityView {
    let holder = Holder::Identity(identity.name.clone());
    ManagedIdentityView {
        name: identity.name.clone(),
        kind: identity.kind,
        client_id: identity.client_id.clone(),
        credentials: workspace.credentials_of(&holder).count(),
        assign: workspace.may_assign(user, &identity.name),
        created_by: identity.created_by.clone(),
        created: identity.created,
    }
}
