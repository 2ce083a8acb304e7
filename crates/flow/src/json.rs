//! JSON values seen with Python's eyes: `str()`, `repr()`, `==`, truth, and numbers that keep their text.
//!
//! Nodes are Python functions, and what a flow author compares, prints or reads in a message is Python's view of a value. These
//! functions give that view of a [`Json`] value without a Python interpreter.
//!
//! JSON has no infinity and no NaN, but Python's `float("-inf")` does, and a flow's input of type `double` takes it. Such a value is
//! a mapping with the single key [`NON_FINITE_KEY`] here, which whoever hands values to Python turns back into a float. (A number
//! with the text `-Infinity` is possible with `serde_json`, but makes its `json!` macro panic.)

use std::fmt::Write as _;

use regex::Regex;
use serde_json::Number;
use std::sync::LazyLock;

/// A JSON value whose numbers keep the text they were written with (`1.0` stays a float, large integers stay exact).
pub type Json = serde_json::Value;

/// The number of digits Python converts between text and `int` (`sys.get_int_max_str_digits()`); beyond it Python raises.
pub(crate) const MAX_INT_DIGITS: usize = 4300;

/// Compiles a pattern that is a constant of this crate.
#[expect(
    clippy::expect_used,
    reason = "the patterns are constants, and a test compiles each of them"
)]
pub(crate) fn constant_pattern(pattern: &'static str) -> Regex {
    Regex::new(pattern).expect("constant pattern")
}

/// Characters that `str.isprintable()` refuses: the categories "other" and "separator" (the ASCII space is handled apart).
static UNPRINTABLE: LazyLock<Regex> = LazyLock::new(|| constant_pattern(r"^[\p{C}\p{Z}]$"));

/// The only key of a mapping that stands for a float JSON cannot say; the value is `inf`, `-inf` or `nan`.
pub const NON_FINITE_KEY: &str = "__flowcell_float__";

/// A float as JSON: a number as Python's `repr` writes it (`1000.0`, `1e-05`), or a mapping with [`NON_FINITE_KEY`].
pub fn float(value: f64) -> Json {
    if value.is_finite() {
        return number(&float_repr(value));
    }
    let mut entries = serde_json::Map::new();
    entries.insert(NON_FINITE_KEY.to_owned(), Json::String(float_repr(value)));
    Json::Object(entries)
}

/// The infinity or NaN that a mapping with [`NON_FINITE_KEY`] stands for; `None` for every other value.
pub fn as_non_finite(value: &Json) -> Option<f64> {
    let entries = value.as_object().filter(|entries| entries.len() == 1)?;
    match entries.get(NON_FINITE_KEY)?.as_str()? {
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        "nan" => Some(f64::NAN),
        _ => None,
    }
}

/// A number from text that is known to be a JSON number.
pub(crate) fn number(text: &str) -> Json {
    match text.parse::<Number>() {
        Ok(number) => Json::Number(number),
        Err(_) => Json::String(text.to_owned()),
    }
}

/// Whether Python reads this number's text as a `float` rather than an `int`.
pub(crate) fn is_float(number: &Number) -> bool {
    number.as_str().contains(['.', 'e', 'E'])
}

/// The number as a double. Numbers too large for a double give an infinity, as in Python's `json`.
pub(crate) fn to_f64(number: &Number) -> f64 {
    number.as_str().parse().unwrap_or(f64::NAN)
}

/// An integer's text without superfluous zeros or signs, as Python's `str(int)` gives it.
pub(crate) fn normal_int(text: &str) -> String {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    match digits.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits if negative => format!("-{digits}"),
        digits => digits.to_owned(),
    }
}

/// Python's `repr(float)`: the shortest digits that read back as the same double; exponents below -4 and from 16 on.
pub fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{:e}", value.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if (-4..0).contains(&exponent) {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{digits}");
    }
    if (0..16).contains(&exponent) {
        let whole = exponent.unsigned_abs() as usize + 1;
        return match digits.split_at_checked(whole) {
            Some((whole, "")) => format!("{sign}{whole}.0"),
            Some((whole, fraction)) => format!("{sign}{whole}.{fraction}"),
            None => format!("{sign}{digits}{}.0", "0".repeat(whole - digits.len())),
        };
    }
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    let magnitude = exponent.unsigned_abs();
    match digits.split_at_checked(1) {
        Some((first, "")) => format!("{sign}{first}e{exponent_sign}{magnitude:02}"),
        Some((first, rest)) => format!("{sign}{first}.{rest}e{exponent_sign}{magnitude:02}"),
        None => format!("{sign}0.0"),
    }
}

/// Python's `str(value)`: strings as they are, everything else as [`python_repr`].
pub fn python_str(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => python_repr(other),
    }
}

