//! What is wrong with a flow or its inputs is said clearly: which file, what, and the way out; and nothing is left behind.
//!
//! `FlowFolder::test` checks, for every case, the exit code, that standard output holds one JSON object, and that the
//! flow's folder is as it was.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fmt::Write as _;

use flowcell_tests::{Answer, FlowFolder, flowcell};
use serde_json::json;

const ECHO: &str = "from promptflow import tool\n@tool\ndef echo(x): return x\n";

fn flow_file(yaml: impl AsRef<[u8]>) -> FlowFolder {
    FlowFolder::new().file("flow.dag.yaml", yaml)
}

/// A flow whose only node has this type and this file.
fn node(kind: &str, path: &str) -> FlowFolder {
    flow_file(format!(
        "inputs: {{}}\noutputs:\n  out:\n    type: string\n    reference: ${{tool.output}}\nnodes:\n- name: tool\n  type: {kind}\n  source:\n    type: code\n    path: {path}\n  inputs: {{}}\n"
    ))
}

// The folder

#[test]
fn there_is_no_such_folder() {
    let answer = Answer::of(flowcell([
        "flow",
        "test",
        "--flow",
        "/no/such/folder",
        "--output",
        "json",
    ]));
    answer.assert_failure(
        "UserErrorException",
        &["/no/such/folder", "give the folder"],
    );
}

#[test]
fn a_file_is_no_flow() {
    let flow = FlowFolder::new().file("notes.txt", "hello");
    let path = flow.path().join("notes.txt");
    let answer = Answer::of(flowcell([
        "flow",
        "test",
        "--output",
        "json",
        "--flow",
        path.to_str().unwrap(),
    ]));
    answer.assert_failure("UserErrorException", &["notes.txt", "yaml"]);
}

#[test]
fn a_folder_without_a_flow() {
    let answer = FlowFolder::new().file("readme.md", "").test(&[]);
    answer.assert_failure(
        "UserErrorException",
        &["/flow", "flow.dag.yaml", "flowcell flow init"],
    );
}

#[test]
fn two_flow_files() {
    let answer = flow_file("nodes: []")
        .file("flow.dag.yml", "nodes: []")
        .test(&[]);
    answer.assert_failure(
        "ValidationException",
        &["flow.dag.yaml, flow.dag.yml", "Please specify a file"],
    );
}

// The flow file

#[test]
fn yaml_that_does_not_parse() {
    let answer = flow_file("inputs: {}\nnodes: [1,\noutputs: }\n").test(&[]);
    answer.assert_failure("YamlParseError", &["flow.dag.yaml", "line 3 column "]);
}

#[test]
fn a_flow_file_that_is_not_utf8() {
    let answer = flow_file(b"inputs: \xff\n").test(&[]);
    answer.assert_failure(
        "UnicodeDecodeError",
        &["flow.dag.yaml", "byte at 8", "UTF-8"],
    );
}

#[test]
fn a_flow_file_without_end() {
    let answer = flow_file("# ".to_owned() + &"x".repeat(2 << 20)).test(&[]);
    answer.assert_failure("ValidationException", &["flow.dag.yaml", "1048576"]);
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
    let answer = flow_file(yaml).test(&[]);
    answer.assert_failure(
        "YamlParseError",
        &["flow.dag.yaml", "100000 values", "line "],
    );
}

#[test]
fn nesting_without_end() {
    for yaml in [
        format!("x: {}\n", "[".repeat(200_000)),
        format!("x: {}1{}\n", "{a: ".repeat(5_000), "}".repeat(5_000)),
        (0..2_000).fold(String::new(), |yaml, depth| {
            yaml + &" ".repeat(depth.min(400)) + "a:\n"
        }),
        format!(
            "inputs:\n  x:\n    type: object\n    default: {}{}\nnodes: []\n",
            "[".repeat(70),
            "]".repeat(70)
        ),
    ] {
        let answer = flow_file(yaml).test(&[]);
        answer.assert_failure("YamlParseError", &["flow.dag.yaml", "line "]);
    }
}

#[test]
fn a_cycle() {
    let answer = flow_file(
        "nodes:\n- {name: a, type: python, source: {type: code, path: t.py}, inputs: {x: '${b.output}'}}\n\
         - {name: b, type: python, source: {type: code, path: t.py}, inputs: {x: '${a.output}'}}\n",
    )
    .file("t.py", ECHO)
    .test(&[]);
    answer.assert_failure("NodeCircularDependency", &["circular", "a", "b"]);
}

