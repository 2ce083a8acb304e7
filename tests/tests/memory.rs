//! Nothing that a flow, a tool or an input does makes the host process large.
//!
//! Apart from the other tests, because a process that starts counts its parent's memory as its own: the tests in this
//! file hold nothing large themselves.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fmt::Write as _;
use std::fs::File;

use flowcell_tests::{Answer, FlowFolder};

/// What a host may have resident while it does ordinary work.
const ORDINARY: u64 = 150 << 20;

#[track_caller]
fn assert_peak(answer: &Answer, most: u64) {
    let peak = answer.process.peak_memory;
    assert!(
        peak <= most,
        "{} MiB, more than {} MiB",
        peak >> 20,
        most >> 20
    );
}

/// A flow with one tool whose body is this.
fn tool(body: &str) -> FlowFolder {
    let body = body.replace('\n', "\n    ");
    FlowFolder::python(
        &format!("from promptflow import tool\n@tool\ndef attack():\n    {body}\n"),
        &[],
    )
}

#[test]
fn an_ordinary_flow() {
    let answer = tool("return 1").test(&[]);
    answer.outputs();
    assert_peak(&answer, ORDINARY);
}

#[test]
fn an_alias_bomb() {
    let mut yaml = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let _ = writeln!(
            yaml,
            "a{level}: &a{level} [{}]",
            vec![format!("*a{}", level - 1); 9].join(", ")
        );
    }
    assert_peak(
        &FlowFolder::new().file("flow.dag.yaml", yaml).test(&[]),
        ORDINARY,
    );
}

#[test]
fn inputs_over_the_limit() {
    let flow = FlowFolder::python(
        "from promptflow import tool\n@tool\ndef t(x): return x\n",
        &[("x", "string")],
    );
    let path = flow.path().join("../large.json");
    File::create(&path).unwrap().set_len(100 << 20).unwrap();
    for (file, size) in [(path.to_str().unwrap(), "100 MiB"), ("/dev/zero", "33 MiB")] {
        let ended = flowcell_tests::flowcell([
            "flow",
            "test",
            "--output",
            "json",
            "--flow",
            flow.path().to_str().unwrap(),
            "--inputs-file",
            file,
        ]);
        let answer = Answer::of(ended);
        answer.assert_failure("UserErrorException", &[file, size, "may have 32 MiB"]);
        assert_peak(&answer, ORDINARY);
    }
}

#[test]
fn printing_a_gigabyte() {
    let answer = tool("import sys\nblock = 'x' * (1 << 20)\nfor _ in range(512):\n    sys.stdout.write(block)\n    sys.stderr.write(block)\nreturn 'done'").test(&[]);
    assert_eq!(answer.outputs()["out"], "done");
    assert!(
        answer.printed("tool").contains("more bytes were printed"),
        "{}",
        answer.printed("tool").len()
    );
    assert!(
        answer.process.stdout.len() < 4 << 20,
        "{}",
        answer.process.stdout.len()
    );
    assert_peak(&answer, ORDINARY);
}

#[test]
fn logging_without_end() {
    let answer = tool(
        "import logging\nfor _ in range(200):\n    logging.warning('y' * (1 << 20))\nreturn 'done'",
    )
    .test(&[]);
    assert_eq!(answer.outputs()["out"], "done");
    assert_peak(&answer, ORDINARY);
}

#[test]
fn allocating_without_end() {
    let answer = tool("hoard = []\nwhile True:\n    hoard.append(bytearray(1 << 20))")
        .test(&["--memory", "128"]);
    answer.assert_failure("MemoryLimitExceeded", &["128 MiB", "'tool'"]);
    assert_peak(&answer, ORDINARY + (128 << 20));
}

#[test]
fn returning_more_than_the_limit() {
    let answer = tool("return 'x' * (200 << 20)").test(&["--memory", "1024"]);
    answer.assert_failure("OutputLimitExceeded", &["67108864 bytes", "'tool'"]);
    // The guest's own memory: the string, its JSON, and that in UTF-8. The host must not add copies of what it refuses.
    assert_peak(&answer, ORDINARY + (700 << 20));
}

#[test]
fn an_endless_message() {
    let answer = tool("raise ValueError('m' * (30 << 20))").test(&[]);
    answer.assert_failure("ToolExecutionError", &["(ValueError) mmm"]);
    assert!(
        answer.message().len() < 1 << 20,
        "{}",
        answer.message().len()
    );
}

#[test]
fn asking_for_random_bytes_without_end() {
    let answer = tool("import os\ntry:\n    return len(os.urandom((1 << 31) - 1))\nexcept BaseException as error:\n    return type(error).__name__").test(&[]);
    assert!(
        ["MemoryLimitExceeded", "ProcessCrashError", ""].contains(&answer.class()),
        "{answer:#?}"
    );
    assert_peak(&answer, ORDINARY + (64 << 20));
}
