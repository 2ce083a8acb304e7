//! Credentials of identities, and one's own. What makes them comes in and never goes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use flowcell_session::{
    Change, CredentialKey, CredentialKind, CredentialSecret, Holder, InvalidCredential, Name, Role,
    SignIn, StoredCredential, UserName, credential_key, delete_credential, put_credential,
};
use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::flows::workspace;
use super::page::{Page, PageParams};
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Body, Params};
use crate::problem::Problem;

/// What stands for a secret.
const HIDDEN: &str = "******";

/// A credential, without what makes it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CredentialView {
    /// `index`, `registry` or `connection`.
    #[schema(value_type = String, example = "index")]
    pub kind: CredentialKind,
    /// The only host that it is sent to.
    pub host: String,
    /// Always `******`.
    pub value: String,
    /// Who has set it.
    #[schema(value_type = String)]
    pub set_by: UserName,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub set: Timestamp,
}

/// What makes a credential: a token; a user's name and password; or, for a connection, where its tokens come from: a client's
/// number and secret in a tenant of Microsoft Entra ID, or of another authority that speaks OAuth 2.0 as it does.
#[derive(Default, Serialize, ToSchema)]
pub struct PutCredential {
    /// A token: a registry's or an endpoint's bearer token, or what `{private}` in the address of an index stands for.
    #[schema(max_length = 16384)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A user's name.
    #[schema(max_length = 1024)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password.
    #[schema(max_length = 16384)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The client's tenant, by name or number.
    #[schema(max_length = 16384)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The client's number.
    #[schema(max_length = 16384)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The client's secret.
    #[schema(max_length = 16384)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
    /// The authority's address; `https://login.microsoftonline.com`, if absent.
    #[schema(max_length = 16384)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// What the token is for; what the connection's type needs at Azure, if absent.
    #[schema(max_length = 16384)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl PutCredential {
    fn secret(self) -> Result<CredentialSecret, InvalidCredential> {
        let is_sign_in = [
            &self.tenant,
            &self.client_id,
            &self.client_secret,
            &self.authority,
            &self.scope,
        ];
        if is_sign_in.iter().all(|part| part.is_none()) {
            return CredentialSecret::new(self.token, self.username, self.password);
        }
        let others = [&self.token, &self.username, &self.password];
        match (self.tenant, self.client_id, self.client_secret) {
            (Some(tenant), Some(client_id), Some(client_secret))
                if others.iter().all(|part| part.is_none()) =>
            {
                CredentialSecret::sign_in(SignIn {
                    tenant,
                    client_id,
                    client_secret,
                    authority: self.authority,
                    scope: self.scope,
                })
            }
            _ => Err(InvalidCredential::Form),
        }
    }
}

impl std::fmt::Debug for PutCredential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(HIDDEN)
    }
}

/// Read by hand, because errors must not show what was there.
impl<'de> Deserialize<'de> for PutCredential {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const SHAPE: &str = "an object with token, with username and password, or with tenant, client_id and client_secret, is expected";
        let Value::Object(members) = Value::deserialize(deserializer)? else {
            return Err(D::Error::custom(SHAPE));
        };
        let mut read = Self::default();
        for (name, value) in members {
            let (name, member) = match name.as_str() {
                "token" => ("token", &mut read.token),
                "username" => ("username", &mut read.username),
                "password" => ("password", &mut read.password),
                "tenant" => ("tenant", &mut read.tenant),
                "client_id" => ("client_id", &mut read.client_id),
                "client_secret" => ("client_secret", &mut read.client_secret),
                "authority" => ("authority", &mut read.authority),
                "scope" => ("scope", &mut read.scope),
                _ => return Err(D::Error::custom(SHAPE)),
            };
            *member = match value {
                Value::String(text) => Some(text),
                Value::Null => None,
                _ => return Err(D::Error::custom(format!("{name} is no text"))),
            };
        }
        Ok(read)
    }
}

/// Lists the credentials that an identity holds: kinds and hosts only.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/identities/{identity}/credentials", tag = "credentials",
    params(("workspace" = String, Path), ("identity" = String, Path), PageParams),
    responses((status = 200, body = Page<CredentialView>), (status = 404, body = Problem)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, identity)): At<(Name, Name)>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<CredentialView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    held(&app, &name, &Holder::Identity(identity), &page)
}

