//! A session's place among images: the one that it starts from, and where its idle instances are stored.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use flowcell_bundle::{Digest, Manifest, Reference};
use flowcell_flow::NodeKind;
use flowcell_sandbox::{Hibernation, Image, Isolation, Owner, Pool, Program, StoreError};

use crate::connections::SessionConnections;
use crate::error::RunError;
use crate::host::Host;
use crate::session::{Session, SessionOptions, StoredOptions, resolved_variables, variables};
use crate::session_images::{
    BUILD_TIME, Build, BuildError, ImageState, MadeFrom, SessionImages, copy_sources,
};
use crate::workspace::{Sources, Workspace};

/// The folder of a working copy with the session's stored instances; guests do not see it.
const ASLEEP: &str = "asleep";
/// Digits of a digest that tell one set-up from another.
const DIGITS: usize = 24;
/// Set-ups of a session whose stored instances are kept, beside the one that is opened.
const MAX_ASLEEP: usize = 15;
/// A session may have as many bytes stored as so many of its instances may have changed.
const STORED_INSTANCES: u64 = 8;

/// What is needed to make a session's image, and to store its instances.
#[derive(Debug)]
pub(crate) struct Preparation {
    stored: StoredOptions,
    folder: PathBuf,
    /// The digest of the flow's files.
    files: String,
    options: SessionOptions,
    variables: Vec<(String, String)>,
    parts: Vec<String>,
    bundle: Reference,
    /// The image's name, once the program is known.
    name: Option<String>,
}

impl Preparation {
    /// `None` for a session that stores nothing.
    pub(crate) fn new(
        manifest: &Manifest,
        workspace: &Workspace,
        options: &SessionOptions,
        variables: &[(String, String)],
    ) -> Option<Self> {
        let stored = options.stored.clone()?;
        let sources = workspace.sources()?;
        let trees = manifest.trees.iter().map(|tree| &tree.digest);
        let components = manifest.components.iter().map(|one| &one.digest);
        Some(Self {
            stored,
            folder: workspace.folder().to_owned(),
            files: sources.digest().to_owned(),
            options: options.clone(),
            variables: variables.to_vec(),
            parts: trees.chain(components).map(Digest::to_string).collect(),
            bundle: manifest.reference(),
            name: None,
        })
    }

    /// The image to start from, if there is one, and where instances are stored.
    pub(crate) fn find(
        &mut self,
        host: &Host,
        program: &Program,
    ) -> (Option<Image>, Option<Hibernation>) {
        let variant = self.options.variant.as_ref().map(ToString::to_string);
        let from = MadeFrom {
            files: &self.files,
            variant: variant.as_deref(),
            variables: &self.variables,
            parts: self.parts.clone(),
            site: self.options.site.as_ref().map(|site| site.digest),
        };
        let owner = &self.stored.owner;
        let Some(name) = SessionImages::name(&from, program, owner) else {
            return (None, None);
        };
        let image = host.images.find(&name, program, owner);
        let hibernation = match host.images.key() {
            Ok(key) => Some(Hibernation {
                folder: self.asleep(&name),
                key,
                owner: owner.clone(),
                made_from: name.clone(),
                limit: self.stored.limit,
                within: Some((
                    self.folder.join(ASLEEP),
                    self.stored.limit.saturating_mul(STORED_INSTANCES),
                )),
            }),
            Err(error) => {
                tracing::warn!(%error, "without the host's key, no instances are stored");
                None
            }
        };
        self.name = Some(name);
        (image, hibernation)
    }

