//! Apps: a flow with its whole environment in one component. They are made here and opened again, on a machine that has
//! neither a registry nor an index.

mod sbom;

use std::fs;
use std::path::Path;

use flowcell_bundle::{
    App, AppParts, Digest, ImportedApp, Lease, MAX_MEMORY, Manifest, Reference, Store, Thing,
    write_app,
};
use flowcell_environment::{
    CarriedComponent, CarriedWheel, Image, IndexSettings, LOCK_FILE, Lock, Site, keep_component,
    keep_wheel,
};
use flowcell_sandbox::Isolation;

use self::sbom::Sbom;
use crate::environment::{Asked, EnvironmentOptions, FlowEnvironment, asked_of, make_environment};
use crate::error::RunError;
use crate::host::Host;
use crate::session::{Session, SessionOptions};
use crate::session_images::BUILD_TIME;
use crate::workspace::{Workspace, WorkspaceLimits};

/// An app that was made.
#[derive(Debug)]
pub struct BuiltApp {
    /// The component.
    pub app: Vec<u8>,
    /// What is in it, as CycloneDX has it (JSON).
    pub sbom: Vec<u8>,
    /// What whoever built it should know.
    pub notes: Vec<String>,
    /// Why the flow's modules are not in its memory; nothing when they are.
    pub not_imported: Option<String>,
    /// What the flow's requirements have brought, `name==version`.
    pub packages: Vec<String>,
}

/// Makes an app of a flow: its requirements are resolved (or its lock is taken as it is) and installed, its modules
/// imported. `image` stands in place of what the flow says; `default` is for a flow that says nothing.
///
/// # Errors
/// As [`make_environment`]; also when the base image's runner has no memory image.
pub async fn build_app(
    host: &Host,
    flow: &Path,
    image: Option<&Reference>,
    default: &Reference,
    options: &EnvironmentOptions,
) -> Result<BuiltApp, RunError> {
    let workspace = Workspace::copy_of(flow, &WorkspaceLimits::default())?;
    let mut made = make_environment(host, &workspace, image, default, options).await?;
    let manifest = host.store.manifest(&made.image)?;
    let mut notes = workspace.notes().to_vec();
    notes.append(&mut made.notes);
    let (wheels, components) = match &mut made.lock {
        Some(lock) => carry(host, &workspace, &made.image, lock, options).await?,
        None => Default::default(),
    };
    let imports = SessionOptions {
        image: Some(made.image.clone()),
        site: made.site.clone(),
        ..SessionOptions::new(default.clone())
    };
    // In a copy of its own: a module may write to its folder.
    let scratch = Workspace::copy_of(flow, &WorkspaceLimits::default())?;
    let memory = imported_memory(host, scratch, imports).await;
    let not_imported = memory.as_ref().err().cloned();
    let name = &workspace.flow().name;
    let of_wheel = |wheel: &CarriedWheel| (wheel.digest, wheel.path.clone());
    let of_component = |one: &CarriedComponent| (one.digest, one.path.clone());
    let parts = AppParts {
        name,
        image: &made.image.to_string(),
        bundle: made.digest,
        memory,
        flow: &workspace.flow_folder(),
        wheels: &wheels.iter().map(of_wheel).collect::<Vec<_>>(),
        components: &components.iter().map(of_component).collect::<Vec<_>>(),
    };
    (host.progress())("writing the component");
    let app = write_app(&host.store, parts)?;
    let sbom = bill(host, name, &app, &manifest, &made, (&wheels, &components))?;
    let packages = wheels.iter().map(|one| (&one.package, &one.version));
    let packages = packages.chain(components.iter().map(|one| (&one.package, &one.version)));
    let packages = packages.map(|(package, version)| format!("{package}=={version}"));
    Ok(BuiltApp {
        sbom,
        notes,
        not_imported,
        packages: packages.collect(),
        app,
    })
}

/// Puts the lock into the flow's folder, and gives the wheels and component packages that it names.
async fn carry(
    host: &Host,
    workspace: &Workspace,
    image: &Reference,
    lock: &mut Lock,
    options: &EnvironmentOptions,
) -> Result<(Vec<CarriedWheel>, Vec<CarriedComponent>), RunError> {
    let (digest, manifest) = (host.store.resolve(image)?, host.store.manifest(image)?);
    let image = Image {
        name: &image.to_string(),
        digest: &digest,
        manifest: &manifest,
    };
    let environments = host.environments(&options.indexes);
    let wheels = environments
        .carried(image, LOCK_FILE, lock, &options.credentials)
        .await?;
    let components = environments
        .carried_components(lock, &options.credentials)
        .await?;
    let path = workspace.flow_folder().join(LOCK_FILE);
    fs::write(&path, lock.to_text()?).map_err(|error| {
        RunError::system(
            "OSError",
            format!("cannot write {}: {error}", path.display()),
        )
    })?;
    Ok((wheels, components))
}

/// The memory of a runner that has imported a flow's modules; why there is none otherwise.
async fn imported_memory(
    host: &Host,
    workspace: Workspace,
    mut options: SessionOptions,
) -> Result<Vec<u8>, String> {
    (host.progress())("importing the flow's modules");
    options.isolation = Isolation::Session;
    // All nodes' files are imported into one instance, which then lies idle in the pool.
    options.instances = 1;
    options.limits.wall_time = BUILD_TIME;
    options.limits.cpu_time = BUILD_TIME;
    let session = Session::open(host, workspace, options).await;
    let session = session.map_err(|error| error.message)?;
    let pool = session.inner.python.as_ref();
    let pool = pool.ok_or("the flow has no Python nodes")?;
    let lease = pool.try_checkout().await;
    let lease = lease.map_err(|error| error.to_string())?;
    let mut lease = lease.ok_or("there is no room for an instance")?;
    if lease.has_written() {
        return Err(
            "importing its modules writes files, which are not in an instance's memory".to_owned(),
        );
    }
    lease.forget().await;
    let memory = lease.whole_memory().await.map_err(|error| {
        format!("importing its modules leaves a state that cannot be stored: {error}")
    })?;
    if memory.len() as u64 > MAX_MEMORY {
        return Err(format!(
            "importing its modules takes {} bytes of memory, and {MAX_MEMORY} can be carried",
            memory.len()
        ));
    }
    Ok(memory)
}

