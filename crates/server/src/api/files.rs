//! The files of a flow.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_bundle::{App as CarriedFlow, BundleError, Store};
use flowcell_executor::{Code, import_app};
use flowcell_session::{
    CarriedImage, FileInfo, FileLimits, Files, Flow, FlowPath, Format, Name, Role, edit, replace,
    unpack,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::base_images::image_named;
use super::flows::{FlowView, find, room_for_a_flow, workspace};
use super::page::Page;
use crate::app::{App, blocking};
use crate::auth::Caller;
use crate::extract::{At, entity_tag, if_match, of_body};
use crate::problem::{Kind, Problem};

/// A file of a flow.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileView {
    /// The path from the flow's folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content, in hexadecimal digits.
    pub sha256: String,
}

impl From<FileInfo> for FileView {
    fn from(info: FileInfo) -> Self {
        Self {
            path: info.path,
            size: info.size,
            sha256: info.digest,
        }
    }
}

/// Lists the files of a flow.
#[utoipa::path(get, operation_id = "list_files", path = "/v1/workspaces/{workspace}/flows/{flow}/files", tag = "flows",
    params(("workspace" = String, Path), ("flow" = String, Path)),
    responses((status = 200, body = Page<FileView>), (status = 404, body = Problem)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, flow)): At<(Name, Name)>,
) -> Result<Json<Page<FileView>>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    find(workspace(&app.ledger().state(), &name)?, &flow)?;
    // All at once: the limit on a flow's files is a page's.
    let files = app
        .read(move |ledger| ledger.registry().files(&name, &flow))
        .await?;
    Ok(Json(Page {
        items: files.into_iter().map(FileView::from).collect(),
        next_cursor: None,
    }))
}

/// Uploads a whole flow as an archive or an app, in place of all its files. The flow is made if there is none.
///
/// A folder around everything is left off. Links, special files and paths that lead out are refused. An app is what
/// `flowcell flow build` makes: it brings the flow's files with a lock, and to the host the base image and the wheels that
/// they need, so that a session starts without a registry or an index.
#[utoipa::path(put, path = "/v1/workspaces/{workspace}/flows/{flow}/files", tag = "flows",
    params(("workspace" = String, Path), ("flow" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The flow's entity tag")),
    request_body(content(("application/x-tar"), ("application/gzip"), ("application/zip"), ("application/wasm")), description = "The archive, or the app"),
    responses((status = 200, body = FlowView), (status = 201, body = FlowView), (status = 412, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem)))]
pub async fn put_all(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, flow)): At<(Name, Name)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::DataScientist)?;
    let seen = if_match(&headers)?;
    let media = media(&headers)?;
    let body = body.map_err(of_body)?;
    let limits = app.config().flows.clone();
    let content = {
        let (limits, bundles) = (limits.clone(), app.sessions().store().clone());
        blocking(move || match media {
            Media::Archive(format) => Ok(Content {
                files: unpack(&body, format, &limits)?,
                image: None,
            }),
            Media::App => of_app(&bundles, &body, &limits),
        })
        .await??
    };
    let (status, view) = store(&app, &caller, name, flow, seen, content, limits).await?;
    let headers = [(header::ETAG, entity_tag(view.revision))];
    Ok((status, headers, Json(view)).into_response())
}

/// What is uploaded.
struct Content {
    files: Files,
    /// The base image that came with them.
    image: Option<CarriedImage>,
}

/// What an app holds; its bundle and wheels go into the host's store. They are kept by digest, so nobody's sessions find
/// them but those that want this very content.
fn of_app(bundles: &Store, body: &[u8], limits: &FileLimits) -> Result<Content, Problem> {
    let app = CarriedFlow::read("the app", body).map_err(of_bundle)?;
    // What the flow may not have is said before anything is stored.
    let most = limits.flow_bytes.saturating_mul(2).saturating_add(16 << 20);
    let archive = app.flow(most).map_err(of_bundle)?;
    let files = unpack(&archive, Format::Tar, limits)?;
    let (imported, leases) = import_app(bundles, &app).map_err(|error| match error.code {
        Code::User => Problem::new(Kind::Invalid, error.message),
        Code::System => match error.source.as_deref() {
            Some(source) if is_full(source) => Problem::new(
                Kind::DiskFull,
                "the host's disk is full; nothing was stored",
            ),
            _ => Problem::internal(&error),
        },
    })?;
    // Until the flow is stored, which has them from then on.
    for lease in &leases {
        let rooted = bundles.add_root(lease.thing());
        rooted.map_err(|error| Problem::internal(&error))?;
    }
    Ok(Content {
        image: Some(CarriedImage {
            digest: imported.bundle.to_string(),
            wheels: app.index.wheels.iter().map(ToString::to_string).collect(),
            named: image_named(|file| Ok::<_, Infallible>(files.get(file).cloned()))
                .unwrap_or_default(),
        }),
        files,
    })
}

fn of_bundle(error: BundleError) -> Problem {
    if error.is_about_app() {
        Problem::new(Kind::Invalid, error.to_string())
    } else {
        Problem::internal(&error)
    }
}

fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let full = |error: &std::io::Error| error.kind() == std::io::ErrorKind::StorageFull;
    error.downcast_ref().is_some_and(full) || error.source().is_some_and(is_full)
}

