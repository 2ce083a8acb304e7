//! The component's exports: the tools of the catalogue, and their errors.

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::http::wasi::Wasi;
use crate::tools;
use crate::tools::catalogue::{self, Tool};

wit_bindgen::generate!({ world: "tool-component", path: "../../../wit" });

use exports::flowcell::tool::tool::Guest;
use flowcell::tool::types::{ErrorKind, Parameter, ToolError, ToolInfo};

struct Component;

impl Guest for Component {
    fn describe() -> Vec<ToolInfo> {
        catalogue::TOOLS.iter().map(described).collect()
    }

    fn invoke(name: String, inputs: String) -> Result<String, ToolError> {
        let inputs: Map<String, Value> = serde_json::from_str(&inputs).map_err(|error| {
            let why = format!("The inputs are not a JSON object: {error}");
            failed(Failure::python("ValueError", why))
        })?;
        let answer = tools::call(&Wasi, &name, &inputs).map_err(failed)?;
        Ok(answer.to_string())
    }
}

fn described(tool: &Tool) -> ToolInfo {
    let known = tool
        .parameters
        .iter()
        .filter(|parameter| !parameter.types.is_empty());
    ToolInfo {
        name: tool.id.into(),
        description: tool.description.into(),
        inputs: known
            .map(|parameter| Parameter {
                name: parameter.name.into(),
                types: parameter.types.iter().map(|name| (*name).into()).collect(),
                default: parameter.default.map(Into::into),
                required: parameter.default.is_none(),
                init: parameter.init,
            })
            .collect(),
        open_inputs: tool.open,
    }
}

fn failed(failure: Failure) -> ToolError {
    ToolError {
        kind: if failure.system {
            ErrorKind::System
        } else {
            ErrorKind::User
        },
        type_name: failure.class,
        message: failure.message,
        traceback: String::new(),
        own: failure.own,
    }
}

export!(Component);
