//! `flowcell session call`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use flowcell_executor::{Code, RunError};
use flowcell_server::api::calls::{CallAnswer, CallRequest};
use reqwest::Method;
use serde_json::Value;

use super::api::Api;
use super::error::ClientError;
use super::session_view::Which;
use crate::{Output, flow_test, inputs, terminal};

const COMMAND: &str = "flowcell.session.call";
/// Calls take as long as the host lets them; this is only for hosts that have gone without a word.
pub(super) const LONGEST: Duration = Duration::from_secs(86_400);

#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    #[command(flatten)]
    which: Which,
    /// Inputs as name=value, or a JSON file. For a node: by the name of its input, or by what the input refers to (node.output, inputs.name).
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// A JSON file with inputs; of a .jsonl file, the first line counts.
    #[arg(long, visible_alias = "input", value_name = "FILE")]
    inputs_file: Option<PathBuf>,
    /// Call this node only.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Use this variant of a node instead of its default one.
    #[arg(long, value_name = "${NODE.VARIANT}")]
    variant: Option<String>,
    /// What the class of a flex flow is made with: name=value, or a JSON file.
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE")]
    init: Vec<String>,
    /// Environment variables for the flow's tools.
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE")]
    environment_variables: Vec<String>,
}

pub(super) async fn run(api: &Api, args: CallArgs) -> Result<ExitCode, ClientError> {
    let body = CallRequest {
        inputs: inputs::inputs(&args.inputs, args.inputs_file.as_deref())?
            .into_iter()
            .collect(),
        node: args.node,
        variant: args.variant,
        init: inputs::init(&args.init)?.into_iter().collect(),
        environment_variables: inputs::pairs(
            "--environment-variables",
            &args.environment_variables,
        )?,
        id: None,
    };
    let id = args.which.find(api).await?;
    let request = api
        .request(Method::POST, api.here(["sessions", &id, "calls"]))
        .timeout(LONGEST)
        .json(&body);
    let answer = api.send(request).await?;
    let view: CallAnswer = answer.read()?;
    let code = match view.status.as_str() {
        "Completed" => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    };
    if api.output() == Output::Json {
        terminal::raw(&answer.text());
        return Ok(code);
    }
    print_logs(&view.nodes);
    match view.error.filter(|error| !error.is_null()) {
        Some(error) => {
            terminal::fail_with(COMMAND, &run_error(&error));
        }
        None => {
            for (name, value) in view.metrics.as_object().into_iter().flatten() {
                terminal::note(&format!("metric {name} = {value}"));
            }
            terminal::line(&flow_test::indented(&view.outputs.to_string()));
        }
    }
    Ok(code)
}

/// What the nodes printed and logged.
fn print_logs(nodes: &Value) {
    for node in nodes.as_array().into_iter().flatten() {
        let name = node["name"].as_str().unwrap_or_default();
        for stream in ["stdout", "stderr", "log"] {
            let text = node["logs"][stream].as_str().unwrap_or_default();
            if !text.is_empty() {
                terminal::section(&format!("{name} {stream}"), text);
            }
        }
    }
}

/// A flow's error, as it was before it became JSON.
fn run_error(error: &Value) -> RunError {
    let text = |key: &str| error[key].as_str().map(str::to_owned);
    RunError {
        class: text("class").unwrap_or_default(),
        code: match error["code"].as_str() {
            Some("UserError") => Code::User,
            _ => Code::System,
        },
        message: text("message").unwrap_or_default(),
        help: text("help"),
        node: text("node"),
        traceback: text("traceback"),
        source: None,
    }
}
