//! The sandbox, and flows in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowcell_benches::home;
use flowcell_benches::peers::Result;
use flowcell_bundle::{Compiler, Manifest, Programs, Store};
use flowcell_sandbox::{
    Access, Argument, Destination, Environment, Image, ImageKey, Instance, Limits, Mount, Outcome,
    Owner, Program, Request, Sandbox, SandboxConfig, Stored,
};
use tempfile::TempDir;

/// What the flow's file holds, but for its number.
pub(crate) const SOURCE: &str = r#"
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

/// What all flows share.
pub(crate) struct Setup {
    sandbox: Arc<Sandbox>,
    program: Arc<Program>,
    trees: Vec<Mount>,
    key: Arc<ImageKey>,
    folder: TempDir,
}

impl Setup {
    pub(crate) fn new() -> Result<Self> {
        let sandbox = Arc::new(Sandbox::new(&SandboxConfig::default())?);
        let store = Store::open(home())?;
        let programs = Programs::new(store.clone(), Arc::clone(&sandbox), Compiler::Here);
        let manifest: Manifest = store.manifest(&"promptflow:0.1.0".parse()?)?;
        let runner = manifest.python_runner().ok_or("the bundle has no runner")?;
        let program = programs.component(runner, &|_| {})?;
        let trees = manifest.trees.iter().map(|tree| {
            Ok(Mount {
                host: store.tree(&tree.digest)?,
                guest: tree.mount.clone(),
                access: Access::ReadOnly,
            })
        });
        // On the disk, as images are: a temporary folder may be memory.
        let folder = tempfile::tempdir_in(store.images())?;
        Ok(Self {
            trees: trees.collect::<Result<_>>()?,
            key: Arc::new(ImageKey::open(&folder.path().join("key"))?),
            sandbox,
            program,
            folder,
        })
    }

    pub(crate) fn base(&self) -> &Image {
        self.program
            .base()
            .unwrap_or_else(|| unreachable!("the runner has an image"))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A flow that differs from all of other numbers.
    pub(crate) fn flow(&self, number: usize) -> Result<Flow<'_>> {
        let folder = self.folder().join(format!("flow-{number}"));
        let files = folder.join("files");
        std::fs::create_dir_all(&files)?;
        let source = format!("{SOURCE}\nNUMBER = {number}\n");
        std::fs::write(files.join("hello.py"), source)?;
        let owner = Owner {
            workspace: "bench".to_owned(),
            session: Some(format!("session-{number}")),
        };
        let mut mounts = vec![Mount {
            host: files,
            guest: "/flow".to_owned(),
            access: Access::ReadWrite,
        }];
        mounts.extend(self.trees.iter().cloned());
        let environment = Environment::new(mounts, Vec::new(), Limits::default());
        Ok(Flow {
            setup: self,
            environment: environment.with_owner(owner.clone()),
            owner,
            folder,
        })
    }
}

/// A flow, and its session.
pub(crate) struct Flow<'a> {
    setup: &'a Setup,
    environment: Environment,
    pub(crate) owner: Owner,
    folder: PathBuf,
}

impl Flow<'_> {
    /// Imports the flow's file into an instance of the base, and stores that as the session's image.
    pub(crate) async fn build(&self) -> Result<Stored> {
        let mut instance = self.start(self.setup.base()).await?;
        if let Err(error) = instance.load("hello", "hello.py").await.result? {
            return Err(format!("{error:?}").into());
        }
        let owner = Owner {
            session: None,
            ..self.owner.clone()
        };
        let destination = self.destination("image", owner, true);
        Ok(instance.store(&destination).await?)
    }

    /// The image that was built, as a process finds it that has just begun.
    pub(crate) fn found(&self) -> Result<Image> {
        let path = self.folder.join("image");
        let image = self
            .setup
            .base()
            .with(&path, &self.setup.key, &self.owner, 1 << 30);
        Ok(image?)
    }

    pub(crate) async fn start(&self, image: &Image) -> Result<Instance> {
        let Setup {
            sandbox, program, ..
        } = self.setup;
        Ok(Instance::start(sandbox, program, &self.environment, Some(image)).await?)
    }

    pub(crate) async fn hibernate(&self, mut instance: Instance, name: &str) -> Result<Stored> {
        let destination = self.destination(name, self.owner.clone(), false);
        Ok(instance.store(&destination).await?)
    }

    /// An instance from what was stored under a name, read from the disk.
    pub(crate) async fn resume(&self, image: &Image, name: &str) -> Result<Instance> {
        let asleep = image.with(
            &self.folder.join(name),
            &self.setup.key,
            &self.owner,
            1 << 30,
        )?;
        self.start(&asleep).await
    }

    fn destination(&self, name: &str, owner: Owner, lasting: bool) -> Destination {
        Destination {
            path: self.folder.join(name),
            key: Arc::clone(&self.setup.key),
            owner,
            made_from: "bench".to_owned(),
            replaces: None,
            limit: 256 << 20,
            lasting,
        }
    }
}

/// Calls the flow's tool.
pub(crate) async fn call(instance: &mut Instance) -> Result<String> {
    let request = Request {
        node: "hello".to_owned(),
        source: "hello.py".to_owned(),
        init: Vec::new(),
        inputs: vec![("name".to_owned(), Argument::Json("\"World\"".to_owned()))],
    };
    match instance.call(&request).await.result? {
        Ok(Outcome::Json(text)) => Ok(text),
        Ok(Outcome::Object(_)) => Err("the tool returned an object".into()),
        Err(error) => Err(format!("{}: {}", error.message, error.traceback).into()),
    }
}

/// The same, where it has been called so often.
pub(crate) async fn expect_count(instance: &mut Instance, count: u32) -> Result<()> {
    let answer = call(instance).await?;
    if answer.contains(&format!("({count})")) {
        Ok(())
    } else {
        Err(format!("{answer} instead of call {count}").into())
    }
}
