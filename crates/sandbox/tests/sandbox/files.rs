//! Files of images that are not what they should be: each is refused with the reason, and none is trusted.

use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowcell_sandbox::{Destination, Image, ImageError, ImageKey, SandboxError};

use crate::limits;
use crate::runner::{KEPT, KEY, PROGRAM, SHELL, over, owner, read, start, start_with, write};

const LIMIT: u64 = 1 << 20;

/// An image of the session `one`, and its file.
async fn stored(folder: &Path) -> (PathBuf, Image) {
    let mut instance = start(None).await;
    write(&mut instance, KEPT, b"secret").await;
    let destination = Destination {
        path: folder.join("image"),
        key: Arc::clone(&KEY),
        owner: owner("one"),
        made_from: "flow".to_owned(),
        replaces: None,
        limit: 16 << 20,
        lasting: false,
    };
    let stored = instance.store(&destination).await.unwrap();
    (destination.path, stored.image)
}

fn open(path: &Path) -> Result<Image, ImageError> {
    PROGRAM
        .base()
        .unwrap()
        .with(path, &KEY, &owner("one"), LIMIT)
}

fn another_key() -> Arc<ImageKey> {
    let folder = tempfile::tempdir().unwrap();
    Arc::new(ImageKey::open(&folder.path().join("key")).unwrap())
}

#[tokio::test]
async fn a_file_that_was_cut_or_changed_anywhere_is_not_authentic() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = stored(folder.path()).await;
    assert!(open(&path).is_ok());
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = open(&path).unwrap_err();
        let expected = if length < 32 {
            matches!(error, ImageError::Damaged("it ends early"))
        } else {
            matches!(error, ImageError::NotAuthentic)
        };
        assert!(expected, "{length}: {error}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&path, changed).unwrap();
        assert!(
            matches!(open(&path).unwrap_err(), ImageError::NotAuthentic),
            "{at}"
        );
    }
    for more in [&b"\0"[..], &whole] {
        fs::write(&path, [&whole, more].concat()).unwrap();
        assert!(matches!(open(&path).unwrap_err(), ImageError::NotAuthentic));
    }
    fs::write(&path, &whole).unwrap();
    assert!(open(&path).is_ok());
}

#[tokio::test]
async fn an_image_fits_its_host_its_owner_and_what_it_was_made_over_only() {
    let folder = tempfile::tempdir().unwrap();
    let (path, image) = stored(folder.path()).await;
    let base = PROGRAM.base().unwrap();
    let error = base
        .with(&path, &another_key(), &owner("one"), LIMIT)
        .unwrap_err();
    assert!(matches!(error, ImageError::NotAuthentic), "{error}");
    let error = base.with(&path, &KEY, &owner("two"), LIMIT).unwrap_err();
    assert!(matches!(error, ImageError::Foreign("session")), "{error}");
    let error = base.with(&path, &KEY, &owner(""), LIMIT).unwrap_err();
    assert!(matches!(error, ImageError::Foreign("session")), "{error}");
    let mut stranger = owner("one");
    stranger.workspace = "Workspace".to_owned();
    let error = base.with(&path, &KEY, &stranger, LIMIT).unwrap_err();
    assert!(matches!(error, ImageError::Foreign("workspace")), "{error}");
    let size = fs::metadata(&path).unwrap().len();
    assert!(base.with(&path, &KEY, &owner("one"), size).is_ok());
    let error = base.with(&path, &KEY, &owner("one"), size - 1).unwrap_err();
    assert!(
        error.to_string().contains("longer than it may be"),
        "{error}"
    );

    let misfit = |error: ImageError, expected: &str| {
        assert!(
            matches!(error, ImageError::Misfit { what, .. } if what == expected),
            "{error}"
        );
    };
    let other = over("another", &SHELL.memory);
    let error = other
        .base()
        .unwrap()
        .with(&path, &KEY, &owner("one"), LIMIT)
        .unwrap_err();
    misfit(error, "base image");
    // Over itself, and over another that is no part of it.
    misfit(
        image.with(&path, &KEY, &owner("one"), LIMIT).unwrap_err(),
        "lower image",
    );
    let mut above = start(Some(&image)).await;
    let mut to = Destination {
        path: folder.path().join("above"),
        key: Arc::clone(&KEY),
        owner: owner("one"),
        made_from: String::new(),
        replaces: None,
        limit: 16 << 20,
        lasting: false,
    };
    // What is its session's alone is stored over what that lies over.
    let second = above.store(&to).await.unwrap().image;
    assert_eq!(second.info().unwrap().below, None);
    to.owner = owner("");
    to.path = folder.path().join("for-all");
    let for_all = start(None).await.store(&to).await.unwrap().image;
    to.owner = owner("one");
    to.path = folder.path().join("private");
    start(Some(&for_all)).await.store(&to).await.unwrap();
    misfit(open(&to.path).unwrap_err(), "lower image");
    assert!(for_all.with(&to.path, &KEY, &owner("one"), LIMIT).is_ok());
}

