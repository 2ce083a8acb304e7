//! Commands that speak to a host (`flowcell serve`) over its HTTP API.

mod api;
mod archive;
mod arguments;
mod call;
mod compute;
mod confirm;
mod connection;
mod connections;
mod credential;
mod error;
mod flow;
mod identity;
mod key;
mod logs;
mod packages;
mod profiles;
mod session;
mod session_view;
mod sse;
mod table;
mod traces;
mod user;
mod waiting;
mod workspace;

use std::process::ExitCode;

use clap::{Args, Subcommand};

pub(crate) use self::compute::ComputeCommand;
pub(crate) use self::confirm::confirm;
pub(crate) use self::connection::Connection;
pub(crate) use self::connections::ConnectionGroup;
pub(crate) use self::credential::CredentialCommand;
pub(crate) use self::error::ClientError;
pub(crate) use self::flow::{
    CreateArgs as CreateFlowArgs, DeleteArgs as DeleteFlowArgs, DownloadArgs, FlowNameArgs,
    FlowTask, UploadArgs,
};
pub(crate) use self::identity::IdentityCommand;
pub(crate) use self::key::KeyCommand;
pub(crate) use self::profiles::{ProfileCommand, run as profile};
pub(crate) use self::session::SessionCommand;
pub(crate) use self::table::{count, size, table};
pub(crate) use self::traces::TraceGroup;
pub(crate) use self::user::UserCommand;
pub(crate) use self::workspace::{RoleCommand, WorkspaceCommand};

/// Commands of one subject.
#[derive(Debug, Args)]
pub(crate) struct Group<C: Subcommand> {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: C,
}

impl<C: Subcommand> Group<C> {
    pub(crate) fn task(self, task: impl FnOnce(C) -> Task) -> (Connection, Task) {
        (self.connection, task(self.command))
    }
}

/// One command, among others that need no host.
#[derive(Debug, Args)]
pub(crate) struct Remote<A: Args> {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    args: A,
}

impl<A: Args> Remote<A> {
    pub(crate) fn task(self, task: impl FnOnce(A) -> Task) -> (Connection, Task) {
        (self.connection, task(self.args))
    }
}

/// No arguments but those of the connection.
#[derive(Debug, Args)]
pub(crate) struct Nothing {}

/// What is asked of a host.
pub(crate) enum Task {
    Session(SessionCommand),
    Compute(ComputeCommand),
    Flow(FlowTask),
    Workspace(WorkspaceCommand),
    Role(RoleCommand),
    Identity(IdentityCommand),
    Credential(CredentialCommand),
    Connection(crate::connections::ConnectionCommand),
    Trace(flowcell_session::Name, crate::trace::TraceCommand),
    User(UserCommand),
    Key(KeyCommand),
    Me,
}

pub(crate) async fn run((connection, task): (Connection, Task)) -> ExitCode {
    let done = async {
        let api = connection.open()?;
        match task {
            Task::Session(command) => return session::run(&api, command).await,
            Task::Compute(command) => compute::run(&api, command).await?,
            Task::Flow(task) => flow::run(&api, task).await?,
            Task::Workspace(command) => workspace::run(&api, command).await?,
            Task::Role(command) => workspace::run_role(&api, command).await?,
            Task::Identity(command) => identity::run(&api, command).await?,
            Task::Credential(command) => credential::run(&api, command).await?,
            Task::Connection(command) => connections::run(&api, command).await?,
            Task::Trace(session, command) => traces::run(&api, session, command).await?,
            Task::User(command) => user::run(&api, command).await?,
            Task::Key(command) => key::run(&api, command).await?,
            Task::Me => user::me(&api).await?,
        }
        Ok(ExitCode::SUCCESS)
    };
    match done.await {
        Ok(code) => code,
        Err(error) => error.report(connection.output),
    }
}
