//! Connections of a workspace. Their secrets come in and never go out.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_connection::{ConnectionError, Fields};
use flowcell_session::{
    Change, Name, Role, StoredConnection, UserName, Workspace, delete_connection, put_connection,
};
use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::flows::workspace;
use super::page::{Page, PageParams};
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Body, Params, entity_tag, if_match};
use crate::problem::{Kind, Problem};

/// A connection. Beside these, its fields are those of its type, as in promptflow's YAML files: `api_base`, `api_version`, …;
/// of a custom connection, `configs` and `secrets`. Secrets are `******`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConnectionView {
    /// The name.
    pub name: String,
    /// The type, such as `azure_open_ai`, `open_ai` or `custom`.
    #[serde(rename = "type")]
    #[schema(example = "open_ai")]
    pub kind: String,
    /// The other fields.
    #[serde(flatten)]
    #[schema(value_type = BTreeMap<String, Value>)]
    pub fields: Map<String, Value>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_date: Timestamp,
    /// When it was changed last.
    #[schema(value_type = String, format = DateTime)]
    pub last_modified_date: Timestamp,
    /// Who has changed it last.
    #[schema(value_type = String)]
    pub set_by: UserName,
    /// Counts its changes; also the entity tag.
    pub revision: u64,
}

impl From<&StoredConnection> for ConnectionView {
    fn from(stored: &StoredConnection) -> Self {
        let mut fields = stored.closed().shown();
        fields.remove("name");
        fields.remove("type");
        Self {
            name: stored.name.clone(),
            kind: stored.kind.as_str().to_owned(),
            fields,
            created_date: stored.created,
            last_modified_date: stored.modified,
            set_by: stored.set_by.clone(),
            revision: stored.revision,
        }
    }
}

/// A connection as promptflow's YAML files have it: `type`, and the fields of that type. A secret that is `******` stays what
/// it was, unless the connection's address changes. `${env:NAME}` is for whoever sends it to replace.
#[derive(Debug)]
pub struct ConnectionBody(Fields);

/// Read by hand, because errors must not show what was there.
impl<'de> Deserialize<'de> for ConnectionBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Object(map) => Ok(Self(map.into())),
            _ => Err(D::Error::custom(
                "an object with type and fields is expected",
            )),
        }
    }
}

impl ConnectionBody {
    /// The fields, for the connection of this name.
    fn fields(self, name: &str) -> Result<Fields, Problem> {
        let mut fields = self.0;
        if fields.name().is_some_and(|given| given != name) {
            return Err(Problem::new(
                Kind::Invalid,
                "name: it is another one than in the path, and a connection keeps its name",
            )
            .with("field", "name"));
        }
        // A variable of this host's environment is nobody's but the host's.
        if fields.has_references() {
            return Err(Problem::new(
                Kind::Invalid,
                "${env:NAME} is replaced by whoever sends a connection; `flowcell connection create` does so",
            ));
        }
        fields.set_name(name);
        Ok(fields)
    }
}

/// Lists the connections, secrets as `******`.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/connections", tag = "connections",
    params(("workspace" = String, Path), PageParams), responses((status = 200, body = Page<ConnectionView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(name): At<Name>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<ConnectionView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let state = app.ledger().state();
    let workspace = workspace(&state, &name)?;
    page.of(&workspace.connections, |_, one| Some(one.into()))
        .map(Json)
}

/// Shows a connection, secrets as `******`.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/connections/{connection}", tag = "connections",
    params(("workspace" = String, Path), ("connection" = String, Path)),
    responses((status = 200, body = ConnectionView), (status = 404, body = Problem)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, connection)): At<(Name, String)>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let state = app.ledger().state();
    let workspace = workspace(&state, &name)?;
    Ok(shown(
        StatusCode::OK,
        workspace.connection(&connection)?.into(),
    ))
}

/// Makes a connection, or puts it in place of the one of its name. Owners only.
#[utoipa::path(put, path = "/v1/workspaces/{workspace}/connections/{connection}", tag = "connections",
    params(("workspace" = String, Path), ("connection" = String, Path)), 
    request_body(content = BTreeMap<String, Value>, content_type = "application/json",
        description = "The connection as promptflow's YAML files have it: `type`, and the fields of that type. A secret that is `******` stays what it was, unless the connection's address changes"),
    responses((status = 200, body = ConnectionView), (status = 201, body = ConnectionView), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 422, body = Problem)))]
pub async fn put(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, connection)): At<(Name, String)>,
    headers: HeaderMap,
    body: Body<ConnectionBody>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::Owner)?;
    let fields = body.value.fields(&connection)?;
    set(&app, name, connection, &headers, caller.user, move |_| {
        Ok(fields)
    })
    .await
}

/// Changes fields of a connection (RFC 7396: null takes a field away). Owners only.
#[utoipa::path(patch, path = "/v1/workspaces/{workspace}/connections/{connection}", tag = "connections",
    params(("workspace" = String, Path), ("connection" = String, Path)), 
    request_body(content = BTreeMap<String, Value>, content_type = "application/json",
        description = "The connection as promptflow's YAML files have it: `type`, and the fields of that type. A secret that is `******` stays what it was, unless the connection's address changes"),
    responses((status = 200, body = ConnectionView), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 412, body = Problem), (status = 422, body = Problem)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, connection)): At<(Name, String)>,
    headers: HeaderMap,
    body: Body<ConnectionBody>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::Owner)?;
    let changes = body.value.fields(&connection)?;
    let of = connection.clone();
    let merged = move |workspace: &Workspace| {
        let mut fields = Fields::of(&workspace.connection(&of)?.closed());
        fields.merge(changes);
        Ok(fields)
    };
    set(&app, name, connection, &headers, caller.user, merged).await
}

/// Deletes a connection. Owners only.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}/connections/{connection}", tag = "connections",
    params(("workspace" = String, Path), ("connection" = String, Path)),
    responses((status = 204), (status = 403, body = Problem), (status = 404, body = Problem), (status = 412, body = Problem)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, connection)): At<(Name, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.require(&app, &name, Role::Owner)?;
    let seen = if_match(&headers)?;
    app.change(move |state| {
        let change = delete_connection(state, &name, &connection, seen)?;
        Ok((vec![change], ()))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set(
    app: &Arc<App>,
    name: Name,
    connection: String,
    headers: &HeaderMap,
    user: UserName,
    fields: impl FnOnce(&Workspace) -> Result<Fields, Problem> + Send + 'static,
) -> Result<Response, Problem> {
    let seen = if_match(headers)?;
    let secrets = app.sessions().secrets().clone();
    let set = app.change(move |state| {
        let fields = fields(workspace(state, &name)?)?;
        fields.check_known()?;
        let wanted = fields.connection()?;
        if wanted.name() != connection {
            return Err(ConnectionError::Name.into());
        }
        let by = (&user, Timestamp::now());
        let stored = put_connection(state, &secrets, &name, wanted, seen, by)?;
        let view = ConnectionView::from(&stored);
        Ok((vec![Change::PutConnection(stored)], view))
    });
    let view = set.await?;
    let status = match view.revision {
        1 => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    Ok(shown(status, view))
}

fn shown(status: StatusCode, view: ConnectionView) -> Response {
    let headers = [(header::ETAG, entity_tag(view.revision))];
    (status, headers, Json(view)).into_response()
}
