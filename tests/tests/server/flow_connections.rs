//! Connections of a workspace: kept sealed, shown without secrets, and in guests as placeholders only.

use std::fs;
use std::path::Path;

use flowcell_tests::FlowFolder;
use flowcell_tests::server::{Server, Setup, workspace};
use serde_json::{Value, json};

const SECRET: &str = "hunter2-of-the-model";
const KEY: &str = "FLOWCELL__SECRETS__KEY";
const PREVIOUS: &str = "FLOWCELL__SECRETS__PREVIOUS_KEYS";

fn at(name: &str) -> String {
    workspace(&format!("/connections/{name}"))
}

fn open_ai(key: &str) -> Value {
    json!({"type": "open_ai", "api_key": key, "base_url": "https://models.example/v1"})
}

/// A flow whose node gets a connection, and whose environment has a field of it.
fn flow() -> FlowFolder {
    FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "environment_variables:\n  BASE: ${model.base_url}\n  KEY: ${model.api_key}\ninputs: {}\noutputs:\n  out: {type: object, reference: '${t.output}'}\nnodes:\n- name: t\n  type: python\n  source: {type: code, path: t.py}\n  inputs: {c: model}\n",
        )
        .file(
            "t.py",
            "import os\nfrom promptflow.core import tool\nfrom promptflow.connections import OpenAIConnection\ncalls = 0\n@tool\ndef t(c: OpenAIConnection):\n    global calls\n    calls += 1\n    print('the key is', c.api_key, c)\n    return [type(c).__name__, c.name, c.base_url, c.api_key, os.environ['BASE'], os.environ['KEY'], calls]\n",
        )
}

/// Whether any file below a folder has these bytes in it. The server makes and deletes files meanwhile.
fn has(folder: &Path, bytes: &[u8]) -> Option<String> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            if let Some(found) = has(&path, bytes) {
                return Some(found);
            }
        } else if kind.is_file() {
            let content = fs::read(&path).unwrap_or_default();
            if content.windows(bytes.len()).any(|window| window == bytes) {
                return Some(path.display().to_string());
            }
        }
    }
    None
}

#[test]
fn a_connection_is_made_shown_changed_and_deleted() {
    let mut server = Server::start();
    let admin = server.admin();
    let made = admin.put(&at("model"), open_ai(SECRET)).is(201);
    assert_eq!(made.json["api_key"], "******");
    assert_eq!(made.json["base_url"], "https://models.example/v1");
    assert_eq!(made.json["type"], "open_ai");
    assert_eq!(made.tag(), "\"1\"");
    let shown = admin.get(&at("model")).is(200);
    assert_eq!(shown.json, made.json);
    // A secret that is not told stays; one that is told takes its place.
    let same = admin.put(&at("model"), open_ai("******")).is(200);
    assert_eq!(same.json["revision"], 2);
    let changed = admin
        .patch(&at("model"), json!({"organization": "o"}))
        .is(200);
    assert_eq!(changed.json["organization"], "o");
    let gone = admin.patch(&at("model"), json!({"organization": null}));
    assert_eq!(gone.is(200).json.get("organization"), None);
    admin
        .patch(&at("model"), json!({"api_key": "another"}))
        .expect(200);
    // Somebody else's change.
    let stale = admin.request_with(
        "PATCH",
        &at("model"),
        &[("if-match", "\"2\"")],
        &json!({"organization": "p"}),
    );
    stale.is_problem(412, "stale", &["5"]);
    // Names as promptflow has them.
    let custom = json!({"type": "custom", "configs": {"a": "b"}, "secrets": {"k": SECRET}});
    let spaced = admin.put(&at("my%20own"), custom.clone()).is(201);
    assert_eq!(spaced.json["name"], "my own");
    assert_eq!(spaced.json["secrets"], json!({"k": "******"}));
    let listed = admin.get(&workspace("/connections")).is(200).json;
    let names: Vec<&str> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["model", "my own"]);
    server.restart();
    let admin = server.admin();
    assert_eq!(
        admin.get(&at("my%20own")).is(200).json["secrets"],
        json!({"k": "******"})
    );
    admin.delete(&at("model")).expect(204);
    admin
        .get(&at("model"))
        .is_problem(404, "not-found", &["model"]);
    admin.delete(&at("model")).expect(404);
    assert!(!server.log().contains(SECRET));
    assert_eq!(has(server.home(), SECRET.as_bytes()), None);
}

