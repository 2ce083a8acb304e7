//! Python's conversions and truth of values that came as JSON, and its `json.dumps`.

use serde_json::Value;

use crate::failure::Failure;
use crate::number::float_repr;
use crate::python;

/// `bool(value)`.
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64().is_none_or(|number| number != 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// promptflow's `to_bool`: whether `str(value)` is "true" in any case.
pub fn to_bool(value: &Value) -> bool {
    text(value).to_lowercase() == "true"
}

/// `str(value)`.
pub fn text(value: &Value) -> String {
    python::str(&python::value(value))
}

/// `repr(value)`.
pub fn repr(value: &Value) -> String {
    python::repr(&python::value(value))
}

/// `str(type(value))`.
pub fn type_text(value: &Value) -> String {
    format!("<class '{}'>", python::type_name(&python::value(value)))
}

/// `int(value)`.
pub fn to_int(value: &Value) -> Result<Value, Failure> {
    let invalid = |text: &str| {
        let text = python::text_repr(text);
        Failure::python(
            "ValueError",
            format!("invalid literal for int() with base 10: {text}"),
        )
    };
    match value {
        Value::Bool(truth) => Ok(u8::from(*truth).into()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(value.clone()),
        Value::Number(number) => {
            let digits = number.to_string();
            if !digits.contains(['.', 'e', 'E']) {
                return Ok(value.clone());
            }
            let number = number.as_f64().unwrap_or(f64::NAN).trunc();
            integer(&format!("{number:.0}")).ok_or_else(|| {
                Failure::python("OverflowError", "cannot convert float infinity to integer")
            })
        }
        Value::String(digits) => {
            let trimmed = digits.trim().replace('_', "");
            integer(trimmed.strip_prefix('+').unwrap_or(&trimmed)).ok_or_else(|| invalid(digits))
        }
        other => Err(wrong_argument(
            "int()",
            "a string, a bytes-like object or a real number",
            other,
        )),
    }
}

fn integer(digits: &str) -> Option<Value> {
    let plain = digits.strip_prefix('-').unwrap_or(digits);
    if plain.is_empty() || !plain.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let kept = plain.trim_start_matches('0');
    let sign = if digits.len() > plain.len() && !kept.is_empty() {
        "-"
    } else {
        ""
    };
    let kept = if kept.is_empty() { "0" } else { kept };
    serde_json::from_str(&format!("{sign}{kept}")).ok()
}

/// `float(value)`.
pub fn to_float(value: &Value) -> Result<f64, Failure> {
    match value {
        Value::Bool(truth) => Ok(f64::from(u8::from(*truth))),
        Value::Number(number) => Ok(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => float(text).ok_or_else(|| {
            let text = python::text_repr(text);
            Failure::python(
                "ValueError",
                format!("could not convert string to float: {text}"),
            )
        }),
        other => Err(wrong_argument(
            "float()",
            "a string or a real number",
            other,
        )),
    }
}

/// The number in a text, as Python's `float` reads it.
pub fn float(text: &str) -> Option<f64> {
    text.trim().replace('_', "").parse().ok()
}

/// A float that is JSON; others Python's JSON would have, but no service reads.
pub fn json_float(number: f64) -> Result<Value, Failure> {
    serde_json::from_str(&float_repr(number)).map_err(|_| {
        Failure::python(
            "ValueError",
            "Out of range float values are not JSON compliant",
        )
    })
}

fn wrong_argument(function: &str, wanted: &str, value: &Value) -> Failure {
    let found = python::type_name(&python::value(value));
    Failure::python(
        "TypeError",
        format!("{function} argument must be {wanted}, not '{found}'"),
    )
}

/// `json.dumps(value)`: with spaces, and in ASCII.
pub fn dumps(value: &Value) -> String {
    let mut out = String::new();
    write_dumps(&mut out, value);
    out
}

fn write_dumps(out: &mut String, value: &Value) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_dumps(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (name, member)) in members.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_dumps(out, &Value::from(name.as_str()));
                out.push_str(": ");
                write_dumps(out, member);
            }
            out.push('}');
        }
        Value::String(text) => {
            for letter in Value::from(text.as_str()).to_string().chars() {
                if letter.is_ascii() && letter != '\x7f' {
                    out.push(letter);
                } else {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
        other => out.push_str(&other.to_string()),
    }
}

/// What Python's `\s` matches, and its `strip` takes off.
pub fn is_space(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\x1c'..='\x1f')
}

/// `text.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}
