//! The messages of a flow's definition, word for word those of promptflow 1.18, with the places we add.

use flowcell_flow::{Flow, FlowError};

/// Class, message, place and help of what is wrong with a flow.
fn problem(text: &str) -> (String, String, String, Option<String>) {
    let error = Flow::parse(text, "test")
        .and_then(|mut flow| {
            flow.with_variant(None)?;
            flow.validate()
        })
        .unwrap_err();
    let place = error.location().map_or_else(String::new, |place| {
        format!("{}:{}", place.line, place.column)
    });
    (
        error.class().to_owned(),
        error.to_string(),
        place,
        error.help().map(str::to_owned),
    )
}

#[track_caller]
fn check(text: &str, class: &str, place: &str, message: &str, help: Option<&str>) {
    let found = problem(text);
    assert_eq!((found.0.as_str(), found.1.as_str()), (class, message));
    assert_eq!((found.2.as_str(), found.3.as_deref()), (place, help));
}

/// A flow of python nodes, each given by its name and the rest of its definition.
fn nodes(nodes: &[(&str, &str)]) -> String {
    let mut text = String::from("inputs:\n  question: {type: string, default: q}\nnodes:\n");
    for (name, rest) in nodes {
        text.push_str(&format!(
            "- {{name: {name}, type: python, source: {{path: f.py}}, {rest}}}\n"
        ));
    }
    text
}

#[test]
fn references() {
    check(
        &nodes(&[("n1", "inputs: {x: '${nope.output}'}")]),
        "NodeReferenceNotFound",
        "4:62",
        "Invalid node definitions found in the flow graph. Node 'n1' references a non-existent node 'nope' in your \
         flow. Please review your flow to ensure that the node name is accurately specified.",
        Some("known: n1"),
    );
    check(
        &nodes(&[
            ("answer", "inputs: {}"),
            ("n1", "inputs: {x: '${anwser.output}'}"),
        ]),
        "NodeReferenceNotFound",
        "5:62",
        "Invalid node definitions found in the flow graph. Node 'n1' references a non-existent node 'anwser' in your \
         flow. Please review your flow to ensure that the node name is accurately specified.",
        Some("did you mean 'answer'?"),
    );
    check(
        &nodes(&[("n1", "inputs: {x: '${ inputs.question }'}")]),
        "NodeReferenceNotFound",
        "4:62",
        "Invalid node definitions found in the flow graph. Node 'n1' references a non-existent node ' inputs' in your \
         flow. Please review your flow to ensure that the node name is accurately specified.",
        Some("a reference has no spaces behind '${' or before '}'"),
    );
    check(
        &nodes(&[("n1", "inputs: {x: '${inputs.qestion}'}")]),
        "InputReferenceNotFound",
        "4:62",
        "Invalid node definitions found in the flow graph. Node 'n1' references flow input 'qestion' which is not \
         defined in your flow. To resolve this issue, please review your flow, ensuring that you either add the \
         missing flow inputs or adjust node reference to the correct flow input.",
        Some("did you mean 'question'?"),
    );
    check(
        &nodes(&[("n1", "inputs: {x: '${inputs.question.length}'}")]),
        "InputReferenceNotFound",
        "4:62",
        "Invalid node definitions found in the flow graph. Node 'n1' references flow input 'question.length' which is \
         not defined in your flow. To resolve this issue, please review your flow, ensuring that you either add the \
         missing flow inputs or adjust node reference to the correct flow input.",
        Some(
            "a reference to a flow input has no properties; refer to ${inputs.question} as a whole",
        ),
    );
}

