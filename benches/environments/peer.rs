//! The same on this machine's Python: a virtual environment, `pip install`, and a process that imports and answers.

use std::process::Command;
use std::time::{Duration, Instant};

use flowcell_benches::peers::{Result, run};
use flowcell_tests::index::Index;

use crate::Start;
use crate::cases::Case;

/// Stands for promptflow's decorator, whose import alone takes longer than all the rest.
const PROMPTFLOW: &str = "def tool(function):\n    return function\n";

pub(crate) fn start(index: &Index, case: &Case) -> Result<Start> {
    let folder = tempfile::tempdir()?;
    let environment = folder.path().join("environment");
    let begun = Instant::now();
    let mut venv = Command::new("python3");
    run(venv.args(["-m", "venv"]).arg(&environment))?;
    let python = environment.join("bin/python");
    if !case.requirements.is_empty() {
        let mut pip = Command::new(&python);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-cache-dir",
            "--index-url",
        ])
        .arg(index.url())
        .args(["--trusted-host", &index.host()])
        .args(&case.requirements);
        run(&mut pip)?;
    }
    let runs = begun.elapsed();
    std::fs::write(folder.path().join("promptflow.py"), PROMPTFLOW)?;
    std::fs::write(folder.path().join("t.py"), case.tool())?;
    let begun = Instant::now();
    let mut first = Command::new(&python);
    first
        .current_dir(folder.path())
        .args(["-c", "import t; assert t.t('a') == 'aa'"]);
    run(&mut first)?;
    Ok(Start {
        runs,
        answer: begun.elapsed(),
        image: Duration::ZERO,
    })
}
