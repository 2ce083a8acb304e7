//! A flow's folder as a session has it: a private copy that tools may write to, while the user's folder stays as it is.
//!
//! promptflow runs tools in the folder itself (or in a temporary copy, when there are `additional_includes`). Here it is
//! always a copy: files of `additional_includes` are in it, links are resolved, and what tools write is gone with the
//! session.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use flowcell_flow::Flow;
use tempfile::TempDir;

use crate::error::RunError;
use crate::files::FlowFiles;

/// The names under which a folder's flow file is looked for, in promptflow's order.
const FLOW_FILES: [&str; 4] = [
    "flow.dag.yaml",
    "flow.dag.yml",
    "flow.flex.yaml",
    "flow.flex.yml",
];
/// Folders that are no part of a flow: histories, caches and what earlier runs left.
const SKIPPED: [&str; 5] = [
    ".git",
    ".promptflow",
    ".runs",
    "__pycache__",
    "node_modules",
];
/// Deepest folder that is copied. Links can make a tree without end.
const MAX_DEPTH: usize = 32;

/// How large a flow's folder may be.
#[derive(Debug, Clone)]
pub struct WorkspaceLimits {
    /// Bytes in all files.
    pub bytes: u64,
    /// Files and folders.
    pub files: u64,
}

impl Default for WorkspaceLimits {
    fn default() -> Self {
        Self {
            bytes: 128 << 20,
            files: 5_000,
        }
    }
}

/// A private copy of a flow's folder, and the flow in it. Deleted when dropped.
#[derive(Debug)]
pub struct Workspace {
    flow: Flow,
    source: PathBuf,
    folder: TempDir,
    files: FlowFiles,
    notes: Vec<String>,
}

impl Workspace {
    /// Copies a flow's folder; `path` is the folder or its flow file.
    ///
    /// # Errors
    /// When there is no flow, or more than one, or the flow file is wrong, or files are missing or too many.
    pub fn copy_of(path: &Path, limits: &WorkspaceLimits) -> Result<Self, RunError> {
        let file = flow_file(path)?;
        let source = file.parent().unwrap_or(Path::new(".")).to_owned();
        let flow = read_flow(&file)?;
        let folder = tempfile::Builder::new()
            .prefix("flowcell-")
            .tempdir()
            .map_err(|error| cannot("make a folder in", &std::env::temp_dir(), &error))?;
        let mut copy = Copy {
            limits,
            bytes: 0,
            files: 0,
            root: source.canonicalize().unwrap_or_else(|_| source.clone()),
            notes: Vec::new(),
        };
        let target = folder.path().join("flow");
        copy.folder(&source, &target, 0)?;
        copy.includes(&flow, &source, &target)?;
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary).map_err(|error| cannot("make", &temporary, &error))?;
        let files = FlowFiles::new(&target).map_err(|error| cannot("open", &target, &error))?;
        Ok(Self {
            flow,
            source,
            folder,
            files,
            notes: copy.notes,
        })
    }

    /// The flow, as its file says.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The user's folder.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// What happened while copying that the user may want to know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(crate) fn flow_folder(&self) -> PathBuf {
        self.folder.path().join("flow")
    }

    pub(crate) fn temporary_folder(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    /// The files of the copy.
    pub(crate) fn files(&self) -> &FlowFiles {
        &self.files
    }
}

