//! Identities: who may do what with them, what they hold, and what nobody is told.

use flowcell_tests::FlowFolder;
use flowcell_tests::server::{Client, Response, Server, workspace};
use serde_json::{Value, json};

const TOOL: &str = "from promptflow.core import tool\n@tool\ndef t(): return 1\n";
const SECRET: &str = "hunter2-of-the-feed";

fn identity(client: &Client, name: &str) -> String {
    let made = client.post(&workspace("/identities"), json!({"name": name}));
    made.is(201).text("client_id").to_owned()
}

fn managed(client_id: &str) -> Value {
    json!({"type": "managed", "client_id": client_id})
}

/// Tries to start a session with an identity, without starting one.
fn dry(client: &Client, identity: &Value) -> Response {
    client.post(
        &workspace("/sessions?dry_run=true"),
        json!({"flow": "f", "identity": identity}),
    )
}

#[test]
fn an_identity_is_assigned_by_those_who_may() {
    let server = Server::start();
    let admin = server.admin();
    admin.upload("f", &FlowFolder::python(TOOL, &[]));
    let id = identity(&admin, "team");
    let (ann, ben) = (
        server.user("ann", "data-scientist"),
        server.user("ben", "data-scientist"),
    );
    let reader = server.user("rea", "reader");
    let grants = workspace("/identities/team/grants");
    for user in ["ann", "rea"] {
        let path = format!("{grants}/{user}");
        admin.put(&path, Value::Null).expect(200);
    }
    let listed = admin.get(&grants).is(200).json;
    assert_eq!(listed["items"], json!([{"user": "ann"}, {"user": "rea"}]));
    // Owners may, whoever it was granted to may, and a grant is no role.
    let named = managed(&id);
    dry(&admin, &named).expect(200);
    dry(&ann, &named).expect(200);
    let refused = dry(&ben, &named);
    refused.is_problem(403, "forbidden", &["ben", "team", "grant"]);
    dry(&reader, &named).expect(403);
    // The workspace's own is allowed in the same way.
    let own = json!({"type": "managed"});
    dry(&admin, &own).expect(200);
    dry(&ann, &own).is_problem(403, "forbidden", &["ann", "system"]);
    let path = workspace("/identities/system/grants/ann");
    admin.put(&path, Value::Null).expect(200);
    dry(&ann, &own).expect(200);
    dry(&ann, &json!({"type": "user_identity"})).expect(200);
    // The same for a session that is there, whoever changes it.
    let session = ben.start(&json!({"flow": "f"}));
    let change = json!({ "identity": named });
    for client in [&ben, &admin] {
        let refused = client.patch(&session.path(""), change.clone());
        refused.is_problem(403, "forbidden", &["ben", "team"]);
    }
    admin.put(&format!("{grants}/ben"), Value::Null).expect(200);
    ben.patch(&session.path(""), change).expect(200);
    assert_eq!(session.show()["identity"], named);
    // What is withdrawn holds at once for what begins; what runs goes on.
    admin.delete(&format!("{grants}/ben")).expect(204);
    let reset = session.path("/reset");
    let refused = ben.post(&reset, Value::Null);
    refused.is_problem(403, "forbidden", &["ben", "team"]);
    let fork = ben.post(&session.path("/fork"), json!({"flow": "g"}));
    fork.is_problem(403, "forbidden", &["ben", "team"]);
    assert_eq!(session.out(json!({})), 1);
    ben.patch(&session.path(""), json!({"idle_seconds": 700}))
        .expect(200);
    admin.delete(&workspace("/identities/team")).expect(204);
    let refused = ben.post(&reset, Value::Null);
    refused.is_problem(404, "not-found", &[&id]);
    assert_eq!(session.out(json!({})), 1);
    ben.patch(
        &session.path(""),
        json!({"identity": {"type": "user_identity"}}),
    )
    .expect(200);
    let anew = ben.post(&reset, Value::Null);
    assert!([200, 202].contains(&anew.status), "{anew:#?}");
    assert_eq!(session.wait_for("running")["generation"], 2);
    // A name that comes again is another identity, which nobody was allowed.
    assert_ne!(identity(&admin, "team"), id);
    assert_eq!(admin.get(&grants).json["items"], json!([]));
    admin.delete(&format!("{grants}/ben")).expect(404);
}

