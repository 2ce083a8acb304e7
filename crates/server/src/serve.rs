//! A server's life, from its configuration to its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flowcell_bundle::{BundleError, Collection, CompileLimits, Progress, Reference, Store};
use flowcell_executor::RunError;
use flowcell_sandbox::Sandbox;
use flowcell_session::{
    Change, ChangeError, Durability, EnvironmentSettings, GarbageSettings, HostSettings, Ledger,
    Name, RegistryError, ResealError, Role, Sealed, Secrets, SessionHost, SqliteRegistry,
    TraceListener, User, UserName, WorkspaceRecord, own_identity, reseal,
};
use flowcell_worker::{WorkerCommand, Workers, WorkersSettings};
use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::auth::NewKey;
use crate::config::{Config, SecretsConfig, TlsConfig, cores};
use crate::keys::{self, KeyError};
use crate::listen::Listening;
use crate::router::router;

/// The user and the workspace that a fresh host has.
const FIRST_USER: &str = "admin";
const FIRST_WORKSPACE: &str = "default";
/// Most memory of any instance, in bytes: the engine's slots have this size.
const MAX_INSTANCE_MEMORY: u64 = 1 << 30;

/// A server that could not start, or failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder.
    #[error("cannot use the data folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another server has it.
    #[error("another flowcell server uses the data folder {}; stop it, or give another --home", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The keys of secrets.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What they have sealed.
    #[error(transparent)]
    Secrets(#[from] ResealError),
    /// The bundle store.
    #[error(transparent)]
    Store(#[from] BundleError),
    /// What runs sessions in this process.
    #[error(transparent)]
    Executor(#[from] RunError),
    /// The address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificate or its key.
    #[error("cannot use {}: {problem}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The client for the identity provider.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// The threads.
    #[error("cannot start threads")]
    Threads(#[source] std::io::Error),
}

/// What a server needs besides its configuration.
pub struct Serve {
    /// The configuration.
    pub config: Config,
    /// The folder of the bundle store; the server's own data goes below it.
    pub home: PathBuf,
    /// The bundle of flows that name none.
    pub bundle: Reference,
    /// Told at the start of each long step.
    pub progress: Arc<Progress>,
    /// Who hears of the traces of calls.
    pub traces: Option<TraceListener>,
    /// How a worker's process is started.
    pub worker: WorkerCommand,
    /// How a process that compiles is started.
    pub compiler: WorkerCommand,
    /// How a process that makes environments is started.
    pub installer: WorkerCommand,
    /// Told when the server takes requests.
    pub on_ready: Box<dyn FnOnce(Ready) + Send>,
}

/// A server that takes requests.
#[derive(Debug)]
pub struct Ready {
    /// Where; with the port that was chosen, if the configuration says 0.
    pub url: String,
    /// The key of the first user, on a fresh host.
    pub first_key: Option<FirstKey>,
}

/// The key that a fresh host makes. It is shown once.
#[derive(Debug)]
pub struct FirstKey {
    /// The user.
    pub user: String,
    /// The workspace that the user owns.
    pub workspace: String,
    /// The key.
    pub key: String,
}

/// Serves until `ending`.
///
/// # Errors
/// When the server cannot start.
pub async fn serve(serve: Serve, ending: CancellationToken) -> Result<(), ServeError> {
    let Serve {
        config,
        home,
        bundle,
        progress,
        worker,
        compiler,
        installer,
        traces,
        on_ready,
    } = serve;
    allow_open_files();
    let tls = config.server.tls.as_ref().map(acceptor).transpose()?;
    let folder = home.join("server");
    let _lock = lock(&folder)?;
    let (ledger, first_key, secrets) = {
        let (folder, keys) = (folder.clone(), config.secrets.clone());
        let opened = tokio::task::spawn_blocking(move || open_ledger(&folder, &keys)).await;
        opened.map_err(|error| ServeError::Threads(error.into()))??
    };
    let bundle = match &config.sessions.base_image {
        Some(image) => image.parse().unwrap_or(bundle),
        None => bundle,
    };
    let settings = settings(&config, &folder, bundle, installer, secrets, traces);
    std::fs::create_dir_all(&settings.folder).map_err(|source| ServeError::Folder {
        path: settings.folder.clone(),
        source,
    })?;
    let threads = match config.host.threads {
        0 => cores(),
        threads => threads,
    };
    let store = Store::open(&home)?;
    let workers = Workers::new(WorkersSettings {
        count: config.workers(),
        dedicated: config
            .host
            .dedicated
            .iter()
            .map(ToString::to_string)
            .collect(),
        memory: config.host_memory_mib() << 20,
        instances: config.host.instances,
        instance_memory: MAX_INSTANCE_MEMORY,
        threads: u32::try_from(threads).unwrap_or(u32::MAX),
        store: home,
        compile: CompileLimits {
            memory: config.host.compile_memory_mib << 20,
            cpu_seconds: config.host.compile_seconds,
        },
        worker,
        compiler,
        progress,
        requests: {
            let requests = Arc::clone(&settings.requests);
            Arc::new(move |session, exchange| requests.add(session, exchange))
        },
    })?;
    let engines = Sandbox::compatibility_keys().map_err(RunError::from)?;
    let garbage = GarbageSettings {
        every: Duration::from_secs(config.store.collect_minutes * 60),
        collection: Collection {
            size: config.store.size_mib << 20,
            engines: engines.to_vec(),
            dry_run: false,
        },
    };
    let sessions = SessionHost::start(store, ledger, settings, workers);
    sessions.start_collecting(garbage);
    let app = App::new(config, sessions).map_err(ServeError::Client)?;
    let config = &app.config().server;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| ServeError::Listen {
            address: config.listen,
            source,
        })?;
    let address = listener.local_addr().unwrap_or(config.listen);
    let scheme = if tls.is_some() { "https" } else { "http" };
    on_ready(Ready {
        url: format!("{scheme}://{address}"),
        first_key,
    });
    let end_time = Duration::from_secs(config.shutdown_seconds);
    let listening = Listening {
        listener,
        tls,
        router: router(&app),
        connections: config.connections,
        head_time: Duration::from_secs(config.header_seconds),
        // After the calls' time: their answers must still go out.
        end_time: end_time + Duration::from_secs(2),
    };
    let stop_calls = {
        let (app, ending) = (Arc::clone(&app), ending.clone());
        async move {
            ending.cancelled().await;
            app.ending.cancel();
            app.sessions().shut_down(end_time).await;
        }
    };
    tokio::join!(listening.run(ending), stop_calls);
    Ok(())
}

fn settings(
    config: &Config,
    folder: &Path,
    bundle: Reference,
    installer: WorkerCommand,
    secrets: Secrets,
    traces: Option<TraceListener>,
) -> HostSettings {
    let sessions = &config.sessions;
    HostSettings {
        folder: folder.join("sessions"),
        bundle,
        rules: config.rules(),
        instances_idle: Duration::from_secs(sessions.instances_idle_seconds),
        cannot_hibernate: sessions.cannot_hibernate,
        calls_per_session: sessions.calls,
        call_time: Duration::from_secs(sessions.call_seconds),
        instance_wait: Duration::from_secs(sessions.instance_wait_seconds),
        instance_memory: sessions.instance_memory_mib << 20,
        stored_memory: sessions.stored_memory_mib << 20,
        environments: EnvironmentSettings {
            indexes: config.packages.indexes(),
            time: Duration::from_secs(config.packages.install_seconds),
            installer,
            registries: config.images.settings(),
        },
        network: config.network.spec(),
        requests: Arc::default(),
        secrets,
        traces,
    }
}

/// Lets this process and its workers have as many files open as the system's administrator allows. The usual soft limit is
/// for programs of one user, and one tenant's files could use it up for all.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "no more files than usual can be open");
    }
}

