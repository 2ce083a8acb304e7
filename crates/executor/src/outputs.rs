//! The flow's outputs.

use flowcell_flow::{Assignment, Json, MessageFormat, NodeInput, python_json};
use flowcell_sandbox::ToolError;

use crate::error::RunError;
use crate::images::{self, ImageSink, Whose};
use crate::inputs::{Argument, Arguments};
use crate::line::Line;
use crate::streaming::{Part, Source, Streamed, not_taken, unread};
use crate::tools::Resolved;
use crate::value::{Object, Value};

/// The outputs of a line.
pub(crate) struct Outputs {
    /// A JSON object.
    pub(crate) text: String,
    /// The one that went out in parts, and is not in the text.
    pub(crate) streamed: Option<Streamed>,
    /// What the entry of a flow without a graph has returned, where that is not a dict of JSON, which the text is.
    pub(crate) answer: Option<String>,
}

/// The output of a flow without a graph whose answer is no mapping.
const OUTPUT: &str = "output";

/// An entry of a JSON object.
fn entry(name: &str, value: &str) -> String {
    format!("{}: {value}", Json::from(name))
}

impl Line {
    /// The flow's outputs as the text of a JSON object. Outputs of bypassed nodes are null, with a warning.
    ///
    /// An output that is a stream goes to who takes parts, if somebody does, and is not among the others.
    pub(crate) async fn outputs(&self, warnings: &mut Vec<String>) -> Result<Outputs, RunError> {
        if self.session.flow.entry.is_some() {
            return self.entry_outputs().await;
        }
        let mut entries = Vec::new();
        let mut streams = Vec::new();
        for name in &self.session.graph.outputs {
            let Some(output) = self.session.flow.outputs.get(name) else {
                continue;
            };
            let text = match &output.reference {
                Assignment::Literal(value) => python_json(value),
                Assignment::FlowInput(input) => {
                    let value = self.flow_value(input)?;
                    self.output_text(name, name, value).await?
                }
                Assignment::NodeOutput { node, property, .. } => match self.output(node)? {
                    Value::Bypassed => {
                        warnings.push(format!(
                            "The node referenced by output:'{name}' is bypassed, which is not recommended."
                        ));
                        "null".to_owned()
                    }
                    Value::Answering(answering) => {
                        streams.push((name.clone(), node.as_str(), Source::Node(answering)));
                        continue;
                    }
                    value => {
                        let value = self.property(node, value, property).await?;
                        if let Some(stream) = self.as_stream(node, &value).await {
                            streams.push((name.clone(), node.as_str(), stream));
                            continue;
                        }
                        self.output_text(name, node, value).await?
                    }
                },
            };
            entries.push(entry(name, &text));
        }
        self.with_streams(entries, streams).await
    }

    /// The outputs of a flow without a graph: what its entry has returned, which is the output `output` where it is no mapping.
    async fn entry_outputs(&self) -> Result<Outputs, RunError> {
        let Some(node) = self.session.flow.nodes.first().map(|node| &node.name) else {
            return self.with_streams(Vec::new(), Vec::new()).await;
        };
        let members = match self.output(node)? {
            Value::Json(text) if text.starts_with('{') => {
                return Ok(Outputs {
                    text: text.to_string(),
                    streamed: None,
                    answer: None,
                });
            }
            Value::Object(object) => match self.members(node, &object).await? {
                Some(members) => Ok(members),
                None => Err(Argument::Object(object)),
            },
            value => Err(value.into()),
        };
        let is_mapping = members.is_ok();
        let mut entries = Vec::new();
        let mut streams = Vec::new();
        let mut answer = None;
        for (name, value) in members.unwrap_or_else(|value| vec![(OUTPUT.to_owned(), value)]) {
            if let Some(stream) = self.as_stream(node, &value).await {
                streams.push((name, node.as_str(), stream));
                continue;
            }
            let text = self.output_text(&name, node, value).await?;
            entries.push(entry(&name, &text));
            answer = Some(text);
        }
        let outputs = self.with_streams(entries, streams).await?;
        if is_mapping {
            answer = Some(outputs.text.clone());
        }
        Ok(Outputs { answer, ..outputs })
    }

