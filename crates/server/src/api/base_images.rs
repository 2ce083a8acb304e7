//! Base images of sessions: which one it shall be, and whether there is another one by now.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use flowcell_bundle::{ImageName, Store};
use flowcell_session::{Image, Name, NamedBy, Session, flow_in};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::{App, blocking};
use crate::problem::{Kind, Problem};

/// How long whoever looks at a session waits for its image's registry.
const LOOK: Duration = Duration::from_secs(3);

/// A base image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// `name:tag` of this host, or `registry/repository:tag`.
    pub reference: String,
    /// The digest of its manifest; absent until it was pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The digest that its registry has it under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// Who named it: `user` at the start, `flow` in its file, or nobody: `default`.
    #[schema(value_type = String, example = "default")]
    #[serde(default)]
    pub named_by: NamedBy,
    /// Why it is not the one that the flow names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What the session would get by now, where that is another image; only where one session is shown, and not where a
    /// registry does not answer at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<AvailableView>,
}

/// An image that a session could be reset to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AvailableView {
    /// `name:tag` of this host, or `registry/repository:tag`.
    pub reference: String,
    /// The digest of its manifest; of an image in a registry, the digest that the registry has it under.
    pub digest: String,
}

impl From<Image> for ImageView {
    fn from(image: Image) -> Self {
        Self {
            reference: image.reference,
            digest: image.digest,
            artifact: image.artifact,
            named_by: image.named_by,
            note: image.note,
            available: None,
        }
    }
}

/// The image that was asked for, or the flow's, or the default one. Those of this host have their digest; those of
/// registries are pulled when the session opens.
pub(super) async fn image_for(
    app: &Arc<App>,
    name: &Name,
    flow: &Name,
    asked: Option<&str>,
) -> Result<Image, Problem> {
    let (app, name, flow) = (Arc::clone(app), name.clone(), flow.clone());
    let asked = asked.map(str::to_owned);
    blocking(move || match asked {
        Some(asked) => named(&app, &asked, NamedBy::User).map_err(|problem| {
            Problem::new(Kind::Invalid, format!("base_image: {problem}"))
                .with("field", "base_image")
        }),
        None => of_flow(&app, &name, &flow),
    })
    .await?
}

/// What a session's image is by now, for a new life of the session.
pub(super) async fn image_now(app: &Arc<App>, session: &Session) -> Result<Image, Problem> {
    let asked = match session.image.named_by {
        NamedBy::User => Some(session.image.reference.as_str()),
        NamedBy::Flow | NamedBy::Default => None,
    };
    image_for(app, &session.workspace, &session.flow, asked).await
}

/// What a session would get by now, where that is another image than it has.
pub(super) async fn available(app: &Arc<App>, session: &Session) -> Option<AvailableView> {
    // An image that is gone cannot be had any more.
    let now = image_now(app, session).await.ok()?;
    let (had, digest) = match now.digest {
        Some(digest) => (session.image.digest.as_ref(), digest),
        None => {
            let looking = app.sessions().artifact_now(session, &now.reference);
            // A registry that cannot be asked is told of by the session's next start.
            let looked = tokio::time::timeout(LOOK, looking).await.ok()?.ok()??;
            (session.image.artifact.as_ref(), looked)
        }
    };
    // What no life has had yet is not newer.
    had.filter(|had| **had != digest).map(|_| AvailableView {
        reference: now.reference,
        digest,
    })
}

/// An image by its name, or why it cannot be had.
fn named(app: &App, name: &str, named_by: NamedBy) -> Result<Image, String> {
    let (store, registries) = (app.sessions().store(), &app.config().images);
    let parsed: ImageName = name.parse().map_err(|error| format!("{error}"))?;
    let digest = match &parsed {
        ImageName::Local(reference) => match store.resolve(reference) {
            Ok(digest) => Some(digest.to_string()),
            Err(_) => return Err(not_here(store, name)),
        },
        ImageName::Registry(reference) => {
            let settings = registries.settings().client();
            let settings = settings.map_err(|error| error.to_string())?;
            if !settings.allows(reference) {
                let registry = reference.registry();
                return Err(match registries.registries.as_slice() {
                    [] => format!(
                        "this host takes no images from registries, and {name} is in one; its operator allows them by `registries` in [images]"
                    ),
                    allowed => format!(
                        "{registry} is none of the registries that this host takes images from: {}",
                        allowed.join(", ")
                    ),
                });
            }
            None
        }
    };
    Ok(Image {
        reference: parsed.to_string(),
        digest,
        artifact: None,
        named_by,
        note: None,
    })
}

fn not_here(store: &Store, name: &str) -> String {
    match store.list() {
        Err(error) => format!("the images of this host cannot be read: {error}"),
        Ok(there) => {
            let mut there: Vec<String> = there.iter().map(ToString::to_string).collect();
            there.sort();
            format!(
                "this host has no image '{name}'; it has: {}",
                there.join(", ")
            )
        }
    }
}

/// The image of a flow: what its file says, if this host can have that, and the default one otherwise. An app's flow has
/// brought its own.
fn of_flow(app: &App, name: &Name, flow: &Name) -> Result<Image, Problem> {
    let registry = app.ledger().registry();
    let says = image_named(|file| registry.file(name, flow, file))?;
    if let Some(carried) = carried(app, name, flow, says.as_deref())? {
        return Ok(carried);
    }
    let note = match says {
        None => None,
        Some(says) => match named(app, &says, NamedBy::Flow) {
            Ok(image) => return Ok(image),
            // Images of flows made for Azure are Docker images, which mean nothing here.
            Err(problem) => Some((says, problem)),
        },
    };
    let store = app.sessions().store();
    let default = &app.sessions().settings().bundle;
    let digest = store
        .resolve(default)
        .map_err(|error| Problem::internal(&error))?;
    Ok(Image {
        reference: default.to_string(),
        digest: Some(digest.to_string()),
        artifact: None,
        named_by: NamedBy::Default,
        note: note.map(|(says, problem)| {
            format!("{default} takes the place of the flow's image {says}: {problem}")
        }),
    })
}

/// The image that the flow's file names, if it can be read: a flow that is wrong can have a session in which it is mended.
/// `read` gives a file of the flow.
pub(crate) fn image_named<E>(
    read: impl Fn(&str) -> Result<Option<Bytes>, E>,
) -> Result<Option<String>, E> {
    Ok(flow_in("flow", read)?.and_then(|flow| flow.environment?.image))
}

/// The image that came with the flow's files, if these name the same image as then.
fn carried(
    app: &App,
    name: &Name,
    flow: &Name,
    named: Option<&str>,
) -> Result<Option<Image>, Problem> {
    let state = app.ledger().state();
    let flow = state
        .workspaces
        .get(name)
        .and_then(|workspace| workspace.flows.get(flow));
    let carried = flow.and_then(|flow| flow.image.as_ref());
    let Some(carried) = carried.filter(|carried| carried.named.as_deref() == named) else {
        return Ok(None);
    };
    let there = carried.digest.parse().ok();
    match there.filter(|reference| app.sessions().store().resolve(reference).is_ok()) {
        Some(_) => Ok(Some(Image {
            reference: carried.digest.clone(),
            digest: Some(carried.digest.clone()),
            artifact: None,
            named_by: NamedBy::Flow,
            note: None,
        })),
        None => Err(Problem::new(
            Kind::Conflict,
            format!(
                "the base image {} that came with the flow is gone from the host; upload the app again, or name a base_image",
                carried.digest
            ),
        )),
    }
}
