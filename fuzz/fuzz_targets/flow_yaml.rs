//! Any text as `flow.dag.yaml`: it is read, checked and linted without a panic, and what lint finds clean is valid.
#![no_main]

use flowcell_flow::{Flow, Severity};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(mut flow) = Flow::parse(text, "fuzz") else { return };
    let clean = flow.lint().iter().all(|finding| finding.severity != Severity::Error);
    let graph = flow.with_variant(None).and_then(|()| flow.validate());
    match graph {
        Ok(graph) => {
            assert_eq!(graph.order.len(), flow.nodes.len());
            for (position, node) in graph.order.iter().enumerate() {
                let before = &graph.order[..position];
                assert!(graph.dependencies[*node].iter().all(|dependency| before.contains(dependency)));
            }
        }
        Err(error) => assert!(!clean, "lint missed {}: {error}", error.class()),
    }
    for node in &flow.nodes {
        for input in node.inputs.values().filter(|input| !input.is_literal()) {
            let again = flowcell_flow::Assignment::parse_str(&input.to_string());
            assert_eq!(again.as_ref(), Some(input));
        }
    }
});
