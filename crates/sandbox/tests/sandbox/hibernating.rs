//! Pools that store their idle instances, and go on from what is stored.

use std::fs;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use flowcell_sandbox::{
    Destination, Hibernated, Hibernation, Image, Isolation, Lease, Pool, PoolError, SandboxError,
    Slice, SliceLimits,
};

use crate::runner::{
    Do, KEPT, KEY, PROGRAM, RESUME, RESUMED, SUSPEND, WASM_PAGE, act, hibernation, owner,
    pool_from, read, start, stored_pool, write,
};

/// No test that passes waits that long.
const LONG: Duration = Duration::from_secs(120);

async fn lease(pool: &Arc<Pool>) -> Lease {
    pool.checkout(LONG).await.unwrap()
}

fn new_pool(folder: &Path) -> Arc<Pool> {
    stored_pool(hibernation(folder, "one"), &Slice::unlimited())
}

/// Leaves text in an instance of the pool, which is idle then.
async fn leave(pool: &Arc<Pool>, text: &[u8]) {
    write(&mut *lease(pool).await, KEPT, text).await;
}

async fn left(pool: &Arc<Pool>) -> [u8; 8] {
    read(&mut *lease(pool).await, KEPT).await
}

/// What is left after a loss, which is told once.
async fn left_after_loss(pool: &Arc<Pool>) -> [u8; 8] {
    let told = pool.checkout(LONG).await.unwrap_err();
    assert!(
        matches!(told, PoolError::Start(SandboxError::Lost(_))),
        "{told}"
    );
    left(pool).await
}

/// The files of a folder with this extension, in order.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    paths.sort();
    paths
}

/// An image for all sessions, with `pages` more of memory.
async fn image(folder: &Path, name: &str) -> Image {
    let mut instance = start(None).await;
    write(&mut instance, KEPT + 8, name.as_bytes()).await;
    let destination = Destination {
        path: folder.join(name),
        key: Arc::clone(&KEY),
        owner: owner(""),
        made_from: "flow".to_owned(),
        replaces: None,
        limit: 16 << 20,
        lasting: true,
    };
    instance.store(&destination).await.unwrap().image
}

#[tokio::test]
async fn an_idle_instance_is_stored_and_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path());
    leave(&pool, b"state\0\0\0").await;
    let first = pool.hibernate(Duration::ZERO).await;
    assert_eq!((first.instances, &first.kept), (1, &Vec::new()));
    assert_eq!(pool.usage().instances, 0);
    let [file] = &files(folder.path(), "asleep")[..] else {
        return assert_eq!(first, Hibernated::default());
    };
    assert_eq!(fs::metadata(file).unwrap().len(), first.bytes);

    assert_eq!(&left(&pool).await, b"state\0\0\0");
    let usage = pool.usage();
    assert_eq!(
        (
            usage.instances,
            usage.idle,
            usage.resumes,
            usage.hibernations
        ),
        (1, 1, 1, 1)
    );
    // The file stays until the instance is stored again.
    assert_eq!(files(folder.path(), "asleep").len(), 1);
    leave(&pool, b"second\0\0").await;
    assert_eq!(pool.hibernate(Duration::ZERO).await.instances, 1);
    assert_eq!(files(folder.path(), "asleep").len(), 1);

    // As after a crash, in another process.
    let again = new_pool(folder.path());
    let mut instance = lease(&again).await;
    assert_eq!(&read(&mut instance, KEPT).await, b"second\0\0");
    assert_eq!(read(&mut instance, RESUMED).await[1], 1, "it is no copy");
}

#[tokio::test]
async fn several_are_stored_and_the_last_one_used_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path());
    {
        let (mut a, mut b, mut c) = (lease(&pool).await, lease(&pool).await, lease(&pool).await);
        write(&mut a, KEPT, b"aaaaaaaa").await;
        write(&mut b, KEPT, b"bbbbbbbb").await;
        write(&mut c, KEPT, b"cccccccc").await;
        drop(c);
        drop(a);
        drop(b);
    }
    assert_eq!(pool.hibernate(Duration::ZERO).await.instances, 3);
    for pool in [&pool, &new_pool(folder.path())] {
        let (mut first, mut second, mut third, mut new) = (
            lease(pool).await,
            lease(pool).await,
            lease(pool).await,
            lease(pool).await,
        );
        assert_eq!(&read(&mut first, KEPT).await, b"bbbbbbbb");
        assert_eq!(&read(&mut second, KEPT).await, b"aaaaaaaa");
        assert_eq!(&read(&mut third, KEPT).await, b"cccccccc");
        assert_eq!(read(&mut new, KEPT).await, [0; 8]);
    }
}