#[test]
fn references_to_nothing() {
    for (reference, class, word) in [
        ("${gone.output}", "NodeReferenceNotFound", "'gone'"),
        ("${inputs.gone}", "InputReferenceNotFound", "'gone'"),
    ] {
        let answer = flow_file(format!(
            "nodes:\n- {{name: a, type: python, source: {{type: code, path: t.py}}, inputs: {{x: '{reference}'}}}}\n"
        ))
        .file("t.py", ECHO)
        .test(&[]);
        answer.assert_failure(class, &[word, "'a'"]);
    }
}

// Tool files

#[test]
fn tool_files_outside_of_the_flow() {
    for (kind, class) in [
        ("python", "InvalidSource"),
        ("prompt", "ResolveToolError"),
        ("wasm", "InvalidSource"),
    ] {
        for path in [
            "../outside.py",
            "sub/../../outside.py",
            "/etc/passwd",
            "/flow/inside.py",
        ] {
            let answer = node(kind, path)
                .file("../outside.py", ECHO)
                .file("inside.py", ECHO)
                .file("sub/x", "")
                .test(&[]);
            answer.assert_failure(class, &[path, "flow's folder"]);
        }
    }
}

#[test]
fn a_tool_file_that_is_not_there() {
    for kind in ["python", "wasm", "prompt"] {
        let answer = node(kind, "gone.file").test(&[]);
        assert!(
            ["InvalidSource", "ResolveToolError"].contains(&answer.class()),
            "{answer:#?}"
        );
        assert!(answer.message().contains("gone.file"), "{answer:#?}");
    }
}

#[test]
fn a_link_out_of_the_flow_is_followed_and_said() {
    let flow = node("python", "shared.py")
        .file(
            "../elsewhere/shared.py",
            "from promptflow import tool\n@tool\ndef t(): return 'linked'\n",
        )
        .link("shared.py", "../elsewhere/shared.py");
    let answer = flow.test(&[]);
    assert_eq!(answer.outputs(), &json!({"out": "linked"}));
    for word in ["shared.py is a link to", "outside of the flow"] {
        assert!(answer.process.stderr.contains(word), "{answer:#?}");
    }
}

#[test]
fn links_in_a_circle_end() {
    let flow = FlowFolder::python(ECHO, &[("x", "string")])
        .file("sub/file", "")
        .link("sub/up", "..");
    flow.test(&["--inputs", "x=1"]).assert_failure(
        "ValidationException",
        &["folders deep", "link that leads back"],
    );
    let flow = FlowFolder::python(ECHO, &[("x", "string")])
        .link("a", "b")
        .link("b", "a");
    let answer = flow.test(&["--inputs", "x=1"]);
    assert_eq!(answer.outputs(), &json!({"out": "1"}));
    assert!(
        answer.process.stderr.contains("leads nowhere"),
        "{answer:#?}"
    );
}

#[test]
fn a_folder_that_is_too_large() {
    let flow = (0..5_100).fold(FlowFolder::python(ECHO, &[]), |flow, index| {
        flow.file(&format!("d/{index}"), "")
    });
    flow.test(&[]).assert_failure(
        "ValidationException",
        &["too large", "5000 files", "move what"],
    );
}

#[test]
fn a_python_file_that_does_not_import() {
    let answer = FlowFolder::python("import helper\n", &[])
        .file("helper.py", "def load():\n    return {}['key']\nload()\n")
        .test(&[]);
    answer.assert_failure("PythonLoadError", &["flow/tool.py", "(KeyError) 'key'"]);
    let traceback = answer.json["error"]["traceback"].as_str().unwrap();
    for frame in [
        "tool.py\", line 1",
        "helper.py\", line 3",
        "helper.py\", line 2, in load",
    ] {
        assert!(traceback.contains(frame), "{traceback}");
    }
    for ours in ["flowcell_runner", "importlib", "componentize", "wit_world"] {
        assert!(!traceback.contains(ours), "{traceback}");
    }
}

