//! `flowcell connection` and connections of `flow test`, on this machine and with a server, through the real binary.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use flowcell_tests::authority::Authority;
use flowcell_tests::openai::Server as Models;
use flowcell_tests::server::{Server, make_home};
use flowcell_tests::{Answer, Finished, FlowFolder, flowcell_with};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "hunter2-of-the-model";

/// A home of its own, and files beside it.
struct Machine {
    home: TempDir,
    files: TempDir,
}

impl Machine {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        make_home(home.path());
        let files = tempfile::tempdir().unwrap();
        Self { home, files }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.files.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Finished {
        let home = self.home.path().to_str().unwrap();
        let mut all = vec![("FLOWCELL_HOME", home), ("HOME", home)];
        all.extend(environment);
        flowcell_with(self.files.path(), &all, arguments)
    }

    /// Runs `flowcell connection … --output json`, which succeeds.
    fn connection(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Value {
        let mut all = vec!["connection"];
        all.extend(arguments);
        all.extend(["--output", "json"]);
        let ended = self.run(environment, &all);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert!(!ended.stdout.contains(SECRET) && !ended.stderr.contains(SECRET));
        serde_json::from_str(&ended.stdout).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let mut all = vec!["connection"];
        all.extend(arguments);
        let ended = self.run(&[], &all);
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        ended.stderr
    }

    fn store(&self) -> PathBuf {
        self.home.path().join("connections")
    }

    fn test(&self, flow: &FlowFolder, more: &[&str]) -> Answer {
        let path = flow.path();
        let mut all = vec![
            "flow",
            "test",
            "--flow",
            path.to_str().unwrap(),
            "--output",
            "json",
        ];
        all.extend(more);
        Answer::of(self.run(&[("MODEL_KEY", SECRET)], &all))
    }
}

/// A flow whose node shows what it gets of a connection.
fn flow(class: &str) -> FlowFolder {
    FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "environment_variables:\n  KEY: ${model.api_key}\n  WHAT: ${model.nothing}\ninputs: {}\noutputs:\n  out: {type: object, reference: '${t.output}'}\nnodes:\n- name: t\n  type: python\n  source: {type: code, path: t.py}\n  inputs: {c: model}\n",
        )
        .file(
            "t.py",
            format!("import os\nfrom promptflow.core import tool\nfrom promptflow.connections import {class}\n@tool\ndef t(c: {class}):\n    return {{'class': type(c).__name__, 'name': c.name, 'keys': sorted(dict(c)), 'key': c['api_key'], 'secrets': c.secrets, 'env': os.environ['KEY'], 'what': os.environ['WHAT']}}\n"),
        )
}

fn assert_secret_is_not_below(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains(SECRET), "{}", path.display());
        }
    }
}

#[test]
fn connections_are_kept_on_this_machine() {
    let machine = Machine::new();
    let listed = machine.connection(&[], &["list"]);
    assert_eq!(listed, json!({"items": []}));
    assert!(!machine.store().exists());
    let file = machine.file(
        "model.yaml",
        "$schema: x\nname: model\ntype: open_ai\napi_key: ${env:MODEL_KEY}\nbase_url: https://models.example/v1\n",
    );
    let variables = [("MODEL_KEY", SECRET)];
    let made = machine.connection(&variables, &["create", "-f", &file]);
    assert_eq!(made["api_key"], "******");
    assert_eq!(made["type"], "open_ai");
    assert_eq!(made["base_url"], "https://models.example/v1");
    // What is kept is for its owner only, and sealed.
    for (name, mode) in [
        ("", 0o700),
        ("connections.json", 0o600),
        ("connections.key", 0o600),
    ] {
        let metadata = fs::metadata(machine.store().join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
    }
    assert_secret_is_not_below(&machine.store());
    // Overrides, and another name.
    let other = machine.connection(
        &variables,
        &[
            "create",
            "--file",
            &file,
            "--set",
            "api_key=k",
            "organization='o'",
            "--name",
            "my own",
        ],
    );
    assert_eq!(
        (&other["name"], &other["organization"]),
        (&json!("my own"), &json!("o"))
    );
    let env = machine.file(".env", &format!("A=1\nexport B=\"{SECRET}\"\n"));
    let env = machine.connection(&[], &["create", "-f", &env, "-n", "env"]);
    assert_eq!(env["secrets"], json!({"A": "******", "B": "******"}));
    let listed = machine.connection(&[], &["list"]);
    let names: Vec<&Value> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["env", "model", "my own"]);
    // A change keeps the secrets that it does not name, here also at another address.
    let changed = machine.connection(
        &[],
        &[
            "update",
            "-n",
            "model",
            "--set",
            "base_url=https://other.example",
        ],
    );
    assert_eq!(changed["base_url"], "https://other.example");
    let answer = machine.test(&flow("OpenAIConnection"), &[]);
    assert_eq!(answer.outputs()["out"]["class"], "OpenAIConnection");
    let shown = machine.connection(&[], &["show", "--name", "model"]);
    assert_eq!(shown["created_date"], made["created_date"]);
    assert_ne!(shown["last_modified_date"], made["last_modified_date"]);
    machine.connection(&[], &["delete", "-n", "my own", "--yes"]);
    let gone = machine.refused(&["show", "-n", "my own"]);
    assert!(
        gone.contains("ConnectionNotFoundError: Connection 'my own' is not found."),
        "{gone}"
    );
    for arguments in [
        ["delete", "-n", "my own"].as_slice(),
        &["update", "-n", "my own", "--set", "api_key=k"],
    ] {
        assert!(machine.refused(arguments).contains("is not found"));
    }
}

