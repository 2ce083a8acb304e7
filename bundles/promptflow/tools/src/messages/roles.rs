//! A chat's text, parsed by its roles: promptflow's `parse_chat`, to the letter.

use serde_json::{Map, Value};

use crate::coerce::{is_space, strip};
use crate::failure::Failure;
use crate::messages::escape::Escapes;
use crate::messages::image::Image;
use crate::messages::literal;

/// The roles of the API.
pub const ALL: [&str; 5] = ["system", "user", "assistant", "function", "tool"];

const FUNCTION_FORMAT: &str = "Failed to parse function role prompt. Please make sure the prompt follows the \
    format: 'name:\\nfunction_name\\ncontent:\\nfunction_content'. \
    'name' is required if role is function, and it should be the name of the function \
    whose response is in the content. May contain a-z, A-Z, 0-9, and underscores, \
    with a maximum length of 64 characters. See more details in \
    https://platform.openai.com/docs/api-reference/chat/create#chat/create-name \
    or view sample 'How to use functions with chat models' in our gallery.";
const TOOL_FORMAT: &str = "Failed to parse tool role prompt. Please make sure the prompt follows the \
    format: 'tool_call_id:\\ntool_call_id\\ncontent:\\ntool_content'. \
    'tool_call_id' is required if role is tool, and it should be the tool call that this message is responding \
    to. See more details in https://platform.openai.com/docs/api-reference/chat/create#chat-create-messages";

/// The marks of roles in a text: where each begins, the role as written, and where it ends.
///
/// A mark is a line `system:`, with spaces anywhere and perhaps a `#` before; empty lines around it belong to it.
pub struct Markers<'t, 'r> {
    text: &'t str,
    roles: &'r [&'r str],
    at: usize,
}

impl<'t, 'r> Markers<'t, 'r> {
    pub fn new(text: &'t str, roles: &'r [&'r str]) -> Self {
        Self { text, roles, at: 0 }
    }

    /// The mark that begins at the beginning of a line, and where one could begin next.
    fn mark(&self, start: usize) -> Result<(&'t str, usize), usize> {
        let text = self.text;
        let rest = |at: usize| text.get(at..).unwrap_or_default();
        let past_spaces =
            |at: usize| at + rest(at).len() - rest(at).trim_start_matches(is_space).len();
        let spaces = past_spaces(start);
        // No line that begins among the spaces can do better.
        let failed = rest(spaces)
            .find('\n')
            .map_or(self.text.len() + 1, |line| spaces + line + 1);
        let name = match rest(spaces).strip_prefix('#') {
            Some(_) => past_spaces(spaces + 1),
            None => spaces,
        };
        let is_role = |role: &&&str| {
            let written = rest(name).get(..role.len());
            written.is_some_and(|written| written.eq_ignore_ascii_case(role))
        };
        let role = self.roles.iter().find(is_role).ok_or(failed)?;
        let colon = past_spaces(name + role.len());
        if !rest(colon).starts_with(':') {
            return Err(failed);
        }
        let after = colon + 1;
        let line_end = rest(after)
            .get(..past_spaces(after) - after)
            .and_then(|spaces| spaces.rfind('\n'))
            .ok_or(failed)?;
        let written = rest(name).get(..role.len()).unwrap_or_default();
        Ok((written, after + line_end + 1))
    }
}

impl<'t> Iterator for Markers<'t, '_> {
    type Item = (usize, &'t str, usize);

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.text.len() {
            match self.mark(self.at) {
                Ok((role, end)) => {
                    let start = std::mem::replace(&mut self.at, end);
                    return Some((start, role, end));
                }
                Err(next) => self.at = next,
            }
        }
        None
    }
}

/// The text between marks and the roles in turn, as Python's `re.split` gives them.
fn chunks<'a>(text: &'a str, roles: &[&str]) -> Vec<&'a str> {
    let mut chunks = Vec::new();
    let mut last = 0;
    for (start, role, end) in Markers::new(text, roles) {
        chunks.push(text.get(last..start).unwrap_or_default());
        chunks.push(role);
        last = end;
    }
    chunks.push(text.get(last..).unwrap_or_default());
    chunks
}

