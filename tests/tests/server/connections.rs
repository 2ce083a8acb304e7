//! Connections: how they are bounded, and what is no HTTP.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flowcell_tests::server::{STUCK, Server, Setup, wait_until};
use flowcell_tests::{Finished, flowcell};
use serde_json::json;

/// Sends bytes on a connection of their own, and reads the answer to its end.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(STUCK)).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_head_that_comes_too_slowly_is_cut() {
    let server = Server::configured("[server]\nheader_seconds = 1\n");
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(STUCK)).unwrap();
    let started = Instant::now();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost:").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "it was not cut"
    );
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    // A byte from time to time is no way around it.
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let cut = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(b"x").is_err()
    });
    assert!(cut);
    server.admin().get("/v1/me").expect(200);
}

#[test]
fn what_is_no_http_is_refused() {
    let server = Server::start();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nhost: h\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ] {
        let answer = raw(&server, bytes);
        assert!(
            answer.starts_with("HTTP/1.1 400") || answer.is_empty(),
            "{answer}"
        );
    }
    let long = format!(
        "GET /healthz HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n",
        "y".repeat(200_000)
    );
    assert!(!raw(&server, long.as_bytes()).contains("200 OK"));
    let many = format!(
        "GET /healthz HTTP/1.1\r\nhost: h\r\n{}\r\n",
        "x: y\r\n".repeat(5_000)
    );
    assert!(!raw(&server, many.as_bytes()).contains("200 OK"));
    server.admin().get("/v1/me").expect(200);
}

#[test]
fn json_that_is_none_is_refused() {
    let server = Server::start();
    let admin = server.admin();
    let json_type = [("content-type", "application/json")];
    let deep = format!(
        "{{\"name\": {}1{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for text in [
        "",
        "{",
        "null",
        "[]",
        "{\"name\": 1}",
        "{\"name\": \"a b\"}",
        "\u{0}",
        &deep,
    ] {
        let answer = admin.send("POST", "/v1/workspaces", &json_type, text);
        answer.is_problem(400, "invalid-body", &[]);
    }
    admin
        .send("POST", "/v1/workspaces", &json_type, vec![0xff, 0xfe])
        .is_problem(400, "invalid-body", &[]);
    // Two of one name, and numbers that no name is.
    admin
        .send(
            "POST",
            "/v1/workspaces",
            &json_type,
            "{\"name\": \"a\", \"name\": \"b\"}",
        )
        .is_problem(400, "invalid-body", &["duplicate field"]);
    let answer = admin.send(
        "POST",
        "/v1/workspaces",
        &json_type,
        format!("\"{}\"", "x".repeat(9 << 20)),
    );
    answer.is_problem(413, "too-large", &[]);
}

#[test]
fn paths_and_methods_that_are_not_there() {
    let server = Server::start();
    let admin = server.admin();
    admin
        .get("/v2")
        .is_problem(404, "not-found", &["/v2", "/docs"]);
    admin
        .get("/v1/workspaces/default/gone")
        .is_problem(404, "not-found", &["no path"]);
    let answer = admin.delete("/v1/me");
    answer.is_problem(405, "method-not-allowed", &["DELETE"]);
    assert_eq!(answer.header("allow"), "GET,HEAD");
    // Problems lead to what they mean.
    let kind = answer.text("type").to_owned();
    let text = admin.get(&kind).is(200).body;
    assert!(String::from_utf8_lossy(&text).contains("does not take this method"));
    admin.get("/problems/gone").expect(404);
}

#[test]
fn every_answer_has_the_identifier_of_its_request() {
    let server = Server::start();
    let admin = server.admin();
    assert_eq!(admin.get("/v1/me").header("x-request-id").len(), 36);
    let answer = admin.send("GET", "/v1/me", &[("x-request-id", "mine")], "");
    assert_eq!(answer.header("x-request-id"), "mine");
}

/// What a process has resident, in KiB.
fn resident(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Lets this process have as many files open as the machine allows; gives how many.
fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    #[expect(unsafe_code, reason = "the standard library sets no limits")]
    // SAFETY: both pointers are to a live variable of the right type.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    limit.rlim_cur
}

