//! The lock: a `pylock.toml` (PEP 751) that says which wheels an environment has, and over which image.
//!
//! What this host writes names, for each package, every wheel that may be used here. What others have written is taken as
//! far as it says the same: packages whose markers do not hold here are left out, and source archives are not built.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use flowcell_bundle::Digest;
use serde::{Deserialize, Serialize};
use uv_distribution_filename::WheelFilename;
use uv_pep508::MarkerTree;

use crate::error::EnvironmentError;
use crate::platform::{Fit, PythonPlatform};

/// Names of lock files in a flow's folder (PEP 751).
pub const LOCK_FILE: &str = "pylock.toml";
/// Bytes of a lock.
const MAX_BYTES: usize = 4 << 20;
/// Packages of a lock.
const MAX_PACKAGES: usize = 2_000;
const VERSION: &str = "1.0";

/// A lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lock {
    /// The format's version.
    lock_version: String,
    /// Who has written it.
    created_by: String,
    /// For which versions of Python it was made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub requires_python: Option<String>,
    /// What is to be installed, by name.
    #[serde(default)]
    pub packages: Vec<LockedPackage>,
    /// What only this host knows of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tool: Option<ToolTable>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ToolTable {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    flowcell: Option<LockedHere>,
}

/// The table `[tool.flowcell]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LockedHere {
    /// The base image, as it was named.
    pub image: String,
    /// The digest of its manifest.
    pub image_digest: Digest,
    /// The digest of the requirements that were resolved.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub requirements: Option<Digest>,
    /// Component packages, by name.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub components: Vec<LockedComponent>,
}

/// A component package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LockedComponent {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The repository that it comes from.
    pub repository: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The digest of the component itself.
    pub component: Digest,
    /// Bytes of the component.
    pub size: u64,
}

impl LockedComponent {
    /// Name and version, for messages.
    pub fn shown(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }
}

/// A package (PEP 751, `[[packages]]`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LockedPackage {
    /// Its normalized name (PEP 503).
    pub name: String,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// Where it is wanted (PEP 508).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    marker: Option<String>,
    /// The index that it comes from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub index: Option<String>,
    /// A single archive that was named by its address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub archive: Option<Archive>,
    /// Its wheels.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub wheels: Vec<LockedWheel>,
    /// Its source archive, which is of no use here.
    #[serde(skip_serializing, default)]
    sdist: Option<toml::Value>,
    #[serde(skip_serializing, default)]
    directory: Option<toml::Value>,
    #[serde(skip_serializing, default)]
    vcs: Option<toml::Value>,
}

/// A single archive (PEP 751, `packages.archive`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Archive {
    /// Where it is.
    #[serde(default)]
    pub url: String,
    /// Its size in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// Its hashes, by algorithm.
    pub hashes: BTreeMap<String, String>,
}

/// A wheel (PEP 751, `packages.wheels`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockedWheel {
    /// Its file name, without which it is the last part of the address.
    #[serde(default)]
    pub name: String,
    /// Where it is.
    #[serde(default)]
    pub url: String,
    /// Its size in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// Its hashes, by algorithm.
    pub hashes: BTreeMap<String, String>,
}

/// The wheel of a package that is used here.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) filename: WheelFilename,
    pub(crate) wheel: LockedWheel,
    pub(crate) fit: Fit,
}

impl LockedPackage {
    pub(crate) fn named(name: String) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// Name and version, for messages.
    pub fn shown(&self) -> String {
        match &self.version {
            Some(version) => format!("{}=={version}", self.name),
            None => self.name.clone(),
        }
    }

    /// The wheel that fits best: one of Python only, else one whose compiled modules are left out.
    ///
    /// # Errors
    /// When none fits; which there are.
    pub(crate) fn choose(&self, platform: &PythonPlatform) -> Result<Chosen, EnvironmentError> {
        let unusable = |problem: String| EnvironmentError::Package {
            package: self.shown(),
            problem,
        };
        let archive = self.archive.as_ref().map(|archive| LockedWheel {
            name: String::new(),
            url: archive.url.clone(),
            size: archive.size,
            hashes: archive.hashes.clone(),
        });
        let mut best: Option<Chosen> = None;
        let mut others = Vec::new();
        for wheel in self.wheels.iter().chain(&archive) {
            let name = match wheel.name.as_str() {
                "" => {
                    let path = url::Url::parse(&wheel.url).map_err(|_| {
                        unusable("its wheel is a file beside the lock; only wheels with a url are taken, or a custom base image that has it".to_owned())
                    })?;
                    path.path()
                        .rsplit('/')
                        .next()
                        .unwrap_or_default()
                        .to_owned()
                }
                name => name.to_owned(),
            };
            let Ok(filename) = WheelFilename::from_str(&name) else {
                others.push(name);
                continue;
            };
            if filename.name.to_string() != self.name {
                return Err(unusable(format!("{name} is a wheel of another package")));
            }
            match platform.fit(&filename) {
                Some(fit) if best.as_ref().is_none_or(|best| best.fit < fit) => {
                    best = Some(Chosen {
                        filename,
                        wheel: wheel.clone(),
                        fit,
                    });
                }
                Some(_) => {}
                None => others.push(name),
            }
        }
        best.ok_or_else(|| {
            others.truncate(8);
            let there_is = match (others.is_empty(), self.sdist.is_some()) {
                (false, _) => format!(
                    "it has wheels for other platforms only ({})",
                    others.join(", ")
                ),
                (true, true) => {
                    "it has a source archive only, which is not built on this host".to_owned()
                }
                (true, false) => "it has no wheel".to_owned(),
            };
            unusable(format!("{there_is}. {}", crate::native::ALTERNATIVES))
        })
    }
}

