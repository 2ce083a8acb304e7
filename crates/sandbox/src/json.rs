//! Whether what a guest calls JSON is JSON.
//!
//! Values are handed on and printed as the text that they are. A guest that could pass off other text as a value could
//! write the rest of the answer too.

use serde::de::IgnoredAny;

/// JSON as RFC 8259 has it.
pub(crate) fn is_json(text: &str) -> bool {
    // Not recursive, whatever the depth.
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// JSON that may also hold what Python writes for floating-point numbers without a JSON form.
pub(crate) fn is_python_json(text: &str) -> bool {
    is_json(text) || is_json(&with_finite_numbers(text))
}

/// The text with `NaN` and `Infinity` replaced by a number, except in strings.
fn with_finite_numbers(text: &str) -> String {
    let mut finite = String::with_capacity(text.len());
    // Every other part is the inside of a string.
    let mut in_string = false;
    let mut rest = text;
    while !rest.is_empty() {
        let end = if in_string {
            end_of_string(rest)
        } else {
            rest.find('"').map_or(rest.len(), |quote| quote + 1)
        };
        let (part, after) = rest.split_at(end);
        if in_string {
            finite.push_str(part);
        } else {
            finite.push_str(&part.replace("NaN", "0").replace("Infinity", "0"));
        }
        in_string = !in_string;
        rest = after;
    }
    finite
}

/// Past the closing quote of a string whose opening quote came before.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict() {
        for text in ["null", " {\"a\": [1, -2.5e3, \"\\u00e9\\\"\"]} ", "\"NaN\""] {
            assert!(is_json(text), "{text}");
        }
        for text in [
            "",
            "NaN",
            "[1,]",
            "{} {}",
            "1}, \"error\": null",
            "{'a': 1}",
            "\"\n\"",
        ] {
            assert!(!is_json(text), "{text}");
        }
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert!(is_json(&deep));
    }

    #[test]
    fn python() {
        for text in [
            "NaN",
            "[-Infinity, Infinity]",
            "{\"NaN \\\" NaN\": NaN}",
            "\"\\\\\"",
            "{\"é\": NaN}",
        ] {
            assert!(is_python_json(text), "{text}");
        }
        for text in [
            "NaN NaN",
            "\"NaN",
            "Infinit",
            "{NaN: 1}",
            "1}, {\"a\": NaN",
            "NaNNaN",
        ] {
            assert!(!is_python_json(text), "{text}");
        }
    }
}
