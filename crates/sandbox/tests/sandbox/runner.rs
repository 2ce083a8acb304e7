//! A runner written by hand: its memory can be read and written byte by byte, and misused. The Python runner does the same
//! with more between it and the contract.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use flowcell_sandbox::{
    Base, CodeKind, Environment, Fault, Hibernation, Image, ImageKey, Instance, Isolation, Limits,
    Owner, Pool, PoolOptions, Program, SandboxError, Shell, Slice,
};

use crate::{SANDBOX, in_world, limits};

pub(crate) const WASM_PAGE: u64 = 64 << 10;
/// Where tests keep what they want to see again.
pub(crate) const KEPT: u64 = 3000;
/// Set by tests to make `suspend` and `resume` do something else than succeed.
pub(crate) const SUSPEND: u64 = 2000;
pub(crate) const RESUME: u64 = 2001;
/// How often `resume` was called, and with which `copy` at last (1 more than that).
pub(crate) const RESUMED: u64 = 2008;
/// What data is in it from the start.
pub(crate) const DATA: u64 = 128;

/// `suspend` and `resume` read what is to be done from memory, `equals` from its first argument.
const RUNNER: &str = r#"
    (import "flowcell:tool/tools@0.1.0" "call" (func $tool (param i32 i32 i32 i32 i32)))
    (memory (export "memory") 2)
    (global $changing (mut i32) (i32.const 0))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (i32.load (i32.const 8)) (i32.const 15)) (i32.const -16)))
        (i32.store (i32.const 8) (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
    (func (export "__wasilibc_reset_preopens"))
    (func (export "reset_adapter_state"))
    (func $free (i32.store (i32.const 8) (i32.const 4096)))
    ;; result<outcome, tool-error>: the JSON text at 16
    (func $fine (result i32)
        (call $free)
        (i64.store (i32.const 1040) (i64.const 0)) (i64.store (i32.const 1048) (i64.const 0))
        (i32.store (i32.const 1056) (i32.const 16)) (i32.store (i32.const 1060) (i32.const 6))
        (i32.const 1040))
    (func $text (param i64) (result i32)
        (i32.store (i32.const 1040) (i32.const 0))
        (i32.store (i32.const 1044) (i32.const 16)) (i32.store (i32.const 1048) (i32.const 6))
        (i32.const 1040))
    (func $deep (param i32) (result i32) (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
    (func $true (param i32) (result i32)
        (call $free)
        (i32.store (i32.const 1040) (i32.const 0)) (i32.store (i32.const 1044) (local.get 0)) (i32.const 1040))
    (func $zero_from (param $at i32) (result i32)
        (loop $on
            (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (return (i32.const 0))))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $on (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))
        (i32.const 1))
    (func (export "flowcell:tool/runner@0.1.0#load") (param i32 i32 i32 i32) (result i32)
        (call $free)
        (i32.store (i32.const 1040) (i32.const 1)) (i32.store (i32.const 1044) (i32.const 1)) (i32.const 1040))
    (func (export "flowcell:tool/runner@0.1.0#call") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (call $fine))
    (func (export "flowcell:tool/runner@0.1.0#render") (param i32 i32 i32 i32) (result i32) (call $fine))
    (func (export "flowcell:tool/runner@0.1.0#property") (param i64 i32 i32) (result i32) (call $fine))
    (func (export "flowcell:tool/runner@0.1.0#members") (param i64) (result i32) (call $fine))
    (func (export "flowcell:tool/runner@0.1.0#stream") (param i64) (result i32) (call $fine))
    (func (export "flowcell:tool/runner@0.1.0#dump") (param i64) (result i32) (call $text (local.get 0)))
    (func (export "flowcell:tool/runner@0.1.0#repr") (param i64) (result i32) (call $text (local.get 0)))
    (func (export "flowcell:tool/runner@0.1.0#forget") (call $free))
    ;; The eight bytes at the "object".
    (func (export "flowcell:tool/runner@0.1.0#pack") (param i64) (result i32)
        (i32.store (i32.const 1040) (i32.const 0))
        (i32.store (i32.const 1044) (i32.wrap_i64 (local.get 0))) (i32.store (i32.const 1048) (i32.const 8))
        (i32.const 1040))
    ;; Puts all but the first eight bytes to where those say.
    (func (export "flowcell:tool/runner@0.1.0#unpack") (param i32 i32) (result i32)
        (memory.copy (i32.load (local.get 0)) (i32.add (local.get 0) (i32.const 8)) (i32.sub (local.get 1) (i32.const 8)))
        (call $free)
        (i32.store (i32.const 1040) (i32.const 0)) (i64.store (i32.const 1048) (i64.const 1)) (i32.const 1040))
    (func (export "flowcell:tool/runner@0.1.0#equals") (param $what i64) (param i32 i32) (result i32)
        (local $do i32) (local $at i32)
        (local.set $do (i32.and (i32.wrap_i64 (local.get $what)) (i32.const 255)))
        (local.set $at (i32.wrap_i64 (i64.shr_u (local.get $what) (i64.const 8))))
        (if (i32.eq (local.get $do) (i32.const 1)) (then (loop $l (br $l))))
        (if (i32.eq (local.get $do) (i32.const 2)) (then (drop (call $deep (i32.const 0)))))
        (if (i32.eq (local.get $do) (i32.const 3)) (then (return (call $true (i32.ne (memory.grow (local.get $at)) (i32.const -1))))))
        (if (i32.eq (local.get $do) (i32.const 4)) (then (drop (i32.load8_u (local.get $at)))))
        (if (i32.eq (local.get $do) (i32.const 5)) (then (drop (i32.load8_u offset=4294967295 (local.get $at)))))
        (if (i32.eq (local.get $do) (i32.const 6)) (then (i32.store8 (local.get $at) (i32.const 1))))
        (if (i32.eq (local.get $do) (i32.const 7)) (then (i64.store (local.get $at) (i64.const -1))))
        (if (i32.eq (local.get $do) (i32.const 8)) (then (global.set $changing (local.get $at))))
        (if (i32.eq (local.get $do) (i32.const 9)) (then (unreachable)))
        (if (i32.eq (local.get $do) (i32.const 10)) (then (drop (i64.load offset=4294967288 (local.get $at)))))
        (if (i32.eq (local.get $do) (i32.const 11)) (then (return (call $true (call $zero_from (local.get $at))))))
        (if (i32.eq (local.get $do) (i32.const 12)) (then (memory.fill (local.get $at) (i32.const 7) (i32.const 65536))))
        ;; Calls the tool "t" so often; whether the last call had an answer.
        (if (i32.eq (local.get $do) (i32.const 13)) (then
            (loop $l
                (call $free)
                (call $tool (i32.const 32) (i32.const 1) (i32.const 33) (i32.const 2) (i32.const 1200))
                (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                (br_if $l (local.get $at)))
            (return (call $true (i32.eqz (i32.load8_u (i32.const 1200)))))))
        (call $true (i32.const 1)))
    (func (export "flowcell:tool/runner@0.1.0#suspend") (param i32) (result i32)
        (local $n i32)
        (if (i32.eq (i32.load8_u (i32.const 2000)) (i32.const 1)) (then (unreachable)))
        (if (i32.eq (i32.load8_u (i32.const 2000)) (i32.const 2)) (then (loop $l (br $l))))
        ;; Long enough for a tick or two.
        (if (i32.eq (i32.load8_u (i32.const 2000)) (i32.const 4)) (then
            (local.set $n (i32.const 50000000))
            (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
        ;; Memory must not grow meanwhile.
        (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))
        (i32.store (i32.const 1040) (i32.eq (i32.load8_u (i32.const 2000)) (i32.const 3)))
        (i32.store (i32.const 1044) (i32.const 1100)) (i32.store (i32.const 1048) (i32.const 1))
        (i32.store (i32.const 1100) (i32.const 17)) (i32.store (i32.const 1104) (i32.const 4))
        (i32.const 1040))
    (func (export "flowcell:tool/runner@0.1.0#resume") (param i32)
        (if (i32.eq (i32.load8_u (i32.const 2001)) (i32.const 1)) (then (unreachable)))
        (if (i32.eq (i32.load8_u (i32.const 2001)) (i32.const 2)) (then (loop $l (br $l))))
        (i32.store8 (i32.const 2008) (i32.add (i32.load8_u (i32.const 2008)) (i32.const 1)))
        (i32.store8 (i32.const 2009) (i32.add (local.get 0) (i32.const 1))))
    (data (i32.const 8) "\00\10\00\00")
    (data (i32.const 16) "\"fine\"")
    (data (i32.const 32) "t{}")
    (data (i32.const 128) "the data")
"#;

/// What `equals` is to do; the number is an address, or how much.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Do {
    Nothing,
    Loop,
    Recurse,
    Grow(u32),
    Load(u32),
    LoadBeyond(u32),
    Store(u32),
    Store8(u32),
    ChangeGlobal(u32),
    Trap,
    Load8Beyond(u32),
    IsZeroFrom(u32),
    Fill(u32),
    CallTool(u32),
}

impl Do {
    pub(crate) fn code(self) -> u64 {
        let (what, at) = match self {
            Self::Nothing => (0, 0),
            Self::Loop => (1, 0),
            Self::Recurse => (2, 0),
            Self::Grow(pages) => (3, pages),
            Self::Load(at) => (4, at),
            Self::LoadBeyond(at) => (5, at),
            Self::Store(at) => (6, at),
            Self::Store8(at) => (7, at),
            Self::ChangeGlobal(to) => (8, to),
            Self::Trap => (9, 0),
            Self::Load8Beyond(at) => (10, at),
            Self::IsZeroFrom(at) => (11, at),
            Self::Fill(at) => (12, at),
            Self::CallTool(times) => (13, times),
        };
        what | u64::from(at) << 8
    }
}

pub(crate) async fn act(instance: &mut Instance, what: Do) -> Result<bool, Fault> {
    let call = instance.equals(what.code(), String::new()).await;
    call.result.map(Result::unwrap)
}

pub(crate) async fn write(instance: &mut Instance, at: u64, bytes: &[u8]) {
    let mut given = at.to_le_bytes().to_vec();
    given.extend(bytes);
    instance.unpack(&given).await.result.unwrap().unwrap();
}

pub(crate) async fn read(instance: &mut Instance, at: u64) -> [u8; 8] {
    let bytes = instance.pack(at).await.result.unwrap().unwrap();
    bytes.try_into().unwrap()
}

pub(crate) static SHELL: LazyLock<Shell> =
    LazyLock::new(|| Shell::of(&in_world("python-runner", RUNNER, "")).unwrap());

/// The shell over its own data, as if it had been warmed up.
pub(crate) static PROGRAM: LazyLock<Arc<Program>> = LazyLock::new(|| over("base", &SHELL.memory));

pub(crate) fn over(digest: &str, memory: &[u8]) -> Arc<Program> {
    let folder = tempfile::tempdir().unwrap();
    let code = SANDBOX.compile(&SHELL.component, CodeKind::Shell).unwrap();
    let compiled = folder.path().join("shell");
    std::fs::write(&compiled, code).unwrap();
    let base = Base::new(folder.path(), memory, digest).unwrap();
    Arc::new(SANDBOX.load_shell(&compiled, "shell", base).unwrap())
}

pub(crate) static KEY: LazyLock<Arc<ImageKey>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    Arc::new(ImageKey::open(&folder.path().join("key")).unwrap())
});

pub(crate) fn owner(session: &str) -> Owner {
    Owner {
        workspace: "workspace".to_owned(),
        session: (!session.is_empty()).then(|| session.to_owned()),
    }
}

pub(crate) fn environment(session: &str, limits: Limits, slice: Arc<Slice>) -> Environment {
    Environment::new(Vec::new(), Vec::new(), limits)
        .with_owner(owner(session))
        .with_slice(slice)
}

pub(crate) async fn start_with(
    image: Option<&Image>,
    limits: Limits,
) -> Result<Instance, SandboxError> {
    let environment = environment("one", limits, Slice::unlimited());
    Instance::start(&SANDBOX, &PROGRAM, &environment, image).await
}

pub(crate) async fn start(image: Option<&Image>) -> Instance {
    start_with(image, limits()).await.unwrap()
}

pub(crate) fn hibernation(folder: &Path, session: &str) -> Hibernation {
    Hibernation {
        folder: folder.to_owned(),
        key: Arc::clone(&KEY),
        owner: owner(session),
        made_from: "flow".to_owned(),
        limit: 16 << 20,
        within: None,
    }
}

/// A pool whose idle instances are stored in a folder.
pub(crate) fn stored_pool(hibernation: Hibernation, slice: &Arc<Slice>) -> Arc<Pool> {
    pool_from(hibernation, slice, None, Isolation::Session)
}

pub(crate) fn pool_from(
    hibernation: Hibernation,
    slice: &Arc<Slice>,
    image: Option<Image>,
    isolation: Isolation,
) -> Arc<Pool> {
    let session = hibernation.owner.session.clone().unwrap_or_default();
    let options = PoolOptions {
        program: Arc::clone(&PROGRAM),
        environment: Arc::new(environment(&session, limits(), Arc::clone(slice))),
        isolation,
        instances: 4,
        image,
        hibernation: Some(hibernation),
    };
    Pool::new(Arc::clone(&SANDBOX), options)
}
