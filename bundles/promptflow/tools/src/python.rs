//! Values as Python has them: from JSON, and to text by `str()` and `repr()`.

use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple, ValueKind};
use serde_json::Value as Json;

use crate::integer::LargeInteger;
use crate::number::float_repr;

/// What Python's `json.loads` would give.
pub fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => number_value(&number.to_string()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Json::Object(members) => Value::from_pairs(
            members
                .iter()
                .map(|(key, member)| (key.clone(), value(member))),
        ),
    }
}

fn number_value(digits: &str) -> Value {
    if let Ok(integer) = digits.parse::<i64>() {
        Value::from(integer)
    } else if let Ok(integer) = digits.parse::<i128>() {
        Value::from(integer)
    } else if digits.contains(['.', 'e', 'E']) {
        Value::from(digits.parse::<f64>().unwrap_or(f64::NAN))
    } else {
        Value::from_object(LargeInteger(digits.to_string()))
    }
}

/// promptflow's `ChatInputList`: a list whose text is its items' texts, a line each.
#[derive(Debug)]
pub struct ChatList(pub Vec<Value>);

impl Object for ChatList {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

/// Python's `str(value)`.
pub fn str(value: &Value) -> String {
    if let Some(list) = value.downcast_object_ref::<ChatList>() {
        let lines: Vec<String> = list.0.iter().map(str).collect();
        return lines.join("\n");
    }
    match value.as_str() {
        Some(text) => text.to_string(),
        None => repr(value),
    }
}

/// Python's `repr(value)`.
pub fn repr(value: &Value) -> String {
    let mut text = String::new();
    write_repr(&mut text, value);
    text
}

fn write_repr(out: &mut String, value: &Value) {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if !value.is_integer() => {
            out.push_str(
                &f64::try_from(value.clone())
                    .map(float_repr)
                    .unwrap_or_else(|_| value.to_string()),
            );
        }
        ValueKind::String => write_text_repr(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq if value.downcast_object_ref::<Tuple>().is_some() => {
            let one = value.len() == Some(1);
            write_items(out, "(", value, if one { ",)" } else { ")" });
        }
        ValueKind::Seq => write_items(out, "[", value, "]"),
        ValueKind::Map => write_members(out, value),
        _ => out.push_str(&value.to_string()),
    }
}

fn write_items(out: &mut String, open: &str, value: &Value, close: &str) {
    out.push_str(open);
    for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_repr(out, &item);
    }
    out.push_str(close);
}

fn write_members(out: &mut String, value: &Value) {
    out.push('{');
    for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_repr(out, &key);
        out.push_str(": ");
        write_repr(out, &value.get_item(&key).unwrap_or_default());
    }
    out.push('}');
}

/// A text in quotes: single ones, unless it has those and no double ones.
pub fn text_repr(text: &str) -> String {
    let mut out = String::new();
    write_text_repr(&mut out, text);
    out
}

fn write_text_repr(out: &mut String, text: &str) {
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
            _ if character == quote => out.extend(['\\', quote]),
            _ if is_printable(character) => out.push(character),
            _ => out.push_str(&match character as u32 {
                code @ ..0x100 => format!("\\x{code:02x}"),
                code @ ..0x10000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
}

/// `str.isprintable` of one character: neither control nor format character, no separator but the space, not private.
/// Unassigned code points count as printable here.
fn is_printable(character: char) -> bool {
    !matches!(character as u32,
        0..0x20 | 0x7f..=0xa0 | 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2 | 0x1680 | 0x180e
        | 0x2000..=0x200f | 0x2028..=0x202f | 0x205f..=0x206f | 0x3000 | 0xe000..=0xf8ff | 0xfeff | 0xfff9..=0xfffb
        | 0x110bd | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0001..=0xe007f | 0xf0000..)
}

/// `type(value).__name__`.
pub fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Seq if value.downcast_object_ref::<Tuple>().is_some() => "tuple",
        ValueKind::Seq => "list",
        ValueKind::Map => "dict",
        ValueKind::Plain if value.downcast_object_ref::<LargeInteger>().is_some() => "int",
        _ => "object",
    }
}
