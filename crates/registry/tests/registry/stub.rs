//! A registry of the test's own, which answers what the test wants, byte by byte.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// By names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What is answered. The connection ends with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// What `Content-Length` says, if not the truth; `Some(None)` leaves it out.
    length: Option<Option<usize>>,
    /// Whether the connection is held after the answer, or in its place.
    hangs: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Announces another length than the body has.
    pub(crate) fn announcing(mut self, length: usize) -> Self {
        self.length = Some(Some(length));
        self
    }

    /// The end of the connection is the end of the body.
    pub(crate) fn unannounced(mut self) -> Self {
        self.length = Some(None);
        self
    }

    /// Nothing more comes, and the connection stays.
    pub(crate) fn hanging(mut self) -> Self {
        self.hangs = true;
        self
    }

    fn head(&self, method: &str) -> Vec<u8> {
        if self.status == 0 {
            return Vec::new();
        }
        let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", self.status);
        let length = match self.length {
            None if method == "HEAD" && self.body.is_empty() => None,
            None => Some(self.body.len()),
            Some(length) => length,
        };
        if let Some(length) = length {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// The registry. It ends with the test's runtime.
#[derive(Debug, Clone)]
pub(crate) struct Stub {
    /// `127.0.0.1:port`.
    pub(crate) registry: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    /// One that answers so. The second argument is how many requests came before.
    pub(crate) async fn start(
        answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_tls(answer, None).await
    }

    /// The same with TLS.
    pub(crate) async fn start_tls(
        answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Self {
            registry: listener.local_addr().unwrap().to_string(),
            asked: Arc::default(),
        };
        let answer = Arc::new(answer);
        let asked = Arc::clone(&stub.asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, asked, tls) = (Arc::clone(&answer), Arc::clone(&asked), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => converse(stream, &asked, &*answer).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => converse(stream, &asked, &*answer).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        stub
    }

    /// All that came so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// One request and its answer. `None` when the other side has gone.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    asked: &Mutex<Vec<Asked>>,
    answer: &(dyn Fn(&Asked, usize) -> Reply + Send + Sync),
) -> Option<()> {
    let request = read(&mut stream).await?;
    let before = {
        let mut asked = asked.lock().unwrap();
        asked.push(request.clone());
        asked.len() - 1
    };
    let reply = answer(&request, before);
    let head = reply.head(&request.method);
    stream.write_all(&head).await.ok()?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body).await.ok()?;
    }
    stream.flush().await.ok()?;
    if reply.hangs {
        // Until the client has enough of it.
        let _ = stream.read(&mut [0; 1]).await;
    }
    stream.shutdown().await.ok()
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(head + 4);
    let head = String::from_utf8(bytes).ok()?;
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length");
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Asked {
        method,
        path,
        headers,
        body,
    })
}
