//! What a bundle holds.

use std::fmt;
use std::str::FromStr;

use flowcell_sandbox::{Parameter, ProgramKind, ToolInfo};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::BundleError;

/// A bundle's name and version.
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
        self.components.iter().find_map(|component| {
            let tool = component.tools.iter().find(|tool| {
                tool.name == id
                    || id
                        .strip_prefix(component.name.as_str())
                        .and_then(|rest| rest.strip_prefix('.'))
                        == Some(tool.name.as_str())
            })?;
            Some((component, tool))
        })
    }

    /// The ids of all tools, as a flow's `source.tool` names them.
    pub fn tool_ids(&self) -> Vec<String> {
        self.components
            .iter()
            .flat_map(|component| {
                component.tools.iter().map(|tool| {
                    if tool.name.contains('.') {
                        tool.name.clone()
                    } else {
                        format!("{}.{}", component.name, tool.name)
                    }
                })
            })
            .collect()
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
