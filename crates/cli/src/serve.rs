//! `flowcell serve`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use flowcell_server::{Config, Ready, Serve, Traces, serve};
use flowcell_session::TraceListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::settings::Settings;
use crate::terminal;
use flowcell_bundle::chain;

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The configuration file (TOML). FLOWCELL__SECTION__KEY in the environment overrides it.
    #[arg(long, value_name = "FILE", env = "FLOWCELL_CONFIG")]
    config: Option<PathBuf>,
    /// Listen here, whatever the configuration says.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<std::net::SocketAddr>,
    /// Run sessions in this many processes, whatever the configuration says; 0 runs them in this one.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// For trying things out: refuse to listen anywhere but on this machine.
    #[arg(long)]
    dev: bool,
    /// Check the configuration, print it with all defaults, and do nothing else.
    #[arg(long)]
    check_config: bool,
}

pub(crate) fn main(settings: &Settings, args: ServeArgs) -> ExitCode {
    let config = match config(&args) {
        Ok(config) => config,
        Err(message) => return terminal::fail(&message),
    };
    if args.check_config {
        return match toml::to_string_pretty(&config) {
            Ok(text) => {
                terminal::raw(text.trim_end());
                ExitCode::SUCCESS
            }
            Err(error) => terminal::fail(&format!("the configuration cannot be shown: {error}")),
        };
    }
    // Its client has threads of its own, and must be made before the runtime.
    let traces = match config.telemetry.otlp_endpoint.as_deref().map(Traces::to) {
        None => None,
        Some(Ok(traces)) => Some(traces),
        Some(Err(error)) => return terminal::fail(&format!("telemetry.otlp_endpoint: {error}")),
    };
    terminal::start_logging(LevelFilter::INFO, traces.as_ref());
    let code = match crate::runtime(config.server.threads) {
        Ok(runtime) => {
            runtime.block_on(run(settings, config, traces.as_ref().map(Traces::listener)))
        }
        Err(error) => terminal::fail(&format!("cannot start worker threads: {error}")),
    };
    if let Some(traces) = traces {
        traces.finish();
    }
    code
}

async fn run(settings: &Settings, config: Config, traces: Option<TraceListener>) -> ExitCode {
    let ending = CancellationToken::new();
    match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            let ending = ending.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                terminal::note("stopping: calls under way may finish");
                ending.cancel();
            });
        }
        (Err(error), _) | (_, Err(error)) => {
            return terminal::fail(&format!("cannot listen for signals: {error}"));
        }
    }
    let served = serve(
        Serve {
            traces,
            config,
            home: settings.home().to_owned(),
            bundle: Settings::base_bundle(),
            progress: Arc::new(terminal::progress),
            worker: crate::worker::worker(),
            compiler: crate::worker::compiler(),
            installer: crate::worker::installer(),
            on_ready: Box::new(ready),
        },
        ending,
    );
    match served.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => terminal::fail(&chain(&error)),
    }
}

/// The configuration that the command line asks for.
fn config(args: &ServeArgs) -> Result<Config, String> {
    let mut config = Config::read(args.config.as_deref()).map_err(|error| chain(&error))?;
    if let Some(listen) = args.listen {
        config.server.listen = listen;
    }
    if args.workers.is_some() {
        config.host.workers = args.workers;
        config.check().map_err(|error| chain(&error))?;
    }
    let listen = config.server.listen;
    if args.dev && !listen.ip().is_loopback() {
        return Err(format!(
            "--dev listens on this machine only, and server.listen is {listen}; use 127.0.0.1, or leave --dev out"
        ));
    }
    if !listen.ip().is_loopback() && config.server.tls.is_none() {
        terminal::note(&format!(
            "keys and data go over the network unencrypted: {listen} can be reached from elsewhere, and server.tls is not set"
        ));
    }
    Ok(config)
}

fn ready(ready: Ready) {
    if let Some(first) = ready.first_key {
        terminal::line(&format!(
            "This host is new. Its first user is '{}', who owns the workspace '{}'. The user's key, which is not shown again:",
            first.user, first.workspace
        ));
        terminal::raw(&first.key);
    }
    terminal::line(&format!("flowcell serves {}", ready.url));
}