#[test]
fn what_is_no_connection_is_refused_without_being_shown() {
    let server = Server::start();
    let admin = server.admin();
    for (body, words) in [
        (json!({"api_key": SECRET}), vec!["type is required"]),
        (
            json!({"type": "nope", "api_key": SECRET}),
            vec!["Nope", "AzureOpenAI"],
        ),
        (json!({"type": "open_ai"}), vec!["api_key", "Missing data"]),
        (
            json!({"type": "open_ai", "api_key": [SECRET]}),
            vec!["Not a valid string"],
        ),
        (
            json!({"type": "open_ai", "api_key": "******"}),
            vec!["please fill them"],
        ),
        (
            json!({"type": "open_ai", "api_key": "k", "api_bas": SECRET}),
            vec!["api_bas", "base_url"],
        ),
        (
            json!({"type": "open_ai", "api_key": "${env:FLOWCELL__SECRETS__KEY}"}),
            vec!["env:NAME"],
        ),
        (
            json!({"type": "open_ai", "api_key": "k", "name": "other"}),
            vec!["name"],
        ),
        (
            json!({"type": "custom", "secrets": {}}),
            vec!["Secrets is required"],
        ),
        (
            json!({"type": "serp", "api_key": "k".repeat(20_000)}),
            vec!["api_key"],
        ),
    ] {
        let refused = admin.put(&at("c"), body);
        refused.is_problem(422, "invalid", &words);
        assert!(!refused.detail().contains(SECRET), "{}", refused.detail());
    }
    admin
        .put(&at("c"), json!([SECRET]))
        .is_problem(400, "invalid-body", &["object"]);
    admin.put(&at(&"n".repeat(129)), open_ai("k")).expect(422);
    admin.patch(&at("c"), json!({"api_key": "k"})).expect(404);
    // A secret is not sent to another place than it was given for.
    admin.put(&at("c"), open_ai(SECRET)).expect(201);
    let moved = admin.patch(&at("c"), json!({"base_url": "https://evil.example"}));
    moved.is_problem(422, "invalid", &["api_key", "anew"]);
    let moved = admin.put(&at("c"), json!({"type": "open_ai", "api_key": "******"}));
    moved.is_problem(422, "invalid", &["api_key"]);
    admin
        .patch(
            &at("c"),
            json!({"base_url": "https://evil.example", "api_key": "k"}),
        )
        .expect(200);
}

#[test]
fn there_is_room_for_so_many() {
    let server = Server::start();
    let admin = server.admin();
    for number in 0..100 {
        admin
            .put(
                &at(&format!("c{number}")),
                json!({"type": "serp", "api_key": "k"}),
            )
            .expect(201);
    }
    let one_more = admin.put(&at("more"), json!({"type": "serp", "api_key": "k"}));
    one_more.is_problem(409, "quota-exceeded", &["100 connections"]);
    admin
        .put(&at("c7"), json!({"type": "serp", "api_key": "l"}))
        .expect(200);
    let large = |number: usize| {
        let secrets: serde_json::Map<String, Value> = (0..4)
            .map(|n| (format!("k{n}"), "v".repeat(15_000).into()))
            .collect();
        admin.put(
            &at(&format!("c{number}")),
            json!({"type": "custom", "secrets": secrets}),
        )
    };
    (0..8).for_each(|number| {
        large(number).expect(200);
    });
    large(8).is_problem(409, "quota-exceeded", &["512 KiB"]);
}

