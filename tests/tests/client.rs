//! The command line as a client: the real binary against the real server, and against hosts made of canned answers where
//! the network shall fail. What people read is compared with `snapshots/`, without what differs from run to run;
//! `INSTA_UPDATE=always cargo test -p flowcell-tests --test client` writes them anew.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

#[path = "client/canned.rs"]
mod canned;
#[path = "client/harness.rs"]
mod harness;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;

use flowcell_tests::FlowFolder;
use serde_json::{Value, json};

use self::canned::{Canned, events, json as reply};
use self::harness::{Client, Server, seen};

/// Prints, and fails when it is told to.
fn shouting() -> FlowFolder {
    FlowFolder::python(
        "from promptflow import tool\nfrom helpers import shouted\n@tool\ndef run(text: str):\n    print('shouting', text)\n    if text == 'no':\n        raise ValueError('I will not')\n    return shouted(text)\n",
        &[("text", "string")],
    )
    .file("../shared/helpers.py", "def shouted(text):\n    return text.upper()\n")
    .file(
        "flow.dag.yaml",
        "additional_includes:\n- ../shared/helpers.py\ninputs:\n  text:\n    type: string\noutputs:\n  out:\n    type: string\n    reference: ${tool.output}\nnodes:\n- name: tool\n  type: python\n  source: {type: code, path: tool.py}\n  inputs: {text: '${inputs.text}'}\n",
    )
    .file(".git/config", "secret")
    .file(".promptflow/flow.detail.json", "{}")
    .file("__pycache__/tool.pyc", "x")
}

fn uploaded(client: &Client, flow: &FlowFolder, name: &str) {
    let source = flow.path();
    let source = source.to_str().unwrap();
    client.ok(["flow", "upload", "--source", source, "--name", name]);
}

// sessions

#[test]
fn what_a_session_may_ask_and_has_asked() {
    let server = Server::start(&[]);
    let client = server.client();
    let flow = FlowFolder::python(
        "import urllib.request\nfrom promptflow.core import tool\n@tool\ndef run(url: str):\n    try:\n        \
         return urllib.request.urlopen(url).status\n    except OSError:\n        return 'refused'\n",
        &[("url", "string")],
    );
    uploaded(&client, &flow, "asks");
    let story = folder_file(
        "network: {allowed_hosts: [api.example, '*.data.example:*'], allowed_methods: [GET]}\n",
    );
    let file = story.path().join("rule.yml");
    client.ok(["workspace", "update", "--file", file.to_str().unwrap()]);
    let shown = client.ok(["workspace", "show"]).stdout;
    assert!(
        shown.contains("hosts api.example *.data.example:*, methods GET"),
        "{shown}"
    );
    client.ok([
        "session",
        "start",
        "--flow",
        "asks",
        "--allow-host",
        "api.example",
        "--allow-host",
        "b.example",
    ]);
    let shown = client.ok(["session", "show", "asks"]).stdout;
    assert!(shown.contains("hosts api.example b.example"), "{shown}");
    for url in ["http://b.example/secret/path", "https://b.data.example"] {
        let inputs = format!("url={url}");
        let out = client
            .ok(["session", "call", "asks", "--inputs", &inputs])
            .stdout;
        assert!(out.contains("refused"), "{out}");
    }
    let list = client.ok(["session", "requests", "asks"]).stdout;
    let lines: Vec<&str> = list.lines().collect();
    let [head, last, first] = lines.as_slice() else {
        panic!("{list}");
    };
    assert!(head.starts_with("ENDED"), "{list}");
    assert!(
        last.contains("https://b.data.example:443") && last.contains("the session allows"),
        "{list}"
    );
    assert!(
        first.contains("http://b.example:80") && first.contains("the workspace allows"),
        "{list}"
    );
    assert!(!list.contains("secret/path"), "{list}");
    client.ok(["session", "update", "asks", "--allow-host", "*:*"]);
    let all = client
        .ok(["session", "requests", "asks", "--outcome", "answered"])
        .stderr;
    assert!(all.contains("no such request"), "{all}");
    let json = client
        .ok([
            "session", "requests", "asks", "--node", "tool", "--output", "json",
        ])
        .stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["items"].as_array().unwrap().len(), 2, "{json}");
    let wrong = client.run(["session", "update", "asks", "--allow-method", "get"]);
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.stderr.contains("'get' is no method"),
        "{}",
        wrong.stderr
    );
}

