//! Errors as promptflow's `ExceptionPresenter` writes them.

use std::time::SystemTime;

use flowcell_flow::Json;
use serde_json::json;

use crate::error::{Code, RunError};
use crate::records::record_time;

/// promptflow's classes below `UserErrorException` and `SystemErrorException` that have others between, and those.
const PARENTS: [(&[&str], &[&str]); 14] = [
    (
        &[
            "DuplicateNodeName",
            "EmptyOutputReference",
            "InputNotFound",
            "InputParseError",
            "InputReferenceNotFound",
            "InputTypeError",
            "InvalidConnectionType",
            "InvalidNodeReference",
            "NodeCircularDependency",
            "NodeInputValidationError",
            "NodeReferenceNotFound",
            "OutputReferenceNotFound",
        ],
        &["ValidationError", "InvalidFlowRequest"],
    ),
    (
        &["GetConnectionError"],
        &["ValidationError", "InvalidRequest"],
    ),
    (
        &[
            "InvalidFlowRequest",
            "InvalidImageInput",
            "InvalidSource",
            "PackageToolNotFoundError",
            "ValueTypeUnresolved",
        ],
        &["ValidationError"],
    ),
    (
        &[
            "BadFunctionInterface",
            "MultipleToolsDefined",
            "NoToolDefined",
            "PythonLoadError",
        ],
        &["ToolValidationError", "PythonParsingError"],
    ),
    (
        &[
            "ChatAPIInvalidFunctions",
            "ChatAPIInvalidTools",
            "JinjaParsingError",
            "PythonLoaderNotFound",
        ],
        &["ToolValidationError"],
    ),
    (
        &["ReservedVariableCannotBeUsed"],
        &["ToolValidationError", "JinjaParsingError"],
    ),
    (
        &["InvalidReferenceProperty", "UnsupportedReference"],
        &["NodeReferenceError"],
    ),
    (
        &["ConnectionNotFoundError", "InvalidFlowError"],
        &["SDKError"],
    ),
    (
        &[
            "MetaFileNotFound",
            "MetaFileReadError",
            "GenerateMetaTimeout",
        ],
        &["GenerateMetaUserError"],
    ),
    (&["NoToolTypeDefined"], &["GenerateMetaSystemError"]),
    (
        &[
            "InvalidFlexFlowEntry",
            "InvalidModelConfigValueType",
            "ValidationException",
        ],
        &["ValidationError"],
    ),
    (
        &[
            "ChatAPIFunctionRoleInvalidFormat",
            "ChatAPIInvalidRoleError",
            "ChatAPIToolRoleInvalidFormat",
            "InvalidConnectionError",
            "InvalidOutputKeyError",
            "InvalidSampleError",
            "JinjaTemplateError",
            "MissingRequiredInputError",
            "RequiredEnvironmentVariablesNotSetError",
        ],
        &["CoreError"],
    ),
    (
        &[
            "JsonPayloadRequiredForMultipleInputFields",
            "MissingRequiredFlowInput",
        ],
        &["BadRequest"],
    ),
    (&["ExceedMaxRetryTimes"], &["WrappedOpenAIError"]),
];

/// What promptflow says of where an error is from, other than "Executor".
const UNKNOWN_ORIGIN: [&str; 9] = [
    "FlowEntryInitializationError",
    "FlowFilePathInvalid",
    "InputNotFoundFromAncestorNodeOutput",
    "InvalidAggregationFunction",
    "InvalidAggregationInput",
    "NotSupported",
    "ScriptExecutionError",
    "SingleNodeValidationError",
    "UninitializedError",
];

