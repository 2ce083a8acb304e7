//! What happened in the calls of late.

use std::sync::{Arc, Mutex, PoisonError};

use flowcell_worker::{Tokens, Trace};
use jiff::Timestamp;

use super::Key;
use super::recent::Recent;
use crate::name::Name;

/// Traces that are kept of one session.
const OF_SESSION: usize = 100;
/// Bytes of all traces that are kept.
const BYTES: usize = 128 << 20;

/// The place of a call in a trace that somebody else has begun: W3C's `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: u128,
    /// The span that the call is part of.
    pub span: u64,
}

/// What happened in a call.
#[derive(Debug, Clone)]
pub struct CallTrace {
    /// The trace's number.
    pub id: u128,
    /// The span of another service that the call is part of, if there is one.
    pub parent: Option<u64>,
    /// The call.
    pub call: String,
    /// Its session.
    pub session: Name,
    /// Which of the session's lives it belongs to.
    pub generation: u64,
    /// The session's flow.
    pub flow: Name,
    /// When it was over.
    pub ended: Timestamp,
    /// The spans.
    pub trace: Trace,
}

/// Hears of each trace.
pub type TraceListener = Arc<dyn Fn(&CallTrace) + Send + Sync>;

/// The traces of a host.
#[derive(Debug)]
pub(super) struct Traces {
    recent: Recent<CallTrace>,
    tokens: Mutex<Tokens>,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            recent: Recent::new(OF_SESSION, BYTES),
            tokens: Mutex::default(),
        }
    }
}

impl Traces {
    /// Keeps a trace.
    pub(super) fn keep(&self, session: &Key, trace: Arc<CallTrace>) {
        {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            *tokens = tokens.and(trace.trace.tokens());
        }
        let size = size(&trace);
        self.recent.keep(session, trace, size);
    }

    /// Those of a session, the last first.
    pub(super) fn of(&self, session: &Key) -> Vec<Arc<CallTrace>> {
        let kept = self.recent.of(session);
        kept.into_iter().map(|(_, trace)| trace).collect()
    }

    /// Tokens of all traces there ever were.
    pub(super) fn tokens(&self) -> Tokens {
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(trace: &CallTrace) -> usize {
    let spans = trace.trace.spans.iter().map(|span| {
        let error = span.error.as_ref().map_or(0, String::len);
        size_of_val(span) + span.name.len() + span.attributes.len() + error
    });
    size_of::<CallTrace>() + spans.sum::<usize>()
}
