//! Functions and tools that a model may call, checked as promptflow checks them.

use serde_json::Value;

use crate::coerce::{dumps, text, type_text};
use crate::failure::Failure;

const FUNCTION_HELP: &str = "Here is a valid function example: {\"name\": \"function_name\", \"parameters\": {\"type\": \"object\", \
    \"properties\": {\"parameter_name\": {\"type\": \"integer\", \"description\": \"parameter_description\"}}}, \"description\": \
    \"function_description\"}. See more details at https://platform.openai.com/docs/api-reference/chat/create#chat/create-functions \
    or view sample 'How to use functions with chat models' in our gallery.";
const TOOL_HELP: &str = "Here is a valid tool example: {\"type\": \"function\", \"function\": {\"name\": \"get_current_weather\", \
    \"description\": \"Get the current weather in a given location\", \"parameters\": {\"type\": \"object\", \"properties\": \
    {\"location\": {\"type\": \"string\", \"description\": \"The city and state, e.g. San Francisco, CA\"}, \"unit\": {\"type\": \
    \"string\", \"enum\": [\"celsius\", \"fahrenheit\"]}}, \"required\": [\"location\"]}}}. See more details at \
    https://platform.openai.com/docs/api-reference/chat/create";
const CALL_HELP: &str = "Here is a valid example: {\"name\": \"function_name\"}. See the guide at \
    https://platform.openai.com/docs/api-reference/chat/create#chat/create-function_call \
    or view sample 'How to call functions with chat models' in our gallery.";
const CHOICE_HELP: &str = "Here is a valid example: {\"type\": \"function\", \"function\": {\"name\": \"my_function\"}}. \
    See the guide at https://platform.openai.com/docs/api-reference/chat/create.";

const FUNCTIONS: &str = "ChatAPIInvalidFunctions";
const TOOLS: &str = "ChatAPIInvalidTools";

/// Checks the parameter `functions`.
pub fn check_functions(functions: &Value) -> Result<(), Failure> {
    for (index, function) in items(functions).iter().enumerate() {
        check_function(FUNCTION_HELP, index, function, FUNCTIONS)?;
    }
    Ok(())
}

/// Checks the parameter `tools`.
pub fn check_tools(tools: &Value) -> Result<(), Failure> {
    for (index, tool) in items(tools).iter().enumerate() {
        let wrong = |what: String| {
            let tool = text(tool);
            Failure::user(TOOLS, format!("tool {index} '{tool}' {what}. {TOOL_HELP}"))
        };
        let members = tool
            .as_object()
            .ok_or_else(|| wrong("is not a dict".to_owned()))?;
        for key in ["type", "function"] {
            if !members.contains_key(key) {
                return Err(wrong(format!("does not have '{key}' property")));
            }
        }
        check_function(TOOL_HELP, index, &tool["function"], TOOLS)?;
    }
    Ok(())
}

/// What Python finds when it goes through the value: the items, the keys of a dict, or letters.
fn items(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.clone(),
        Value::Object(members) => members.keys().map(|key| key.as_str().into()).collect(),
        Value::String(text) => text
            .chars()
            .map(|letter| letter.to_string().into())
            .collect(),
        _ => Vec::new(),
    }
}

fn check_function(help: &str, index: usize, function: &Value, class: &str) -> Result<(), Failure> {
    let failed = |message: String| Failure::user(class, format!("{message}. {help}"));
    let shown = text(function);
    let Some(members) = function.as_object() else {
        return Err(failed(format!("function {index} '{shown}' is not a dict")));
    };
    for key in ["name", "parameters"] {
        if !members.contains_key(key) {
            return Err(failed(format!(
                "function {index} '{shown}' does not have '{key}' property"
            )));
        }
    }
    let name = text(&function["name"]);
    let parameters = &function["parameters"];
    let place = format!("function {index} '{name}' parameters");
    let shown = text(parameters);
    let schema = "should be described as a JSON Schema object";
    let Some(members) = parameters.as_object() else {
        return Err(failed(format!("{place} '{shown}' {schema}")));
    };
    for key in ["type", "properties"] {
        if !members.contains_key(key) {
            return Err(failed(format!(
                "{place} '{shown}' does not have '{key}' property"
            )));
        }
    }
    if parameters["type"] != "object" {
        return Err(failed(format!("{place} 'type' should be 'object'")));
    }
    if !parameters["properties"].is_object() {
        return Err(failed(format!("{place} 'properties' {schema}")));
    }
    Ok(())
}

/// The parameter `function_call`, as it is sent.
pub fn function_call(call: &Value) -> Result<Value, Failure> {
    let failed = |message: String| Failure::user(FUNCTIONS, format!("{message}. {CALL_HELP}"));
    match call {
        Value::Null => Ok("auto".into()),
        Value::String(word) if word == "auto" || word == "none" => Ok(call.clone()),
        Value::Object(members) if members.contains_key("name") => Ok(call.clone()),
        Value::Object(_) => Err(failed(format!(
            "function_call parameter {} must contain \"name\" field",
            dumps(call)
        ))),
        other => Err(failed(format!(
            "function_call parameter '{}' must be a dict, but not {}",
            text(other),
            type_text(other)
        ))),
    }
}

/// The parameter `tool_choice`, as Azure's tool sends it.
pub fn tool_choice(choice: &Value) -> Result<Value, Failure> {
    let failed = |message: String| Err(Failure::user(TOOLS, format!("{message}. {CHOICE_HELP}")));
    let members = match choice {
        Value::Null => return Ok("auto".into()),
        Value::String(word) if word == "auto" || word == "none" => return Ok(choice.clone()),
        Value::Object(members) => members,
        other => {
            return failed(format!(
                "tool_choice parameter '{}' must be a dict, but not {}",
                text(other),
                type_text(other)
            ));
        }
    };
    for key in ["type", "function"] {
        if !members.contains_key(key) {
            let shown = dumps(choice);
            return failed(format!(
                "tool_choice parameter {shown} must contain \"{key}\" field"
            ));
        }
    }
    let function = &choice["function"];
    match function.as_object() {
        None => failed(format!(
            "function parameter \"{}\" in tool_choice must be a dict, but not {}",
            text(function),
            type_text(function)
        )),
        Some(members) if !members.contains_key("name") => failed(format!(
            "function parameter \"{}\" in tool_choice must contain \"name\" field",
            dumps(function)
        )),
        Some(_) => Ok(choice.clone()),
    }
}
