//! A component, checked, compiled and linked.

use std::path::Path;
use std::sync::Arc;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre};

use crate::contract::runner::{PythonRunnerIndices, PythonRunnerPre};
use crate::contract::tool::ToolComponentPre;
use crate::engine::{CodeKind, Sandbox};
use crate::error::ProgramError;
use crate::guest::Guest;
use crate::image::{Base, GROW, Image, SETTLE};

/// The contract's name, as messages give it.
const CONTRACT: &str = "flowcell:tool@0.1.0";
/// Largest component that is compiled, in bytes.
pub const MAX_COMPONENT: usize = 128 << 20;
/// Bytes of a page of linear memory.
const PAGE: u64 = 64 << 10;
/// What a component may import, up to the version.
const IMPORTS: [&str; 10] = [
    "flowcell:tool/host",
    "flowcell:tool/tools",
    "flowcell:tool/types",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:http/",
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

pub(crate) enum Linked {
    Tool(ToolComponentPre<Guest>),
    PythonRunner(PythonRunnerPre<Guest>),
    Shell(Box<LinkedShell>),
}

/// A Python runner whose memory is an image.
pub(crate) struct LinkedShell {
    pub(crate) pre: InstancePre<Guest>,
    pub(crate) exports: PythonRunnerIndices,
    pub(crate) settle: ComponentExportIndex,
    pub(crate) grow: ComponentExportIndex,
    /// What instances start from when there is nothing better.
    pub(crate) base: Image,
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
            Linked::PythonRunner(_) | Linked::Shell(_) => ProgramKind::PythonRunner,
        }
    }

    /// The image that instances start from when they are given no other; `None` for a program that has its data in its
    /// code.
    pub fn base(&self) -> Option<&Image> {
        match &self.linked {
            Linked::Shell(shell) => Some(&shell.base),
            Linked::Tool(_) | Linked::PythonRunner(_) => None,
        }
    }

    /// Linear memory that an instance has from its start, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    pub(crate) fn code_kind(&self) -> CodeKind {
        match self.linked {
            Linked::Shell(_) => CodeKind::Shell,
            Linked::Tool(_) | Linked::PythonRunner(_) => CodeKind::Ordinary,
        }
    }
}

impl Sandbox {
    /// Compiles a component to native code for this machine and the settings of its kind's engine.
    ///
    /// # Errors
    /// When the bytes are no component, or a damaged one. Whether it fits the contract is found by [`Sandbox::load`].
    pub fn compile(&self, wasm: &[u8], kind: CodeKind) -> Result<Vec<u8>, ProgramError> {
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
        self.runtime(kind)
            .engine
            .precompile_component(wasm)
            .map_err(|error| ProgramError::Invalid(one_line(&error)))
    }

    /// Loads what [`Sandbox::compile`] made of an ordinary component, from a file that this host wrote.
    ///
    /// # Errors
    /// When the component does not fit the contract, or the file was made by another version or is unreadable.
    pub fn load(&self, compiled: &Path) -> Result<Program, ProgramError> {
        let component = self.deserialize(compiled, CodeKind::Ordinary)?;
        let pre = self.link(&component, CodeKind::Ordinary)?;
        let linked = if exports(&pre, "flowcell:tool/runner@") {
            Linked::PythonRunner(PythonRunnerPre::new(pre).map_err(contract)?)
        } else if exports(&pre, "flowcell:tool/tool@") {
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

    /// Loads what [`Sandbox::compile`] made of a [`Shell`](crate::Shell), from a file that this host wrote. `shell` is the
    /// digest of the shell, and `base` what its instances start from.
    ///
    /// # Errors
    /// As for [`Sandbox::load`]; also when it is no shell of a Python runner.
    pub fn load_shell(
        &self,
        compiled: &Path,
        shell: &str,
        base: Arc<Base>,
    ) -> Result<Program, ProgramError> {
        let component = self.deserialize(compiled, CodeKind::Shell)?;
        let pre = self.link(&component, CodeKind::Shell)?;
        let export = |name: &str| {
            let found = component.get_export_index(None, name);
            found.ok_or_else(|| ProgramError::Contract {
                contract: CONTRACT,
                reason: format!("it is no shell: it does not export {name}"),
            })
        };
        let base = Image::of_base(base, shell);
        Ok(Program {
            memory: base.memory(),
            linked: Linked::Shell(Box::new(LinkedShell {
                exports: PythonRunnerIndices::new(&pre).map_err(contract)?,
                settle: export(SETTLE)?,
                grow: export(GROW)?,
                base,
                pre,
            })),
        })
    }

    #[expect(unsafe_code, reason = "loading native code is unsafe by nature")]
    fn deserialize(&self, compiled: &Path, kind: CodeKind) -> Result<Component, ProgramError> {
        // SAFETY: the file must be unchanged output of `precompile_component`. It lies in the host's own cache, where
        // only this program writes, each file under a temporary name first and never changed after the rename.
        unsafe { Component::deserialize_file(&self.runtime(kind).engine, compiled) }
            .map_err(|error| ProgramError::Compiled(one_line(&error)))
    }

    /// Gives a component its imports, and no others.
    fn link(
        &self,
        component: &Component,
        kind: CodeKind,
    ) -> Result<InstancePre<Guest>, ProgramError> {
        let runtime = self.runtime(kind);
        let ty = component.component_type();
        let unknown: Vec<String> = ty
            .imports(&runtime.engine)
            .map(|(name, _)| name.to_owned())
            .filter(|name| !IMPORTS.iter().any(|known| name.starts_with(known)))
            .collect();
        if !unknown.is_empty() {
            return Err(ProgramError::UnknownImports(unknown));
        }
        runtime.linker.instantiate_pre(component).map_err(contract)
    }
}

/// Whether a component exports some version of an interface.
fn exports(pre: &InstancePre<Guest>, interface: &str) -> bool {
    let ty = pre.component().component_type();
    ty.exports(pre.engine()).any(|(name, item)| {
        name.starts_with(interface) && matches!(item.ty, ComponentItem::ComponentInstance(_))
    })
}

fn contract(error: wasmtime::Error) -> ProgramError {
    ProgramError::Contract {
        contract: CONTRACT,
        reason: one_line(&error),
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
