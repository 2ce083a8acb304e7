//! Tools of components that a guest calls.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::contract::runner::flowcell::tool::tools;
use crate::contract::{ErrorKind, ToolError, ToolInfo};
use crate::error::Fault;
use crate::guest::Guest;
use crate::instance::Call;
use crate::json::is_json;
use crate::metered::CpuTimeExceeded;
use crate::pool::{Pool, PoolError};

/// What Python code can call beside its own: tools of components, as functions of modules.
pub trait Tools: std::fmt::Debug + Send + Sync {
    /// The tools of a module, and of those below it; each has its whole id (`module.function`) as its name.
    fn in_module(&self, module: &str) -> Vec<ToolInfo>;

    /// A tool by such an id, or the answer to a call of it with these inputs (JSON). This may take as long as compiling a
    /// component does.
    ///
    /// # Errors
    /// For the code that calls it: when there is none, or its component cannot be used.
    fn find(&self, id: &str, inputs: &str) -> Result<FoundTool, ToolError>;
}

/// What an id of a tool leads to.
#[derive(Debug)]
pub enum FoundTool {
    /// A tool.
    Callee(Callee),
    /// An answer of the host's own: JSON.
    Answer(String),
}

/// A tool that can be called.
#[derive(Debug)]
pub struct Callee {
    /// Instances of its component.
    pub pool: Arc<Pool>,
    /// Its name within the component.
    pub tool: String,
    /// How long an instance is waited for.
    pub wait: Duration,
}

impl tools::Host for Guest {
    fn in_module(&mut self, module: String) -> wasmtime::Result<Vec<ToolInfo>> {
        let tools = self.tools.as_ref();
        Ok(tools.map_or_else(Vec::new, |tools| tools.in_module(&module)))
    }

    async fn call(
        &mut self,
        id: String,
        inputs: String,
    ) -> wasmtime::Result<Result<String, ToolError>> {
        let Some(tools) = self.tools.clone() else {
            return Ok(Err(refused(
                "ToolNotFound",
                format!("there is no tool {id}"),
            )));
        };
        if !is_json(&inputs) {
            return Err(wasmtime::format_err!("a tool's inputs must be JSON"));
        }
        let cpu = self.cpu_limit.saturating_sub(self.called_cpu);
        let node = self.network.node.clone();
        let records_content = self.spans.records_content;
        // A task of its own: its time is counted there, and it needs more stack than a guest's call of the host has. It
        // ends with this future.
        let mut task = JoinSet::new();
        task.spawn(async move { called(&*tools, &id, inputs, (node, records_content), cpu).await });
        let call = match task.join_next().await {
            Some(Ok(Ok(Called::Tool(call)))) => *call,
            Some(Ok(Ok(Called::Host(answer)))) => return Ok(Ok(answer)),
            Some(Ok(Err(error))) => return Ok(Err(error)),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(wasmtime::format_err!("a tool's call is lost")),
        };
        self.called_cpu += call.usage.cpu;
        self.take_over(call.logs, call.metrics, call.spans)?;
        match call.result {
            Ok(answer) => Ok(answer),
            // What it may use is what its caller may, so the caller ends with it.
            Err(Fault::CpuTime { .. }) => Err(CpuTimeExceeded.into()),
            Err(fault) => Ok(Err(refused(fault.class(), fault.to_string()))),
        }
    }
}

async fn called(
    tools: &dyn Tools,
    id: &str,
    inputs: String,
    (node, records_content): (Option<Arc<str>>, bool),
    cpu: Duration,
) -> Result<Called, ToolError> {
    let Callee { pool, tool, wait } = match tools.find(id, &inputs)? {
        FoundTool::Callee(callee) => callee,
        FoundTool::Answer(answer) => return Ok(Called::Host(answer)),
    };
    let mut instance = pool.checkout_beside(wait).await.map_err(|error| {
        let class = match error {
            PoolError::Busy { .. } => "NoInstanceAvailable",
            PoolError::Start(_) => "SystemErrorException",
        };
        ToolError {
            kind: ErrorKind::System,
            ..refused(class, format!("the tool {id} could not start: {error}"))
        }
    })?;
    if let Some(node) = node {
        instance.attribute(&node);
    }
    instance.record_content(records_content);
    let call = instance.invoke_within(cpu, &tool, inputs).await;
    Ok(Called::Tool(Box::new(call)))
}

/// Who has answered a call.
enum Called {
    Tool(Box<Call<Result<String, ToolError>>>),
    Host(String),
}

fn refused(type_name: &str, message: String) -> ToolError {
    ToolError {
        kind: ErrorKind::User,
        type_name: type_name.to_owned(),
        message,
        traceback: String::new(),
        own: false,
    }
}