async fn store(
    app: &App,
    caller: &Caller,
    name: Name,
    flow: Name,
    seen: Option<u64>,
    content: Content,
    limits: FileLimits,
) -> Result<(StatusCode, FlowView), Problem> {
    let Content { files, image } = content;
    let user = caller.user.clone();
    let ledger = Arc::clone(app.ledger());
    app.change(move |state| {
        let workspace = workspace(state, &name)?;
        let old = workspace.flows.get(&flow);
        check_seen(seen, old.map(|old| old.revision))?;
        if old.is_none() {
            room_for_a_flow(workspace)?;
        }
        let old_files = ledger.registry().files(&name, &flow)?;
        let now = Timestamp::now();
        let new = || Flow::new(name.clone(), flow.clone(), user, now);
        let before = Flow {
            image,
            ..old.cloned().unwrap_or_else(new)
        };
        let (changed, changes) = replace(&before, &old_files, &files, now, &limits)?;
        let status = match old {
            Some(_) => StatusCode::OK,
            None => StatusCode::CREATED,
        };
        Ok((changes, (status, FlowView::of(&changed, workspace))))
    })
    .await
}

/// Reads a file.
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/flows/{flow}/files/{*path}", tag = "flows",
    params(("workspace" = String, Path), ("flow" = String, Path), ("path" = String, Path, description = "The path from the flow's folder; may hold '/'")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 404, body = Problem)))]
pub async fn get_one(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, flow, path)): At<(Name, Name, String)>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    find(workspace(&app.ledger().state(), &name)?, &flow)?;
    let missing = Problem::not_found("file", &path);
    let content = app
        .read(move |ledger| ledger.registry().file(&name, &flow, &path))
        .await?
        .ok_or(missing)?;
    // Never shown by a browser as a page of this host.
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, content).into_response())
}

/// Writes a file. Its session, if it runs, uses it from the next call on.
#[utoipa::path(put, path = "/v1/workspaces/{workspace}/flows/{flow}/files/{*path}", tag = "flows",
    params(("workspace" = String, Path), ("flow" = String, Path), ("path" = String, Path, description = "The path from the flow's folder; may hold '/'"),
        ("If-Match" = Option<String>, Header, description = "The flow's entity tag")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = FlowView), (status = 404, body = Problem), (status = 412, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem)))]
pub async fn put_one(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, flow, path)): At<(Name, Name, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::DataScientist)?;
    let seen = if_match(&headers)?;
    let body = body.map_err(of_body)?;
    write(&app, name, flow, &path, seen, Some(body)).await
}

/// Deletes a file.
#[utoipa::path(delete, path = "/v1/workspaces/{workspace}/flows/{flow}/files/{*path}", tag = "flows",
    params(("workspace" = String, Path), ("flow" = String, Path), ("path" = String, Path, description = "The path from the flow's folder; may hold '/'"),
        ("If-Match" = Option<String>, Header, description = "The flow's entity tag")),
    responses((status = 200, body = FlowView), (status = 404, body = Problem), (status = 412, body = Problem)))]
pub async fn delete_one(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, flow, path)): At<(Name, Name, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::DataScientist)?;
    let seen = if_match(&headers)?;
    write(&app, name, flow, &path, seen, None).await
}

async fn write(
    app: &App,
    name: Name,
    flow: Name,
    path: &str,
    seen: Option<u64>,
    content: Option<Bytes>,
) -> Result<Response, Problem> {
    let path = FlowPath::new(path)?;
    let limits = app.config().flows.clone();
    let ledger = Arc::clone(app.ledger());
    let view = app
        .change(move |state| {
            let workspace = workspace(state, &name)?;
            let old = find(workspace, &flow)?;
            check_seen(seen, Some(old.revision))?;
            let old_files = ledger.registry().files(&name, &flow)?;
            let is_there = old_files.iter().any(|file| file.path == path.as_str());
            if content.is_none() && !is_there {
                return Err(Problem::not_found("file", path.as_str()));
            }
            let (changed, changes) =
                edit(old, &old_files, &path, content, Timestamp::now(), &limits)?;
            Ok((changes, FlowView::of(&changed, workspace)))
        })
        .await?;
    let headers = [(header::ETAG, entity_tag(view.revision))];
    Ok((headers, Json(view)).into_response())
}

fn check_seen(seen: Option<u64>, current: Option<u64>) -> Result<(), Problem> {
    match (seen, current) {
        (Some(seen), current) if current != Some(seen) => Err(Problem::new(
            Kind::Stale,
            "If-Match does not name the flow's entity tag; look at it again",
        )),
        _ => Ok(()),
    }
}

enum Media {
    Archive(Format),
    App,
}

fn media(headers: &HeaderMap) -> Result<Media, Problem> {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim() {
        "application/x-tar" => Ok(Media::Archive(Format::Tar)),
        "application/gzip" | "application/x-gzip" => Ok(Media::Archive(Format::TarGzip)),
        "application/zip" | "application/x-zip-compressed" => Ok(Media::Archive(Format::Zip)),
        "application/wasm" => Ok(Media::App),
        _ => Err(Problem::new(
            Kind::UnsupportedMediaType,
            "send the archive as application/x-tar, application/gzip or application/zip, or an app as application/wasm",
        )),
    }
}
