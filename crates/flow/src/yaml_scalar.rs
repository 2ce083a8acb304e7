//! What a YAML scalar means: the YAML 1.2 rules of ruamel, the library promptflow reads flows with.
//!
//! Dates stay text: ruamel makes date objects of them, on which promptflow itself then fails.

use std::sync::LazyLock;

use regex::Regex;

use crate::json::{self, Json, MAX_INT_DIGITS, constant_pattern};

static FLOAT: LazyLock<Regex> = LazyLock::new(|| {
    constant_pattern(
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?)$",
    )
});
static INTEGER: LazyLock<Regex> =
    LazyLock::new(|| constant_pattern(r"^[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9_]+)$"));

/// The value of a plain scalar without a tag.
pub(crate) fn plain(text: &str) -> Json {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Json::Null,
        "true" | "True" | "TRUE" => Json::Bool(true),
        "false" | "False" | "FALSE" => Json::Bool(false),
        _ if text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) => {
            float(text)
                .or_else(|| integer(text))
                .unwrap_or_else(|| Json::String(text.to_owned()))
        }
        _ => Json::String(text.to_owned()),
    }
}

/// The value of a scalar with a tag of the core schema (`!!str`), `None` if the text is none of that kind.
///
/// Tags of collections and of other kinds leave the text.
pub(crate) fn tagged(tag: &str, text: &str) -> Option<Json> {
    match tag {
        "null" => Some(Json::Null),
        "bool" => match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Some(Json::Bool(true)),
            "false" | "no" | "off" | "n" => Some(Json::Bool(false)),
            _ => None,
        },
        "int" => integer(text),
        "float" => {
            let whole = |text: &str| match integer(text)? {
                Json::Number(number) => Some(json::float(json::to_f64(&number))),
                _ => None,
            };
            float(text).or_else(|| whole(text))
        }
        _ => Some(Json::String(text.to_owned())),
    }
}

fn float(text: &str) -> Option<Json> {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Some(json::float(f64::INFINITY));
        }
        "-.inf" | "-.Inf" | "-.INF" => return Some(json::float(f64::NEG_INFINITY)),
        ".nan" | ".NaN" | ".NAN" => return Some(json::float(f64::NAN)),
        _ if !FLOAT.is_match(text) => return None,
        _ => {}
    }
    text.replace('_', "").parse().ok().map(json::float)
}

fn integer(text: &str) -> Option<Json> {
    if !INTEGER.is_match(text) {
        return None;
    }
    let text = text.replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(&text)),
    };
    let decimal = match digits.split_at_checked(2) {
        Some(("0b", digits)) => to_decimal(digits, 2)?,
        Some(("0o", digits)) => to_decimal(digits, 8)?,
        Some(("0x", digits)) => to_decimal(digits, 16)?,
        _ if !digits.is_empty() && digits.len() <= MAX_INT_DIGITS => digits.to_owned(),
        _ => return None,
    };
    Some(json::number(&json::normal_int(&format!("{sign}{decimal}"))))
}

/// Digits of another base as decimal digits, of any size up to Python's limit.
fn to_decimal(digits: &str, base: u32) -> Option<String> {
    const CHUNK: u64 = 1_000_000_000;
    if digits.is_empty() || digits.len() > MAX_INT_DIGITS {
        return None;
    }
    // The number in chunks of nine decimal digits, least first.
    let mut chunks: Vec<u64> = vec![0];
    for digit in digits.chars() {
        let mut carry = u64::from(digit.to_digit(base)?);
        for chunk in &mut chunks {
            let value = *chunk * u64::from(base) + carry;
            *chunk = value % CHUNK;
            carry = value / CHUNK;
        }
        if carry > 0 {
            chunks.push(carry);
        }
    }
    Some(
        chunks
            .iter()
            .rev()
            .map(|chunk| format!("{chunk:09}"))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::python_repr;
    use proptest::prelude::*;

    /// The right sides are Python's `repr` of what ruamel 0.19 reads.
    #[test]
    fn plain_scalars_mean_what_ruamel_says() {
        for (text, repr) in [
            ("yes", "'yes'"),
            ("no", "'no'"),
            ("on", "'on'"),
            ("True", "True"),
            ("FALSE", "False"),
            ("tRue", "'tRue'"),
            ("", "None"),
            ("~", "None"),
            ("Null", "None"),
            ("nULL", "'nULL'"),
            ("0o17", "15"),
            ("017", "17"),
            ("0o18", "'0o18'"),
            ("089", "89"),
            ("0x1F", "31"),
            ("-0x1f", "-31"),
            ("0b101", "5"),
            ("0b102", "'0b102'"),
            (
                "0xFFFFFFFFFFFFFFFFFFFFFFFF",
                "79228162514264337593543950335",
            ),
            ("1_000", "1000"),
            ("1_", "1"),
            ("+12", "12"),
            ("+_36", "36"),
            ("_1", "'_1'"),
            ("+_", "'+_'"),
            ("-0", "0"),
            ("1e3", "1000.0"),
            ("12E+03", "12000.0"),
            ("1_0e3", "10000.0"),
            (".5", "0.5"),
            ("+.5", "0.5"),
            (".5e3", "'.5e3'"),
            (".5e+3", "500.0"),
            ("1.", "1.0"),
            ("1.0", "1.0"),
            ("1.50", "1.5"),
            ("1:30", "'1:30'"),
            ("1.2.3", "'1.2.3'"),
            ("2020-01-02", "'2020-01-02'"),
            (".inf", "inf"),
            ("-.INF", "-inf"),
            (".nan", "nan"),
            ("inf", "'inf'"),
            ("nan", "'nan'"),
            ("-", "'-'"),
            ("+", "'+'"),
            (".", "'.'"),
            ("0x", "'0x'"),
            ("=", "'='"),
            ("1e999", "inf"),
        ] {
            assert_eq!(python_repr(&plain(text)), repr, "{text}");
        }
    }

    #[test]
    fn tags_decide() {
        for (tag, text, repr) in [
            ("str", "12", Some("'12'")),
            ("int", "12", Some("12")),
            ("int", "x", None),
            ("float", "3", Some("3.0")),
            ("float", "1.5", Some("1.5")),
            ("float", "x", None),
            ("bool", "yes", Some("True")),
            ("bool", "maybe", None),
            ("null", "", Some("None")),
            ("timestamp", "2020-01-02", Some("'2020-01-02'")),
        ] {
            assert_eq!(
                tagged(tag, text)
                    .map(|value| python_repr(&value))
                    .as_deref(),
                repr,
                "!!{tag} {text}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>(), tag in "(str|int|float|bool|null|x)") {
            let _ = plain(&text);
            let _ = tagged(&tag, &text);
        }

        #[test]
        fn bases_agree(value in any::<u128>()) {
            let expected = value.to_string();
            prop_assert_eq!(python_repr(&plain(&format!("0x{value:X}"))), expected.clone());
            prop_assert_eq!(python_repr(&plain(&format!("0o{value:o}"))), expected.clone());
            prop_assert_eq!(python_repr(&plain(&format!("0b{value:b}"))), expected);
        }
    }
}
