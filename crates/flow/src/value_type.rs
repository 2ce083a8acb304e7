//! The value types of flow inputs and tool parameters, and Python's conversion to them.
//!
//! Rules: `ValueType.parse` of promptflow's `contracts/tool.py`, which calls Python's `int()`, `float()`, `str()` and `json.loads`.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

use crate::json::{self, Json, MAX_INT_DIGITS, constant_pattern, python_repr, python_str};
use crate::pyjson::{self, LoadError};

/// The type of a flow input, a flow output or a tool parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// An integer of any size.
    Int,
    /// A double.
    Double,
    /// True or false.
    Bool,
    /// Text.
    String,
    /// Text that must not be shown.
    Secret,
    /// A Jinja template.
    PromptTemplate,
    /// A list.
    List,
    /// Anything.
    Object,
    /// A path of a file in the flow's folder.
    FilePath,
    /// An image.
    Image,
    /// The definition of an assistant.
    AssistantDefinition,
}

/// All types with their names in `flow.dag.yaml`.
const NAMES: [(ValueType, &str); 11] = [
    (ValueType::Int, "int"),
    (ValueType::Double, "double"),
    (ValueType::Bool, "bool"),
    (ValueType::String, "string"),
    (ValueType::Secret, "secret"),
    (ValueType::PromptTemplate, "prompt_template"),
    (ValueType::List, "list"),
    (ValueType::Object, "object"),
    (ValueType::FilePath, "file_path"),
    (ValueType::Image, "image"),
    (ValueType::AssistantDefinition, "assistant_definition"),
];

/// The text names no [`ValueType`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown value type")]
pub struct UnknownValueType;

impl FromStr for ValueType {
    type Err = UnknownValueType;

    /// The names are those of `flow.dag.yaml`, in lower case only.
    fn from_str(text: &str) -> Result<ValueType, UnknownValueType> {
        NAMES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(value_type, _)| *value_type)
            .ok_or(UnknownValueType)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a value cannot be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoerceError {
    /// Text that should be JSON is not. The text is Python's: `Expecting value: line 1 column 1 (char 0)`.
    #[error("(JSONDecodeError) {0}")]
    Json(String),
    /// Any other refusal; the text is close to Python's and for logs only.
    #[error("{0}")]
    Value(String),
}

impl ValueType {
    /// The name in `flow.dag.yaml`.
    pub fn as_str(self) -> &'static str {
        NAMES
            .iter()
            .find(|(value_type, _)| *value_type == self)
            .map_or("object", |(_, name)| name)
    }

    /// All names, in promptflow's order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(_, name)| *name)
    }

    /// Converts a value to this type as promptflow does.
    ///
    /// - `int`: Python's `int()`: text with spaces, signs and underscores, truncated floats, booleans.
    /// - `double`: Python's `float()`, which knows `inf` and `nan`: see [`float`](crate::float).
    /// - `bool`: booleans, and the texts `true` and `false` in any case; not numbers.
    /// - `string`: Python's `str()`: null becomes `None`.
    /// - `list`: a list, or JSON text of one.
    /// - `object`: anything; text becomes what it says in JSON and stays text if it says nothing.
    /// - The other types pass every value; images and assistants are loaded by the executor.
    pub fn coerce(self, value: Json) -> Result<Json, CoerceError> {
        match self {
            ValueType::Int => to_int(&value),
            ValueType::Double => to_double(&value),
            ValueType::Bool => match &value {
                Json::Bool(_) => Ok(value),
                Json::String(text) if text.to_lowercase() == "true" => Ok(Json::Bool(true)),
                Json::String(text) if text.to_lowercase() == "false" => Ok(Json::Bool(false)),
                other => Err(CoerceError::Value(format!(
                    "Invalid boolean value {}",
                    python_repr(other)
                ))),
            },
            ValueType::String => Ok(match value {
                Json::String(_) => value,
                other => Json::String(python_str(&other)),
            }),
            ValueType::List => {
                let value = match value {
                    Json::String(text) => pyjson::loads(&text).map_err(|error| match error {
                        LoadError::Decode(error) => CoerceError::Json(error.to_string()),
                        LoadError::Other => {
                            CoerceError::Value("the text exceeds the limits of JSON".to_owned())
                        }
                    })?,
                    other => other,
                };
                match value {
                    Json::Array(_) => Ok(value),
                    other => Err(CoerceError::Value(format!(
                        "Invalid list value {}",
                        python_repr(&other)
                    ))),
                }
            }
            ValueType::Object => Ok(match value {
                Json::String(text) => pyjson::loads(&text).unwrap_or(Json::String(text)),
                other => other,
            }),
            ValueType::Secret
            | ValueType::PromptTemplate
            | ValueType::FilePath
            | ValueType::Image
            | ValueType::AssistantDefinition => Ok(value),
        }
    }
}

