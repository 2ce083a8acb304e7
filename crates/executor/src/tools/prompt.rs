//! Prompt nodes: Jinja templates, which a tool of the bundle inspects and renders.

use flowcell_flow::{Assignment, Node, NodeInput};
use serde::Deserialize;

use super::{Resolved, Tool, Tools};
use crate::error::RunError;
use crate::files::FileError;
use crate::host::Host;
use crate::workspace::Workspace;

/// The built-in tool behind prompt nodes.
pub(crate) const RENDER: &str = "promptflow.tools.template_rendering.render_template_jinja2";
/// Its companion that says which variables a template has.
const INSPECT: &str = "promptflow.tools.template_rendering.inspect_template";
/// Largest prompt template, in bytes.
const MAX_TEMPLATE: u64 = 4 << 20;

/// What [`INSPECT`] answers.
#[derive(Debug, Deserialize)]
struct Inspected {
    variables: Vec<String>,
    error: Option<TemplateError>,
}

#[derive(Debug, Deserialize)]
struct TemplateError {
    r#type: String,
    line: Option<u64>,
    message: String,
}

impl Tools {
    pub(super) async fn prompt(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
        path: &str,
    ) -> Result<Resolved, RunError> {
        let unresolved = |class: &str, message: String| {
            RunError::user(
                "ResolveToolError",
                format!("Tool load failed in '{}': ({class}) {message}", node.name),
            )
        };
        let template = read_template(workspace, path).map_err(|what| {
            let place = format!(
                "Node source path '{path}' is invalid on node '{}'",
                node.name
            );
            unresolved(
                "InvalidSource",
                match what {
                    None => format!("{place}."),
                    Some(what) => format!("{place}: the file {what}."),
                },
            )
        })?;
        let Some(inspect) = self.bundled(host, INSPECT)? else {
            return Err(RunError::user(
                "BundleError",
                format!(
                    "the bundle {} cannot render prompts: it has no tool {INSPECT}",
                    self.manifest.reference()
                ),
            ));
        };
        let mut instance = inspect
            .pool
            .checkout(self.wait)
            .await
            .map_err(|error| RunError::pool(&node.name, error))?;
        let inputs = serde_json::json!({ "template": template }).to_string();
        let answer = instance.invoke(&inspect.name, inputs).await.result;
        let answer = answer.map_err(|fault| RunError::fault(&node.name, fault))?;
        let answer = answer.map_err(|error| RunError::tool(&node.name, error))?;
        drop(instance);
        let inspected: Inspected = serde_json::from_str(&answer).map_err(|error| {
            RunError::system(
                "BundleError",
                format!("{INSPECT} answered {answer}: {error}"),
            )
        })?;
        if let Some(error) = inspected.error {
            let line = error.line.unwrap_or(1);
            return Err(RunError::system(
                "ResolveToolError",
                format!(
                    "Tool load failed in '{}': Jinja parsing failed at line {line}: ({}) {}",
                    node.name, error.r#type, error.message
                ),
            ));
        }
        if inspected
            .variables
            .iter()
            .any(|variable| variable == "template")
        {
            return Err(unresolved(
                "NodeInputValidationError",
                format!(
                    "Invalid inputs {{'template'}} in prompt template of node {}. These inputs are duplicated with the reserved parameters of prompt tool.",
                    node.name
                ),
            ));
        }
        // Unlike those of Python nodes, a prompt's literals are taken as they are, null and "" included.
        let inputs = node
            .inputs
            .iter()
            .map(|(name, assignment)| {
                let input = match assignment {
                    Assignment::Literal(value) => NodeInput::Value(value.clone()),
                    reference => NodeInput::Reference(reference.clone()),
                };
                (name.clone(), input)
            })
            .collect();
        Ok(Resolved {
            tool: Tool::Prompt {
                pool: inspect.pool,
                template,
            },
            inputs,
            parameters: Vec::new(),
            open_inputs: true,
            init: Vec::new(),
        })
    }
}

/// A template's text; otherwise what is wrong with the file, if there is one.
fn read_template(workspace: &Workspace, path: &str) -> Result<String, Option<String>> {
    let bytes = workspace.files().read(path, MAX_TEMPLATE);
    let bytes = bytes.map_err(|error| match error {
        FileError::Missing => None,
        FileError::Outside => Some("lies outside of the flow's folder".to_owned()),
        FileError::TooLarge { limit } => Some(format!("has more than {limit} bytes")),
        FileError::Io(error) => Some(format!("cannot be read: {error}")),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Some(format!(
            "is not UTF-8: the byte at {place} is wrong; save it as UTF-8"
        ))
    })
}
