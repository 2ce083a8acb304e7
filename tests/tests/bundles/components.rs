//! Component packages: requirements that a component index has.

use std::path::Path;

use flowcell_tests::index::{Index, Wheel};
use flowcell_tests::server::{Server, make_home};
use flowcell_tests::{Answer, Finished, FlowFolder, flowcell_with, repository};
use serde_json::{Value, json};

use crate::hostile::image_of;
use crate::json_at;
use crate::registry::Registry;

const CLASS: &str = "EnvironmentError";
const FLOW: &str = "inputs:\n  text:\n    type: string\noutputs:\n  out:\n    type: object\n    reference: ${count.output}\n\
    nodes:\n- name: count\n  type: python\n  source:\n    type: package\n    tool: text_statistics.text_statistics\n  \
    inputs:\n    text: ${inputs.text}\n    top: 1\n";

/// The component of the examples that counts words.
fn component() -> Vec<u8> {
    let home = flowcell_tests::home();
    let shown = json_at(home, &["bundle", "show", "guest-examples:0.1.0"]);
    let components = shown["bundle"]["components"].as_array().unwrap();
    let found = components
        .iter()
        .find(|one| one["name"] == "rust-text-statistics");
    let digest = found.unwrap()["digest"].as_str().unwrap();
    let hex = digest.strip_prefix("sha256:").unwrap();
    std::fs::read(home.join("blobs/sha256").join(hex)).unwrap()
}

/// Publishes it as other tools do, as a version of a package of the index `tools`.
fn publish(registry: &Registry, package: &str, version: &str) {
    let repository = format!("tools/{package}");
    let config = "application/vnd.wasm.config.v0+json";
    let about = json!({ "version": version }).to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": registry.put_blob(&repository, config, about.as_bytes()),
        "layers": [registry.put_blob(&repository, "application/wasm", &component())],
    });
    registry.put_manifest(&format!("{repository}:{version}"), &manifest);
}

fn flow(requirements: &str) -> FlowFolder {
    FlowFolder::new()
        .file("flow.dag.yaml", FLOW)
        .file("requirements.txt", requirements)
}

struct Fixture {
    registry: Registry,
    index: Index,
    home: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        make_home(home.path());
        Self {
            registry: Registry::start(),
            index: Index::start(),
            home,
        }
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let url = self.index.url();
        let components = format!("{}/tools", self.registry.host);
        let environment = [
            ("FLOWCELL_INDEX_URL", url.as_str()),
            ("FLOWCELL_COMPONENT_INDEX", &components),
            ("FLOWCELL_HOME", self.home.path().to_str().unwrap()),
        ];
        flowcell_with(repository(), &environment, arguments)
    }

    fn test(&self, flow: &Path) -> Answer {
        let flow = flow.to_str().unwrap();
        let arguments = [
            "flow",
            "test",
            "--flow",
            flow,
            "--inputs",
            "text=a b a",
            "--output",
            "json",
        ];
        Answer::of(self.run(&arguments))
    }

    #[track_caller]
    fn counts(&self, flow: &Path) {
        let answer = self.test(flow);
        let outputs = answer.outputs();
        assert_eq!(outputs["out"]["words"], 3, "{outputs}");
    }
}

