//! An OpenAI-compatible server on loopback: chat, completions and embeddings, for OpenAI's paths and Azure's.
//!
//! It answers with an echo of what it was asked: the very texts of the server that promptflow's answers were recorded
//! against, so recorded cases can be played to it. A text `[[reply: WORDS]]` in the last message that has one makes the
//! answer WORDS; functions or tools get a call of the first of them; embeddings come from the input's SHA-256; the models
//! `e401` and `e429` fail (the latter once). All else that servers do wrong is a [`Fault`], given beforehand.
//!
//! Only `std`, `serde_json` and `sha2` are used, since tests of guests include this file too.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest request body, in bytes.
const MAX_BODY: u64 = 64 << 20;
/// Characters in one chunk of a stream.
const CHUNK: usize = 40;

/// What the server does wrong with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Answers this status with an error object of this message.
    Status(u16, &'static str),
    /// 429, with this `Retry-After` if there is one.
    RateLimited(Option<&'static str>),
    /// 429 with the type `insufficient_quota`.
    NoQuota,
    /// Answers this instead of an error object or an answer.
    Body {
        /// The answer's.
        status: u16,
        /// All of it, whether or not it is JSON.
        body: &'static str,
        /// The header, if there is one.
        retry_after: Option<&'static str>,
    },
    /// Holds the answer until [`Server::release`].
    Held,
    /// Sends so many chunks of a stream and holds the rest until [`Server::release`].
    HeldInStream(usize),
    /// Sends so many chunks of a stream and closes the connection; what is no stream ends in its middle.
    CutOff(usize),
    /// Closes the connection without an answer.
    NoAnswer,
}

/// What the server was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Null when it is not JSON.
    pub body: Value,
}

impl Request {
    /// A header's value; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map_or("", |(_, value)| value)
    }

    fn model(&self) -> &str {
        self.body["model"].as_str().unwrap_or("m")
    }

    fn is_stream(&self) -> bool {
        self.body["stream"] == true
    }
}

#[derive(Debug, Default)]
struct State {
    faults: VecDeque<Fault>,
    delay: Duration,
    requests: Vec<Request>,
    /// How many times what is held was let go.
    released: u64,
    /// Connections that clients closed before they had their answer.
    abandoned: usize,
    slowed: bool,
}

