//! What all flows of a process share.

use std::path::PathBuf;
use std::sync::Arc;

use flowcell_bundle::{Compiler, ImageName, Programs, Progress, Reference, Store, Used};
use flowcell_connection::PlaceholderKey;
use flowcell_sandbox::{Sandbox, SandboxConfig};

use crate::error::RunError;
use crate::session_images::SessionImages;

/// How a [`Host`] is made.
pub struct HostOptions {
    /// The folder of the bundle store.
    pub store: PathBuf,
    /// The engine's sizes. Files of images go into the store, whatever it says.
    pub sandbox: SandboxConfig,
    /// Where tenants' components are compiled.
    pub compiler: Compiler,
    /// Told at the start of each long step.
    pub progress: Arc<Progress>,
}

/// The engine, the bundle store and the compiled programs. Copies are cheap, and share all of that.
#[derive(Clone)]
pub struct Host {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) store: Store,
    pub(crate) programs: Arc<Programs>,
    pub(crate) images: Arc<SessionImages>,
    pub(crate) progress: Arc<Progress>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Host")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Host {
    /// Makes the engine and opens the store.
    pub fn new(options: HostOptions) -> Result<Self, RunError> {
        let store = Store::open(options.store)?;
        let sandbox = Sandbox::new(&SandboxConfig {
            images: store.images(),
            ..options.sandbox
        })?;
        let sandbox = Arc::new(sandbox);
        let programs = Programs::new(store.clone(), Arc::clone(&sandbox), options.compiler);
        let images = SessionImages::new(&store);
        Ok(Self {
            sandbox,
            store,
            programs: Arc::new(programs),
            images,
            progress: options.progress,
        })
    }

    /// The engine.
    pub fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }

    /// The bundle store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The compiled programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Gets a program that may have to be compiled, which takes seconds: other tasks go on meanwhile, on other threads.
    pub(crate) fn compiled<T>(&self, get: impl FnOnce(&Programs, &Progress) -> T) -> T {
        let get = || get(&self.programs, self.progress());
        match tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(get),
            _ => get(),
        }
    }

    /// What the placeholders of a session are made by, from this store's own key: `memory` names where the session's
    /// memory began.
    ///
    /// # Errors
    /// When the store's key cannot be read or made.
    pub fn placeholder_key(
        &self,
        workspace: &str,
        memory: &str,
    ) -> Result<PlaceholderKey, RunError> {
        let key = self.images.secret().map_err(|error| {
            RunError::system(
                "SystemErrorException",
                format!("the store's key cannot be read: {error}"),
            )
        })?;
        Ok(PlaceholderKey::of_session(
            &key,
            &format!("{workspace}\n{memory}"),
        ))
    }

    /// Tells whoever waits.
    pub fn progress(&self) -> &Progress {
        &*self.progress
    }

    /// The bundle that a flow's `environment.image` names, if this store has it; otherwise the default one, and a note
    /// that says so. Images of flows made for Azure are Docker images, which mean nothing here.
    pub(crate) fn bundle_for(
        &self,
        image: Option<&str>,
        default: &Reference,
    ) -> Result<(Used, Option<String>), RunError> {
        let Some(image) = image else {
            return Ok((self.store.use_bundle(default)?, None));
        };
        if let Ok(name) = image.parse::<ImageName>()
            && let Ok(digest) = self.store.resolve_name(&name)
        {
            // What was pulled goes by its digest from here on: its tag may be pulled again meanwhile.
            let reference = match name {
                ImageName::Local(reference) => reference,
                ImageName::Registry(_) => Reference::from(digest),
            };
            return Ok((self.store.use_bundle(&reference)?, None));
        }
        let note = format!(
            "the flow's image {image} is no bundle of this store; {default} takes its place"
        );
        Ok((self.store.use_bundle(default)?, Some(note)))
    }
}
