//! Bundles between stores and registries, and bundles made over others, through the binary.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

mod components;
mod custom;
mod hostile;
mod registry;
mod sessions;

use std::path::Path;
use std::process::{Command, Stdio};

use flowcell_tests::{Answer, FlowFolder, binary, flowcell};
use serde_json::{Value, json};

use crate::registry::Registry;

const BASE: &str = "promptflow:0.1.0";

/// Runs `flowcell --home HOME …`.
fn at(home: &Path, arguments: &[&str]) -> flowcell_tests::Finished {
    let mut all = vec!["--home", home.to_str().unwrap()];
    all.extend(arguments);
    flowcell(all)
}

/// The answer of a command that succeeds, with `--output json`.
#[track_caller]
fn json_at(home: &Path, arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.extend(["--output", "json"]);
    let ended = at(home, &all);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    serde_json::from_str(&ended.stdout).unwrap()
}

#[track_caller]
fn fails(ended: &flowcell_tests::Finished, words: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    for word in words {
        assert!(ended.stderr.contains(word), "no {word:?} in {ended:#?}");
    }
}

/// A bundle over another one that differs by a file.
fn with_note(home: &Path, from: &str) -> &'static str {
    noted(home, from, "2", "a note");
    "small:2"
}

/// `small:VERSION`, which has this note.
fn noted(home: &Path, from: &str, version: &str, note: &str) {
    let folder = FlowFolder::new()
        .file(
            "bundle.toml",
            format!(
                "name = \"small\"\nversion = \"{version}\"\nfrom = \"{from}\"\n\
                 [[file]]\nsource = \"data\"\ntarget = \"/data\"\n"
            ),
        )
        .file("data/note.txt", note);
    let source = folder.path();
    json_at(
        home,
        &["bundle", "build", "--source", source.to_str().unwrap()],
    );
}

#[test]
fn a_flow_runs_in_a_bundle_that_was_pulled() {
    let registry = Registry::start();
    let image = format!("{}/team/base:1.0", registry.host);
    let pushed = json_at(flowcell_tests::home(), &["bundle", "push", BASE, &image]);
    assert_eq!(pushed["reference"], json!(image));
    // Again, everything is there.
    let again = flowcell(["bundle", "push", BASE, &image]);
    assert_eq!(again.code, Some(0), "{again:#?}");
    assert!(again.stderr.contains("python-runner.wasm is there already"));
    assert!(!again.stderr.contains("pushing"), "{again:#?}");

    let home = tempfile::tempdir().unwrap();
    let flow = FlowFolder::python(
        "from promptflow import tool\n@tool\ndef t(x: str):\n    return x * 2\n",
        &[("x", "string")],
    );
    let path = flow.path();
    let test = |image: &str| {
        let flow = path.to_str().unwrap();
        let arguments = [
            "flow", "test", "--flow", flow, "--image", image, "--inputs", "x=ab",
        ];
        let mut all = arguments.to_vec();
        all.extend(["--output", "json"]);
        at(home.path(), &all)
    };
    // It is pulled when it is first asked for.
    let ended = test(&image);
    assert!(
        ended.stderr.contains("pulling python-runner.wasm"),
        "{ended:#?}"
    );
    assert!(
        ended.stderr.contains("compiling python-runner"),
        "{ended:#?}"
    );
    assert_eq!(Answer::of(ended).outputs()["out"], "abab");
    let ended = test(&image);
    assert!(!ended.stderr.contains("pulling"), "{ended:#?}");
    assert_eq!(Answer::of(ended).outputs()["out"], "abab");

    // By its digest, by another name, and as what the flow itself names.
    let artifact = pushed["artifact"].as_str().unwrap();
    let pinned = format!("{}/team/base@{artifact}", registry.host);
    for name in [pinned.as_str(), pushed["digest"].as_str().unwrap()] {
        assert_eq!(Answer::of(test(name)).outputs()["out"], "abab");
    }
    json_at(home.path(), &["bundle", "tag", &image, "mine:1"]);
    assert_eq!(Answer::of(test("mine:1")).outputs()["out"], "abab");
    let flow = flow.file("flow.dag.yaml", {
        let yaml = std::fs::read_to_string(path.join("flow.dag.yaml")).unwrap();
        format!("{yaml}environment:\n  image: {image}\n")
    });
    let folder = flow.path();
    let ended = at(
        home.path(),
        &[
            "flow",
            "test",
            "--flow",
            folder.to_str().unwrap(),
            "--inputs",
            "x=c",
            "--output",
            "json",
        ],
    );
    assert_eq!(Answer::of(ended).outputs()["out"], "cc");

    // What was pulled goes on to another registry as it came.
    let copy = format!("{}/elsewhere/copy:2", registry.host);
    let copied = json_at(home.path(), &["bundle", "push", &image, &copy]);
    assert_eq!(copied["artifact"], pushed["artifact"]);
}

