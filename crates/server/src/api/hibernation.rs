//! Sessions that hibernate, go on, and begin as copies of others.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_egress::Rule;
use flowcell_session::machine::{Step, Wish};
use flowcell_session::{
    ComputeKind, Fork, ForkedFrom, Identity, Name, Role, Session, SessionState, Stored, Usage,
};
use flowcell_worker::Prepared;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sessions::{
    IdentityView, NetworkRule, SessionView, find, fresh, own_or_owner, settled, usable, view,
};
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{At, Body, Creation, entity_tag};
use crate::problem::{Kind, Problem};

/// What is stored of a hibernated session.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct StoredView {
    /// Instances.
    pub instances: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

impl From<Stored> for StoredView {
    fn from(stored: Stored) -> Self {
        Self {
            instances: stored.instances,
            bytes: stored.bytes,
            since: stored.since,
        }
    }
}

/// What a session's instances have cost.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// Instances that were made, those that went on from being stored included.
    pub starts: u64,
    /// Instances that went on from being stored.
    pub resumes: u64,
    /// Instances that were stored.
    pub hibernations: u64,
    /// Seconds that it took to make instances.
    pub start_seconds: f64,
    /// Seconds that it took to store them.
    pub hibernate_seconds: f64,
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        Self {
            starts: usage.starts,
            resumes: usage.resumes,
            hibernations: usage.hibernations,
            start_seconds: usage.start_time.as_secs_f64(),
            hibernate_seconds: usage.hibernate_time.as_secs_f64(),
        }
    }
}

/// What a session holds in memory, and what new instances of it start from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MemoryView {
    /// Memory that idle instances have for themselves alone, in bytes; what they share with others is not in it.
    pub private_bytes: u64,
    /// The image of the session's memory with its flow's modules imported.
    pub image: MemoryImageView,
}

/// An image that new instances start from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MemoryImageView {
    /// `ready`, `building` or `none`.
    #[schema(example = "ready")]
    pub state: String,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Size of its file, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes of memory in which it differs from its base image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_bytes: Option<u64>,
}

impl From<Prepared> for MemoryImageView {
    fn from(prepared: Prepared) -> Self {
        let state = |state: &str| Self {
            state: state.to_owned(),
            reason: None,
            bytes: None,
            changed_bytes: None,
        };
        match prepared {
            Prepared::Building => state("building"),
            Prepared::None(reason) => Self {
                reason: Some(reason),
                ..state("none")
            },
            Prepared::Ready { bytes, changed } => Self {
                bytes: Some(bytes),
                changed_bytes: Some(changed),
                ..state("ready")
            },
        }
    }
}

impl MemoryView {
    /// What is known at once of a session that runs.
    pub(crate) async fn of(app: &App, session: &Session) -> Option<Self> {
        if session.state != SessionState::Running {
            return None;
        }
        let key = (session.workspace.clone(), session.id.clone());
        let holds = app.sessions().inspect(&key).await?;
        Some(Self {
            private_bytes: holds.private_memory,
            image: holds.image.into(),
        })
    }
}

/// Where a fork has its files and its memory from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ForkedFromView {
    /// The session, which may be gone by now.
    #[schema(value_type = String)]
    pub session: Name,
    /// Its flow.
    #[schema(value_type = String)]
    pub flow: Name,
    /// Which of its lives.
    pub generation: u64,
}

impl From<ForkedFrom> for ForkedFromView {
    fn from(from: ForkedFrom) -> Self {
        Self {
            session: from.session,
            flow: from.flow,
            generation: from.generation,
        }
    }
}

/// What the copy of a session shall be. What is left out is as the session has it.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkSession {
    /// The new flow: a flow has at most one session.
    #[schema(value_type = String)]
    #[serde(default)]
    pub flow: Option<Name>,
    /// `serverless` or `instance`.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_kind: Option<ComputeKind>,
    /// The type of a serverless compute, by name or alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// A compute of yours, by name.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<Name>,
    /// Seconds without use after which the new session is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
    /// As whom it reaches other services; serverless computes only.
    #[schema(value_type = Option<IdentityView>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// What its tools may ask of the network; as the session that it is a copy of, if absent.
    #[schema(value_type = Option<NetworkRule>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Rule>,
}