#[tokio::test]
async fn after_three_tries_an_instance_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    leave(&new_pool(folder.path()), b"state\0\0\0").await;
    assert!(
        files(folder.path(), "asleep").is_empty(),
        "it was dropped with its pool"
    );
    let pool = new_pool(folder.path());
    leave(&pool, b"state\0\0\0").await;
    pool.hibernate(Duration::ZERO).await;
    for tries in 1..=3 {
        // Each pool is a process that dies while the instance lives.
        assert_eq!(&left(&new_pool(folder.path())).await, b"state\0\0\0");
        let name = files(folder.path(), "asleep")[0]
            .file_stem()
            .unwrap()
            .to_owned();
        assert!(
            name.to_str().unwrap().ends_with(&format!(".{tries}")),
            "{name:?}"
        );
    }
    assert_eq!(left_after_loss(&new_pool(folder.path())).await, [0; 8]);
    assert!(files(folder.path(), "asleep").is_empty());
}

#[tokio::test]
async fn an_instance_that_is_stored_again_has_all_its_tries() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path());
    leave(&pool, b"state\0\0\0").await;
    for _ in 0..5 {
        assert_eq!(pool.hibernate(Duration::ZERO).await.instances, 1);
        assert_eq!(&left(&pool).await, b"state\0\0\0");
    }
}

#[tokio::test]
async fn garbage_among_the_files_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let images = tempfile::tempdir().unwrap();
    let below = image(images.path(), "below").await;
    let make = || {
        let slice = Slice::unlimited();
        pool_from(
            hibernation(folder.path(), "one"),
            &slice,
            Some(below.clone()),
            Isolation::Session,
        )
    };
    let pool = make();
    leave(&pool, b"state\0\0\0").await;
    pool.hibernate(Duration::ZERO).await;
    drop(pool);
    let at = |name: &str| folder.path().join(name);
    let whole = fs::read(&files(folder.path(), "asleep")[0]).unwrap();
    fs::write(at("999999999999999-1-00000001.0.asleep"), b"garbage").unwrap();
    fs::write(
        at("999999999999999-1-00000002.0.asleep"),
        &whole[..whole.len() / 2],
    )
    .unwrap();
    fs::write(at("999999999999999-1-00000003.asleep"), &whole).unwrap();
    fs::write(at("999999999999999-1-00000004.x.asleep"), &whole).unwrap();
    fs::write(at(".asleep"), b"").unwrap();
    fs::write(at(".partial-x"), b"half").unwrap();
    fs::write(at("0.below"), b"garbage").unwrap();
    fs::create_dir(at("folder.below")).unwrap();
    fs::create_dir(at("folder.asleep")).unwrap();
    fs::write(at("notes.txt"), b"").unwrap();
    let pool = make();
    assert_eq!(&left(&pool).await, b"state\0\0\0");
    assert_eq!(
        &read(&mut *lease(&pool).await, KEPT + 8).await[..5],
        b"below"
    );
    assert_eq!(
        files(folder.path(), "asleep").len(),
        2,
        "what is of use, and what cannot be deleted"
    );
    assert!(!at(".partial-x").exists());
}

#[tokio::test]
async fn what_lies_over_something_that_is_gone_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let images = tempfile::tempdir().unwrap();
    let below = image(images.path(), "below").await;
    let make = |image: Option<&Image>| {
        let slice = Slice::unlimited();
        pool_from(
            hibernation(folder.path(), "one"),
            &slice,
            image.cloned(),
            Isolation::Session,
        )
    };
    for (remove, text) in [(false, b"state\0\0\0"), (true, &[0; 8])] {
        let pool = make(Some(&below));
        leave(&pool, b"state\0\0\0").await;
        pool.hibernate(Duration::ZERO).await;
        drop(pool);
        if remove {
            fs::remove_file(&files(folder.path(), "below")[0]).unwrap();
        }
        // The image has gone from the store meanwhile; what is stored has a link of its own.
        let pool = make(None);
        let found = if remove {
            left_after_loss(&pool).await
        } else {
            left(&pool).await
        };
        assert_eq!(&found, text);
    }
    assert!(files(folder.path(), "asleep").is_empty());
    // And one without any that lies over it.
    fs::hard_link(images.path().join("below"), folder.path().join("x.below")).unwrap();
    assert_eq!(left(&make(None)).await, [0; 8]);
    assert!(files(folder.path(), "below").is_empty());
}