/// Sets a credential of an identity, in place of any other for this kind and host. It is kept sealed, shown to nobody, and
/// sent to this host only: `host`, or `host:port` unless the port is 443. Owners only.
#[utoipa::path(put, path = "/v1/workspaces/{workspace}/identities/{identity}/credentials/{kind}/{host}", tag = "credentials",
    params(("workspace" = String, Path), ("identity" = String, Path),
        ("kind" = String, Path, description = "`index`, `registry` or `connection`"), ("host" = String, Path)),
    request_body = PutCredential,
    responses((status = 200, body = CredentialView), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn put(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, identity, kind, host)): At<(Name, Name, String, String)>,
    body: Body<PutCredential>,
) -> Result<Json<CredentialView>, Problem> {
    caller.require(&app, &name, Role::Owner)?;
    let key = credential_key(Holder::Identity(identity), &kind, &host)?;
    set(&app, name, key, body.value, caller.user).await
}

/// Deletes a credential of an identity. Owners only.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}/identities/{identity}/credentials/{kind}/{host}", tag = "credentials",
    params(("workspace" = String, Path), ("identity" = String, Path),
        ("kind" = String, Path, description = "`index`, `registry` or `connection`"), ("host" = String, Path)),
    responses((status = 204), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, identity, kind, host)): At<(Name, Name, String, String)>,
) -> Result<StatusCode, Problem> {
    caller.require(&app, &name, Role::Owner)?;
    let key = credential_key(Holder::Identity(identity), &kind, &host)?;
    remove(&app, name, key).await
}

/// Lists your own credentials in the workspace, which your sessions with `user_identity` have: kinds and hosts only.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/me/credentials", tag = "credentials",
    params(("workspace" = String, Path), PageParams), responses((status = 200, body = Page<CredentialView>)))]
pub async fn list_own(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<CredentialView>>, Problem> {
    caller.require(&app, &name, Role::DataScientist)?;
    held(&app, &name, &Holder::User(caller.user), &page)
}

/// Sets a credential of your own, in place of any other for this kind and host.
#[utoipa::path(put, path = "/v1/workspaces/{workspace}/me/credentials/{kind}/{host}", tag = "credentials",
    params(("workspace" = String, Path), ("kind" = String, Path, description = "`index`, `registry` or `connection`"),
        ("host" = String, Path)),
    request_body = PutCredential,
    responses((status = 200, body = CredentialView), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn put_own(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, kind, host)): At<(Name, String, String)>,
    body: Body<PutCredential>,
) -> Result<Json<CredentialView>, Problem> {
    caller.require(&app, &name, Role::DataScientist)?;
    let key = credential_key(Holder::User(caller.user.clone()), &kind, &host)?;
    set(&app, name, key, body.value, caller.user).await
}

/// Deletes a credential of your own.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}/me/credentials/{kind}/{host}", tag = "credentials",
    params(("workspace" = String, Path), ("kind" = String, Path, description = "`index`, `registry` or `connection`"),
        ("host" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn delete_own(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, kind, host)): At<(Name, String, String)>,
) -> Result<StatusCode, Problem> {
    caller.require(&app, &name, Role::DataScientist)?;
    let key = credential_key(Holder::User(caller.user), &kind, &host)?;
    remove(&app, name, key).await
}

fn held(
    app: &App,
    name: &Name,
    holder: &Holder,
    page: &PageParams,
) -> Result<Json<Page<CredentialView>>, Problem> {
    let state = app.ledger().state();
    let workspace = workspace(&state, name)?;
    if let Holder::Identity(identity) = holder {
        workspace.identity(identity)?;
    }
    let held = workspace.credentials_of(holder);
    let held: BTreeMap<String, &StoredCredential> = held
        .map(|one| (format!("{}/{}", one.kind.as_str(), one.host), one))
        .collect();
    page.of(&held, |_, one| Some(view(one))).map(Json)
}

async fn set(
    app: &Arc<App>,
    name: Name,
    key: CredentialKey,
    body: PutCredential,
    user: UserName,
) -> Result<Json<CredentialView>, Problem> {
    let secret = body.secret()?;
    if !secret.fits(key.1) {
        return Err(InvalidCredential::Form.into());
    }
    let secrets = app.sessions().secrets().clone();
    let view = app.change(move |state| {
        let by = (&user, Timestamp::now());
        let stored = put_credential(state, &secrets, &name, key, &secret, by)?;
        let view = view(&stored);
        Ok((vec![Change::PutCredential(stored)], view))
    });
    view.await.map(Json)
}

async fn remove(app: &Arc<App>, name: Name, key: CredentialKey) -> Result<StatusCode, Problem> {
    app.change(move |state| Ok((vec![delete_credential(state, &name, key)?], ())))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(stored: &StoredCredential) -> CredentialView {
    CredentialView {
        kind: stored.kind,
        host: stored.host.to_string(),
        value: HIDDEN.to_owned(),
        set_by: stored.set_by.clone(),
        set: stored.set,
    }
}
