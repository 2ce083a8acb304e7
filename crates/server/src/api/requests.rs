//! The requests that a session's guests have made: what an audit asks.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use flowcell_egress::Outcome;
use flowcell_session::{Name, Request};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::page::{Page, PageParams, cursor};
use super::sessions::{find, known_since, own_or_owner};
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Params};
use crate::problem::Problem;

/// A request that a session's guest has made, or tried to make. It has no path, query, header or body: there may be secrets
/// in them.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestView {
    /// Counts the session's requests since the host started.
    pub number: u64,
    /// Which of the session's lives it belongs to.
    pub generation: u64,
    /// When it was over.
    #[schema(value_type = String, format = DateTime)]
    pub ended: Timestamp,
    /// How long it took, from the request to the end of its answer, in milliseconds.
    pub duration_ms: f64,
    /// The node that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its method.
    pub method: String,
    /// Scheme, host and port that it was for.
    pub to: String,
    /// `answered`, `refused` (a rule was against it), `failed`, or `abandoned` (nobody waited for the answer).
    #[schema(value_type = String)]
    pub outcome: Outcome,
    /// The answer's status; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Bytes of its body that were sent.
    pub sent: u64,
    /// Bytes of the answer's body that came.
    pub received: u64,
    /// Why it was refused, or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl RequestView {
    fn new(number: u64, request: &Request) -> Self {
        let exchange = request.exchange.clone();
        Self {
            number,
            generation: request.generation,
            ended: request.ended,
            duration_ms: (exchange.duration.as_secs_f64() * 1e6).round() / 1e3,
            node: exchange.node,
            method: exchange.method,
            to: exchange.to,
            outcome: exchange.outcome,
            status: exchange.status,
            sent: exchange.sent,
            received: exchange.received,
            error: exchange.error,
        }
    }
}

/// Which requests.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RequestParams {
    /// Only those of this node.
    pub node: Option<String>,
    /// Only those of which this became: `answered`, `refused`, `failed` or `abandoned`.
    #[param(value_type = Option<String>)]
    pub outcome: Option<Outcome>,
    /// Most entries of the page, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Lists the requests that a session's guests have made of late, the last first: 1,000 of each session are kept, in the host's
/// memory. All of them are in the host's log, as `flowcell::audit`. For the session's user and the workspace's owners.
#[utoipa::path(get, operation_id = "list_requests", path = "/v1/workspaces/{workspace}/sessions/{session}/requests", tag = "traces",
    params(("workspace" = String, Path), ("session" = String, Path), RequestParams),
    responses((status = 200, body = Page<RequestView>), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    Params(parameters): Params<RequestParams>,
) -> Result<Json<Page<RequestView>>, Problem> {
    let role = own_or_owner(&app, &caller, &name, &id)?;
    let session = find(&app, &name, &id)?;
    let since = known_since(role, &session);
    let RequestParams {
        node,
        outcome,
        limit,
        cursor: after,
    } = parameters;
    let page = PageParams {
        limit,
        cursor: after,
    };
    let limit = page.limit()?;
    let before = page.after_number()?;
    let is_asked_for = |(number, request): &&(u64, Arc<Request>)| {
        let exchange = &request.exchange;
        before.is_none_or(|before| *number < before)
            && (node.is_none() || node == exchange.node)
            && outcome.is_none_or(|outcome| outcome == exchange.outcome)
    };
    let requests = app.sessions().requests(&session, since);
    let mut found: Vec<&(u64, Arc<Request>)> = requests
        .iter()
        .filter(is_asked_for)
        .take(limit + 1)
        .collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().filter(|_| more);
    Ok(Json(Page {
        next_cursor: last.map(|(number, _)| cursor(&number.to_string())),
        items: found
            .into_iter()
            .map(|(number, one)| RequestView::new(*number, one))
            .collect(),
    }))
}
