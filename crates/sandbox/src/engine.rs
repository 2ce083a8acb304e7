//! The engines: one place that makes the `wasmtime::Config`, so that compiled code made under another one is rebuilt
//! and never loaded.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy,
};
use wasmtime_wasi::p2::bindings::filesystem;

use crate::contract::runner::flowcell::tool::tools;
use crate::contract::tool::ToolComponent;
use crate::error::SandboxError;
use crate::filesystem::HasQuotaFilesystem;
use crate::guest::{Guest, TABLE_ELEMENTS};
use crate::image::{GuestMemories, PAGE, SpreadUsage, Spreads};

/// The version of wasmtime that runs the guests.
pub const WASMTIME_VERSION: &str = env!("FLOWCELL_WASMTIME_VERSION");

/// How often a running guest is interrupted to let others run and to have its time checked.
const TICK: Duration = Duration::from_millis(10);
/// Stack of the guest's own frames. Deep C recursion (parsing 3,000 nested arrays, say) needs far more than wasmtime's
/// default of 512 KiB to end as Python's RecursionError instead of a trap; the memory is reserved, not used.
const WASM_STACK: usize = 32 << 20;
/// A call's whole stack: the guest's frames, and room for the host functions it calls.
const ASYNC_STACK: usize = WASM_STACK + (1 << 20);

/// Sizes of the engine, fixed for the life of the process.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Instances that may be alive at once, over all sessions. Beyond it an instance fails to start; sessions that share
    /// a [`Slice`](crate::Slice) with this as its limit wait for room, or make it, instead.
    pub instances: u32,
    /// Most linear memory that any instance may be allowed, in bytes.
    pub max_memory: usize,
    /// Where files without a name go that have all pages of images which are used a lot.
    pub images: PathBuf,
    /// Bytes of all these files together.
    pub image_files: u64,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            instances: 64,
            max_memory: 1 << 30,
            images: std::env::temp_dir(),
            image_files: 1 << 30,
        }
    }
}

/// The engines with everything that components may import, shared by all sessions.
///
/// There are two, since wasmtime's pool of memories and memories that start from images exclude each other: ordinary
/// components run in the one, shells in the other. Compiled code belongs to one of them.
pub struct Sandbox {
    ordinary: Runtime,
    images: Runtime,
    spreads: Spreads,
}

/// An engine, and what its components may import.
pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Guest>,
}

/// Which of a [`Sandbox`]'s engines compiled code is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeKind {
    /// An ordinary component, whose data is in its code.
    Ordinary,
    /// A [`Shell`](crate::Shell), whose memory is an image.
    Shell,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sandbox").finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Makes the engines, and the thread that drives their epochs until they are gone.
    pub fn new(config: &SandboxConfig) -> Result<Self, SandboxError> {
        let runtime = |engine: wasmtime::Result<Engine>| {
            let engine = engine.map_err(SandboxError::Engine)?;
            let linker = linker(&engine).map_err(SandboxError::Engine)?;
            Ok::<_, SandboxError>(Runtime { engine, linker })
        };
        let ordinary = runtime(pooled_engine(config))?;
        let images = runtime(image_engine())?;
        let engines = [&ordinary, &images].map(|runtime| runtime.engine.weak());
        thread::Builder::new()
            .name("flowcell-epochs".to_owned())
            .spawn(move || {
                loop {
                    let mut live = engines
                        .iter()
                        .filter_map(|engine| engine.upgrade())
                        .peekable();
                    if live.peek().is_none() {
                        break;
                    }
                    live.for_each(|engine| engine.increment_epoch());
                    thread::sleep(TICK);
                }
            })
            .map_err(|error| SandboxError::Engine(error.into()))?;
        Ok(Self {
            ordinary,
            images,
            spreads: Spreads::new(config.images.clone(), config.image_files),
        })
    }

    /// The names of what compiled code depends on, as every sandbox of this program has them: their sizes do not matter.
    ///
    /// # Errors
    /// When this machine cannot run guests.
    pub fn compatibility_keys() -> Result<[String; 2], SandboxError> {
        let small = Self::new(&SandboxConfig {
            instances: 1,
            ..SandboxConfig::default()
        })?;
        Ok([CodeKind::Ordinary, CodeKind::Shell].map(|kind| small.compatibility_key(kind)))
    }

    /// Names everything that compiled code of a kind depends on besides its component: wasmtime's version and the engine's
    /// settings.
    pub fn compatibility_key(&self, kind: CodeKind) -> String {
        let mut hasher = DefaultHasher::new();
        self.runtime(kind)
            .engine
            .precompile_compatibility_hash()
            .hash(&mut hasher);
        format!("{WASMTIME_VERSION}-{:016x}", hasher.finish())
    }

    /// What files of images there are.
    pub fn spread_usage(&self) -> SpreadUsage {
        self.spreads.usage()
    }

    pub(crate) fn spreads(&self) -> &Spreads {
        &self.spreads
    }

    pub(crate) fn runtime(&self, kind: CodeKind) -> &Runtime {
        match kind {
            CodeKind::Ordinary => &self.ordinary,
            CodeKind::Shell => &self.images,
        }
    }
}