#[tokio::test]
async fn an_image_that_was_deleted_from_the_store_can_still_be_slept_over() {
    let folder = tempfile::tempdir().unwrap();
    let images = tempfile::tempdir().unwrap();
    let below = image(images.path(), "below").await;
    let slice = Slice::unlimited();
    let make = |image: Option<Image>| {
        pool_from(
            hibernation(folder.path(), "one"),
            &slice,
            image,
            Isolation::Session,
        )
    };
    let pool = make(Some(below));
    leave(&pool, b"state\0\0\0").await;
    fs::remove_file(images.path().join("below")).unwrap();
    // Somebody has made it anew.
    image(images.path(), "below").await;
    let stored = pool.hibernate(Duration::ZERO).await;
    assert_eq!((stored.instances, stored.kept), (1, vec![]));
    drop(pool);
    assert_eq!(&left(&make(None)).await, b"state\0\0\0");
}

#[tokio::test]
async fn only_the_same_session_with_the_same_flow_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let own = hibernation(folder.path(), "one");
    let another_key = {
        let folder = tempfile::tempdir().unwrap();
        flowcell_sandbox::ImageKey::open(&folder.path().join("key")).unwrap()
    };
    for other in [
        Hibernation {
            owner: owner("two"),
            ..own.clone()
        },
        Hibernation {
            owner: flowcell_sandbox::Owner {
                workspace: "other".to_owned(),
                ..owner("one")
            },
            ..own.clone()
        },
        Hibernation {
            made_from: "another flow".to_owned(),
            ..own.clone()
        },
        Hibernation {
            key: Arc::new(another_key),
            ..own.clone()
        },
    ] {
        let slice = Slice::unlimited();
        let pool = stored_pool(own.clone(), &slice);
        leave(&pool, b"state\0\0\0").await;
        assert_eq!(pool.hibernate(Duration::ZERO).await.instances, 1);
        drop(pool);
        assert_eq!(left_after_loss(&stored_pool(other, &slice)).await, [0; 8]);
        assert!(
            files(folder.path(), "asleep").is_empty(),
            "what is of no use is deleted"
        );
    }
}

#[tokio::test]
async fn a_fork_is_the_other_sessions_and_knows_that_it_is_one() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let images = tempfile::tempdir().unwrap();
    let below = image(images.path(), "below").await;
    let slice = Slice::unlimited();
    let (one, two) = (
        hibernation(from.path(), "one"),
        hibernation(&to.path().join("new"), "two"),
    );
    let pool = pool_from(one.clone(), &slice, Some(below), Isolation::Session);
    leave(&pool, b"state\0\0\0").await;
    pool.hibernate(Duration::ZERO).await;
    let base = PROGRAM.base().unwrap();
    assert_eq!(one.fork(base, &two).unwrap(), 1);

    let fork = stored_pool(two.clone(), &slice);
    {
        let mut instance = lease(&fork).await;
        assert_eq!(&read(&mut instance, KEPT).await, b"state\0\0\0");
        assert_eq!(&read(&mut instance, KEPT + 8).await[..5], b"below");
        assert_eq!(read(&mut instance, RESUMED).await[1], 2, "it is a copy");
        write(&mut instance, KEPT, b"fork's\0\0").await;
    }
    // From then on it is a session's own, like any other.
    fork.hibernate(Duration::ZERO).await;
    let mut instance = lease(&fork).await;
    assert_eq!(read(&mut instance, RESUMED).await[1], 1);
    assert_eq!(&read(&mut instance, KEPT).await, b"fork's\0\0");
    assert_eq!(&left(&pool).await, b"state\0\0\0");
    drop(pool);

    // The first session cannot read the fork's files.
    let taken = files(&two.folder, "asleep");
    assert_eq!(taken.len(), 1);
    let stolen = from.path().join("999999999999999-1-00000001.0.asleep");
    fs::copy(&taken[0], &stolen).unwrap();
    assert_eq!(
        &left(&stored_pool(one.clone(), &slice)).await,
        b"state\0\0\0"
    );
    assert!(!stolen.exists());
    // A damaged one is not copied.
    fs::write(
        from.path().join("000000000000000-1-00000001.0.asleep"),
        b"garbage",
    )
    .unwrap();
    assert!(one.fork(base, &two).is_err());
    let nothing = tempfile::tempdir().unwrap();
    assert_eq!(
        hibernation(nothing.path(), "one").fork(base, &two).unwrap(),
        0
    );
}