#[test]
fn python_files_that_are_no_python() {
    let answer = FlowFolder::python("def broken(:\n", &[]).test(&[]);
    answer.assert_failure("PythonLoadError", &["tool.py", "SyntaxError", "line 1"]);
    let answer = FlowFolder::python("", &[])
        .file("tool.py", b"x = '\xff'\n")
        .test(&[]);
    answer.assert_failure("PythonLoadError", &["tool.py", "SyntaxError"]);
    let answer = FlowFolder::python("", &[])
        .file("tool.py", b"\0\0\0")
        .test(&[]);
    answer.assert_failure("PythonLoadError", &["tool.py", "SyntaxError"]);
}

#[test]
fn an_exception_of_a_tool_shows_the_users_frames_only() {
    let code = "from promptflow import tool\ndef inner():\n    raise ValueError('no good')\n@tool\ndef t():\n    inner()\n";
    let answer = FlowFolder::python(code, &[]).test(&[]);
    answer.assert_failure("ToolExecutionError", &["'tool'", "(ValueError) no good"]);
    let traceback = answer.json["error"]["traceback"].as_str().unwrap();
    assert_eq!(traceback.matches("File \"").count(), 2, "{traceback}");
    assert!(
        traceback.contains("tool.py\", line 3, in inner"),
        "{traceback}"
    );
}

#[test]
fn templates_that_cannot_be_rendered() {
    let answer = node("prompt", "p.jinja2")
        .file("p.jinja2", b"\xffhello")
        .test(&[]);
    answer.assert_failure("ResolveToolError", &["p.jinja2", "UTF-8"]);
    let answer = node("prompt", "p.jinja2")
        .file("p.jinja2", "line\n{% if %}")
        .test(&[]);
    answer.assert_failure("ResolveToolError", &["'tool'", "line 2"]);
    let answer = node("prompt", "p.jinja2")
        .file("p.jinja2", "x".repeat(5 << 20))
        .test(&[]);
    answer.assert_failure("ResolveToolError", &["p.jinja2", "4194304"]);
}

// Components

fn component(bytes: &[u8]) -> Answer {
    node("wasm", "t.wasm").file("t.wasm", bytes).test(&[])
}

#[test]
fn a_core_module_is_no_component() {
    let answer = component(&wat::parse_str("(module (func (export \"invoke\")))").unwrap());
    answer.assert_failure(
        "InvalidSource",
        &["t.wasm", "core WebAssembly module", "wasm32-wasip2"],
    );
}

#[test]
fn files_that_are_no_webassembly() {
    for bytes in [&b""[..], b"hello", b"\0as", b"\x7fELF\x02\x01\x01"] {
        component(bytes).assert_failure("InvalidSource", &["t.wasm", "not WebAssembly"]);
    }
}

#[test]
fn damaged_components() {
    let whole = wat::parse_str(
        "(component (core module $m (memory 1) (func (export \"f\") (result i32) i32.const 7)) (core instance $i (instantiate $m)))",
    )
    .unwrap();
    for cut in [9, whole.len() / 2, whole.len() - 1] {
        component(&whole[..cut])
            .assert_failure("InvalidSource", &["t.wasm", "damaged", "build it again"]);
    }
    let mut flipped = whole;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    component(&flipped).assert_failure("InvalidSource", &["t.wasm", "damaged"]);
}

