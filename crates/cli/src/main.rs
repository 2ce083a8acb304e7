//! The `flowcell` command.

mod bundle;
mod flow_init;
mod flow_test;
mod flow_validate;
mod inputs;
mod serve;
mod settings;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::settings::Settings;

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
    /// Build and look at bundles: the base images of sessions.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Host compute sessions for many users, over HTTP.
    Serve(serve::ServeArgs),
}

#[derive(Debug, Subcommand)]
enum FlowCommand {
    /// Run a flow, or one of its nodes, once.
    Test(Box<flow_test::TestArgs>),
    /// Find everything that is wrong with a flow, without running it.
    Validate(flow_validate::ValidateArgs),
    /// Make a new flow.
    Init(flow_init::InitArgs),
}

#[derive(Debug, Subcommand)]
enum BundleCommand {
    /// Build a bundle from its sources.
    Build(bundle::BuildArgs),
    /// List the bundles of the store.
    List(OutputArgs),
    /// Show what a bundle holds.
    Show(bundle::ShowArgs),
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON object on standard output, and nothing else there.
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let settings = match Settings::new(cli.home) {
        Ok(settings) => settings,
        Err(message) => return terminal::fail(&message),
    };
    if cli.version {
        settings.print_versions();
        return ExitCode::SUCCESS;
    }
    match cli.command {
        Some(Command::Serve(args)) => serve::main(&settings, args),
        command => command_main(&settings, command),
    }
}

/// All commands but the server.
fn command_main(settings: &Settings, command: Option<Command>) -> ExitCode {
    terminal::start_logging(LevelFilter::WARN, None);
    let runtime = match runtime(0) {
        Ok(runtime) => runtime,
        Err(error) => return terminal::fail(&format!("cannot start worker threads: {error}")),
    };
    runtime.block_on(async {
        // Dropping the command's future stops its guests and removes its working copy.
        tokio::select! {
            code = run(settings, command) => code,
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
        Some(Command::Flow(FlowCommand::Validate(args))) => {
            flow_validate::run(settings, args).await
        }
        Some(Command::Flow(FlowCommand::Init(args))) => flow_init::run(&args),
        Some(Command::Bundle(BundleCommand::Build(args))) => bundle::build(settings, &args).await,
        Some(Command::Bundle(BundleCommand::List(args))) => bundle::list(settings, &args),
        Some(Command::Bundle(BundleCommand::Show(args))) => bundle::show(settings, &args),
        // It has threads and logging of its own: `serve::main`.
        Some(Command::Serve(_)) => ExitCode::FAILURE,
        // clap prints the help when there is nothing at all on the command line.
        None => terminal::fail("no command given; `flowcell --help` lists them"),
    }
}
