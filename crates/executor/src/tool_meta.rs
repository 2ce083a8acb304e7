//! What single files hold: promptflow's `/tool/meta`.
//!
//! Rules: `generate_tool_meta` and `generate_tool_meta_dict_by_file` of promptflow's `_core/tool_meta_generator.py`.

use flowcell_flow::{Json, JsonMap, python_loads, python_str};
use serde_json::json;

use crate::error::RunError;
use crate::files::FileError;
use crate::host::Host;
use crate::presented::{framed, presented};
use crate::session::{Prepared, SessionOptions, prepare};
use crate::tools::{Signature, Tools, read_template, stem};
use crate::workspace::Workspace;

/// The kinds of files that can be described, in promptflow's order.
const KINDS: [&str; 3] = ["python", "llm", "prompt"];
/// The other names that promptflow has for kinds of tools.
const OTHER_KINDS: [&str; 3] = ["csharp", "action", "custom_llm"];

/// A file, and the tool in it.
#[derive(Debug)]
pub struct FileTool {
    /// The file, relative to the flow's folder.
    pub path: String,
    /// `python`, `llm` or `prompt`; whatever was asked for, where that is the error.
    pub kind: String,
    /// What the tool takes, or why it cannot be told.
    pub tool: Result<Signature, RunError>,
}

/// Describes files of the flow's folder, whether or not a node uses them: `(path, kind)` each, where the kind is
/// promptflow's `tool_type` (`python`, `llm`, `prompt`; empty when there is none). A file that cannot be described has
/// an error, and the others do not notice.
///
/// It may block, as [`Session::open`](crate::Session::open) may. Each import may take the options' `limits.wall_time`;
/// promptflow gives all of them 10 s.
///
/// # Errors
/// When no file can be described: the bundle is not there, say.
pub async fn tool_meta(
    host: &Host,
    workspace: &Workspace,
    options: &SessionOptions,
    files: &[(&str, &str)],
) -> Result<Vec<FileTool>, RunError> {
    let Prepared {
        mut tools,
        leases: _leases,
        ..
    } = prepare(host, workspace, options)?;
    let mut described = Vec::with_capacity(files.len());
    for (path, kind) in files {
        described.push(FileTool {
            path: (*path).to_owned(),
            kind: (*kind).to_owned(),
            tool: file_tool(&mut tools, host, workspace, path, kind).await,
        });
    }
    Ok(described)
}

async fn file_tool(
    tools: &mut Tools,
    host: &Host,
    workspace: &Workspace,
    path: &str,
    kind: &str,
) -> Result<Signature, RunError> {
    if kind.is_empty() {
        return Err(RunError::system(
            "NoToolTypeDefined",
            format!("Tool type not defined for source '{path}'."),
        ));
    }
    if !KINDS.contains(&kind) && !OTHER_KINDS.contains(&kind) {
        return Err(RunError::system(
            "ValueError",
            format!("'{kind}' is not a valid ToolType"),
        ));
    }
    let failed = |class: &str, what: String| {
        RunError::user(
            class,
            format!("Generate tool meta failed for {kind} tool. {what}"),
        )
    };
    let missing = || {
        failed(
            "MetaFileNotFound",
            format!("Meta file '{path}' can not be found."),
        )
    };
    match workspace.files().check(path) {
        Ok(()) => {}
        Err(FileError::Outside) => {
            return Err(missing().help("the path leads out of the flow's folder"));
        }
        Err(_) => return Err(missing()),
    }
    match kind {
        "python" => {
            let loaded = tools.load(host, workspace, path, path).await?;
            Ok(loaded.into())
        }
        "llm" | "prompt" => {
            let template = read_template(workspace, path).map_err(|what| match what {
                None => missing(),
                Some(what) => failed(
                    "MetaFileReadError",
                    format!("Read meta file '{path}' failed: the file {what}"),
                ),
            })?;
            let signature = tools.inspect(path, path, &template).await?;
            signature.map_err(|error| failed("JinjaParsingError", error.to_string()))
        }
        other => Err(RunError::user(
            "NotSupported",
            format!(
                "Generate tool meta failed. The type '{other}' is currently unsupported. Please choose from available types: {} and try again.",
                KINDS.join(",")
            ),
        )),
    }
}

/// The answer of promptflow's `/tool/meta`: `{"tools": {path: tool}, "errors": {path: {"error": …}}}`.
///
/// What promptflow reads
/// out of Python and a [`Signature`] does not have is not there: the members of an `Enum`, the output's type, and
/// `function` for a tool with a name of its own (`@tool(name=…)`).
pub fn tool_meta_json(files: &[FileTool]) -> Json {
    let (mut tools, mut errors) = (JsonMap::new(), JsonMap::new());
    for file in files {
        match &file.tool {
            Ok(signature) => tools.insert(file.path.clone(), tool_json(file, signature)),
            Err(error) => errors.insert(file.path.clone(), framed(presented(error, false))),
        };
    }
    json!({ "tools": tools, "errors": errors })
}

/// promptflow leaves out what is empty or false.
fn tool_json(file: &FileTool, signature: &Signature) -> Json {
    let mut tool = JsonMap::new();
    tool.insert("name".to_owned(), stem(&file.path).into());
    tool.insert("type".to_owned(), file.kind.as_str().into());
    let inputs: JsonMap = signature
        .inputs
        .iter()
        .map(|input| {
            let mut entry = json!({ "type": input.types });
            let default = input.default.as_deref().and_then(python_loads);
            // The default's `str`; None is "" there, and left out with what is empty.
            if let Some(default) = default.filter(|default| !default.is_null() && default != "") {
                entry["default"] = python_str(&default).into();
            }
            (input.name.clone(), entry)
        })
        .collect();
    if !inputs.is_empty() {
        tool.insert("inputs".to_owned(), inputs.into());
    }
    if !signature.description.is_empty() {
        tool.insert(
            "description".to_owned(),
            signature.description.as_str().into(),
        );
    }
    if file.kind == "python" {
        let (class, function) = match signature.name.rsplit_once('.') {
            Some((class, function)) => (Some(class), function),
            None => (None, signature.name.as_str()),
        };
        if let Some(class) = class.filter(|class| is_identifier(class)) {
            tool.insert("class_name".to_owned(), class.into());
        }
        if is_identifier(function) {
            tool.insert("function".to_owned(), function.into());
        }
        if signature.open_inputs {
            tool.insert("enable_kwargs".to_owned(), true.into());
        }
    }
    tool.insert("source".to_owned(), file.path.as_str().into());
    tool.into()
}

fn is_identifier(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|first| first.is_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.'))
}