/// The flow file that a path means: the path itself, or the one flow file in a folder.
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
        let found: Vec<&str> = FLOW_FILES
            .into_iter()
            .filter(|name| path.join(name).is_file())
            .collect();
        match found.as_slice() {
            [] => {
                return Err(RunError::usage(format!(
                    "Have found neither flow.dag.yaml nor flow.flex.yaml in {}",
                    shown.display()
                ))
                .help("`flowcell flow init --flow DIR` makes a flow"));
            }
            [name] => path.join(name),
            several => {
                return Err(RunError::user(
                    "ValidationException",
                    format!(
                        "Multiple files {} exist in {}. Please specify a file or remove the extra YAML file.",
                        several.join(", "),
                        path.display()
                    ),
                ));
            }
        }
    } else {
        path.to_owned()
    };
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if name.starts_with("flow.flex.") || name.ends_with(".prompty") {
        return Err(RunError::user(
            "NotSupported",
            format!(
                "{} is a flex flow or prompty; this version of flowcell runs DAG flows (flow.dag.yaml)",
                file.display()
            ),
        ));
    }
    if !name.ends_with(".yaml") && !name.ends_with(".yml") {
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

fn read_flow(file: &Path) -> Result<Flow, RunError> {
    let size = fs::metadata(file)
        .map_err(|error| cannot("read", file, &error))?
        .len();
    if size > flowcell_flow::MAX_BYTES as u64 {
        return Err(RunError::user(
            "ValidationException",
            format!(
                "{} has {size} bytes; a flow file may have {}",
                file.display(),
                flowcell_flow::MAX_BYTES
            ),
        ));
    }
    let bytes = fs::read(file).map_err(|error| cannot("read", file, &error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        RunError::user(
            "UnicodeDecodeError",
            format!(
                "{} is not UTF-8: the byte at {place} is wrong",
                file.display()
            ),
        )
        .help("save the file as UTF-8")
    })?;
    let folder = file.parent().and_then(|folder| folder.canonicalize().ok());
    let name = folder.as_deref().and_then(Path::file_name).map_or_else(
        || "flow".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    Flow::parse(&text, &name).map_err(|error| {
        let mut error = RunError::from(error);
        // The class decides how promptflow's users search; the file is ours to add.
        error.help = Some(match error.help {
            Some(help) => format!(
                "{}, {}",
                file.display(),
                help.trim_start_matches("flow file, ")
            ),
            None => file.display().to_string(),
        });
        error
    })
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> RunError {
    RunError::user(
        "OSError",
        format!("cannot {action} {}: {error}", path.display()),
    )
}

struct Copy<'a> {
    limits: &'a WorkspaceLimits,
    bytes: u64,
    files: u64,
    root: PathBuf,
    notes: Vec<String>,
}

impl Copy<'_> {
    fn folder(&mut self, source: &Path, target: &Path, depth: usize) -> Result<(), RunError> {
        if depth > MAX_DEPTH {
            return Err(RunError::user(
                "ValidationException",
                format!(
                    "{} is more than {MAX_DEPTH} folders deep; is there a link that leads back?",
                    source.display()
                ),
            ));
        }
        self.count(source, 0)?;
        fs::create_dir_all(target).map_err(|error| cannot("make", target, &error))?;
        let mut entries = fs::read_dir(source)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| cannot("list", source, &error))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = entry.file_name();
            self.note_link(&path);
            // Follows links: the copy is made on the user's own machine, with the user's own rights.
            let Ok(metadata) = fs::metadata(&path) else {
                self.notes
                    .push(format!("{} leads nowhere and was left out", path.display()));
                continue;
            };
            if metadata.is_dir() {
                let skipped = SKIPPED.iter().any(|skipped| name == *skipped);
                if skipped || path.join("pyvenv.cfg").exists() {
                    continue;
                }
                self.folder(&path, &target.join(&name), depth + 1)?;
            } else if metadata.is_file() {
                self.file(&path, &target.join(&name), metadata.len())?;
            } else {
                self.notes.push(format!(
                    "{} is neither file nor folder and was left out",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    fn file(&mut self, source: &Path, target: &Path, size: u64) -> Result<(), RunError> {
        self.count(source, size)?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|error| cannot("make", parent, &error))?;
        }
        let bytes = fs::read(source).map_err(|error| cannot("read", source, &error))?;
        // Not `fs::copy`: a read-only source must not make a copy that the flow's tools cannot write.
        fs::write(target, bytes).map_err(|error| cannot("write", target, &error))
    }

    fn count(&mut self, path: &Path, bytes: u64) -> Result<(), RunError> {
        self.files += 1;
        self.bytes += bytes;
        if self.files > self.limits.files || self.bytes > self.limits.bytes {
            return Err(RunError::user(
                "ValidationException",
                format!(
                    "the flow's folder is too large: at {} it has {} files and {} MiB; {} files and {} MiB are allowed",
                    path.display(),
                    self.files,
                    self.bytes >> 20,
                    self.limits.files,
                    self.limits.bytes >> 20
                ),
            )
            .help("move what the flow does not need out of the folder"));
        }
        Ok(())
    }

    fn note_link(&mut self, path: &Path) {
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        if !is_link {
            return;
        }
        if let Ok(leads_to) = path.canonicalize()
            && !leads_to.starts_with(&self.root)
        {
            self.notes.push(format!(
                "{} is a link to {}, outside of the flow; its target was copied",
                path.display(),
                leads_to.display()
            ));
        }
    }

    /// promptflow's rule: each item goes to its own name in the flow's folder, over what is there.
    fn includes(&mut self, flow: &Flow, source: &Path, target: &Path) -> Result<(), RunError> {
        let mut seen = HashSet::new();
        for include in &flow.additional_includes {
            let missing = || {
                RunError::user(
                    "UserErrorException",
                    format!("Unable to find additional include {include}"),
                )
            };
            let path = source.join(include);
            let Ok(path) = path.canonicalize() else {
                return Err(missing());
            };
            let Some(name) = path.file_name() else {
                return Err(missing());
            };
            let place = target.join(name);
            if !seen.insert(name.to_owned()) || place.exists() {
                self.notes.push(format!(
                    "additional include {include} takes the place of {}",
                    name.to_string_lossy()
                ));
            }
            let metadata = fs::metadata(&path).map_err(|_| missing())?;
            if metadata.is_dir() {
                self.folder(&path, &place, 1)?;
            } else {
                self.file(&path, &place, metadata.len())?;
            }
        }
        Ok(())
    }
}
