//! All findings at once, as people read them.

use flowcell_flow::Severity;
use insta::assert_snapshot;

fn findings(text: &str) -> String {
    let lines = super::flow(text).lint().into_iter().map(|finding| {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let place = finding
            .location
            .map_or_else(String::new, |at| format!("{}:{} ", at.line, at.column));
        let help = finding
            .help
            .map_or_else(String::new, |help| format!("\n    help: {help}"));
        format!(
            "{place}{severity} {}: {}{help}\n",
            finding.class, finding.message
        )
    });
    lines.collect()
}

#[test]
fn a_good_flow_has_no_findings() {
    assert_snapshot!(findings("
inputs:
  a: {type: string}
outputs:
  o: {type: string, reference: '${n.output}'}
nodes:
- {name: n, type: python, source: {path: f.py}, inputs: {x: '${inputs.a}'}}
"), @"");
}

#[test]
fn everything_is_found_at_once() {
    assert_snapshot!(findings("
inputs:
  question: {type: string, defualt: hi}
  count: {type: int, default: many}
  unused: {type: string}
outputs:
  answer: {type: string, reference: '${anwser.output}'}
  score: {type: string, reference: '${agg.output}'}
  part: {type: string, reference: \"${answer.output['k']}\"}
  text: {type: string, reference: answer}
  none: {type: string}
nodes:
- name: answer
  type: python
  inputs: {q: '${inputs.qestion}', n: '${inputs.count}', t: 'Dear ${inputs.question}', s: '${loop.outputs}'}
- name: loop
  type: python
  source: {type: code, path: l.py}
  inputs: {x: '${loop.output}', y: '${agg.output}'}
  activate: {when: yes, is: yes}
- name: loop
  type: llm
  source: {type: code}
- name: agg
  type: python
  source: {type: package}
  aggregation: true
  activate: {when: '${answer.output}', is: 1}
mesage_format: basic
language: rust
"), @r#"
    3:3 warning UnusedInput: The input 'question' is not used.
    3:28 warning UnknownKey: The key 'defualt' of the input 'question' is unknown and ignored.
        help: did you mean 'default'?
    4:3 error InvalidFlowError: The default 'many' of the input 'count' is not type int: invalid literal for int() with base 10: 'many'.
    5:3 warning UnusedInput: The input 'unused' is not used.
    7:37 error OutputReferenceNotFound: The output 'answer' for flow is incorrect. The output 'answer' references non-existent node 'anwser' in your flow. To resolve this issue, please carefully review your flow and correct the reference definition for the output in question.
        help: did you mean 'answer'?
    8:36 warning AggregationOutput: Output 'score' references a reduce node 'agg', will not take effect.
        help: report results of aggregation nodes as metrics, with log_metric
    9:35 warning IgnoredSection: The output 'part' is the whole output of 'answer': 'output['k']' is not looked at.
        help: write a dot before the bracket: ${answer.output.['k']}
    10:35 warning LiteralOutput: The output 'text' is the literal 'answer'.
        help: a reference is written ${node.output}
    11:3 error EmptyOutputReference: The output 'none' for flow is incorrect. The reference is not specified for the output 'none' in the flow. To rectify this, ensure that you accurately specify the reference in the flow.
    13:3 error UserErrorException: Node answer does not have source defined.
        help: write 'source: {type: code, path: <file>.py}'
    15:15 error InputReferenceNotFound: Invalid node definitions found in the flow graph. Node 'answer' references flow input 'qestion' which is not defined in your flow. To resolve this issue, please review your flow, ensuring that you either add the missing flow inputs or adjust node reference to the correct flow input.
        help: did you mean 'question'?
    15:61 warning ReferenceInText: The value contains a reference among other text, which is not replaced.
        help: a reference is the whole value; put texts together in a prompt or python node
    15:91 error UnsupportedReference: Flow execution failed. The section 'outputs' of reference is currently unsupported. Please specify the output part of the node 'loop'.
        help: did you mean ${loop.output}?
    16:3 error InvalidNodeReference: Invalid node definitions found in the flow graph. Non-aggregate node 'loop' cannot reference aggregate nodes {'agg'}. Please review and rectify the node reference.
    16:3 error NodeCircularDependency: Invalid node definitions found in the flow graph. Node circular dependency has been detected among the nodes in your flow. Kindly review the reference relationships for the nodes ['agg', 'answer', 'loop'] and resolve the circular reference issue in the flow.
        help: one ring of references is loop -> loop
    20:13 warning ConstantCondition: The activate condition of the node 'loop' compares the literal 'yes', so it never changes.
        help: 'when' takes a reference like ${inputs.name}
    21:3 error InvalidFlowError: The source of the node 'loop' has no 'path'.
        help: write 'source: {type: code, path: <file>.jinja2}'
    21:3 warning NoConnection: The LLM node 'loop' names no connection.
        help: add 'connection: <name>'
    21:9 error DuplicateNodeName: Invalid node definitions found in the flow graph. Node with name 'loop' appears more than once in the node definitions in your flow, which is not allowed. To address this issue, please review your flow and either rename or remove nodes with identical names.
    24:3 error InvalidFlowError: The source of the node 'agg' has no 'tool'.
        help: write 'source: {type: package, tool: <package>.<function>}'
    28:13 error InvalidNodeReference: Invalid node definitions found in the flow graph. Non-aggregation node 'answer' cannot be referenced in the activate config of the aggregation node 'agg'. Please review and rectify the node reference.
    29:1 warning UnknownKey: The key 'mesage_format' of the flow is unknown and ignored.
        help: did you mean 'message_format'?
    30:11 warning UnknownValue: The value 'rust' of 'language' is unknown and ignored.
        help: it can be python, csharp
    "#);
}

#[test]
fn variants_are_looked_at_before_they_are_chosen() {
    assert_snapshot!(findings("
inputs:
  a: {type: string}
outputs:
  o: {type: string, reference: '${n.output}'}
nodes:
- {name: n, use_variants: true}
- {name: m, use_variants: true}
- {name: p, type: python, source: {path: f.py}}
node_variants:
  n:
    default_variant_id: v9
    variants:
      v0: {node: {type: python, source: {path: f.py}, inputs: {x: '${inputs.b}'}}}
      v1: {node: {type: python, inputs: {x: '${inputs.a}'}}}
  p:
    default_variant_id: v0
    variants: {}
  q:
    variants: {}
"), @r#"
    8:3 error InvalidFlowError: No variant for the node m.
        help: known: n, p, q
    11:3 error InvalidFlowError: Cannot find the variant v9 for n.
        help: known: v0, v1
    14:67 error InputReferenceNotFound: Invalid node definitions found in the flow graph. Node 'n' references flow input 'b' which is not defined in your flow. To resolve this issue, please review your flow, ensuring that you either add the missing flow inputs or adjust node reference to the correct flow input.
        help: known: a
    15:18 error UserErrorException: Node n does not have source defined.
        help: write 'source: {type: code, path: <file>.py}'
    16:3 warning UnusedVariants: The variants of the node 'p' are not used.
        help: set 'use_variants: true' on the node to use them
    19:3 warning UnusedVariants: There are variants for the node 'q', which the flow does not have.
    "#);
}

#[test]
fn a_flow_that_is_wrong_everywhere_is_told_so_in_bounds() {
    let mut text = String::from("nodes:\n");
    for index in 0..5000 {
        text.push_str(&format!(
            "- {{name: node{index}, type: python, source: {{path: f.py}}, inputs: {{x: '${{mode{index}.output}}'}}}}\n"
        ));
    }
    let findings = super::flow(&text).lint();
    assert_eq!(findings.len(), 201);
    assert_eq!(findings[0].class, "NodeReferenceNotFound");
    assert_eq!(findings[200].class, "TooManyFindings");
    assert_eq!(findings[200].severity, Severity::Error);
}
