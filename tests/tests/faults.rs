//! Environments where things go wrong: a full disk and a kill at any step, imports that never end, indexes that stall.
//! Whatever happens, it is told, what worked before works on, and the next try succeeds.
#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use flowcell_tests::index::{Fault, Index, Wheel};
use flowcell_tests::server::{Client, Server, Session, Setup, make_home, wait_until};
use flowcell_tests::{Answer, Finished, FlowFolder, flowcell_with, repository};
use serde_json::{Value, json};

const DAG: &str = "inputs: {}\noutputs:\n  out:\n    type: object\n    reference: ${tool.output}\nnodes:\n- name: tool\n  type: python\n  source:\n    type: code\n    path: tool.py\n  inputs: {}\n";

fn thing(version: &str) -> Wheel {
    Wheel::new("thing", version).file("thing/__init__.py", format!("VERSION = {version:?}\n"))
}

/// A flow that requires and imports a package, and gives its version.
fn flow_with(name: &str) -> FlowFolder {
    let tool = format!(
        "from promptflow.core import tool\nimport {name}\n@tool\ndef tool():\n    return {name}.VERSION\n"
    );
    FlowFolder::new()
        .file("flow.dag.yaml", DAG)
        .file("tool.py", &tool)
        .file("requirements.txt", format!("{name}\n"))
}

/// A flow without requirements.
fn plain() -> FlowFolder {
    FlowFolder::new().file("flow.dag.yaml", DAG).file(
        "tool.py",
        "from promptflow.core import tool\n@tool\ndef tool():\n    return 'plain'\n",
    )
}

fn run(home: &Path, flow: &FlowFolder, index: &Index, fault: Option<(&str, usize)>) -> Finished {
    let (url, path) = (index.url(), flow.path());
    let at = fault.map_or(0, |(_, at)| at).to_string();
    let mut environment = vec![
        ("FLOWCELL_INDEX_URL", url.as_str()),
        ("FLOWCELL_HOME", home.to_str().unwrap()),
    ];
    if let Some((fault, _)) = fault {
        environment.extend([
            ("LD_PRELOAD", FAULTS.to_str().unwrap()),
            ("FAULT", fault),
            ("FAULT_AT", at.as_str()),
            ("FAULT_ROOT", home.to_str().unwrap()),
        ]);
    }
    let arguments = [
        "flow",
        "test",
        "--flow",
        path.to_str().unwrap(),
        "--output",
        "json",
    ];
    flowcell_with(repository(), &environment, arguments)
}

/// The library that lets steps go wrong. C, as it stands between a program and its C library; what builds flowcell has a
/// compiler for it.
static FAULTS: LazyLock<PathBuf> = LazyLock::new(|| {
    let test = std::env::current_exe().unwrap();
    let beside = test.parent().unwrap();
    let library = tempfile::NamedTempFile::new_in(beside).unwrap();
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler
        .args(["-shared", "-fPIC", "-o"])
        .arg(library.path())
        .arg(repository().join("tests/faults.c"))
        .arg("-ldl");
    assert!(compiler.status().unwrap().success(), "faults.c");
    let path = beside.join("faults.so");
    library.into_temp_path().persist(&path).unwrap();
    path
});

/// Deletes what a start makes, so that the next one takes all steps.
fn forget(home: &Path) {
    for folder in ["sites", "layers", "wheels", "index", "images"] {
        let _ = fs::remove_dir_all(home.join("cache").join(folder));
    }
}