/// A folder with one file, `rule.yml`.
fn folder_file(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rule.yml"), text).unwrap();
    folder
}

#[test]
fn a_session_from_start_to_stop() {
    let server = Server::start(&[]);
    let client = server.client();
    let flow = shouting();
    let source = flow.path();
    let source = source.to_str().unwrap();
    let mut story = Vec::new();
    let mut tell = |arguments: &[&str]| {
        let ended = client.run(arguments);
        story.push(seen(arguments, &ended).replace(source, "[source]"));
    };
    tell(&["session", "list"]);
    tell(&["flow", "upload", "--source", source, "--name", "shout"]);
    tell(&["flow", "show", "shout"]);
    tell(&["session", "show", "shout"]);
    tell(&[
        "session",
        "start",
        "--flow",
        "shout",
        "--idle-time",
        "2h",
        "--dry-run",
    ]);
    tell(&["session", "list"]);
    tell(&["session", "start", "--flow", "shout", "--idle-time", "2h"]);
    tell(&["session", "list"]);
    tell(&["flow", "list"]);
    tell(&["session", "call", "shout", "--inputs", "text=hello"]);
    tell(&["session", "call", "--flow", "shout", "--inputs", "text=no"]);
    tell(&[
        "session",
        "call",
        "shout",
        "--node",
        "tool",
        "--inputs",
        "text=node",
    ]);
    tell(&["session", "call", "shout", "--inputs", "other=1"]);
    tell(&["session", "logs", "shout", "--no-follow"]);
    tell(&["session", "tools", "shout"]);
    tell(&[
        "session",
        "update",
        "shout",
        "--idle-time",
        "90m",
        "--if-match",
        "2",
    ]);
    tell(&[
        "session",
        "update",
        "shout",
        "--idle-time",
        "1h",
        "--if-match",
        "2",
    ]);
    tell(&["session", "reset", "shout"]);
    tell(&["session", "history", "shout"]);
    tell(&["flow", "delete", "shout"]);
    tell(&["session", "stop", "shout"]);
    tell(&["session", "call", "shout", "--inputs", "text=late"]);
    tell(&["session", "logs", "shout"]);
    tell(&["flow", "delete", "shout"]);
    insta::assert_snapshot!(story.join("\n"));
}

#[test]
fn a_session_hibernates_resumes_and_is_forked() {
    let server = Server::start(&[]);
    let client = server.client();
    let flow = FlowFolder::python(
        "from promptflow.core import tool\ncount = 0\n@tool\ndef t():\n    global count\n    count += 1\n    return count\n",
        &[],
    );
    uploaded(&client, &flow, "count");
    let started = client.json(["session", "start", "--flow", "count"]);
    let id = started["id"].as_str().unwrap();
    let call = |flow: &str| client.json(["session", "call", flow])["outputs"]["out"].clone();
    assert_eq!(call("count"), 1);
    let asleep = client.json(["session", "hibernate", "count"]);
    assert_eq!(asleep["state"], "hibernated");
    let shown = client.ok(["session", "show", id]).stdout;
    assert!(
        shown.contains("state       hibernated: hibernated by admin"),
        "{shown}"
    );
    assert!(shown.contains("in 1 instance, since 2"), "{shown}");
    let list = client.ok(["session", "list"]).stdout;
    let stored = list.lines().next().unwrap().find("STORED").unwrap();
    let size = &list.lines().nth(1).unwrap()[stored..];
    assert!(
        size.starts_with(|digit: char| digit.is_ascii_digit()),
        "{list}"
    );
    let awake = client.ok(["session", "resume", "--flow", "count"]).stdout;
    assert!(awake.contains("running: resumed by admin"), "{awake}");
    assert_eq!(call("count"), 2);
    let forked = client
        .ok([
            "session",
            "fork",
            "count",
            "--flow",
            "copy",
            "--idle-time",
            "2h",
        ])
        .stdout;
    assert!(
        forked.contains(&format!("{id} of flow count, life 1")),
        "{forked}"
    );
    assert_eq!(call("copy"), 3);
    assert_eq!(call("copy"), 4);
    assert_eq!(call("count"), 3);
    let refused = client.fails(["session", "fork", "count", "--flow", "copy"]);
    assert!(refused.contains("'copy' already"), "{refused}");
}

