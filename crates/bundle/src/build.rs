//! Makes a bundle from its recipe.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use flowcell_sandbox::{
    Access, Argument, Base, Environment, Instance, Limits, Mount, Outcome, Program, ProgramKind,
    Request, Sandbox, Shell,
};
use serde::Deserialize;

use crate::Progress;
use crate::component::describe;
use crate::error::{BundleError, IoContext as _};
use crate::lease::Thing;
use crate::manifest::{Component, Manifest, PythonInfo, Reference, Start, Tree};
use crate::packages;
use crate::programs::Programs;
use crate::recipe::Recipe;
use crate::store::Store;
use crate::tree;
use flowcell_registry::Digest;

/// Where instances see the standard library and the packages: the names of the folders that a recipe's Python script
/// makes.
const PYTHON_TREES: [&str; 2] = ["python", PACKAGES];
/// The same, as instances see them.
const PYTHON_FOLDERS: [&str; 2] = ["/python", "/packages"];
pub(crate) const PACKAGES: &str = "packages";
/// The folder of a throw-away flow, its file and its node: it runs once before a runner's memory becomes the base image.
pub(crate) const WARM_UP: [&str; 3] = ["warm", "warm_up.py", "warm_up"];
/// Balances a second of packing against size; unpacking hardly depends on it.
const BASE_LEVEL: i32 = 9;
/// The runner's function that compiles Python files.
const COMPILE: &str = "flowcell_runner.compiling:compile_tree";
/// How much of a failed script's output a message quotes.
const OUTPUT_LINES: usize = 30;

/// What a build made.
#[derive(Debug)]
pub struct BuildReport {
    /// The bundle.
    pub manifest: Manifest,
    /// The digest of its manifest.
    pub digest: Digest,
}

/// What a recipe asks for that is not in its folder.
#[derive(Debug, Clone, Default)]
pub struct Ingredients {
    /// The bundle that the recipe's `from` names.
    pub from: Option<Manifest>,
    /// A folder with what the recipe's `[python]` adds, as an installer would put it.
    pub packages: Option<PathBuf>,
}

/// Runs the recipe's scripts and puts the bundle into the store.
///
/// The scripts run as they are, with the rights of whoever calls this: they belong to the bundle's author, like a
/// Makefile. What they make runs in the sandbox only.
pub async fn build(
    recipe: &Recipe,
    ingredients: &Ingredients,
    store: &Store,
    sandbox: &Arc<Sandbox>,
    programs: &Programs,
    progress: &Progress,
) -> Result<BuildReport, BundleError> {
    let mut manifest = match &ingredients.from {
        Some(from) => from.clone(),
        None => Manifest::new(&recipe.name, &recipe.version),
    };
    manifest.name.clone_from(&recipe.name);
    manifest.version.clone_from(&recipe.version);

    // What is put has no name until the end.
    let _lease = store.lease(Thing::AllBlobs)?;
    let work = tempfile::tempdir().io("make a folder in", &std::env::temp_dir())?;
    for component in &recipe.components {
        progress(&format!("building {}", component.name));
        let out = work.path().join("component.wasm");
        run_script(&recipe.folder.join(&component.build), &out)?;
        let wasm = fs::read(&out).io("read", &out)?;
        let built =
            add_component(&component.name, &wasm, store, sandbox, programs, progress).await?;
        manifest.components.retain(|other| other.name != built.name);
        manifest.components.push(built);
    }
    if let Some(python) = &recipe.python {
        let out = work.path().join("trees");
        fs::create_dir(&out).io("make the folder", &out)?;
        let folders = match &python.build {
            Some(script) => {
                progress("building Python's standard library and packages");
                run_script(&recipe.folder.join(script), &out)?;
                &PYTHON_FOLDERS[..]
            }
            None => {
                progress("adding packages");
                packages::start_with(&manifest, store, &out)?;
                if let Some(packages) = &ingredients.packages {
                    packages::add(packages, &out.join(PACKAGES))?;
                }
                // The rest is compiled already.
                &PYTHON_FOLDERS[1..]
            }
        };
        progress("compiling Python's standard library and packages");
        let runner = manifest.python_runner().ok_or_else(|| BundleError::Guest {
            name: recipe.name.clone(),
            what: "[python] needs a component that is a Python runner".to_owned(),
        })?;
        let wasm = store.get(&runner.digest)?;
        let runner = programs.component(runner, progress)?;
        let version = compile_python(sandbox, &runner, &out, folders).await?;
        progress("making the base image");
        let start = image(&wasm, &out, store, sandbox, programs, progress).await?;
        for component in &mut manifest.components {
            if component.kind == ProgramKind::PythonRunner {
                component.start = start.clone();
                // What the first start of an instance would wait for.
                programs.component(component, progress)?;
            }
        }
        for name in PYTHON_TREES {
            put_tree(&mut manifest, &format!("/{name}"), &out.join(name), store)?;
        }
        manifest.python = Some(PythonInfo {
            version,
            packages: packages::installed(&out.join(PACKAGES))?,
        });
    }
    for (index, file) in recipe.files.iter().enumerate() {
        let source = recipe.folder.join(&file.source);
        progress(&format!("adding {}", file.target));
        let folder = work.path().join(format!("files-{index}"));
        packages::copy_files(&source, &folder)?;
        put_tree(&mut manifest, &file.target, &folder, store)?;
    }
    manifest.environment.extend(recipe.environment.clone());
    let digest = store.put_manifest(&manifest)?;
    for channel in &recipe.channels {
        let name = Reference {
            name: recipe.name.clone(),
            version: channel.clone(),
        };
        store.tag(&digest, &name)?;
    }
    Ok(BuildReport { manifest, digest })
}

