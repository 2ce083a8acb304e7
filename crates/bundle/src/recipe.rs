//! `bundle.toml`: how a bundle is made.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{BundleError, IoContext as _};
use crate::manifest::Reference;

/// A bundle's recipe.
///
/// ```toml
/// name = "promptflow"
/// version = "0.1.0"
/// from = "base:1.0.0"            # optional: a bundle in the store, whose content this one starts with
///
/// [[component]]                  # replaces a component of the same name
/// name = "text"
/// build = "text/build.sh"        # run as `sh build.sh OUT.wasm`
///
/// [python]                       # replaces the Python trees of `from`
/// build = "python/tree.sh"       # run as `sh tree.sh OUT`; makes the folders `python`, `packages` and `warm` in it
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// The bundle that this one starts with.
    pub from: Option<String>,
    /// Components to build.
    #[serde(default, rename = "component")]
    pub components: Vec<ComponentRecipe>,
    /// Python's standard library and packages, where the bundle has a Python runner.
    pub python: Option<PythonRecipe>,
    /// The folder of the recipe; build scripts are relative to it.
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
    /// A shell script.
    pub build: PathBuf,
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
        // Checks the characters of both.
        let _: Reference = format!("{}:{}", recipe.name, recipe.version).parse()?;
        Ok(recipe)
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
