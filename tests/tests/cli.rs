//! The command line, as people and scripts use it. What people read is compared with `snapshots/`, with paths, digests
//! and durations replaced; `INSTA_UPDATE=always cargo test -p flowcell-tests --test cli` writes them anew.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::sync::LazyLock;

use flowcell_tests::{Answer, Finished, FlowFolder, flowcell};
use regex::Regex;
use serde_json::{Value, json};

/// Everything that a person sees, without what differs from machine to machine.
fn seen(finished: &Finished, flow: Option<&FlowFolder>) -> String {
    static VARYING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"sha256:[0-9a-f]{64}", "sha256:[digest]"),
            (r"\b[0-9a-f]{12}\b", "[digest]"),
            (r"\d+ KiB", "[size] KiB"),
            (r"(?m)^.*(compiling|unpacking) .* \.\.\.\n", ""),
        ]
        .into_iter()
        .map(|(pattern, name)| (Regex::new(pattern).unwrap(), name))
        .collect()
    });
    let mut text = format!(
        "exit: {}\n--- stdout\n{}--- stderr\n{}",
        finished.code.unwrap(),
        finished.stdout,
        finished.stderr
    );
    if let Some(flow) = flow {
        text = text.replace(flow.path().to_str().unwrap(), "[flow]");
    }
    for (pattern, name) in &*VARYING {
        text = pattern.replace_all(&text, *name).into_owned();
    }
    text
}

fn on(flow: &FlowFolder, command: &[&str], more: &[&str]) -> Finished {
    let path = flow.path();
    let mut arguments = vec!["flow"];
    arguments.extend(command);
    arguments.push(path.to_str().unwrap());
    arguments.extend(more);
    flowcell(arguments)
}

fn test(flow: &FlowFolder, more: &[&str]) -> Finished {
    on(flow, &["test", "--flow"], more)
}

fn validate(flow: &FlowFolder, more: &[&str]) -> Finished {
    let before = flow.snapshot();
    let ended = on(flow, &["validate", "--source"], more);
    assert_eq!(flow.snapshot(), before, "validate has changed the folder");
    ended
}

/// Two nodes, two variants, an environment variable, and something printed.
fn greeting() -> FlowFolder {
    FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs:\n  name:\n    type: string\n    default: world\n  times:\n    type: int\n    default: 1\noutputs:\n  greeting:\n    type: string\n    reference: ${shout.output}\nnodes:\n\
             - name: greet\n  use_variants: true\n\
             - name: shout\n  type: python\n  source:\n    type: code\n    path: shout.py\n  inputs:\n    text: ${greet.output}\n    times: ${inputs.times}\n\
             node_variants:\n  greet:\n    default_variant_id: plain\n    variants:\n\
             \x20     plain:\n        node:\n          type: prompt\n          source: {type: code, path: plain.jinja2}\n          inputs: {name: '${inputs.name}'}\n\
             \x20     warm:\n        node:\n          type: prompt\n          source: {type: code, path: warm.jinja2}\n          inputs: {name: '${inputs.name}'}\n",
        )
        .file("plain.jinja2", "Hello {{name}}")
        .file("warm.jinja2", "Dearest {{name}}")
        .file(
            "shout.py",
            "import os\nfrom promptflow import tool\n@tool\ndef shout(text: str, times: int):\n    print('shouting', text)\n    return (text + os.environ.get('MARK', '!')) * times\n",
        )
}

// flow test

#[test]
fn a_flow_runs() {
    let flow = greeting();
    insta::assert_snapshot!(seen(&test(&flow, &[]), Some(&flow)));
}

#[test]
fn a_failing_flow_shows_the_users_frames() {
    let flow = FlowFolder::python(
        "from promptflow import tool\n@tool\ndef t(x: int):\n    print('x is', x)\n    return 1 / x\n",
        &[("x", "int")],
    );
    insta::assert_snapshot!(seen(&test(&flow, &["--inputs", "x=0"]), Some(&flow)));
}

#[test]
fn a_flow_that_does_not_parse_names_its_place() {
    let flow = FlowFolder::new().file("flow.dag.yaml", "nodes:\n- name: [\n");
    insta::assert_snapshot!(seen(&test(&flow, &[]), Some(&flow)));
}

