//! What a flow's environment asks for, made ready before the flow is opened.

use std::collections::BTreeMap;
use std::path::Path;

use flowcell_bundle::{Digest, Lease, Reference, Used};
use flowcell_environment::{
    Credentials, EnvironmentError, Environments, Image, IndexSettings, LOCK_FILE, Lock,
    Requirements, Site,
};
use flowcell_flow::Flow;
use serde::{Deserialize, Serialize};

use crate::error::RunError;
use crate::files::FileError;
use crate::host::Host;
use crate::workspace::Workspace;

/// The file that is taken where the flow names none: Azure's upload does the same.
const REQUIREMENTS: &str = "requirements.txt";
/// Bytes of a file of requirements, and of a lock.
const MAX_FILE: u64 = 4 << 20;

/// How environments are made.
#[derive(Debug, Clone, Default)]
pub struct EnvironmentOptions {
    /// Where packages come from.
    pub indexes: IndexSettings,
    /// What the session may show to hosts of packages.
    pub credentials: Credentials,
    /// Variables that lines of requirements may name.
    pub variables: BTreeMap<String, String>,
}

/// What a flow's environment has come to.
#[derive(Debug, Clone)]
pub struct FlowEnvironment {
    /// The base image.
    pub image: Reference,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The lock, where there are requirements.
    pub lock: Option<Lock>,
    /// What the requirements have brought.
    pub site: Option<Site>,
    /// What whoever wrote the flow should know.
    pub notes: Vec<String>,
    /// Keeps the base image in the store.
    pub lease: Lease,
}

/// What an environment is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// What fits these requirements.
    Requirements(Requirements),
    /// Exactly what this lock says, which is text as PEP 751 has it.
    Lock(String),
}

/// Gives the text of a file of a flow; the error says why it cannot be read.
pub type ReadText<'a> = dyn Fn(&str) -> Result<Option<String>, String> + 'a;

/// An environment that was made: what it is by, what it has, and what whoever asked should know.
pub type Made = (Lock, Option<Site>, Vec<String>);

/// Makes a flow's environment ready: its image is found, its requirements are resolved (or its lock is taken as it is), and
/// what the image does not have is installed.
///
/// `image` stands in place of what the flow says; `default` is for a flow that says nothing.
///
/// # Errors
/// When the image is not there, or the requirements cannot be had or do not run here.
pub async fn make_environment(
    host: &Host,
    workspace: &Workspace,
    image: Option<&Reference>,
    default: &Reference,
    options: &EnvironmentOptions,
) -> Result<FlowEnvironment, RunError> {
    let (used, note) = host.image(workspace.flow(), image, default)?;
    let image = used.manifest.reference();
    let mut notes: Vec<String> = note.into_iter().collect();
    let (lock, site) = match asked_of(workspace)? {
        None => (None, None),
        Some(asked) => {
            let (lock, site, found) = install_over(host, &image, &used, &asked, options).await?;
            notes.extend(found);
            (Some(lock), site)
        }
    };
    Ok(FlowEnvironment {
        digest: used.digest,
        image,
        lock,
        site,
        notes,
        lease: used.lease,
    })
}

/// Makes an environment over a base image.
///
/// # Errors
/// When the image is not there, or what is asked for cannot be had or does not run here.
pub async fn install(
    host: &Host,
    image: &Reference,
    asked: &Asked,
    options: &EnvironmentOptions,
) -> Result<Made, RunError> {
    let used = host.store.use_bundle(image)?;
    install_over(host, image, &used, asked, options).await
}

async fn install_over(
    host: &Host,
    image: &Reference,
    used: &Used,
    asked: &Asked,
    options: &EnvironmentOptions,
) -> Result<Made, RunError> {
    let digest = used.digest;
    let name = match image.digest() {
        None => image.clone(),
        // A digest says nothing to whoever reads the lock.
        Some(_) => host.store.manifest_by_digest(&digest)?.reference(),
    };
    let name = name.to_string();
    let image = Image {
        name: &name,
        digest: &digest,
        manifest: &used.manifest,
    };
    let environments = host.environments(&options.indexes);
    let mut notes = Vec::new();
    let lock = match asked {
        Asked::Lock(text) => {
            let lock = Lock::parse(LOCK_FILE, text)?;
            if let Some(here) = lock.here().filter(|here| here.image_digest != digest) {
                notes.push(format!(
                    "{LOCK_FILE} was made for {} ({}), and {name} ({}) is used; `flowcell lock` makes it anew",
                    here.image,
                    here.image_digest.short(),
                    digest.short()
                ));
            }
            lock
        }
        Asked::Requirements(requirements) => {
            let (variables, credentials) = (&options.variables, &options.credentials);
            let locked = environments.lock(image, requirements, variables, credentials);
            let locked = locked.await?;
            notes.extend(locked.notes);
            locked.lock
        }
    };
    let site = environments.install(image, LOCK_FILE, &lock, &options.credentials);
    let mut site = site.await?;
    if let Some(site) = &mut site {
        notes.append(&mut site.notes);
    }
    Ok((lock, site, notes))
}

