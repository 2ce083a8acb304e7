//! Reading YAML as promptflow's library does, within limits.

use flowcell_flow::{
    Flow, FlowError, FlowKind, Json, MAX_BYTES, MAX_DEPTH, MAX_NODES, MessageFormat, python_repr,
};
use proptest::prelude::*;

/// Python's repr of what a YAML text means, read as the default of an input.
fn read(yaml: &str) -> Result<String, FlowError> {
    let indented = yaml.replace('\n', "\n      ");
    let flow = Flow::parse(
        &format!("inputs:\n  x:\n    type: object\n    default:\n      {indented}\n"),
        "test",
    )?;
    Ok(python_repr(
        flow.inputs["x"].default.as_ref().unwrap_or(&Json::Null),
    ))
}

fn refusal(text: &str) -> (String, String) {
    let error = Flow::parse(text, "test").unwrap_err();
    (error.class().to_owned(), error.to_string())
}

#[test]
fn values() {
    for (yaml, repr) in [
        (
            "{a: 1, 'b': [1.0, yes, ~, '5']}",
            "{'a': 1, 'b': [1.0, 'yes', None, '5']}",
        ),
        ("a: 1\nb:\n- x\n- y: z", "{'a': 1, 'b': ['x', {'y': 'z'}]}"),
        ("|\n  two\n  lines", "'two\\nlines\\n'"),
        (">-\n  two\n  lines", "'two lines'"),
        ("\"t\\tab \\u00e9\"", "'t\\tab é'"),
        ("!!str 12", "'12'"),
        ("!!int '12'", "12"),
        ("!custom 12", "'12'"),
        ("!custom {a: 1}", "{'a': 1}"),
        ("2020-01-02", "'2020-01-02'"),
        (
            "{1: a, 1.5: b, true: c, ~: d, yes: e}",
            "{'1': 'a', '1.5': 'b', 'true': 'c', 'null': 'd', 'yes': 'e'}",
        ),
        ("[.inf, -.inf]", "[inf, -inf]"),
        ("[&x {a: 1}, *x, *x]", "[{'a': 1}, {'a': 1}, {'a': 1}]"),
        ("[&a [1], &b [*a, *a], *b]", "[[1], [[1], [1]], [[1], [1]]]"),
    ] {
        assert_eq!(read(yaml).unwrap(), repr, "{yaml}");
    }
}

#[test]
fn merge_keys() {
    for (yaml, repr) in [
        (
            "- &x {p: 1, q: 2}\n- {z: 0, <<: *x, p: 9}",
            "[{'p': 1, 'q': 2}, {'z': 0, 'p': 9, 'q': 2}]",
        ),
        (
            "- &x {p: 1}\n- &y {p: 2, q: 3}\n- {<<: [*x, *y]}",
            "[{'p': 1}, {'p': 2, 'q': 3}, {'p': 1, 'q': 3}]",
        ),
        ("{'<<': 1}", "{'<<': 1}"),
    ] {
        assert_eq!(read(yaml).unwrap(), repr, "{yaml}");
    }
    assert!(
        read("{<<: 5}")
            .unwrap_err()
            .to_string()
            .starts_with("'<<' takes a mapping")
    );
    assert!(
        read("{<<: [5]}")
            .unwrap_err()
            .to_string()
            .starts_with("'<<' takes mappings")
    );
}

#[test]
fn a_key_twice_is_told_as_ruamel_tells_it() {
    let text = "inputs:\n  a: {type: string, default: one}\n  a: {type: string, default: two}\n";
    let error = Flow::parse(text, "test").unwrap_err();
    assert_eq!(error.class(), "DuplicateKeyError");
    assert_eq!(
        error.to_string(),
        "while constructing a mapping\n  in \"<unicode string>\", line 2, column 3:\n      a: {type: string, default: \
         one}\n      ^ (line: 2)\nfound duplicate key \"a\" with value \"{'type': 'string', 'default': 'two'}\" \
         (original value: \"{'type': 'string', 'default': 'one'}\")\n  in \"<unicode string>\", line 3, column 3:\n      \
         a: {type: string, default: two}\n      ^ (line: 3)\n\nTo suppress this check see:\n    \
         https://yaml.dev/doc/ruamel.yaml/api/#Duplicate_keys\n"
    );
    assert_eq!(error.help(), Some("'a' is first on line 2"));
    assert_eq!(
        error.location().map(|place| (place.line, place.column)),
        Some((3, 3))
    );
}

