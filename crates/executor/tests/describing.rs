//! Tools as an editor of flows needs them: those that load by their signature, the others by what is wrong.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use common::{HOST, options};
use flowcell_executor::{
    NodeTool, Workspace, WorkspaceLimits, check, describe, tool_meta, tool_meta_json,
};
use flowcell_tests::FlowFolder;
use serde_json::{Value, json};

const GOOD: &str = "from promptflow.core import tool\n@tool\ndef good(x: int, y: str = 'd'):\n    \"\"\"Says x.\"\"\"\n    return x\n";

fn node(name: &str, kind: &str, path: &str, inputs: &str) -> String {
    format!(
        "- name: {name}\n  type: {kind}\n  source: {{type: code, path: {path}}}\n  inputs: {inputs}\n"
    )
}

fn names(node: &NodeTool) -> Vec<&str> {
    let signature = node.tool.as_ref().unwrap();
    let inputs = signature.inputs.iter();
    inputs.map(|input| input.name.as_str()).collect()
}

fn classes(node: &NodeTool) -> Vec<&str> {
    let problems = node.problems.iter();
    problems.map(|problem| problem.class.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_tools_are_described_beside_good_ones() {
    let nodes = [
        node("good", "python", "good.py", "{x: 1}"),
        node("gone", "python", "gone.py", "{}"),
        node("import", "python", "import.py", "{}"),
        node("traps", "python", "traps.py", "{}"),
        node("none", "python", "none.py", "{}"),
        node("literal", "python", "good.py", "{x: abc}"),
        node("inputs", "python", "good.py", "{z: 1}"),
        node("prompt", "prompt", "good.jinja2", "{}"),
        node("template", "prompt", "bad.jinja2", "{}"),
        node("reserved", "prompt", "reserved.jinja2", "{}"),
        node("component", "wasm", "bad.wasm", "{}"),
        node("outside", "python", "../outside.py", "{}"),
        node("llm", "llm", "good.jinja2", "{}"),
        node("last", "python", "good.py", "{x: 1}"),
    ];
    let flow = FlowFolder::new()
        .file(
            "flow.dag.yaml",
            format!("inputs: {{}}\noutputs: {{}}\nnodes:\n{}", nodes.concat()),
        )
        .file("good.py", GOOD)
        .file("import.py", "import nosuch")
        .file("traps.py", "import os; os.abort()")
        .file("none.py", "x = 1")
        .file(
            "good.jinja2",
            "{# Greets #}\nhello {{name}} ![image]({{picture}})",
        )
        .file("bad.jinja2", "hello\n{{name")
        .file("reserved.jinja2", "{{template}}")
        .file("bad.wasm", "no component")
        .file("../outside.py", GOOD);
    let workspace = Workspace::copy_of(&flow.path(), &WorkspaceLimits::default()).unwrap();
    let described = describe(&HOST, &workspace, &options()).await.unwrap();
    let of = |name: &str| described.iter().find(|node| node.node == name).unwrap();

    for name in ["good", "last"] {
        let signature = of(name).tool.as_ref().unwrap();
        assert_eq!(signature.description, "Says x.");
        assert_eq!(names(of(name)), ["x", "y"]);
        assert_eq!(signature.inputs[0].types, ["int"]);
        assert!(signature.inputs[0].required && !signature.inputs[1].required);
        assert_eq!(signature.inputs[1].default.as_deref(), Some("\"d\""));
        assert!(of(name).problems.is_empty());
    }
    for (name, class) in [
        ("gone", "InvalidSource"),
        ("import", "PythonLoadError"),
        ("traps", "ProcessCrashError"),
        ("none", "NoToolDefined"),
        ("template", "ResolveToolError"),
        ("component", "InvalidSource"),
        ("outside", "InvalidSource"),
    ] {
        let problem = of(name).tool.as_ref().unwrap_err();
        assert_eq!(problem.class, class, "{name}: {problem:?}");
        assert!(problem.location.is_some());
        assert_eq!(classes(of(name)), [class], "{name}");
    }
    // The tool is known, what the node gives it is wrong.
    assert_eq!(names(of("literal")), ["x", "y"]);
    assert_eq!(classes(of("literal")), ["ResolveToolError"]);
    assert_eq!(names(of("inputs")), ["x", "y"]);
    assert_eq!(
        classes(of("inputs")),
        ["ToolSignatureMismatch", "ToolSignatureMismatch"]
    );
    assert_eq!(names(of("prompt")), ["name", "picture"]);
    let prompt = of("prompt").tool.as_ref().unwrap();
    assert_eq!(prompt.description, "Greets");
    assert_eq!(prompt.inputs[1].types, ["image"]);
    assert_eq!(names(of("reserved")), ["template"]);
    assert_eq!(classes(of("reserved")), ["ResolveToolError"]);
    // Not a problem of the flow's.
    let llm = of("llm").tool.as_ref().unwrap_err();
    assert_eq!(llm.class, "ConnectionNotFoundError");
    assert!(of("llm").problems.is_empty());

    let checked = check(&HOST, &workspace, &options()).await.unwrap();
    for problem in described.iter().flat_map(|node| &node.problems) {
        assert!(checked.contains(problem), "{problem:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_that_is_not_there_is_an_error() {
    let flow = FlowFolder::python(GOOD, &[("x", "int")]);
    let workspace = Workspace::copy_of(&flow.path(), &WorkspaceLimits::default()).unwrap();
    let mut options = options();
    options.variant = Some("${tool.other}".parse().unwrap());
    let error = describe(&HOST, &workspace, &options).await.unwrap_err();
    assert_eq!(error.class, "InvalidFlowError");
}

/// Recorded from promptflow 1.18.5 (`generate_tool_meta`), without an Enum's members.
#[tokio::test(flavor = "multi_thread")]
async fn files_are_described_as_promptflow_does() {
    let flow = FlowFolder::new()
        .file("flow.dag.yaml", "inputs: {}\noutputs: {}\nnodes: []\n")
        .file("a.py", "from promptflow.core import tool\nfrom enum import Enum\nfrom promptflow.connections import CustomConnection\nfrom typing import Union, Optional\nclass C(Enum):\n    A = 'x'\n    B = 'y'\n@tool\ndef my(a: int, b: str = 'd', c: C = C.A, d: Optional[float] = None, e=3, f: list = [1], conn: CustomConnection = None, z: bool=False, **kw) -> str:\n    \"\"\"Doc here.\n\n    more\n    \"\"\"\n    return 'x'\n")
        .file("p.jinja2", "{# A description #}\nhello {{name}} ![image]({{pic}}) {{b.c}}\n")
        .file("sub/cls.py", "from promptflow.core import tool, ToolProvider\nclass P(ToolProvider):\n    def __init__(self, k: str, n: int = 2):\n        self.k=k\n    @tool\n    def run(self, q: str):\n        return q\n")
        .file("bad.jinja2", "hello\n{{name\n")
        .file("none.py", "x = 1")
        .file("latin.jinja2", b"\xe9");
    let workspace = Workspace::copy_of(&flow.path(), &WorkspaceLimits::default()).unwrap();
    let files = [
        ("a.py", "python"),
        ("p.jinja2", "prompt"),
        ("sub/cls.py", "python"),
        ("bad.jinja2", "llm"),
        ("none.py", "python"),
        ("gone.py", "python"),
        ("../gone.py", "python"),
        ("latin.jinja2", "prompt"),
        ("a.cs", "csharp"),
        ("a.x", "weird"),
        ("a.y", ""),
    ];
    let mut with_cs = files;
    // promptflow looks for the file first.
    with_cs[8].0 = "none.py";
    with_cs[4].0 = "sub/../none.py";
    let described = tool_meta(&HOST, &workspace, &options(), &with_cs)
        .await
        .unwrap();
    let meta = tool_meta_json(&described);
    let one = |value_type: &str| json!({ "type": [value_type] });
    assert_eq!(
        meta["tools"],
        json!({
            "a.py": {
                "name": "a", "type": "python", "source": "a.py", "function": "my",
                "description": "Doc here.\n\nmore", "enable_kwargs": true,
                "inputs": {
                    "a": one("int"),
                    "b": { "type": ["string"], "default": "d" },
                    "c": { "type": ["string"], "default": "x" },
                    "d": one("double"),
                    "e": { "type": ["int"], "default": "3" },
                    "f": { "type": ["list"], "default": "[1]" },
                    "conn": one("CustomConnection"),
                    "z": { "type": ["bool"], "default": "False" },
                },
            },
            "p.jinja2": {
                "name": "p", "type": "prompt", "source": "p.jinja2", "description": "A description",
                "inputs": { "name": one("string"), "pic": one("image"), "b": one("string") },
            },
            "sub/cls.py": {
                "name": "cls", "type": "python", "source": "sub/cls.py",
                "class_name": "P", "function": "run",
                "inputs": { "k": one("string"), "n": { "type": ["int"], "default": "2" }, "q": one("string") },
            },
        })
    );
    let error = |path: &str| {
        let error = &meta["errors"][path]["error"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut inner = &error["innerError"];
        while inner["innerError"].is_object() {
            inner = &inner["innerError"];
        }
        (
            text(&error["code"]),
            text(&inner["code"]),
            text(&error["message"]),
        )
    };
    for (path, code, class, words) in [
        (
            "bad.jinja2",
            "UserError",
            "JinjaParsingError",
            "Generate tool meta failed for llm tool. Jinja parsing failed at line 2: (TemplateSyntaxError)",
        ),
        (
            "sub/../none.py",
            "UserError",
            "NoToolDefined",
            "No tool found in the python script.",
        ),
        (
            "gone.py",
            "UserError",
            "MetaFileNotFound",
            "Generate tool meta failed for python tool. Meta file 'gone.py' can not be found.",
        ),
        (
            "../gone.py",
            "UserError",
            "MetaFileNotFound",
            "'../gone.py' can not be found.",
        ),
        (
            "latin.jinja2",
            "UserError",
            "MetaFileReadError",
            "Read meta file 'latin.jinja2' failed",
        ),
        (
            "none.py",
            "UserError",
            "NotSupported",
            "Generate tool meta failed. The type 'csharp' is currently unsupported. Please choose from available types: python,llm,prompt and try again.",
        ),
        (
            "a.x",
            "SystemError",
            "ValueError",
            "'weird' is not a valid ToolType",
        ),
        (
            "a.y",
            "SystemError",
            "NoToolTypeDefined",
            "Tool type not defined for source 'a.y'.",
        ),
    ] {
        let (found_code, found_class, message) = error(path);
        assert_eq!(
            (found_code.as_str(), found_class.as_str()),
            (code, class),
            "{path}: {message}"
        );
        assert!(message.contains(words), "{path}: {message}");
    }
}
