//! JSON values as the conformance cases compare them: numbers by value, machine-bound texts replaced, NaN encoded.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Number, Value};

/// Relative difference up to which floating-point numbers count as equal.
const TOLERANCE: f64 = 1e-9;

/// Parses JSON that may hold Python's `NaN`, `Infinity` and `-Infinity`; they become `{"$float": "nan"}` and so on.
///
/// # Errors
/// When the text is not one JSON value.
pub fn lenient_json(text: &str) -> serde_json::Result<Value> {
    static TOKEN: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#""(?:[^"\\]|\\.)*"|-?Infinity|NaN"#).ok());
    let Some(token) = &*TOKEN else {
        return serde_json::from_str(text);
    };
    let strict = token.replace_all(text, |found: &regex::Captures<'_>| match &found[0] {
        "NaN" => r#"{"$float":"nan"}"#.to_owned(),
        "Infinity" => r#"{"$float":"inf"}"#.to_owned(),
        "-Infinity" => r#"{"$float":"-inf"}"#.to_owned(),
        string => string.to_owned(),
    });
    serde_json::from_str(&strict)
}

/// The value with paths (`replace`: text and placeholder), UUIDs and object addresses replaced.
pub fn normalised(value: &Value, replace: &[(String, &str)]) -> Value {
    match value {
        Value::String(text) => Value::String(normalised_text(text, replace)),
        Value::Array(items) => items.iter().map(|item| normalised(item, replace)).collect(),
        Value::Object(entries) => entries
            .iter()
            .map(|(name, item)| (normalised_text(name, replace), normalised(item, replace)))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

fn normalised_text(text: &str, replace: &[(String, &str)]) -> String {
    static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let hex = "[0-9a-f]";
        let uuid = format!("{hex}{{8}}-{hex}{{4}}-{hex}{{4}}-{hex}{{4}}-{hex}{{12}}");
        [(uuid, "<uuid>"), (format!("0x{hex}{{6,}}"), "<addr>")]
            .into_iter()
            .filter_map(|(pattern, name)| Some((Regex::new(&pattern).ok()?, name)))
            .collect()
    });
    let mut text = text.to_owned();
    for (found, placeholder) in replace {
        text = text.replace(found, placeholder);
    }
    for (pattern, placeholder) in &*PATTERNS {
        text = pattern.replace_all(&text, *placeholder).into_owned();
    }
    text
}

/// The first place where two values differ, with both sides; `None` when they are the same.
pub fn difference(want: &Value, got: &Value, path: &str) -> Option<String> {
    match (want, got) {
        (Value::Object(want_entries), Value::Object(got_entries)) => {
            for (name, item) in want_entries {
                match got_entries.get(name) {
                    None => return Some(format!("{path}.{name}: missing, want {item}")),
                    Some(other) => {
                        if let Some(found) = difference(item, other, &format!("{path}.{name}")) {
                            return Some(found);
                        }
                    }
                }
            }
            got_entries
                .iter()
                .find(|(name, _)| !want_entries.contains_key(*name))
                .map(|(name, item)| format!("{path}.{name}: unexpected {item}"))
        }
        (Value::Array(want_items), Value::Array(got_items))
            if want_items.len() == got_items.len() =>
        {
            want_items
                .iter()
                .zip(got_items)
                .enumerate()
                .find_map(|(index, (a, b))| difference(a, b, &format!("{path}[{index}]")))
        }
        (Value::Number(a), Value::Number(b)) if same_number(a, b) => None,
        _ if want == got => None,
        _ => Some(format!("{path}:\n  want {want}\n  got  {got}")),
    }
}

fn same_number(a: &Number, b: &Number) -> bool {
    if a == b {
        return true;
    }
    let is_integer = |number: &Number| {
        number
            .to_string()
            .bytes()
            .all(|c| c == b'-' || c.is_ascii_digit())
    };
    if is_integer(a) && is_integer(b) {
        return false;
    }
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0),
        _ => false,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_pythons_json() {
        let read = lenient_json(r#"{"a": [NaN, -Infinity, Infinity], "NaN \" NaN": "Infinity"}"#);
        let want = json!({"a": [{"$float": "nan"}, {"$float": "-inf"}, {"$float": "inf"}], "NaN \" NaN": "Infinity"});
        assert_eq!(read.unwrap(), want);
        assert!(lenient_json("{} {}").is_err());
    }

    #[test]
    fn numbers_compare_by_value_and_booleans_are_none() {
        let same = |want: Value, got: Value| difference(&want, &got, "").is_none();
        assert!(same(json!([1, 0.3]), json!([1.0, 0.1 + 0.2])));
        assert!(!same(json!(1), json!(true)));
        assert!(!same(
            json!(9_007_199_254_740_993_u64),
            json!(9_007_199_254_740_992_u64)
        ));
        assert!(!same(json!({"a": 1}), json!({"a": 1, "b": 2})));
        assert!(!same(json!([1]), json!([1, 2])));
    }

    #[test]
    fn machine_bound_texts_are_replaced() {
        let value = json!({"k": "<X object at 0x7f00aa11bb22> in /tmp/x/a.py", "2b9e5c8a-0c1d-4e2f-8a3b-4c5d6e7f8091": 1});
        let want = json!({"k": "<X object at <addr>> in <root>/a.py", "<uuid>": 1});
        assert_eq!(normalised(&value, &[("/tmp/x".to_owned(), "<root>")]), want);
    }
}
