//! Python nodes: functions in the flow's files.

use std::path::Path;
use std::sync::Arc;

use flowcell_flow::{Node, NodeInput};
use flowcell_sandbox::{ErrorKind, Lease, LoadError, Pool, ToolError, ToolInfo};
use indexmap::IndexMap;

use super::{Found, Signature, Tool, Tools};
use crate::error::{Code, RunError};
use crate::files::FileError;
use crate::host::Host;
use crate::workspace::Workspace;

impl Tools {
    /// The description of a Python tool, whose file is imported at the first call.
    pub(crate) async fn load(
        &mut self,
        host: &Host,
        workspace: &Workspace,
        node: &str,
        source: &str,
    ) -> Result<ToolInfo, RunError> {
        let missing = || {
            RunError::user(
                "InvalidSource",
                format!(
                    "Load tool failed for node '{node}'. Tool file '{source}' can not be found."
                ),
            )
        };
        match workspace.files().check(source) {
            Ok(()) => {}
            Err(FileError::Missing | FileError::TooLarge { .. } | FileError::Io(_)) => {
                return Err(missing());
            }
            Err(FileError::Outside) => {
                return Err(missing().help(
                    "the path leads out of the flow's folder; move the file into it, or name it under additional_includes",
                ));
            }
        }
        let loader = self.python_loader(host).await?;
        let loaded = loader.load(node, source).await;
        self.note_import(source, &loaded.logs);
        match loaded.result {
            Ok(Ok(info)) => Ok(info),
            Ok(Err(error)) => Err(load_error(error, &workspace.shown(source))),
            Err(fault) => Err(RunError::fault(node, fault)),
        }
    }

    /// A node's inputs, with literals converted and those that are images checked.
    pub(super) async fn python_inputs(
        &mut self,
        host: &Host,
        node: &Node,
        signature: &Signature,
    ) -> Result<IndexMap<String, NodeInput>, RunError> {
        let mut inputs = self.converted(node, signature)?;
        let is_parameter = |name: &str| signature.inputs.iter().any(|input| input.name == name);
        self.literal_images(host, &node.name, &mut inputs, is_parameter)
            .await?;
        Ok(inputs)
    }

    pub(crate) async fn python_loader(&mut self, host: &Host) -> Result<&mut Lease, RunError> {
        // A file whose import trapped leaves a broken instance.
        if self.loader.as_ref().is_none_or(|loader| loader.is_broken()) {
            self.loader = None;
            let pool = self.python_runner(host)?;
            let lease = pool.checkout(self.wait()).await;
            self.loader = Some(lease.map_err(|error| RunError::pool("", error))?);
        }
        match &mut self.loader {
            Some(loader) => Ok(loader),
            None => Err(RunError::system(
                "SystemErrorException",
                "there is no Python instance",
            )),
        }
    }

    pub(crate) fn python_runner(&mut self, host: &Host) -> Result<Arc<Pool>, RunError> {
        if let Some(pool) = &self.python {
            return Ok(Arc::clone(pool));
        }
        let manifest = self.components.manifest();
        let reference = manifest.reference();
        let runner = manifest.python_runner().ok_or_else(|| {
            RunError::user("BundleError", format!("the bundle {reference} has no Python runner, which the flow's Python nodes need"))
        })?;
        let program = host.compiled(|programs, progress| programs.component(runner, progress))?;
        let preparation = self.preparation.as_mut();
        let stored = match preparation.filter(|_| program.base().is_some()) {
            Some(preparation) => preparation.find(host, &program),
            None => (None, None),
        };
        let pool = self.components.runner_pool(program, stored);
        self.python = Some(Arc::clone(&pool));
        Ok(pool)
    }

    pub(super) fn note_import(&mut self, source: &str, logs: &flowcell_sandbox::Logs) {
        for text in [&logs.stdout, &logs.stderr, &logs.log] {
            if !text.is_empty() {
                self.notes.push(format!(
                    "{source} printed while it was imported: {}",
                    text.trim_end()
                ));
            }
        }
    }
}

/// A file's tool as the runner describes it.
pub(super) fn found(source: String, info: ToolInfo) -> Found {
    let init = info.inputs.iter().filter(|input| input.init);
    Found {
        tool: Tool::Python { source },
        init: init.map(|input| input.name.clone()).collect(),
        signature: info.into(),
    }
}

fn load_error(error: LoadError, path: &Path) -> RunError {
    let one = "Please make sure you have one and only one tool definition in your script.";
    match error {
        LoadError::ImportFailed(error) => {
            let ToolError {
                kind,
                type_name,
                message,
                traceback,
                ..
            } = error;
            let message = format!(
                "Failed to load python module from file '{}': ({type_name}) {message}",
                path.display()
            );
            RunError {
                code: match kind {
                    ErrorKind::User => Code::User,
                    ErrorKind::System => Code::System,
                },
                traceback: (!traceback.is_empty()).then_some(traceback),
                ..RunError::user("PythonLoadError", message)
            }
        }
        LoadError::NoTool => RunError::user(
            "NoToolDefined",
            format!("No tool found in the python script. {one}"),
        ),
        LoadError::SeveralTools(names) => RunError::user(
            "MultipleToolsDefined",
            format!(
                "Expected 1 but collected {} tools: {}. {one}",
                names.len(),
                names.join(", ")
            ),
        ),
    }
}
