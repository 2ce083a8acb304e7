//! Addresses that no session may ask, in all spellings.

use flowcell_egress::{EgressError, is_public};

use crate::server::{Names, Out, Server, text};

/// Addresses of a machine's own, of its networks and of clouds' metadata.
const LITERALS: &[&str] = &[
    "http://127.0.0.1/",
    "http://127.0.0.1:8080/",
    "https://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.255.255.254/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://0177.1/",
    "http://017700000001/",
    "http://0x7F.0x0.0x0.0x1/",
    "http://00000177.00.00.01/",
    "http://127.0.0.1./",
    "http://%31%32%37.0.0.1/",
    "http://１２７.０.０.１/",
    "http://127。0。0。1/",
    "http://①②⑦.0.0.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://0.0.0.0:22/",
    "http://0x0/",
    "http://00/",
    "http://0.1.2.3/",
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://10.1/",
    "http://0xa000001/",
    "http://167772161/",
    "http://012.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://172.16.1/",
    "http://2886729729/",
    "http://192.168.0.1/",
    "http://192.168.1/",
    "http://192.168.255.255/",
    "http://3232235521/",
    "http://0xc0a80001/",
    "http://0300.0250.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.169.254:80/",
    "http://169.254.43518/",
    "http://169.16689662/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0xa9.0xfe.0xa9.0xfe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.170.2/",
    "http://168.254.0.0@169.254.169.254/",
    "http://100.64.0.1/",
    "http://100.127.255.255/",
    "http://100.100.100.200/",
    "http://192.0.0.1/",
    "http://192.0.0.192/",
    "http://192.0.2.1/",
    "http://192.88.99.1/",
    "http://198.18.0.1/",
    "http://198.19.255.255/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[::1]:8080/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]/",
    "http://[::127.0.0.1]/",
    "http://[::7f00:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::FFFF:7F00:0001]/",
    "http://[0:0:0:0:0:ffff:7f00:1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::ffff:192.168.0.1]/",
    "http://[::ffff:172.16.0.1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2002:c0a8:1::1]/",
    "http://[2001::1]/",
    "http://[2001:0:a9fe:a9fe::]/",
    "http://[2001:10::1]/",
    "http://[2001:20::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[fc00::1]/",
    "http://[fd00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fdff:ffff::1]/",
    "http://[fe80::1]/",
    "http://[fe80::a9fe:a9fe]/",
    "http://[febf::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[ff05::2]/",
    "http://[100::1]/",
    "http://[5f00::1]/",
];

/// What is no address of a host that could be asked.
const NONSENSE: &[&str] = &[
    "http://[fe80::1%25eth0]/",
    "http://[::1%25lo]/",
    "http://[::1%lo]/",
    "http://256.256.256.256/",
    "http://1.2.3.4.5/",
    "http://0x1.2.3.4.5/",
    "http://[::ffff:127.0.0.1/",
    "http://good.example@evil.example/",
    "http://user:password@good.example/",
    "ftp://good.example/",
    "file:///etc/passwd",
    "gopher://good.example/",
    "unix:/run/docker.sock",
];

#[tokio::test]
async fn no_spelling_leads_into_private_networks() {
    assert!(LITERALS.len() + NONSENSE.len() >= 100);
    let out = Out::new(|options| options.lookup = Names::of(&[]));
    let (mut private, mut other) = (0, 0);
    for url in LITERALS.iter().chain(NONSENSE) {
        let Ok(request) = http::Request::get(*url).body(http_body_util::Full::default()) else {
            // What is not even a request's address reaches nobody.
            other += 1;
            continue;
        };
        match out.send(request).await {
            Err(EgressError::Private { .. }) => private += 1,
            Err(EgressError::Address(_)) => other += 1,
            answer => assert!(answer.is_err(), "{url} was asked"),
        }
        let refused = out.audit.take();
        assert_eq!(refused.len(), 1, "{url}");
        assert!(
            refused[0].error.is_some() && refused[0].status.is_none(),
            "{url}"
        );
    }
    assert!(private >= 95, "{private} {other}");
}

#[tokio::test]
async fn names_of_private_addresses_are_refused() {
    for addresses in [
        &["127.0.0.1"][..],
        &["::1"],
        &["169.254.169.254"],
        &["10.1.2.3"],
        &["::ffff:192.168.1.1"],
        &["fd00::1"],
        // One is enough, wherever it stands.
        &["93.184.216.34", "127.0.0.1"],
        &["127.0.0.1", "93.184.216.34"],
    ] {
        let names = Names::of(&[addresses]);
        let lookup = names.clone();
        let out = Out::new(|options| options.lookup = lookup);
        let refused = out.get("http://rebind.example/").await.unwrap_err();
        let host = "rebind.example".to_owned();
        assert_eq!(refused, EgressError::Private { host }, "{addresses:?}");
        assert_eq!(names.rest(), 0, "it was looked up once");
    }
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_asked() {
    let server = Server::start().await;
    // Whoever looks a second time is led astray.
    let names = Names::of(&[&["127.0.0.1"], &["192.0.2.1"]]);
    let lookup = names.clone();
    let out = Out::new(|options| options.lookup = lookup);
    let url = server.url("/");
    let asked = out.get(&url);
    let answered = server.answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let (answer, _) = tokio::join!(asked, answered);
    assert_eq!(text(answer.unwrap().into_body()).await.unwrap(), "ok");
    assert_eq!(names.rest(), 1);
}

#[tokio::test]
async fn redirects_are_the_guests_to_follow() {
    let server = Server::start().await;
    let out = Out::new(|_| {});
    let url = server.url("/");
    let asked = out.get(&url);
    let metadata =
        "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n";
    let (answer, _) = tokio::join!(asked, server.answer(metadata));
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 302);
    let next = answer.headers()["location"].to_str().unwrap();
    let refused = out.get(next).await.unwrap_err();
    assert!(matches!(refused, EgressError::Private { .. }));
}

#[test]
fn public_addresses_are_public() {
    for text in [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.216.34",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "192.167.255.255",
        "192.169.0.1",
        "169.253.255.255",
        "198.17.0.1",
        "198.20.0.1",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
    ] {
        assert!(is_public(text.parse().unwrap()), "{text}");
    }
}
