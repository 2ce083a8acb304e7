//! Parts of an answer that leave a guest while it works on the rest.

use tokio::sync::mpsc;

use crate::json::is_python_json;

/// A call has handed out more than an answer may have.
#[derive(Debug, thiserror::Error)]
#[error("more was handed out than an answer may have")]
pub(crate) struct TooMuch;

/// Where a guest's parts go.
pub(crate) struct Emitter {
    taker: Option<mpsc::Sender<String>>,
    /// Bytes that the taker may still be given.
    room: usize,
    limit: usize,
}

impl Emitter {
    /// An emitter without a taker; one taker gets `limit` bytes at most.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            taker: None,
            room: limit,
            limit,
        }
    }

    pub(crate) fn give_to(&mut self, taker: Option<mpsc::Sender<String>>) {
        self.taker = taker;
        self.room = self.limit;
    }

    pub(crate) async fn emit(&mut self, part: String) -> wasmtime::Result<()> {
        let Some(taker) = &self.taker else {
            return Ok(());
        };
        self.room = self.room.checked_sub(part.len()).ok_or(TooMuch)?;
        if !is_python_json(&part) {
            return Err(wasmtime::format_err!("a part of an answer must be JSON"));
        }
        let taken = taker.send(part).await;
        taken.map_err(|_| wasmtime::format_err!("nobody takes the answer any more"))
    }
}
