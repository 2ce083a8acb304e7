//! Reading JSON text as Python's `json.loads` does, with its messages.
//!
//! A flow input of type `list` or `object` given as text is parsed as JSON, and what is wrong with the text becomes part of an error
//! message that users know. `serde_json` neither words nor places errors as Python does, nor does it take `NaN` and `Infinity`,
//! which Python reads and writes.
//!
//! Two differences remain: a lone surrogate (`"\ud800"`) becomes U+FFFD, because a Rust string cannot hold it; and nesting ends at
//! [`MAX_DEPTH`], where Python's own limit is its recursion limit.

use std::fmt;

use crate::json::{self, Json, MAX_INT_DIGITS};

/// How deep arrays and objects may nest. The same limit as `serde_json`'s, so that a value read here can be read again anywhere.
pub(crate) const MAX_DEPTH: usize = 127;

/// Python's `JSONDecodeError`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodeError {
    message: &'static str,
    /// From 1.
    line: usize,
    /// From 1, in characters.
    column: usize,
    /// From 0, in characters.
    position: usize,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: line {} column {} (char {})",
            self.message, self.line, self.column, self.position
        )
    }
}

/// Why text is no JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LoadError {
    /// Python raises `JSONDecodeError`.
    Decode(DecodeError),
    /// Python raises something else: an integer of too many digits, nesting that is too deep.
    Other,
}

/// `json.loads(text)`, which knows NaN and Infinity; `None` if the text is no JSON.
pub fn python_loads(text: &str) -> Option<Json> {
    loads(text).ok()
}

/// Why a text is no JSON: Python's `JSONDecodeError`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonProblem {
    /// What is wrong.
    pub message: String,
    /// Where, in characters from 0.
    pub position: usize,
}

/// `json.loads(text)`, with the reason when the text is no JSON.
///
/// # Errors
/// When it is none.
pub fn python_loads_why(text: &str) -> Result<Json, JsonProblem> {
    loads(text).map_err(|error| match error {
        LoadError::Decode(error) => JsonProblem {
            message: error.message.to_owned(),
            position: error.position,
        },
        LoadError::Other => JsonProblem {
            message: "the value is too large or nests too deep".to_owned(),
            position: 0,
        },
    })
}

/// `json.loads(text)`.
pub(crate) fn loads(text: &str) -> Result<Json, LoadError> {
    let mut reader = Reader {
        text,
        bytes: text.as_bytes(),
    };
    if text.starts_with('\u{feff}') {
        return Err(reader.fail("Unexpected UTF-8 BOM (decode using utf-8-sig)", 0));
    }
    let start = reader.skip_space(0);
    let (value, end) = reader.value(start, 0)?;
    let end = reader.skip_space(end);
    if end == text.len() {
        Ok(value)
    } else {
        Err(reader.fail("Extra data", end))
    }
}

struct Reader<'t> {
    text: &'t str,
    bytes: &'t [u8],
}

type Read<T> = Result<(T, usize), LoadError>;

