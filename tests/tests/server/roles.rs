//! Who may do what: every operation, for every role.

use std::collections::BTreeSet;

use flowcell_tests::FlowFolder;
use flowcell_tests::server::{Client, Response, Server, Session, wait_until, workspace};
use serde_json::{Value, json};

const TOOL: &str = "from promptflow.core import tool\n@tool\ndef t(): return 1\n";

/// What each may do. Whoever may not is refused with 403, and a stranger gets 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Least {
    /// Everybody, without a key.
    Nobody,
    /// Everybody with a key.
    Anybody,
    /// Readers of the workspace.
    Reader,
    /// Data scientists.
    DataScientist,
    /// The data scientist whose it is, or an owner of the workspace.
    Own,
    /// The data scientist whose it is, and nobody else.
    OnlyOwn,
    /// Owners of the workspace.
    Owner,
    /// The user that it is about, and administrators.
    Myself,
    /// Administrators.
    Admin,
}

use Least::{Admin, Anybody, DataScientist, Myself, Nobody, OnlyOwn, Own, Owner, Reader};

/// All operations, with the least that they need and a body that is wrong only where it is looked at last.
const OPERATIONS: &[(&str, &str, Least)] = &[
    ("GET", "/healthz", Nobody),
    ("GET", "/readyz", Nobody),
    ("GET", "/version", Nobody),
    ("GET", "/metrics", Admin),
    ("GET", "/v1/me", Anybody),
    ("GET", "/v1/users", Admin),
    ("POST", "/v1/users", Admin),
    ("GET", "/v1/users/{user}", Myself),
    ("DELETE", "/v1/users/{user}", Admin),
    ("GET", "/v1/users/{user}/keys", Myself),
    ("POST", "/v1/users/{user}/keys", Myself),
    ("DELETE", "/v1/users/{user}/keys/{key}", Myself),
    ("GET", "/v1/workspaces", Anybody),
    ("POST", "/v1/workspaces", Admin),
    ("GET", "/v1/workspaces/{workspace}", Reader),
    ("PATCH", "/v1/workspaces/{workspace}", Owner),
    ("DELETE", "/v1/workspaces/{workspace}", Owner),
    ("GET", "/v1/workspaces/{workspace}/identities", Reader),
    ("POST", "/v1/workspaces/{workspace}/identities", Owner),
    (
        "GET",
        "/v1/workspaces/{workspace}/identities/{identity}",
        Reader,
    ),
    (
        "DELETE",
        "/v1/workspaces/{workspace}/identities/{identity}",
        Owner,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/identities/{identity}/grants",
        Reader,
    ),
    (
        "PUT",
        "/v1/workspaces/{workspace}/identities/{identity}/grants/{user}",
        Owner,
    ),
    (
        "DELETE",
        "/v1/workspaces/{workspace}/identities/{identity}/grants/{user}",
        Owner,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/identities/{identity}/credentials",
        Reader,
    ),
    (
        "PUT",
        "/v1/workspaces/{workspace}/identities/{identity}/credentials/{kind}/{host}",
        Owner,
    ),
    (
        "DELETE",
        "/v1/workspaces/{workspace}/identities/{identity}/credentials/{kind}/{host}",
        Owner,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/me/credentials",
        DataScientist,
    ),
    (
        "PUT",
        "/v1/workspaces/{workspace}/me/credentials/{kind}/{host}",
        DataScientist,
    ),
    (
        "DELETE",
        "/v1/workspaces/{workspace}/me/credentials/{kind}/{host}",
        DataScientist,
    ),
    ("GET", "/v1/workspaces/{workspace}/connections", Reader),
    (
        "GET",
        "/v1/workspaces/{workspace}/connections/{connection}",
        Reader,
    ),
    (
        "PUT",
        "/v1/workspaces/{workspace}/connections/{connection}",
        Owner,
    ),
    (
        "PATCH",
        "/v1/workspaces/{workspace}/connections/{connection}",
        Owner,
    ),
    (
        "DELETE",
        "/v1/workspaces/{workspace}/connections/{connection}",
        Owner,
    ),
    ("GET", "/v1/workspaces/{workspace}/roles", Reader),
    ("PUT", "/v1/workspaces/{workspace}/roles/{user}", Owner),
    ("DELETE", "/v1/workspaces/{workspace}/roles/{user}", Owner),
    ("GET", "/v1/workspaces/{workspace}/quota", Reader),
    ("GET", "/v1/workspaces/{workspace}/flows", Reader),
    ("POST", "/v1/workspaces/{workspace}/flows", DataScientist),
    ("GET", "/v1/workspaces/{workspace}/flows/{flow}", Reader),
    (
        "DELETE",
        "/v1/workspaces/{workspace}/flows/{flow}",
        DataScientist,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/flows/{flow}/files",
        Reader,
    ),
    (
        "PUT",
        "/v1/workspaces/{workspace}/flows/{flow}/files",
        DataScientist,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/flows/{flow}/files/{path}",
        Reader,
    ),
    (
        "PUT",
        "/v1/workspaces/{workspace}/flows/{flow}/files/{path}",
        DataScientist,
    ),
    (
        "DELETE",
        "/v1/workspaces/{workspace}/flows/{flow}/files/{path}",
        DataScientist,
    ),
    ("GET", "/v1/workspaces/{workspace}/instance-types", Reader),
    ("GET", "/v1/workspaces/{workspace}/computes", Reader),
    ("POST", "/v1/workspaces/{workspace}/computes", DataScientist),
    (
        "GET",
        "/v1/workspaces/{workspace}/computes/{compute}",
        Reader,
    ),
    (
        "PATCH",
        "/v1/workspaces/{workspace}/computes/{compute}",
        Own,
    ),
    (
        "DELETE",
        "/v1/workspaces/{workspace}/computes/{compute}",
        Own,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/computes/{compute}/start",
        OnlyOwn,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/computes/{compute}/stop",
        Own,
    ),
    ("GET", "/v1/workspaces/{workspace}/sessions", Reader),
    ("POST", "/v1/workspaces/{workspace}/sessions", DataScientist),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}",
        Reader,
    ),
    (
        "PATCH",
        "/v1/workspaces/{workspace}/sessions/{session}",
        Own,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/reset",
        Own,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/stop",
        Own,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/hibernate",
        Own,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/resume",
        Own,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/fork",
        OnlyOwn,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/packages",
        Reader,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/lock",
        Reader,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/install",
        OnlyOwn,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/history",
        Reader,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/operations/{operation}",
        Reader,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/tools",
        OnlyOwn,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/calls",
        Reader,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/calls",
        OnlyOwn,
    ),
    (
        "DELETE",
        "/v1/workspaces/{workspace}/sessions/{session}/calls/{call}",
        Own,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/traces",
        Own,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/traces/{trace}",
        Own,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/requests",
        Own,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/events",
        Reader,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/aggregation",
        OnlyOwn,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/execution",
        OnlyOwn,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/execution/cancel",
        OnlyOwn,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/execution/flow",
        OnlyOwn,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/execution/node",
        OnlyOwn,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/finalize",
        OnlyOwn,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/health",
        OnlyOwn,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/initialize",
        OnlyOwn,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/tool/meta",
        OnlyOwn,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/tool/package_tools",
        OnlyOwn,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/executor/version",
        OnlyOwn,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/serve/feedback",
        OnlyOwn,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/serve/health",
        OnlyOwn,
    ),
    (
        "POST",
        "/v1/workspaces/{workspace}/sessions/{session}/serve/score",
        OnlyOwn,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/serve/swagger.json",
        OnlyOwn,
    ),
    (
        "GET",
        "/v1/workspaces/{workspace}/sessions/{session}/serve/version",
        OnlyOwn,
    ),
];