#[test]
fn json_is_what_the_api_says_and_nothing_else() {
    let server = Server::start(&[]);
    let client = server.client();
    uploaded(&client, &shouting(), "shout");
    let started = client.json(["session", "start", "--flow", "shout"]);
    assert_eq!(started["state"], "running");
    let id = started["id"].as_str().unwrap();
    assert_eq!(client.json(["session", "show", id])["flow"], "shout");
    let list = client.json(["session", "list"]);
    assert_eq!(list["items"][0]["id"], id);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let call = ["session", "call", id, "--inputs", "text=a"];
    let called = client.json(call);
    assert_eq!(called["outputs"], json!({"out": "A"}));
    let failed = client.run([
        "session", "call", id, "--inputs", "text=no", "--output", "json",
    ]);
    assert_eq!(failed.code, Some(1));
    let failed: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!(failed["status"], "Failed");
    assert_eq!(failed["error"]["class"], "ToolExecutionError");
    let logs = client.ok(["session", "logs", id, "--no-follow", "--output", "json"]);
    let kinds: Vec<String> = logs
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].to_string())
        .collect();
    assert!(kinds.contains(&"\"call_ended\"".to_owned()), "{kinds:?}");
    let missing = client.run(["session", "show", "nothing", "--output", "json"]);
    assert_eq!((missing.code, missing.stderr.as_str()), (Some(1), ""));
    let missing: Value = serde_json::from_str(&missing.stdout).unwrap();
    assert!(
        missing["error"]["detail"]
            .as_str()
            .unwrap()
            .contains("nothing")
    );
    let refused = client.run(["flow", "show", "nothing", "--output", "json"]);
    let refused: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(refused["error"]["type"], "/problems/not-found");
    assert_eq!(client.json(["session", "stop", id])["state"], "stopped");
    assert_eq!(client.json(["flow", "delete", "shout"]), json!({}));
}

#[test]
fn logs_are_followed_until_the_session_stops() {
    let server = Server::start(&[]);
    let client = server.client();
    uploaded(&client, &shouting(), "shout");
    client.ok(["session", "start", "--flow", "shout"]);
    let mut logs = client.spawn(["session", "logs", "shout"]);
    let mut lines = BufReader::new(logs.stdout.take().unwrap());
    let mut text = String::new();
    // It is there when it has told what was before.
    lines.read_line(&mut text).unwrap();
    client.ok(["session", "call", "shout", "--inputs", "text=first"]);
    client.ok(["session", "reset", "shout"]);
    client.ok(["session", "call", "shout", "--inputs", "text=second"]);
    while !text.contains("tool stdout | shouting second") {
        assert_ne!(lines.read_line(&mut text).unwrap(), 0, "{text}");
    }
    client.ok(["session", "stop", "shout"]);
    lines.read_to_string(&mut text).unwrap();
    assert!(logs.wait().unwrap().success(), "{text}");
    assert!(text.contains("tool stdout | shouting first"), "{text}");
    assert_eq!(text.matches("shouting first").count(), 1, "{text}");
}