#[test]
fn names_come_and_go() {
    let registry = Registry::start();
    let home = tempfile::tempdir().unwrap();
    let path = home.path();
    let image = format!("{}/team/base:1.0", registry.host);
    let pushed = json_at(flowcell_tests::home(), &["bundle", "push", BASE, &image]);
    let pulled = json_at(path, &["bundle", "pull", &image]);
    assert_eq!(pulled, pushed);
    json_at(path, &["bundle", "tag", &image, "promptflow:mine"]);
    let listed = json_at(path, &["bundle", "list"]);
    let digest = &pulled["digest"];
    let local = json!({"reference": "promptflow:mine", "digest": digest, "name": "promptflow", "version": "mine"});
    let remote = json!({"reference": image, "digest": digest, "artifact": pulled["artifact"]});
    assert_eq!(listed["bundles"], json!([local, remote]));
    for name in ["promptflow:mine", &image] {
        let shown = json_at(path, &["bundle", "show", name]);
        assert_eq!(shown["digest"], *digest);
        let text = at(path, &["bundle", "show", name]).stdout;
        assert!(
            text.starts_with(name) && text.contains("CPython 3.14"),
            "{text}"
        );
        json_at(path, &["bundle", "rm", name]);
        fails(
            &at(path, &["bundle", "rm", name]),
            &[name, "there is no bundle"],
        );
    }
    fails(
        &at(path, &["bundle", "show", &image]),
        &[&format!("flowcell bundle pull {image}")],
    );
    assert_eq!(json_at(path, &["bundle", "list"]), json!({"bundles": []}));
}

#[test]
fn a_registry_is_looked_at_without_pulling() {
    let registry = Registry::start();
    let home = tempfile::tempdir().unwrap();
    let image = format!("{}/team/base:1.0", registry.host);
    json_at(flowcell_tests::home(), &["bundle", "push", BASE, &image]);
    let found = json_at(home.path(), &["bundle", "inspect", &image]);
    assert_eq!(found["is_bundle"], true);
    assert_eq!(found["name"], "promptflow");
    assert_eq!(found["tags"], json!(["1.0"]));
    let layers = found["layers"].as_array().unwrap();
    // As the CNCF's layout has it, the first layer is a component.
    assert_eq!(layers[0]["media_type"], "application/wasm");
    let kinds: Vec<&str> = layers
        .iter()
        .map(|layer| layer["media_type"].as_str().unwrap())
        .collect();
    for kind in [
        "manifest.v1+json",
        "shell.v1+wasm",
        "memory.v1+zstd",
        "tree.v1.tar+zstd",
    ] {
        let kind = format!("application/vnd.flowcell.bundle.{kind}");
        assert!(kinds.contains(&kind.as_str()), "{kinds:?}");
    }
    let url = format!("http://{}/v2/team/base/manifests/1.0", registry.host);
    let manifest: Value = reqwest::blocking::Client::new()
        .get(url)
        .header("accept", "application/vnd.oci.image.manifest.v1+json")
        .send()
        .unwrap()
        .json()
        .unwrap();
    assert_eq!(
        manifest["artifactType"],
        "application/vnd.flowcell.bundle.v1"
    );
    assert_eq!(
        manifest["config"]["mediaType"],
        "application/vnd.wasm.config.v0+json"
    );
    let config = registry.blob(manifest["config"]["digest"].as_str().unwrap());
    let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    assert_eq!(config["architecture"], "wasm");
    assert_eq!(config["os"], "wasip2");
    let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    assert_eq!(config["layerDigests"], json!(digests));
    let exports = config["component"]["exports"].to_string();
    assert!(exports.contains("flowcell:tool/runner@"), "{config}");
    assert!(config["component"]["imports"].to_string().contains("wasi:"));
    assert_eq!(config["component"]["target"], Value::Null);
    let text = at(home.path(), &["bundle", "inspect", &image]).stdout;
    assert!(text.contains("bundle promptflow:0.1.0"), "{text}");
    assert!(!home.path().join("pulled").exists());
}

