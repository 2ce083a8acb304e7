//! The host itself: its health, its metrics, and what its API is.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Caller;
use crate::extract::At;
use crate::problem::{Kind, Problem};

/// Whether the host lives.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

/// Versions of the host.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// flowcell's.
    pub flowcell: String,
    /// wasmtime's.
    pub wasmtime: String,
}

/// Tells that the host lives.
#[utoipa::path(get, path = "/healthz", tag = "host", security(()), responses((status = 200, body = Health)))]
pub async fn health() -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
    })
}

/// Tells whether the host can start sessions: its base image is there, and it is not shutting down.
#[utoipa::path(get, path = "/readyz", tag = "host", security(()),
    responses((status = 200, body = Health), (status = 503, body = Problem)))]
pub async fn ready(State(app): State<Arc<App>>) -> Result<Json<Health>, Problem> {
    let not_ready = |detail: String| Problem::new(Kind::Unavailable, detail).retry_after(5);
    if app.ending.is_cancelled() {
        return Err(not_ready("the host is shutting down".to_owned()));
    }
    let bundle = app.sessions().settings().bundle.clone();
    let checked = Arc::clone(&app);
    let has_bundle = crate::app::blocking(move || {
        let store = checked.sessions().store();
        store.resolve(&bundle).is_ok()
    })
    .await?;
    if !has_bundle {
        return Err(not_ready("the host has no base image".to_owned()));
    }
    Ok(health().await)
}

/// Tells the host's versions.
#[utoipa::path(get, path = "/version", tag = "host", security(()), responses((status = 200, body = Version)))]
pub async fn version() -> Json<Version> {
    Json(Version {
        flowcell: env!("CARGO_PKG_VERSION").to_owned(),
        wasmtime: flowcell_sandbox::WASMTIME_VERSION.to_owned(),
    })
}

/// Counts what happens, in Prometheus' format. Administrators only, unless configured otherwise.
#[utoipa::path(get, path = "/metrics", tag = "host",
    responses((status = 200, content_type = "application/openmetrics-text", body = String), (status = 401, body = Problem),
        (status = 403, body = Problem)))]
pub async fn metrics(
    State(app): State<Arc<App>>,
    caller: Result<Caller, Problem>,
) -> Result<Response, Problem> {
    if !app.config().telemetry.public_metrics {
        caller?.require_admin()?;
    }
    let text = app
        .metrics()
        .text(&app)
        .map_err(|error| Problem::internal(&error))?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// The API's description (OpenAPI 3.1), as it is served.
pub async fn openapi(Extension(document): Extension<Arc<Value>>) -> Json<Value> {
    Json((*document).clone())
}

/// The same as a page for people, which needs nothing from elsewhere.
pub async fn documentation(Extension(document): Extension<Arc<Value>>) -> Html<String> {
    Html(page(&document))
}

/// What a kind of problem means: where `type` leads.
pub async fn problem(At(slug): At<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let kind = Kind::ALL.iter().find(|kind| kind.slug() == slug);
    let kind = kind.ok_or_else(|| Problem::not_found("kind of problem", &slug))?;
    let accepts_html = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    let text = format!("{} (status {})", kind.title(), kind.status());
    if accepts_html {
        let title = escaped(kind.slug());
        return Ok(Html(frame(
            &title,
            &format!("<h1>{title}</h1><p>{}</p>", escaped(&text)),
        ))
        .into_response());
    }
    Ok(text.into_response())
}

fn frame(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
         code{{background:#8882;padding:0 .2em}}h3 code{{font-size:1rem}}table{{border-collapse:collapse}}\
         td,th{{border:1px solid #8886;padding:.2rem .6rem;text-align:left;vertical-align:top}}\
         @media (prefers-color-scheme:dark){{body{{background:#111;color:#ddd}}a{{color:#8bf}}}}</style><body>{body}"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// The operations of an OpenAPI document, by tag.
fn page(document: &Value) -> String {
    let mut body = String::from(
        "<h1>flowcell</h1><p>Compute sessions for prompt flows. The whole description: <a href=\"openapi.json\">openapi.json</a>.</p>",
    );
    let text = |value: &Value| escaped(value.as_str().unwrap_or_default());
    let none = Vec::new();
    for tag in document["tags"].as_array().unwrap_or(&none) {
        let _ = write!(
            body,
            "<h2>{}</h2><p>{}</p>",
            text(&tag["name"]),
            text(&tag["description"])
        );
        for (path, operations) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in operations.as_object().into_iter().flatten() {
                if operation["tags"][0] == tag["name"] {
                    write_operation(&mut body, path, method, operation);
                }
            }
        }
    }
    frame("flowcell API", &body)
}

fn write_operation(body: &mut String, path: &str, method: &str, operation: &Value) {
    let text = |value: &Value| escaped(value.as_str().unwrap_or_default());
    let none = Vec::new();
    let _ = write!(
        body,
        "<h3><code>{} {}</code></h3><p>{}</p><p>{}</p><table>",
        method.to_ascii_uppercase(),
        escaped(path),
        text(&operation["summary"]),
        text(&operation["description"]).replace("\n\n", "</p><p>")
    );
    for parameter in operation["parameters"].as_array().unwrap_or(&none) {
        let _ = write!(
            body,
            "<tr><td><code>{}</code><td>{}<td>{}",
            text(&parameter["name"]),
            text(&parameter["in"]),
            text(&parameter["description"])
        );
    }
    for (media, content) in operation["requestBody"]["content"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let _ = write!(
            body,
            "<tr><td>body<td>{}<td>{}",
            escaped(media),
            schema(&content["schema"])
        );
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let media = response["content"].as_object().into_iter().flatten().next();
        let _ = write!(
            body,
            "<tr><td>{}<td>{}<td>{}",
            escaped(status),
            media.map_or_else(String::new, |(media, _)| escaped(media)),
            media.map_or_else(String::new, |(_, content)| schema(&content["schema"]))
        );
    }
    body.push_str("</table>");
}

/// A schema's name.
fn schema(schema: &Value) -> String {
    let reference = schema["$ref"].as_str().unwrap_or_default();
    escaped(reference.rsplit('/').next().unwrap_or_default())
}
