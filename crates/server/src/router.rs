//! The API's routes with all that surrounds them.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, MatchedPath, Request, State};
use axum::http::{HeaderName, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::timeout::RequestBodyTimeoutLayer;
use tower_http::trace::TraceLayer;
use utoipa::openapi::{self, Content, Ref, RefOr, ResponseBuilder};

use crate::api;
use crate::app::App;
use crate::linger::linger;
use crate::problem::{Kind, PROBLEM_JSON, Problem};

/// A client that sends nothing of its body for this time is gone.
const BODY_PAUSE: Duration = Duration::from_secs(30);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The API's description.
pub fn openapi() -> openapi::OpenApi {
    let config = crate::config::ServerConfig::default();
    described(api::routes(config.upload_bytes).into_openapi())
}

/// The description as others understand it: the router writes a parameter that may hold '/' as `{*path}`, where OpenAPI
/// has `{path}`; operations that are called alike in different parts get the part's name before their own; and problems
/// have a media type of their own, which any operation may answer with.
fn described(mut document: openapi::OpenApi) -> openapi::OpenApi {
    let paths = std::mem::take(&mut document.paths.paths).into_iter();
    document.paths.paths = paths
        .map(|(path, mut item)| {
            let operations = [
                &mut item.get,
                &mut item.put,
                &mut item.post,
                &mut item.patch,
                &mut item.delete,
            ];
            for operation in operations.into_iter().flatten() {
                let part = operation.tags.iter().flatten().next();
                if let (Some(part), Some(id)) = (part, &operation.operation_id) {
                    operation.operation_id = Some(format!("{part}_{id}"));
                }
                describe_problems(&mut operation.responses.responses);
            }
            (path.replace("{*", "{"), item)
        })
        .collect();
    document
}

fn describe_problems(responses: &mut BTreeMap<String, RefOr<openapi::Response>>) {
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    let response = |description: &str| {
        ResponseBuilder::new()
            .description(description)
            .content(PROBLEM_JSON, problem.clone())
            .build()
    };
    for (status, described) in responses.iter_mut() {
        if let Ok(status @ 400..) = status.parse::<u16>() {
            let reason = StatusCode::from_u16(status).ok();
            let reason = reason.and_then(|status| status.canonical_reason());
            *described = response(reason.unwrap_or_default()).into();
        }
    }
    let default = response("Any other problem; its status says which kind");
    responses.insert("default".to_owned(), default.into());
}

/// The whole API of a server.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let config = &app.config().server;
    let (routes, document) = api::routes(config.upload_bytes).split_for_parts();
    let document = Arc::new(serde_json::to_value(described(document)).unwrap_or(Value::Null));
    let routes = routes
        .route("/openapi.json", get(api::host::openapi))
        .route("/docs", get(api::host::documentation))
        .route("/problems/{slug}", get(api::host::problem))
        .layer(Extension(document));
    routes
        .fallback(nothing_here)
        .method_not_allowed_fallback(other_methods)
        .with_state(Arc::clone(app))
        .layer(DefaultBodyLimit::max(config.body_bytes))
        .layer(from_fn_with_state(Arc::clone(app), measured))
        .layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
                .layer(
                    // What failed is logged where it fails.
                    TraceLayer::new_for_http()
                        .make_span_with(span)
                        .on_failure(()),
                )
                .layer(PropagateRequestIdLayer::new(REQUEST_ID))
                .layer(CatchPanicLayer::custom(panicked))
                .layer(CompressionLayer::new())
                .layer(from_fn(linger))
                .layer(RequestBodyTimeoutLayer::new(BODY_PAUSE)),
        )
}

fn span(request: &Request) -> tracing::Span {
    let id = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default();
    tracing::info_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(),
        id,
    )
}

/// Counts requests, and ends those that take too long: all but calls and event streams.
async fn measured(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = known(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let is_too_long = announced(&request) > app.config().server.longest_body();
    let answered = next.run(request);
    let response = if is_too_long {
        // Before anything of it is sent: whoever waits for the answer while sending might not get it.
        Problem::new(
            Kind::TooLarge,
            "the body is larger than any operation takes",
        )
        .into_response()
    } else if takes_long(&route, method) {
        answered.await
    } else {
        let time = app.config().request_time();
        match tokio::time::timeout(time, answered).await {
            Ok(response) => response,
            Err(_) => Problem::new(
                Kind::Timeout,
                format!("the request took more than {} s", time.as_secs()),
            )
            .into_response(),
        }
    };
    let status = response.status().as_u16();
    app.metrics()
        .request(method, &route, status, started.elapsed());
    response
}

/// How long a request says that its body is.
fn announced(request: &Request) -> u64 {
    let length = request.headers().get(axum::http::header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(0)
}

/// A method as a metric's label: clients may make up others.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Calls have limits of their own; event streams go on as long as their sessions.
fn takes_long(route: &str, method: &str) -> bool {
    let is_call = method == "POST" && route.ends_with("/calls");
    is_call
        || route.ends_with("/events")
        || route.contains("/sessions/{session}/executor/")
        || route.contains("/sessions/{session}/serve/")
        || route.ends_with("/tools")
}

async fn nothing_here(uri: Uri) -> Problem {
    Problem::new(
        Kind::NotFound,
        format!(
            "there is no path {} in this API; /docs lists them",
            uri.path()
        ),
    )
}

async fn other_methods(method: Method, uri: Uri) -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        format!(
            "{} does not take {method}; /docs says what it takes",
            uri.path()
        ),
    )
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message");
    tracing::error!(message, "a request panicked");
    Problem::new(
        Kind::Internal,
        "the host made a mistake; its log says which",
    )
    .into_response()
}
