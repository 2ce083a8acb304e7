//! Bypassing, against the rules of promptflow's DAGManager.

use std::convert::Infallible;

use flowcell_flow::{BypassReason, Decision, decide, python_eq};
use serde_json::json;

/// Decides about the last node of a flow, where `bypassed` were bypassed and `when` has the value `x`.
fn decision(node: &str, bypassed: &[&str]) -> Decision {
    let text = format!("nodes:\n- {{name: n, type: python, source: {{path: n.py}}, {node}}}");
    let flow = super::flow(&text);
    decide::<Infallible>(
        &flow.nodes[0],
        |name| bypassed.contains(&name),
        |activate| Ok(python_eq(&json!("x"), &activate.is)),
    )
    .unwrap()
}

#[test]
fn without_a_condition() {
    let bypass = Decision::Bypass(BypassReason::DependenciesBypassed);
    assert_eq!(decision("inputs: {}", &[]), Decision::Run);
    assert_eq!(
        decision("inputs: {x: 1, y: '${inputs.a}'}", &["a"]),
        Decision::Run
    );
    assert_eq!(decision("inputs: {x: '${a.output}'}", &[]), Decision::Run);
    assert_eq!(decision("inputs: {x: '${a.output}'}", &["a"]), bypass);
    assert_eq!(
        decision("inputs: {x: '${a.output}', y: '${b.output}'}", &["a"]),
        Decision::Run
    );
    assert_eq!(
        decision("inputs: {x: '${a.output}', y: '${b.output}'}", &["a", "b"]),
        bypass
    );
    // Flow inputs and literals do not keep a node alive.
    assert_eq!(
        decision("inputs: {x: '${a.output}', y: '${inputs.i}', z: 1}", &["a"]),
        bypass
    );
}

#[test]
fn with_a_condition() {
    let met = "activate: {when: '${c.output}', is: x}";
    let unmet = "activate: {when: '${c.output}', is: y}";
    let reference = "inputs: {x: '${a.output}'}";
    assert_eq!(decision(met, &[]), Decision::Run);
    assert_eq!(
        decision(unmet, &[]),
        Decision::Bypass(BypassReason::ConditionNotMet)
    );
    assert_eq!(
        decision(met, &["c"]),
        Decision::Bypass(BypassReason::ConditionBypassed)
    );
    // A condition that is met makes the node run, whatever happened to its inputs.
    assert_eq!(
        decision(&format!("{met}, {reference}"), &["a"]),
        Decision::Run
    );
    assert_eq!(
        decision(&format!("{unmet}, {reference}"), &[]),
        Decision::Bypass(BypassReason::ConditionNotMet)
    );
}

#[test]
fn a_failing_condition_is_passed_on() {
    let flow = super::flow(
        "nodes: [{name: n, type: python, source: {path: n.py}, activate: {when: '${c.output.k}', is: 1}}]",
    );
    assert_eq!(
        decide(&flow.nodes[0], |_| false, |_| Err("no k")),
        Err("no k")
    );
    assert_eq!(
        decide(&flow.nodes[0], |name| name == "c", |_| Err("not asked")),
        Ok(Decision::Bypass(BypassReason::ConditionBypassed))
    );
}
