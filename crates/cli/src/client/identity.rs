//! `flowcell identity …`.

use clap::{Args, Subcommand};
use flowcell_server::api::identities::{CreateIdentity, GrantView, ManagedIdentityView};
use flowcell_session::{Name, UserName};
use reqwest::Method;

use super::api::Api;
use super::confirm::confirm;
use super::error::ClientError;
use super::table::{pairs, table, time};

/// Identities of a workspace: what sessions show to package indexes and registries.
#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// List the identities.
    List,
    /// Make an identity. Owners only.
    Create(CreateArgs),
    /// Show an identity.
    Show(Which),
    /// Delete an identity with its credentials. Owners only.
    Delete(DeleteArgs),
    /// List who may assign an identity, beside the owners of the workspace.
    Grants(Which),
    /// Let a user assign an identity to their sessions. Owners only.
    Grant(GrantArgs),
    /// Let a user assign an identity no more. Owners only.
    Withdraw(GrantArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The name.
    #[arg(value_name = "NAME", required_unless_present = "system")]
    name: Option<Name>,
    /// Make the workspace's own identity, should it have been deleted.
    #[arg(long, conflicts_with = "name")]
    system: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The identity; `system` is the workspace's own.
    #[arg(value_name = "NAME")]
    name: Name,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    which: Which,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    #[command(flatten)]
    which: Which,
    /// The user.
    user: UserName,
}

pub(super) async fn run(api: &Api, command: IdentityCommand) -> Result<(), ClientError> {
    match command {
        IdentityCommand::List => {
            let items = api.list(api.here(["identities"])).await?;
            api.show_list(items, identities, "there are no identities")
        }
        IdentityCommand::Create(args) => {
            let body = CreateIdentity { name: args.name };
            let answer = api.create(api.here(["identities"]), &body).await?;
            api.show(&answer, identity)
        }
        IdentityCommand::Show(which) => {
            let url = api.here(["identities", which.name.as_str()]);
            api.show(&api.get(url).await?, identity)
        }
        IdentityCommand::Delete(args) => {
            let name = args.which.name;
            if !args.yes {
                confirm(&format!("delete identity {name} with its credentials?")).await?;
            }
            let url = api.here(["identities", name.as_str()]);
            api.send(api.request(Method::DELETE, url)).await?;
            api.done(&format!("deleted identity {name}"));
            Ok(())
        }
        IdentityCommand::Grants(which) => {
            let url = api.here(["identities", which.name.as_str(), "grants"]);
            let items = api.list(url).await?;
            api.show_list(items, grants, "only owners of the workspace may assign it")
        }
        IdentityCommand::Grant(GrantArgs { which, user }) => {
            let url = api.here(["identities", which.name.as_str(), "grants", user.as_str()]);
            let answer = api.send(api.request(Method::PUT, url)).await?;
            api.show(&answer, |view: &GrantView| {
                format!("{} may assign the identity {}", view.user, which.name)
            })
        }
        IdentityCommand::Withdraw(GrantArgs { which, user }) => {
            let url = api.here(["identities", which.name.as_str(), "grants", user.as_str()]);
            api.send(api.request(Method::DELETE, url)).await?;
            api.done(&format!(
                "{user} may assign the identity {} no more",
                which.name
            ));
            Ok(())
        }
    }
}

fn identity(view: &ManagedIdentityView) -> String {
    pairs(&[
        ("identity", view.name.to_string()),
        ("type", view.kind.as_str().to_owned()),
        ("client_id", view.client_id.clone()),
        ("credentials", view.credentials.to_string()),
        ("you may assign it", yes(view.assign)),
        ("created", time(view.created)),
        ("created by", view.created_by.to_string()),
    ])
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

fn identities(identities: &[ManagedIdentityView]) -> String {
    let rows: Vec<Vec<String>> = identities
        .iter()
        .map(|view| {
            vec![
                view.name.to_string(),
                view.kind.as_str().to_owned(),
                view.client_id.clone(),
                view.credentials.to_string(),
                yes(view.assign),
            ]
        })
        .collect();
    table(
        &["NAME", "TYPE", "CLIENT_ID", "CREDENTIALS", "ASSIGN"],
        &rows,
    )
}

fn grants(grants: &[GrantView]) -> String {
    let rows: Vec<Vec<String>> = grants
        .iter()
        .map(|grant| vec![grant.user.to_string()])
        .collect();
    table(&["USER"], &rows)
}
