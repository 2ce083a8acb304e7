//! What happened of late: kept in memory, within limits, until it makes room for more.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Key;

/// Entries of all sessions, the latest of each.
#[derive(Debug)]
pub(super) struct Recent<T> {
    kept: Mutex<Kept<T>>,
    /// Entries of one session.
    of_session: usize,
    /// Bytes of all entries.
    bytes: usize,
}

#[derive(Debug)]
struct Kept<T> {
    sessions: HashMap<Key, Ring<T>>,
    bytes: usize,
}

/// A session's entries with their sizes, the latest at the end.
#[derive(Debug)]
struct Ring<T> {
    entries: VecDeque<(Arc<T>, usize)>,
    bytes: usize,
    /// How many there ever were.
    count: u64,
}

impl<T> Recent<T> {
    /// Keeps so many entries of each session, and so many bytes of all.
    pub(super) fn new(of_session: usize, bytes: usize) -> Self {
        Self {
            kept: Mutex::new(Kept {
                sessions: HashMap::new(),
                bytes: 0,
            }),
            of_session,
            bytes,
        }
    }

    /// Keeps an entry of a size. Where there is too much, the oldest of the session that has most goes.
    pub(super) fn keep(&self, session: &Key, entry: Arc<T>, size: usize) {
        let mut kept = self.kept();
        let kept = &mut *kept;
        let ring = kept
            .sessions
            .entry(session.clone())
            .or_insert_with(|| Ring {
                entries: VecDeque::new(),
                bytes: 0,
                count: 0,
            });
        ring.count += 1;
        ring.entries.push_back((entry, size));
        ring.bytes += size;
        kept.bytes += size;
        if ring.entries.len() > self.of_session {
            kept.bytes -= ring.drop_oldest();
        }
        while kept.bytes > self.bytes
            && let Some(largest) = kept.sessions.values_mut().max_by_key(|ring| ring.bytes)
        {
            kept.bytes -= largest.drop_oldest();
            if largest.entries.is_empty() {
                kept.sessions.retain(|_, ring| !ring.entries.is_empty());
            }
        }
    }

    /// Those of a session, the latest first, each with its number among all that the session has had.
    pub(super) fn of(&self, session: &Key) -> Vec<(u64, Arc<T>)> {
        let kept = self.kept();
        let Some(ring) = kept.sessions.get(session) else {
            return Vec::new();
        };
        let entries = ring.entries.iter().rev();
        let numbered = (1..=ring.count).rev().zip(entries);
        numbered
            .map(|(number, (entry, _))| (number, Arc::clone(entry)))
            .collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept<T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Ring<T> {
    /// The bytes that are free then.
    fn drop_oldest(&mut self) -> usize {
        let bytes = self.entries.pop_front().map_or(0, |(_, size)| size);
        self.bytes -= bytes;
        bytes
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn key(session: &str) -> Key {
        ("w".parse().unwrap(), session.parse().unwrap())
    }

    fn of(recent: &Recent<u32>, session: &str) -> Vec<u32> {
        let all = recent.of(&key(session));
        all.iter().map(|(_, one)| **one).collect()
    }

    #[test]
    fn a_session_s_latest_are_kept() {
        let recent = Recent::new(3, 1_000);
        for entry in 0..8 {
            recent.keep(&key("a"), Arc::new(entry), 10);
        }
        recent.keep(&key("b"), Arc::new(9), 10);
        assert_eq!(of(&recent, "a"), [7, 6, 5]);
        assert_eq!(of(&recent, "b"), [9]);
        let numbers = recent.of(&key("a")).into_iter().map(|(number, _)| number);
        assert!(numbers.eq([8, 7, 6]));
        assert_eq!(recent.kept().bytes, 40);
    }

    #[test]
    fn who_has_most_makes_room() {
        let recent = Recent::new(100, 10_000);
        recent.keep(&key("small"), Arc::new(1), 1_000);
        for entry in 2..20 {
            recent.keep(&key("large"), Arc::new(entry), 2_000);
        }
        assert_eq!(of(&recent, "small"), [1]);
        assert_eq!(of(&recent, "large"), [19, 18, 17, 16]);
    }

    #[test]
    fn one_that_has_no_room_at_all_is_not_kept() {
        let recent = Recent::new(100, 100);
        recent.keep(&key("a"), Arc::new(1), 1_000);
        assert!(of(&recent, "a").is_empty());
        assert_eq!(recent.kept().bytes, 0);
        assert!(recent.kept().sessions.is_empty());
    }
}
