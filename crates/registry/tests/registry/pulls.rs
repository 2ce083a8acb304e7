//! Blobs from registries that break off, lie or are slow.

use std::sync::Arc;

use flowcell_registry::{Client, Credentials, Digest, RegistryError, Settings, Trouble};

use crate::stub::{Reply, Stub};
use crate::{Folder, blob, client, image, is_pending, settings, silent, text};

const CONTENT: &[u8] = b"0123456789abcdefghij";

/// The rest of the content, as a registry sends it that can do that.
fn rest(from: usize) -> Reply {
    let size = CONTENT.len();
    Reply::new(206, &CONTENT[from..])
        .header("Content-Range", format!("bytes {from}-{}/{size}", size - 1))
}

async fn pull(client: &Client, stub: &Stub, folder: &Folder) -> Result<(), RegistryError> {
    client
        .pull_blob(
            &image(&stub.registry, "a:1"),
            &blob(CONTENT),
            &folder.target(),
            &Credentials::anonymous(),
            &silent,
        )
        .await
}

fn assert_pulled(folder: &Folder) {
    assert_eq!(std::fs::read(folder.target()).unwrap(), CONTENT);
    assert_eq!(folder.names(), ["blob"]);
}

#[tokio::test]
async fn what_is_cut_off_goes_on() {
    // Once with, once without the length: only the descriptor tells that something is missing.
    for half in [
        Reply::new(200, &CONTENT[..8]).announcing(CONTENT.len()),
        Reply::new(200, &CONTENT[..8]).unannounced(),
    ] {
        let stub = Stub::start(move |_, before| match before {
            0 => half.clone(),
            _ => rest(8),
        })
        .await;
        let folder = Folder::new();
        pull(&client(), &stub, &folder).await.unwrap();
        assert_pulled(&folder);
        let asked = stub.asked();
        let ranges: Vec<_> = asked.iter().map(|asked| asked.header("range")).collect();
        assert_eq!(ranges, [None, Some("bytes=8-")]);
    }
}

#[tokio::test]
async fn what_was_cut_off_for_good_goes_on_with_the_next_pull() {
    let stub = Stub::start(|asked, before| match (asked.header("range"), before) {
        (_, 3..) => rest(8),
        (None, _) => Reply::new(200, &CONTENT[..8]).announcing(CONTENT.len()),
        (Some(_), _) => Reply::new(503, ""),
    })
    .await;
    let folder = Folder::new();
    let error = pull(&client(), &stub, &folder).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Unavailable { tries: 3, .. }),
        "{}",
        text(&error)
    );
    assert_eq!(folder.names(), [".partial-blob"]);
    assert_eq!(std::fs::read(folder.partial()).unwrap(), &CONTENT[..8]);
    pull(&client(), &stub, &folder).await.unwrap();
    assert_pulled(&folder);
    let asked = stub.asked();
    assert_eq!(asked.len(), 4);
    assert_eq!(asked[3].header("range"), Some("bytes=8-"));
}

#[tokio::test]
async fn a_registry_without_ranges_sends_all_again() {
    let stub = Stub::start(|_, _| Reply::new(200, CONTENT)).await;
    let folder = Folder::new();
    std::fs::write(folder.partial(), &CONTENT[..8]).unwrap();
    pull(&client(), &stub, &folder).await.unwrap();
    assert_pulled(&folder);
    let asked = stub.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("range"), Some("bytes=8-"));
}

#[tokio::test]
async fn a_range_that_is_refused_is_the_whole() {
    let stub = Stub::start(|asked, _| match asked.header("range") {
        Some(_) => Reply::new(416, ""),
        None => Reply::new(200, CONTENT),
    })
    .await;
    let folder = Folder::new();
    std::fs::write(folder.partial(), &CONTENT[..8]).unwrap();
    pull(&client(), &stub, &folder).await.unwrap();
    assert_pulled(&folder);
}

#[tokio::test]
async fn what_lies_there_and_is_damaged_is_pulled_again() {
    let stub = Stub::start(|asked, _| match asked.header("range") {
        Some(_) => rest(8),
        None => Reply::new(200, CONTENT),
    })
    .await;
    // Cut off, of the right length, too long.
    for left in [&b"damaged!"[..], &[b'x'; 20], &[b'x'; 21]] {
        let folder = Folder::new();
        std::fs::write(folder.partial(), left).unwrap();
        pull(&client(), &stub, &folder).await.unwrap();
        assert_pulled(&folder);
    }
}

#[tokio::test]
async fn what_is_whole_is_not_asked_for() {
    let stub = Stub::start(|_, _| Reply::new(500, "")).await;
    let folder = Folder::new();
    std::fs::write(folder.partial(), CONTENT).unwrap();
    pull(&client(), &stub, &folder).await.unwrap();
    assert_pulled(&folder);
    pull(&client(), &stub, &folder).await.unwrap();
    assert!(stub.asked().is_empty());
}

