//! Flows whose tools attack: whatever they do ends with its own clear error, and gets nothing that is the host's.
//!
//! Each runs through the binary, so what is checked is what a user would see. Attacks below Python, and what becomes of
//! the neighbours of an attacked instance, are in `crates/sandbox/tests` and `crates/executor/tests`.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod disk;
mod ends;
mod host;
mod python;

use flowcell_tests::{Answer, FlowFolder};

/// Runs a tool with this body; `tried(f)` in it gives `got …` or the exception's class.
fn attack(body: &str) -> Answer {
    attack_with(body, &[])
}

fn attack_with(body: &str, arguments: &[&str]) -> Answer {
    let body = body.trim_matches('\n').replace('\n', "\n    ");
    let code = format!(
        "import os, sys, socket\nfrom promptflow import tool\n\n\
         def tried(attempt, *arguments):\n    try:\n        return 'got ' + repr(attempt(*arguments))[:300]\n    \
         except BaseException as error:\n        return type(error).__name__\n\n\
         def read(path):\n    with open(path, 'rb') as file:\n        return file.read(300)\n\n\
         @tool\ndef attack():\n    {body}\n"
    );
    FlowFolder::python(&code, &[]).test(arguments)
}

/// Checks that every attempt in a list was refused with one of these exceptions.
#[track_caller]
fn assert_all(answer: &Answer, allowed: &[&str]) {
    let attempts = answer.outputs()["out"].as_array().unwrap();
    assert!(!attempts.is_empty());
    for attempt in attempts {
        assert!(
            allowed.iter().any(|class| attempt == class),
            "{attempt} is not among {allowed:?}: {answer:#?}"
        );
    }
}

/// What the file system says of things that are not the guest's.
const REFUSALS: [&str; 4] = [
    "FileNotFoundError",
    "PermissionError",
    "OSError",
    "NotADirectoryError",
];
