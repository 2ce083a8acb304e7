//! Wheels, unpacked: one folder for each, named by the wheel's digest, compiled once, shared by all environments.
//!
//! A wheel is a zip archive that a stranger has made (PEP 427). Its names decide nothing: each is taken apart and must stay
//! below the folder, links and special files are no part of a wheel, and sizes are counted as they are written.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use uv_distribution_filename::WheelFilename;

use crate::error::{At as _, EnvironmentError};

/// Bytes of a wheel's files, unpacked.
const MAX_BYTES: u64 = 1 << 30;
/// Files of a wheel.
const MAX_FILES: usize = 20_000;
/// Bytes of a file's name.
const MAX_NAME: usize = 512;
/// What compiled modules are called.
const NATIVE: [&str; 6] = ["so", "pyd", "dylib", "dll", "a", "lib"];
/// Longest license text that is shown, in characters.
const MAX_LICENSE: usize = 80;

/// What is known of a wheel that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    /// The wheel's file name.
    pub(crate) wheel: String,
    /// The wheel's SHA-256, in hexadecimal.
    pub(crate) sha256: String,
    /// Bytes of its files.
    pub(crate) size: u64,
    /// Its modules that can be imported by one name.
    pub(crate) modules: Vec<String>,
    /// Names of its compiled modules, which were left out and have no Python file of the same name.
    pub(crate) native: Vec<String>,
}

impl Layer {
    pub(crate) fn shown(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }
}

/// The file in a layer's folder that says what it is, and the folder with its files.
const ABOUT: &str = "layer.json";
pub(crate) const FILES: &str = "files";

/// Reads a layer that is there.
pub(crate) fn read(folder: &Path) -> Result<Option<Layer>, EnvironmentError> {
    let path = folder.join(ABOUT);
    match fs::read(&path) {
        // One that cannot be read is made again.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", &path),
    }
}

/// Writes what a layer is; it is the last file of it.
pub(crate) fn write(folder: &Path, layer: &Layer) -> Result<(), EnvironmentError> {
    let path = folder.join(ABOUT);
    let bytes =
        serde_json::to_vec(layer).map_err(|error| EnvironmentError::Host(error.to_string()))?;
    fs::write(&path, bytes).at("write", &path)
}

/// Unpacks a wheel into `folder`/files, which must not be there.
///
/// # Errors
/// When it is no wheel of this name, or has what no wheel may have, or is too large.
pub(crate) fn unpack(
    wheel: &Path,
    filename: &WheelFilename,
    sha256: &str,
    folder: &Path,
) -> Result<Layer, EnvironmentError> {
    let refused = |problem: String| EnvironmentError::Package {
        package: filename.to_string(),
        problem,
    };
    let target = folder.join(FILES);
    fs::create_dir_all(&target).at("make the folder", &target)?;
    let file = File::open(wheel).at("read", wheel)?;
    let mut archive = zip::ZipArchive::new(file)
        .map_err(|error| refused(format!("it is no zip archive: {error}")))?;
    if archive.len() > MAX_FILES {
        return Err(refused(format!("it has more than {MAX_FILES} files")));
    }
    let (mut size, mut native, mut seen) = (0, Vec::new(), HashSet::new());
    let mut modules = BTreeSet::new();
    for index in 0..archive.len() {
        let mut entry = archive
            .by_index(index)
            .map_err(|error| refused(format!("an entry cannot be read: {error}")))?;
        let name = entry
            .name()
            .map_err(|error| refused(format!("an entry has no name: {error}")))?
            .into_owned();
        let shown: String = name.chars().take(100).collect();
        if entry.is_dir() {
            continue;
        }
        if entry.is_symlink()
            || entry
                .unix_mode()
                .is_some_and(|mode| !matches!(mode & 0o170_000, 0 | 0o100_000))
        {
            return Err(refused(format!("{shown:?} in it is no ordinary file")));
        }
        let path = place(&name)
            .ok_or_else(|| refused(format!("{shown:?} in it leads out of its folder")))?;
        let Some(path) = installed(&path) else {
            continue;
        };
        if !seen.insert(path.clone()) {
            return Err(refused(format!("{shown:?} is in it twice")));
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|one| NATIVE.contains(&one)) || is_versioned_library(&path) {
            native.extend(module(&path));
            continue;
        }
        if extension == Some("pyc") {
            continue;
        }
        let path_in = target.join(&path);
        if let Some(parent) = path_in.parent() {
            fs::create_dir_all(parent).at("make the folder", parent)?;
        }
        let mut out = File::create(&path_in).at("write", &path_in)?;
        // One byte more than may be there shows that there is more.
        let left = MAX_BYTES - size;
        let written =
            copy(&mut (&mut entry).take(left + 1), &mut out).map_err(|error| match error {
                Copy::Read(error) => {
                    refused(format!("{shown:?} in it cannot be unpacked: {error}"))
                }
                Copy::Write(source) => EnvironmentError::Io {
                    action: "write",
                    path: path_in.clone(),
                    source,
                },
            })?;
        if written > left {
            return Err(refused(format!(
                "its files are larger than {MAX_BYTES} bytes"
            )));
        }
        out.flush().at("write", &path_in)?;
        size += written;
        modules.extend(top_level(&path));
    }
    let about = metadata(&target, filename)?;
    let has_source = |name: &String| {
        let path = target.join(name.replace('.', "/"));
        path.with_extension("py").exists() || path.join("__init__.py").exists()
    };
    native.retain(|name| !has_source(name));
    native.sort();
    native.dedup();
    Ok(Layer {
        name: filename.name.to_string(),
        version: filename.version.to_string(),
        license: about,
        wheel: filename.to_string(),
        sha256: sha256.to_owned(),
        size,
        modules: modules.into_iter().collect(),
        native,
    })
}

