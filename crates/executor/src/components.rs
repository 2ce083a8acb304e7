//! The components of a session: those of its base image, and those that requirements have brought.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowcell_bundle::{Component, Digest, Manifest};
use flowcell_environment::{Site, SiteComponent};
use flowcell_sandbox as sandbox;
use flowcell_sandbox::{
    Callee, Environment, ErrorKind, FoundTool, Hibernation, Image, Pool, PoolOptions, Program,
    ToolError, ToolInfo,
};

use crate::connections::SessionConnections;
use crate::error::{Code, RunError};
use crate::host::Host;
use crate::session::SessionOptions;

/// A session's components, and a pool for each that somebody has asked for.
#[derive(Debug)]
pub(crate) struct Components {
    host: Host,
    manifest: Manifest,
    packages: Vec<SiteComponent>,
    connections: Arc<SessionConnections>,
    environment: Environment,
    options: PoolSettings,
    pools: Mutex<HashMap<Digest, Arc<Pool>>>,
}

/// How a session's pools are set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolSettings {
    pub(crate) isolation: sandbox::Isolation,
    pub(crate) instances: usize,
    pub(crate) wait: Duration,
}

impl From<&SessionOptions> for PoolSettings {
    fn from(options: &SessionOptions) -> Self {
        Self {
            isolation: options.isolation,
            instances: options.instances,
            wait: options.wait,
        }
    }
}

impl Components {
    /// Those of an image and an environment. Instances see what `environment` lists.
    pub(crate) fn new(
        host: &Host,
        manifest: Manifest,
        site: Option<&Site>,
        connections: Arc<SessionConnections>,
        environment: Environment,
        options: PoolSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            host: host.clone(),
            manifest,
            packages: site.map(|site| site.components.clone()).unwrap_or_default(),
            connections,
            environment,
            options,
            pools: Mutex::default(),
        })
    }

    /// The base image.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How long an instance is waited for.
    pub(crate) fn wait(&self) -> Duration {
        self.options.wait
    }

    /// All of them. The image's own come first: a package cannot take their place.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Component> {
        let packages = self.packages.iter().map(|package| &package.component);
        self.manifest.components.iter().chain(packages)
    }

    /// A tool by its id, with its component.
    pub(crate) fn tool(&self, id: &str) -> Option<(&Component, &flowcell_bundle::Tool)> {
        self.all()
            .find_map(|component| Some((component, component.tool(id)?)))
    }

    /// The ids of all tools.
    pub(crate) fn tool_ids(&self) -> Vec<String> {
        self.all().flat_map(Component::tool_ids).collect()
    }

    /// The instances of a component.
    pub(crate) fn pool(&self, component: &Component) -> Result<Arc<Pool>, RunError> {
        if let Some(pool) = self.lock().get(&component.digest) {
            return Ok(Arc::clone(pool));
        }
        let pool = self.pool_of(self.program(component)?);
        Ok(Arc::clone(
            self.lock().entry(component.digest).or_insert(pool),
        ))
    }

    /// Instances of a tool's program.
    pub(crate) fn pool_of(&self, program: Arc<Program>) -> Arc<Pool> {
        self.pool_in(self.environment.clone(), program, (None, None))
    }

    /// Instances of the Python runner, whose code can call the tools of components as functions of modules.
    pub(crate) fn runner_pool(
        self: &Arc<Self>,
        program: Arc<Program>,
        stored: (Option<Image>, Option<Hibernation>),
    ) -> Arc<Pool> {
        let environment = self.environment.clone().with_tools(self.clone());
        self.pool_in(environment, program, stored)
    }

    fn pool_in(
        &self,
        environment: Environment,
        program: Arc<Program>,
        (image, hibernation): (Option<Image>, Option<Hibernation>),
    ) -> Arc<Pool> {
        let options = PoolOptions {
            program,
            environment: Arc::new(environment),
            isolation: self.options.isolation,
            instances: self.options.instances,
            image,
            hibernation,
        };
        Pool::new(Arc::clone(self.host.sandbox()), options)
    }

    /// Drops the instances that no call uses.
    pub(crate) fn shrink(&self) {
        for pool in self.lock().values() {
            pool.shrink(Duration::ZERO);
        }
    }

    fn program(&self, component: &Component) -> Result<Arc<Program>, RunError> {
        let of_package = self
            .packages
            .iter()
            .find(|one| one.component.digest == component.digest);
        let Some(package) = of_package else {
            let compiled = self
                .host
                .compiled(|programs, progress| programs.component(component, progress));
            return Ok(compiled?);
        };
        let name = &component.name;
        let bytes = std::fs::read(&package.path).map_err(|error| {
            RunError::system(
                "EnvironmentError",
                format!("the component package {name} cannot be read: {error}"),
            )
        })?;
        let compiled = self
            .host
            .compiled(|programs, progress| programs.untrusted(&bytes, name, progress));
        Ok(compiled?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tool's id as Python can write it.
fn python_id(id: &str) -> String {
    id.replace('-', "_")
}

impl sandbox::Tools for Components {
    fn in_module(&self, module: &str) -> Vec<ToolInfo> {
        let mut found: Vec<ToolInfo> = Vec::new();
        for component in self.all() {
            for tool in &component.tools {
                let id = python_id(&component.tool_id(tool));
                let rest = id.strip_prefix(module);
                if rest.is_some_and(|rest| rest.starts_with('.'))
                    && !found.iter().any(|other| other.name == id)
                {
                    found.push(ToolInfo {
                        name: id,
                        ..tool.clone().into()
                    });
                }
            }
        }
        found
    }

    fn find(&self, id: &str, inputs: &str) -> Result<FoundTool, ToolError> {
        let found = match id {
            CONNECTION => self.connection(inputs).map(FoundTool::Answer),
            id => self.callee(id).map(FoundTool::Callee),
        };
        found.map_err(|error| ToolError {
            kind: match error.code {
                Code::User => ErrorKind::User,
                Code::System => ErrorKind::System,
            },
            type_name: error.class,
            message: error.message,
            traceback: String::new(),
            own: false,
        })
    }
}

/// What the runner asks for a connection by name (`flowcell_runner/connections.py`).
const CONNECTION: &str = "flowcell.connection";

impl Components {
    fn connection(&self, inputs: &str) -> Result<String, RunError> {
        #[derive(serde::Deserialize)]
        struct Wanted {
            name: String,
        }
        let wanted: Wanted = serde_json::from_str(inputs)
            .map_err(|error| RunError::user("ValueError", error.to_string()))?;
        Ok(self.connections.object(&wanted.name)?.to_string())
    }

    fn callee(&self, id: &str) -> Result<Callee, RunError> {
        let found = self.all().find_map(|component| {
            let mut tools = component.tools.iter();
            let tool = tools.find(|tool| python_id(&component.tool_id(tool)) == id)?;
            Some((component, tool))
        });
        let found = found.ok_or_else(|| {
            RunError::user("PackageToolNotFoundError", format!("there is no tool {id}"))
        });
        let (component, tool) = found?;
        Ok(Callee {
            pool: self.pool(component)?,
            tool: tool.name.clone(),
            wait: self.options.wait,
        })
    }
}