/// What is being made, or was, of which nothing may be seen.
fn partials(home: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["sites", "layers", "wheels"] {
        let entries = fs::read_dir(home.join("cache").join(folder));
        for entry in entries.into_iter().flatten().flatten() {
            if entry.file_name().to_str().unwrap().starts_with(".partial-") {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Goes through all steps of a start: at each, the fault; then a start without one. Gives how many steps there were.
fn at_each_step(fault: &str, check: impl Fn(usize, &Finished) -> bool) -> usize {
    let home = tempfile::tempdir().unwrap();
    make_home(home.path());
    let home = home.path();
    let index = Index::start();
    index.add(&thing("1.0"));
    let flow = flow_with("thing");
    let mut step = 0;
    loop {
        forget(home);
        let finished = run(home, &flow, &index, Some((fault, step)));
        let is_over = check(step, &finished);
        let again = Answer::of(run(home, &flow, &index, None));
        assert_eq!(again.outputs()["out"], "1.0", "after step {step}");
        if is_over {
            return step;
        }
        step += 1;
    }
}

#[test]
fn a_full_disk_at_any_step_is_told_and_harms_nothing() {
    let steps = at_each_step("full", |step, finished| {
        let answer: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert!(
            !finished.stderr.contains("panicked"),
            "step {step}: {finished:?}"
        );
        if answer["status"] == "Completed" {
            // What is left is not needed for the answer: caches, times of use.
            return finished.code == Some(0) && step > 20;
        }
        assert_eq!(finished.code, Some(1), "step {step}: {finished:?}");
        let message = answer["error"]["message"].as_str().unwrap();
        let is_told = ["No space left", "disk is full"]
            .iter()
            .any(|words| message.contains(words));
        assert!(is_told, "step {step}: {message}");
        false
    });
    assert!(steps > 20, "{steps} steps");
}

#[test]
fn a_kill_at_any_step_harms_nothing() {
    let steps = at_each_step("kill", |step, finished| {
        if finished.code.is_some() {
            assert_eq!(finished.code, Some(0), "step {step}: {finished:?}");
        }
        finished.code.is_some()
    });
    assert!(steps > 20, "{steps} steps");
}

/// A server whose sessions' requirements come from an index.
struct Hosted {
    server: Server,
    index: Index,
}

impl Hosted {
    fn new(wheels: &[Wheel], more: &str) -> Self {
        let index = Index::start();
        wheels.iter().for_each(|wheel| index.add(wheel));
        let config = format!(
            "[packages]\nindex_url = {:?}\ntrusted_hosts = [{:?}]\n{more}\n",
            index.url(),
            index.host()
        );
        let server = Server::with(Setup::config(config));
        Self { server, index }
    }

    fn start(&self, name: &str, flow: &FlowFolder) -> Session {
        let client = self.server.admin();
        client.upload(name, flow).expect(201);
        client.session(name)
    }

    /// Begins to start a session; its path.
    fn begin(&self, name: &str, flow: &FlowFolder) -> String {
        let client = self.server.admin();
        client.upload(name, flow).expect(201);
        let started = client.post("/v1/workspaces/default/sessions", json!({ "flow": name }));
        assert!([201, 202].contains(&started.status), "{started:?}");
        format!("/v1/workspaces/default/sessions/{}", started.text("id"))
    }

    /// The process that makes environments, once there is one.
    fn installer(&self) -> i32 {
        let host = self.server.id().to_string();
        wait_until("an environment is being made", || {
            fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let id: i32 = entry.file_name().to_str()?.parse().ok()?;
                let line = fs::read(entry.path().join("cmdline")).ok()?;
                let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
                let (_, fields) = stat.rsplit_once(')')?;
                let is_own = fields.split_whitespace().nth(1) == Some(&host);
                let is_installer = line.windows(9).any(|part| part == b"--install");
                (is_own && is_installer).then_some(id)
            })
        })
    }
}

fn wait_for(client: &Client, session: &str, state: &str) -> Value {
    wait_until(&format!("the session is {state}"), || {
        let shown = client.get(session).is(200).json;
        assert!(
            shown["state"] == state || shown["state"] != "failed",
            "{shown:#}"
        );
        (shown["state"] == state).then_some(shown)
    })
}

#[test]
fn a_server_that_is_killed_while_it_downloads_goes_on_after() {
    let wheel = thing("1.0");
    let file = wheel.filename();
    let mut hosted = Hosted::new(&[wheel], "");
    let client = hosted.server.admin();
    hosted.index.fault(&file, Fault::Silence);
    let session = hosted.begin("f", &flow_with("thing"));
    wait_until("the wheel is being downloaded", || {
        (hosted.index.downloads(&file) > 0).then_some(())
    });
    hosted.server.kill();
    hosted.index.fault(&file, Fault::Status(503, 1));
    hosted.server.restart();
    wait_for(&client, &session, "running");
    let called = client.post(&format!("{session}/calls"), json!({ "inputs": {} }));
    assert_eq!(called.is(200).json["outputs"]["out"], "1.0");
}

#[test]
fn an_installer_that_is_killed_costs_its_session_only() {
    let wheel = thing("1.0");
    let file = wheel.filename();
    let hosted = Hosted::new(&[wheel], "");
    let client = hosted.server.admin();
    let other = hosted.start("other", &plain());
    hosted.index.fault(&file, Fault::Silence);
    let session = hosted.begin("f", &flow_with("thing"));
    wait_until("the wheel is being downloaded", || {
        (hosted.index.downloads(&file) > 0).then_some(())
    });
    let installer = hosted.installer();
    #[expect(
        unsafe_code,
        reason = "the standard library kills only what it started"
    )]
    // SAFETY: nothing but a signal is sent, to a process that a server of this test has started and not waited for.
    let sent = unsafe { libc::kill(installer, libc::SIGKILL) };
    assert_eq!(sent, 0);
    let failed = wait_for(&client, &session, "failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("ended without an answer"), "{reason}");
    assert_eq!(other.out(json!({})), "plain");
    // A worker that ends has nothing to do with environments.
    hosted.index.fault(&file, Fault::Status(503, 0));
    let again = client.session("f");
    assert_eq!(again.out(json!({})), "1.0");
    hosted
        .server
        .workers()
        .into_iter()
        .for_each(|worker| worker.kill());
    let called = wait_until("the session is called again", || {
        let called = again.request(&json!({ "inputs": {} }));
        (called.status == 200).then_some(called)
    });
    assert_eq!(called.json["outputs"]["out"], "1.0");
    // Nothing is left of the one that was killed once somebody collects.
    let home = hosted.server.home();
    assert!(fs::read_dir(home.join("leases")).unwrap().count() > 1);
}

#[test]
fn an_index_that_stalls_holds_up_its_session_only_and_not_for_long() {
    let wheel = thing("1.0");
    let file = wheel.filename();
    let hosted = Hosted::new(&[wheel], "install_seconds = 10");
    let client = hosted.server.admin();
    hosted.index.fault(&file, Fault::Silence);
    let session = hosted.begin("f", &flow_with("thing"));
    let other = hosted.start("other", &plain());
    assert_eq!(other.out(json!({})), "plain");
    let failed = wait_for(&client, &session, "failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("more than 10 s"), "{reason}");
    assert_eq!(other.out(json!({})), "plain");
}

#[test]
fn an_installation_that_fails_leaves_what_there_is() {
    let (one, two) = (thing("1.0"), thing("2.0"));
    let file = two.filename();
    let hosted = Hosted::new(&[one], "");
    let client = hosted.server.admin();
    let session = hosted.start("f", &flow_with("thing"));
    assert_eq!(session.out(json!({})), "1.0");
    hosted.index.add(&two);
    hosted.index.fault(&file, Fault::Silence);
    client
        .write("f", "requirements.txt", "thing==2.0\n")
        .expect(200);
    client.post(&session.path("/install"), json!({}));
    wait_until("the wheel is being downloaded", || {
        (hosted.index.downloads(&file) > 0).then_some(())
    });
    #[expect(
        unsafe_code,
        reason = "the standard library kills only what it started"
    )]
    // SAFETY: as above.
    let sent = unsafe { libc::kill(hosted.installer(), libc::SIGKILL) };
    assert_eq!(sent, 0);
    wait_until("the installation has failed", || {
        let now = client.get(&session.path("/packages")).is(200).json;
        now["failed"]["why"].as_str().map(str::to_owned)
    });
    assert_eq!(session.out(json!({})), "1.0");
}