/// What stopped a copy: a wheel that cannot be read is to blame itself, and a disk that is full is not.
enum Copy {
    Read(io::Error),
    Write(io::Error),
}

fn copy(from: &mut impl Read, to: &mut File) -> Result<u64, Copy> {
    let mut buffer = vec![0; 64 << 10];
    let mut written = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(Copy::Read)?,
        };
        let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else {
            return Ok(written);
        };
        to.write_all(chunk).map_err(Copy::Write)?;
        written += chunk.len() as u64;
    }
}

/// Where an entry of this name goes; `None` for a name that no wheel may have.
fn place(name: &str) -> Option<PathBuf> {
    if name.len() > MAX_NAME || name.contains(['\\', '\0', ':']) || name.starts_with('/') {
        return None;
    }
    let mut path = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => path.push(part),
            _ => return None,
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}

/// Where a file of a wheel belongs among the modules (PEP 427: `….data/purelib` and `platlib` are unpacked beside the
/// rest; scripts, headers and data have no place here).
fn installed(path: &Path) -> Option<PathBuf> {
    let mut parts = path.components();
    let first = parts.next()?.as_os_str().to_str()?;
    if !first.ends_with(".data") {
        return Some(path.to_owned());
    }
    let scheme = parts.next()?.as_os_str().to_str()?;
    let rest = parts.as_path();
    (matches!(scheme, "purelib" | "platlib") && !rest.as_os_str().is_empty())
        .then(|| rest.to_owned())
}

/// `libfoo.so.1.2`.
fn is_versioned_library(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.contains(".so."))
}

/// The name of a compiled module: `yaml/_yaml.cpython-314-x86_64-linux-gnu.so` is `yaml._yaml`.
fn module(path: &Path) -> Option<String> {
    let folder = path.parent()?.to_str()?.replace('/', ".");
    let name = path.file_name()?.to_str()?;
    let name = name.split('.').next()?;
    if name.starts_with("lib") || folder.ends_with(".libs") {
        return None;
    }
    Some(if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}.{name}")
    })
}

/// The name by which a file's module, or the package that it is in, is imported.
fn top_level(path: &Path) -> Option<String> {
    if path.extension()? != "py" {
        return None;
    }
    let first = path.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".py").unwrap_or(first);
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (is_name && !name.is_empty()).then(|| name.to_owned())
}

/// Checks that the wheel is what its name says, and gives its license.
fn metadata(target: &Path, filename: &WheelFilename) -> Result<Option<String>, EnvironmentError> {
    let refused = |problem: String| EnvironmentError::Package {
        package: filename.to_string(),
        problem,
    };
    let folders = fs::read_dir(target).at("list", target)?;
    let folder = folders
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "dist-info")
        })
        .ok_or_else(|| refused("it has no .dist-info, so it is no wheel".to_owned()))?;
    let path = folder.join("METADATA");
    let bytes =
        fs::read(&path).map_err(|_| refused("it has no METADATA, so it is no wheel".to_owned()))?;
    let parsed = uv_pypi_types::ResolutionMetadata::parse_metadata(&bytes)
        .map_err(|error| refused(format!("its METADATA cannot be read: {error}")))?;
    if parsed.name != filename.name || parsed.version != filename.version {
        return Err(refused(format!(
            "it holds {}=={}",
            parsed.name, parsed.version
        )));
    }
    Ok(license(&bytes))
}

