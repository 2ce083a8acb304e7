//! Registries that fail, lie, or lead somewhere else.

use std::time::{Duration, Instant};

use flowcell_registry::{Client, Credentials, Digest, RegistryError, Settings, Source};

use crate::stub::{Asked, Reply, Stub};
use crate::{Folder, basic, blob, client, image, settings, silent, text};

async fn manifest(stub: &Stub) -> Result<Vec<u8>, RegistryError> {
    let reference = image(&stub.registry, "a:1");
    let manifest = client()
        .manifest(&reference, &Credentials::anonymous())
        .await?;
    Ok(manifest.bytes)
}

#[tokio::test]
async fn a_manifest_with_another_digest() {
    let other = Digest::of(b"other").to_string();
    let named = other.clone();
    let stub =
        Stub::start(move |_, _| Reply::new(200, "{}").header("Docker-Content-Digest", &named))
            .await;
    let error = manifest(&stub).await.unwrap_err();
    let text = text(&error);
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{text}");
    assert!(
        text.contains(&other) && text.contains(&Digest::of(b"{}").to_string()),
        "{text}"
    );

    let reference = image(&stub.registry, "a").with_digest(Digest::of(b"asked for"));
    let anonymous = Credentials::anonymous();
    for error in [
        client().manifest(&reference, &anonymous).await.err(),
        client().resolve(&reference, &anonymous).await.err(),
    ] {
        assert!(
            matches!(error, Some(RegistryError::WrongDigest { .. })),
            "{error:?}"
        );
    }
    let reference = image(&stub.registry, "a:1");
    let pushed = client()
        .push_manifest(&reference, "a/b", "{}", &anonymous)
        .await;
    assert!(matches!(pushed, Err(RegistryError::WrongDigest { .. })));
}

#[tokio::test]
async fn a_registry_that_names_no_digest() {
    let stub = Stub::start(|_, _| Reply::new(200, "{}")).await;
    let reference = image(&stub.registry, "a:1");
    let anonymous = Credentials::anonymous();
    let digest = client().resolve(&reference, &anonymous).await.unwrap();
    assert_eq!(digest, Digest::of(b"{}"));
    let asked = stub.asked();
    let methods: Vec<_> = asked.iter().map(|asked| asked.method.as_str()).collect();
    assert_eq!(methods, ["HEAD", "GET"]);
    assert!(
        asked[0]
            .header("accept")
            .unwrap()
            .contains("vnd.oci.image.manifest")
    );
    let stub =
        Stub::start(|_, _| Reply::new(200, "{}").header("Docker-Content-Digest", "sha256:x")).await;
    let error = manifest(&stub).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Answer { .. }),
        "{}",
        text(&error)
    );
}

#[tokio::test]
async fn a_manifest_that_is_none() {
    for body in ["<html>Welcome</html>", "[]", "{\"layers\": 5}", ""] {
        let stub = Stub::start(move |_, _| Reply::new(200, body)).await;
        let error = manifest(&stub).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::Manifest { .. }),
            "{}",
            text(&error)
        );
        assert_eq!(stub.asked().len(), 1);
    }
}

#[tokio::test]
async fn too_many_requests_and_then_success() {
    for refusal in [
        Reply::new(429, "slow down").header("Retry-After", "0"),
        Reply::new(408, ""),
        Reply::new(500, ""),
        Reply::new(502, ""),
        // The connection breaks.
        Reply::new(200, "{").announcing(2),
        Reply::default(),
    ] {
        let stub = Stub::start(move |_, before| match before {
            0 | 1 => refusal.clone(),
            _ => Reply::new(200, "{}"),
        })
        .await;
        assert_eq!(manifest(&stub).await.unwrap(), b"{}");
        assert_eq!(stub.asked().len(), 3);
    }
}

#[tokio::test]
async fn the_rest_that_is_asked_for_is_given() {
    let stub = Stub::start(|_, before| match before {
        0 => Reply::new(429, "").header("Retry-After", "1"),
        _ => Reply::new(200, "{}"),
    })
    .await;
    let began = Instant::now();
    manifest(&stub).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));

    let stub = Stub::start(|_, _| Reply::new(429, "").header("Retry-After", "86400")).await;
    let error = manifest(&stub).await.unwrap_err();
    assert!(
        text(&error).contains("429, and wants 86400 s"),
        "{}",
        text(&error)
    );
    assert_eq!(stub.asked().len(), 1);
}

#[tokio::test]
async fn endless_failure_ends() {
    let stub = Stub::start(|_, _| Reply::new(503, "we are\nvery \x1b[31msorry")).await;
    let error = manifest(&stub).await.unwrap_err();
    let text = text(&error);
    assert!(
        matches!(error, RegistryError::Unavailable { tries: 3, .. }),
        "{text}"
    );
    assert!(
        text.contains("after 3 tries") && text.contains("503"),
        "{text}"
    );
    assert!(
        text.contains("we are very") && !text.contains('\x1b'),
        "{text}"
    );
    assert_eq!(stub.asked().len(), 3);
}