#[test]
fn imports_that_take_too_much_end_within_their_limits() {
    // Both begin when the flow's modules are imported: for the session's image, and for the call.
    let looping = Wheel::new("looping", "1").file("looping.py", "while True:\n    pass\n");
    let hungry = Wheel::new("hungry", "1").file(
        "hungry.py",
        "VERSION = []\nwhile True:\n    VERSION.append(bytearray(1 << 24))\n",
    );
    let hosted = Hosted::new(&[looping, hungry], "[sessions]\ncall_seconds = 3");
    let other = hosted.start("other", &plain());
    for (name, words) in [
        (
            "looping",
            &["CpuTimeLimitExceeded", "did not finish within 3 s"][..],
        ),
        ("hungry", &["MemoryError", "MemoryLimitExceeded"]),
    ] {
        let session = hosted.start(name, &flow_with(name));
        let called = session.call(json!({}));
        assert_eq!(called["status"], "Failed", "{called:#}");
        let error = called["error"].to_string();
        assert!(words.iter().any(|word| error.contains(word)), "{error}");
        // The image is not made, and the session says so.
        let shown = session.wait_until("it has no image", |shown| {
            shown["memory"]["image"]["state"] == "none"
        });
        assert!(shown["memory"]["image"]["reason"].is_string(), "{shown:#}");
        assert_eq!(other.out(json!({})), "plain");
    }
}

