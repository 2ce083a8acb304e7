//! A working copy that is kept: what hostile tools may have made of it is refused, and never followed or waited for.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use common::{HOST, map, options};
use flowcell_executor::{RunError, RunOptions, Session, Workspace};
use flowcell_tests::FlowFolder;
use serde_json::json;

const YAML: &str = "inputs:\n  x: {type: int, default: 1}\noutputs:\n  o: {type: int, reference: '${inputs.x}'}\nnodes: []\n";

fn home(flow: &FlowFolder) -> &'static Path {
    // The tests' folders live as long as the test; the path is needed in another thread.
    Box::leak(flow.path().parent().unwrap().to_owned().into_boxed_path())
}

/// Opens it in another thread: an open that waits fails the test instead of stopping it.
fn try_open(folder: &'static Path) -> Result<Workspace, RunError> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(Workspace::open(folder, "kept"));
    });
    receiver.recv_timeout(Duration::from_secs(20)).unwrap()
}

/// The refusal, which names no path of the host.
#[track_caller]
fn refused(folder: &'static Path) -> RunError {
    let error = try_open(folder).unwrap_err();
    assert_no_host_path(&error, folder);
    error
}

#[track_caller]
fn assert_no_host_path(error: &RunError, folder: &Path) {
    let shown = [
        &error.message,
        error.help.as_ref().unwrap_or(&error.message),
        error.traceback.as_ref().unwrap_or(&error.message),
    ];
    for text in shown {
        assert!(!text.contains(folder.to_str().unwrap()), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_writes_the_next_one_finds() {
    let flow = FlowFolder::python(
        "from promptflow.core import tool\nimport os\n@tool\ndef t(x: str):\n    found = [os.path.exists(p) for p in ('/flow/kept', '/tmp/kept')]\n    for p in ('/flow/kept', '/tmp/kept'):\n        open(p, 'w').write('kept')\n    return found\n",
        &[("x", "string")],
    );
    for found in ["[false,false]", "[true,true]"] {
        let workspace = Workspace::open(home(&flow), "kept").unwrap();
        let session = Session::open(&HOST, workspace, options()).await.unwrap();
        let result = session
            .run(&map(json!({ "x": "" })), &RunOptions::default())
            .await;
        assert_eq!(result.outputs.unwrap(), format!("{{\"out\": {found}}}"));
    }
}

#[test]
fn the_flow_takes_its_name_from_whoever_opens_it() {
    let flow = FlowFolder::new().file("flow.dag.yaml", YAML);
    assert_eq!(try_open(home(&flow)).unwrap().flow().name, "kept");
}

#[test]
fn a_flow_file_that_leads_out_is_not_read() {
    for target in ["/etc/passwd", "../secret.yaml"] {
        let flow = FlowFolder::new()
            .file("../secret.yaml", YAML)
            .link("flow.dag.yaml", target);
        let error = refused(home(&flow));
        assert!(error.message.contains("leads out"), "{error:?}");
    }
    // One inside does no harm.
    let flow = FlowFolder::new()
        .file("real.yaml", YAML)
        .link("flow.dag.yaml", "real.yaml");
    try_open(home(&flow)).unwrap();
}

#[test]
fn a_flow_file_that_is_none_any_more_is_refused() {
    let empty = FlowFolder::new();
    let dangling = FlowFolder::new().link("flow.dag.yaml", "gone");
    let folder = FlowFolder::new().file("flow.dag.yaml/x", "");
    let fifo = FlowFolder::new();
    let made = Command::new("mkfifo")
        .arg(fifo.path().join("flow.dag.yaml"))
        .status();
    assert!(made.unwrap().success());
    for flow in [empty, dangling, folder, fifo] {
        let error = refused(home(&flow));
        assert_eq!(error.class, "UserErrorException", "{error:?}");
        assert!(error.message.contains("neither flow.dag.yaml"), "{error:?}");
    }
    let circle = FlowFolder::new().link("flow.dag.yaml", "flow.dag.yaml");
    refused(home(&circle));
}

#[test]
fn a_flow_file_of_any_size_and_content_is_refused_in_time() {
    let huge = FlowFolder::new().file("flow.dag.yaml", "");
    let file = fs::File::options()
        .write(true)
        .open(huge.path().join("flow.dag.yaml"));
    file.unwrap().set_len(10 << 30).unwrap();
    assert_eq!(refused(home(&huge)).class, "ValidationException");

    for (content, class) in [
        (b"\xff\xfe".as_slice(), "UnicodeDecodeError"),
        (b"nodes: [", "YamlParseError"),
    ] {
        let flow = FlowFolder::new().file("flow.dag.yaml", content);
        let error = refused(home(&flow));
        assert_eq!(error.class, class, "{error:?}");
    }
    let two = FlowFolder::new()
        .file("flow.dag.yaml", YAML)
        .file("flow.dag.yml", YAML);
    assert_eq!(refused(home(&two)).class, "ValidationException");
    let prompties = FlowFolder::new()
        .file("a.prompty", "---\nname: a\n---\n")
        .file("b.prompty", "---\nname: b\n---\n");
    let error = refused(home(&prompties));
    assert!(
        error
            .message
            .ends_with("there are more than 1 prompty file."),
        "{error:?}"
    );
    let one = FlowFolder::new().file("a.prompty", "---\nname: is a\n---\n");
    assert_eq!(try_open(home(&one)).unwrap().flow().name, "is a");
    let sample = "entry: a:b\nsample:\n  inputs: ${file:../../secret.json}\n";
    let flex = FlowFolder::new().file("flow.flex.yaml", sample);
    assert_eq!(
        refused(home(&flex)).message,
        "Cannot find the reference file ../../secret.json."
    );
}

#[test]
fn a_folder_that_is_gone_is_named_as_its_owner_knows_it() {
    let flow = FlowFolder::new().file("flow.dag.yaml", YAML);
    let folder = home(&flow);
    fs::remove_dir_all(flow.path()).unwrap();
    let error = refused(folder);
    assert!(error.message.contains("kept"), "{error:?}");
}

#[test]
fn includes_are_those_that_are_there() {
    let yaml = format!("additional_includes:\n- ../lib/shared.py\n- ../data/\n{YAML}");
    let flow = FlowFolder::new()
        .file("flow.dag.yaml", yaml)
        .file("shared.py", "");
    let error = refused(home(&flow));
    assert_eq!(
        error.message, "Unable to find additional include ../data/",
        "{error:?}"
    );
    fs::create_dir(flow.path().join("data")).unwrap();
    try_open(home(&flow)).unwrap();

    fs::remove_file(flow.path().join("shared.py")).unwrap();
    symlink("/etc/passwd", flow.path().join("shared.py")).unwrap();
    let error = refused(home(&flow));
    assert!(error.message.contains("../lib/shared.py"), "{error:?}");

    let nameless = FlowFolder::new().file(
        "flow.dag.yaml",
        format!("additional_includes: ['..']\n{YAML}"),
    );
    refused(home(&nameless));
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_shown_where_tools_see_them() {
    let broken = FlowFolder::python("import nosuch", &[]);
    let fifo = FlowFolder::python("", &[]);
    fs::remove_file(fifo.path().join("tool.py")).unwrap();
    let made = Command::new("mkfifo")
        .arg(fifo.path().join("tool.py"))
        .status();
    assert!(made.unwrap().success());
    let out = FlowFolder::python("", &[]);
    fs::remove_file(out.path().join("tool.py")).unwrap();
    symlink("/etc/passwd", out.path().join("tool.py")).unwrap();
    for (flow, class, words) in [
        (&broken, "PythonLoadError", "from file '/flow/tool.py'"),
        (&fifo, "InvalidSource", "'tool.py' can not be found"),
        (&out, "InvalidSource", "'tool.py' can not be found"),
    ] {
        let workspace = Workspace::open(home(flow), "kept").unwrap();
        let opened =
            tokio::time::timeout(common::PATIENCE, Session::open(&HOST, workspace, options()));
        let error = opened.await.unwrap().unwrap_err();
        assert_eq!(error.class, class, "{error:?}");
        assert!(error.message.contains(words), "{error:?}");
        assert_no_host_path(&error, home(flow));
    }
    // Gone between the opening and the first instance.
    let flow = FlowFolder::python("", &[]);
    let workspace = Workspace::open(home(&flow), "kept").unwrap();
    fs::rename(flow.path(), home(&flow).join("elsewhere")).unwrap();
    let error = Session::open(&HOST, workspace, options())
        .await
        .unwrap_err();
    assert_no_host_path(&error, home(&flow));
    assert!(
        error.message.contains("/flow"),
        "{error:?} {:?}",
        error.source()
    );
}
