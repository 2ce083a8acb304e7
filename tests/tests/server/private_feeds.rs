//! Sessions that install from package indexes which let in only those they know.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use flowcell_tests::FlowFolder;
use flowcell_tests::index::{Fault, Index, Wheel};
use flowcell_tests::server::{Client, Server, Session, Setup, wait_until, workspace};
use serde_json::{Value, json};

const DAG: &str = "inputs: {}\noutputs:\n  out:\n    type: string\n    reference: ${tool.output}\nnodes:\n- name: tool\n  type: python\n  source:\n    type: code\n    path: tool.py\n  inputs: {}\n";
const TOOL: &str = "from promptflow.core import tool\nimport thing\n@tool\ndef tool() -> str:\n    return thing.VERSION\n";
const TOKEN: &str = "hunter2-of-the-feed";
const PASSWORD: &str = "correct-horse-of-ci";

fn thing(version: &str) -> Wheel {
    Wheel::new("thing", version).file("thing.py", format!("VERSION = {version:?}\n"))
}

fn flow(requirements: &str) -> FlowFolder {
    FlowFolder::new()
        .file("flow.dag.yaml", DAG)
        .file("tool.py", TOOL)
        .file("requirements.txt", requirements)
}

/// What pip sends for `https://TOKEN@host/`.
fn basic(user: &str, password: &str) -> String {
    let pair = format!("{user}:{password}");
    let text = base64::engine::general_purpose::STANDARD.encode(pair);
    format!("Basic {text}")
}

/// A server whose default index is open and empty, and a feed that is neither.
struct Feed {
    server: Server,
    feed: Index,
    open: Index,
}

impl Feed {
    fn new() -> Self {
        let (feed, open) = (Index::start(), Index::start());
        feed.protect(TOKEN, "");
        feed.add(&thing("1.0"));
        let config = format!(
            "[packages]\nindex_url = \"{}\"\ntrusted_hosts = [\"{}\", \"{}\"]\n",
            open.url(),
            open.host(),
            feed.host()
        );
        let log = "info,flowcell_server=trace,flowcell_session=trace,flowcell_worker=trace,hyper=trace,reqwest=trace,tower_http=trace";
        let server = Server::with(Setup {
            environment: vec![("RUST_LOG".to_owned(), log.to_owned())],
            ..Setup::config(config)
        });
        Self { server, feed, open }
    }

    /// Requirements that name the feed with the placeholder.
    fn private(&self) -> String {
        format!(
            "-i http://{{private}}@{}/simple/\nthing\n",
            self.feed.host()
        )
    }

    /// An identity with the feed's token; gives what sessions name it by.
    fn identity(&self, name: &str) -> Value {
        let admin = self.server.admin();
        let made = admin.post(&workspace("/identities"), json!({"name": name}));
        let client_id = made.is(201).text("client_id").to_owned();
        admin
            .put(
                &self.credential(&format!("identities/{name}")),
                json!({"token": TOKEN}),
            )
            .expect(200);
        json!({"type": "managed", "client_id": client_id})
    }

    /// The path of a credential for the feed.
    fn credential(&self, holder: &str) -> String {
        workspace(&format!("/{holder}/credentials/index/{}", self.feed.host()))
    }
}

/// Starts a session, which runs or fails.
fn begin(client: &Client, flow: &str, identity: &Value) -> (Session, Value) {
    let settings = json!({"flow": flow, "instance_type": "large", "identity": identity});
    let answer = client.post(&workspace("/sessions"), settings);
    assert!([201, 202].contains(&answer.status), "{answer:#?}");
    let session = Session {
        client: client.clone(),
        id: answer.text("id").to_owned(),
    };
    let shown = session.wait_until("it runs or has failed", |shown| {
        shown["state"] == "running" || shown["state"] == "failed"
    });
    (session, shown)
}

fn runs(client: &Client, flow: &str, identity: &Value) -> Session {
    let (session, shown) = begin(client, flow, identity);
    assert_eq!(shown["state"], "running", "{shown:#}");
    session
}

fn fails(client: &Client, flow: &str, identity: &Value, words: &[&str]) {
    let (_, shown) = begin(client, flow, identity);
    assert_eq!(shown["state"], "failed", "{shown:#}");
    let reason = shown["reason"].as_str().unwrap();
    for word in words {
        assert!(reason.contains(word), "no {word:?} in {reason}");
    }
}

/// Whether any file of the folder has these bytes. What links to the shared store is left out.
fn is_on_disk(folder: &Path, secret: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        let Ok(kind) = fs::symlink_metadata(&path).map(|found| found.file_type()) else {
            return false;
        };
        if kind.is_dir() {
            return is_on_disk(&path, secret);
        }
        let bytes = fs::read(&path).unwrap_or_default();
        kind.is_file()
            && bytes
                .windows(secret.len())
                .any(|part| part == secret.as_bytes())
    })
}

