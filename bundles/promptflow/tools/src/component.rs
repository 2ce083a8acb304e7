//! The component's exports: two tools, and their errors in promptflow's words.

use serde_json::{Map, Value, json};

use crate::{prompt, variables};

wit_bindgen::generate!({ world: "tool-component", path: "../../../wit" });

use exports::flowcell::tool::tool::Guest;
use flowcell::tool::types::{ErrorKind, Parameter, ToolError, ToolInfo};

const RENDER: &str = "promptflow.tools.template_rendering.render_template_jinja2";
const INSPECT: &str = "promptflow.tools.template_rendering.inspect_template";

struct Component;

impl Guest for Component {
    fn describe() -> Vec<ToolInfo> {
        vec![
            tool_info(RENDER, "Render text template using Jinja2", true),
            tool_info(
                INSPECT,
                "The variables of a template, or why it is none",
                false,
            ),
        ]
    }

    fn invoke(name: String, inputs: String) -> Result<String, ToolError> {
        let mut inputs: Map<String, Value> = serde_json::from_str(&inputs).map_err(|error| {
            refusal(
                "ValueError",
                format!("The inputs are not a JSON object: {error}"),
            )
        })?;
        let template = match inputs.shift_remove("template") {
            Some(Value::String(template)) => template,
            _ => {
                return Err(refusal(
                    "TypeError",
                    format!("{name} needs an input 'template' that is a text"),
                ));
            }
        };
        match name.as_str() {
            RENDER => prompt::render(&template, &inputs).map(|text| json!(text).to_string()).map_err(|error| {
                // promptflow writes this to the node's stderr too.
                eprintln!("Exception occurs: {error}");
                let message = format!("Failed to render jinja template: {error}. Please modify your prompt to fix the issue.");
                ToolError { own: true, ..refusal("JinjaTemplateError", message) }
            }),
            INSPECT => Ok(variables::inspect(&template).to_string()),
            _ => Err(refusal("LookupError", format!("This component has no tool {name:?}; it has {RENDER:?} and {INSPECT:?}"))),
        }
    }
}

fn tool_info(name: &str, description: &str, open_inputs: bool) -> ToolInfo {
    let template = Parameter {
        name: "template".into(),
        types: vec!["prompt_template".into()],
        default: None,
        required: true,
        init: false,
    };
    ToolInfo {
        name: name.into(),
        description: description.into(),
        inputs: vec![template],
        open_inputs,
    }
}

fn refusal(type_name: &str, message: String) -> ToolError {
    ToolError {
        kind: ErrorKind::User,
        type_name: type_name.into(),
        message,
        traceback: String::new(),
        own: false,
    }
}

export!(Component);