/// How Python writes plain values, in one of its two ways.
struct Notation {
    none: &'static str,
    truth: [&'static str; 2],
    float: fn(&mut String, f64),
    text: fn(&mut String, &str),
    comma: &'static str,
    colon: &'static str,
    sorted: bool,
}

/// `repr`.
const REPR: Notation = Notation {
    none: "None",
    truth: ["False", "True"],
    float: |out, value| out.push_str(&float_repr(value)),
    text: write_str_repr,
    comma: ", ",
    colon: ": ",
    sorted: false,
};

/// `json.dumps`.
const JSON: Notation = Notation {
    none: "null",
    truth: ["false", "true"],
    float: write_json_float,
    text: write_json_str,
    comma: ", ",
    colon: ": ",
    sorted: false,
};

impl Notation {
    fn write(&self, out: &mut String, value: &Json) {
        if let Some(float) = as_non_finite(value) {
            (self.float)(out, float);
            return;
        }
        match value {
            Json::Null => out.push_str(self.none),
            Json::Bool(value) => out.push_str(self.truth[usize::from(*value)]),
            Json::Number(number) if is_float(number) => (self.float)(out, to_f64(number)),
            Json::Number(number) => out.push_str(&normal_int(number.as_str())),
            Json::String(text) => (self.text)(out, text),
            Json::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push_str(self.comma);
                    }
                    self.write(out, item);
                }
                out.push(']');
            }
            Json::Object(entries) => {
                out.push('{');
                let mut entries: Vec<(&String, &Json)> = entries.iter().collect();
                if self.sorted {
                    entries.sort_by_key(|(key, _)| *key);
                }
                for (index, (key, item)) in entries.into_iter().enumerate() {
                    if index > 0 {
                        out.push_str(self.comma);
                    }
                    (self.text)(out, key);
                    out.push_str(self.colon);
                    self.write(out, item);
                }
                out.push('}');
            }
        }
    }
}

/// Python's `repr(value)`: `None`, `True`, `1.0`, `'text'`, `[1, 'a']`, `{'k': None}`.
pub fn python_repr(value: &Json) -> String {
    let mut out = String::new();
    REPR.write(&mut out, value);
    out
}

fn write_str_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => {
                out.push('\\');
                out.push(character);
            }
            ' '..='~' => out.push(character),
            _ if !is_unprintable(character) => out.push(character),
            _ => {
                let code = u32::from(character);
                // Writing to a String cannot fail.
                let _ = match code {
                    0..0x100 => write!(out, "\\x{code:02x}"),
                    0x100..0x1_0000 => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

fn is_unprintable(character: char) -> bool {
    UNPRINTABLE.is_match(character.encode_utf8(&mut [0; 4]))
}

/// Python's `json.dumps(value)`: spaces behind commas and colons, and nothing but ASCII.
pub fn python_json(value: &Json) -> String {
    let mut out = String::new();
    JSON.write(&mut out, value);
    out
}

/// Python's `json.dumps(value, separators=(",", ":"), ensure_ascii=ascii, sort_keys=sorted)`.
pub fn python_json_compact(value: &Json, ascii: bool, sorted: bool) -> String {
    let notation = Notation {
        text: if ascii {
            write_json_str
        } else {
            write_json_unicode
        },
        comma: ",",
        colon: ":",
        sorted,
        ..JSON
    };
    let mut out = String::new();
    notation.write(&mut out, value);
    out
}

fn write_json_float(out: &mut String, float: f64) {
    if float.is_nan() {
        out.push_str("NaN");
    } else if float.is_infinite() {
        out.push_str(if float > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        out.push_str(&float_repr(float));
    }
}

fn write_json_str(out: &mut String, text: &str) {
    write_json_text(out, text, true);
}

fn write_json_unicode(out: &mut String, text: &str) {
    write_json_text(out, text, false);
}

fn write_json_text(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            '\u{7f}'.. if !ascii => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// Python's `repr` of a list of strings: `['n1', 'n2']`.
pub(crate) fn repr_list<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    bracketed('[', ']', items)
}

/// Python's `repr` of a non-empty set of strings: `{'ag'}`, in the order given (Python's own order is arbitrary).
pub(crate) fn repr_set<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    bracketed('{', '}', items)
}

fn bracketed<S: AsRef<str>>(open: char, close: char, items: impl IntoIterator<Item = S>) -> String {
    let mut out = String::from(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_str_repr(&mut out, item.as_ref());
    }
    out.push(close);
    out
}

/// Python's `a == b`: `1 == 1.0 == True`, mappings without regard to order, everything else by type and content.
///
/// This is the comparison of an activate condition's `when` with its `is`; nothing is converted.
pub fn python_eq(left: &Json, right: &Json) -> bool {
    if let Some(float) = as_non_finite(left) {
        return as_non_finite(right).is_some_and(|right| float == right);
    }
    match (left, right) {
        (Json::Null, Json::Null) => true,
        (Json::String(left), Json::String(right)) => left == right,
        (Json::Array(left), Json::Array(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| python_eq(left, right))
        }
        (Json::Object(left), Json::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, left)| right.get(key).is_some_and(|right| python_eq(left, right)))
        }
        (Json::Bool(_) | Json::Number(_), Json::Bool(_) | Json::Number(_)) => {
            match (scalar(left), scalar(right)) {
                (Scalar::Int(left), Scalar::Int(right)) => left == right,
                (Scalar::Float(left), Scalar::Float(right)) => left == right,
                (Scalar::Int(int), Scalar::Float(float))
                | (Scalar::Float(float), Scalar::Int(int)) => {
                    // Python compares an int with a float exactly; Rust prints a double's exact decimal value.
                    float.is_finite()
                        && float.fract() == 0.0
                        && normal_int(&format!("{float:.0}")) == int
                }
            }
        }
        _ => false,
    }
}

