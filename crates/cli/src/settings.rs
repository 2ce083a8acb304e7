//! Where things are, and what is built in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use flowcell_bundle::{CompileLimits, CompileProcess, Compiler, Reference, Store};
use flowcell_environment::IndexSettings;
use flowcell_executor::{EnvironmentOptions, Host, HostOptions, RunError};
use flowcell_sandbox::{SandboxConfig, WASMTIME_VERSION};

use crate::{terminal, worker};

/// The base bundle's name; its version is this program's.
const BASE_BUNDLE: &str = "promptflow";
/// Instances of one command; far below what the engine could hold, because each reserves gigabytes of address space.
const INSTANCES: u32 = 64;

/// Settings of one command.
#[derive(Debug)]
pub(crate) struct Settings {
    home: PathBuf,
}

impl Settings {
    /// `home` comes from `--home` or `FLOWCELL_HOME`; otherwise it is where the system keeps a user's data.
    pub(crate) fn new(home: Option<PathBuf>) -> Result<Self, String> {
        let home = home.or_else(|| {
            let data = std::env::var_os("XDG_DATA_HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute());
            let data = data
                .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")))?;
            Some(data.join("flowcell"))
        });
        match home {
            Some(home) => Ok(Self { home }),
            None => Err(
                "there is no home folder; set FLOWCELL_HOME to a folder for flowcell's data"
                    .to_owned(),
            ),
        }
    }

    /// The folder of the bundle store and all other data.
    pub(crate) fn home(&self) -> &std::path::Path {
        &self.home
    }

    pub(crate) fn host(&self) -> Result<Host, RunError> {
        Host::new(HostOptions {
            store: self.home.clone(),
            sandbox: SandboxConfig {
                instances: INSTANCES,
                ..SandboxConfig::default()
            },
            compiler: compiler(),
            progress: Arc::new(terminal::progress),
        })
    }

    /// How environments are made for whoever runs a flow of their own: indexes are those that pip's or uv's variables name,
    /// and may be anywhere.
    pub(crate) fn environment_options(&self) -> EnvironmentOptions {
        let variables: BTreeMap<String, String> = std::env::vars().collect();
        let first = |names: [&str; 3]| names.iter().find_map(|name| variables.get(*name)).cloned();
        let index_url = first(["FLOWCELL_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL"]);
        let extra = first([
            "FLOWCELL_EXTRA_INDEX_URL",
            "UV_INDEX",
            "PIP_EXTRA_INDEX_URL",
        ]);
        let extra_index_urls: Vec<String> = extra
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let named = index_url.iter().chain(&extra_index_urls);
        let mut trusted_hosts: Vec<String> = named.filter_map(|url| host_of(url)).collect();
        let trusted = first([
            "FLOWCELL_TRUSTED_HOST",
            "UV_INSECURE_HOST",
            "PIP_TRUSTED_HOST",
        ]);
        trusted_hosts.extend(
            trusted
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned),
        );
        let component_indexes = variables.get("FLOWCELL_COMPONENT_INDEX");
        let component_indexes = component_indexes.map(|text| text.split_whitespace());
        EnvironmentOptions {
            indexes: IndexSettings {
                index_url,
                extra_index_urls,
                trusted_hosts,
                private_addresses: true,
                component_indexes: component_indexes
                    .into_iter()
                    .flatten()
                    .map(str::to_owned)
                    .collect(),
                ..IndexSettings::default()
            },
            variables,
            ..EnvironmentOptions::default()
        }
    }

    pub(crate) fn store(&self) -> Result<Store, RunError> {
        Ok(Store::open(&self.home)?)
    }

    /// The bundle that flows run in unless they or the command name another.
    pub(crate) fn base_bundle() -> Reference {
        Reference {
            name: BASE_BUNDLE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    pub(crate) fn print_versions(&self) {
        let base = Self::base_bundle();
        let store = self.home.is_dir().then(|| self.store().ok()).flatten();
        let python = store
            .and_then(|store| store.manifest(&base).ok())
            .and_then(|manifest| manifest.python)
            .map_or_else(
                || "not built yet (flowcell bundle build)".to_owned(),
                |python| format!("{} ({base})", python.version),
            );
        terminal::line(&format!(
            "flowcell {}\nwasmtime {WASMTIME_VERSION}\nCPython {python}",
            env!("CARGO_PKG_VERSION")
        ));
    }
}

/// Host and port of an address.
fn host_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    Some(host.rsplit('@').next()?.to_owned())
}

/// Components in a flow's folder are compiled in a process of their own.
fn compiler() -> Compiler {
    let command = worker::compiler();
    Compiler::Process(CompileProcess::new(
        command.program,
        command.arguments,
        CompileLimits::default(),
    ))
}
