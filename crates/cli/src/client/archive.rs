//! A flow's folder as an archive, an app as it is, and a flow's files as a folder.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use flowcell_bundle::App;
use flowcell_executor::{RunError, Workspace, WorkspaceLimits, flow_file};
use flowcell_session::{FlowPath, Name};
use walkdir::WalkDir;

use super::error::ClientError;
use crate::{app, terminal};

/// What is uploaded of a flow.
pub(super) struct Upload {
    pub(super) media: &'static str,
    pub(super) bytes: Vec<u8>,
}

/// An app as it is. Of a flow's folder, the files as it would run here, as a compressed tar: without histories and caches,
/// with its additional includes under their own names.
pub(super) fn pack(source: &Path) -> Result<Upload, ClientError> {
    if is_app(source) {
        let bytes = app::read(source)?;
        // What is none is said before it is sent.
        App::read(&source.display().to_string(), &bytes).map_err(RunError::from)?;
        return Ok(Upload {
            media: "application/wasm",
            bytes,
        });
    }
    Ok(Upload {
        media: "application/gzip",
        bytes: tar(source)?,
    })
}

fn is_app(source: &Path) -> bool {
    source
        .extension()
        .is_some_and(|extension| extension == "wasm")
}

fn tar(source: &Path) -> Result<Vec<u8>, ClientError> {
    let workspace = Workspace::copy_of(source, &WorkspaceLimits::default())?;
    for note in workspace.notes() {
        terminal::note(note);
    }
    let failed = |error: std::io::Error| ClientError::new(format!("cannot pack the flow: {error}"));
    let root = workspace.flow_folder();
    let mut archive = ::tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for entry in WalkDir::new(&root).sort_by_file_name() {
        let entry = entry.map_err(|error| failed(error.into()))?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.path().strip_prefix(&root).unwrap_or(entry.path());
        let content = fs::read(entry.path()).map_err(failed)?;
        // The same files make the same archive.
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive
            .append_data(&mut header, path, content.as_slice())
            .map_err(failed)?;
    }
    archive
        .into_inner()
        .and_then(GzEncoder::finish)
        .map_err(failed)
}

/// The name that a folder or an app suggests for its flow.
pub(super) fn name_of(source: &Path) -> Result<Name, ClientError> {
    if is_app(source) {
        let bytes = app::read(source)?;
        let app = App::read(&source.display().to_string(), &bytes).map_err(RunError::from)?;
        return Name::new(app.index.name).map_err(|error| {
            ClientError::with_help(
                format!("the app's name cannot be the flow's: {error}"),
                "give another one with --name",
            )
        });
    }
    let file = flow_file(source)?;
    let folder = file.parent().and_then(|folder| folder.canonicalize().ok());
    let name = folder.as_deref().and_then(Path::file_name);
    let name = name.map(|name| name.to_string_lossy().into_owned());
    Name::new(name.unwrap_or_default()).map_err(|error| {
        ClientError::with_help(
            format!("the folder's name cannot be the flow's: {error}"),
            "give another one with --name",
        )
    })
}

/// A folder that a flow's files are put into. What is there already stays as it is.
pub(super) struct Target {
    folder: PathBuf,
}

impl Target {
    pub(super) fn new(folder: &Path) -> Result<Self, ClientError> {
        let is_free = match fs::read_dir(folder) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if !is_free {
            return Err(ClientError::with_help(
                format!(
                    "{} is there already, and not an empty folder",
                    folder.display()
                ),
                "choose another folder with --target",
            ));
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Adds a file. Its path is the host's word, and is not trusted.
    pub(super) fn add(&self, path: &str, content: &[u8]) -> Result<(), ClientError> {
        let path = FlowPath::new(path).map_err(|error| ClientError::new(error.to_string()))?;
        let path = self.folder.join(path.as_str());
        let failed = |error: std::io::Error| {
            ClientError::new(format!("cannot write {}: {error}", path.display()))
        };
        fs::create_dir_all(path.parent().unwrap_or(&self.folder)).map_err(failed)?;
        let mut file = fs::File::create_new(&path).map_err(failed)?;
        file.write_all(content).map_err(failed)
    }
}
