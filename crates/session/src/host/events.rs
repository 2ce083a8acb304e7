//! What happens in a session, for whoever watches.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

/// Events of a session that are kept for watchers that come back.
const MAX_EVENTS: usize = 512;
/// Bytes of JSON in all of them.
const MAX_BYTES: usize = 256 << 10;
/// Longest printed text in one event, in bytes: the call's answer has all of it.
const MAX_TEXT: usize = 16 << 10;

/// Something that happened in a session.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SessionEvent {
    /// The session came to another state.
    State {
        /// The state.
        state: String,
        /// Why.
        reason: String,
    },
    /// A call began.
    CallStarted {
        /// The call.
        call: String,
    },
    /// A node of a call began.
    NodeStarted {
        /// The call.
        call: String,
        /// The node.
        node: String,
    },
    /// A node printed or logged something.
    Log {
        /// The call.
        call: String,
        /// The node.
        node: String,
        /// `stdout`, `stderr` or `log`.
        stream: &'static str,
        /// The text.
        text: String,
    },
    /// A node of a call ended.
    NodeEnded {
        /// The call.
        call: String,
        /// The node.
        node: String,
        /// promptflow's word for how.
        status: &'static str,
        /// How long it took, in milliseconds.
        duration_ms: f64,
    },
    /// A call ended.
    CallEnded {
        /// The call.
        call: String,
        /// `Completed`, `Failed` or `Canceled`.
        status: &'static str,
        /// How long it took, in milliseconds.
        duration_ms: f64,
    },
    /// Packages are being installed.
    InstallStarted {
        /// Whoever asked for it.
        by: String,
    },
    /// How that goes on.
    InstallStep {
        /// What is being done.
        step: String,
    },
    /// Packages were installed, or not.
    InstallEnded {
        /// `Completed` or `Failed`.
        status: &'static str,
        /// Why it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The session has no instances in memory any more; the next call goes on from what is stored, or makes new ones.
    ScaledToZero {
        /// Why.
        reason: String,
    },
    /// Instances could not be stored when the session was to hibernate.
    NotStored {
        /// What stands in the way.
        reasons: Vec<String>,
        /// Whether they were dropped, instead of staying in memory.
        dropped: bool,
    },
}

/// Where a watcher is. Its text is what a browser sends back as `Last-Event-ID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    /// Which log: a new one begins with each life of a session and with each start of the host.
    log: u64,
    number: u64,
}

impl std::fmt::Display for EventId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:x}-{}", self.log, self.number)
    }
}

/// A text that is no event's identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Last-Event-ID is not an identifier of this API's events")]
pub struct InvalidEventId;

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let (log, number) = text.split_once('-').ok_or(InvalidEventId)?;
        Ok(Self {
            log: u64::from_str_radix(log, 16).map_err(|_| InvalidEventId)?,
            number: number.parse().map_err(|_| InvalidEventId)?,
        })
    }
}

/// The latest events of a session.
#[derive(Debug)]
pub(super) struct EventLog {
    log: u64,
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<(u64, Arc<str>)>,
    bytes: usize,
    last: u64,
    ended: bool,
}

/// What a watcher gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// An event, as JSON.
    Event(EventId, Arc<str>),
    /// Events that are gone: the watcher was away for too long, or too slow.
    Missed(EventId, u64),
}

impl EventLog {
    /// An empty log; `log` tells it from others.
    pub(super) fn new(log: u64) -> Self {
        Self {
            log,
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }

    pub(super) fn push(&self, mut event: SessionEvent) {
        if let SessionEvent::Log { text, .. } = &mut event
            && text.len() > MAX_TEXT
        {
            let whole = text.len();
            text.truncate(text.floor_char_boundary(MAX_TEXT));
            text.push_str(&format!("\n[{} more bytes]\n", whole - text.len()));
        }
        let Ok(json) = serde_json::to_string(&event) else {
            return;
        };
        let mut kept = self.lock();
        kept.last += 1;
        let number = kept.last;
        kept.bytes += json.len();
        kept.events.push_back((number, json.into()));
        while kept.events.len() > MAX_EVENTS || kept.bytes > MAX_BYTES {
            let Some((_, gone)) = kept.events.pop_front() else {
                break;
            };
            kept.bytes -= gone.len();
        }
        drop(kept);
        self.newest.send_replace(number);
    }

    /// Keeps only the latest event, by which watchers that come back hear that they have missed some.
    pub(super) fn forget(&self) {
        let mut kept = self.lock();
        while kept.events.len() > 1 {
            if let Some((_, gone)) = kept.events.pop_front() {
                kept.bytes -= gone.len();
            }
        }
        kept.events.shrink_to_fit();
    }

    /// No more events will come.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.newest.send_modify(|_| ());
    }