/// Packs a folder as the tree at this place, in place of the one that is there.
fn put_tree(
    manifest: &mut Manifest,
    mount: &str,
    folder: &Path,
    store: &Store,
) -> Result<(), BundleError> {
    let archive = tree::pack(folder)?;
    let tree = Tree {
        mount: mount.to_owned(),
        digest: store.put(&archive)?,
        size: archive.len() as u64,
    };
    match manifest.trees.iter_mut().find(|tree| tree.mount == mount) {
        Some(there) => *there = tree,
        None => manifest.trees.push(tree),
    }
    Ok(())
}

fn run_script(script: &Path, out: &Path) -> Result<(), BundleError> {
    let ran = Command::new("sh")
        .arg(script)
        .arg(out)
        .stdin(Stdio::null())
        .output()
        .io("run", script)?;
    if ran.status.success() {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&ran.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&ran.stderr));
    let lines: Vec<&str> = text.lines().collect();
    Err(BundleError::Script {
        script: script.display().to_string(),
        status: ran.status.to_string(),
        output: lines[lines.len().saturating_sub(OUTPUT_LINES)..].join("\n"),
    })
}

async fn add_component(
    name: &str,
    wasm: &[u8],
    store: &Store,
    sandbox: &Sandbox,
    programs: &Programs,
    progress: &Progress,
) -> Result<Component, BundleError> {
    let digest = store.put(wasm)?;
    store.mark_built(&digest)?;
    let program = programs.bytes(wasm, name, progress)?;
    let tools = match program.kind() {
        ProgramKind::PythonRunner => Vec::new(),
        ProgramKind::Tool => describe(name, sandbox, &program).await?,
    };
    Ok(Component {
        name: name.to_owned(),
        kind: program.kind(),
        digest,
        size: wasm.len() as u64,
        tools,
        start: Start::Ordinary,
    })
}

