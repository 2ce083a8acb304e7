//! Components that attack the host below any language: written by hand, with nothing between them and the contract.
//!
//! Each ends with its own fault, the host lives on, and the next call in the same pool is answered.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use flowcell_sandbox::{
    Environment, Fault, Isolation, Limits, Pool, PoolError, Program, ProgramError, ProgramKind,
    Sandbox, SandboxConfig, SandboxError,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// One engine for all tests, as a host has one for all sessions.
static SANDBOX: LazyLock<Arc<Sandbox>> = LazyLock::new(|| {
    let config = SandboxConfig {
        instances: 32,
        ..SandboxConfig::default()
    };
    Arc::new(Sandbox::new(&config).unwrap())
});

/// What a well-behaved tool has around its one interesting function: memory with an allocator that never frees,
/// `describe` without tools, and `$answer`, which gives the bytes at `ptr` as the value.
const FRAME: &str = r#"
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

fn component(body: &str) -> Vec<u8> {
    framed(FRAME, body)
}

fn framed(frame: &str, body: &str) -> Vec<u8> {
    let text = format!("(module {frame} {body})");
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| wrong(&text, &error.to_string()));
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let (package, _) = resolve.push_dir(wit).unwrap();
    let world = resolve
        .select_world(&[package], Some("tool-component"))
        .unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let encoded = ComponentEncoder::default()
        .module(&module)
        .and_then(|mut encoder| encoder.encode());
    encoded.unwrap_or_else(|error| wrong(&text, &format!("{error:#}")))
}

#[expect(clippy::panic, reason = "the test itself is wrong")]
fn wrong(text: &str, error: &str) -> ! {
    panic!("{error}\n{text}")
}

/// A component whose `invoke` has this body; it leaves an `i32`.
fn tool(body: &str) -> Vec<u8> {
    component(&format!(
        r#"(func (export "flowcell:tool/tool@0.1.0#invoke") (param i32 i32 i32 i32) (result i32) {body})"#
    ))
}

fn program(wasm: &[u8]) -> Result<Program, ProgramError> {
    let code = SANDBOX.compile(wasm)?;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), code).unwrap();
    SANDBOX.load(file.path())
}

fn limits() -> Limits {
    Limits {
        memory: 32 << 20,
        wall_time: Duration::from_secs(120),
        output: 1 << 20,
        ..Limits::default()
    }
}

/// For what never ends, so that the test does.
fn short() -> Limits {
    Limits {
        wall_time: Duration::from_secs(1),
        ..limits()
    }
}

fn pool_with(wasm: &[u8], limits: Limits) -> Arc<Pool> {
    let environment = Environment::new(Vec::new(), Vec::new(), limits);
    let program = program(wasm).unwrap();
    Pool::new(
        Arc::clone(&SANDBOX),
        Arc::new(program),
        Arc::new(environment),
        Isolation::Session,
        2,
    )
}

fn pool(wasm: &[u8]) -> Arc<Pool> {
    pool_with(wasm, limits())
}

/// The pool's next answer to `invoke`.
async fn invoke(pool: &Arc<Pool>, inputs: &str) -> Result<String, Fault> {
    let mut lease = pool.checkout(Duration::from_secs(60)).await.unwrap();
    let call = lease.invoke("any", inputs.to_owned()).await;
    call.result.map(|answer| answer.unwrap())
}

/// Calls a tool that attacks when its inputs are longer than two bytes, then calls it again peacefully.
async fn attack_then_peace(attack: &str) -> Fault {
    attack_then_peace_with(attack, limits()).await
}

