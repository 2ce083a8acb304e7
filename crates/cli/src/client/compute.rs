//! `flowcell compute …`.

use clap::{Args, Subcommand};
use flowcell_server::api::computes::{
    ComputeView, CreateCompute, InstanceTypeView, StopView, UpdateCompute,
};
use flowcell_session::Name;
use reqwest::{Method, Url};

use super::api::{Answer, Api};
use super::arguments::{Named, Waiting, revision, seconds};
use super::confirm::{can_ask, confirm};
use super::error::ClientError;
use super::table::{count, duration, maybe_time, pairs, size, table, time};
use super::waiting::until;
use crate::{Output, terminal};

/// Slices of the host that sessions run on.
#[derive(Debug, Subcommand)]
pub(crate) enum ComputeCommand {
    /// List the computes of the workspace.
    List,
    /// Show a compute and its sessions.
    Show(Named),
    /// Make a compute of kind instance, which is yours.
    Create(CreateArgs),
    /// Change a compute's idle time.
    Update(UpdateArgs),
    /// Start a compute that is stopped.
    Start(Named),
    /// Stop a compute, and its sessions with it.
    Stop(StopArgs),
    /// Delete a compute, and stop its sessions.
    Delete(StopArgs),
    /// List the instance types.
    Types,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    named: Named,
    /// The type; the host chooses one, if absent.
    #[arg(long, value_name = "TYPE")]
    instance_type: Option<String>,
    /// Time without use after which it stops: seconds, 90m, 1h.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    idle_time: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    named: Named,
    /// Time without use after which it stops: seconds, 90m, 1h.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    idle_time: u64,
    /// Only if the compute has this revision still.
    #[arg(long, value_name = "REVISION", value_parser = revision)]
    if_match: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    named: Named,
    /// Only say what would be stopped.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, even if sessions are stopped.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) async fn run(api: &Api, command: ComputeCommand) -> Result<(), ClientError> {
    match command {
        ComputeCommand::List => {
            let items = api.list(api.here(["computes"])).await?;
            api.show_list(
                items,
                computes,
                "there are no computes; sessions make serverless ones, `flowcell compute create NAME` makes others",
            )
        }
        ComputeCommand::Types => {
            let items = api.list(api.here(["instance-types"])).await?;
            api.show_list(items, types, "the host has no instance types")
        }
        ComputeCommand::Show(named) => {
            let answer = api.get(of(api, &named)).await?;
            api.show(&answer, compute)
        }
        ComputeCommand::Create(args) => {
            let name = args.named.text();
            let body = CreateCompute {
                name: Name::new(name).map_err(|error| ClientError::new(error.to_string()))?,
                instance_type: args.instance_type,
                idle_seconds: args.idle_time,
            };
            let answer = api.create(api.here(["computes"]), &body).await?;
            api.show(&answer, compute)
        }
        ComputeCommand::Update(args) => {
            let body = UpdateCompute {
                idle_seconds: args.idle_time,
            };
            let url = of(api, &args.named);
            let request = api.change(Method::PATCH, url, args.if_match).json(&body);
            api.show(&api.send(request).await?, compute)
        }
        ComputeCommand::Start(named) => {
            let url = api.here(["computes", named.text(), "start"]);
            let answer = api.send(api.request(Method::POST, url)).await?;
            api.show(&answer, compute)
        }
        ComputeCommand::Stop(args) => {
            let url = api.here(["computes", args.named.text(), "stop"]);
            end(api, &args, Method::POST, url, "stop").await
        }
        ComputeCommand::Delete(args) => {
            let url = of(api, &args.named);
            end(api, &args, Method::DELETE, url, "delete").await
        }
    }
}

fn of(api: &Api, named: &Named) -> Url {
    api.here(["computes", named.text()])
}

