//! What a bundle holds.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use flowcell_sandbox::{Parameter, ProgramKind, ToolInfo};
use serde::{Deserialize, Serialize};

use crate::error::BundleError;
use flowcell_registry::Digest;

/// The name of references that are digests.
pub(crate) const BY_DIGEST: &str = "sha256";

/// A bundle's name and version, or another tag. With the name `sha256` and 64 digits, it is the digest of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// For example `promptflow`.
    pub name: String,
    /// For example `0.1.0`.
    pub version: String,
}

impl FromStr for Reference {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let part = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            (1..=128).contains(&part.len())
                && part.chars().all(allowed)
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        match text.split_once(':') {
            Some((name, version)) if part(name) && part(version) => Ok(Self {
                name: name.to_owned(),
                version: version.to_owned(),
            }),
            _ => Err(BundleError::Reference(text.chars().take(200).collect())),
        }
    }
}

impl Reference {
    /// The digest that it is, if it is one.
    pub fn digest(&self) -> Option<Digest> {
        (self.name == BY_DIGEST).then(|| self.to_string().parse().ok())?
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self {
            name: BY_DIGEST.to_owned(),
            version: digest.hex(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.name, self.version)
    }
}

/// A bundle, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format; 1.
    pub schema: u32,
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// Its components.
    pub components: Vec<Component>,
    /// Folders that its instances see.
    pub trees: Vec<Tree>,
    /// What Python code finds in it; absent without a Python runner.
    pub python: Option<PythonInfo>,
    /// Environment variables of its instances, where neither the flow nor its caller says otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// A component of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Its name; the first part of its tools' ids.
    pub name: String,
    /// What it is.
    pub kind: ProgramKind,
    /// The component's bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Its tools; none for the Python runner, whose tools are in the flow.
    pub tools: Vec<Tool>,
    /// How its instances get their memory.
    #[serde(default)]
    pub start: Start,
}

/// How instances of a component get their memory. It is decided when the component is built, by looking at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Start {
    /// Its data is in its code.
    #[default]
    Ordinary,
    /// So it is here too, since its state is more than its memory, or it failed in the warm-up.
    Unsuitable(String),
    /// Its memory is an image, over which sessions have images of their own.
    Image {
        /// The shell: the component without its data.
        shell: Digest,
        /// The warmed memory, compressed with zstd.
        base: Digest,
        /// Size of that memory, in bytes.
        memory: u64,
        /// Its BLAKE3 hash, in hexadecimal: what its pages are checked by where they lie unpacked.
        pages: String,
    },
}

/// A tool of a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its name within the component.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Its inputs: name, types, default as JSON text, and whether it is required.
    pub inputs: Vec<ToolInput>,
    /// Whether it takes inputs beyond these.
    pub open_inputs: bool,
}

/// An input of a [`Tool`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolInput {
    /// Its name.
    pub name: String,
    /// promptflow's value types.
    pub types: Vec<String>,
    /// Its default, as JSON text.
    pub default: Option<String>,
    /// Whether it must be given.
    pub required: bool,
}

/// A folder of a bundle, as an archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// Where instances see it.
    pub mount: String,
    /// The archive: tar, compressed with zstd.
    pub digest: Digest,
    /// Size of the archive in bytes.
    pub size: u64,
}

/// Python, as a bundle has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonInfo {
    /// The interpreter's version, as it reports it itself.
    pub version: String,
    /// Packages that flows can import.
    pub packages: Vec<Package>,
}

/// A Python package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Manifest {
    /// One of this name that holds nothing yet.
    pub(crate) fn new(name: &str, version: &str) -> Self {
        Self {
            schema: 1,
            name: name.to_owned(),
            version: version.to_owned(),
            components: Vec::new(),
            trees: Vec::new(),
            python: None,
            environment: BTreeMap::new(),
        }
    }

    /// The bundle's name and version.
    pub fn reference(&self) -> Reference {
        Reference {
            name: self.name.clone(),
            version: self.version.clone(),
        }
    }

    /// The bundle's Python runner, if it has one.
    pub fn python_runner(&self) -> Option<&Component> {
        self.components
            .iter()
            .find(|component| component.kind == ProgramKind::PythonRunner)
    }

    /// The component and tool behind a tool id `<component>.<tool>`, or behind the bare name of a tool whose component
    /// gives promptflow's own ids (`promptflow.tools.…`).
    pub fn tool(&self, id: &str) -> Option<(&Component, &Tool)> {
        self.components
            .iter()
            .find_map(|component| Some((component, component.tool(id)?)))
    }
}

