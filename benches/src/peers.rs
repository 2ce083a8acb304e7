//! The programs that the benches run: the release binary, and promptflow.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::repository;

/// What a bench's step gives.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PROMPTFLOW: &str = "promptflow==1.18.5";
/// The version that `pf flow build` puts into its images.
const GUNICORN: &str = "gunicorn==22.0.0";

/// Copies a folder of files.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// The binary in the same profile as this bench.
pub fn release_binary() -> Result<PathBuf> {
    let bench = std::env::current_exe()?;
    let profile = bench
        .parent()
        .and_then(Path::parent)
        .ok_or("the bench has no target folder")?;
    let binary = profile.join("flowcell");
    if !binary.is_file() {
        return Err(format!(
            "{} is not there; run `cargo build --release -p flowcell`",
            binary.display()
        )
        .into());
    }
    Ok(binary)
}

/// A command of promptflow's, in a virtual environment below the target folder that also has gunicorn.
pub fn promptflow(command: &str) -> Result<PathBuf> {
    let environment = repository().join("target/promptflow-venv");
    let bin = environment.join("bin");
    if !bin.join("pf").is_file() {
        println!("installing {PROMPTFLOW} into {} ...", environment.display());
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&environment);
        run(&mut make)?;
        install(&bin, PROMPTFLOW)?;
        let mut quiet = Command::new(bin.join("pf"));
        quiet.args([
            "config",
            "set",
            "trace.destination=none",
            "telemetry.enabled=false",
        ]);
        run(&mut quiet)?;
    }
    if !bin.join("gunicorn").is_file() {
        install(&bin, GUNICORN)?;
    }
    Ok(bin.join(command))
}

/// What LLM nodes need beside promptflow.
const TOOLS: &str = "promptflow-tools==1.6.1";
/// promptflow keeps its key in a keyring, and machines without a desktop have none.
const KEYRING: &str = "keyrings.alt==5.0.2";

/// Makes a connection of promptflow's, from its file, for whoever has this home.
pub fn connection(home: &Path, file: &Path) -> Result<()> {
    let pf = promptflow("pf")?;
    if let Some(bin) = pf.parent() {
        install(bin, TOOLS)?;
        install(bin, KEYRING)?;
    }
    let mut create = Command::new(pf);
    create.args(["connection", "create", "--file"]).arg(file);
    run(create.env("HOME", home))
}

fn install(bin: &Path, package: &str) -> Result<()> {
    let mut install = Command::new(bin.join("pip"));
    install.args(["install", "--quiet", package]);
    run(&mut install)
}

/// Runs a command to its end, which must be a good one.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}
