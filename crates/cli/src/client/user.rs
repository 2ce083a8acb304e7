//! `flowcell user …` and `flowcell me`.

use clap::{Args, Subcommand};
use flowcell_server::api::users::{CreateUser, Me, UserView};
use flowcell_session::UserName;
use reqwest::Method;

use super::api::Api;
use super::confirm::confirm;
use super::error::ClientError;
use super::table::{pairs, table, time};

/// The users of a host. Administrators only.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// List the users.
    List,
    /// Make a user.
    Create(CreateArgs),
    /// Delete a user, with all keys and roles.
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The user's name.
    name: UserName,
    /// The user administers the host.
    #[arg(long)]
    admin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The user's name.
    name: UserName,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(api: &Api, command: UserCommand) -> Result<(), ClientError> {
    match command {
        UserCommand::List => {
            let items = api.list(api.at(["users"])).await?;
            api.show_list(items, users, "there are no users")
        }
        UserCommand::Create(args) => {
            let body = CreateUser {
                name: args.name,
                admin: args.admin,
            };
            let answer = api.create(api.at(["users"]), &body).await?;
            api.show(&answer, |user: &UserView| {
                pairs(&[
                    ("user", user.name.to_string()),
                    ("administers", yes_or_no(user.admin)),
                    ("created", time(user.created)),
                ])
            })
        }
        UserCommand::Delete(args) => {
            let name = args.name.as_str();
            if !args.yes {
                confirm(&format!("delete user {name} with all keys and roles?")).await?;
            }
            let url = api.at(["users", name]);
            api.send(api.request(Method::DELETE, url)).await?;
            api.done(&format!("deleted user {name}"));
            Ok(())
        }
    }
}

pub(super) async fn me(api: &Api) -> Result<(), ClientError> {
    let answer = api.get(api.at(["me"])).await?;
    api.show(&answer, |me: &Me| {
        let text = pairs(&[
            ("user", me.name.to_string()),
            ("administers", yes_or_no(me.admin)),
            ("host", api.host().to_owned()),
            ("workspace", api.workspace().to_string()),
        ]);
        let rows: Vec<Vec<String>> = me
            .roles
            .iter()
            .map(|role| vec![role.workspace.to_string(), role.role.as_str().to_owned()])
            .collect();
        match rows.len() {
            0 => text,
            _ => format!("{text}\n\n{}", table(&["WORKSPACE", "ROLE"], &rows)),
        }
    })
}

fn users(users: &[UserView]) -> String {
    let rows: Vec<Vec<String>> = users
        .iter()
        .map(|user| {
            vec![
                user.name.to_string(),
                yes_or_no(user.admin),
                time(user.created),
            ]
        })
        .collect();
    table(&["NAME", "ADMINISTERS", "CREATED"], &rows)
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}
