//! Components that attack the host below any language: their own code stands at the contract.
//!
//! Each ends with its own fault, the host lives on, and the next call in the same pool is answered.

use std::sync::Arc;
use std::time::Duration;

use flowcell_sandbox::{
    Environment, Fault, Full, Isolation, Limits, Pool, PoolError, PoolOptions, ProgramError,
    ProgramKind, SandboxError,
};

use crate::{
    FRAME, SANDBOX, component, framed, invoke, limits, pool, pool_with, program, short, tool, wrong,
};

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
        let options = PoolOptions {
            program: Arc::clone(&program),
            environment,
            isolation,
            instances: 1,
            image: None,
            hibernation: None,
        };
        let pool = Pool::new(Arc::clone(&SANDBOX), options);
        let first = pool.checkout(Duration::from_secs(60)).await.unwrap();
        let id = first.id();
        let busy = pool.checkout(Duration::from_millis(1)).await.unwrap_err();
        assert!(
            matches!(
                busy,
                PoolError::Busy {
                    full: Full::Pool { instances: 1 },
                    ..
                }
            ),
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
