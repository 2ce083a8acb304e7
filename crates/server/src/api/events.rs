//! What happens in a session, as it happens.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use flowcell_session::{EventId, Name, Role, Watched};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::sessions::find;
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Params};
use crate::problem::{Kind, Problem};

/// Which events of a session.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct EventParams {
    /// Whether to wait for what happens from now on, or to end after what has happened.
    #[param(default = true)]
    pub follow: bool,
}

impl Default for EventParams {
    fn default() -> Self {
        Self { follow: true }
    }
}

/// Streams a session's events (server-sent events): states, calls, nodes, and what tools print.
///
/// `data` of each is JSON with a `type`. A client that comes back with `Last-Event-ID` gets what it missed, as far as the
/// host still has it; an event of type `missed` says where it does not. The stream ends with the session's life.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/sessions/{session}/events", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path), EventParams,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn events(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    Params(parameters): Params<EventParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    find(&app, &name, &id)?;
    let last = match headers.get("last-event-id") {
        None => None,
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            let last: EventId = text
                .parse()
                .map_err(|error| Problem::new(Kind::BadRequest, format!("{error}")))?;
            Some(last)
        }
    };
    let key = (name, id);
    let watcher = app.sessions().watch(&key, last).await?;
    let ending = app.ending.clone();
    let events = stream::unfold(
        (watcher, app, key, caller),
        move |(mut watcher, app, key, caller)| {
            let ending = ending.clone();
            async move {
                let watched = tokio::select! {
                    biased;
                    watched = watcher.next() => watched?,
                    () = ending.cancelled() => return None,
                    () = std::future::ready(()), if !parameters.follow => return None,
                };
                // A key that was revoked and a role that was withdrawn hold no longer, here as elsewhere.
                if !caller.is_still_known(&app) {
                    return None;
                }
                caller.require(&app, &key.0, Role::Reader).ok()?;
                // A stream with traffic is use.
                app.sessions().touch(&key);
                let event = match watched {
                    Watched::Event(id, json) => Event::default().id(id.to_string()).data(&*json),
                    Watched::Missed(id, number) => Event::default()
                        .id(id.to_string())
                        .data(format!("{{\"type\":\"missed\",\"events\":{number}}}")),
                };
                Some((Ok::<_, Infallible>(event), (watcher, app, key, caller)))
            }
        },
    );
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}
