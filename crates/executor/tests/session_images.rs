//! Images of sessions: made once from equal inputs, from the flow's own files, and done without where that is not possible.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::kept::{Home, Kept, prepared, ready, refused, run};
use flowcell_executor::{ImageState, SessionOptions};
use flowcell_sandbox::{Owner, Shell};
use serde_json::json;

/// Where its module was imported: equal for all that start from one image.
const BORN: &str = "result = BORN";

#[test]
fn the_runner_can_have_images() {
    let home = Home::new();
    let host = home.host();
    let manifest = host.store().manifest(&common::options().bundle).unwrap();
    let runner = manifest.python_runner().unwrap();
    let shell = Shell::of(&host.store().get(&runner.digest).unwrap()).unwrap();
    let made = flowcell_bundle::Digest::of(&shell.component);
    assert!(
        matches!(&runner.start, flowcell_bundle::Start::Image { shell, .. } if *shell == made),
        "{:?}",
        runner.start
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_inputs_have_one_image() {
    let home = Home::new();
    let hosts = [home.host(), home.host()];
    let copies = [Kept::new(""), Kept::new(""), Kept::new(""), Kept::new("")];
    let mut sessions = Vec::new();
    for (number, copy) in copies.iter().enumerate() {
        let host = &hosts[number % 2];
        let session = copy.open(host, &format!("s{number}")).await;
        assert_eq!(
            session.image_state(host),
            ImageState::None("it has not been made yet".to_owned())
        );
        sessions.push(session);
    }
    // All at once, in what could be two processes.
    for (number, session) in sessions.iter().enumerate() {
        session.prepare(&hosts[number % 2]);
    }
    let mut states = Vec::new();
    for (number, session) in sessions.iter().enumerate() {
        states.push(ready(&hosts[number % 2], session).await);
    }
    assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
    let (bytes, changed) = states[0];
    assert!(bytes < 2 << 20 && changed > bytes, "{states:?}");
    let names = home.names();
    assert_eq!(names.len(), 1, "{names:?}");
    let file = fs::metadata(home.images().join(&names[0])).unwrap();

    // A session that is opened now starts from it, in this process and in a later one; nothing is made again.
    let mut born = Vec::new();
    for host in [&hosts[0], &hosts[1], &home.host()] {
        let copy = Kept::new("");
        let session = copy.open(host, "later").await;
        assert!(matches!(
            session.image_state(host),
            ImageState::Ready { .. }
        ));
        ready(host, &session).await;
        born.push(run(&session, BORN).await);
    }
    assert!(born.iter().all(|one| *one == born[0]), "{born:?}");
    assert_eq!(
        fs::metadata(home.images().join(&names[0])).unwrap().ino(),
        file.ino()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_is_unpacked_once_and_again_when_it_is_damaged() {
    let home = Home::new();
    let bases = home.own_bases();
    let copy = Kept::new("");
    let answers = async || {
        let session = copy.open(&home.host(), "one").await;
        assert_eq!(run(&session, "result = 6 * 7").await, 42);
    };
    answers().await;
    let files = fs::read_dir(&bases).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let path = &files[0];
    let whole = fs::read(path).unwrap();
    let inode = || fs::metadata(path).unwrap().ino();
    let first = inode();
    answers().await;
    assert_eq!(inode(), first);
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    let damages = [changed, whole[..whole.len() - 4096].to_vec(), Vec::new()];
    for damage in damages {
        // As everything is replaced: whoever has it mapped keeps it.
        let other = bases.join("other");
        fs::write(&other, damage).unwrap();
        fs::rename(&other, path).unwrap();
        let damaged = inode();
        answers().await;
        assert!(fs::read(path).unwrap() == whole && inode() != damaged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_is_made_from_tells_it_from_others() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("X = 1");
    let session = copy.open(&host, "one").await;
    ready(&host, &session).await;
    drop(session);
    let variable = |options: &mut SessionOptions| {
        options
            .environment_variables
            .insert("GIVEN".to_owned(), "other".to_owned());
    };
    let stranger = |options: &mut SessionOptions| {
        let stored = options.stored.as_mut().unwrap();
        stored.owner = Owner {
            workspace: "other".to_owned(),
            session: Some("one".to_owned()),
        };
    };
    for (number, change) in [&variable as &dyn Fn(&mut SessionOptions), &stranger]
        .into_iter()
        .enumerate()
    {
        let copy = Kept::new("X = 1");
        let session = copy
            .open_with(&host, "one", |options| change(options))
            .await;
        assert!(matches!(session.image_state(&host), ImageState::None(_)));
        ready(&host, &session).await;
        assert_eq!(home.names().len(), number + 2);
    }
    copy.set("X = 2");
    let session = copy.open(&host, "one").await;
    assert!(matches!(session.image_state(&host), ImageState::None(_)));
    assert_eq!(run(&session, "result = X").await, 2);
    ready(&host, &session).await;
    assert_eq!(home.names().len(), 4);
    drop(session);
    assert_eq!(run(&copy.open(&host, "two").await, "result = X").await, 2);
    // The first files once more: their image is there still.
    copy.set("X = 1");
    let session = copy.open(&host, "three").await;
    assert!(matches!(
        session.image_state(&host),
        ImageState::Ready { .. }
    ));
    assert_eq!(run(&session, "result = X").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_cannot_have_an_image_runs_without() {
    // What is in the session's own `/tmp` is not where the image is made.
    const IN_THE_BUILD: &str = "if not os.path.exists('/tmp/session'): ";
    for (top, why) in [
        (
            format!("{IN_THE_BUILD}raise ValueError('no such luck')"),
            "no such luck",
        ),
        (format!("{IN_THE_BUILD}os._exit(3)"), "ended its process"),
        (format!("{IN_THE_BUILD}bytearray(1 << 30)"), "memory"),
        (
            "while not os.path.exists('/tmp/session'): pass".to_owned(),
            "CPU time",
        ),
        (
            "open('/flow/made.txt', 'w').close()".to_owned(),
            "writes files",
        ),
        (
            "os.makedirs('/tmp/made', exist_ok=True)".to_owned(),
            "writes files",
        ),
        (
            "FILE = open('/flow/flow.dag.yaml')".to_owned(),
            "the file /flow/flow.dag.yaml is open",
        ),
        (
            "import sqlite3; DB = sqlite3.connect('file:/flow/t.py?mode=ro', uri=True)".to_owned(),
            "the database /flow/t.py is open",
        ),
        (
            "FOLDER = os.scandir('/flow'); next(FOLDER)".to_owned(),
            "a folder is open",
        ),
        (
            "from wit_world.imports import preopens; HELD = preopens.get_directories()".to_owned(),
            "a resource of the host",
        ),
    ] {
        let home = Home::new();
        let host = home.host();
        let copy = Kept::new(&top);
        fs::create_dir(copy.path().join("tmp")).unwrap();
        fs::write(copy.path().join("tmp/session"), "").unwrap();
        let change =
            |options: &mut SessionOptions| options.limits.cpu_time = Duration::from_secs(5);
        let session = copy.open_with(&host, "one", change).await;
        let reason = refused(&host, &session).await;
        assert!(reason.contains(why), "{top}: {reason}");
        assert_eq!(run(&session, "kept['x'] = 1; result = 2").await, 2, "{top}");
        assert_eq!(run(&session, "result = kept['x']").await, 1, "{top}");
        assert_eq!(
            home.names(),
            Vec::<String>::new(),
            "{top}: nothing is left over"
        );
        // It is not tried again and again.
        assert_eq!(refused(&host, &session).await, reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_holds_nothing_of_a_session() {
    const LOOK: &str =
        "SEEN = [sorted(os.listdir('/flow')), sorted(os.listdir('/tmp')), dict(os.environ)]";
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new(LOOK);
    let session = copy.open(&host, "one").await;
    run(
        &session,
        "kept['secret'] = 'S3CRET'; os.environ['SECRET'] = 'S3CRET'
for path in ('/flow/secret.txt', '/tmp/secret.txt'): open(path, 'w').write('S3CRET')",
    )
    .await;
    ready(&host, &session).await;
    let other = Kept::new(LOOK);
    let session = other.open(&host, "two").await;
    let seen = run(
        &session,
        "result = [SEEN, kept, os.environ.get('SECRET'), sorted(os.listdir('/flow'))]",
    )
    .await;
    let files = json!(["flow.dag.yaml", "t.py"]);
    assert_eq!(
        seen,
        json!([[files, [], {"HOME": "/tmp"}], {}, null, files])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_a_tool_has_changed_are_not_made_into_an_image() {
    let home = Home::new();
    let host = home.host();
    for (change, why) in [
        (
            "open('/flow/t.py', 'a').write('\\nSECRET = 1')",
            "t.py was changed by a tool",
        ),
        (
            "os.remove('/flow/t.py'); os.symlink('flow.dag.yaml', '/flow/t.py')",
            "t.py",
        ),
        (
            "os.remove('/flow/t.py'); os.mkdir('/flow/t.py')",
            "t.py is not as it was uploaded",
        ),
        ("os.remove('/flow/t.py')", "t.py is not as it was uploaded"),
        (
            "open('/flow/flow.dag.yaml', 'a').write('\\n#')",
            "flow.dag.yaml was changed by a tool",
        ),
    ] {
        let copy = Kept::new(&format!("# {change}").replace('\n', " "));
        let session = copy.open(&host, "one").await;
        run(&session, change).await;
        let reason = refused(&host, &session).await;
        assert!(reason.contains(why), "{change}: {reason}");
    }
    assert!(home.names().is_empty(), "{:?}", home.names());
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_that_a_tool_has_forged_name_no_image() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("MODE = os.environ.get('MODE')");
    let file = copy.path().join("flow/flow.dag.yaml");
    let uploaded = fs::read_to_string(&file).unwrap();
    // It was changed when the session was opened, and is as it was when the image is made.
    fs::write(
        &file,
        format!("environment_variables: {{MODE: forged}}\n{uploaded}"),
    )
    .unwrap();
    let session = copy.open(&host, "one").await;
    assert_eq!(run(&session, "result = MODE").await, "forged");
    fs::write(&file, uploaded).unwrap();
    let reason = refused(&host, &session).await;
    assert!(reason.contains("environment variables"), "{reason}");
    assert!(home.names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_numbers_differ_unless_the_flow_asked_for_them() {
    let home = Home::new();
    let host = home.host();
    const DRAW: &str = "import tempfile\nresult = [random.random(), next(tempfile._get_candidate_names()), uuid.uuid4().hex, os.urandom(8).hex()]";
    let draws = async |top: &str, session: &str| {
        run(&Kept::new(top).open(&host, session).await, DRAW).await
    };
    for (top, is_same) in [
        ("random.random()", false),
        ("random.seed(42)", true),
        ("from random import seed; seed('text')", true),
        ("random.seed(42); random.seed()", false),
    ] {
        let copy = Kept::new(top);
        ready(&host, &copy.open(&host, "first").await).await;
        let (one, two) = (draws(top, "one").await, draws(top, "two").await);
        assert_eq!(one[0] == two[0], is_same, "{top}");
        for other in 1..4 {
            assert_ne!(one[other], two[other], "{top}");
        }
    }
    // What is asked for is what an ordinary process would draw.
    let seeded = draws("random.seed(42)", "three").await;
    assert_eq!(seeded[0].as_f64().unwrap(), 0.639_426_798_457_883_7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dead_builds_left_is_cleaned_up() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("");
    ready(&host, &copy.open(&host, "one").await).await;
    let image = home.images().join(&home.names()[0]);
    let whole = fs::read(&image).unwrap();
    for damage in [None, Some(&whole[..whole.len() / 2]), Some(b"")] {
        fs::create_dir_all(home.images().join(".building-x/flow")).unwrap();
        fs::write(home.images().join(".building-x/flow/t.py"), "half").unwrap();
        fs::write(home.images().join(".partial-x"), "half").unwrap();
        fs::write(home.images().join(".lock"), "stale").unwrap();
        match damage {
            Some(bytes) => fs::write(&image, bytes).unwrap(),
            None => fs::remove_file(&image).unwrap(),
        }
        let host = home.host();
        let session = copy.open(&host, "one").await;
        ready(&host, &session).await;
        assert_eq!(home.names().len(), 1, "{:?}", home.names());
        assert_eq!(run(&session, "result = 1").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_goes_on_is_left_alone() {
    let home = Home::new();
    let host = home.host();
    let lock = home.images().join(".lock");
    fs::create_dir_all(home.images()).unwrap();
    // Another process is at it.
    let lock = fs::File::create(lock).unwrap();
    lock.lock().unwrap();
    fs::create_dir(home.images().join(".building-other")).unwrap();
    let copy = Kept::new("");
    let session = copy.open(&host, "one").await;
    session.prepare(&host);
    for _ in 0..20 {
        assert_eq!(run(&session, "result = 1").await, 1);
        assert_eq!(session.image_state(&host), ImageState::Building);
    }
    assert!(home.images().join(".building-other").exists());
    drop(lock);
    ready(&host, &session).await;
    assert!(!home.images().join(".building-other").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_means_no_image_and_no_harm() {
    let home = Home::new();
    let images = home.images();
    fs::create_dir_all(&images).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&images)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return;
    }
    let host = home.host();
    let copy = Kept::new("TABLE = {i: str(i) for i in range(5000)}");
    let session = copy.open(&host, "one").await;
    let ended = prepared(&host, &session).await;
    let names = home.names();
    let answer = run(&session, "result = len(TABLE)").await;
    let unmounted = Command::new("umount").arg("--lazy").arg(&images).status();
    assert!(unmounted.unwrap().success());
    assert!(
        matches!(&ended, ImageState::None(why) if why == "cannot write the image"),
        "{ended:?}"
    );
    assert!(names.is_empty(), "{names:?}");
    assert_eq!(answer, 5000);
    // Where there is room, it is made: for another session, since this one has been told.
    let host = home.host();
    ready(&host, &copy.open(&host, "two").await).await;
}