/// Stops or deletes a compute, after saying which sessions that ends.
async fn end(
    api: &Api,
    args: &StopArgs,
    method: Method,
    url: Url,
    word: &str,
) -> Result<(), ClientError> {
    let mut asking = url.clone();
    asking.query_pairs_mut().append_pair("dry_run", "true");
    let foreseen = api.send(api.request(method.clone(), asking)).await?;
    let foreseen_view: StopView = foreseen.read()?;
    let name = args.named.text();
    let effect = effect(&foreseen_view);
    if args.dry_run {
        return api.show(&foreseen, |_: &StopView| {
            format!("{} compute {name} would also stop {effect}", doing(word))
        });
    }
    let ends_sessions = !foreseen_view.sessions.is_empty();
    let says = format!("{} compute {name} also stops {effect}", doing(word));
    if ends_sessions && !args.yes && !can_ask() {
        return Err(ClientError::with_help(
            says,
            "nothing was done; --yes does it",
        ));
    }
    if ends_sessions && api.output() == Output::Text {
        terminal::note(&says);
    }
    if !args.yes && (ends_sessions || word == "delete") {
        confirm(&format!("{word} compute {name}?")).await?;
    }
    let answer = api.send(api.request(method, url)).await?;
    let over = |found: Option<&Answer>| match found {
        None => Ok(true),
        Some(found) => {
            let view: ComputeView = found.read()?;
            Ok(!matches!(view.state.as_str(), "stopping" | "deleting"))
        }
    };
    until(api, &of(api, &args.named), &args.waiting, over).await?;
    api.show(&answer, |view: &StopView| {
        let done = match word {
            "stop" => "stopped",
            _ => "deleted",
        };
        match view.sessions.len() {
            0 => format!("{done} compute {name}"),
            _ => format!("{done} compute {name}, and {}", self::effect(view)),
        }
    })
}

fn doing(word: &str) -> &'static str {
    match word {
        "stop" => "stopping",
        _ => "deleting",
    }
}

/// The sessions that end, and the calls in them.
fn effect(view: &StopView) -> String {
    let names: Vec<&str> = view.sessions.iter().map(Name::as_str).collect();
    match (names.len(), view.active_calls) {
        (0, _) => "no sessions".to_owned(),
        (number, calls) => {
            let mut text = format!("{} ({})", count(number, "session"), names.join(", "));
            if calls > 0 {
                text.push_str(&format!(" with {} under way", count(calls, "call")));
            }
            text
        }
    }
}

fn computes(computes: &[ComputeView]) -> String {
    let rows: Vec<Vec<String>> = computes
        .iter()
        .map(|compute| {
            vec![
                compute.name.to_string(),
                compute.kind.as_str().to_owned(),
                compute.instance_type.to_string(),
                compute.state.clone(),
                compute.user.to_string(),
                compute.sessions.len().to_string(),
                compute.active_calls.to_string(),
                time(compute.last_use),
            ]
        })
        .collect();
    let heads = [
        "NAME", "KIND", "TYPE", "STATE", "USER", "SESSIONS", "CALLS", "LAST USE",
    ];
    table(&heads, &rows)
}

fn compute(compute: &ComputeView) -> String {
    let used = &compute.used;
    let text = pairs(&[
        ("compute", compute.name.to_string()),
        ("kind", compute.kind.as_str().to_owned()),
        ("user", compute.user.to_string()),
        ("type", compute.instance_type.to_string()),
        ("state", format!("{}: {}", compute.state, compute.reason)),
        ("since", time(compute.since)),
        (
            "idle time",
            compute.idle_seconds.map(duration).unwrap_or_default(),
        ),
        (
            "memory",
            format!(
                "{} of {}",
                size(used.memory_bytes),
                size(compute.resources.memory_mib << 20)
            ),
        ),
        (
            "instances",
            format!("{} of {}", used.instances, compute.resources.instances),
        ),
        (
            "CPU",
            format!(
                "{:.3} s used, {:.3} s held back, {} millicores",
                used.cpu_seconds, used.throttled_seconds, compute.resources.cpu_millis
            ),
        ),
        ("created", time(compute.created)),
        ("last use", time(compute.last_use)),
        ("stops at", maybe_time(compute.stop_at)),
        ("revision", compute.revision.to_string()),
    ]);
    if compute.sessions.is_empty() {
        return text;
    }
    let rows: Vec<Vec<String>> = compute
        .sessions
        .iter()
        .map(|session| {
            vec![
                session.flow.to_string(),
                session.id.to_string(),
                session.state.clone(),
                session.active_calls.to_string(),
            ]
        })
        .collect();
    format!(
        "{text}\n\n{}",
        table(&["FLOW", "SESSION", "STATE", "CALLS"], &rows)
    )
}

fn types(types: &[InstanceTypeView]) -> String {
    let rows: Vec<Vec<String>> = types
        .iter()
        .map(|one| {
            vec![
                one.name.to_string(),
                format!("{} MiB", one.resources.memory_mib),
                format!("{}m", one.resources.cpu_millis),
                one.resources.instances.to_string(),
                one.price_per_hour.to_string(),
                one.aliases.join(", "),
            ]
        })
        .collect();
    let heads = ["NAME", "MEMORY", "CPU", "INSTANCES", "PRICE/H", "ALIASES"];
    table(&heads, &rows)
}
