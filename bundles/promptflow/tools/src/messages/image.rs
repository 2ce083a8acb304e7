//! Images among a template's variables: `{"data:image/png;base64": …}`, or `;url`.
//!
//! In the template an image is shown as promptflow shows it, `Image(1234abcd)`; a line that is nothing else becomes the
//! image itself in a message.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::{Object, ObjectRepr};
use serde_json::{Value, json};

use crate::messages::chat_list;
use crate::python;

/// promptflow hands its tools' `detail` to the template instead of to the service, which always gets this.
pub const DETAIL: &str = "auto";

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// How a template shows it.
    pub mark: String,
    /// Its address, or `data:…;base64,…`.
    pub url: String,
}

impl Image {
    /// Reads a notation of an image, if it is one.
    pub fn read(value: &Value) -> Option<Self> {
        let members = value.as_object().filter(|members| members.len() == 1)?;
        let (key, content) = members.iter().next()?;
        let (kind, form) = key.strip_prefix("data:image/")?.rsplit_once(';')?;
        let content = content.as_str()?;
        let (bytes, url) = match form {
            "url" => (content.as_bytes().to_vec(), content.to_owned()),
            "base64" => {
                let bytes = STANDARD.decode(content).ok()?;
                (
                    bytes,
                    format!("data:image/{};base64,{content}", kind.to_lowercase()),
                )
            }
            _ => return None,
        };
        let hash: String = sha1_smol::Sha1::from(bytes).digest().to_string();
        let short = hash.get(..8).unwrap_or_default();
        Some(Self {
            mark: format!("Image({short})"),
            url,
        })
    }

    /// The part of a message that is this image.
    pub fn part(&self, detail: &str) -> Value {
        json!({ "type": "image_url", "image_url": { "url": self.url, "detail": detail } })
    }
}

/// An image in a template.
#[derive(Debug)]
struct Shown(String);

impl Object for Shown {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A value for a template, with its images as objects, which are added to `images`.
pub fn with_images(value: &Value, chat_lists: bool, images: &mut Vec<Image>) -> minijinja::Value {
    match value {
        Value::Array(items) => {
            let items: Vec<minijinja::Value> = items
                .iter()
                .map(|item| with_images(item, chat_lists, images))
                .collect();
            if chat_lists {
                chat_list(items)
            } else {
                items.into()
            }
        }
        Value::Object(members) => match Image::read(value) {
            Some(image) => {
                let shown = minijinja::Value::from_object(Shown(image.mark.clone()));
                images.push(image);
                shown
            }
            None => {
                let members = members
                    .iter()
                    .map(|(name, member)| (name.clone(), with_images(member, chat_lists, images)));
                minijinja::Value::from_pairs(members.collect::<Vec<_>>())
            }
        },
        plain => python::value(plain),
    }
}

/// Takes the image marks off a template and puts each image on a line of its own: `![image]({{x}})`.
pub fn on_own_lines(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("![") {
        let (before, marked) = rest.split_at(start);
        out.push_str(before);
        match marked_image(marked) {
            Some((variable, length)) => {
                out.push_str(&format!("\n{{{{{variable}}}}}\n"));
                rest = &marked[length..];
            }
            None => {
                out.push_str("![");
                rest = &marked[2..];
            }
        }
    }
    out + rest
}

/// The variable in `![image]({{variable}})` at the beginning of a text, and the mark's length.
fn marked_image(text: &str) -> Option<(&str, usize)> {
    let (label, rest) = text.strip_prefix("![")?.split_once("](")?;
    let (variable, after) = rest.strip_prefix("{{")?.split_once("}})")?;
    let name = crate::coerce::strip(variable);
    let is_name = !name.is_empty()
        && !name.contains(|letter| crate::coerce::is_space(letter) || matches!(letter, '{' | '}'));
    (crate::coerce::strip(label) == "image" && is_name)
        .then_some((variable, text.len() - after.len()))
}
