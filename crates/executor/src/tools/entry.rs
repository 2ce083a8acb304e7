//! Entries: what flows without a graph call.

use flowcell_flow::{
    Assignment, EntryKind, Flow, Json, Node, ValueType, python_json, python_loads,
};
use flowcell_sandbox::{Argument, LoadError, Outcome, Request, ToolInfo};

use super::{Found, Tool, Tools};
use crate::error::RunError;
use crate::host::Host;
use crate::workspace::Workspace;

/// The runner's function that tells of an entry's outputs.
const OUTPUTS: &str = "flowcell_runner.entries:outputs";

impl Tools {
    /// Loads a flow's entry, and adds what its signature says where the flow's file does not: inputs, and whether the class
    /// has an aggregation.
    pub(crate) async fn complete(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        flow: &mut Flow,
    ) -> Result<(), RunError> {
        let Some(entry) = flow.entry.clone() else {
            return Ok(());
        };
        flow.check_entry()?;
        let Some(node) = flow.nodes.first_mut() else {
            return Ok(());
        };
        let Some(info) = self.load_entry(host, workspace, node).await? else {
            return Ok(());
        };
        for parameter in info.inputs.iter().filter(|parameter| !parameter.init) {
            let name = &parameter.name;
            let reference = Assignment::FlowInput(name.clone());
            node.inputs.insert(name.clone(), reference);
            // promptflow writes None, and whatever is not JSON, as an empty text.
            let empty = || Json::from("");
            let default = parameter.default.as_deref().and_then(python_loads);
            let default = default.filter(|value| !value.is_null());
            let default = (!parameter.required).then(|| default.unwrap_or_else(empty));
            let value_type = parameter.types.first().and_then(|name| name.parse().ok());
            let input = flow.inputs.entry(name.clone());
            let input =
                input.or_insert_with(|| entry.input(value_type.unwrap_or(ValueType::Object)));
            if input.default.is_none() {
                input.default = default;
            }
        }
        if entry.kind == EntryKind::Prompty {
            return Ok(());
        }
        let aggregation = entry.aggregation("");
        if let Some(info) = self.load_entry(host, workspace, &aggregation).await? {
            let answers = info.inputs.iter().find(|parameter| !parameter.init);
            let parameter = answers.map_or("", |parameter| &parameter.name);
            flow.nodes.push(entry.aggregation(parameter));
        }
        Ok(())
    }

    /// Adds the outputs that an entry's annotations tell of.
    pub(crate) async fn complete_outputs(
        &mut self,
        host: &Host,
        flow: &mut Flow,
    ) -> Result<(), RunError> {
        let Some(entry) = flow.entry.clone() else {
            return Ok(());
        };
        let source = python_json(&Json::from(entry.source()));
        let request = Request {
            node: String::new(),
            source: OUTPUTS.to_owned(),
            init: Vec::new(),
            inputs: vec![("of".to_owned(), Argument::Json(source))],
        };
        let loader = self.python_loader(host).await?;
        // They are for whoever reads the description, which does without.
        if let Ok(Ok(Outcome::Json(text))) = loader.call(&request).await.result
            && let Some(Json::Object(outputs)) = python_loads(&text)
        {
            for (name, value_type) in outputs {
                let value_type = value_type.as_str().and_then(|name| name.parse().ok());
                let output = entry.output(value_type.unwrap_or(ValueType::Object));
                flow.outputs.insert(name, output);
            }
        }
        Ok(())
    }

    /// A node of an entry, ready to be called.
    pub(super) async fn entry(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
    ) -> Result<Found, RunError> {
        let info = self.load_entry(host, workspace, node).await?;
        let mut info = info.ok_or_else(|| {
            RunError::system("SystemErrorException", "the class has no such method")
        })?;
        info.inputs.retain(|parameter| !parameter.init);
        Ok(Found {
            tool: Tool::Entry {
                source: entry_source(node).to_owned(),
            },
            signature: info.into(),
            init: Vec::new(),
        })
    }

    /// The description of what a node of an entry calls; `None` when the class has no such method.
    async fn load_entry(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &Node,
    ) -> Result<Option<ToolInfo>, RunError> {
        let file = workspace.flow_file();
        let loader = self.python_loader(host).await?;
        let loaded = loader.load(&node.name, entry_source(node)).await;
        self.note_import(file, &loaded.logs);
        match loaded.result {
            Ok(Ok(info)) => Ok(Some(info)),
            Ok(Err(LoadError::ImportFailed(error))) if error.own => Err(RunError::own(error)),
            Ok(Err(LoadError::ImportFailed(error))) => {
                let message = format!(
                    "Failed to load python module for {}: ({}) {}",
                    workspace.shown(file).display(),
                    error.type_name,
                    error.message
                );
                let traceback = Some(error.traceback).filter(|text| !text.is_empty());
                Err(RunError {
                    traceback,
                    ..RunError::user("PythonLoadError", message)
                })
            }
            Ok(Err(LoadError::NoTool | LoadError::SeveralTools(_))) => Ok(None),
            Err(fault) => Err(RunError::fault(&node.name, fault)),
        }
    }
}

/// The runner's name for what a node of an entry calls.
fn entry_source(node: &Node) -> &str {
    let source = node.source.as_ref();
    source
        .and_then(|source| source.path.as_deref())
        .unwrap_or_default()
}
