//! Which file of a folder is the flow's, and what it says.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flowcell_flow::{Flow, MAX_BYTES};

use super::cannot;
use crate::error::RunError;
use crate::files::{FileError, FlowFiles};

/// The names under which a folder's flow file is looked for, in promptflow's order.
const FLOW_FILES: [&str; 4] = [
    "flow.dag.yaml",
    "flow.dag.yml",
    "flow.flex.yaml",
    "flow.flex.yml",
];

/// The end of a prompty's name.
const PROMPTY: &str = ".prompty";

/// The flow file that a path means: the path itself, or the one flow file in a folder, which may be a single prompty.
///
/// # Errors
/// `ValidationException` when a folder has two, `UserErrorException` when there is none.
pub fn flow_file(path: &Path) -> Result<PathBuf, RunError> {
    let shown = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let Ok(metadata) = fs::metadata(path) else {
        let message = format!("Flow path {} does not exist.", shown.display());
        return Err(RunError::usage(message).help("give the folder that holds flow.dag.yaml"));
    };
    let file = if metadata.is_dir() {
        let is_there = |name: &str| path.join(name).is_file();
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let name = only_one(is_there, names, &path.display().to_string()).ok_or_else(|| {
            none(&shown.display().to_string()).help("`flowcell flow init --flow DIR` makes a flow")
        })??;
        path.join(name)
    } else if path.parent() == Some(Path::new("")) {
        // Its folder is asked for later.
        Path::new(".").join(path)
    } else {
        path.to_owned()
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    if ![".yaml", ".yml", PROMPTY]
        .iter()
        .any(|suffix| name.ends_with(suffix))
    {
        let suffix = file.extension().map_or_else(String::new, |suffix| {
            format!(".{}", suffix.to_string_lossy())
        });
        return Err(RunError::usage(format!(
            "The flow file suffix must be yaml, yml or prompty; cannot be {suffix}"
        ))
        .help(format!("{} is not a flow file", shown.display())));
    }
    Ok(file)
}

/// The flow in a file of the user's.
pub(super) fn read(file: &Path) -> Result<Flow, RunError> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|open| open.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| cannot("read", file, &error))?;
    let folder = file.parent().and_then(|folder| folder.canonicalize().ok());
    let name = folder.as_deref().and_then(Path::file_name).map_or_else(
        || "flow".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    let own_name = file.file_name().unwrap_or_default().to_string_lossy();
    parse(bytes, &own_name, &name, &file.display().to_string())
}

/// The flow in a working copy, whatever its tools have made of it, and its file. Messages show its folder as `folder`.
pub(super) fn read_within(files: &FlowFiles, folder: &str) -> Result<(Flow, String), RunError> {
    // A link that leads out is there, and refused when it is read.
    let is_there = |name: &str| !matches!(files.check(name), Err(FileError::Missing));
    let names = files.names().into_iter();
    let name = only_one(is_there, names, folder).ok_or_else(|| none(folder))??;
    let shown = format!("{folder}/{name}");
    let unreadable = |what: String| RunError::user("OSError", format!("{shown} {what}"));
    let bytes = match files.read(&name, MAX_BYTES as u64) {
        Ok(bytes) => bytes,
        Err(FileError::TooLarge { .. }) => return Err(too_large(&shown)),
        Err(FileError::Outside) => {
            return Err(unreadable(
                "is a link that leads out of the flow's folder".to_owned(),
            ));
        }
        Err(FileError::Missing) => return Err(none(folder)),
        Err(FileError::Io(error)) => return Err(unreadable(format!("cannot be read: {error}"))),
    };
    let flow = parse(bytes, &name, folder, &shown)?;
    Ok((flow, name))
}

/// The one of the flow files that is there; without any, the one prompty among `names`.
fn only_one(
    is_there: impl Fn(&str) -> bool,
    names: impl Iterator<Item = String>,
    folder: &str,
) -> Option<Result<String, RunError>> {
    let found: Vec<&str> = FLOW_FILES
        .into_iter()
        .filter(|name| is_there(name))
        .collect();
    match found.as_slice() {
        [] => {
            let mut prompties = names.filter(|name| name.ends_with(PROMPTY));
            match (prompties.next(), prompties.next()) {
                (Some(_), Some(_)) => Some(Err(RunError::usage(format!(
                    "{} and there are more than 1 prompty file.",
                    none(folder).message
                )))),
                (only, _) => only.map(Ok),
            }
        }
        [name] => Some(Ok((*name).to_owned())),
        several => Some(Err(RunError::user(
            "ValidationException",
            format!(
                "Multiple files {} exist in {folder}. Please specify a file or remove the extra YAML file.",
                several.join(", ")
            ),
        ))),
    }
}

fn none(folder: &str) -> RunError {
    RunError::usage(format!(
        "Have found neither flow.dag.yaml nor flow.flex.yaml in {folder}"
    ))
}

fn too_large(shown: &str) -> RunError {
    RunError::user(
        "ValidationException",
        format!("{shown} has more than {MAX_BYTES} bytes; a flow file may have no more"),
    )
}

/// `name` is the flow's where the file does not say one.
fn parse(bytes: Vec<u8>, file: &str, name: &str, shown: &str) -> Result<Flow, RunError> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large(shown));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        RunError::user(
            "UnicodeDecodeError",
            format!("{shown} is not UTF-8: the byte at {place} is wrong"),
        )
        .help("save the file as UTF-8")
    })?;
    let parsed = match file.strip_suffix(PROMPTY) {
        Some(stem) => Flow::parse_prompty(&text, file, stem),
        None => Flow::parse(&text, name),
    };
    parsed.map_err(|error| {
        let mut error = RunError::from(error);
        // The class decides how promptflow's users search; the file is ours to add.
        error.help = Some(match error.help {
            Some(help) => format!("{shown}, {}", help.trim_start_matches("flow file, ")),
            None => shown.to_owned(),
        });
        error
    })
}
