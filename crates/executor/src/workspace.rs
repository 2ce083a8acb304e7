//! A flow's folder as a session has it: one that tools may write to, while the user's own folder stays as it is.
//!
//! promptflow runs tools in the folder itself (or in a temporary copy, when there are `additional_includes`). Here it is
//! always a working copy: one made for a single session and gone with it ([`Workspace::copy_of`]), or one that is kept
//! and opened by a session after another ([`Workspace::open`]).

mod copy;
mod flow_file;
mod sample;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use flowcell_flow::Flow;
use tempfile::TempDir;

use self::copy::Copy;
pub use self::flow_file::flow_file;
pub(crate) use self::sources::Sources;
use crate::error::RunError;
use crate::files::FlowFiles;

/// The folder of a workspace that holds the flow's files, and that guests see as `/flow`.
const FLOW: &str = "flow";
/// The folder that guests see as `/tmp`.
const TEMPORARY: &str = "tmp";

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

/// A flow's files, for tools to read and write, and the flow in them.
#[derive(Debug)]
pub struct Workspace {
    flow: Flow,
    flow_file: String,
    folder: PathBuf,
    files: FlowFiles,
    // What messages call the folder of the flow's files.
    shown: PathBuf,
    notes: Vec<String>,
    // Deleted with the workspace.
    _copy: Option<TempDir>,
}

impl Workspace {
    /// Copies a flow's folder; `path` is the folder or its flow file. The copy is deleted when the workspace is dropped.
    ///
    /// # Errors
    /// When there is no flow, or more than one, or the flow file is wrong, or files are missing or too many.
    pub fn copy_of(path: &Path, limits: &WorkspaceLimits) -> Result<Self, RunError> {
        let file = flow_file(path)?;
        let source = file.parent().unwrap_or(Path::new(".")).to_owned();
        let mut flow = flow_file::read(&file)?;
        let own_name = file.file_name().unwrap_or_default().to_string_lossy();
        let folder = tempfile::Builder::new()
            .prefix("flowcell-")
            .tempdir()
            .map_err(|error| cannot("make a folder in", &std::env::temp_dir(), &error))?;
        let mut copy = Copy::new(&source, limits);
        let target = folder.path().join(FLOW);
        copy.folder(&source, &target, 0)?;
        copy.includes(&flow, &source, &target)?;
        let temporary = folder.path().join(TEMPORARY);
        fs::create_dir(&temporary).map_err(|error| cannot("make", &temporary, &error))?;
        let files = FlowFiles::new(&target).map_err(|error| cannot("open", &target, &error))?;
        sample::resolve(&mut flow, &files)?;
        Ok(Self {
            flow,
            flow_file: own_name.into_owned(),
            folder: folder.path().to_owned(),
            files,
            shown: source,
            notes: copy.notes,
            _copy: Some(folder),
        })
    }

    /// A working copy for a single session whose files somebody else puts into its folder: `fill` gets that, empty. `name` is
    /// as for [`Workspace::open`].
    ///
    /// # Errors
    /// That of `fill`, or as [`Workspace::open`].
    pub(crate) fn made(
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), RunError>,
    ) -> Result<Self, RunError> {
        let folder = tempfile::Builder::new()
            .prefix("flowcell-")
            .tempdir()
            .map_err(|error| cannot("make a folder in", &std::env::temp_dir(), &error))?;
        let target = folder.path().join(FLOW);
        fs::create_dir(&target).map_err(|error| cannot("make", &target, &error))?;
        fill(&target)?;
        let mut workspace = Self::open(folder.path(), name)?;
        workspace._copy = Some(folder);
        Ok(workspace)
    }

    /// Opens a working copy that is there already and stays: `folder` has the flow's files in its folder `flow`, and in
    /// its folder `tmp` (made if it is missing) the tools' `/tmp`.
    ///
    /// Tools of earlier sessions may have changed everything in both, so no path in them is trusted: the flow's file is
    /// read below `flow` only, up to the size that a flow's file may have, and without waiting for whatever it has
    /// become. Nothing is copied: of `additional_includes` each must be there under its own name already.
    ///
    /// `name` is the flow's name where its file says none, and what messages show instead of a path of the host; a
    /// tool's file is shown as the tool sees it, below `/flow`.
    ///
    /// # Errors
    /// When there is no flow, or more than one, or its file is wrong or no longer a file, or an include is missing. None
    /// of them names a path of the host.
    pub fn open(folder: &Path, name: &str) -> Result<Self, RunError> {
        let gone = |what: &str, error: std::io::Error| {
            RunError::system(
                "OSError",
                format!("cannot open the {what} of {name}: {error}"),
            )
        };
        let files = FlowFiles::new(&folder.join(FLOW)).map_err(|error| gone("folder", error))?;
        match fs::create_dir(folder.join(TEMPORARY)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(gone("temporary folder", error));
            }
            _ => {}
        }
        let (mut flow, flow_file) = flow_file::read_within(&files, name)?;
        sample::resolve(&mut flow, &files)?;
        for include in &flow.additional_includes {
            let own_name = Path::new(include).file_name().and_then(|own| own.to_str());
            if !own_name.is_some_and(|own| files.has(own)) {
                return Err(missing_include(include));
            }
        }
        Ok(Self {
            flow,
            flow_file,
            folder: folder.to_owned(),
            files,
            shown: PathBuf::from("/flow"),
            notes: Vec::new(),
            _copy: None,
        })
    }

    /// The flow, as its file says.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The name of that file.
    pub(crate) fn flow_file(&self) -> &str {
        &self.flow_file
    }

    /// What happened while copying that the user may want to know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A file of the flow's, as messages show it: in the user's folder, or in the one that tools see.
    pub(crate) fn shown(&self, file: &str) -> PathBuf {
        self.shown.join(file)
    }

    /// The folder of the copy that holds the flow's files, with its additional includes.
    pub fn flow_folder(&self) -> PathBuf {
        self.folder.join(FLOW)
    }

    pub(crate) fn temporary_folder(&self) -> PathBuf {
        self.folder.join(TEMPORARY)
    }

    /// The folder with all of it, of which guests see the two above.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the flow's files were when they were put into the copy; `None` for a copy whose files are not listed.
    pub(crate) fn sources(&self) -> Option<Sources> {
        Sources::of(&self.folder, &self.folder.join(FLOW))
    }

    /// The digest of the list of a working copy's files as they were uploaded; `None` for one without such a list.
    pub fn files_digest(folder: &Path) -> Option<String> {
        Some(Sources::of(folder, &folder.join(FLOW))?.digest().to_owned())
    }

    /// The files of the copy.
    pub(crate) fn files(&self) -> &FlowFiles {
        &self.files
    }
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> RunError {
    RunError::user(
        "OSError",
        format!("cannot {action} {}: {error}", path.display()),
    )
}

/// promptflow's error for an item of `additional_includes`.
fn missing_include(include: &str) -> RunError {
    RunError::usage(format!("Unable to find additional include {include}"))
}
