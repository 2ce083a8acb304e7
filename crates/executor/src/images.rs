//! Images among a flow's values.
//!
//! On the way in they are notations in JSON; the Python runner loads them, before any node runs, so that nodes get
//! image objects. On the way out the runner marks them, and they are written where the session's [`ImageSink`] says.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flowcell_flow::{
    ImagePlace, Json, MessageFormat, NodeInput, ValueType, python_json, python_loads,
};
use flowcell_sandbox::{Argument, Call, Outcome, Request, ToolError};
use indexmap::IndexMap;
use serde_json::json;

use crate::error::RunError;
use crate::line::Line;
use crate::tools::Tools;
use crate::value::Value;

/// The runner's functions that load images.
const LOAD_INPUT: &str = "flowcell_runner.media:load_input";
const LOAD: &str = "flowcell_runner.media:load";
/// How the runner marks images and texts.
const IMAGE_MARK: &str = "$image";
const TEXT_MARK: &str = "$text";
/// Most images that one output may put into files of the user's.
const MAX_IMAGES: usize = 1_000;

/// Where images of outputs go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ImageSink {
    /// Into the outputs themselves, as base64 text.
    #[default]
    Inline,
    /// Into files in this folder, made when there is an image: promptflow's `.promptflow` in the flow's folder.
    Folder(PathBuf),
}

/// Whose images are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// A flow's: promptflow puts them into `output` and gives the whole path.
    Flow,
    /// A single node's: promptflow puts them into `intermediate` and gives the path from the flow's folder.
    Node,
}

/// Whether a flow input of this type is loaded.
pub(crate) fn loads(value_type: ValueType, value: &Json, format: MessageFormat) -> bool {
    match value_type {
        ValueType::Image => true,
        ValueType::List | ValueType::Object => format.occurs_in(value),
        _ => false,
    }
}

/// A literal image, or a literal with images inside, as the runner understands it.
pub(crate) fn marked(value: &Json, value_type: ValueType, format: MessageFormat) -> Json {
    json!({ IMAGE_MARK: { "value": value, "type": value_type.as_str(), "message_format": format.as_str() } })
}

fn request(
    source: &str,
    name: Option<&str>,
    value: &Json,
    value_type: ValueType,
    format: MessageFormat,
) -> Request {
    let json = |value: &Json| Argument::Json(python_json(value));
    let mut inputs = vec![
        ("value".to_owned(), json(value)),
        ("type".to_owned(), json(&value_type.as_str().into())),
        ("message_format".to_owned(), json(&format.as_str().into())),
    ];
    inputs.extend(name.map(|name| ("name".to_owned(), json(&name.into()))));
    Request {
        node: String::new(),
        source: source.to_owned(),
        init: Vec::new(),
        inputs,
    }
}

impl Line {
    /// Loads the images among the flow's inputs.
    ///
    /// # Errors
    /// `LoadMultimediaDataError` for the first input with an image that cannot be loaded.
    pub(crate) async fn load_inputs(&mut self) -> Result<(), RunError> {
        let session = Arc::clone(&self.session);
        let format = session.flow.message_format;
        for (name, input) in &session.flow.inputs {
            let Some(value) = self.inputs.get(name) else {
                continue;
            };
            if loads(input.value_type, value, format) {
                let request = request(LOAD_INPUT, Some(name), value, input.value_type, format);
                let loaded = self.loaded(&request).await?;
                self.media.insert(name.clone(), loaded.into());
            }
        }
        Ok(())
    }

    /// The output of another node that was given for a node test, with its images loaded.
    pub(crate) async fn load_output(&self, value: &Json) -> Result<Value, RunError> {
        let format = self.session.flow.message_format;
        if !format.occurs_in(value) {
            return Ok(Value::from_json(value));
        }
        let request = request(LOAD, None, value, ValueType::Object, format);
        self.loaded(&request).await
    }

    /// A literal of a node whose tool is a component, with its images loaded.
    pub(crate) async fn load_literal(
        &self,
        name: &str,
        value: &Json,
        value_type: ValueType,
    ) -> Result<Value, RunError> {
        let format = self.session.flow.message_format;
        self.loaded(&request(LOAD_INPUT, Some(name), value, value_type, format))
            .await
    }

