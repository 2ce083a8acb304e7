//! `flowcell flow validate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use flowcell_executor::{
    Problem, RunError, SessionOptions, Workspace, WorkspaceLimits, check, error_json, flow_file,
};
use flowcell_flow::Severity;
use serde_json::json;

use crate::settings::Settings;
use crate::{Output, OutputArgs, terminal};

const COMMAND: &str = "flowcell.flow.validate";

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// The flow's folder, or its flow.dag.yaml.
    #[arg(long, value_name = "DIR")]
    source: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(settings: &Settings, args: ValidateArgs) -> ExitCode {
    let findings = match validate(settings, &args).await {
        Ok(findings) => findings,
        Err(error) => {
            if args.output.output == Output::Json {
                terminal::raw(
                    &json!({ "result": "Failed", "error": error_json(&error), "findings": [] })
                        .to_string(),
                );
                return ExitCode::FAILURE;
            }
            return terminal::fail_with(COMMAND, &error);
        }
    };
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    let file = flow_file(&args.source).unwrap_or_else(|_| args.source.clone());
    let summary = format!(
        "{} has {errors} error{}",
        file.display(),
        if errors == 1 { "" } else { "s" }
    );
    if args.output.output == Output::Json {
        print_json(&findings, errors, &summary, &file.display().to_string());
    } else {
        for finding in &findings {
            let place = match finding.location {
                Some(location) => {
                    format!("{}:{}:{}", file.display(), location.line, location.column)
                }
                None => file.display().to_string(),
            };
            let is_error = finding.severity == Severity::Error;
            terminal::finding(
                is_error,
                &place,
                &finding.class,
                &finding.message,
                finding.help.as_deref(),
            );
        }
    }
    match (errors, args.output.output) {
        (0, Output::Text) => {
            terminal::line(&format!("{} is valid", file.display()));
            ExitCode::SUCCESS
        }
        (0, Output::Json) => ExitCode::SUCCESS,
        (_, Output::Text) => terminal::fail(&format!(
            "{COMMAND} failed with ValidationException: {summary}"
        )),
        (_, Output::Json) => ExitCode::FAILURE,
    }
}

async fn validate(settings: &Settings, args: &ValidateArgs) -> Result<Vec<Problem>, RunError> {
    // Without a flow file there is nothing to find anything in.
    flow_file(&args.source)?;
    let workspace = match Workspace::copy_of(&args.source, &WorkspaceLimits::default()) {
        Ok(workspace) => workspace,
        // promptflow's `validate` does not get to these either: an included file is missing, say.
        Err(error) if error.class == "UserErrorException" => return Err(error),
        Err(error) => return Ok(vec![Problem::from(&error)]),
    };
    let host = settings.host()?;
    let options = SessionOptions::new(Settings::base_bundle());
    check(&host, &workspace, &options).await
}

fn print_json(findings: &[Problem], errors: usize, summary: &str, file: &str) {
    let entries: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "severity": if finding.severity == Severity::Error { "error" } else { "warning" },
                "class": finding.class,
                "message": finding.message,
                "file": file,
                "line": finding.location.map(|location| location.line),
                "column": finding.location.map(|location| location.column),
                "help": finding.help,
            })
        })
        .collect();
    let (result, error) = match errors {
        0 => ("Succeeded", serde_json::Value::Null),
        _ => (
            "Failed",
            json!({ "class": "ValidationException", "message": summary }),
        ),
    };
    terminal::raw(&json!({ "result": result, "error": error, "findings": entries }).to_string());
}