fn bill(
    host: &Host,
    name: &str,
    app: &[u8],
    manifest: &Manifest,
    made: &FlowEnvironment,
    (wheels, components): (&[CarriedWheel], &[CarriedComponent]),
) -> Result<Vec<u8>, RunError> {
    let packages = manifest.trees.iter().find(|tree| tree.mount == "/packages");
    let packages = packages.map(|tree| host.store.tree(&tree.digest));
    let sbom = Sbom {
        name,
        app: Digest::of(app),
        manifest,
        bundle: made.digest,
        packages: packages.transpose()?,
        site: made.site.as_ref(),
        wheels,
        components,
    };
    sbom.to_json().map_err(|error| {
        RunError::system(
            "SystemErrorException",
            format!("no SBOM can be written: {error}"),
        )
    })
}

/// An app, ready to be opened as a session.
#[derive(Debug)]
pub struct OpenedApp {
    /// Its flow.
    pub workspace: Workspace,
    /// Its base image.
    pub image: Reference,
    /// What its lock has brought.
    pub site: Option<Site>,
    /// What whoever runs it should know.
    pub notes: Vec<String>,
    /// Keep what it has brought in the store.
    _leases: Vec<Lease>,
}

/// Brings an app's bundle, wheels and component packages to the store, where they stay while the leases are held. It blocks.
///
/// # Errors
/// When the app is damaged or has what no app may have, or the disk does not take it.
pub fn import_app(store: &Store, app: &App<'_>) -> Result<(ImportedApp, Vec<Lease>), RunError> {
    // All are looked at before anything is written.
    let wheels: Vec<_> = app
        .wheels(IndexSettings::default().wheel_bytes)
        .collect::<Result<_, _>>()?;
    let components: Vec<_> = app.components().collect::<Result<_, _>>()?;
    let (imported, bundles) = app.import(store)?;
    let mut leases = Vec::from(bundles);
    for (digest, bytes) in &wheels {
        leases.push(store.lease(Thing::Wheel(*digest))?);
        keep_wheel(store, digest, bytes)?;
    }
    for (digest, bytes) in &components {
        leases.push(store.lease(Thing::Component(*digest))?);
        keep_component(store, digest, bytes)?;
    }
    Ok((imported, leases))
}

/// Opens an app: its bundle, wheels and files are put where a session finds them, and nobody is asked for anything.
///
/// Without `anew`, the session begins with the app's own memory, in which the flow's modules are imported; with it, they
/// are imported again: another variant or other variables may lead to other imports.
///
/// # Errors
/// As [`import_app`]; also when the flow's lock names what the app does not bring.
pub async fn open_app(host: &Host, app: &App<'_>, anew: bool) -> Result<OpenedApp, RunError> {
    let store = &host.store;
    let (imported, leases) = host.compiled(|_, progress| {
        progress("opening the app");
        import_app(store, app)
    })?;
    let workspace = Workspace::made(&app.index.name, |folder| Ok(app.unpack_flow(folder)?))?;
    let image = Reference::from(imported.bundle);
    let options = EnvironmentOptions {
        // Should a line or a lock lead there: there is no such host.
        indexes: IndexSettings {
            allowed_hosts: vec!["apps-ask-nobody.invalid".to_owned()],
            ..IndexSettings::default()
        },
        ..EnvironmentOptions::default()
    };
    lacks_nothing(host, &workspace, &image, imported.bundle)?;
    let made = make_environment(host, &workspace, Some(&image), &image, &options).await?;
    let mut notes = made.notes;
    if anew {
        notes.push(
            "the flow's modules are imported anew, for this variant or these environment variables"
                .to_owned(),
        );
    }
    Ok(OpenedApp {
        workspace,
        image: if anew {
            image
        } else {
            Reference::from(imported.started)
        },
        site: made.site,
        notes,
        _leases: leases,
    })
}

/// Whether the store has all that an app's lock names.
fn lacks_nothing(
    host: &Host,
    workspace: &Workspace,
    image: &Reference,
    digest: Digest,
) -> Result<(), RunError> {
    let asked = asked_of(workspace)?;
    let Some(asked) = asked else { return Ok(()) };
    let refused = |what: String| {
        Err(RunError::user(
            "EnvironmentError",
            format!("the app is not taken: {what}; ask whoever built it for another"),
        ))
    };
    let Asked::Lock(text) = asked else {
        return refused(format!("its flow has requirements and no {LOCK_FILE}"));
    };
    let manifest = host.store.manifest(image)?;
    let image = Image {
        name: &image.to_string(),
        digest: &digest,
        manifest: &manifest,
    };
    let indexes = IndexSettings::default();
    let lock = Lock::parse(LOCK_FILE, &text)?;
    let missing = host
        .environments(&indexes)
        .missing(image, LOCK_FILE, &lock)?;
    if missing.is_empty() {
        return Ok(());
    }
    refused(format!("it does not bring {}", missing.join(", ")))
}
