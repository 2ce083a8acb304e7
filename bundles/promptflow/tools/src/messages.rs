//! From a prompt's template and its variables to the messages of a chat.

pub mod escape;
pub mod image;
pub mod literal;
pub mod roles;

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::messages::escape::Escapes;
use crate::messages::image::Image;
use crate::prompt;
use crate::python::ChatList;

/// The input that names the inputs which come from the flow's inputs, where text that looks like a role is no role.
pub const INPUTS_TO_ESCAPE: &str = "_inputs_to_escape";
/// The input that says which inputs are outputs of prompt nodes, and where these hold text from the flow's inputs:
/// `{input: {"escaped": text, "mapping": {id: word}}}`.
pub const PROMPT_RESULTS: &str = "_prompt_results";

/// How a tool builds messages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Lists among the variables are shown item by item, a line each (promptflow's `ChatInputList`).
    pub chat_lists: bool,
    /// Images in messages are sent as images.
    pub images: bool,
}

/// The messages of a chat.
pub fn build(
    template: &str,
    mut variables: Map<String, Value>,
    manner: Manner,
) -> Result<Vec<Value>, Failure> {
    let escapes = Escapes::take(&mut variables, manner.chat_lists);
    let (text, images) = filled(template, &variables, manner, &escapes)?;
    let images = if manner.images { images } else { Vec::new() };
    let mut messages = roles::parse(&text, &images, &roles::ALL, image::DETAIL, &escapes)?;
    for message in &mut messages {
        for value in message
            .as_object_mut()
            .into_iter()
            .flat_map(Map::values_mut)
        {
            escapes.restore(value);
        }
    }
    Ok(messages)
}

/// The text of a template without roles: a completion's.
pub fn text(template: &str, mut variables: Map<String, Value>) -> Result<String, Failure> {
    // promptflow shows a completion its variables as they are.
    variables.shift_remove(PROMPT_RESULTS);
    let none = Escapes::default();
    Ok(filled(template, &variables, Manner::default(), &none)?.0)
}

/// A prompt node's text; and where it holds text from the flow's inputs, that with its roles escaped, and the mapping.
pub fn prompt_result(template: &str, mut variables: Map<String, Value>) -> Result<Value, Failure> {
    let mut plain = variables.clone();
    plain.retain(|name, _| name != INPUTS_TO_ESCAPE && name != PROMPT_RESULTS);
    let plain = filled(template, &plain, Manner::default(), &Escapes::default())?.0;
    let escapes = Escapes::take(&mut variables, false);
    if escapes.is_empty() {
        return Ok(serde_json::json!({ "text": plain, "escaped": null, "mapping": {} }));
    }
    let escaped = filled(template, &variables, Manner::default(), &escapes)?.0;
    Ok(serde_json::json!({ "text": plain, "escaped": escaped, "mapping": escapes.mapping() }))
}

fn filled(
    template: &str,
    variables: &Map<String, Value>,
    manner: Manner,
    escapes: &Escapes,
) -> Result<(String, Vec<Image>), Failure> {
    let mut images = Vec::new();
    let values = variables.iter().map(|(name, value)| {
        let value = image::with_images(value, manner.chat_lists, &mut images);
        (name.clone(), value)
    });
    let values = minijinja::Value::from_pairs(values.collect::<Vec<_>>());
    let text = prompt::render_values(template, values, prompt::Spaces::default())
        .map_err(|error| template_failure(&escapes.restored(&error.to_string())))?;
    Ok((text, images))
}

/// promptflow's error for a template that cannot be rendered; it writes the reason to stderr too.
pub fn template_failure(why: &str) -> Failure {
    eprintln!("Exception occurs: {why}");
    Failure::user(
        "JinjaTemplateError",
        format!(
            "Failed to render jinja template: {why}. Please modify your prompt to fix the issue."
        ),
    )
}

/// A list whose text is its items' texts, a line each.
pub(crate) fn chat_list(items: Vec<minijinja::Value>) -> minijinja::Value {
    minijinja::Value::from_object(ChatList(items))
}
