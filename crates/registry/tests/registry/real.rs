//! Against a real registry.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flowcell_registry::{Blob, Client, Credentials, Digest, ImageReference, RegistryError, Source};
use serde_json::json;

use crate::installed::Registry;
use crate::stub::{Reply, Stub};
use crate::{Folder, basic, blob, client, image, silent, text};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// bcrypt of `opensesame`.
const HTPASSWD: &str = "ana:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi\n";

fn large() -> Vec<u8> {
    (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect()
}

/// Pushes a config, a layer and the manifest that names them.
async fn push(
    client: &Client,
    reference: &ImageReference,
    layer: &[u8],
    credentials: &Credentials,
) -> Result<(Digest, Vec<u8>), RegistryError> {
    let config = b"{}";
    for content in [&config[..], layer] {
        let source = Source::Bytes(content.to_vec().into());
        let blob = blob(content);
        client
            .push_blob(reference, &blob, &source, credentials, &silent)
            .await?;
    }
    let part = |content: &[u8], media_type: &str| {
        let Blob { digest, size } = blob(content);
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": part(config, "application/vnd.example.config.v1+json"),
        "layers": [part(layer, "application/vnd.example.layer.v1")],
    });
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let digest = client
        .push_manifest(reference, MANIFEST, bytes.clone(), credentials)
        .await?;
    Ok((digest, bytes))
}

/// Pulls it again, and compares.
async fn pull(
    client: &Client,
    reference: &ImageReference,
    layer: &[u8],
    credentials: &Credentials,
    expected: &(Digest, Vec<u8>),
) {
    assert_eq!(
        client.resolve(reference, credentials).await.unwrap(),
        expected.0
    );
    let manifest = client.manifest(reference, credentials).await.unwrap();
    assert_eq!((manifest.digest, manifest.bytes), *expected);
    assert_eq!(manifest.media_type, MANIFEST);
    let by_digest = reference.with_digest(expected.0);
    assert_eq!(
        client.resolve(&by_digest, credentials).await.unwrap(),
        expected.0
    );
    assert_eq!(
        client
            .manifest(&by_digest, credentials)
            .await
            .unwrap()
            .bytes,
        expected.1
    );
    let config = client.config(reference, &blob(b"{}"), credentials).await;
    assert_eq!(config.unwrap(), b"{}");
    let folder = Folder::new();
    let blob = blob(layer);
    client
        .pull_blob(reference, &blob, &folder.target(), credentials, &silent)
        .await
        .unwrap();
    assert!(std::fs::read(folder.target()).unwrap() == layer);
    assert_eq!(folder.names(), ["blob"]);
}

#[tokio::test]
async fn what_is_pushed_is_pulled() {
    let registry = Registry::start("");
    let anonymous = Credentials::anonymous();
    let reference = image(&registry.registry, "team/tools:1.2");
    let layer = large();
    let pushed = push(&client(), &reference, &layer, &anonymous)
        .await
        .unwrap();
    pull(&client(), &reference, &layer, &anonymous, &pushed).await;

    // Again, it is there already: nothing is sent.
    let steps = Mutex::new(Vec::new());
    let note = |_: &Digest, done, total| steps.lock().unwrap().push((done, total));
    let source = Source::Bytes(layer.clone().into());
    let again = client();
    again
        .push_blob(&reference, &blob(&layer), &source, &anonymous, &note)
        .await
        .unwrap();
    let size = layer.len() as u64;
    assert_eq!(*steps.lock().unwrap(), [(size, size)]);

    for tag in ["1.3", "latest"] {
        let reference = image(&registry.registry, &format!("team/tools:{tag}"));
        push(&client(), &reference, &layer, &anonymous)
            .await
            .unwrap();
    }
    let mut tags = client().tags(&reference, &anonymous).await.unwrap();
    tags.tags.sort();
    assert_eq!(
        (tags.tags, tags.complete),
        (vec!["1.2".into(), "1.3".into(), "latest".into()], true)
    );
}

