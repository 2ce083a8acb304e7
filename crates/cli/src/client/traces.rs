//! `flowcell trace …`, of a host's session.

use clap::Args;
use flowcell_server::api::page::Page;
use flowcell_server::api::traces::{TraceSummary, TraceView};
use flowcell_session::Name;

use super::Task;
use super::api::Api;
use super::connection::Connection;
use super::error::ClientError;
use super::session_view::Which;
use crate::Output;
use crate::trace::{TraceCommand, print, print_list};

/// The command, which is for a host where a session is named.
#[derive(Debug, Args)]
pub(crate) struct TraceGroup {
    /// A session of the host, by its identifier or its flow; without it, what ran on this machine.
    #[arg(long, global = true, value_name = "SESSION|FLOW")]
    session: Option<Name>,
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: TraceCommand,
}

impl TraceGroup {
    /// What is asked of a host; given back where this machine is meant.
    pub(crate) fn task(mut self) -> Result<(Connection, Task), Self> {
        match self.session.take() {
            Some(session) => Ok((self.connection, Task::Trace(session, self.command))),
            None => Err(self),
        }
    }

    /// What is asked of this machine.
    pub(crate) fn local(self) -> (Output, TraceCommand) {
        (self.connection.output, self.command)
    }
}

pub(super) async fn run(
    api: &Api,
    session: Name,
    command: TraceCommand,
) -> Result<(), ClientError> {
    let session = Which::named(session).find(api).await?;
    let list = async || -> Result<Page<TraceSummary>, ClientError> {
        api.get(api.here(["sessions", &session, "traces"]))
            .await?
            .read()
    };
    match command {
        TraceCommand::List => print_list(&list().await?.items, api.output()),
        TraceCommand::Show { trace } => {
            let all = list().await?.items;
            let wanted = trace.as_deref();
            let found = all.iter().find(|trace| {
                wanted.is_none_or(|wanted| trace.call == wanted || trace.id.starts_with(wanted))
            });
            let Some(found) = found else {
                let of = wanted.map_or_else(String::new, |wanted| format!(" '{wanted}'"));
                return Err(ClientError::with_help(
                    format!("the session {session} has no trace{of}"),
                    "`flowcell trace list --session …` tells which there are; a host keeps those of late",
                ));
            };
            let answer = api.get(api.here(["sessions", &session, "traces", &found.id]));
            let view: TraceView = answer.await?.read()?;
            print(&view, api.output());
        }
    }
    Ok(())
}