#[test]
fn bad_syntax_has_a_place() {
    for (text, line, column) in [
        ("a: b: c", 1, 5),
        ("a: [1,\n", 2, 1),
        ("a: 1\n---\nb: 2\n", 2, 1),
        ("a: *x", 1, 4),
        ("a: &x [*x]", 1, 8),
        ("a: x\u{0}y", 1, 5),
        ("é: \u{7}", 1, 4),
        ("a: !!int x", 1, 4),
        ("? [a]\n: 1", 1, 3),
    ] {
        let error = Flow::parse(text, "test").unwrap_err();
        assert_eq!(error.class(), "YamlParseError", "{text:?}: {error}");
        let place = error.location().unwrap();
        assert_eq!(
            (place.line, place.column),
            (line, column),
            "{text:?}: {error}"
        );
        assert!(error.to_string().ends_with(&place.to_string()), "{error}");
    }
}

#[test]
fn limits() {
    let long = format!("description: {}", "x".repeat(MAX_BYTES));
    assert!(refusal(&long).1.contains("at most 1048576 are read"));
    let deep = |depth: usize| format!("tags: {}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(
        refusal(&deep(MAX_DEPTH))
            .1
            .starts_with("values nest more than 64 levels deep")
    );
    // The parser itself gives up here, before it yields the events.
    assert_eq!(refusal(&"[".repeat(MAX_BYTES)).0, "YamlParseError");
    assert!(!refusal(&deep(MAX_DEPTH - 1)).1.contains("nest"));
    let wide = format!("x: [{}]", "1,".repeat(MAX_NODES));
    assert!(refusal(&wide).1.starts_with("more than 100000 values"));
}

#[test]
fn alias_bombs_do_not_go_off() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert!(
        refusal(&laughs)
            .1
            .starts_with("more than 100000 values, aliases expanded")
    );

    let mut tower = format!("a0: &a0 {}{}\n", "[".repeat(40), "]".repeat(40));
    tower.push_str(&format!(
        "a1: &a1 {}*a0{}\n",
        "[".repeat(40),
        "]".repeat(40)
    ));
    assert!(
        refusal(&tower)
            .1
            .starts_with("values nest more than 64 levels deep")
    );

    let text = format!("a: &a {}\nb: [{}]", "x".repeat(500_000), "*a,".repeat(1000));
    assert!(
        refusal(&text)
            .1
            .starts_with("more than 16777216 bytes, aliases expanded")
    );
}