#[test]
fn a_session_installs_with_its_identity() {
    let feed = Feed::new();
    let admin = feed.server.admin();
    let host = feed.feed.host();
    for name in ["f", "g", "h"] {
        admin.upload(name, &flow(&feed.private())).expect(201);
    }
    let user = json!({"type": "user_identity"});
    // Without anything for the host, the host and the way out are named, and nobody is asked.
    fails(
        &admin,
        "f",
        &user,
        &[&host, "flowcell credential set", "--kind index"],
    );
    assert_eq!(feed.feed.requests(), Vec::<String>::new());
    let team = feed.identity("team");
    let session = runs(&admin, "f", &team);
    assert_eq!(session.out(json!({})), "1.0");
    let shown = feed.feed.shown();
    let expected = basic(TOKEN, "");
    assert!(!shown.is_empty() && shown.iter().all(|one| one.as_ref() == Some(&expected)));
    assert!(feed.open.shown().iter().all(Option::is_none));
    // One's own are taken for one's own sessions.
    let own = feed.credential("me");
    admin.put(&own, json!({"token": "wrong"})).expect(200);
    fails(
        &admin,
        "g",
        &user,
        &[&host, "does not take", "credential set"],
    );
    admin.put(&own, json!({"token": TOKEN})).expect(200);
    assert_eq!(runs(&admin, "g", &user).out(json!({})), "1.0");
    // Not for somebody else's.
    let ann = feed.server.user("ann", "data-scientist");
    fails(&ann, "h", &user, &[&host]);
    // What installs while it runs uses them as well.
    feed.feed.add(&thing("2.0"));
    admin
        .write(
            "f",
            "requirements.txt",
            &format!("{}\n# newer\n", feed.private()),
        )
        .expect(200);
    install(&session, None);
    assert_eq!(session.out(json!({})), "2.0");
}

/// Installs what the flow asks for now, or fails with these words.
fn install(session: &Session, fails: Option<&[&str]>) {
    let before = session.client.get(&session.path("/packages")).json["failed"].clone();
    let answer = session.client.post(&session.path("/install"), json!({}));
    assert!([200, 202, 422].contains(&answer.status), "{answer:#?}");
    wait_until("the installation has ended", || {
        let now = session.client.get(&session.path("/packages")).is(200).json;
        match fails {
            None => (now["outdated"] == false).then_some(()),
            Some(words) if now["failed"] != before => {
                let why = now["failed"]["why"].as_str()?;
                for word in words {
                    assert!(why.contains(word), "no {word:?} in {why}");
                }
                Some(())
            }
            Some(_) => None,
        }
    });
}

#[test]
fn what_is_withdrawn_is_not_used_again() {
    let mut feed = Feed::new();
    let admin = feed.server.admin();
    let ann = feed.server.user("ann", "data-scientist");
    let team = feed.identity("team");
    let grant = workspace("/identities/team/grants/ann");
    admin.put(&grant, Value::Null).expect(200);
    ann.upload("f", &flow(&feed.private())).expect(201);
    let session = runs(&ann, "f", &team);
    admin.delete(&grant).expect(204);
    ann.write(
        "f",
        "requirements.txt",
        &format!("{}# again\n", feed.private()),
    )
    .expect(200);
    install(&session, Some(&["ann", "team", "identity grant"]));
    assert_eq!(session.out(json!({})), "1.0");
    admin.delete(&workspace("/identities/team")).expect(204);
    install(&session, Some(&[team["client_id"].as_str().unwrap()]));
    assert_eq!(session.out(json!({})), "1.0");
    // It comes back with the host, too.
    feed.server.kill();
    feed.server.restart();
    assert_eq!(session.out(json!({})), "1.0");
    let refused = ann.post(&session.path("/reset"), Value::Null);
    refused.is_problem(404, "not-found", &["client_id"]);
    assert_eq!(session.out(json!({})), "1.0");
}

#[test]
fn a_token_goes_to_its_host_only() {
    let feed = Feed::new();
    let admin = feed.server.admin();
    let team = feed.identity("team");
    // The feed sends its visitors elsewhere for the file, and there is another index beside it.
    let file = thing("1.0").filename();
    let elsewhere = feed.open.file_url(&file);
    feed.open
        .add_file("elsewhere", &file, &thing("1.0").bytes());
    feed.feed.fault(
        &file,
        Fault::Redirect(Box::leak(elsewhere.into_boxed_str())),
    );
    feed.open
        .add(&Wheel::new("other", "1.0").file("other.py", ""));
    let requirements = format!(
        "{}--extra-index-url {}\nother\n",
        feed.private(),
        feed.open.url()
    );
    admin.upload("f", &flow(&requirements)).expect(201);
    let session = runs(&admin, "f", &team);
    assert_eq!(session.out(json!({})), "1.0");
    assert!(feed.open.downloads(&file) > 0, "the redirect was followed");
    let shown = feed.open.shown();
    assert!(
        !shown.is_empty() && shown.iter().all(Option::is_none),
        "{shown:?}"
    );
    let expected = basic(TOKEN, "");
    assert!(feed.feed.shown().contains(&Some(expected)));
    // The same host at another port is another host.
    let other = Index::start();
    other.add(&thing("1.0"));
    let line = format!("-i http://{{private}}@{}/simple/\nthing\n", other.host());
    admin.upload("g", &flow(&line)).expect(201);
    fails(&admin, "g", &team, &[&other.host()]);
    assert_eq!(other.requests(), Vec::<String>::new());
}