#[tokio::test]
async fn files_are_pushed_and_progress_is_told() {
    let registry = Registry::start("");
    let anonymous = Credentials::anonymous();
    let reference = image(&registry.registry, "a");
    let folder = Folder::new();
    let content = large();
    let path = folder.0.path().join("source");
    std::fs::write(&path, &content).unwrap();
    let steps = Mutex::new(Vec::new());
    let blob = blob(&content);
    let note = |digest: &Digest, done, total| {
        assert_eq!((*digest, total), (blob.digest, blob.size));
        steps.lock().unwrap().push(done);
    };
    let client = client();
    let source = Source::File(path);
    client
        .push_blob(&reference, &blob, &source, &anonymous, &note)
        .await
        .unwrap();
    let pushed = std::mem::take(&mut *steps.lock().unwrap());
    client
        .pull_blob(&reference, &blob, &folder.target(), &anonymous, &note)
        .await
        .unwrap();
    let pulled = std::mem::take(&mut *steps.lock().unwrap());
    for steps in [pushed, pulled] {
        assert_eq!((steps.first(), steps.last()), (Some(&0), Some(&blob.size)));
        assert!(steps.is_sorted() && steps.len() > 2, "{steps:?}");
    }
}

#[tokio::test]
async fn an_empty_blob_and_many_blobs() {
    let registry = Registry::start("");
    let anonymous = Credentials::anonymous();
    let reference = image(&registry.registry, "a");
    let client = client();
    let contents: Vec<Vec<u8>> = (0..20_u8)
        .map(|one| vec![one; usize::from(one) * 999])
        .collect();
    for content in &contents {
        let source = Source::Bytes(content.clone().into());
        client
            .push_blob(&reference, &blob(content), &source, &anonymous, &silent)
            .await
            .unwrap();
    }
    let folder = Folder::new();
    let paths: Vec<_> = contents
        .iter()
        .map(|content| folder.0.path().join(Digest::of(content).hex()))
        .collect();
    let blobs: Vec<_> = contents
        .iter()
        .zip(&paths)
        .map(|(content, path)| (blob(content), path.as_path()))
        .collect();
    // A transfer of many is a task of its own in a server.
    client
        .pull_blobs(&reference, &blobs, &anonymous, &silent)
        .await
        .unwrap();
    for (content, path) in contents.iter().zip(&paths) {
        assert_eq!(std::fs::read(path).unwrap(), *content);
    }
    assert_eq!(folder.names().len(), contents.len());
}

#[tokio::test]
async fn a_pull_goes_on_from_what_is_there() {
    let registry = Registry::start("");
    let anonymous = Credentials::anonymous();
    let reference = image(&registry.registry, "a");
    let content = large();
    let source = Source::Bytes(content.clone().into());
    let client = client();
    client
        .push_blob(&reference, &blob(&content), &source, &anonymous, &silent)
        .await
        .unwrap();
    let folder = Folder::new();
    std::fs::write(folder.partial(), &content[..4_000_000]).unwrap();
    let least = Mutex::new(u64::MAX);
    let note = |_: &Digest, done: u64, _| {
        let mut least = least.lock().unwrap();
        *least = done.min(*least);
    };
    client
        .pull_blob(
            &reference,
            &blob(&content),
            &folder.target(),
            &anonymous,
            &note,
        )
        .await
        .unwrap();
    assert_eq!(*least.lock().unwrap(), 4_000_000);
    assert!(std::fs::read(folder.target()).unwrap() == content);
}

