//! The reference grammar: `${inputs.name}`, `${node.output}`, `${node.output.property}`.
//!
//! A value is a reference only as a whole string: it begins with `${` and ends with `}`. There is no interpolation, `pre ${x}` is a
//! literal, and so is `$node.output`. Rules: `InputAssignment.deserialize` of promptflow's `contracts/flow.py`.

use std::fmt;

use crate::json::Json;

/// The prefixes that make a reference one to a flow input. `flow.` is the older spelling.
const INPUT_PREFIXES: [&str; 2] = ["flow.", "inputs."];

/// What a node input, a flow output or an activate condition is bound to.
#[derive(Debug, Clone, PartialEq)]
pub enum Assignment {
    /// A value as written in the flow.
    Literal(Json),
    /// The flow input of this name. Everything behind the prefix is the name, dots included: `${inputs.a.b}` is the input `a.b`.
    FlowInput(String),
    /// The output of a node, or a part of it.
    NodeOutput {
        /// The node's name. Not trimmed: `${ n.output}` refers to a node named ` n`.
        node: String,
        /// Always `output` in a flow that runs; anything else is refused when the value is needed.
        section: String,
        /// The path into the output, empty for the whole of it. See [`PropertyPath`](crate::PropertyPath).
        property: String,
    },
}

impl Assignment {
    /// Reads a value of the flow definition. Only strings can be references; everything else is a literal.
    pub fn parse(value: &Json) -> Assignment {
        match value {
            Json::String(text) => {
                Assignment::parse_str(text).unwrap_or_else(|| Assignment::Literal(value.clone()))
            }
            other => Assignment::Literal(other.clone()),
        }
    }

    /// Reads text as a reference; `None` if it is not one.
    pub fn parse_str(text: &str) -> Option<Assignment> {
        let inner = text.strip_prefix("${")?.strip_suffix('}')?;
        if let Some(name) = INPUT_PREFIXES
            .iter()
            .find_map(|prefix| inner.strip_prefix(prefix))
        {
            return Some(Assignment::FlowInput(name.to_owned()));
        }
        let (node, rest) = inner.split_once('.').unwrap_or((inner, "output"));
        let (section, property) = rest.split_once('.').unwrap_or((rest, ""));
        Some(Assignment::NodeOutput {
            node: node.to_owned(),
            section: section.to_owned(),
            property: property.to_owned(),
        })
    }

    /// The name of the node this refers to.
    pub fn node(&self) -> Option<&str> {
        match self {
            Assignment::NodeOutput { node, .. } => Some(node),
            Assignment::Literal(_) | Assignment::FlowInput(_) => None,
        }
    }

    /// The name of the flow input this refers to.
    pub fn flow_input(&self) -> Option<&str> {
        match self {
            Assignment::FlowInput(name) => Some(name),
            Assignment::Literal(_) | Assignment::NodeOutput { .. } => None,
        }
    }

    /// Whether this is no reference.
    pub fn is_literal(&self) -> bool {
        matches!(self, Assignment::Literal(_))
    }
}

/// The canonical text. A reference reads back as the same reference; a literal string stands as it is, other literals as JSON.
impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Assignment::Literal(Json::String(text)) => f.write_str(text),
            Assignment::Literal(value) => write!(f, "{value}"),
            Assignment::FlowInput(name) => write!(f, "${{inputs.{name}}}"),
            // A node named like an input prefix can be referred to only by its bare name.
            Assignment::NodeOutput {
                node,
                section,
                property,
            } if property.is_empty()
                && section == "output"
                && (node == "inputs" || node == "flow") =>
            {
                write!(f, "${{{node}}}")
            }
            Assignment::NodeOutput {
                node,
                section,
                property,
            } if property.is_empty() => {
                write!(f, "${{{node}.{section}}}")
            }
            Assignment::NodeOutput {
                node,
                section,
                property,
            } => write!(f, "${{{node}.{section}.{property}}}"),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn node(node: &str, section: &str, property: &str) -> Option<Assignment> {
        Some(Assignment::NodeOutput {
            node: node.to_owned(),
            section: section.to_owned(),
            property: property.to_owned(),
        })
    }

    fn input(name: &str) -> Option<Assignment> {
        Some(Assignment::FlowInput(name.to_owned()))
    }

    #[test]
    fn grammar() {
        for (text, expected) in [
            ("${inputs.a}", input("a")),
            ("${flow.a}", input("a")),
            ("${inputs.a.b}", input("a.b")),
            ("${inputs.}", input("")),
            ("${inputs.flow.a}", input("flow.a")),
            ("${inputs}", node("inputs", "output", "")),
            ("${ inputs.a }", node(" inputs", "a ", "")),
            ("${n0}", node("n0", "output", "")),
            ("${n0.output}", node("n0", "output", "")),
            ("${n0.outputz}", node("n0", "outputz", "")),
            ("${n0.output.a.b[0]}", node("n0", "output", "a.b[0]")),
            ("${n0.output['d e']}", node("n0", "output['d e']", "")),
            ("${n0.output.}", node("n0", "output", "")),
            ("${my-node 2.output}", node("my-node 2", "output", "")),
            ("${}", node("", "output", "")),
            ("${.}", node("", "", "")),
            ("${a}b}", node("a}b", "output", "")),
            ("pre ${inputs.a}", None),
            ("${inputs.a} post", None),
            ("$n0.output", None),
            ("$", None),
            ("${", None),
            ("$}", None),
            ("{inputs.a}", None),
            ("", None),
        ] {
            assert_eq!(Assignment::parse_str(text), expected, "{text}");
        }
    }

    #[test]
    fn only_strings_can_refer() {
        for value in [
            json!(null),
            json!(1),
            json!(["${inputs.a}"]),
            json!({"k": "${inputs.a}"}),
        ] {
            assert_eq!(Assignment::parse(&value), Assignment::Literal(value));
        }
    }

    #[test]
    fn canonical_text() {
        for (text, canonical) in [
            ("${n0}", "${n0.output}"),
            ("${flow.a}", "${inputs.a}"),
            ("${inputs}", "${inputs}"),
            ("${n0.output.}", "${n0.output}"),
            ("plain", "plain"),
        ] {
            assert_eq!(Assignment::parse(&json!(text)).to_string(), canonical);
        }
        assert_eq!(
            Assignment::Literal(json!({"a": [1.0]})).to_string(),
            r#"{"a":[1.0]}"#
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = Assignment::parse_str(&text);
        }

        #[test]
        fn text_reads_back(inner in r"(inputs|flow|n|é| |\.|\[|\]|'|\}|[a-z0-9]){0,8}") {
            let first = Assignment::parse_str(&format!("${{{inner}}}")).unwrap();
            prop_assert!(!first.is_literal());
            prop_assert_eq!(Assignment::parse_str(&first.to_string()), Some(first));
        }
    }
}