    /// The folder for instances of this set-up. Those of other files are of no use any more, and go, as do those of set-ups
    /// that were not used for the longest.
    fn asleep(&self, name: &str) -> PathBuf {
        let all = self.folder.join(ASLEEP);
        let digits = |digest: &str| digest.chars().take(DIGITS).collect::<String>();
        let files = digits(&self.files);
        let own = all.join(format!("{files}-{}", digits(name)));
        let (mut old, mut others) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_none_or(|name| !name.starts_with(&files)) {
                old.push(entry.path());
            } else if entry.path() != own {
                let used = entry.metadata().and_then(|metadata| metadata.modified());
                others.push((used.ok(), entry.path()));
            }
        }
        others.sort();
        others.truncate(others.len().saturating_sub(MAX_ASLEEP));
        old.extend(others.into_iter().map(|(_, folder)| folder));
        for folder in old {
            if let Err(error) = fs::remove_dir_all(folder) {
                tracing::warn!(%error, "stored instances that are of no use could not be deleted");
            }
        }
        own
    }

    /// Makes the session's image in the background, unless it is there, or somebody else is at it. `pool` starts instances
    /// from it then.
    pub(crate) fn prepare(&self, host: &Arc<Host>, pool: &Arc<Pool>) {
        let Some(name) = &self.name else { return };
        if pool.image().is_some_and(|image| image.info().is_some()) {
            return;
        }
        let Some(build) = host.images.begin(name, pool) else {
            return;
        };
        let maker = Maker {
            host: Arc::clone(host),
            folder: self.folder.clone(),
            owner: self.stored.owner.clone(),
            files: self.files.clone(),
            variables: self.variables.clone(),
            bundle: self.bundle.clone(),
            options: self.options.clone(),
        };
        let program = Arc::clone(pool.program());
        tokio::spawn(async move {
            let made = maker.make(&build, &program).await;
            if let Err(error) = &made {
                tracing::info!(
                    error = error as &dyn std::error::Error,
                    owner = ?maker.owner,
                    "a session runs without an image"
                );
            }
            build.end(&made);
        });
    }

    /// Where the session stands with its image.
    pub(crate) fn state(&self, host: &Host, pool: &Pool) -> ImageState {
        let image = pool.image();
        let ready = image.as_ref().and_then(|image| {
            let (_, bytes) = image.file()?;
            let changed = image.info()?.pages.saturating_mul(4096);
            Some(ImageState::Ready { bytes, changed })
        });
        match (ready, &self.name) {
            (Some(ready), _) => ready,
            (None, Some(name)) => host.images.state(name),
            (None, None) => ImageState::None("its runner has no images".to_owned()),
        }
    }
}

/// Makes one image.
struct Maker {
    host: Arc<Host>,
    folder: PathBuf,
    owner: Owner,
    files: String,
    variables: Vec<(String, String)>,
    bundle: Reference,
    options: SessionOptions,
}

impl Maker {
    /// Makes it in its turn.
    async fn make(&self, build: &Build, program: &Program) -> Result<Image, BuildError> {
        let _turn = build.turn().await?;
        let making = tokio::time::timeout(BUILD_TIME, self.make_now(build, program));
        making.await.unwrap_or_else(|_| {
            Err(BuildError::Unsuitable(format!(
                "importing its modules takes more than {} s",
                BUILD_TIME.as_secs()
            )))
        })
    }