#[tokio::test]
async fn a_full_slice_stores_the_idle_instance_of_another_pool() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let limits = SliceLimits {
        instances: 1,
        ..SliceLimits::UNLIMITED
    };
    let slice = Slice::new(limits, None);
    let first = stored_pool(hibernation(one.path(), "one"), &slice);
    let second = stored_pool(hibernation(two.path(), "two"), &slice);
    for round in 0..5_u8 {
        for (pool, folder) in [(&first, &one), (&second, &two)] {
            let mut instance = lease(pool).await;
            assert_eq!(read(&mut instance, KEPT).await[0], round);
            write(&mut instance, KEPT, &[round + 1]).await;
            drop(instance);
            // What it went on from goes when the new file is on the disk, for which nobody waits.
            while files(folder.path(), "asleep").len() > 1 {
                tokio::task::yield_now().await;
            }
        }
    }
    assert_eq!(slice.usage().instances, 1);
    assert_eq!(slice.usage().hibernations, 9);

    // Memory that a guest at work asks for, too.
    let limits = SliceLimits {
        memory: 5 * WASM_PAGE,
        ..SliceLimits::UNLIMITED
    };
    let slice = Slice::new(limits, None);
    let first = stored_pool(hibernation(&one.path().join("m"), "one"), &slice);
    let second = stored_pool(hibernation(&two.path().join("m"), "two"), &slice);
    leave(&first, b"state\0\0\0").await;
    let mut greedy = lease(&second).await;
    assert!(act(&mut greedy, Do::Grow(3)).await.unwrap());
    assert_eq!(
        (first.usage().instances, first.usage().hibernations),
        (0, 1)
    );
    assert!(!act(&mut greedy, Do::Grow(1)).await.unwrap());
    drop(greedy);
    // It comes back, for which the other one has to be stored.
    assert_eq!(&left(&first).await, b"state\0\0\0");
    assert_eq!(second.usage().hibernations, 1);
}

#[tokio::test]
async fn who_gives_up_waiting_does_not_take_anothers_state_along() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let limits = SliceLimits {
        instances: 1,
        ..SliceLimits::UNLIMITED
    };
    let slice = Slice::new(limits, None);
    let first = stored_pool(hibernation(one.path(), "one"), &slice);
    let second = stored_pool(hibernation(two.path(), "two"), &slice);
    leave(&first, b"state\0\0\0").await;
    // It takes its time for getting ready, so that it can be interrupted.
    write(&mut *lease(&first).await, SUSPEND, &[4]).await;
    for _ in 0..3 {
        begin_and_drop(second.checkout(LONG)).await;
        assert_eq!(&left(&first).await, b"state\0\0\0");
    }
    // The same where the session itself does not wait for the end.
    for _ in 0..3 {
        begin_and_drop(first.hibernate(Duration::ZERO)).await;
        assert_eq!(&left(&first).await, b"state\0\0\0");
    }
    // And where the one who goes on from it is gone.
    for _ in 0..3 {
        first.hibernate(Duration::ZERO).await;
        begin_and_drop(first.checkout(LONG)).await;
        assert_eq!(&left(&first).await, b"state\0\0\0");
    }
}

/// Does what can be done without waiting; whether that was not all.
async fn begin_and_drop(future: impl Future) -> bool {
    let mut future = pin!(future);
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

#[tokio::test]
async fn what_cannot_be_stored_stays_or_is_dropped_for_room() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let limits = SliceLimits {
        instances: 1,
        ..SliceLimits::UNLIMITED
    };
    let slice = Slice::new(limits, None);
    let first = stored_pool(hibernation(one.path(), "one"), &slice);
    let second = stored_pool(hibernation(two.path(), "two"), &slice);
    leave(&first, b"state\0\0\0").await;
    write(&mut *lease(&first).await, SUSPEND, &[3]).await;
    let kept = first.hibernate(Duration::ZERO).await;
    assert_eq!((kept.instances, kept.kept), (0, vec!["fine".to_owned()]));
    assert_eq!(&left(&first).await, b"state\0\0\0");
    lease(&second).await;
    assert_eq!(left(&first).await, [0; 8]);
    assert!(files(one.path(), "asleep").is_empty());
}

