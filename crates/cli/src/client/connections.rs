//! `flowcell connection …`, of a host's workspace.

use clap::Args;
use flowcell_connection::Secret;
use reqwest::Method;
use serde_json::{Map, Value};

use super::Task;
use super::api::{Answer, Api};
use super::connection::Connection;
use super::error::ClientError;
use crate::Output;
use crate::connections::{ConnectionCommand, print, print_list};

/// The command, which may be for this machine or for a host.
#[derive(Debug, Args)]
pub(crate) struct ConnectionGroup {
    /// This machine's connections, whatever host is named.
    #[arg(long, global = true)]
    local: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: ConnectionCommand,
}

impl ConnectionGroup {
    /// Whether a host is meant: one is named by an option, the environment or the profile in use.
    pub(crate) fn is_remote(&self) -> bool {
        !self.local && self.connection.names_host()
    }

    pub(crate) fn task(self, task: impl FnOnce(ConnectionCommand) -> Task) -> (Connection, Task) {
        (self.connection, task(self.command))
    }

    /// What is asked of this machine.
    pub(crate) fn local(self) -> (Output, ConnectionCommand) {
        (self.connection.output, self.command)
    }
}

pub(super) async fn run(api: &Api, command: ConnectionCommand) -> Result<(), ClientError> {
    let at = |name: &str| api.here(["connections", name]);
    match command {
        ConnectionCommand::Create(args) => {
            let connection = args.connection()?;
            let body = connection.written(|secret: &Secret| secret.reveal().to_owned());
            let request = api.request(Method::PUT, at(connection.name()));
            show(api, &api.send(request.json(&body)).await?)
        }
        ConnectionCommand::Update(args) => {
            let changes = args.changes()?;
            let request = api.request(Method::PATCH, at(args.name()));
            show(api, &api.send(request.json(changes.reveal())).await?)
        }
        ConnectionCommand::Show(args) => show(api, &api.get(at(&args.name)).await?),
        ConnectionCommand::List => {
            let items = api.list(api.here(["connections"])).await?;
            let entries = items.into_iter().filter_map(|item| match item {
                Value::Object(entry) => Some(entry),
                _ => None,
            });
            print_list(entries.collect(), api.output());
            Ok(())
        }
        ConnectionCommand::Delete(args) => {
            args.confirm().await?;
            let name = &args.which.name;
            api.send(api.request(Method::DELETE, at(name))).await?;
            api.done(&format!("deleted the connection '{name}'"));
            Ok(())
        }
    }
}

fn show(api: &Api, answer: &Answer) -> Result<(), ClientError> {
    let entry: Map<String, Value> = answer.read()?;
    print(&entry, api.output());
    Ok(())
}