#[tokio::test]
async fn a_range_that_was_not_asked_for_is_refused() {
    let part = |range: &'static str| Reply::new(206, &CONTENT[8..]).header("Content-Range", range);
    for (reply, expected) in [
        (part("bytes 7-19/20"), "from byte 7 instead of 8"),
        (part("bytes 8-19/21"), "should have 20 bytes"),
        (
            part("bytes 8-19/20").announcing(usize::MAX - 9),
            "sends 18446744073709551614",
        ),
        (part("bytes 8-20/*").announcing(13), "sends 21"),
        (part("nonsense"), "Content-Range"),
        (Reply::new(206, &CONTENT[8..]), "Content-Range"),
    ] {
        let stub = Stub::start(move |_, _| reply.clone()).await;
        let folder = Folder::new();
        std::fs::write(folder.partial(), &CONTENT[..8]).unwrap();
        let error = pull(&client(), &stub, &folder).await.unwrap_err();
        assert!(text(&error).contains(expected), "{}", text(&error));
        assert!(!folder.target().exists());
    }
    // A part when all was asked for.
    let stub = Stub::start(|_, _| rest(8)).await;
    let folder = Folder::new();
    let error = pull(&client(), &stub, &folder).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Answer { .. }),
        "{}",
        text(&error)
    );
}

#[tokio::test]
async fn other_content_is_thrown_away() {
    let stub = Stub::start(|_, _| Reply::new(200, &b"0123456789abcdefghiJ"[..])).await;
    let folder = Folder::new();
    let error = pull(&client(), &stub, &folder).await.unwrap_err();
    let text = text(&error);
    let found = Digest::of(b"0123456789abcdefghiJ").to_string();
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{text}");
    assert!(
        text.contains(&found) && text.contains(&blob(CONTENT).digest.to_string()),
        "{text}"
    );
    assert!(folder.names().is_empty());
    // The same for what goes on from a file that was right: all of it is asked for once more.
    let stub = Stub::start(|asked, _| match asked.header("range") {
        Some(_) => Reply::new(206, &b"XXXXXXXXXXXX"[..]).header("Content-Range", "bytes 8-19/20"),
        None => Reply::new(200, [b'X'; 20]),
    })
    .await;
    std::fs::write(folder.partial(), &CONTENT[..8]).unwrap();
    let error = pull(&client(), &stub, &folder).await.unwrap_err();
    assert!(matches!(error, RegistryError::WrongDigest { .. }));
    assert_eq!(stub.asked().len(), 2);
    assert!(folder.names().is_empty());
}

#[tokio::test]
async fn another_size_is_refused() {
    let more = [CONTENT, b"!"].concat();
    for (reply, expected) in [
        (Reply::new(200, more.clone()), "sends 21"),
        (Reply::new(200, more).unannounced(), "sends at least 21"),
        (Reply::new(200, &CONTENT[1..]), "sends 19"),
        (
            Reply::new(200, "").announcing(usize::MAX - 9),
            "sends 18446744073709551606",
        ),
    ] {
        let stub = Stub::start(move |_, _| reply.clone()).await;
        let folder = Folder::new();
        let error = pull(&client(), &stub, &folder).await.unwrap_err();
        let text = text(&error);
        assert!(matches!(error, RegistryError::WrongSize { .. }), "{text}");
        assert!(text.contains(expected), "{text}");
        assert!(folder.names().is_empty());
        let image = image(&stub.registry, "a:1");
        let config = client()
            .config(&image, &blob(CONTENT), &Credentials::anonymous())
            .await;
        assert!(
            matches!(config, Err(RegistryError::WrongSize { .. })),
            "{config:?}"
        );
    }
}

#[tokio::test]
async fn at_the_same_time_it_is_pulled_once() {
    let stub = Stub::start(|_, _| Reply::new(200, CONTENT)).await;
    let folder = Folder::new();
    let one = client();
    // Another client is what another process is: all that they share is the file and its lock.
    let other = client();
    let pulls = tokio::join!(
        pull(&one, &stub, &folder),
        pull(&one, &stub, &folder),
        pull(&other, &stub, &folder),
        pull(&other, &stub, &folder),
    );
    let pulls = [pulls.0, pulls.1, pulls.2, pulls.3];
    assert!(pulls.iter().all(Result::is_ok), "{pulls:?}");
    assert_pulled(&folder);
    assert_eq!(stub.asked().len(), 1);
}