/// Makes the data folder and sees to it that it is one server's.
fn lock(folder: &Path) -> Result<File, ServeError> {
    let failed = |source| ServeError::Folder {
        path: folder.to_owned(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    // Tenants' flows and hashed keys are in it.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    let file = File::create(folder.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ServeError::InUse {
            path: folder.to_owned(),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Opens the registry, and what is sealed in it; a fresh one gets a user, a workspace, and a key.
fn open_ledger(
    folder: &Path,
    keys: &SecretsConfig,
) -> Result<(Arc<Ledger>, Option<FirstKey>, Secrets), ServeError> {
    let ledger = Ledger::open(SqliteRegistry::open(&folder.join("registry.sqlite"))?)?;
    let sealed_by = {
        let state = ledger.state();
        let mut sealed_by = state.workspaces.values().flat_map(|workspace| {
            let credentials = workspace.credentials.values();
            let credentials = credentials.map(|one| one.sealed.key());
            let connections = workspace.connections.values();
            let connections = connections.flat_map(|one| one.secrets.values().map(Sealed::key));
            credentials.chain(connections)
        });
        let found = sealed_by.find(|sealed_by| !keys.lost_keys.iter().any(|key| key == sealed_by));
        found.map(str::to_owned)
    };
    let secrets = keys::secrets(keys, folder, sealed_by.as_deref())?;
    let count = reseal(&ledger, &secrets, &keys.lost_keys)?;
    if count > 0 {
        let key = secrets.current().id();
        tracing::info!(
            count,
            key,
            "credentials and connections of previous keys were sealed by the present one, or deleted"
        );
    }
    let first = ledger.change(Durability::Synced, |state| {
        let names = (UserName::new(FIRST_USER), Name::new(FIRST_WORKSPACE));
        let (Ok(user), Ok(workspace), true) = (names.0, names.1, state.users.is_empty()) else {
            return Ok((Vec::new(), None));
        };
        let now = Timestamp::now();
        let key = NewKey::make(&user, "the first key".to_owned(), now, None);
        let first = FirstKey {
            user: user.to_string(),
            workspace: workspace.to_string(),
            key: key.text,
        };
        let record = WorkspaceRecord {
            name: workspace,
            created: now,
            trace_content: false,
            network: Default::default(),
        };
        let changes = vec![
            Change::PutUser(User {
                name: user.clone(),
                admin: true,
                created: now,
            }),
            Change::PutKey(key.record),
            Change::PutWorkspace(record.clone()),
            own_identity(&record, &user),
            Change::PutRole {
                workspace: record.name,
                user,
                role: Role::Owner,
            },
        ];
        Ok::<_, std::convert::Infallible>((changes, Some(first)))
    });
    match first {
        Ok(first) => Ok((Arc::new(ledger), first, secrets)),
        Err(ChangeError::Registry(error)) => Err(error.into()),
        Err(ChangeError::Refused(never)) => match never {},
    }
}

fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, ServeError> {
    let failed = |path: &Path, problem: String| ServeError::Tls {
        path: path.to_owned(),
        problem,
    };
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(&config.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| failed(&config.certificate, error.to_string()))?;
    if certificates.is_empty() {
        let problem = "it holds no certificate".to_owned();
        return Err(failed(&config.certificate, problem));
    }
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|error| failed(&config.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&config.certificate, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| failed(&config.certificate, error.to_string()))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}
