//! More than a client takes, and longer than it waits.

use std::time::Duration;

use flowcell_registry::{Client, Credentials, RegistryError, Settings, Source, Trouble};

use crate::stub::{Reply, Stub};
use crate::{Folder, blob, client, image, settings, silent, text};

fn assert_too_large(error: &RegistryError, limit: &str) {
    let text = text(error);
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{text}");
    assert!(text.contains(limit), "{text}");
}

#[tokio::test]
async fn manifests() {
    let client = Client::new(Settings {
        max_manifest: 100,
        ..settings()
    })
    .unwrap();
    let of = |size: usize| format!("{{{}}}", " ".repeat(size - 2));
    let anonymous = Credentials::anonymous();
    for (reply, is_taken) in [
        (Reply::new(200, of(100)), true),
        (Reply::new(200, of(100)).unannounced(), true),
        (Reply::new(200, of(101)), false),
        (Reply::new(200, of(1_000_000)).unannounced(), false),
        // Announced only: nothing of it is waited for.
        (Reply::new(200, "").announcing(101).hanging(), false),
        (
            Reply::new(200, of(1_000_000)).unannounced().hanging(),
            false,
        ),
    ] {
        let stub = Stub::start(move |_, _| reply.clone()).await;
        let reference = image(&stub.registry, "a:1");
        match client.manifest(&reference, &anonymous).await {
            Ok(manifest) => assert!(is_taken && manifest.bytes.len() == 100),
            Err(error) => {
                assert!(!is_taken, "{}", text(&error));
                assert_too_large(&error, "100 bytes");
            }
        }
    }
    let stub = Stub::start(|_, _| Reply::new(201, "")).await;
    let reference = image(&stub.registry, "a:1");
    let error = client
        .push_manifest(&reference, "a/b", of(101), &anonymous)
        .await;
    assert_too_large(&error.unwrap_err(), "100 bytes");
    assert!(stub.asked().is_empty());
}

