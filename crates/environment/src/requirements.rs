//! `requirements.txt`: gathered with all files that it includes, and read as pip reads it.
//!
//! Gathering and reading are apart: what is read later, perhaps in another process, is text and has nothing to do with
//! files any more. So no line can make the host read a file that is not the flow's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use flowcell_bundle::{Digest, chain};
use regex::Regex;
use serde::{Deserialize, Serialize};
use uv_client::{BaseClientBuilder, Connectivity};
use uv_distribution_filename::DistExtension;
use uv_distribution_types::{
    RequirementSource, UnresolvedRequirement, UnresolvedRequirementSpecification,
};
use uv_normalize::PackageName;
use uv_pep440::VersionSpecifiers;
use uv_requirements_txt::{RequirementEntry, RequirementsTxt, SourceCache};

use crate::error::EnvironmentError;
use crate::platform::{BROUGHT, PythonPlatform};

/// Bytes of all files together.
const MAX_BYTES: usize = 1 << 20;
/// Files that one may include, together.
const MAX_FILES: usize = 64;
/// Files that are looked for, there or not.
const MAX_LOOKS: usize = 1_000;
/// Where the files seem to be. There is no such folder, so nothing is read that was not gathered.
const ROOT: &str = "/nonexistent/flow";

/// A list of requirements with the files that it includes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirements {
    /// The file's name, relative to the flow's folder.
    pub file: String,
    /// Every file's text, by name.
    files: BTreeMap<String, String>,
}

/// What the lines ask for.
pub(crate) struct Wanted {
    pub(crate) parsed: RequirementsTxt,
    /// Hosts, as credentials have them, whose addresses had the placeholder of the session's identity.
    pub(crate) private_hosts: Vec<String>,
    /// Whether versions before a release will do.
    pub(crate) pre: bool,
}

#[expect(
    clippy::expect_used,
    reason = "the pattern is a constant, which a test compiles"
)]
static INCLUDE: LazyLock<Regex> = LazyLock::new(|| {
    // Anything that could be an option of this kind, also where it is none: what is found in excess is gathered in vain.
    Regex::new(r"(?m)(?:^|\s)(?:-r|--requirements?|-c|--constraints?)(?:\s*=\s*|\s*)([^\s#]+)")
        .expect("a valid pattern")
});
#[expect(
    clippy::expect_used,
    reason = "the pattern is a constant, which a test compiles"
)]
static PRIVATE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(https?://)\{private\}(?::[^@/\s]*)?@((?:\[[^\]\s]*\]|[^/:\s]+)(?::[0-9]*)?)")
        .expect("a valid pattern")
});
#[expect(
    clippy::expect_used,
    reason = "the pattern is a constant, which a test compiles"
)]
static VARIABLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\$\{([A-Za-z0-9_]+)\}").expect("a valid pattern"));

impl Requirements {
    /// Gathers a file and those that it includes (`-r`, `-c`). `read` gives the text of a file of the flow, by its path in the
    /// flow's folder; `None` when there is none.
    ///
    /// # Errors
    /// When a file is missing, outside of the flow, no text, or too large.
    pub fn gather(
        file: &str,
        read: &dyn Fn(&str) -> Result<Option<String>, String>,
    ) -> Result<Self, EnvironmentError> {
        let mut files = BTreeMap::new();
        let mut bytes = 0;
        let start = inside(Path::new(""), file).ok_or_else(|| wrong(file, outside(file)))?;
        let mut left = vec![start.clone()];
        let mut looked = BTreeSet::new();
        while let Some(name) = left.pop() {
            if !looked.insert(name.clone()) {
                continue;
            }
            if looked.len() > MAX_LOOKS {
                return Err(too_much(&start, MAX_LOOKS as u64, "files of requirements"));
            }
            let text = read(&name).map_err(|why| wrong(&name, why))?;
            let Some(text) = text else {
                if name == start {
                    return Err(wrong(&name, missing()));
                }
                // If it is asked for, the reader finds that it is missing.
                continue;
            };
            bytes += text.len();
            if bytes > MAX_BYTES {
                return Err(too_much(&name, MAX_BYTES as u64, "bytes of requirements"));
            }
            let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
            for line in text
                .lines()
                .filter(|line| !line.trim_start().starts_with('#'))
            {
                for found in INCLUDE.captures_iter(line) {
                    let target = found[1].trim_matches(['"', '\'']);
                    let target =
                        inside(folder, target).ok_or_else(|| wrong(&name, outside(target)))?;
                    left.push(target);
                }
            }
            files.insert(name.clone(), text);
            if files.len() > MAX_FILES {
                return Err(too_much(&name, MAX_FILES as u64, "files of requirements"));
            }
        }
        Ok(Self { file: start, files })
    }

