//! A session goes on after a hostile call, and its neighbours do not notice.
//!
//! Runs the real Python runner, from the bundle that `./test.sh` builds.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::time::Duration;

use common::{PATIENCE, open};
use flowcell_executor::{FlowResult, RunOptions, Session};
use flowcell_flow::JsonMap;
use flowcell_tests::FlowFolder;
use serde_json::json;

/// For what never ends, so that the test does.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// The bodies of tools that do what `how` says, and what comes of each.
const ATTACKS: [(&str, &str); 15] = [
    ("while True: pass", "LineExecutionTimeoutError"),
    ("import time; time.sleep(1e9)", "LineExecutionTimeoutError"),
    (
        "hoard = [bytearray(1 << 20) for _ in iter(int, 1)]",
        "MemoryLimitExceeded",
    ),
    ("os._exit(3)", "ProcessExit"),
    ("os.abort()", "ProcessCrashError"),
    ("sys.exit(3)", "SystemExit"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("return 'x' * (40 << 20)", "OutputLimitExceeded"),
    ("raise ValueError('m' * (4 << 20))", "ToolExecutionError"),
    (
        "open('/tmp/full', 'wb').write(bytes(64 << 20))",
        "ToolExecutionError",
    ),
    (
        "import json; json.loads('[' * 1000000)",
        "ToolExecutionError",
    ),
    ("return f()", "ToolExecutionError"),
    ("import ctypes", "ToolExecutionError"),
    (
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:22/')",
        "ToolExecutionError",
    ),
    ("return {1, object()}", "FlowOutputUnserializable"),
];

fn time(class: &str) -> Duration {
    if class == "LineExecutionTimeoutError" {
        IMPATIENCE
    } else {
        PATIENCE
    }
}

fn attacker(attack: &str) -> FlowFolder {
    let code = format!(
        "import os, sys\nfrom promptflow import tool\ndef f(): return f()\n@tool\ndef attack(how: str):\n    if how == 'peace': return 'fine'\n    {attack}\n"
    );
    FlowFolder::python(&code, &[("how", "string")])
}

async fn run(session: &Session, how: &str) -> FlowResult {
    let inputs: JsonMap = serde_json::from_value(json!({ "how": how })).unwrap();
    session.run(&inputs, &RunOptions::default()).await
}

async fn assert_peace(session: &Session, after: &str) {
    let result = run(session, "peace").await;
    assert_eq!(
        result.outputs.unwrap(),
        "{\"out\": \"fine\"}",
        "after {after}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_answers_after_every_attack() {
    let attacks = ATTACKS.map(|(attack, class)| {
        tokio::spawn(async move {
            let flow = attacker(attack);
            let session = open(&flow, |options| options.limits.wall_time = time(class))
                .await
                .unwrap();
            assert_peace(&session, "nothing").await;
            let error = run(&session, "war").await.outputs.unwrap_err();
            assert_eq!(error.class, class, "{attack}: {error:?}");
            assert!(
                error.message.len() < 100_000,
                "{attack}: {}",
                error.message.len()
            );
            assert_peace(&session, attack).await;
        })
    });
    for attack in attacks {
        attack.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_session_beside_hostile_ones_is_answered() {
    let good_flow = attacker("pass");
    let good = open(&good_flow, |_| {}).await.unwrap();
    let hostile = ATTACKS.map(|(attack, class)| {
        tokio::spawn(async move {
            let flow = attacker(attack);
            let session = open(&flow, |options| options.limits.wall_time = time(class))
                .await
                .unwrap();
            run(&session, "war").await.outputs.unwrap_err();
        })
    });
    for _ in 0..20 {
        assert_peace(&good, "the others").await;
    }
    for attack in hostile {
        attack.await.unwrap();
    }
    assert_peace(&good, "all").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_session_breaks_another_does_not_see() {
    let flow = FlowFolder::python(
        "import json, os, sys\nfrom promptflow import tool\n@tool\ndef attack(how: str):\n    if how == 'war':\n        import builtins\n        builtins.leaked = 'leaked'\n        json.dumps = None\n        os.environ['LEAKED'] = 'leaked'\n        open('/tmp/leaked', 'w').write('leaked')\n        open('/flow/leaked', 'w').write('leaked')\n    import builtins\n    return [hasattr(builtins, 'leaked'), json.dumps is None, 'LEAKED' in os.environ, os.path.exists('/tmp/leaked'), os.path.exists('/flow/leaked')]\n",
        &[("how", "string")],
    );
    let broken = open(&flow, |_| {}).await.unwrap();
    let other = open(&flow, |_| {}).await.unwrap();
    let war = run(&broken, "war").await.outputs.unwrap();
    assert_eq!(war, "{\"out\": [true,true,true,true,true]}");
    let peace = run(&other, "peace").await.outputs.unwrap();
    assert_eq!(peace, "{\"out\": [false,false,false,false,false]}");
}

#[tokio::test(flavor = "multi_thread")]
async fn isolation_call_shares_nothing_in_memory_between_runs() {
    let flow = FlowFolder::python(
        "from promptflow import tool\ncount = 0\n@tool\ndef t(how: str):\n    global count\n    count += 1\n    return count\n",
        &[("how", "string")],
    );
    for (isolation, counts) in [
        (
            flowcell_sandbox::Isolation::Session,
            ["{\"out\": 1}", "{\"out\": 2}"],
        ),
        (
            flowcell_sandbox::Isolation::Call,
            ["{\"out\": 1}", "{\"out\": 1}"],
        ),
    ] {
        let session = open(&flow, |options| options.isolation = isolation)
            .await
            .unwrap();
        for count in counts {
            assert_eq!(
                run(&session, "peace").await.outputs.unwrap(),
                count,
                "{isolation:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_import_traps_fails_the_session_and_not_the_host() {
    for code in [
        "import os; os.abort()",
        "x = [bytearray(1 << 20) for _ in iter(int, 1)]",
    ] {
        let flow = FlowFolder::python(code, &[("how", "string")]);
        open(&flow, |_| {}).await.unwrap_err();
    }
    let flow = attacker("pass");
    assert_peace(&open(&flow, |_| {}).await.unwrap(), "imports").await;
}