/// The messages in a text. `detail` goes with images.
pub fn parse(
    text: &str,
    images: &[Image],
    roles: &[&str],
    detail: &str,
    escapes: &Escapes,
) -> Result<Vec<Value>, Failure> {
    let content = |text: &str| content(text, images, detail);
    let mut messages: Vec<Map<String, Value>> = Vec::new();
    for chunk in chunks(text, roles) {
        if let Some(message) = messages.last_mut() {
            let role = message["role"].as_str().unwrap_or_default().to_owned();
            if role == "tool" && !message.contains_key("content") {
                let (id, text) = labelled(chunk, "tool_call_id")
                    .ok_or_else(|| Failure::user("ChatAPIToolRoleInvalidFormat", TOOL_FORMAT))?;
                message.insert("tool_call_id".to_owned(), id.into());
                message.insert("content".to_owned(), content(text));
                continue;
            }
            if role == "assistant"
                && let Some(calls) = tool_calls(chunk)
            {
                message.insert("tool_calls".to_owned(), calls);
                continue;
            }
            if !message.contains_key("content") && !message.contains_key("tool_calls") {
                match labelled(chunk, "name") {
                    Some((name, text)) => {
                        message.insert("name".to_owned(), name.into());
                        message.insert("content".to_owned(), content(text));
                    }
                    None if role == "function" => {
                        let class = "ChatAPIFunctionRoleInvalidFormat";
                        return Err(Failure::user(class, FUNCTION_FORMAT));
                    }
                    None => {
                        message.insert("content".to_owned(), content(chunk));
                    }
                }
                continue;
            }
        }
        let role = strip(chunk).to_lowercase();
        if role.is_empty() {
            continue;
        }
        check(&role, roles, escapes)?;
        messages.push(Map::from_iter([("role".to_owned(), role.into())]));
    }
    Ok(messages.into_iter().map(Value::Object).collect())
}

/// Refuses what is no role.
pub fn check(role: &str, roles: &[&str], escapes: &Escapes) -> Result<(), Failure> {
    if roles.contains(&role) {
        return Ok(());
    }
    let marks: Vec<String> = roles.iter().map(|role| format!("'{role}:\\n'")).collect();
    let message = format!(
        "The Chat API requires a specific format for prompt definition, and the prompt should include separate \
         lines as role delimiters: {}. Current parsed role '{}' does not meet the requirement. If you intend to use \
         the Completion API, please select the appropriate API type and deployment name. If you do intend to use the \
         Chat API, please refer to the guideline at https://aka.ms/pfdoc/chat-prompt or view the samples in our gallery \
         that contain 'Chat' in the name.",
        marks.join(","),
        escapes.restored(role)
    );
    Err(Failure::user("ChatAPIInvalidRole", message))
}

/// A message's content: its text, or a list of parts when a line of it is an image.
fn content(text: &str, images: &[Image], detail: &str) -> Value {
    let text = strip(text);
    let image = |line: &str| images.iter().find(|image| image.mark == strip(line));
    if !text.split('\n').any(|line| image(line).is_some()) {
        return text.into();
    }
    let parts = text.split('\n').filter_map(|line| match image(line) {
        Some(image) => Some(image.part(detail)),
        None if strip(line).is_empty() => None,
        None => Some(serde_json::json!({ "type": "text", "text": line })),
    });
    Value::Array(parts.collect())
}

/// What follows a label and its colon: the text after the spaces, if these have a line's end.
fn after_label<'a>(text: &'a str, label: &str, new_line: bool) -> Option<&'a str> {
    let rest = text.strip_prefix(label)?.trim_start_matches(is_space);
    let rest = rest.strip_prefix(':')?;
    let value = rest.trim_start_matches(is_space);
    let spaces = rest.get(..rest.len() - value.len())?;
    (!new_line || spaces.contains('\n')).then_some(value)
}

/// A word under a label, and the text under `content:` after it; a label may have `##` before it.
fn labelled<'a>(text: &'a str, label: &str) -> Option<(&'a str, &'a str)> {
    text.match_indices(label).find_map(|(at, _)| {
        let value = after_label(text.get(at..)?, label, true)?;
        let word = value
            .split(is_space)
            .next()
            .filter(|word| !word.is_empty())?;
        // The word may end where the label `content` begins, at the latest such place.
        let ends = word
            .char_indices()
            .map(|(index, letter)| index + letter.len_utf8());
        ends.rev().find_map(|end| {
            let (word, rest) = value.split_at(end);
            let rest = rest.trim_start_matches(is_space);
            let hashes = rest
                .bytes()
                .take(2)
                .take_while(|byte| *byte == b'#')
                .count();
            let rest = rest.get(hashes..)?.trim_start_matches(is_space);
            Some((word, after_label(rest, "content", false)?))
        })
    })
}

/// The list under `tool_calls:`, written as Python writes it.
fn tool_calls(text: &str) -> Option<Value> {
    text.match_indices("tool_calls")
        .find_map(|(at, label)| {
            let value = after_label(text.get(at..)?, label, true)?;
            let list = value.starts_with('[').then_some(value)?;
            // Up to the first bracket that closes, as promptflow's pattern has it.
            list.find(']').and_then(|end| list.get(..=end))
        })
        .and_then(literal::parse)
}