/// Whoever asks, by how much they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Administers the host, without a role in the workspace.
    Admin,
    /// Has a key and nothing else; a role in another workspace.
    Stranger,
    Reader,
    /// A data scientist, to whom nothing here belongs.
    Other,
    Owner,
    /// The data scientist to whom everything belongs.
    Own,
}

fn allowed(who: Who, least: Least) -> bool {
    match least {
        Nobody | Anybody => true,
        Reader => !matches!(who, Who::Admin | Who::Stranger),
        DataScientist => matches!(who, Who::Other | Who::Owner | Who::Own),
        Own => matches!(who, Who::Owner | Who::Own),
        OnlyOwn => who == Who::Own,
        Owner => who == Who::Owner,
        Myself => matches!(who, Who::Own | Who::Admin),
        Admin => who == Who::Admin,
    }
}

fn everybody(server: &Server) -> Vec<(Who, Client)> {
    let admin = server.admin();
    let own = server.user("own", "data-scientist");
    let everybody = vec![
        (Who::Stranger, server.user("stranger", "")),
        (Who::Reader, server.user("reader", "reader")),
        (Who::Other, server.user("other", "data-scientist")),
        (Who::Owner, server.user("owner", "owner")),
        (Who::Admin, admin.clone()),
        (Who::Own, own),
    ];
    admin
        .post(
            "/v1/workspaces",
            json!({"name": "elsewhere", "owner": "stranger"}),
        )
        .expect(201);
    admin
        .post(&workspace("/identities"), json!({"name": "team"}))
        .expect(201);
    let model = json!({"type": "serp", "api_key": "hunter2"});
    admin
        .put(&workspace("/connections/model"), model)
        .expect(201);
    // Whoever administers the host has no role by that alone.
    admin.delete(&workspace("/roles/admin")).expect(204);
    everybody
}

