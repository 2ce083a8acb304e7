//! `flowcell workspace …` and `flowcell role …`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use flowcell_server::api::workspaces::{CreateWorkspace, GrantRole, RoleView, WorkspaceView};
use flowcell_session::{Name, Role, UserName};
use reqwest::Method;
use serde_json::{Map, Value};

use super::api::Api;
use super::arguments::Named;
use super::confirm::confirm;
use super::error::ClientError;
use super::session_view::rule;
use super::table::{pairs, table, time};

/// Workspaces: flows, computes and sessions, and who may do what with them.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// List the workspaces in which you have a role.
    List,
    /// Make a workspace. Administrators only.
    Create(CreateArgs),
    /// Show the workspace and its identities.
    Show,
    /// Change the workspace by a file in the form of `az ml workspace update`: the identities that it shall have, what its
    /// sessions may ask of the network, whether traces hold contents. Owners only.
    Update(UpdateArgs),
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
pub(crate) struct UpdateArgs {
    /// The file (YAML): `identity: {type: …, user_assigned_identities: {…}}`, `network: {allowed_hosts: […],
    /// allowed_methods: […]}`, `trace_content: true`; what is absent stays.
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
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
            api.show(&answer, workspace)
        }
        WorkspaceCommand::Show => {
            let answer = api.get(api.here([])).await?;
            api.show(&answer, workspace)
        }
        WorkspaceCommand::Update(args) => {
            let body = update(&args.file, api.workspace())?;
            let request = api.request(Method::PATCH, api.here([])).json(&body);
            let answer = api.send(request).await?;
            api.show(&answer, workspace)
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

/// What a file asks for, as the host takes it. Keys that only say which workspace is meant are taken out; the host knows
/// those that are left, and names the others.
fn update(path: &Path, workspace: &Name) -> Result<Map<String, Value>, ClientError> {
    let wrong = |why: String| ClientError::new(format!("{}: {why}", path.display()));
    let mut text = String::new();
    let most = flowcell_flow::MAX_BYTES as u64 + 1;
    std::fs::File::open(path)
        .and_then(|file| file.take(most).read_to_string(&mut text))
        .map_err(|error| wrong(format!("it cannot be read: {error}")))?;
    let read = flowcell_flow::yaml_to_json(&text).map_err(|error| wrong(error.to_string()))?;
    let Value::Object(mut members) = read else {
        return Err(wrong(
            "it is no mapping; it has the form `identity: {type: …, user_assigned_identities: {…}}`"
                .to_owned(),
        ));
    };
    members.shift_remove("$schema");
    match members.shift_remove("name") {
        Some(name) if name != workspace.as_str() => Err(wrong(format!(
            "name: it is for the workspace {name}, and this one is '{workspace}'; --workspace names another one"
        ))),
        _ => Ok(members),
    }
}

fn workspace(view: &WorkspaceView) -> String {
    let identity = &view.identity;
    let mut rows = vec![
        ("workspace", view.name.to_string()),
        ("created", time(view.created)),
        ("identity", identity.kind.clone()),
        ("client_id", identity.client_id.clone().unwrap_or_default()),
        (
            "traces",
            if view.trace_content {
                "hold what is asked and answered".to_owned()
            } else {
                String::new()
            },
        ),
        ("network", rule(&view.network)),
    ];
    for (name, one) in &identity.user_assigned_identities {
        let client_id = one.client_id.as_deref().unwrap_or_default();
        rows.push(("user-assigned", format!("{name}  {client_id}")));
    }
    pairs(&rows)
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
