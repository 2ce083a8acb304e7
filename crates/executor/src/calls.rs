//! Calling a node's tool.

use std::sync::Arc;

use flowcell_flow::{EntryKind, MessageFormat, Node, python_json};
use flowcell_sandbox as sandbox;
use flowcell_sandbox::{Call, Fault, Request, ToolError};

use crate::error::RunError;
use crate::inputs::{Argument, Arguments, Brought, Moved, home};
use crate::lanes::Held;
use crate::line::{Line, NodeEnd};
use crate::result::is_strict_json;
use crate::tools::{Resolved, Tool};
use crate::value::Value;

/// Named inputs of a component's tool, each as JSON text.
pub(crate) type Inputs = Vec<(String, Arc<str>)>;

impl Line {
    /// Calls a node's tool with what its inputs refer to.
    pub(crate) async fn execute(
        &self,
        node: &Node,
        index: usize,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        let resolved = self.session.resolved.get(index).ok_or_else(|| {
            RunError::system(
                "SystemErrorException",
                format!("node '{}' was not resolved", node.name),
            )
        })?;
        let arguments = self.arguments(resolved).await.map_err(|error| {
            if error.node.is_some() {
                error
            } else {
                error.in_node(&node.name)
            }
        })?;
        if self.options.capture {
            end.inputs = Some(self.captured_inputs(&node.name, resolved, &arguments).await);
        }
        match &resolved.tool {
            Tool::Python { source } | Tool::Entry { source } => {
                self.python(&node.name, source, resolved, arguments, end)
                    .await
            }
            Tool::Component { pool, tool } => {
                let format = self.session.flow.message_format;
                let inputs = self.json_inputs(&node.name, arguments, format).await?;
                self.component(&node.name, pool, tool, inputs, end).await
            }
            Tool::Prompt(prompt) if home(&arguments).is_some() => {
                self.python_prompt(&node.name, &prompt.template, arguments, end)
                    .await
            }
            Tool::Prompt(prompt) => {
                self.prompt(&node.name, prompt, resolved, arguments, end)
                    .await
            }
            Tool::Llm(llm) => self.llm(&node.name, llm, resolved, arguments, end).await,
        }
    }

    /// Calls a Python tool or an entry in the lane that holds its objects, or in any.
    async fn python(
        &self,
        node: &str,
        source: &str,
        resolved: &Resolved,
        arguments: Arguments,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        let (mut held, arguments) = self.in_lane(node, arguments).await?;
        let (mut init, inputs): (Vec<_>, _) = arguments
            .into_iter()
            .partition(|(name, _)| resolved.init.contains(name));
        init.extend(self.entry_init());
        let request = Request {
            node: node.to_owned(),
            source: source.to_owned(),
            init,
            inputs,
        };
        self.begin(node, held.instance());
        let called = held.instance().call(&request).await;
        let outcome = self.called(node, called, end)?;
        Ok(held.value(outcome))
    }

    /// Makes the object of an entry's class, unless it is there.
    pub(crate) async fn make_entry(&self) -> Result<(), RunError> {
        let flow = &self.session.flow;
        let (Some(entry), Some(node)) = (&flow.entry, flow.nodes.first()) else {
            return Ok(());
        };
        if entry.kind == EntryKind::Prompty {
            return Ok(());
        }
        let (mut held, inputs) = self.in_lane(&node.name, Vec::new()).await?;
        let request = Request {
            node: node.name.clone(),
            source: format!("{}.__init__", entry.source()),
            init: self.entry_init().collect(),
            inputs,
        };
        self.begin(&node.name, held.instance());
        let made = held.instance().call(&request).await;
        let made = self.ask(&node.name, made)?;
        made.map_err(|error| RunError::tool(&node.name, error))?;
        Ok(())
    }

    /// What an entry's class is made with; nothing for flows with a graph.
    fn entry_init(&self) -> impl Iterator<Item = (String, sandbox::Argument)> {
        let init = self.session.init.iter();
        init.map(|(name, value)| (name.clone(), sandbox::Argument::Json(python_json(value))))
    }

    /// Renders a prompt over Python objects.
    async fn python_prompt(
        &self,
        node: &str,
        template: &str,
        arguments: Arguments,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        let (mut held, arguments) = self.in_lane(node, arguments).await?;
        self.begin(node, held.instance());
        let called = held.instance().render(template, &arguments).await;
        let outcome = self.called(node, called, end)?;
        Ok(held.value(outcome))
    }

    /// Tells an instance for which node it works, and who hears what it prints.
    fn begin(&self, node: &str, instance: &mut sandbox::Instance) {
        instance.listen(self.options.listener(node));
        instance.attribute(node);
        instance.record_content(self.options.record_content);
    }