/// What is answered when the limit on wrong keys is not in the way.
fn unlimited(send: impl Fn() -> Response) -> Response {
    wait_until("the limit lets it through", || {
        Some(send()).filter(|answer| answer.status != 429)
    })
}

#[test]
fn the_table_has_all_operations() {
    let server = Server::start();
    let document = server.client("").get("/openapi.json").is(200).json;
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            if ["get", "put", "post", "patch", "delete"].contains(&method.as_str()) {
                described.insert((method.to_uppercase(), path.clone()));
            }
        }
    }
    let listed = OPERATIONS
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()));
    assert_eq!(described, listed.collect());
}

/// Everything that paths name, so that nothing is refused for not being there.
struct Things {
    session: Session,
    key: String,
}

impl Things {
    fn make(own: &Client) -> Self {
        own.post(&workspace("/computes"), json!({"name": "box"}))
            .expect(201);
        own.upload("flow", &FlowFolder::python(TOOL, &[]));
        let session = own.start(&json!({"flow": "flow", "compute": "box"}));
        let key = own
            .post("/v1/users/own/keys", json!({}))
            .is(201)
            .text("id")
            .to_owned();
        Self { session, key }
    }

    fn path(&self, pattern: &str) -> String {
        pattern
            .replace("{user}", "own")
            .replace("{key}", &self.key)
            .replace("{workspace}", "default")
            .replace("{identity}", "team")
            .replace("{kind}", "index")
            .replace("{host}", "packages.example.com")
            .replace("{connection}", "model")
            .replace("{flow}", "flow")
            .replace("{path}", "tool.py")
            .replace("{compute}", "box")
            .replace("{session}", &self.session.id)
            .replace("{operation}", &format!("{}.1", self.session.id))
            .replace("{call}", "gone")
    }
}

/// A body that gets as far as the question who asks, and changes nothing that others need.
fn body(method: &str, path: &str) -> Value {
    match (method, path.rsplit('/').next().unwrap()) {
        ("POST", "users") => json!({"name": "own"}),
        ("POST", "workspaces") => json!({"name": "default"}),
        ("POST", "keys") => json!({}),
        ("PUT", "{user}") => json!({"role": "data-scientist"}),
        ("POST", "identities") => json!({"name": "team"}),
        ("PUT", "{host}") => json!({"token": "hunter2"}),
        ("PUT", "{connection}") => json!({"type": "serp", "api_key": "hunter2"}),
        ("PATCH", "{connection}") => json!({"api_key": "hunter3"}),
        ("PATCH", "{workspace}") => json!({}),
        ("POST", "flows") => json!({"name": "flow"}),
        ("POST", "computes") => json!({"name": "box"}),
        ("PATCH", "{compute}" | "{session}") => json!({"idle_seconds": 1000}),
        ("POST", "sessions") => json!({"flow": "flow"}),
        ("POST", "fork") => json!({"flow": "flow"}),
        ("POST", "calls") => json!({"inputs": {}}),
        _ => Value::Null,
    }
}

