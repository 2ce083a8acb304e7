//! Compiled components, by digest.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::{fs, io};

use dashmap::DashMap;
use flowcell_sandbox::{Base, CodeKind, Program, ProgramError, Sandbox};

use crate::check::MAX_MEMORY;
use crate::compiler::Compiler;
use crate::error::{BundleError, IoContext as _};
use crate::lease::Thing;
use crate::manifest::Start;
use crate::store::{Store, touch, trim};
use crate::{Component, Progress};
use flowcell_registry::Digest;

/// Bytes of compiled code of tenants' components that is kept.
const MAX_TENANTS: u64 = 2 << 30;
/// Components that are known, used or not, before those that are not are forgotten.
const MAX_KNOWN: usize = 1_000;

/// Gives programs, compiling each component at most once for this version of wasmtime and these engine settings.
///
/// Compiled code is kept in `cache/compiled/<engine>/<digest>.cwasm`, that of tenants in `tenants` there and with a limit;
/// code of another engine is never loaded. Base images are unpacked once, to `cache/bases/<digest>.pages`, which all
/// processes map.
pub struct Programs {
    store: Store,
    sandbox: Arc<Sandbox>,
    compiler: Compiler,
    loaded: DashMap<(Digest, Code), Arc<Mutex<Slot>>>,
}

/// A place for a program: whoever finds none in it makes it, while others wait.
#[derive(Default)]
struct Slot {
    program: Weak<Program>,
    /// The same, where it stays though nobody uses it.
    kept: Option<Arc<Program>>,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Programs")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// Whose compiled code it is, and for which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Code {
    /// It stays loaded, and on the disk.
    Bundles(CodeKind),
    /// Theirs is always ordinary. It is loaded as long as a session uses it.
    Tenants,
}