#[tokio::test]
async fn what_is_damaged_in_the_registry_is_not_taken() {
    let registry = Registry::start("");
    let anonymous = Credentials::anonymous();
    let reference = image(&registry.registry, "a");
    let content = large();
    let source = Source::Bytes(content.clone().into());
    let client = client();
    client
        .push_blob(&reference, &blob(&content), &source, &anonymous, &silent)
        .await
        .unwrap();
    let blobs = registry.blobs();
    let [file] = blobs.as_slice() else {
        panic!("{blobs:?}");
    };
    let mut damaged = content.clone();
    damaged[3_000_000] ^= 1;
    std::fs::write(file, &damaged).unwrap();
    let folder = Folder::new();
    let error = client
        .pull_blob(
            &reference,
            &blob(&content),
            &folder.target(),
            &anonymous,
            &silent,
        )
        .await
        .unwrap_err();
    let (expected, found) = (Digest::of(&content), Digest::of(&damaged));
    let text = text(&error);
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{text}");
    assert!(
        text.contains(&expected.to_string()) && text.contains(&found.to_string()),
        "{text}"
    );
    assert!(folder.names().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let registry = Registry::start("");
    let anonymous = Credentials::anonymous();
    let client = client();
    let reference = image(&registry.registry, "team/tools:1");
    push(&client, &reference, b"layer", &anonymous)
        .await
        .unwrap();
    let nothing = Digest::of(b"nothing");
    for rest in ["team/tools:2", "nobody:1", &format!("team/tools@{nothing}")] {
        let reference = image(&registry.registry, rest);
        let errors = [
            client.resolve(&reference, &anonymous).await.err(),
            client.manifest(&reference, &anonymous).await.err(),
        ];
        for error in errors {
            let error = error.unwrap();
            let text = text(&error);
            assert!(matches!(error, RegistryError::NotFound { .. }), "{text}");
            assert!(
                text.contains(rest) && text.contains("image or tag"),
                "{text}"
            );
        }
    }
    let folder = Folder::new();
    let missing = Blob {
        digest: nothing,
        size: 7,
    };
    let error = client
        .pull_blob(&reference, &missing, &folder.target(), &anonymous, &silent)
        .await
        .unwrap_err();
    let text = text(&error);
    assert!(
        matches!(error, RegistryError::NotFound { .. }) && text.contains(&nothing.to_string()),
        "{text}"
    );
    let nobody = image(&registry.registry, "nobody");
    let error = client.tags(&nobody, &anonymous).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn content_that_is_not_what_it_should_be_is_not_pushed() {
    let registry = Registry::start("");
    let anonymous = Credentials::anonymous();
    let reference = image(&registry.registry, "a:1");
    let client = client();
    let content = large();
    let mut damaged = content.clone();
    damaged[5] ^= 1;
    for wrong in [damaged, content[1..].to_vec()] {
        let source = Source::Bytes(wrong.into());
        let error = client
            .push_blob(&reference, &blob(&content), &source, &anonymous, &silent)
            .await
            .unwrap_err();
        assert!(
            matches!(error, RegistryError::Source { .. }),
            "{}",
            text(&error)
        );
    }
    assert!(registry.blobs().is_empty());
    let source = Source::File("/nowhere/at/all".into());
    let error = client
        .push_blob(&reference, &blob(&content), &source, &anonymous, &silent)
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Io { .. }),
        "{}",
        text(&error)
    );

    // The registry does not know what the manifest names.
    let layer = json!({"mediaType": "a/b", "digest": Digest::of(b"x").to_string(), "size": 1});
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": layer, "layers": [layer]});
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let error = client
        .push_manifest(&reference, MANIFEST, bytes.clone(), &anonymous)
        .await
        .unwrap_err();
    let said = text(&error);
    assert!(
        matches!(error, RegistryError::Answer { .. }) && said.contains("blob unknown"),
        "{said}"
    );
    let other = reference.with_digest(Digest::of(b"other"));
    let error = client
        .push_manifest(&other, MANIFEST, bytes, &anonymous)
        .await;
    assert!(matches!(error, Err(RegistryError::WrongDigest { .. })));
}

