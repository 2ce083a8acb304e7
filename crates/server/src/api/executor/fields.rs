//! The fields of a request's body, with pydantic's words for what is wrong with them.

use flowcell_flow::{Json, JsonMap, python_loads_why};
use serde_json::json;

/// A body that is read field by field. What is wrong is collected, in the order in which the fields are asked for.
#[derive(Debug)]
pub(super) struct Fields {
    body: JsonMap,
    wrong: Vec<Json>,
    /// Whether what is wrong can be shown: it is repeated for each field.
    is_shown: bool,
}

/// Bodies that are larger are not repeated in an answer.
const MAX_SHOWN: usize = 64 << 10;

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong, when it is no JSON object.
    pub(super) fn read(body: &[u8]) -> Result<Self, Json> {
        let detail = |entry: Json| json!({ "detail": [entry] });
        if body.is_empty() {
            return Err(detail(
                json!({ "type": "missing", "loc": ["body"], "msg": "Field required", "input": null }),
            ));
        }
        let invalid = |position: usize, why: &str| {
            detail(json!({
                "type": "json_invalid",
                "loc": ["body", position],
                "msg": "JSON decode error",
                "input": {},
                "ctx": { "error": why },
            }))
        };
        let text = std::str::from_utf8(body)
            .map_err(|error| invalid(error.valid_up_to(), "the text is not UTF-8"))?;
        match python_loads_why(text).map_err(|why| invalid(why.position, &why.message))? {
            Json::Object(fields) => Ok(Self {
                body: fields,
                wrong: Vec::new(),
                is_shown: body.len() <= MAX_SHOWN,
            }),
            other => Err(detail(json!({
                "type": "model_attributes_type",
                "loc": ["body"],
                "msg": "Input should be a valid dictionary or object to extract fields from",
                "input": if body.len() <= MAX_SHOWN { other } else { Json::Null },
            }))),
        }
    }

    /// The answer if anything was wrong.
    ///
    /// # Errors
    /// What was.
    pub(super) fn check(self) -> Result<(), Json> {
        if self.wrong.is_empty() {
            Ok(())
        } else {
            Err(json!({ "detail": self.wrong }))
        }
    }

    pub(super) fn refuse(&mut self, path: &[&str], kind: &str, message: &str, input: Json) {
        let input = if self.is_shown { input } else { Json::Null };
        let mut place = vec![Json::from("body")];
        place.extend(path.iter().map(|step| Json::from(*step)));
        self.wrong
            .push(json!({ "type": kind, "loc": place, "msg": message, "input": input }));
    }

    fn required(&mut self, name: &str) -> Option<Json> {
        let value = self.body.get(name).cloned();
        if value.is_none() {
            let body = if self.is_shown {
                Json::Object(self.body.clone())
            } else {
                Json::Null
            };
            self.refuse(&[name], "missing", "Field required", body);
        }
        value
    }

    fn optional(&self, name: &str) -> Option<Json> {
        self.body
            .get(name)
            .filter(|value| !value.is_null())
            .cloned()
    }

    pub(super) fn path(&mut self, name: &str) -> String {
        match self.required(name) {
            Some(Json::String(text)) => return text,
            Some(other) => {
                let message = format!("Input is not a valid path for {TYPE_OF_PATHS}");
                self.refuse(&[name], "path_type", &message, other);
            }
            None => {}
        }
        String::new()
    }

    pub(super) fn string(&mut self, name: &str) -> String {
        let value = self.required(name);
        self.as_string(name, value)
    }

    pub(super) fn optional_string(&mut self, name: &str) -> Option<String> {
        let value = self.optional(name)?;
        Some(self.as_string(name, Some(value)))
    }

    fn as_string(&mut self, name: &str, value: Option<Json>) -> String {
        match value {
            Some(Json::String(text)) => return text,
            Some(other) => {
                self.refuse(
                    &[name],
                    "string_type",
                    "Input should be a valid string",
                    other,
                );
            }
            None => {}
        }
        String::new()
    }

    pub(super) fn integer(&mut self, name: &str) -> u64 {
        let value = self.required(name);
        value.map_or(0, |value| self.as_integer(name, value))
    }

    pub(super) fn optional_integer(&mut self, name: &str) -> Option<u64> {
        let value = self.optional(name)?;
        Some(self.as_integer(name, value))
    }

    fn as_integer(&mut self, name: &str, value: Json) -> u64 {
        let text = match &value {
            Json::Number(number) => number.as_str(),
            Json::String(text) => text.trim(),
            Json::Bool(truth) => return u64::from(*truth),
            _ => {
                self.refuse(
                    &[name],
                    "int_type",
                    "Input should be a valid integer",
                    value,
                );
                return 0;
            }
        };
        let whole = text.split_once('.').map_or(text, |(whole, fraction)| {
            if fraction.bytes().all(|digit| digit == b'0') {
                whole
            } else {
                text
            }
        });
        if let Ok(number) = whole.parse() {
            return number;
        }
        if whole.parse::<i64>().is_ok() {
            let message = "Input should be greater than or equal to 0";
            self.refuse(&[name], "greater_than_equal", message, value);
        } else if value.is_string() {
            let message = "Input should be a valid integer, unable to parse string as an integer";
            self.refuse(&[name], "int_parsing", message, value);
        } else {
            let message = "Input should be a valid integer, got a number with a fractional part";
            self.refuse(&[name], "int_from_float", message, value);
        }
        0
    }

    pub(super) fn mapping(&mut self, name: &str) -> JsonMap {
        let value = self.required(name);
        value.map_or_else(JsonMap::new, |value| self.as_mapping(&[name], value))
    }

    /// A mapping, or a list.
    pub(super) fn mapping_or_list(&mut self, name: &str) -> Json {
        match self.required(name) {
            Some(value @ (Json::Object(_) | Json::Array(_))) => value,
            Some(other) => {
                for (kind, word) in [("dict", "dictionary"), ("list", "list")] {
                    let message = format!("Input should be a valid {word}");
                    self.refuse(&[name], &format!("{kind}_type"), &message, other.clone());
                }
                Json::Null
            }
            None => Json::Null,
        }
    }

    pub(super) fn optional_mapping(&mut self, name: &str) -> Option<JsonMap> {
        let value = self.optional(name)?;
        Some(self.as_mapping(&[name], value))
    }

    /// A mapping that may be left out, but not be null.
    pub(super) fn defaulted_mapping(&mut self, name: &str) -> JsonMap {
        let value = self.body.get(name).cloned();
        value.map_or_else(JsonMap::new, |value| self.as_mapping(&[name], value))
    }

    pub(super) fn as_mapping(&mut self, path: &[&str], value: Json) -> JsonMap {
        match value {
            Json::Object(entries) => entries,
            other => {
                let message = "Input should be a valid dictionary";
                self.refuse(path, "dict_type", message, other);
                JsonMap::new()
            }
        }
    }
}

/// pydantic names Python's class.
const TYPE_OF_PATHS: &str = "<class 'pathlib.Path'>";