#[test]
fn what_takes_long_is_waited_for() {
    let server = Server::start(&[("FLOWCELL__SESSIONS__START_WAIT_SECONDS", "0")]);
    let client = server.client();
    uploaded(&client, &shouting(), "shout");
    let started = client.json(["session", "start", "--flow", "shout", "--no-wait"]);
    assert!(started["id"].is_string());
    let reset = client.json(["session", "reset", "shout"]);
    assert_eq!(reset["state"], "running", "{reset}");
    let stopped = client.json(["session", "stop", "shout"]);
    assert_eq!(stopped["state"], "stopped", "{stopped}");
}

// flows

#[test]
fn an_upload_is_the_flow_as_it_runs_here() {
    let server = Server::start(&[]);
    let client = server.client();
    let flow = shouting().file("prompts/deep/a b.jinja2", "{{x}}");
    let before = flow.snapshot();
    let source = flow.path();
    let source = source.to_str().unwrap();
    let made = client.json(["flow", "create", "--name", "one", "--source", source]);
    assert_eq!(made["files"], 4);
    // Without a name, it is the folder's.
    let uploaded = client.json(["flow", "upload", "--source", source]);
    assert_eq!(uploaded["name"], "flow");
    assert_eq!(flow.snapshot(), before, "the flow's folder has changed");
    let target = tempfile::tempdir().unwrap();
    let folder = target.path().join("copy");
    let download = [
        "flow",
        "download",
        "one",
        "--target",
        folder.to_str().unwrap(),
    ];
    client.ok(download);
    for file in ["flow.dag.yaml", "tool.py", "prompts/deep/a b.jinja2"] {
        let (copy, original) = (folder.join(file), flow.path().join(file));
        assert_eq!(
            fs::read(copy).unwrap(),
            fs::read(original).unwrap(),
            "{file}"
        );
    }
    assert!(folder.join("helpers.py").is_file());
    for left_out in [".git", ".promptflow", "__pycache__"] {
        assert!(!folder.join(left_out).exists(), "{left_out}");
    }
    // Nothing that is there is overwritten.
    assert_eq!(client.run(download).code, Some(1));
    let stale = [
        "flow",
        "upload",
        "--source",
        source,
        "--name",
        "one",
        "--if-match",
        "1",
    ];
    assert!(client.fails(stale).contains("Somebody else changed it"));
    let missing = client.fails([
        "flow",
        "upload",
        "--source",
        target.path().to_str().unwrap(),
    ]);
    assert!(missing.contains("flow.dag.yaml"), "{missing}");
}

#[test]
fn a_download_stays_in_its_folder() {
    let sha256 = "ba2df4903a2c14e86dc3bcca58911b44ac1d2514b7227bf6eb08cfb978f55a1b";
    let files = |path: &str| {
        let item = json!({ "path": path, "size": 1, "sha256": sha256 });
        reply(200, &[], &json!({ "items": [item] }))
    };
    let target = tempfile::tempdir().unwrap();
    let download = |path: &str| {
        let host = Canned::start(vec![files(path), reply(200, &[], &json!("x"))]);
        let folder = target.path().join("copy");
        let folder = folder.to_str().unwrap();
        host.client()
            .run(["flow", "download", "one", "--target", folder])
    };
    for path in ["../x", "/x", "a/../../x"] {
        let ended = download(path);
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("is no path"), "{path}: {ended:?}");
        let entries = fs::read_dir(target.path()).unwrap();
        assert_eq!(entries.count(), 0, "{path}");
    }
    assert_eq!(download("a/x").code, Some(0));
    assert!(target.path().join("copy/a/x").is_file());
}

// computes