    /// Requirements of one text, as a session's settings have them.
    pub fn of_text(file: &str, text: &str) -> Result<Self, EnvironmentError> {
        Self::gather(file, &|name| Ok((name == file).then(|| text.to_owned())))
    }

    /// The digest of all texts: equal ones ask for the same.
    pub fn digest(&self) -> Digest {
        let mut bytes = self.file.clone().into_bytes();
        for (name, text) in &self.files {
            for part in [name, text] {
                bytes.extend((part.len() as u64).to_le_bytes());
                bytes.extend(part.as_bytes());
            }
        }
        Digest::of(&bytes)
    }

    /// Reads the lines. `variables` are those that lines may name (`${NAME}`, as pip has it).
    pub(crate) async fn read(
        &self,
        variables: &BTreeMap<String, String>,
    ) -> Result<Wanted, EnvironmentError> {
        let mut private_hosts = Vec::new();
        let mut pre = false;
        let mut cache = SourceCache::default();
        for (name, text) in &self.files {
            let text = PRIVATE.replace_all(text, |found: &regex::Captures<'_>| {
                let address = format!("{}{}", &found[1], &found[2]);
                let parsed = url::Url::parse(&address).ok();
                let host = parsed.and_then(|parsed| crate::index::host(&parsed));
                private_hosts.push(host.unwrap_or_else(|| found[2].to_owned()));
                address
            });
            let text = expand(name, &text, variables)?;
            let (text, asks_for_pre) = pip_lines(&text);
            pre |= asks_for_pre;
            cache.insert(Path::new(ROOT).join(name), text);
        }
        let path = Path::new(ROOT).join(&self.file);
        let text = cache.get(&path).cloned().unwrap_or_default();
        // Includes are looked for as they are written.
        for (name, text) in cache.clone() {
            let folder = name.parent().unwrap_or(Path::new(ROOT)).to_owned();
            for found in INCLUDE.captures_iter(&text) {
                let target = found[1].trim_matches(['"', '\'']);
                let relative = folder.strip_prefix(ROOT).unwrap_or(Path::new(""));
                let own = inside(relative, target).map(|name| Path::new(ROOT).join(name));
                if let Some(text) = own.and_then(|own| cache.get(&own).cloned()) {
                    cache.insert(folder.join(target), text);
                }
            }
        }
        let client = BaseClientBuilder::default().connectivity(Connectivity::Offline);
        let parsed = RequirementsTxt::parse_str(&text, &path, ROOT, &client, &mut cache);
        let parsed = parsed.await.map_err(|error| {
            let text = chain(&error).replace(&format!("{ROOT}/"), "");
            wrong(&self.file, text)
        })?;
        self.check(&parsed)?;
        Ok(Wanted {
            parsed,
            private_hosts,
            pre,
        })
    }

    /// Refuses what pip does and this host does not.
    fn check(&self, parsed: &RequirementsTxt) -> Result<(), EnvironmentError> {
        let refuse = |problem: String| Err(wrong(&self.file, problem));
        if let Some(editable) = parsed.editables.first() {
            return refuse(format!(
                "`-e {}` installs a folder of sources, which is not done here; {PUBLISH}",
                shown(&specified(editable))
            ));
        }
        if let Some(links) = parsed.find_links.first() {
            return refuse(format!(
                "`--find-links {links}` is not supported; name an index with --extra-index-url"
            ));
        }
        if !matches!(parsed.no_binary, uv_configuration::NoBinary::None) {
            return refuse(
                "`--no-binary` asks for packages that are built from source, which is not done on this host; take the line out"
                    .to_owned(),
            );
        }
        for entry in &parsed.requirements {
            let requirement = specified(entry);
            let what = shown(&requirement);
            let source = match requirement {
                UnresolvedRequirement::Named(named) => named.source,
                UnresolvedRequirement::Unnamed(unnamed) => {
                    if matches!(unnamed.url.parsed_url, uv_pypi_types::ParsedUrl::Archive(_)) {
                        continue;
                    }
                    return refuse(
                        if matches!(
                            unnamed.url.parsed_url,
                            uv_pypi_types::ParsedUrl::Path(_)
                                | uv_pypi_types::ParsedUrl::Directory(_)
                        ) {
                            local(&what)
                        } else {
                            repository(&what)
                        },
                    );
                }
            };
            match source {
                RequirementSource::Registry { .. } => {}
                RequirementSource::Url { ext, .. } => {
                    if ext != DistExtension::Wheel {
                        return refuse(format!(
                            "{what} is a source archive, which is not built on this host; {PUBLISH}"
                        ));
                    }
                }
                RequirementSource::Path { .. } | RequirementSource::Directory { .. } => {
                    return refuse(local(&what));
                }
                RequirementSource::GitDirectory { .. } | RequirementSource::GitPath { .. } => {
                    return refuse(repository(&what));
                }
            }
        }
        Ok(())
    }
}

