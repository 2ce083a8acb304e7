//! `flowcell flow test`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use flowcell_bundle::ImageName;
use flowcell_executor::{
    Dialect, FlowResult, Host, ImageSink, RunError, RunOptions, Session, SessionOptions, Tracer,
    Workspace, WorkspaceLimits, envelope, flow_file, make_environment,
};
use flowcell_flow::JsonMap;
use flowcell_sandbox::Isolation;

use crate::network::NetworkArgs;
use crate::settings::Settings;
use crate::{Output, bundle_registry, chat, connections, inputs, terminal, trace};

const COMMAND: &str = "flowcell.flow.test";
/// promptflow's knob.
const NO_TRACING: &str = "PF_DISABLE_TRACING";

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The flow's folder, its flow.dag.yaml or flow.flex.yaml, or a prompty.
    #[arg(long, value_name = "DIR")]
    flow: PathBuf,
    /// Talk with a chat flow: each line of standard input is a question, and answers are shown while they come.
    #[arg(long, conflicts_with_all = ["node", "output"])]
    interactive: bool,
    #[command(flatten)]
    run: RunArgs,
    /// The bundle to run in, instead of the flow's own or the base bundle: name:version, or a registry's image, which is
    /// pulled if it is not there.
    #[arg(long, value_name = "IMAGE")]
    image: Option<ImageName>,
}

/// What a single run of a flow takes, wherever the flow comes from.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Inputs as name=value, or a JSON file. For a node: by the name of its input, or by what the input refers to (node.output, inputs.name).
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// A JSON file with inputs; of a .jsonl file, the first line counts.
    #[arg(long, visible_alias = "input", value_name = "FILE")]
    inputs_file: Option<PathBuf>,
    /// Run this node only.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Run this variant of a node instead of its default one.
    #[arg(long, value_name = "${NODE.VARIANT}")]
    variant: Option<String>,
    /// What the class of a flex flow is made with: name=value, or a JSON file.
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE")]
    init: Vec<String>,
    /// Environment variables for the flow's tools.
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE")]
    environment_variables: Vec<String>,
    /// Seconds that the flow may take.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    timeout: Duration,
    /// Memory of one instance, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=1024))]
    memory: u32,
    /// Whether nodes may share an instance (`session`), or every run gets fresh ones (`call`).
    #[arg(long, value_enum, default_value_t = IsolationArg::Session)]
    isolation: IsolationArg,
    /// A file with connections (YAML or JSON: a list, or a mapping from names, of what `connection create` takes), before
    /// those of this machine. ${env:NAME} in a value is a variable of the environment.
    #[arg(long, value_name = "FILE")]
    connections: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    output: crate::OutputArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum IsolationArg {
    Session,
    Call,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let duration = text
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match duration {
        Some(duration) if !duration.is_zero() && duration <= Duration::from_secs(86_400) => {
            Ok(duration)
        }
        _ => Err("a number of seconds above 0 and up to 86400 is needed".to_owned()),
    }
}

pub(crate) async fn run(settings: &Settings, args: TestArgs) -> ExitCode {
    if args.interactive {
        let talked = async {
            let session = open(settings, &args).await?;
            chat::talk(COMMAND, &session, args.run.given()?).await
        };
        let talked = talked.await;
        return talked.unwrap_or_else(|error| terminal::fail_with(COMMAND, &error));
    }
    let result = async {
        let session = open(settings, &args).await?;
        args.run.execute(settings, &session).await
    };
    args.run.finish(COMMAND, result.await)
}

async fn open(settings: &Settings, args: &TestArgs) -> Result<Session, RunError> {
    let mut options = args.run.options(settings)?;
    options.images = image_folder(&args.flow)?;
    let workspace = Workspace::copy_of(&args.flow, &WorkspaceLimits::default())?;
    let host = settings.host()?;
    if let Some(image) = &args.image {
        options.image = Some(bundle_registry::there(host.store(), image).await?);
    }
    let image = options.image.as_ref();
    let environment = settings.environment_options();
    let environment =
        make_environment(&host, &workspace, image, &options.bundle, &environment).await?;
    for note in &environment.notes {
        terminal::note(note);
    }
    options.image = Some(environment.image);
    options.site = environment.site;
    opened(&host, workspace, options).await
}

/// Opens a session, and says what its files printed while they were imported.
pub(crate) async fn opened(
    host: &Host,
    workspace: Workspace,
    options: SessionOptions,
) -> Result<Session, RunError> {
    let session = Session::open(host, workspace, options).await?;
    for note in session.notes() {
        terminal::note(note);
    }
    Ok(session)
}

