//! Calls into a session.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_session::{ActiveCall, Call, Name, Role};
use flowcell_worker::{Run, Setup, Values};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::page::Page;
use super::sessions::{find, own_or_owner, usable};
use super::traces;
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Body};
use crate::problem::{Kind, Problem};

/// Environment variables that a call may bring along.
const MAX_VARIABLES: usize = 100;

/// A call.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CallRequest {
    /// The flow's inputs; with `node`, that node's: by name, or by what it refers to (`node.output`, `inputs.name`).
    #[schema(value_type = Object)]
    pub inputs: Map<String, Value>,
    /// Call this node only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Use this variant: `${node.variant}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What the class that is a flex flow's entry is made with.
    #[schema(value_type = Object)]
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub init: Map<String, Value>,
    /// Environment variables over those of the flow.
    #[schema(value_type = Object)]
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub environment_variables: IndexMap<String, String>,
    /// An identifier for the call, to cancel it by; the host makes one, if absent.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Name>,
}

/// What came of a call. Values are as the flow made them; NaN and Infinity, which JSON does not have, are null.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CallAnswer {
    /// `Completed` or `Failed`.
    pub status: String,
    /// The flow's outputs; with `node`, what the node returned.
    #[schema(value_type = Value)]
    pub outputs: Value,
    /// Why it failed: `class`, `message`, `code`, and `node`, `traceback`, `help` where they are known.
    #[schema(value_type = Option<Object>)]
    pub error: Option<Value>,
    /// Metrics that aggregation nodes recorded.
    #[schema(value_type = Object)]
    pub metrics: Value,
    /// The nodes that were reached, with what they printed.
    #[schema(value_type = Vec<Object>)]
    pub nodes: Value,
}

/// A call under way.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ActiveCallView {
    /// Its identifier.
    pub id: String,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
}

impl From<ActiveCall> for ActiveCallView {
    fn from(call: ActiveCall) -> Self {
        Self {
            id: call.id,
            started: call.started,
        }
    }
}

/// Calls the flow once, or one of its nodes. A flow that fails is answered with 200 too, and `status` says it.
///
/// Going away ends the call: its guests stop at once.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/calls", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path)), request_body = CallRequest,
    responses((status = 200, body = CallAnswer), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 429, body = Problem),
        (status = 503, body = Problem)))]
pub async fn call(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    headers: HeaderMap,
    body: Body<CallRequest>,
) -> Result<Response, Problem> {
    let key = usable(&app, &caller, &name, &id)?;
    let CallRequest {
        inputs,
        node,
        variant,
        init,
        environment_variables,
        id,
    } = body.value;
    if environment_variables.len() > MAX_VARIABLES {
        return Err(Problem::new(
            Kind::Invalid,
            format!("environment_variables: there are more than {MAX_VARIABLES}"),
        ));
    }
    let setup = Setup {
        variant,
        environment_variables: environment_variables.into_iter().collect(),
        init: (!init.is_empty()).then(|| Values::from(&init)),
    };
    let started = std::time::Instant::now();
    let run = Run::Call {
        inputs: Values::from(&inputs),
        node,
    };
    let call = Call {
        id: id.map(String::from),
        setup,
        parent: traces::parent(&headers),
        ..Call::of(run)
    };
    let answer = app.sessions().call(&key, call).await?;
    app.metrics()
        .call(answer.status.as_str(), started.elapsed());
    let headers = [(header::CONTENT_TYPE, "application/json")];
    Ok((headers, answer.body?).into_response())
}

/// Lists the calls that are under way.
#[utoipa::path(get, operation_id = "list_calls", path = "/v1/workspaces/{workspace}/sessions/{session}/calls", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Page<ActiveCallView>), (status = 404, body = Problem)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Json<Page<ActiveCallView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    find(&app, &name, &id)?;
    // All at once: the limit on a session's calls is far below a page's.
    let calls = app.sessions().calls(&(name, id));
    Ok(Json(Page {
        items: calls.into_iter().map(ActiveCallView::from).collect(),
        next_cursor: None,
    }))
}

/// Cancels a call. Its guests stop at once, and whoever waits for it gets the problem `canceled`.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}/sessions/{session}/calls/{call}", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path), ("call" = String, Path)),
    responses((status = 204), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn cancel(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id, call)): At<(Name, Name, String)>,
) -> Result<StatusCode, Problem> {
    own_or_owner(&app, &caller, &name, &id)?;
    if app.sessions().cancel(&(name, id), &call) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("call under way", &call))
    }
}
