//! Turns a component into a *shell*: the same code without its data, so that one compilation serves any memory image.
//!
//! That is sound only if an instance's whole state is its linear memory. So the component must have no start function,
//! nothing that changes tables or drops segments, one memory, modules that are instantiated once and at the top, mutable
//! globals whose initial value is a constant, and no resources or tasks of its own, which the host would keep for it; any
//! other is refused, with the reason. Added is one module with two functions, which the host calls between calls:
//!
//! - `flowcell-settle` compares every mutable global with its initial value, then lets wasi-libc and the WASI adapter
//!   forget the handles that they hold; 0, or 1 more than the number of the first global that differs.
//! - `flowcell-grow` is `memory.grow`.

use std::collections::HashMap;

use wasm_encoder::reencode::{Reencode as _, RoundtripReencoder};
use wasm_encoder::{
    Alias, BlockType, CanonicalFunctionSection, CodeSection, ComponentAliasSection,
    ComponentExportKind, ComponentExportSection, ComponentSection as _, ComponentSectionId,
    ComponentTypeSection, ComponentValType, DataSection, EntityType, ExportKind, ExportSection,
    FunctionSection, ImportSection, InstanceSection, MemoryType, Module, ModuleArg, ModuleSection,
    PrimitiveValType, RawSection, TypeSection, ValType,
};
use wasmparser::{
    CanonicalFunction, ComponentAlias, ComponentExternalKind, ComponentOuterAliasKind,
    ComponentTypeRef, DataKind, ExternalKind, Instance, Operator, Parser, Payload, TypeRef,
    Validator, WasmFeatures,
};

/// Exports of a shell.
pub(crate) const SETTLE: &str = "flowcell-settle";
pub(crate) const GROW: &str = "flowcell-grow";
/// Core functions that make wasi-libc and the adapter from WASI 0.1 forget their handles.
const RESETS: [&str; 2] = ["__wasilibc_reset_preopens", "reset_adapter_state"];
/// Most mutable globals of a component; the Python runner has 493.
const MAX_GLOBALS: usize = 10_000;
/// Largest initial memory, in bytes.
pub(super) const MAX_MEMORY: u64 = 256 << 20;
/// Bytes of a page of linear memory.
pub(super) const WASM_PAGE: u64 = 64 << 10;

/// A component without its data, and the data.
#[derive(Debug)]
pub struct Shell {
    /// The component, to be compiled once.
    pub component: Vec<u8>,
    /// What its linear memory holds before anything runs. Whole pages of 64 KiB.
    pub memory: Vec<u8>,
}

/// Why a component cannot be a shell; it runs in the ordinary way.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// It is damaged.
    #[error("it is damaged: {0}")]
    Damaged(#[from] wasmparser::BinaryReaderError),
    /// It has something that memory images do not hold.
    #[error("{0}")]
    Unsuitable(String),
}

/// A section of the file; that it ends within is not known before the file is read to its end.
pub(super) fn part(wasm: &[u8], range: std::ops::Range<usize>) -> Result<&[u8], ShellError> {
    match wasm.get(range) {
        Some(part) => Ok(part),
        None => unsuitable("it ends early"),
    }
}

pub(super) fn unsuitable<T>(why: impl Into<String>) -> Result<T, ShellError> {
    Err(ShellError::Unsuitable(why.into()))
}

/// A mutable global: which of its module's, under which export.
struct Global {
    module: u32,
    export: String,
    initial: Constant,
}

#[derive(Clone, Copy)]
pub(super) enum Constant {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
}

#[derive(Default)]
struct Survey {
    globals: Vec<Global>,
    /// The module that has the memory, and that memory's initial size in pages.
    memory: Option<(u32, u64)>,
    /// The name under which that module exports it.
    memory_export: Option<String>,
    /// The module that has a reset function.
    resets: HashMap<&'static str, u32>,
    data: Vec<u8>,
}

