//! Values that the caller gives.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use flowcell_executor::RunError;
use flowcell_flow::JsonMap;
use indexmap::IndexMap;

/// Largest file of inputs, in bytes.
const MAX_FILE: u64 = 32 << 20;

/// Inputs from `--inputs-file` under those from `--inputs`.
pub(crate) fn inputs(given: &[String], file: Option<&Path>) -> Result<JsonMap, RunError> {
    let mut inputs = match file {
        Some(file) => read(file)?,
        None => JsonMap::new(),
    };
    inputs.extend(values("--inputs", given)?);
    Ok(inputs)
}

/// What the class of a flex flow is made with.
pub(crate) fn init(given: &[String]) -> Result<JsonMap, RunError> {
    values("--init", given)
}

/// `name=value` arguments, or a single JSON file.
fn values(option: &str, given: &[String]) -> Result<JsonMap, RunError> {
    if let [file] = given
        && !file.contains('=')
        && [".json", ".jsonl"].iter().any(|end| file.ends_with(end))
    {
        return read(Path::new(file));
    }
    let pairs = pairs(option, given)?.into_iter();
    Ok(pairs.map(|(name, value)| (name, value.into())).collect())
}

/// `name=value` arguments.
pub(crate) fn pairs(option: &str, pairs: &[String]) -> Result<IndexMap<String, String>, RunError> {
    pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(error(format!("{option} takes name=value, not '{pair}'"))),
        })
        .collect()
}

/// A JSON object; of a .jsonl file, the first line.
fn read(file: &Path) -> Result<JsonMap, RunError> {
    let name = file.display();
    let cannot = |cause: std::io::Error| error(format!("cannot read {name}: {cause}"));
    let opened = fs::File::open(file).map_err(cannot)?;
    let size = opened.metadata().map_err(cannot)?.len();
    let mut bytes = Vec::new();
    if size <= MAX_FILE {
        // What is no regular file has no length, and may have no end.
        opened
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(cannot)?;
    }
    let size = size.max(bytes.len() as u64);
    if size > MAX_FILE {
        return Err(error(format!(
            "{name} has {} MiB; a file of inputs may have {} MiB. Put large data into a file of the flow and give its path",
            size.div_ceil(1 << 20),
            MAX_FILE >> 20
        )));
    }
    let text = String::from_utf8(bytes).map_err(|cause| {
        let place = cause.utf8_error().valid_up_to();
        error(format!(
            "{name} is not UTF-8: the byte at {place} is wrong. Save it as UTF-8"
        ))
    })?;
    let mut text = text.trim_start_matches('\u{feff}');
    if file
        .extension()
        .is_some_and(|extension| extension == "jsonl")
    {
        text = text.lines().next().unwrap_or_default();
    }
    serde_json::from_str(text).map_err(|cause| {
        let cause = cause.to_string();
        let hint = if ["NaN", "Infinity"].iter().any(|word| text.contains(word)) {
            ". JSON has no NaN and no Infinity: write them as text (\"nan\") for an input of type double"
        } else if ["surrogate", "hex escape"].iter().any(|word| cause.contains(word)) {
            ". A lone surrogate is half a character: write both halves (\"\\ud83d\\ude00\") or the character itself"
        } else {
            ""
        };
        error(format!("{name} is not a JSON object of inputs: {cause}{hint}"))
    })
}

fn error(message: String) -> RunError {
    RunError::usage(message)
}