#[test]
fn guests_get_placeholders() {
    let mut server = Server::start();
    let admin = server.admin();
    admin.put(&at("model"), open_ai(SECRET)).expect(201);
    admin.upload("f", &flow());
    let session = admin.session("f");
    let out = session.out(json!({}));
    assert_eq!(out[0], "OpenAIConnection");
    assert_eq!(out[1], "model");
    assert_eq!(out[2], "https://models.example/v1");
    let token = out[3].as_str().unwrap().to_owned();
    assert!(
        token.starts_with("flowcell-secret-") && token.len() == 48,
        "{token}"
    );
    assert_eq!(out[4], "https://models.example/v1");
    assert_eq!(out[5], token.as_str());
    assert_eq!(out[6], 1);
    // Another secret goes behind the same placeholder, and the session keeps its memory.
    admin
        .patch(&at("model"), json!({"api_key": format!("{SECRET}-2")}))
        .expect(200);
    let again = session.out(json!({}));
    assert_eq!((&again[3], &again[6]), (&out[3], &json!(2)));
    // Another address is in force from the next call on, in the environment, too.
    let moved = json!({"base_url": "https://other.example", "api_key": SECRET});
    admin.patch(&at("model"), moved).expect(200);
    let moved = session.out(json!({}));
    assert_eq!(
        (&moved[2], &moved[4]),
        (
            &json!("https://other.example"),
            &json!("https://other.example")
        )
    );
    // The same placeholder after the session was stored and the host was killed.
    let before = session.out(json!({}));
    admin
        .post(&session.path("/hibernate"), Value::Null)
        .expect(200);
    server.restart();
    let admin = server.admin();
    let session = session.of(&admin);
    let after = session.out(json!({}));
    assert_eq!(after[3], before[3]);
    assert_eq!(after[6], json!(before[6].as_u64().unwrap() + 1));
    // A fork has the placeholders that are in its memory; another session has its own.
    let fork = admin
        .post(&session.path("/fork"), json!({"flow": "g"}))
        .is(201);
    let fork = workspace(&format!("/sessions/{}", fork.text("id")));
    let forked = flowcell_tests::server::wait_until("the fork runs", || {
        let answer = admin.post(&format!("{fork}/calls"), json!({}));
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(forked.json["outputs"]["out"][3], before[3]);
    admin.upload("h", &flow());
    let other = admin.session("h").out(json!({}));
    assert_ne!(other[3], before[3]);
    // One that is gone is an error that says so.
    admin.delete(&at("model")).expect(204);
    let call = session.call(json!({}));
    assert_eq!(call["error"]["class"], "ConnectionNotFoundError", "{call}");
    assert_eq!(call["error"]["message"], "Connection 'model' is not found.");
    let history = admin.get(&session.path("/history")).is(200);
    assert!(!String::from_utf8_lossy(&history.body).contains(SECRET));
    assert!(!server.log().contains(SECRET));
    assert_eq!(has(server.home(), SECRET.as_bytes()), None);
    // The search finds what is there.
    assert!(has(server.home(), b"https://other.example").is_some());
}

#[test]
fn keys_change_and_a_record_that_was_changed_does_not_open() {
    let key = |digit: char| digit.to_string().repeat(64);
    let setup = |variables: &[(&str, String)]| Setup {
        environment: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        ..Setup::default()
    };
    let mut server = Server::with(setup(&[(KEY, key('a'))]));
    server
        .admin()
        .put(&at("model"), open_ai(SECRET))
        .expect(201);
    server.admin().upload("f", &flow());
    server.kill();
    server.set_up(|own| *own = setup(&[(KEY, key('b')), (PREVIOUS, key('a'))]));
    server.restart();
    // The old key is of no use any more.
    server.kill();
    server.set_up(|own| *own = setup(&[(KEY, key('b'))]));
    server.restart();
    assert_eq!(server.admin().session("f").out(json!({}))[1], "model");
    // An address that was changed in the database has no secret.
    server.kill();
    let database =
        rusqlite::Connection::open(server.home().join("server/registry.sqlite")).unwrap();
    let changed = database.execute(
        "UPDATE record SET json = replace(json, 'models.example', 'evil.example') WHERE kind = 'connection'",
        [],
    );
    assert_eq!(changed.unwrap(), 1);
    drop(database);
    server.restart();
    let admin = server.admin();
    admin.upload("g", &flow());
    let call = admin.session("g").call(json!({}));
    assert_eq!(call["error"]["class"], "ConnectionNotFoundError", "{call}");
    assert!(server.log().contains("cannot be opened"));
    admin
        .patch(&at("model"), json!({"organization": "o"}))
        .expect(500);
    admin.delete(&at("model")).expect(204);
}
