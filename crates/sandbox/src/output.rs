//! What a guest prints.

use std::sync::{Arc, Mutex, PoisonError};

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

/// One of a guest's output streams: keeps the first `limit` bytes since the last [`Capture::take`] and drops the rest,
/// because a tool that prints too much is not a tool that failed.
#[derive(Debug, Clone)]
pub(crate) struct Capture {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    kept: Vec<u8>,
    dropped: u64,
    limit: usize,
}

impl Capture {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                kept: Vec::new(),
                dropped: 0,
                limit,
            })),
        }
    }

    pub(crate) fn append(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let room = state
            .limit
            .saturating_sub(state.kept.len())
            .min(bytes.len());
        state.kept.extend_from_slice(&bytes[..room]);
        state.dropped += (bytes.len() - room) as u64;
    }

    /// The text since the last call, with a last line that says how much is missing, if anything is.
    pub(crate) fn take(&self) -> String {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.kept.is_empty() && state.dropped == 0 {
            return String::new();
        }
        let kept = std::mem::take(&mut state.kept);
        let dropped = std::mem::take(&mut state.dropped);
        let mut text = match String::from_utf8(kept) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        if dropped > 0 {
            text.push_str(&format!(
                "\n[{dropped} more bytes were printed; the limit is {} bytes]\n",
                state.limit
            ));
        }
        text
    }
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
