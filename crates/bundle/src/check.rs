//! What a manifest must be, whoever wrote it. Those of pulled bundles are a stranger's text.

use std::collections::{BTreeMap, BTreeSet};

use flowcell_sandbox::{MAX_COMPONENT, ProgramKind};

use crate::manifest::{Manifest, Reference, Start};

/// Bytes of a manifest.
pub(crate) const MAX_MANIFEST: u64 = 1 << 20;
/// Largest memory image, in bytes.
pub const MAX_MEMORY: u64 = 256 << 20;
/// Bytes of a page of linear memory.
const PAGE: u64 = 64 << 10;
const MAX_COMPONENTS: usize = 32;
const MAX_TREES: usize = 32;
const MAX_TOOLS: usize = 1_000;
const MAX_VARIABLES: usize = 256;
/// Bytes of all variables, with their names.
const MAX_ENVIRONMENT: usize = 64 << 10;
/// Characters of a mount's path.
const MAX_MOUNT: usize = 200;
/// What sessions have at these places of their own, or the host has for requirements.
const TAKEN: [&str; 3] = ["/flow", "/tmp", "/site"];
/// Where the trees of Python are, which a recipe's files must not hide.
const PYTHON: [&str; 2] = ["/python", "/packages"];

impl Manifest {
    /// Whether it can be a bundle's: known format, sensible names, kinds, sizes and places.
    ///
    /// # Errors
    /// What is wrong, for a message.
    pub fn check(&self) -> Result<(), String> {
        if self.schema != 1 {
            return Err(format!("format {} is not known", self.schema));
        }
        let reference = format!("{}:{}", self.name, self.version).parse::<Reference>();
        reference.map_err(|error| error.to_string())?;
        most("components", self.components.len(), MAX_COMPONENTS)?;
        most("trees", self.trees.len(), MAX_TREES)?;
        self.check_components()?;
        let mut mounts = Vec::new();
        for tree in &self.trees {
            check_mount(&tree.mount, &mounts)?;
            mounts.push(tree.mount.clone());
        }
        check_variables(&self.environment)
    }

    fn check_components(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        let mut runners = 0;
        for component in &self.components {
            let name = &component.name;
            if !is_component_name(name) {
                return Err(format!("{name:?} is no name of a component"));
            }
            if !names.insert(name) {
                return Err(format!("it has two components {name}"));
            }
            if component.size > MAX_COMPONENT as u64 {
                return Err(format!(
                    "the component {name} has {} bytes, and {MAX_COMPONENT} are allowed",
                    component.size
                ));
            }
            most("tools", component.tools.len(), MAX_TOOLS)?;
            runners += usize::from(component.kind == ProgramKind::PythonRunner);
            let Start::Image { memory, pages, .. } = &component.start else {
                continue;
            };
            if component.kind != ProgramKind::PythonRunner {
                return Err(format!("the tool {name} has a memory image"));
            }
            if *memory == 0 || *memory > MAX_MEMORY || !memory.is_multiple_of(PAGE) {
                return Err(format!(
                    "the memory image of {name} cannot have {memory} bytes"
                ));
            }
            let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if pages.len() != 64 || !pages.bytes().all(is_hex) {
                return Err(format!("the memory image of {name} has no hash"));
            }
        }
        most("Python runners", runners, 1)
    }
}

fn most(what: &str, count: usize, limit: usize) -> Result<(), String> {
    if count > limit {
        return Err(format!("it has {count} {what}, and {limit} are allowed"));
    }
    Ok(())
}

fn is_component_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=128).contains(&name.len())
        && name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Whether a tree can be seen at this path, beside others.
///
/// # Errors
/// What is wrong, for a message.
pub(crate) fn check_mount(mount: &str, others: &[String]) -> Result<(), String> {
    let shown: String = mount.chars().take(MAX_MOUNT).collect();
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control() || c == '\\')
    };
    let is_path = mount.len() <= MAX_MOUNT
        && mount
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(is_part));
    if !is_path {
        return Err(format!(
            "{shown:?} is no place for files; write an absolute path such as \"/data\""
        ));
    }
    let overlaps = |other: &str| is_below(mount, other) || is_below(other, mount);
    if let Some(taken) = TAKEN.iter().find(|taken| overlaps(taken)) {
        return Err(format!(
            "{shown} would hide {taken}, which each session has for itself; write another path"
        ));
    }
    if let Some(other) = others.iter().find(|other| overlaps(other)) {
        return Err(format!(
            "{shown} and {other} are one inside of the other; write another path"
        ));
    }
    Ok(())
}

