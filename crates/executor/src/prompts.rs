//! Calling prompt and LLM nodes, whose templates are filled in a component.
//!
//! Roles that users write must stay text, also where a prompt node puts them into a prompt that another node reads. So such
//! a prompt node gives its text twice, once with the words in the place of roles replaced by ids; the line keeps the
//! second beside the node's output, and hands it to the nodes that read the first.

use std::sync::Arc;

use flowcell_flow::{Assignment, MessageFormat, NodeInput};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::calls::Inputs;
use crate::error::RunError;
use crate::inputs::Arguments;
use crate::line::{Line, NodeEnd};
use crate::tools::{Llm, Prompt, Resolved};
use crate::value::Value;

/// The inputs that say how others are to be read; see the tools component.
const INPUTS_TO_ESCAPE: &str = "_inputs_to_escape";
const PROMPT_RESULTS: &str = "_prompt_results";

/// A prompt's text, and that with ids in place of some words.
#[derive(Deserialize)]
struct PromptResult<'a> {
    #[serde(borrow)]
    text: &'a RawValue,
    #[serde(borrow)]
    escaped: &'a RawValue,
    #[serde(borrow)]
    mapping: &'a RawValue,
}

impl Line {
    /// Renders a prompt.
    pub(crate) async fn prompt(
        &self,
        node: &str,
        prompt: &Prompt,
        resolved: &Resolved,
        arguments: Arguments,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        let format = self.session.flow.message_format;
        let mut inputs = self.json_inputs(node, arguments, format).await?;
        inputs.push(("template".to_owned(), json(&prompt.template)));
        if prompt.is_read {
            self.add_escapes(resolved, &prompt.to_escape, &mut inputs);
        }
        let answer = self
            .invoked(node, &prompt.pool, prompt.tool(), inputs, end)
            .await?;
        if !prompt.is_read {
            return Ok(Value::Json(answer.into()));
        }
        let result: PromptResult = serde_json::from_str(&answer).map_err(|error| {
            let message = format!("{} answered {answer}: {error}", prompt.tool());
            RunError::system("BundleError", message).in_node(node)
        })?;
        if result.escaped.get() != "null" {
            let PromptResult {
                escaped, mapping, ..
            } = &result;
            let kept = format!(r#"{{"escaped":{escaped},"mapping":{mapping}}}"#);
            self.prompt_results().insert(node.to_owned(), kept.into());
        }
        Ok(Value::Json(result.text.get().into()))
    }

    /// Sends a prompt to a model.
    pub(crate) async fn llm(
        &self,
        node: &str,
        llm: &Llm,
        resolved: &Resolved,
        arguments: Arguments,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        // Whatever format the flow's own messages have: the tools know this one.
        let mut inputs = self
            .json_inputs(node, arguments, MessageFormat::Basic)
            .await?;
        inputs.push((llm.parameter.clone(), json(&llm.template)));
        self.add_escapes(resolved, &llm.to_escape, &mut inputs);
        if llm.streams && self.options.parts.is_some() {
            return self.streaming_llm(node, llm, inputs, end).await;
        }
        self.component(node, &llm.pool, &llm.tool, inputs, end)
            .await
    }

    /// Adds what says where roles are text.
    fn add_escapes(&self, resolved: &Resolved, to_escape: &[String], inputs: &mut Inputs) {
        if !to_escape.is_empty() {
            let names = serde_json::Value::from(to_escape).to_string();
            inputs.push((INPUTS_TO_ESCAPE.to_owned(), names.into()));
        }
        let results = self.prompt_results();
        let read = resolved.inputs.iter().filter_map(|(name, input)| {
            let NodeInput::Reference(Assignment::NodeOutput { node, property, .. }) = input else {
                return None;
            };
            let result = results.get(node).filter(|_| property.is_empty())?;
            Some(format!("{}:{result}", json(name)))
        });
        let read: Vec<String> = read.collect();
        if !read.is_empty() {
            let read = format!("{{{}}}", read.join(","));
            inputs.push((PROMPT_RESULTS.to_owned(), read.into()));
        }
    }
}

/// A text as JSON.
fn json(text: &str) -> Arc<str> {
    serde_json::Value::from(text).to_string().into()
}