enum Scalar {
    Int(String),
    Float(f64),
}

fn scalar(value: &Json) -> Scalar {
    match value {
        Json::Number(number) if is_float(number) => Scalar::Float(to_f64(number)),
        Json::Number(number) => Scalar::Int(normal_int(number.as_str())),
        Json::Bool(true) => Scalar::Int("1".to_owned()),
        _ => Scalar::Int("0".to_owned()),
    }
}

/// Python's `bool(value)`: null, false, zero and empty things are false.
pub fn python_truth(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(value) => *value,
        Json::Number(number) => to_f64(number) != 0.0,
        Json::String(text) => !text.is_empty(),
        Json::Array(items) => !items.is_empty(),
        Json::Object(entries) => !entries.is_empty(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(text: &str) -> Json {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn floats_print_like_python() {
        // Each right side is what CPython 3.11 prints.
        for (value, expected) in [
            (1.0, "1.0"),
            (1.5, "1.5"),
            (-0.0, "-0.0"),
            (100.0, "100.0"),
            (1e15, "1000000000000000.0"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.5e16, "1.5e+16"),
            (1e22, "1e+22"),
            (0.0001, "0.0001"),
            (0.000_12, "0.00012"),
            (0.000_01, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (1e100, "1e+100"),
            (5e-324, "5e-324"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float_repr(value), expected);
        }
    }

    #[test]
    fn repr_is_pythons() {
        let value = parse(
            r#"{"a": [1, -0, 1.50, null, true, "x"], "b'": {"c\"": "it's", "d": "both ' and \""}, "e": "\n\u0001é\u00a0\u200b"}"#,
        );
        assert_eq!(
            python_repr(&value),
            r#"{'a': [1, 0, 1.5, None, True, 'x'], "b'": {'c"': "it's", 'd': 'both \' and "'}, 'e': '\n\x01é\xa0\u200b'}"#
        );
        assert_eq!(python_str(&json!("it's")), "it's");
        assert_eq!(
            python_str(&parse("123456789012345678901234567890")),
            "123456789012345678901234567890"
        );
    }

    #[test]
    fn compact_json_is_pythons() {
        let value = parse(r#"{"b": [1.50, null, "é\u007f\u0001"], "a": {"ü": {}}}"#);
        assert_eq!(
            python_json_compact(&value, true, true),
            r#"{"a":{"\u00fc":{}},"b":[1.5,null,"\u00e9\u007f\u0001"]}"#
        );
        assert_eq!(
            python_json_compact(&value, false, false),
            "{\"b\":[1.5,null,\"é\u{7f}\\u0001\"],\"a\":{\"ü\":{}}}"
        );
    }

    #[test]
    fn json_is_pythons() {
        let value = parse(r#"{"a": [1, 1.50, null, true], "b": "\"é😀\u007f\n"}"#);
        assert_eq!(
            python_json(&value),
            r#"{"a": [1, 1.5, null, true], "b": "\"\u00e9\ud83d\ude00\u007f\n"}"#
        );
    }

    #[test]
    fn equality_is_pythons() {
        for (left, right, equal) in [
            ("1", "1.0", true),
            ("1", "true", true),
            ("0.0", "false", true),
            ("1", "\"1\"", false),
            ("null", "false", false),
            ("9007199254740993", "9007199254740992.0", false),
            ("10000000000000000000000", "1e22", true),
            ("[1, [2]]", "[1.0, [2]]", true),
            (r#"{"a": 1, "b": 2}"#, r#"{"b": 2, "a": 1}"#, true),
            (r#"{"a": 1}"#, r#"{"a": 1, "b": 2}"#, false),
            ("\"a\"", "\"a\"", true),
        ] {
            assert_eq!(
                python_eq(&parse(left), &parse(right)),
                equal,
                "{left} == {right}"
            );
        }
        assert!(!python_eq(&float(f64::NAN), &float(f64::NAN)));
        assert!(python_eq(&float(f64::INFINITY), &float(f64::INFINITY)));
        assert!(!python_eq(&float(f64::INFINITY), &float(f64::NEG_INFINITY)));
        assert!(!python_eq(&json!({}), &float(f64::INFINITY)));
    }

    #[test]
    fn what_json_cannot_say_survives_json() {
        let floats = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN].map(float);
        // `json!` copies values by serializing them, which is why this is no number with an odd text.
        let value = json!({"l": floats});
        assert_eq!(parse(&value.to_string()), value);
        assert_eq!(python_repr(&value), "{'l': [inf, -inf, nan]}");
        assert_eq!(python_json(&value), r#"{"l": [Infinity, -Infinity, NaN]}"#);
        assert_eq!(as_non_finite(&json!({NON_FINITE_KEY: "1"})), None);
        assert_eq!(
            as_non_finite(&json!({NON_FINITE_KEY: "inf", "more": 1})),
            None
        );
    }
}
