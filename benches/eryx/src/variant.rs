//! The ways to bring up Python that are compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use eryx::PythonExecutor;
use eryx::embedded_stdlib::EmbeddedStdlib;
use eryx::preinit::{PreInitOptions, pre_initialize_with_options};
use eryx_runtime::linker::link_with_extensions;

use crate::Result;

const SETUP: &str = r#"
TABLE = {f"key-{i}": {"n": i, "text": "value %d" % i} for i in range(2000)}
calls = 0
def call():
    global calls
    calls += 1
    entry = TABLE[f"key-{calls % 2000}"]
    return f"call {calls}: {entry['text']} of {entry['n']}"
"#;
const JINJA: &str = r#"
import jinja2
TEMPLATE = jinja2.Environment().from_string("call {{ n }}: {{ entry.text }} of {{ entry.n }}")
def call():
    global calls
    calls += 1
    return TEMPLATE.render(n=calls, entry=TABLE[f"key-{calls % 2000}"])
"#;

/// What is in the component's memory before a session starts, and what the session runs first.
#[derive(Default)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    /// Modules and code to pre-initialise; none at all starts the interpreter in every session.
    baked: Option<(Vec<&'static str>, String)>,
    /// What a new session runs before its first call.
    pub(crate) prepare: &'static str,
    /// A folder of pure Python packages.
    site: Option<PathBuf>,
}

pub(crate) fn all() -> Vec<Variant> {
    let none = Variant {
        name: "no preinit",
        prepare: SETUP,
        ..Variant::default()
    };
    let interpreter = Variant {
        name: "preinit",
        baked: Some((Vec::new(), String::new())),
        prepare: SETUP,
        ..Variant::default()
    };
    let state = Variant {
        name: "preinit with TABLE and dill",
        baked: Some((vec!["dill"], SETUP.to_owned())),
        ..Variant::default()
    };
    let jinja = std::env::var_os("ERYX_SITE_PACKAGES").map(|site| Variant {
        name: "preinit with TABLE, dill and jinja2",
        baked: Some((vec!["dill", "jinja2"], format!("{SETUP}{JINJA}"))),
        site: Some(site.into()),
        ..Variant::default()
    });
    [none, interpreter, state]
        .into_iter()
        .chain(jinja)
        .collect()
}

impl Variant {
    /// Links, pre-initialises and compiles the component.
    pub(crate) async fn compile(&self, to: &Path) -> Result<()> {
        let wasm = if let Some((imports, code)) = &self.baked {
            let mut options = PreInitOptions::new(EmbeddedStdlib::get()?.path())
                .imports(imports.iter().copied())
                .setup_code(code);
            if let Some(site) = &self.site {
                options = options.site_packages(site);
            }
            pre_initialize_with_options(options).await?
        } else {
            link_with_extensions(&[])?
        };
        Ok(std::fs::write(to, PythonExecutor::precompile(&wasm)?)?)
    }

    pub(crate) fn load(&self, file: &Path) -> Result<Arc<PythonExecutor>> {
        // SAFETY: `compile` wrote the file, in this run.
        let executor = unsafe { PythonExecutor::from_precompiled_file(file)? }
            .with_python_stdlib(EmbeddedStdlib::get()?.path());
        Ok(Arc::new(match &self.site {
            Some(site) => executor.with_site_packages(site),
            None => executor,
        }))
    }
}