#[test]
fn inputs_variants_environment_variables_and_isolation() {
    let flow = greeting();
    let out = |more: &[&str]| flow.test(more).outputs()["greeting"].clone();
    assert_eq!(
        out(&["--inputs", "name=a=b", "times=2"]),
        "Hello a=b!Hello a=b!"
    );
    assert_eq!(out(&["--variant", "${greet.warm}"]), "Dearest world!");
    assert_eq!(out(&["--environment-variables", "MARK=?"]), "Hello world?");
    assert_eq!(out(&["--isolation", "call"]), "Hello world!");
    let file = flow.inputs(&json!({"name": "file", "times": 2}));
    assert_eq!(
        out(&["--inputs-file", &file, "--inputs", "times=1"]),
        "Hello file!"
    );
}

#[test]
fn inputs_of_a_jsonl_file_are_its_first_line() {
    let flow = greeting().file(
        "../lines.jsonl",
        "{\"name\": \"one\"}\n{\"name\": \"two\"}\n",
    );
    let lines = flow.path().join("../lines.jsonl");
    let answer = flow.test(&["--inputs-file", lines.to_str().unwrap()]);
    assert_eq!(answer.outputs()["greeting"], "Hello one!");
}

#[test]
fn a_flow_can_be_given_by_its_file() {
    let flow = greeting();
    let file = flow.path().join("flow.dag.yaml");
    let ended = flowcell([
        "flow",
        "test",
        "--output",
        "json",
        "--flow",
        file.to_str().unwrap(),
    ]);
    assert_eq!(Answer::of(ended).outputs()["greeting"], "Hello world!");
}

#[test]
fn a_single_node() {
    let flow = greeting();
    let answer = flow.test(&["--node", "shout", "--inputs", "greet.output=Hey", "times=2"]);
    assert_eq!(answer.outputs(), "Hey!Hey!");
    assert_eq!(answer.printed("shout"), "shouting Hey\n");
    let names: Vec<&Value> = answer.json["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["name"])
        .collect();
    assert_eq!(names, ["shout"]);
    flow.test(&["--node", "gone"])
        .assert_failure("UserErrorException", &["Cannot find gone in the flow"]);
}

#[test]
fn the_answer_has_each_node_with_what_it_printed() {
    let answer = greeting().test(&[]);
    assert_eq!(answer.json["error"], Value::Null);
    assert_eq!(answer.json["metrics"], json!({}));
    let nodes = answer.json["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    for (node, name) in nodes.iter().zip(["greet", "shout"]) {
        assert_eq!(node["name"], name);
        assert_eq!(node["status"], "Completed");
        assert!(node["duration_ms"].as_f64().unwrap() >= 0.0);
    }
    assert_eq!(answer.printed("shout"), "shouting Hello world\n");
}

#[test]
fn module_globals_live_as_long_as_the_isolation_says() {
    let flow = FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "outputs: {out: {type: int, reference: '${b.output}'}}\nnodes:\n\
             - {name: a, type: python, source: {type: code, path: a.py}, inputs: {}}\n\
             - {name: b, type: python, source: {type: code, path: b.py}, inputs: {x: '${a.output}'}}\n",
        )
        .file("shared.py", "count = 0\n")
        .file("a.py", "import shared\nfrom promptflow import tool\n@tool\ndef a():\n    shared.count += 1\n    return shared.count\n")
        .file("b.py", "import shared\nfrom promptflow import tool\n@tool\ndef b(x):\n    shared.count += 1\n    return shared.count\n");
    // Nodes of one line that run one after the other share an instance, as in promptflow's process.
    assert_eq!(flow.test(&[]).outputs()["out"], 2);
}

#[test]
fn wrong_usage_says_what_is_right() {
    for (arguments, word) in [
        (&["flow", "test"][..], "--flow"),
        (
            &["flow", "test", "--flow", ".", "--timeout", "0"],
            "above 0",
        ),
        (
            &["flow", "test", "--flow", ".", "--memory", "5000"],
            "16..=1024",
        ),
        (
            &["flow", "test", "--flow", ".", "--isolation", "none"],
            "session, call",
        ),
        (&["bundle", "show", "../../etc"], "image reference"),
        (&["bundle", "show", "promptflow"], "name:version"),
    ] {
        let ended = flowcell(arguments);
        assert_ne!(ended.code, Some(0), "{ended:#?}");
        assert!(ended.stderr.contains(word), "{ended:#?}");
        assert_eq!(ended.stdout, "");
    }
}

