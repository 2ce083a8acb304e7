//! What was acknowledged stays, whatever happens to the server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use flowcell_tests::FlowFolder;
use flowcell_tests::server::{Client, Server, Session, Setup, ended, tar, wait_until, workspace};
use serde_json::{Value, json};
use tempfile::TempDir;

const COUNT: &str = "import os, time\nfrom promptflow.core import tool\ncount = 0\ndef more(path):\n    with open(path, 'a') as file: file.write('x')\n    return os.path.getsize(path)\n@tool\ndef t(wait: float):\n    global count\n    count += 1\n    time.sleep(wait)\n    return [count, more('count'), more('/tmp/count')]\n";

fn counting() -> FlowFolder {
    FlowFolder::python(COUNT, &[("wait", "double")])
}

fn count(session: &Session) -> Value {
    session.out(json!({"wait": 0}))
}

/// What a client was told.
#[derive(Debug)]
enum Told {
    Flow(String),
    File(String, String),
    FileGone(String),
    Key(String),
    Revoked(String),
    Running(String),
    Stopped(String),
}

/// Does one thing after the other until the server is gone, and notes what was acknowledged.
fn work(
    client: &Client,
    name: &str,
    archive: &[u8],
    told: &Mutex<Vec<Told>>,
) -> reqwest::Result<()> {
    let note = |one: Told| told.lock().unwrap().push(one);
    let send = |method: &str, path: &str, json: &str| {
        let headers = [("content-type", "application/json")];
        client.try_send(method, path, &headers, json.as_bytes().to_vec())
    };
    for number in 0.. {
        let flow = format!("{name}-{number}");
        let files = workspace(&format!("/flows/{flow}/files"));
        let headers = [("content-type", "application/x-tar")];
        client
            .try_send("PUT", &files, &headers, archive.to_vec())?
            .expect(201);
        note(Told::Flow(flow.clone()));
        let path = format!("{files}/note.txt");
        client
            .try_send("PUT", &path, &[], flow.clone().into_bytes())?
            .expect(200);
        note(Told::File(path, flow.clone()));
        let path = format!("{files}/tool.py");
        if number % 3 == 2 {
            send("DELETE", &path, "")?.expect(200);
            note(Told::FileGone(path));
            continue;
        }
        // A user may have no more than some keys, which a fast machine may reach.
        let key = send("POST", "/v1/users/admin/keys", "{}")?;
        if let Some(text) = key.json["key"].as_str() {
            if number % 2 == 0 {
                note(Told::Key(text.to_owned()));
            } else {
                let path = format!("/v1/users/admin/keys/{}", key.text("id"));
                send("DELETE", &path, "")?.expect(204);
                note(Told::Revoked(text.to_owned()));
            }
        }
        let body = json!({"flow": flow, "instance_type": "small"}).to_string();
        let answer = send("POST", &workspace("/sessions"), &body)?;
        if answer.status == 201 {
            note(Told::Running(answer.text("id").to_owned()));
            if number % 2 == 1 {
                let path = workspace(&format!("/sessions/{}/stop", answer.text("id")));
                if send("POST", &path, "")?.status == 200 {
                    note(Told::Stopped(answer.text("id").to_owned()));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let mut server = Server::start();
    let admin = server.admin();
    let archive = tar(&counting().path());
    for round in 0..4 {
        let told = Arc::new(Mutex::new(Vec::new()));
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (client, told, archive) = (admin.clone(), Arc::clone(&told), archive.clone());
                let name = format!("f{round}-{worker}");
                thread::spawn(move || {
                    let ended = work(&client, &name, &archive, &told);
                    assert!(ended.is_err(), "it ends with the server");
                })
            })
            .collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let moment = u64::from(now.unwrap().subsec_nanos()) % 700;
        thread::sleep(Duration::from_millis(150 + moment));
        server.kill();
        for worker in workers {
            worker.join().unwrap();
        }
        server.restart();
        let told = told.lock().unwrap();
        assert!(
            !told.is_empty(),
            "nothing was done before the server was killed"
        );
        verify(&server, &admin, &told);
    }
}

fn verify(server: &Server, admin: &Client, told: &[Told]) {
    let gone: Vec<_> = told
        .iter()
        .filter_map(|one| match one {
            Told::Stopped(id) => Some(id.as_str()),
            _ => None,
        })
        .collect();
    for one in told {
        match one {
            Told::Flow(name) => {
                let shown = admin
                    .get(&workspace(&format!("/flows/{name}")))
                    .is(200)
                    .json;
                assert!(shown["files"].as_u64().unwrap() >= 2, "{shown:#}");
            }
            Told::File(path, content) => {
                assert_eq!(admin.get(path).is(200).body, content.as_bytes());
            }
            Told::FileGone(path) => drop(admin.get(path).is(404)),
            Told::Key(text) => drop(server.client(text).get("/v1/me").is(200)),
            Told::Revoked(text) => {
                let status = || server.client(text).get("/v1/me").status;
                wait_until("it is refused", || {
                    Some(status()).filter(|status| *status != 429)
                });
                assert_ne!(status(), 200);
            }
            Told::Running(id) => {
                let session = Session {
                    client: admin.clone(),
                    id: id.clone(),
                };
                let shown = session.wait_until("it has settled", |shown| {
                    shown["state"] == "running" || shown["state"] == "stopped"
                });
                if gone.contains(&id.as_str()) {
                    assert_eq!(shown["state"], "stopped", "{shown:#}");
                }
                if shown["state"] == "running" {
                    session.stop();
                }
            }
            Told::Stopped(_) => {}
        }
    }
    // Nothing hangs between two states, and nothing is left of what has stopped.
    let all = admin.get(&workspace("/sessions?limit=1000")).is(200).json;
    for shown in all["items"].as_array().unwrap() {
        let session = Session {
            client: admin.clone(),
            id: shown["id"].as_str().unwrap().to_owned(),
        };
        let shown = session.wait_until("it has settled", |shown| {
            shown["state"] != "starting" && shown["state"] != "stopping"
        });
        if shown["state"] == "running" {
            session.stop();
        }
    }
    wait_until("all computes are gone", || {
        let computes = admin.get(&workspace("/computes")).is(200).json;
        (computes["items"] == json!([])).then_some(())
    });
    wait_until("all working copies are gone", || {
        let folder = server.home().join("server/sessions");
        (std::fs::read_dir(folder).unwrap().count() == 0).then_some(())
    });
    let keys = admin.get("/v1/users/admin/keys?limit=1000").is(200).json;
    for key in keys["items"].as_array().unwrap() {
        let id = key["id"].as_str().unwrap();
        if !admin.key().contains(id) {
            admin
                .delete(&format!("/v1/users/admin/keys/{id}"))
                .expect(204);
        }
    }
}

#[test]
fn a_session_comes_back_with_its_files() {
    let mut server = Server::start();
    let admin = server.admin();
    admin.upload("count", &counting());
    let session = admin.session("count");
    count(&session);
    assert_eq!(count(&session), json!([2, 2, 2]));
    let before = session.show();
    admin.write("count", "more.py", "x = 1\n");
    server.kill();
    server.restart();
    let shown = session.show();
    for same in [
        "state",
        "generation",
        "compute",
        "idle_seconds",
        "revision",
        "created",
    ] {
        assert_eq!(shown[same], before[same]);
    }
    assert_eq!(count(&session), json!([1, 3, 3]));
    assert!(server.stop().code == Some(0));
    server.restart();
    // What it held in memory was stored.
    assert_eq!(count(&session), json!([2, 4, 4]));
    let lines = session.history().len();
    admin.post(&session.path("/reset"), Value::Null);
    session.wait_for("running");
    assert_eq!(count(&session), json!([1, 1, 1]));
    assert!(session.history().len() > lines);
}

#[test]
fn idle_times_go_on_after_a_restart() {
    let mut server = Server::configured("[sessions]\nmin_idle_seconds = 1\n");
    let admin = server.admin();
    admin.upload("count", &counting());
    let session = admin.start(&json!({"flow": "count", "idle_seconds": 4}));
    server.kill();
    server.restart();
    assert_eq!(session.show()["state"], "running");
    assert_eq!(
        session.wait_for("stopped")["reason"],
        "idle: not used for 4 s"
    );
}

#[test]
fn a_request_that_is_sent_again_is_answered_again() {
    let mut server = Server::start();
    let admin = server.admin();
    admin.upload("count", &counting());
    let again = |client: &Client, path: &str, key: &str, body: &Value| {
        client.request_with("POST", path, &[("idempotency-key", key)], body)
    };
    let requests = [
        (workspace("/flows"), json!({"name": "f"})),
        (workspace("/computes"), json!({"name": "box"})),
        (
            workspace("/sessions"),
            json!({"flow": "count", "compute": "box"}),
        ),
        ("/v1/users".to_owned(), json!({"name": "ann"})),
        ("/v1/users/ann/keys".to_owned(), json!({"description": "d"})),
        ("/v1/workspaces".to_owned(), json!({"name": "w"})),
    ];
    let mut firsts = Vec::new();
    for (path, body) in &requests {
        let first = again(&admin, path, path, body).is(201);
        assert_eq!(first.header("idempotency-replayed"), "");
        firsts.push(first);
    }
    for round in 0..2 {
        for ((path, body), first) in requests.iter().zip(&firsts) {
            let second = again(&admin, path, path, body);
            assert_eq!(
                second.header("idempotency-replayed"),
                "true",
                "{round} {path}"
            );
            assert!(matches!(second.status, 201 | 202), "{second:#?}");
            assert_eq!(second.header("location"), first.header("location"));
            let name = ["id", "name"]
                .into_iter()
                .find(|name| first.json.get(name).is_some());
            let name = name.unwrap();
            assert_eq!(second.json[name], first.json[name]);
            assert_eq!(second.json.get("key"), None, "a secret was kept");
            let mut other = body.clone();
            other["name"] = json!("other");
            if path.ends_with("/keys") || path.ends_with("/sessions") {
                other = json!({"flow": "f", "description": "other"});
                other
                    .as_object_mut()
                    .unwrap()
                    .remove(if path.ends_with("/keys") {
                        "flow"
                    } else {
                        "description"
                    });
            }
            let answer = again(&admin, path, path, &other);
            answer.is_problem(422, "idempotency-key-reused", &[]);
        }
        if round == 0 {
            server.kill();
            server.restart();
        }
    }
    let keys = admin.get("/v1/users/ann/keys").is(200).json;
    assert_eq!(keys["items"].as_array().unwrap().len(), 1);
    // Keys belong to their users, and refusals are not kept.
    let path = workspace("/flows");
    let bob = server.user("bob", "data-scientist");
    again(&bob, &path, &path, &json!({"name": "g"})).expect(201);
    again(&bob, &path, "k", &json!({"name": "g"})).expect(409);
    admin.delete(&workspace("/flows/g")).expect(204);
    again(&bob, &path, "k", &json!({"name": "g"})).expect(201);
    again(&bob, &path, &"k".repeat(256), &json!({"name": "h"})).expect(400);
}

#[test]
fn one_request_sent_many_times_at_once_is_done_once() {
    let server = Server::start();
    let admin = server.admin();
    for round in 0..10 {
        let senders: Vec<_> = (0..8)
            .map(|_| {
                let admin = admin.clone();
                thread::spawn(move || {
                    let key = format!("round-{round}");
                    let headers = [("idempotency-key", key.as_str())];
                    let body = json!({"description": key});
                    admin.request_with("POST", "/v1/users/admin/keys", &headers, &body)
                })
            })
            .collect();
        let mut made = 0;
        for sender in senders {
            let answer = sender.join().unwrap();
            match (answer.status, answer.header("idempotency-replayed")) {
                (201, "") => made += 1,
                (201, "true") => {}
                (409, _) => drop(answer.is_problem(409, "conflict", &["under way"])),
                _ => panic!("{answer:#?}"),
            }
        }
        assert_eq!(made, 1);
    }
    let keys = admin.get("/v1/users/admin/keys").is(200).json;
    assert_eq!(keys["items"].as_array().unwrap().len(), 11);
}

/// A small disk, for as long as the test runs; none where nothing can be mounted.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills it with a file, but for so many bytes.
    fn fill(&self, but: u64) -> PathBuf {
        let room = self.path().join("room");
        let mut file = std::fs::File::create(&room).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        file.set_len(file.metadata().unwrap().len() - but).unwrap();
        room
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_done() {
    let Some(disk) = Disk::mount("48m") else {
        eprintln!("skipped: no disk can be mounted here");
        return;
    };
    let mut server = Server::on(tempfile::tempdir_in(disk.path()).unwrap(), Setup::default());
    let admin = server.admin();
    admin.upload("count", &counting());
    admin.upload("other", &counting());
    let session = admin.session("count");
    count(&session);
    let room = disk.fill(4 << 20);
    let mut kept = Vec::new();
    let refused = loop {
        let path = workspace(&format!("/flows/count/files/{}.bin", kept.len()));
        let content = vec![u8::try_from(kept.len()).unwrap(); 300 << 10];
        let answer = admin.send("PUT", &path, &[], content.clone());
        if answer.status != 200 {
            answer.is_problem(507, "disk-full", &["nothing was stored"]);
            admin.get(&path).expect(404);
            break path;
        }
        kept.push((path, content));
    };
    assert!(kept.len() > 2, "the disk was full from the start");
    let intact = |admin: &Client| {
        for (path, content) in &kept {
            assert!(
                admin.get(path).is(200).body == *content,
                "{path} has changed"
            );
        }
        let flow = admin.get(&workspace("/flows/count")).is(200).json;
        assert_eq!(flow["files"], kept.len() + 2);
    };
    intact(&admin);
    // The server goes on with what needs no room.
    admin.get("/healthz").expect(200);
    // All of it is there after the disk was full, and there is room again.
    std::fs::remove_file(&room).unwrap();
    admin.send("PUT", &refused, &[], "small").expect(200);
    admin.delete(&refused).expect(200);
    intact(&admin);
    server.kill();
    server.restart();
    intact(&admin);
    assert_eq!(session.show()["state"], "running");
}

#[test]
fn a_session_that_finds_no_room_fails_and_can_be_started_again() {
    let Some(disk) = Disk::mount("48m") else {
        eprintln!("skipped: no disk can be mounted here");
        return;
    };
    let server = Server::on(tempfile::tempdir_in(disk.path()).unwrap(), Setup::default());
    let admin = server.admin();
    admin.upload("count", &counting().file("large.bin", vec![7; 4 << 20]));
    admin.upload("small", &counting());
    // The base image is still to be unpacked.
    std::fs::remove_file(server.home().join("cache/bases")).unwrap();
    // Room for the registry, but neither for a copy of the one flow, nor for the base image's pages.
    let room = disk.fill(1 << 20);
    let sessions = ["count", "small"].map(|flow| {
        let body = json!({"flow": flow, "instance_type": "large"});
        Session {
            client: admin.clone(),
            id: admin
                .post(&workspace("/sessions"), body)
                .text("id")
                .to_owned(),
        }
    });
    for session in &sessions {
        let reason = session.wait_for("failed")["reason"].to_string();
        assert!(reason.contains("the host's disk is full"), "{reason}");
        session
            .request(&json!({}))
            .is_problem(409, "conflict", &["failed", "disk is full"]);
    }
    let computes = admin.get(&workspace("/computes")).is(200).json;
    assert_eq!(computes["items"], json!([]));
    std::fs::remove_file(&room).unwrap();
    for session in &sessions {
        admin.post(&session.path("/reset"), Value::Null);
        session.wait_for("running");
        assert_eq!(count(session), json!([1, 1, 1]));
    }
}

#[test]
fn calls_under_way_finish_before_the_server_stops() {
    let mut server = Server::start();
    let admin = server.admin();
    admin.upload("count", &counting());
    let session = admin.session("count");
    let mut events = session.events();
    count(&session);
    let call = session.begin("last", json!({"wait": 3}));
    server.terminate();
    let address = server.address();
    wait_until("no connections are taken", || {
        std::net::TcpStream::connect(&address)
            .is_err()
            .then_some(())
    });
    assert!(!call.is_finished(), "the call was not waited for");
    let answer = call.join().unwrap().is(200).json;
    assert_eq!(answer["outputs"]["out"], json!([2, 2, 2]));
    assert_eq!(server.wait().code, Some(0));
    events.rest();
    server.restart();
    assert_eq!(count(&session), json!([3, 3, 3]));
}

#[test]
fn calls_that_do_not_end_are_canceled_when_their_time_is_up() {
    let mut server = Server::configured("[server]\nshutdown_seconds = 1\n");
    let admin = server.admin();
    admin.upload("count", &counting());
    let session = admin.session("count");
    let call = session.begin("last", json!({"wait": 1000}));
    let stopped = server.stop();
    assert_eq!(stopped.code, Some(0), "{stopped:#?}");
    call.join().unwrap().is_problem(409, "canceled", &[]);
}

#[test]
fn one_home_is_one_servers() {
    let server = Server::start();
    let mut second = server.command().spawn().unwrap();
    assert_eq!(ended(&mut second).code(), Some(1));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut second.stderr.take().unwrap(), &mut said).unwrap();
    assert!(said.contains("another flowcell server uses"), "{said}");
    assert!(said.contains("--home"), "{said}");
    server.admin().get("/v1/me").expect(200);
}

#[test]
fn what_a_server_keeps_is_not_for_others_of_the_machine() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start();
    let folder = server.home().join("server");
    let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // Keys are kept as hashes only.
    let key = server.admin().key().to_owned();
    let secret = key.splitn(3, '_').nth(2).unwrap().to_owned();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let content = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert!(!content.contains(&secret), "{} has the key", path.display());
        }
    }
}
