//! Environments are made in a process of their own: `flowcell worker --install`.
//!
//! What comes from indexes is a stranger's, what is imported to see whether it runs is too, and a resolver can be led on for
//! as long as somebody likes. So it happens apart from sessions and from the host, within limits, and ends with its
//! process. The host hands over what is asked as one line of JSON, and reads lines: how it goes on, and at last what has
//! come of it.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use flowcell_bundle::{CompileLimits, CompileProcess, Compiler};
use flowcell_environment::{Credentials, IndexSettings, SitePackage};
use flowcell_executor::{Asked, EnvironmentOptions, Host, HostOptions, RunError, install};
use flowcell_sandbox::SandboxConfig;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::Semaphore;

use crate::WorkerCommand;

/// Processes of this kind at once; more wait.
const AT_ONCE: usize = 2;
/// Bytes of what is asked, and of what comes back.
const MAX_JOB: u64 = 16 << 20;
const MAX_ANSWER: u64 = 16 << 20;
/// Instances that the process may have.
const INSTANCES: u32 = 16;
/// Bytes of memory of its own.
const MEMORY: u64 = 4 << 30;
/// Bytes of a file that it may write.
const FILE: u64 = 2 << 30;

/// An environment that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallJob {
    /// The folder of the store.
    pub store: PathBuf,
    /// The base image, `name:version`.
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

/// An environment that was not made.
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
enum Line {
    Step(String),
    Done(Box<Installed>),
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
    /// `command` starts a process that calls [`install_for_parent`]; each gets this time.
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
        job: &InstallJob,
        hear: &(dyn Fn(String) + Sync),
    ) -> Result<Installed, InstallError> {
        let _place = self.places.acquire().await;
        let making = tokio::time::timeout(self.time, self.run(job, hear));
        making.await.unwrap_or_else(|_| {
            Err(InstallError::Wrong(format!(
                "the environment takes more than {} s to make",
                self.time.as_secs()
            )))
        })
    }

    async fn run(
        &self,
        job: &InstallJob,
        hear: &(dyn Fn(String) + Sync),
    ) -> Result<Installed, InstallError> {
        let failed = |error: io::Error| {
            InstallError::Failed(format!(
                "the process that makes environments failed: {error}"
            ))
        };
        let broken = || {
            InstallError::Failed("the process that makes environments ended without an answer; it may have run out of memory or time".to_owned())
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
                Ok(Line::Done(installed)) => return Ok(*installed),
                Ok(Line::Wrong(why)) => return Err(InstallError::Wrong(why)),
                Ok(Line::Failed(why)) => return Err(InstallError::Failed(why)),
                Err(_) => return Err(broken()),
            }
        }
        Err(broken())
    }
}

/// Makes the environment that standard input asks for, and says on standard output what has come of it. It takes no
/// more than `seconds` of CPU time.
pub fn install_for_parent(seconds: u64, compiler: WorkerCommand) -> ExitCode {
    let limit = |resource, most: u64| {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)
    };
    let limited = limit(Resource::Cpu, seconds.max(1))
        .and_then(|()| limit(Resource::Data, MEMORY))
        .and_then(|()| limit(Resource::Fsize, FILE))
        .and_then(|()| limit(Resource::Core, 0));
    let ended = match limited {
        Ok(()) => make(compiler),
        Err(error) => Err(RunError::system(
            "OSError",
            format!("no limits can be set: {error}"),
        )),
    };
    let (line, code) = match ended {
        Ok(installed) => (Line::Done(Box::new(installed)), ExitCode::SUCCESS),
        Err(error) if error.code == flowcell_executor::Code::User => {
            (Line::Wrong(error.message), ExitCode::FAILURE)
        }
        Err(error) => (Line::Failed(error.message), ExitCode::FAILURE),
    };
    say(&line);
    code
}

fn say(line: &Line) {
    use std::io::Write as _;
    if let Ok(mut text) = serde_json::to_vec(line) {
        text.push(b'\n');
        // A host that does not listen any more is about to end this process.
        let _ = io::stdout().lock().write_all(&text);
    }
}

fn make(compiler: WorkerCommand) -> Result<Installed, RunError> {
    use std::io::Read as _;
    let failed = |what: &str, error: &dyn std::error::Error| {
        RunError::system("SystemErrorException", format!("{what}: {error}"))
    };
    let mut text = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_JOB)
        .read_to_end(&mut text)
        .map_err(|error| failed("what is asked cannot be read", &error))?;
    let job: InstallJob = serde_json::from_slice(&text)
        .map_err(|error| failed("what is asked makes no sense", &error))?;
    let host = Host::new(HostOptions {
        store: job.store,
        sandbox: SandboxConfig {
            instances: INSTANCES,
            ..SandboxConfig::default()
        },
        compiler: Compiler::Process(CompileProcess::new(
            compiler.program,
            compiler.arguments,
            CompileLimits::default(),
        )),
        progress: Arc::new(|step: &str| say(&Line::Step(step.to_owned()))),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| failed("no threads can be started", &error))?;
    let image = job.image.parse()?;
    let options = EnvironmentOptions {
        indexes: job.indexes,
        credentials: job.credentials,
        ..EnvironmentOptions::default()
    };
    runtime.block_on(async {
        let (lock, site, notes) = install(&host, &image, &job.asked, &options).await?;
        Ok(Installed {
            site: site.as_ref().map(|site| site.digest.to_string()),
            lock: lock.to_text()?,
            packages: site.map(|site| site.packages).unwrap_or_default(),
            notes,
        })
    })
}