    async fn loaded(&self, request: &Request) -> Result<Value, RunError> {
        let held = self.lanes.any().await;
        let mut held = held.map_err(|error| RunError::pool("inputs", error))?;
        let called = held.instance().call(request).await;
        match called.result {
            Ok(Ok(outcome)) => Ok(held.value(outcome)),
            Ok(Err(error)) => Err(RunError::own(error)),
            Err(fault) => Err(self.faulted("inputs", fault)),
        }
    }

    /// Replaces the runner's marks in an output.
    pub(crate) fn with_images(&self, text: String, whose: Whose) -> Result<String, RunError> {
        place(
            text,
            self.session.flow.message_format,
            &self.session.images,
            whose,
        )
    }
}

impl Tools {
    /// Finds the literals that are images or hold some, and makes sure that they can be loaded.
    pub(crate) async fn literal_images(
        &mut self,
        host: &crate::host::Host,
        node: &str,
        inputs: &mut IndexMap<String, NodeInput>,
        is_parameter: impl Fn(&str) -> bool,
    ) -> Result<(), RunError> {
        let format = self.message_format;
        for (name, input) in inputs {
            let (value, value_type) = match input {
                NodeInput::Image(value) => (value, ValueType::Image),
                NodeInput::Value(value) if is_parameter(name) && format.occurs_in(value) => {
                    let value = value.take();
                    *input = NodeInput::Images(value);
                    let NodeInput::Images(value) = input else {
                        continue;
                    };
                    (value, ValueType::Object)
                }
                _ => continue,
            };
            let request = request(LOAD_INPUT, Some(name), value, value_type, format);
            let call: Call<Result<Outcome, ToolError>> =
                self.python_loader(host).await?.call(&request).await;
            let answer = call.result.map_err(|fault| RunError::fault(node, fault))?;
            answer.map_err(|error| {
                RunError::user(
                    "ResolveToolError",
                    format!(
                        "Tool load failed in '{node}': (NodeInputValidationError) {}",
                        error.message
                    ),
                )
            })?;
        }
        Ok(())
    }
}

/// Puts images where they belong, and what promptflow writes for them into the text.
pub(crate) fn place(
    text: String,
    format: MessageFormat,
    sink: &ImageSink,
    whose: Whose,
) -> Result<String, RunError> {
    // Most outputs have no images, and parsing all of them to find that out would be slow.
    if !text.contains(IMAGE_MARK) && !text.contains(TEXT_MARK) {
        return Ok(text);
    }
    match python_loads(&text) {
        Some(mut value) => {
            let mut placer = Placer {
                format,
                sink,
                whose,
                left: MAX_IMAGES,
            };
            placer.replace(&mut value)?;
            Ok(python_json(&value))
        }
        None => Ok(text),
    }
}

/// Replaces the marks of one output.
struct Placer<'a> {
    format: MessageFormat,
    sink: &'a ImageSink,
    whose: Whose,
    /// How many more images there may be.
    left: usize,
}

