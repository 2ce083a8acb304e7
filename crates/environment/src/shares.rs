//! The Python files of a wheel, dealt out so that several instances compile them at the same time.
//!
//! Each share is a folder of links to some of the files. An instance writes into its own share only, and of what it has
//! written nothing but compiled files comes back: the wheel's folder keeps the files that the host has unpacked.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::error::{At as _, EnvironmentError};

/// Bytes of source that are worth an instance: it compiles them in some hundred milliseconds.
const WORTHWHILE: u64 = 64 << 10;
/// The folder that Python puts compiled files into, and how they end.
const COMPILED: &str = "__pycache__";
const ENDING: &str = "pyc";

/// Deals the Python files below `files` out to folders in `work`, which is on the same disk: none when there are no such
/// files, and at most `most`.
///
/// # Errors
/// When the disk does not take it.
pub(crate) fn deal(
    files: &Path,
    work: &Path,
    most: usize,
) -> Result<Vec<PathBuf>, EnvironmentError> {
    let mut sources = Vec::new();
    for entry in WalkDir::new(files).sort_by_file_name() {
        let entry = entry.map_err(io::Error::from).at("list", files)?;
        let path = entry.path();
        if entry.file_type().is_file() && has_ending(path, "py") {
            let metadata = entry.metadata().map_err(io::Error::from);
            sources.push((metadata.at("read", path)?.len(), entry.into_path()));
        }
    }
    let size: u64 = sources.iter().map(|(size, _)| size).sum();
    let worthwhile = usize::try_from(size.div_ceil(WORTHWHILE)).unwrap_or(most);
    let count = worthwhile.clamp(1, most.max(1)).min(sources.len());
    let mut shares: Vec<(u64, PathBuf)> = (0..count)
        .map(|number| (0, work.join(number.to_string())))
        .collect();
    for (size, source) in sources {
        let Some((dealt, share)) = shares.iter_mut().min_by_key(|(dealt, _)| *dealt) else {
            break;
        };
        *dealt += size;
        let place = share.join(source.strip_prefix(files).unwrap_or(&source));
        let folder = place.parent().unwrap_or(share);
        fs::create_dir_all(folder).at("make the folder", folder)?;
        fs::hard_link(&source, &place).at("link", &place)?;
    }
    Ok(shares.into_iter().map(|(_, share)| share).collect())
}

/// Moves the compiled files of a share to where its sources are.
///
/// # Errors
/// When the disk does not take it.
pub(crate) fn collect(share: &Path, files: &Path) -> Result<(), EnvironmentError> {
    for entry in WalkDir::new(share) {
        let entry = entry.map_err(io::Error::from).at("list", share)?;
        let path = entry.path();
        let Some(folder) = path.parent().filter(|folder| folder.ends_with(COMPILED)) else {
            continue;
        };
        if !entry.file_type().is_file() || !has_ending(path, ENDING) {
            continue;
        }
        let place = files.join(path.strip_prefix(share).unwrap_or(path));
        let target = files.join(folder.strip_prefix(share).unwrap_or(folder));
        let moved = fs::create_dir_all(&target).and_then(|()| fs::rename(path, &place));
        match moved.map_err(|error| (error.kind(), error)) {
            // The wheel has something else there; Python compiles the file when it is imported.
            Err((
                ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory,
                _,
            )) => {}
            Err((_, error)) => return Err(error).at("write", &place),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension()
        .is_some_and(|extension| extension == ending)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;

    use super::*;

    fn below(folder: &Path) -> BTreeSet<String> {
        let entries = WalkDir::new(folder).into_iter().map(Result::unwrap);
        entries
            .filter(|entry| !entry.file_type().is_dir())
            .map(|entry| {
                let path = entry.path().strip_prefix(folder).unwrap();
                path.to_str().unwrap().to_owned()
            })
            .collect()
    }

    /// A wheel's folder with modules of this size, and an empty one.
    fn wheel(modules: usize, size: usize) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (files, work) = (folder.path().join("files"), folder.path().join("work"));
        fs::create_dir_all(files.join("package/data")).unwrap();
        fs::create_dir(&work).unwrap();
        fs::write(files.join("package/data/table.txt"), "no Python").unwrap();
        for module in 0..modules {
            fs::write(
                files.join(format!("package/m{module}.py")),
                vec![b'#'; size],
            )
            .unwrap();
        }
        (folder, files, work)
    }

    #[test]
    fn each_file_is_in_one_share() {
        for (modules, size, most, expected) in [
            (0, 0, 4, 0),
            (1, 1 << 20, 4, 1),
            (10, 100, 4, 1),
            (10, 20 << 10, 2, 2),
            (10, 20 << 10, 4, 4),
            (10, 20 << 10, 0, 1),
            (3, 0, 4, 1),
        ] {
            let (_folder, files, work) = wheel(modules, size);
            let shares = deal(&files, &work, most).unwrap();
            assert_eq!(shares.len(), expected, "{modules} of {size}, {most}");
            let mut dealt = BTreeSet::new();
            for share in &shares {
                let own = below(share);
                assert!(own.len() <= modules.div_ceil(expected), "{own:?}");
                for file in own {
                    assert!(dealt.insert(file.clone()), "{file} is in two");
                }
            }
            let all: BTreeSet<String> = (0..modules).map(|m| format!("package/m{m}.py")).collect();
            assert_eq!(dealt, all);
        }
    }

    #[test]
    fn only_compiled_files_come_back() {
        let (folder, files, work) = wheel(2, 10);
        let [share] = deal(&files, &work, 4).unwrap().try_into().unwrap();
        let secret = folder.path().join("secret.pyc");
        fs::write(&secret, "host's").unwrap();
        let compiled = share.join("package/__pycache__");
        fs::create_dir_all(compiled.join("deep/__pycache__")).unwrap();
        fs::write(compiled.join("m0.cpython-314.pyc"), "code").unwrap();
        fs::write(compiled.join("m0.py"), "code").unwrap();
        fs::write(compiled.join("deep/__pycache__/x.pyc"), "code").unwrap();
        symlink(&secret, compiled.join("m1.cpython-314.pyc")).unwrap();
        fs::write(share.join("package/more.py"), "code").unwrap();
        fs::write(share.join("package/more.pyc"), "code").unwrap();
        symlink(folder.path(), share.join("__pycache__")).unwrap();
        collect(&share, &files).unwrap();
        let expected = [
            "package/__pycache__/deep/__pycache__/x.pyc",
            "package/__pycache__/m0.cpython-314.pyc",
            "package/data/table.txt",
            "package/m0.py",
            "package/m1.py",
        ];
        assert_eq!(below(&files), expected.map(str::to_owned).into());
    }

    #[test]
    fn what_the_wheel_has_stays() {
        let (_folder, files, work) = wheel(2, 10);
        fs::create_dir(files.join("other")).unwrap();
        fs::write(files.join("other/a.py"), "").unwrap();
        fs::write(files.join("other/__pycache__"), "a file").unwrap();
        fs::create_dir_all(files.join("package/__pycache__/m0.pyc/full")).unwrap();
        let [share] = deal(&files, &work, 4).unwrap().try_into().unwrap();
        for compiled in ["other/__pycache__/a.pyc", "package/__pycache__/m0.pyc"] {
            let compiled = share.join(compiled);
            fs::create_dir_all(compiled.parent().unwrap()).unwrap();
            fs::write(compiled, "code").unwrap();
        }
        collect(&share, &files).unwrap();
        assert!(files.join("other/__pycache__").is_file());
        assert!(files.join("package/__pycache__/m0.pyc").is_dir());
    }
}
