//! Packages of sessions: what their requirements have brought.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_session::{EnvironmentError, Name, Role, Session};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sessions::{find, usable};
use crate::app::{App, blocking};
use crate::auth::Caller;
use crate::extract::At;
use crate::problem::{Kind, Problem};

/// The packages that a session's Python code can import.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PackagesView {
    /// Those of the base image, and what the requirements have brought.
    pub packages: Vec<PackageView>,
    /// The digest of the environment; absent when the image has all that is asked for.
    pub environment: Option<String>,
    /// The digest of the lock.
    pub lock: Option<String>,
    /// Since when the session has them; absent where it asks for none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// What whoever wrote the requirements should know.
    pub notes: Vec<String>,
    /// Whether the flow asks for others by now: installing brings these, and so does a reset.
    pub outdated: bool,
    /// What is being done, while packages are being installed.
    pub installing: Option<String>,
    /// Why the last installation failed; what the session had before, it has still.
    pub failed: Option<InstallFailedView>,
}

/// An installation that failed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InstallFailedView {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Why.
    pub why: String,
}

/// A package.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PackageView {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `image` or `requirements`.
    pub source: String,
    /// Its license, as it names it itself; not known of the image's.
    pub license: Option<String>,
    /// Bytes of its files; not known of the image's.
    pub size: Option<u64>,
}

/// Lists the packages of a session, by name.
#[utoipa::path(get, operation_id = "list_packages", path = "/v1/workspaces/{workspace}/sessions/{session}/packages", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = PackagesView), (status = 404, body = Problem)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Json<PackagesView>, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let session = find(&app, &name, &id)?;
    view(&app, session).await.map(Json)
}

/// Installs what a session's flow asks for now: its lock, or its requirements.
///
/// The session goes on with what it has until that is done, and changes over between calls; if it fails, it keeps what it
/// has. The answer is 200 when it is done, and 202 when it takes long: its events tell how it goes on, and its packages
/// what came of it.
#[utoipa::path(post, operation_id = "install_packages", path = "/v1/workspaces/{workspace}/sessions/{session}/install", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = PackagesView), (status = 202, body = PackagesView), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub async fn install(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    let key = usable(&app, &caller, &name, &id)?;
    let ended = app.sessions().install(&key, &caller.user).await?;
    let wait = Duration::from_secs(app.config().sessions.start_wait_seconds);
    let status = match tokio::time::timeout(wait, ended).await {
        Ok(Ok(ended)) => {
            ended?;
            StatusCode::OK
        }
        Ok(Err(error)) => return Err(Problem::internal(&error)),
        // It goes on all the same.
        Err(_) => StatusCode::ACCEPTED,
    };
    let session = find(&app, &name, &id)?;
    Ok((status, Json(view(&app, session).await?)).into_response())
}

/// The lock of a session's packages: a `pylock.toml` (PEP 751).
#[utoipa::path(get, operation_id = "get_lock", path = "/v1/workspaces/{workspace}/sessions/{session}/lock", tag = "sessions",
    params(("workspace" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = String, content_type = "application/toml"), (status = 404, body = Problem)))]
pub async fn lock(
    State(app): State<Arc<App>>,
    caller: Caller,
    At((name, id)): At<(Name, Name)>,
) -> Result<Response, Problem> {
    caller.require(&app, &name, Role::Reader)?;
    let session = find(&app, &name, &id)?;
    let Some(packages) = &session.packages else {
        return Err(Problem::new(
            Kind::NotFound,
            format!("session {id} has no lock: its flow asks for no packages"),
        ));
    };
    let text = app.sessions().lock_text(packages).await?;
    Ok(([(header::CONTENT_TYPE, "application/toml")], text).into_response())
}

async fn view(app: &Arc<App>, session: Session) -> Result<PackagesView, Problem> {
    let key = (session.workspace.clone(), session.id.clone());
    // What the flow names wrongly is told by whoever installs it.
    let outdated = match app.sessions().is_outdated(&session).await {
        Err(EnvironmentError::Registry(error)) => return Err(Problem::internal(&error)),
        outdated => outdated.unwrap_or(true),
    };
    let installing = app.sessions().installing(&key);
    let (shared, reference) = (Arc::clone(app), session.image.in_store().to_owned());
    let of_image = blocking(move || {
        let reference = reference.parse()?;
        shared.sessions().store().manifest(&reference)
    });
    // An image that is gone has no packages to show; the session says so when it is called.
    let of_image = of_image.await?.ok().and_then(|manifest| manifest.python);
    let packages = session.packages.as_deref();
    let brought: Vec<PackageView> = packages
        .iter()
        .flat_map(|packages| &packages.installed)
        .map(|one| PackageView {
            name: one.name.clone(),
            version: one.version.clone(),
            source: "requirements".to_owned(),
            license: one.license.clone(),
            size: Some(one.size),
        })
        .collect();
    let normal = |name: &str| name.replace('_', "-").to_ascii_lowercase();
    let of_image = of_image.into_iter().flat_map(|python| python.packages);
    let of_image = of_image
        .filter(|one| {
            !brought
                .iter()
                .any(|other| normal(&other.name) == normal(&one.name))
        })
        .map(|one| PackageView {
            name: normal(&one.name),
            version: one.version,
            source: "image".to_owned(),
            license: None,
            size: None,
        })
        .collect::<Vec<_>>();
    let mut all: Vec<PackageView> = of_image.into_iter().chain(brought).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(PackagesView {
        packages: all,
        environment: packages.and_then(|packages| packages.site.clone()),
        lock: packages.map(|packages| packages.lock.clone()),
        since: packages.map(|packages| packages.since),
        notes: packages
            .map(|packages| packages.notes.clone())
            .unwrap_or_default(),
        outdated,
        installing: installing.step,
        failed: installing
            .failed
            .map(|(at, why)| InstallFailedView { at, why }),
    })
}
