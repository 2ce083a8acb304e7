//! What a guest prints.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// What one call printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logs {
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Lines that it logged: `level: message`.
    pub log: String,
}

/// Where a guest prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The host's log, whose lines are `level: message`.
    Log,
}

impl Stream {
    /// `stdout`, `stderr` or `log`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Log => "log",
        }
    }
}

/// Hears what a guest prints while it prints it: in pieces of whole characters which together are the text of the
/// stream in [`Logs`].
///
/// It is called on the thread on which the guest runs, which stands still meanwhile.
pub type Listener = Arc<dyn Fn(Stream, &str) + Send + Sync>;

/// One of a guest's output streams: keeps the first `limit` bytes since the last [`Capture::take`] and drops the rest,
/// because a tool that prints too much is not a tool that failed.
#[derive(Clone)]
pub(crate) struct Capture {
    state: Arc<Mutex<State>>,
}

struct State {
    stream: Stream,
    kept: Vec<u8>,
    dropped: u64,
    limit: usize,
    listener: Option<Listener>,
    /// How many of the kept bytes the listener has heard.
    heard: usize,
}

impl Capture {
    pub(crate) fn new(stream: Stream, limit: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                stream,
                kept: Vec::new(),
                dropped: 0,
                limit,
                listener: None,
                heard: 0,
            })),
        }
    }

    pub(crate) fn listen(&self, listener: Option<Listener>) {
        self.lock().listener = listener;
    }

    pub(crate) fn append(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let room = state
            .limit
            .saturating_sub(state.kept.len())
            .min(bytes.len());
        state.kept.extend_from_slice(&bytes[..room]);
        state.dropped += (bytes.len() - room) as u64;
        if state.listener.is_some() {
            let end = state.kept.len() - unfinished(&state.kept[state.heard..]);
            state.tell(end);
        }
    }

    /// The text since the last call, with a last line that says how much is missing, if anything is.
    pub(crate) fn take(&self) -> String {
        let mut state = self.lock();
        if state.kept.is_empty() && state.dropped == 0 {
            return String::new();
        }
        let end = state.kept.len();
        state.tell(end);
        state.heard = 0;
        let kept = std::mem::take(&mut state.kept);
        let dropped = std::mem::take(&mut state.dropped);
        let mut text = match String::from_utf8(kept) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        if dropped > 0 {
            let missing = format!(
                "\n[{dropped} more bytes were printed; the limit is {} bytes]\n",
                state.limit
            );
            if let Some(listener) = &state.listener {
                listener(state.stream, &missing);
            }
            text.push_str(&missing);
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets the listener hear the kept bytes before `end`.
    fn tell(&mut self, end: usize) {
        if let Some(listener) = &self.listener
            && self.heard < end
        {
            let text = String::from_utf8_lossy(&self.kept[self.heard..end]);
            listener(self.stream, &text);
            self.heard = end;
        }
    }
}

/// How many bytes at the end are the beginning of a character whose rest may be still to come.
fn unfinished(bytes: &[u8]) -> usize {
    // No character has more than four bytes, so the part in question begins in the last three.
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    (0..tail.len())
        .map(|start| &tail[start..])
        .find(|tail| {
            str::from_utf8(tail)
                .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .map_or(0, <[u8]>::len)
}

impl IsTerminal for Capture {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Capture {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Capture {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Capture {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.append(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        // Any permit would do, since nothing is ever refused; this one bounds what the guest hands over at once.
        Ok(64 << 10)
    }
}

impl AsyncWrite for Capture {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.append(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    /// What a listener hears of these writes, and the text in the end.
    fn hear(limit: usize, writes: &[&[u8]]) -> (Vec<String>, String) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let capture = Capture::new(Stream::Stdout, limit);
        let pieces = Arc::clone(&heard);
        capture.listen(Some(Arc::new(move |_, text: &str| {
            pieces.lock().unwrap().push(text.to_owned());
        })));
        for write in writes {
            capture.append(write);
        }
        let text = capture.take();
        let heard = heard.lock().unwrap().clone();
        (heard, text)
    }

    #[test]
    fn characters_are_heard_whole() {
        let text = "aé€😀z".as_bytes();
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(hear(100, &bytes).0, ["a", "é", "€", "😀", "z"]);
        assert_eq!(hear(100, &[&text[..4], &text[4..]]).0, ["aé", "€😀z"]);
    }

    #[test]
    fn what_is_heard_is_what_is_kept() {
        let euro = "€".as_bytes();
        let cases: [(usize, &[&[u8]]); 6] = [
            // The rest of a character that never comes, or that comes after something else.
            (100, &[b"a", &euro[..2]]),
            (100, &[&euro[..2], b"a", &euro[2..]]),
            (100, &[b"\xff\xfe", b"\xf0\x9f", b"\x98", b"\xf0"]),
            // The limit is in the middle of a character.
            (4, &[b"ab", euro, euro]),
            (0, &[b"ab"]),
            (100, &[]),
        ];
        for (limit, writes) in cases {
            let (heard, text) = hear(limit, writes);
            assert_eq!(heard.concat(), text, "{writes:?}");
        }
    }
}
