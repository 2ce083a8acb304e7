//! What tools need of the world: HTTP, a clock, and somebody who takes what comes before the answer.
//!
//! All logic is written against [`Host`], so that it is tested without WebAssembly.

use std::time::Duration;

use serde_json::Value;

#[cfg(target_family = "wasm")]
pub mod wasi;

/// Largest answer, in bytes.
pub const MAX_ANSWER: usize = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    /// With scheme and host; spaces and the like are escaped.
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkError {
    TimedOut,
    /// Anything else: not found, refused, not allowed, cut off.
    Connection(String),
}

impl std::fmt::Display for NetworkError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut => formatter.write_str("the server did not answer in time"),
            Self::Connection(why) => formatter.write_str(why),
        }
    }
}

/// An answer, of which the body may not have come yet.
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// What has come each time that something came.
    pub body: Box<dyn Iterator<Item = Result<Vec<u8>, NetworkError>>>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The whole body as text; what is not UTF-8 is replaced.
    pub fn text(self) -> Result<String, NetworkError> {
        let mut bytes = Vec::new();
        for part in self.body {
            bytes.extend(part?);
            if bytes.len() > MAX_ANSWER {
                let why =
                    format!("the answer has more than {MAX_ANSWER} bytes, which is the limit");
                return Err(NetworkError::Connection(why));
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The world outside.
pub trait Host {
    /// Sends a request and waits for the head of its answer.
    fn send(&self, request: Request) -> Result<Response, NetworkError>;
    fn sleep(&self, time: Duration);
    /// Hands over a part of the call's answer.
    fn emit(&self, part: &Value);
    /// Begins a span of the call's trace; its number. The attributes are an object.
    fn start_span(&self, name: &str, attributes: &Value) -> u64;
    /// Ends a span, with further attributes, and why it failed if it did.
    fn end_span(&self, span: u64, attributes: &Value, error: Option<&str>);
    /// Whether a span's attributes may hold what was asked and answered.
    fn records_content(&self) -> bool;
}

/// A text as part of a URL: letters, digits and `-._~` stay, and what is in `also`.
pub fn escaped(text: &str, also: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let letter = char::from(byte);
        if letter.is_ascii_alphanumeric()
            || "-._~".contains(letter)
            || (byte < 128 && also.contains(letter))
        {
            out.push(letter);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
