//! What `pf flow serve` makes of a flow: a request's inputs, the answer's outputs, the description.
//!
//! Rules: promptflow's `core/_serving` (`utils.py`, `swagger.py`, `response_creator.py`).

use flowcell_flow::{Flow, Json, JsonMap, ValueType, python_json, python_loads, python_repr};
use serde_json::json;

use crate::error::RunError;
use crate::streaming::Part;

/// The inputs in the body of a request. A flow with one input takes text that is no JSON as that input.
///
/// # Errors
/// As promptflow says them: inputs are missing, or the body is something else than an object.
pub fn served_inputs(flow: &Flow, body: &[u8]) -> Result<JsonMap, RunError> {
    if flow.inputs.is_empty() {
        return Ok(JsonMap::new());
    }
    let text = std::str::from_utf8(body);
    let data = match text.ok().and_then(python_loads) {
        Some(data) => data,
        None if flow.inputs.len() > 1 => {
            return Err(RunError::user(
                "JsonPayloadRequiredForMultipleInputFields",
                "Promptflow executor received non json data, but there's more than 1 input fields, please use json request data instead.",
            ));
        }
        None => {
            let text = text.map_err(|error| {
                RunError::system(
                    "UnicodeDecodeError",
                    format!("'utf-8' codec can't decode the request's body: {error}"),
                )
            })?;
            let first = flow.inputs.keys().next().cloned();
            first.map(|name| (name, text)).into_iter().collect()
        }
    };
    let required = flow
        .inputs
        .iter()
        .filter(|(_, input)| input.default.is_none());
    let mut missing = Vec::new();
    for (name, _) in required {
        if !contains(&data, name)? {
            missing.push(Json::from(name.as_str()));
        }
    }
    if !missing.is_empty() {
        return Err(RunError::user(
            "MissingRequiredFlowInput",
            format!(
                "Required input fields {} are missing in request data {}",
                python_repr(&Json::Array(missing)),
                python_repr(&data)
            ),
        ));
    }
    mapping(data)
}

/// Python's `name in data`.
fn contains(data: &Json, name: &str) -> Result<bool, RunError> {
    match data {
        Json::Object(entries) => Ok(entries.contains_key(name)),
        Json::Array(items) => Ok(items.iter().any(|item| item == name)),
        Json::String(text) => Ok(text.contains(name)),
        scalar => Err(RunError::system(
            "TypeError",
            format!("argument of type '{}' is not iterable", class_of(scalar)),
        )),
    }
}

/// Python's `dict(data)`, with its words for what is none.
fn mapping(data: Json) -> Result<JsonMap, RunError> {
    match data {
        Json::Object(entries) => Ok(entries),
        Json::Array(items) if items.is_empty() => Ok(JsonMap::new()),
        Json::String(text) if text.is_empty() => Ok(JsonMap::new()),
        Json::Array(_) => Err(RunError::system(
            "TypeError",
            "cannot convert dictionary update sequence element #0 to a sequence",
        )),
        Json::String(_) => Err(RunError::system(
            "ValueError",
            "dictionary update sequence element #0 has length 1; 2 is required",
        )),
        scalar => Err(RunError::system(
            "TypeError",
            format!("'{}' object is not iterable", class_of(&scalar)),
        )),
    }
}

fn class_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "NoneType",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.as_str().contains(['.', 'e', 'E']) => "float",
        Json::Number(_) => "int",
        Json::String(_) => "str",
        Json::Array(_) => "list",
        Json::Object(_) => "dict",
    }
}

/// The outputs that are answered: all but those for evaluations.
pub fn served_outputs(flow: &Flow, outputs: &str) -> Json {
    let mut outputs = python_loads(outputs).unwrap_or_default();
    if let Json::Object(entries) = &mut outputs {
        entries.retain(|name, _| {
            flow.outputs
                .get(name)
                .is_none_or(|output| !output.evaluation_only)
        });
    }
    outputs
}

/// What a request's `Accept` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    types: Vec<String>,
}

impl Accepted {
    /// Reads the header; empty when there is none.
    pub fn new(accept: &str) -> Self {
        let types = accept
            .split(',')
            .map(|part| part.split(';').next().unwrap_or_default().trim())
            .filter(|media| !media.is_empty())
            .map(str::to_owned);
        Self {
            types: types.collect(),
        }
    }

    /// Whether the client takes streams, which it must say in so many words.
    pub fn events(&self) -> bool {
        self.types.iter().any(|media| media == "text/event-stream")
    }

    fn json(&self) -> bool {
        let is_json =
            |media: &String| matches!(&**media, "application/json" | "application/*" | "*/*");
        self.types.is_empty() || self.types.iter().any(is_json)
    }

