//! The folders of a bundle that is made over another one: that one's, and what is added.

use std::fs;
use std::path::{Component, Path};

use crate::build::{PACKAGES, WARM_UP};
use crate::error::{BundleError, IoContext as _};
use crate::manifest::{Manifest, Package};
use crate::store::Store;

macro_rules! warm_up {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../bundles/promptflow/python/warm/", $name)),
        )
    };
}
/// The throw-away flow of the base bundle, for bundles that are made over it: it is no part of any bundle.
const WARM_UP_FILES: [(&str, &str); 7] = [
    warm_up!("warm_up.py"),
    warm_up!("tools/asynchronous.py"),
    warm_up!("tools/found.py"),
    warm_up!("tools/provider.py"),
    warm_up!("tools/raises.py"),
    warm_up!("tools/stream.py"),
    warm_up!("tools/values.py"),
];

/// Makes the folders that a recipe's Python script would make, as the bundle has them.
pub(crate) fn start_with(
    manifest: &Manifest,
    store: &Store,
    out: &Path,
) -> Result<(), BundleError> {
    for name in ["python", PACKAGES] {
        let mount = format!("/{name}");
        let tree = manifest.trees.iter().find(|tree| tree.mount == mount);
        let tree = tree.ok_or_else(|| BundleError::Guest {
            name: manifest.reference().to_string(),
            what: format!("it has no tree {mount}, so no packages can be added to it"),
        })?;
        copy(&store.tree(&tree.digest)?, &out.join(name), |_| true)?;
    }
    for (name, text) in WARM_UP_FILES {
        let path = out.join(WARM_UP[0]).join(name);
        make_parent(&path)?;
        fs::write(&path, text).io("write", &path)?;
    }
    Ok(())
}

/// Adds packages to a folder of packages. Those of another version go: nothing of them may be found any more.
pub(crate) fn add(packages: &Path, target: &Path) -> Result<(), BundleError> {
    let added = installed(packages)?;
    for old in installed(target)? {
        if added.iter().any(|new| is_same(&new.name, &old.name)) {
            uninstall(&old, target)?;
        }
    }
    // Compiled files have the path of their source in them.
    let is_source = |path: &Path| !path.iter().any(|part| part == "__pycache__");
    copy(packages, target, is_source)
}

/// Deletes the files that an installer has listed (PEP 376).
fn uninstall(package: &Package, target: &Path) -> Result<(), BundleError> {
    let info = target.join(format!("{}-{}.dist-info", package.name, package.version));
    let record = info.join("RECORD");
    let text = match fs::read_to_string(&record) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.io("read", &record)?,
    };
    for line in text.lines() {
        let name = line.split(',').next().unwrap_or_default();
        let name = Path::new(name.trim_matches('"'));
        let is_inside = name
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let path = target.join(name);
        if is_inside && path.is_file() {
            fs::remove_file(&path).io("delete", &path)?;
        }
    }
    if info.is_dir() {
        fs::remove_dir_all(&info).io("delete", &info)?;
    }
    Ok(())
}

/// Whether two names are one project's (PEP 503).
fn is_same(one: &str, other: &str) -> bool {
    let normal = |name: &str| name.to_ascii_lowercase().replace(['_', '.'], "-");
    normal(one) == normal(other)
}

/// Copies a folder's files, or a single file, into a folder.
pub(crate) fn copy_files(source: &Path, folder: &Path) -> Result<(), BundleError> {
    fs::create_dir_all(folder).io("make the folder", folder)?;
    if source.is_file() {
        let name = source.file_name().unwrap_or_default();
        let target = folder.join(name);
        fs::copy(source, &target).io("read", source)?;
        return Ok(());
    }
    copy(source, folder, |_| true)
}

fn copy(source: &Path, target: &Path, wanted: impl Fn(&Path) -> bool) -> Result<(), BundleError> {
    for entry in walkdir::WalkDir::new(source) {
        let entry = entry.map_err(std::io::Error::from).io("list", source)?;
        let path = entry.path();
        let name = path.strip_prefix(source).unwrap_or(path);
        let kind = entry.file_type();
        if kind.is_dir() || !wanted(name) {
            continue;
        }
        if !kind.is_file() {
            return Err(BundleError::Tree {
                tree: source.display().to_string(),
                problem: format!(
                    "{} is no ordinary file; put a copy of what it stands for in its place",
                    name.display()
                ),
            });
        }
        let place = target.join(name);
        make_parent(&place)?;
        fs::copy(path, &place).io("write", &place)?;
    }
    Ok(())
}

fn make_parent(path: &Path) -> Result<(), BundleError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).io("make the folder", parent)
}

/// The packages in a folder, by what their installer left there (`<name>-<version>.dist-info`).
pub(crate) fn installed(packages: &Path) -> Result<Vec<Package>, BundleError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(packages).io("list", packages)? {
        let name = entry.io("list", packages)?.file_name();
        let name = name.to_string_lossy();
        let distribution = name.strip_suffix(".dist-info");
        if let Some((name, version)) = distribution.and_then(|name| name.rsplit_once('-')) {
            found.push(Package {
                name: name.to_owned(),
                version: version.to_owned(),
            });
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            make_parent(&path).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    #[test]
    fn another_version_takes_the_place_of_the_old_one() {
        let target = folder(&[
            ("my_tool/old.py", "1"),
            ("my_tool-1.0.dist-info/METADATA", ""),
            (
                "my_tool-1.0.dist-info/RECORD",
                "my_tool/old.py,sha256=x,1\n../../outside.py,,\nmy_tool-1.0.dist-info/RECORD,,\n",
            ),
            ("other/kept.py", "1"),
            ("other-1.dist-info/RECORD", "other/kept.py,,\n"),
        ]);
        let packages = folder(&[
            ("my_tool/new.py", "2"),
            ("my_tool/__pycache__/new.cpython-314.pyc", "compiled"),
            ("My.Tool-2.0.dist-info/RECORD", ""),
        ]);
        add(packages.path(), target.path()).unwrap();
        let has = |name: &str| target.path().join(name).exists();
        assert!(has("my_tool/new.py") && has("other/kept.py"));
        assert!(!has("my_tool/old.py") && !has("my_tool-1.0.dist-info"));
        assert!(!has("my_tool/__pycache__"));
        let names: Vec<String> = installed(target.path())
            .unwrap()
            .into_iter()
            .map(|package| format!("{} {}", package.name, package.version))
            .collect();
        assert_eq!(names, ["My.Tool 2.0", "other 1"]);
    }

    #[test]
    fn links_are_no_files_of_a_bundle() {
        let source = folder(&[("a/b.txt", "1")]);
        let target = tempfile::tempdir().unwrap();
        copy_files(source.path(), target.path()).unwrap();
        assert!(target.path().join("a/b.txt").exists());
        std::os::unix::fs::symlink("/etc/passwd", source.path().join("link")).unwrap();
        let error = copy_files(source.path(), target.path()).unwrap_err();
        assert!(error.to_string().contains("link"), "{error}");
    }
}