/// An error as promptflow's `ExceptionPresenter` has it, with `debugInfo` where promptflow includes that.
///
/// Only the errors of tools and entries have their format and parameters; the message of any other is without. Of promptflow's own
/// stack there is nothing: `stackTrace` is the tool's.
pub fn presented(error: &RunError, debug: bool) -> Json {
    let root = match error.code {
        Code::User => "UserError",
        Code::System => "SystemError",
    };
    let mut entry =
        json!({ "message": error.message, "messageFormat": "", "messageParameters": {} });
    let is_tools = error.class == "ToolExecutionError";
    if is_tools {
        entry["messageFormat"] = "Execution failure in '{node_name}'.".into();
        let node = error.node.as_deref().unwrap_or_default();
        entry["messageParameters"] = json!({ "node_name": node });
    }
    if let Some((name, what)) = script_failure(error) {
        entry["messageFormat"] =
            "Execution failure in '{func_name}': {error_type_and_message}".into();
        entry["messageParameters"] = json!({ "error_type_and_message": what, "func_name": name });
    }
    if let Some(origin) = origin(error) {
        entry["referenceCode"] = origin.into();
    }
    entry["code"] = root.into();
    entry["innerError"] = inner(error);
    if let Some(info) = additional_info(error, is_tools) {
        entry["additionalInfo"] = json!([info]);
    }
    if debug {
        entry["debugInfo"] = json!({
            "type": error.class,
            "message": error.message,
            "stackTrace": error.traceback.as_deref().unwrap_or_default(),
            "innerException": null,
        });
    }
    entry
}

/// promptflow's frame of an error that its service answers.
pub fn framed(error: Json) -> Json {
    json!({
        "error": error,
        "correlation": null,
        "environment": null,
        "location": null,
        "componentName": concat!("flowcell/", env!("CARGO_PKG_VERSION")),
        "time": record_time(SystemTime::now()),
    })
}

/// Python's own exceptions have none.
fn origin(error: &RunError) -> Option<&'static str> {
    match error.class.as_str() {
        "ToolExecutionError" => Some("Tool/__pf_main__"),
        "FlowOutputUnserializable" => Some("FlowExecutor"),
        "PythonLoadError" | "NoToolDefined" | "MultipleToolsDefined" | "JinjaParsingError" => {
            Some("Tool")
        }
        "ValueError" | "TypeError" | "KeyError" | "NotImplementedError" | "OSError" => None,
        class if UNKNOWN_ORIGIN.contains(&class) => Some("Unknown"),
        _ => Some("Executor"),
    }
}

/// The classes from below the root to the error's own, each within the one before.
fn inner(error: &RunError) -> Json {
    let class = error.class.as_str();
    if matches!(class, "UserErrorException" | "SystemErrorException") {
        return Json::Null;
    }
    let parents = PARENTS
        .iter()
        .find(|(classes, _)| classes.contains(&class))
        .map_or(&[] as &[&str], |(_, parents)| parents);
    let class = if class == "ValidationException" {
        None
    } else {
        Some(class)
    };
    let all: Vec<&str> = parents.iter().copied().chain(class).collect();
    all.into_iter().rev().fold(
        Json::Null,
        |inner, code| json!({ "code": code, "innerError": inner }),
    )
}

/// The entry in which a flow without a graph failed, and how: `(Type) message`.
fn script_failure(error: &RunError) -> Option<(&str, &str)> {
    if error.class != "ScriptExecutionError" {
        return None;
    }
    let rest = error.message.strip_prefix("Execution failure in '")?;
    rest.split_once("': ")
}

fn additional_info(error: &RunError, is_tools: bool) -> Option<Json> {
    let traceback = error.traceback.as_deref();
    let details = |what: &str| {
        let (class, message) = what.strip_prefix('(')?.split_once(") ")?;
        Some(json!({ "type": class, "message": message, "traceback": traceback }))
    };
    if let Some((_, what)) = script_failure(error) {
        return Some(json!({ "type": "FlexFlowExecutionErrorDetails", "info": details(what)? }));
    }
    if !is_tools {
        let traceback = traceback?;
        return Some(json!({ "type": "UserCodeStackTrace", "info": { "traceback": traceback } }));
    }
    let node = error.node.as_deref().unwrap_or_default();
    let start = format!("Execution failure in '{node}': ");
    let mut info = details(error.message.strip_prefix(&start)?)?;
    if let Some((file, line, name)) = traceback.and_then(last_frame) {
        info["filename"] = file.into();
        info["lineno"] = line.into();
        info["name"] = name.into();
    }
    Some(json!({ "type": "ToolExecutionErrorDetails", "info": info }))
}

/// File, line and function of a traceback's last frame.
fn last_frame(traceback: &str) -> Option<(&str, u64, &str)> {
    let frame = traceback
        .lines()
        .rev()
        .find_map(|line| line.trim_start().strip_prefix("File \""))?;
    let (file, rest) = frame.split_once("\", line ")?;
    let (line, name) = rest.split_once(", in ").unwrap_or((rest, ""));
    Some((file, line.parse().ok()?, name))
}