#[tokio::test]
async fn only_a_plain_file_is_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = stored(folder.path()).await;
    let at = |name: &str| folder.path().join(name);
    symlink(&path, at("link")).unwrap();
    assert!(matches!(
        open(&at("link")).unwrap_err(),
        ImageError::Io { .. }
    ));
    fs::create_dir(at("folder")).unwrap();
    let error = open(&at("folder")).unwrap_err();
    assert!(
        matches!(error, ImageError::Damaged("it is no file")),
        "{error}"
    );
    let made = std::process::Command::new("mkfifo")
        .arg(at("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    let error = open(&at("pipe")).unwrap_err();
    assert!(
        matches!(error, ImageError::Damaged("it is no file")),
        "{error}"
    );
    let error = open(Path::new("/dev/zero")).unwrap_err();
    assert!(
        matches!(error, ImageError::Damaged("it is no file")),
        "{error}"
    );
    let error = open(&at("missing")).unwrap_err();
    assert!(matches!(error, ImageError::Io { .. }), "{error}");
    // Of a size that nobody has memory for, and hardly any on the disk.
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let error = open(&at("sparse")).unwrap_err();
    assert!(
        error.to_string().contains("longer than it may be"),
        "{error}"
    );
}

#[tokio::test]
async fn an_open_image_is_what_it_was_whatever_becomes_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = stored(folder.path()).await;
    let image = open(&path).unwrap();
    let other = folder.path().join("other");
    fs::write(&other, b"something else").unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(
        &read(&mut start(Some(&image)).await, KEPT).await[..6],
        b"secret"
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(
        &read(&mut start(Some(&image)).await, KEPT).await[..6],
        b"secret"
    );
}

#[tokio::test]
async fn an_image_that_changes_while_it_is_open_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = stored(folder.path()).await;
    let image = open(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    let refused = async || match start_with(Some(&image), limits()).await {
        Err(SandboxError::Image(error)) => error.to_string(),
        other => format!("{other:?}"),
    };
    file.write_all_at(&[whole[60] ^ 1], 60).unwrap();
    assert!(refused().await.contains("changed since"));
    file.set_len(100).unwrap();
    assert!(refused().await.contains("changed since"));
    file.set_len(0).unwrap();
    assert!(refused().await.contains("ends early"));
    file.set_len(whole.len() as u64 + 1).unwrap();
    assert!(refused().await.contains("longer than it may be"));
    // Another image of this host's and this session's, in its place.
    let second = tempfile::tempdir().unwrap();
    let (other, _) = stored(second.path()).await;
    let mut other = fs::read(other).unwrap();
    other.resize(other.len().max(1), 0);
    file.set_len(0).unwrap();
    file.write_all_at(&other, 0).unwrap();
    let why = refused().await;
    assert!(
        why.contains("changed since") || why.contains("longer than it may be"),
        "{why}"
    );
    file.set_len(0).unwrap();
    file.write_all_at(&whole, 0).unwrap();
    assert_eq!(
        &read(&mut start(Some(&image)).await, KEPT).await[..6],
        b"secret"
    );
    // What has all its pages in another file does not need this one any more.
    image.spread(folder.path(), &owner("one")).unwrap();
    file.set_len(0).unwrap();
    assert_eq!(
        &read(&mut start(Some(&image)).await, KEPT).await[..6],
        b"secret"
    );
    image.fold();
    assert!(refused().await.contains("ends early"));
}

#[test]
fn a_key_is_made_once_and_belongs_to_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let keys: Vec<_> = std::thread::scope(|scope| {
        let open = || {
            ImageKey::open(&path).unwrap();
            fs::read(&path).unwrap()
        };
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(open)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(keys.iter().all(|key| *key == keys[0] && key.len() == 32));
    assert_ne!(keys[0], vec![0; 32]);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    for wrong in [0, 31, 33] {
        fs::write(&path, vec![1; wrong]).unwrap();
        let error = ImageKey::open(&path).unwrap_err();
        assert!(error.to_string().contains("no key of 32 bytes"), "{error}");
    }
}
