//! `flowcell session …`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use flowcell_egress::{HostPattern, Outcome, Rule};
use flowcell_server::api::hibernation::ForkSession;
use flowcell_server::api::sessions::{SessionView, StartSession, ToolView, UpdateSession};
use flowcell_session::{Identity, Name, SessionState};
use reqwest::Method;

use super::api::{Answer, Api};
use super::arguments::{KindArg, Waiting, identity, revision, seconds};
use super::call::{self, CallArgs};
use super::error::ClientError;
use super::logs::{self, LogsArgs};
use super::packages;
use super::session_view::{Which, history, requests, session, sessions, tools};
use super::waiting::settled;
use crate::{Output, terminal};

/// Start, use and stop the compute sessions of a host.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Start the session of a flow, or start it again.
    Start(Box<StartArgs>),
    /// List the sessions of the workspace, stopped ones included.
    List,
    /// Show a session.
    Show(Which),
    /// Change settings of a session; another type or compute resets it.
    Update(Box<UpdateArgs>),
    /// Delete a session's memory and files, and start it anew.
    Reset(ResetArgs),
    /// Stop a session: its calls end, its memory and files are deleted.
    Stop(StopArgs),
    /// Store the memory of a session's instances and free it; the next call goes on from there.
    Hibernate(Which),
    /// Go on from what is stored of a session, so that its next call is fast.
    Resume(Which),
    /// Make a new flow with a session that are copies of a session: its files and its memory.
    Fork(Box<ForkArgs>),
    /// Show what has happened to a session, latest first.
    History(Which),
    /// Show the requests that a session's tools have made of late, latest first.
    Requests(RequestsArgs),
    /// Follow a session: its states, calls, and what its tools print.
    Logs(LogsArgs),
    /// Call the flow, or one of its nodes, once.
    Call(Box<CallArgs>),
    /// List the packages that a session's Python code can import.
    Packages(Which),
    /// Install what a session's flow requires now; it goes on with what it has until that is done.
    Install(packages::InstallArgs),
    /// Print the lock of a session's packages (pylock.toml).
    Lock(Which),
    /// Show the tools of a session's flow, and what is wrong with them.
    Tools(Which),
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The flow.
    #[arg(long, value_name = "NAME")]
    flow: Name,
    /// The base image, instead of the flow's or the host's: one of the host, or registry/repository:tag.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Show the settings that would apply, and start nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
struct SettingsArgs {
    /// The kind of compute.
    #[arg(long, value_enum, value_name = "KIND")]
    compute_kind: Option<KindArg>,
    /// The type of a serverless compute (`flowcell compute types`).
    #[arg(long, value_name = "TYPE")]
    instance_type: Option<String>,
    /// A compute of yours.
    #[arg(long, value_name = "NAME")]
    compute: Option<Name>,
    /// Time without use after which the session is deleted: seconds, 90m, 1h.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    idle_time: Option<u64>,
    /// As whom the session reaches other services: user_identity, managed or managed:CLIENT_ID.
    #[arg(long, value_name = "IDENTITY", value_parser = identity)]
    identity: Option<Identity>,
    #[command(flatten)]
    network: RuleArgs,
}

/// What a session's tools may ask of the network.
#[derive(Debug, Args)]
struct RuleArgs {
    /// Hosts that the session's tools may ask, of those that the workspace allows: host (https), host:port, host:*, *.domain or
    /// *. In place of all limits that the session has; '*:*' lifts them.
    #[arg(long = "allow-host", value_name = "HOST")]
    hosts: Vec<HostPattern>,
    /// Methods that they may use, like GET. In place of all limits that the session has.
    #[arg(long = "allow-method", value_name = "METHOD")]
    methods: Vec<String>,
}

impl RuleArgs {
    fn rule(self) -> Option<Rule> {
        let rule = Rule {
            allowed_hosts: (!self.hosts.is_empty()).then_some(self.hosts),
            allowed_methods: (!self.methods.is_empty()).then_some(self.methods),
        };
        (!rule.is_empty()).then_some(rule)
    }
}