/// Python's `int(value)`.
fn to_int(value: &Json) -> Result<Json, CoerceError> {
    let refuse = |value: &Json| {
        CoerceError::Value(format!(
            "invalid literal for int() with base 10: {}",
            python_repr(value)
        ))
    };
    match value {
        Json::Bool(value) => Ok(Json::from(u8::from(*value))),
        Json::Number(number) if json::is_float(number) => {
            let float = json::to_f64(number);
            if float.is_finite() {
                // Rust prints a double's exact decimal value, as Python's int() has it.
                Ok(json::number(&json::normal_int(&format!(
                    "{:.0}",
                    float.trunc()
                ))))
            } else {
                Err(CoerceError::Value(format!(
                    "cannot convert float {} to integer",
                    python_repr(value)
                )))
            }
        }
        Json::Number(number) => Ok(json::number(&json::normal_int(number.as_str()))),
        Json::String(text) => {
            let text = ascii_numerals(text).ok_or_else(|| refuse(value))?;
            let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
            let groups_of_digits = unsigned
                .split('_')
                .all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
            let digits = text.replace('_', "");
            if groups_of_digits && digits.len() <= MAX_INT_DIGITS {
                Ok(json::number(&json::normal_int(&digits)))
            } else {
                Err(refuse(value))
            }
        }
        Json::Null | Json::Array(_) | Json::Object(_) => Err(refuse(value)),
    }
}

/// Python's `float(value)`.
fn to_double(value: &Json) -> Result<Json, CoerceError> {
    let refuse = |value: &Json| {
        CoerceError::Value(format!(
            "could not convert string to float: {}",
            python_repr(value)
        ))
    };
    match value {
        Json::Bool(value) => Ok(json::float(f64::from(u8::from(*value)))),
        Json::Number(number) => {
            let float = json::to_f64(number);
            if float.is_infinite() && !json::is_float(number) {
                return Err(CoerceError::Value(
                    "int too large to convert to float".to_owned(),
                ));
            }
            Ok(json::float(float))
        }
        Json::String(text) => {
            let text = ascii_numerals(text).ok_or_else(|| refuse(value))?;
            let bytes = text.as_bytes();
            let digit = |at: Option<usize>| {
                at.and_then(|at| bytes.get(at))
                    .is_some_and(u8::is_ascii_digit)
            };
            let underscores_divide_digits = bytes
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'_')
                .all(|(at, _)| digit(at.checked_sub(1)) && digit(Some(at + 1)));
            if !underscores_divide_digits {
                return Err(refuse(value));
            }
            text.replace('_', "")
                .parse()
                .map(json::float)
                .map_err(|_| refuse(value))
        }
        Json::Object(_) if json::as_non_finite(value).is_some() => Ok(value.clone()),
        Json::Null | Json::Array(_) | Json::Object(_) => Err(refuse(value)),
    }
}