// flow init

#[test]
fn new_flows_run_and_are_valid() {
    for kind in ["standard", "chat", "evaluation"] {
        let flow = FlowFolder::new();
        let ended = on(&flow, &["init", "--flow"], &["--type", kind]);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert!(
            ended.stdout.contains("flowcell flow test --flow"),
            "{ended:#?}"
        );
        flow.test(&[]).outputs();
        assert_eq!(validate(&flow, &[]).code, Some(0));
    }
}

#[test]
fn init_overwrites_nothing() {
    let flow = FlowFolder::new().file("hello.py", "mine");
    let before = flow.snapshot();
    let ended = on(&flow, &["init", "--flow"], &[]);
    assert_eq!(flow.snapshot(), before);
    insta::assert_snapshot!(seen(&ended, Some(&flow)));
}

// flow validate

#[test]
fn a_valid_flow() {
    let flow = greeting();
    insta::assert_snapshot!(seen(&validate(&flow, &[]), Some(&flow)));
    let ended = validate(&flow, &["--output", "json"]);
    let said: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        said,
        json!({"result": "Succeeded", "error": null, "findings": []})
    );
    assert_eq!(ended.code, Some(0));
}

/// Everything that `validate` finds, in one flow.
fn faulty() -> FlowFolder {
    FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs:\n  name:\n    type: string\noutputs:\n  out:\n    type: string\n    reference: ${nowhere.output}\nnodes:\n\
             - name: a\n  type: python\n  source:\n    type: code\n    path: tool.py\n  inputs:\n    x: ${b.output}\n\
             - name: b\n  type: python\n  source:\n    type: code\n    path: tool.py\n  inputs:\n    x: ${a.output}\n\
             - name: c\n  type: python\n  source:\n    type: code\n    path: gone.py\n  inputs:\n    x: ${inputs.nam}\n\
             - name: d\n  type: python\n  source:\n    type: code\n    path: tool.py\n  inputs:\n    wrong: 1\n\
             - name: e\n  type: python\n  source:\n    type: code\n    path: broken.py\n  inputs: {}\n",
        )
        .file("tool.py", "from promptflow import tool\n@tool\ndef t(x: str, y: int = 1): return x\n")
        .file("broken.py", "import nosuchmodule\n")
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let flow = faulty();
    insta::assert_snapshot!(seen(&validate(&flow, &[]), Some(&flow)));
}

#[test]
fn findings_as_json_have_their_place_and_a_way_out() {
    let flow = faulty();
    let ended = validate(&flow, &["--output", "json"]);
    assert_eq!(ended.code, Some(1));
    let said: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(said["result"], "Failed");
    assert_eq!(said["error"]["class"], "ValidationException");
    let findings = said["findings"].as_array().unwrap();
    for (class, line) in [
        ("ToolSignatureMismatch", 30),
        ("InvalidSource", 23),
        ("PythonLoadError", 37),
    ] {
        let found = findings.iter().find(|finding| finding["class"] == class);
        let found = found.unwrap_or_else(|| panic_without(class, &said));
        assert!(
            found["line"].as_u64().unwrap().abs_diff(line) <= 1,
            "{found:#}"
        );
        assert!(found["column"].as_u64().unwrap() >= 1, "{found:#}");
        assert!(
            found["file"].as_str().unwrap().ends_with("flow.dag.yaml"),
            "{found:#}"
        );
    }
}

#[expect(clippy::panic, reason = "the test has failed")]
fn panic_without(class: &str, said: &Value) -> ! {
    panic!("no {class} in {said:#}")
}

// bundle, version

#[test]
fn versions() {
    let ended = flowcell(["--version"]);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(ended.code, Some(0));
    assert!(
        lines[0].starts_with("flowcell 0.")
            && lines[1].starts_with("wasmtime 48.")
            && lines[2].starts_with("CPython 3.14"),
        "{lines:?}"
    );
}

