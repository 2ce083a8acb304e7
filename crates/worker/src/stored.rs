//! What a session has in memory and in images.

use flowcell_executor::ImageState;
use serde::{Deserialize, Serialize};

/// Reasons that a worker may give, and how long each may be, in bytes.
const REASONS: usize = 32;
const REASON: usize = 2 << 10;

/// What came of storing a session's idle instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hibernated {
    /// Instances that are stored.
    pub instances: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Why others are not; those stay in memory.
    pub kept: Vec<String>,
    /// Whether work was under way, whose instances are not among them.
    pub in_use: bool,
}

impl Hibernated {
    /// Two of one session's set-ups together.
    pub(crate) fn and(mut self, other: flowcell_sandbox::Hibernated) -> Self {
        self.instances += other.instances as u64;
        self.bytes += other.bytes;
        for why in other.kept {
            if !self.kept.contains(&why) {
                self.kept.push(why);
            }
        }
        self
    }

    /// No more than can be.
    #[must_use]
    pub(crate) fn within_reason(mut self) -> Self {
        self.kept.truncate(REASONS);
        for why in &mut self.kept {
            why.truncate(why.floor_char_boundary(REASON));
        }
        self
    }
}

/// Where a session stands with its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prepared {
    /// It has none: why.
    None(String),
    /// It is being made.
    Building,
    /// New instances start from it.
    Ready {
        /// Size of its file, in bytes.
        bytes: u64,
        /// Bytes of memory in which it differs from the bundle's base.
        changed: u64,
    },
}

impl From<ImageState> for Prepared {
    fn from(state: ImageState) -> Self {
        match state {
            ImageState::None(why) => Self::None(why),
            ImageState::Building => Self::Building,
            ImageState::Ready { bytes, changed } => Self::Ready { bytes, changed },
        }
    }
}

/// What a session holds of its worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// Its image.
    pub image: Prepared,
    /// Memory that its idle instances have for themselves alone, in bytes; what they share with others is not in it.
    pub private_memory: u64,
}

impl Holds {
    #[must_use]
    pub(crate) fn within_reason(mut self) -> Self {
        if let Prepared::None(why) = &mut self.image {
            why.truncate(why.floor_char_boundary(REASON));
        }
        self
    }
}
