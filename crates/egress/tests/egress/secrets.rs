//! Secrets and what stands for them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flowcell_egress::{EgressError, Secrets};
use http::Request;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::sync::mpsc;

use crate::server::{Out, Server, TOKEN, get, secret, text};

const SECRET: &str = "s3cr3t+with\"quotes& and spaces";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What reaches the secret's own server of a request that has a placeholder.
async fn received(request: impl FnOnce(&Server) -> Request<Full<Bytes>>) -> String {
    let server = Server::start().await;
    let out = Out::with_secret(SECRET, &[&server.url("/v1")]);
    let asked = out.send(request(&server));
    let (answer, received) = tokio::join!(asked, server.answer(OK));
    answer.unwrap();
    assert!(!received.contains(TOKEN), "{received}");
    received
}

#[tokio::test]
async fn secrets_go_to_their_own_endpoint() {
    let header = received(|server| {
        let request =
            Request::get(server.url("/")).header("authorization", format!("Bearer {TOKEN}"));
        request
            .header("x-more", TOKEN)
            .body(Full::default())
            .unwrap()
    });
    let header = header.await;
    assert!(
        header.contains(&format!("authorization: Bearer {SECRET}\r\n")),
        "{header}"
    );
    assert!(
        header.contains(&format!("x-more: {SECRET}\r\n")),
        "{header}"
    );

    let basic = received(|server| {
        let value = format!("Basic {}", STANDARD.encode(format!("user:{TOKEN}")));
        let request = Request::get(server.url("/")).header("authorization", value);
        request.body(Full::default()).unwrap()
    });
    let basic = basic.await;
    let expected = STANDARD.encode(format!("user:{SECRET}"));
    assert!(
        basic.contains(&format!("authorization: Basic {expected}\r\n")),
        "{basic}"
    );

    let query = received(|server| get(&server.url(&format!("/?a=1&key={TOKEN}&b=2")))).await;
    let expected = "/?a=1&key=s3cr3t%2Bwith%22quotes%26+and+spaces&b=2 HTTP";
    assert!(query.contains(expected), "{query}");

    let json = received(|server| {
        let body = format!("{{\"key\": \"{TOKEN}\", \"again\": [\"{TOKEN}\"]}}");
        let request = Request::post(server.url("/")).header("content-type", "application/json");
        request
            .header("content-length", body.len())
            .body(body.into())
            .unwrap()
    });
    let json = json.await;
    let value = serde_json::Value::from(SECRET);
    let (head, body) = json.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, format!("{{\"key\": {value}, \"again\": [{value}]}}"));
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len())),
        "{head}"
    );

    let form = received(|server| {
        let request = Request::post(server.url("/"));
        let request = request.header(
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        );
        request
            .body(format!("client_secret={TOKEN}").into())
            .unwrap()
    });
    assert!(
        form.await
            .ends_with("client_secret=s3cr3t%2Bwith%22quotes%26+and+spaces")
    );
}

fn misplaced(refused: Result<http::Response<flowcell_egress::Body>, EgressError>) {
    match refused {
        Err(EgressError::Misplaced { connection, .. }) => assert_eq!(connection, "mine"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn secrets_go_nowhere_else() {
    let (own, other) = (Server::start().await, Server::start().await);
    let out = Out::with_secret(SECRET, &[&own.url("/")]);
    let elsewhere = other.url("/");
    let with = |name: &str, value: String| {
        Request::get(&elsewhere)
            .header(name, value)
            .body(Full::default())
            .unwrap()
    };
    misplaced(
        out.send(with("authorization", format!("Bearer {TOKEN}")))
            .await,
    );
    misplaced(out.send(with("cookie", format!("a={TOKEN}; b"))).await);
    let basic = STANDARD.encode(format!("{TOKEN}:"));
    misplaced(
        out.send(with("authorization", format!("bAsIc  {basic}")))
            .await,
    );
    misplaced(out.get(&other.url(&format!("/?q={TOKEN}"))).await);
    misplaced(out.get(&other.url(&format!("/{TOKEN}"))).await);
    let name: http::HeaderName = TOKEN.parse().unwrap();
    misplaced(out.send(with(name.as_str(), "x".to_owned())).await);

    // The same host, and another port or scheme.
    let scheme = own.url("/").replace("http:", "https:");
    misplaced(out.get(&format!("{scheme}?{TOKEN}")).await);
    // What only looks like the endpoint.
    let trick = format!(
        "http://api.example:{}@other.example:{}/?{TOKEN}",
        own.port, other.port
    );
    let refused = out.get(&trick).await.unwrap_err();
    assert!(matches!(refused, EgressError::Address(_)), "{refused}");
    for url in [
        format!("http://api.example.evil.example:{}/?{TOKEN}", own.port),
        format!("http://evil.example:{}/?api.example&{TOKEN}", own.port),
        format!("http://evil.example/api.example:{}?{TOKEN}", own.port),
    ] {
        misplaced(out.get(&url).await);
    }
    for exchange in out.audit.take() {
        let told = format!("{exchange:?}");
        assert!(!told.contains(TOKEN) && !told.contains(SECRET), "{told}");
        assert!(exchange.error.is_some());
    }

    // In a path, not even at its own.
    let refused = out.get(&own.url(&format!("/{TOKEN}"))).await.unwrap_err();
    assert!(matches!(refused, EgressError::Denied { .. }), "{refused}");
    // What nobody knows any more.
    let unknown = TOKEN.replace('0', "1");
    let refused = out
        .get(&own.url(&format!("/?{unknown}")))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, EgressError::Misplaced { .. }),
        "{refused}"
    );
    let cut = &TOKEN[..TOKEN.len() - 1];
    assert!(out.get(&own.url(&format!("/?{cut}"))).await.is_err());
}

/// Sends a body piece by piece, and tells how that ended.
async fn streamed(
    out: &Out,
    url: &str,
    content_type: &str,
    pieces: &[&str],
) -> Result<(), EgressError> {
    let frames = pieces.iter().map(|piece| {
        let data = Bytes::copy_from_slice(piece.as_bytes());
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(data))
    });
    let frames: Vec<_> = frames.collect();
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let request = Request::post(url)
        .header("content-type", content_type)
        .body(body)
        .unwrap();
    let sent = out
        .egress
        .send(request, None, flowcell_egress::Times::default());
    sent.await.map(|_| ())
}

