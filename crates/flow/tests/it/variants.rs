//! Variants, as `pf flow test` applies them.

use flowcell_flow::{Flow, FlowError, NodeKind, VariantChoice};

const TEXT: &str = "
inputs:
  a: {type: string, default: w}
nodes:
- name: n1
  use_variants: true
- {name: plain, type: python, source: {path: g.py}}
node_variants:
  n1:
    default_variant_id: v1
    variants:
      v0: {node: {type: python, source: {type: code, path: f.py}, inputs: {x: zero}}}
      v1: {node: {type: python, source: {type: code, path: f.py}, inputs: {x: '${inputs.a}'}}}
      v2: {node: {type: prompt, source: {type: code, path: p.jinja2}, inputs: {y: '${inputs.a}'}}}
  plain:
    variants:
      0: {node: {type: python, source: {path: other.py}}}
";

fn choose(text: &str) -> Result<Flow, FlowError> {
    let mut flow = super::flow(TEXT);
    flow.with_variant(Some(&text.parse()?))?;
    Ok(flow)
}

#[test]
fn the_default_is_used() {
    let mut flow = super::flow(TEXT);
    assert_eq!(flow.nodes[0].kind, None);
    assert_eq!(
        flow.validate().unwrap_err().to_string(),
        "Node n1 does not have source defined."
    );
    flow.with_variant(None).unwrap();
    assert_eq!(flow.nodes[0].name, "n1");
    assert_eq!(flow.nodes[0].inputs["x"].to_string(), "${inputs.a}");
    assert_eq!(
        flow.nodes[1].source.as_ref().unwrap().path.as_deref(),
        Some("g.py")
    );
    assert_eq!(flow.validate().unwrap().order, [0, 1]);
    // Applied variants stay as they are.
    let once = flow.clone();
    flow.with_variant(None).unwrap();
    assert_eq!(flow, once);
}

#[test]
fn a_variant_is_chosen() {
    assert_eq!(
        choose("${n1.v0}").unwrap().nodes[0].inputs["x"].to_string(),
        "zero"
    );
    assert_eq!(
        choose("${n1.v2}").unwrap().nodes[0].kind,
        Some(NodeKind::Prompt)
    );
    assert_eq!(
        choose("'${n1.v2}'").unwrap().nodes[0].kind,
        Some(NodeKind::Prompt)
    );
    // A node that does not use its variants keeps its own definition.
    let path = |flow: Flow| flow.nodes[1].source.clone().unwrap().path;
    assert_eq!(path(choose("${plain.0}").unwrap()).as_deref(), Some("g.py"));
}

#[test]
fn refusals_are_promptflows() {
    for (choice, class, message) in [
        (
            "${n1.v9}",
            "InvalidFlowError",
            "Variant v9 not found for node n1",
        ),
        (
            "${nope.v0}",
            "InvalidFlowError",
            "Node nope not found in flow",
        ),
        (
            "n1.v0",
            "UserErrorException",
            "Invalid variant format: n1.v0, variant should be in format of ${TUNING_NODE.VARIANT}",
        ),
    ] {
        let error = choose(choice).unwrap_err();
        assert_eq!(
            (error.class(), error.to_string().as_str()),
            (class, message)
        );
    }
    for (variants, message) in [
        ("node_variants: {}", "No variant for the node n1."),
        (
            "node_variants: {n1: {variants: {}}}",
            "Default variant id is not specified for n1.",
        ),
        (
            "node_variants: {n1: {default_variant_id: v7, variants: {v1: {node: {type: python}}}}}",
            "Cannot find the variant v7 for n1.",
        ),
    ] {
        let mut flow = super::flow(&format!(
            "nodes: [{{name: n1, use_variants: true}}]\n{variants}"
        ));
        let error = flow.with_variant(None).unwrap_err();
        assert_eq!(
            (error.class(), error.to_string().as_str()),
            ("InvalidFlowError", message)
        );
        assert!(flow.nodes[0].use_variants);
    }
    let help = choose("${n2.v0}").unwrap_err();
    assert_eq!(help.help(), Some("known: n1, plain"));
}

#[test]
fn a_choice_prints_as_it_reads() {
    let choice: VariantChoice = "${summarize.variant_1}".parse().unwrap();
    assert_eq!(choice.to_string(), "${summarize.variant_1}");
}
