//! minijinja's errors as the exceptions that Jinja2 raises: same class, same text, where the two fail for one reason.

use std::fmt;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};

use crate::{python, tags};

/// A Python exception; prints as `Class: message`.
#[derive(Debug, PartialEq)]
pub struct JinjaError {
    pub class: &'static str,
    pub message: String,
    /// For syntax errors, from 1.
    pub line: Option<usize>,
}

impl fmt::Display for JinjaError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.class, self.message)
    }
}

/// Attributes that every Python value has; Jinja2's sandbox lets nobody use them.
const INTERNAL: [&str; 22] = [
    "__class__",
    "__delattr__",
    "__dir__",
    "__doc__",
    "__eq__",
    "__format__",
    "__ge__",
    "__getattribute__",
    "__gt__",
    "__hash__",
    "__init__",
    "__init_subclass__",
    "__le__",
    "__lt__",
    "__ne__",
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setattr__",
    "__str__",
    "__subclasshook__",
];

impl JinjaError {
    /// `inputs` and the environment serve to find out what the undefined expression was taken from.
    pub fn new(
        error: &Error,
        template: &str,
        environment: &Environment,
        inputs: &Value,
    ) -> JinjaError {
        let detail = error.detail().unwrap_or_default();
        let looked_up = |expression: &str| {
            environment
                .compile_expression(expression)
                .and_then(|e| e.eval(inputs.clone()))
                .ok()
        };
        let simple = |class, message: String| JinjaError {
            class,
            message,
            line: None,
        };
        match error.kind() {
            ErrorKind::SyntaxError => syntax(error, template),
            ErrorKind::UnknownFilter => assertion("filter", detail, error.line()),
            ErrorKind::UnknownTest => assertion("test", detail, error.line()),
            ErrorKind::TemplateNotFound => simple(
                "TypeError",
                "no loader for this environment specified".into(),
            ),
            ErrorKind::UnknownFunction => simple(
                "UndefinedError",
                format!("{} is undefined", python::text_repr(first_word(detail))),
            ),
            ErrorKind::UnknownMethod => unknown_method(error, detail, template, looked_up),
            _ => {
                if let Some(expression) = between(detail, "`", "` is undefined") {
                    return undefined(expression, looked_up);
                }
                if detail.ends_with(" / 0") {
                    return simple("ZeroDivisionError", "division by zero".into());
                }
                if detail.ends_with(" % 0") {
                    return simple("ZeroDivisionError", "integer modulo by zero".into());
                }
                if detail.ends_with(" // 0") {
                    return simple(
                        "ZeroDivisionError",
                        "integer division or modulo by zero".into(),
                    );
                }
                let class = if error.kind() == ErrorKind::UndefinedError {
                    "UndefinedError"
                } else {
                    "TypeError"
                };
                simple(
                    class,
                    operands(detail).unwrap_or_else(|| {
                        if detail.is_empty() {
                            error.to_string()
                        } else {
                            detail.into()
                        }
                    }),
                )
            }
        }
    }
}

/// What Jinja2 says when an undefined expression is used.
fn undefined(expression: &str, looked_up: impl Fn(&str) -> Option<Value>) -> JinjaError {
    let error = |class, message| JinjaError {
        class,
        message,
        line: None,
    };
    let Some((base, key)) = split_access(expression) else {
        return error(
            "UndefinedError",
            format!("{} is undefined", python::text_repr(expression)),
        );
    };
    let value = looked_up(base).filter(|value| !value.is_undefined());
    match key {
        Key::Name(name) if INTERNAL.contains(&name) => {
            let class = value.as_ref().map_or("str", python::type_name);
            error(
                "SecurityError",
                format!("access to attribute '{name}' of '{class}' object is unsafe."),
            )
        }
        Key::Name(name) => {
            let object = value.as_ref().map_or("dict object".into(), object_name);
            error(
                "UndefinedError",
                format!(
                    "{} has no attribute {}",
                    python::text_repr(&object),
                    python::text_repr(name)
                ),
            )
        }
        Key::Index(index) => {
            let object = value.as_ref().map_or("list object".into(), object_name);
            error("UndefinedError", format!("{object} has no element {index}"))
        }
    }
}