#[tokio::test]
async fn an_instance_that_does_not_wake_up_is_lost_and_the_next_call_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path());
    leave(&pool, b"state\0\0\0").await;
    write(&mut *lease(&pool).await, RESUME, &[1]).await;
    assert_eq!(pool.hibernate(Duration::ZERO).await.instances, 1);
    let lost = pool.checkout(LONG).await.unwrap_err();
    assert!(
        matches!(&lost, PoolError::Start(SandboxError::Lost(_)) if lost.to_string().contains("begins anew")),
        "{lost}"
    );
    assert!(files(folder.path(), "asleep").is_empty());
    assert_eq!(left(&pool).await, [0; 8]);
}

#[tokio::test]
async fn a_damaged_file_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path());
    leave(&pool, b"state\0\0\0").await;
    pool.hibernate(Duration::ZERO).await;
    let file = &files(folder.path(), "asleep")[0];
    let length = fs::metadata(file).unwrap().len();
    fs::File::options()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
    let lost = pool.checkout(LONG).await.unwrap_err();
    assert!(
        matches!(lost, PoolError::Start(SandboxError::Lost(_))),
        "{lost}"
    );
    assert_eq!(left(&pool).await, [0; 8]);
    // Gone altogether, the open file is enough.
    leave(&pool, b"state\0\0\0").await;
    pool.hibernate(Duration::ZERO).await;
    fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(&left(&pool).await, b"state\0\0\0");
    // The folder is made again.
    assert_eq!(pool.hibernate(Duration::ZERO).await.instances, 1);
}

#[tokio::test]
async fn calls_of_their_own_store_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool_from(
        hibernation(folder.path(), "one"),
        &Slice::unlimited(),
        None,
        Isolation::Call,
    );
    leave(&pool, b"state\0\0\0").await;
    assert_eq!(pool.hibernate(Duration::ZERO).await, Hibernated::default());
    assert_eq!(left(&pool).await, [0; 8]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_broken_instance_takes_its_file_along() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path());
    leave(&pool, b"state\0\0\0").await;
    pool.hibernate(Duration::ZERO).await;
    act(&mut *lease(&pool).await, Do::Trap).await.unwrap_err();
    assert!(files(folder.path(), "asleep").is_empty());
    assert_eq!(left(&new_pool(folder.path())).await, [0; 8]);
}

