//! Parts of an answer on their way from the guests to whoever asked. What is under way of one answer fits in a window, so a
//! client that reads slowly holds up its guest, and nothing piles up in between.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

/// Bytes of one answer's parts that may be under way. One larger part may be, alone.
pub(crate) const WINDOW: usize = 64 << 10;

/// A part of an answer, as it goes out. It makes room for another when it is dropped.
pub struct Part {
    /// The text.
    pub text: String,
    make_room: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Part {
    pub(crate) fn new(text: String, make_room: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self {
            text,
            make_room: Some(Box::new(make_room)),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(make_room) = self.make_room.take() {
            make_room();
        }
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Part").field(&self.text).finish()
    }
}

/// Takes the parts of an answer.
pub type Taker = mpsc::UnboundedSender<Part>;

/// The room that a part takes in the window.
pub(crate) fn room(text: &str) -> u32 {
    u32::try_from(text.len().clamp(1, WINDOW)).unwrap_or(u32::MAX)
}

/// The guests' end of an answer's way.
pub(crate) struct Outlet {
    window: Arc<Semaphore>,
    send: Box<dyn Fn(String) + Send + Sync>,
}

impl Outlet {
    /// An outlet whose window has room again when permits are added to it.
    pub(crate) fn new(
        window: Arc<Semaphore>,
        send: impl Fn(String) + Send + Sync + 'static,
    ) -> Self {
        Self {
            window,
            send: Box::new(send),
        }
    }

    /// A window that is empty.
    pub(crate) fn window() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(WINDOW))
    }

    /// Lets a part go as soon as there is room for it.
    pub(crate) async fn put(&self, text: String) {
        // A window that is closed has nobody behind it.
        if let Ok(permit) = self.window.acquire_many(room(&text)).await {
            permit.forget();
            (self.send)(text);
        }
    }
}
