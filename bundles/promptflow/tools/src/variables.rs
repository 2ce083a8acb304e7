//! What a template asks for: its variables, as promptflow finds them when it reads a prompt node.

use minijinja::Value;
use serde_json::json;

use crate::jinja_error::JinjaError;
use crate::prompt;

/// Names that Jinja2 has without anybody giving them.
const GLOBALS: [&str; 6] = ["cycler", "dict", "joiner", "lipsum", "namespace", "range"];

/// `{"variables": [...], "images": [...], "error": null}`, in order of appearance; `error` is `{"type", "line", "message"}`
/// when the template does not parse.
pub fn inspect(template: &str) -> serde_json::Value {
    match variables(template) {
        Ok(variables) => {
            json!({ "variables": variables, "images": images(template), "error": null })
        }
        Err(error) => {
            let error =
                json!({ "type": error.class, "line": error.line, "message": error.message });
            json!({ "variables": [], "images": [], "error": error })
        }
    }
}

pub fn variables(template: &str) -> Result<Vec<String>, JinjaError> {
    let environment = prompt::environment();
    let template = &prompt::with_newlines(template);
    let parsed = environment
        .template_from_str(template)
        .map_err(|error| JinjaError::new(&error, template, &environment, &Value::UNDEFINED))?;
    let mut names: Vec<String> = parsed.undeclared_variables(false).into_iter().collect();
    names.retain(|name| !GLOBALS.contains(&name.as_str()));
    // The set has no order of its own: names first, so that the order is the same every time.
    names.sort();
    names.sort_by_key(|name| template.find(name.as_str()));
    Ok(names)
}

/// The variables in `![image]({{name}})`.
fn images(template: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (start, _) in template.match_indices("![") {
        let name = template[start + 2..]
            .split_once("]({{")
            .and_then(|(label, rest)| {
                let (name, _) = rest.split_once("}})")?;
                (label.trim() == "image" && !name.contains(['{', '}']))
                    .then(|| name.trim().to_string())
            });
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}