/// The server; its threads end with the process.
#[derive(Debug, Clone)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Server {
    /// Starts one on a free port.
    #[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::default(),
        };
        let serving = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                // Benches have a thousand connections at once.
                let thread = thread::Builder::new().stack_size(256 << 10);
                let _ = thread.spawn(move || serving.serve(stream));
            }
        });
        server
    }

    /// Where Azure's paths begin: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where OpenAI's paths begin: `http://127.0.0.1:PORT/v1`.
    pub fn v1(&self) -> String {
        format!("{}/v1", self.url())
    }

    /// Does this wrong with the next request that has no other fault before it.
    pub fn fault(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// Waits so long before each answer, as a model does.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Lets go all that is held of the requests so far.
    pub fn release(&self) {
        self.state().released += 1;
        self.shared.1.notify_all();
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// Waits until there were so many requests.
    pub fn wait_for_requests(&self, count: usize) {
        self.wait("requests", |state| state.requests.len() >= count);
    }

    /// Waits until clients have closed so many connections before they had their answers.
    pub fn wait_for_abandoned(&self, count: usize) {
        self.wait("closed connections", |state| state.abandoned >= count);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !is_so(&state) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}: {state:?}");
            let waited = self.shared.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the client stayed until the answer was released; `before` is how often that had happened when it asked.
    fn hold(&self, stream: &TcpStream, before: u64) -> bool {
        let gone = Arc::new(Mutex::new(false));
        if let Ok(watched) = stream.try_clone() {
            let (server, gone) = (self.clone(), Arc::clone(&gone));
            // Ends with the connection, or with the next request, which it leaves where it is.
            thread::spawn(move || {
                if !matches!(watched.peek(&mut [0]), Ok(1..)) {
                    let _state = server.state();
                    *gone.lock().unwrap_or_else(PoisonError::into_inner) = true;
                    server.shared.1.notify_all();
                }
            });
        }
        let is_gone = || *gone.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        while state.released == before && !is_gone() {
            let waited = self.shared.1.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.released != before
    }

    fn serve(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(reading) = stream.try_clone() else {
            return;
        };
        let mut reader = BufReader::new(reading);
        while let Ok(Some(request)) = read_request(&mut reader) {
            let (fault, delay, released) = {
                let mut state = self.state();
                state.requests.push(request.clone());
                self.shared.1.notify_all();
                (state.faults.pop_front(), state.delay, state.released)
            };
            thread::sleep(delay);
            match self.answer(&stream, &request, fault, released) {
                Ok(Next::Request) => {}
                Ok(Next::End) => return,
                Err(_) => {
                    self.state().abandoned += 1;
                    self.shared.1.notify_all();
                    return;
                }
            }
        }
    }

    /// Answers a request. An error means that the client did not wait for the end.
    fn answer(
        &self,
        stream: &TcpStream,
        request: &Request,
        fault: Option<Fault>,
        released: u64,
    ) -> io::Result<Next> {
        let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
        let (mut chunks, mut held) = (usize::MAX, false);
        match fault {
            Some(Fault::Status(status, message)) => {
                let error = json!({ "error": { "message": message, "type": "error", "code": status.to_string() } });
                return send(stream, status, &error.to_string(), &[]);
            }
            Some(Fault::RateLimited(wait)) => return rate_limited(stream, wait),
            Some(Fault::NoQuota) => {
                let error = json!({ "error": { "message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota" } });
                return send(stream, 429, &error.to_string(), &[]);
            }
            Some(Fault::Body {
                status,
                body,
                retry_after,
            }) => {
                let header = retry_after.map(|wait| ("retry-after", wait));
                return send(stream, status, body, header.as_slice());
            }
            Some(Fault::Held) if !self.hold(stream, released) => return Err(gone()),
            Some(Fault::NoAnswer) => return Ok(Next::End),
            Some(Fault::CutOff(count)) => chunks = count,
            Some(Fault::HeldInStream(count)) => (chunks, held) = (count, true),
            Some(Fault::Held) | None => {}
        }
        if request.model() == "e401" || request.path.contains("/e401/") {
            let error = json!({ "error": { "message": "bad key", "type": "auth", "code": "invalid_api_key" } });
            return send(stream, 401, &error.to_string(), &[]);
        }
        if request.model() == "e429" || request.path.contains("/e429/") {
            let was = std::mem::replace(&mut self.state().slowed, true);
            if !was {
                return rate_limited(stream, Some("1"));
            }
        }
        if request.path.contains("/embeddings") {
            return send(stream, 200, &embeddings(request).to_string(), &[]);
        }
        let answer = Answer::to(request);
        if request.is_stream() {
            let mut writer = stream;
            writer.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
            )?;
            for (index, chunk) in answer.chunks(request).iter().enumerate() {
                if index == chunks {
                    if !held {
                        return Ok(Next::End);
                    }
                    if !self.hold(stream, released) {
                        return Err(gone());
                    }
                }
                writer.write_all(format!("data: {chunk}\n\n").as_bytes())?;
            }
            writer.write_all(b"data: [DONE]\n\n")?;
            return Ok(Next::End);
        }
        let body = answer.whole(request).to_string();
        if chunks != usize::MAX && !held {
            let mut writer = stream;
            let half = body.get(..body.len() / 2).unwrap_or_default();
            let head = head(200, body.len(), &[]);
            writer.write_all(format!("{head}{half}").as_bytes())?;
            return Ok(Next::End);
        }
        send(stream, 200, &body, &[])
    }
}

/// What comes after an answer.
#[derive(Debug, Clone, Copy)]
enum Next {
    Request,
    End,
}

fn head(status: u16, length: usize, headers: &[(&str, &str)]) -> String {
    let mut head = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

fn send(
    mut stream: &TcpStream,
    status: u16,
    body: &str,
    headers: &[(&str, &str)],
) -> io::Result<Next> {
    stream.write_all((head(status, body.len(), headers) + body).as_bytes())?;
    Ok(Next::Request)
}

fn rate_limited(stream: &TcpStream, wait: Option<&str>) -> io::Result<Next> {
    let error = json!({ "error": { "message": "slow down", "type": "rate_limit", "code": "429" } });
    let header = wait.map(|wait| ("retry-after", wait));
    send(stream, 429, &error.to_string(), header.as_slice())
}

/// A request, or none when the client is gone.
fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request {
        path,
        headers,
        body: Value::Null,
    };
    let mut body = Vec::new();
    if request.header("transfer-encoding") == "chunked" {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16)
                .unwrap_or(0)
                .min(MAX_BODY);
            reader.take(size).read_to_end(&mut body)?;
            line.clear();
            reader.read_line(&mut line)?;
            if size == 0 {
                break;
            }
        }
    } else {
        let length = request.header("content-length").parse().unwrap_or(0);
        reader.take(length.min(MAX_BODY)).read_to_end(&mut body)?;
    }
    request.body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Some(request))
}