#[test]
fn packages_that_take_too_much_when_they_are_tried_are_refused() {
    // What has compiled modules is imported before it is used.
    let tag = "cp314-cp314-manylinux_2_17_x86_64";
    let native = |name: &str, code: &str| {
        Wheel::new(name, "1.0")
            .tag(tag)
            .file(&format!("{name}/__init__.py"), code)
            .file(
                &format!("{name}/_c.cpython-314-x86_64-linux-gnu.so"),
                b"\x7fELF",
            )
    };
    let home = tempfile::tempdir().unwrap();
    make_home(home.path());
    let index = Index::start();
    index.add(&native(
        "hungry",
        "x = []\nwhile True:\n    x.append(bytearray(1 << 24))\n",
    ));
    index.add(&native("looping", "while True:\n    pass\n"));
    index.add(&native("killing", "import os\nos._exit(0)\n"));
    index.add(&thing("1.0"));
    for name in ["hungry", "looping", "killing"] {
        let answer = Answer::of(run(home.path(), &flow_with(name), &index, None));
        answer.assert_failure(
            "EnvironmentError",
            &[&format!("{name}==1.0"), "importing it fails"],
        );
    }
    let answer = Answer::of(run(home.path(), &flow_with("thing"), &index, None));
    assert_eq!(answer.outputs()["out"], "1.0");
    assert_eq!(partials(home.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_wheel_of_too_many_files_is_refused() {
    let mut bomb = Wheel::new("bomb", "1.0");
    for number in 0..20_001 {
        bomb = bomb.file(&format!("bomb/{number}.txt"), "");
    }
    let home = tempfile::tempdir().unwrap();
    make_home(home.path());
    let index = Index::start();
    index.add(&bomb);
    let answer = Answer::of(run(home.path(), &flow_with("bomb"), &index, None));
    answer.assert_failure("EnvironmentError", &["bomb-1.0", "20000 files"]);
    assert_eq!(partials(home.path()), Vec::<PathBuf>::new());
}

#[test]
fn what_lost_power_halfway_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    make_home(home.path());
    let index = Index::start();
    index.add(&thing("1.0"));
    let start = || {
        let answer = Answer::of(run(home.path(), &flow_with("thing"), &index, None));
        assert_eq!(answer.outputs()["out"], "1.0");
    };
    start();
    for (folder, file) in [("sites", "site.json"), ("layers", "layer.json")] {
        for entry in fs::read_dir(home.path().join("cache").join(folder)).unwrap() {
            let path = entry.unwrap().path().join(file);
            if path.exists() {
                fs::write(path, "").unwrap();
            }
        }
        start();
    }
    // Both at once.
    for (folder, file) in [("sites", "site.json"), ("layers", "layer.json")] {
        for entry in fs::read_dir(home.path().join("cache").join(folder)).unwrap() {
            let path = entry.unwrap().path().join(file);
            if path.exists() {
                fs::remove_file(path).unwrap();
            }
        }
    }
    start();
}