enum Key<'a> {
    Name(&'a str),
    Index(&'a str),
}

/// The last attribute or index of an expression, and what it is taken from.
fn split_access(expression: &str) -> Option<(&str, Key<'_>)> {
    if let Some(inside) = expression.strip_suffix(']') {
        let open = inside.rfind('[')?;
        let key = &inside[open + 1..];
        let text = key
            .strip_prefix(['\'', '"'])
            .and_then(|key| key.strip_suffix(['\'', '"']));
        return Some((&expression[..open], text.map_or(Key::Index(key), Key::Name)));
    }
    let (base, name) = expression.rsplit_once('.')?;
    Some((base, Key::Name(name)))
}

fn unknown_method(
    error: &Error,
    detail: &str,
    template: &str,
    looked_up: impl Fn(&str) -> Option<Value>,
) -> JinjaError {
    let method = detail.rsplit(' ').next().unwrap_or_default();
    // The call's source says what the method was wanted of.
    let call = error
        .range()
        .and_then(|range| template.get(range))
        .unwrap_or_default();
    if let Some((base, _)) = call.rsplit_once(&format!(".{method}"))
        && looked_up(base).is_some()
    {
        return undefined(&format!("{base}.{method}"), looked_up);
    }
    let object = match first_word(detail) {
        "string" => "str object",
        "sequence" => "list object",
        "number" => "int object",
        "bool" => "bool object",
        "none" => "None",
        _ => "dict object",
    };
    JinjaError {
        class: "UndefinedError",
        message: format!(
            "{} has no attribute {}",
            python::text_repr(object),
            python::text_repr(method)
        ),
        line: None,
    }
}

fn object_name(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".into(),
        _ => format!("{} object", python::type_name(value)),
    }
}

fn assertion(kind: &str, detail: &str, line: Option<usize>) -> JinjaError {
    let name = detail.split(' ').nth(1).unwrap_or(detail);
    JinjaError {
        class: "TemplateAssertionError",
        message: format!("No {kind} named {}.", python::text_repr(name)),
        line,
    }
}

fn syntax(error: &Error, template: &str) -> JinjaError {
    let detail = error.detail().unwrap_or_default();
    let line = error.line().unwrap_or(1);
    let class = "TemplateSyntaxError";
    let about_tags = detail.starts_with("unknown statement")
        || detail.contains("end of raw block")
        || detail.contains("end of block") && detail.contains("end of input");
    if let Some((message, line)) = about_tags.then(|| tags::mismatch(template)).flatten() {
        return JinjaError {
            class,
            message,
            line: Some(line),
        };
    }
    let source = error
        .range()
        .and_then(|range| template.get(range))
        .unwrap_or_default();
    JinjaError {
        class,
        message: unexpected(detail, source),
        line: Some(line),
    }
}

/// What Jinja2 says about a token; `source` is the token's text.
fn unexpected(detail: &str, source: &str) -> String {
    let named = |token: &str| match token {
        "end of variable block" => "'end of print statement'".to_string(),
        "end of block" => "'end of statement block'".to_string(),
        "identifier" if !source.is_empty() => python::text_repr(source),
        quoted => python::text_repr(quoted.trim_matches('`')),
    };
    let Some(token) = detail.strip_prefix("unexpected ") else {
        return detail.to_string();
    };
    match token.split_once(", expected ") {
        None if token == "end of comment" => "Missing end of comment tag".into(),
        None => format!("Expected an expression, got {}", named(token)),
        Some(("end of input", wanted)) => {
            format!("unexpected end of template, expected {}.", named(wanted))
        }
        Some((_, "identifier or integer")) => "expected name or number".into(),
        Some((token @ ("`}`" | "`]`" | "`)`"), _)) => format!("unexpected {}", named(token)),
        Some((token, wanted)) => format!("expected token {}, got {}", named(wanted), named(token)),
    }
}

/// Python's complaint about an operator's operands, from minijinja's.
fn operands(detail: &str) -> Option<String> {
    let rest = detail.strip_prefix("tried to use ")?;
    let (operator, rest) = rest.split_once(" operator on unsupported types ")?;
    let (left, right) = rest.split_once(" and ")?;
    let [left, right] = [left, right].map(|kind| match kind {
        "string" => "str",
        "number" => "int",
        "none" => "NoneType",
        "sequence" => "list",
        "map" => "dict",
        other => other,
    });
    Some(match (operator, left) {
        ("+", "str" | "list") => format!("can only concatenate {left} (not \"{right}\") to {left}"),
        _ => format!("unsupported operand type(s) for {operator}: '{left}' and '{right}'"),
    })
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or(text)
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (before, _) = text.split_once(end)?;
    before.rsplit_once(start).map(|(_, inside)| inside)
}