#[tokio::test]
async fn what_is_refused_is_not_asked_for_again() {
    for (status, body) in [
        (401, ""),
        (403, "denied"),
        (404, ""),
        (400, ""),
        (405, ""),
        (304, ""),
    ] {
        let stub = Stub::start(move |_, _| Reply::new(status, body)).await;
        let error = manifest(&stub).await.unwrap_err();
        let is_fitting = match status {
            401 | 403 => matches!(error, RegistryError::NotPermitted { .. }),
            404 => matches!(error, RegistryError::NotFound { .. }),
            _ => matches!(error, RegistryError::Answer { .. }),
        };
        assert!(is_fitting, "{status}: {}", text(&error));
        assert_eq!(stub.asked().len(), 1);
    }
    // What it says about that has no end.
    let stub =
        Stub::start(|_, _| Reply::new(403, vec![b'x'; 1 << 20]).unannounced().hanging()).await;
    let error = manifest(&stub).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::NotPermitted { .. }),
        "{}",
        text(&error)
    );
}

#[tokio::test]
async fn registries_that_are_not_allowed() {
    let stub = Stub::start(|_, _| Reply::new(200, "{}")).await;
    let with = |patterns: &[String]| {
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap());
        Client::new(Settings {
            registries: Some(patterns.collect()),
            ..settings()
        })
        .unwrap()
    };
    let reference = image(&stub.registry, "a:1");
    let anonymous = Credentials::anonymous();
    for patterns in [
        vec![],
        vec!["registry.example.com".to_owned(), "127.0.0.1".to_owned()],
    ] {
        let error = with(&patterns)
            .manifest(&reference, &anonymous)
            .await
            .unwrap_err();
        let text = text(&error);
        assert!(matches!(error, RegistryError::NotAllowed { .. }), "{text}");
        assert!(text.contains(&stub.registry), "{text}");
        assert!(text.contains(&patterns.join(", ")), "{text}");
    }
    assert!(stub.asked().is_empty());
    for pattern in [stub.registry.clone(), "127.0.0.1:*".to_owned()] {
        with(&[pattern])
            .manifest(&reference, &anonymous)
            .await
            .unwrap();
    }
}

fn assert_authorized(asked: &[Asked], expected: &[bool]) {
    let found: Vec<bool> = asked
        .iter()
        .map(|asked| asked.header("authorization").is_some())
        .collect();
    assert_eq!(found, expected, "{asked:?}");
}

#[tokio::test]
async fn a_redirect_leaves_the_credentials_behind() {
    const CONTENT: &[u8] = b"content";
    let store = Stub::start(|_, _| Reply::new(200, CONTENT)).await;
    let elsewhere = format!("http://{}/signed?secret=s", store.registry);
    let stub = Stub::start(move |asked, _| match asked.path.as_str() {
        "/own" => Reply::new(302, "").header("Location", &elsewhere),
        _ => Reply::new(307, "").header("Location", "/own"),
    })
    .await;
    let bearer = Credentials::bearer(&stub.registry, "opensesame").unwrap();
    let folder = Folder::new();
    let reference = image(&stub.registry, "a:1");
    client()
        .pull_blob(
            &reference,
            &blob(CONTENT),
            &folder.target(),
            &bearer,
            &silent,
        )
        .await
        .unwrap();
    // To the same place it goes along.
    assert_authorized(&stub.asked(), &[true, true]);
    assert_authorized(&store.asked(), &[false]);
}

#[tokio::test]
async fn a_redirect_and_back_leaves_them_behind_too() {
    let back = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let to = std::sync::Arc::clone(&back);
    let other =
        Stub::start(move |_, _| Reply::new(302, "").header("Location", to.get().unwrap())).await;
    let elsewhere = format!("http://{}/", other.registry);
    let stub = Stub::start(move |asked, _| match asked.path.as_str() {
        "/back" => Reply::new(200, "{}"),
        _ => Reply::new(302, "").header("Location", &elsewhere),
    })
    .await;
    back.set(format!("http://{}/back", stub.registry)).unwrap();
    let bearer = Credentials::bearer(&stub.registry, "opensesame").unwrap();
    client()
        .manifest(&image(&stub.registry, "a:1"), &bearer)
        .await
        .unwrap();
    assert_authorized(&stub.asked(), &[true, false]);
}

