//! The answer of `--output json`.

use serde_json::Value;

use crate::compare::lenient_json;
use crate::process::Finished;

/// What `flow test --output json` printed.
#[derive(Debug)]
pub struct Answer {
    /// The whole object; NaN and infinities as `{"$float": "nan"}`.
    pub json: Value,
    /// How the process ended.
    pub process: Finished,
}

impl Answer {
    /// Reads it, and holds the process to what it promises: one JSON object and nothing else, with the exit code that
    /// goes with its status.
    ///
    /// # Panics
    /// When the promise is broken.
    pub fn of(process: Finished) -> Self {
        let json = lenient_json(&process.stdout);
        #[expect(clippy::panic, reason = "the test has failed")]
        let json = json.unwrap_or_else(|error| {
            panic!("stdout is not one JSON object ({error}): {process:#?}")
        });
        let answer = Self { json, process };
        let code = match answer.status() {
            "Completed" => 0,
            _ => 1,
        };
        assert_eq!(answer.process.code, Some(code), "{answer:#?}");
        answer
    }

    /// `Completed` or `Failed`.
    pub fn status(&self) -> &str {
        self.json["status"].as_str().unwrap_or_default()
    }

    /// The outputs of a flow that has succeeded.
    ///
    /// # Panics
    /// When it has not.
    pub fn outputs(&self) -> &Value {
        assert_eq!(self.status(), "Completed", "{self:#?}");
        &self.json["outputs"]
    }

    /// The error's class; empty when there is no error.
    pub fn class(&self) -> &str {
        self.json["error"]["class"].as_str().unwrap_or_default()
    }

    /// The error's message and help, as a person reads them.
    pub fn message(&self) -> String {
        let error = &self.json["error"];
        let text = |key: &str| error[key].as_str().unwrap_or_default();
        format!("{}\n{}", text("message"), text("help"))
    }

    /// What is told of a node; null if there is none of this name.
    pub fn node(&self, node: &str) -> &Value {
        let nodes = self.json["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        let found = nodes.iter().find(|entry| entry["name"] == node);
        found.unwrap_or(&Value::Null)
    }

    /// What a node printed on stdout.
    pub fn printed(&self, node: &str) -> &str {
        let stdout = &self.node(node)["logs"]["stdout"];
        stdout.as_str().unwrap_or_default()
    }

    /// Checks a failure: its class, and words that its message or help must have.
    ///
    /// # Panics
    /// When it is another one, or none.
    #[track_caller]
    pub fn assert_failure(&self, class: &str, words: &[&str]) {
        assert_eq!(self.class(), class, "{self:#?}");
        let message = self.message();
        for word in words {
            assert!(message.contains(word), "no {word:?} in {self:#?}");
        }
    }
}
