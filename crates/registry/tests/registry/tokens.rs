//! Credentials and tokens: who gets them, and for how long.

use flowcell_registry::{Credentials, RegistryError};

use crate::stub::{Asked, Reply, Stub};
use crate::{basic, client, image, text};

/// A registry that wants a token from this address, and the token "good".
async fn registry(realm: String) -> Stub {
    Stub::start(
        move |asked: &Asked, _| match asked.header("authorization") {
            Some("Bearer good") => Reply::new(200, "{}"),
            _ => {
                let challenge = format!("Bearer realm=\"{realm}\",service=\"a registry\"");
                Reply::new(401, "").header("WWW-Authenticate", challenge)
            }
        },
    )
    .await
}

async fn server(answer: &'static str) -> (Stub, Stub) {
    let tokens = Stub::start(move |_, _| Reply::new(200, answer)).await;
    let registry = registry(format!("http://{}/token?a=b", tokens.registry)).await;
    (tokens, registry)
}

#[tokio::test]
async fn credentials_go_to_the_realm_and_the_token_to_the_registry() {
    for answer in [
        r#"{"token": "good"}"#,
        r#"{"access_token": "good", "expires_in": 300}"#,
    ] {
        let (tokens, stub) = server(answer).await;
        let reference = image(&stub.registry, "team/tools:1");
        let client = client();
        let credentials = basic(&stub.registry);
        client.manifest(&reference, &credentials).await.unwrap();
        client.manifest(&reference, &credentials).await.unwrap();
        let asked = tokens.asked();
        assert_eq!(asked.len(), 1);
        let path = "/token?a=b&service=a+registry&scope=repository%3Ateam%2Ftools%3Apull";
        assert_eq!(asked[0].path, path);
        assert_eq!(
            asked[0].header("authorization"),
            Some("Basic YW5hOm9wZW5zZXNhbWU=")
        );
        let asked = stub.asked();
        let sent: Vec<_> = asked
            .iter()
            .map(|asked| asked.header("authorization"))
            .collect();
        assert_eq!(sent, [None, Some("Bearer good"), Some("Bearer good")]);

        // Another repository is another token, and somebody else is as well.
        client
            .manifest(&image(&stub.registry, "other:1"), &credentials)
            .await
            .unwrap();
        client
            .manifest(&reference, &Credentials::anonymous())
            .await
            .unwrap();
        let asked = tokens.asked();
        assert_eq!(asked.len(), 3);
        assert_eq!(asked[2].header("authorization"), None);
    }
}

