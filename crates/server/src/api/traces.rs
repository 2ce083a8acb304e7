//! What happened in a session's calls: the flow, its nodes, functions that its author has marked, and requests to models.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use flowcell_session::{Name, TraceParent};
use flowcell_worker::{SpanKind, SpanStatus, Tokens, Trace, TraceSpan};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::page::Page;
use super::sessions::{find, known_since, own_or_owner};
use crate::app::App;
use crate::auth::Caller;
use crate::extract::At;
use crate::problem::Problem;

/// A trace, without its spans.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TraceSummary {
    /// Its number: 32 hexadecimal digits, as OpenTelemetry has it.
    pub id: String,
    /// The call.
    pub call: String,
    /// When the call began.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
    /// How it ended: `ok` or `error`.
    #[schema(value_type = String)]
    pub status: SpanStatus,
    /// Tokens that models have counted.
    #[schema(value_type = Object)]
    pub tokens: Tokens,
    /// How many spans it has.
    pub spans: usize,
}

/// A trace.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TraceView {
    /// What it is.
    pub trace: TraceSummary,
    /// Its spans, each behind the one that it is part of.
    pub spans: Vec<SpanView>,
}

/// A part of a call.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SpanView {
    /// The span that it is part of, by its place in the list; absent for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<usize>,
    /// Its name.
    pub name: String,
    /// `flow`, `node`, `model` or `function`.
    #[schema(value_type = String)]
    pub kind: SpanKind,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
    /// `ok`, `error`, `bypassed` or `canceled`.
    #[schema(value_type = String)]
    pub status: SpanStatus,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is known of it, by OpenTelemetry's semantic conventions. What was asked and answered is there only where the
    /// workspace's `trace_content` says so.
    #[schema(value_type = Object)]
    pub attributes: Value,
}

fn at(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or_default()
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl From<&TraceSpan> for SpanView {
    fn from(span: &TraceSpan) -> Self {
        Self {
            parent: span.parent,
            name: span.name.clone(),
            kind: span.kind,
            started: at(span.started),
            duration_ms: milliseconds(span.duration),
            status: span.status,
            error: span.error.clone(),
            attributes: serde_json::from_str(&span.attributes).unwrap_or_default(),
        }
    }
}

impl TraceSummary {
    fn new(id: u128, call: &str, trace: &Trace) -> Option<Self> {
        let flow = trace.spans.first()?;
        Some(Self {
            id: format!("{id:032x}"),
            call: call.to_owned(),
            started: at(flow.started),
            duration_ms: milliseconds(flow.duration),
            status: flow.status,
            tokens: trace.tokens(),
            spans: trace.spans.len(),
        })
    }
}

impl TraceView {
    /// A call's trace, which has the flow's span at least.
    pub fn new(id: u128, call: &str, trace: &Trace) -> Option<Self> {
        Some(Self {
            trace: TraceSummary::new(id, call, trace)?,
            spans: trace.spans.iter().map(SpanView::from).collect(),
        })
    }
}

/// Lists the traces of a session's calls of late, the last first. They are in the host's memory, so they go with it, and make
/// room for later ones; those that are to last are sent by OTLP. For the session's user and the workspace's owners.
#[utoipa::path(get, operation_id = "list_traces", path = "/v1/workspaces/{workspace}/sessions/{session}/traces", tag = "traces",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = Page<TraceSummary>), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Json<Page<TraceSummary>>, Problem> {
    let role = own_or_owner(&app, &caller, &name, &id)?;
    let session = find(&app, &name, &id)?;
    let since = known_since(role, &session);
    // All at once: a host keeps fewer of a session than a page has.
    let traces = app.sessions().traces(&session, since);
    Ok(Json(Page {
        items: traces
            .iter()
            .filter_map(|trace| TraceSummary::new(trace.id, &trace.call, &trace.trace))
            .collect(),
        next_cursor: None,
    }))
}

/// Shows a trace, by its number or the call's identifier; of several calls with one identifier, the last.
#[utoipa::path(get, operation_id = "get_trace", path = "/v1/workspaces/{workspace}/sessions/{session}/traces/{trace}", tag = "traces",
    params(("workspace" = String, Path), ("session" = String, Path), ("trace" = String, Path)),
    responses((status = 200, body = TraceView), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id, wanted)): At<(Name, Name, String)>,
) -> Result<Json<TraceView>, Problem> {
    let role = own_or_owner(&app, &caller, &name, &id)?;
    let session = find(&app, &name, &id)?;
    let since = known_since(role, &session);
    let number = u128::from_str_radix(&wanted, 16)
        .ok()
        .filter(|_| wanted.len() == 32);
    let traces = app.sessions().traces(&session, since);
    let found = traces
        .iter()
        .find(|trace| trace.call == wanted || Some(trace.id) == number);
    let view = found.and_then(|trace| TraceView::new(trace.id, &trace.call, &trace.trace));
    view.map(Json)
        .ok_or_else(|| Problem::not_found("trace", &wanted))
}

/// The trace that a request is part of, if it says so as W3C has it (`traceparent`). What is no such header is ignored, as the
/// recommendation has it.
pub(super) fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_known =
        is_hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    if !(is_known && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2)) {
        return None;
    }
    let parent = TraceParent {
        trace: u128::from_str_radix(trace, 16).ok()?,
        span: u64::from_str_radix(span, 16).ok()?,
    };
    (parent.trace != 0 && parent.span != 0).then_some(parent)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_has_it() {
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).ok()?;
            parent(&HeaderMap::from_iter([(
                "traceparent".parse().ok()?,
                value,
            )]))
        };
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(
            read(&format!("00-{trace}-00f067aa0ba902b7-01")),
            Some(TraceParent {
                trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
                span: 0x00f0_67aa_0ba9_02b7,
            })
        );
        assert!(read(&format!("cc-{trace}-00f067aa0ba902b7-01-more")).is_some());
        for wrong in [
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{trace}-00f067aa0ba902b7"),
            "nonsense".to_owned(),
            String::new(),
        ] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
    }
}