    async fn make_now(&self, build: &Build, program: &Program) -> Result<Image, BuildError> {
        if let Some(image) = build.found(program, &self.owner) {
            return Ok(image);
        }
        let scratch = build.scratch()?;
        let sources = Sources::of(&self.folder, &self.folder.join("flow"));
        let sources = sources.filter(|sources| sources.digest() == self.files);
        let sources = sources.ok_or(BuildError::Gone)?;
        copy_sources(&sources, &scratch.path().join("flow"))?;
        let refused = |error: RunError| BuildError::Unsuitable(error.message);
        let workspace = Workspace::open(scratch.path(), "flow").map_err(refused)?;
        // The image's name says what the session's own copy said when it was opened, which its tools can write to.
        let used = self.host.store.use_bundle(&self.bundle);
        let used = used.map_err(|error| refused(error.into()))?;
        let given = &self.options.environment_variables;
        let variables = variables(&used.manifest.environment, workspace.flow(), given);
        let connections = SessionConnections::new(&self.options).map_err(refused)?;
        let variables = resolved_variables(&variables, &connections).map_err(refused)?;
        if variables != self.variables {
            return Err(BuildError::Unsuitable(
                "the flow's environment variables were changed by a tool".to_owned(),
            ));
        }
        let options = SessionOptions {
            image: Some(self.bundle.clone()),
            isolation: Isolation::Session,
            instances: 1,
            // What others say at this moment does not belong into it.
            network: None,
            // The image is its workspace's, whichever session comes first.
            stored: Some(StoredOptions {
                owner: Owner {
                    workspace: self.owner.workspace.clone(),
                    session: None,
                },
                limit: 0,
            }),
            ..self.options.clone()
        };
        // All nodes' files are imported into one instance, which then lies idle in the pool.
        let session = Session::open(&self.host, workspace, options);
        let session = session.await.map_err(refused)?;
        let pool = session.inner.python.as_ref();
        let pool =
            pool.ok_or_else(|| BuildError::Unsuitable("the flow has no Python nodes".to_owned()))?;
        let lease = pool.try_checkout().await;
        let lease = lease.map_err(|error| BuildError::Unsuitable(error.to_string()))?;
        let mut lease = lease.ok_or_else(|| {
            BuildError::Unsuitable("its compute has no room for another instance".to_owned())
        })?;
        if lease.has_written() {
            return Err(BuildError::Unsuitable(
                "importing its modules writes files, which an image does not hold".to_owned(),
            ));
        }
        let destination = build.destination(&self.owner)?;
        let stored = lease.store(&destination).await;
        match stored {
            Ok(stored) => Ok(stored.image),
            Err(StoreError::Io { source, .. }) => Err(BuildError::Io(source)),
            Err(error) => Err(BuildError::Unsuitable(format!(
                "importing its modules leaves a state that cannot be stored: {error}"
            ))),
        }
    }
}

/// Makes a session's image in the background, where that is possible and has not been done. It takes a runtime.
///
/// # Errors
/// When the flow has no sense, or its bundle cannot be used.
pub fn prepare_image(
    host: &Arc<Host>,
    workspace: &Workspace,
    options: &SessionOptions,
) -> Result<(), RunError> {
    let mut prepared = crate::session::prepare(host, workspace, options)?;
    let is_python = |node: &flowcell_flow::Node| node.kind == Some(NodeKind::Python);
    if prepared.flow.nodes.iter().any(is_python) {
        let pool = prepared.tools.python_runner(host)?;
        if let Some(preparation) = prepared.tools.take_preparation() {
            preparation.prepare(host, &pool);
        }
    }
    Ok(())
}

/// Copies a session's stored instances to another one, whose instances go on as copies; gives their number.
///
/// Both folders are working copies. Nothing of the first session may be at work.
///
/// # Errors
/// When the bundle cannot be used, or a file not be read or written.
pub fn fork(
    host: &Host,
    bundle: &Reference,
    from: (&Path, &Owner),
    to: (&Path, &Owner),
) -> Result<usize, RunError> {
    let used = host.store.use_bundle(bundle)?;
    let Some(runner) = used.manifest.python_runner() else {
        return Ok(0);
    };
    let program = host.compiled(|programs, progress| programs.component(runner, progress))?;
    let Some(base) = program.base() else {
        return Ok(0);
    };
    let failed = |error: &dyn std::error::Error| {
        RunError::system(
            "OSError",
            format!("the session's memory cannot be copied: {error}"),
        )
    };
    let key = host.images.key().map_err(|error| failed(&error))?;
    let mut copied = 0;
    let entries = match fs::read_dir(from.0.join(ASLEEP)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(|error| failed(&error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed(&error))?;
        let at = |(folder, owner): (&Path, &Owner)| Hibernation {
            folder: folder.join(ASLEEP).join(entry.file_name()),
            key: Arc::clone(&key),
            owner: owner.clone(),
            made_from: String::new(),
            limit: u64::MAX >> 1,
            within: None,
        };
        copied += at(from)
            .fork(base, &at(to))
            .map_err(|error| failed(&error))?;
    }
    Ok(copied)
}
