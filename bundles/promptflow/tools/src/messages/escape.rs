//! Roles that users write stay text.
//!
//! Words in the place of a role in what comes from the flow's inputs are replaced by random ids before the template is
//! filled, and put back after its roles have been read.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use serde_json::{Map, Value};

use crate::messages::{INPUTS_TO_ESCAPE, PROMPT_RESULTS, roles};

/// What stands for which word.
#[derive(Debug, Clone, Default)]
pub struct Escapes(Vec<(String, String)>);

impl Escapes {
    /// Takes what to escape out of a call's inputs, and replaces the words there.
    ///
    /// promptflow looks into lists only where a tool makes chat lists of them (`in_lists`).
    pub fn take(variables: &mut Map<String, Value>, in_lists: bool) -> Self {
        let names = variables.shift_remove(INPUTS_TO_ESCAPE);
        let results = variables.shift_remove(PROMPT_RESULTS);
        let mut escapes = Self::default();
        // Outputs of prompt nodes first: their words are escaped in other inputs, too.
        for (name, result) in results.iter().filter_map(Value::as_object).flatten() {
            let mapping = result["mapping"]
                .as_object()
                .filter(|mapping| !mapping.is_empty());
            let (Some(mapping), Some(slot)) = (mapping, variables.get_mut(name)) else {
                continue;
            };
            *slot = result["escaped"].clone();
            let words = mapping
                .iter()
                .filter_map(|(id, word)| Some((id.clone(), word.as_str()?.to_owned())));
            escapes.0.extend(words);
        }
        let names: Vec<&str> = names
            .as_ref()
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let is_escaped = |name: &str| names.contains(&name);
        let mut found = Vec::new();
        for (_, value) in variables.iter().filter(|(name, _)| is_escaped(name)) {
            find(value, in_lists, &mut found);
        }
        escapes
            .0
            .extend(found.into_iter().map(|word| (random_id(), word)));
        let is_result = |name: &str| {
            results
                .as_ref()
                .is_some_and(|results| !results[name].is_null())
        };
        for (name, value) in variables.iter_mut() {
            if is_escaped(name) && !is_result(name) {
                escapes.hide(value, in_lists);
            }
        }
        escapes
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `{id: word}`.
    pub fn mapping(&self) -> Value {
        let words = self.0.iter();
        Value::Object(
            words
                .map(|(id, word)| (id.clone(), word.as_str().into()))
                .collect(),
        )
    }

    /// A text with its words put back.
    pub fn restored(&self, text: &str) -> String {
        let words = self.0.iter();
        words.fold(text.to_owned(), |text, (id, word)| {
            text.replace(id.as_str(), word)
        })
    }

    /// Puts the words back in a message's member: a text, or a list of parts.
    pub fn restore(&self, value: &mut Value) {
        if self.is_empty() {
            return;
        }
        match value {
            Value::String(text) => *text = self.restored(text),
            Value::Array(parts) => {
                for part in parts {
                    if let Some(Value::String(text)) = part.get_mut("text") {
                        *text = self.restored(text);
                    }
                }
            }
            _ => {}
        }
    }

    fn hide(&self, value: &mut Value, in_lists: bool) {
        match value {
            Value::String(text) => {
                for (id, word) in &self.0 {
                    *text = text.replace(word.as_str(), id);
                }
            }
            Value::Array(items) if in_lists => {
                items.iter_mut().for_each(|item| self.hide(item, in_lists));
            }
            Value::Object(members) => {
                members
                    .values_mut()
                    .for_each(|member| self.hide(member, in_lists));
            }
            _ => {}
        }
    }
}

/// Adds the words in the place of roles, each once for each way it is written.
fn find(value: &Value, in_lists: bool, found: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            for (_, role, _) in roles::Markers::new(text, &roles::ALL) {
                if !found.iter().any(|word| word == role) {
                    found.push(role.to_owned());
                }
            }
        }
        Value::Array(items) if in_lists => {
            items.iter().for_each(|item| find(item, in_lists, found));
        }
        Value::Object(members) => {
            members
                .values()
                .for_each(|member| find(member, in_lists, found));
        }
        _ => {}
    }
}

/// 32 hexadecimal digits that nobody can foresee. The standard library seeds its hashers from the system's randomness.
fn random_id() -> String {
    let half = || RandomState::new().build_hasher().finish();
    let hex = format!(
        "{:016x}{:016x}",
        half(),
        RandomState::new().hash_one(half())
    );
    let parts =
        [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or_default());
    parts.join("-")
}
