//! What happened in the calls of late: kept in memory, within limits, until it is looked at or makes room for more.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowcell_worker::{Tokens, Trace};
use jiff::Timestamp;

use super::Key;
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
    kept: Mutex<Kept>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Kept {
    /// Of each session, those of last at the end.
    sessions: HashMap<Key, Ring>,
    bytes: usize,
    tokens: Tokens,
}

#[derive(Debug, Default)]
struct Ring {
    traces: VecDeque<Arc<CallTrace>>,
    bytes: usize,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            limit: BYTES,
        }
    }
}

impl Traces {
    /// Keeps a trace. Where there is too much, the oldest of the session that has most goes.
    pub(super) fn keep(&self, session: &Key, trace: Arc<CallTrace>) {
        let mut kept = self.kept();
        let kept = &mut *kept;
        kept.tokens = kept.tokens.and(trace.trace.tokens());
        let bytes = size(&trace);
        let ring = kept.sessions.entry(session.clone()).or_default();
        ring.traces.push_back(trace);
        ring.bytes += bytes;
        kept.bytes += bytes;
        if ring.traces.len() > OF_SESSION {
            kept.bytes -= ring.drop_oldest();
        }
        while kept.bytes > self.limit
            && let Some(largest) = kept.sessions.values_mut().max_by_key(|ring| ring.bytes)
        {
            kept.bytes -= largest.drop_oldest();
            if largest.traces.is_empty() {
                kept.sessions.retain(|_, ring| !ring.traces.is_empty());
            }
        }
    }

    /// Those of a session, the last first.
    pub(super) fn of(&self, session: &Key) -> Vec<Arc<CallTrace>> {
        let kept = self.kept();
        let ring = kept.sessions.get(session);
        ring.map_or_else(Vec::new, |ring| ring.traces.iter().rev().cloned().collect())
    }

    /// Tokens of all traces there ever were.
    pub(super) fn tokens(&self) -> Tokens {
        self.kept().tokens
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// The bytes that are free then.
    fn drop_oldest(&mut self) -> usize {
        let bytes = self.traces.pop_front().map_or(0, |oldest| size(&oldest));
        self.bytes -= bytes;
        bytes
    }
}

fn size(trace: &CallTrace) -> usize {
    let spans = trace.trace.spans.iter().map(|span| {
        let error = span.error.as_ref().map_or(0, String::len);
        size_of_val(span) + span.name.len() + span.attributes.len() + error
    });
    size_of::<CallTrace>() + spans.sum::<usize>()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use std::time::{Duration, SystemTime};

    use flowcell_worker::{SpanKind, SpanStatus, TraceSpan};

    use super::*;

    fn trace(id: u128, bytes: usize) -> Arc<CallTrace> {
        let span = TraceSpan {
            parent: None,
            name: "f".to_owned(),
            kind: SpanKind::Flow,
            started: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            status: SpanStatus::Ok,
            error: None,
            attributes: " ".repeat(bytes),
        };
        Arc::new(CallTrace {
            id,
            parent: None,
            call: "c".to_owned(),
            session: "s".parse().unwrap(),
            flow: "f".parse().unwrap(),
            ended: Timestamp::UNIX_EPOCH,
            trace: Trace { spans: vec![span] },
        })
    }

    fn key(session: &str) -> Key {
        ("w".parse().unwrap(), session.parse().unwrap())
    }

    fn ids(traces: &Traces, session: &str) -> Vec<u128> {
        traces
            .of(&key(session))
            .iter()
            .map(|trace| trace.id)
            .collect()
    }

    #[test]
    fn a_session_s_last_traces_are_kept() {
        let traces = Traces::default();
        for id in 0..OF_SESSION as u128 + 5 {
            traces.keep(&key("a"), trace(id, 10));
        }
        let kept = ids(&traces, "a");
        assert_eq!(kept.len(), OF_SESSION);
        assert_eq!((kept[0], kept[OF_SESSION - 1]), (OF_SESSION as u128 + 4, 5));
    }

    #[test]
    fn who_has_most_makes_room() {
        let traces = Traces {
            limit: 10_000,
            ..Traces::default()
        };
        traces.keep(&key("small"), trace(1, 1_000));
        for id in 2..20 {
            traces.keep(&key("large"), trace(id, 2_000));
        }
        assert_eq!(ids(&traces, "small"), [1]);
        let large = ids(&traces, "large");
        assert!(large.len() < 5 && large[0] == 19, "{large:?}");
    }

    #[test]
    fn one_that_has_no_room_at_all_is_not_kept() {
        let traces = Traces {
            limit: 100,
            ..Traces::default()
        };
        traces.keep(&key("a"), trace(1, 1_000));
        assert!(ids(&traces, "a").is_empty());
        assert_eq!(traces.kept().bytes, 0);
    }
}