#[test]
fn what_is_wrong_is_said() {
    let machine = Machine::new();
    let create = |text: &str, more: &[&str]| {
        let file = machine.file("c.yaml", text);
        let mut all = vec!["create", "-f", &file];
        all.extend(more);
        machine.refused(&all)
    };
    for (text, words) in [
        ("name: n\n", "type is required for connection."),
        (
            "name: n\ntype: open_ai\n",
            "{'api_key': ['Missing data for required field.']}",
        ),
        (
            "type: open_ai\napi_key: k\n",
            "Name is required to create or update connection.",
        ),
        (
            "name: n\ntype: open_ai\napi_key: <user-input>\n",
            "secrets ['api_key'] value invalid, please fill them.",
        ),
        (
            "name: n\ntype: open_ai\napi_key: ${env:NOPE}\n",
            "Environment variable NOPE is not found.",
        ),
        (
            "name: n\ntype: nope\n",
            "Connection type 'Nope' is not supported.",
        ),
        ("a: [\n", "c.yaml"),
    ] {
        let said = create(text, &[]);
        assert!(said.contains(words), "{text}: {said}");
    }
    let said = create("name: n\ntype: serp\napi_key: k\n", &["--set", SECRET]);
    assert!(
        said.contains("KEY=VALUE") && !said.contains(SECRET),
        "{said}"
    );
    let said = machine.refused(&["create", "-f", "gone.yaml"]);
    assert!(
        said.contains("No such file or directory: gone.yaml"),
        "{said}"
    );
    let env = machine.file(".env", "A=1\n");
    let said = machine.refused(&["create", "-f", &env]);
    assert!(
        said.contains("Please specify --name when creating connection from .env."),
        "{said}"
    );
    // A note about what is left out.
    let file = machine.file("c.yaml", "name: n\ntype: serp\napi_key: k\napi_kee: k\n");
    let ended = machine.run(&[], &["connection", "create", "-f", &file]);
    assert!(
        ended.code == Some(0) && ended.stderr.contains("api_kee"),
        "{ended:#?}"
    );
}

#[test]
fn the_key_may_be_in_the_environment() {
    let machine = Machine::new();
    let file = machine.file(
        "c.yaml",
        &format!("name: model\ntype: open_ai\napi_key: {SECRET}\n"),
    );
    let key = |digit: char| digit.to_string().repeat(64);
    let (one, two) = (key('a'), key('b'));
    let name = "FLOWCELL__SECRETS__KEY";
    machine.connection(&[(name, &one)], &["create", "-f", &file]);
    assert!(!machine.store().join("connections.key").exists());
    let path = flow("OpenAIConnection");
    let path = path.path();
    let test = |environment: &[(&str, &str)]| {
        let arguments = [
            "flow",
            "test",
            "--flow",
            path.to_str().unwrap(),
            "--output",
            "json",
        ];
        Answer::of(machine.run(environment, &arguments))
    };
    assert_eq!(test(&[(name, &one)]).status(), "Completed");
    let wrong = test(&[(name, &two)]);
    assert_eq!(wrong.class(), "DecryptConnectionError");
    assert!(
        wrong.message().contains("sealed by the key"),
        "{}",
        wrong.message()
    );
    // Showing takes no key.
    machine.connection(&[], &["show", "-n", "model"]);
    let without = test(&[]);
    assert!(
        without.message().contains("is gone"),
        "{}",
        without.message()
    );
    // An address that was changed in the file has no secret.
    let store = machine.store().join("connections.json");
    let text = fs::read_to_string(&store).unwrap();
    let text = text.replace(
        "\"configs\": {}",
        "\"configs\": {\"base_url\": \"https://evil.example\"}",
    );
    assert!(text.contains("evil"), "{text}");
    fs::write(&store, text).unwrap();
    let moved = test(&[(name, &one)]);
    assert!(
        moved
            .message()
            .contains("changed, or was sealed for another place"),
        "{}",
        moved.message()
    );
}