#[test]
fn every_operation_is_for_those_who_may() {
    let server = Server::start();
    let everybody = everybody(&server);
    let own = everybody.last().unwrap().1.clone();
    let things = Things::make(&own);
    for (method, pattern, least) in OPERATIONS {
        let path = things.path(pattern);
        let body = body(method, pattern);
        let anonymous = unlimited(|| server.client("").send(method, &path, &[], ""));
        let expected = if *least == Nobody { 200 } else { 401 };
        assert_eq!(
            anonymous.status, expected,
            "{method} {pattern} without a key"
        );
        for (who, client) in &everybody {
            if allowed(*who, *least) {
                continue;
            }
            let answer = client.request(method, &path, &body);
            let in_workspace = pattern.starts_with("/v1/workspaces/");
            let sees_nothing = matches!(who, Who::Stranger | Who::Admin);
            let (status, kind) = match in_workspace && sees_nothing {
                true => (404, "/problems/not-found"),
                false => (403, "/problems/forbidden"),
            };
            let context = format!("{method} {pattern} by {who:?}: {answer:#?}");
            assert_eq!(answer.status, status, "{context}");
            assert_eq!(answer.json["type"], kind, "{context}");
            if sees_nothing && in_workspace {
                // Nothing tells that the workspace exists.
                let other = path.replace("/default", "/nowhere");
                let nowhere = client.request(method, &other, &body);
                let detail = nowhere.detail().replace("nowhere", "default");
                assert_eq!(
                    (nowhere.status, detail.as_str()),
                    (404, answer.detail()),
                    "{context}"
                );
            }
        }
    }
    // Nothing of this has changed anything.
    assert_eq!(things.session.call(json!({}))["status"], "Completed");
    assert_eq!(things.session.show()["idle_seconds"], 3600);
}

#[test]
fn every_operation_works_for_those_who_may() {
    let server = Server::start();
    let everybody = everybody(&server);
    let own = everybody.last().unwrap().1.clone();
    let things = Things::make(&own);
    // What destroys comes last; here only reading and changing.
    for (method, pattern, least) in OPERATIONS {
        if *method == "DELETE" || pattern.ends_with("/stop") || pattern.ends_with("/events") {
            continue;
        }
        // What promptflow's interfaces answer has tests of its own (contracts.rs).
        if pattern.contains("/executor/") || pattern.contains("/serve/") {
            continue;
        }
        for (who, client) in &everybody {
            if !allowed(*who, *least) {
                continue;
            }
            let answer = client.request(method, &things.path(pattern), &body(method, pattern));
            let is_fine = match (*method, *pattern) {
                // What is there already cannot be made again.
                ("POST", "/v1/users" | "/v1/workspaces") => answer.status == 409,
                ("POST", path)
                    if path.ends_with("/flows")
                        || path.ends_with("/identities")
                        || path.ends_with("/computes")
                        || path.ends_with("/sessions")
                        || path.ends_with("/fork") =>
                {
                    answer.status == 409
                }
                // Its flow asks for no packages.
                ("GET", path) if path.ends_with("/lock") => answer.status == 404,
                // It has not been called.
                ("GET", path) if path.ends_with("/{trace}") => answer.status == 404,
                // An empty file, and no archive.
                ("PUT", path) if path.ends_with("/files") => answer.status == 415,
                _ => matches!(answer.status, 200..=202),
            };
            assert!(is_fine, "{method} {pattern} by {who:?}: {answer:#?}");
            if pattern.ends_with("/reset") {
                things.session.wait_for("running");
            }
            if pattern.ends_with("{path}") && *method == "PUT" {
                own.write("flow", "tool.py", TOOL);
            }
        }
    }
}

#[test]
fn what_a_role_allows_holds_at_once() {
    let server = Server::start();
    let admin = server.admin();
    let ann = server.user("ann", "");
    let path = workspace("/flows");
    let role = workspace("/roles/ann");
    ann.get(&path).expect(404);
    admin.put(&role, json!({"role": "reader"})).expect(200);
    ann.get(&path).expect(200);
    ann.post(&path, json!({"name": "f"})).expect(403);
    admin
        .put(&role, json!({"role": "data-scientist"}))
        .expect(200);
    ann.post(&path, json!({"name": "f"})).expect(201);
    let me = ann.get("/v1/me").is(200).json;
    assert_eq!(
        me["roles"],
        json!([{"workspace": "default", "role": "data-scientist"}])
    );
    admin.put(&role, json!({"role": "chief"})).expect(400);
    admin.delete(&role).expect(204);
    ann.get(&path).expect(404);
    admin.delete(&role).expect(404);
    assert_eq!(ann.get("/v1/workspaces").json["items"], json!([]));
}

