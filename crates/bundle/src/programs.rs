//! Compiled components, by digest.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use flowcell_sandbox::{Base, CodeKind, Program, ProgramError, Sandbox};

use crate::compiler::Compiler;
use crate::digest::Digest;
use crate::error::{BundleError, IoContext as _};
use crate::manifest::Start;
use crate::store::{Store, write_whole};
use crate::{Component, Progress};

/// Largest base image, in bytes.
const MAX_BASE: usize = 256 << 20;

/// Gives programs, compiling each component at most once for this version of wasmtime and these engine settings.
///
/// Compiled code is kept in `cache/compiled/<engine>/<digest>.cwasm`; code of another engine is never loaded. Base images
/// are unpacked into files without a name, one for each process, in `cache/images`.
pub struct Programs {
    store: Store,
    sandbox: Arc<Sandbox>,
    compiler: Compiler,
    loaded: DashMap<Digest, Arc<Mutex<Option<Arc<Program>>>>>,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Programs")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Programs {
    /// Programs of this store, for this engine; `compiler` is for components of tenants.
    pub fn new(store: Store, sandbox: Arc<Sandbox>, compiler: Compiler) -> Self {
        Self {
            store,
            sandbox,
            compiler,
            loaded: DashMap::new(),
        }
    }

    /// The program of a bundle's component.
    pub fn component(
        &self,
        component: &Component,
        progress: &Progress,
    ) -> Result<Arc<Program>, BundleError> {
        let name = &component.name;
        match &component.start {
            Start::Image {
                shell,
                base,
                memory,
            } => self.once(shell, || {
                let images = self.store.images();
                let packed = self.store.get(base)?;
                let damaged = || BundleError::Damaged {
                    path: self.store.blob_path(base),
                    found: "no image of the size that its bundle says".to_owned(),
                };
                let size = usize::try_from(*memory)
                    .ok()
                    .filter(|size| *size <= MAX_BASE);
                let size = size.ok_or_else(damaged)?;
                let content = zstd::bulk::decompress(&packed, size).map_err(|_| damaged())?;
                if content.len() != size {
                    return Err(damaged());
                }
                let base = Base::new(&images, &content, &base.to_string());
                let base = base.io("write in", &images)?;
                self.load_shell(shell, name, base, progress)
            }),
            Start::Ordinary | Start::Unsuitable(_) => {
                let wasm = || self.store.get(&component.digest);
                self.program(&component.digest, name, progress, &Compiler::Here, wasm)
            }
        }
    }

    /// The program of a shell that is in the store, over a base that is not.
    pub(crate) fn shell(
        &self,
        shell: &Digest,
        base: Arc<Base>,
        progress: &Progress,
    ) -> Result<Arc<Program>, BundleError> {
        let program = self.load_shell(shell, "the shell", base, progress)?;
        Ok(Arc::new(program))
    }

    /// The program of a component that becomes a part of a bundle; `name` is for messages.
    pub fn bytes(
        &self,
        wasm: &[u8],
        name: &str,
        progress: &Progress,
    ) -> Result<Arc<Program>, BundleError> {
        let bytes = || Ok(wasm.to_vec());
        self.program(&Digest::of(wasm), name, progress, &Compiler::Here, bytes)
    }

    /// The program of a tenant's component, compiled within the compiler's limits; `name` is for messages.
    pub fn untrusted(
        &self,
        wasm: &[u8],
        name: &str,
        progress: &Progress,
    ) -> Result<Arc<Program>, BundleError> {
        let bytes = || Ok(wasm.to_vec());
        self.program(&Digest::of(wasm), name, progress, &self.compiler, bytes)
    }

    fn program(
        &self,
        digest: &Digest,
        name: &str,
        progress: &Progress,
        compiler: &Compiler,
        wasm: impl FnOnce() -> Result<Vec<u8>, BundleError>,
    ) -> Result<Arc<Program>, BundleError> {
        self.once(digest, || {
            let compile = || {
                let wasm = wasm()?;
                Ok(compiler.compile(&self.sandbox, &wasm))
            };
            let load = |path: &Path| self.sandbox.load(path);
            self.compiled(digest, name, CodeKind::Ordinary, progress, compile, load)
        })
    }

    fn load_shell(
        &self,
        shell: &Digest,
        name: &str,
        base: Arc<Base>,
        progress: &Progress,
    ) -> Result<Program, BundleError> {
        let compile = || {
            let wasm = self.store.get(shell)?;
            Ok(self.sandbox.compile(&wasm, CodeKind::Shell))
        };
        let load = |path: &Path| {
            let named = shell.to_string();
            self.sandbox.load_shell(path, &named, Arc::clone(&base))
        };
        self.compiled(shell, name, CodeKind::Shell, progress, compile, load)
    }

    /// The program of this name, made when it is first asked for; whoever asks meanwhile waits.
    fn once(
        &self,
        digest: &Digest,
        make: impl FnOnce() -> Result<Program, BundleError>,
    ) -> Result<Arc<Program>, BundleError> {
        let slot = Arc::clone(&*self.loaded.entry(*digest).or_default());
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = &*slot {
            return Ok(Arc::clone(program));
        }
        let program = Arc::new(make()?);
        *slot = Some(Arc::clone(&program));
        Ok(program)
    }

    /// Loads compiled code, and compiles it when there is none.
    fn compiled(
        &self,
        digest: &Digest,
        name: &str,
        kind: CodeKind,
        progress: &Progress,
        compile: impl FnOnce() -> Result<Result<Vec<u8>, ProgramError>, BundleError>,
        load: impl Fn(&Path) -> Result<Program, ProgramError>,
    ) -> Result<Program, BundleError> {
        let unusable = |source: ProgramError| BundleError::Program {
            name: name.to_owned(),
            source,
        };
        let engine = self.sandbox.compatibility_key(kind);
        let folder = self.store.cache().join("compiled").join(engine);
        fs::create_dir_all(&folder).io("make the folder", &folder)?;
        let path = folder.join(format!("{}.cwasm", digest.hex()));
        if path.exists() {
            match load(&path) {
                Err(ProgramError::Compiled(reason)) => {
                    tracing::warn!(path = %path.display(), reason, "compiling again");
                }
                program => return program.map_err(unusable),
            }
        }
        progress(&format!("compiling {name}"));
        let code = compile()?.map_err(unusable)?;
        write_whole(&path, &code)?;
        load(&path).map_err(unusable)
    }
}