#[test]
fn an_identity_is_of_its_workspace_only() {
    let server = Server::start();
    let admin = server.admin();
    admin.upload("f", &FlowFolder::python(TOOL, &[]));
    let eve = server.user("eve", "");
    admin
        .post("/v1/workspaces", json!({"name": "eves", "owner": "eve"}))
        .expect(201);
    let made = eve.post("/v1/workspaces/eves/identities", json!({"name": "team"}));
    let hers = made.is(201).text("client_id").to_owned();
    let path = "/v1/workspaces/eves/identities/team/credentials/index/a.example";
    eve.put(path, json!({"token": SECRET})).expect(200);
    // Hers is as one that nobody has.
    let other = dry(&admin, &managed(&hers));
    other.is_problem(404, "not-found", &[&hers]);
    let nobodys = dry(&admin, &managed("nobodys"));
    assert_eq!(
        other.detail().replace(&hers, "?"),
        nobodys.detail().replace("nobodys", "?")
    );
    admin.get(path).expect(405);
    let listed = "/v1/workspaces/eves/identities/team/credentials";
    let answer = admin.get(listed);
    let nowhere = admin.get(&listed.replace("eves", "nowhere"));
    assert_eq!((answer.status, nowhere.status), (404, 404));
    for path in [
        "/identities/team",
        "/identities/team/credentials",
        "/identities/team/grants",
    ] {
        admin.get(&workspace(path)).expect(404);
        eve.get(&workspace(path)).expect(404);
    }
    let put = workspace("/identities/team/credentials/index/a.example");
    admin.put(&put, json!({"token": SECRET})).expect(404);
    // Users of elsewhere are granted nothing.
    identity(&admin, "team");
    admin
        .put(&workspace("/identities/team/grants/eve"), Value::Null)
        .expect(404);
    // Roles end with what rests on them.
    let ann = server.user("ann", "data-scientist");
    let own = workspace("/me/credentials/index/a.example");
    ann.put(&own, json!({"token": SECRET})).expect(200);
    let role = workspace("/roles/ann");
    admin.delete(&role).expect(204);
    admin
        .put(&role, json!({"role": "data-scientist"}))
        .expect(200);
    let listed = ann.get(&workspace("/me/credentials")).is(200).json;
    assert_eq!(listed["items"], json!([]));
}

