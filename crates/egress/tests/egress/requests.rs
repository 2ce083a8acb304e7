//! Rules and limits of ordinary requests.

use std::time::Duration;

use flowcell_egress::{
    EgressError, EgressOptions, HostPattern, Limits, MAX_HOSTS, Outcome, Part, Policy, Rule,
    Secrets, Times,
};
use http::Request;
use http_body_util::{BodyExt as _, Full};

use crate::server::{Out, Server, get, text};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

#[tokio::test]
async fn a_request_is_made_as_it_is_asked_for_and_recorded() {
    let server = Server::start().await;
    let out = Out::new(|_| {});
    let request = Request::put(server.url("/a%20b?c=d%26e"));
    let request = request
        .header("x-own", "1")
        .body(Full::from("body"))
        .unwrap();
    let (answer, received) = tokio::join!(out.send(request), server.answer(OK));
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(
        received.starts_with("PUT /a%20b?c=d%26e HTTP/1.1\r\n"),
        "{received}"
    );
    assert!(
        received.contains(&format!("host: api.example:{}\r\n", server.port)),
        "{received}"
    );
    assert!(
        received.contains("x-own: 1\r\n") && received.contains("body"),
        "{received}"
    );
    assert_eq!(out.audit.take(), [], "it is not over");
    assert_eq!(text(answer.into_body()).await.unwrap(), "ok");
    let told = out.audit.take();
    let [told] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!((told.status, told.sent, told.received), (Some(200), 4, 2));
    assert_eq!(
        (told.node.as_deref(), told.method.as_str()),
        (Some("node"), "PUT")
    );
    assert_eq!(told.to, format!("http://api.example:{}", server.port));
    assert_eq!(told.error, None);
}

fn hosts(patterns: &[&str]) -> Rule {
    let patterns = patterns.iter().map(|text| text.parse().unwrap());
    Rule {
        allowed_hosts: Some(patterns.collect()),
        ..Rule::default()
    }
}

#[tokio::test]
async fn only_what_all_rules_list_is_asked() {
    let server = Server::start().await;
    let port = server.port;
    let policy = move |options: &mut EgressOptions| {
        options.policy = Policy {
            rules: vec![
                ("the server", hosts(&["*:*"])),
                ("the workspace", hosts(&["listed.example", "api.example:*"])),
                (
                    "the session",
                    Rule {
                        allowed_hosts: Some(vec!["listed.example".parse().unwrap()]),
                        allowed_methods: Some(vec!["GET".to_owned()]),
                    },
                ),
            ],
            private: vec!["api.example:*".parse().unwrap()],
            private_endpoints: false,
        };
    };
    let endpoint = format!("http://api.example:{port}/v1").parse().unwrap();
    let out = Out::knowing(Secrets::new([], vec![endpoint]), policy);
    for (url, whose) in [
        ("https://other.example/", "the workspace"),
        ("http://listed.example/", "the workspace"),
        ("https://listed.example:8443/", "the workspace"),
        ("https://listed.example.evil.example/", "the workspace"),
        ("https://api.example/", "the session"),
    ] {
        let refused = out.get(url).await.unwrap_err();
        let expected = format!("hosts that {whose} allows,");
        assert!(
            matches!(&refused, EgressError::Denied { why, .. } if why.contains(&expected)),
            "{url}: {refused}"
        );
    }
    let post = |url: &str| Request::post(url).body(Full::default()).unwrap();
    let refused = out.send(post("https://listed.example/")).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("POST is not allowed: it is not among the methods that the session allows"),
        "{refused}"
    );
    let told = out.audit.take();
    assert_eq!(told.len(), 6);
    assert!(
        told.iter().all(|one| one.outcome == Outcome::Refused),
        "{told:?}"
    );
    // An endpoint of a connection needs no place in the lists.
    let url = server.url("/");
    let (answer, _) = tokio::join!(out.send(post(&url)), server.answer(OK));
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn bodies_have_limits() {
    let server = Server::start().await;
    let out = Out::new(|options| {
        options.limits.request_bytes = 10;
        options.limits.response_bytes = 10;
    });
    let large = Request::post(server.url("/"))
        .body(Full::from("12345678901"))
        .unwrap();
    let closed = async { server.accept().await.closed().await };
    let (refused, ()) = tokio::join!(out.send(large), closed);
    assert_eq!(
        refused.unwrap_err(),
        EgressError::TooLarge {
            what: Part::Request,
            limit: 10
        }
    );
    let url = server.url("/");
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n12345678901",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\n123456\r\n6\r\n123456\r\n0\r\n\r\n",
    ] {
        let (answer, _) = tokio::join!(out.get(&url), server.answer(answer));
        let refused = text(answer.unwrap().into_body()).await.unwrap_err();
        assert_eq!(
            refused,
            EgressError::TooLarge {
                what: Part::Answer,
                limit: 10
            }
        );
    }
    let long = format!("{url}{}", "x".repeat(70_000));
    let uri = http::Uri::try_from(&long);
    if let Ok(uri) = uri {
        let request = Request::get(uri).body(Full::default()).unwrap();
        assert!(matches!(
            out.send(request).await,
            Err(EgressError::TooLarge { .. })
        ));
    }
}