impl Wanted {
    /// The requirements that name a package and its versions, and nothing else, where their markers hold.
    pub(crate) fn by_name(
        &self,
        platform: &PythonPlatform,
    ) -> Vec<(PackageName, VersionSpecifiers)> {
        let entries = self.parsed.requirements.iter();
        entries
            .filter_map(|entry| match specified(entry) {
                UnresolvedRequirement::Named(named)
                    if named.evaluate_markers(Some(&platform.markers), &[])
                        && !BROUGHT.contains(&named.name) =>
                {
                    match named.source {
                        RequirementSource::Registry { specifier, .. } => {
                            Some((named.name, specifier))
                        }
                        _ => None,
                    }
                }
                _ => None,
            })
            .collect()
    }

    /// Takes out what names this package.
    pub(crate) fn leave_out(&mut self, name: &PackageName) {
        self.parsed
            .requirements
            .retain(|entry| match specified(entry) {
                UnresolvedRequirement::Named(named) => named.name != *name,
                UnresolvedRequirement::Unnamed(_) => true,
            });
    }
}

/// What to do with code that comes without a wheel.
const PUBLISH: &str = "publish it as a wheel on an index, put its modules into the flow's folder, or make a custom base image that has it (bundle.toml, [python] requirements)";

fn local(what: &str) -> String {
    format!(
        "{what} is a local file; sessions install from indexes only. Make a custom base image that has it (bundle.toml, [python] wheels), or put its modules into the flow's folder"
    )
}

fn repository(what: &str) -> String {
    format!("{what} is a source repository, which is not built on this host; {PUBLISH}")
}

fn specified(entry: &RequirementEntry) -> UnresolvedRequirement {
    UnresolvedRequirementSpecification::from(entry.clone()).requirement
}

fn shown(requirement: &UnresolvedRequirement) -> String {
    requirement
        .to_string()
        .replace(&format!("file://{ROOT}/"), "")
        .replace(&format!("{ROOT}/"), "")
}

/// What pip does with lines before it reads them, as far as the parser does not: a line that ends with `\` goes on with the
/// next one, unless it is a comment; and `--pre`, which holds for all.
fn pip_lines(text: &str) -> (String, bool) {
    let (mut joined, mut pre) = (String::with_capacity(text.len()), false);
    for line in text.lines() {
        if line.trim() == "--pre" {
            pre = true;
            joined.push('\n');
            continue;
        }
        match line.strip_suffix('\\') {
            Some(begun) if !line.trim_start().starts_with('#') => {
                joined.push_str(begun);
                joined.push(' ');
            }
            _ => {
                joined.push_str(line);
                joined.push('\n');
            }
        }
    }
    (joined, pre)
}

/// Replaces `${NAME}` by the variable's value.
fn expand(
    file: &str,
    text: &str,
    variables: &BTreeMap<String, String>,
) -> Result<String, EnvironmentError> {
    if let Some(unknown) = VARIABLE
        .captures_iter(text)
        .find(|found| !variables.contains_key(&found[1]))
    {
        return Err(wrong(
            file,
            format!(
                "the variable {} is not known here; for an index that needs a token write https://{{private}}@host/…, and the session's identity gives it",
                &unknown[0]
            ),
        ));
    }
    let value = |found: &regex::Captures<'_>| variables.get(&found[1]).cloned().unwrap_or_default();
    Ok(VARIABLE.replace_all(text, value).into_owned())
}

