//! TLS: whom a session trusts.

use std::sync::Arc;

use flowcell_egress::{EgressError, Secrets, Tls};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::server::{Out, TOKEN, secret, text};

#[tokio::test]
async fn certificates_are_checked_by_authority_and_name() {
    let own = rcgen::generate_simple_self_signed(["api.example".to_owned()]).unwrap();
    let pem = own.cert.pem().into_bytes();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let mut received = Vec::new();
        for _ in 0..3 {
            let (stream, _) = listener.accept().await.unwrap();
            // Who does not trust the certificate ends it here.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut buffer = vec![0; 4096];
            let count = stream.read(&mut buffer).await.unwrap_or(0);
            received.extend_from_slice(&buffer[..count]);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
        String::from_utf8(received).unwrap()
    });
    let url = format!("https://api.example:{port}/?key={TOKEN}");
    let knowing = |authorities: &[Vec<u8>]| {
        let secrets = Secrets::new([secret("the-secret", &[&url])], Vec::new());
        let tls = Arc::new(Tls::new(authorities).unwrap());
        Out::knowing(secrets, |options| options.tls = tls)
    };
    let stranger = knowing(&[]);
    let refused = stranger.get(&url).await.unwrap_err();
    assert!(
        matches!(
            &refused,
            EgressError::Connection {
                is_connect: true,
                ..
            }
        ),
        "{refused}"
    );
    assert!(!refused.to_string().contains("the-secret"), "{refused}");

    let trusting = knowing(std::slice::from_ref(&pem));
    let elsewhere = format!("https://other.example:{port}/");
    let refused = trusting.get(&elsewhere).await.unwrap_err();
    assert!(
        matches!(refused, EgressError::Connection { .. }),
        "{refused}"
    );
    let answer = trusting.get(&url).await.unwrap();
    assert_eq!(text(answer.into_body()).await.unwrap(), "ok");
    let received = server.await.unwrap();
    assert!(
        received.contains("GET /?key=the-secret HTTP/1.1"),
        "{received}"
    );
    assert_eq!(received.matches("GET").count(), 1, "{received}");
}
