//! Paths of a flow's files.

use std::borrow::Borrow;

/// Longest path, in bytes.
const MAX_PATH: usize = 512;
/// Longest part of a path, in bytes: the limit of file systems.
const MAX_PART: usize = 255;
/// Most folders around a file; what the executor copies.
const MAX_DEPTH: usize = 32;

/// A path from a flow's folder to a file in it. It cannot leave the folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowPath(String);

/// A text that is no such path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{shown}' is no path of a flow's file: {problem}")]
pub struct InvalidPath {
    shown: String,
    problem: &'static str,
}

impl FlowPath {
    /// Checks a text: parts with '/' between them.
    ///
    /// # Errors
    /// When it is absolute, leads out (`..`), is too long or deep, or has empty parts, '\' or control characters.
    pub fn new(text: &str) -> Result<Self, InvalidPath> {
        let problem = if text.is_empty() {
            "it is empty"
        } else if text.len() > MAX_PATH {
            "it is longer than 512 bytes"
        } else if text.starts_with('/') {
            "it is absolute; give the path from the flow's folder"
        } else if text.contains('\\') {
            "it has a '\\'; use '/' between folders"
        } else if text.chars().any(char::is_control) {
            "it has control characters"
        } else if text.split('/').any(|part| part == "..") {
            "it leads out of the folder"
        } else if text.split('/').any(|part| part.is_empty() || part == ".") {
            "a part of it is empty or '.'"
        } else if text.split('/').any(|part| part.len() > MAX_PART) {
            "a part of it is longer than 255 bytes"
        } else if text.split('/').count() > MAX_DEPTH {
            "it is more than 32 folders deep"
        } else {
            return Ok(Self(text.to_owned()));
        };
        let shown: String = text
            .chars()
            .take(100)
            .flat_map(char::escape_default)
            .collect();
        Err(InvalidPath { shown, problem })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for FlowPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_paths_are_allowed() {
        for path in [
            "flow.dag.yaml",
            "a/b/c.py",
            ".promptflow/x.json",
            "a b/é.txt",
            "..a/b..",
        ] {
            assert_eq!(FlowPath::new(path).unwrap().as_str(), path);
        }
    }

    #[test]
    fn paths_that_leave_or_confuse_are_refused() {
        let long = "x".repeat(256);
        let deep = "a/".repeat(32) + "b";
        for path in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/.",
            "a/",
            "a\\b",
            "C:\\x",
            "a\0b",
            "a\nb",
            &long,
            &deep,
        ] {
            assert!(FlowPath::new(path).is_err(), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_its_folder(text in "[a./\\\\]{1,20}") {
            if let Ok(path) = FlowPath::new(&text) {
                let joined = std::path::Path::new("/flow").join(path.as_str());
                prop_assert!(joined.components().all(|part| part != std::path::Component::ParentDir));
                prop_assert!(joined.starts_with("/flow") && joined != std::path::Path::new("/flow"));
            }
        }
    }
}
