//! The HTTP API: what is asked and answered. Rules live in `flowcell-session`; here requests become events of its
//! state machine, and its state becomes JSON.

pub mod base_images;
pub mod calls;
pub mod computes;
pub mod connections;
pub mod credentials;
pub mod events;
pub mod executor;
pub mod files;
pub mod flows;
pub mod hibernation;
pub mod host;
pub mod identities;
pub mod packages;
pub mod page;
pub mod requests;
pub mod serving;
pub mod sessions;
pub mod traces;
pub mod users;
pub mod workspace_identity;
pub mod workspaces;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

/// The frame of the API's description; the routes add themselves.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "flowcell",
        description = "Compute sessions for prompt flows. Errors are problem details (RFC 9457).",
        license(name = "MIT OR Apache-2.0")
    ),
    modifiers(&Security),
    security(("bearer" = [])),
    tags(
        (name = "sessions", description = "Compute sessions: start, change, reset, stop, hibernate, fork, call"),
        (name = "flows", description = "Flows and their files"),
        (name = "computes", description = "Slices of the host that sessions run on"),
        (name = "workspaces", description = "Workspaces and roles in them"),
        (name = "identities", description = "Identities of workspaces, and who may assign them"),
        (name = "credentials", description = "What identities and users show to package indexes and registries"),
        (name = "connections", description = "What flows use services with; guests get placeholders in place of secrets"),
        (name = "users", description = "Users and their API keys"),
        (name = "executor", description = "The interface of promptflow's executor service, for each session"),
        (name = "serving", description = "The interface of `pf flow serve`, for each session"),
        (name = "traces", description = "What happened in calls, and the requests that they made"),
        (name = "host", description = "Health, metrics and this description"),
    )
)]
struct Description;

struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "An API key (fc_…), or a token of the configured identity provider",
            ))
            .build();
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

/// All routes, with their description.
pub fn routes(upload_bytes: usize) -> OpenApiRouter<Arc<App>> {
    let uploads = OpenApiRouter::new()
        .routes(routes!(files::put_all))
        .routes(routes!(files::put_one, files::get_one, files::delete_one))
        .layer(DefaultBodyLimit::max(upload_bytes));
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(host::health))
        .routes(routes!(host::ready))
        .routes(routes!(host::version))
        .routes(routes!(host::metrics))
        .routes(routes!(users::me))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::get, users::delete))
        .routes(routes!(users::list_keys, users::create_key))
        .routes(routes!(users::revoke_key))
        .routes(routes!(workspaces::list, workspaces::create))
        .routes(routes!(
            workspaces::get,
            workspaces::update,
            workspaces::delete
        ))
        .routes(routes!(workspaces::roles))
        .routes(routes!(workspaces::grant, workspaces::withdraw))
        .routes(routes!(workspaces::quota))
        .routes(routes!(identities::list, identities::create))
        .routes(routes!(identities::get, identities::delete))
        .routes(routes!(identities::grants))
        .routes(routes!(identities::grant, identities::withdraw))
        .routes(routes!(credentials::list))
        .routes(routes!(credentials::put, credentials::delete))
        .routes(routes!(credentials::list_own))
        .routes(routes!(credentials::put_own, credentials::delete_own))
        .routes(routes!(connections::list))
        .routes(routes!(
            connections::get,
            connections::put,
            connections::update,
            connections::delete
        ))
        .routes(routes!(flows::list, flows::create))
        .routes(routes!(flows::get, flows::delete))
        .routes(routes!(files::list))
        .merge(uploads)
        .routes(routes!(computes::types))
        .routes(routes!(computes::list, computes::create))
        .routes(routes!(computes::get, computes::update, computes::delete))
        .routes(routes!(computes::start))
        .routes(routes!(computes::stop))
        .routes(routes!(sessions::list, sessions::start))
        .routes(routes!(sessions::get, sessions::update))
        .routes(routes!(sessions::reset))
        .routes(routes!(sessions::stop))
        .routes(routes!(hibernation::hibernate))
        .routes(routes!(hibernation::resume))
        .routes(routes!(hibernation::fork))
        .routes(routes!(packages::list))
        .routes(routes!(packages::install))
        .routes(routes!(packages::lock))
        .routes(routes!(sessions::history))
        .routes(routes!(sessions::operation))
        .routes(routes!(sessions::tools))
        .routes(routes!(calls::list, calls::call))
        .routes(routes!(calls::cancel))
        .routes(routes!(traces::list))
        .routes(routes!(traces::get))
        .routes(routes!(requests::list))
        .routes(routes!(events::events))
        .routes(routes!(executor::health))
        .routes(routes!(executor::version))
        .routes(routes!(executor::execute_flow))
        .routes(routes!(executor::execute_node))
        .routes(routes!(executor::cancel))
        .routes(routes!(executor::initialize))
        .routes(routes!(executor::execute_line))
        .routes(routes!(executor::aggregate))
        .routes(routes!(executor::finalize))
        .routes(routes!(executor::meta))
        .routes(routes!(executor::package_tools))
        .routes(routes!(serving::health))
        .routes(routes!(serving::version))
        .routes(routes!(serving::description))
        .routes(routes!(serving::score))
        .routes(routes!(serving::feedback))
}