#[test]
fn ten_thousand_idle_connections_cost_little() {
    let files = raise_open_files();
    let number = if files >= 12_000 { 10_000 } else { 4_000 };
    if files < 5_000 {
        eprintln!("skipped: this machine allows {files} open files");
        return;
    }
    let server = Server::with(Setup {
        config: Some("[server]\nheader_seconds = 300\n".to_owned()),
        open_files: Some(files),
        ..Setup::default()
    });
    let admin = server.admin();
    admin.get("/v1/me").expect(200);
    let before = resident(server.id());
    let request = b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n";
    let mut connections = Vec::new();
    for _ in 0..number {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(request).unwrap();
        connections.push(stream);
    }
    for stream in &mut connections {
        stream.set_read_timeout(Some(STUCK)).unwrap();
        let mut answer = [0; 512];
        let count = stream.read(&mut answer).unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 200"));
    }
    let grown = resident(server.id()).saturating_sub(before);
    let each = grown / number;
    assert!(each <= 40, "a connection costs {each} KiB");
    // All of them still work, and so do others.
    admin.get("/v1/me").expect(200);
    for stream in connections.iter_mut().step_by(500) {
        stream.write_all(request).unwrap();
        let mut answer = [0; 512];
        let count = stream.read(&mut answer).unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn connections_beyond_the_limit_wait() {
    let server = Server::configured("[server]\nconnections = 3\nheader_seconds = 300\n");
    let mut open: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(server.address()).unwrap())
        .collect();
    let mut late = TcpStream::connect(server.address()).unwrap();
    late.write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .unwrap();
    late.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut answer = [0; 512];
    assert!(late.read(&mut answer).is_err(), "the limit was not kept");
    open.pop();
    late.set_read_timeout(Some(STUCK)).unwrap();
    assert!(late.read(&mut answer).unwrap() > 0);
}

#[test]
fn tls_is_spoken_with_the_configured_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()])
        .unwrap();
    let certificate = folder.path().join("cert.pem");
    let key = folder.path().join("key.pem");
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let config = format!("[server.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    let server = Server::with(Setup {
        config: Some(config.clone()),
        root: Some(made.cert.pem()),
        ..Setup::default()
    });
    assert!(server.url().starts_with("https://"), "{}", server.url());
    server.admin().get("/v1/me").expect(200);
    // Without TLS there is no answer, and nobody is held up.
    assert!(!raw(&server, b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").contains("200 OK"));
    let _silent = TcpStream::connect(server.address()).unwrap();
    server.admin().get("/v1/me").expect(200);
    // Files that are none are named.
    fs::write(&key, "no key").unwrap();
    let refused = start_in_vain(&config, &[], &[]);
    assert!(refused.stderr.contains("key.pem"), "{}", refused.stderr);
    let config = config.replace("cert.pem", "gone.pem");
    let refused = start_in_vain(&config, &[], &[]);
    assert!(refused.stderr.contains("gone.pem"), "{}", refused.stderr);
}

/// Runs a server that must not start.
fn start_in_vain(config: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
    let home = tempfile::tempdir().unwrap();
    flowcell_tests::server::make_home(home.path());
    let file = home.path().join("flowcell.toml");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(flowcell_tests::binary());
    command
        .args(["serve", "--config", file.to_str().unwrap()])
        .args(arguments)
        .env_clear()
        .env("FLOWCELL_HOME", home.path())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > STUCK {
            child.kill().unwrap();
            panic!("it has started");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        peak_memory: 0,
    }
}

#[test]
fn a_configuration_that_is_wrong_names_the_key() {
    for (config, words) in [
        ("[server]\nlisten = 1\n", &["server.listen"][..]),
        (
            "[server]\nport = 1\n",
            &["server.port", "there is no such key", "listen"],
        ),
        ("[serve]\n", &["serve", "no such key", "server"]),
        ("[server]\nlisten = \"localhost\"\n", &["server.listen"]),
        (
            "[server]\nbody_bytes = 0\n",
            &["server.body_bytes", "more than 0"],
        ),
        ("[server]\nbody_bytes = -1\n", &["server.body_bytes"]),
        (
            "[server]\nheader_seconds = 1000\n",
            &["server.header_seconds", "300"],
        ),
        (
            "[server]\n[server.tls]\nkey = \"k\"\n",
            &["server.tls", "certificate"],
        ),
        ("[host]\ninstances = 100000\n", &["host.instances", "4096"]),
        ("[host]\nworkers = 65\n", &["host.workers", "64"]),
        (
            "[host]\nworkers = 2\ndedicated = [\"a\"]\nmemory_mib = 1024\n",
            &["host.workers", "3 workers", "341 MiB", "512"],
        ),
        (
            "[host]\nworkers = 2\nmemory_mib = 4096\ninstances = 1\n",
            &["host.workers", "share 1 instances"],
        ),
        (
            "[host]\nworkers = 0\ndedicated = [\"a\"]\n",
            &["host.dedicated", "set host.workers"],
        ),
        (
            "[host]\nworkers = 1\nmemory_mib = 4096\ndedicated = [\"a\", \"b\", \"a\"]\n",
            &["host.dedicated", "a is there twice"],
        ),
        ("[host]\ndedicated = [\"A b\"]\n", &["host.dedicated"]),
        (
            "[host]\ncompile_memory_mib = 1\n",
            &["host.compile_memory_mib", "256"],
        ),
        (
            "[host]\ncompile_seconds = 0\n",
            &["host.compile_seconds", "3600"],
        ),
        ("[sessions]\nidle_seconds = 1\n", &["sessions.idle_seconds"]),
        (
            "[sessions]\nbase_image = \"x\"\n",
            &["sessions.base_image", "name:version"],
        ),
        ("[sessions]\ncalls = \"many\"\n", &["sessions.calls"]),
        ("[quotas.user]\nsessions = 1.5\n", &["quotas.user.sessions"]),
        (
            "[[instance_types]]\nname = \"a b\"\nmemory_mib = 1\ncpu_millis = 1\ninstances = 1\n",
            &["instance_types", "name"],
        ),
        (
            "[[instance_types]]\nname = \"a\"\nmemory_mib = 0\ncpu_millis = 1\ninstances = 1\n",
            &["instance_types.a", "memory_mib"],
        ),
        (
            "[secrets]\nkey = \"hunter2\"\n",
            &["secrets.key", "FLOWCELL__SECRETS__KEY"],
        ),
        (
            "[secrets]\nprevious_keys = \"hunter2\"\n",
            &["secrets.previous_keys", "no place"],
        ),
        ("[auth.oidc]\nissuer = \"i\"\n", &["auth.oidc", "audience"]),
        ("[server\n", &["flowcell.toml", "TOML"]),
    ] {
        for arguments in [&["--check-config"][..], &[]] {
            let refused = start_in_vain(config, arguments, &[]);
            assert_eq!(refused.code, Some(1), "{config}: {refused:#?}");
            for word in words {
                assert!(
                    refused.stderr.contains(word),
                    "no {word:?} for {config}: {}",
                    refused.stderr
                );
            }
        }
    }
    let refused = flowcell(["serve", "--config", "/no/such.toml"]);
    assert!(refused.stderr.contains("/no/such.toml"), "{refused:#?}");
}

#[test]
fn a_configuration_that_is_right_is_shown_with_all_defaults() {
    let shown = start_in_vain(
        "[sessions]\ncalls = 7\n",
        &["--check-config"],
        &[("FLOWCELL__SESSIONS__CALL_SECONDS", "77")],
    );
    assert_eq!(shown.code, Some(0), "{shown:#?}");
    for line in [
        "calls = 7",
        "call_seconds = 77",
        "listen = \"127.0.0.1:8420\"",
        "header_seconds = 15",
    ] {
        assert!(
            shown.stdout.contains(line),
            "no {line:?} in {}",
            shown.stdout
        );
    }
    // What is shown is a configuration again.
    let again = start_in_vain(&shown.stdout, &["--check-config"], &[]);
    assert_eq!(again.stdout, shown.stdout);
    let refused = start_in_vain(
        "",
        &["--check-config"],
        &[("FLOWCELL__SESSIONS__CALLS", "x")],
    );
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.to_lowercase().contains("sessions.calls"),
        "{}",
        refused.stderr
    );
}

