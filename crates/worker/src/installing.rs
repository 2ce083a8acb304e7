//! The other side of [`Installer`](crate::Installer): the process that makes one environment, or fetches one image.

use std::io;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;

use flowcell_bundle::{
    BundleError, CompileLimits, CompileProcess, Compiler, Store, Transfer, chain,
};
use flowcell_executor::{Code, EnvironmentOptions, Host, HostOptions, RunError, install};
use flowcell_registry::{Client, Credentials, ImageReference, ReferenceError, RegistryError};
use flowcell_sandbox::SandboxConfig;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::WorkerCommand;
use crate::installer::{InstallJob, Installed, Job, Line, MAX_JOB, PullJob, Pulled};

/// Instances that the process may have.
const INSTANCES: u32 = 16;
/// Threads that it may have its instances on, where there are as many processors.
const THREADS: usize = 4;
/// Bytes of memory of its own.
const MEMORY: u64 = 4 << 30;
/// Bytes of a file that it may write.
const FILE: u64 = 2 << 30;

/// Does what standard input asks for, and says on standard output what has come of it. It takes no more than `seconds`
/// of CPU time.
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
        Ok(()) => work(compiler),
        Err(error) => Err(failed("no limits can be set", &error)),
    };
    let (line, code) = match ended {
        Ok(line) => (line, ExitCode::SUCCESS),
        Err(error) if error.code == Code::User => (Line::Wrong(error.message), ExitCode::FAILURE),
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

fn failed(what: &str, error: &dyn std::error::Error) -> RunError {
    RunError::system("SystemErrorException", format!("{what}: {error}"))
}

fn work(compiler: WorkerCommand) -> Result<Line, RunError> {
    use std::io::Read as _;
    let mut text = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_JOB)
        .read_to_end(&mut text)
        .map_err(|error| failed("what is asked cannot be read", &error))?;
    let job: Job = serde_json::from_slice(&text)
        .map_err(|error| failed("what is asked makes no sense", &error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(available_parallelism().map_or(1, NonZero::get).min(THREADS))
        .enable_all()
        .build()
        .map_err(|error| failed("no threads can be started", &error))?;
    match job {
        Job::Install(job) => runtime
            .block_on(make(job, compiler))
            .map(|installed| Line::Installed(Box::new(installed))),
        Job::Pull(job) => runtime.block_on(pull(&job)).map(Line::Pulled),
    }
}

async fn make(job: InstallJob, compiler: WorkerCommand) -> Result<Installed, RunError> {
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
    let image = job.image.parse()?;
    let options = EnvironmentOptions {
        indexes: job.indexes,
        credentials: job.credentials,
        ..EnvironmentOptions::default()
    };
    let (lock, site, notes) = install(&host, &image, &job.asked, &options).await?;
    Ok(Installed {
        site: site.as_ref().map(|site| site.digest.to_string()),
        lock: lock.to_text()?,
        packages: site.map(|site| site.packages).unwrap_or_default(),
        notes,
    })
}

async fn pull(job: &PullJob) -> Result<Pulled, RunError> {
    let registry = |error: RegistryError| failed_pull(&BundleError::from(error));
    let image: ImageReference = job
        .image
        .parse()
        .map_err(|error: ReferenceError| registry(error.into()))?;
    let registries = job.registries.client();
    let registries = registries.map_err(|error| failed("the registries cannot be used", &error))?;
    let client = Client::new(registries).map_err(registry)?;
    let credentials = match &job.credential {
        None => Ok(Credentials::anonymous()),
        Some(one) => one.for_registry(image.registry()),
    };
    let credentials = credentials.map_err(registry)?;
    if job.look {
        let artifact = client.resolve(&image, &credentials).await;
        return Ok(Pulled::Found {
            artifact: artifact.map_err(registry)?.to_string(),
        });
    }
    let store = Store::open(&job.store)?;
    // Once for each blob, however often more of it has come.
    let step = |transfer: Transfer<'_>| {
        if transfer.done == transfer.total {
            say(&Line::Step(format!("pulled {}", transfer.title)));
        }
    };
    match flowcell_bundle::pull(&store, &client, &image, &credentials, &step).await {
        Ok(pulled) => Ok(Pulled::Bundle {
            bundle: pulled.bundle.to_string(),
            artifact: pulled.artifact.to_string(),
        }),
        Err(BundleError::NotABundle { what, .. }) => Ok(Pulled::NoBundle { what }),
        Err(error) => Err(failed_pull(&error)),
    }
}

/// An error with its causes: what a registry did is in them.
fn failed_pull(error: &BundleError) -> RunError {
    let is_ours = matches!(
        error,
        BundleError::Io { .. }
            | BundleError::Registry(RegistryError::DiskFull { .. } | RegistryError::Io { .. })
    );
    let text = chain(error);
    match is_ours {
        true => RunError::system("BundleError", text),
        false => RunError::user("BundleError", text),
    }
}
