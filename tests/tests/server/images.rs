//! Sessions begin before the image of their modules is made, and go on from it then.

use flowcell_tests::FlowFolder;
use flowcell_tests::server::{Server, Session};
use serde_json::json;

/// While its image is made, no other is.
const SLOW: &str =
    "import time\nfrom promptflow.core import tool\ntime.sleep(3)\n@tool\ndef t():\n    return 1\n";
/// Says when its module was imported, or ends its instance.
const STAMPED: &str = "import os, time\nfrom promptflow.core import tool\nMADE = str(time.time_ns())\n@tool\ndef t(end: bool):\n    if end: os._exit(1)\n    return MADE\n";

/// When the module of a session's next instance was imported.
#[track_caller]
fn made_anew(session: &Session) -> String {
    assert_eq!(session.call(json!({"end": true}))["status"], "Failed");
    session.out(json!({"end": false})).to_string()
}

#[test]
fn sessions_that_open_while_their_image_is_made_get_it() {
    let server = Server::configured("[host]\nworkers = 1\n");
    let admin = server.admin();
    admin.upload("slow", &FlowFolder::python(SLOW, &[]));
    let _slow = admin.session("slow");
    let sessions = ["one", "other"].map(|flow| {
        admin.upload(flow, &FlowFolder::python(STAMPED, &[("end", "bool")]));
        admin.session(flow)
    });
    for session in &sessions {
        // Opened by its first call, it imports the module itself.
        session.out(json!({"end": false}));
    }
    for session in &sessions {
        session.wait_until("it starts instances from its image", |shown| {
            shown["memory"]["image"]["state"] == "ready"
        });
    }
    // No two imports are of the same nanosecond.
    let [one, other] = sessions.each_ref().map(made_anew);
    assert_eq!(one, other);
    assert_eq!(made_anew(&sessions[0]), one);
}
