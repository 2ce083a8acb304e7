//! The life of sessions: settings, moves, resets, idleness, and what each leaves behind.

use flowcell_tests::FlowFolder;
use flowcell_tests::server::{Client, Server, Session, wait_until, workspace};
use serde_json::{Value, json};

/// Counts in memory and in files: `[memory, /flow, /tmp]`. With an input it waits for so many seconds.
const COUNT: &str = "import os, time\nfrom promptflow.core import tool\ncount = 0\ndef more(path):\n    with open(path, 'a') as file: file.write('x')\n    return os.path.getsize(path)\n@tool\ndef t(wait: float):\n    global count\n    count += 1\n    time.sleep(wait)\n    return [count, more('count'), more('/tmp/count')]\n";

fn counting(client: &Client, flow: &str) -> FlowFolder {
    let folder = FlowFolder::python(COUNT, &[("wait", "double")]);
    client.upload(flow, &folder);
    folder
}

fn count(session: &Session) -> Value {
    session.out(json!({"wait": 0}))
}

fn computes(client: &Client) -> Vec<Value> {
    let page = client.get(&workspace("/computes")).is(200).json;
    page["items"].as_array().unwrap().clone()
}

#[test]
fn a_session_starts_with_defaults_that_are_told() {
    let server = Server::start();
    let ann = server.user("ann", "data-scientist");
    counting(&ann, "count");
    let answer = ann
        .post(&workspace("/sessions"), json!({"flow": "count"}))
        .is(201);
    let shown = &answer.json;
    assert_eq!(shown["state"], "running");
    assert_eq!(shown["flow"], "count");
    assert_eq!(shown["user"], "ann");
    assert_eq!(shown["generation"], 1);
    assert_eq!(shown["idle_seconds"], 3600);
    assert_eq!(shown["identity"], json!({"type": "user_identity"}));
    assert_eq!(shown["compute"]["kind"], "serverless");
    assert_eq!(shown["compute"]["instance_type"], "small");
    let choice = shown["compute"]["choice"].as_str().unwrap();
    assert!(choice.contains("the cheapest"), "{choice}");
    let image = &shown["base_image"];
    assert!(
        image["reference"]
            .as_str()
            .unwrap()
            .starts_with("promptflow:")
    );
    assert!(image["digest"].as_str().unwrap().starts_with("sha256:"));
    let id = answer.text("id");
    assert_eq!(
        answer.header("location"),
        workspace(&format!("/sessions/{id}"))
    );
    let again = ann.get(answer.header("location")).is(200);
    assert_eq!(again.json["id"], id);
    assert_eq!(again.tag(), answer.tag());
    let flow = ann.get(&workspace("/flows/count")).is(200).json;
    assert_eq!(flow["session"], id);
    let listed = ann.get(&workspace("/sessions")).is(200).json;
    assert_eq!(listed["items"][0]["id"], id);
}

