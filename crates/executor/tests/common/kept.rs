//! Sessions over working copies that are kept, on hosts with stores of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flowcell_executor::{
    Host, HostOptions, ImageState, RunOptions, Session, SessionOptions, StoredOptions, Workspace,
};
use flowcell_sandbox::{Owner, SandboxConfig};
use flowcell_tests::server::make_home;
use serde_json::{Value, json};

use super::{map, options};

/// A flow with one node, which runs what it is given; `{top}` runs when its module is imported.
const EVAL: &str = "
import gc, os, random, sys, time, uuid
from promptflow.core import tool
kept = {}
BORN = uuid.uuid4().hex
#TOP
@tool
def t(code: str):
    names = {}
    exec(code, globals(), names)
    return names.get('result')
";
const YAML: &str = "inputs:\n  code: {type: string}\noutputs:\n  out: {type: object, reference: '${t.output}'}\nnodes:\n- name: t\n  type: python\n  source: {type: code, path: t.py}\n  inputs: {code: '${inputs.code}'}\n";

/// A store that has the bundle of the tests' home, and images of its own.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_home(folder.path());
        Self { folder }
    }

    /// A host, as a process has one.
    pub(crate) fn host(&self) -> Arc<Host> {
        let host = Host::new(HostOptions {
            store: self.folder.path().to_owned(),
            sandbox: SandboxConfig {
                instances: 64,
                ..SandboxConfig::default()
            },
            compiler: flowcell_bundle::Compiler::Here,
            progress: Arc::new(|_: &str| {}),
        });
        Arc::new(host.unwrap())
    }

    /// From now on it has unpacked base images of its own: their folder, which is not there yet.
    pub(crate) fn own_bases(&self) -> PathBuf {
        let bases = self.folder.path().join("cache/bases");
        fs::remove_file(&bases).unwrap();
        bases
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.folder.path().join("cache/images/sessions")
    }

    /// The names of what is in the folder of images, but for the lock.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.images()).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != ".lock").collect();
        names.sort();
        names
    }
}

/// A working copy with its list of files.
pub(crate) struct Kept {
    folder: tempfile::TempDir,
}

impl Kept {
    /// A flow whose module runs this when it is imported.
    pub(crate) fn new(top: &str) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), top)
    }

    pub(crate) fn in_folder(folder: tempfile::TempDir, top: &str) -> Self {
        let copy = Self { folder };
        copy.set(top);
        copy
    }

    /// Puts other files in place, as an upload does.
    pub(crate) fn set(&self, top: &str) {
        let code = EVAL.replace("#TOP", top);
        let mut list = BTreeMap::new();
        fs::create_dir_all(self.path().join("flow")).unwrap();
        for (name, content) in [("flow.dag.yaml", YAML), ("t.py", &code)] {
            fs::write(self.path().join("flow").join(name), content).unwrap();
            list.insert(name, flowcell_bundle::Digest::of(content.as_bytes()).hex());
        }
        fs::write(self.path().join("files.json"), json!(list).to_string()).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn open(&self, host: &Host, session: &str) -> Session {
        self.open_with(host, session, |_| {}).await
    }

    pub(crate) async fn open_with(
        &self,
        host: &Host,
        session: &str,
        change: impl FnOnce(&mut SessionOptions),
    ) -> Session {
        let mut options = options();
        options.instances = 4;
        options.stored = Some(StoredOptions {
            owner: owner(session),
            limit: 32 << 20,
        });
        change(&mut options);
        let workspace = Workspace::open(self.path(), "kept").unwrap();
        Session::open(host, workspace, options).await.unwrap()
    }

    /// The files of stored instances, and their sizes.
    pub(crate) fn asleep(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let folders = fs::read_dir(self.path().join("asleep"))
            .into_iter()
            .flatten();
        for folder in folders {
            for entry in fs::read_dir(folder.unwrap().path()).unwrap() {
                let entry = entry.unwrap();
                if entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "asleep")
                {
                    found.push((entry.path(), entry.metadata().unwrap().len()));
                }
            }
        }
        found
    }
}

pub(crate) fn owner(session: &str) -> Owner {
    Owner {
        workspace: "workspace".to_owned(),
        session: Some(session.to_owned()),
    }
}

/// What the code leaves as its `result`.
pub(crate) async fn run(session: &Session, code: &str) -> Value {
    let result = session
        .run(&map(json!({ "code": code })), &RunOptions::default())
        .await;
    let text = result
        .outputs
        .unwrap_or_else(|error| panic!("{code}: {error:?}"));
    super::json(&text)["out"].clone()
}

/// How the code failed.
pub(crate) async fn fail(session: &Session, code: &str) -> String {
    let result = session
        .run(&map(json!({ "code": code })), &RunOptions::default())
        .await;
    format!("{:?}", result.outputs.unwrap_err())
}

/// Has the session's image made; how that ended.
pub(crate) async fn prepared(host: &Arc<Host>, session: &Session) -> ImageState {
    session.prepare(host);
    let mut look = tokio::time::interval(Duration::from_millis(5));
    loop {
        look.tick().await;
        match session.image_state(host) {
            ImageState::Building => {}
            ended => return ended,
        }
    }
}

/// Why there is no image.
pub(crate) async fn refused(host: &Arc<Host>, session: &Session) -> String {
    match prepared(host, session).await {
        ImageState::None(why) => why,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn ready(host: &Arc<Host>, session: &Session) -> (u64, u64) {
    match prepared(host, session).await {
        ImageState::Ready { bytes, changed } => (bytes, changed),
        other => panic!("{other:?}"),
    }
}