#[test]
fn what_credentials_have_brought_is_not_for_those_without() {
    let feed = Feed::new();
    let admin = feed.server.admin();
    let team = feed.identity("team");
    let user = json!({"type": "user_identity"});
    // Without the placeholder the requirements are the same for both.
    let plain = format!("-i {}\nthing\n", feed.feed.url());
    for name in ["f", "g", "h", "i"] {
        admin.upload(name, &flow(&plain)).expect(201);
    }
    let session = runs(&admin, "f", &team);
    let asked = feed.feed.requests().len();
    // The same identity gets what is there.
    runs(&admin, "g", &team);
    assert_eq!(feed.feed.requests().len(), asked);
    let words = [
        &feed.feed.host(),
        "there are no credentials",
        "credential set",
    ];
    fails(&admin, "h", &user, &words);
    // Another identity asks for itself, and need not fetch the same file again.
    let second = feed.identity("second");
    runs(&admin, "i", &second);
    assert!(feed.feed.requests().len() > asked);
    assert_eq!(feed.feed.downloads(&thing("1.0").filename()), 1);
    // Whoever knows a file's hash, from a lock that somebody has given them, gets what this hash names.
    let lock = admin.get(&session.path("/lock")).is(200);
    let lock = String::from_utf8(lock.body).unwrap();
    assert!(!lock.contains(TOKEN), "{lock}");
    admin
        .upload("locked", &flow(&plain).file("pylock.toml", &lock))
        .expect(201);
    assert_eq!(runs(&admin, "locked", &user).out(json!({})), "1.0");
    // A hash that is not the file's own brings nothing.
    let hash = flowcell_tests::index::sha256(&thing("1.0").bytes());
    let other = lock.replace(&hash, &"0".repeat(64));
    assert_ne!(other, lock);
    admin
        .upload("forged", &flow(&plain).file("pylock.toml", &other))
        .expect(201);
    fails(&admin, "forged", &user, &words);
}

#[test]
fn a_secret_is_nowhere_to_be_found() {
    let mut feed = Feed::new();
    let admin = feed.server.admin();
    let team = feed.identity("team");
    admin
        .put(
            &workspace("/me/credentials/registry/registry.example.com"),
            json!({"username": "ci-of-mine", "password": PASSWORD}),
        )
        .expect(200);
    admin.upload("f", &flow(&feed.private())).expect(201);
    let session = runs(&admin, "f", &team);
    let mut events = session.events();
    // Everything that can go wrong does, too.
    feed.feed.fault("thing", Fault::Status(500, 100));
    admin
        .write(
            "f",
            "requirements.txt",
            &format!("{}# again\n", feed.private()),
        )
        .expect(200);
    install(&session, Some(&["thing"]));
    feed.feed.protect("another", "");
    admin
        .write(
            "f",
            "requirements.txt",
            &format!("{}# again, too\n", feed.private()),
        )
        .expect(200);
    install(&session, Some(&[&feed.feed.host()]));
    session.out(json!({}));
    let mut told: Vec<String> = Vec::new();
    for path in [
        "",
        "/identities",
        "/identities/team",
        "/identities/team/credentials",
        "/me/credentials",
        "/sessions",
        "/flows/f",
    ] {
        told.push(text(&admin.get(&workspace(path)).is(200).body));
    }
    for path in ["", "/history", "/packages", "/lock", "/calls"] {
        told.push(text(&admin.get(&session.path(path)).is(200).body));
    }
    told.push(text(&admin.get("/metrics").is(200).body));
    told.push(feed.server.log());
    told.push(feed.server.stop().stderr);
    told.extend(events.rest().iter().map(|event| event.json.to_string()));
    assert!(told.iter().any(|text| text.contains("******")));
    let home = feed.server.home();
    let encoded = basic(TOKEN, "");
    for secret in [TOKEN, PASSWORD, "ci-of-mine", &encoded["Basic ".len()..]] {
        for text in &told {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(!is_on_disk(home, secret), "{secret} is on the disk");
    }
    // The search does find what is there.
    assert!(is_on_disk(home, "packages.example.com") || is_on_disk(home, &feed.feed.host()));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
