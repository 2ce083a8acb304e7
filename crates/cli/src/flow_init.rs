//! `flowcell flow init`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::terminal;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder to make.
    #[arg(long, value_name = "DIR")]
    flow: PathBuf,
    /// What kind of flow.
    #[arg(long = "type", value_enum, default_value_t = FlowType::Standard)]
    kind: FlowType,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FlowType {
    /// A prompt and a Python tool.
    Standard,
    /// A Python tool that answers, with the chat's history.
    Chat,
    /// Scores lines and aggregates the scores.
    Evaluation,
}

impl FlowType {
    /// The files of a new flow: names and contents.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Standard => &[
                (
                    "flow.dag.yaml",
                    include_str!("../templates/standard/flow.dag.yaml"),
                ),
                (
                    "hello.jinja2",
                    include_str!("../templates/standard/hello.jinja2"),
                ),
                ("hello.py", include_str!("../templates/standard/hello.py")),
            ],
            Self::Chat => &[
                (
                    "flow.dag.yaml",
                    include_str!("../templates/chat/flow.dag.yaml"),
                ),
                ("answer.py", include_str!("../templates/chat/answer.py")),
            ],
            Self::Evaluation => &[
                (
                    "flow.dag.yaml",
                    include_str!("../templates/evaluation/flow.dag.yaml"),
                ),
                ("grade.py", include_str!("../templates/evaluation/grade.py")),
                (
                    "aggregate.py",
                    include_str!("../templates/evaluation/aggregate.py"),
                ),
            ],
        }
    }
}

pub(crate) fn run(args: &InitArgs) -> ExitCode {
    match init(&args.flow, args.kind.files()) {
        Ok(()) => {
            let folder = args.flow.display();
            terminal::line(&format!(
                "made {folder}\ntry it: flowcell flow test --flow {folder}"
            ));
            ExitCode::SUCCESS
        }
        Err(message) => terminal::fail(&format!("flowcell.flow.init failed with {message}")),
    }
}

/// All files or none: nothing that is there already is touched.
fn init(folder: &Path, files: &[(&str, &str)]) -> Result<(), String> {
    let wrong = |action: &str, path: &Path, error: &io::Error| {
        format!("OSError: cannot {action} {}: {error}", path.display())
    };
    if let Some(there) = files
        .iter()
        .map(|(name, _)| folder.join(name))
        .find(|path| path.exists())
    {
        return Err(format!(
            "FileExistsError: {} is there already; choose another folder",
            there.display()
        ));
    }
    fs::create_dir_all(folder).map_err(|error| wrong("make", folder, &error))?;
    for (name, content) in files {
        let path = folder.join(name);
        fs::write(&path, content).map_err(|error| wrong("write", &path, &error))?;
    }
    Ok(())
}
