//! The `flowcell` command.

mod app;
mod bundle;
mod bundle_build;
mod bundle_registry;
mod chat;
mod client;
mod connections;
mod environment;
mod flow_init;
mod flow_test;
mod flow_validate;
mod inputs;
mod network;
mod serve;
mod settings;
mod store;
mod terminal;
mod trace;
mod transfers;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mimalloc::MiMalloc;
use tracing::level_filters::LevelFilter;

use crate::client::{Connection, Group, Nothing, Remote, Task};
use crate::settings::Settings;

/// A call makes and drops many small things on the threads of two runtimes, which takes less of its time here than with the
/// system's allocator. Without the guard pages and checks of its `secure` mode: guests' memories do not come from it, and what
/// is written to it is written by safe Rust.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Runs prompt flow folders, unchanged, in WebAssembly sandboxes.
#[derive(Debug, Parser)]
#[command(
    name = "flowcell",
    version,
    disable_version_flag = true,
    arg_required_else_help = true
)]
struct Cli {
    /// Print the versions of flowcell, wasmtime and CPython.
    #[arg(short = 'V', long)]
    version: bool,
    /// Folder of the bundle store and its caches.
    #[arg(long, global = true, env = "FLOWCELL_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make, check and try flows.
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Run a flow that was built into one component, with nothing beside it.
    Run(Box<app::RunAppArgs>),
    /// Build and look at bundles: the base images of sessions.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Look at what the store takes of the disk, and delete what nobody uses.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Resolve a flow's requirements and write them down as pylock.toml.
    Lock(environment::LockArgs),
    /// Tell whether a flow's folder will run here, before anything is started.
    Doctor(environment::DoctorArgs),
    /// Host compute sessions for many users, over HTTP.
    Serve(serve::ServeArgs),
    /// Start, use and stop compute sessions of a host.
    Session(Group<client::SessionCommand>),
    /// Slices of a host that sessions run on.
    Compute(Group<client::ComputeCommand>),
    /// Workspaces of a host.
    Workspace(Group<client::WorkspaceCommand>),
    /// Who may do what in a workspace.
    Role(Group<client::RoleCommand>),
    /// Identities of a workspace, and who may assign them.
    Identity(Group<client::IdentityCommand>),
    /// What package indexes and registries get to know: yours, or an identity's.
    Credential(Group<client::CredentialCommand>),
    /// What flows use services with: addresses and keys, which guests do not see.
    Connection(client::ConnectionGroup),
    /// What happened in calls: of flows that ran on this machine, or of a host's session.
    Trace(client::TraceGroup),
    /// Users of a host.
    User(Group<client::UserCommand>),
    /// API keys.
    Key(Group<client::KeyCommand>),
    /// Tell who you are to the host, and your roles.
    Me(Remote<Nothing>),
    /// Keep hosts, workspaces and keys under a name.
    #[command(subcommand)]
    Profile(client::ProfileCommand),
    /// Run sessions of a host; hosts start this themselves.
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
    /// Print a script that completes commands in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum FlowCommand {
    /// Run a flow, or one of its nodes, once.
    Test(Box<flow_test::TestArgs>),
    /// Build a flow, with its whole environment, into one component.
    Build(app::BuildArgs),
    /// Find everything that is wrong with a flow, without running it.
    Validate(flow_validate::ValidateArgs),
    /// Make a new flow.
    Init(flow_init::InitArgs),
    /// Make a flow at a host.
    Create(Remote<client::CreateFlowArgs>),
    /// List the flows of a host's workspace.
    List(Remote<Nothing>),
    /// Show a flow of a host, and its files.
    Show(Remote<client::FlowNameArgs>),
    /// Upload a folder to a host, in place of all files of a flow.
    Upload(Remote<client::UploadArgs>),
    /// Download the files of a host's flow into a new folder.
    Download(Remote<client::DownloadArgs>),
    /// Delete a flow of a host.
    Delete(Remote<client::DeleteFlowArgs>),
}

