//! The requests that guests have made: each is in the log, and those of late can be asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flowcell_egress::{Exchange, Outcome};
use flowcell_worker::SessionId;
use jiff::Timestamp;

use super::recent::Recent;
use crate::name::Name;

/// Requests that are kept of one session.
const OF_SESSION: usize = 1_000;
/// Bytes of all requests that are kept.
const BYTES: usize = 64 << 20;

/// A request of a session.
#[derive(Debug)]
pub struct Request {
    /// Which of the session's lives it belongs to.
    pub generation: u64,
    /// When it was over.
    pub ended: Timestamp,
    /// What is known of it.
    pub exchange: Exchange,
}

/// The requests of a host's sessions.
#[derive(Debug)]
pub struct Requests {
    recent: Recent<Request>,
    /// By outcome.
    counts: [AtomicU64; Outcome::ALL.len()],
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            recent: Recent::new(OF_SESSION, BYTES),
            counts: Default::default(),
        }
    }
}

impl Requests {
    /// Writes a request to the log (`flowcell::audit`), and keeps it.
    pub fn add(&self, session: &SessionId, exchange: Exchange) {
        tracing::info!(
            target: "flowcell::audit",
            workspace = session.workspace,
            session = session.session,
            generation = session.generation,
            node = exchange.node,
            method = exchange.method,
            to = exchange.to,
            outcome = exchange.outcome.as_str(),
            status = exchange.status,
            sent = exchange.sent,
            received = exchange.received,
            duration_ms = exchange.duration.as_secs_f64() * 1e3,
            error = exchange.error,
            "a request"
        );
        if let Some(count) = self.counts.get(exchange.outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let workspace: Result<Name, _> = session.workspace.parse();
        let id: Result<Name, _> = session.session.parse();
        let (Ok(workspace), Ok(id)) = (workspace, id) else {
            return;
        };
        let size = size(&exchange);
        let request = Request {
            generation: session.generation,
            ended: Timestamp::now(),
            exchange,
        };
        self.recent.keep(&(workspace, id), Arc::new(request), size);
    }

    /// Those of a session, the last first, each with its number among all of the session.
    pub(super) fn of(&self, session: &super::Key) -> Vec<(u64, Arc<Request>)> {
        self.recent.of(session)
    }

    /// How many there were since the host started, by what became of them.
    pub fn counts(&self) -> impl Iterator<Item = (Outcome, u64)> {
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Outcome::ALL.into_iter().zip(counts)
    }
}

fn size(exchange: &Exchange) -> usize {
    let texts = [exchange.node.as_ref(), exchange.error.as_ref()];
    let texts = texts.into_iter().flatten().map(String::len);
    size_of::<Request>() + exchange.method.len() + exchange.to.len() + texts.sum::<usize>()
}
