//! Users and their API keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_session::{Change, Key, Name, Role, User, UserName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Page, PageParams};
use super::workspaces::keep_an_owner;
use crate::app::App;
use crate::auth::{Caller, NewKey};
use crate::extract::{At, Body, Creation, Params};
use crate::problem::{Kind, Problem};

/// Keys that a user may have.
const MAX_KEYS: usize = 100;
/// Longest description of a key, in characters.
const MAX_DESCRIPTION: usize = 200;

/// A user.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UserView {
    /// The name.
    #[schema(value_type = String)]
    pub name: UserName,
    /// Whether the user administers the host.
    pub admin: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
}

impl From<&User> for UserView {
    fn from(user: &User) -> Self {
        Self {
            name: user.name.clone(),
            admin: user.admin,
            created: user.created,
        }
    }
}

/// Who asks, and what they may do where.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// The name.
    #[schema(value_type = String)]
    pub name: UserName,
    /// Whether the user administers the host.
    pub admin: bool,
    /// The user's roles.
    pub roles: Vec<MyRole>,
}

/// A role of the caller's.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MyRole {
    /// The workspace.
    #[schema(value_type = String)]
    pub workspace: Name,
    /// The role there.
    #[schema(value_type = String, example = "owner")]
    pub role: Role,
}

/// A new user.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// The name.
    #[schema(value_type = String)]
    pub name: UserName,
    /// Whether the user shall administer the host.
    #[serde(default)]
    pub admin: bool,
}

/// An API key, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// The public part.
    pub id: String,
    /// What it is for.
    pub description: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// From when on it is refused.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// The key itself; only in the answer to its creation, and not when that is sent again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
}

impl From<&Key> for KeyView {
    fn from(key: &Key) -> Self {
        Self {
            id: key.id.clone(),
            description: key.description.clone(),
            created: key.created,
            expires: key.expires,
            key: None,
        }
    }
}

/// A new API key.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateKey {
    /// What it is for; at most 200 characters.
    #[schema(max_length = 200)]
    pub description: String,
    /// After how many days it is refused; never, if absent.
    #[schema(minimum = 1, maximum = 3650)]
    pub expires_in_days: Option<u32>,
}

/// Tells who you are.
#[utoipa::path(get, path = "/v1/me", tag = "users", responses((status = 200, body = Me)))]
pub async fn me(State(app): State<Arc<App>>, caller: Caller) -> Json<Me> {
    let state = app.ledger().state();
    let roles = state.workspaces.values().filter_map(|workspace| {
        let role = workspace.roles.get(&caller.user)?;
        Some(MyRole {
            workspace: workspace.record.name.clone(),
            role: *role,
        })
    });
    Json(Me {
        roles: roles.collect(),
        name: caller.user,
        admin: caller.admin,
    })
}

/// Lists the users. Administrators only.
#[utoipa::path(get, path = "/v1/users", tag = "users", params(PageParams), responses((status = 200, body = Page<UserView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<UserView>>, Problem> {
    caller.require_admin()?;
    let state = app.ledger().state();
    page.of(&state.users, |_, user| Some(user.into())).map(Json)
}

