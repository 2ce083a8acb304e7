//! Prompt nodes: Jinja templates, which a tool of the bundle inspects and renders.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use flowcell_bundle::ToolInput;
use flowcell_flow::{Assignment, Flow, Node, NodeInput, NodeKind};
use flowcell_sandbox::Pool;
use indexmap::IndexMap;
use serde::Deserialize;

use super::{Found, Signature, Tool, Tools};
use crate::error::RunError;
use crate::files::FileError;
use crate::workspace::Workspace;

/// The built-in tool behind prompt nodes.
const RENDER: &str = "promptflow.tools.template_rendering.render_template_jinja2";
/// The one behind those whose text is read as a prompt: it keeps apart what comes from the flow's inputs.
const PROMPT_RESULT: &str = "promptflow.tools.template_rendering.prompt_result";
/// Their companion that says which variables a template has.
const INSPECT: &str = "promptflow.tools.template_rendering.inspect_template";
/// Largest prompt template, in bytes.
const MAX_TEMPLATE: u64 = 4 << 20;

/// What a prompt node calls.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) pool: Arc<Pool>,
    pub(crate) template: String,
    /// The inputs whose values come from the flow's inputs.
    pub(crate) to_escape: Vec<String>,
    /// Whether another node reads the text as a prompt, so that roles in what comes from the flow's inputs must be known.
    pub(crate) is_read: bool,
}

impl Prompt {
    /// The tool's name.
    pub(crate) fn tool(&self) -> &'static str {
        if self.is_read { PROMPT_RESULT } else { RENDER }
    }
}

/// What [`INSPECT`] answers.
#[derive(Debug, Deserialize)]
struct Inspected {
    variables: Vec<String>,
    /// Those in `![image]({{name}})`.
    images: Vec<String>,
    error: Option<TemplateError>,
}

/// Why a template does not parse.
#[derive(Debug, Deserialize)]
pub(crate) struct TemplateError {
    r#type: String,
    line: Option<u64>,
    message: String,
}

impl std::fmt::Display for TemplateError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            r#type, message, ..
        } = self;
        let line = self.line.unwrap_or(1);
        write!(
            formatter,
            "Jinja parsing failed at line {line}: ({type}) {message}"
        )
    }
}

impl Tools {
    pub(super) async fn prompt(
        &mut self,
        workspace: &Workspace,
        node: &Node,
        path: &str,
    ) -> Result<Found, RunError> {
        let (template, inputs) = self.template(workspace, node, path).await?;
        let Some(render) = self.bundled(RENDER)? else {
            return Err(self.no_prompts(RENDER));
        };
        // Images of earlier versions do not have the other tool.
        let is_read = self.read_by_prompts.contains(&node.name)
            && self.components.tool(PROMPT_RESULT).is_some();
        Ok(Found {
            tool: Tool::Prompt(Prompt {
                pool: render.pool,
                to_escape: super::llm::to_escape(node),
                is_read,
                template: template.clone(),
            }),
            signature: signature(path, &template, inputs),
            init: Vec::new(),
        })
    }

    /// A node's template, and its variables.
    pub(super) async fn template(
        &mut self,
        workspace: &Workspace,
        node: &Node,
        path: &str,
    ) -> Result<(String, Vec<ToolInput>), RunError> {
        let template = read_template(workspace, path).map_err(|what| {
            let place = format!(
                "Node source path '{path}' is invalid on node '{}'",
                node.name
            );
            let message = match what {
                None => format!("{place}."),
                Some(what) => format!("{place}: the file {what}."),
            };
            unresolved(node, "InvalidSource", &message)
        })?;
        let inputs = self.variables(&node.name, &template).await?;
        let inputs = inputs.map_err(|error| {
            RunError::system(
                "ResolveToolError",
                format!("Tool load failed in '{}': {error}", node.name),
            )
        })?;
        Ok((template, inputs))
    }

    fn no_prompts(&self, tool: &str) -> RunError {
        RunError::user(
            "BundleError",
            format!(
                "the bundle {} cannot render prompts: it has no tool {tool}",
                self.components.manifest().reference()
            ),
        )
    }

    /// What a template takes, or why it is none.
    pub(crate) async fn inspect(
        &mut self,
        whose: &str,
        path: &str,
        template: &str,
    ) -> Result<Result<Signature, TemplateError>, RunError> {
        let inputs = self.variables(whose, template).await?;
        Ok(inputs.map(|inputs| signature(path, template, inputs)))
    }