#[test]
fn a_requirement_can_be_a_component() {
    let mut fixture = Fixture::new();
    for version in ["0.1.0", "0.2.0", "0.3.0rc1", "nightly"] {
        publish(&fixture.registry, "text-statistics", version);
    }
    // A package of Python by the same name is somebody else's.
    fixture.index.add(&Wheel::new("text-statistics", "0.9"));
    fixture
        .index
        .add(&Wheel::new("thing", "1.0").file("thing.py", ""));
    let flow = flow("text_statistics<1\nthing\n");
    let path = &flow.path();
    fixture.counts(path);
    let ended = fixture.run(&["lock", "--flow", path.to_str().unwrap(), "--output", "json"]);
    let locked: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        locked["packages"],
        json!(["thing==1.0", "text-statistics==0.2.0"])
    );
    let lock = std::fs::read_to_string(path.join("pylock.toml")).unwrap();
    let expected = format!(
        "repository = \"{}/tools/text-statistics\"",
        fixture.registry.host
    );
    assert!(lock.contains(&expected), "{lock}");
    let asked = fixture.index.requests();
    assert!(
        !asked.iter().any(|path| path.contains("statistics")),
        "{asked:?}"
    );

    let told = fixture.run(&["doctor", "--flow", path.to_str().unwrap()]);
    assert_eq!(told.code, Some(0), "{told:#?}");
    let line = "ok    requirement text-statistics==0.2.0: a component package";
    assert!(told.stdout.contains(line), "{told:#?}");

    // The lock stays what it is, and what is there needs no registry.
    publish(&fixture.registry, "text-statistics", "0.2.1");
    fixture.registry.end();
    fixture.counts(path);
    let fresh = tempfile::tempdir().unwrap();
    make_home(fresh.path());
    fixture.home = fresh;
    let host = fixture.registry.host.clone();
    fixture.test(path).assert_failure(CLASS, &[&host]);
}

/// The same in Python: components are modules.
fn python_flow(requirements: &str) -> FlowFolder {
    let code = "from promptflow.core import tool\nimport text_statistics\nfrom text_statistics import text_statistics as count\n\n\n\
        @tool\ndef f(text: str):\n    try:\n        count(text, 'many')\n    except TypeError as error:\n        refused = str(error)\n    \
        return {**count(top=1, text=text), 'refused': refused, 'all': text_statistics.__all__}\n";
    FlowFolder::new()
        .file("flow.dag.yaml", "inputs:\n  text:\n    type: string\noutputs:\n  out:\n    type: object\n    \
            reference: ${f.output}\nnodes:\n- name: f\n  type: python\n  source:\n    type: code\n    path: f.py\n  \
            inputs:\n    text: ${inputs.text}\n")
        .file("f.py", code)
        .file("requirements.txt", requirements)
}

#[track_caller]
fn is_counted(out: &Value, words: u64) {
    assert_eq!(out["words"], words, "{out}");
    assert_eq!(out["frequent"].as_array().unwrap().len(), 1, "{out}");
    assert_eq!(out["all"], json!(["text_statistics"]));
    let refused = out["refused"].as_str().unwrap();
    assert!(
        refused.contains("invalid type: string \"many\""),
        "{refused}"
    );
}

#[test]
fn component_packages_are_modules_of_python() {
    let fixture = Fixture::new();
    publish(&fixture.registry, "text-statistics", "0.1.0");
    let flow = python_flow("text-statistics\n");
    let path = &flow.path();
    let told = fixture.run(&["doctor", "--flow", path.to_str().unwrap()]);
    assert_eq!(told.code, Some(0), "{told:#?}");
    let line = "ok    import text_statistics (f.py:3): functions of a component";
    assert!(told.stdout.contains(line), "{told:#?}");
    let answer = fixture.test(path);
    is_counted(&answer.outputs()["out"], 3);
    let logged = answer.node("f")["logs"]["log"].as_str().unwrap();
    assert_eq!(logged, "info: 3 words\n");

    // Without the requirement there is no such module.
    let without = python_flow("");
    fixture
        .test(&without.path())
        .assert_failure("PythonLoadError", &["No module named 'text_statistics'"]);
}

