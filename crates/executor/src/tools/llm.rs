//! LLM nodes: a prompt's template and a tool that sends it to a model.
//!
//! An `llm` node's tool follows from the type of its connection and its `api`; a `custom_llm` node names it. Both get the
//! template as a parameter, and the template's variables as further inputs.
//!
//! Rules: `ToolResolver._resolve_llm_node` and `_integrate_prompt_in_package_node`.

use std::sync::Arc;

use flowcell_bundle::ToolInput;
use flowcell_flow::{Assignment, Node, NodeInput};
use flowcell_sandbox::Pool;
use indexmap::IndexMap;

use super::{Found, Signature, Tool, Tools, prompt};
use crate::error::RunError;
use crate::host::Host;
use crate::workspace::Workspace;

/// The parameter that takes the connection of an `llm` node.
const CONNECTION: &str = "connection";
/// How a tool describes the parameter that takes the template.
const TEMPLATE: &str = "prompt_template";

/// What an LLM node calls.
#[derive(Debug)]
pub(crate) struct Llm {
    pub(crate) pool: Arc<Pool>,
    /// The tool's id.
    pub(crate) tool: String,
    /// The parameter that takes the template.
    pub(crate) parameter: String,
    pub(crate) template: String,
    /// What the tool itself takes; the node's signature has the template's variables, too.
    own: Signature,
    /// The template's variables that are images.
    images: Vec<String>,
    /// What the names of variables must not be, in promptflow's words.
    reserved_by: String,
    /// Whether its answer can be a stream, for a caller who takes one.
    pub(crate) streams: bool,
    /// The inputs whose values come from the flow's inputs.
    pub(crate) to_escape: Vec<String>,
}

impl Llm {
    /// The tool's parameters without the one that takes the template.
    pub(crate) fn own_parameters(&self) -> Vec<&ToolInput> {
        let parameters = self.own.inputs.iter();
        parameters
            .filter(|input| input.name != self.parameter)
            .collect()
    }
}

impl Tools {
    /// The tool of an `llm` node.
    pub(super) async fn llm(
        &mut self,
        workspace: &Workspace,
        node: &Node,
    ) -> Result<Found, RunError> {
        let class = self.connection_class(node.connection.as_deref().unwrap_or_default())?;
        let (module, provider) = match class.as_str() {
            "AzureOpenAIConnection" => ("aoai", "AzureOpenAI"),
            // A serverless endpoint speaks OpenAI's API.
            "OpenAIConnection" | "ServerlessConnection" => ("openai", "OpenAI"),
            other => {
                let message = format!("Connection type {other} is not supported for LLM.");
                return Err(prompt::unresolved(node, "InvalidConnectionType", &message));
            }
        };
        let api = format!("{provider}.{}", node.api.as_deref().unwrap_or("None"));
        let Some(tool) = self.bundled(&format!("promptflow.tools.{module}.{api}"))? else {
            let message = format!("The API '{api}' is not found.");
            let error = prompt::unresolved(node, "APINotFound", &message);
            return Err(error.help(format!(
                "an LLM node's api is chat or completion, by tools of its base image; the bundle is {}",
                self.components.manifest().reference()
            )));
        };
        let reserved_by = format!("the parameters of {api}");
        self.with_template(workspace, node, (tool.pool, tool.signature), reserved_by)
            .await
    }

    /// The tool of a `custom_llm` node.
    pub(super) async fn custom_llm(
        &mut self,
        workspace: &Workspace,
        node: &Node,
    ) -> Result<Found, RunError> {
        let source = node.source.as_ref();
        let id = source.and_then(|source| source.tool.as_deref());
        let Some(tool) = self.bundled(id.unwrap_or_default())? else {
            return Err(self.no_such_tool(node));
        };
        let reserved_by = "the inputs of custom llm tool".to_owned();
        self.with_template(workspace, node, (tool.pool, tool.signature), reserved_by)
            .await
    }

    async fn with_template(
        &mut self,
        workspace: &Workspace,
        node: &Node,
        (pool, mut signature): (Arc<Pool>, Signature),
        reserved_by: String,
    ) -> Result<Found, RunError> {
        let is_template = |input: &&ToolInput| input.types.iter().any(|one| one == TEMPLATE);
        let tool = signature.name.clone();
        let Some(parameter) = signature.inputs.iter().find(is_template) else {
            let message = format!(
                "Invalid Custom LLM tool {tool}: function {tool} is missing a prompt template argument."
            );
            return Err(prompt::unresolved(node, "InvalidCustomLLMTool", &message));
        };
        let parameter = parameter.name.clone();
        let path = node
            .source
            .as_ref()
            .and_then(|source| source.path.as_deref());
        let (template, variables) = self
            .template(workspace, node, path.unwrap_or("None"))
            .await?;
        let images = variables.iter().filter(|input| input.types == ["image"]);
        let images = images.map(|input| input.name.clone()).collect();
        let own = signature.clone();
        // The node gives these in its own way.
        signature.inputs.retain(|input| input.name != parameter);
        signature.inputs.extend(variables);
        Ok(Found {
            tool: Tool::Llm(Box::new(Llm {
                pool,
                tool,
                parameter,
                template,
                own,
                images,
                reserved_by,
                streams: self.streaming.contains(&node.name),
                to_escape: to_escape(node),
            })),
            signature,
            init: vec![CONNECTION.to_owned()],
        })
    }

    /// A node's inputs, with its connection, and with literals converted and images among them checked.
    pub(super) async fn llm_inputs(
        &mut self,
        host: &Host,
        node: &Node,
        llm: &Llm,
        signature: &Signature,
    ) -> Result<IndexMap<String, NodeInput>, RunError> {
        let parameter = |name: &str| llm.own.inputs.iter().find(|input| input.name == name);
        let mut inputs = self.converted(node, &llm.own)?;
        let variables = signature.inputs.iter().skip(llm.own_parameters().len());
        let taken: Vec<String> = variables
            .filter(|variable| parameter(&variable.name).is_some())
            .map(|variable| format!("'{}'", variable.name))
            .collect();
        if !taken.is_empty() {
            let message = format!(
                "Invalid inputs {{{}}} in prompt template of node {}. These inputs are duplicated with {}.",
                taken.join(", "),
                node.name,
                llm.reserved_by
            );
            return Err(prompt::unresolved(
                node,
                "NodeInputValidationError",
                &message,
            ));
        }
        if let (Some(name), Some(parameter)) = (&node.connection, parameter(CONNECTION)) {
            let connection = NodeInput::Connection {
                name: name.as_str().into(),
                types: parameter.types.clone(),
            };
            inputs.insert(CONNECTION.to_owned(), connection);
        }
        for name in &llm.images {
            if let Some(input) = inputs.get_mut(name)
                && let NodeInput::Value(value) = input
            {
                *input = NodeInput::Image(value.take());
            }
        }
        let is_parameter = |name: &str| parameter(name).is_some();
        self.literal_images(host, &node.name, &mut inputs, is_parameter)
            .await?;
        Ok(inputs)
    }

    /// The class of a connection (`OpenAIConnection`).
    fn connection_class(&self, name: &str) -> Result<String, RunError> {
        let found = self.connections.find(name)?;
        Ok(found.kind().class_name().to_owned())
    }
}

/// The inputs of a node whose values come from the flow's inputs: roles in them are text.
pub(super) fn to_escape(node: &Node) -> Vec<String> {
    let inputs = node.inputs.iter();
    inputs
        .filter(|(_, assignment)| matches!(assignment, Assignment::FlowInput(_)))
        .map(|(name, _)| name.clone())
        .collect()
}
