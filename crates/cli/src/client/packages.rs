//! `flowcell session packages`, `install` and `lock`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use flowcell_server::api::packages::PackagesView;
use flowcell_server::api::sessions::SessionView;
use reqwest::{Method, StatusCode};

use super::api::Api;
use super::error::ClientError;
use super::session_view::Which;
use super::table::{maybe_time, pairs, size, table};
use crate::{Output, terminal};

/// The file that requirements are saved as; Azure's upload takes the same for a flow that names none.
const REQUIREMENTS: &str = "requirements.txt";
/// The pause between two looks at how an installation goes on.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    which: Which,
    /// Save this file as the flow's requirements.txt before.
    #[arg(long, value_name = "FILE")]
    requirements: Option<PathBuf>,
    /// Save the requirements, and install nothing: a reset, or a later install, takes them.
    #[arg(long, requires = "requirements")]
    save_only: bool,
}

/// Shows the packages of a session.
pub(super) async fn list(api: &Api, which: &Which) -> Result<(), ClientError> {
    let id = which.find(api).await?;
    let answer = api.get(api.here(["sessions", &id, "packages"])).await?;
    api.show(&answer, packages)
}

/// Writes a session's lock to standard output.
pub(super) async fn lock(api: &Api, which: &Which) -> Result<(), ClientError> {
    let id = which.find(api).await?;
    let answer = api.get(api.here(["sessions", &id, "lock"])).await?;
    terminal::raw(answer.text().trim_end());
    Ok(())
}

/// Installs what the session's flow asks for, and waits until that has ended.
pub(super) async fn install(api: &Api, args: InstallArgs) -> Result<ExitCode, ClientError> {
    let id = args.which.find(api).await?;
    if let Some(file) = &args.requirements {
        let text = std::fs::read(file).map_err(|error| {
            ClientError::with_help(
                format!("cannot read {}: {error}", file.display()),
                "name a file with requirements, as pip takes it",
            )
        })?;
        let session: SessionView = api.get(api.here(["sessions", &id])).await?.read()?;
        let url = api.here(["flows", session.flow.as_str(), "files", REQUIREMENTS]);
        api.send(api.request(Method::PUT, url).body(text)).await?;
        if api.output() == Output::Text {
            terminal::note(&format!("saved as {REQUIREMENTS} of flow {}", session.flow));
        }
    }
    let shown = api.here(["sessions", &id, "packages"]);
    if args.save_only {
        api.show(&api.get(shown).await?, packages)?;
        return Ok(ExitCode::SUCCESS);
    }
    let url = api.here(["sessions", &id, "install"]);
    let mut answer = api.send(api.request(Method::POST, url)).await?;
    let mut step = None;
    let is_long = answer.status == StatusCode::ACCEPTED;
    loop {
        let now: PackagesView = answer.read()?;
        if now.installing.is_none() {
            if let Some(failed) = now.failed.filter(|_| is_long) {
                terminal::fail_helping(&failed.why, &[]);
                return Ok(ExitCode::FAILURE);
            }
            break;
        }
        if now.installing != step && api.output() == Output::Text {
            terminal::note(now.installing.as_deref().unwrap_or_default());
        }
        step = now.installing;
        tokio::time::sleep(LOOK).await;
        answer = api.get(shown.clone()).await?;
    }
    api.show(&answer, packages)?;
    Ok(ExitCode::SUCCESS)
}

fn packages(view: &PackagesView) -> String {
    let rows: Vec<Vec<String>> = view
        .packages
        .iter()
        .map(|one| {
            vec![
                one.name.clone(),
                one.version.clone(),
                one.source.clone(),
                one.size.map(size).unwrap_or_default(),
                one.license.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let mut text = table(&["PACKAGE", "VERSION", "SOURCE", "SIZE", "LICENSE"], &rows);
    let notes = view.notes.join("; ");
    let outdated = if view.outdated {
        "the flow asks for others by now; `flowcell session install` brings them"
    } else {
        ""
    };
    let more = pairs(&[
        ("installed", maybe_time(view.since)),
        ("installing", view.installing.clone().unwrap_or_default()),
        (
            "failed",
            view.failed
                .as_ref()
                .map(|failed| failed.why.clone())
                .unwrap_or_default(),
        ),
        ("notes", notes),
        ("outdated", outdated.to_owned()),
    ]);
    if !more.is_empty() {
        text = format!("{text}\n\n{more}");
    }
    text
}