    /// What an object is a mapping of.
    async fn members(
        &self,
        node: &str,
        object: &Object,
    ) -> Result<Option<Vec<(String, Argument)>>, RunError> {
        let mut held = self.hold(node, object.lane).await?;
        let members = held.instance().members(object.id).await;
        let members = self
            .ask(node, members)?
            .map_err(|error| self.raised(node, error))?;
        Ok(members.map(|members| {
            let members = members.into_iter();
            members
                .map(|(name, outcome)| (name, held.value(outcome).into()))
                .collect()
        }))
    }

    /// The outputs as text. A stream among them goes to who takes parts.
    async fn with_streams(
        &self,
        entries: Vec<String>,
        mut streams: Vec<(String, &str, Source)>,
    ) -> Result<Outputs, RunError> {
        let outputs = format!("{{{}}}", entries.join(", "));
        if streams.len() > 1 {
            return Err(RunError::user(
                "MultipleStreamOutputFieldsNotSupported",
                "Multiple stream output fields not supported.",
            ));
        }
        let streamed = match (streams.pop(), &self.options.parts) {
            (Some((name, node, source)), Some(parts)) => {
                let given = parts.send(Part::Outputs(outputs.clone())).await;
                given.map_err(|_| not_taken())?;
                Some(self.hand_out(&name, node, source, parts).await?)
            }
            _ => None,
        };
        Ok(Outputs {
            text: outputs,
            streamed,
            answer: None,
        })
    }

    /// A value that is a stream, if somebody takes parts.
    async fn as_stream(&self, node: &str, value: &Argument) -> Option<Source> {
        match (&self.options.parts, value) {
            (Some(_), Argument::Object(object)) if self.is_stream(node, object).await => {
                Some(Source::Object(object.clone()))
            }
            _ => None,
        }
    }

    /// The error of what a value itself raised while it was looked at: a generator's code, say.
    pub(crate) fn raised(&self, node: &str, error: ToolError) -> RunError {
        if self.session.flow.entry.is_some() && error.own {
            let resolved = self.session.resolved.first();
            let name = resolved.map_or(node, |resolved| resolved.signature.name.as_str());
            let message = format!(
                "Execution failure in '{name}': ({}) {}",
                error.type_name, error.message
            );
            let traceback = Some(error.traceback).filter(|text| !text.is_empty());
            return RunError {
                traceback,
                ..RunError::user("ScriptExecutionError", message)
            }
            .in_node(node);
        }
        if error.own {
            RunError::own(error).in_node(node)
        } else {
            RunError::tool(node, error)
        }
    }

    /// Whether an object is an iterator, which is spent by being written.
    async fn is_stream(&self, node: &str, object: &Object) -> bool {
        let Ok(mut held) = self.hold(node, object.lane).await else {
            return false;
        };
        for method in ["__next__", "__anext__"] {
            let found = held.instance().property(object.id, method).await;
            match found.result {
                Ok(Ok(outcome)) => {
                    held.value(outcome);
                    return true;
                }
                Ok(Err(_)) => {}
                Err(_) => return false,
            }
        }
        false
    }

    async fn output_text(
        &self,
        output: &str,
        node: &str,
        value: Argument,
    ) -> Result<String, RunError> {
        let object = match value {
            Argument::Json(text) => return Ok(text.to_string()),
            Argument::Object(object) => object,
            Argument::Objects(_) => {
                return Err(RunError::system(
                    "SystemErrorException",
                    "a list of objects is no output",
                ));
            }
        };
        let mut held = self.hold(node, object.lane).await?;
        let dumped = held.instance().dump(object.id).await;
        let dumped = self.ask(node, dumped)?;
        let text = dumped.map_err(|error| {
            if error.own {
                return self.raised(node, error);
            }
            RunError::user(
                "FlowOutputUnserializable",
                format!(
                    "The output '{output}' for flow is incorrect. The output value is not JSON serializable. JSON dump failed: ({}) {}. Please verify your flow output and make sure the value serializable.",
                    error.type_name, error.message
                ),
            )
        })?;
        self.with_images(text, Whose::Flow)
    }

