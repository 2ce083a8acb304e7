//! What the flows of the bench require.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use flowcell_benches::peers::{Result, run};
use flowcell_benches::repository;
use flowcell_benches::server::archive;
use flowcell_tests::index::{Index, Wheel};

/// What a call sends.
pub(crate) const INPUTS: &str = r#"{"x": "a"}"#;
/// Modules of the large package.
const MODULES: usize = 500;
/// What most flows require, in other versions than the base image has.
const OTHERS: [&str; 3] = [
    "jinja2==3.1.5",
    "requests==2.32.3",
    "beautifulsoup4==4.13.4",
];
/// Python as the base image has it.
const GUEST_PYTHON: &str = "3.14";

/// A flow and what it requires.
#[derive(Debug)]
pub(crate) struct Case {
    /// For people.
    pub(crate) name: &'static str,
    /// The lines of its requirements.
    pub(crate) requirements: Vec<String>,
    /// What its tool imports.
    imports: Vec<String>,
    /// Packages that its sessions download.
    pub(crate) downloads: usize,
}

pub(crate) fn all(index: &Index) -> Result<Vec<Case>> {
    fill(index)?;
    let known = ["jinja2", "yaml", "requests", "bs4"];
    let known: Vec<String> = known.map(str::to_owned).into();
    Ok(vec![
        Case {
            name: "no requirements",
            requirements: Vec::new(),
            imports: Vec::new(),
            downloads: 0,
        },
        Case {
            name: "four of the image",
            requirements: ["jinja2", "pyyaml", "requests", "beautifulsoup4"]
                .map(str::to_owned)
                .into(),
            imports: known.clone(),
            downloads: 0,
        },
        Case {
            name: "three others",
            requirements: OTHERS
                .iter()
                .copied()
                .chain(["pyyaml"])
                .map(str::to_owned)
                .collect(),
            imports: known,
            downloads: OTHERS.len(),
        },
        Case {
            name: "500 modules",
            requirements: vec!["modules".to_owned()],
            imports: (0..MODULES).map(|one| format!("modules.m{one}")).collect(),
            downloads: 1,
        },
    ])
}

/// Fills the index with what is downloaded once, and with a package of many modules.
fn fill(index: &Index) -> Result<()> {
    let folder = repository().join("target/bench-wheels");
    if !folder.join("complete").exists() {
        println!("downloading packages into {} ...", folder.display());
        fs::create_dir_all(&folder)?;
        let download = |more: &[&str]| -> Result<()> {
            let mut pip = Command::new("python3");
            pip.args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--only-binary=:all:",
                "--dest",
            ]);
            run(pip.arg(&folder).args(more).args(OTHERS).arg("pyyaml"))
        };
        download(&[])?;
        // The sandbox's Python is another one than this machine's.
        download(&[
            "--python-version",
            GUEST_PYTHON,
            "--platform",
            "manylinux2014_x86_64",
        ])?;
        fs::write(folder.join("complete"), "")?;
    }
    for entry in fs::read_dir(&folder)? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".whl") {
            index.add_wheel(&name, &fs::read(&path)?)?;
        }
    }
    let mut wheel = Wheel::new("modules", "1.0").file("modules/__init__.py", "");
    for module in 0..MODULES {
        let mut code = String::new();
        for function in 0..10 {
            writeln!(
                code,
                "TABLE_{function} = {{str(n): n * {module} for n in range(10)}}\n\n\
                 def function_{function}(a, b=None, *rest, **named):\n    \
                 '''Adds.'''\n    \
                 if b is None:\n        return [a + n for n in TABLE_{function}.values()]\n    \
                 return sum(rest, a + b)\n"
            )?;
        }
        wheel = wheel.file(&format!("modules/m{module}.py"), code);
    }
    index.add(&wheel);
    Ok(())
}

impl Case {
    /// The tool of its flow.
    pub(crate) fn tool(&self) -> String {
        let mut code = String::new();
        for module in &self.imports {
            code.push_str(&format!("import {module}\n"));
        }
        code + "from promptflow import tool\n\n\n@tool\ndef t(x: str) -> str:\n    return x * 2\n"
    }

    /// Its flow, as an archive. `note` makes its files others than those of the next one.
    pub(crate) fn archive(&self, note: &str) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir()?;
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
        write(
            "flow.dag.yaml",
            "inputs:\n  x:\n    type: string\noutputs:\n  out:\n    type: string\n    reference: ${t.output}\n\
             nodes:\n- name: t\n  type: python\n  source:\n    type: code\n    path: t.py\n  inputs:\n    x: ${inputs.x}\n",
        )?;
        write("t.py", &format!("# {note}\n{}", self.tool()))?;
        if !self.requirements.is_empty() {
            write("requirements.txt", &self.requirements.join("\n"))?;
        }
        archive(folder.path())
    }
}
