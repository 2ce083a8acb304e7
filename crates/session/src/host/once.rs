//! What many sessions want at the same time, and one of them asks for.

use std::sync::Arc;
use std::time::Instant;

use dashmap::DashMap;
use serde::Serialize;

use super::environments::EnvironmentError;
use crate::digest::sha256;

/// Answers that are remembered.
const MAX_KNOWN: usize = 1_000;

/// An answer, and since when it is known. Whoever comes first holds the lock while it asks; others wait for that.
pub(super) type Slot<T> = Arc<tokio::sync::Mutex<Option<(Instant, T)>>>;

/// Answers by what was asked.
pub(super) struct Once<T>(DashMap<String, Slot<T>>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(DashMap::new())
    }
}

impl<T> Once<T> {
    /// The place for what comes of a question. Only a hash of the question is kept: there may be secrets in it.
    pub(super) fn slot(&self, question: &impl Serialize) -> Result<Slot<T>, EnvironmentError> {
        let text = serde_json::to_vec(question);
        let text = text.map_err(|error| EnvironmentError::Failed(error.to_string()))?;
        if self.0.len() >= MAX_KNOWN {
            self.0.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Ok(Arc::clone(&*self.0.entry(sha256(&text)).or_default()))
    }
}