/// The answer to a chat or a completion.
struct Answer {
    content: Option<String>,
    /// More members of the message.
    more: Map<String, Value>,
}

impl Answer {
    fn to(request: &Request) -> Self {
        let body = &request.body;
        if let Some(function) = body["functions"].get(0) {
            let call = json!({ "name": function["name"], "arguments": arguments(&function["parameters"]) });
            return Self::call("function_call", call);
        }
        if let Some(tool) = body["tools"].get(0) {
            let function = &tool["function"];
            let call = json!({ "name": function["name"], "arguments": arguments(&function["parameters"]) });
            let calls = json!([{ "id": "call_1", "type": "function", "function": call }]);
            return Self::call("tool_calls", calls);
        }
        let reply = texts(body)
            .into_iter()
            .rev()
            .find_map(|text| Some(replies(text)?.to_owned()));
        Self {
            content: Some(reply.unwrap_or_else(|| echo(request))),
            more: Map::new(),
        }
    }

    fn call(kind: &str, call: Value) -> Self {
        Self {
            content: None,
            more: Map::from_iter([(kind.to_owned(), call)]),
        }
    }

    fn finish(&self) -> &str {
        self.more.keys().next().map_or("stop", String::as_str)
    }

    fn base(request: &Request, object: &str, choice: Value) -> Value {
        json!({ "id": "c1", "created": 1, "model": request.model(), "object": object, "choices": [choice] })
    }