/// What both engines have in common: all but how memory is allocated.
fn common_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Tenants' code: Cranelift only; Winch has had many more advisories.
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(ASYNC_STACK)
        // A stack is handed from one tenant's call to another's.
        .async_stack_zeroing(true);
    config
}

/// An engine whose instances' memories are made by the host, so that images can be laid over them.
fn image_engine() -> wasmtime::Result<Engine> {
    let page = rustix::param::page_size();
    if page != PAGE {
        return Err(wasmtime::format_err!(
            "this machine's pages have {page} bytes; memory images need {PAGE}"
        ));
    }
    let mut config = common_config();
    config
        // A shell has no data. wasmtime 48 panics where data would be mapped into memory of the host's.
        .memory_init_cow(false)
        .with_host_memory(Arc::new(GuestMemories))
        .allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Engine::new(&config)
}

fn pooled_engine(sandbox: &SandboxConfig) -> wasmtime::Result<Engine> {
    let instances = sandbox.instances;
    let mut pool = PoolingAllocationConfig::new();
    pool
        // One component instance, one stack and one memory for each live instance; all are address space until used.
        .total_component_instances(instances)
        .total_stacks(instances)
        .total_memories(instances)
        .max_memories_per_component(1)
        .max_memory_size(sandbox.max_memory)
        // The Python runner has 14 core instances, a JavaScript component a handful.
        .max_core_instances_per_component(32)
        .total_core_instances(instances.saturating_mul(32))
        // ... and two tables; the larger has 5,870 elements.
        .max_tables_per_component(8)
        .total_tables(instances.saturating_mul(8))
        .table_elements(TABLE_ELEMENTS)
        // The runner's component state takes 481,500 bytes.
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        // Freed slots keep their copy-on-write mapping for the next instance of the same component; more than this
        // would hold address space for components that are no longer used.
        .max_unused_warm_slots(32)
        // Keeping pages resident costs a memset at every drop, which was slower than faulting them in again.
        .linear_memory_keep_resident(0)
        .table_keep_resident(0)
        .async_stack_keep_resident(0);
    let mut config = common_config();
    config
        // An instance's memory starts as a copy-on-write view of the component's data, whatever its size.
        .memory_init_cow(true)
        .memory_guaranteed_dense_image_size(256 << 20)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    // The file system with a quota takes the place of wasmtime-wasi's.
    linker.allow_shadowing(true);
    filesystem::types::add_to_linker::<Guest, HasQuotaFilesystem>(
        &mut linker,
        Guest::quota_filesystem,
    )?;
    filesystem::preopens::add_to_linker::<Guest, HasQuotaFilesystem>(
        &mut linker,
        Guest::quota_filesystem,
    )?;
    linker.allow_shadowing(false);
    ToolComponent::add_to_linker::<Guest, wasmtime::component::HasSelf<Guest>>(
        &mut linker,
        |guest| guest,
    )?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    tools::add_to_linker::<Guest, wasmtime::component::HasSelf<Guest>>(&mut linker, |guest| guest)?;
    Ok(linker)
}
