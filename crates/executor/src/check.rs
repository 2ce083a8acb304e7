//! What `flow validate` finds: everything at once, where running a flow would stop at the first problem.

use flowcell_flow::{Finding, Location, Node, NodeKind, Severity};

use crate::error::RunError;
use crate::host::Host;
use crate::session::{Prepared, SessionOptions, prepare};
use crate::tools::{Resolved, Tool};
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
    let Prepared {
        flow, mut tools, ..
    } = match prepare(host, workspace, options) {
        Ok(prepared) => prepared,
        Err(error)
            if error.class == "InvalidFlowError" || error.class == "ConnectionNotFoundError" =>
        {
            findings.push(Problem::from(&error));
            return Ok(findings);
        }
        Err(error) => return Err(error),
    };
    for node in &flow.nodes {
        let runs_here = !matches!(
            node.kind,
            None | Some(NodeKind::Llm | NodeKind::CustomLlm | NodeKind::Csharp | NodeKind::Action)
        );
        if node.source.is_none() || !runs_here {
            continue;
        }
        match tools.resolve(host, workspace, node).await {
            Ok(resolved) => findings.extend(signature(node, &resolved)),
            // Connections are made apart from the flow.
            Err(error) if error.class == "ConnectionNotFoundError" => {}
            Err(error) => findings.push(Problem {
                location: Some(node.location()),
                ..Problem::from(&error)
            }),
        }
    }
    findings.sort_by_key(|finding| {
        finding
            .location
            .map_or(usize::MAX, |location| location.line)
    });
    findings.dedup_by(|a, b| a.message == b.message && a.location == b.location);
    Ok(findings)
}

/// Inputs that the tool does not know, and parameters that no input fills.
fn signature(node: &Node, resolved: &Resolved) -> Vec<Problem> {
    if let Tool::Prompt { .. } = resolved.tool {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut wrong = |message: String, help: String| {
        findings.push(Problem {
            severity: Severity::Error,
            class: "ToolSignatureMismatch".to_owned(),
            message,
            location: Some(node.location()),
            help: Some(help),
        });
    };
    let names: Vec<&str> = resolved
        .parameters
        .iter()
        .map(|parameter| parameter.name.as_str())
        .collect();
    if !resolved.open_inputs {
        for name in resolved
            .inputs
            .keys()
            .filter(|name| !names.contains(&name.as_str()))
        {
            let known = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            wrong(
                format!(
                    "Node '{}' gives its tool an input '{name}', which the tool does not have.",
                    node.name
                ),
                format!("remove the input, or add a parameter; the tool's parameters: {known}"),
            );
        }
    }
    for parameter in &resolved.parameters {
        if parameter.required && !resolved.inputs.contains_key(&parameter.name) {
            let dropped = node.inputs.contains_key(&parameter.name);
            let why = if dropped {
                " (null and \"\" count as not given)"
            } else {
                ""
            };
            wrong(
                format!(
                    "Node '{}' gives its tool no input '{}', which the tool needs{why}.",
                    node.name, parameter.name
                ),
                "add the input to the node, or a default to the parameter".to_owned(),
            );
        }
    }
    findings
}