#[test]
fn versions_are_told_without_a_bundle_and_leave_nothing() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("home");
    let ended = flowcell(["--home", path.to_str().unwrap(), "--version"]);
    assert_eq!(ended.code, Some(0));
    assert!(
        ended
            .stdout
            .contains("CPython not built yet (flowcell bundle build)"),
        "{ended:#?}"
    );
    assert!(!path.exists());
}

#[test]
fn bundles_are_listed_and_shown() {
    let listed: Value =
        serde_json::from_str(&flowcell(["bundle", "list", "--output", "json"]).stdout).unwrap();
    let base = &listed["bundles"]
        .as_array()
        .unwrap()
        .iter()
        .find(|bundle| bundle["name"] == "promptflow")
        .unwrap()["version"];
    let reference = format!("promptflow:{}", base.as_str().unwrap());
    assert!(flowcell(["bundle", "list"]).stdout.contains(&reference));
    let shown = flowcell(["bundle", "show", &reference, "--output", "json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let kinds: Vec<&Value> = shown["bundle"]["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|component| &component["kind"])
        .collect();
    assert!(
        kinds.contains(&&json!("python-runner")) && kinds.contains(&&json!("tool")),
        "{shown:#}"
    );
    assert_eq!(
        shown["bundle"]["python"]["version"]
            .as_str()
            .unwrap()
            .split('.')
            .take(2)
            .collect::<Vec<_>>(),
        ["3", "14"]
    );
    let text = flowcell(["bundle", "show", &reference]).stdout;
    assert!(
        text.starts_with(&reference) && text.contains("CPython 3.14"),
        "{text}"
    );
}

#[test]
fn a_bundle_that_is_not_there() {
    let ended = flowcell(["bundle", "show", "nothing:1.0"]);
    assert_eq!(ended.code, Some(1));
    for words in ["there is no bundle nothing:1.0", "there is ", "promptflow:"] {
        assert!(ended.stderr.contains(words), "{ended:#?}");
    }
    let home = tempfile::tempdir().unwrap();
    let flow = greeting();
    let path = flow.path();
    let ended = flowcell([
        "--home",
        home.path().to_str().unwrap(),
        "flow",
        "test",
        "--output",
        "json",
        "--flow",
        path.to_str().unwrap(),
    ]);
    Answer::of(ended).assert_failure(
        "BundleError",
        &["promptflow:0.1.0", "flowcell bundle build"],
    );
}

#[test]
fn a_recipe_that_is_wrong_builds_nothing() {
    let home = tempfile::tempdir().unwrap();
    let folder = FlowFolder::new()
        .file(
            "bundle.toml",
            "name = \"x\"\nversion = \"1\"\n[[component]]\nname = \"a\"\nbuild = \"build.sh\"\n",
        )
        .file(
            "build.sh",
            "echo to stderr >&2\necho about to fail\nexit 7\n",
        );
    let source = folder.path();
    let ended = flowcell([
        "--home",
        home.path().to_str().unwrap(),
        "bundle",
        "build",
        "--source",
        source.to_str().unwrap(),
    ]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("build.sh") && ended.stderr.contains("about to fail"),
        "{ended:#?}"
    );
    let listed = flowcell([
        "--home",
        home.path().to_str().unwrap(),
        "bundle",
        "list",
        "--output",
        "json",
    ]);
    assert_eq!(listed.stdout.trim(), "{\"bundles\":[]}");
}

#[test]
fn a_terminal_obeys_nothing_that_a_tool_prints() {
    let flow = FlowFolder::python(
        "from promptflow.core import tool\n\n\n@tool\ndef f():\n    print('\\x1b]0;title\\x07 on stdout')\n    raise ValueError('\\x1b[2J in an error')\n",
        &[],
    );
    let ended = test(&flow, &[]);
    assert_eq!(ended.code, Some(1));
    for escaped in [r"\u{1b}]0;title\u{7} on stdout", r"\u{1b}[2J in an error"] {
        assert!(ended.stderr.contains(escaped), "{}", ended.stderr);
    }
    assert!(!ended.stderr.contains('\u{1b}'), "{}", ended.stderr);
}
