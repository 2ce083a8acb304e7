//! The store's garbage: what it holds, what goes, and that nothing goes which is used, whoever collects and starts meanwhile.
#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use flowcell_tests::index::{Index, Wheel};
use flowcell_tests::server::{Server, Setup, own_home, wait_until};
use flowcell_tests::{Answer, Finished, FlowFolder, flowcell_with, repository};
use serde_json::{Value, json};

const DAG: &str = "inputs: {}\noutputs:\n  out:\n    type: object\n    reference: ${tool.output}\nnodes:\n- name: tool\n  type: python\n  source:\n    type: code\n    path: tool.py\n  inputs: {}\n";
const TOOL: &str = "from promptflow.core import tool\nimport thing, thing.part\n@tool\ndef tool():\n    return thing.VERSION + thing.part.VERSION\n";

fn thing(version: &str) -> Wheel {
    let content = format!("VERSION = {version:?}\n");
    Wheel::new("thing", version)
        .file("thing/__init__.py", &content)
        .file("thing/part.py", &content)
}

fn flow(version: &str) -> FlowFolder {
    FlowFolder::new()
        .file("flow.dag.yaml", DAG)
        .file("tool.py", TOOL)
        .file("requirements.txt", format!("thing=={version}\n"))
}

fn run(home: &Path, index: &Index, arguments: &[&str]) -> Finished {
    let (url, home) = (index.url(), home.to_str().unwrap());
    let environment = [
        ("FLOWCELL_INDEX_URL", url.as_str()),
        ("FLOWCELL_HOME", home),
    ];
    flowcell_with(repository(), &environment, arguments)
}

fn test(home: &Path, index: &Index, version: &str) -> Answer {
    let flow = flow(version);
    let path = flow.path();
    let arguments = [
        "flow",
        "test",
        "--flow",
        path.to_str().unwrap(),
        "--output",
        "json",
    ];
    Answer::of(run(home, index, &arguments))
}

fn store(home: &Path, arguments: &[&str]) -> Value {
    let mut all = vec!["store"];
    all.extend(arguments);
    all.extend(["--output", "json"]);
    let home = home.to_str().unwrap();
    let finished = flowcell_with(repository(), &[("FLOWCELL_HOME", home)], &all);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    serde_json::from_str(&finished.stdout).unwrap()
}

/// What `du` says of a store, without what else is in its home.
fn du(home: &Path) -> u64 {
    let parts = [
        "blobs",
        "bundles",
        "pulled",
        "manifests",
        "built",
        "cache",
        "leases",
        "roots",
        "trash",
    ];
    let mut command = Command::new("du");
    command.args(["-s", "-c", "--block-size=1"]);
    command.args(parts.map(|part| home.join(part)));
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let total = text.lines().last().unwrap().split_whitespace().next();
    total.unwrap().parse().unwrap()
}

/// What is in a folder of a cache, but for locks.
fn cached(home: &Path, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.join("cache").join(folder));
    let entries = entries.into_iter().flatten().flatten();
    let is_thing = |path: &PathBuf| !path.file_name().unwrap().to_str().unwrap().starts_with('.');
    entries.map(|entry| entry.path()).filter(is_thing).collect()
}

#[test]
fn what_nobody_uses_goes_and_comes_again() {
    let home = own_home();
    let home = home.path();
    let index = Index::start();
    index.add(&thing("1.0"));
    assert_eq!(test(home, &index, "1.0").outputs()["out"], "1.01.0");

    let stats = store(home, &["stats"]);
    // The file system may still be about the blocks of what was just written.
    let told = stats["bytes"].as_u64().unwrap();
    assert!(told.abs_diff(du(home)) < 1 << 20, "{stats:#}");
    let kinds = stats["kinds"].as_object().unwrap();
    let bytes = |field: &str| -> u64 {
        kinds
            .values()
            .map(|kind| kind[field].as_u64().unwrap())
            .sum()
    };
    assert_eq!(
        bytes("bytes") + stats["other_bytes"].as_u64().unwrap(),
        du(home)
    );
    for kind in ["site", "layer", "wheel", "index"] {
        assert_eq!(stats["kinds"][kind]["items"], 1, "{kind}: {stats:#}");
        assert_eq!(stats["kinds"][kind]["used_items"], 0, "{kind}");
    }
    for kind in ["bundle", "tree", "base", "code"] {
        assert_ne!(stats["kinds"][kind]["used_items"], 0, "{kind}: {stats:#}");
    }

    let planned = store(home, &["gc", "--size", "0", "--dry-run"]);
    assert_eq!(cached(home, "sites").len(), 1);
    let collected = store(home, &["gc", "--size", "0"]);
    assert_eq!(collected["removed"], planned["removed"]);
    // Folders have grown or shrunk a little.
    let after = collected["after"].as_u64().unwrap();
    assert!(after.abs_diff(du(home)) < 1 << 20, "{collected:#}");
    for folder in ["sites", "layers", "wheels", "index"] {
        assert!(cached(home, folder).is_empty(), "{folder}");
    }
    // All that goes is what could.
    let stats = store(home, &["stats"]);
    assert_eq!(stats["bytes"], stats["used_bytes"], "{stats:#}");

    // The bundle has a name: nothing of it is made again. The package is.
    let again = test(home, &index, "1.0");
    assert_eq!(again.outputs()["out"], "1.01.0");
    assert_eq!(index.downloads("thing-1.0-py3-none-any.whl"), 2);
    let told = &again.process.stderr;
    assert!(!told.contains("compiling python-runner"), "{told}");
}