#[test]
fn a_compute_from_creation_to_deletion() {
    let server = Server::start(&[("FLOWCELL__QUOTAS__USER__COMPUTES", "2")]);
    let client = server.client();
    uploaded(&client, &shouting(), "shout");
    let mut story = Vec::new();
    let mut tell = |arguments: &[&str]| {
        let ended = client.run(arguments);
        story.push(seen(arguments, &ended));
    };
    tell(&["compute", "list"]);
    tell(&["compute", "types"]);
    tell(&["compute", "create", "box", "--instance-type", "huge"]);
    tell(&[
        "compute",
        "create",
        "box",
        "--instance-type",
        "small",
        "--idle-time",
        "1h",
    ]);
    tell(&[
        "compute",
        "create",
        "--name",
        "box",
        "--instance-type",
        "small",
    ]);
    tell(&["session", "start", "--flow", "shout", "--compute", "box"]);
    tell(&["compute", "list"]);
    tell(&["compute", "show", "box"]);
    tell(&[
        "compute",
        "update",
        "box",
        "--idle-time",
        "30m",
        "--if-match",
        "7",
    ]);
    tell(&["compute", "create", "other", "--instance-type", "small"]);
    tell(&["compute", "create", "third", "--instance-type", "small"]);
    tell(&["compute", "stop", "box"]);
    tell(&["compute", "stop", "box", "--dry-run"]);
    tell(&["compute", "stop", "box", "--yes"]);
    tell(&["compute", "start", "box"]);
    tell(&["compute", "delete", "box"]);
    tell(&["compute", "show", "box"]);
    insta::assert_snapshot!(story.join("\n"));
}

// people

#[test]
fn users_roles_keys_and_workspaces() {
    let server = Server::start(&[]);
    let client = server.client();
    let mut story = Vec::new();
    let mut tell = |client: &Client, arguments: &[&str]| {
        let ended = client.run(arguments);
        story.push(seen(arguments, &ended));
    };
    tell(&client, &["me"]);
    tell(&client, &["user", "create", "ann@example.org"]);
    tell(&client, &["user", "list"]);
    tell(
        &client,
        &["workspace", "create", "lab", "--owner", "ann@example.org"],
    );
    tell(&client, &["workspace", "list"]);
    tell(
        &client,
        &["role", "grant", "ann@example.org", "data-scientist"],
    );
    tell(&client, &["role", "list"]);
    let create = [
        "key",
        "create",
        "--user",
        "ann@example.org",
        "--description",
        "tests",
    ];
    let key = client.json(create);
    let ann = client.with("FLOWCELL_KEY", key["key"].as_str().unwrap());
    tell(&ann, &["me"]);
    tell(&ann, &["user", "list"]);
    tell(&ann, &["key", "list"]);
    tell(&ann, &["workspace", "quota", "--workspace", "lab"]);
    tell(&ann, &["role", "list", "--workspace", "elsewhere"]);
    tell(&client, &["role", "withdraw", "ann@example.org"]);
    tell(&ann, &["flow", "list"]);
    tell(&ann, &["workspace", "delete", "lab"]);
    let revoke = [
        "key",
        "revoke",
        key["id"].as_str().unwrap(),
        "--user",
        "ann@example.org",
    ];
    tell(&client, &revoke);
    tell(&ann, &["me"]);
    tell(&client, &["user", "delete", "ann@example.org"]);
    insta::assert_snapshot!(story.join("\n"));
}