#[test]
fn credentials_come_in_and_do_not_go_out() {
    let server = Server::start();
    let admin = server.admin();
    identity(&admin, "team");
    let credentials = workspace("/identities/team/credentials");
    let index = format!("{credentials}/index/Packages.example.com:443");
    let mut answers = vec![
        admin.put(&index, json!({"token": SECRET})).is(200),
        // A second time, under a key that makes requests safe to repeat.
        admin
            .request_with(
                "PUT",
                &index,
                &[("idempotency-key", "once")],
                &json!({"username": "ci", "password": SECRET}),
            )
            .is(200),
        admin
            .put(
                &format!("{credentials}/registry/127.0.0.1:5000"),
                json!({"token": SECRET, "username": null}),
            )
            .is(200),
        admin.get(&credentials).is(200),
        admin.get(&workspace("/identities")).is(200),
        admin.get(&workspace("/identities/team")).is(200),
    ];
    let items = &answers[3].json["items"];
    let shown: Vec<(&str, &str, &str)> = items
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().unwrap();
            (text("kind"), text("host"), text("value"))
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("index", "packages.example.com", "******"),
            ("registry", "127.0.0.1:5000", "******")
        ]
    );
    assert_eq!(answers[5].json["credentials"], 2);
    // Whatever is wrong with a request, its answer does not repeat it.
    for body in [
        json!(SECRET),
        json!([SECRET]),
        json!({"token": [SECRET]}),
        json!({"token": {"value": SECRET}}),
        json!({"tokens": SECRET}),
        json!({SECRET: 1}),
        json!({"token": 47_114_711}),
        json!({"token": SECRET, "password": SECRET}),
        json!({"username": SECRET}),
        json!({"password": SECRET}),
        json!({"token": format!("{SECRET}\n")}),
        json!({"username": format!("{SECRET}:"), "password": "p"}),
        json!({"username": "u", "password": format!("{SECRET}\u{0}")}),
        json!({"token": SECRET.repeat(1_000)}),
        json!({"username": SECRET.repeat(100), "password": "p"}),
        json!({}),
    ] {
        let answer = admin.put(&index, body.clone());
        assert!([400, 422].contains(&answer.status), "{body} {answer:#?}");
        assert!(!answer.detail().contains("4711"), "{answer:#?}");
        answers.push(answer);
    }
    let broken = format!("{{\"token\": \"{SECRET}\"");
    let headers = [("content-type", "application/json")];
    answers.push(admin.send("PUT", &index, &headers, broken).is(400));
    let encoded = [
        ("endpoint", "a.example"),
        ("index", "https%3A%2F%2Fa.example"),
        ("index", "hunter2-of-the-feed@a.example"),
        ("index", "*.example"),
        ("index", "a.example%2Fsimple"),
        ("index", ""),
    ];
    for (kind, host) in encoded {
        let path = format!("{credentials}/{kind}/{host}");
        let answer = admin.put(&path, json!({"token": SECRET}));
        let expected = if host.is_empty() { 404 } else { 422 };
        assert_eq!(answer.status, expected, "{path} {answer:#?}");
        answers.push(answer);
    }
    answers.push(admin.get(&credentials).is(200));
    for answer in &answers {
        let body = String::from_utf8_lossy(&answer.body);
        assert!(!body.contains(SECRET), "{body}");
    }
    admin.delete(&index).expect(204);
    admin
        .delete(&index)
        .is_problem(404, "not-found", &["packages.example.com"]);
    assert!(!server.log().contains(SECRET), "{}", server.log());
}

#[test]
fn identities_and_credentials_have_bounds() {
    let server = Server::start();
    let admin = server.admin();
    let own = |number: usize| workspace(&format!("/me/credentials/index/h{number}.example"));
    let token = json!({"token": "x".repeat(16 << 10)});
    for number in 0..50 {
        admin.put(&own(number), token.clone()).expect(200);
    }
    let refused = admin.put(&own(50), token.clone());
    refused.is_problem(409, "quota-exceeded", &["50"]);
    admin.put(&own(49), token).expect(200);
    let long = json!({"token": "x".repeat((16 << 10) + 1)});
    let refused = admin.put(&own(0), long);
    refused.is_problem(422, "invalid", &["token", "16384"]);
    for number in 1..100 {
        identity(&admin, &format!("i{number}"));
    }
    let refused = admin.post(&workspace("/identities"), json!({"name": "more"}));
    refused.is_problem(409, "quota-exceeded", &["100"]);
    for (name, status) in [("system", 422), ("i1", 409), ("a/b", 400)] {
        let answer = admin.post(&workspace("/identities"), json!({"name": name}));
        assert_eq!(answer.status, status, "{answer:#?}");
    }
    let pages = admin.get(&workspace("/identities?limit=30")).is(200).json;
    assert_eq!(pages["items"].as_array().unwrap().len(), 30);
    assert!(pages["next_cursor"].is_string());
}

