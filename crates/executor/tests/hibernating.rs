//! Sessions whose idle Python instances are stored: what survives, what stands in the way, and what it takes.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::kept::{Home, Kept, fail, owner, ready, run};
use flowcell_executor::{SessionOptions, fork};
use flowcell_sandbox::{Isolation, Slice, SliceLimits};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_modules_hold_survives_again_and_again() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("class Thing: pass");
    let session = copy.open(&host, "one").await;
    for from_image in [false, true] {
        run(&session, "kept['n'] = 0; kept['thing'] = Thing(); kept['id'] = id(kept['thing']); kept['f'] = lambda: kept['n'] + 1").await;
        for round in 0..4 {
            let stored = session.hibernate().await;
            assert_eq!((stored.instances, stored.kept), (1, vec![]));
            assert_eq!(copy.asleep().len(), 1);
            assert_eq!(session.private_memory(), 0);
            let seen = run(&session, "kept['n'] = kept['f'](); result = [kept['n'], id(kept['thing']) == kept['id'], isinstance(kept['thing'], Thing)]").await;
            assert_eq!(seen, json!([round + 1, true, true]));
        }
        if !from_image {
            ready(&host, &session).await;
        }
    }
    session.hibernate().await;
    drop(session);
    // In another process, over the image that the first did not start from.
    let host = home.host();
    let session = copy.open(&host, "one").await;
    assert_eq!(run(&session, "result = kept['n']").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_without_the_image_that_it_began_with() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("");
    ready(&host, &copy.open(&host, "one").await).await;
    let session = copy.open(&host, "one").await;
    run(&session, "kept['x'] = 'state'").await;
    // The cache may be deleted at any time.
    fs::remove_dir_all(home.images()).unwrap();
    let stored = session.hibernate().await;
    assert_eq!((stored.instances, stored.kept), (1, vec![]));
    drop(session);
    let host = home.host();
    assert_eq!(
        run(&copy.open(&host, "one").await, "result = kept['x']").await,
        "state"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_changed_or_has_other_settings_begins_anew() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("X = 1");
    let given = |value: &'static str| {
        move |options: &mut SessionOptions| {
            options
                .environment_variables
                .insert("GIVEN".to_owned(), value.to_owned());
        }
    };
    let look = "result = [X, kept.get('x'), os.environ['GIVEN']]";
    let session = copy.open_with(&host, "one", given("a")).await;
    run(&session, "kept['x'] = 'state'").await;
    assert_eq!(session.hibernate().await.instances, 1);
    drop(session);
    let session = copy.open_with(&host, "one", given("b")).await;
    assert_eq!(run(&session, look).await, json!([1, null, "b"]));
    drop(session);
    let session = copy.open_with(&host, "one", given("a")).await;
    assert_eq!(run(&session, look).await, json!([1, "state", "a"]));
    session.hibernate().await;
    drop(session);
    copy.set("X = 2");
    let session = copy.open_with(&host, "one", given("a")).await;
    assert_eq!(run(&session, look).await, json!([2, null, "a"]));
    session.hibernate().await;
    drop(session);
    copy.set("X = 1");
    let session = copy.open_with(&host, "one", given("a")).await;
    assert_eq!(
        run(&session, look).await,
        json!([1, null, "a"]),
        "it went with its files"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn freed_memory_takes_no_room_on_the_disk() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("");
    let session = copy.open(&host, "one").await;
    run(&session, "kept['x'] = 1").await;
    session.hibernate().await;
    let small = copy.asleep()[0].1;
    run(&session, "import json\nx = [os.urandom(1000) for _ in range(40_000)]; y = [str(i) * 3 for i in range(200_000)]").await;
    let stored = session.hibernate().await;
    assert_eq!((stored.instances, stored.kept), (1, vec![]));
    let size = copy.asleep()[0].1;
    assert!(size < small + (600 << 10), "{small} and then {size}");
    assert_eq!(run(&session, "result = kept['x']").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_python_has_works_afterwards() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("import asyncio");
    let session = copy.open(&host, "one").await;
    run(&session, "
import logging, tempfile, threading
random.seed(7); kept['random'] = random.getstate(); kept['then'] = time.monotonic(); kept['wall'] = time.time()
kept['uuid'] = uuid.uuid4().hex; kept['urandom'] = os.urandom(8); kept['lock'] = threading.Lock()
async def add(x):
    await asyncio.sleep(0.001)
    return x + 1
kept['add'] = add; kept['sum'] = asyncio.run(add(1))
os.makedirs('/flow/below', exist_ok=True); os.chdir('/flow/below'); open('file', 'w').write('before')").await;
    for _ in 0..3 {
        assert_eq!(session.hibernate().await.kept, Vec::<String>::new());
        let seen = run(&session, "
now = time.monotonic(); forward = now >= kept['then'] and time.time() >= kept['wall']; kept['then'] = now
same = random.getstate() == kept['random']
fresh = uuid.uuid4().hex != kept['uuid'] and os.urandom(8) != kept['urandom']
with kept['lock']: pass
print('heard', file=sys.stderr)
before = open('file').read(); open('file', 'w').write('before')
fd = os.open('file', os.O_RDONLY); read = os.read(fd, 3); os.close(fd)
import json.tool, colorsys
result = [forward, same, fresh, asyncio.run(kept['add'](2)), before, read.decode(), os.getcwd()]").await;
        assert_eq!(
            seen,
            json!([true, true, true, 3, "before", "bef", "/flow/below"])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_stands_in_the_way_by_name() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("");
    let session = copy.open(&host, "one").await;
    for (open, why, close) in [
        (
            "kept['f'] = open('/flow/log.txt', 'w'); kept['f'].write('x')",
            "the file /flow/log.txt is open",
            "kept.pop('f').close()",
        ),
        (
            "kept['f'] = os.open('/flow/t.py', os.O_RDONLY)",
            "a file is open",
            "os.close(kept.pop('f'))",
        ),
        (
            "kept['f'] = os.scandir('/flow'); next(kept['f'])",
            "a folder is open",
            "kept.pop('f').close()",
        ),
        (
            "from wit_world.imports import preopens; kept['f'] = preopens.get_directories()",
            "a resource of the host",
            "kept.pop('f')",
        ),
        // What the runner does not see, the host does.
        (
            "import weakref; from wit_world.imports import preopens; open('/flow/t.py').close(); kept['f'] = preopens.get_directories(); kept['r'] = dict(weakref.finalize._registry); weakref.finalize._registry.clear()",
            "open folders",
            "import weakref; weakref.finalize._registry.update(kept.pop('r')); kept.pop('f')",
        ),
    ] {
        run(&session, open).await;
        let kept = session.hibernate().await;
        assert_eq!(kept.instances, 0, "{open}");
        assert!(kept.kept[0].contains(why), "{open}: {kept:?}");
        run(&session, close).await;
        let stored = session.hibernate().await;
        assert_eq!((stored.instances, stored.kept), (1, vec![]), "{open}");
        assert_eq!(run(&session, "result = len(kept)").await, 0, "{open}");
    }
    assert_eq!(fs::read(copy.path().join("flow/log.txt")).unwrap(), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_number_of_a_file_is_nobodys() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("");
    let session = copy.open(&host, "one").await;
    run(
        &session,
        "kept['fd'] = os.open('/flow/t.py', os.O_RDONLY); os.close(kept['fd'])",
    )
    .await;
    session.hibernate().await;
    let read = "
try: result = os.read(kept['fd'], 1).decode()
except OSError: result = 'closed'";
    assert_eq!(run(&session, read).await, "closed");
    // The number can be given again, to what is opened now.
    let same = "
new = os.open('/flow/flow.dag.yaml', os.O_RDONLY)
result = [new == kept['fd'], os.read(new, 6).decode()]; os.close(new)";
    assert_eq!(run(&session, same).await, json!([true, "inputs"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_slice_stores_another_sessions_instance() {
    let home = Home::new();
    let host = home.host();
    let slice = Slice::new(
        SliceLimits {
            instances: 1,
            ..SliceLimits::UNLIMITED
        },
        None,
    );
    let copies = [Kept::new(""), Kept::new("")];
    let within = |options: &mut SessionOptions| options.slice = Arc::clone(&slice);
    let sessions = [
        copies[0].open_with(&host, "one", within).await,
        copies[1].open_with(&host, "two", within).await,
    ];
    for round in 0..3 {
        for session in &sessions {
            let n = run(
                session,
                "kept['n'] = kept.get('n', 0) + 1; result = kept['n']",
            )
            .await;
            assert_eq!(n, round + 1);
            assert_eq!(slice.usage().instances, 1);
        }
    }
    assert!(slice.usage().hibernations >= 5, "{:?}", slice.usage());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_share_of_the_processor_loses_no_state() {
    let home = Home::new();
    let host = home.host();
    let slice = Slice::new(
        SliceLimits {
            cpu: 0.2,
            ..SliceLimits::UNLIMITED
        },
        None,
    );
    let copy = Kept::new("");
    let session = copy
        .open_with(&host, "one", |options| options.slice = Arc::clone(&slice))
        .await;
    // More than two seconds' worth of debt.
    run(&session, "kept['x'] = 'state'\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass").await;
    assert_eq!(session.hibernate().await.kept, Vec::<String>::new());
    assert_eq!(run(&session, "result = kept['x']").await, "state");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_their_own_are_not_stored() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("");
    let session = copy
        .open_with(&host, "one", |options| options.isolation = Isolation::Call)
        .await;
    run(&session, "kept['x'] = 'state'").await;
    assert_eq!(session.hibernate().await.instances, 0);
    assert_eq!(run(&session, "result = kept.get('x')").await, json!(null));
    assert!(copy.asleep().is_empty());
    // Each call starts from the image nevertheless.
    ready(&host, &session).await;
    let born = run(&session, "result = [BORN, dict(kept)]; kept['x'] = 1").await;
    assert_eq!(run(&session, "result = [BORN, kept]").await, born);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_goes_on_by_itself_with_other_random_numbers() {
    let home = Home::new();
    let host = home.host();
    let bundle = common::options().bundle;
    let (copy, other) = (Kept::new(""), Kept::new(""));
    let session = copy.open(&host, "one").await;
    run(
        &session,
        "kept['x'] = 'state'; kept['random'] = random.getstate()",
    )
    .await;
    session.hibernate().await;
    let copied = fork(
        &host,
        &bundle,
        (copy.path(), &owner("one")),
        (other.path(), &owner("two")),
    );
    assert_eq!(copied.unwrap(), 1);
    let second = other.open(&host, "two").await;
    let seen = "result = [kept['x'], random.getstate() == kept['random']]";
    assert_eq!(run(&second, seen).await, json!(["state", false]));
    run(&second, "kept['x'] = 'other'").await;
    assert_eq!(run(&session, seen).await, json!(["state", true]));
    // What is somebody else's cannot be forked.
    session.hibernate().await;
    let stolen = fork(
        &host,
        &bundle,
        (copy.path(), &owner("three")),
        (other.path(), &owner("three")),
    );
    assert!(
        stolen
            .unwrap_err()
            .message
            .contains("belongs to another session")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_the_instance_where_it_is() {
    let home = Home::new();
    let host = home.host();
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(folder.path())
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return;
    }
    let path = folder.path().to_owned();
    let copy = Kept::in_folder(folder, "");
    let session = copy.open(&host, "one").await;
    run(&session, "kept['x'] = 'state'").await;
    fs::write(path.join("filling"), vec![1; 16 << 20]).unwrap_err();
    let full = session.hibernate().await;
    let still = run(&session, "result = kept['x']").await;
    fs::remove_file(path.join("filling")).unwrap();
    let room = session.hibernate().await;
    let after = run(&session, "result = kept['x']").await;
    let names: Vec<_> = copy.asleep();
    drop(session);
    let unmounted = Command::new("umount").arg("--lazy").arg(&path).status();
    assert!(unmounted.unwrap().success());
    assert_eq!(full.instances, 0);
    assert!(full.kept[0].contains("No space left"), "{full:?}");
    let folder = path.to_str().unwrap();
    assert!(
        !full.kept[0].contains(folder),
        "people are told no path of the host: {full:?}"
    );
    assert_eq!((still, after), (json!("state"), json!("state")));
    assert_eq!((room.instances, room.kept), (1, vec![]));
    assert_eq!(names.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_open_files_are_an_error_that_python_can_handle() {
    let home = Home::new();
    let host = home.host();
    let copy = Kept::new("");
    let session = copy.open(&host, "one").await;
    let most = run(
        &session,
        "
kept['files'] = []
try:
    while len(kept['files']) < 5000: kept['files'].append(open('/flow/t.py'))
    result = None
except OSError as error: result = [len(kept['files']), type(error).__name__]",
    )
    .await;
    assert!(most[0].as_u64().unwrap() > 300, "{most}");
    assert_eq!(most[1], "OSError");
    // Those that are open can be read, and closed.
    let read = run(&session, "result = {f.read(1) for f in kept['files'][:5]} == {chr(10)}; [f.close() for f in kept['files']]; kept.clear()").await;
    assert_eq!(read, true);
    let error = fail(
        &session,
        "files = [open('/tmp/%d' % i, 'w') for i in range(5000)]",
    )
    .await;
    assert!(
        error.contains("1024 files, streams and other things open"),
        "{error}"
    );
    assert_eq!(
        run(
            &session,
            "result = [f.write('x') for f in [open('/tmp/x', 'w')]]"
        )
        .await,
        json!([1])
    );
    assert_eq!(session.hibernate().await.instances, 1);
}