#[tokio::test]
async fn no_wait_is_for_ever() {
    let server = Server::start().await;
    let out = Out::new(|options| options.limits.total_seconds = 1);
    let url = server.url("/");
    // A server that says nothing.
    let (refused, _connection) = tokio::join!(out.get(&url), server.accept());
    assert!(
        matches!(refused, Err(EgressError::Timeout { .. })),
        "{refused:?}"
    );
    // One that stops in the middle, for the session and for the guest.
    let begun = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nbegun";
    let short = Times {
        between_bytes: Some(Duration::from_millis(10)),
        ..Times::default()
    };
    for times in [Times::default(), short] {
        let sent = out.egress.send(get(&url), None, times);
        let mut connection = None;
        let served = async {
            let mut accepted = server.accept().await;
            accepted.request().await;
            accepted.write(begun).await;
            connection = Some(accepted);
        };
        let (answer, ()) = tokio::join!(sent, served);
        let late = text(answer.unwrap().into_body()).await.unwrap_err();
        assert!(matches!(late, EgressError::Timeout { .. }), "{late}");
        connection.unwrap().closed().await;
    }
    let first = Times {
        first_byte: Some(Duration::from_millis(10)),
        ..Times::default()
    };
    let sent = out.egress.send(get(&url), None, first);
    let (late, _connection) = tokio::join!(sent, server.accept());
    assert!(matches!(late, Err(EgressError::Timeout { .. })), "{late:?}");
}

#[tokio::test]
async fn a_dropped_answer_closes_its_connection() {
    let server = Server::start().await;
    let out = Out::new(|_| {});
    let url = server.url("/");
    let served = async {
        let mut connection = server.accept().await;
        connection.request().await;
        connection
            .write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n")
            .await;
        connection
    };
    let (answer, mut connection) = tokio::join!(out.get(&url), served);
    let mut body = answer.unwrap().into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "begun"
    );
    drop(body);
    connection.closed().await;
    assert_eq!(out.audit.take()[0].received, 5);
    // And so does who gives up waiting for it.
    let mut asked = Box::pin(out.get(&url));
    let mut connection = tokio::select! {
        _ = &mut asked => panic!("nobody answered"),
        connection = server.accept() => connection,
    };
    drop(asked);
    connection.closed().await;
}

#[tokio::test]
async fn requests_are_counted() {
    let limits = Limits {
        concurrent: 1,
        per_minute: 3,
        ..Limits::default()
    };
    let server = Server::start().await;
    let out = Out::new(move |options| options.limits = limits);
    let url = server.url("/");
    // The second waits for the first one's end.
    let (first, _) = tokio::join!(out.get(&url), server.answer(OK));
    let mut second = Box::pin(out.get(&url));
    tokio::select! {
        biased;
        _ = &mut second => panic!("it did not wait"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(text(first.unwrap().into_body()).await.unwrap(), "ok");
    let (second, _) = tokio::join!(second, server.answer(OK));
    drop(second.unwrap());
    let (third, _) = tokio::join!(out.get(&url), server.answer(OK));
    drop(third.unwrap());
    out.audit.take();
    for url in [&url, "ftp://a.example/", &url] {
        assert_eq!(
            out.get(url).await.unwrap_err(),
            EgressError::TooMany { limit: 3 }
        );
    }
    // However many there are, they do not fill the audit.
    let told = out.audit.take();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].outcome, Outcome::Refused);
}

#[tokio::test]
async fn refused_requests_count() {
    let out = Out::new(|options| {
        options.policy = Policy {
            rules: vec![("the session", hosts(&[]))],
            ..Policy::default()
        };
        options.limits.per_minute = 2;
    });
    for _ in 0..2 {
        let refused = out.get("https://other.example/").await.unwrap_err();
        assert!(matches!(refused, EgressError::Denied { .. }), "{refused}");
    }
    let refused = out.get("https://other.example/").await.unwrap_err();
    assert_eq!(refused, EgressError::TooMany { limit: 2 });
}

#[tokio::test]
async fn an_answer_that_nobody_reads_ends_as_well() {
    let server = Server::start().await;
    let out = Out::new(|options| {
        options.limits.total_seconds = 1;
        options.limits.concurrent = 1;
    });
    let url = server.url("/");
    let mut connection = None;
    let served = async {
        let mut accepted = server.accept().await;
        accepted.request().await;
        accepted
            .write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nbegun")
            .await;
        connection = Some(accepted);
    };
    let (unread, ()) = tokio::join!(out.get(&url), served);
    let unread = unread.unwrap();
    connection.unwrap().closed().await;
    // Its place is free for another one, and whoever reads it after all is told.
    let (next, _) = tokio::join!(out.get(&url), server.answer(OK));
    assert_eq!(next.unwrap().status(), 200);
    let late = text(unread.into_body()).await.unwrap_err();
    assert!(matches!(late, EgressError::Timeout { .. }), "{late}");
    let told = out.audit.take();
    let late = told.iter().find(|told| told.outcome == Outcome::Failed);
    assert!(
        late.unwrap().error.as_ref().unwrap().contains("1 s"),
        "{told:?}"
    );
}

