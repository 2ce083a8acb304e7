//! The sandbox with components written by hand: nothing is between them and the contract.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use flowcell_sandbox::{
    CodeKind, Environment, Fault, Isolation, Limits, Pool, PoolOptions, Program, ProgramError,
    Sandbox, SandboxConfig,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

mod attacks;
mod called;
mod files;
mod hibernating;
mod images;
mod output;
mod runner;
mod slices;

/// One engine for all tests, as a host has one for all sessions.
pub(crate) static SANDBOX: LazyLock<Arc<Sandbox>> = LazyLock::new(|| {
    let config = SandboxConfig {
        instances: 128,
        ..SandboxConfig::default()
    };
    Arc::new(Sandbox::new(&config).unwrap())
});

/// What a well-behaved tool has around its one interesting function: memory with an allocator that never frees,
/// `describe` without tools, and `$answer`, which gives the bytes at `ptr` as the value.
pub(crate) const FRAME: &str = r#"
    (import "flowcell:tool/host@0.1.0" "metric" (func $metric (param i32 i32 i32 i32)))
    (import "flowcell:tool/host@0.1.0" "log" (func $log (param i32 i32 i32)))
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 4096))
    (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
        (global.set $next (i32.add (local.get $at) (local.get 3)))
        (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
            (then (drop (memory.grow (i32.add (i32.shr_u (local.get 3) (i32.const 16)) (i32.const 1))))))
        (local.get $at))
    (func (export "flowcell:tool/tool@0.1.0#describe") (result i32)
        (i32.store (i32.const 1024) (i32.const 0)) (i32.store (i32.const 1028) (i32.const 0)) (i32.const 1024))
    (func $answer (param $ptr i32) (param $len i32) (result i32)
        (i32.store (i32.const 1040) (i32.const 0))
        (i32.store (i32.const 1044) (local.get $ptr))
        (i32.store (i32.const 1048) (local.get $len))
        (i32.const 1040))
    (data (i32.const 16) "\"fine\"")
    (data (i32.const 32) "\"\ff\fe\"")
    (data (i32.const 48) "1}, \"error\": null")
"#;

pub(crate) fn component(body: &str) -> Vec<u8> {
    framed(FRAME, body)
}

pub(crate) fn framed(frame: &str, body: &str) -> Vec<u8> {
    in_world("tool-component", frame, body)
}

pub(crate) fn in_world(world: &str, frame: &str, body: &str) -> Vec<u8> {
    let text = format!("(module {frame} {body})");
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| wrong(&text, &error.to_string()));
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let (package, _) = resolve.push_dir(wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let encoded = ComponentEncoder::default()
        .module(&module)
        .and_then(|mut encoder| encoder.encode());
    encoded.unwrap_or_else(|error| wrong(&text, &format!("{error:#}")))
}

#[expect(clippy::panic, reason = "the test itself is wrong")]
pub(crate) fn wrong(text: &str, error: &str) -> ! {
    panic!("{error}\n{text}")
}

/// A component whose `invoke` has this body; it leaves an `i32`.
pub(crate) fn tool(body: &str) -> Vec<u8> {
    component(&format!(
        r#"(func (export "flowcell:tool/tool@0.1.0#invoke") (param i32 i32 i32 i32) (result i32) {body})"#
    ))
}

pub(crate) fn program(wasm: &[u8]) -> Result<Program, ProgramError> {
    let code = SANDBOX.compile(wasm, CodeKind::Ordinary)?;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), code).unwrap();
    SANDBOX.load(file.path())
}

pub(crate) fn limits() -> Limits {
    Limits {
        memory: 32 << 20,
        wall_time: Duration::from_secs(120),
        output: 1 << 20,
        ..Limits::default()
    }
}

/// For what never ends, so that the test does.
pub(crate) fn short() -> Limits {
    Limits {
        wall_time: Duration::from_secs(1),
        ..limits()
    }
}

pub(crate) fn pool_with(wasm: &[u8], limits: Limits) -> Arc<Pool> {
    let environment = Environment::new(Vec::new(), Vec::new(), limits);
    let program = program(wasm).unwrap();
    pool_of(&Arc::new(program), environment, 2)
}

pub(crate) fn pool_of(
    program: &Arc<Program>,
    environment: Environment,
    instances: usize,
) -> Arc<Pool> {
    let options = PoolOptions {
        program: Arc::clone(program),
        environment: Arc::new(environment),
        isolation: Isolation::Session,
        instances,
        image: None,
        hibernation: None,
    };
    Pool::new(Arc::clone(&SANDBOX), options)
}

pub(crate) fn pool(wasm: &[u8]) -> Arc<Pool> {
    pool_with(wasm, limits())
}

/// The pool's next answer to `invoke`.
pub(crate) async fn invoke(pool: &Arc<Pool>, inputs: &str) -> Result<String, Fault> {
    let mut lease = pool.checkout(Duration::from_secs(60)).await.unwrap();
    let call = lease.invoke("any", inputs.to_owned()).await;
    call.result.map(|answer| answer.unwrap())
}