#[test]
fn components_that_import_what_is_not_given() {
    let wat = "(component
        (import \"evil:host/shell@1.0.0\" (instance (export \"run\" (func))))
        (import \"wasi:keyvalue/store@0.2.0\" (instance)))";
    component(&wat::parse_str(wat).unwrap()).assert_failure(
        "InvalidSource",
        &[
            "t.wasm",
            "evil:host/shell@1.0.0",
            "wasi:keyvalue/store@0.2.0",
        ],
    );
}

#[test]
fn a_component_without_tools() {
    component(&wat::parse_str("(component)").unwrap()).assert_failure(
        "InvalidSource",
        &["t.wasm", "flowcell:tool/tool", "flowcell:tool@0.1.0"],
    );
}

#[test]
fn a_component_whose_tool_interface_is_another() {
    let wat = "(component (instance $i) (export \"flowcell:tool/tool@0.1.0\" (instance $i)))";
    component(&wat::parse_str(wat).unwrap()).assert_failure(
        "InvalidSource",
        &["t.wasm", "flowcell:tool@0.1.0", "describe"],
    );
    let wat = "(component (import \"flowcell:tool/host@0.1.0\" (instance (export \"log\" (func (param \"x\" u64))))))";
    component(&wat::parse_str(wat).unwrap())
        .assert_failure("InvalidSource", &["t.wasm", "flowcell:tool/host"]);
}

// Inputs

fn echo(kind: &str) -> FlowFolder {
    FlowFolder::python(ECHO, &[("x", kind)])
}

#[test]
fn inputs_of_the_wrong_type() {
    for (kind, value) in [
        ("int", json!("abc")),
        ("double", json!([1])),
        ("bool", json!("perhaps")),
        ("list", json!({})),
    ] {
        let flow = echo(kind);
        let file = flow.inputs(&json!({ "x": value }));
        flow.test(&["--inputs-file", &file])
            .assert_failure("InputTypeError", &["'x'", kind]);
    }
}

#[test]
fn inputs_that_are_missing_or_unknown() {
    echo("int")
        .test(&[])
        .assert_failure("UserErrorException", &["Required input(s)", "'x'"]);
    echo("int")
        .test(&["--inputs", "x"])
        .assert_failure("UserErrorException", &["name=value", "'x'"]);
}

fn inputs_file(content: impl AsRef<[u8]>) -> Answer {
    let flow = echo("object").file("../in.json", content);
    let file = flow.path().join("../in.json");
    flow.test(&["--inputs-file", file.to_str().unwrap()])
}

#[test]
fn inputs_files_that_cannot_be_read() {
    inputs_file("{\"x\": \"\u{fffd}")
        .assert_failure("UserErrorException", &["in.json", "line 1 column"]);
    inputs_file(b"{\"x\": \"\xff\"}")
        .assert_failure("UserErrorException", &["in.json", "not UTF-8", "byte at 7"]);
    inputs_file("[1, 2]").assert_failure("UserErrorException", &["in.json", "not a JSON object"]);
    inputs_file("{\"x\": NaN}")
        .assert_failure("UserErrorException", &["in.json", "NaN", "as text"]);
    inputs_file(format!(
        "{{\"x\": {}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    ))
    .assert_failure("UserErrorException", &["in.json", "recursion limit"]);
    echo("int")
        .test(&["--inputs-file", "/no/such.json"])
        .assert_failure("UserErrorException", &["/no/such.json"]);
    echo("int")
        .test(&["--inputs-file", "/"])
        .assert_failure("UserErrorException", &["cannot read /"]);
}

#[test]
fn lone_surrogates_in_inputs() {
    inputs_file("{\"x\": \"a\\ud800b\"}")
        .assert_failure("UserErrorException", &["in.json", "surrogate"]);
    inputs_file("{\"x\": \"\\ud83d\\ude00\"}").outputs();
}

#[test]
fn lone_surrogates_in_outputs_are_replaced() {
    let code = "from promptflow import tool\n@tool\ndef t(): return {'k\\udc80': ['a\\ud800b']}\n";
    let answer = FlowFolder::python(code, &[]).test(&[]);
    assert_eq!(answer.outputs(), &json!({"out": {"k?": ["a?b"]}}));
    let code = "from promptflow import tool\n@tool\ndef t(): print('\\ud800'); raise ValueError('a\\ud800b')\n";
    let answer = FlowFolder::python(code, &[]).test(&[]);
    answer.assert_failure("ToolExecutionError", &["(ValueError) a?b"]);
}

#[test]
fn nan_as_text_reaches_the_tool() {
    let code = "from promptflow import tool\n@tool\ndef t(x: float): return [x, str(x), -x * 2 if x == x else 'not a number']\n";
    let flow = FlowFolder::python(code, &[("x", "double")]);
    assert_eq!(
        flow.test(&["--inputs", "x=nan"]).outputs(),
        &json!({"out": [{"$float": "nan"}, "nan", "not a number"]})
    );
    assert_eq!(
        flow.test(&["--inputs", "x=inf"]).outputs(),
        &json!({"out": [{"$float": "inf"}, "inf", {"$float": "-inf"}]})
    );
}

#[test]
fn wrong_arguments_name_what_is_known() {
    let flow = echo("int");
    flow.test(&["--node", "gone"])
        .assert_failure("UserErrorException", &["gone"]);
    flow.test(&["--variant", "bogus"])
        .assert_failure("UserErrorException", &["bogus", "${"]);
    flow.test(&["--image", "gone:1.0"])
        .assert_failure("BundleError", &["gone:1.0", "promptflow:0.1.0"]);
    flow.test(&["--environment-variables", "novalue"])
        .assert_failure("UserErrorException", &["name=value", "novalue"]);
}
