//! `bundle.toml`: how a bundle is made.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::check::{check_target, check_variables};
use crate::error::{BundleError, IoContext as _};
use crate::manifest::{BY_DIGEST, Reference};
use crate::name::ImageName;

/// A bundle's recipe. Paths are relative to it.
///
/// ```toml
/// name = "promptflow"
/// version = "0.1.0"
/// channels = ["stable"]          # optional: more tags for it
/// from = "base:1.0.0"            # optional: a bundle, also one in a registry, whose content this one starts with
///
/// [[component]]                  # replaces a component of the same name
/// name = "text"
/// build = "text/build.sh"        # run as `sh build.sh OUT.wasm`
///
/// [python]                       # either replaces the Python trees of `from`…
/// build = "python/tree.sh"       # run as `sh tree.sh OUT`; makes the folders `python`, `packages` and `warm` in it
///
/// [python]                       # …or adds packages to them
/// requirements = "requirements.txt"
/// wheels = ["wheels/x-1.0-py3-none-any.whl"]   # taken as they are: what they require, `requirements` has to name
///
/// [[file]]                       # replaces what `from` has at the same target
/// source = "data"                # a folder, or a file, which is put into the folder `target`
/// target = "/data"               # every instance sees it there, and cannot change it
///
/// [environment]                  # where neither the flow nor its caller says otherwise
/// NAME = "value"
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// Other tags that point to it once it is built.
    #[serde(default)]
    pub channels: Vec<String>,
    /// The bundle that this one starts with.
    pub from: Option<ImageName>,
    /// Components to build.
    #[serde(default, rename = "component")]
    pub components: Vec<ComponentRecipe>,
    /// Python's standard library and packages, where the bundle has a Python runner.
    pub python: Option<PythonRecipe>,
    /// Files that every instance sees.
    #[serde(default, rename = "file")]
    pub files: Vec<FileRecipe>,
    /// Environment variables.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The folder of the recipe.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// How a component is made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentRecipe {
    /// Its name in the bundle.
    pub name: String,
    /// A shell script.
    pub build: PathBuf,
}

/// How Python's trees are made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonRecipe {
    /// A shell script that makes all of them.
    pub build: Option<PathBuf>,
    /// Packages to add to those of `from`.
    pub requirements: Option<PathBuf>,
    /// Wheels to add.
    #[serde(default)]
    pub wheels: Vec<PathBuf>,
}

impl PythonRecipe {
    /// Whether it adds packages to those of another bundle.
    pub fn adds(&self) -> bool {
        self.requirements.is_some() || !self.wheels.is_empty()
    }
}

/// Files that every instance sees.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecipe {
    /// A folder, or a file.
    pub source: PathBuf,
    /// The folder where instances see it.
    pub target: String,
}

impl Recipe {
    /// Reads a `bundle.toml`, or the one in a folder.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let path = if path.is_dir() {
            path.join("bundle.toml")
        } else {
            path.to_owned()
        };
        let text = fs::read_to_string(&path).io("read", &path)?;
        let wrong = |message: String| BundleError::Recipe {
            path: path.clone(),
            message,
        };
        let mut recipe: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        recipe.folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        for file in &mut recipe.files {
            file.target = file.target.trim_end_matches('/').to_owned();
        }
        // Checks the characters of both.
        for version in [&recipe.version].into_iter().chain(&recipe.channels) {
            let _: Reference = format!("{}:{version}", recipe.name).parse()?;
        }
        recipe.check().map_err(wrong)?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        if self.name == BY_DIGEST {
            return Err(format!("the name {BY_DIGEST} is for digests; take another"));
        }
        if let Some(python) = &self.python {
            match (&python.build, python.adds()) {
                (Some(_), true) => {
                    return Err(
                        "[python] has `build`, which makes all packages, beside `requirements` or `wheels`, which add some; take out one of them"
                            .to_owned(),
                    );
                }
                (None, true) if self.from.is_none() => {
                    return Err(
                        "[python] adds packages to those of another bundle; name it with `from`"
                            .to_owned(),
                    );
                }
                (None, false) => {
                    return Err("[python] needs `build`, `requirements` or `wheels`".to_owned());
                }
                _ => {}
            }
        }
        let mut targets = Vec::new();
        for file in &self.files {
            check_target(&file.target, &targets)?;
            targets.push(file.target.clone());
        }
        check_variables(&self.environment)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Recipe, BundleError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("bundle.toml"), text).unwrap();
        Recipe::read(folder.path())
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, words) in [
            ("name = \"x\"", &["bundle.toml", "version"][..]),
            ("name = \"x\"\nversion = 1", &["bundle.toml", "line 2"]),
            (
                "name = \"x\"\nversion = \"1\"\nfrm = \"base:1\"",
                &["frm", "line 3"],
            ),
            ("name = [", &["bundle.toml", "line 1"]),
            (
                "name = \"../x\"\nversion = \"1\"",
                &["../x:1", "name:version"],
            ),
            (
                "name = \"x\"\nversion = \"1\"\nchannels = [\"a/b\"]",
                &["x:a/b", "name:version"],
            ),
            (
                "name = \"sha256\"\nversion = \"1\"",
                &["bundle.toml", "digests"],
            ),
            (
                "name = \"x\"\nversion = \"1\"\n[python]\nrequirements = \"r.txt\"",
                &["bundle.toml", "`from`"],
            ),
            (
                "name = \"x\"\nversion = \"1\"\n[python]\nbuild = \"b\"\nwheels = [\"w\"]",
                &["bundle.toml", "take out one"],
            ),
            (
                "name = \"x\"\nversion = \"1\"\n[python]",
                &["bundle.toml", "`requirements`"],
            ),
            (
                "name = \"x\"\nversion = \"1\"\n[[file]]\nsource = \"d\"\ntarget = \"/packages\"",
                &["bundle.toml", "/packages"],
            ),
            (
                "name = \"x\"\nversion = \"1\"\n[[file]]\nsource = \"d\"\ntarget = \"data\"",
                &["bundle.toml", "absolute"],
            ),
            (
                "name = \"x\"\nversion = \"1\"\n[environment]\n\"A B\" = \"1\"",
                &["bundle.toml", "A B"],
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{word}: {error}");
            }
        }
    }

    #[test]
    fn a_folder_without_a_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let error = Recipe::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("bundle.toml"), "{error}");
    }

    #[test]
    fn scripts_are_relative_to_the_recipe() {
        let recipe = read(
            "name = \"x\"\nversion = \"1\"\n[[component]]\nname = \"a\"\nbuild = \"a/build.sh\"\n",
        )
        .unwrap();
        assert!(recipe.folder.is_absolute());
        assert_eq!(recipe.components[0].build, Path::new("a/build.sh"));
    }
}
