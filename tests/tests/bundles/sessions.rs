//! Sessions over images of registries, and over names that mean another image by now.

use flowcell_tests::server::{Client, Server, Session, workspace};
use flowcell_tests::{FlowFolder, flowcell};
use serde_json::{Value, json};

use crate::hostile::docker_image;
use crate::registry::Registry;
use crate::{BASE, json_at, noted};

/// Tells the note of the image that it runs over.
const NOTE: &str = "import os\nfrom promptflow import tool\n\n@tool\ndef t(x: str):\n    \
    path = '/data/note.txt'\n    return x + (open(path).read() if os.path.exists(path) else 'nothing')\n";

fn flow() -> FlowFolder {
    FlowFolder::python(NOTE, &[("x", "string")])
}

/// The same flow, which names an image.
fn flow_over(image: &str) -> FlowFolder {
    let flow = flow();
    let yaml = std::fs::read_to_string(flow.path().join("flow.dag.yaml")).unwrap();
    flow.file(
        "flow.dag.yaml",
        format!("{yaml}environment:\n  image: {image}\n"),
    )
}

fn allowing(registry: &Registry) -> Server {
    Server::configured(&format!("[images]\nregistries = [\"{}\"]\n", registry.host))
}

/// Pushes a bundle with this note; the digest that the registry has it under.
fn push(registry: &Registry, note: &str) -> String {
    let home = flowcell_tests::home();
    let version = note.replace(' ', "-");
    noted(home, BASE, &version, note);
    let image = format!("{}/team/base:1", registry.host);
    let name = format!("small:{version}");
    let pushed = json_at(home, &["bundle", "push", &name, &image]);
    let removed = flowcell(["bundle", "rm", &name]);
    assert_eq!(removed.code, Some(0), "{removed:#?}");
    pushed["artifact"].as_str().unwrap().to_owned()
}

#[track_caller]
fn starts(client: &Client, flow: &str, image: Option<&str>) -> Session {
    client.start(&json!({"flow": flow, "instance_type": "large", "base_image": image}))
}

/// Starts a session that fails; why.
#[track_caller]
fn fails(client: &Client, flow: &str, image: Option<&str>) -> String {
    let settings = json!({"flow": flow, "base_image": image});
    let answer = client.post(&workspace("/sessions"), settings);
    assert!(matches!(answer.status, 201 | 202), "{answer:#?}");
    let session = Session {
        client: client.clone(),
        id: answer.text("id").to_owned(),
    };
    let failed = session.wait_for("failed");
    failed["reason"].as_str().unwrap().to_owned()
}

#[track_caller]
fn reset(session: &Session, query: &str) -> Value {
    let answer = session
        .client
        .post(&session.path(&format!("/reset{query}")), Value::Null);
    assert!(matches!(answer.status, 200 | 202), "{answer:#?}");
    session.wait_for("running")
}

#[test]
fn a_session_runs_over_an_image_of_a_registry() {
    let registry = Registry::start();
    let mut server = allowing(&registry);
    let client = server.admin();
    let first = push(&registry, "one of a registry");
    let image = format!("{}/team/base:1", registry.host);
    client.upload("asked", &flow());
    client.upload("named", &flow_over(&image));
    let asked = starts(&client, "asked", Some(&image));
    let named = starts(&client, "named", None);
    for (session, by) in [(&asked, "user"), (&named, "flow")] {
        assert_eq!(session.out(json!({"x": ""})), "one of a registry");
        let shown = session.show();
        assert_eq!(shown["base_image"]["reference"], image);
        assert_eq!(shown["base_image"]["named_by"], by);
        assert_eq!(shown["base_image"]["artifact"], first);
        assert_eq!(shown["base_image"]["available"], Value::Null);
    }
    // The tag means another one now. Sessions keep what they have, over a reset and a restart of the host.
    let second = push(&registry, "another one");
    assert_ne!(first, second);
    reset(&asked, "");
    assert_eq!(asked.out(json!({"x": ""})), "one of a registry");
    server.restart();
    let shown = asked.show();
    assert_eq!(
        shown["base_image"]["available"],
        json!({"reference": image, "digest": second})
    );
    assert_eq!(asked.out(json!({"x": ""})), "one of a registry");
    let shown = reset(&asked, "?update_image=true");
    assert_eq!(shown["base_image"]["artifact"], second);
    assert_eq!(shown["base_image"]["available"], Value::Null);
    assert_eq!(asked.out(json!({"x": ""})), "another one");
    assert_eq!(named.out(json!({"x": ""})), "one of a registry");
    // By its digest it stays what it is, and so it is for a start that needs no registry.
    let pinned = format!("{}/team/base@{first}", registry.host);
    asked.stop();
    let pinned = starts(&client, "asked", Some(&pinned));
    assert_eq!(pinned.out(json!({"x": ""})), "one of a registry");
    drop(registry);
    server.restart();
    assert_eq!(pinned.out(json!({"x": ""})), "one of a registry");
    assert_eq!(pinned.show()["base_image"]["available"], Value::Null);
}

