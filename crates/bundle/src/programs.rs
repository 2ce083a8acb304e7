//! Compiled components, by digest.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use flowcell_sandbox::{Program, ProgramError, Sandbox};

use crate::digest::Digest;
use crate::error::{BundleError, IoContext as _};
use crate::store::{Store, write_whole};
use crate::{Component, Progress};

/// Gives programs, compiling each component at most once for this version of wasmtime and these engine settings.
///
/// Compiled code is kept in `cache/compiled/<engine>/<digest>.cwasm`; code of another engine is never loaded.
pub struct Programs {
    store: Store,
    sandbox: Arc<Sandbox>,
    folder: PathBuf,
    loaded: DashMap<Digest, Arc<Mutex<Option<Arc<Program>>>>>,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Programs")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Programs {
    /// Programs of this store, for this engine.
    pub fn new(store: Store, sandbox: Arc<Sandbox>) -> Result<Self, BundleError> {
        let folder = store
            .cache()
            .join("compiled")
            .join(sandbox.compatibility_key());
        fs::create_dir_all(&folder).io("make the folder", &folder)?;
        Ok(Self {
            store,
            sandbox,
            folder,
            loaded: DashMap::new(),
        })
    }

    /// The program of a bundle's component.
    pub fn component(
        &self,
        component: &Component,
        progress: &Progress,
    ) -> Result<Arc<Program>, BundleError> {
        self.program(&component.digest, &component.name, progress, || {
            self.store.get(&component.digest)
        })
    }

    /// The program of a component that is no part of a bundle; `name` is for messages.
    pub fn bytes(
        &self,
        wasm: &[u8],
        name: &str,
        progress: &Progress,
    ) -> Result<Arc<Program>, BundleError> {
        self.program(&Digest::of(wasm), name, progress, || Ok(wasm.to_vec()))
    }

    fn program(
        &self,
        digest: &Digest,
        name: &str,
        progress: &Progress,
        wasm: impl FnOnce() -> Result<Vec<u8>, BundleError>,
    ) -> Result<Arc<Program>, BundleError> {
        let unusable = |source: ProgramError| BundleError::Program {
            name: name.to_owned(),
            source,
        };
        let slot = Arc::clone(&*self.loaded.entry(*digest).or_default());
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = &*slot {
            return Ok(Arc::clone(program));
        }
        let compiled = self.folder.join(format!("{}.cwasm", digest.hex()));
        let program = match self.load(&compiled) {
            Some(program) => program.map_err(unusable)?,
            None => {
                progress(&format!("compiling {name}"));
                let code = self.sandbox.compile(&wasm()?).map_err(unusable)?;
                write_whole(&compiled, &code)?;
                self.sandbox.load(&compiled).map_err(unusable)?
            }
        };
        let program = Arc::new(program);
        *slot = Some(Arc::clone(&program));
        Ok(program)
    }

    /// The program in this file; `None` when there is no usable one.
    fn load(&self, compiled: &Path) -> Option<Result<Program, ProgramError>> {
        if !compiled.exists() {
            return None;
        }
        match self.sandbox.load(compiled) {
            Err(ProgramError::Compiled(reason)) => {
                tracing::warn!(path = %compiled.display(), reason, "compiling again");
                None
            }
            program => Some(program),
        }
    }
}
