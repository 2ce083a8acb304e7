//! The base image's Python at work for the host: compiling what was unpacked, and importing it to see whether it runs.
//!
//! Both handle what strangers have written, so each happens in sandbox instances of its own that have nothing else, and are
//! gone afterwards.

use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use flowcell_bundle::{Manifest, Programs, Progress};
use flowcell_sandbox::{
    Access, Argument, Environment, Instance, Limits, Mount, Outcome, Program, Request, Sandbox,
};
use futures_util::future::try_join_all;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::EnvironmentError;
use crate::shares;

/// Where instances see what requirements have brought.
pub const SITE: &str = "/site";
/// The modules of the runner that do it.
const COMPILE: &str = "flowcell_runner.compiling:compile_tree";
const IMPORT: &str = "flowcell_runner.compiling:try_import";
/// Instances that compile at the same time, at most; fewer where there are fewer processors.
const AT_ONCE: usize = 4;
/// How long an instance may take to compile its files of a wheel, and how long a wheel's import.
const COMPILE_TIME: Duration = Duration::from_secs(120);
const IMPORT_TIME: Duration = Duration::from_secs(30);

pub(crate) struct Python<'a> {
    sandbox: &'a Sandbox,
    programs: &'a Programs,
    progress: &'a Progress,
    /// How many instances compile at the same time, and a place for each.
    at_once: usize,
    places: Semaphore,
}

impl<'a> Python<'a> {
    pub(crate) fn new(
        sandbox: &'a Sandbox,
        programs: &'a Programs,
        progress: &'a Progress,
    ) -> Self {
        let at_once = available_parallelism().map_or(1, NonZero::get).min(AT_ONCE);
        Self {
            sandbox,
            programs,
            progress,
            at_once,
            places: Semaphore::new(at_once),
        }
    }

    /// Writes a `.pyc` beside every `.py` below a folder, whose files will be seen below [`SITE`]. Files that do not compile
    /// are left as they are: importing them says why. `work` is an empty folder on the same disk, of no use afterwards.
    pub(crate) async fn compile(
        &self,
        manifest: &Manifest,
        folder: &Path,
        work: &Path,
    ) -> Result<(), EnvironmentError> {
        let shares = shares::deal(folder, work, self.at_once)?;
        let compiling = shares.into_iter().map(|share| async move {
            let _place = self.places.acquire().await;
            self.compile_share(manifest, &share).await?;
            shares::collect(&share, folder)
        });
        try_join_all(compiling).await.map(|_| ())
    }

    async fn compile_share(
        &self,
        manifest: &Manifest,
        share: &Path,
    ) -> Result<(), EnvironmentError> {
        let mounts = self.mounts(manifest, share, Access::ReadWrite)?;
        let inputs = format!("[\"{SITE}\"]");
        let answer = self.ask(manifest, mounts, COMPILE_TIME, COMPILE, ("folders", inputs));
        let answer = answer.await?;
        answer.map(|_| ()).map_err(EnvironmentError::Host)
    }

    /// Imports modules, and gives the first error.
    pub(crate) async fn try_import(
        &self,
        manifest: &Manifest,
        site: &Path,
        modules: &[&String],
    ) -> Result<Option<String>, EnvironmentError> {
        let mounts = self.mounts(manifest, site, Access::ReadOnly)?;
        let names = serde_json::to_string(modules)
            .map_err(|error| EnvironmentError::Host(error.to_string()))?;
        let answer = self.ask(manifest, mounts, IMPORT_TIME, IMPORT, ("modules", names));
        match answer.await? {
            Ok(answer) => match serde_json::from_str::<Option<String>>(&answer) {
                Ok(failed) => Ok(failed),
                Err(_) => Ok(Some("the answer is none".to_owned())),
            },
            Err(why) => Ok(Some(why)),
        }
    }

    fn mounts(
        &self,
        manifest: &Manifest,
        site: &Path,
        access: Access,
    ) -> Result<Vec<Mount>, EnvironmentError> {
        let mut mounts = vec![Mount {
            host: site.to_owned(),
            guest: SITE.to_owned(),
            access,
        }];
        for tree in &manifest.trees {
            mounts.push(Mount {
                host: self.programs.store().tree(&tree.digest)?,
                guest: tree.mount.clone(),
                access: Access::ReadOnly,
            });
        }
        Ok(mounts)
    }

    fn runner(&self, manifest: &Manifest) -> Result<Arc<Program>, EnvironmentError> {
        let runner = manifest
            .python_runner()
            .ok_or_else(|| EnvironmentError::Requirements {
                file: manifest.reference().to_string(),
                problem: "the base image has no Python, so it takes no requirements".to_owned(),
            })?;
        Ok(self.programs.component(runner, self.progress)?)
    }

    /// Calls a function of the runner; the inner error is what the guest says, or why it ended.
    async fn ask(
        &self,
        manifest: &Manifest,
        mounts: Vec<Mount>,
        time: Duration,
        function: &str,
        (input, json): (&str, String),
    ) -> Result<Result<String, String>, EnvironmentError> {
        let runner = self.runner(manifest)?;
        let limits = Limits {
            wall_time: time,
            cpu_time: time,
            ..Limits::default()
        };
        let environment = Environment::new(mounts, Vec::new(), limits);
        let failed = |error: &dyn std::error::Error| {
            EnvironmentError::Host(format!("the base image's Python does not start: {error}"))
        };
        let instance = Instance::start(self.sandbox, &runner, &environment, None).await;
        let mut instance = instance.map_err(|error| failed(&error))?;
        let request = Request {
            node: function.to_owned(),
            source: function.to_owned(),
            init: Vec::new(),
            inputs: vec![(input.to_owned(), Argument::Json(json))],
        };
        // In a task of its own, for several to be at work; it ends if this does.
        let mut call = JoinSet::new();
        call.spawn(async move { instance.call(&request).await.result });
        let Some(Ok(called)) = call.join_next().await else {
            return Err(EnvironmentError::Host(format!("{function} panicked")));
        };
        Ok(match called {
            Ok(Ok(Outcome::Json(json))) => Ok(json),
            Ok(Ok(Outcome::Object(_))) => Err("the answer is no JSON".to_owned()),
            Ok(Err(error)) => Err(format!("{}: {}", error.type_name, error.message)),
            Err(fault) => Err(fault.to_string()),
        })
    }
}
