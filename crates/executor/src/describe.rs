//! What a flow's nodes call, for who edits the flow: each tool's signature, and what is wrong with it.

use flowcell_flow::{Flow, Json, Node, NodeKind, Severity, Source, python_loads};
use serde_json::json;

use crate::check::Problem;
use crate::error::RunError;
use crate::host::Host;
use crate::session::{Prepared, SessionOptions, prepare};
use crate::tools::{Resolved, Signature, Tool, Tools};
use crate::workspace::Workspace;

/// A node and its tool.
#[derive(Debug)]
pub struct NodeTool {
    /// The node's name.
    pub node: String,
    /// Its type, when that is one that promptflow or flowcell knows.
    pub kind: Option<NodeKind>,
    /// Where its tool is.
    pub source: Option<Source>,
    /// What the tool takes, or why it cannot be told.
    pub tool: Result<Signature, Problem>,
    /// What [`check`](crate::check) finds about the tool and what the node gives it. A node of a type that does not run
    /// here has none, nor is a connection that is missing one.
    pub problems: Vec<Problem>,
}

/// Loads the tools of all nodes and says what each takes. A tool that cannot be loaded is described by its error, and the
/// others all the same. No tool is called, but loading a Python file executes it, in the sandbox and its limits.
///
/// It may block, as [`Session::open`](crate::Session::open) may.
///
/// # Errors
/// When nothing can be loaded: the bundle is not there, or the variant that `options` names (`InvalidFlowError`).
pub async fn describe(
    host: &Host,
    workspace: &Workspace,
    options: &SessionOptions,
) -> Result<Vec<NodeTool>, RunError> {
    let Prepared {
        mut flow,
        mut tools,
        leases: _leases,
        ..
    } = prepare(host, workspace, options)?;
    // What is wrong with an entry, its node has below.
    let _ = tools.complete(host, workspace, &mut flow).await;
    let mut nodes = Vec::with_capacity(flow.nodes.len());
    for node in &flow.nodes {
        let (tool, problems) = described(&mut tools, host, workspace, node).await;
        nodes.push(NodeTool {
            node: node.name.clone(),
            kind: node.kind,
            source: node.source.clone(),
            tool,
            problems,
        });
    }
    Ok(nodes)
}

/// The flow with all that its entry says of it, if it has one: inputs, and outputs by their annotations.
///
/// # Errors
/// When the entry cannot be loaded.
pub async fn complete_flow(
    host: &Host,
    workspace: &Workspace,
    options: &SessionOptions,
) -> Result<Flow, RunError> {
    let Prepared {
        mut flow,
        mut tools,
        leases: _leases,
        ..
    } = prepare(host, workspace, options)?;
    tools.complete(host, workspace, &mut flow).await?;
    if flow.outputs.is_empty() {
        tools.complete_outputs(host, &mut flow).await?;
    }
    Ok(flow)
}

/// The tools as JSON: for each node `node`, `type`, `source`, `description`, `inputs` (`name`, `types`, `default`,
/// `required`) and `problems` (`severity`, `class`, `message`, `line`, `help`).
pub fn described_json(nodes: &[NodeTool]) -> Json {
    nodes.iter().map(node_json).collect()
}

fn node_json(node: &NodeTool) -> Json {
    let mut problems: Vec<Json> = node.problems.iter().map(problem_json).collect();
    let (description, inputs) = match &node.tool {
        Ok(signature) => {
            let inputs = signature.inputs.iter().map(|input| {
                json!({
                    "name": input.name,
                    "types": input.types,
                    "default": input.default.as_deref().and_then(python_loads),
                    "required": input.required,
                })
            });
            let description = Some(&signature.description).filter(|text| !text.is_empty());
            (description, Some(inputs.collect::<Json>()))
        }
        Err(problem) => {
            if !node.problems.contains(problem) {
                problems.push(problem_json(problem));
            }
            (None, None)
        }
    };
    let source = node.source.as_ref();
    json!({
        "node": node.node,
        "type": node.kind.map(NodeKind::as_str),
        "source": source.and_then(|source| source.path.as_ref().or(source.tool.as_ref())),
        "description": description,
        "inputs": inputs,
        "problems": problems,
    })
}

fn problem_json(problem: &Problem) -> Json {
    json!({
        "severity": match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "class": problem.class,
        "message": problem.message,
        "line": problem.location.map(|location| location.line),
        "help": problem.help,
    })
}

async fn described(
    tools: &mut Tools,
    host: &Host,
    workspace: &Workspace,
    node: &Node,
) -> (Result<Signature, Problem>, Vec<Problem>) {
    let problem = |error: &RunError| Problem {
        location: Some(node.location()),
        ..Problem::from(error)
    };
    // The graph's checks find the former; connections are made apart from the flow.
    let counts = |error: &RunError| {
        runs_here(node) && node.source.is_some() && error.class != "ConnectionNotFoundError"
    };
    let found = match tools.find(host, workspace, node).await {
        Ok(found) => found,
        Err(error) => {
            let problem = problem(&error);
            let problems = counts(&error).then(|| problem.clone());
            return (Err(problem), problems.into_iter().collect());
        }
    };
    let signature = found.signature.clone();
    let problems = match tools.bind(host, node, found).await {
        Ok(resolved) => mismatches(node, &resolved),
        Err(error) if counts(&error) => vec![problem(&error)],
        Err(_) => Vec::new(),
    };
    (Ok(signature), problems)
}

fn runs_here(node: &Node) -> bool {
    !matches!(node.kind, None | Some(NodeKind::Csharp | NodeKind::Action))
}

/// Inputs that the tool does not know, and parameters that no input fills.
fn mismatches(node: &Node, resolved: &Resolved) -> Vec<Problem> {
    if let Tool::Prompt(_) | Tool::Entry { .. } = resolved.tool {
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
    let signature = &resolved.signature;
    let names: Vec<&str> = signature
        .inputs
        .iter()
        .map(|parameter| parameter.name.as_str())
        .collect();
    if !signature.open_inputs {
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
    // A template does without its variables.
    let parameters = match &resolved.tool {
        Tool::Llm(llm) => llm.own_parameters(),
        _ => signature.inputs.iter().collect(),
    };
    for parameter in parameters {
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