#[tokio::test]
async fn a_token_that_ends_is_not_used_any_more() {
    let (tokens, stub) = server(r#"{"token": "good", "expires_in": 5}"#).await;
    let reference = image(&stub.registry, "a:1");
    let client = client();
    for _ in 0..2 {
        client
            .manifest(&reference, &Credentials::anonymous())
            .await
            .unwrap();
    }
    assert_eq!(tokens.asked().len(), 2);
}

#[tokio::test]
async fn a_token_that_is_taken_back_is_asked_for_again() {
    let tokens =
        Stub::start(|_, before| Reply::new(200, format!(r#"{{"token": "t{before}"}}"#))).await;
    let challenge = format!("Bearer realm=\"http://{}/\"", tokens.registry);
    let stub = Stub::start(move |asked, before| {
        let good = if before < 3 { "Bearer t0" } else { "Bearer t1" };
        if asked.header("authorization") == Some(good) {
            Reply::new(200, "{}")
        } else {
            Reply::new(401, "").header("WWW-Authenticate", &challenge)
        }
    })
    .await;
    let reference = image(&stub.registry, "a:1");
    let client = client();
    for _ in 0..3 {
        client
            .manifest(&reference, &Credentials::anonymous())
            .await
            .unwrap();
    }
    assert_eq!(tokens.asked().len(), 2);
}

#[tokio::test]
async fn token_servers_that_give_none() {
    for answer in [
        "",
        "{}",
        "null",
        r#"{"token": ""}"#,
        r#"{"token": 5}"#,
        r#"{"token": "a\r\nb"}"#,
        r#"{"token": "a", "expires_in": -1}"#,
    ] {
        let (_tokens, stub) = server(answer).await;
        let reference = image(&stub.registry, "a:1");
        let error = client()
            .manifest(&reference, &basic(&stub.registry))
            .await
            .unwrap_err();
        assert!(
            text(&error).contains("gives no token"),
            "{answer}: {}",
            text(&error)
        );
    }
    let tokens =
        Stub::start(|_, _| Reply::new(200, vec![b' '; 1 << 20]).unannounced().hanging()).await;
    let stub = registry(format!("http://{}/", tokens.registry)).await;
    let error = client()
        .manifest(&image(&stub.registry, "a:1"), &basic(&stub.registry))
        .await;
    assert!(text(&error.unwrap_err()).contains("gives no token"));

    // It knows the user, and not the token that it gave.
    let (tokens, stub) = server(r#"{"token": "bad"}"#).await;
    let error = client()
        .manifest(&image(&stub.registry, "a:1"), &basic(&stub.registry))
        .await;
    assert!(matches!(error, Err(RegistryError::NotPermitted { .. })));
    assert_eq!((tokens.asked().len(), stub.asked().len()), (1, 2));
}

#[tokio::test]
async fn realms_that_get_nothing() {
    for (realm, expected) in [
        ("http://auth.example.com/token", "only https"),
        ("nonsense", "no address"),
        ("", "no address"),
        ("file:///token", "only https"),
    ] {
        let stub = registry(realm.to_owned()).await;
        let error = client()
            .manifest(&image(&stub.registry, "a:1"), &basic(&stub.registry))
            .await;
        let error = error.unwrap_err();
        assert!(text(&error).contains(expected), "{}", text(&error));
    }
    // It sends the client on, and does not see what the realm was meant to see.
    let thief = Stub::start(|_, _| Reply::new(200, r#"{"token": "good"}"#)).await;
    let elsewhere = format!("http://{}/", thief.registry);
    let tokens = Stub::start(move |_, _| Reply::new(302, "").header("Location", &elsewhere)).await;
    let stub = registry(format!("http://{}/", tokens.registry)).await;
    client()
        .manifest(&image(&stub.registry, "a:1"), &basic(&stub.registry))
        .await
        .unwrap();
    assert!(tokens.asked()[0].header("authorization").is_some());
    assert_eq!(thief.asked()[0].header("authorization"), None);
}

#[tokio::test]
async fn credentials_for_one_registry_are_not_for_another() {
    let stub = Stub::start(|_, _| Reply::new(401, "").header("WWW-Authenticate", "Basic")).await;
    let reference = image(&stub.registry, "a:1");
    for credentials in [
        basic("registry.example.com"),
        basic("127.0.0.1:1"),
        Credentials::bearer("127.0.0.1", "opensesame").unwrap(),
    ] {
        let error = client()
            .manifest(&reference, &credentials)
            .await
            .unwrap_err();
        assert!(
            matches!(error, RegistryError::OtherCredentials { .. }),
            "{}",
            text(&error)
        );
    }
    assert!(stub.asked().is_empty());
}

#[tokio::test]
async fn a_password_is_sent_only_when_it_is_asked_for() {
    for challenge in ["Negotiate", "Digest realm=\"x\"", ""] {
        let stub =
            Stub::start(move |_, _| Reply::new(401, "").header("WWW-Authenticate", challenge))
                .await;
        let error = client()
            .manifest(&image(&stub.registry, "a:1"), &basic(&stub.registry))
            .await;
        assert!(matches!(error, Err(RegistryError::NotPermitted { .. })));
        assert_eq!(stub.asked().len(), 1);
        assert_eq!(stub.asked()[0].header("authorization"), None);
    }
}
