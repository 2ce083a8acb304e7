//! What guests answer with, and how much of it is told.

use crate::contract::{LoadError, Outcome, ToolError, ToolInfo};
use crate::json::is_json;

/// Longest message or traceback of a guest's error, in bytes: it is read by people.
const MAX_MESSAGE: usize = 64 << 10;
/// Longest class name.
const MAX_NAME: usize = 256;
/// Most reasons why an instance cannot be suspended.
const MAX_REASONS: usize = 20;
/// Longest such reason, in bytes.
const MAX_REASON: usize = 1 << 10;

/// What a guest can answer with: some answers are errors of the guest's own.
pub(crate) trait Answer {
    /// Whether the guest says that it ran out of memory.
    fn is_memory_error(&self) -> bool {
        false
    }

    /// Cuts texts that are for people.
    fn shorten(&mut self) {}

    /// Adds to an error of the operating system's what the guest cannot know.
    fn explain(&mut self, _why: &str) {}
}

impl Answer for () {}
impl Answer for (i32,) {}
impl Answer for Vec<ToolInfo> {}

impl<T> Answer for Result<T, ToolError> {
    fn is_memory_error(&self) -> bool {
        matches!(self, Err(error) if error.type_name == "MemoryError")
    }

    fn shorten(&mut self) {
        if let Err(error) = self {
            shorten_error(error);
        }
    }

    fn explain(&mut self, why: &str) {
        if let Err(error) = self
            && error.type_name == "OSError"
        {
            error.message.push_str(&format!(" ({why})"));
        }
    }
}

impl Answer for Result<ToolInfo, LoadError> {
    fn is_memory_error(&self) -> bool {
        matches!(self, Err(LoadError::ImportFailed(error)) if error.type_name == "MemoryError")
    }

    fn shorten(&mut self) {
        if let Err(LoadError::ImportFailed(error)) = self {
            shorten_error(error);
        }
    }
}

impl Answer for Result<(), Vec<String>> {
    fn shorten(&mut self) {
        if let Err(reasons) = self {
            let whole = reasons.len();
            reasons.truncate(MAX_REASONS);
            for reason in &mut *reasons {
                shorten(reason, MAX_REASON);
            }
            if whole > MAX_REASONS {
                reasons.push(format!("and {} more", whole - MAX_REASONS));
            }
        }
    }
}

fn shorten_error(error: &mut ToolError) {
    shorten(&mut error.type_name, MAX_NAME);
    shorten(&mut error.message, MAX_MESSAGE);
    shorten(&mut error.traceback, MAX_MESSAGE);
}

fn shorten(text: &mut String, most: usize) {
    let whole = text.len();
    if whole > most {
        text.truncate(text.floor_char_boundary(most));
        text.push_str(&format!(" [{} more bytes]", whole - text.len()));
    }
}

/// Whether what it says to be JSON is.
pub(crate) fn is_sound(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Json(json) => is_json(json),
        Outcome::Object(_) => true,
    }
}

/// How much of it comes to the host, in bytes.
pub(crate) fn outcome_size(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Json(json) => json.len(),
        Outcome::Object(_) => 0,
    }
}