/// Runs `flowcell` with an environment and standard input of its own.
fn with(
    home: &Path,
    variables: &[(&str, &str)],
    input: &str,
    arguments: &[&str],
) -> (bool, String) {
    use std::io::Write as _;

    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .env("FLOWCELL_HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Who does not read it has gone.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let ended = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    let text = text + &String::from_utf8_lossy(&ended.stderr);
    (ended.status.success(), text)
}

#[test]
fn a_registry_wants_a_password() {
    let registry = Registry::protected();
    let base = flowcell_tests::home();
    let image = format!("{}/team/base:1.0", registry.host);
    let push = ["bundle", "push", BASE, &image];
    let named = [
        "bundle",
        "push",
        BASE,
        &image,
        "--username",
        "ana",
        "--password-stdin",
    ];
    let (name, password) = ("FLOWCELL_REGISTRY_USERNAME", "FLOWCELL_REGISTRY_PASSWORD");
    for (variables, input, arguments, expected) in [
        (&[][..], "", &push[..], "log in to it"),
        (&[], "wrong-password\n", &named, "with these credentials"),
        (&[(name, "ana")], "", &push, "no password for ana"),
        (&[(password, "opensesame")], "", &push, "--username"),
    ] {
        let (is_done, text) = with(base, variables, input, arguments);
        assert!(!is_done && text.contains(expected), "{expected}: {text}");
        assert!(
            !text.contains("opensesame") && !text.contains("wrong-password"),
            "{text}"
        );
    }
    let (is_done, text) = with(base, &[], "opensesame\n", &named);
    assert!(is_done && !text.contains("opensesame"), "{text}");
    let home = tempfile::tempdir().unwrap();
    let variables = [(name, "ana"), (password, "opensesame")];
    let (is_done, text) = with(home.path(), &variables, "", &["bundle", "pull", &image]);
    assert!(is_done && !text.contains("opensesame"), "{text}");
    let (_, help) = with(home.path(), &variables, "", &["bundle", "pull", "--help"]);
    assert!(!help.contains("opensesame"), "{help}");
}

#[test]
fn a_half_pull_never_shows() {
    let registry = Registry::start();
    let image = format!("{}/team/base:1.0", registry.host);
    json_at(flowcell_tests::home(), &["bundle", "push", BASE, &image]);
    let found = json_at(flowcell_tests::home(), &["bundle", "inspect", &image]);
    let layers = found["layers"].as_array().unwrap();
    let tree = layers
        .iter()
        .find(|layer| layer["title"] == "python.tar.zst");
    let digest = tree.unwrap()["digest"].as_str().unwrap();
    let file = registry.blob(digest);
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&file, &damaged).unwrap();

    let home = tempfile::tempdir().unwrap();
    let ended = at(home.path(), &["bundle", "pull", &image]);
    fails(&ended, &[&image, digest, "thrown away"]);
    assert_eq!(
        json_at(home.path(), &["bundle", "list"]),
        json!({"bundles": []})
    );
    std::fs::write(&file, &whole).unwrap();
    let ended = at(home.path(), &["bundle", "pull", &image]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    // A tag that has moved brings what is new only.
    let moved = with_note(home.path(), &image);
    json_at(home.path(), &["bundle", "push", moved, &image]);
    let other = tempfile::tempdir().unwrap();
    let first = json_at(
        other.path(),
        &[
            "bundle",
            "pull",
            &format!(
                "{}/team/base@{}",
                registry.host,
                found["artifact"].as_str().unwrap()
            ),
        ],
    );
    let ended = at(other.path(), &["bundle", "pull", &image]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stderr.contains("pulling data.tar.zst"), "{ended:#?}");
    assert!(
        ended.stderr.contains("python-runner.wasm is there already"),
        "{ended:#?}"
    );
    let shown = json_at(other.path(), &["bundle", "show", &image]);
    assert_ne!(shown["digest"], first["digest"]);
}