    fn whole(&self, request: &Request) -> Value {
        let mut choice = json!({ "index": 0, "finish_reason": self.finish() });
        let object = if is_chat(request) {
            choice["message"] = json!({ "role": "assistant", "content": self.content });
            for (name, value) in &self.more {
                choice["message"][name] = value.clone();
            }
            "chat.completion"
        } else {
            choice["text"] = json!(self.content);
            choice["logprobs"] = Value::Null;
            "text_completion"
        };
        let mut answer = Self::base(request, object, choice);
        answer["usage"] =
            json!({ "prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15 });
        answer
    }

    fn chunks(&self, request: &Request) -> Vec<Value> {
        let content: Vec<char> = self.content.iter().flat_map(|text| text.chars()).collect();
        let count = content.chunks(CHUNK).len();
        let chunks = content.chunks(CHUNK).enumerate().map(|(index, letters)| {
            let text: String = letters.iter().collect();
            let finish = (index + 1 == count).then(|| self.finish());
            let mut choice = json!({ "index": 0, "finish_reason": finish });
            let object = if is_chat(request) {
                choice["delta"] = json!({ "role": "assistant", "content": text });
                "chat.completion.chunk"
            } else {
                choice["text"] = json!(text);
                choice["logprobs"] = Value::Null;
                "text_completion"
            };
            Self::base(request, object, choice)
        });
        chunks.collect()
    }
}

fn is_chat(request: &Request) -> bool {
    request.path.contains("/chat/")
}

/// What was asked, as the recording server wrote it.
fn echo(request: &Request) -> String {
    let auth = request.header("authorization").to_lowercase();
    let auth = if auth.starts_with("bearer") {
        "bearer"
    } else if !request.header("api-key").is_empty() {
        "api-key"
    } else {
        "none"
    };
    let mut asked = request.body.as_object().cloned().unwrap_or_default();
    asked.remove("stream");
    for value in asked.values_mut() {
        shorten(value);
    }
    let echo = json!({ "path": request.path, "auth": auth, "request": asked });
    let mut text = String::new();
    python_json(
        &mut text,
        &echo,
        &Style {
            sorted: true,
            ascii: false,
        },
    );
    text
}

/// Replaces texts of more than 240 characters by what tells them apart.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => {
            let length = text.chars().count();
            if length > 240 {
                let head: String = text.chars().take(60).collect();
                let tail: String = text.chars().skip(length - 60).collect();
                let hash: String = hex(&Sha256::digest(text.as_bytes()))
                    .chars()
                    .take(32)
                    .collect();
                *value = json!({ "head": head, "tail": tail, "len": length, "sha256": hash });
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(members) => members.values_mut().for_each(shorten),
        _ => {}
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All texts of a request, in order.
fn texts(body: &Value) -> Vec<&str> {
    let messages = body["messages"].as_array();
    let contents = messages
        .into_iter()
        .flatten()
        .map(|message| &message["content"]);
    let parts = contents
        .chain([&body["prompt"]])
        .flat_map(|content| match content {
            Value::Array(parts) => parts.iter().collect(),
            one => vec![one],
        });
    parts
        .filter_map(|part| part.as_str().or_else(|| part["text"].as_str()))
        .collect()
}

/// The last `[[reply: …]]` in a text.
fn replies(text: &str) -> Option<&str> {
    let (mut rest, mut last) = (text, None);
    while let Some((_, after)) = rest.split_once("[[reply: ") {
        let Some((words, after)) = after.split_once("]]") else {
            break;
        };
        (last, rest) = (Some(words), after);
    }
    last
}

/// A call's arguments, made up from their schema, as JSON text.
fn arguments(schema: &Value) -> String {
    let mut made = Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let value = match (&property["enum"], property["type"].as_str()) {
            (Value::Array(values), _) => values.first().cloned().unwrap_or_default(),
            (_, Some("integer")) => json!(3),
            (_, Some("number")) => json!(1.5),
            (_, Some("boolean")) => json!(true),
            (_, Some("array")) => json!([]),
            (_, Some("object")) => json!({}),
            _ => json!(format!("{name}-value")),
        };
        made.insert(name.clone(), value);
    }
    let mut text = String::new();
    python_json(
        &mut text,
        &Value::Object(made),
        &Style {
            sorted: false,
            ascii: true,
        },
    );
    text
}

fn embeddings(request: &Request) -> Value {
    let items = match &request.body["input"] {
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    };
    let data = items.iter().enumerate().map(|(index, item)| {
        let mut text = String::new();
        python_json(
            &mut text,
            item,
            &Style {
                sorted: false,
                ascii: true,
            },
        );
        let numbers: Vec<f64> = Sha256::digest(text.as_bytes())
            .iter()
            .take(8)
            .map(|byte| f64::from(*byte) / 256.0)
            .collect();
        json!({ "object": "embedding", "index": index, "embedding": numbers })
    });
    let data: Vec<Value> = data.collect();
    json!({ "object": "list", "model": request.model(), "data": data, "usage": { "prompt_tokens": 3, "total_tokens": 3 } })
}

/// How Python's `json.dumps` was called.
struct Style {
    sorted: bool,
    ascii: bool,
}

/// Python's `json.dumps`, with its spaces.
fn python_json(out: &mut String, value: &Value, style: &Style) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                python_json(out, item, style);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            if style.sorted {
                members.sort_by_key(|(name, _)| *name);
            }
            out.push('{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                python_json(out, &Value::String(name.clone()), style);
                out.push_str(": ");
                python_json(out, member, style);
            }
            out.push('}');
        }
        Value::String(text) if style.ascii => {
            for letter in Value::from(text.as_str()).to_string().chars() {
                if letter.is_ascii() {
                    out.push(letter);
                } else {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn ask(server: &Server, stream: bool) -> TcpStream {
        let mut client = TcpStream::connect(server.address).unwrap();
        let body = json!({ "model": "m", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] }).to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.write_all((head + &body).as_bytes()).unwrap();
        client
    }

    fn line(client: &TcpStream) -> String {
        let mut line = String::new();
        let mut reader = BufReader::with_capacity(1, client);
        reader.read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn what_is_held_waits_for_its_release() {
        let server = Server::start();
        server.fault(Fault::Held);
        let client = ask(&server, false);
        server.wait_for_requests(1);
        server.release();
        assert_eq!(line(&client), "HTTP/1.1 200 Status\r\n");
        assert_eq!(server.requests()[0].body["model"], "m");
    }

    #[test]
    fn a_client_that_leaves_is_noticed() {
        let server = Server::start();
        server.fault(Fault::Held);
        let client = ask(&server, false);
        server.wait_for_requests(1);
        drop(client);
        server.wait_for_abandoned(1);
        server.fault(Fault::HeldInStream(1));
        let client = ask(&server, true);
        while !line(&client).starts_with("data: ") {}
        drop(client);
        server.wait_for_abandoned(2);
    }

    #[test]
    fn a_connection_takes_one_request_after_the_other() {
        let server = Server::start();
        server.fault(Fault::Held);
        let client = ask(&server, false);
        server.wait_for_requests(1);
        server.release();
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let mut answer = |client: &mut TcpStream| {
            client
                .write_all(b"POST /v1/embeddings HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"inp\r\n8\r\nut\":\"x\"}\r\n0\r\n\r\n")
                .unwrap();
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    return serde_json::from_slice::<Value>(&body).unwrap();
                }
            }
        };
        let mut client = client;
        assert_eq!(answer(&mut client)["object"], "chat.completion");
        assert_eq!(
            answer(&mut client)["data"][0]["embedding"]
                .as_array()
                .unwrap()
                .len(),
            8
        );
    }
}