async fn attack_then_peace_with(attack: &str, limits: Limits) -> Fault {
    let wasm = tool(&format!(
        "(if (result i32) (i32.gt_u (local.get 3) (i32.const 2)) (then {attack}) (else (call $answer (i32.const 16) (i32.const 6))))"
    ));
    let pool = pool_with(&wasm, limits);
    assert_eq!(invoke(&pool, "{}").await.unwrap(), "\"fine\"");
    let fault = invoke(&pool, r#"{"attack": true}"#).await.unwrap_err();
    assert_eq!(invoke(&pool, "{}").await.unwrap(), "\"fine\"");
    fault
}

#[tokio::test]
async fn an_endless_loop_ends_at_the_wall_clock() {
    let fault = attack_then_peace_with("(loop $l (br $l)) (unreachable)", short()).await;
    assert!(
        matches!(fault, Fault::Timeout { limit } if limit == Duration::from_secs(1)),
        "{fault}"
    );
}

#[tokio::test]
async fn an_endless_loop_ends_when_the_cpu_time_is_used() {
    let limits = Limits {
        cpu_time: Duration::from_millis(100),
        wall_time: Duration::from_secs(600),
        ..limits()
    };
    let fault = attack_then_peace_with("(loop $l (br $l)) (unreachable)", limits).await;
    assert!(matches!(fault, Fault::CpuTime { .. }), "{fault}");
}

#[tokio::test]
async fn traps() {
    for (attack, word) in [
        ("(unreachable)", "unreachable"),
        ("(i32.load (i32.const -4))", "out of bounds"),
        ("(i32.div_u (i32.const 1) (i32.const 0))", "divide by zero"),
        (
            "(memory.fill (i32.const 0) (i32.const 7) (i32.const -1)) (i32.const 0)",
            "out of bounds",
        ),
    ] {
        let fault = attack_then_peace(attack).await;
        assert!(
            matches!(&fault, Fault::Trap { reason } if reason.contains(word)),
            "{attack}: {fault}"
        );
        assert_eq!(fault.class(), "ProcessCrashError");
    }
}

#[tokio::test]
async fn memory_without_end() {
    let greedy =
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    let fault = attack_then_peace(greedy).await;
    assert!(
        matches!(fault, Fault::Memory { limit } if limit == 32 << 20),
        "{fault}"
    );
}

#[tokio::test]
async fn recursion_without_end() {
    let wasm = component(
        r#"(func $deep (param i32) (result i32) (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
           (func (export "flowcell:tool/tool@0.1.0#invoke") (param i32 i32 i32 i32) (result i32) (call $deep (i32.const 0)))"#,
    );
    let fault = invoke(&pool(&wasm), "{}").await.unwrap_err();
    assert!(matches!(fault, Fault::StackOverflow), "{fault}");
}

#[tokio::test]
async fn values_that_break_the_contract() {
    for (attack, word) in [
        // Invalid UTF-8, a pointer past the memory, a length past it, a discriminant that does not exist.
        ("(call $answer (i32.const 32) (i32.const 4))", "utf-8"),
        (
            "(call $answer (i32.const -100) (i32.const 50))",
            "out of bounds",
        ),
        ("(call $answer (i32.const 16) (i32.const 0x7fffffff))", ""),
        (
            "(i32.store (i32.const 1040) (i32.const 9)) (i32.const 1040)",
            "discriminant",
        ),
        ("(i32.const -8)", "out of bounds"),
        ("(i32.const 3)", "align"),
    ] {
        let fault = attack_then_peace(attack).await;
        let text = fault.to_string().to_lowercase();
        assert!(
            matches!(fault, Fault::Trap { .. } | Fault::OutputTooLarge { .. }),
            "{attack}: {text}"
        );
        assert!(text.contains(word), "{attack}: {text}");
    }
}

#[tokio::test]
async fn text_that_is_no_json_cannot_pass_for_a_value() {
    let fault = attack_then_peace("(call $answer (i32.const 48) (i32.const 17))").await;
    assert!(matches!(fault, Fault::NotJson), "{fault}");
    let fault = attack_then_peace("(call $answer (i32.const 16) (i32.const 0))").await;
    assert!(matches!(fault, Fault::NotJson), "{fault}");
}

#[tokio::test]
async fn values_over_the_limit() {
    // A JSON text of 2 MiB is refused by its size, one of 24 MiB before the host has copied it.
    let large = |pages: u32| {
        let bytes = pages * 65536;
        format!(
            "(drop (memory.grow (i32.const {pages}))) (memory.fill (i32.const 131072) (i32.const 0x31) (i32.const {bytes})) (call $answer (i32.const 131072) (i32.const {bytes}))"
        )
    };
    for pages in [24, 400] {
        let fault = attack_then_peace(&large(pages)).await;
        assert!(
            matches!(fault, Fault::OutputTooLarge { limit, .. } if limit == 1 << 20),
            "{fault}"
        );
    }
}

const UNREACHABLE: &str = r#"(func (export "flowcell:tool/tool@0.1.0#invoke") (param i32 i32 i32 i32) (result i32) (unreachable))"#;

#[tokio::test]
async fn an_allocator_that_lies() {
    let frame = FRAME.replace("        (local.get $at))\n", "        (i32.const -16))\n");
    assert_ne!(frame, FRAME);
    let fault = invoke(&pool(&framed(&frame, UNREACHABLE)), "{}")
        .await
        .unwrap_err();
    assert!(
        matches!(&fault, Fault::Trap { reason } if !reason.contains("unreachable")),
        "{fault}"
    );
}

#[tokio::test]
async fn a_start_function_that_loops_or_traps() {
    for (body, word) in [
        ("(loop $l (br $l))", "in time"),
        ("(unreachable)", "unreachable"),
    ] {
        let wasm = component(&format!(
            r#"(func $start {body}) (start $start)
               (func (export "flowcell:tool/tool@0.1.0#invoke") (param i32 i32 i32 i32) (result i32) (unreachable))"#
        ));
        let refused = pool_with(&wasm, short())
            .checkout(Duration::from_secs(60))
            .await
            .unwrap_err();
        let PoolError::Start(SandboxError::Start(error)) = refused else {
            wrong(body, &refused.to_string())
        };
        assert!(format!("{error:#}").contains(word), "{error:#}");
    }
}

#[tokio::test]
async fn memory_that_is_too_large_from_the_start() {
    let frame = FRAME.replace("(export \"memory\") 2)", "(export \"memory\") 1024)");
    assert_ne!(frame, FRAME);
    let pool = pool(&framed(&frame, UNREACHABLE));
    let refused = pool.checkout(Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(refused, PoolError::Start(_)), "{refused}");
}

#[tokio::test]
async fn metrics_and_logs_are_bounded() {
    let metric = "(loop $l (call $metric (i32.const 16) (i32.const 6) (i32.const 16) (i32.const 6)) (br $l)) (unreachable)";
    let fault = attack_then_peace(metric).await;
    assert!(
        matches!(&fault, Fault::Trap { reason } if reason.contains("1000 metrics")),
        "{fault}"
    );
    let forged =
        "(call $metric (i32.const 16) (i32.const 6) (i32.const 48) (i32.const 17)) (unreachable)";
    let fault = attack_then_peace(forged).await;
    assert!(
        matches!(&fault, Fault::Trap { reason } if reason.contains("must be JSON")),
        "{fault}"
    );

    let talkative = tool(
        "(local $n i32) (memory.fill (i32.const 65536) (i32.const 0x61) (i32.const 65536)) (loop $l (call $log (i32.const 1) (i32.const 65536) (i32.const 65536)) (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 100)))) (call $answer (i32.const 16) (i32.const 6))",
    );
    let limits = Limits {
        log: 10_000,
        output: 64 << 20,
        ..limits()
    };
    let pool = pool_with(&talkative, limits);
    let mut lease = pool.checkout(Duration::from_secs(60)).await.unwrap();
    let call = lease.invoke("any", "{}".to_owned()).await;
    call.result.unwrap().unwrap();
    assert!(call.logs.log.len() < 11_000, "{}", call.logs.log.len());
    assert!(
        call.logs.log.contains("more bytes were printed"),
        "{}",
        &call.logs.log[9_900..]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_call_beside_hostile_ones_is_answered() {
    let good = pool_with(
        &tool("(call $answer (i32.const 16) (i32.const 6))"),
        Limits {
            wall_time: Duration::from_secs(60),
            ..limits()
        },
    );
    let hostile: Vec<_> = [
        "(loop $l (br $l)) (unreachable)",
        "(unreachable)",
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)",
        "(i32.load (i32.const -4))",
    ]
    .map(|body| pool_with(&tool(body), short()))
    .into_iter()
    .map(|pool| tokio::spawn(async move { invoke(&pool, "{}").await }))
    .collect();
    for _ in 0..100 {
        assert_eq!(invoke(&good, "{}").await.unwrap(), "\"fine\"");
    }
    for call in hostile {
        call.await.unwrap().unwrap_err();
    }
    assert_eq!(invoke(&good, "{}").await.unwrap(), "\"fine\"");
}

#[tokio::test]
async fn a_call_that_is_dropped_halfway_leaves_no_instance_behind() {
    let wasm = tool(
        "(if (result i32) (i32.gt_u (local.get 3) (i32.const 2)) (then (loop $l (br $l)) (unreachable)) (else (call $answer (i32.const 16) (i32.const 6))))",
    );
    let pool = pool(&wasm);
    let first = {
        let mut lease = pool.checkout(Duration::from_secs(60)).await.unwrap();
        let id = lease.id();
        let call = lease.invoke("any", "{\"endless\": 1}".to_owned());
        tokio::time::timeout(Duration::from_millis(50), call)
            .await
            .unwrap_err();
        assert!(lease.is_broken());
        id
    };
    let mut lease = pool.checkout(Duration::from_secs(60)).await.unwrap();
    assert_ne!(lease.id(), first);
    assert_eq!(
        lease
            .invoke("any", "{}".to_owned())
            .await
            .result
            .unwrap()
            .unwrap(),
        "\"fine\""
    );
}

#[tokio::test]
async fn instances_are_reused_or_not_as_the_isolation_says() {
    let wasm = tool("(call $answer (i32.const 16) (i32.const 6))");
    let program = Arc::new(program(&wasm).unwrap());
    assert_eq!(program.kind(), ProgramKind::Tool);
    for (isolation, same) in [(Isolation::Session, true), (Isolation::Call, false)] {
        let environment = Arc::new(Environment::new(Vec::new(), Vec::new(), limits()));
        let pool = Pool::new(
            Arc::clone(&SANDBOX),
            Arc::clone(&program),
            environment,
            isolation,
            1,
        );
        let first = pool.checkout(Duration::from_secs(60)).await.unwrap();
        let id = first.id();
        let busy = pool.checkout(Duration::from_millis(1)).await.unwrap_err();
        assert!(
            matches!(busy, PoolError::Busy { instances: 1, .. }),
            "{busy}"
        );
        assert!(pool.try_checkout().await.unwrap().is_none());
        drop(first);
        assert_eq!(
            pool.checkout(Duration::from_secs(60)).await.unwrap().id() == id,
            same
        );
    }
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let parse = |text: &str| wat::parse_str(text).unwrap();
    assert!(matches!(
        program(&parse("(module)")).unwrap_err(),
        ProgramError::CoreModule
    ));
    assert!(matches!(
        program(b"#!/bin/sh").unwrap_err(),
        ProgramError::NotWasm
    ));
    let unknown = program(&parse(
        r#"(component (import "evil:host/shell@1.0.0" (instance)))"#,
    ))
    .unwrap_err();
    assert!(
        matches!(&unknown, ProgramError::UnknownImports(names) if names == &["evil:host/shell@1.0.0"]),
        "{unknown}"
    );
    let no_tool = program(&parse("(component)")).unwrap_err();
    assert!(
        matches!(no_tool, ProgramError::Contract { .. }),
        "{no_tool}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"not compiled code").unwrap();
    assert!(matches!(
        SANDBOX.load(file.path()).unwrap_err(),
        ProgramError::Compiled(_)
    ));
}