#[test]
fn graph() {
    check(
        &nodes(&[
            ("n2", "inputs: {x: '${n1.output}'}"),
            ("n1", "inputs: {x: '${n2.output}'}"),
            ("n0", "inputs: {}"),
        ]),
        "NodeCircularDependency",
        "4:3",
        "Invalid node definitions found in the flow graph. Node circular dependency has been detected among the nodes \
         in your flow. Kindly review the reference relationships for the nodes ['n1', 'n2'] and resolve the circular \
         reference issue in the flow.",
        Some("one ring of references is n2 -> n1 -> n2"),
    );
    check(
        &nodes(&[("n1", "inputs: {}"), ("n1", "inputs: {}")]),
        "DuplicateNodeName",
        "5:10",
        "Invalid node definitions found in the flow graph. Node with name 'n1' appears more than once in the node \
         definitions in your flow, which is not allowed. To address this issue, please review your flow and either \
         rename or remove nodes with identical names.",
        None,
    );
    check(
        &nodes(&[
            ("ag", "aggregation: true"),
            ("m", "inputs: {x: '${ag.output}'}"),
        ]),
        "InvalidNodeReference",
        "5:3",
        "Invalid node definitions found in the flow graph. Non-aggregate node 'm' cannot reference aggregate nodes \
         {'ag'}. Please review and rectify the node reference.",
        None,
    );
    check(
        &nodes(&[
            ("l", "inputs: {}"),
            (
                "ag",
                "aggregation: true, activate: {when: '${l.output}', is: 1}",
            ),
        ]),
        "InvalidNodeReference",
        "5:79",
        "Invalid node definitions found in the flow graph. Non-aggregation node 'l' cannot be referenced in the \
         activate config of the aggregation node 'ag'. Please review and rectify the node reference.",
        None,
    );
}

#[test]
fn outputs() {
    let with_output = |output: &str| {
        format!(
            "outputs:\n  o: {output}\n{}",
            nodes(&[("n1", "inputs: {}")])
        )
    };
    check(
        &with_output("{type: string}"),
        "EmptyOutputReference",
        "2:3",
        "The output 'o' for flow is incorrect. The reference is not specified for the output 'o' in the flow. To \
         rectify this, ensure that you accurately specify the reference in the flow.",
        None,
    );
    check(
        &with_output("{type: string, reference: '${zz.output}'}"),
        "OutputReferenceNotFound",
        "2:32",
        "The output 'o' for flow is incorrect. The output 'o' references non-existent node 'zz' in your flow. To \
         resolve this issue, please carefully review your flow and correct the reference definition for the output in \
         question.",
        Some("known: n1"),
    );
    check(
        &with_output("{type: string, reference: '${inputs.zz}'}"),
        "OutputReferenceNotFound",
        "2:32",
        "The output 'o' for flow is incorrect. The output 'o' references non-existent flow input 'zz' in your flow. \
         Please carefully review your flow and correct the reference definition for the output in question.",
        Some("known: question"),
    );
}

#[test]
fn nodes_and_sources() {
    check(
        "nodes:\n- {name: l, type: pythn, source: {path: f.py}}",
        "ValueError",
        "2:19",
        "'pythn' is not a valid ToolType",
        Some("did you mean 'python'?"),
    );
    check(
        "nodes:\n- {name: l, type: python}",
        "UserErrorException",
        "2:3",
        "Node l does not have source defined.",
        None,
    );
    check(
        "nodes:\n- {name: l, type: llm}",
        "ResolveToolError",
        "2:3",
        "Tool load failed in 'l': (UserErrorException) Node l does not have source defined.",
        None,
    );
    check(
        "nodes:\n- {name: l, type: python, source: {type: package_with_prompt}}",
        "NotImplementedError",
        "2:3",
        "Tool source type package_with_prompt for python tool is not supported yet.",
        None,
    );
    check(
        "nodes:\n- {name: l, type: csharp, source: {path: f.dll}}",
        "NotImplementedError",
        "2:3",
        "Tool type ToolType.CSHARP is not supported yet.",
        None,
    );
    check(
        "nodes:\n- {name: l, type: python, source: {path: f.py}, activate: {when: '${inputs.a}'}}",
        "FlowDefinitionError",
        "2:59",
        "The definition of activate config for node l is incorrect. Please check your flow yaml and resubmit.",
        Some("'is' is missing"),
    );
}