    /// The JSON form of a value that goes to a component.
    pub(crate) async fn json_form(&self, node: &str, value: Value) -> Result<String, RunError> {
        let format = self.session.flow.message_format;
        self.json_form_in(node, value, format).await
    }

    /// The same, with images as this format writes them.
    pub(crate) async fn json_form_in(
        &self,
        node: &str,
        value: Value,
        format: MessageFormat,
    ) -> Result<String, RunError> {
        match value {
            Value::Bypassed => Ok("null".to_owned()),
            Value::Json(text) => Ok(text.to_string()),
            Value::Answering(_) => Err(unread(node)),
            Value::Object(object) => {
                let mut held = self.hold(node, object.lane).await?;
                let dumped = held.instance().dump(object.id).await;
                let text = self
                    .ask(node, dumped)?
                    .map_err(|error| RunError::tool(node, error))?;
                images::place(text, format, &ImageSink::Inline, Whose::Node)
            }
        }
    }

    /// What a node test shows: the value's JSON form, or its `repr` where it has none, as promptflow records it.
    pub(crate) async fn dumped(&self, node: &str, value: Value) -> Result<String, RunError> {
        let Value::Object(object) = &value else {
            return self.json_form(node, value).await;
        };
        let mut held = self.hold(node, object.lane).await?;
        let dumped = held.instance().dump(object.id).await;
        match self.ask(node, dumped)? {
            Ok(text) => self.with_images(text, Whose::Node),
            Err(error) if error.own => Err(RunError::own(error).in_node(node)),
            Err(_) => Ok(Json::from(held.repr(object.id).await).to_string()),
        }
    }

    /// A value that has left its node, as text: what [`dumped`](Self::dumped) gives.
    pub(crate) async fn text_of(
        &self,
        whose: &str,
        argument: Argument,
    ) -> Result<String, RunError> {
        match argument {
            Argument::Json(text) => Ok(text.to_string()),
            Argument::Object(object) => self.dumped(whose, Value::Object(object)).await,
            Argument::Objects(_) => Err(RunError::system(
                "SystemErrorException",
                "a list of objects is no value of a line",
            )),
        }
    }

    /// The inputs of a call as a JSON object, for who captures them.
    pub(crate) async fn captured_inputs(
        &self,
        node: &str,
        resolved: &Resolved,
        arguments: &Arguments,
    ) -> String {
        let mut entries = Vec::with_capacity(arguments.len());
        for (name, argument) in arguments {
            if resolved.init.contains(name) {
                continue;
            }
            let text = match argument {
                Argument::Json(text) => match resolved.inputs.get(name) {
                    // As in promptflow, a connection is its name.
                    Some(NodeInput::Connection { name, .. }) => python_json(name),
                    _ => text.to_string(),
                },
                Argument::Object(object) => self.captured_object(node, object).await,
                Argument::Objects(objects) => {
                    let mut items = Vec::with_capacity(objects.len());
                    for object in objects {
                        items.push(self.captured_object(node, object).await);
                    }
                    format!("[{}]", items.join(", "))
                }
            };
            entries.push(format!("{}: {text}", Json::from(name.as_str())));
        }
        format!("{{{}}}", entries.join(", "))
    }

    /// A node's output, for who captures it.
    pub(crate) async fn captured_value(&self, node: &str, value: &Value) -> String {
        match value {
            // Whoever captures a stream would take it from the caller.
            Value::Bypassed | Value::Answering(_) => "null".to_owned(),
            Value::Json(text) => text.to_string(),
            Value::Object(object) => self.captured_object(node, object).await,
        }
    }

    /// An object's JSON form, or its `repr`, without a change to what the flow does: nothing here is an error, and a
    /// stream is not read.
    async fn captured_object(&self, node: &str, object: &Object) -> String {
        let is_stream = self.is_stream(node, object).await;
        let Ok(mut held) = self.hold(node, object.lane).await else {
            return Json::Null.to_string();
        };
        if !is_stream
            && let Ok(Ok(dumped)) = held.instance().dump(object.id).await.result
            && let Ok(text) = self.with_images(dumped, Whose::Node)
        {
            return text;
        }
        Json::from(held.repr(object.id).await).to_string()
    }
}