/// The same for a recipe's own files.
///
/// # Errors
/// What is wrong, for a message.
pub(crate) fn check_target(target: &str, others: &[String]) -> Result<(), String> {
    let overlaps = |other: &&&str| is_below(target, other) || is_below(other, target);
    if let Some(taken) = PYTHON.iter().find(overlaps) {
        return Err(format!(
            "{target} would hide {taken}, where Python's modules are; write another path"
        ));
    }
    check_mount(target, others)
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether these can be environment variables.
///
/// # Errors
/// What is wrong, for a message.
pub(crate) fn check_variables(variables: &BTreeMap<String, String>) -> Result<(), String> {
    most("variables", variables.len(), MAX_VARIABLES)?;
    let mut bytes = 0;
    for (name, value) in variables {
        let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let is_name =
            name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit());
        if !is_name {
            return Err(format!("{name:?} is no name of an environment variable"));
        }
        if value.contains('\0') {
            return Err(format!("the variable {name} has a NUL character"));
        }
        bytes += name.len() + value.len();
    }
    if bytes > MAX_ENVIRONMENT {
        return Err(format!(
            "its variables have {bytes} bytes, and {MAX_ENVIRONMENT} are allowed"
        ));
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use flowcell_registry::Digest;

    use super::*;
    use crate::manifest::{Component, Tree};

    fn component(name: &str, kind: ProgramKind, start: Start) -> Component {
        Component {
            name: name.to_owned(),
            kind,
            digest: Digest::of(name.as_bytes()),
            size: 10,
            tools: Vec::new(),
            start,
        }
    }

    fn image(memory: u64, pages: &str) -> Start {
        Start::Image {
            shell: Digest::of(b"shell"),
            base: Digest::of(b"base"),
            memory,
            pages: pages.to_owned(),
        }
    }

    fn manifest(components: Vec<Component>, mounts: &[&str]) -> Manifest {
        let tree = |mount: &&str| Tree {
            mount: (*mount).to_owned(),
            digest: Digest::of(b"tree"),
            size: 1,
        };
        Manifest {
            components,
            trees: mounts.iter().map(tree).collect(),
            ..Manifest::new("name", "1")
        }
    }

    #[test]
    fn what_bundles_have_is_taken() {
        let pages = "a".repeat(64);
        let components = vec![
            component("runner", ProgramKind::PythonRunner, image(PAGE, &pages)),
            component("text.x_1", ProgramKind::Tool, Start::Ordinary),
        ];
        let mounts = ["/python", "/packages", "/data", "/flows", "/opt/x/y"];
        manifest(components, &mounts).check().unwrap();
    }

    #[test]
    fn what_no_bundle_has_is_refused() {
        let pages = "a".repeat(64);
        let runner = || component("runner", ProgramKind::PythonRunner, Start::Ordinary);
        let with = |component: Component| manifest(vec![component], &[]);
        let started = |start: Start| with(component("runner", ProgramKind::PythonRunner, start));
        let tool = |name: &str| component(name, ProgramKind::Tool, Start::Ordinary);
        let many: Vec<_> = (0..=MAX_COMPONENTS)
            .map(|one| tool(&format!("a{one}")))
            .collect();
        let mut large = tool("large");
        large.size = u64::MAX;
        let mut other = runner();
        other.name = "other".to_owned();
        let mut future = manifest(Vec::new(), &[]);
        future.schema = 2;
        let mut variable = manifest(Vec::new(), &[]);
        variable
            .environment
            .insert("A=B".to_owned(), "x".to_owned());
        for (manifest, words) in [
            (future, "format 2"),
            (Manifest::new("../x", "1"), "name:version"),
            (manifest(many, &[]), "33 components"),
            (with(large), "18446744073709551615 bytes"),
            (with(tool("../a")), "no name of a component"),
            (
                manifest(vec![tool("a"), tool("a")], &[]),
                "two components a",
            ),
            (manifest(vec![runner(), other], &[]), "2 Python runners"),
            (started(image(0, &pages)), "cannot have 0 bytes"),
            (started(image(1 << 40, &pages)), "cannot have"),
            (started(image(PAGE + 1, &pages)), "cannot have"),
            (started(image(PAGE, "../../x")), "no hash"),
            (
                with(component("t", ProgramKind::Tool, image(PAGE, &pages))),
                "the tool t has a memory image",
            ),
            (variable, "environment variable"),
            (manifest(Vec::new(), &["/a"; 33]), "33 trees"),
            (manifest(Vec::new(), &["/a", "/a"]), "one inside"),
            (manifest(Vec::new(), &["/a/b", "/a"]), "one inside"),
            (manifest(Vec::new(), &["/flow"]), "hide /flow"),
            (manifest(Vec::new(), &["/flow/x"]), "hide /flow"),
            (manifest(Vec::new(), &["/tmp"]), "hide /tmp"),
            (manifest(Vec::new(), &["/site"]), "hide /site"),
            (manifest(Vec::new(), &["/"]), "absolute path"),
            (manifest(Vec::new(), &["data"]), "absolute path"),
            (manifest(Vec::new(), &["/a/../b"]), "absolute path"),
            (manifest(Vec::new(), &["/a/"]), "absolute path"),
            (manifest(Vec::new(), &["/a\n"]), "absolute path"),
        ] {
            let error = manifest.check().unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn a_recipes_files_hide_no_modules() {
        for target in ["/python", "/packages/x"] {
            let error = check_target(target, &[]).unwrap_err();
            assert!(error.contains("would hide"), "{error}");
        }
        check_target("/data", &["/other".to_owned()]).unwrap();
    }
}
