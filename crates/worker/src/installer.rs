//! Environments are made, and base images fetched, in a process of their own: `flowcell worker --install`.
//!
//! What comes from indexes and registries is a stranger's, what is imported to see whether it runs is too, and a resolver
//! can be led on for as long as somebody likes. So it happens apart from sessions and from the host, within limits, and
//! ends with its process (`installing.rs`). The host hands over what is asked as one line of JSON, and reads lines: how it
//! goes on, and at last what has come of it.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use flowcell_egress::{HostPattern, HostPatternError};
use flowcell_environment::{Credential, Credentials, IndexSettings, SitePackage};
use flowcell_executor::Asked;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::Semaphore;

use crate::WorkerCommand;

/// Processes of this kind at once; more wait.
const AT_ONCE: usize = 2;
/// Bytes of what is asked, and of what comes back.
pub(crate) const MAX_JOB: u64 = 16 << 20;
const MAX_ANSWER: u64 = 16 << 20;

/// What such a process is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    Install(InstallJob),
    Pull(PullJob),
}

/// An environment that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallJob {
    /// The folder of the store.
    pub store: PathBuf,
    /// The base image, as the store has it: `name:version`, or the digest of its manifest.
    pub image: String,
    /// What is wanted.
    pub asked: Asked,
    /// Where packages come from.
    pub indexes: IndexSettings,
    /// What hosts of packages get to know.
    pub credentials: Credentials,
}

/// An environment that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its digest; `None` when the image has all that is wanted.
    pub site: Option<String>,
    /// The lock.
    pub lock: String,
    /// What it has beside the image.
    pub packages: Vec<SitePackage>,
    /// What whoever asked should know.
    pub notes: Vec<String>,
}

/// A base image that is to be fetched from a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullJob {
    /// The folder of the store.
    pub store: PathBuf,
    /// The image, `registry/repository:tag` or `…@digest`.
    pub image: String,
    /// Which registries may be asked.
    pub registries: RegistrySettings,
    /// What the registry gets to know.
    pub credential: Option<Credential>,
    /// Only see which image the tag means now.
    pub look: bool,
}

/// Which registries may be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrySettings {
    /// Patterns of their hosts, as [`HostPattern`] has them.
    pub registries: Vec<String>,
    /// Patterns of hosts that they may refer to for tokens and content, besides themselves; any, when there are none.
    pub other_hosts: Vec<String>,
}

impl RegistrySettings {
    /// As a client takes them.
    ///
    /// # Errors
    /// When one is no pattern.
    pub fn client(&self) -> Result<flowcell_registry::Settings, HostPatternError> {
        let patterns = |texts: &[String]| -> Result<Vec<HostPattern>, HostPatternError> {
            texts.iter().map(|text| text.parse()).collect()
        };
        Ok(flowcell_registry::Settings {
            registries: Some(patterns(&self.registries)?),
            other_hosts: match self.other_hosts.as_slice() {
                [] => None,
                some => Some(patterns(some)?),
            },
            ..flowcell_registry::Settings::default()
        })
    }
}

/// What has come of a [`PullJob`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pulled {
    /// The store has it now.
    Bundle {
        /// The digest of the bundle's manifest, which names it in the store.
        bundle: String,
        /// The digest that the registry has it under.
        artifact: String,
    },
    /// It was only looked for, and is there.
    Found {
        /// The digest that the registry has it under.
        artifact: String,
    },
    /// It is an image of another kind: a Docker image, for example.
    NoBundle {
        /// What it is.
        what: String,
    },
}

/// What was asked for and did not come to be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InstallError {
    /// Whoever asked can do something about it.
    #[error("{0}")]
    Wrong(String),
    /// The host could not do it.
    #[error("{0}")]
    Failed(String),
}

/// A line of the process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    Step(String),
    Installed(Box<Installed>),
    Pulled(Pulled),
    Wrong(String),
    Failed(String),
}

/// Starts such processes.
#[derive(Debug)]
pub struct Installer {
    command: WorkerCommand,
    time: Duration,
    places: Semaphore,
}

impl Installer {
    /// `command` starts a process that calls [`install_for_parent`](crate::install_for_parent); each gets this time.
    pub fn new(command: WorkerCommand, time: Duration) -> Self {
        Self {
            command,
            time,
            places: Semaphore::new(AT_ONCE),
        }
    }

    /// Makes an environment; `hear` is told of each long step. The process ends when this is dropped.
    ///
    /// # Errors
    /// When it cannot be made, or takes more than it may.
    pub async fn install(
        &self,
        job: InstallJob,
        hear: &(dyn Fn(String) + Sync),
    ) -> Result<Installed, InstallError> {
        match self.run(&Job::Install(job), hear).await? {
            Line::Installed(installed) => Ok(*installed),
            _ => Err(broken()),
        }
    }

    /// Fetches a base image, or sees which one a tag means; `hear` is told of each long step. The process ends when this is
    /// dropped.
    ///
    /// # Errors
    /// When the registry has no such image, may not be asked, or cannot be used.
    pub async fn pull(
        &self,
        job: PullJob,
        hear: &(dyn Fn(String) + Sync),
    ) -> Result<Pulled, InstallError> {
        match self.run(&Job::Pull(job), hear).await? {
            Line::Pulled(pulled) => Ok(pulled),
            _ => Err(broken()),
        }
    }

    async fn run(&self, job: &Job, hear: &(dyn Fn(String) + Sync)) -> Result<Line, InstallError> {
        let _place = self.places.acquire().await;
        let making = tokio::time::timeout(self.time, self.process(job, hear));
        making.await.unwrap_or_else(|_| {
            Err(InstallError::Wrong(format!(
                "it takes more than {} s",
                self.time.as_secs()
            )))
        })
    }

    async fn process(
        &self,
        job: &Job,
        hear: &(dyn Fn(String) + Sync),
    ) -> Result<Line, InstallError> {
        let failed = |error: io::Error| {
            InstallError::Failed(format!(
                "the process that makes environments failed: {error}"
            ))
        };
        let text = serde_json::to_vec(job).map_err(|error| failed(error.into()))?;
        let mut command = std::process::Command::new(&self.command.program);
        command
            .args(&self.command.arguments)
            .arg(self.time.as_secs().to_string())
            .arg0("flowcell")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(broken());
        };
        // It reads all before it says anything.
        stdin.write_all(&text).await.map_err(failed)?;
        drop(stdin);
        let mut lines = BufReader::new(stdout.take(MAX_ANSWER)).lines();
        while let Some(line) = lines.next_line().await.map_err(failed)? {
            match serde_json::from_str(&line) {
                Ok(Line::Step(step)) => hear(step),
                Ok(Line::Wrong(why)) => return Err(InstallError::Wrong(why)),
                Ok(Line::Failed(why)) => return Err(InstallError::Failed(why)),
                Ok(done) => return Ok(done),
                Err(_) => return Err(broken()),
            }
        }
        Err(broken())
    }
}

fn broken() -> InstallError {
    InstallError::Failed(
        "the process that makes environments ended without an answer; it may have run out of memory or time"
            .to_owned(),
    )
}
