//! Hosts for tests: one that speaks HTTP over TCP, and one whose answers are given.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use promptflow_tools::http::{Host, Method, NetworkError, Request, Response};
use serde_json::{Value, json};

/// A host with a network. It sleeps no time, and remembers for how long it should have.
#[derive(Default)]
pub struct Tcp {
    pauses: RefCell<Vec<Duration>>,
    emitted: RefCell<Vec<Value>>,
    spans: RefCell<Vec<Value>>,
    /// Whether spans hold what was asked and answered.
    pub records_content: bool,
}

impl Tcp {
    pub fn pauses(&self) -> Vec<Duration> {
        self.pauses.borrow().clone()
    }

    /// The parts of answers that were handed over.
    pub fn emitted(&self) -> Vec<Value> {
        self.emitted.borrow().clone()
    }

    /// The spans with their names, attributes, and errors if they have ended with one.
    pub fn spans(&self) -> Vec<Value> {
        self.spans.borrow().clone()
    }
}

impl Host for Tcp {
    fn send(&self, request: Request) -> Result<Response, NetworkError> {
        exchange(&request).map_err(|error| NetworkError::Connection(error.to_string()))
    }

    fn sleep(&self, time: Duration) {
        self.pauses.borrow_mut().push(time);
    }

    fn emit(&self, part: &Value) {
        self.emitted.borrow_mut().push(part.clone());
    }

    fn start_span(&self, name: &str, attributes: &Value) -> u64 {
        let mut spans = self.spans.borrow_mut();
        spans.push(json!({ "name": name, "attributes": attributes }));
        spans.len() as u64 - 1
    }

    fn end_span(&self, span: u64, attributes: &Value, error: Option<&str>) {
        let span = &mut self.spans.borrow_mut()[span as usize];
        assert!(span["ended"].is_null(), "{span} ends twice");
        for (name, value) in attributes.as_object().expect("an object") {
            span["attributes"][name] = value.clone();
        }
        span["ended"] = true.into();
        if let Some(error) = error {
            span["error"] = error.into();
        }
    }

    fn records_content(&self) -> bool {
        self.records_content
    }
}

fn exchange(request: &Request) -> std::io::Result<Response> {
    let ended = || std::io::Error::other("Server disconnected without sending a response.");
    let rest = request
        .url
        .strip_prefix("http://")
        .ok_or_else(|| std::io::Error::other("only http"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(authority)?;
    let method = if request.method == Method::Get {
        "GET"
    } else {
        "POST"
    };
    let mut head = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {authority}\r\ncontent-length: {}\r\n",
        request.body.len()
    );
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&request.body)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(ended)?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut left: Option<usize> = length.and_then(|(_, value)| value.parse().ok());
    // A few bytes at a time, so that letters and lines come in pieces.
    let body = std::iter::from_fn(move || {
        let mut buffer = [0; 7];
        if left == Some(0) {
            return None;
        }
        match (reader.read(&mut buffer), &mut left) {
            (Err(error), _) => Some(Err(NetworkError::Connection(error.to_string()))),
            (Ok(0), Some(_)) => {
                left = Some(0);
                Some(Err(NetworkError::Connection("cut off".to_owned())))
            }
            (Ok(0), None) => None,
            (Ok(count), left) => {
                *left = left.map(|left| left.saturating_sub(count));
                Some(Ok(buffer[..count].to_vec()))
            }
        }
    });
    Ok(Response {
        status,
        headers,
        body: Box::new(body),
    })
}

/// A host whose every answer is the same.
pub struct Scripted {
    status: u16,
    body: String,
    requests: RefCell<Vec<Request>>,
    pauses: RefCell<Vec<Duration>>,
}

impl Scripted {
    pub fn always(status: u16, body: &str) -> Self {
        Self {
            status,
            body: body.to_owned(),
            requests: RefCell::default(),
            pauses: RefCell::default(),
        }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.borrow().clone()
    }

    pub fn pauses(&self) -> Vec<Duration> {
        self.pauses.borrow().clone()
    }
}

impl Host for Scripted {
    fn send(&self, request: Request) -> Result<Response, NetworkError> {
        self.requests.borrow_mut().push(request);
        let body = std::iter::once(Ok(self.body.clone().into_bytes()));
        Ok(Response {
            status: self.status,
            headers: Vec::new(),
            body: Box::new(body),
        })
    }

    fn sleep(&self, time: Duration) {
        self.pauses.borrow_mut().push(time);
    }

    fn emit(&self, _: &Value) {}

    fn start_span(&self, _: &str, _: &Value) -> u64 {
        0
    }

    fn end_span(&self, _: u64, _: &Value, _: Option<&str>) {}

    fn records_content(&self) -> bool {
        false
    }
}