#[test]
fn identities_and_credentials() {
    const SECRET: &str = "hunter2-of-the-feed";
    let server = Server::start(&[]);
    let client = server.client().with("FEED_TOKEN", SECRET);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut story = Vec::new();
    let mut tell = |arguments: &[&str], input: &str| {
        let ended = client.run_with(arguments, input);
        let text = seen(arguments, &ended);
        assert!(!text.contains(SECRET), "{text}");
        story.push(text.replace(folder.path().to_str().unwrap(), "[folder]"));
    };
    tell(&["identity", "create", "team"], "");
    tell(&["identity", "list"], "");
    let secret = file("secret", &format!("{SECRET}\n"));
    let set = [
        "credential",
        "set",
        "packages.example.com",
        "--kind",
        "index",
    ];
    let with = |more: &[&'static str]| [&set[..], more].concat();
    tell(
        &with(&["--identity", "team", "--value-env", "FEED_TOKEN"]),
        "",
    );
    tell(&with(&["--username", "ana", "--value-stdin"]), SECRET);
    let from_file = [
        "credential",
        "set",
        "127.0.0.1:5000",
        "--kind",
        "registry",
        "--value-file",
    ];
    tell(&[&from_file[..], &[&secret]].concat(), "");
    tell(&["credential", "list"], "");
    tell(&["credential", "list", "--identity", "team"], "");
    tell(&["identity", "show", "team"], "");
    for wrong in [
        with(&["--value-env", "NO_SUCH_VARIABLE"]),
        with(&["--value-file", "/no/such/file"]),
        with(&["--value-stdin"]),
        vec![
            "credential",
            "set",
            "https://a.example",
            "--kind",
            "index",
            "--value-env",
            "FEED_TOKEN",
        ],
    ] {
        tell(&wrong, "");
    }
    tell(&["user", "create", "ben"], "");
    tell(&["role", "grant", "ben", "data-scientist"], "");
    tell(&["identity", "grant", "team", "ben"], "");
    tell(&["identity", "grants", "team"], "");
    tell(&["identity", "withdraw", "team", "ben"], "");
    tell(
        &[
            "credential",
            "delete",
            "packages.example.com",
            "--kind",
            "index",
        ],
        "",
    );
    let azure = "$schema: https://example.com/workspace.schema.json\nname: default\nidentity:\n  type: system_assigned, user_assigned\n  user_assigned_identities:\n    '/subscriptions/s/providers/Microsoft.ManagedIdentity/userAssignedIdentities/feed': {}\n    team: {}\n";
    tell(
        &[
            "workspace",
            "update",
            "--file",
            &file("workspace.yml", azure),
        ],
        "",
    );
    tell(&["workspace", "show"], "");
    for (name, text) in [
        ("unknown.yml", "identity: {type: none}\nlocation: here\n"),
        (
            "inner.yml",
            "identity: {type: user_assigned, user_assigned_identities: {a: {color: red}}}\n",
        ),
        ("other.yml", "name: other\n"),
        ("list.yml", "- identity\n"),
        ("broken.yml", "identity: {\n"),
        ("held.yml", "identity: {type: none}\n"),
    ] {
        tell(&["workspace", "update", "--file", &file(name, text)], "");
    }
    tell(&["identity", "delete", "team", "--yes"], "");
    tell(&["identity", "show", "team"], "");
    insta::assert_snapshot!(story.join("\n"));
    // A secret has no place on a command line, where everybody can read it.
    let refused = client.run(with(&["--value", SECRET]));
    assert_eq!(refused.code, Some(2), "{refused:#?}");
}

// hosts that are not as they should be

#[test]
fn a_host_that_is_not_there_is_named_with_the_way_out() {
    let client = Client::of("http://127.0.0.1:1");
    let text = client.fails(["session", "list"]);
    for words in ["http://127.0.0.1:1", "refused", "flowcell serve", "--host"] {
        assert!(text.contains(words), "{text}");
    }
    let text = Client::of("127.0.0.1:1").fails(["session", "list"]);
    assert!(text.contains("http://"), "{text}");
}

#[test]
fn a_creation_is_sent_again_under_the_same_key_and_not_for_ever() {
    let full = json!({ "type": "/problems/host-full", "title": "Full", "status": 503, "detail": "no room" });
    let full = || {
        reply(
            503,
            &["retry-after: 0", "content-type: application/problem+json"],
            &full,
        )
    };
    let made = json!({ "name": "w", "created": "2026-01-02T03:04:05Z" });
    let host = Canned::start(vec![Vec::new(), full(), reply(201, &[], &made)]);
    let created = host.client().json(["workspace", "create", "w"]);
    assert_eq!(created["name"], "w");
    let keys: Vec<String> = host
        .requests()
        .iter()
        .map(|request| request.header("idempotency-key"))
        .collect();
    assert_eq!(keys.len(), 3, "{keys:?}");
    assert!(
        !keys[0].is_empty() && keys.iter().all(|key| *key == keys[0]),
        "{keys:?}"
    );

    let host = Canned::start((0..10).map(|_| full()).collect());
    let text = host.client().fails(["workspace", "create", "w"]);
    assert!(text.contains("Full: no room"), "{text}");
    assert_eq!(host.requests().len(), 4);
    // What is not safe to send again is not sent again.
    let host = Canned::start(vec![reply(200, &[], &canned::flow()), full()]);
    host.client().fails(["session", "reset", "--flow", "f"]);
    assert_eq!(host.requests().len(), 2);
}

#[test]
fn a_list_is_read_to_its_last_page() {
    let user =
        |name: &str| json!({ "name": name, "admin": false, "created": "2026-01-02T03:04:05Z" });
    let host = Canned::start(vec![
        reply(
            200,
            &[],
            &json!({ "items": [user("a")], "next_cursor": "YQ" }),
        ),
        reply(200, &[], &json!({ "items": [user("b")] })),
    ]);
    let list = host.client().json(["user", "list"]);
    assert_eq!(list, json!({ "items": [user("a"), user("b")] }));
    assert!(
        host.requests()[1].line.contains("cursor=YQ"),
        "{:?}",
        host.requests()
    );
}

#[test]
fn a_stream_that_breaks_is_taken_up_where_it_was() {
    let session = |state: &str| reply(200, &[], &canned::session(state));
    let log = |text: &str| json!({ "type": "log", "call": "c", "node": "n", "stream": "stdout", "text": text });
    let host = Canned::start(vec![
        reply(200, &[], &canned::flow()),
        events(
            &[("7-1", log("one\nt")), ("7-2", log("wo\n\u{1b}[31mred\n"))],
            false,
        ),
        session("running"),
        events(
            &[
                ("7-3", json!({ "type": "missed", "events": 3 })),
                ("7-4", log("four")),
            ],
            true,
        ),
        session("stopped"),
    ]);
    let ended = host.client().ok(["session", "logs", "--flow", "f"]);
    assert_eq!(
        ended.stdout,
        "  c n stdout | one\n  c n stdout | two\n  c n stdout | \\u{1b}[31mred\n  c n stdout | four\n"
    );
    assert!(
        ended.stderr.contains("3 events are missing"),
        "{}",
        ended.stderr
    );
    let requests = host.requests();
    assert_eq!(requests[1].header("last-event-id"), "");
    assert_eq!(requests[3].header("last-event-id"), "7-2");
}

#[test]
fn an_operation_is_polled_and_a_failed_session_is_an_error() {
    let operation = |status: &str| {
        let body = json!({ "id": "s-1.1", "status": status, "session": "s-1" });
        reply(200, &["retry-after: 0"], &body)
    };
    let accepted = |more: &[&str]| {
        let mut headers = vec![
            "retry-after: 0",
            "location: /v1/workspaces/default/sessions/s-1",
        ];
        headers.extend(more);
        reply(202, &headers, &canned::session("starting"))
    };
    let location = "operation-location: /v1/workspaces/default/operations/s-1.1";
    let session = |state: &str| reply(200, &["retry-after: 0"], &canned::session(state));
    let host = Canned::start(vec![
        accepted(&[location]),
        operation("InProgress"),
        Vec::new(),
        operation("Failed"),
        session("failed"),
    ]);
    let text = host.client().fails(["session", "start", "--flow", "f"]);
    assert!(
        text.contains("session s-1 failed: as it was told"),
        "{text}"
    );
    assert!(host.requests()[1].line.contains("/operations/s-1.1"));
    // An answer that was given before has no operation.
    let host = Canned::start(vec![
        accepted(&[]),
        session("starting"),
        session("running"),
        session("running"),
    ]);
    let started = host.client().json(["session", "start", "--flow", "f"]);
    assert_eq!(started["state"], "running");
    // A key goes to the host that was named, wherever that one points to.
    let elsewhere = Canned::start(vec![]);
    let redirect = format!("location: {}/", elsewhere.url);
    let host = Canned::start(vec![reply(307, &[&redirect], &json!({}))]);
    host.client().fails(["me"]);
    assert_eq!(elsewhere.requests().len(), 0);
}

#[test]
fn an_answer_of_something_else_is_no_flowcell_host() {
    let host = Canned::start(vec![reply(
        502,
        &["content-type: text/html"],
        &json!("<h1>\u{1b}[2Joops"),
    )]);
    let text = host.client().fails(["me"]);
    assert!(
        text.contains("502 Bad Gateway") && text.contains("--host"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

// profiles

#[test]
fn profiles_keep_hosts_and_keys() {
    let client = Client::without_host();
    let mut story = Vec::new();
    let mut tell = |arguments: &[&str], input: &str| {
        let ended = client.run_with(arguments, input);
        story.push(seen(arguments, &ended));
    };
    tell(&["profile", "list"], "");
    tell(
        &["profile", "set", "home", "--host", "http://127.0.0.1:1"],
        "",
    );
    let set = [
        "profile",
        "set",
        "lab",
        "--host",
        "https://lab.example.org/",
        "--workspace",
        "w",
        "--key-stdin",
    ];
    tell(&set, "fc_public_verysecret\n");
    tell(&["profile", "list"], "");
    tell(&["profile", "list", "--output", "json"], "");
    tell(&["profile", "use", "lab"], "");
    tell(&["profile", "show"], "");
    tell(&["profile", "show", "home"], "");
    tell(&["profile", "use", "nothing"], "");
    tell(&["profile", "set", "lab", "--host", "lab.example.org"], "");
    tell(&["profile", "set", "lab", "--key-stdin"], "not a key\n");
    tell(&["profile", "delete", "lab"], "");
    tell(&["profile", "show"], "");
    tell(&["me", "--profile", "nothing"], "");
    let story = story.join("\n");
    assert!(!story.contains("verysecret"), "{story}");
    insta::assert_snapshot!(story);
    let file = client.config().join("flowcell/profiles.toml");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(client.ok(["profile", "list"]).stderr.contains("chmod 600"));
}

#[test]
fn options_come_before_the_environment_before_the_profile() {
    let me = || {
        reply(
            200,
            &[],
            &json!({ "name": "u", "admin": false, "roles": [] }),
        )
    };
    let host = Canned::start(vec![me(), me(), me(), me(), me()]);
    let client = Client::without_host();
    let set = [
        "profile",
        "set",
        "p",
        "--host",
        &host.url,
        "--workspace",
        "of-profile",
        "--key-stdin",
    ];
    client.run_with(set, "fc_of_profile");
    let workspace = |client: &Client, more: &[&str]| {
        let mut arguments = vec!["me"];
        arguments.extend(more);
        let text = client.ok(arguments).stdout;
        let line = text.lines().find(|line| line.starts_with("workspace"));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(workspace(&client, &[]), "of-profile");
    let with = client
        .with("FLOWCELL_WORKSPACE", "of-environment")
        .with("FLOWCELL_KEY", "fc_of_environment");
    assert_eq!(workspace(&with, &[]), "of-environment");
    assert_eq!(workspace(&with, &["--workspace", "of-option"]), "of-option");
    // What is set to nothing is not set.
    let with = client
        .with("FLOWCELL_WORKSPACE", "")
        .with("FLOWCELL_KEY", "");
    assert_eq!(workspace(&with, &[]), "of-profile");
    // Another host does not get the profile's key.
    let other = Canned::start(vec![me()]);
    client.ok(["me", "--host", &other.url]);
    let keys: Vec<String> = host
        .requests()
        .iter()
        .map(|request| request.header("authorization"))
        .collect();
    let bearer = |key: &str| format!("Bearer fc_of_{key}");
    let expected = ["profile", "environment", "environment", "profile"].map(bearer);
    assert_eq!(keys, expected);
    assert_eq!(other.requests()[0].header("authorization"), "");
}

#[test]
fn every_shell_has_completions() {
    let client = Client::without_host();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = client.ok(["completions", shell]).stdout;
        for word in ["session", "compute", "profile", "history"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
}
