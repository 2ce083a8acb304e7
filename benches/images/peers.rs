//! What images are measured beside.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use flowcell_benches::peers::{Result, promptflow};
use flowcell_benches::{Times, home};
use flowcell_bundle::{Compiler, Component, Programs, Start, Store};
use flowcell_sandbox::{Access, Environment, Instance, Limits, Mount, Sandbox, SandboxConfig};

use crate::memory::Memory;
use crate::setup::{SOURCE, call};

const RUNS: usize = 100;
const LIVE: usize = 20;

/// The same runner with its data in its code: wasmtime's pool of instances, its memory mapped copy-on-write.
pub(crate) async fn without_images() -> Result<()> {
    let sandbox = Arc::new(Sandbox::new(&SandboxConfig::default())?);
    let store = Store::open(home())?;
    let programs = Programs::new(store.clone(), Arc::clone(&sandbox), Compiler::Here);
    let manifest = store.manifest(&"promptflow:0.1.0".parse()?)?;
    let runner = manifest.python_runner().ok_or("the bundle has no runner")?;
    let ordinary = Component {
        start: Start::Ordinary,
        ..runner.clone()
    };
    let program = programs.component(&ordinary, &|_| {})?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("hello.py"), SOURCE)?;
    let mut mounts = vec![Mount {
        host: folder.path().to_owned(),
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
    let environment = Environment::new(mounts, Vec::new(), Limits::default());
    let (mut start, mut both) = (Times::default(), Times::default());
    for _ in 0..RUNS {
        let begun = Instant::now();
        let mut instance = Instance::start(&sandbox, &program, &environment, None).await?;
        start.push(begun.elapsed());
        call(&mut instance).await?;
        both.push(begun.elapsed());
    }
    Times::print_head("peer: the same runner without images");
    start.print("start", None);
    both.print("start and first call, which imports the flow", None);
    let before = Memory::now()?;
    let mut live = Vec::with_capacity(LIVE);
    for _ in 0..LIVE {
        let mut instance = Instance::start(&sandbox, &program, &environment, None).await?;
        call(&mut instance).await?;
        live.push(instance);
    }
    let each = Memory::now()?.since(&before).divided(LIVE as u64);
    println!(
        "a live instance: {} KiB private, {} KiB PSS, {} mappings",
        each.private, each.pss, each.mappings
    );
    Ok(())
}

/// A process of CPython with the same flow and promptflow's own decorator.
pub(crate) fn native_python() -> Result<()> {
    let python = promptflow("python")?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("hello.py"), SOURCE)?;
    let main =
        "import sys, hello\nfor line in sys.stdin:\n    print(hello.hello('World'), flush=True)\n";
    std::fs::write(folder.path().join("main.py"), main)?;
    let (mut both, mut warm, mut private, mut pss) = (Times::default(), Times::default(), 0, 0);
    for _ in 0..10 {
        let begun = Instant::now();
        let mut child = Command::new(&python)
            .arg("main.py")
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or("no stdin")?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        for first in [true, false] {
            let called = Instant::now();
            stdin.write_all(b"\n")?;
            lines.next().ok_or("no answer")??;
            if first {
                both.push(begun.elapsed());
            } else {
                warm.push(called.elapsed());
            }
        }
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id()))?;
        let value = |name: &str| -> u64 {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        private = value("Private_Dirty:");
        pss = value("Pss:");
        drop(stdin);
        child.wait()?;
    }
    Times::print_head("peer: a process of CPython with promptflow's decorator");
    both.print("start and first call, which imports the flow", None);
    warm.print("second call", None);
    println!("a process: {private} KiB private, {pss} KiB PSS");
    Ok(())
}