/// Makes the shell and the base image of a runner, if it is fit for that.
async fn image(
    wasm: &[u8],
    trees: &Path,
    store: &Store,
    sandbox: &Sandbox,
    programs: &Programs,
    progress: &Progress,
) -> Result<Start, BundleError> {
    let shell = match Shell::of(wasm) {
        Ok(shell) => shell,
        Err(error) => {
            progress(&format!("it runs without images: {error}"));
            return Ok(Start::Unsuitable(error.to_string()));
        }
    };
    let digest = store.put(&shell.component)?;
    if store.was_built(&Digest::of(wasm)) {
        store.mark_built(&digest)?;
    }
    // Without a digest: nothing has run in it yet.
    let raw = Base::new(trees, &shell.memory, "").io("write in", trees)?;
    let program = programs.shell(&digest, raw, progress)?;
    let memory = match warm_memory(sandbox, &program, trees).await {
        Ok(memory) => memory,
        Err(why) => {
            progress(&format!("it runs without images: {why}"));
            return Ok(Start::Unsuitable(why));
        }
    };
    let packed = zstd::bulk::compress(&memory, BASE_LEVEL).io("compress", trees)?;
    Ok(Start::Image {
        shell: digest,
        base: store.put(&packed)?,
        memory: memory.len() as u64,
        pages: Base::hash(&memory),
    })
}

/// The memory of a runner in which a flow has run.
async fn warm_memory(sandbox: &Sandbox, runner: &Program, trees: &Path) -> Result<Vec<u8>, String> {
    let [folder, file, node] = WARM_UP;
    let mut mounts = vec![Mount {
        host: trees.join(folder),
        guest: "/flow".to_owned(),
        access: Access::ReadOnly,
    }];
    mounts.extend(PYTHON_TREES.map(|name| Mount {
        host: trees.join(name),
        guest: format!("/{name}"),
        access: Access::ReadOnly,
    }));
    let environment = Environment::new(mounts, Vec::new(), Limits::default());
    let instance = Instance::start(sandbox, runner, &environment, None).await;
    let mut instance = instance.map_err(|error| error.to_string())?;
    let request = Request {
        node: node.to_owned(),
        source: file.to_owned(),
        init: Vec::new(),
        inputs: Vec::new(),
    };
    let called = instance.call(&request).await.result;
    match called.map_err(|fault| format!("the warm-up failed: {fault}"))? {
        Ok(_) => {}
        Err(error) => {
            return Err(format!(
                "the warm-up failed: {}: {}\n{}",
                error.type_name, error.message, error.traceback
            ));
        }
    }
    instance.forget().await;
    let memory = instance.whole_memory().await;
    memory.map_err(|error| format!("its memory cannot be stored: {error}"))
}

/// What [`COMPILE`] answers.
#[derive(Debug, Deserialize)]
struct Compiled {
    python: String,
    failed: BTreeMap<String, String>,
}

/// Compiles the Python files of the trees with the runner itself, since nothing else on the machine need have its
/// version of Python. Gives that version.
async fn compile_python(
    sandbox: &Sandbox,
    runner: &Program,
    trees: &Path,
    folders: &[&str],
) -> Result<String, BundleError> {
    const NAME: &str = "python-runner";
    let wrong = |what: String| BundleError::Guest {
        name: NAME.to_owned(),
        what,
    };
    let mounts = PYTHON_TREES.map(|name| Mount {
        host: trees.join(name),
        guest: format!("/{name}"),
        access: Access::ReadWrite,
    });
    let mounts = mounts.to_vec();
    let environment = Environment::new(mounts, Vec::new(), Limits::default());
    let mut instance = Instance::start(sandbox, runner, &environment, None).await?;
    let folders = serde_json::to_string(folders).map_err(|error| wrong(error.to_string()))?;
    let folders = Argument::Json(folders);
    let request = Request {
        node: "compile".to_owned(),
        source: COMPILE.to_owned(),
        init: Vec::new(),
        inputs: vec![("folders".to_owned(), folders)],
    };
    let called = instance.call(&request).await;
    let outcome = called
        .result
        .map_err(|fault| BundleError::fault(NAME, &fault))?;
    let compiled: Compiled = match outcome {
        Ok(Outcome::Json(json)) => {
            serde_json::from_str(&json).map_err(|error| wrong(error.to_string()))?
        }
        Ok(Outcome::Object(object)) => return Err(wrong(format!("unexpected object {object}"))),
        Err(error) => {
            return Err(wrong(format!(
                "{}: {}\n{}",
                error.type_name, error.message, error.traceback
            )));
        }
    };
    for (file, reason) in &compiled.failed {
        tracing::debug!(file, reason, "not compiled");
    }
    Ok(compiled.python)
}