impl Reader<'_> {
    fn fail(&self, message: &'static str, at: usize) -> LoadError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        LoadError::Decode(DecodeError {
            message,
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            position: before.chars().count(),
        })
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn skip_space(&self, mut at: usize) -> usize {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte(at) {
            at += 1;
        }
        at
    }

    fn value(&mut self, at: usize, depth: usize) -> Read<Json> {
        if depth > MAX_DEPTH {
            return Err(LoadError::Other);
        }
        match self.byte(at) {
            Some(b'"') => self.string(at).map(|(text, end)| (Json::String(text), end)),
            Some(b'{') => self.object(at, depth),
            Some(b'[') => self.array(at, depth),
            Some(b'-' | b'0'..=b'9') => self.number(at),
            _ => {
                for (word, value) in [
                    ("null", Json::Null),
                    ("true", Json::Bool(true)),
                    ("false", Json::Bool(false)),
                    ("NaN", json::float(f64::NAN)),
                    ("Infinity", json::float(f64::INFINITY)),
                ] {
                    if self
                        .bytes
                        .get(at..)
                        .is_some_and(|rest| rest.starts_with(word.as_bytes()))
                    {
                        return Ok((value, at + word.len()));
                    }
                }
                Err(self.fail("Expecting value", at))
            }
        }
    }

    fn object(&mut self, open: usize, depth: usize) -> Read<Json> {
        let mut entries = serde_json::Map::new();
        let mut at = self.skip_space(open + 1);
        if self.byte(at) == Some(b'}') {
            return Ok((Json::Object(entries), at + 1));
        }
        loop {
            if self.byte(at) != Some(b'"') {
                return Err(self.fail("Expecting property name enclosed in double quotes", at));
            }
            let (key, end) = self.string(at)?;
            at = self.skip_space(end);
            if self.byte(at) != Some(b':') {
                return Err(self.fail("Expecting ':' delimiter", at));
            }
            at = self.skip_space(at + 1);
            let (value, end) = self.value(at, depth + 1)?;
            entries.insert(key, value);
            at = self.skip_space(end);
            match self.byte(at) {
                Some(b'}') => return Ok((Json::Object(entries), at + 1)),
                Some(b',') => at = self.skip_space(at + 1),
                _ => return Err(self.fail("Expecting ',' delimiter", at)),
            }
        }
    }

    fn array(&mut self, open: usize, depth: usize) -> Read<Json> {
        let mut items = Vec::new();
        let mut at = self.skip_space(open + 1);
        if self.byte(at) == Some(b']') {
            return Ok((Json::Array(items), at + 1));
        }
        loop {
            let (value, end) = self.value(at, depth + 1)?;
            items.push(value);
            at = self.skip_space(end);
            match self.byte(at) {
                Some(b']') => return Ok((Json::Array(items), at + 1)),
                Some(b',') => at = self.skip_space(at + 1),
                _ => return Err(self.fail("Expecting ',' delimiter", at)),
            }
        }
    }

    fn number(&self, start: usize) -> Read<Json> {
        let digits = |mut at: usize| {
            while self.byte(at).is_some_and(|byte| byte.is_ascii_digit()) {
                at += 1;
            }
            at
        };
        let unsigned = if self.byte(start) == Some(b'-') {
            start + 1
        } else {
            start
        };
        let mut end = match self.byte(unsigned) {
            Some(b'0') => unsigned + 1,
            Some(b'1'..=b'9') => digits(unsigned),
            _ if self
                .bytes
                .get(start..)
                .is_some_and(|rest| rest.starts_with(b"-Infinity")) =>
            {
                return Ok((json::float(f64::NEG_INFINITY), start + "-Infinity".len()));
            }
            _ => return Err(self.fail("Expecting value", start)),
        };
        let whole_end = end;
        if self.byte(end) == Some(b'.') && digits(end + 1) > end + 1 {
            end = digits(end + 1);
        }
        if let Some(b'e' | b'E') = self.byte(end) {
            let exponent = match self.byte(end + 1) {
                Some(b'+' | b'-') => end + 2,
                _ => end + 1,
            };
            if digits(exponent) > exponent {
                end = digits(exponent);
            }
        }
        if end == whole_end && end - unsigned > MAX_INT_DIGITS {
            return Err(LoadError::Other);
        }
        Ok((
            json::number(self.text.get(start..end).unwrap_or_default()),
            end,
        ))
    }

    /// A string whose opening quote is at `open`; the end is behind the closing quote.
    fn string(&mut self, open: usize) -> Read<String> {
        let mut out = String::new();
        let mut at = open + 1;
        loop {
            let plain = at;
            while self
                .byte(at)
                .is_some_and(|byte| byte != b'"' && byte != b'\\' && byte >= 0x20)
            {
                at += 1;
            }
            out.push_str(self.text.get(plain..at).unwrap_or_default());
            match self.byte(at) {
                Some(b'"') => return Ok((out, at + 1)),
                Some(b'\\') => at = self.escape(open, at, &mut out)?,
                Some(_) => return Err(self.fail("Invalid control character at", at)),
                None => return Err(self.fail("Unterminated string starting at", open)),
            }
        }
    }

    /// The escape whose backslash is at `at`; returns where the string goes on.
    fn escape(&mut self, open: usize, at: usize, out: &mut String) -> Result<usize, LoadError> {
        let character = match self.byte(at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let (unit, end) = self.unit(at + 1)?;
                if (0xd800..0xdc00).contains(&unit)
                    && self
                        .bytes
                        .get(end..)
                        .is_some_and(|rest| rest.starts_with(b"\\u") && rest.len() > 6)
                {
                    let (low, low_end) = self.unit(end + 1)?;
                    if (0xdc00..0xe000).contains(&low) {
                        let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                        return Ok(low_end);
                    }
                }
                out.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
                return Ok(end);
            }
            Some(_) => return Err(self.fail("Invalid \\escape", at)),
            None => return Err(self.fail("Unterminated string starting at", open)),
        };
        out.push(character);
        Ok(at + 2)
    }

    /// The four hexadecimal digits behind the `u` at `at`. As in Python something must follow them.
    fn unit(&self, at: usize) -> Result<(u32, usize), LoadError> {
        let invalid = || self.fail("Invalid \\uXXXX escape", at);
        if at + 5 >= self.bytes.len() {
            return Err(invalid());
        }
        let mut unit = 0;
        for byte in self.bytes.get(at + 1..at + 5).unwrap_or_default() {
            unit = unit * 16 + char::from(*byte).to_digit(16).ok_or_else(invalid)?;
        }
        Ok((unit, at + 5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text and what CPython 3.11's `json.loads` says of it.
    #[test]
    fn messages_are_pythons() {
        for (text, expected) in [
            ("abc", "Expecting value: line 1 column 1 (char 0)"),
            ("", "Expecting value: line 1 column 1 (char 0)"),
            ("  ", "Expecting value: line 1 column 3 (char 2)"),
            ("[1,]", "Expecting value: line 1 column 4 (char 3)"),
            ("[1 2]", "Expecting ',' delimiter: line 1 column 4 (char 3)"),
            (
                "{\"a\" 1}",
                "Expecting ':' delimiter: line 1 column 6 (char 5)",
            ),
            (
                "{a:1}",
                "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            ),
            (
                "{\"a\":1,}",
                "Expecting property name enclosed in double quotes: line 1 column 8 (char 7)",
            ),
            (
                "{\"a\":1,",
                "Expecting property name enclosed in double quotes: line 1 column 8 (char 7)",
            ),
            (
                "\"abc",
                "Unterminated string starting at: line 1 column 1 (char 0)",
            ),
            (
                "\"\\",
                "Unterminated string starting at: line 1 column 1 (char 0)",
            ),
            ("\"\\x\"", "Invalid \\escape: line 1 column 2 (char 1)"),
            ("\"é\\q\"", "Invalid \\escape: line 1 column 3 (char 2)"),
            (
                "\"\\u12\"",
                "Invalid \\uXXXX escape: line 1 column 3 (char 2)",
            ),
            (
                "\"\\u12zz\"",
                "Invalid \\uXXXX escape: line 1 column 3 (char 2)",
            ),
            (
                "\"\\u+123\"",
                "Invalid \\uXXXX escape: line 1 column 3 (char 2)",
            ),
            (
                "\"a\nb\"",
                "Invalid control character at: line 1 column 3 (char 2)",
            ),
            ("1 2", "Extra data: line 1 column 3 (char 2)"),
            ("01", "Extra data: line 1 column 2 (char 1)"),
            ("1.", "Extra data: line 1 column 2 (char 1)"),
            ("1e", "Extra data: line 1 column 2 (char 1)"),
            ("[1.]", "Expecting ',' delimiter: line 1 column 3 (char 2)"),
            ("[", "Expecting value: line 1 column 2 (char 1)"),
            (
                "{",
                "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            ),
            ("{\"a\":", "Expecting value: line 1 column 6 (char 5)"),
            ("[1,\n\n x]", "Expecting value: line 3 column 2 (char 6)"),
            (
                "\u{feff}[]",
                "Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)",
            ),
            ("-Inf", "Expecting value: line 1 column 1 (char 0)"),
            ("+1", "Expecting value: line 1 column 1 (char 0)"),
        ] {
            match loads(text) {
                Err(LoadError::Decode(error)) => {
                    assert_eq!(error.to_string(), expected, "{text:?}")
                }
                other => assert!(
                    matches!(other, Err(LoadError::Decode(_))),
                    "{text:?} gave {other:?}"
                ),
            }
        }
    }

    #[test]
    fn values_are_pythons() {
        for (text, repr) in [
            ("[-Infinity, NaN, Infinity]", "[-inf, nan, inf]"),
            ("\"\\ud83d\\ude00\"", "'😀'"),
            ("\"\\ud83dx\"", "'\u{fffd}x'"),
            ("{\"a\":1,\"b\":0,\"a\":2}", "{'a': 2, 'b': 0}"),
            (" [1, \"2\", null] ", "[1, '2', None]"),
            ("1e3", "1000.0"),
            ("-0", "0"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
        ] {
            assert_eq!(
                loads(text).map(|value| json::python_repr(&value)),
                Ok(repr.to_owned()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_python_refuses_otherwise() {
        assert_eq!(
            loads(&"1".repeat(MAX_INT_DIGITS + 1)),
            Err(LoadError::Other)
        );
        assert!(loads(&"1".repeat(MAX_INT_DIGITS)).is_ok());
        assert_eq!(loads(&"[".repeat(100_000)), Err(LoadError::Other));
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = loads(&text);
        }

        #[test]
        fn never_panics_near_json(text in r#"[\[\]{}",:\\u0-9a-fé\n eE.+-]{0,40}"#) {
            let _ = loads(&text);
        }

        #[test]
        fn reads_what_serde_json_reads(text in r#"(\{"[a-c]":)?\[?(-?[0-9]{1,3}(\.[0-9])?|"[a-zé]*"|null|true)(,[0-9])?\]?\}?"#) {
            if let Ok(value) = serde_json::from_str::<Json>(&text) {
                prop_assert_eq!(loads(&text), Ok(value));
            } else {
                prop_assert!(loads(&text).is_err());
            }
        }
    }
}
