//! A component, checked, compiled and linked.

use std::path::Path;

use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::contract::runner::PythonRunnerPre;
use crate::contract::tool::ToolComponentPre;
use crate::engine::Sandbox;
use crate::error::ProgramError;
use crate::guest::Guest;

/// The contract's name, as messages give it.
const CONTRACT: &str = "flowcell:tool@0.1.0";
/// Largest component that is compiled, in bytes.
pub const MAX_COMPONENT: usize = 128 << 20;
/// Bytes of a page of linear memory.
const PAGE: u64 = 64 << 10;
/// What a component may import, up to the version.
const IMPORTS: [&str; 8] = [
    "flowcell:tool/host",
    "flowcell:tool/types",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// What a component is to flowcell; found by looking at its exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgramKind {
    /// It exports `flowcell:tool/tool`.
    Tool,
    /// It exports `flowcell:tool/runner`.
    PythonRunner,
}

/// A compiled component, ready to be instantiated in any number of sessions.
pub struct Program {
    pub(crate) linked: Linked,
    memory: u64,
}

#[derive(Clone)]
pub(crate) enum Linked {
    Tool(ToolComponentPre<Guest>),
    PythonRunner(PythonRunnerPre<Guest>),
}

impl std::fmt::Debug for Program {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Program")
            .field("kind", &self.kind())
            .finish_non_exhaustive()
    }
}

impl Program {
    /// What it is.
    pub fn kind(&self) -> ProgramKind {
        match self.linked {
            Linked::Tool(_) => ProgramKind::Tool,
            Linked::PythonRunner(_) => ProgramKind::PythonRunner,
        }
    }

    /// Linear memory that an instance has from its start, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }
}

impl Sandbox {
    /// Compiles a component to native code for this machine and this engine's settings.
    ///
    /// # Errors
    /// When the bytes are no component, or a damaged one. Whether it fits the contract is found by [`Sandbox::load`].
    pub fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, ProgramError> {
        if wasm.len() > MAX_COMPONENT {
            return Err(ProgramError::TooLarge {
                size: wasm.len(),
                limit: MAX_COMPONENT,
            });
        }
        if !wasm.starts_with(b"\0asm") {
            return Err(ProgramError::NotWasm);
        }
        if wasmparser::Parser::is_core_wasm(wasm) {
            return Err(ProgramError::CoreModule);
        }
        self.engine()
            .precompile_component(wasm)
            .map_err(|error| ProgramError::Invalid(one_line(&error)))
    }

    /// Loads what [`Sandbox::compile`] made, from a file that this host wrote.
    ///
    /// # Errors
    /// When the component does not fit the contract, or the file was made by another version or is unreadable.
    #[expect(unsafe_code, reason = "loading native code is unsafe by nature")]
    pub fn load(&self, compiled: &Path) -> Result<Program, ProgramError> {
        // SAFETY: the file must be unchanged output of `precompile_component`. It lies in the host's own cache, where
        // only this program writes, each file under a temporary name first and never changed after the rename.
        let component = unsafe { Component::deserialize_file(self.engine(), compiled) }
            .map_err(|error| ProgramError::Compiled(one_line(&error)))?;
        self.link(&component)
    }

    fn link(&self, component: &Component) -> Result<Program, ProgramError> {
        let contract = |error: wasmtime::Error| ProgramError::Contract {
            contract: CONTRACT,
            reason: one_line(&error),
        };
        let ty = component.component_type();
        let unknown: Vec<String> = ty
            .imports(self.engine())
            .map(|(name, _)| name.to_owned())
            .filter(|name| !IMPORTS.iter().any(|known| name.starts_with(known)))
            .collect();
        if !unknown.is_empty() {
            return Err(ProgramError::UnknownImports(unknown));
        }
        let exports = |interface: &str| {
            ty.exports(self.engine()).any(|(name, item)| {
                name.starts_with(interface)
                    && matches!(item.ty, ComponentItem::ComponentInstance(_))
            })
        };
        let pre = self.linker().instantiate_pre(component).map_err(contract)?;
        let linked = if exports("flowcell:tool/runner@") {
            Linked::PythonRunner(PythonRunnerPre::new(pre).map_err(contract)?)
        } else if exports("flowcell:tool/tool@") {
            Linked::Tool(ToolComponentPre::new(pre).map_err(contract)?)
        } else {
            return Err(ProgramError::Contract {
                contract: CONTRACT,
                reason: "it exports neither flowcell:tool/tool nor flowcell:tool/runner".to_owned(),
            });
        };
        // A component that imports modules, for which this is unknown, was refused above.
        let pages = component
            .resources_required()
            .and_then(|resources| resources.max_initial_memory_size);
        Ok(Program {
            linked,
            memory: pages.unwrap_or(0).saturating_mul(PAGE),
        })
    }
}

/// An error with its causes, on one line.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}