impl Shell {
    /// Makes the shell of a component.
    ///
    /// # Errors
    /// When the component's state is more than its memory, or it is damaged.
    pub fn of(wasm: &[u8]) -> Result<Self, ShellError> {
        let mut survey = Survey::default();
        let mut component = wasm_encoder::Component::new();
        // Core instances by the module that they instantiate.
        let mut instances: HashMap<u32, u32> = HashMap::new();
        let (mut modules, mut core_instances) = (0_u32, 0_u32);
        let mut depth = 0_u32;
        let mut payloads = Parser::new(0).parse_all(wasm);
        while let Some(payload) = payloads.next() {
            let payload = payload?;
            match &payload {
                Payload::ModuleSection {
                    unchecked_range, ..
                } if depth == 0 => {
                    let module = survey.module(modules, part(wasm, unchecked_range.clone())?)?;
                    component.section(&RawSection {
                        id: ComponentSectionId::CoreModule as u8,
                        data: &module,
                    });
                    modules += 1;
                    for inner in payloads.by_ref() {
                        if let Payload::End(_) = inner? {
                            break;
                        }
                    }
                    continue;
                }
                Payload::ModuleSection { .. } => {
                    return unsuitable("a component within it has a module of its own");
                }
                Payload::ComponentSection {
                    unchecked_range, ..
                } => {
                    if depth == 0 {
                        component.section(&RawSection {
                            id: ComponentSectionId::Component as u8,
                            data: part(wasm, unchecked_range.clone())?,
                        });
                    }
                    depth += 1;
                    continue;
                }
                Payload::End(_) if depth == 0 => break,
                Payload::End(_) => {
                    depth -= 1;
                    continue;
                }
                Payload::InstanceSection(section) if depth == 0 => {
                    for instance in section.clone() {
                        if let Instance::Instantiate { module_index, .. } = instance?
                            && instances.insert(module_index, core_instances).is_some()
                        {
                            return unsuitable(format!(
                                "it instantiates module {module_index} twice"
                            ));
                        }
                        core_instances += 1;
                    }
                }
                Payload::InstanceSection(_) => {
                    return unsuitable("a component within it has core instances of its own");
                }
                Payload::ComponentAliasSection(section) => {
                    for alias in section.clone() {
                        if let ComponentAlias::Outer {
                            kind: ComponentOuterAliasKind::CoreModule,
                            ..
                        }
                        | ComponentAlias::InstanceExport {
                            kind: ComponentExternalKind::Module,
                            ..
                        } = alias?
                        {
                            return unsuitable("it takes a module from outside");
                        }
                    }
                }
                Payload::ComponentImportSection(section) => {
                    for import in section.clone() {
                        if let ComponentTypeRef::Module(_) = import?.ty {
                            return unsuitable("it takes a module from outside");
                        }
                    }
                }
                Payload::ComponentCanonicalSection(section) => {
                    for function in section.clone() {
                        match function? {
                            CanonicalFunction::Lift { .. }
                            | CanonicalFunction::Lower { .. }
                            | CanonicalFunction::ResourceDrop { .. } => {}
                            _ => {
                                return unsuitable("it has resources, tasks or streams of its own");
                            }
                        }
                    }
                }
                Payload::ComponentStartSection { .. } => {
                    return unsuitable("it has a start function");
                }
                _ => {}
            }
            if depth == 0
                && let Some((id, range)) = payload.as_section()
            {
                component.section(&RawSection {
                    id,
                    data: part(wasm, range)?,
                });
            }
        }
        survey.finish(component.finish(), modules, &instances)
    }
}