#[test]
fn the_whole_schema() {
    let text = r##"
$schema: https://azuremlschemas.azureedge.net/promptflow/latest/Flow.schema.json
id: some_id
name: my_flow
display_name: My flow
description: What it does
type: chat
language: python
message_format: openai-vision
tags: {owner: me, level: 3}
inputs:
  question: {type: string, is_chat_input: true, description: What to ask, enum: [a, 2]}
  chat_history: {type: list, default: []}
outputs:
  answer: {type: string, reference: "${llm.output}", is_chat_output: true, evaluation_only: true}
environment:
  image: base:1.0
  python_requirements_txt: requirements.txt
  conda_file: conda.yaml
environment_variables:
  T: true
  N: null
  F: 1.50
  L: [1, "é"]
  C: ${conn.key}
additional_includes:
- ../shared/util.py
- ../data
nodes:
- name: llm
  type: llm
  source: {type: code, path: p.jinja2}
  inputs: {question: "${inputs.question}", temperature: 0.5}
  connection: conn
  api: chat
  provider: AzureOpenAI
  module: promptflow.tools.aoai
  comment: a remark
  enable_cache: true
  activate: {when: "${inputs.question}", is: hello}
- {name: w, type: wasm, source: {type: code, path: w.wasm}, reduce: true}
"##;
    let flow = Flow::parse(text, "folder").unwrap();
    assert_eq!(flow.name, "my_flow");
    assert_eq!(flow.kind, FlowKind::Chat);
    assert_eq!(flow.message_format, MessageFormat::OpenaiVision);
    assert_eq!(flow.tags["level"], "3");
    assert_eq!(
        flow.inputs["chat_history"].default,
        Some(serde_json::json!([]))
    );
    assert_eq!(
        flow.inputs["question"].enum_values,
        [serde_json::json!("a"), serde_json::json!(2)]
    );
    assert!(flow.outputs["answer"].evaluation_only);
    let environment = flow.environment.clone().unwrap();
    assert_eq!(environment.image.as_deref(), Some("base:1.0"));
    assert_eq!(
        environment.python_requirements_txt.as_deref(),
        Some("requirements.txt")
    );
    assert_eq!(
        environment.others.keys().collect::<Vec<_>>(),
        ["conda_file"]
    );
    let variables: Vec<_> = flow
        .environment_variables
        .values()
        .map(String::as_str)
        .collect();
    assert_eq!(
        variables,
        ["True", "None", "1.5", "[1, \"\\u00e9\"]", "${conn.key}"]
    );
    assert_eq!(flow.additional_includes, ["../shared/util.py", "../data"]);
    let node = &flow.nodes[0];
    assert_eq!(node.connection.as_deref(), Some("conn"));
    assert_eq!(node.inputs["temperature"].to_string(), "0.5");
    assert!(node.enable_cache && !node.aggregation && flow.nodes[1].aggregation);
    assert_eq!(node.activate.as_ref().unwrap().is, "hello");
    assert_eq!((node.location().line, node.location().column), (30, 3));
    assert_eq!(flow.chat_problem(), None);
    assert_eq!(flow.lint(), []);
    assert_eq!(flow.validate().unwrap().aggregation, [1]);
}

#[test]
fn an_empty_file_is_a_flow_without_nodes() {
    for text in [
        "",
        "# nothing\n",
        "---\n",
        "{}",
        "inputs: []\noutputs:\nnodes: null",
    ] {
        let flow = Flow::parse(text, "folder").unwrap();
        assert_eq!((flow.name.as_str(), flow.nodes.len()), ("folder", 0));
        assert_eq!(flow.validate().unwrap().order, [0; 0]);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        if let Ok(flow) = Flow::parse(&text, "test") {
            let _ = flow.validate();
            let _ = flow.lint();
        }
    }

    #[test]
    fn no_text_near_a_flow_panics(pieces in prop::collection::vec(piece(), 0..40)) {
        if let Ok(mut flow) = Flow::parse(&pieces.concat(), "test") {
            let clean = flow.lint().iter().all(|finding| finding.severity > flowcell_flow::Severity::Error);
            let valid = flow.with_variant(None).and_then(|()| flow.validate().map(drop));
            // What lint lets pass, promptflow's own checks let pass.
            prop_assert!(!clean || valid.is_ok(), "{valid:?}");
        }
    }

    #[test]
    fn text_survives_quoting(text in "[ -~é😀\n\t]{0,30}") {
        let yaml = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(read(&yaml).unwrap(), python_repr(&Json::from(text)));
    }
}

/// Bits of which flows, and things close to flows, are made.
fn piece() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "inputs:",
        "outputs:",
        "nodes:",
        "node_variants:",
        "activate:",
        "source:",
        "variants:",
        "\n",
        "\n  ",
        "\n    ",
        "\n- ",
        "\n  - ",
        "name: ",
        "type: ",
        "python",
        "string",
        "a",
        "b",
        "${a.output}",
        "${inputs.a}",
        "'",
        "\"",
        "{",
        "}",
        "[",
        "]",
        ", ",
        ": ",
        "&x ",
        "*x",
        "<<: ",
        "!!str ",
        "|",
        "> ",
        "#",
        "default: ",
        "reference: ",
        "path: f.py",
        "aggregation: true",
        "use_variants: true",
        "when: ",
        "is: ",
        "---",
        "1",
        "~",
        "\t",
        "default_variant_id: a",
        "inputs: {a: {type: string}}\n",
        "nodes: [{name: a, type: python, source: {path: f}}]\n",
        "{name: b, type: python, source: {path: f}, inputs: {x: '${a.output}'}}",
    ])
    .prop_map(str::to_owned)
}