/// What a flow asks for, if it asks for anything: its lock, which says more exactly what is wanted, or its requirements.
/// `read` gives the text of a file of the flow, by its path in the flow's folder; `None` when there is none.
///
/// # Errors
/// When a file that the flow names is missing, or lies outside of the flow.
pub fn asked(flow: &Flow, read: &ReadText<'_>) -> Result<Option<Asked>, RunError> {
    let text = read(LOCK_FILE).map_err(|problem| EnvironmentError::Lock {
        file: LOCK_FILE.to_owned(),
        problem,
    })?;
    if let Some(text) = text {
        return Ok(Some(Asked::Lock(text)));
    }
    Ok(requirements(flow, read)?.map(Asked::Requirements))
}

/// The same for a flow's working copy.
pub(crate) fn asked_of(workspace: &Workspace) -> Result<Option<Asked>, RunError> {
    asked(workspace.flow(), &|name| read(workspace, name))
}

fn requirements(flow: &Flow, read: &ReadText<'_>) -> Result<Option<Requirements>, RunError> {
    let environment = flow.environment.as_ref();
    let named = environment.and_then(|environment| environment.python_requirements_txt.as_deref());
    let there = |file: &str| matches!(read(file), Ok(Some(_)));
    let file = match named {
        Some(file) => placed(flow, file, &there),
        None if there(REQUIREMENTS) => REQUIREMENTS.to_owned(),
        None => return Ok(None),
    };
    Ok(Some(Requirements::gather(&file, read)?))
}

/// The requirements that a flow names, if it names any, without a look at its lock.
///
/// # Errors
/// When a file that it names is missing, or lies outside of the flow.
pub fn flow_requirements(workspace: &Workspace) -> Result<Option<Requirements>, RunError> {
    requirements(workspace.flow(), &|name| read(workspace, name))
}

/// Where a file is that the flow names: one of outside is under its own name if `additional_includes` has brought it.
fn placed(flow: &Flow, file: &str, there: &dyn Fn(&str) -> bool) -> String {
    let own = Path::new(file).file_name().and_then(|name| name.to_str());
    let is_included = |own: &str| {
        flow.additional_includes.iter().any(|include| {
            Path::new(include)
                .file_name()
                .and_then(|name| name.to_str())
                == Some(own)
        })
    };
    match own {
        Some(own) if !there(file) && is_included(own) => own.to_owned(),
        _ => file.to_owned(),
    }
}

fn read(workspace: &Workspace, name: &str) -> Result<Option<String>, String> {
    let bytes = match workspace.files().read(name, MAX_FILE) {
        Ok(bytes) => bytes,
        Err(FileError::Missing) => return Ok(None),
        Err(FileError::Outside) => return Err("the path leads out of the flow's folder".to_owned()),
        Err(FileError::TooLarge { limit }) => {
            return Err(format!("it has more than {limit} bytes"));
        }
        Err(FileError::Io(error)) => return Err(format!("it cannot be read: {error}")),
    };
    text_of(bytes).map(Some)
}

/// A file's text.
///
/// # Errors
/// When it is none.
pub fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    let text = String::from_utf8(bytes).map_err(|_| "it is no UTF-8 text".to_owned())?;
    // Windows' editors like to begin with a byte order mark.
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

impl Host {
    /// The environments of its store.
    pub fn environments<'a>(&'a self, indexes: &'a IndexSettings) -> Environments<'a> {
        Environments {
            sandbox: &self.sandbox,
            programs: &self.programs,
            indexes,
            progress: &*self.progress,
        }
    }

    /// An environment that was made before, by its digest.
    ///
    /// # Errors
    /// When it is gone, or cannot be read.
    pub fn site(&self, digest: &Digest) -> Result<Site, RunError> {
        let found = Environments::find(&self.store, digest)?;
        found.ok_or_else(|| {
            RunError::system(
                "EnvironmentError",
                format!(
                    "the environment {} is gone from the store; install it again",
                    digest.short()
                ),
            )
        })
    }

    /// The base image of a flow, and a note where it is not the one that the flow names.
    ///
    /// # Errors
    /// When it is not in the store.
    pub fn image(
        &self,
        flow: &Flow,
        image: Option<&Reference>,
        default: &Reference,
    ) -> Result<(Used, Option<String>), RunError> {
        if let Some(image) = image {
            return Ok((self.store.use_bundle(image)?, None));
        }
        let environment = flow.environment.as_ref();
        let named = environment.and_then(|environment| environment.image.as_deref());
        self.bundle_for(named, default)
    }
}

impl From<EnvironmentError> for RunError {
    fn from(error: EnvironmentError) -> Self {
        match error {
            EnvironmentError::Bundle(error) => error.into(),
            EnvironmentError::Io { ref source, .. } => {
                Self::system("EnvironmentError", format!("{error}: {source}")).caused_by(error)
            }
            error if error.is_users() => Self::user("EnvironmentError", error.to_string()),
            error => Self::system("EnvironmentError", error.to_string()).caused_by(error),
        }
    }
}