#[test]
fn a_role_that_is_withdrawn_ends_an_open_event_stream() {
    let server = Server::start();
    let admin = server.admin();
    let session = admin.python("flow", TOOL, &[]);
    let reader = server.user("reader", "reader");
    let mut events = session.of(&reader).events();
    session.call(json!({}));
    events.wait_for("call_ended");
    admin.delete(&workspace("/roles/reader")).expect(204);
    session.call(json!({}));
    assert_eq!(events.rest(), []);
    session
        .of(&reader)
        .client
        .get(&session.path("/events"))
        .expect(404);
}

#[test]
fn a_key_that_is_revoked_ends_an_open_event_stream() {
    let server = Server::start();
    let session = server.admin().python("flow", TOOL, &[]);
    let reader = server.user("reader", "reader");
    let mut events = session.of(&reader).events();
    session.call(json!({}));
    events.wait_for("call_ended");
    let id = reader.key().split('_').nth(1).unwrap();
    reader
        .delete(&format!("/v1/users/reader/keys/{id}"))
        .expect(204);
    session.call(json!({}));
    assert_eq!(events.rest(), []);
}

#[test]
fn the_last_owner_and_the_last_administrator_stay() {
    let server = Server::start();
    let admin = server.admin();
    let role = workspace("/roles/admin");
    admin
        .delete(&role)
        .is_problem(409, "conflict", &["only owner"]);
    admin
        .put(&role, json!({"role": "reader"}))
        .is_problem(409, "conflict", &["only owner"]);
    admin
        .delete("/v1/users/admin")
        .is_problem(409, "conflict", &["administers"]);
    let ann = server.user("ann", "owner");
    ann.delete(&role).expect(204);
    ann.delete(&workspace("/roles/ann")).expect(409);
    // Deleting a user takes the roles along, and so would leave a workspace without an owner.
    admin
        .delete("/v1/users/ann")
        .is_problem(409, "conflict", &["only owner", "default"]);
    admin
        .post("/v1/users", json!({"name": "second", "admin": true}))
        .expect(201);
    admin.delete("/v1/users/admin").expect(204);
    admin.get("/v1/me").expect(401);
    ann.get("/v1/users").expect(403);
}

#[test]
fn a_user_that_is_deleted_is_gone_with_keys_and_roles() {
    let server = Server::start();
    let admin = server.admin();
    let ann = server.user("ann", "data-scientist");
    ann.get(&workspace("/flows")).expect(200);
    admin.delete("/v1/users/ann").expect(204);
    ann.get(&workspace("/flows")).expect(401);
    // Another one of that name has nothing of it.
    let other = server.user("ann", "");
    other.get(&workspace("/flows")).expect(404);
    ann.get("/v1/me").expect(401);
}

#[test]
fn only_good_keys_are_taken() {
    let server = Server::start();
    let admin = server.admin();
    let key = admin
        .post(
            "/v1/users/admin/keys",
            json!({"description": "spare", "expires_in_days": 1}),
        )
        .is(201)
        .json;
    let text = key["key"].as_str().unwrap();
    server.client(text).get("/v1/me").expect(200);
    let listed = admin.get("/v1/users/admin/keys").is(200);
    let body = String::from_utf8_lossy(&listed.body).into_owned();
    let secret = text.splitn(3, '_').nth(2).unwrap();
    assert!(
        body.contains("spare") && !body.contains(secret) && !body.contains("hash"),
        "{body}"
    );
    let id = key["id"].as_str().unwrap();
    admin
        .delete(&format!("/v1/users/admin/keys/{id}"))
        .expect(204);
    admin
        .delete(&format!("/v1/users/admin/keys/{id}"))
        .expect(404);
    let good = admin.key();
    let wrong = [
        text.to_owned(),
        format!("{good}x"),
        good[..good.len() - 1].to_owned(),
        good.to_uppercase(),
        "fc_".to_owned(),
        "fc__".to_owned(),
        "nonsense".to_owned(),
        "ey.ey.ey".to_owned(),
    ];
    for key in wrong {
        let answer = unlimited(|| server.client(&key).get("/v1/me"));
        answer.is_problem(401, "unauthorized", &[]);
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    }
    let nobody = server.client("");
    for header in ["Basic YTpi", "Bearer", "", "Bearer ", good] {
        let headers = [("authorization", header)];
        let answer = unlimited(|| nobody.send("GET", "/v1/me", &headers, ""));
        assert_eq!(answer.status, 401, "{header:?}");
    }
    let lower = format!("bearer {good}");
    nobody
        .send("GET", "/v1/me", &[("authorization", &lower)], "")
        .expect(200);
    for days in [json!(0), json!(3651)] {
        admin
            .post("/v1/users/admin/keys", json!({"expires_in_days": days}))
            .is_problem(422, "invalid", &["expires_in_days"]);
    }
    admin.post("/v1/users/gone/keys", json!({})).expect(404);
}