#[test]
fn trying_out_is_for_this_machine_only() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let refused = start_in_vain("", &["--dev", "--listen", listen], &[]);
        assert_eq!(refused.code, Some(1));
        assert!(
            refused.stderr.contains("--dev") && refused.stderr.contains("127.0.0.1"),
            "{}",
            refused.stderr
        );
    }
    let refused = start_in_vain(
        &format!("[server]\nlisten = \"{}\"\n", "0.0.0.0:0"),
        &["--dev"],
        &[],
    );
    assert_eq!(refused.code, Some(1));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let server = Server::start();
    let refused = start_in_vain("", &["--listen", &server.address()], &[]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains(&server.address()),
        "{}",
        refused.stderr
    );
}

#[test]
fn the_environment_overrides_the_file() {
    let server = Server::with(Setup {
        config: Some("[sessions]\nidle_seconds = 1000\n".to_owned()),
        environment: vec![(
            "FLOWCELL__SESSIONS__IDLE_SECONDS".to_owned(),
            "2000".to_owned(),
        )],
        ..Setup::default()
    });
    let admin = server.admin();
    admin
        .post("/v1/workspaces/default/flows", json!({"name": "f"}))
        .expect(201);
    let session = admin.session("f");
    assert_eq!(session.show()["idle_seconds"], 2000);
}

#[test]
fn many_clients_are_served_at_once() {
    let server = Server::start();
    let admin = server.admin();
    let clients: Vec<_> = (0..32)
        .map(|_| {
            let admin = admin.clone();
            std::thread::spawn(move || {
                for _ in 0..30 {
                    admin.get("/v1/me").expect(200);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    wait_until("metrics have counted them", || {
        let text = admin.get("/metrics").is(200).body;
        String::from_utf8_lossy(&text)
            .contains("route=\"/v1/me\",status=\"200\"} 960")
            .then_some(())
    });
}