#[derive(Debug, Args)]
pub(crate) struct RequestsArgs {
    #[command(flatten)]
    which: Which,
    /// Only those of this node.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Only those of which this became.
    #[arg(long, value_enum, value_name = "OUTCOME")]
    outcome: Option<OutcomeArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OutcomeArg {
    /// There was an answer.
    Answered,
    /// A rule was against it.
    Refused,
    /// There was no answer, or it broke off.
    Failed,
    /// The tool did not wait for the answer.
    Abandoned,
}

impl From<OutcomeArg> for Outcome {
    fn from(outcome: OutcomeArg) -> Self {
        match outcome {
            OutcomeArg::Answered => Self::Answered,
            OutcomeArg::Refused => Self::Refused,
            OutcomeArg::Failed => Self::Failed,
            OutcomeArg::Abandoned => Self::Abandoned,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Only if the session has this revision still.
    #[arg(long, value_name = "REVISION", value_parser = revision)]
    if_match: Option<u64>,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    #[command(flatten)]
    which: Which,
    /// Go on with what its base image is by now.
    #[arg(long)]
    update_image: bool,
    /// Only if the session has this revision still.
    #[arg(long, value_name = "REVISION", value_parser = revision)]
    if_match: Option<u64>,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct ForkArgs {
    /// The session's identifier, or its flow.
    #[arg(value_name = "SESSION|FLOW")]
    session: Name,
    /// The new flow.
    #[arg(long, value_name = "NAME")]
    flow: Name,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) async fn run(api: &Api, command: SessionCommand) -> Result<ExitCode, ClientError> {
    match command {
        SessionCommand::Start(args) => return start(api, *args).await,
        SessionCommand::List => {
            let items = api.list(api.here(["sessions"])).await?;
            api.show_list(
                items,
                sessions,
                "there are no sessions; `flowcell session start --flow NAME` starts one",
            )?;
        }
        SessionCommand::Show(which) => {
            let id = which.find(api).await?;
            let answer = api.get(api.here(["sessions", &id])).await?;
            api.show(&answer, session)?;
        }
        SessionCommand::Update(args) => return update(api, *args).await,
        SessionCommand::Reset(args) => {
            let id = args.which.find(api).await?;
            let url = api.here(["sessions", &id, "reset"]);
            let request = api.change(Method::POST, url, args.if_match);
            let request = request.query(&[("update_image", args.update_image)]);
            let answer = api.send(request).await?;
            return ended_up(api, &settled(api, answer, &args.waiting).await?);
        }
        SessionCommand::Stop(args) => {
            let id = args.which.find(api).await?;
            let url = api.here(["sessions", &id, "stop"]);
            let answer = api.send(api.request(Method::POST, url)).await?;
            return ended_up(api, &settled(api, answer, &args.waiting).await?);
        }
        SessionCommand::Hibernate(which) => return asked(api, &which, "hibernate").await,
        SessionCommand::Resume(which) => return asked(api, &which, "resume").await,
        SessionCommand::Fork(args) => return fork(api, *args).await,
        SessionCommand::History(which) => {
            let id = which.find(api).await?;
            let items = api.list(api.here(["sessions", &id, "history"])).await?;
            api.show_list(items, history, "nothing has happened yet")?;
        }
        SessionCommand::Requests(args) => {
            let id = args.which.find(api).await?;
            let mut url = api.here(["sessions", &id, "requests"]);
            if let Some(node) = &args.node {
                url.query_pairs_mut().append_pair("node", node);
            }
            if let Some(outcome) = args.outcome.map(Outcome::from) {
                let outcome = outcome.as_str();
                url.query_pairs_mut().append_pair("outcome", outcome);
            }
            let items = api.list(url).await?;
            api.show_list(items, requests, "no such request was made of late")?;
        }
        SessionCommand::Packages(which) => packages::list(api, &which).await?,
        SessionCommand::Install(args) => return packages::install(api, args).await,
        SessionCommand::Lock(which) => packages::lock(api, &which).await?,
        SessionCommand::Logs(args) => logs::run(api, &args).await?,
        SessionCommand::Call(args) => return call::run(api, *args).await,
        SessionCommand::Tools(which) => {
            let id = which.find(api).await?;
            let url = api.here(["sessions", &id, "tools"]);
            // Tools are loaded for it, which may take as long as a call.
            let request = api.request(Method::GET, url).timeout(call::LONGEST);
            let answer = api.send(request).await?;
            match api.output() {
                Output::Json => terminal::raw(&answer.text()),
                Output::Text => {
                    let page: flowcell_server::api::page::Page<ToolView> = answer.read()?;
                    terminal::line(&tools(&page.items));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn start(api: &Api, args: StartArgs) -> Result<ExitCode, ClientError> {
    let settings = args.settings;
    let body = StartSession {
        flow: Some(args.flow),
        compute_kind: settings.compute_kind.map(Into::into),
        instance_type: settings.instance_type,
        compute: settings.compute,
        idle_seconds: settings.idle_time,
        identity: settings.identity,
        network: settings.network.rule(),
        base_image: args.image,
    };
    let mut url = api.here(["sessions"]);
    if args.dry_run {
        url.query_pairs_mut().append_pair("dry_run", "true");
        let answer = api.send(api.request(Method::POST, url).json(&body)).await?;
        if api.output() == Output::Text {
            terminal::note("this would be started");
        }
        api.show(&answer, session)?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer = api.create(url, &body).await?;
    ended_up(api, &settled(api, answer, &args.waiting).await?)
}

/// Asks something of a session that takes no settings, and shows what has become of it.
async fn asked(api: &Api, which: &Which, what: &str) -> Result<ExitCode, ClientError> {
    let id = which.find(api).await?;
    let url = api.here(["sessions", &id, what]);
    let answer = api.send(api.request(Method::POST, url)).await?;
    api.show(&answer, session)?;
    Ok(ExitCode::SUCCESS)
}

async fn fork(api: &Api, args: ForkArgs) -> Result<ExitCode, ClientError> {
    let id = Which::named(args.session).find(api).await?;
    let settings = args.settings;
    let body = ForkSession {
        flow: Some(args.flow),
        compute_kind: settings.compute_kind.map(Into::into),
        instance_type: settings.instance_type,
        compute: settings.compute,
        idle_seconds: settings.idle_time,
        identity: settings.identity,
        network: settings.network.rule(),
    };
    let answer = api
        .create(api.here(["sessions", &id, "fork"]), &body)
        .await?;
    ended_up(api, &settled(api, answer, &args.waiting).await?)
}

async fn update(api: &Api, args: UpdateArgs) -> Result<ExitCode, ClientError> {
    let id = args.which.find(api).await?;
    let settings = args.settings;
    let body = UpdateSession {
        compute_kind: settings.compute_kind.map(Into::into),
        instance_type: settings.instance_type,
        compute: settings.compute,
        idle_seconds: settings.idle_time,
        identity: settings.identity,
        network: settings.network.rule(),
    };
    let url = api.here(["sessions", &id]);
    let request = api.change(Method::PATCH, url, args.if_match).json(&body);
    let answer = api.send(request).await?;
    ended_up(api, &settled(api, answer, &args.waiting).await?)
}

/// Shows what has become of a session; that it failed is an error.
fn ended_up(api: &Api, answer: &Answer) -> Result<ExitCode, ClientError> {
    let view: SessionView = answer.read()?;
    api.show(answer, session)?;
    if view.state != SessionState::Failed {
        return Ok(ExitCode::SUCCESS);
    }
    if api.output() == Output::Text {
        terminal::fail_helping(&format!("session {} failed: {}", view.id, view.reason), &[]);
    }
    Ok(ExitCode::FAILURE)
}