#[derive(Debug, Subcommand)]
enum BundleCommand {
    /// Build a bundle from its sources.
    Build(bundle_build::BuildArgs),
    /// List the bundles of the store.
    List(OutputArgs),
    /// Show what a bundle holds.
    Show(bundle::ShowArgs),
    /// Remove a name from the store.
    Rm(bundle::RemoveArgs),
    /// Give a bundle another name in the store.
    Tag(bundle::TagArgs),
    /// Push a bundle to a registry.
    Push(Box<bundle_registry::PushArgs>),
    /// Pull a bundle from a registry.
    Pull(bundle_registry::PullArgs),
    /// Look at an image in a registry, without pulling it.
    Inspect(bundle_registry::InspectArgs),
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Output {
    /// For people: tables of lists, names and values of single things.
    #[default]
    #[value(alias = "table")]
    Text,
    /// One JSON object on standard output, and nothing else there.
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = match cli.command.map(Command::remote) {
        Some(Ok(task)) => return block_on(client::run(task)),
        Some(Err(Command::Profile(command))) => return client::profile(&command),
        Some(Err(Command::Completions { shell })) => return completions(shell),
        Some(Err(Command::Worker(args))) => return worker::main(&args),
        Some(Err(command)) => Some(command),
        None => None,
    };
    let settings = match Settings::new(cli.home) {
        Ok(settings) => settings,
        Err(message) => return terminal::fail(&message),
    };
    if cli.version {
        settings.print_versions();
        return ExitCode::SUCCESS;
    }
    match command {
        Some(Command::Serve(args)) => serve::main(&settings, args),
        command => block_on(run(&settings, command)),
    }
}

impl Command {
    /// What is asked of a host; a command that asks none is given back.
    fn remote(self) -> Result<(Connection, Task), Self> {
        use client::FlowTask;

        Ok(match self {
            Self::Session(group) => group.task(Task::Session),
            Self::Compute(group) => group.task(Task::Compute),
            Self::Workspace(group) => group.task(Task::Workspace),
            Self::Role(group) => group.task(Task::Role),
            Self::Identity(group) => group.task(Task::Identity),
            Self::Credential(group) => group.task(Task::Credential),
            Self::Connection(group) if group.is_remote() => group.task(Task::Connection),
            Self::Trace(group) => return group.task().map_err(Self::Trace),
            Self::User(group) => group.task(Task::User),
            Self::Key(group) => group.task(Task::Key),
            Self::Me(remote) => remote.task(|_| Task::Me),
            Self::Flow(FlowCommand::Create(remote)) => {
                remote.task(|args| Task::Flow(FlowTask::Create(args)))
            }
            Self::Flow(FlowCommand::List(remote)) => remote.task(|_| Task::Flow(FlowTask::List)),
            Self::Flow(FlowCommand::Show(remote)) => {
                remote.task(|args| Task::Flow(FlowTask::Show(args)))
            }
            Self::Flow(FlowCommand::Upload(remote)) => {
                remote.task(|args| Task::Flow(FlowTask::Upload(args)))
            }
            Self::Flow(FlowCommand::Download(remote)) => {
                remote.task(|args| Task::Flow(FlowTask::Download(args)))
            }
            Self::Flow(FlowCommand::Delete(remote)) => {
                remote.task(|args| Task::Flow(FlowTask::Delete(args)))
            }
            other => return Err(other),
        })
    }
}

fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "flowcell", &mut script);
    terminal::raw(String::from_utf8_lossy(&script).trim_end());
    ExitCode::SUCCESS
}

/// Runs any command but the server.
fn block_on(command: impl Future<Output = ExitCode>) -> ExitCode {
    terminal::start_logging(LevelFilter::WARN, None);
    let runtime = match runtime(0) {
        Ok(runtime) => runtime,
        Err(error) => return terminal::fail(&format!("cannot start worker threads: {error}")),
    };
    runtime.block_on(async {
        // Dropping the command's future stops its guests and removes its working copy, or hangs up on the host.
        tokio::select! {
            code = command => code,
            _ = tokio::signal::ctrl_c() => {
                terminal::note("stopped");
                ExitCode::from(130)
            }
        }
    })
}

/// A runtime with this many threads; 0 for one for each core.
fn runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_io().enable_time().build()
}

async fn run(settings: &Settings, command: Option<Command>) -> ExitCode {
    match command {
        Some(Command::Flow(FlowCommand::Test(args))) => flow_test::run(settings, *args).await,
        Some(Command::Flow(FlowCommand::Build(args))) => app::build(settings, args).await,
        Some(Command::Run(args)) => app::run(settings, *args).await,
        Some(Command::Flow(FlowCommand::Validate(args))) => {
            flow_validate::run(settings, args).await
        }
        Some(Command::Flow(FlowCommand::Init(args))) => flow_init::run(&args),
        Some(Command::Bundle(BundleCommand::Build(args))) => {
            bundle_build::build(settings, &args).await
        }
        Some(Command::Bundle(BundleCommand::List(args))) => bundle::list(settings, &args),
        Some(Command::Bundle(BundleCommand::Show(args))) => bundle::show(settings, &args),
        Some(Command::Bundle(BundleCommand::Rm(args))) => bundle::remove(settings, &args),
        Some(Command::Bundle(BundleCommand::Tag(args))) => bundle::tag(settings, &args),
        Some(Command::Bundle(BundleCommand::Push(args))) => {
            bundle_registry::push(settings, &args).await
        }
        Some(Command::Bundle(BundleCommand::Pull(args))) => {
            bundle_registry::pull(settings, &args).await
        }
        Some(Command::Bundle(BundleCommand::Inspect(args))) => {
            bundle_registry::inspect(&args).await
        }
        Some(Command::Connection(group)) => {
            let (output, command) = group.local();
            connections::run(settings, command, output).await
        }
        Some(Command::Trace(group)) => {
            let (output, command) = group.local();
            trace::run(settings, &command, output)
        }
        Some(Command::Store(command)) => store::run(settings, &command),
        Some(Command::Lock(args)) => environment::lock(settings, args).await,
        Some(Command::Doctor(args)) => environment::doctor(settings, args).await,
        // `main` sees to all others. clap prints the help when there is nothing at all on the command line.
        _ => terminal::fail("no command given; `flowcell --help` lists them"),
    }
}
