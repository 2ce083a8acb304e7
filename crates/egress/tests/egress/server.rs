//! A server that a test plays itself, and ways out that lead to it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use flowcell_egress::{
    Auditor, Body, Egress, EgressError, EgressOptions, Exchange, Gate, Limits, Lookup, Policy,
    Rule, Secret, Secrets, Times, Tls,
};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

static TLS: LazyLock<Arc<Tls>> = LazyLock::new(Arc::default);

pub(crate) struct Server {
    listener: TcpListener,
    pub(crate) port: u16,
}

/// A connection, of which the test reads requests, and writes what it likes.
pub(crate) struct Connection(TcpStream);

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://api.example:{}{path}", self.port)
    }

    pub(crate) async fn accept(&self) -> Connection {
        Connection(self.listener.accept().await.unwrap().0)
    }

    /// Answers one request, and gives its text.
    pub(crate) async fn answer(&self, answer: &str) -> String {
        let mut connection = self.accept().await;
        let request = connection.request().await;
        connection.write(answer).await;
        request
    }
}

impl Connection {
    /// A whole request, head and body.
    pub(crate) async fn request(&mut self) -> String {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        loop {
            let count = self.0.read(&mut buffer).await.unwrap();
            text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                assert!(count > 0, "{text}");
                continue;
            };
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            let is_chunked = head.contains("transfer-encoding: chunked");
            if (is_chunked && body.ends_with("0\r\n\r\n")) || (!is_chunked && body.len() >= length)
            {
                return text;
            }
            assert!(count > 0, "{text}");
        }
    }

    pub(crate) async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Returns when the other side has closed it.
    pub(crate) async fn closed(&mut self) {
        let mut buffer = [0; 64];
        loop {
            match self.0.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

/// Names have the addresses that a test gives them, look-up after look-up; the last stay.
#[derive(Debug)]
pub(crate) struct Names(Mutex<Vec<Vec<IpAddr>>>);

impl Names {
    pub(crate) fn of(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self(Mutex::new(answers.iter().map(parse).collect())))
    }

    pub(crate) fn rest(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[async_trait::async_trait]
impl Lookup for Names {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let mut answers = self.0.lock().unwrap();
        if answers.is_empty() {
            return Err(io::Error::other(format!("nobody knows {host}")));
        }
        Ok(answers.remove(0))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Audit(Mutex<Vec<Exchange>>);

impl Audit {
    /// What was told since the last time.
    pub(crate) fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Auditor for Audit {
    fn record(&self, exchange: Exchange) {
        self.0.lock().unwrap().push(exchange);
    }
}

/// A way out to all hosts, of which those on loopback may be asked that are called `api.example` or `other.example`.
pub(crate) struct Out {
    pub(crate) gate: Arc<Gate>,
    pub(crate) egress: Arc<Egress>,
    pub(crate) audit: Arc<Audit>,
}

pub(crate) fn options(audit: &Arc<Audit>) -> EgressOptions {
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    EgressOptions {
        policy: Policy {
            rules: vec![(
                "the server",
                Rule {
                    allowed_hosts: Some(patterns(&["*:*"])),
                    ..Rule::default()
                },
            )],
            private: patterns(&["api.example:*", "other.example:*"]),
            ..Policy::default()
        },
        limits: Limits::default(),
        lookup: Names::of(&[&["127.0.0.1"][..]; 100]),
        tls: Arc::clone(&TLS),
        auditor: Arc::clone(audit) as Arc<dyn Auditor>,
    }
}

impl Out {
    pub(crate) fn new(change: impl FnOnce(&mut EgressOptions)) -> Self {
        Self::knowing(Secrets::default(), change)
    }

    /// A way out that knows some secrets.
    pub(crate) fn knowing(secrets: Secrets, change: impl FnOnce(&mut EgressOptions)) -> Self {
        let audit = Arc::new(Audit::default());
        let mut options = options(&audit);
        change(&mut options);
        let gate = Gate::new(options);
        Self {
            egress: Egress::new(Arc::clone(&gate), Arc::new(secrets)),
            gate,
            audit,
        }
    }

    /// A way out that knows one secret, which may go to some addresses.
    pub(crate) fn with_secret(value: &str, origins: &[&str]) -> Self {
        let secrets = Secrets::new([secret(value, origins)], Vec::new());
        Self::knowing(secrets, |_| {})
    }

    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<http::Response<Body>, EgressError> {
        self.egress
            .send(request, Some("node"), Times::default())
            .await
    }

    pub(crate) async fn get(&self, url: &str) -> Result<http::Response<Body>, EgressError> {
        self.send(get(url)).await
    }
}

/// What a guest has in the secret's place.
pub(crate) const TOKEN: &str = "flowcell-secret-0123456789abcdef0123456789abcdef";

pub(crate) fn secret(value: &str, origins: &[&str]) -> Secret {
    Secret {
        placeholder: TOKEN.to_owned(),
        value: value.to_owned(),
        connection: "mine".to_owned(),
        origins: origins.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

pub(crate) fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

pub(crate) async fn text(body: Body) -> Result<String, EgressError> {
    let bytes = body.collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}