/// The license that core metadata names: an expression (PEP 639), the older field if it is a name and no text, or the
/// classifiers.
pub(crate) fn license(metadata: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(metadata);
    let head = text.split("\n\n").next().unwrap_or_default();
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.eq_ignore_ascii_case(name) && !value.trim().is_empty())
                .then(|| value.trim().to_owned())
        })
    };
    let classifiers: Vec<&str> = head
        .lines()
        .filter_map(|line| line.strip_prefix("Classifier: License :: "))
        .filter_map(|line| line.rsplit(" :: ").next())
        .map(str::trim)
        .collect();
    field("License-Expression")
        .or_else(|| {
            field("License").filter(|name| name.chars().count() <= MAX_LICENSE && name != "UNKNOWN")
        })
        .or_else(|| (!classifiers.is_empty()).then(|| classifiers.join(", ")))
        .map(|name| {
            name.chars()
                .filter(|c| !c.is_control())
                .take(MAX_LICENSE)
                .collect()
        })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use std::str::FromStr as _;

    use proptest::prelude::*;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// An entry of an archive that may mean harm.
    #[derive(Debug, Clone)]
    struct Entry {
        name: String,
        content: Vec<u8>,
        is_link: bool,
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let part = prop::sample::select(vec![
            "..",
            ".",
            "a",
            "b.py",
            "c",
            "",
            "x-1.data",
            "purelib",
            "x-1.dist-info",
            "METADATA",
            "é.py",
            "d.so",
            "C:",
            "e\\f",
            "\u{1}",
            "g.pyc",
            " ",
        ]);
        let name = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
        let name = prop_oneof![8 => name, 1 => "/etc/[a-z]{1,4}", 1 => "[a-z/]{500,600}", 2 => "(?s).{1,20}"];
        let content = prop::collection::vec(any::<u8>(), 0..40);
        (name, content, prop::bool::weighted(0.1)).prop_map(|(name, content, is_link)| Entry {
            name,
            content,
            is_link,
        })
    }

    fn archive(entries: &[Entry]) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default();
        for entry in entries {
            // What cannot be written cannot be in one.
            let begun = if entry.is_link {
                archive.add_symlink(entry.name.as_str(), "/etc/passwd", options)
            } else {
                archive.start_file(entry.name.as_str(), options)
            };
            if begun.is_ok() && !entry.is_link {
                archive.write_all(&entry.content).unwrap();
            }
        }
        archive.finish().unwrap().into_inner()
    }

    /// Unpacks bytes; whatever comes of it, there are ordinary files in the layer's folder and nothing anywhere else.
    fn try_unpack(bytes: &[u8]) -> Result<Layer, TestCaseError> {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("wheel");
        fs::write(&wheel, bytes).unwrap();
        let layer = folder.path().join("deep/deep/deep/layer");
        fs::create_dir_all(&layer).unwrap();
        let filename = WheelFilename::from_str("x-1-py3-none-any.whl").unwrap();
        let unpacked = unpack(&wheel, &filename, "0", &layer);
        let mut size = 0;
        for found in walkdir::WalkDir::new(folder.path()) {
            let found = found.unwrap();
            let kind = found.file_type();
            prop_assert!(kind.is_file() || kind.is_dir(), "{found:?}");
            if kind.is_file() && found.path() != wheel {
                prop_assert!(found.path().starts_with(layer.join(FILES)), "{found:?}");
                size += found.metadata().unwrap().len();
            }
        }
        match unpacked {
            Ok(layer) => {
                prop_assert_eq!(layer.size, size);
                Ok(layer)
            }
            Err(error) => {
                prop_assert!(
                    error.to_string().contains("x-1-py3-none-any.whl")
                        || matches!(error, EnvironmentError::Io { .. }),
                    "{error}"
                );
                Err(TestCaseError::reject("refused"))
            }
        }
    }

    fn checked(bytes: &[u8]) -> Result<(), TestCaseError> {
        match try_unpack(bytes) {
            Ok(_) | Err(TestCaseError::Reject(_)) => Ok(()),
            Err(failed) => Err(failed),
        }
    }

    fn metadata_entry() -> Entry {
        Entry {
            name: "x-1.dist-info/METADATA".to_owned(),
            content: b"Metadata-Version: 2.1\nName: x\nVersion: 1\n".to_vec(),
            is_link: false,
        }
    }

    proptest! {
        #[test]
        fn names_lead_nowhere_else(entries in prop::collection::vec(entry(), 0..8)) {
            let mut entries = entries;
            entries.push(metadata_entry());
            checked(&archive(&entries))?;
        }

        #[test]
        fn damaged_archives_do_no_harm(
            entries in prop::collection::vec(entry(), 0..4),
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            cut in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            let mut entries = entries;
            entries.push(metadata_entry());
            let mut bytes = archive(&entries);
            for (place, byte) in places {
                let place = place.index(bytes.len());
                if let Some(there) = bytes.get_mut(place) {
                    *there = byte;
                }
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            checked(&bytes)?;
        }
    }

    #[test]
    fn what_is_a_wheel_is_unpacked() {
        let file = Entry {
            name: "a/b.py".to_owned(),
            content: b"x = 1".to_vec(),
            is_link: false,
        };
        let layer = try_unpack(&archive(&[file, metadata_entry()])).unwrap();
        assert_eq!(layer.modules, ["a"]);
    }
}