impl Programs {
    /// Programs of this store, for this engine; `compiler` is for components of tenants, and of bundles that were not built
    /// here.
    pub fn new(store: Store, sandbox: Arc<Sandbox>, compiler: Compiler) -> Self {
        Self {
            store,
            sandbox,
            compiler,
            loaded: DashMap::new(),
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
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
                pages,
            } => {
                // Several bundles can have one shell, each with a memory of its own.
                let both = Digest::of(format!("{shell} {base}").as_bytes());
                self.once(&both, Code::Bundles(CodeKind::Shell), || {
                    let base = self.base(base, *memory, pages)?;
                    self.load_shell(shell, name, base, progress)
                })
            }
            Start::Ordinary | Start::Unsuitable(_) => {
                let wasm = || self.store.get(&component.digest);
                let code = Code::Bundles(CodeKind::Ordinary);
                self.program(&component.digest, name, code, progress, wasm)
            }
        }
    }

    /// A base image, unpacked if it is not yet.
    fn base(&self, digest: &Digest, memory: u64, hash: &str) -> Result<Arc<Base>, BundleError> {
        let folder = self.store.cache().join("bases");
        let path = folder.join(format!("{}.pages", digest.hex()));
        let _lease = self.store.lease(Thing::Code(*digest))?;
        touch(&path);
        match Base::open(&path, hash, &digest.to_string()) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(path = %path.display(), %error, "unpacking again");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            base => return base.io("read", &path),
        }
        let content = unpack_base(&self.store, digest, memory, hash)?;
        fs::create_dir_all(&folder).io("make the folder", &folder)?;
        self.store.write_whole(&path, &content)?;
        Base::open(&path, hash, &digest.to_string()).io("read", &path)
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
        let code = Code::Bundles(CodeKind::Ordinary);
        self.program(&Digest::of(wasm), name, code, progress, bytes)
    }

    /// The program of a tenant's component, compiled within the compiler's limits; `name` is for messages.
    pub fn untrusted(
        &self,
        wasm: &[u8],
        name: &str,
        progress: &Progress,
    ) -> Result<Arc<Program>, BundleError> {
        let bytes = || Ok(wasm.to_vec());
        self.program(&Digest::of(wasm), name, Code::Tenants, progress, bytes)
    }

    fn program(
        &self,
        digest: &Digest,
        name: &str,
        code: Code,
        progress: &Progress,
        wasm: impl FnOnce() -> Result<Vec<u8>, BundleError>,
    ) -> Result<Arc<Program>, BundleError> {
        self.once(digest, code, || {
            let compile = || {
                let wasm = wasm()?;
                Ok(match code {
                    Code::Bundles(kind) => self.compile(digest, &wasm, kind),
                    Code::Tenants => self.compiler.compile(&self.sandbox, &wasm),
                })
            };
            let load = |path: &Path| self.sandbox.load(path);
            self.compiled(digest, name, code, progress, compile, load)
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
            Ok(self.compile(shell, &wasm, CodeKind::Shell))
        };
        let load = |path: &Path| {
            let named = shell.to_string();
            self.sandbox.load_shell(path, &named, Arc::clone(&base))
        };
        let code = Code::Bundles(CodeKind::Shell);
        self.compiled(shell, name, code, progress, compile, load)
    }

    /// Compiles a bundle's component: here, if it was built on this machine.
    fn compile(
        &self,
        digest: &Digest,
        wasm: &[u8],
        kind: CodeKind,
    ) -> Result<Vec<u8>, ProgramError> {
        if self.store.was_built(digest) {
            self.sandbox.compile(wasm, kind)
        } else {
            self.compiler.compile_pulled(&self.sandbox, wasm, kind)
        }
    }

    /// The program of this name, made when it is first asked for; whoever asks meanwhile waits.
    fn once(
        &self,
        digest: &Digest,
        code: Code,
        make: impl FnOnce() -> Result<Program, BundleError>,
    ) -> Result<Arc<Program>, BundleError> {
        let slot = Arc::clone(&*self.loaded.entry((*digest, code)).or_default());
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = slot.program.upgrade() {
            return Ok(program);
        }
        let program = Arc::new(make()?);
        slot.program = Arc::downgrade(&program);
        slot.kept = matches!(code, Code::Bundles(_)).then(|| Arc::clone(&program));
        drop(slot);
        if self.loaded.len() >= MAX_KNOWN {
            self.loaded.retain(|_, slot| {
                let is_empty = |slot: &Slot| slot.program.strong_count() == 0;
                // One that is being made is locked.
                !slot.try_lock().is_ok_and(|slot| is_empty(&slot))
            });
        }
        Ok(program)
    }

    /// Loads compiled code, and compiles it when there is none.
    fn compiled(
        &self,
        digest: &Digest,
        name: &str,
        code: Code,
        progress: &Progress,
        compile: impl FnOnce() -> Result<Result<Vec<u8>, ProgramError>, BundleError>,
        load: impl Fn(&Path) -> Result<Program, ProgramError>,
    ) -> Result<Program, BundleError> {
        let unusable = |source: ProgramError| BundleError::Program {
            name: name.to_owned(),
            source,
        };
        let compiled = self.store.cache().join("compiled");
        let folder = match code {
            Code::Bundles(kind) => compiled.join(self.sandbox.compatibility_key(kind)),
            Code::Tenants => {
                let engine = self.sandbox.compatibility_key(CodeKind::Ordinary);
                compiled.join(engine).join("tenants")
            }
        };
        fs::create_dir_all(&folder).io("make the folder", &folder)?;
        let path = folder.join(format!("{}.cwasm", digest.hex()));
        let is_trimmed = code == Code::Tenants;
        // Whoever has it loaded needs the file no more.
        let _lease = self.store.lease(Thing::Code(*digest))?;
        if path.exists() {
            match load(&path) {
                Err(ProgramError::Compiled(reason)) => {
                    tracing::warn!(path = %path.display(), reason, "compiling again");
                }
                program => {
                    touch(&path);
                    return program.map_err(unusable);
                }
            }
        }
        progress(&format!("compiling {name}"));
        let compiled = compile()?.map_err(unusable)?;
        self.store.write_whole(&path, &compiled)?;
        let program = load(&path).map_err(unusable)?;
        if is_trimmed && let Err(error) = trim(&folder, "cwasm", MAX_TENANTS) {
            tracing::warn!(%error, "old compiled code could not be deleted");
        }
        Ok(program)
    }
}

/// The content of a base image, checked.
pub(crate) fn unpack_base(
    store: &Store,
    digest: &Digest,
    memory: u64,
    hash: &str,
) -> Result<Vec<u8>, BundleError> {
    let damaged = || BundleError::Damaged {
        path: store.blob_path(digest),
        found: "no image of the size and content that its bundle says".to_owned(),
    };
    decode_base(&store.get(digest)?, memory, hash).ok_or_else(damaged)
}

/// The content of a base image that has this size and hash; `None` when it is another.
pub(crate) fn decode_base(packed: &[u8], memory: u64, hash: &str) -> Option<Vec<u8>> {
    let size = usize::try_from(memory).ok()?;
    if memory > MAX_MEMORY {
        return None;
    }
    let content = zstd::bulk::decompress(packed, size).ok()?;
    (content.len() == size && Base::hash(&content) == hash).then_some(content)
}