#[tokio::test]
async fn bodies_are_searched_across_their_pieces() {
    let (own, other) = (Server::start().await, Server::start().await);
    let out = Out::with_secret(SECRET, &[&own.url("/")]);
    let (first, second) = TOKEN.split_at(7);
    for content_type in ["application/json", "text/plain", "application/octet-stream"] {
        let pieces = ["{\"a\": \"", first, second, "\"}"];
        let url = other.url("/");
        let sent = streamed(&out, &url, content_type, &pieces);
        let accepted = async {
            // Whatever comes, the whole of it does not.
            let mut connection = other.accept().await;
            connection.closed().await;
        };
        let (refused, ()) = tokio::join!(sent, accepted);
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, EgressError::Misplaced { .. }),
            "{content_type}: {refused}"
        );
    }
    // At its own, where it would have to be written in a way that nobody knows.
    let url = own.url("/");
    let pieces = [first, second];
    let sent = streamed(&out, &url, "text/plain", &pieces);
    let (refused, ()) = tokio::join!(sent, async { own.accept().await.closed().await });
    assert!(matches!(refused.unwrap_err(), EgressError::Denied { .. }));
    // Put together where it may be.
    let pieces = ["[\"", first, second, "\"]"];
    let sent = streamed(&out, &url, "application/json", &pieces);
    let (sent, received) = tokio::join!(sent, own.answer(OK));
    sent.unwrap();
    assert!(
        received.ends_with(&format!("[{}]", serde_json::Value::from(SECRET))),
        "{received}"
    );
}

#[tokio::test]
async fn answers_have_placeholders_in_the_place_of_secrets() {
    let server = Server::start().await;
    let out = Out::with_secret("0123456789-secret", &[&server.url("/")]);
    let request = Request::get(server.url("/")).header("accept-encoding", "gzip");
    let (go_on, mut may_go_on) = mpsc::channel::<()>(1);
    let asked = async {
        let answer = out
            .send(request.body(Full::default()).unwrap())
            .await
            .unwrap();
        let header = answer.headers()["x-echo"].to_str().unwrap().to_owned();
        assert!(!answer.headers().contains_key("content-length"));
        let mut body = answer.into_body();
        // What may not be the beginning of a secret comes at once: the server waits for that.
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        go_on.send(()).await.unwrap();
        (
            header,
            String::from_utf8(first.to_vec()).unwrap() + &text(body).await.unwrap(),
        )
    };
    let served = async {
        let mut connection = server.accept().await;
        let received = connection.request().await;
        assert!(!received.contains("gzip"), "{received}");
        connection
            .write("HTTP/1.1 200 OK\r\nx-echo: a0123456789-secretb\r\ncontent-length: 51\r\n\r\nfirst;0123")
            .await;
        may_go_on.recv().await.unwrap();
        connection.write("456789-secret;").await;
        connection.write("01234567890123456789-secret").await;
    };
    let ((header, body), ()) = tokio::join!(asked, served);
    assert_eq!(header, format!("a{TOKEN}b"));
    assert_eq!(body, format!("first;{TOKEN};0123456789{TOKEN}"));
}

#[test]
fn secrets_are_not_printed() {
    let all = Secrets::new([secret(SECRET, &["https://api.example/"])], Vec::new());
    let printed = format!("{all:?} {:?}", secret(SECRET, &[]));
    assert!(!printed.contains("s3cr3t"), "{printed}");
}