#[test]
fn an_app_carries_component_packages() {
    let mut fixture = Fixture::new();
    publish(&fixture.registry, "text-statistics", "0.1.0");
    let flow = python_flow("text-statistics\n");
    let app = fixture.home.path().join("app.wasm");
    let (folder, file) = (flow.path(), app.to_str().unwrap().to_owned());
    let built = fixture.run(&[
        "flow",
        "build",
        "--flow",
        folder.to_str().unwrap(),
        "--output",
        &file,
    ]);
    assert_eq!(built.code, Some(0), "{built:#?}");
    let bill = std::fs::read_to_string(app.with_extension("cdx.json")).unwrap();
    let bill: Value = serde_json::from_str(&bill).unwrap();
    let listed = bill["components"].as_array().unwrap();
    let listed = listed.iter().find(|one| one["name"] == "text-statistics");
    assert_eq!(listed.unwrap()["version"], "0.1.0", "{bill}");

    // Elsewhere, where nobody has the package.
    fixture.registry.end();
    let fresh = tempfile::tempdir().unwrap();
    make_home(fresh.path());
    let _built_in = std::mem::replace(&mut fixture.home, fresh);
    let ran = fixture.run(&["run", &file, "--inputs", "text=a b a", "--output", "json"]);
    is_counted(&Answer::of(ran).outputs()["out"], 3);
}

#[test]
fn what_no_component_index_has_right_says_why() {
    let fixture = Fixture::new();
    publish(&fixture.registry, "text-statistics", "0.1.0");
    let refused = |requirements: &str, words: &[&str]| {
        let flow = flow(requirements);
        fixture.test(&flow.path()).assert_failure(CLASS, words);
    };
    refused(
        "text-statistics>=2",
        &[
            "text-statistics has 0.1.0",
            "text-statistics>=2 fits none of them",
        ],
    );
    let docker = image_of(
        &fixture.registry,
        "tools/docker",
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    );
    fixture.registry.put_manifest("tools/docker:1.0", &docker);
    refused(
        "docker==1.0",
        &["tools/docker:1.0", "no WebAssembly component"],
    );
    // Not even an index of Python's has it.
    refused("gone-for-good", &["gone-for-good"]);

    // A lock leads to no other registry than those of this host.
    let flow = flow("text-statistics");
    let path = &flow.path();
    let ended = fixture.run(&["lock", "--flow", path.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let file = path.join("pylock.toml");
    let lock = std::fs::read_to_string(&file).unwrap();
    let own = format!("{}/tools", fixture.registry.host);
    let elsewhere = lock.replace(&own, "registry.example.com/tools");
    // Another one than is there already.
    let component = regex::Regex::new("component = \"sha256:[0-9a-f]{64}").unwrap();
    let other = format!("component = \"sha256:{}", "0".repeat(64));
    std::fs::write(&file, component.replace(&elsewhere, other).as_bytes()).unwrap();
    fixture.test(path).assert_failure(
        CLASS,
        &[
            "registry.example.com/tools/text-statistics",
            "none of the component indexes",
        ],
    );
}

#[test]
fn a_session_has_tools_of_component_packages() {
    let registry = Registry::start();
    publish(&registry, "text-statistics", "0.1.0");
    let server = Server::configured(&format!(
        "[packages]\ncomponent_indexes = [\"{}/tools\"]\n",
        registry.host
    ));
    let client = server.admin();
    client.upload("f", &flow("text-statistics==0.1.*\n"));
    let session = client.session("f");
    assert_eq!(session.out(json!({"text": "x y"}))["words"], 2);
    let packages = client.get(&session.path("/packages")).is(200).json;
    let packages = packages["packages"].as_array().unwrap();
    let found = packages.iter().find(|one| one["name"] == "text-statistics");
    assert_eq!(found.unwrap()["version"], "0.1.0");
    let tools = client.get(&session.path("/executor/tool/package_tools"));
    let tool = &tools.is(200).json["text_statistics.text_statistics"];
    assert_eq!(tool["package_version"], "0.1.0", "{tool}");

    // In Python, and also from memory that was stored.
    client.upload("g", &python_flow("text-statistics\n"));
    let session = client.session("g");
    is_counted(&session.out(json!({"text": "x y"})), 2);
    session.wait_until("its image", |shown| {
        shown["memory"]["image"]["state"] == "ready"
    });
    let path = session.path("/hibernate");
    client.post(&path, Value::Null).expect(200);
    is_counted(&session.out(json!({"text": "x y z"})), 3);
}
