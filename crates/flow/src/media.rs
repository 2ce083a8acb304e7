//! How images and texts are written in the values of a flow, which its `message_format` decides.
//!
//! Rules: `BasicMultimediaProcessor` and `OpenaiVisionMultimediaProcessor` of promptflow's `multimedia_utils.py`. Loading an image is
//! the business of whoever runs the flow.

use serde_json::json;

use crate::json::Json;
use crate::schema::MessageFormat;

/// Where the data of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePlace<'t> {
    /// In a file of this path.
    Path(&'t str),
    /// Behind this address.
    Url(&'t str),
    /// In this base64 text.
    Base64(&'t str),
}

impl MessageFormat {
    /// The name in `flow.dag.yaml`.
    pub fn as_str(self) -> &'static str {
        match self {
            MessageFormat::Basic => "basic",
            MessageFormat::OpenaiVision => "openai-vision",
        }
    }

    /// Whether a value is, or has somewhere inside it, an image in this notation, or a text that has a type of its own.
    pub fn occurs_in(self, value: &Json) -> bool {
        match value {
            Json::Array(items) => items.iter().any(|item| self.occurs_in(item)),
            Json::Object(entries) => {
                self.is_media(value) || entries.values().any(|entry| self.occurs_in(entry))
            }
            _ => false,
        }
    }

    fn is_media(self, value: &Json) -> bool {
        let Json::Object(entries) = value else {
            return false;
        };
        match self {
            MessageFormat::Basic => {
                entries.len() == 1 && entries.keys().all(|key| is_image_key(key))
            }
            MessageFormat::OpenaiVision if entries.len() == 2 => match entries.get("type") {
                Some(Json::String(kind)) => match (kind.as_str(), entries.get(kind)) {
                    ("image_url", Some(Json::Object(image))) => image.contains_key("url"),
                    ("image_file", Some(Json::Object(image))) => image.contains_key("path"),
                    ("text", Some(Json::String(_))) => true,
                    ("text", Some(Json::Object(text))) => {
                        text.get("value").is_some_and(Json::is_string)
                    }
                    _ => false,
                },
                _ => false,
            },
            MessageFormat::OpenaiVision => false,
        }
    }

    /// An image of a media type, such as `image/png`, in this notation.
    pub fn image(self, media_type: &str, place: ImagePlace<'_>) -> Json {
        match (self, place) {
            (MessageFormat::Basic, place) => {
                let (kind, content) = match place {
                    ImagePlace::Path(path) => ("path", path),
                    ImagePlace::Url(url) => ("url", url),
                    ImagePlace::Base64(text) => ("base64", text),
                };
                json!({ format!("data:{media_type};{kind}"): content })
            }
            (MessageFormat::OpenaiVision, ImagePlace::Path(path)) => {
                json!({ "type": "image_file", "image_file": { "path": path } })
            }
            (MessageFormat::OpenaiVision, ImagePlace::Url(url)) => {
                json!({ "type": "image_url", "image_url": { "url": url } })
            }
            (MessageFormat::OpenaiVision, ImagePlace::Base64(text)) => {
                let url = format!("data:{media_type};base64,{text}");
                json!({ "type": "image_url", "image_url": { "url": url } })
            }
        }
    }

    /// A text that a tool has marked as such in this notation; `annotations` is null when it has none.
    pub fn text(self, text: &str, annotations: &Json) -> Json {
        match (self, annotations) {
            (MessageFormat::Basic, _) => Json::from(text),
            (MessageFormat::OpenaiVision, Json::Null) => json!({ "type": "text", "text": text }),
            (MessageFormat::OpenaiVision, annotations) => {
                json!({ "type": "text", "text": { "value": text, "annotations": annotations } })
            }
        }
    }
}

/// `data:image/png;path` and its like.
fn is_image_key(key: &str) -> bool {
    key.strip_prefix("data:image/")
        .and_then(|rest| rest.trim_end_matches('\n').rsplit_once(';'))
        .is_some_and(|(media_type, kind)| {
            !media_type.contains('\n') && matches!(kind, "path" | "base64" | "url")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_knows_its_own_notation() {
        let basic = json!({ "a": [{ "data:image/*;path": "x" }] });
        let vision = json!([{ "type": "image_file", "image_file": { "path": "x" } }]);
        for (format, ours, other) in [
            (MessageFormat::Basic, &basic, &vision),
            (MessageFormat::OpenaiVision, &vision, &basic),
        ] {
            assert!(format.occurs_in(ours), "{format:?}");
            assert!(!format.occurs_in(other), "{format:?}");
        }
        for no_media in [
            json!("data:image/png;base64,AA=="),
            json!({ "data:image/png;path": "x", "b": 1 }),
            json!({ "data:image/png;text": "x" }),
            json!({ "type": "text" }),
        ] {
            assert!(!MessageFormat::Basic.occurs_in(&no_media), "{no_media}");
            assert!(
                !MessageFormat::OpenaiVision.occurs_in(&no_media),
                "{no_media}"
            );
        }
        assert!(MessageFormat::OpenaiVision.occurs_in(&json!({ "type": "text", "text": "t" })));
    }

    #[test]
    fn images_and_texts_are_written() {
        let (basic, vision) = (MessageFormat::Basic, MessageFormat::OpenaiVision);
        assert_eq!(
            basic.image("image/png", ImagePlace::Path("p")),
            json!({ "data:image/png;path": "p" })
        );
        assert_eq!(
            vision.image("image/png", ImagePlace::Base64("AA==")),
            json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,AA==" } })
        );
        assert_eq!(basic.text("t", &json!([1])), json!("t"));
        assert_eq!(
            vision.text("t", &json!([1])),
            json!({ "type": "text", "text": { "value": "t", "annotations": [1] } })
        );
    }
}