    /// The variables of a template, or why it is none.
    async fn variables(
        &mut self,
        whose: &str,
        template: &str,
    ) -> Result<Result<Vec<ToolInput>, TemplateError>, RunError> {
        let Some(inspect) = self.bundled(INSPECT)? else {
            return Err(self.no_prompts(INSPECT));
        };
        let mut instance = inspect
            .pool
            .checkout(self.wait())
            .await
            .map_err(|error| RunError::pool(whose, error))?;
        let inputs = serde_json::json!({ "template": template }).to_string();
        let answer = instance.invoke(INSPECT, inputs).await.result;
        let answer = answer.map_err(|fault| RunError::fault(whose, fault))?;
        let answer = answer.map_err(|error| RunError::tool(whose, error))?;
        drop(instance);
        let inspected: Inspected = serde_json::from_str(&answer).map_err(|error| {
            RunError::system(
                "BundleError",
                format!("{INSPECT} answered {answer}: {error}"),
            )
        })?;
        Ok(match inspected.error {
            Some(error) => Err(error),
            None => Ok(variables(&inspected.variables, &inspected.images)),
        })
    }
}

fn variables(variables: &[String], images: &[String]) -> Vec<ToolInput> {
    let input = |name: &String, value_type: &str| ToolInput {
        name: name.clone(),
        types: vec![value_type.to_owned()],
        default: None,
        required: true,
    };
    let mut inputs: Vec<ToolInput> = variables
        .iter()
        .map(|name| {
            let is_image = images.contains(name);
            input(name, if is_image { "image" } else { "string" })
        })
        .collect();
    let others = images.iter().filter(|name| !variables.contains(name));
    inputs.extend(others.map(|name| input(name, "image")));
    inputs
}

/// promptflow's description of a template: its variables, and the comment that it begins with.
fn signature(path: &str, template: &str, inputs: Vec<ToolInput>) -> Signature {
    let comment = template
        .strip_prefix("{#")
        .and_then(|rest| rest.split_once("#}"))
        .map_or("", |(comment, _)| comment);
    let is_line = !comment.contains('\n');
    Signature {
        name: stem(path),
        description: if is_line { comment.trim() } else { "" }.to_owned(),
        inputs,
        open_inputs: true,
    }
}

/// A file's name without the extension: promptflow's name for a tool that it describes by file.
pub(crate) fn stem(path: &str) -> String {
    let stem = Path::new(path).file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// The nodes whose outputs, as a whole, are inputs of prompt and LLM nodes.
pub(super) fn read_by_prompts(flow: &Flow) -> HashSet<String> {
    let is_prompt = |node: &&Node| {
        use NodeKind::{CustomLlm, Llm, Prompt};
        matches!(node.kind, Some(Prompt | Llm | CustomLlm))
    };
    let readers = flow.nodes.iter().filter(is_prompt);
    let inputs = readers.flat_map(|node| node.inputs.values());
    let read = inputs.filter_map(|input| match input {
        Assignment::NodeOutput { node, property, .. } if property.is_empty() => Some(node.clone()),
        _ => None,
    });
    read.collect()
}

pub(super) fn unresolved(node: &Node, class: &str, message: &str) -> RunError {
    RunError::user(
        "ResolveToolError",
        format!("Tool load failed in '{}': ({class}) {message}", node.name),
    )
}

/// A prompt node's inputs. Unlike those of other nodes, literals are taken as they are, null and "" included.
pub(super) fn inputs(
    node: &Node,
    signature: &Signature,
) -> Result<IndexMap<String, NodeInput>, RunError> {
    if signature
        .inputs
        .iter()
        .any(|input| input.name == "template")
    {
        return Err(unresolved(
            node,
            "NodeInputValidationError",
            &format!(
                "Invalid inputs {{'template'}} in prompt template of node {}. These inputs are duplicated with the reserved parameters of prompt tool.",
                node.name
            ),
        ));
    }
    let inputs = node.inputs.iter().map(|(name, assignment)| {
        let input = match assignment {
            Assignment::Literal(value) => NodeInput::Value(value.clone()),
            reference => NodeInput::Reference(reference.clone()),
        };
        (name.clone(), input)
    });
    Ok(inputs.collect())
}

/// A template's text; otherwise what is wrong with the file, if there is one.
pub(crate) fn read_template(workspace: &Workspace, path: &str) -> Result<String, Option<String>> {
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