impl Lock {
    /// A lock of these packages, over an image.
    pub(crate) fn new(python: &str, packages: Vec<LockedPackage>, here: LockedHere) -> Self {
        Self {
            lock_version: VERSION.to_owned(),
            created_by: "flowcell".to_owned(),
            requires_python: Some(format!(">={python}")),
            packages,
            tool: Some(ToolTable {
                flowcell: Some(here),
            }),
        }
    }

    /// Reads a lock; `file` is its name for messages.
    ///
    /// # Errors
    /// When it is none, or too large.
    pub fn parse(file: &str, text: &str) -> Result<Self, EnvironmentError> {
        let wrong = |problem: String| EnvironmentError::Lock {
            file: file.to_owned(),
            problem,
        };
        if text.len() > MAX_BYTES {
            return Err(EnvironmentError::TooMuch {
                what: file.to_owned(),
                limit: MAX_BYTES as u64,
                unit: "bytes",
            });
        }
        let lock: Self = toml::from_str(text)
            .map_err(|error| wrong(format!("is no lock as PEP 751 has them: {error}")))?;
        if !lock.lock_version.starts_with("1.") && lock.lock_version != "1" {
            return Err(wrong(format!(
                "has the lock-version {}; {VERSION} is known here",
                lock.lock_version
            )));
        }
        if lock.packages.len() > MAX_PACKAGES {
            return Err(EnvironmentError::TooMuch {
                what: file.to_owned(),
                limit: MAX_PACKAGES as u64,
                unit: "packages",
            });
        }
        for package in &lock.packages {
            if package.name.parse::<uv_normalize::PackageName>().is_err() {
                return Err(wrong(format!("{:?} is no name of a package", package.name)));
            }
        }
        Ok(lock)
    }

    /// The lock as text.
    ///
    /// # Errors
    /// Never for a lock that [`Lock::parse`] or a resolution gave.
    pub fn to_text(&self) -> Result<String, EnvironmentError> {
        toml::to_string(self)
            .map_err(|error| EnvironmentError::Host(format!("no lock can be written: {error}")))
    }

    /// Adds the SHA-256 of a wheel that is named by this address, or by nothing but this file name.
    pub(crate) fn note_sha256(&mut self, chosen: &LockedWheel, sha256: &str) {
        for package in &mut self.packages {
            for wheel in &mut package.wheels {
                if (&wheel.name, &wheel.url) == (&chosen.name, &chosen.url) {
                    wheel.hashes.insert("sha256".to_owned(), sha256.to_owned());
                }
            }
            if let Some(archive) = &mut package.archive
                && archive.url == chosen.url
            {
                archive
                    .hashes
                    .insert("sha256".to_owned(), sha256.to_owned());
            }
        }
    }

    /// The component packages that it asks for, by name.
    pub fn components(&self) -> &[LockedComponent] {
        self.here().map_or(&[], |here| &here.components)
    }

    /// What this host has added.
    pub fn here(&self) -> Option<&LockedHere> {
        self.tool.as_ref()?.flowcell.as_ref()
    }

    /// The packages whose markers hold here.
    pub(crate) fn wanted(
        &self,
        file: &str,
        platform: &PythonPlatform,
    ) -> Result<Vec<&LockedPackage>, EnvironmentError> {
        let mut wanted: Vec<&LockedPackage> = Vec::new();
        for package in &self.packages {
            if let Some(marker) = &package.marker {
                let parsed =
                    MarkerTree::from_str(marker).map_err(|error| EnvironmentError::Lock {
                        file: file.to_owned(),
                        problem: format!("the marker of {}: {error}", package.name),
                    })?;
                if !parsed.evaluate_pep751(&platform.markers, &[], &[]) {
                    continue;
                }
            }
            if wanted.iter().any(|other| other.name == package.name) {
                return Err(EnvironmentError::Lock {
                    file: file.to_owned(),
                    problem: format!("{} is there twice for this platform", package.name),
                });
            }
            wanted.push(package);
        }
        Ok(wanted)
    }
}