    /// A lane for a call, and the call's arguments in it.
    async fn in_lane(
        &self,
        node: &str,
        arguments: Arguments,
    ) -> Result<(Held, Vec<(String, sandbox::Argument)>), RunError> {
        let Some(home) = home(&arguments) else {
            let held = self
                .lanes
                .any()
                .await
                .map_err(|error| RunError::pool(node, error))?;
            let arguments = arguments
                .into_iter()
                .filter_map(|(name, argument)| match argument {
                    Argument::Json(text) => Some((name, sandbox::Argument::Json(text.to_string()))),
                    Argument::Object(_) | Argument::Objects(_) => None,
                });
            return Ok((held, arguments.collect()));
        };
        // Packed before the home lane is taken: two nodes that each hold a lane and want the other's would wait forever.
        let brought = self.bring(node, arguments, home).await?;
        let mut held = self.hold(node, home).await?;
        let mut inputs = Vec::with_capacity(brought.len());
        for (name, argument) in brought {
            let argument = match argument {
                Brought::Json(text) => sandbox::Argument::Json(text.to_string()),
                Brought::Object(moved) => {
                    sandbox::Argument::Object(self.unpacked(node, &mut held, moved).await?)
                }
                Brought::Objects(list) => {
                    let mut objects = Vec::with_capacity(list.len());
                    for moved in list {
                        objects.push(self.unpacked(node, &mut held, moved).await?);
                    }
                    sandbox::Argument::Objects(objects)
                }
            };
            inputs.push((name, argument));
        }
        Ok((held, inputs))
    }

    async fn unpacked(&self, node: &str, held: &mut Held, moved: Moved) -> Result<u64, RunError> {
        match moved {
            Moved::Here(id) => Ok(id),
            Moved::Packed(bytes) => {
                let unpacked = held.instance().unpack(&bytes).await;
                held.keeps_objects();
                self.ask(node, unpacked)?
                    .map_err(|error| RunError::tool(node, error))
            }
        }
    }

    /// Arguments for a component: objects are written as JSON, which fails for those that have no JSON form.
    pub(crate) async fn json_inputs(
        &self,
        node: &str,
        arguments: Arguments,
        format: MessageFormat,
    ) -> Result<Inputs, RunError> {
        let mut inputs = Vec::with_capacity(arguments.len());
        for (name, argument) in arguments {
            let text = match argument {
                Argument::Json(text) => text,
                Argument::Object(object) => {
                    let form = self.json_form_in(node, Value::Object(object), format);
                    form.await?.into()
                }
                Argument::Objects(objects) => {
                    let mut items = Vec::with_capacity(objects.len());
                    for object in objects {
                        let form = self.json_form_in(node, Value::Object(object), format);
                        items.push(form.await?);
                    }
                    format!("[{}]", items.join(", ")).into()
                }
            };
            if !is_strict_json(&text) {
                return Err(RunError::user(
                    "ValueError",
                    format!("Execution failure in '{node}': input '{name}' holds NaN or Infinity, which JSON does not have and a component cannot take"),
                )
                .in_node(node));
            }
            inputs.push((name, text));
        }
        Ok(inputs)
    }

    /// Calls a component's tool in a free instance.
    pub(crate) async fn component(
        &self,
        node: &str,
        pool: &Arc<sandbox::Pool>,
        tool: &str,
        inputs: Inputs,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        let json = self.invoked(node, pool, tool, inputs, end).await?;
        Ok(Value::Json(json.into()))
    }

    /// [`component`](Self::component), for the text of its answer.
    pub(crate) async fn invoked(
        &self,
        node: &str,
        pool: &Arc<sandbox::Pool>,
        tool: &str,
        inputs: Inputs,
        end: &mut NodeEnd,
    ) -> Result<String, RunError> {
        let mut instance = self.instance(node, pool).await?;
        let called = instance.invoke(tool, json_object(&inputs)).await;
        self.called(node, called, end)
    }

    /// A free instance of a component, told for which node it works.
    pub(crate) async fn instance(
        &self,
        node: &str,
        pool: &Arc<sandbox::Pool>,
    ) -> Result<sandbox::Lease, RunError> {
        let mut instance = pool
            .checkout(self.session.wait)
            .await
            .map_err(|error| RunError::pool(node, error))?;
        self.begin(node, &mut instance);
        Ok(instance)
    }

    /// A tool's answer; what it printed and recorded goes to the node whether or not it succeeded.
    pub(crate) fn called<T>(
        &self,
        node: &str,
        call: Call<Result<T, ToolError>>,
        end: &mut NodeEnd,
    ) -> Result<T, RunError> {
        end.logs = call.logs;
        end.metrics = call.metrics;
        end.spans = call.spans;
        match call.result {
            Ok(answer) => answer.map_err(|error| RunError::tool(node, error)),
            Err(fault) => Err(self.faulted(node, fault)),
        }
    }

    pub(crate) fn faulted(&self, node: &str, fault: Fault) -> RunError {
        match fault {
            Fault::Timeout { limit } => self.timeout(limit).in_node(node),
            fault => RunError::fault(node, fault),
        }
    }
}

/// The text of a JSON object whose values are JSON text already.
pub(crate) fn json_object(entries: &[(String, Arc<str>)]) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in entries.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&serde_json::Value::from(name.as_str()).to_string());
        text.push(':');
        text.push_str(value);
    }
    text.push('}');
    text
}