#[tokio::test]
async fn what_a_manifest_names() {
    let client = Client::new(Settings {
        max_config: 10,
        max_blob: 20,
        max_artifact: 30,
        max_layers: 2,
        ..settings()
    })
    .unwrap();
    for (manifest, limit) in [
        (r#"{"config": {"size": 11}}"#, "10 bytes"),
        (r#"{"layers": [{"size": 21}]}"#, "20 bytes"),
        (r#"{"layers": [{"size": 20}, {"size": 11}]}"#, "30 bytes"),
        (
            r#"{"layers": [{"size": 1}, {"size": 1}, {"size": 1}]}"#,
            "2 layers",
        ),
    ] {
        let stub = Stub::start(move |_, _| Reply::new(200, manifest)).await;
        let reference = image(&stub.registry, "a:1");
        let error = client.manifest(&reference, &Credentials::anonymous()).await;
        assert_too_large(&error.unwrap_err(), limit);
    }
}

#[tokio::test]
async fn blobs() {
    let stub = Stub::start(|_, _| Reply::new(200, "")).await;
    let client = Client::new(Settings {
        max_config: 10,
        max_blob: 20,
        max_artifact: 30,
        max_layers: 2,
        ..settings()
    })
    .unwrap();
    let reference = image(&stub.registry, "a:1");
    let anonymous = Credentials::anonymous();
    let folder = Folder::new();
    let target = folder.target();
    let (large, small) = (blob(&[0; 21]), blob(&[0; 16]));
    let error = client
        .pull_blob(&reference, &large, &target, &anonymous, &silent)
        .await;
    assert_too_large(&error.unwrap_err(), "20 bytes");
    let error = client.config(&reference, &blob(&[0; 11]), &anonymous).await;
    assert_too_large(&error.unwrap_err(), "10 bytes");
    let source = Source::Bytes(vec![0; 21].into());
    let error = client
        .push_blob(&reference, &large, &source, &anonymous, &silent)
        .await;
    assert_too_large(&error.unwrap_err(), "20 bytes");
    for (count, limit) in [(2, "30 bytes"), (3, "2 layers")] {
        let blobs = vec![(small, target.as_path()); count];
        let error = client
            .pull_blobs(&reference, &blobs, &anonymous, &silent)
            .await;
        assert_too_large(&error.unwrap_err(), limit);
    }
    assert!(stub.asked().is_empty() && folder.names().is_empty());
}

#[tokio::test]
async fn tags_in_pages() {
    // Pages of two without an end: a0, a1, …
    let stub = Stub::start(|asked, before| {
        let next = format!(
            "</v2/a/tags/list?n=2&last=a{}>; rel=\"next\"",
            before * 2 + 1
        );
        assert!(asked.path.starts_with("/v2/a/tags/list?n="));
        let tags = format!(r#"{{"tags": ["a{}", "a{}"]}}"#, before * 2, before * 2 + 1);
        Reply::new(200, tags).header("Link", next)
    })
    .await;
    let client = Client::new(Settings {
        max_tags: 5,
        ..settings()
    })
    .unwrap();
    let reference = image(&stub.registry, "a");
    let tags = client
        .tags(&reference, &Credentials::anonymous())
        .await
        .unwrap();
    assert_eq!(tags.tags, ["a0", "a1", "a2", "a3", "a4"]);
    assert!(!tags.complete);
    let asked = stub.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[2].path, "/v2/a/tags/list?n=2&last=a3");
}

#[tokio::test]
async fn pages_of_tags_that_cannot_be_used() {
    let page = |body: &'static str| Reply::new(200, body);
    let next = |address: &'static str| {
        page(r#"{"tags": ["a"]}"#).header("Link", format!("<{address}>; rel=\"next\""))
    };
    for (reply, expected) in [
        (page(r#"{"tags": ["../a"]}"#), "no tag"),
        (page("[]x"), "damaged"),
        (
            page(r#"{"tags": []}"#).header("Link", "<?last=a>; rel=\"next\""),
            "empty",
        ),
        (next("https://other.example.com/"), "another host"),
        (next("http://["), "no address"),
        (
            Reply::new(200, vec![b' '; 5 << 20]).unannounced(),
            "4194304 bytes",
        ),
    ] {
        let stub = Stub::start(move |_, _| reply.clone()).await;
        let reference = image(&stub.registry, "a");
        let error = client()
            .tags(&reference, &Credentials::anonymous())
            .await
            .unwrap_err();
        assert!(text(&error).contains(expected), "{}", text(&error));
    }
    let stub = Stub::start(move |_, _| page(r#"{"tags": null}"#)).await;
    let tags = client()
        .tags(&image(&stub.registry, "a"), &Credentials::anonymous())
        .await
        .unwrap();
    assert!(tags.complete && tags.tags.is_empty());
}

#[tokio::test]
async fn a_registry_that_never_answers() {
    let stub = Stub::start(|_, _| Reply::default().hanging()).await;
    let client = Client::new(Settings {
        idle_timeout: Duration::from_millis(50),
        ..settings()
    })
    .unwrap();
    let reference = image(&stub.registry, "a:1");
    let anonymous = Credentials::anonymous();
    let folder = Folder::new();
    let content = b"content";
    let source = Source::Bytes(content.to_vec().into());
    let blob = blob(content);
    for error in [
        client.resolve(&reference, &anonymous).await.err(),
        client.manifest(&reference, &anonymous).await.err(),
        client.tags(&reference, &anonymous).await.err(),
        client
            .pull_blob(&reference, &blob, &folder.target(), &anonymous, &silent)
            .await
            .err(),
        client
            .push_blob(&reference, &blob, &source, &anonymous, &silent)
            .await
            .err(),
        client
            .push_manifest(&reference, "a/b", "{}", &anonymous)
            .await
            .err(),
    ] {
        let error = error.unwrap();
        let text = text(&error);
        assert!(
            matches!(error, RegistryError::Unavailable { tries: 3, .. }),
            "{text}"
        );
        assert!(
            text.contains("silent for 0.05 s") && text.contains(&stub.registry),
            "{text}"
        );
    }
}

#[tokio::test]
async fn an_upload_that_is_not_taken() {
    let stub = Stub::start(|asked, _| match asked.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        "POST" => Reply::new(202, "").header("Location", "/upload?state=x"),
        _ => Reply::default().hanging(),
    })
    .await;
    let client = Client::new(Settings {
        idle_timeout: Duration::from_millis(50),
        retries: 0,
        ..settings()
    })
    .unwrap();
    let content = vec![0; 1 << 20];
    let blob = blob(&content);
    let source = Source::Bytes(content.into());
    let reference = image(&stub.registry, "a:1");
    let anonymous = Credentials::anonymous();
    let pushed = client.push_blob(&reference, &blob, &source, &anonymous, &silent);
    let error = pushed.await.unwrap_err();
    assert!(text(&error).contains("silent"), "{}", text(&error));
}

#[tokio::test]
async fn all_of_it_takes_too_long() {
    let stub = Stub::start(|_, _| Reply::default().hanging()).await;
    let client = Client::new(Settings {
        whole_timeout: Duration::from_millis(50),
        ..settings()
    })
    .unwrap();
    let reference = image(&stub.registry, "a:1");
    let error = client
        .resolve(&reference, &Credentials::anonymous())
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::TimedOut { .. }),
        "{}",
        text(&error)
    );
}

#[tokio::test]
async fn nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = listener.local_addr().unwrap().to_string();
    drop(listener);
    let reference = image(&registry, "a:1");
    let error = client()
        .resolve(&reference, &Credentials::anonymous())
        .await
        .unwrap_err();
    let text = text(&error);
    assert!(
        matches!(error, RegistryError::Unavailable { tries: 3, .. }),
        "{text}"
    );
    assert!(
        text.contains("after 3 tries") && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn a_registry_that_takes_no_connections() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(0).unwrap();
    let registry = listener.local_addr().unwrap().to_string();
    // Nobody accepts it, so there is no room for another one.
    let _full = tokio::net::TcpStream::connect(&registry).await.unwrap();
    let client = Client::new(Settings {
        connect_timeout: Duration::from_millis(50),
        ..settings()
    })
    .unwrap();
    let reference = image(&registry, "a:1");
    let error = client
        .resolve(&reference, &Credentials::anonymous())
        .await
        .unwrap_err();
    let RegistryError::Unavailable {
        tries: 3, source, ..
    } = &error
    else {
        panic!("{}", text(&error));
    };
    assert!(matches!(source, Trouble::Connection(_)), "{}", text(&error));
}

/// A server does this in tasks of its own, which can move from one thread to another.
#[test]
fn all_that_a_client_does_can_be_a_task() {
    fn task<T: Send>(_: T) {}
    let client = client();
    let reference = image("registry.example.com", "a:1");
    let anonymous = Credentials::anonymous();
    let blob = blob(b"content");
    let source = Source::Bytes("content".into());
    let target = std::path::Path::new("blob");
    task(client.resolve(&reference, &anonymous));
    task(client.manifest(&reference, &anonymous));
    task(client.config(&reference, &blob, &anonymous));
    task(client.tags(&reference, &anonymous));
    task(client.pull_blob(&reference, &blob, target, &anonymous, &silent));
    task(client.pull_blobs(&reference, &[(blob, target)], &anonymous, &silent));
    task(client.push_blob(&reference, &blob, &source, &anonymous, &silent));
    task(client.push_manifest(&reference, "a/b", "{}", &anonymous));
}
