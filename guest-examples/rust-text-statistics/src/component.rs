//! The component's exports.

use crate::statistics::{DEFAULT_TOP, Inputs, text_statistics};

wit_bindgen::generate!({ world: "tool-component", path: "../../wit" });

use exports::flowcell::tool::tool::Guest;
use flowcell::tool::host::{self, Level};
use flowcell::tool::types::{ErrorKind, Parameter, ToolError, ToolInfo};

struct Component;

impl Guest for Component {
    fn describe() -> Vec<ToolInfo> {
        let text = Parameter {
            name: "text".into(),
            types: vec!["string".into()],
            default: None,
            required: true,
            init: false,
        };
        let top = Parameter {
            name: "top".into(),
            types: vec!["int".into()],
            default: Some(DEFAULT_TOP.to_string()),
            required: false,
            init: false,
        };
        vec![ToolInfo {
            name: "text_statistics".into(),
            description: "Counts a text's words and returns the most frequent ones.".into(),
            inputs: vec![text, top],
            open_inputs: false,
        }]
    }

    fn invoke(name: String, inputs: String) -> Result<String, ToolError> {
        if name != "text_statistics" {
            return Err(refusal(
                "LookupError",
                format!("this component has no tool {name:?}, only \"text_statistics\""),
            ));
        }
        let inputs: Inputs = serde_json::from_str(&inputs)
            .map_err(|error| refusal("TypeError", error.to_string()))?;
        let statistics = text_statistics(&inputs);
        host::log(Level::Info, &format!("{} words", statistics.words));
        serde_json::to_string(&statistics).map_err(|error| refusal("ValueError", error.to_string()))
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