#[test]
fn many_at_once_lose_nothing() {
    let machine = Machine::new();
    let file = machine.file("c.yaml", "name: c\ntype: serp\napi_key: k\n");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (machine, file) = (&machine, &file);
            scope.spawn(move || {
                machine.connection(&[], &["create", "-f", file, "-n", &format!("c{number}")]);
            });
        }
    });
    let listed = machine.connection(&[], &["list"]);
    assert_eq!(listed["items"].as_array().unwrap().len(), 8);
}

#[test]
fn a_file_of_connections_comes_first() {
    let machine = Machine::new();
    let flow = flow("CustomConnection");
    let missing = machine.test(&flow, &[]);
    assert_eq!(missing.class(), "ConnectionNotFoundError");
    assert!(
        missing
            .message()
            .starts_with("Connection 'model' is not found.")
    );
    let kept = machine.file("c.yaml", "name: model\ntype: serp\napi_key: k\n");
    machine.connection(&[], &["create", "-f", &kept]);
    let wrong = machine.test(&flow, &[]);
    assert_eq!(
        wrong.message().trim_end(),
        "Tool load failed in 't': (NodeInputValidationError) Input 'c' for node 't' of type 'SerpConnection' is not supported, valid types ['CustomConnection']."
    );
    let yaml = machine.file("all.yaml", "model:\n  type: custom\n  configs: {url: 'https://c.example'}\n  secrets: {api_key: '${env:MODEL_KEY}'}\n");
    let list = json!([{"name": "model", "type": "custom", "configs": {"url": "https://c.example"}, "secrets": {"api_key": "${env:MODEL_KEY}"}}]);
    let list = machine.file("all.json", &list.to_string());
    for file in [yaml, list] {
        let answer = machine.test(&flow, &["--connections", &file]);
        let out = &answer.outputs()["out"];
        assert_eq!(out["class"], "CustomConnection");
        assert_eq!(out["name"], "model");
        assert_eq!(out["keys"], json!(["api_key", "url"]));
        let token = out["key"].as_str().unwrap();
        assert!(token.starts_with("flowcell-secret-"), "{token}");
        assert_eq!(out["env"], token);
        assert_eq!(out["secrets"], json!({"api_key": token}));
        // As in promptflow.
        assert_eq!(out["what"], "${model.nothing}");
        let other = machine.test(&flow, &["--connections", &file]);
        assert_ne!(other.outputs()["out"]["key"], token, "another session");
    }
}

#[test]
fn strong_types_are_objects_of_their_class() {
    let machine = Machine::new();
    let flow = FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs: {}\noutputs:\n  out: {type: object, reference: '${t.output}'}\nnodes:\n- name: t\n  type: python\n  source: {type: code, path: t.py}\n  inputs: {c: model}\n",
        )
        .file(
            "t.py",
            "from promptflow.core import tool\nfrom promptflow.connections import CustomStrongTypeConnection\nfrom promptflow.contracts.types import Secret\nclass Mine(CustomStrongTypeConnection):\n    api_key: Secret\n    api_base: str = 'default'\n@tool\ndef t(c: Mine):\n    return [type(c).__name__, c.api_base, c.api_key]\n",
        );
    let file = machine.file("all.yaml", "- name: model\n  type: custom\n  custom_type: Mine\n  module: t\n  package: p\n  package_version: 0.0.1\n  configs: {api_base: 'https://c.example'}\n  secrets: {api_key: '${env:MODEL_KEY}'}\n");
    let answer = machine.test(&flow, &["--connections", &file]);
    let out = &answer.outputs()["out"];
    assert_eq!(out[0], "Mine");
    assert_eq!(out[1], "https://c.example");
    assert!(out[2].as_str().unwrap().starts_with("flowcell-secret-"));
}