    /// Whether the client takes these outputs, none of which is a stream.
    ///
    /// # Errors
    /// `NotAcceptable`, which is answered with status 406.
    pub fn check(&self) -> Result<(), RunError> {
        if self.json() {
            return Ok(());
        }
        Err(RunError::user(
            "NotAcceptable",
            format!(
                "Media type {} in Accept header is not acceptable. Supported media type(s) - application/json",
                self.types.join(",")
            ),
        ))
    }
}

/// A part of an answer as an event (`text/event-stream`); nothing for outputs where there is no other than the stream.
pub fn served_part(flow: &Flow, part: Part) -> String {
    let data = match part {
        Part::Outputs(outputs) => match served_outputs(flow, &outputs) {
            Json::Object(outputs) if outputs.is_empty() => return String::new(),
            outputs => python_json(&outputs),
        },
        Part::Item { output, item } => format!("{{{}: {item}}}", Json::from(output)),
    };
    format!("data: {data}\n\n")
}

/// The description of a served flow (OpenAPI 3.0), with the first of its samples.
pub fn swagger(flow: &Flow, name: &str, samples: Option<&Json>) -> Json {
    let mut info = json!({
        "title": format!("Promptflow[{name}] API"),
        "version": "1.0.0",
        "x-flow-name": name,
    });
    let mut inputs = json!({ "type": "object" });
    if !flow.inputs.is_empty() {
        inputs["properties"] = json!({});
        inputs["required"] = flow.inputs.keys().cloned().collect();
        for (input, definition) in &flow.inputs {
            if definition.is_chat_input {
                info["x-chat-input"] = input.as_str().into();
                info["x-flow-type"] = "chat".into();
            }
            if definition.is_chat_history == Some(true) {
                info["x-chat-history"] = input.as_str().into();
            }
            let mut schema = schema(definition.value_type, definition.description.as_deref());
            let default = definition.default.as_ref();
            if let Some(default) = default.filter(|value| flowcell_flow::python_truth(value)) {
                schema["default"] = default.clone();
            }
            inputs["properties"][input] = schema;
        }
    }
    let mut outputs = json!({ "type": "object" });
    if !flow.outputs.is_empty() {
        outputs["properties"] = json!({});
        for (output, definition) in &flow.outputs {
            if definition.evaluation_only {
                continue;
            }
            if definition.is_chat_output {
                info["x-chat-output"] = output.as_str().into();
            }
            outputs["properties"][output] =
                schema(definition.value_type, definition.description.as_deref());
        }
    }
    let example = samples.and_then(|samples| samples.get(0)).cloned();
    let any = json!({ "application/json": { "schema": { "type": "object", "additionalProperties": {} } } });
    json!({
        "openapi": "3.0.0",
        "info": info,
        "components": { "securitySchemes": { "bearerAuth": { "type": "http", "scheme": "bearer" } } },
        "security": [{ "bearerAuth": [] }],
        "paths": {
            "/score": { "post": {
                "summary": format!("run promptflow: {name} with an given input"),
                "requestBody": {
                    "description": "promptflow input data",
                    "required": !flow.inputs.is_empty(),
                    "content": { "application/json": {
                        "schema": inputs,
                        "example": example.unwrap_or_else(|| json!({})),
                    } },
                },
                "responses": {
                    "200": {
                        "description": "successful operation",
                        "content": { "application/json": { "schema": outputs } },
                    },
                    "400": { "description": "Invalid input" },
                    "default": { "description": "unexpected error" },
                },
            } },
            "/feedback": {
                "post": {
                    "summary": "collect promptflow feedback",
                    "requestBody": { "description": "promptflow feedback data", "required": true, "content": any },
                    "responses": {
                        "200": { "description": "successful operation", "content": any },
                        "400": { "description": "Invalid input" },
                        "default": { "description": "unexpected error" },
                    },
                },
                "parameters": [{
                    "name": "flatten",
                    "in": "query",
                    "description": "flatten the feedback data into traced data",
                    "required": false,
                    "schema": { "type": "boolean" },
                }],
            },
        },
    })
}

fn schema(value_type: ValueType, description: Option<&str>) -> Json {
    let kind = match value_type {
        ValueType::Int => "integer",
        ValueType::Double => "number",
        ValueType::Bool => "boolean",
        ValueType::String => "string",
        ValueType::List => "array",
        _ => "object",
    };
    let mut schema = json!({ "type": kind });
    if let Some(description) = description.filter(|text| !text.is_empty()) {
        schema["description"] = description.into();
    }
    match value_type {
        ValueType::Object => schema["additionalProperties"] = json!({}),
        ValueType::List => {
            schema["items"] = json!({ "type": "object", "additionalProperties": {} });
        }
        _ => {}
    }
    schema
}