#[test]
fn what_a_name_let_go_of_is_garbage() {
    let home = own_home();
    let home = home.path();
    let listed = || {
        let listed = flowcell_with(
            repository(),
            &[("FLOWCELL_HOME", home.to_str().unwrap())],
            ["bundle", "list", "--output", "json"],
        );
        serde_json::from_str::<Value>(&listed.stdout).unwrap()
    };
    let before = store(home, &["gc", "--size", "0"]);
    for bundle in listed()["bundles"].as_array().unwrap() {
        let name = bundle["reference"].as_str().unwrap();
        let arguments = ["bundle", "rm", name];
        let removed = flowcell_with(
            repository(),
            &[("FLOWCELL_HOME", home.to_str().unwrap())],
            arguments,
        );
        assert_eq!(removed.code, Some(0), "{removed:?}");
    }
    assert_eq!(listed(), json!({ "bundles": [] }));
    let after = store(home, &["gc", "--size", "0"]);
    let bytes = |answer: &Value| answer["after"].as_u64().unwrap();
    assert!(bytes(&after) < bytes(&before) / 100, "{after:#}");
    assert_eq!(fs::read_dir(home.join("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn a_start_and_a_collection_get_along() {
    let home = own_home();
    let home = home.path();
    let index = Index::start();
    let versions = ["1.0", "2.0", "3.0"];
    versions
        .iter()
        .for_each(|version| index.add(&thing(version)));
    let is_over = AtomicBool::new(false);
    let removed = thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let mut removed = 0;
            while !is_over.load(Ordering::Relaxed) {
                let collected = store(home, &["gc", "--size", "0"]);
                removed += collected["removed"].as_array().unwrap().len();
            }
            removed
        });
        let starting: Vec<_> = versions
            .iter()
            .map(|version| {
                let index = &index;
                scope.spawn(move || {
                    for _ in 0..4 {
                        let answer = test(home, index, version);
                        assert_eq!(answer.outputs()["out"], version.repeat(2));
                    }
                })
            })
            .collect();
        let started: Vec<_> = starting.into_iter().map(|one| one.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        started.into_iter().for_each(|one| one.unwrap());
        collecting.join().unwrap()
    });
    assert!(removed > 0);
    store(home, &["gc", "--size", "0"]);
    let stats = store(home, &["stats"]);
    assert_eq!(stats["bytes"], stats["used_bytes"], "{stats:#}");
}

#[test]
fn what_sessions_have_stays_also_without_their_server() {
    let index = Index::start();
    index.add(&thing("1.0"));
    index.add(&thing("2.0"));
    let config = |size: u64| {
        format!(
            "[packages]\nindex_url = {:?}\ntrusted_hosts = [{:?}]\n[store]\nsize_mib = {size}\n",
            index.url(),
            index.host()
        )
    };
    let mut server = Server::on(own_home(), Setup::config(config(1 << 20)));
    let home = server.home().to_owned();
    let client = server.admin();
    client.upload("f", &flow("1.0"));
    let session = client.session("f");
    assert_eq!(session.out(json!({})), "1.01.0");
    client.upload("g", &flow("2.0"));
    let other = client.session("g");
    assert_eq!(other.out(json!({})), "2.02.0");
    let requests = index.requests().len();

    let collected = store(&home, &["gc", "--size", "0"]);
    let removed = collected["removed"].as_array().unwrap();
    assert!(
        removed.iter().any(|one| one["kind"] == "wheel"),
        "{collected:#}"
    );
    assert!(
        removed.iter().all(|one| one["kind"] != "site"),
        "{collected:#}"
    );
    assert_eq!(cached(&home, "sites").len(), 2);
    // In an instance that exists, and in a new one.
    assert_eq!(session.out(json!({})), "1.01.0");
    server.kill();
    store(&home, &["gc", "--size", "0"]);
    server.restart();
    assert_eq!(session.out(json!({})), "1.01.0");
    assert_eq!(other.out(json!({})), "2.02.0");
    let lock = client.get(&session.path("/lock")).is(200);
    assert!(String::from_utf8(lock.body).unwrap().contains("thing"));
    assert_eq!(index.requests().len(), requests);

    // What a session has had that is gone is the server's own garbage, an hour after.
    other.stop();
    server.stop();
    for root in fs::read_dir(home.join("roots")).unwrap() {
        let file = File::open(root.unwrap().path()).unwrap();
        let past = SystemTime::now() - Duration::from_secs(2 * 3_600);
        file.set_modified(past).unwrap();
    }
    server.set_up(|setup| setup.config = Some(config(1)));
    server.restart();
    wait_until("the server has collected", || {
        (cached(&home, "sites").len() == 1).then_some(())
    });
    assert_eq!(session.out(json!({})), "1.01.0");
    assert_eq!(index.requests().len(), requests);
}
