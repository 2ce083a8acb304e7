//! What the sandbox costs: instances and calls through `flowcell-sandbox`, beside bare wasmtime doing the same in the
//! same run. Needs the bundles that `./demo.sh` makes.
//!
//! `cargo bench -p flowcell-benches --bench sandbox`

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::error::Error;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowcell_bench_contract::{runner, tool};
use flowcell_benches::{Times, home, print_machine};
use flowcell_bundle::{Compiler, Manifest, Programs, Store};
use flowcell_sandbox::{
    Access, Argument, Environment, Instance, Limits, Mount, Outcome, Program, Request, Sandbox,
    SandboxConfig,
};
use wasmtime::component::{Component, InstancePre, Linker, ResourceTable};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store as WasmStore,
};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PYTHON: &str = "from promptflow.core import tool\n\n\n@tool\ndef hello(name: str) -> str:\n    return \"Hello \" + name\n";
const WARM_CALLS: usize = 5_000;
const FRESH: usize = 500;

/// The contract, bound once more without flowcell's sandbox.
mod flowcell_bench_contract {
    pub(crate) mod tool {
        wasmtime::component::bindgen!({
            path: "../wit", world: "tool-component", exports: { default: async },
        });
    }
    pub(crate) mod runner {
        wasmtime::component::bindgen!({
            path: "../wit", world: "python-runner", exports: { default: async },
        });
    }
}

fn main() -> Result<()> {
    print_machine();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(measure())
}

struct Setup {
    flow: tempfile::TempDir,
    mounts: Vec<(PathBuf, String)>,
}

async fn measure() -> Result<()> {
    let store = Store::open(home())?;
    let manifest = store.manifest(&"guest-examples:0.1.0".parse()?)?;
    let flow = tempfile::tempdir()?;
    std::fs::write(flow.path().join("hello.py"), PYTHON)?;
    let mut mounts = vec![(flow.path().to_owned(), "/flow".to_owned())];
    for tree in &manifest.trees {
        mounts.push((store.tree(&tree.digest)?, tree.mount.clone()));
    }
    let setup = Setup { flow, mounts };

    let ours = Ours::new(&store, &manifest, &setup)?;
    let bare = Bare::new(&store, &manifest)?;

    Times::print_head("instantiation alone, and drop");
    let bare_times = bare.instantiate(&bare.rust, &setup).await?;
    bare_times.print("Rust tool, bare wasmtime", None);
    ours.instantiate(&ours.rust)
        .await?
        .print("Rust tool, flowcell", Some(&bare_times));
    let bare_times = bare.instantiate(&bare.python, &setup).await?;
    bare_times.print("Python runner, bare wasmtime", None);
    ours.instantiate(&ours.python)
        .await?
        .print("Python runner, flowcell", Some(&bare_times));

    Times::print_head("a fresh instance and one call");
    let bare_times = bare.fresh_rust(&setup).await?;
    bare_times.print("Rust tool, bare wasmtime", None);
    ours.fresh_rust()
        .await?
        .print("Rust tool, flowcell", Some(&bare_times));
    let bare_times = bare.fresh_python(&setup).await?;
    bare_times.print("Python tool, bare wasmtime", None);
    ours.fresh_python()
        .await?
        .print("Python tool, flowcell", Some(&bare_times));

    Times::print_head("a warm call");
    let bare_times = bare.warm_rust(&setup).await?;
    bare_times.print("Rust tool, bare wasmtime", None);
    ours.warm_rust()
        .await?
        .print("Rust tool, flowcell", Some(&bare_times));
    let bare_times = bare.warm_python(&setup).await?;
    bare_times.print("Python tool, bare wasmtime", None);
    ours.warm_python()
        .await?
        .print("Python tool, flowcell", Some(&bare_times));

    println!(
        "\nto reach: warm Python call at most 25 us over bare wasmtime; fresh Rust instance and call at most 100 us"
    );
    drop(setup.flow);
    Ok(())
}

fn rust_tool(manifest: &Manifest) -> Result<&flowcell_bundle::Component> {
    let (component, _) = manifest
        .tool("rust-text-statistics.text_statistics")
        .ok_or("the bundle guest-examples has no tool text_statistics; run ./demo.sh")?;
    Ok(component)
}

const RUST_INPUTS: &str = r#"{"text": "The cat sat on the mat.", "top": 2}"#;

/// Through flowcell's sandbox.
struct Ours {
    sandbox: Arc<Sandbox>,
    environment: Environment,
    rust: Arc<Program>,
    python: Arc<Program>,
}

