//! Templates rendered and looked at, and a chat's text parsed.

use serde_json::Value;

use crate::coerce::is_true;
use crate::failure::Failure;
use crate::messages::escape::Escapes;
use crate::messages::image::{self, Image};
use crate::messages::{self, roles};
use crate::prompt::{self, Spaces};
use crate::tools::arguments::Arguments;
use crate::variables;

/// The text of a prompt node.
pub fn render(given: Arguments) -> Result<Value, Failure> {
    messages::text(&given.text("template"), given.rest).map(Value::from)
}

/// The text of a prompt node that others read as a prompt: see [`messages::prompt_result`].
pub fn prompt_result(given: Arguments) -> Result<Value, Failure> {
    messages::prompt_result(&given.text("template"), given.rest)
}

/// What a template asks for.
pub fn inspect(given: Arguments) -> Result<Value, Failure> {
    Ok(variables::inspect(&given.text("template")))
}

/// `render_jinja_template`.
pub fn render_jinja(given: Arguments) -> Result<Value, Failure> {
    let spaces = Spaces {
        trim_blocks: is_true(given.get("trim_blocks")),
        keep_trailing_newline: is_true(given.get("keep_trailing_newline")),
    };
    let mut images = Vec::new();
    let values = given
        .rest
        .iter()
        .map(|(name, value)| (name.clone(), image::with_images(value, false, &mut images)));
    let values = minijinja::Value::from_pairs(values.collect::<Vec<_>>());
    prompt::render_values(&given.text("template_content"), values, spaces)
        .map(Value::from)
        .map_err(|error| messages::template_failure(&error.to_string()))
}

/// `parse_chat`.
pub fn parse_chat(given: Arguments) -> Result<Value, Failure> {
    let images = given.get("images").as_array();
    let images: Vec<Image> = images
        .into_iter()
        .flatten()
        .filter_map(Image::read)
        .collect();
    let own = given.get("valid_roles").as_array();
    let own: Vec<&str> = own
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let known: &[&str] = if own.is_empty() { &roles::ALL } else { &own };
    let detail = given.text("image_detail");
    roles::parse(
        &given.text("chat_str"),
        &images,
        known,
        &detail,
        &Escapes::default(),
    )
    .map(Value::from)
}
