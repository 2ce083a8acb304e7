//! Flows made on the spot.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::answer::Answer;
use crate::process::flowcell;

/// A folder with a flow, deleted at the end of the test.
#[derive(Debug)]
pub struct FlowFolder {
    root: TempDir,
}

/// Every file, folder and link below a folder, with what it holds.
pub type Snapshot = BTreeMap<PathBuf, Vec<u8>>;

impl Default for FlowFolder {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
impl FlowFolder {
    /// An empty folder `flow`; what is beside it is outside of the flow.
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("flow")).unwrap();
        Self { root }
    }

    /// A flow of one Python tool, in `tool.py`, whose value is the output `out`; its inputs are the flow's.
    pub fn python(code: &str, inputs: &[(&str, &str)]) -> Self {
        let mut yaml = String::from("inputs:\n");
        for (name, kind) in inputs {
            yaml.push_str(&format!("  {name}:\n    type: {kind}\n"));
        }
        yaml.push_str("outputs:\n  out:\n    type: object\n    reference: ${tool.output}\n");
        yaml.push_str("nodes:\n- name: tool\n  type: python\n  source:\n    type: code\n    path: tool.py\n  inputs:\n");
        for (name, _) in inputs {
            yaml.push_str(&format!("    {name}: ${{inputs.{name}}}\n"));
        }
        if inputs.is_empty() {
            yaml = yaml.replacen("inputs:\n", "inputs: {}\n", 1);
            yaml = yaml.replace("  inputs:\n", "  inputs: {}\n");
        }
        Self::new()
            .file("flow.dag.yaml", &yaml)
            .file("tool.py", code)
    }

    /// Adds a file; `../name` puts it outside of the flow.
    #[must_use]
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(self, name: &str, target: &str) -> Self {
        std::os::unix::fs::symlink(target, self.path().join(name)).unwrap();
        self
    }

    /// The flow's folder.
    pub fn path(&self) -> PathBuf {
        self.root.path().join("flow")
    }

    /// Writes inputs to a file outside of the flow and gives its path.
    pub fn inputs(&self, inputs: &Value) -> String {
        let path = self.root.path().join("inputs.json");
        fs::write(&path, inputs.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs `flow test --output json` with more arguments, and checks that it left the flow's folder as it was.
    pub fn test(&self, arguments: &[&str]) -> Answer {
        let flow = self.path();
        let before = snapshot(self.root.path());
        let mut all = vec![
            "flow",
            "test",
            "--flow",
            flow.to_str().unwrap(),
            "--output",
            "json",
        ];
        all.extend(arguments);
        let answer = Answer::of(flowcell(all));
        assert_eq!(
            snapshot(self.root.path()),
            before,
            "the flow's folder has changed"
        );
        answer
    }

    /// Everything in the flow's folder and beside it.
    pub fn snapshot(&self) -> Snapshot {
        snapshot(self.root.path())
    }
}

#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
fn snapshot(root: &Path) -> Snapshot {
    let mut entries = Snapshot::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let content = if kind.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if kind.is_dir() {
                pending.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            entries.insert(path, content);
        }
    }
    entries
}