#[tokio::test]
async fn what_is_too_large_to_be_stored_stays() {
    let folder = tempfile::tempdir().unwrap();
    let small = Hibernation {
        limit: 64 << 10,
        ..hibernation(folder.path(), "one")
    };
    let pool = stored_pool(small, &Slice::unlimited());
    leave(&pool, b"state\0\0\0").await;
    {
        let mut instance = lease(&pool).await;
        assert!(act(&mut instance, Do::Grow(2)).await.unwrap());
        act(&mut instance, Do::Fill(2 << 16)).await.unwrap();
        act(&mut instance, Do::Fill(3 << 16)).await.unwrap();
    }
    let kept = pool.hibernate(Duration::ZERO).await;
    assert_eq!(kept.instances, 0);
    assert!(kept.kept[0].contains("may be stored"), "{kept:?}");
    assert_eq!(&left(&pool).await, b"state\0\0\0");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_image_that_cannot_be_used_any_more_is_done_without() {
    let images = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let below = image(images.path(), "below").await;
    let file = fs::File::options()
        .write(true)
        .open(images.path().join("below"))
        .unwrap();
    file.set_len(10).unwrap();
    let slice = Slice::unlimited();
    let pool = pool_from(
        hibernation(folder.path(), "one"),
        &slice,
        Some(below),
        Isolation::Session,
    );
    assert_eq!(read(&mut *lease(&pool).await, KEPT + 8).await, [0; 8]);
    assert_eq!(pool.image().unwrap().identity(), None);
    assert_eq!(slice.usage().instances, 1);
}

#[tokio::test]
async fn a_busy_image_gets_a_file_of_all_pages() {
    let images = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let image = image(images.path(), "busy").await;
    let slice = Slice::unlimited();
    let pool = pool_from(
        hibernation(folder.path(), "one"),
        &slice,
        Some(image.clone()),
        Isolation::Call,
    );
    // Written in the background, one at a time among all tests.
    while !image.is_spread() {
        lease(&pool).await;
        tokio::task::yield_now().await;
    }
    let mut instance = lease(&pool).await;
    assert_eq!(instance.mode(), Some(flowcell_sandbox::Mode::Mapped));
    assert_eq!(&read(&mut instance, KEPT + 8).await[..4], b"busy");
    image.fold();
    assert_eq!(
        &read(&mut instance, KEPT + 8).await[..4],
        b"busy",
        "what is mapped stays"
    );
}

#[tokio::test]
async fn what_cannot_be_read_just_now_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (asleep, away) = (folder.path().join("asleep"), folder.path().join("away"));
    let pool = new_pool(&asleep);
    leave(&pool, b"state\0\0\0").await;
    pool.hibernate(Duration::ZERO).await;
    fs::rename(&asleep, &away).unwrap();
    fs::write(&asleep, "no folder").unwrap();
    let pool = new_pool(&asleep);
    for _ in 0..2 {
        let told = pool.checkout(LONG).await.unwrap_err();
        assert!(
            matches!(told, PoolError::Start(SandboxError::Image(_))),
            "{told}"
        );
    }
    fs::remove_file(&asleep).unwrap();
    fs::rename(&away, &asleep).unwrap();
    assert_eq!(&left(&pool).await, b"state\0\0\0");
}

#[tokio::test]
async fn starts_that_are_given_up_are_no_tries() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path());
    // It does not come to an end of going on.
    write(&mut *lease(&pool).await, RESUME, &[2]).await;
    pool.hibernate(Duration::ZERO).await;
    let stored = files(folder.path(), "asleep");
    for _ in 0..5 {
        let pool = new_pool(folder.path());
        // Until others have their turn.
        assert!(begin_and_drop(pool.checkout(LONG)).await);
    }
    assert_eq!(stored.len(), 1);
    assert_eq!(files(folder.path(), "asleep"), stored);
}

#[tokio::test]
async fn what_was_stored_anew_is_not_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let pool = new_pool(folder.path());
    leave(&pool, b"first\0\0\0").await;
    pool.hibernate(Duration::ZERO).await;
    let first = files(folder.path(), "asleep").remove(0);
    let content = fs::read(&first).unwrap();
    leave(&pool, b"second\0\0").await;
    pool.hibernate(Duration::ZERO).await;
    assert!(!first.exists());
    // As if the host had died before it was deleted.
    fs::write(&first, content).unwrap();
    let pool = new_pool(folder.path());
    let (one, two) = (lease(&pool), lease(&pool));
    let (mut one, mut two) = tokio::join!(one, two);
    let mut left = [read(&mut one, KEPT).await, read(&mut two, KEPT).await];
    left.sort();
    assert_eq!(left, [[0; 8], *b"second\0\0"]);
    assert!(!first.exists());
}

#[tokio::test]
async fn a_session_that_has_stored_too_much_keeps_the_rest_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let pool = |name: &str, limit: u64| {
        let hibernation = Hibernation {
            within: Some((folder.path().to_owned(), limit)),
            ..hibernation(&folder.path().join(name), "one")
        };
        stored_pool(hibernation, &Slice::unlimited())
    };
    let first = pool("one", 1);
    leave(&first, b"state\0\0\0").await;
    let stored = first.hibernate(Duration::ZERO).await;
    assert_eq!((stored.instances, stored.kept), (1, Vec::new()));
    // Another way in which the session is set up.
    let second = pool("two", 1);
    leave(&second, b"other\0\0\0").await;
    let stored = second.hibernate(Duration::ZERO).await;
    assert_eq!(stored.instances, 0);
    assert!(stored.kept[0].contains("and 1 may be"), "{:?}", stored.kept);
    assert_eq!(&left(&second).await, b"other\0\0\0");
    assert_eq!(files(&folder.path().join("two"), "asleep").len(), 0);
}