impl Component {
    /// The id of one of its tools, as a flow's `source.tool` names it: the tool's name if that has a dot, as promptflow's do,
    /// and otherwise that within the component's.
    pub fn tool_id(&self, tool: &Tool) -> String {
        if tool.name.contains('.') {
            tool.name.clone()
        } else {
            format!("{}.{}", self.name, tool.name)
        }
    }

    /// The ids of all its tools.
    pub fn tool_ids(&self) -> impl Iterator<Item = String> {
        self.tools.iter().map(|tool| self.tool_id(tool))
    }

    /// A tool by its id, or by its name alone.
    pub fn tool(&self, id: &str) -> Option<&Tool> {
        self.tools
            .iter()
            .find(|tool| tool.name == id || self.tool_id(tool) == id)
    }
}

impl From<ToolInfo> for Tool {
    fn from(info: ToolInfo) -> Self {
        Self {
            name: info.name,
            description: info.description,
            inputs: info.inputs.into_iter().map(ToolInput::from).collect(),
            open_inputs: info.open_inputs,
        }
    }
}

impl From<Tool> for ToolInfo {
    fn from(tool: Tool) -> Self {
        Self {
            name: tool.name,
            description: tool.description,
            inputs: tool.inputs.into_iter().map(Parameter::from).collect(),
            open_inputs: tool.open_inputs,
        }
    }
}

impl From<ToolInput> for Parameter {
    fn from(input: ToolInput) -> Self {
        Self {
            name: input.name,
            types: input.types,
            default: input.default,
            required: input.required,
            // Components have functions only.
            init: false,
        }
    }
}

impl From<Parameter> for ToolInput {
    fn from(parameter: Parameter) -> Self {
        Self {
            name: parameter.name,
            types: parameter.types,
            default: parameter.default,
            required: parameter.required,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn references_read_back_as_they_are_written() {
        for text in ["promptflow:0.1.0", "a:b", "A-1_2.x:2024-01-01"] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn references_cannot_be_paths() {
        let long = format!("{}:1", "x".repeat(129));
        for text in [
            "", ":", "name", "name:", ":1", "a:b:c", "../x:1", "x:../1", "x/y:1", "x:1/2", ".x:1",
            "x:.1", "x:1 ", "x\\y:1", "x\0:1", "é:1", &long,
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains("name:version"), "{text}: {error}");
        }
    }

    #[test]
    fn tools_are_found_by_the_ids_that_flows_use() {
        let digest = Digest::of(b"");
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: String::new(),
            inputs: Vec::new(),
            open_inputs: false,
        };
        let component = |name: &str, tools: &[&str]| Component {
            name: name.to_owned(),
            kind: ProgramKind::Tool,
            digest,
            size: 0,
            tools: tools.iter().map(|name| tool(name)).collect(),
            start: Start::Ordinary,
        };
        let manifest = Manifest {
            components: vec![
                component("text", &["count"]),
                component("builtin", &["promptflow.tools.x.y"]),
            ],
            ..Manifest::new("n", "1")
        };
        let found = |id: &str| {
            manifest
                .tool(id)
                .map(|(component, tool)| (component.name.as_str(), tool.name.as_str()))
        };
        assert_eq!(found("text.count"), Some(("text", "count")));
        assert_eq!(
            found("promptflow.tools.x.y"),
            Some(("builtin", "promptflow.tools.x.y"))
        );
        for id in [
            "text",
            "text.",
            "textcount",
            "text.count.more",
            "other.count",
            "",
        ] {
            assert_eq!(found(id), None, "{id}");
        }
        let ids = manifest.components.iter().flat_map(Component::tool_ids);
        assert!(ids.eq(["text.count", "promptflow.tools.x.y"]));
    }
}