/// A path below the flow's folder, relative to it and without detours.
fn inside(folder: &Path, target: &str) -> Option<String> {
    let mut parts = PathBuf::from(folder);
    for part in Path::new(target).components() {
        match part {
            std::path::Component::Normal(part) => parts.push(part),
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                if !parts.pop() {
                    return None;
                }
            }
            std::path::Component::RootDir | std::path::Component::Prefix(_) => return None,
        }
    }
    let name = parts.to_str()?.to_owned();
    (!name.is_empty()).then_some(name)
}

fn wrong(file: &str, problem: impl Into<String>) -> EnvironmentError {
    EnvironmentError::Requirements {
        file: file.to_owned(),
        problem: problem.into(),
    }
}

fn missing() -> &'static str {
    "there is no such file in the flow; name the right one under environment.python_requirements_txt, or add it to additional_includes"
}

fn outside(target: &str) -> String {
    format!(
        "{target} is outside of the flow's folder; name it under additional_includes, and refer to it by its own name"
    )
}

fn too_much(what: &str, limit: u64, unit: &'static str) -> EnvironmentError {
    EnvironmentError::TooMuch {
        what: what.to_owned(),
        limit,
        unit,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    /// What flows' authors write behind `-r`, and what somebody would who wants another file.
    fn target() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "..",
            ".",
            "a",
            "b.txt",
            "",
            "/",
            "etc",
            "passwd",
            "~",
            "C:",
            "\\",
            "file://",
            "http://h/x",
            "%2e%2e",
            "\u{0}",
            "é",
            "\"",
            "'",
            "${HOME}",
        ]);
        prop::collection::vec(part, 1..6).prop_map(|parts| parts.join("/"))
    }

    fn line() -> impl Strategy<Value = String> {
        let option = prop::sample::select(vec![
            "-r ",
            "-r",
            "-c ",
            "--requirement=",
            "--requirement ",
            "--constraint ",
            "  -r ",
            "x -r ",
            "# -r ",
            "-e ",
            "--find-links ",
            "",
        ]);
        (option, target()).prop_map(|(option, target)| format!("{option}{target}"))
    }

    proptest! {
        /// Whatever the lines are: files of the flow are asked for by names that stay in its folder, and not too many; and
        /// what reads the lines then reads no file at all.
        #[test]
        fn only_files_of_the_flow_are_gathered(
            start in target(),
            texts in prop::collection::vec(prop::collection::vec(line(), 0..12), 1..5),
        ) {
            let asked = RefCell::new(Vec::new());
            let gathered = Requirements::gather(&start, &|name| {
                let mut asked = asked.borrow_mut();
                asked.push(name.to_owned());
                Ok(texts.get(asked.len() % texts.len()).map(|lines| lines.join("\n")))
            });
            for name in asked.borrow().iter() {
                let path = Path::new(name);
                prop_assert!(path.is_relative() && !name.is_empty(), "{name:?}");
                let is_plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.components().all(is_plain), "{name:?}");
            }
            prop_assert!(asked.borrow().len() <= MAX_LOOKS);
            if let Ok(gathered) = gathered {
                prop_assert!(gathered.files.len() <= MAX_FILES);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let wanted = runtime.unwrap().block_on(gathered.read(&BTreeMap::new()));
                if let Ok(wanted) = wanted {
                    // Local files are refused, wherever they are.
                    let all = wanted.parsed.requirements.iter().map(|entry| specified(entry).to_string());
                    for one in all {
                        prop_assert!(!one.contains("passwd") || !one.contains("file:"), "{one}");
                    }
                }
            }
        }

        /// No text makes it panic, or read what it was not given.
        #[test]
        fn any_text_is_read_or_refused(text in "(?s).{0,400}") {
            if let Ok(gathered) = Requirements::of_text("requirements.txt", &text) {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let _ = runtime.unwrap().block_on(gathered.read(&BTreeMap::new()));
            }
        }
    }

    #[test]
    fn files_that_are_not_there_are_not_looked_for_without_end() {
        let text: String = (0..2_000)
            .map(|number| format!("-r {number}.txt\n"))
            .collect();
        let error = Requirements::of_text("requirements.txt", &text).unwrap_err();
        assert!(error.to_string().contains("1000 files"), "{error}");
        // The same one again is none more.
        let text = "-r a.txt\n".repeat(2_000);
        Requirements::of_text("requirements.txt", &text).unwrap();
    }
}
