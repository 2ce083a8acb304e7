//! Property paths: what follows `${node.output.` in a reference.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use crate::json::{Json, constant_pattern};
use crate::value_type::decimal_digit;

/// promptflow's `(\w+)|(\['.*?'\])|(\[\d+\])`, with Python's notion of a word character (letters, numbers, underscore).
static TOKEN: LazyLock<Regex> =
    LazyLock::new(|| constant_pattern(r"([\p{L}\p{N}_]+)|\['(.*?)'\]|\[(\p{Nd}+)\]"));

/// One step of a [`PropertyPath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `name`: a key of a mapping, an attribute of anything else.
    Name(String),
    /// `['key']`: subscription with a string.
    Key(String),
    /// `[3]`: subscription with a number. A number that fits no index is `usize::MAX`, which is never there.
    Index(usize),
}

/// The steps into a node's output, read with promptflow's tolerance: what is no step between two steps is skipped.
///
/// So `a.b`, `a/b` and `a b` are the same path, and quoted keys are written `${node.output.['a key']}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PropertyPath {
    steps: Vec<Step>,
}

impl PropertyPath {
    /// Reads the text behind `output.` of a reference. Every text is a path; the empty one leads to the value itself.
    pub fn parse(text: &str) -> PropertyPath {
        let step = |found: regex::Captures<'_>| {
            if let Some(name) = found.get(1) {
                Some(Step::Name(name.as_str().to_owned()))
            } else if let Some(key) = found.get(2) {
                Some(Step::Key(key.as_str().to_owned()))
            } else {
                let digits: Option<String> =
                    found.get(3)?.as_str().chars().map(decimal_digit).collect();
                Some(Step::Index(digits?.parse().unwrap_or(usize::MAX)))
            }
        };
        PropertyPath {
            steps: TOKEN.captures_iter(text).filter_map(step).collect(),
        }
    }

    /// The steps, outermost first.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether the path leads to the value itself.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The value the path leads to in a JSON value, `None` if there is none.
    ///
    /// Python would still find some things this does not: attributes of plain values, like the bound method `upper` of a string.
    /// They are no data and never what a flow means. An object that is not JSON must be asked in the guest that holds it.
    pub fn get<'v>(&self, value: &'v Json) -> Option<Cow<'v, Json>> {
        let mut current = Cow::Borrowed(value);
        for step in &self.steps {
            current = match current {
                Cow::Borrowed(value) => step.get(value)?,
                // A character of a string, from which further steps can only take that character again.
                Cow::Owned(value) => Cow::Owned(step.get(&value)?.into_owned()),
            };
        }
        Some(current)
    }
}

impl Step {
    fn get<'v>(&self, value: &'v Json) -> Option<Cow<'v, Json>> {
        match (self, value) {
            (Step::Name(key) | Step::Key(key), Json::Object(entries)) => {
                entries.get(key).map(Cow::Borrowed)
            }
            (Step::Index(index), Json::Array(items)) => items.get(*index).map(Cow::Borrowed),
            (Step::Index(index), Json::String(text)) => text
                .chars()
                .nth(*index)
                .map(|character| Cow::Owned(Json::String(character.to_string()))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn name(text: &str) -> Step {
        Step::Name(text.to_owned())
    }

    fn key(text: &str) -> Step {
        Step::Key(text.to_owned())
    }

    /// The right sides are what `re.findall` of promptflow's pattern gives in CPython.
    #[test]
    fn steps_are_found_as_findall_finds_them() {
        for (text, steps) in [
            ("", vec![]),
            ("a", vec![name("a")]),
            ("a.b", vec![name("a"), name("b")]),
            ("a/b c", vec![name("a"), name("b"), name("c")]),
            ("l[1][0]", vec![name("l"), Step::Index(1), Step::Index(0)]),
            ("['d e']", vec![key("d e")]),
            ("['a'].b", vec![key("a"), name("b")]),
            ("['a']['b']", vec![key("a"), key("b")]),
            ("['']", vec![key("")]),
            ("[\"a\"]", vec![name("a")]),
            ("[-1]", vec![name("1")]),
            ("['it's']", vec![key("it's")]),
            ("größe", vec![name("größe")]),
            ("名前[٣]", vec![name("名前"), Step::Index(3)]),
            ("[007]", vec![Step::Index(7)]),
            (
                "[99999999999999999999999999]",
                vec![Step::Index(usize::MAX)],
            ),
            ("['a\nb']", vec![name("a"), name("b")]),
            ("0", vec![name("0")]),
        ] {
            assert_eq!(PropertyPath::parse(text).steps(), steps, "{text}");
        }
    }

    #[test]
    fn values_are_found() {
        let value = json!({"l": [1, [2, 3]], "s": "aéz", "0": "zero", "d e": {"items": null}});
        for (text, expected) in [
            ("", Some(value.clone())),
            ("l", Some(json!([1, [2, 3]]))),
            ("l[1][0]", Some(json!(2))),
            ("['l'][0]", Some(json!(1))),
            ("0", Some(json!("zero"))),
            ("s[1]", Some(json!("é"))),
            ("s[1][0][0]", Some(json!("é"))),
            ("s[1][1]", None),
            ("s[3]", None),
            ("['d e'].items", Some(json!(null))),
            ("['d e'].items.more", None),
            ("nope", None),
            ("l.count", None),
            ("l['0']", None),
            ("l[2]", None),
            ("l[0][0]", None),
            ("[0]", None),
            ("s.upper", None),
        ] {
            assert_eq!(
                PropertyPath::parse(text).get(&value).map(Cow::into_owned),
                expected,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = PropertyPath::parse(&text).get(&json!({"a": ["b"]}));
        }

        #[test]
        fn finds_what_a_plain_path_says(keys in prop::collection::vec("[a-zé_][a-z0-9_]{0,4}", 1..5)) {
            let value = keys.iter().rev().fold(json!("leaf"), |inner, key| json!({ key: inner }));
            let path = PropertyPath::parse(&keys.join("."));
            prop_assert_eq!(path.get(&value).map(Cow::into_owned), Some(json!("leaf")));
        }
    }
}