#[test]
fn a_workspaces_identities_are_set_as_azure_sets_them() {
    let server = Server::start();
    let admin = server.admin();
    let path = workspace("");
    let own = admin.get(&path).is(200).json["identity"]["client_id"].clone();
    let set = |identity: Value| admin.patch(&path, json!({ "identity": identity }));
    let prefix = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities";
    let shown = set(json!({
        "type": "system_assigned, user_assigned",
        "user_assigned_identities": {
            format!("{prefix}/feed"): {},
            "plain": null,
            "known": {"client_id": "0123-ABC", "principal_id": "p"},
        },
    }))
    .is(200)
    .json;
    let identities = &shown["identity"];
    assert_eq!(identities["type"], "system_assigned,user_assigned");
    assert_eq!(identities["client_id"], own);
    let named = identities["user_assigned_identities"].as_object().unwrap();
    let names: Vec<&String> = named.keys().collect();
    assert_eq!(names, ["feed", "known", "plain"]);
    assert_eq!(named["known"]["client_id"], "0123-ABC");
    // Again, as a list: nothing changes.
    let list = json!({
        "type": "SystemAssigned,UserAssigned",
        "user_assigned_identities": [
            {"resource_id": format!("{prefix}/feed")}, {"resource_id": "plain"},
            {"resource_id": "known", "client_id": "0123-ABC"},
        ],
    });
    assert_eq!(set(list).is(200).json, shown);
    assert_eq!(admin.patch(&path, json!({})).is(200).json, shown);
    for (identity, words) in [
        (json!({}), &["type"][..]),
        (json!({"type": "managed"}), &["system_assigned"]),
        (json!({"type": "none,user_assigned"}), &["none"]),
        (
            json!({"type": "user_assigned"}),
            &["user_assigned_identities"],
        ),
        (
            json!({"type": "none", "user_assigned_identities": {"a": {}}}),
            &["user_assigned_identities", "user_assigned"],
        ),
        (
            json!({"type": "user_assigned", "user_assigned_identities": {"a": {}, "/x/a": {}}}),
            &["'a'"],
        ),
        (
            json!({"type": "user_assigned", "user_assigned_identities": {"a b": {}}}),
            &["'a b'"],
        ),
        (
            json!({"type": "user_assigned", "user_assigned_identities": {"/x/system": {}}}),
            &["'system'"],
        ),
        (
            json!({"type": "user_assigned", "user_assigned_identities": {"a": {"color": 1}}}),
            &["identity.user_assigned_identities.a", "color"],
        ),
        (
            json!({"type": "user_assigned", "user_assigned_identities": [{"client_id": "a"}]}),
            &["resource_id"],
        ),
        (json!({"type": "none", "color": 1}), &["color"]),
    ] {
        let answer = set(identity.clone());
        assert!(
            [400, 422].contains(&answer.status),
            "{identity} {answer:#?}"
        );
        for word in words {
            assert!(answer.detail().contains(word), "{identity} {answer:#?}");
        }
    }
    let unknown = admin.patch(&path, json!({"location": "here"}));
    unknown.is_problem(400, "invalid-body", &["location"]);
    // All of it or nothing: what holds something is not deleted by leaving it out.
    let held = workspace("/identities/plain/credentials/index/a.example");
    admin.put(&held, json!({"token": SECRET})).expect(200);
    let fewer = json!({"type": "user_assigned", "user_assigned_identities": {"new": {}}});
    set(fewer.clone()).is_problem(409, "conflict", &["plain", "identity delete"]);
    assert_eq!(admin.get(&path).json, shown);
    admin.delete(&held).expect(204);
    let shown = set(fewer).is(200).json["identity"].clone();
    assert_eq!(shown["type"], "user_assigned");
    let names = shown["user_assigned_identities"].as_object().unwrap();
    assert_eq!(names.keys().collect::<Vec<_>>(), ["new"]);
    // The workspace's own is gone, and can be made again.
    admin.upload("f", &FlowFolder::python(TOOL, &[]));
    let own = json!({"type": "managed"});
    dry(&admin, &own).is_problem(404, "not-found", &["--system"]);
    admin.post(&workspace("/identities"), json!({})).expect(201);
    admin.post(&workspace("/identities"), json!({})).expect(409);
    dry(&admin, &own).expect(200);
}