#[test]
fn an_image_that_cannot_be_had_says_why() {
    let registry = Registry::start();
    let server = allowing(&registry);
    let client = server.admin();
    client.upload("f", &flow());
    let refused = |image: &str, words: &[&str]| {
        let settings = json!({"flow": "f", "base_image": image});
        let answer = client.post(&workspace("/sessions"), settings);
        answer.is_problem(422, "invalid", words);
    };
    refused(
        "registry.example.com/team/base:1",
        &["base_image", "registry.example.com", &registry.host],
    );
    refused("gone:1", &["this host has no image 'gone:1'", BASE]);
    refused("not an image", &["not an image"]);
    let gone = format!("{}/team/base:gone", registry.host);
    let why = fails(&client, "f", Some(&gone));
    assert!(why.contains(&gone) && why.contains("has no such"), "{why}");
    let docker = docker_image(&registry);
    let why = fails(&client, "f", Some(&docker));
    assert!(why.contains("a Docker image"), "{why}");

    // A flow of Azure's names a Docker image: the default takes its place, and the session says so.
    for (name, image, words) in [
        ("docker", docker.as_str(), "a Docker image"),
        (
            "azure",
            "registry.example.com/azureml/runtime:1",
            "none of the registries",
        ),
        ("hub", "python:3.11", "this host has no image"),
    ] {
        client.upload(name, &flow_over(image));
        let session = starts(&client, name, None);
        assert_eq!(session.out(json!({"x": ""})), "nothing");
        let shown = session.show();
        let image_shown = &shown["base_image"];
        assert_eq!(image_shown["reference"], BASE);
        assert_eq!(image_shown["named_by"], "default");
        let note = image_shown["note"].as_str().unwrap();
        assert!(note.contains(image) && note.contains(words), "{note}");
    }
    // A registry that may be asked and is gone is no reason to run something else.
    let image = format!("{}/team/base:1", registry.host);
    client.upload("away", &flow_over(&image));
    drop(registry);
    let why = fails(&client, "away", None);
    assert!(why.contains(&image), "{why}");
}

#[test]
fn a_host_that_names_no_registries_asks_none() {
    let registry = Registry::start();
    let server = Server::start();
    let client = server.admin();
    client.upload("f", &flow());
    let image = format!("{}/team/base:1", registry.host);
    let settings = json!({"flow": "f", "base_image": image});
    let answer = client.post(&workspace("/sessions"), settings);
    answer.is_problem(
        422,
        "invalid",
        &["takes no images from registries", "[images]"],
    );
}

#[test]
fn a_name_of_this_host_that_means_another_image_by_now() {
    let server = Server::start();
    let client = server.admin();
    // Names of its own, so that no other test sees them.
    let names = server.home().join("bundles");
    std::fs::remove_file(&names).unwrap();
    for name in ["promptflow/0.1.0", "mine/stable"] {
        let target = names.join(name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let source = flowcell_tests::home().join("bundles/promptflow/0.1.0");
        std::fs::copy(source, target).unwrap();
    }
    client.upload("f", &flow());
    let session = starts(&client, "f", Some("mine:stable"));
    assert_eq!(session.out(json!({"x": ""})), "nothing");
    noted(server.home(), BASE, "3", "a newer one");
    let newer = json_at(server.home(), &["bundle", "tag", "small:3", "mine:stable"]);
    let shown = session.show();
    assert_eq!(
        shown["base_image"]["available"],
        json!({"reference": "mine:stable", "digest": newer["digest"]})
    );
    // Until somebody wants it, the session has what it had.
    assert_eq!(session.out(json!({"x": ""})), "nothing");
    let shown = reset(&session, "?update_image=true");
    assert_eq!(shown["base_image"]["digest"], newer["digest"]);
    assert_eq!(shown["base_image"]["available"], Value::Null);
    assert_eq!(session.out(json!({"x": ""})), "a newer one");
}
