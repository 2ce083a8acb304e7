//! Names of resources, checked where they enter.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{shown}' is no {what}: {rule}")]
pub struct InvalidName {
    shown: String,
    what: &'static str,
    rule: &'static str,
}

impl InvalidName {
    fn new(text: &str, what: &'static str, rule: &'static str) -> Self {
        Self {
            shown: text
                .chars()
                .take(80)
                .flat_map(char::escape_default)
                .collect(),
            what,
            rule,
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $is_valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks a text.
            ///
            /// # Errors
            /// When it breaks the rule; the error says it.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                let is_valid: fn(&str) -> bool = $is_valid;
                if is_valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName::new(&text, $what, $rule))
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A name in a workspace (or of one): of a flow, a compute, a session, an instance type.
    Name,
    "name",
    "1 to 63 letters, digits, '.', '_' and '-' are allowed, and the first is a letter or digit",
    |text| {
        text.len() <= 63
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    }
}

name! {
    /// A user: the owner of API keys, or whom a token of the identity provider names.
    UserName,
    "user name",
    "1 to 128 letters, digits and any of . _ - @ : | + = are allowed, and the first is a letter or digit",
    |text| {
        text.len() <= 128
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.chars().all(|c| {
                c.is_ascii_alphanumeric()
                    || matches!(c, '.' | '_' | '-' | '@' | ':' | '|' | '+' | '=')
            })
    }
}

impl Name {
    /// The name of a workspace's own identity.
    pub(crate) fn own_identity() -> Self {
        Self("system".to_owned())
    }

    /// A name of a prefix and something random: `s-0123abcd`. What a name cannot hold is left out, and so is what is
    /// too much. The prefix must begin with a letter.
    pub fn generated(prefix: &str, random: &str) -> Self {
        let text = prefix.chars().chain(['-']).chain(random.chars());
        let fits = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        Self(text.filter(fits).take(63).collect())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "my-flow_2.0", &"x".repeat(63)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            "a/b",
            "a b",
            "é",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        assert!(UserName::new("oidc:auth0|5f7c@example.org").is_ok());
        assert!(UserName::new("a/b").is_err());
        assert!(serde_json::from_str::<Name>("\"a/b\"").is_err());
    }

    #[test]
    fn an_error_shows_no_control_characters_and_not_everything() {
        let error = Name::new(format!("\u{1b}[31m{}", "x".repeat(1000))).unwrap_err();
        assert!(error.to_string().starts_with("'\\u{1b}[31m"), "{error}");
        assert!(error.to_string().len() < 250);
    }
}
