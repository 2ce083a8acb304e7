//! Samples of flows without a graph, which may be in files of their own.

use flowcell_flow::{EntryKind, Flow, Json, MAX_BYTES, python_loads, yaml_to_json};

use crate::error::RunError;
use crate::files::{FileError, FlowFiles};

/// Reads what a flow's sample refers to: `${file:PATH}` anywhere in it, a prompty's also as a bare path.
///
/// # Errors
/// When a file is not there, or is not what its name says.
pub(super) fn resolve(flow: &mut Flow, files: &FlowFiles) -> Result<(), RunError> {
    let Some(entry) = &mut flow.entry else {
        return Ok(());
    };
    if let (EntryKind::Prompty, Json::String(path)) = (&entry.kind, &entry.sample)
        && !path.starts_with("${")
    {
        entry.sample = read(path.trim_start_matches("file:"), files)?;
        return Ok(());
    }
    let sample = std::mem::take(&mut entry.sample);
    entry.sample = resolved(sample, files)?;
    Ok(())
}

/// The value with references to files replaced; what these refer to is not. A sample has the depth that YAML may have.
fn resolved(value: Json, files: &FlowFiles) -> Result<Json, RunError> {
    Ok(match value {
        Json::String(text) => match reference(&text) {
            Some(path) => read(path, files)?,
            None => Json::String(text),
        },
        Json::Array(items) => {
            let items = items.into_iter().map(|item| resolved(item, files));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        Json::Object(entries) => {
            let entries = entries
                .into_iter()
                .map(|(name, value)| Ok::<_, RunError>((name, resolved(value, files)?)));
            Json::Object(entries.collect::<Result<_, _>>()?)
        }
        scalar => scalar,
    })
}

fn reference(text: &str) -> Option<&str> {
    text.strip_prefix("${file:")?.strip_suffix('}')
}

fn read(path: &str, files: &FlowFiles) -> Result<Json, RunError> {
    let bytes = files.read(path, MAX_BYTES as u64).map_err(|error| {
        let why = match error {
            FileError::Missing => "",
            FileError::Outside => "it is not in the flow's folder",
            FileError::TooLarge { .. } => "it is too large",
            FileError::Io(_) => "it cannot be read",
        };
        let error = RunError::usage(format!("Cannot find the reference file {path}."));
        if why.is_empty() {
            error
        } else {
            error.help(why)
        }
    })?;
    let wrong = |why: &str| RunError::usage(format!("The reference file {path} is {why}."));
    let text = String::from_utf8(bytes).map_err(|_| wrong("not UTF-8"))?;
    let is = |suffix: &str| path.to_lowercase().ends_with(suffix);
    if is(".json") {
        python_loads(&text).ok_or_else(|| wrong("no JSON"))
    } else if is(".yaml") || is(".yml") {
        Ok(yaml_to_json(&text)?)
    } else {
        Ok(Json::String(text))
    }
}