    /// A watcher, from the first event that is kept, or from the one after `last`.
    pub(super) fn watch(self: &Arc<Self>, last: Option<EventId>) -> Watcher {
        let after = match last {
            Some(last) if last.log == self.log => last.number,
            Some(_) | None => 0,
        };
        Watcher {
            newest: self.newest.subscribe(),
            log: Arc::clone(self),
            after,
            // What a watcher of another log has missed there is not known; that it missed something is.
            missed_a_log: last.is_some_and(|last| last.log != self.log),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a log.
#[derive(Debug)]
pub struct Watcher {
    log: Arc<EventLog>,
    newest: watch::Receiver<u64>,
    after: u64,
    missed_a_log: bool,
}

impl Watcher {
    /// The next event; waits for it. `None` when the log has ended.
    pub async fn next(&mut self) -> Option<Watched> {
        loop {
            self.newest.borrow_and_update();
            if let Some(watched) = self.take() {
                return Some(watched);
            }
            if self.log.lock().ended {
                return None;
            }
            self.newest.changed().await.ok()?;
        }
    }

    fn take(&mut self) -> Option<Watched> {
        let id = |number| EventId {
            log: self.log.log,
            number,
        };
        if std::mem::take(&mut self.missed_a_log) {
            return Some(Watched::Missed(id(self.after), 0));
        }
        let kept = self.log.lock();
        let (oldest, _) = kept.events.front()?;
        if *oldest > self.after + 1 {
            let missed = *oldest - self.after - 1;
            self.after = *oldest - 1;
            return Some(Watched::Missed(id(self.after), missed));
        }
        let index = usize::try_from(self.after + 1 - oldest).ok()?;
        let (number, json) = kept.events.get(index)?;
        self.after = *number;
        Some(Watched::Event(id(*number), Arc::clone(json)))
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]
mod tests {
    use super::*;

    fn event(call: usize) -> SessionEvent {
        SessionEvent::CallStarted {
            call: call.to_string(),
        }
    }

    #[tokio::test]
    async fn a_watcher_hears_everything_in_order_and_then_the_end() {
        let log = Arc::new(EventLog::new(7));
        let mut watcher = log.watch(None);
        log.push(event(1));
        log.push(event(2));
        log.end();
        for number in 1..=2 {
            let expected = format!("{{\"type\":\"call_started\",\"call\":\"{number}\"}}");
            let id = EventId { log: 7, number };
            assert_eq!(
                watcher.next().await,
                Some(Watched::Event(id, expected.into()))
            );
        }
        assert_eq!(watcher.next().await, None);
    }

    #[tokio::test]
    async fn a_watcher_goes_on_where_it_was_and_hears_what_it_missed() {
        let log = Arc::new(EventLog::new(7));
        for call in 1..=3 {
            log.push(event(call));
        }
        let mut watcher = log.watch(Some("7-2".parse().unwrap()));
        let Some(Watched::Event(id, _)) = watcher.next().await else {
            panic!("no event");
        };
        assert_eq!(id.to_string(), "7-3");
        let mut late = log.watch(Some("7-1".parse().unwrap()));
        for call in 4..=MAX_EVENTS + 10 {
            log.push(event(call));
        }
        let id = EventId { log: 7, number: 10 };
        assert_eq!(late.next().await, Some(Watched::Missed(id, 9)));
        let mut other = log.watch(Some("6-3".parse().unwrap()));
        assert!(matches!(other.next().await, Some(Watched::Missed(_, 0))));
    }

    #[tokio::test]
    async fn what_is_kept_has_a_limit() {
        let log = Arc::new(EventLog::new(1));
        for _ in 0..100 {
            log.push(SessionEvent::Log {
                call: "c".to_owned(),
                node: "n".to_owned(),
                stream: "stdout",
                text: "é".repeat(MAX_TEXT),
            });
        }
        let kept = log.lock();
        assert!(kept.bytes <= MAX_BYTES && kept.events.len() < 20);
        assert!(kept.events[0].1.contains("more bytes"));
    }

    #[test]
    fn identifiers_are_checked() {
        for bad in ["", "7", "x-1", "7-", "7-x", "-1"] {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
    }
}