impl Survey {
    /// Looks through a module, and gives it without its data and with its mutable globals exported.
    fn module(&mut self, index: u32, wasm: &[u8]) -> Result<Vec<u8>, ShellError> {
        let mut module = Module::new();
        let mut imported_globals = 0_u32;
        let mut exports: Vec<(u32, String)> = Vec::new();
        let mut has_exports = false;
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload?;
            match &payload {
                Payload::ImportSection(section) => {
                    for import in section.clone().into_imports() {
                        if let TypeRef::Global(_) = import?.ty {
                            imported_globals += 1;
                        }
                    }
                }
                Payload::GlobalSection(section) => {
                    for (number, global) in (0_u32..).zip(section.clone()) {
                        let global = global?;
                        if !global.ty.mutable {
                            continue;
                        }
                        let export = format!("flowcell-global-{number}");
                        exports.push((imported_globals + number, export.clone()));
                        self.globals.push(Global {
                            module: index,
                            export,
                            initial: constant(&global.init_expr)?,
                        });
                        if self.globals.len() > MAX_GLOBALS {
                            return unsuitable(format!(
                                "it has more than {MAX_GLOBALS} mutable globals"
                            ));
                        }
                    }
                }
                Payload::MemorySection(section) => {
                    for memory in section.clone() {
                        let memory = memory?;
                        let is_plain = !memory.memory64
                            && !memory.shared
                            && memory.page_size_log2.is_none_or(|log2| log2 == 16);
                        if !is_plain || memory.initial.saturating_mul(WASM_PAGE) > MAX_MEMORY {
                            return unsuitable("its memory is of a special kind, or too large");
                        }
                        if self.memory.replace((index, memory.initial)).is_some() {
                            return unsuitable("it has several memories");
                        }
                    }
                }
                Payload::StartSection { .. } => {
                    return unsuitable(format!("module {index} has a start function"));
                }
                Payload::CodeSectionEntry(body) => {
                    let mut operators = body.get_operators_reader()?;
                    while !operators.eof() {
                        if let Some(what) = forbidden(&operators.read()?) {
                            return unsuitable(format!("module {index} uses {what}"));
                        }
                    }
                    // Copied with the whole section.
                    continue;
                }
                Payload::ExportSection(section) => {
                    has_exports = true;
                    let mut kept = ExportSection::new();
                    for export in section.clone() {
                        let export = export?;
                        if export.kind == ExternalKind::Memory
                            && self.memory.is_some_and(|(owner, _)| owner == index)
                        {
                            self.memory_export = Some(export.name.to_owned());
                        }
                        if export.kind == ExternalKind::Func
                            && let Some(name) = RESETS.iter().find(|name| **name == export.name)
                        {
                            self.resets.insert(name, index);
                        }
                        RoundtripReencoder
                            .parse_export(&mut kept, export)
                            .map_err(|error| ShellError::Unsuitable(error.to_string()))?;
                    }
                    for (global, name) in &exports {
                        kept.export(name, ExportKind::Global, *global);
                    }
                    module.section(&kept);
                    continue;
                }
                Payload::DataSection(section) => {
                    let mut emptied = DataSection::new();
                    for data in section.clone() {
                        let data = data?;
                        let DataKind::Active {
                            memory_index: 0,
                            offset_expr,
                        } = &data.kind
                        else {
                            return unsuitable(format!("module {index} has a passive segment"));
                        };
                        self.place(index, offset_expr, data.data)?;
                        // It stays as an empty one, so that the others keep their numbers.
                        emptied.active(0, &wasm_encoder::ConstExpr::i32_const(0), []);
                    }
                    module.section(&emptied);
                    continue;
                }
                _ => {}
            }
            if let Some((id, range)) = payload.as_section() {
                module.section(&RawSection {
                    id,
                    data: part(wasm, range)?,
                });
            }
        }
        if !has_exports && !exports.is_empty() {
            return unsuitable(format!("module {index} has mutable globals and no exports"));
        }
        Ok(module.finish())
    }

    /// Puts a segment where it belongs in the initial memory.
    fn place(
        &mut self,
        module: u32,
        offset: &wasmparser::ConstExpr<'_>,
        data: &[u8],
    ) -> Result<(), ShellError> {
        let Some((owner, pages)) = self.memory.filter(|(owner, _)| *owner == module) else {
            return unsuitable(format!("module {module} has data for another's memory"));
        };
        let Constant::I32(offset) = constant(offset)? else {
            return unsuitable(format!("module {owner} has a segment without a place"));
        };
        let start = offset.cast_unsigned() as usize;
        let size = usize::try_from(pages * WASM_PAGE).unwrap_or(usize::MAX);
        self.data.resize(size, 0);
        match start.checked_add(data.len()).filter(|end| *end <= size) {
            Some(end) => self.data[start..end].copy_from_slice(data),
            None => return unsuitable(format!("module {owner} has a segment beyond its memory")),
        }
        Ok(())
    }

    /// Appends the accessor module, its instance, and the functions that the host calls.
    fn finish(
        mut self,
        mut component: Vec<u8>,
        modules: u32,
        instances: &HashMap<u32, u32>,
    ) -> Result<Shell, ShellError> {
        let Some((owner, pages)) = self.memory else {
            return unsuitable("it has no memory");
        };
        let missing: Vec<&str> = RESETS
            .into_iter()
            .filter(|name| !self.resets.contains_key(name))
            .collect();
        if !missing.is_empty() {
            return unsuitable(format!("it does not export {}", missing.join(", ")));
        }
        let instance = |module: u32| match instances.get(&module) {
            Some(instance) => Ok(*instance),
            None => unsuitable(format!("module {module} is not instantiated")),
        };
        let types = validate(&component)?;
        let types = types.as_ref();
        let accessors = self.accessors(owner, &instance)?;
        let (first_type, first_function) = (
            types.component_type_count(),
            types.component_function_count(),
        );
        let (core_functions, core_instances) =
            (types.function_count(), types.core_instance_count());

        ModuleSection(&accessors.module).append_to_component(&mut component);
        let mut section = InstanceSection::new();
        let arguments = accessors
            .instances
            .iter()
            .map(|(name, instance)| (name.as_str(), ModuleArg::Instance(*instance)));
        section.instantiate(modules, arguments.collect::<Vec<_>>());
        section.append_to_component(&mut component);
        let mut aliases = ComponentAliasSection::new();
        for name in [SETTLE, GROW] {
            aliases.alias(Alias::CoreInstanceExport {
                instance: core_instances,
                kind: ExportKind::Func,
                name,
            });
        }
        aliases.append_to_component(&mut component);
        let number = ComponentValType::Primitive(PrimitiveValType::S32);
        let mut signatures = ComponentTypeSection::new();
        signatures
            .function()
            .params(std::iter::empty::<(&str, ComponentValType)>())
            .result(Some(number));
        signatures
            .function()
            .params([("pages", number)])
            .result(Some(number));
        signatures.append_to_component(&mut component);
        let mut function = first_function;
        for (offset, name) in [(0, SETTLE), (1, GROW)] {
            let mut lifted = CanonicalFunctionSection::new();
            lifted.lift(core_functions + offset, first_type + offset, []);
            lifted.append_to_component(&mut component);
            let mut exports = ComponentExportSection::new();
            exports.export(name, ComponentExportKind::Func, function, None);
            exports.append_to_component(&mut component);
            // An export is one more function to count.
            function += 2;
        }
        validate(&component)?;
        self.data
            .resize(usize::try_from(pages * WASM_PAGE).unwrap_or(0), 0);
        Ok(Shell {
            component,
            memory: self.data,
        })
    }

    fn accessors(
        &self,
        owner: u32,
        instance: &impl Fn(u32) -> Result<u32, ShellError>,
    ) -> Result<Accessors, ShellError> {
        let mut types = TypeSection::new();
        types.ty().function([], []);
        types.ty().function([], [ValType::I32]);
        types.ty().function([ValType::I32], [ValType::I32]);
        let mut imports = ImportSection::new();
        let mut used: Vec<(String, u32)> = Vec::new();
        let mut from = |module: u32| -> Result<String, ShellError> {
            let instance = instance(module)?;
            let name = instance.to_string();
            if used.iter().all(|(_, other)| *other != instance) {
                used.push((name.clone(), instance));
            }
            Ok(name)
        };
        let memory = MemoryType {
            minimum: 0,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        };
        let Some(name) = &self.memory_export else {
            return unsuitable("its memory is not exported");
        };
        imports.import(&from(owner)?, name, EntityType::Memory(memory));
        for name in RESETS {
            let module = self.resets.get(name).copied().unwrap_or(owner);
            imports.import(&from(module)?, name, EntityType::Function(0));
        }
        for global in &self.globals {
            let ty = wasm_encoder::GlobalType {
                val_type: global.initial.ty(),
                mutable: true,
                shared: false,
            };
            imports.import(
                &from(global.module)?,
                &global.export,
                EntityType::Global(ty),
            );
        }
        let mut settle = wasm_encoder::Function::new([]);
        let mut code = settle.instructions();
        for (number, global) in (0_u32..).zip(&self.globals) {
            code.global_get(number);
            // As bits, so that a NaN is equal to itself.
            match global.initial {
                Constant::I32(value) => code.i32_const(value).i32_ne(),
                Constant::I64(value) => code.i64_const(value).i64_ne(),
                Constant::F32(bits) => code
                    .i32_reinterpret_f32()
                    .i32_const(bits.cast_signed())
                    .i32_ne(),
                Constant::F64(bits) => code
                    .i64_reinterpret_f64()
                    .i64_const(bits.cast_signed())
                    .i64_ne(),
            };
            code.if_(BlockType::Empty);
            code.i32_const((number + 1).cast_signed()).return_().end();
        }
        for number in (0_u32..).take(RESETS.len()) {
            code.call(number);
        }
        code.i32_const(0).end();
        let mut grow = wasm_encoder::Function::new([]);
        grow.instructions().local_get(0).memory_grow(0).end();

        let mut functions = FunctionSection::new();
        functions.function(1).function(2);
        let first = u32::try_from(RESETS.len()).unwrap_or(0);
        let mut exports = ExportSection::new();
        exports.export(SETTLE, ExportKind::Func, first);
        exports.export(GROW, ExportKind::Func, first + 1);
        let mut code = CodeSection::new();
        code.function(&settle).function(&grow);
        let mut module = Module::new();
        module
            .section(&types)
            .section(&imports)
            .section(&functions)
            .section(&exports)
            .section(&code);
        Ok(Accessors {
            module,
            instances: used,
        })
    }
}