/// Makes a user. Administrators only.
#[utoipa::path(post, path = "/v1/users", tag = "users", request_body = CreateUser,
    responses((status = 201, body = UserView), (status = 409, body = Problem)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body<CreateUser>,
) -> Result<Response, Response> {
    caller
        .require_admin()
        .map_err(IntoResponse::into_response)?;
    let creation = Creation::begin(&app, &caller, &headers, "POST /v1/users", &body.bytes).await?;
    let user = User {
        name: body.value.name,
        admin: body.value.admin,
        created: Timestamp::now(),
    };
    let view = UserView::from(&user);
    let location = format!("/v1/users/{}", user.name);
    let answered = creation.answered(StatusCode::CREATED, &location, &view);
    app.change(move |state| {
        if state.users.contains_key(&user.name) {
            return Err(Problem::new(
                Kind::Conflict,
                format!("there is a user {} already", user.name),
            ));
        }
        let changes = [Change::PutUser(user)].into_iter().chain(answered);
        // Kept until it is stored: the request cannot be begun again before.
        Ok((changes.collect(), creation))
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

/// Shows a user. Administrators, and the user.
#[utoipa::path(get, path = "/v1/users/{user}", tag = "users", params(("user" = String, Path)),
    responses((status = 200, body = UserView), (status = 404, body = Problem)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(user): At<UserName>,
) -> Result<Json<UserView>, Problem> {
    self_or_admin(&caller, &user)?;
    let state = app.ledger().state();
    let found = state.users.get(&user);
    found
        .map(|user| Json(user.into()))
        .ok_or_else(|| Problem::not_found("user", user.as_str()))
}

/// Deletes a user, with all keys and roles. Sessions and computes stay until they are idle. Administrators only. The
/// only owner of a workspace cannot be deleted.
#[utoipa::path(delete, path = "/v1/users/{user}", tag = "users", params(("user" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(user): At<UserName>,
) -> Result<StatusCode, Problem> {
    caller.require_admin()?;
    app.change(move |state| {
        let found = state
            .users
            .get(&user)
            .ok_or_else(|| Problem::not_found("user", user.as_str()))?;
        let others = state
            .users
            .values()
            .any(|one| one.admin && one.name != user);
        if found.admin && !others {
            return Err(Problem::new(
                Kind::Conflict,
                format!(
                    "user {user} is the only one who administers this host; make another one first"
                ),
            ));
        }
        for workspace in state.workspaces.keys() {
            keep_an_owner(state, workspace, &user)?;
        }
        Ok((vec![Change::DeleteUser(user)], ()))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists a user's API keys. Administrators, and the user.
#[utoipa::path(get, path = "/v1/users/{user}/keys", tag = "users", params(("user" = String, Path), PageParams),
    responses((status = 200, body = Page<KeyView>)))]
pub async fn list_keys(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(user): At<UserName>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<KeyView>>, Problem> {
    self_or_admin(&caller, &user)?;
    let state = app.ledger().state();
    let keys = state.keys.values().filter(|key| key.user == user);
    let keys = keys.map(|key| (key.id.clone(), key)).collect();
    page.of(&keys, |_, key| Some((*key).into())).map(Json)
}

/// Makes an API key. Administrators, and the user. Keep the answer: the key is not shown again.
#[utoipa::path(post, path = "/v1/users/{user}/keys", tag = "users", params(("user" = String, Path)),
    request_body = CreateKey,
    responses((status = 201, body = KeyView), (status = 404, body = Problem)))]
pub async fn create_key(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(user): At<UserName>,
    headers: HeaderMap,
    body: Body<CreateKey>,
) -> Result<Response, Response> {
    let refuse = |problem: Problem| problem.into_response();
    self_or_admin(&caller, &user).map_err(refuse)?;
    let CreateKey {
        description,
        expires_in_days,
    } = body.value;
    if description.chars().count() > MAX_DESCRIPTION {
        return Err(refuse(Problem::new(
            Kind::Invalid,
            format!("description: it has more than {MAX_DESCRIPTION} characters"),
        )));
    }
    let now = Timestamp::now();
    let expires = match expires_in_days {
        None => None,
        Some(days @ 1..=3650) => Some(now + jiff::SignedDuration::from_hours(i64::from(days) * 24)),
        Some(_) => {
            return Err(refuse(Problem::new(
                Kind::Invalid,
                "expires_in_days: it is not between 1 and 3650",
            )));
        }
    };
    let location = format!("/v1/users/{user}/keys");
    let what = format!("POST {location}");
    let creation = Creation::begin(&app, &caller, &headers, &what, &body.bytes).await?;
    let key = NewKey::make(&user, description, now, expires);
    let mut view = KeyView::from(&key.record);
    let location = format!("{location}/{}", key.record.id);
    // Without the secret, which is kept nowhere.
    let answered = creation.answered(StatusCode::CREATED, &location, &view);
    app.change(move |state| {
        if !state.users.contains_key(&user) {
            return Err(Problem::not_found("user", user.as_str()));
        }
        if state.keys.values().filter(|key| key.user == user).count() >= MAX_KEYS {
            return Err(Problem::new(
                Kind::Conflict,
                format!("user {user} has {MAX_KEYS} keys, which is the most; revoke some"),
            ));
        }
        let changes = [Change::PutKey(key.record)].into_iter().chain(answered);
        // Kept until it is stored: the request cannot be begun again before.
        Ok((changes.collect(), (key.text, creation)))
    })
    .await
    .map(|(text, _)| {
        view.key = Some(text);
        (
            StatusCode::CREATED,
            [(header::LOCATION, location)],
            Json(view),
        )
            .into_response()
    })
    .map_err(refuse)
}

/// Revokes an API key. Administrators, and the user.
#[utoipa::path(delete, path = "/v1/users/{user}/keys/{key}", tag = "users",
    params(("user" = String, Path), ("key" = String, Path, description = "The key's public part")),
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn revoke_key(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((user, key)): At<(UserName, String)>,
) -> Result<StatusCode, Problem> {
    self_or_admin(&caller, &user)?;
    app.change(move |state| {
        let found = state.keys.get(&key).filter(|found| found.user == user);
        if found.is_none() {
            return Err(Problem::not_found("key", &key));
        }
        Ok((vec![Change::DeleteKey(key)], ()))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn self_or_admin(caller: &Caller, user: &UserName) -> Result<(), Problem> {
    if caller.user == *user {
        Ok(())
    } else {
        caller.require_admin()
    }
}