#[tokio::test]
async fn another_host_does_not_say_where_credentials_go() {
    let thief = Stub::start(|_, _| Reply::new(200, r#"{"token": "x"}"#)).await;
    for challenge in [
        "Basic realm=\"x\"".to_owned(),
        format!("Bearer realm=\"http://{}/token\"", thief.registry),
    ] {
        let other =
            Stub::start(move |_, _| Reply::new(401, "").header("WWW-Authenticate", &challenge))
                .await;
        let elsewhere = format!("http://{}/", other.registry);
        let stub =
            Stub::start(move |_, _| Reply::new(302, "").header("Location", &elsewhere)).await;
        let reference = image(&stub.registry, "a:1");
        let error = client()
            .manifest(&reference, &basic(&stub.registry))
            .await
            .unwrap_err();
        assert!(
            matches!(error, RegistryError::NotPermitted { .. }),
            "{}",
            text(&error)
        );
        assert_authorized(&other.asked(), &[false]);
        assert!(thief.asked().is_empty());
    }
}

#[tokio::test]
async fn redirects_that_are_not_followed() {
    for (location, expected) in [
        ("http://store.example.com/x", "only https"),
        ("file:///etc/passwd", "only https"),
        ("https://user:password@store.example.com/", "user's name"),
        ("/again", "more than 5 redirects"),
        ("http://[", "no address"),
    ] {
        let stub = Stub::start(move |_, _| Reply::new(302, "").header("Location", location)).await;
        let error = manifest(&stub).await.unwrap_err();
        assert!(text(&error).contains(expected), "{}", text(&error));
        assert!(!text(&error).contains("password@"));
    }
    let stub = Stub::start(|_, _| Reply::new(302, "")).await;
    assert!(text(&manifest(&stub).await.unwrap_err()).contains("refers to nowhere"));

    let other = Stub::start(|_, _| Reply::new(200, "{}")).await;
    let elsewhere = format!("http://{}/", other.registry);
    let stub = Stub::start(move |_, _| Reply::new(302, "").header("Location", &elsewhere)).await;
    let client = Client::new(Settings {
        other_hosts: Some(vec!["store.example.com".parse().unwrap()]),
        ..settings()
    })
    .unwrap();
    let reference = image(&stub.registry, "a:1");
    let error = client
        .manifest(&reference, &Credentials::anonymous())
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Redirect { .. }),
        "{}",
        text(&error)
    );
    assert!(other.asked().is_empty());
}

#[tokio::test]
async fn an_upload_elsewhere_leaves_the_credentials_behind() {
    let store = Stub::start(|_, _| Reply::new(201, "")).await;
    let elsewhere = format!("http://{}/signed?secret=s", store.registry);
    let stub = Stub::start(move |asked, _| match asked.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        _ => Reply::new(202, "").header("Location", &elsewhere),
    })
    .await;
    let bearer = Credentials::bearer(&stub.registry, "opensesame").unwrap();
    let reference = image(&stub.registry, "a:1");
    let source = Source::Bytes("content".into());
    client()
        .push_blob(&reference, &blob(b"content"), &source, &bearer, &silent)
        .await
        .unwrap();
    assert_authorized(&stub.asked(), &[true, true]);
    let asked = store.asked();
    assert_authorized(&asked, &[false]);
    assert_eq!(asked[0].method, "PUT");
    assert_eq!(asked[0].body, b"content");
    assert_eq!(asked[0].header("content-length"), Some("7"));
    let digest = format!(
        "/signed?secret=s&digest=sha256%3A{}",
        Digest::of(b"content").hex()
    );
    assert_eq!(asked[0].path, digest);
}

#[tokio::test]
async fn an_upload_that_fails_begins_again() {
    for refusal in [Reply::new(503, ""), Reply::default(), Reply::new(401, "")] {
        let stub = Stub::start(move |asked, before| match (asked.method.as_str(), before) {
            ("HEAD", _) => Reply::new(404, ""),
            ("POST", _) => Reply::new(202, "").header("Location", "/upload"),
            (_, 2) => refusal.clone(),
            _ => Reply::new(201, ""),
        })
        .await;
        let reference = image(&stub.registry, "a:1");
        let source = Source::Bytes("content".into());
        client()
            .push_blob(
                &reference,
                &blob(b"content"),
                &source,
                &Credentials::anonymous(),
                &silent,
            )
            .await
            .unwrap();
        let asked = stub.asked();
        let methods: Vec<_> = asked.iter().map(|asked| asked.method.as_str()).collect();
        assert_eq!(methods, ["HEAD", "POST", "PUT", "HEAD", "POST", "PUT"]);
        assert_eq!(asked[5].body, b"content");
    }
}

#[tokio::test]
async fn certificates_are_checked() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let chain = vec![certified.cert.der().clone()];
    let key = certified.signing_key.serialize_der();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            chain,
            rustls::pki_types::PrivatePkcs8KeyDer::from(key).into(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let secure = Stub::start_tls(|_, _| Reply::new(200, "{}"), Some(acceptor)).await;
    let (_, port) = secure.registry.rsplit_once(':').unwrap();
    let elsewhere = format!("https://localhost:{port}/");
    let stub = Stub::start(move |_, _| Reply::new(302, "").header("Location", &elsewhere)).await;

    let error = manifest(&stub).await.unwrap_err();
    let said = text(&error);
    assert!(matches!(error, RegistryError::Certificate { .. }), "{said}");
    assert!(
        said.contains(&format!("https://localhost:{port}")),
        "{said}"
    );
    assert_eq!(stub.asked().len(), 1);
    let client = Client::new(Settings {
        root_certificates: vec![certified.cert.pem().into_bytes()],
        ..settings()
    })
    .unwrap();
    let reference = image(&stub.registry, "a:1");
    let manifest = client.manifest(&reference, &Credentials::anonymous()).await;
    assert_eq!(manifest.unwrap().bytes, b"{}");
    assert_eq!(secure.asked().len(), 1);
}
