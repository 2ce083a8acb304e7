//! `flowcell lock` and `flowcell doctor`: a flow's environment, before anything is started.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use flowcell_bundle::Reference;
use flowcell_environment::{Image, LOCK_FILE, LockedComponent};
use flowcell_executor::{
    Diagnosis, RunError, SessionOptions, Subject, Workspace, WorkspaceLimits, diagnose, error_json,
    flow_file, flow_requirements,
};
use serde_json::json;

use crate::settings::Settings;
use crate::{Output, OutputArgs, terminal};

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// The flow's folder, or its flow.dag.yaml.
    #[arg(long, value_name = "DIR")]
    flow: PathBuf,
    /// The base image, whatever the flow says.
    #[arg(long, value_name = "NAME:VERSION")]
    image: Option<Reference>,
    /// Where to write the lock; `-` for standard output. Without it: pylock.toml in the flow's folder.
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The flow's folder, or its flow.dag.yaml.
    #[arg(long, value_name = "DIR")]
    flow: PathBuf,
    /// The base image, whatever the flow says.
    #[arg(long, value_name = "NAME:VERSION")]
    image: Option<Reference>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn lock(settings: &Settings, args: LockArgs) -> ExitCode {
    let locked = match make_lock(settings, &args).await {
        Ok(locked) => locked,
        Err(error) => return failed("flowcell.lock", &error, args.output.output),
    };
    for note in &locked.notes {
        terminal::note(note);
    }
    if args.output.output == Output::Json {
        terminal::raw(
            &json!({ "file": locked.file, "packages": locked.packages, "notes": locked.notes })
                .to_string(),
        );
    } else if let Some(file) = &locked.file {
        terminal::line(&format!(
            "{} holds {} package{}",
            file.display(),
            locked.packages.len(),
            if locked.packages.len() == 1 { "" } else { "s" }
        ));
    } else {
        terminal::raw(locked.text.trim_end());
    }
    ExitCode::SUCCESS
}

struct Written {
    /// `None` for standard output.
    file: Option<PathBuf>,
    text: String,
    packages: Vec<String>,
    notes: Vec<String>,
}

async fn make_lock(settings: &Settings, args: &LockArgs) -> Result<Written, RunError> {
    let workspace = Workspace::copy_of(&args.flow, &WorkspaceLimits::default())?;
    let Some(requirements) = flow_requirements(&workspace)? else {
        return Err(RunError::usage(
            "the flow names no requirements: neither environment.python_requirements_txt nor a requirements.txt",
        ));
    };
    let host = settings.host()?;
    let options = settings.environment_options();
    let (used, note) = host.image(
        workspace.flow(),
        args.image.as_ref(),
        &Settings::base_bundle(),
    )?;
    let reference = used.manifest.reference();
    let image = Image {
        name: &reference.to_string(),
        digest: &used.digest,
        manifest: &used.manifest,
    };
    let environments = host.environments(&options.indexes);
    let locked = environments.lock(
        image,
        &requirements,
        &options.variables,
        &options.credentials,
    );
    let locked = locked.await?;
    let mut notes: Vec<String> = note.into_iter().collect();
    notes.extend(locked.notes);
    // Only what was seen to work is written down.
    let site = environments.install(image, LOCK_FILE, &locked.lock, &options.credentials);
    notes.extend(site.await?.map(|site| site.notes).unwrap_or_default());
    let text = locked.lock.to_text()?;
    let file = match &args.lock {
        Some(file) if file.as_os_str() == "-" => None,
        Some(file) => Some(file.clone()),
        None => {
            let flow = flow_file(&args.flow)?;
            Some(flow.with_file_name(LOCK_FILE))
        }
    };
    if let Some(file) = &file {
        fs::write(file, &text).map_err(|error| {
            RunError::usage(format!("cannot write {}: {error}", file.display()))
        })?;
    }
    let packages = locked.lock.packages.iter().map(|package| package.shown());
    let here = locked.lock.here().map(|here| &here.components);
    let components = here.into_iter().flatten().map(LockedComponent::shown);
    Ok(Written {
        file,
        packages: packages.chain(components).collect(),
        text,
        notes,
    })
}

pub(crate) async fn doctor(settings: &Settings, args: DoctorArgs) -> ExitCode {
    let looked = async {
        let workspace = Workspace::copy_of(&args.flow, &WorkspaceLimits::default())?;
        let options = SessionOptions::new(Settings::base_bundle());
        let host = settings.host()?;
        let environment = settings.environment_options();
        diagnose(
            &host,
            &workspace,
            args.image.as_ref(),
            options,
            &environment,
        )
        .await
    };
    let found: Vec<Diagnosis> = match looked.await {
        Ok(found) => found,
        Err(error) => return failed("flowcell.doctor", &error, args.output.output),
    };
    let wrong = found.iter().filter(|one| !one.ok).count();
    if args.output.output == Output::Json {
        terminal::raw(&json!({ "will_run": wrong == 0, "findings": found }).to_string());
    } else {
        for one in &found {
            let sign = if one.ok { "ok   " } else { "WRONG" };
            let subject = match one.subject {
                Subject::Image => "image",
                Subject::Requirement => "requirement",
                Subject::Import => "import",
                Subject::Flow => "flow",
            };
            terminal::line(&format!("{sign} {subject} {}: {}", one.name, one.what));
            if let Some(help) = &one.help {
                terminal::line(&format!("      {help}"));
            }
        }
        match wrong {
            0 => terminal::line("the flow will run here"),
            1 => terminal::line("the flow will not run here: 1 thing is wrong"),
            wrong => terminal::line(&format!(
                "the flow will not run here: {wrong} things are wrong"
            )),
        }
    }
    if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn failed(command: &str, error: &RunError, output: Output) -> ExitCode {
    if output == Output::Json {
        terminal::raw(&json!({ "error": error_json(error) }).to_string());
        return ExitCode::FAILURE;
    }
    terminal::fail_with(command, error)
}
