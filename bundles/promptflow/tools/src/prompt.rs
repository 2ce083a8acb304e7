//! Renders a prompt: Jinja2's `SandboxedEnvironment(trim_blocks=True, keep_trailing_newline=True)`, over minijinja.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use serde_json::Map;

use crate::jinja_error::JinjaError;
use crate::{number, python};

/// What becomes of spaces: Jinja2's options of these names.
#[derive(Debug, Clone, Copy)]
pub struct Spaces {
    pub trim_blocks: bool,
    pub keep_trailing_newline: bool,
}

/// As promptflow sets them.
impl Default for Spaces {
    fn default() -> Self {
        Self {
            trim_blocks: true,
            keep_trailing_newline: true,
        }
    }
}

/// The text, or Jinja2's exception.
pub fn render(
    template: &str,
    inputs: &Map<String, serde_json::Value>,
) -> Result<String, JinjaError> {
    let inputs = Value::from_pairs(
        inputs
            .iter()
            .map(|(name, value)| (name.clone(), python::value(value))),
    );
    render_values(template, inputs, Spaces::default())
}

/// [`render`] with values that JSON does not have.
pub fn render_values(template: &str, inputs: Value, spaces: Spaces) -> Result<String, JinjaError> {
    let mut environment = environment();
    environment.set_syntax(syntax(spaces));
    let template = &with_newlines(template);
    environment
        .template_from_str(template)
        .and_then(|compiled| compiled.render(inputs.clone()))
        .map_err(|error| JinjaError::new(&error, template, &environment, &inputs))
}

pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax(Spaces::default()));
    // Errors name the undefined expression only in debug mode.
    environment.set_debug(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(|output, _, value| {
        if !value.is_undefined() {
            output.write_str(&python::str(value))?;
        }
        Ok(())
    });
    environment.set_unknown_method_callback(python_method);
    environment.add_filter("string", |value: Value| {
        if value.is_undefined() {
            String::new()
        } else {
            python::str(&value)
        }
    });
    environment.add_filter("join", join);
    environment.add_filter("round", number::round);
    environment.add_filter("float", number::float);
    environment.add_filter("int", number::int);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordcount", minijinja_contrib::filters::wordcount);
    environment.add_function("cycler", minijinja_contrib::globals::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment
}

fn syntax(spaces: Spaces) -> SyntaxConfig {
    SyntaxConfig::builder()
        .trim_blocks(spaces.trim_blocks)
        .keep_trailing_newline(spaces.keep_trailing_newline)
        .build()
        .expect("these are Jinja's own delimiters")
}

/// Jinja2 reads every kind of line end as a newline.
pub fn with_newlines(template: &str) -> String {
    template.replace("\r\n", "\n").replace('\r', "\n")
}

/// `length`, of which an undefined value has none.
fn length(value: Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!(
                "object of type '{}' has no len()",
                python::type_name(&value)
            ),
        )
    })
}

/// Methods of Python's texts, lists and dicts.
fn python_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let (ValueKind::Seq, "index", [wanted]) = (value.kind(), method, args) {
        return value
            .try_iter()?
            .position(|item| item == *wanted)
            .map(Value::from)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidOperation,
                    format!("{} is not in list", python::repr(wanted)),
                )
            });
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// `truncate(length=255, killwords=false, end='...', leeway=5)`, counted in characters; the leeway by name only.
fn truncate(
    text: String,
    length: Option<usize>,
    killwords: Option<bool>,
    end: Option<String>,
    options: Kwargs,
) -> Result<String, Error> {
    let length = length.or(options.get("length")?).unwrap_or(255);
    let killwords = killwords.or(options.get("killwords")?).unwrap_or(false);
    let end = end.or(options.get("end")?).unwrap_or_else(|| "...".into());
    let leeway = options.get::<Option<usize>>("leeway")?.unwrap_or(5);
    options.assert_all_used()?;
    if text.chars().count() <= length + leeway {
        return Ok(text);
    }
    let kept: String = text
        .chars()
        .take(length.saturating_sub(end.chars().count()))
        .collect();
    let kept = if killwords {
        kept.as_str()
    } else {
        kept.rsplit_once(' ')
            .map_or(kept.as_str(), |(words, _)| words)
    };
    Ok(format!("{kept}{end}"))
}

/// `join`, with Python's text of what is not a text.
fn join(values: Value, separator: Option<String>, options: Kwargs) -> Result<String, Error> {
    let attribute: Option<String> = options.get("attribute")?;
    let keyword: Option<String> = options.get("d")?;
    options.assert_all_used()?;
    let separator = separator.or(keyword).unwrap_or_default();
    if values.kind() == ValueKind::Undefined {
        return Ok(String::new());
    }
    let texts = values.try_iter()?.map(|item| {
        let item = match &attribute {
            Some(path) => path
                .split('.')
                .try_fold(item, |item, part| item.get_attr(part))?,
            None => item,
        };
        Ok(if item.is_undefined() {
            String::new()
        } else {
            python::str(&item)
        })
    });
    Ok(texts
        .collect::<Result<Vec<_>, Error>>()
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, "cannot join").with_source(error))?
        .join(&separator))
}