#[tokio::test]
async fn who_waits_goes_on_when_the_first_gives_up() {
    let stub = Stub::start(|_, before| match before {
        0 => Reply::new(200, &CONTENT[..8])
            .announcing(CONTENT.len())
            .hanging(),
        _ => rest(8),
    })
    .await;
    let folder = Arc::new(Folder::new());
    let one = client();
    let first = tokio::spawn({
        let (one, stub, folder) = (one.clone(), stub.clone(), Arc::clone(&folder));
        async move { pull(&one, &stub, &folder).await }
    });
    // The first holds the file once its part is there.
    while std::fs::read(folder.partial()).unwrap_or_default().len() < 8 {
        tokio::task::yield_now().await;
    }
    let mut second = Box::pin(pull(&one, &stub, &folder));
    assert!(is_pending(second.as_mut()).await);
    first.abort();
    second.await.unwrap();
    assert_pulled(&folder);
    assert_eq!(stub.asked()[1].header("range"), Some("bytes=8-"));
}

#[tokio::test]
async fn no_more_than_some_at_the_same_time() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let contents: Vec<String> = (0..12).map(|one| format!("content {one}")).collect();
    let by_digest: Vec<(String, String)> = contents
        .iter()
        .map(|content| (blob(content.as_bytes()).digest.to_string(), content.clone()))
        .collect();
    let stub = Stub::start(move |asked, _| {
        let (_, content) = by_digest
            .iter()
            .find(|(digest, _)| asked.path.ends_with(digest))
            .unwrap();
        Reply::new(200, content.clone())
    })
    .await;
    let client = Client::new(Settings {
        max_transfers: 2,
        ..settings()
    })
    .unwrap();
    let folder = Folder::new();
    let paths: Vec<_> = contents
        .iter()
        .map(|content| folder.0.path().join(content))
        .collect();
    let blobs: Vec<_> = contents
        .iter()
        .zip(&paths)
        .map(|(content, path)| (blob(content.as_bytes()), path.as_path()))
        .collect();
    // A transfer has begun with its first step, and has ended with its last.
    let note = |_: &Digest, done: u64, total: u64| {
        if done == 0 {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        } else if done == total {
            now.fetch_sub(1, Ordering::SeqCst);
        }
    };
    let reference = image(&stub.registry, "a");
    let anonymous = Credentials::anonymous();
    // Two calls share the client's limit.
    let (first, second) = tokio::join!(
        client.pull_blobs(&reference, &blobs[..6], &anonymous, &note),
        client.pull_blobs(&reference, &blobs[6..], &anonymous, &note),
    );
    first.unwrap();
    second.unwrap();
    assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    assert_eq!(stub.asked().len(), contents.len());
}

#[tokio::test]
async fn what_cannot_be_written_is_said() {
    let stub = Stub::start(|_, _| Reply::new(200, CONTENT)).await;
    let folder = Folder::new();
    let error = client()
        .pull_blob(
            &image(&stub.registry, "a"),
            &blob(CONTENT),
            &folder.0.path().join("missing/blob"),
            &Credentials::anonymous(),
            &silent,
        )
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Io { .. }) && text(&error).contains("missing"),
        "{}",
        text(&error)
    );
    assert!(stub.asked().is_empty());
}

#[tokio::test]
async fn a_full_disk_is_said() {
    // Once with one write, which is noticed at the end, once with many.
    for content in [CONTENT.to_vec(), vec![b'x'; 4 << 20]] {
        let body = content.clone();
        let stub = Stub::start(move |_, _| Reply::new(200, body.clone())).await;
        let folder = Folder::new();
        std::os::unix::fs::symlink("/dev/full", folder.partial()).unwrap();
        let reference = image(&stub.registry, "a");
        let anonymous = Credentials::anonymous();
        let error = client()
            .pull_blob(
                &reference,
                &blob(&content),
                &folder.target(),
                &anonymous,
                &silent,
            )
            .await
            .unwrap_err();
        let text = text(&error);
        assert!(matches!(error, RegistryError::DiskFull { .. }), "{text}");
        assert!(text.contains("the disk is full"), "{text}");
        assert!(!folder.target().exists());
    }
}

#[tokio::test]
async fn silence_in_the_middle_ends_it() {
    let stub = Stub::start(|_, _| {
        Reply::new(200, &CONTENT[..8])
            .announcing(CONTENT.len())
            .hanging()
    })
    .await;
    let client = Client::new(Settings {
        idle_timeout: std::time::Duration::from_millis(50),
        retries: 0,
        ..settings()
    })
    .unwrap();
    let folder = Folder::new();
    let error = pull(&client, &stub, &folder).await.unwrap_err();
    let RegistryError::Unavailable { source, .. } = &error else {
        panic!("{error}");
    };
    assert!(matches!(source, Trouble::Silent(_)), "{}", text(&error));
}