impl Ours {
    fn new(store: &Store, manifest: &Manifest, setup: &Setup) -> Result<Self> {
        let sandbox = Arc::new(Sandbox::new(&SandboxConfig::default())?);
        let programs = Programs::new(store.clone(), Arc::clone(&sandbox), Compiler::Here);
        let progress = |step: &str| println!("{step} ...");
        let runner = manifest
            .python_runner()
            .ok_or("the bundle has no Python runner")?;
        let mounts = setup
            .mounts
            .iter()
            .map(|(host, guest)| Mount {
                host: host.clone(),
                guest: guest.clone(),
                access: Access::ReadOnly,
            })
            .collect();
        Ok(Self {
            rust: programs.component(rust_tool(manifest)?, &progress)?,
            python: programs.component(runner, &progress)?,
            environment: Environment::new(mounts, Vec::new(), Limits::default()),
            sandbox,
        })
    }

    async fn start(&self, program: &Program) -> Result<Instance> {
        Ok(Instance::start(&self.sandbox, program, &self.environment, None).await?)
    }

    async fn instantiate(&self, program: &Program) -> Result<Times> {
        let mut times = Times::default();
        for _ in 0..FRESH {
            let started = Instant::now();
            drop(black_box(self.start(program).await?));
            times.push(started.elapsed());
        }
        Ok(times)
    }

    async fn call_rust(instance: &mut Instance) -> Result<()> {
        let answer = instance
            .invoke("text_statistics", RUST_INPUTS.to_owned())
            .await
            .result?;
        black_box(answer.map_err(|error| error.message)?);
        Ok(())
    }

    async fn call_python(instance: &mut Instance) -> Result<()> {
        let request = Request {
            node: "hello".to_owned(),
            source: "hello.py".to_owned(),
            init: Vec::new(),
            inputs: vec![("name".to_owned(), Argument::Json("\"you\"".to_owned()))],
        };
        match instance
            .call(&request)
            .await
            .result?
            .map_err(|error| error.message)?
        {
            Outcome::Json(json) if json == "\"Hello you\"" => Ok(()),
            other => Err(format!("unexpected answer {other:?}").into()),
        }
    }

    async fn fresh_rust(&self) -> Result<Times> {
        let mut times = Times::default();
        for _ in 0..FRESH {
            let started = Instant::now();
            let mut instance = self.start(&self.rust).await?;
            Self::call_rust(&mut instance).await?;
            drop(instance);
            times.push(started.elapsed());
        }
        Ok(times)
    }

    async fn fresh_python(&self) -> Result<Times> {
        let mut times = Times::default();
        for _ in 0..FRESH {
            let started = Instant::now();
            let mut instance = self.start(&self.python).await?;
            Self::call_python(&mut instance).await?;
            drop(instance);
            times.push(started.elapsed());
        }
        Ok(times)
    }

    async fn warm_rust(&self) -> Result<Times> {
        let mut instance = self.start(&self.rust).await?;
        let mut times = Times::default();
        for _ in 0..WARM_CALLS {
            let started = Instant::now();
            Self::call_rust(&mut instance).await?;
            times.push(started.elapsed());
        }
        Ok(times)
    }

    async fn warm_python(&self) -> Result<Times> {
        let mut instance = self.start(&self.python).await?;
        Self::call_python(&mut instance).await?;
        let mut times = Times::default();
        for _ in 0..WARM_CALLS {
            let started = Instant::now();
            Self::call_python(&mut instance).await?;
            times.push(started.elapsed());
        }
        Ok(times)
    }
}

/// wasmtime and wasmtime-wasi alone: the same components and allocator, with neither limits, epochs, quota nor captured
/// output.
struct Bare {
    engine: Engine,
    rust: InstancePre<Guest>,
    python: InstancePre<Guest>,
}

struct Guest {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl tool::flowcell::tool::types::Host for Guest {}
impl tool::flowcell::tool::host::Host for Guest {
    fn log(&mut self, _: tool::flowcell::tool::host::Level, _: String) {}
    fn metric(&mut self, _: String, _: String) {}
    fn emit(&mut self, _: String) {}
    fn start_span(&mut self, _: Option<u64>, _: String, _: String) -> u64 {
        0
    }
    fn end_span(&mut self, _: u64, _: String, _: Option<String>) {}
    fn records_content(&mut self) -> bool {
        false
    }
}

impl Bare {
    fn new(store: &Store, manifest: &Manifest) -> Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(8)
            .total_core_instances(256)
            .total_memories(8)
            .total_tables(64)
            .total_stacks(8)
            .max_core_instances_per_component(32)
            .max_memories_per_component(1)
            .max_tables_per_component(8)
            .table_elements(20_000)
            .max_memory_size(1 << 30)
            .max_core_instance_size(1 << 20)
            .max_component_instance_size(1 << 20);
        let mut config = Config::new();
        config
            .memory_guaranteed_dense_image_size(256 << 20)
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        tool::ToolComponent::add_to_linker::<Guest, wasmtime::component::HasSelf<Guest>>(
            &mut linker,
            |guest| guest,
        )?;
        let load = |component: &flowcell_bundle::Component| -> Result<InstancePre<Guest>> {
            println!("compiling {} for bare wasmtime ...", component.name);
            let component = Component::new(&engine, store.get(&component.digest)?)?;
            Ok(linker.instantiate_pre(&component)?)
        };
        let runner = manifest
            .python_runner()
            .ok_or("the bundle has no Python runner")?;
        let (rust, python) = (load(rust_tool(manifest)?)?, load(runner)?);
        Ok(Self {
            engine,
            rust,
            python,
        })
    }

