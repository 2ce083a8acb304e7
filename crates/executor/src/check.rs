//! What `flow validate` finds: everything at once, where running a flow would stop at the first problem.

use flowcell_flow::{Finding, Location, Severity};

use crate::describe::describe;
use crate::error::RunError;
use crate::host::Host;
use crate::session::SessionOptions;
use crate::workspace::Workspace;

/// Something about a flow that its author should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// promptflow's exception, or our own name for the problem.
    pub class: String,
    /// What is wrong.
    pub message: String,
    /// Where in the flow's file.
    pub location: Option<Location>,
    /// The way out, if it is known.
    pub help: Option<String>,
}

impl From<Finding> for Problem {
    fn from(finding: Finding) -> Self {
        Self {
            severity: finding.severity,
            class: finding.class.to_owned(),
            message: finding.message,
            location: finding.location,
            help: finding.help,
        }
    }
}

impl From<&RunError> for Problem {
    fn from(error: &RunError) -> Self {
        let traceback = error.traceback.as_deref().map(str::trim_end);
        Self {
            severity: Severity::Error,
            class: error.class.clone(),
            message: match traceback {
                Some(traceback) if !traceback.is_empty() => {
                    format!("{}\n{traceback}", error.message)
                }
                _ => error.message.clone(),
            },
            location: None,
            help: error.help.clone(),
        }
    }
}

/// Checks the flow's file, its graph, and its tools: that every file is there and loads, and that every tool can be
/// called with the inputs that its node gives. No tool is called.
///
/// # Errors
/// When the check itself cannot be made, because the bundle is not there, say.
pub async fn check(
    host: &Host,
    workspace: &Workspace,
    options: &SessionOptions,
) -> Result<Vec<Problem>, RunError> {
    let mut findings: Vec<Problem> = workspace
        .flow()
        .lint()
        .into_iter()
        .map(Problem::from)
        .collect();
    match describe(host, workspace, options).await {
        Ok(nodes) => findings.extend(nodes.into_iter().flat_map(|node| node.problems)),
        Err(error)
            if error.class == "InvalidFlowError" || error.class == "ConnectionNotFoundError" =>
        {
            findings.push(Problem::from(&error));
            return Ok(findings);
        }
        Err(error) => return Err(error),
    }
    findings.sort_by_key(|finding| {
        finding
            .location
            .map_or(usize::MAX, |location| location.line)
    });
    findings.dedup_by(|a, b| a.message == b.message && a.location == b.location);
    Ok(findings)
}