#[tokio::test]
async fn a_password_is_needed() {
    let registry = Registry::start_with(|folder| {
        let file = folder.join("htpasswd");
        std::fs::write(&file, HTPASSWD).unwrap();
        format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            file.display()
        )
    });
    let reference = image(&registry.registry, "team/tools:1");
    let layer = large();
    let pushed = push(&client(), &reference, &layer, &basic(&registry.registry))
        .await
        .unwrap();
    let one = client();
    pull(
        &one,
        &reference,
        &layer,
        &basic(&registry.registry),
        &pushed,
    )
    .await;

    // What one has proved is of no use to others, in the same client.
    let wrong = Credentials::basic(&registry.registry, "ana", "wrong").unwrap();
    let bearer = Credentials::bearer(&registry.registry, "opensesame").unwrap();
    let anonymous = Credentials::anonymous();
    for (credentials, hint) in [
        (&anonymous, "log in to it"),
        (&wrong, "with these"),
        (&bearer, "with these"),
    ] {
        let errors = [
            one.resolve(&reference, credentials).await.err(),
            one.manifest(&reference, credentials).await.err(),
            one.tags(&reference, credentials).await.err(),
            push(&one, &reference, b"other", credentials).await.err(),
        ];
        for error in errors {
            let error = error.unwrap();
            let text = text(&error);
            assert!(
                matches!(error, RegistryError::NotPermitted { .. }),
                "{text}"
            );
            assert!(
                text.contains(&registry.registry) && text.contains(hint),
                "{text}"
            );
            assert!(!text.contains("opensesame"), "{text}");
        }
    }
}

/// What the token server is asked for, and what it allows: everybody to pull, ana to push as well.
fn tokens(key: &jsonwebtoken::EncodingKey, certificate: &str, asked: &crate::stub::Asked) -> Reply {
    let url = format!("http://x{}", asked.path);
    let query: std::collections::HashMap<String, String> = reqwest::Url::parse(&url)
        .unwrap()
        .query_pairs()
        .into_owned()
        .collect();
    let ana = format!("Basic {}", STANDARD.encode("ana:opensesame"));
    let user = match asked.header("authorization") {
        None => "",
        Some(value) if value == ana => "ana",
        Some(_) => return Reply::new(401, "who is that?"),
    };
    let scope: Vec<&str> = query.get("scope").unwrap().split(':').collect();
    let actions: Vec<&str> = scope[2]
        .split(',')
        .filter(|action| *action == "pull" || user == "ana")
        .collect();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = json!({
        "iss": "issuer", "sub": user, "aud": query.get("service").unwrap(),
        "exp": now + 300, "nbf": now - 60, "iat": now, "jti": format!("{now}"),
        "access": [{"type": scope[0], "name": scope[1], "actions": actions}],
    });
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    header.x5c = Some(vec![certificate.to_owned()]);
    let token = jsonwebtoken::encode(&header, &claims, key).unwrap();
    Reply::new(200, json!({"token": token, "expires_in": 300}).to_string())
}

#[tokio::test]
async fn a_token_is_needed() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["issuer.example.com".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&pair).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let der = STANDARD.encode(certificate.der());
    let server = Stub::start(move |asked, _| tokens(&key, &der, asked)).await;
    let registry = Registry::start_with(|folder| {
        let bundle = folder.join("roots.pem");
        std::fs::write(&bundle, certificate.pem()).unwrap();
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: test\n    issuer: issuer\n    rootcertbundle: {}\n",
            server.registry,
            bundle.display()
        )
    });
    let reference = image(&registry.registry, "team/tools:1");
    let layer = large();
    let ana = basic(&registry.registry);
    let one = client();
    let pushed = push(&one, &reference, &layer, &ana).await.unwrap();
    let asked = server.asked();
    // A token is asked for once, and used for all that it allows.
    let [only] = asked.as_slice() else {
        panic!("{asked:?}");
    };
    assert!(
        only.path.contains("team%2Ftools%3Apull%2Cpush"),
        "{}",
        only.path
    );
    pull(&one, &reference, &layer, &Credentials::anonymous(), &pushed).await;
    assert_eq!(server.asked().len(), 2);
    assert_eq!(server.asked()[1].header("authorization"), None);

    let error = push(&one, &reference, b"other", &Credentials::anonymous()).await;
    let error = error.unwrap_err();
    assert!(
        matches!(
            error,
            RegistryError::NotPermitted {
                anonymous: true,
                ..
            }
        ),
        "{}",
        text(&error)
    );
    let wrong = Credentials::basic(&registry.registry, "ana", "wrong").unwrap();
    let error = one.manifest(&reference, &wrong).await.unwrap_err();
    let said = text(&error);
    assert!(
        matches!(
            error,
            RegistryError::NotPermitted {
                anonymous: false,
                ..
            }
        ),
        "{said}"
    );
    assert!(said.contains("who is that?"), "{said}");
}
