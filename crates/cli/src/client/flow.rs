//! `flowcell flow create|list|show|upload|download|delete`: the flows of a host.

use std::path::PathBuf;

use clap::Args;
use flowcell_server::api::files::FileView;
use flowcell_server::api::flows::{CreateFlow, FlowView};
use flowcell_session::{Name, sha256};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};

use super::api::{Answer, Api};
use super::archive::{Target, Upload, name_of, pack};
use super::arguments::{Named, revision};
use super::confirm::confirm;
use super::error::ClientError;
use super::table::{count, pairs, size, table, time};
use crate::{Output, terminal};

#[derive(Debug, Args)]
pub(crate) struct FlowNameArgs {
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    named: Named,
    /// A folder whose files are uploaded, or an app.
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct UploadArgs {
    /// The flow's folder, its flow.dag.yaml, or an app that `flowcell flow build` has made.
    #[arg(long, value_name = "DIR")]
    source: PathBuf,
    /// The flow's name; the folder's or the app's, if absent.
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// Only if the flow has this revision still.
    #[arg(long, value_name = "REVISION", value_parser = revision)]
    if_match: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct DownloadArgs {
    #[command(flatten)]
    named: Named,
    /// The folder to make; the flow's name, if absent.
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    named: Named,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

pub(crate) enum FlowTask {
    Create(CreateArgs),
    List,
    Show(FlowNameArgs),
    Upload(UploadArgs),
    Download(DownloadArgs),
    Delete(DeleteArgs),
}

pub(super) async fn run(api: &Api, task: FlowTask) -> Result<(), ClientError> {
    match task {
        FlowTask::Create(args) => create(api, args).await,
        FlowTask::List => {
            let items = api.list(api.here(["flows"])).await?;
            api.show_list(
                items,
                flows,
                "there are no flows; `flowcell flow upload --source DIR` makes one",
            )
        }
        FlowTask::Show(args) => show(api, &args).await,
        FlowTask::Upload(args) => {
            let name = match args.name {
                Some(name) => name,
                None => name_of(&args.source)?,
            };
            let archive = pack(&args.source)?;
            let answer = upload(api, &name, archive, args.if_match).await?;
            api.show(&answer, flow)
        }
        FlowTask::Download(args) => download(api, &args).await,
        FlowTask::Delete(args) => {
            let name = args.named.text();
            if !args.yes {
                confirm(&format!("delete flow {name} with its files?")).await?;
            }
            let url = api.here(["flows", name]);
            api.send(api.request(Method::DELETE, url)).await?;
            api.done(&format!("deleted flow {name}"));
            Ok(())
        }
    }
}

async fn create(api: &Api, args: CreateArgs) -> Result<(), ClientError> {
    // What is wrong with the folder is said before anything is made.
    let archive = args.source.as_deref().map(pack).transpose()?;
    let name = args.named.text();
    let name = Name::new(name).map_err(|error| ClientError::new(error.to_string()))?;
    let body = CreateFlow { name: name.clone() };
    let mut answer = api.create(api.here(["flows"]), &body).await?;
    if let Some(archive) = archive {
        answer = upload(api, &name, archive, None)
            .await
            .inspect_err(|_| terminal::note(&format!("flow {name} was made, without files")))?;
    }
    api.show(&answer, flow)
}

async fn upload(
    api: &Api,
    name: &Name,
    archive: Upload,
    seen: Option<u64>,
) -> Result<Answer, ClientError> {
    let url = api.here(["flows", name.as_str(), "files"]);
    let request = api
        .change(Method::PUT, url, seen)
        .header(CONTENT_TYPE, archive.media)
        .timeout(super::call::LONGEST)
        .body(archive.bytes);
    let answer = api.send(request).await?;
    if api.output() == Output::Text {
        let what = match answer.status {
            StatusCode::CREATED => "made",
            _ => "replaced the files of",
        };
        terminal::note(&format!("{what} flow {name}"));
    }
    Ok(answer)
}

async fn show(api: &Api, args: &FlowNameArgs) -> Result<(), ClientError> {
    let name = args.named.text();
    let answer = api.get(api.here(["flows", name])).await?;
    api.show(&answer, flow)?;
    if api.output() == Output::Text {
        let files = files_of(api, name).await?;
        if !files.is_empty() {
            let rows: Vec<Vec<String>> = files
                .iter()
                .map(|file| vec![size(file.size), file.path.clone()])
                .collect();
            terminal::line(&format!("\n{}", table(&["SIZE", "FILE"], &rows)));
        }
    }
    Ok(())
}

async fn files_of(api: &Api, name: &str) -> Result<Vec<FileView>, ClientError> {
    let items = api.list(api.here(["flows", name, "files"])).await?;
    let files: Result<Vec<FileView>, _> = items.into_iter().map(serde_json::from_value).collect();
    files.map_err(|error| ClientError::new(format!("the list of files cannot be read: {error}")))
}

async fn download(api: &Api, args: &DownloadArgs) -> Result<(), ClientError> {
    let name = args.named.text();
    let folder = args.target.clone().unwrap_or_else(|| PathBuf::from(name));
    let target = Target::new(&folder)?;
    let files = files_of(api, name).await?;
    for file in &files {
        let path = ["flows", name, "files"].into_iter();
        let url = api.here(path.chain(file.path.split('/')));
        let content = api.get(url).await?.body;
        if sha256(&content) != file.sha256 {
            return Err(ClientError::with_help(
                format!("{} was changed while it was downloaded", file.path),
                "download the flow again, into another folder",
            ));
        }
        target.add(&file.path, &content)?;
    }
    api.done(&format!(
        "put {} into {}",
        count(files.len(), "file"),
        folder.display()
    ));
    Ok(())
}

fn flows(flows: &[FlowView]) -> String {
    let rows: Vec<Vec<String>> = flows
        .iter()
        .map(|flow| {
            vec![
                flow.name.to_string(),
                flow.files.to_string(),
                size(flow.bytes),
                time(flow.modified),
                flow.created_by.to_string(),
                flow.session
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ]
        })
        .collect();
    let heads = ["NAME", "FILES", "SIZE", "MODIFIED", "CREATED BY", "SESSION"];
    table(&heads, &rows)
}

fn flow(flow: &FlowView) -> String {
    pairs(&[
        ("flow", flow.name.to_string()),
        ("files", format!("{} ({})", flow.files, size(flow.bytes))),
        (
            "created",
            format!("{} by {}", time(flow.created), flow.created_by),
        ),
        ("modified", time(flow.modified)),
        (
            "session",
            flow.session
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
        ("revision", flow.revision.to_string()),
    ])
}
