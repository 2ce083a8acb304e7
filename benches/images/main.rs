//! What memory images cost: starts, builds, hibernation, resumption and forks, with memory and disk.
//!
//! `cargo bench -p flowcell-benches --bench images`

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use flowcell_benches::{Times, home, print_machine};
use flowcell_bundle::{Compiler, Manifest, Programs, Store};
use flowcell_sandbox::{
    Access, Argument, Destination, Environment, Image, ImageKey, Instance, Limits, Mount, Outcome,
    Owner, Program, Request, Sandbox, SandboxConfig,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const FLOW: &str = r#"
import jinja2
import json
from promptflow.core import tool

TABLE = {f"key-{i}": {"n": i, "text": "value %d" % i} for i in range(2000)}
TEMPLATE = jinja2.Template("Hello {{ name }}: {{ table['key-7'].text }}")
COUNT = 0


@tool
def hello(name: str) -> str:
    global COUNT
    COUNT += 1
    return TEMPLATE.render(name=name, table=TABLE) + f" ({COUNT})"
"#;

fn main() -> Result<()> {
    print_machine();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(measure())
}

struct Bench {
    sandbox: Arc<Sandbox>,
    program: Arc<Program>,
    environment: Environment,
    key: Arc<ImageKey>,
    folder: tempfile::TempDir,
}

fn request(name: &str) -> Request {
    Request {
        node: "hello".to_owned(),
        source: "hello.py".to_owned(),
        init: Vec::new(),
        inputs: vec![("name".to_owned(), Argument::Json(format!("{name:?}")))],
    }
}

impl Bench {
    fn new() -> Result<Self> {
        let sandbox = Arc::new(Sandbox::new(&SandboxConfig::default())?);
        let store = Store::open(home())?;
        let programs = Programs::new(store.clone(), Arc::clone(&sandbox), Compiler::Here);
        let manifest: Manifest = store.manifest(&"promptflow:0.1.0".parse()?)?;
        let runner = manifest.python_runner().ok_or("no runner")?;
        let begun = Instant::now();
        let program = programs.component(runner, &|_| {})?;
        println!("program loaded in {:?}", begun.elapsed());
        let folder = tempfile::tempdir_in(home())?;
        let flow = folder.path().join("flow");
        std::fs::create_dir(&flow)?;
        std::fs::write(flow.join("hello.py"), FLOW)?;

        let mut mounts = vec![Mount {
            host: flow,
            guest: "/flow".to_owned(),
            access: Access::ReadWrite,
        }];
        for tree in &manifest.trees {
            mounts.push(Mount {
                host: store.tree(&tree.digest)?,
                guest: tree.mount.clone(),
                access: Access::ReadOnly,
            });
        }
        let key = Arc::new(ImageKey::open(&folder.path().join("key"))?);
        Ok(Self {
            sandbox,
            program,
            environment: Environment::new(mounts, Vec::new(), Limits::default())
                .with_owner(owner(true)),
            key,
            folder,
        })
    }

    async fn start(&self, image: Option<&Image>) -> Result<Instance> {
        Ok(Instance::start(&self.sandbox, &self.program, &self.environment, image).await?)
    }

    fn to(&self, name: &str, lasting: bool) -> Destination {
        Destination {
            path: self.folder.path().join(name),
            key: Arc::clone(&self.key),
            owner: owner(!lasting),
            made_from: "bench".to_owned(),
            limit: 256 << 20,
            lasting,
        }
    }
}

fn owner(is_session: bool) -> Owner {
    Owner {
        workspace: "bench".to_owned(),
        session: is_session.then(|| "bench".to_owned()),
    }
}

async fn call(instance: &mut Instance) -> Result<String> {
    match instance.call(&request("World")).await.result? {
        Ok(Outcome::Json(text)) => Ok(text),
        Ok(Outcome::Object(_)) => Err("an object".into()),
        Err(error) => Err(format!("{}: {}", error.message, error.traceback).into()),
    }
}

async fn measure() -> Result<()> {
    let bench = Bench::new()?;
    let base = bench.program.base().ok_or("no image")?.clone();
    println!("base: {} KiB", base.memory() >> 10);
    let mut build = Times::default();
    let mut image = None;
    for _ in 0..20 {
        let begun = Instant::now();
        let mut instance = bench.start(None).await?;
        if let Err(error) = instance.load("hello", "hello.py").await.result? {
            return Err(format!("{error:?}").into());
        }
        let stored = instance.store(&bench.to("image", true)).await?;
        build.push(begun.elapsed());
        drop(instance);
        image = Some(stored);
    }
    let stored = image.ok_or("none")?;
    println!("image: {} KiB changed, {} KiB on disk", stored.changed >> 10, stored.size >> 10);
    Times::print_head("one flow");
    build.print("image build (start, import, store)", None);
    let image = stored.image;
    for round in ["copied", "mapped"] {
        if round == "mapped" {
            let begun = Instant::now();
            image.spread(bench.folder.path(), &owner(true))?;
            println!("spread: {:?}", begun.elapsed());
        }
        let (mut start, mut first, mut second, mut end, mut total) = Default::default();
        let _: (&mut Times, &mut Times, &mut Times, &mut Times, &mut Times) =
            (&mut start, &mut first, &mut second, &mut end, &mut total);
        for _ in 0..200 {
            let begun = Instant::now();
            let mut instance = bench.start(Some(&image)).await?;
            start.push(begun.elapsed());
            let then = Instant::now();
            call(&mut instance).await?;
            first.push(then.elapsed());
            total.push(begun.elapsed());
            let then = Instant::now();
            call(&mut instance).await?;
            second.push(then.elapsed());
            let then = Instant::now();
            drop(instance);
            end.push(then.elapsed());
        }
        start.print(&format!("{round}: start"), None);
        first.print(&format!("{round}: first call"), None);
        total.print(&format!("{round}: start and first call"), None);
        second.print(&format!("{round}: second call"), None);
        end.print(&format!("{round}: drop"), None);
        let (mut sleep, mut synced, mut resume, mut both) = Default::default();
        let _: (&mut Times, &mut Times, &mut Times, &mut Times) =
            (&mut sleep, &mut synced, &mut resume, &mut both);
        let mut size = (0, 0);
        for _ in 0..100 {
            let mut instance = bench.start(Some(&image)).await?;
            call(&mut instance).await?;
            call(&mut instance).await?;
            let begun = Instant::now();
            let stored = instance.store(&bench.to("sleep", false)).await?;
            drop(instance);
            sleep.push(begun.elapsed());
            stored.image.sync()?;
            synced.push(begun.elapsed());
            size = (stored.changed >> 10, stored.size >> 10);
            let begun = Instant::now();
            let below = if round == "copied" { image.clone() } else { stored.image.clone() };
            let slept = if round == "copied" {
                below.with(&bench.folder.path().join("sleep"), &bench.key, &owner(true), 1 << 30)?
            } else {
                below
            };
            let mut instance = bench.start(Some(&slept)).await?;
            resume.push(begun.elapsed());
            let answer = call(&mut instance).await?;
            both.push(begun.elapsed());
            if !answer.contains("(3)") {
                return Err(answer.into());
            }
        }
        println!("hibernation: {} KiB changed, {} KiB on disk", size.0, size.1);
        sleep.print(&format!("{round}: hibernate"), None);
        synced.print(&format!("{round}: hibernate, until on the disk"), None);
        resume.print(&format!("{round}: resume"), None);
        both.print(&format!("{round}: resume and call"), None);
    }
    Ok(())
}