#[test]
fn a_session_starts_with_the_settings_that_are_asked_for() {
    let server = Server::start();
    let admin = server.admin();
    counting(&admin, "count");
    let identity = admin.post(&workspace("/identities"), json!({"name": "team"}));
    let client_id = identity.is(201).json["client_id"].clone();
    let settings = json!({
        "flow": "count", "compute_kind": "serverless", "instance_type": "standard_ds3_V2", "idle_seconds": 600,
        "identity": {"type": "managed", "client_id": client_id}, "base_image": "promptflow:0.1.0",
    });
    let dry = admin.post(&workspace("/sessions?dry_run=true"), settings.clone());
    let shown = dry.is(200).json;
    assert_eq!(shown["compute"]["instance_type"], "large");
    assert!(
        admin.get(&workspace("/sessions")).json["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert!(computes(&admin).is_empty(), "a dry run made a compute");
    let shown = admin.start(&settings).show();
    assert_eq!(shown["compute"]["instance_type"], "large");
    assert_eq!(shown["idle_seconds"], 600);
    assert_eq!(shown["identity"], settings["identity"]);
    assert_eq!(shown["base_image"]["reference"], "promptflow:0.1.0");
    assert_eq!(shown["compute"]["choice"], "type large was named");
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let server = Server::start();
    let admin = server.admin();
    counting(&admin, "count");
    let sessions = workspace("/sessions");
    for (settings, field) in [
        (json!({"instance_type": "huge"}), "instance_type"),
        (json!({"base_image": "gone:1.0"}), "base_image"),
        (json!({"idle_seconds": 1}), "idle_seconds"),
        (json!({"idle_seconds": 1_000_000_000}), "idle_seconds"),
        (json!({"compute_kind": "instance"}), "compute"),
    ] {
        let mut settings = settings;
        settings["flow"] = json!("count");
        for path in [sessions.clone(), format!("{sessions}?dry_run=true")] {
            let answer = admin.post(&path, settings.clone());
            answer.is_problem(422, "invalid", &[field]);
            assert_eq!(answer.json["field"], field);
        }
    }
    for (body, status) in [
        (json!({"flow": "gone"}), 404),
        (json!({"flow": "count", "compute": "gone"}), 404),
        (json!({}), 400),
        (json!({"flow": "count", "identity": {"type": "other"}}), 400),
        (json!({"flow": "count", "color": "red"}), 400),
    ] {
        admin.post(&sessions, body).expect(status);
    }
    assert!(computes(&admin).is_empty());
}

#[test]
fn a_flow_has_one_session() {
    let server = Server::start();
    let ann = server.user("ann", "data-scientist");
    let bob = server.user("bob", "data-scientist");
    counting(&ann, "count");
    let session = ann.session("count");
    for client in [&ann, &bob] {
        let answer = client.post(&workspace("/sessions"), json!({"flow": "count"}));
        answer.is_problem(409, "conflict", &[&session.id, "of ann", "running"]);
    }
    session.stop();
    // Whoever starts it next gets the same session, with a new life.
    let next = bob.session("count");
    assert_eq!(next.id, session.id);
    assert_eq!(next.show()["generation"], 2);
    assert_eq!(next.show()["user"], "bob");
}

#[test]
fn only_own_computes_can_be_used() {
    let server = Server::start();
    let ann = server.user("ann", "data-scientist");
    let bob = server.user("bob", "data-scientist");
    counting(&ann, "count");
    ann.post(&workspace("/computes"), json!({"name": "anns"}))
        .expect(201);
    for client in [&bob, &server.admin()] {
        let settings = json!({"flow": "count", "compute": "anns"});
        client.post(&workspace("/sessions"), settings).is_problem(
            403,
            "forbidden",
            &["anns", "ann"],
        );
        client
            .post(&workspace("/computes/anns/start"), Value::Null)
            .is_problem(403, "forbidden", &["anns"]);
    }
    let answer = bob.post(&workspace("/computes"), json!({"name": "anns"}));
    answer.is_problem(409, "conflict", &["of ann"]);
    bob.delete(&workspace("/computes/anns"))
        .is_problem(403, "forbidden", &["ann"]);
    // Owners of the workspace see to it that nothing is left over.
    server
        .admin()
        .delete(&workspace("/computes/anns"))
        .expect(200);
}

#[test]
fn an_instance_compute_leaves_only_the_idle_time_to_choose() {
    let server = Server::start();
    let admin = server.admin();
    counting(&admin, "count");
    admin
        .post(
            &workspace("/computes"),
            json!({"name": "mine", "instance_type": "medium"}),
        )
        .expect(201);
    let sessions = workspace("/sessions");
    for (setting, value) in [
        ("identity", json!({"type": "managed", "client_id": "abc"})),
        ("base_image", json!("promptflow:0.1.0")),
        ("instance_type", json!("large")),
        ("compute_kind", json!("serverless")),
    ] {
        let settings = json!({"flow": "count", "compute": "mine", setting: value});
        let answer = admin.post(&sessions, settings);
        answer.is_problem(422, "invalid", &[setting, "mine"]);
    }
    let session =
        admin.start(&json!({"flow": "count", "compute_kind": "instance", "idle_seconds": 700}));
    let shown = session.show();
    assert_eq!(shown["compute"]["name"], "mine");
    assert_eq!(shown["compute"]["instance_type"], "medium");
    assert_eq!(shown["idle_seconds"], 700);
    let path = session.path("");
    let answer = admin.patch(&path, json!({"identity": {"type": "user_identity"}}));
    answer.is_problem(422, "invalid", &["identity"]);
    let answer = admin.patch(&path, json!({"instance_type": "large"}));
    answer.is_problem(422, "invalid", &["instance_type", "mine"]);
    let answer = admin.patch(&path, json!({"idle_seconds": 800})).is(200);
    assert_eq!(answer.json["idle_seconds"], 800);
}

#[test]
fn settings_change_while_it_runs() {
    let server = Server::start();
    let admin = server.admin();
    counting(&admin, "count");
    let session = admin.session("count");
    assert_eq!(count(&session), json!([1, 1, 1]));
    let path = session.path("");
    let tag = admin.get(&path).tag();
    // These hold at once and leave everything as it is.
    let change = json!({"idle_seconds": 900, "identity": {"type": "managed"}});
    let answer = admin
        .request_with("PATCH", &path, &[("if-match", &tag)], &change)
        .is(200);
    assert_eq!(answer.json["idle_seconds"], 900);
    assert_eq!(answer.json["generation"], 1);
    assert_ne!(answer.tag(), tag);
    assert_eq!(count(&session), json!([2, 2, 2]));
    // Somebody who has not seen this change does not undo it.
    let answer = admin.request_with("PATCH", &path, &[("if-match", &tag)], &change);
    answer.is_problem(412, "stale", &[]);
    let reset = session.path("/reset");
    let answer = admin.request_with("POST", &reset, &[("if-match", &tag)], &Value::Null);
    answer.is_problem(412, "stale", &[]);
    admin
        .request_with("PATCH", &path, &[("if-match", "nonsense")], &change)
        .expect(400);
    assert_eq!(count(&session), json!([3, 3, 3]));
    // Another type is another life, on another compute.
    let old = session.show()["compute"]["name"].clone();
    admin.patch(&path, json!({"instance_type": "medium"}));
    let shown = session.wait_until("it runs anew", |shown| {
        shown["state"] == "running" && shown["generation"] == 2
    });
    assert_eq!(shown["compute"]["instance_type"], "medium");
    assert_eq!(shown["idle_seconds"], 900);
    assert_eq!(shown["calls"], 0);
    assert_eq!(count(&session), json!([1, 1, 1]));
    let left = computes(&admin);
    assert!(left.len() == 1 && left[0]["name"] != old, "{left:#?}");
    // The same type changes nothing.
    admin
        .patch(&path, json!({"instance_type": "medium"}))
        .expect(200);
    assert_eq!(session.show()["generation"], 2);
    admin.patch(&path, json!({"color": "red"})).expect(400);
}

#[test]
fn a_session_moves_to_another_compute_and_back() {
    let server = Server::start();
    let admin = server.admin();
    counting(&admin, "count");
    let session = admin.session("count");
    count(&session);
    let mine = json!({"name": "mine", "instance_type": "large"});
    admin.post(&workspace("/computes"), mine).expect(201);
    admin.patch(&session.path(""), json!({"compute": "mine"}));
    let shown = session.wait_for("running");
    assert_eq!(shown["compute"]["name"], "mine");
    assert_eq!(count(&session), json!([1, 1, 1]));
    let all = computes(&admin);
    assert_eq!(all.len(), 1, "the serverless one is gone: {all:#?}");
    assert_eq!(all[0]["sessions"][0]["id"], session.id);
    assert_eq!(all[0]["state"], "running");
    admin.patch(&session.path(""), json!({"compute_kind": "serverless"}));
    let shown = session.wait_until("it has moved back", |shown| {
        shown["state"] == "running" && shown["compute"]["kind"] == "serverless"
    });
    assert_eq!(shown["generation"], 3);
    assert_eq!(count(&session), json!([1, 1, 1]));
    let all = computes(&admin);
    assert!(
        all.iter()
            .any(|one| one["name"] == "mine" && one["state"] == "idle"),
        "{all:#?}"
    );
}

#[test]
fn a_reset_begins_a_new_life() {
    let server = Server::start();
    let admin = server.admin();
    counting(&admin, "count");
    let session = admin.session("count");
    count(&session);
    assert_eq!(count(&session), json!([2, 2, 2]));
    let compute = session.show()["compute"]["name"].clone();
    let under_way = session.begin("old", json!({"wait": 1000}));
    admin.post(&session.path("/reset"), Value::Null);
    under_way.join().unwrap().is_problem(409, "canceled", &[]);
    let shown = session.wait_for("running");
    assert_eq!(shown["generation"], 2);
    assert_eq!(shown["compute"]["name"], compute);
    assert_eq!(count(&session), json!([1, 1, 1]));
    let history = session.history();
    let reset = history
        .iter()
        .find(|line| line["what"] == "reset by admin")
        .unwrap();
    assert_eq!(reset["by"], "admin");
    assert_eq!(reset["generation"], 2);
}

#[test]
fn stopping_leaves_nothing_but_the_history() {
    let server = Server::start();
    let admin = server.admin();
    counting(&admin, "count");
    let session = admin.session("count");
    count(&session);
    let under_way = session.begin("old", json!({"wait": 1000}));
    session.stop();
    under_way.join().unwrap().is_problem(409, "canceled", &[]);
    let shown = session.show();
    assert_eq!(shown["reason"], "stopped by admin");
    assert_eq!(shown["instances"], json!({"busy": 0, "idle": 0}));
    assert_eq!(shown["memory_bytes"], 0);
    assert_eq!(shown["evict_at"], Value::Null);
    assert!(computes(&admin).is_empty());
    let folder = server.home().join("server/sessions");
    assert_eq!(
        std::fs::read_dir(folder).unwrap().count(),
        0,
        "its files are there"
    );
    let used = &admin.get(&workspace("/quota")).is(200).json["workspace"]["used"];
    assert_eq!(used["sessions"], 0);
    assert_eq!(used["memory_mib"], 0);
    // Again, which changes nothing; and what cannot be in this state.
    let lines = session.history().len();
    admin.post(&session.path("/stop"), Value::Null).expect(200);
    assert_eq!(session.history().len(), lines);
    admin
        .post(&session.path("/reset"), Value::Null)
        .is_problem(409, "conflict", &["start it"]);
    admin
        .patch(&session.path(""), json!({"idle_seconds": 900}))
        .is_problem(409, "conflict", &["stopped"]);
    let states: Vec<_> = session
        .history()
        .iter()
        .rev()
        .map(|line| line["state"].clone())
        .collect();
    assert_eq!(states, ["starting", "running", "stopping", "stopped"]);
    // On another compute, with other settings.
    let mine = json!({"name": "mine", "instance_type": "large"});
    admin.post(&workspace("/computes"), mine).expect(201);
    let next = admin.start(&json!({"flow": "count", "compute": "mine"}));
    assert_eq!(next.id, session.id);
    assert_eq!(next.show()["compute"]["name"], "mine");
    assert_eq!(count(&next), json!([1, 1, 1]));
    assert_eq!(next.history().len(), 6);
    let page = admin.get(&session.path("/history?limit=4")).is(200).json;
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = admin
        .get(&session.path(&format!("/history?limit=4&cursor={cursor}")))
        .is(200)
        .json;
    assert_eq!(rest["items"].as_array().unwrap().len(), 2);
    assert_eq!(rest["items"][1]["state"], "starting");
    assert_eq!(rest.get("next_cursor"), None);
}

#[test]
fn a_full_quota_says_what_is_used_and_free() {
    let server = Server::configured(
        "[quotas.user]\nsessions = 2\ncomputes = 10\nmemory_mib = 3000\ncpu_millis = 100000\ninstances = 100\n",
    );
    let ann = server.user("ann", "data-scientist");
    for flow in ["a", "b", "c"] {
        counting(&ann, flow);
    }
    let sessions = workspace("/sessions");
    let start =
        |flow: &str, size: &str| ann.post(&sessions, json!({"flow": flow, "instance_type": size}));
    let answer = start("a", "large");
    answer.is_problem(409, "quota-exceeded", &["user ann", "8192 MiB"]);
    assert_eq!(answer.json["quota"]["free"]["memory_mib"], 3000);
    start("a", "medium").expect(201);
    let answer = start("b", "medium");
    answer.is_problem(409, "quota-exceeded", &["952 MiB"]);
    assert_eq!(answer.json["quota"]["used"]["memory_mib"], 2048);
    assert_eq!(answer.json["quota"]["free"]["memory_mib"], 952);
    // The host chooses what still fits, and says why.
    let answer = ann.post(&sessions, json!({"flow": "b"})).is(201);
    let choice = answer.json["compute"]["choice"].as_str().unwrap();
    assert!(choice.contains("medium does not fit the quota"), "{choice}");
    let answer = ann.post(&sessions, json!({"flow": "c"}));
    answer.is_problem(409, "quota-exceeded", &["2 sessions"]);
    let quota = ann.get(&workspace("/quota")).is(200).json;
    assert_eq!(quota["user"]["limit"]["sessions"], 2);
    assert_eq!(quota["user"]["used"]["sessions"], 2);
    // Others have quotas of their own.
    let bob = server.user("bob", "data-scientist");
    bob.start(&json!({"flow": "c"}));
}

#[test]
fn a_session_that_nobody_uses_goes() {
    let server = Server::configured("[sessions]\nmin_idle_seconds = 1\n");
    let admin = server.admin();
    counting(&admin, "count");
    let session = admin.start(&json!({"flow": "count", "idle_seconds": 1}));
    let mut events = session.events();
    let shown = session.wait_for("stopped");
    assert_eq!(shown["reason"], "idle: not used for 1 s");
    assert!(computes(&admin).is_empty());
    let history = session.history();
    assert_eq!(history[1]["what"], "idle: not used for 1 s");
    assert_eq!(history[1].get("by"), None, "{history:#?}");
    let last = events.rest().pop().unwrap();
    assert_eq!(last.json["reason"], "idle: not used for 1 s");
    session
        .request(&json!({}))
        .is_problem(409, "conflict", &["idle"]);
}

#[test]
fn a_call_under_way_keeps_its_session() {
    let server = Server::configured("[sessions]\nmin_idle_seconds = 1\n");
    let admin = server.admin();
    counting(&admin, "count");
    let session =
        admin.start(&json!({"flow": "count", "idle_seconds": 1, "instance_type": "large"}));
    assert_eq!(session.out(json!({"wait": 4})), json!([1, 1, 1]));
    assert_eq!(session.wait_for("stopped")["generation"], 1);
}

#[test]
fn use_keeps_a_session() {
    let server = Server::configured("[sessions]\nmin_idle_seconds = 1\n");
    let admin = server.admin();
    counting(&admin, "count");
    let session =
        admin.start(&json!({"flow": "count", "idle_seconds": 3, "instance_type": "large"}));
    let started = std::time::Instant::now();
    let mut calls = 0;
    while started.elapsed().as_secs() < 6 {
        calls += 1;
        assert_eq!(count(&session), json!([calls, calls, calls]));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let shown = session.show();
    assert!(shown["evict_at"].as_str().unwrap() > shown["last_use"].as_str().unwrap());
    // A longer idle time that is set meanwhile holds at once.
    admin
        .patch(&session.path(""), json!({"idle_seconds": 1000}))
        .expect(200);
    admin
        .patch(&session.path(""), json!({"idle_seconds": 1}))
        .expect(200);
    assert_eq!(
        session.wait_for("stopped")["reason"],
        "idle: not used for 1 s"
    );
}

#[test]
fn an_instance_compute_shuts_down_and_starts_on_use() {
    let server = Server::configured("[sessions]\nmin_idle_seconds = 1\n");
    let admin = server.admin();
    counting(&admin, "count");
    let settings = json!({"name": "mine", "instance_type": "large", "idle_seconds": 1});
    admin.post(&workspace("/computes"), settings).expect(201);
    let session = admin.start(&json!({"flow": "count", "compute": "mine"}));
    let mine = workspace("/computes/mine");
    let stopped = || {
        wait_until("the compute has stopped", || {
            let shown = admin.get(&mine).is(200).json;
            (shown["state"] == "stopped").then_some(shown)
        })
    };
    let shown = stopped();
    assert_eq!(
        shown["reason"],
        "compute 'mine' shut down: not used for 1 s"
    );
    assert_eq!(session.show()["state"], "stopped");
    assert_eq!(session.show()["reason"], shown["reason"]);
    let used = admin.get(&workspace("/quota")).json["user"]["used"].clone();
    assert_eq!(
        (&used["computes"], &used["memory_mib"]),
        (&json!(1), &json!(0))
    );
    let session = admin.start(&json!({"flow": "count", "compute": "mine"}));
    assert_eq!(
        session.out(json!({"wait": 3})),
        json!([1, 1, 1]),
        "a call keeps it"
    );
    stopped();
    admin
        .post(&workspace("/computes/mine/start"), Value::Null)
        .expect(200);
    stopped();
    let tag = admin.get(&mine).tag();
    let longer = json!({"idle_seconds": 1000});
    let answer = admin
        .request_with("PATCH", &mine, &[("if-match", &tag)], &longer)
        .is(200);
    assert_eq!(answer.json["idle_seconds"], 1000);
    admin
        .request_with("PATCH", &mine, &[("if-match", &tag)], &longer)
        .expect(412);
    admin
        .post(&workspace("/computes/mine/start"), Value::Null)
        .expect(200);
    assert_eq!(admin.get(&mine).json["state"], "idle");
}

#[test]
fn scaling_to_zero_is_not_noticed() {
    let server = Server::configured("[sessions]\ninstances_idle_seconds = 1\n");
    let admin = server.admin();
    counting(&admin, "count");
    let session = admin.session("count");
    let mut events = session.events();
    count(&session);
    assert_eq!(count(&session)[1], 2);
    let event = events.wait_for("scaled_to_zero");
    assert_eq!(event.json["reason"], "not used for 1 s");
    let shown = session.wait_until("it has no instances", |shown| {
        shown["instances"] == json!({"busy": 0, "idle": 0})
    });
    assert_eq!(shown["state"], "hibernated");
    assert_eq!(shown["memory_bytes"], 0);
    assert_eq!(count(&session), json!([3, 3, 3]));
    events.wait_for("scaled_to_zero");
    assert_eq!(count(&session), json!([4, 4, 4]));
}

#[test]
fn deleting_a_compute_says_what_it_stops() {
    let server = Server::start();
    let admin = server.admin();
    counting(&admin, "a");
    counting(&admin, "b");
    let mine = json!({"name": "mine", "instance_type": "large"});
    admin.post(&workspace("/computes"), mine).expect(201);
    let sessions: Vec<_> = ["a", "b"]
        .map(|flow| admin.start(&json!({"flow": flow, "compute": "mine"})))
        .into();
    let call = sessions[0].begin("c", json!({"wait": 1000}));
    let path = workspace("/computes/mine");
    let shown = admin.get(&path).is(200).json;
    assert_eq!(shown["active_calls"], 1);
    let answer = admin.delete(&format!("{path}?dry_run=true")).is(200).json;
    let mut ids: Vec<_> = sessions.iter().map(|session| session.id.clone()).collect();
    ids.sort();
    assert_eq!(
        answer,
        json!({"sessions": ids, "active_calls": 1, "dry_run": true})
    );
    assert_eq!(sessions[0].show()["state"], "running");
    let answer = admin.delete(&path).is(200).json;
    assert_eq!(
        answer,
        json!({"sessions": ids, "active_calls": 1, "dry_run": false})
    );
    call.join().unwrap().is_problem(409, "canceled", &[]);
    for session in &sessions {
        let shown = session.wait_for("stopped");
        assert_eq!(shown["reason"], "compute 'mine' was deleted by admin");
    }
    wait_until("the compute is gone", || {
        (admin.get(&path).status == 404).then_some(())
    });
}

#[test]
fn a_serverless_compute_that_is_stopped_goes_with_its_sessions() {
    let server = Server::start();
    let admin = server.admin();
    counting(&admin, "count");
    let session = admin.session("count");
    let compute = session.show()["compute"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = workspace(&format!("/computes/{compute}"));
    admin
        .patch(&path, json!({"idle_seconds": 1000}))
        .is_problem(422, "invalid", &["serverless"]);
    let answer = admin
        .post(&format!("{path}/stop"), Value::Null)
        .is(200)
        .json;
    assert_eq!(answer["sessions"], json!([session.id]));
    session.wait_for("stopped");
    wait_until("the compute is gone", || {
        (admin.get(&path).status == 404).then_some(())
    });
}

#[test]
fn a_start_that_takes_long_is_an_operation() {
    let server = Server::configured("[sessions]\nstart_wait_seconds = 0\n");
    let admin = server.admin();
    counting(&admin, "count");
    let answer = admin
        .post(&workspace("/sessions"), json!({"flow": "count"}))
        .is(202);
    assert_eq!(answer.text("state"), "starting");
    let operation = answer.header("operation-location").to_owned();
    assert_eq!(answer.header("retry-after"), "1");
    wait_until("the operation has succeeded", || {
        let shown = admin.get(&operation).is(200).json;
        assert_eq!(shown["session"], answer.json["id"]);
        assert!(
            shown["status"] == "InProgress" || shown["status"] == "Succeeded",
            "{shown:#}"
        );
        (shown["status"] == "Succeeded").then_some(())
    });
    assert_eq!(
        admin.get(answer.header("location")).json["state"],
        "running"
    );
    for other in ["s-1.1", "nonsense", "..1"] {
        admin
            .get(&workspace(&format!("/operations/{other}")))
            .expect(404);
    }
    let (session, _) = operation.rsplit_once('.').unwrap();
    for generation in ["0", "2", "-1", "x"] {
        admin.get(&format!("{session}.{generation}")).expect(404);
    }
}

#[test]
fn a_flow_that_is_wrong_has_a_session_all_the_same() {
    let server = Server::start();
    let admin = server.admin();
    admin.upload(
        "wrong",
        &FlowFolder::new()
            .file("flow.dag.yaml", "nodes: [")
            .file("tool.py", COUNT),
    );
    let session = admin.session("wrong");
    let answer = session.call(json!({}));
    assert_eq!(answer["status"], "Failed", "{answer:#}");
    let good = FlowFolder::python(COUNT, &[("wait", "double")]);
    admin.upload("wrong", &good);
    assert_eq!(count(&session), json!([1, 1, 1]));
}