    fn store(&self, setup: &Setup) -> Result<WasmStore<Guest>> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.allow_blocking_current_thread(true);
        for (host, guest) in &setup.mounts {
            wasi.preopened_dir(host, guest, FsPerms::ReadOnly)?;
        }
        Ok(WasmStore::new(
            &self.engine,
            Guest {
                wasi: wasi.build(),
                table: ResourceTable::new(),
            },
        ))
    }

    async fn instantiate(&self, pre: &InstancePre<Guest>, setup: &Setup) -> Result<Times> {
        let mut times = Times::default();
        for _ in 0..FRESH {
            let started = Instant::now();
            let mut store = self.store(setup)?;
            black_box(pre.instantiate_async(&mut store).await?);
            drop(store);
            times.push(started.elapsed());
        }
        Ok(times)
    }

    async fn rust(&self, store: &mut WasmStore<Guest>) -> Result<tool::ToolComponent> {
        Ok(tool::ToolComponentPre::new(self.rust.clone())?
            .instantiate_async(store)
            .await?)
    }

    async fn python(&self, store: &mut WasmStore<Guest>) -> Result<runner::PythonRunner> {
        Ok(runner::PythonRunnerPre::new(self.python.clone())?
            .instantiate_async(store)
            .await?)
    }

    async fn call_rust(
        instance: &tool::ToolComponent,
        store: &mut WasmStore<Guest>,
    ) -> Result<Duration> {
        let inputs = RUST_INPUTS.to_owned();
        let started = Instant::now();
        let answer = instance
            .flowcell_tool_tool()
            .call_invoke(&mut *store, "text_statistics", &inputs)
            .await?;
        black_box(answer.map_err(|error| error.message)?);
        Ok(started.elapsed())
    }

    async fn call_python(
        instance: &runner::PythonRunner,
        store: &mut WasmStore<Guest>,
    ) -> Result<Duration> {
        use runner::exports::flowcell::tool::runner::{Argument, Request};

        let started = Instant::now();
        let request = Request {
            node: "hello".to_owned(),
            source: "hello.py".to_owned(),
            init: Vec::new(),
            inputs: vec![("name".to_owned(), Argument::Json("\"you\"".to_owned()))],
        };
        let answer = instance
            .flowcell_tool_runner()
            .call_call(&mut *store, &request)
            .await?;
        black_box(answer.map_err(|error| error.message)?);
        Ok(started.elapsed())
    }

    async fn fresh_rust(&self, setup: &Setup) -> Result<Times> {
        let mut times = Times::default();
        for _ in 0..FRESH {
            let started = Instant::now();
            let mut store = self.store(setup)?;
            let instance = self.rust(&mut store).await?;
            Self::call_rust(&instance, &mut store).await?;
            drop(store);
            times.push(started.elapsed());
        }
        Ok(times)
    }

    async fn fresh_python(&self, setup: &Setup) -> Result<Times> {
        let mut times = Times::default();
        for _ in 0..FRESH {
            let started = Instant::now();
            let mut store = self.store(setup)?;
            let instance = self.python(&mut store).await?;
            Self::call_python(&instance, &mut store).await?;
            drop(store);
            times.push(started.elapsed());
        }
        Ok(times)
    }

    async fn warm_rust(&self, setup: &Setup) -> Result<Times> {
        let mut store = self.store(setup)?;
        let instance = self.rust(&mut store).await?;
        let mut times = Times::default();
        for _ in 0..WARM_CALLS {
            times.push(Self::call_rust(&instance, &mut store).await?);
        }
        Ok(times)
    }

    async fn warm_python(&self, setup: &Setup) -> Result<Times> {
        let mut store = self.store(setup)?;
        let instance = self.python(&mut store).await?;
        Self::call_python(&instance, &mut store).await?;
        let mut times = Times::default();
        for _ in 0..WARM_CALLS {
            times.push(Self::call_python(&instance, &mut store).await?);
        }
        Ok(times)
    }
}