impl Placer<'_> {
    fn replace(&mut self, value: &mut Json) -> Result<(), RunError> {
        match value {
            Json::Array(items) => {
                for item in items {
                    self.replace(item)?;
                }
            }
            Json::Object(entries) => {
                let mark = match entries.iter().next() {
                    Some((key, Json::Object(content))) if entries.len() == 1 => {
                        Some((key.as_str(), content))
                    }
                    _ => None,
                };
                let text =
                    |content: &serde_json::Map<String, Json>, key: &str| match content.get(key) {
                        Some(Json::String(text)) => Some(text.clone()),
                        _ => None,
                    };
                let placed = match mark {
                    Some((IMAGE_MARK, content)) => {
                        match (text(content, "media_type"), text(content, "base64")) {
                            (Some(media_type), Some(data)) => {
                                let url = text(content, "url");
                                Some(self.image(&media_type, &data, url.as_deref())?)
                            }
                            _ => None,
                        }
                    }
                    Some((TEXT_MARK, content)) => text(content, "text").map(|text| {
                        self.format
                            .text(&text, content.get("annotations").unwrap_or(&Json::Null))
                    }),
                    _ => None,
                };
                match placed {
                    Some(placed) => *value = placed,
                    None => {
                        for entry in entries.values_mut() {
                            self.replace(entry)?;
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What promptflow writes for an image, whose data goes where the session says.
    fn image(&mut self, media_type: &str, data: &str, url: Option<&str>) -> Result<Json, RunError> {
        let format = self.format;
        if let Some(url) = url {
            return Ok(format.image(media_type, ImagePlace::Url(url)));
        }
        let ImageSink::Folder(folder) = self.sink else {
            return Ok(format.image(media_type, ImagePlace::Base64(data)));
        };
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            RunError::user(
                "OutputLimitExceeded",
                format!("an output has more than {MAX_IMAGES} images, which is the limit"),
            )
        })?;
        let bytes = STANDARD.decode(data).map_err(|error| {
            RunError::system(
                "SystemErrorException",
                format!("the data of an image is not base64: {error}"),
            )
        })?;
        let name = format!("{}{}", uuid::Uuid::new_v4(), extension(media_type));
        let sub = match self.whose {
            Whose::Flow => "output",
            Whose::Node => "intermediate",
        };
        let place = folder.join(sub);
        let file = place.join(&name);
        fs::create_dir_all(&place)
            .and_then(|()| fs::write(&file, bytes))
            .map_err(|error| {
                RunError::user(
                    "OSError",
                    format!("cannot write the image {}: {error}", file.display()),
                )
            })?;
        let path = match self.whose {
            Whose::Flow => file.display().to_string(),
            Whose::Node => {
                let base = folder.file_name().unwrap_or_default();
                format!("{}/{sub}/{name}", base.to_string_lossy())
            }
        };
        Ok(format.image(media_type, ImagePlace::Path(&path)))
    }
}

/// A file's extension for a media type. The type may come from a tool, so it is not trusted to be one.
fn extension(media_type: &str) -> String {
    let name = media_type.rsplit('/').next().unwrap_or_default();
    let is_sound = !name.is_empty()
        && name.len() <= 32
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.'));
    if is_sound {
        format!(".{name}")
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"{"a": [{"$image": {"media_type": "image/png", "url": null, "base64": "iVBO"}}, {"$image": 1}, NaN], "t": {"$text": {"text": "x", "annotations": null}}}"#;

    #[test]
    fn images_stay_in_the_output_without_a_folder() {
        let text = place(
            OUTPUT.to_owned(),
            MessageFormat::Basic,
            &ImageSink::Inline,
            Whose::Flow,
        );
        assert_eq!(
            text.ok().as_deref(),
            Some(r#"{"a": [{"data:image/png;base64": "iVBO"}, {"$image": 1}, NaN], "t": "x"}"#)
        );
    }

    #[test]
    fn images_go_to_files() -> Result<(), Box<dyn std::error::Error>> {
        let flow = tempfile::tempdir()?;
        let sink = ImageSink::Folder(flow.path().join(".promptflow"));
        let format = MessageFormat::OpenaiVision;
        let text = place(OUTPUT.to_owned(), format, &sink, Whose::Node)?;
        let value = python_loads(&text).unwrap_or_default();
        assert_eq!(value["t"], json!({ "type": "text", "text": "x" }));
        let path = value["a"][0]["image_file"]["path"]
            .as_str()
            .unwrap_or_default();
        assert!(
            path.starts_with(".promptflow/intermediate/") && path.ends_with(".png"),
            "{path}"
        );
        assert_eq!(fs::read(flow.path().join(path))?, b"\x89PN");
        Ok(())
    }

    #[test]
    fn too_many_images_are_refused() -> Result<(), Box<dyn std::error::Error>> {
        let mark = r#"{"$image": {"media_type": "image/png", "url": null, "base64": "iVBO"}}"#;
        let marks = |count: usize| format!("[{}]", vec![mark; count].join(", "));
        let flow = tempfile::tempdir()?;
        let sink = ImageSink::Folder(flow.path().to_owned());
        place(marks(MAX_IMAGES), MessageFormat::Basic, &sink, Whose::Flow)?;
        let refused = place(
            marks(MAX_IMAGES + 1),
            MessageFormat::Basic,
            &sink,
            Whose::Flow,
        );
        assert_eq!(
            refused.err().map(|error| error.class).as_deref(),
            Some("OutputLimitExceeded")
        );
        Ok(())
    }

    #[test]
    fn an_extension_is_no_path() {
        assert_eq!(extension("image/png"), ".png");
        assert_eq!(extension("image/svg+xml"), ".svg+xml");
        for wrong in ["image/*", "image/a\\b", "image/", "image/a\0", "image/a b"] {
            assert_eq!(extension(wrong), "");
        }
        assert_eq!(extension("image/../../x"), ".x");
    }
}
