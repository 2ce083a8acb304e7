//! What is told of each request.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::EgressError;

/// Longest text in an exchange, in bytes: guests choose hosts and methods.
const MAX_TEXT: usize = 512;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It has an answer, all of it or as much as the guest has waited for.
    Answered,
    /// A rule was against it: it was not made.
    Refused,
    /// There was no answer, or it broke off.
    Failed,
    /// The guest did not wait for its answer.
    Abandoned,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Refused, Self::Failed, Self::Abandoned];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// A request that was made, or refused, without anything that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The node that made it.
    pub node: Option<String>,
    /// Its method.
    pub method: String,
    /// Scheme, host and port that it was for.
    pub to: String,
    /// What became of it.
    pub outcome: Outcome,
    /// The answer's status; absent when there was none.
    pub status: Option<u16>,
    /// Bytes of the request's body that were sent.
    pub sent: u64,
    /// Bytes of the answer's body that came.
    pub received: u64,
    /// From the request to the end of its answer.
    pub duration: Duration,
    /// Why it was refused, or failed.
    pub error: Option<String>,
}

/// Is told of every request, once it is over. Of those that are refused because there are too many, one after the other, the
/// first is told.
pub trait Auditor: std::fmt::Debug + Send + Sync {
    /// One is over. It is called wherever that is found out, and must not wait.
    fn record(&self, exchange: Exchange);
}

/// What is known of a request so far; told to the auditor when it is over, or dropped.
#[derive(Debug)]
pub(crate) struct Record {
    exchange: Exchange,
    began: Instant,
    auditor: Option<Arc<dyn Auditor>>,
}

impl Record {
    pub(crate) fn new(
        node: Option<&str>,
        method: &str,
        to: &str,
        auditor: Arc<dyn Auditor>,
    ) -> Self {
        Self {
            exchange: Exchange {
                node: node.map(short),
                method: short(method),
                to: short(to),
                outcome: Outcome::Abandoned,
                status: None,
                sent: 0,
                received: 0,
                duration: Duration::ZERO,
                error: None,
            },
            began: Instant::now(),
            auditor: Some(auditor),
        }
    }

    /// Nobody is told of it.
    pub(crate) fn untold(&mut self) {
        self.auditor = None;
    }

    pub(crate) fn sent(&mut self, bytes: u64) {
        self.exchange.sent = bytes;
    }

    pub(crate) fn answered(&mut self, status: u16) {
        self.exchange.outcome = Outcome::Answered;
        self.exchange.status = Some(status);
    }

    pub(crate) fn received(&mut self, bytes: u64) {
        self.exchange.received = bytes;
    }

    pub(crate) fn failed(&mut self, error: &EgressError) {
        self.exchange.outcome = if error.is_refusal() {
            Outcome::Refused
        } else {
            Outcome::Failed
        };
        self.exchange.error = Some(short(&error.to_string()));
    }
}

impl Record {
    /// It is over: nothing more will be known of it.
    pub(crate) fn over(&mut self) {
        if let Some(auditor) = self.auditor.take() {
            self.exchange.duration = self.began.elapsed();
            auditor.record(self.exchange.clone());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.over();
    }
}

/// A text, as far as there is room for it.
pub(crate) fn short(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_TEXT - '…'.len_utf8());
    format!("{}…", &text[..end])
}
