//! A secret's text, which does not get printed.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is shown in a secret's place.
pub const HIDDEN: &str = "******";
/// promptflow's word for "leave it as it is".
const NO_CHANGE: &str = "<no-change>";
/// promptflow's word for "ask for it".
const USER_INPUT: &str = "<user-input>";

/// A secret. Printing it shows [`HIDDEN`]; so does a serializer of a format that people read, such as JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.serialize_str(HIDDEN);
        }
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Whether a text stands for a secret that is not told: nothing, stars only, or promptflow's words for it
/// (`_Connection._is_scrubbed_value`, `_is_user_input_value`).
pub fn is_scrubbed(text: &str) -> bool {
    text.chars().all(|c| c == '*') || text == NO_CHANGE || text == USER_INPUT
}