/// Text as Python's `int()` and `float()` see it: white space stripped, decimal digits of all scripts as ASCII digits.
/// `None` if other characters beyond ASCII remain.
fn ascii_numerals(text: &str) -> Option<String> {
    text.trim()
        .chars()
        .map(|character| {
            if character.is_ascii() {
                Some(character)
            } else {
                decimal_digit(character)
            }
        })
        .collect()
}

static DECIMAL: LazyLock<Regex> = LazyLock::new(|| constant_pattern(r"^\p{Nd}$"));

/// The ASCII digit of the same value as a decimal digit of any script, `None` for other characters.
///
/// Unicode keeps the digits 0 to 9 of each script together in this order, and each run of them begins with a zero; so the distance
/// from the start of the run gives the value.
pub(crate) fn decimal_digit(character: char) -> Option<char> {
    let is_digit = |code: u32| {
        char::from_u32(code)
            .is_some_and(|character| DECIMAL.is_match(character.encode_utf8(&mut [0; 4])))
    };
    if character.is_ascii_digit() {
        return Some(character);
    }
    let code = u32::from(character);
    if character.is_ascii() || !is_digit(code) {
        return None;
    }
    let distance = (1..=code)
        .take_while(|distance| is_digit(code - distance))
        .count();
    char::from_digit(u32::try_from(distance % 10).ok()?, 10)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `None` for a refusal, else the converted value's JSON text.
    fn coerce(value_type: ValueType, text: &str) -> Option<String> {
        value_type
            .coerce(serde_json::from_str(text).unwrap())
            .ok()
            .map(|value| value.to_string())
    }

    fn check(value_type: ValueType, cases: &[(&str, Option<&str>)]) {
        for (text, expected) in cases {
            assert_eq!(
                coerce(value_type, text).as_deref(),
                *expected,
                "{value_type} of {text}"
            );
        }
    }

    #[test]
    fn int() {
        check(
            ValueType::Int,
            &[
                ("\"7\"", Some("7")),
                ("\" 5 \"", Some("5")),
                ("\"+5\"", Some("5")),
                ("\"-05\"", Some("-5")),
                ("\"1_000\"", Some("1000")),
                ("\"1__0\"", None),
                ("\"_1\"", None),
                ("\"1_\"", None),
                ("\"+_1\"", None),
                ("\"- 1\"", None),
                ("\"٣٤\"", Some("34")),
                ("\"²\"", None),
                ("\"\\u20037\\u00a0\\u000b\"", Some("7")),
                ("\"\\u001c7\"", None),
                ("\"1.5\"", None),
                ("\"1e3\"", None),
                ("\"0x1F\"", None),
                ("\"\"", None),
                ("\"-\"", None),
                ("\"abc\"", None),
                ("3", Some("3")),
                ("3.9", Some("3")),
                ("-0.9", Some("0")),
                ("-3.9", Some("-3")),
                ("1e23", Some("99999999999999991611392")),
                ("true", Some("1")),
                ("false", Some("0")),
                (
                    "123456789012345678901234567890",
                    Some("123456789012345678901234567890"),
                ),
                ("null", None),
                ("[]", None),
                ("{}", None),
            ],
        );
        assert!(ValueType::Int.coerce(json::float(f64::NAN)).is_err());
        assert!(
            ValueType::Int
                .coerce(Json::String("1".repeat(MAX_INT_DIGITS + 1)))
                .is_err()
        );
    }

    #[test]
    fn double() {
        check(
            ValueType::Double,
            &[
                ("\"1e3\"", Some("1000.0")),
                ("\" .5 \"", Some("0.5")),
                ("\"5.\"", Some("5.0")),
                ("\"1_0.0_1\"", Some("10.01")),
                ("\"1_.0\"", None),
                ("\"1._0\"", None),
                ("\"1_e5\"", None),
                ("\"-inf\"", Some(r#"{"__flowcell_float__":"-inf"}"#)),
                ("\"Infinity\"", Some(r#"{"__flowcell_float__":"inf"}"#)),
                ("\"nAn\"", Some(r#"{"__flowcell_float__":"nan"}"#)),
                ("\"1e999\"", Some(r#"{"__flowcell_float__":"inf"}"#)),
                ("\"٣.5\"", Some("3.5")),
                ("\".\"", None),
                ("\"e5\"", None),
                ("\"0x1\"", None),
                ("\"x\"", None),
                ("\"\"", None),
                ("3", Some("3.0")),
                ("2.50", Some("2.5")),
                ("true", Some("1.0")),
                ("null", None),
                ("[]", None),
            ],
        );
        assert!(
            ValueType::Double
                .coerce(json::number(&format!("1{}", "0".repeat(309))))
                .is_err()
        );
    }

    #[test]
    fn boolean() {
        check(
            ValueType::Bool,
            &[
                ("true", Some("true")),
                ("\"tRuE\"", Some("true")),
                ("\"False\"", Some("false")),
                ("\" true\"", None),
                ("\"yes\"", None),
                ("1", None),
                ("null", None),
            ],
        );
    }

    #[test]
    fn string() {
        check(
            ValueType::String,
            &[
                ("\"a\"", Some("\"a\"")),
                ("5", Some("\"5\"")),
                ("1.50", Some("\"1.5\"")),
                ("null", Some("\"None\"")),
                ("true", Some("\"True\"")),
                ("{\"a\": 1}", Some("\"{'a': 1}\"")),
            ],
        );
    }

    #[test]
    fn list_and_object() {
        check(
            ValueType::List,
            &[
                ("[1]", Some("[1]")),
                ("\"[1, \\\"2\\\", null]\"", Some("[1,\"2\",null]")),
                ("\"[NaN]\"", Some(r#"[{"__flowcell_float__":"nan"}]"#)),
                ("\"{}\"", None),
                ("\"abc\"", None),
                ("5", None),
                ("null", None),
            ],
        );
        assert_eq!(
            ValueType::List.coerce(Json::from("abc")),
            Err(CoerceError::Json(
                "Expecting value: line 1 column 1 (char 0)".to_owned()
            ))
        );
        check(
            ValueType::Object,
            &[
                ("\"{\\\"a\\\": [1.0]}\"", Some("{\"a\":[1.0]}")),
                ("\"9\"", Some("9")),
                ("\"not json\"", Some("\"not json\"")),
                ("\"\"", Some("\"\"")),
                ("[1]", Some("[1]")),
                ("null", Some("null")),
            ],
        );
    }

    #[test]
    fn the_rest_pass() {
        for value_type in [
            ValueType::Secret,
            ValueType::FilePath,
            ValueType::PromptTemplate,
            ValueType::Image,
        ] {
            check(
                value_type,
                &[
                    ("1", Some("1")),
                    ("null", Some("null")),
                    ("\"a\"", Some("\"a\"")),
                ],
            );
        }
    }

    #[test]
    fn names_read_back() {
        for name in ValueType::names() {
            assert_eq!(name.parse::<ValueType>().unwrap().as_str(), name);
        }
        assert_eq!("Int".parse::<ValueType>(), Err(UnknownValueType));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            for name in ValueType::names() {
                let _ = name.parse::<ValueType>().unwrap().coerce(Json::String(text.clone()));
            }
        }

        #[test]
        fn integers_survive(value in any::<i128>()) {
            prop_assert_eq!(coerce(ValueType::Int, &format!("\" {value} \"")), Some(value.to_string()));
        }

        #[test]
        fn doubles_survive(value in proptest::num::f64::NORMAL) {
            let text = json::float_repr(value);
            let converted = ValueType::Double.coerce(Json::String(text)).unwrap();
            prop_assert_eq!(converted.to_string().parse::<f64>().unwrap(), value);
        }
    }
}
