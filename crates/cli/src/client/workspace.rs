//! `flowcell workspace …` and `flowcell role …`.

use clap::{Args, Subcommand, ValueEnum};
use flowcell_server::api::workspaces::{CreateWorkspace, GrantRole, RoleView, WorkspaceView};
use flowcell_session::{Name, Role, UserName};
use reqwest::Method;
use serde_json::Value;

use super::api::Api;
use super::arguments::Named;
use super::confirm::confirm;
use super::error::ClientError;
use super::table::{pairs, table, time};

/// Workspaces: flows, computes and sessions, and who may do what with them.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// List the workspaces in which you have a role.
    List,
    /// Make a workspace. Administrators only.
    Create(CreateArgs),
    /// Delete a workspace with its flows. Owners only.
    Delete(DeleteArgs),
    /// Show the quotas of the workspace and of you in it, and what is used of them.
    Quota,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    named: Named,
    /// Its first owner; you, if absent.
    #[arg(long, value_name = "USER")]
    owner: Option<UserName>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    named: Named,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Who may do what in the workspace.
#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// List who has which role.
    List,
    /// Grant a role, in place of any other that the user has. Owners only.
    Grant(GrantArgs),
    /// Withdraw a user's role. Owners only.
    Withdraw(WithdrawArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    /// The user.
    user: UserName,
    /// The role.
    #[arg(value_enum)]
    role: RoleArg,
}

#[derive(Debug, Args)]
pub(crate) struct WithdrawArgs {
    /// The user.
    user: UserName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    /// Looks at everything.
    Reader,
    /// Edits flows, and has computes and sessions.
    DataScientist,
    /// Everything, and who has which role.
    Owner,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Reader => Self::Reader,
            RoleArg::DataScientist => Self::DataScientist,
            RoleArg::Owner => Self::Owner,
        }
    }
}

pub(super) async fn run(api: &Api, command: WorkspaceCommand) -> Result<(), ClientError> {
    match command {
        WorkspaceCommand::List => {
            let items = api.list(api.at(["workspaces"])).await?;
            api.show_list(items, workspaces, "you have no role in any workspace")
        }
        WorkspaceCommand::Create(args) => {
            let name = Name::new(args.named.text());
            let body = CreateWorkspace {
                name: name.map_err(|error| ClientError::new(error.to_string()))?,
                owner: args.owner,
            };
            let answer = api.create(api.at(["workspaces"]), &body).await?;
            api.show(&answer, |view: &WorkspaceView| {
                pairs(&[
                    ("workspace", view.name.to_string()),
                    ("created", time(view.created)),
                ])
            })
        }
        WorkspaceCommand::Delete(args) => {
            let name = args.named.text();
            if !args.yes {
                confirm(&format!("delete workspace {name} with all its flows?")).await?;
            }
            let url = api.at(["workspaces", name]);
            api.send(api.request(Method::DELETE, url)).await?;
            api.done(&format!("deleted workspace {name}"));
            Ok(())
        }
        WorkspaceCommand::Quota => {
            let answer = api.get(api.here(["quota"])).await?;
            api.show(&answer, quota)
        }
    }
}

pub(super) async fn run_role(api: &Api, command: RoleCommand) -> Result<(), ClientError> {
    match command {
        RoleCommand::List => {
            let items = api.list(api.here(["roles"])).await?;
            api.show_list(items, roles, "nobody has a role here")
        }
        RoleCommand::Grant(args) => {
            let body = GrantRole {
                role: args.role.into(),
            };
            let url = api.here(["roles", args.user.as_str()]);
            let answer = api.send(api.request(Method::PUT, url).json(&body)).await?;
            api.show(&answer, |view: &RoleView| {
                format!(
                    "{} is {} of workspace {}",
                    view.user,
                    view.role.as_str(),
                    api.workspace()
                )
            })
        }
        RoleCommand::Withdraw(args) => {
            let url = api.here(["roles", args.user.as_str()]);
            api.send(api.request(Method::DELETE, url)).await?;
            api.done(&format!(
                "{} has no role in workspace {} any more",
                args.user,
                api.workspace()
            ));
            Ok(())
        }
    }
}

fn workspaces(workspaces: &[WorkspaceView]) -> String {
    let rows: Vec<Vec<String>> = workspaces
        .iter()
        .map(|workspace| vec![workspace.name.to_string(), time(workspace.created)])
        .collect();
    table(&["NAME", "CREATED"], &rows)
}

fn roles(roles: &[RoleView]) -> String {
    let rows: Vec<Vec<String>> = roles
        .iter()
        .map(|role| vec![role.user.to_string(), role.role.as_str().to_owned()])
        .collect();
    table(&["USER", "ROLE"], &rows)
}

/// Used and most, of each amount.
fn quota(view: &Value) -> String {
    let amount = |whose: &str, name: &str| {
        let usage = &view[whose];
        format!("{} of {}", usage["used"][name], usage["limit"][name])
    };
    let names = view["workspace"]["limit"].as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> = names
        .map(|(name, _)| {
            vec![
                name.clone(),
                amount("workspace", name),
                amount("user", name),
            ]
        })
        .collect();
    table(&["QUOTA", "WORKSPACE", "YOU"], &rows)
}