#[tokio::test]
async fn what_is_told_of_a_request_is_short() {
    let out = Out::new(|options| {
        options.policy = Policy {
            rules: vec![("the session", hosts(&[]))],
            ..Policy::default()
        }
    });
    let host = vec!["é".repeat(40); 30].join(".");
    let method = "M".repeat(10_000);
    let request = Request::builder()
        .method(method.as_str())
        .uri(format!("http://{}.example/", "a".repeat(20_000)));
    let _ = out
        .send(request.body(Full::default()).unwrap())
        .await
        .unwrap_err();
    let node = "n".repeat(10_000);
    let _ = out
        .egress
        .send(get("https://a.example"), Some(&node), Times::default())
        .await;
    let _ = out
        .egress
        .send(
            get(&format!("https://a.example/{host}")),
            Some(&host),
            Times::default(),
        )
        .await;
    for told in out.audit.take() {
        for text in [
            told.node.as_ref(),
            Some(&told.method),
            Some(&told.to),
            told.error.as_ref(),
        ] {
            let length = text.map_or(0, String::len);
            assert!(length <= 512, "{length}");
        }
    }
}

#[tokio::test]
async fn a_policy_changes_under_a_session_at_work() {
    let server = Server::start().await;
    let out = Out::new(|_| {});
    let url = server.url("/");
    let (before, _) = tokio::join!(out.get(&url), server.answer(OK));
    assert_eq!(before.unwrap().status(), 200);
    out.gate.set_policy(Policy {
        rules: vec![("the workspace", hosts(&["only.example"]))],
        ..Policy::default()
    });
    let refused = out.get(&url).await.unwrap_err();
    assert!(
        refused.to_string().contains("the workspace allows"),
        "{refused}"
    );
}

#[test]
fn rules_have_limits() {
    let pattern: HostPattern = "a.example".parse().unwrap();
    let rule = |hosts: usize, methods: &[&str]| Rule {
        allowed_hosts: Some(vec![pattern.clone(); hosts]),
        allowed_methods: Some(methods.iter().map(|one| (*one).to_owned()).collect()),
    };
    assert_eq!(rule(MAX_HOSTS, &["GET", "M-SEARCH"]).check(), Ok(()));
    let long: HostPattern = format!("{}.example", "a".repeat(60)).parse().unwrap();
    let heavy = Rule {
        allowed_hosts: Some(vec![long; MAX_HOSTS]),
        ..Rule::default()
    };
    let name = vec!["a".repeat(50); 6].join(".");
    assert!(name[..253].parse::<HostPattern>().is_ok());
    for wrong in [name.clone(), format!("*.{name}"), format!("{name}:*")] {
        assert!(wrong.parse::<HostPattern>().is_err(), "{wrong}");
    }
    for (rule, word) in [
        (heavy, "bytes"),
        (rule(MAX_HOSTS + 1, &[]), "allowed_hosts"),
        (rule(1, &["GET"; 51]), "allowed_methods"),
        (rule(1, &["get"]), "'get' is no method"),
        (rule(1, &["G T"]), "'G T' is no method"),
        (rule(1, &[""]), "'' is no method"),
        (rule(1, &[&"M".repeat(60)]), "is no method"),
    ] {
        let wrong = rule.check().unwrap_err().to_string();
        assert!(wrong.contains(word), "{wrong}");
    }
}

#[tokio::test]
async fn what_cannot_be_had_says_why() {
    let server = Server::start().await;
    let url = server.url("/?key=private");
    drop(server);
    let out = Out::new(|_| {});
    let failed = out.get(&url).await.unwrap_err();
    assert!(
        matches!(&failed, EgressError::Connection { is_connect: true, host, .. } if host == "api.example"),
        "{failed}"
    );
    assert!(!failed.to_string().contains("private"), "{failed}");
    let nobody = Out::new(|options| options.lookup = crate::server::Names::of(&[]));
    let failed = nobody.get("https://nobody.example/").await.unwrap_err();
    assert!(
        matches!(&failed, EgressError::Unknown { host, .. } if host == "nobody.example"),
        "{failed}"
    );

    let server = Server::start().await;
    let url = server.url("/");
    for answer in [
        "no http\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\ncut",
    ] {
        let (answer, _) = tokio::join!(out.get(&url), server.answer(answer));
        let failed = match answer {
            Ok(answer) => text(answer.into_body()).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(
            matches!(
                failed,
                EgressError::Connection { .. } | EgressError::Broken(_)
            ),
            "{failed}"
        );
    }
}