#[test]
fn types_and_shapes() {
    check(
        "inputs:\n  a: {type: strng}",
        "ValueError",
        "2:13",
        "'strng' is not a valid ValueType",
        Some("did you mean 'string'?"),
    );
    check(
        "inputs:\n  a: {type: 5}",
        "ValueError",
        "2:13",
        "5 is not a valid ValueType",
        Some(
            "the types are int, double, bool, string, secret, prompt_template, list, object, file_path, image, \
             assistant_definition",
        ),
    );
    let (class, message, place, _) = problem("outputs:\n  a: {reference: x}");
    assert_eq!(
        (class.as_str(), message.as_str(), place.as_str()),
        ("KeyError", "'type'", "2:3")
    );
    let (class, message, place, help) = problem("nodes:\n- {type: python}");
    assert_eq!(
        (class.as_str(), message.as_str(), place.as_str()),
        ("KeyError", "'name'", "2:3")
    );
    assert_eq!(help.as_deref(), Some("node 0 needs a 'name'"));
    for (text, place, message) in [
        (
            "nodes: 5",
            "1:8",
            "The definition of the nodes is incorrect: expected a list, found a number. Please check your flow yaml \
             and resubmit.",
        ),
        (
            "- a",
            "1:1",
            "The definition of the flow is incorrect: expected a mapping with 'inputs' and 'nodes', found a list. \
             Please check your flow yaml and resubmit.",
        ),
        (
            "inputs: {a: string}",
            "1:13",
            "The definition of the input 'a' is incorrect: expected a mapping with a 'type', found text. Please check \
             your flow yaml and resubmit.",
        ),
        (
            "nodes:\n- name: n\n  source: f.py",
            "3:11",
            "The definition of the source of the node 'n' is incorrect: expected a mapping with 'type' and 'path' or \
             'tool', found text. Please check your flow yaml and resubmit.",
        ),
    ] {
        check(text, "FlowDefinitionError", place, message, None);
    }
}

#[test]
fn entries_of_flex_flows() {
    check(
        "entry: main",
        "InvalidFlexFlowEntry",
        "1:8",
        "Invalid entry 'main'.The entry should be in the format of '<module>:<function>'.",
        None,
    );
    check(
        "language: csharp\nentry: a:b",
        "NotImplementedError",
        "2:8",
        "Flex flows in C# are not supported.",
        None,
    );
    check(
        "entry: a:b\ncode: ../elsewhere",
        "InvalidFlowError",
        "1:8",
        "The code '../elsewhere' is not in the flow's folder.",
        Some("move the code into the flow's folder, or name it under additional_includes"),
    );
}

#[test]
fn run_time_errors() {
    for (error, class, message) in [
        (
            FlowError::unsupported_reference("n0", "outputz"),
            "UnsupportedReference",
            "Flow execution failed. The section 'outputz' of reference is currently unsupported. Please specify the \
             output part of the node 'n0'.",
        ),
        (
            FlowError::invalid_reference_property("n0", "l[1][0]"),
            "InvalidReferenceProperty",
            "Flow execution failed. Invalid property 'l[1][0]' when accessing the node 'n0'. Please check the property \
             and try again.",
        ),
        (
            FlowError::flow_input_not_found("x", ["a", "b"]),
            "InputNotFound",
            "Flow execution failed. The input 'x' is not found from flow inputs 'a, b'. Please check the input name \
             and try again.",
        ),
        (
            FlowError::no_inputs_in_batch_mode(),
            "InputNotFound",
            "The input for flow cannot be empty in batch mode. Please review your flow and provide valid inputs.",
        ),
    ] {
        assert_eq!(
            (error.class(), error.code(), error.to_string().as_str()),
            (class, "UserError", message)
        );
    }
}
