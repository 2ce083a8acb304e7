//! Answers that come bit by bit: server-sent events, and the texts in them.

use serde_json::Value;

use crate::failure::Failure;
use crate::http::{Host, MAX_ANSWER, NetworkError};
use crate::openai::error::CallError;
use crate::openai::not_json;
use crate::openai::span::Span;

/// What comes over the network, as it comes.
pub type Parts = Box<dyn Iterator<Item = Result<Vec<u8>, NetworkError>>>;

/// The data of events (`text/event-stream`). An event that the end cuts off is dropped, as the standard has it.
pub struct Events {
    parts: Parts,
    buffer: Vec<u8>,
    /// How much of the buffer has been read.
    read: usize,
    /// Of the event that is being read; none before its first line.
    data: Option<String>,
}

impl Events {
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            buffer: Vec::new(),
            read: 0,
            data: None,
        }
    }

    /// The next line, without its end; none at the end of all.
    fn line(&mut self) -> Result<Option<String>, Failure> {
        let mut seen = self.read;
        loop {
            let rest = self.buffer.get(seen..).unwrap_or_default();
            if let Some(found) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                let end = seen + found;
                // A line may end with CR and LF, of which the second may not have come yet.
                let is_lone_cr = self.buffer.get(end) == Some(&b'\r');
                let next = match (is_lone_cr, self.buffer.get(end + 1)) {
                    (true, Some(b'\n')) => Some(end + 2),
                    (true, None) => None,
                    _ => Some(end + 1),
                };
                if let Some(next) = next {
                    let line = self.buffer.get(self.read..end).unwrap_or_default();
                    let line = String::from_utf8_lossy(line).into_owned();
                    self.read = next;
                    return Ok(Some(line));
                }
                seen = end;
            } else {
                seen = self.buffer.len();
            }
            self.buffer.drain(..self.read);
            seen -= std::mem::take(&mut self.read);
            match self.parts.next() {
                Some(part) => self.buffer.extend(part.map_err(|error| cut_off(&error))?),
                None => return Ok(None),
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(too_large());
            }
        }
    }

    fn event(&mut self) -> Result<Option<String>, Failure> {
        while let Some(line) = self.line()? {
            if line.is_empty() {
                if self.data.is_some() {
                    return Ok(self.data.take());
                }
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            if name == "data" {
                let value = value.strip_prefix(' ').unwrap_or(value);
                match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                        if data.len() > MAX_ANSWER {
                            return Err(too_large());
                        }
                    }
                    None => self.data = Some(value.to_owned()),
                }
            }
        }
        Ok(None)
    }
}

impl Iterator for Events {
    type Item = Result<String, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.event().transpose()
    }
}

/// The texts of a chat's or a completion's stream, in order.
pub struct Chunks<'h> {
    host: &'h dyn Host,
    span: Span<'h>,
    events: Events,
    ended: bool,
}

impl<'h> Chunks<'h> {
    pub fn new(host: &'h dyn Host, span: Span<'h>, parts: Parts) -> Self {
        Self {
            host,
            span,
            events: Events::new(parts),
            ended: false,
        }
    }

    fn chunk(&mut self) -> Result<Option<String>, Failure> {
        for event in self.events.by_ref() {
            let event = event?;
            if event.starts_with("[DONE]") {
                return Ok(None);
            }
            let chunk: Value = serde_json::from_str(&event).map_err(|error| not_json(&error))?;
            if crate::coerce::is_true(&chunk["error"]) {
                let message = chunk["error"]["message"]
                    .as_str()
                    .filter(|text| !text.is_empty());
                let message = message.unwrap_or("An error occurred during streaming");
                return Err(Failure::python("APIError", message));
            }
            self.span.answered(&chunk);
            if let Some(choice) = chunk["choices"].get(0) {
                let text = choice["text"]
                    .as_str()
                    .or(choice["delta"]["content"].as_str());
                return Ok(Some(text.unwrap_or_default().to_owned()));
            }
        }
        eprintln!("The stream ended without a last event; the answer may be incomplete.");
        Ok(None)
    }

    /// Hands over each text when it comes; all of them as one.
    pub fn joined(mut self) -> Result<String, Failure> {
        let mut text = String::new();
        let mut ended = Ok(());
        while let Some(chunk) = self.next() {
            match chunk {
                Ok(chunk) if text.len() + chunk.len() > MAX_ANSWER => ended = Err(too_large()),
                Ok(chunk) => {
                    text.push_str(&chunk);
                    self.host.emit(&chunk.into());
                    continue;
                }
                Err(failure) => ended = Err(failure),
            }
            break;
        }
        self.span.streamed(&text);
        match ended {
            Ok(()) => Ok(text),
            Err(failure) => {
                let error = CallError::Other(failure.clone());
                self.span.failed(&error);
                Err(failure)
            }
        }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<String, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let chunk = self.chunk().transpose();
        self.ended = !matches!(chunk, Some(Ok(_)));
        chunk
    }
}

fn cut_off(error: &NetworkError) -> Failure {
    match error {
        NetworkError::TimedOut => Failure::python("ReadTimeout", "The read operation timed out"),
        NetworkError::Connection(why) => Failure::python("RemoteProtocolError", why.as_str()),
    }
}

fn too_large() -> Failure {
    Failure::python(
        "ValueError",
        format!("the answer has more than {MAX_ANSWER} bytes, which is the limit"),
    )
}
