//! Nodes whose tool is a component: one of the bundle's, or a file of the flow.

use std::sync::Arc;

use flowcell_flow::{Json, Node, NodeInput, python_repr};
use flowcell_sandbox::{Pool, ProgramKind};
use indexmap::IndexMap;

use super::{Found, Signature, Tool, Tools};
use crate::error::RunError;
use crate::files::FileError;
use crate::host::Host;
use crate::workspace::Workspace;

/// A component's tool, ready to be called.
pub(super) struct ComponentTool {
    pub(super) pool: Arc<Pool>,
    pub(super) signature: Signature,
}

impl From<ComponentTool> for Found {
    fn from(tool: ComponentTool) -> Self {
        Self {
            tool: Tool::Component {
                pool: tool.pool,
                tool: tool.signature.name.clone(),
            },
            signature: tool.signature,
            init: Vec::new(),
        }
    }
}

/// The tool whose endpoint is named by a text, and its inputs for that and for the connection that says where it is.
const OPEN_MODEL: (&str, &str, &str) = (
    "promptflow.tools.open_model_llm.OpenModelLLM.call",
    "endpoint_name",
    "connection",
);
/// What promptflow writes before the name of an endpoint that is a connection. It looks up others in Azure
/// (`onlineEndpoint/NAME`, `serverlessEndpoint/NAME`).
const LOCAL: &str = "localConnection";

impl Tools {
    /// Gives a tool the connection that its endpoint's name says, if there is one.
    pub(super) fn name_endpoint(
        &self,
        node: &Node,
        inputs: &mut IndexMap<String, NodeInput>,
    ) -> Result<(), RunError> {
        let (id, endpoint, connection) = OPEN_MODEL;
        let source = node.source.as_ref();
        let tool = source.and_then(|source| source.tool.as_deref());
        if tool == Some(id)
            && !inputs.contains_key(connection)
            && let Some(NodeInput::Value(Json::String(endpoint))) = inputs.get(endpoint)
            && let Some((kind, name)) = endpoint.split_once('/')
        {
            let found = self.connections.find(name);
            // Of the others the tool says what to do.
            if kind == LOCAL || found.is_ok() {
                let given = NodeInput::Connection {
                    name: name.into(),
                    types: vec![found?.kind().class_name().to_owned()],
                };
                inputs.insert(connection.to_owned(), given);
            }
        }
        Ok(())
    }

    pub(super) fn package(&self, node: &Node) -> Result<Found, RunError> {
        let id = node
            .source
            .as_ref()
            .and_then(|source| source.tool.clone())
            .unwrap_or_default();
        match self.bundled(&id)? {
            Some(tool) => Ok(tool.into()),
            None => Err(self.no_such_tool(node)),
        }
    }

    /// A tool of the session's components by its id, if there is one.
    pub(super) fn bundled(&self, id: &str) -> Result<Option<ComponentTool>, RunError> {
        let Some((component, tool)) = self.components.tool(id) else {
            return Ok(None);
        };
        Ok(Some(ComponentTool {
            pool: self.components.pool(component)?,
            signature: tool.clone().into(),
        }))
    }

    pub(super) fn no_such_tool(&self, node: &Node) -> RunError {
        let id = node
            .source
            .as_ref()
            .and_then(|source| source.tool.as_deref())
            .unwrap_or_default();
        let names = |ids: &mut dyn Iterator<Item = String>| {
            python_repr(&Json::Array(ids.map(Json::from).collect()))
        };
        let all = self.components.tool_ids();
        // promptflow collects only the tools that the flow names, and says "all" to those that it found among them.
        let mut named = all.iter().filter(|id| self.named.contains(*id)).cloned();
        RunError::user(
            "PackageToolNotFoundError",
            format!(
                "Package tool '{id}' is not found in the current environment. All available package tools are: {}.",
                names(&mut named)
            ),
        )
        .help(format!(
            "the bundle {} has {}",
            self.components.manifest().reference(),
            names(&mut all.iter().cloned())
        ))
    }

    pub(super) async fn wasm(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
        path: &str,
    ) -> Result<Found, RunError> {
        let invalid = |what: String| {
            RunError::user(
                "InvalidSource",
                format!("Load tool failed for node '{}'. {what}", node.name),
            )
        };
        let bytes = workspace
            .files()
            .read(path, flowcell_sandbox::MAX_COMPONENT as u64)
            .map_err(|error| {
                invalid(match error {
                    FileError::Missing => format!("Tool file '{path}' can not be found."),
                    FileError::Outside => {
                        format!("Tool file '{path}' lies outside of the flow's folder.")
                    }
                    FileError::TooLarge { limit } => {
                        format!(
                            "Tool file '{path}' has more than {limit} bytes, which is the limit."
                        )
                    }
                    FileError::Io(error) => format!("Tool file '{path}' cannot be read: {error}."),
                })
            })?;
        let program = host
            .compiled(|programs, progress| programs.untrusted(&bytes, path, progress))
            .map_err(|error| invalid(format!("Tool file {error}")))?;
        if program.kind() != ProgramKind::Tool {
            return Err(invalid(format!(
                "Tool file '{path}' is a Python runner, not a tool."
            )));
        }
        let pool = self.components.pool_of(program);
        let mut instance = pool
            .checkout(self.wait())
            .await
            .map_err(|error| RunError::pool(&node.name, error))?;
        let tools = instance
            .describe()
            .await
            .result
            .map_err(|fault| RunError::fault(&node.name, fault))?;
        drop(instance);
        let wanted = node
            .source
            .as_ref()
            .and_then(|source| source.tool.as_deref());
        let names = || {
            let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
            names.join(", ")
        };
        let tool = match (wanted, tools.as_slice()) {
            (Some(wanted), _) => {
                tools
                    .iter()
                    .find(|tool| tool.name == wanted)
                    .ok_or_else(|| {
                        invalid(format!(
                            "Tool file '{path}' has no tool '{wanted}'; it has {}.",
                            names()
                        ))
                    })?
            }
            (None, [only]) => only,
            (None, _) => {
                return Err(invalid(format!(
                    "Tool file '{path}' has several tools; name one of them as source.tool: {}.",
                    names()
                )));
            }
        };
        let signature = tool.clone().into();
        Ok(ComponentTool { pool, signature }.into())
    }
}