struct Accessors {
    module: Module,
    instances: Vec<(String, u32)>,
}

impl Constant {
    fn ty(self) -> ValType {
        match self {
            Self::I32(_) => ValType::I32,
            Self::I64(_) => ValType::I64,
            Self::F32(_) => ValType::F32,
            Self::F64(_) => ValType::F64,
        }
    }
}

pub(super) fn constant(expression: &wasmparser::ConstExpr<'_>) -> Result<Constant, ShellError> {
    let mut operators = expression.get_operators_reader();
    let constant = match operators.read()? {
        Operator::I32Const { value } => Constant::I32(value),
        Operator::I64Const { value } => Constant::I64(value),
        Operator::F32Const { value } => Constant::F32(value.bits()),
        Operator::F64Const { value } => Constant::F64(value.bits()),
        _ => return unsuitable("a mutable global or a segment does not begin with a constant"),
    };
    match operators.read()? {
        Operator::End => Ok(constant),
        _ => unsuitable("a mutable global or a segment does not begin with a constant"),
    }
}

/// What would change state that is not in memory.
fn forbidden(operator: &Operator<'_>) -> Option<&'static str> {
    Some(match operator {
        Operator::TableSet { .. } => "table.set",
        Operator::TableGrow { .. } => "table.grow",
        Operator::TableInit { .. } => "table.init",
        Operator::TableCopy { .. } => "table.copy",
        Operator::TableFill { .. } => "table.fill",
        Operator::ElemDrop { .. } => "elem.drop",
        Operator::MemoryInit { .. } => "memory.init",
        Operator::DataDrop { .. } => "data.drop",
        _ => return None,
    })
}

fn validate(component: &[u8]) -> Result<wasmparser::types::Types, ShellError> {
    Ok(Validator::new_with_features(WasmFeatures::all()).validate_all(component)?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests;
