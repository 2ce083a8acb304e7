//! An authority that gives tokens by OAuth 2.0's client credentials, as Microsoft Entra ID does.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The authority; its threads end with the process.
#[derive(Debug, Clone)]
pub struct Authority {
    url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    answers: VecDeque<(u16, String)>,
    asked: Vec<(String, String)>,
}

impl Authority {
    /// Starts one on a free port.
    #[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let authority = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            state: Arc::default(),
        };
        let serving = authority.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(stream));
            }
        });
        authority
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Gives this token next, which holds so many seconds.
    pub fn gives(&self, token: &str, seconds: u64) {
        let body = format!(
            "{{\"token_type\": \"Bearer\", \"expires_in\": {seconds}, \"access_token\": \"{token}\"}}"
        );
        self.answers(200, &body);
    }

    /// Answers this next. Without anything to answer, it refuses.
    pub fn answers(&self, status: u16, body: &str) {
        self.state().answers.push_back((status, body.to_owned()));
    }

    /// The path and the form of each request so far.
    pub fn asked(&self) -> Vec<(String, String)> {
        self.state().asked.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut writer = stream;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let path = line.split(' ').nth(1)?.to_owned();
            let mut length = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).ok()?;
                let header = header.trim_end().to_ascii_lowercase();
                if header.is_empty() {
                    break;
                }
                if let Some(value) = header.strip_prefix("content-length:") {
                    length = value.trim().parse().ok()?;
                }
            }
            let mut form = vec![0; length];
            reader.read_exact(&mut form).ok()?;
            let (status, body) = {
                let mut state = self.state();
                let form = String::from_utf8_lossy(&form).into_owned();
                state.asked.push((path, form));
                state.answers.pop_front().unwrap_or_else(|| {
                    let body = "{\"error\": \"invalid_client\", \"error_description\": \"AADSTS7000215: the secret is wrong.\\r\\nTrace ID: 1\"}";
                    (401, body.to_owned())
                })
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} Some\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            );
            writer.write_all(head.as_bytes()).ok()?;
            writer.write_all(body.as_bytes()).ok()?;
        }
    }
}