impl RunArgs {
    /// The settings of a session, without image and requirements.
    pub(crate) fn options(&self, settings: &Settings) -> Result<SessionOptions, RunError> {
        // What is wrong with the inputs is said first.
        self.given()?;
        let mut options = SessionOptions::new(Settings::base_bundle());
        options.variant = self.variant.as_deref().map(str::parse).transpose()?;
        options.init = inputs::init(&self.init)?;
        options.environment_variables =
            inputs::pairs("--environment-variables", &self.environment_variables)?;
        options.connections = connections::given(settings, self.connections.as_deref())?;
        options.network = Some(self.network.gate()?);
        options.limits.wall_time = self.timeout;
        options.limits.cpu_time = self.timeout;
        options.limits.memory = (self.memory as usize) << 20;
        options.isolation = match self.isolation {
            IsolationArg::Session => Isolation::Session,
            IsolationArg::Call => Isolation::Call,
        };
        Ok(options)
    }

    fn given(&self) -> Result<JsonMap, RunError> {
        inputs::inputs(&self.inputs, self.inputs_file.as_deref())
    }

    /// Runs the flow, or the node that was asked for.
    pub(crate) async fn execute(
        &self,
        settings: &Settings,
        session: &Session,
    ) -> Result<FlowResult, RunError> {
        let given = self.given()?;
        let is_flex = session.flow().entry.is_some();
        if is_flex && self.node.is_some() {
            terminal::note("variant and node are not supported for eager flow, will be ignored");
        }
        let tracer = Arc::new(Tracer::new(true));
        let options = traced(&tracer);
        let (started, since) = (SystemTime::now(), Instant::now());
        let result = match &self.node {
            Some(node) if !is_flex => {
                let given = session.flow().node_test_inputs(node, &given)?;
                session.run_node(node, &given, &options).await
            }
            _ => session.run(&given, &options).await,
        };
        if options.observer.is_some() {
            let error = result.outputs.as_ref().err();
            let name = &session.flow().name;
            let trace = tracer.finish(name, started, since.elapsed(), result.status(), error);
            trace::keep(settings, &trace);
        }
        Ok(result)
    }

    /// Prints what has come of it.
    pub(crate) fn finish(&self, command: &str, result: Result<FlowResult, RunError>) -> ExitCode {
        let result = result.unwrap_or_else(FlowResult::failed);
        for warning in &result.warnings {
            terminal::note(warning);
        }
        if self.output.output == Output::Json {
            terminal::raw(&envelope(&result, Dialect::Python));
            return if result.outputs.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
        }
        print_logs(&result);
        match &result.outputs {
            Ok(outputs) => {
                for (name, value) in &result.metrics {
                    terminal::note(&format!("metric {name} = {value}"));
                }
                terminal::line(&indented(outputs));
                ExitCode::SUCCESS
            }
            Err(error) => terminal::fail_with(command, error),
        }
    }
}

/// A run whose trace has everything: it is its user's own machine.
fn traced(tracer: &Arc<Tracer>) -> RunOptions {
    if std::env::var(NO_TRACING).is_ok_and(|value| value.eq_ignore_ascii_case("true")) {
        return RunOptions::default();
    }
    let tracer = Arc::clone(tracer);
    RunOptions {
        observer: Some(Arc::new(move |event| tracer.hear(event))),
        record_content: true,
        capture: true,
        ..RunOptions::default()
    }
}

/// Images of outputs go where promptflow puts them: into `.promptflow` in the flow's folder.
fn image_folder(flow: &Path) -> Result<ImageSink, RunError> {
    let file = flow_file(flow)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    Ok(ImageSink::Folder(folder.join(".promptflow")))
}

/// What the nodes printed and logged, on standard error: the outputs have standard output to themselves.
pub(crate) fn print_logs(result: &FlowResult) {
    for node in &result.nodes {
        let logs = &node.logs;
        for (stream, text) in [
            ("stdout", &logs.stdout),
            ("stderr", &logs.stderr),
            ("log", &logs.log),
        ] {
            if !text.is_empty() {
                terminal::section(&format!("{} {stream}", node.name), text);
            }
        }
    }
}

/// Outputs as `pf flow test` prints them. What is not strict JSON (NaN) is printed as it is.
pub(crate) fn indented(outputs: &str) -> String {
    use serde::Serialize as _;

    let Ok(value) = serde_json::from_str::<serde_json::Value>(outputs) else {
        return outputs.to_owned();
    };
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => outputs.to_owned(),
    }
}