#[test]
fn with_a_host_they_are_its_workspaces() {
    let server = Server::start();
    let machine = Machine::new();
    let (url, admin) = (server.url(), server.admin());
    let environment = [
        ("FLOWCELL_HOST", url.as_str()),
        ("FLOWCELL_KEY", admin.key()),
        ("MODEL_KEY", SECRET),
    ];
    let file = machine.file("c.yaml", "name: my model\ntype: azure_open_ai\napi_key: ${env:MODEL_KEY}\napi_base: https://models.example\n");
    let made = machine.connection(&environment, &["create", "-f", &file]);
    assert_eq!(
        (&made["revision"], &made["api_key"]),
        (&json!(1), &json!("******"))
    );
    let changed = machine.connection(
        &environment,
        &[
            "update",
            "-n",
            "my model",
            "--set",
            "api_version=2024-06-01",
        ],
    );
    assert_eq!(changed["api_version"], "2024-06-01");
    assert_eq!(
        machine.connection(&environment, &["show", "-n", "my model"]),
        changed
    );
    let listed = machine.connection(&environment, &["list"]);
    assert_eq!(listed["items"][0]["name"], "my model");
    assert!(!machine.store().exists());
    let local = machine.connection(&environment, &["list", "--local"]);
    assert_eq!(local, json!({"items": []}));
    let text = machine.run(&environment, &["connection", "list"]);
    assert!(text.stdout.contains("https://models.example"), "{text:#?}");
    machine.connection(&environment, &["delete", "-n", "my model"]);
    let gone = machine.run(&environment, &["connection", "show", "-n", "my model"]);
    assert!(
        gone.code == Some(1) && gone.stderr.contains("my model"),
        "{gone:#?}"
    );
}

#[test]
fn an_identity_of_this_machine_signs_in() {
    const TOKEN: &str = "eyJ-of-this-machine";
    let (models, authority, machine) = (Models::start(), Authority::start(), Machine::new());
    let address = models.url();
    let file = machine.file(
        "model.yaml",
        &format!("name: model\ntype: azure_open_ai\napi_base: {address}\nauth_mode: meid_token\n"),
    );
    machine.connection(&[], &["create", "-f", &file]);
    let flow = FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs: {}\noutputs:\n  out: {type: string, reference: '${ask.output}'}\nnodes:\n- name: ask\n  type: llm\n  \
             source: {type: code, path: ask.jinja2}\n  inputs: {deployment_name: d}\n  connection: model\n  api: chat\n",
        )
        .file("ask.jinja2", "# user:\n[[reply: yes]]\n");
    let path = flow.path();
    let test = |environment: &[(&str, &str)]| {
        let flow = path.to_str().unwrap();
        let arguments = ["flow", "test", "--flow", flow, "--output", "json"];
        let ended = machine.run(environment, &arguments);
        assert!(
            !ended.stdout.contains(TOKEN) && !ended.stderr.contains(TOKEN),
            "{ended:#?}"
        );
        Answer::of(ended)
    };
    // A service principal of the environment.
    let principal = [
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_CLIENT_ID", "c"),
        ("AZURE_CLIENT_SECRET", SECRET),
        ("AZURE_AUTHORITY_HOST", authority.url()),
    ];
    authority.gives(TOKEN, 3600);
    assert_eq!(test(&principal).outputs()["out"], "yes");
    let refused = test(&principal);
    assert!(
        refused.message().contains("invalid_client"),
        "{}",
        refused.message()
    );
    assert_eq!(authority.asked().len(), 2);
    // Whom Azure's command line has signed in.
    let folder = machine.files.path();
    let az = folder.join("az");
    fs::write(
        &az,
        "#!/bin/sh\n[ \"$*\" = 'account get-access-token --output json --scope https://cognitiveservices.azure.com/.default' ] || exit 3\n\
         [ -z \"$NOBODY\" ] || { echo 'ERROR: Please run az login' >&2; exit 1; }\n\
         echo '{\"accessToken\": \"eyJ-of-this-machine\", \"expiresOn\": \"2030-01-01\"}'\n",
    )
    .unwrap();
    fs::set_permissions(&az, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.display());
    assert_eq!(test(&[("PATH", &path)]).outputs()["out"], "yes");
    let nobody = test(&[("PATH", &path), ("NOBODY", "1")]);
    assert!(
        nobody.message().contains("Please run az login"),
        "{}",
        nobody.message()
    );
    // Nobody at all.
    let none = test(&[("PATH", "/nonexistent")]);
    assert_eq!(none.class(), "UserErrorException");
    for words in ["connection 'model'", "AZURE_TENANT_ID", "az login"] {
        assert!(none.message().contains(words), "{}", none.message());
    }
    let bearers: Vec<String> = models
        .requests()
        .iter()
        .map(|one| one.header("authorization").to_owned())
        .collect();
    assert_eq!(bearers, vec![format!("Bearer {TOKEN}"); 2]);
}