#[test]
fn a_key_that_has_expired_is_refused() {
    let mut server = Server::start();
    let admin = server.admin();
    let key = admin
        .post("/v1/users/admin/keys", json!({"expires_in_days": 1}))
        .is(201)
        .json;
    let client = server.client(key["key"].as_str().unwrap());
    client.get("/v1/me").expect(200);
    server.kill();
    // A day passes.
    let database = server.home().join("server/registry.sqlite");
    let before = key["expires"].as_str().unwrap();
    expire(&database, before);
    server.restart();
    client
        .get("/v1/me")
        .is_problem(401, "unauthorized", &["expired"]);
    admin.get("/v1/me").expect(200);
}

/// Replaces a time in the database by one long ago, of the same length.
fn expire(database: &std::path::Path, time: &str) {
    let past = format!("2001{}", &time[4..]);
    let connection = rusqlite::Connection::open(database).unwrap();
    let changed = connection
        .execute(
            "UPDATE record SET json = replace(json, ?1, ?2)",
            (time, &past),
        )
        .unwrap();
    assert!(changed > 0);
}

#[test]
fn too_many_requests_wait() {
    let server = Server::configured("[server]\nrequests_per_second = 1\nrequest_burst = 5\n");
    let admin = server.admin();
    let answers: Vec<_> = (0..30).map(|_| admin.get("/v1/me")).collect();
    assert_eq!(answers[0].status, 200);
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    refused.is_problem(429, "too-many", &["admin"]);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    // Whoever comes back then is served; health is never limited.
    server.client("").get("/healthz").expect(200);
    wait_until("requests are taken again", || {
        (admin.get("/v1/me").status == 200).then_some(())
    });
}

#[test]
fn guessing_keys_is_slow() {
    let server = Server::start();
    let guesser = server.client("fc_0123456789abcdef_nonsense");
    let answers: Vec<_> = (0..60).map(|_| guesser.get("/v1/me")).collect();
    assert_eq!(answers[0].status, 401);
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    refused.is_problem(429, "too-many", &["address"]);
    // Good keys from the same address go on.
    server.admin().get("/v1/me").expect(200);
}

#[test]
fn tenants_do_not_see_each_other() {
    let server = Server::start();
    let admin = server.admin();
    admin.python("secret", TOOL, &[]);
    let ann = server.user("ann", "");
    admin
        .post("/v1/workspaces", json!({"name": "anns", "owner": "ann"}))
        .expect(201);
    assert_eq!(ann.get("/v1/workspaces").json["items"][0]["name"], "anns");
    assert_eq!(
        ann.get("/v1/workspaces").json["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        ann.get("/v1/workspaces/anns/flows").json["items"],
        json!([])
    );
    ann.get("/v1/workspaces/anns/flows/secret").expect(404);
    ann.get("/v1/users/admin").expect(403);
    ann.get("/v1/users/admin/keys").expect(403);
    ann.post("/v1/users/admin/keys", json!({})).expect(403);
    let id = admin.key().split('_').nth(1).unwrap();
    ann.delete(&format!("/v1/users/ann/keys/{id}")).expect(404);
    admin.get("/v1/me").expect(200);
    // Its owner deletes a workspace; nobody else does.
    admin.delete("/v1/workspaces/anns").expect(404);
    ann.delete("/v1/workspaces/anns").expect(204);
    ann.get("/v1/workspaces/anns").expect(404);
    admin
        .delete("/v1/workspaces/default")
        .is_problem(409, "conflict", &["1 sessions"]);
}
