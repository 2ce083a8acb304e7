//! Flows and their files.

use std::io::{Cursor, Write as _};
use std::thread;

use flowcell_tests::FlowFolder;
use flowcell_tests::server::{Client, Response, Server, tar, workspace};
use serde_json::json;

const ECHO: &str = "from promptflow.core import tool\n@tool\ndef t(x): return x\n";

fn echo() -> FlowFolder {
    FlowFolder::python(ECHO, &[("x", "object")])
}

fn files(flow: &str) -> String {
    workspace(&format!("/flows/{flow}/files"))
}

fn put(client: &Client, flow: &str, media: &str, archive: Vec<u8>) -> Response {
    client.send("PUT", &files(flow), &[("content-type", media)], archive)
}

fn paths(client: &Client, flow: &str) -> Vec<String> {
    let page = client.get(&files(flow)).is(200).json;
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|file| file["path"].as_str().unwrap().to_owned())
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer
            .start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// An archive with one entry, whatever its name is.
fn entry(name: &str, kind: tar::EntryType, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_mode(0o644);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn flows_come_in_archives() {
    let server = Server::start();
    let admin = server.admin();
    let archive = tar(&echo().path());
    let zipped = zip(&[
        (
            "outer/flow.dag.yaml",
            std::fs::read(echo().path().join("flow.dag.yaml"))
                .unwrap()
                .as_slice(),
        ),
        ("outer/tool.py", ECHO.as_bytes()),
        ("outer/.git/config", b"not taken"),
    ]);
    for (flow, media, archive) in [
        ("tar", "application/x-tar", archive.clone()),
        ("gzip", "application/gzip", gzip(&archive)),
        ("zip", "application/zip", zipped),
    ] {
        let answer = put(&admin, flow, media, archive).is(201);
        assert_eq!(answer.json["files"], 2);
        assert_eq!(paths(&admin, flow), ["flow.dag.yaml", "tool.py"]);
        assert_eq!(admin.session(flow).out(json!({"x": flow})), flow);
    }
    put(&admin, "tar", "text/plain", archive.clone()).is_problem(
        415,
        "unsupported-media-type",
        &["application/zip"],
    );
    put(&admin, "new", "application/zip", archive.clone()).is_problem(
        422,
        "invalid",
        &["cannot be read"],
    );
    put(&admin, "new", "application/gzip", archive).is_problem(422, "invalid", &["cannot be read"]);
    put(&admin, "new", "application/x-tar", Vec::new()).is_problem(422, "invalid", &["no files"]);
    admin.get(&workspace("/flows/new")).expect(404);
}

#[test]
fn archives_that_lead_out_or_are_no_files_are_refused() {
    use tar::EntryType;
    let server = Server::start();
    let admin = server.admin();
    for (archive, words) in [
        (
            entry("../evil.py", EntryType::Regular, "", b"x"),
            "leads out",
        ),
        (
            entry("a/../../evil.py", EntryType::Regular, "", b"x"),
            "leads out",
        ),
        (entry("/etc/evil", EntryType::Regular, "", b"x"), "absolute"),
        (
            entry("link", EntryType::Symlink, "/etc/passwd", b""),
            "link",
        ),
        (entry("hard", EntryType::Link, "tool.py", b""), "link"),
        (entry("pipe", EntryType::Fifo, "", b""), "only files"),
        (entry("disk", EntryType::Block, "", b""), "only files"),
        (entry("a\\b", EntryType::Regular, "", b"x"), "'\\'"),
    ] {
        let answer = put(&admin, "evil", "application/x-tar", archive);
        answer.is_problem(422, "invalid", &[words]);
    }
    let archive = zip(&[("../evil.py", b"x")]);
    put(&admin, "evil", "application/zip", archive).is_problem(422, "invalid", &["leads out"]);
    let archive = zip(&[("a", b"x"), ("a/b", b"x")]);
    put(&admin, "evil", "application/zip", archive).is_problem(422, "invalid", &["twice"]);
    admin.get(&workspace("/flows/evil")).expect(404);
}

#[test]
fn limits_hold_for_what_is_in_archives() {
    let server = Server::configured(
        "[server]\nupload_bytes = 200000\n[flows]\nfile_bytes = 100000\nflow_bytes = 150000\nflow_files = 3\n",
    );
    let admin = server.admin();
    // A thousand times as large as it looks.
    let bomb = vec![0; 20_000_000];
    let tarred = entry("zeros", tar::EntryType::Regular, "", &bomb);
    put(&admin, "f", "application/gzip", gzip(&tarred)).is_problem(
        413,
        "too-large",
        &["zeros", "100000"],
    );
    put(&admin, "f", "application/zip", zip(&[("zeros", &bomb)])).is_problem(
        413,
        "too-large",
        &["zeros"],
    );
    let two = zip(&[("a", &bomb[..90_000]), ("b", &bomb[..90_000])]);
    put(&admin, "f", "application/zip", two).is_problem(413, "too-large", &["150000"]);
    let four = zip(&[("a", b"1"), ("b", b"2"), ("c", b"3"), ("d", b"4")]);
    put(&admin, "f", "application/zip", four).is_problem(413, "too-large", &["3 files"]);
    put(&admin, "f", "application/x-tar", tarred[..300_000].to_vec()).is_problem(
        413,
        "too-large",
        &["body"],
    );
    admin.get(&workspace("/flows/f")).expect(404);
    // The same for files one by one.
    admin.upload("f", &echo());
    let file = |name: &str, size: usize| {
        admin.send("PUT", &format!("{}/{name}", files("f")), &[], vec![0; size])
    };
    file("a", 100_001).is_problem(413, "too-large", &["'a'", "100000"]);
    file("a", 100_000).expect(200);
    file("b", 1).is_problem(413, "too-large", &["3 files"]);
    file("a", 10).expect(200);
    assert_eq!(admin.get(&workspace("/flows/f")).json["files"], 3);
}

#[test]
fn an_edit_is_in_force_from_the_next_call() {
    let server = Server::start();
    let admin = server.admin();
    let session = admin.python("f", ECHO, &[("x", "object")]);
    assert_eq!(session.out(json!({"x": 1})), 1);
    for number in 0..5 {
        admin.write(
            "f",
            "tool.py",
            &ECHO.replace("return x", &format!("return [x, {number}]")),
        );
        assert_eq!(session.out(json!({"x": 1})), json!([1, number]));
    }
    admin.write(
        "f",
        "tool.py",
        "from promptflow.core import tool\nimport helper\n@tool\ndef t(x): return helper.help(x)\n",
    );
    assert_eq!(
        session.call(json!({"x": 1}))["error"]["class"],
        "PythonLoadError"
    );
    admin.write("f", "helper.py", "def help(x): return 'helped'\n");
    assert_eq!(session.out(json!({"x": 1})), "helped");
    admin
        .delete(&format!("{}/helper.py", files("f")))
        .expect(200);
    assert_eq!(session.call(json!({"x": 1}))["status"], "Failed");
    // A call under way goes on with what it began with.
    admin.write("f", "tool.py", "import time\nfrom promptflow.core import tool\n@tool\ndef t(x):\n    time.sleep(x)\n    return 'old'\n");
    let call = session.begin("slow", json!({"x": 2}));
    session.wait_until("it is busy", |shown| shown["instances"]["busy"] == 1);
    admin.upload("f", &echo());
    assert_eq!(session.out(json!({"x": 0})), 0);
    assert_eq!(call.join().unwrap().json["outputs"]["out"], "old");
}

#[test]
fn nobody_overwrites_what_they_have_not_seen() {
    let server = Server::start();
    let admin = server.admin();
    let tag = admin.upload("f", &echo()).tag();
    let note = format!("{}/note.txt", files("f"));
    let write = |tag: &str, text: &str| admin.send("PUT", &note, &[("if-match", tag)], text);
    let next = write(&tag, "one").is(200).tag();
    write(&tag, "two").is_problem(412, "stale", &[]);
    let archive = tar(&echo().path());
    let headers = [
        ("content-type", "application/x-tar"),
        ("if-match", tag.as_str()),
    ];
    admin
        .send("PUT", &files("f"), &headers, archive.clone())
        .is_problem(412, "stale", &[]);
    admin
        .send("DELETE", &note, &[("if-match", &tag)], "")
        .is_problem(412, "stale", &[]);
    write(&next, "three").expect(200);
    write("*", "four").expect(200);
    write("nonsense", "five").expect(400);
    let shown = admin.get(&workspace("/flows/f"));
    assert_eq!(admin.get(&note).body, b"four");
    admin
        .send("DELETE", &note, &[("if-match", &shown.tag())], "")
        .expect(200);
    admin.get(&note).expect(404);
    admin.delete(&note).expect(404);
    admin
        .send("PUT", &files("gone"), &headers, archive)
        .expect(412);
}

#[test]
fn of_edits_at_once_none_is_lost() {
    let server = Server::start();
    let admin = server.admin();
    admin.upload("f", &FlowFolder::new().file("flow.dag.yaml", "nodes: []\n"));
    let revision = admin.get(&workspace("/flows/f")).json["revision"]
        .as_u64()
        .unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let admin = admin.clone();
            thread::spawn(move || {
                for number in 0..10 {
                    admin.write(
                        "f",
                        &format!("d{writer}/{number}.txt"),
                        &format!("{writer} {number}"),
                    );
                    admin.write("f", "shared.txt", &format!("{writer}"));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let flow = admin.get(&workspace("/flows/f")).is(200).json;
    assert_eq!(flow["files"], 82);
    assert_eq!(flow["revision"], revision + 160);
    let listed = admin.get(&files("f")).json;
    let listed = listed["items"].as_array().unwrap();
    let bytes: u64 = listed
        .iter()
        .map(|file| file["size"].as_u64().unwrap())
        .sum();
    assert_eq!(flow["bytes"], bytes);
    assert_eq!(admin.get(&format!("{}/d3/7.txt", files("f"))).body, b"3 7");
    // Of those who have seen the same, one wins.
    let tag = admin.get(&workspace("/flows/f")).tag();
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (admin, tag) = (admin.clone(), tag.clone());
            thread::spawn(move || {
                let path = format!("{}/one.txt", files("f"));
                admin.send("PUT", &path, &[("if-match", &tag)], "x").status
            })
        })
        .collect();
    let mut statuses: Vec<_> = writers
        .into_iter()
        .map(|writer| writer.join().unwrap())
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
}

#[test]
fn paths_may_have_any_characters_but_those_that_lead_out() {
    let server = Server::start();
    let admin = server.admin();
    admin.upload("f", &echo());
    for (encoded, path) in [
        ("a%20b.txt", "a b.txt"),
        ("%C3%A9/%F0%9F%98%80.txt", "é/😀.txt"),
        ("100%25.txt", "100%.txt"),
        ("a%2Fb.txt", "a/b.txt"),
        ("q%3Fx=1&y%23.txt", "q?x=1&y#.txt"),
        ("%25%32%65", "%2e"),
        ("...", "..."),
        ("+.txt", "+.txt"),
    ] {
        admin.write("f", encoded, path);
        assert!(
            paths(&admin, "f").contains(&path.to_owned()),
            "{:?}",
            paths(&admin, "f")
        );
        let answer = admin.get(&format!("{}/{encoded}", files("f"))).is(200);
        assert_eq!(answer.body, path.as_bytes());
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("content-disposition"), "attachment");
        admin
            .delete(&format!("{}/{encoded}", files("f")))
            .expect(200);
    }
    for encoded in [
        "a%00b",
        "a%0Ab",
        "..%2F..%2Fx",
        "a%5Cb",
        "%2Fetc%2Fpasswd",
        "a%2F%2Fb",
        "a/",
    ] {
        let path = format!("{}/{encoded}", files("f"));
        admin
            .send("PUT", &path, &[], "x")
            .is_problem(422, "invalid", &["no path"]);
    }
    admin
        .send(
            "PUT",
            &format!("{}/{}", files("f"), "x".repeat(256)),
            &[],
            "x",
        )
        .expect(422);
    admin
        .send("PUT", &format!("{}/%FF", files("f")), &[], "x")
        .is_problem(404, "not-found", &[]);
    admin
        .send("PUT", &format!("{}/tool.py/x", files("f")), &[], "x")
        .is_problem(409, "conflict", &["tool.py"]);
    admin.get(&format!("{}/gone", files("f"))).expect(404);
    admin
        .send("PUT", &format!("{}/x", files("gone")), &[], "x")
        .expect(404);
    for name in ["a%20b", "-a", "%C3%A9", "a%2Fb", &"x".repeat(64)] {
        admin.get(&workspace(&format!("/flows/{name}"))).expect(404);
    }
}

#[test]
fn a_flow_is_deleted_when_its_session_is_not_in_the_way() {
    let server = Server::start();
    let admin = server.admin();
    let session = admin.python("f", ECHO, &[("x", "object")]);
    let flow = workspace("/flows/f");
    admin
        .delete(&flow)
        .is_problem(409, "conflict", &[&session.id, "stop it first"]);
    session.stop();
    admin.delete(&flow).expect(204);
    for gone in [
        &flow,
        &files("f"),
        &session.path(""),
        &session.path("/history"),
    ] {
        admin.get(gone).expect(404);
    }
    // One of the same name is another.
    admin
        .post(&workspace("/flows"), json!({"name": "f"}))
        .expect(201);
    assert!(paths(&admin, "f").is_empty());
    admin
        .post(&workspace("/flows"), json!({"name": "f"}))
        .is_problem(409, "conflict", &["'f'"]);
    let next = admin.session("f");
    assert_ne!(next.id, session.id);
    assert_eq!(next.show()["generation"], 1);
}

#[test]
fn long_lists_come_in_pages() {
    let server = Server::start();
    let admin = server.admin();
    for number in 0..25 {
        admin
            .post(
                &workspace("/flows"),
                json!({"name": format!("f{number:02}")}),
            )
            .expect(201);
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = admin
            .get(&workspace(&format!("/flows?limit=10{cursor}")))
            .is(200)
            .json;
        let items = page["items"].as_array().unwrap();
        seen.extend(
            items
                .iter()
                .map(|flow| flow["name"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(
        seen,
        (0..25)
            .map(|number| format!("f{number:02}"))
            .collect::<Vec<_>>()
    );
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=-1",
        "cursor=%21",
        "color=red",
    ] {
        admin
            .get(&workspace(&format!("/flows?{query}")))
            .is_problem(400, "bad-request", &[]);
    }
}