/// Stores the memory of a session's instances on the disk and frees it; the next call goes on from there.
///
/// Calls that are under way are not waited for: the answer is 409 then. What cannot be stored (`kept` says why) stays in
/// memory, and the session stays `running`; so does one that has nothing in memory.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/hibernate", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = SessionView), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem)))]
pub async fn hibernate(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    own_or_owner(&app, &caller, &name, &id)?;
    let key = (name.clone(), id.clone());
    app.sessions().hibernate(&key, caller.user).await?;
    shown(&app, &name, &id)
}

/// Goes on from what is stored of a hibernated session, so that its next call is fast. A session that runs goes on
/// running.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/resume", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = SessionView), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub async fn resume(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    own_or_owner(&app, &caller, &name, &id)?;
    let key = (name.clone(), id.clone());
    app.sessions().resume(&key, caller.user).await?.body?;
    shown(&app, &name, &id)
}

/// Makes a flow with a session that are copies of this session and its flow: files, those that tools wrote included, and
/// memory.
///
/// The session is hibernated for it, so no call may be under way, and all of its instances must be such that can be
/// stored. It goes on by itself with its next call, and so does the copy.
#[utoipa::path(post, path = "/v1/workspaces/{workspace}/sessions/{session}/fork", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes it safe to send the request again")),
    request_body = ForkSession,
    responses((status = 201, body = SessionView), (status = 202, body = SessionView), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn fork(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
    headers: HeaderMap,
    body: Body<ForkSession>,
) -> Result<Response, Response> {
    let refuse = |problem: Problem| problem.into_response();
    caller
        .require(&app, &name, Role::DataScientist)
        .map_err(refuse)?;
    // Whoever has a copy can call it, so it takes what a call takes.
    let key = usable(&app, &caller, &name, &id).map_err(refuse)?;
    let request = body.value;
    let flow = request.flow.ok_or_else(|| {
        refuse(Problem::new(
            Kind::InvalidBody,
            "'flow' in the body: name the new flow",
        ))
    })?;
    let sessions = format!("/v1/workspaces/{name}/sessions");
    let what = format!("POST {sessions}/{id}/fork");
    let creation = Creation::begin(&app, &caller, &headers, &what, &body.bytes).await?;
    let answer = {
        let app = Arc::clone(&app);
        move |step: &Step| {
            let answered = step.session().and_then(|session| {
                let location = format!("{sessions}/{}", session.id);
                creation.answered(StatusCode::ACCEPTED, &location, &view(&app, session))
            });
            answered.into_iter().collect()
        }
    };
    let fork = Fork {
        user: caller.user,
        flow,
        id: fresh("s"),
        compute: fresh("serverless"),
        wish: Wish {
            compute_kind: request.compute_kind,
            instance_type: request.instance_type,
            compute: request.compute,
            idle_seconds: request.idle_seconds,
            identity: request.identity,
            network: request.network,
            names_image: false,
        },
    };
    let forked = app.sessions().fork(&key, fork, answer).await;
    let (step, done) = forked.map_err(|error| refuse(error.into()))?;
    let session = step.session().map(|session| session.id.clone());
    let session = session.ok_or_else(|| refuse(Problem::not_found("session", "")))?;
    settled(&app, &name, &session, done, StatusCode::CREATED)
        .await
        .map_err(refuse)
}

fn shown(app: &App, name: &Name, id: &Name) -> Result<Response, Problem> {
    let session = find(app, name, id)?;
    let headers = [(header::ETAG, entity_tag(session.revision))];
    Ok((headers, Json(view(app, &session))).into_response())
}
