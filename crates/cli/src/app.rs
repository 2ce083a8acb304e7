//! `flowcell flow build` and `flowcell run`: a flow with its whole environment in one component.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use flowcell_bundle::{App, ImageName, MAX_APP};
use flowcell_executor::{FlowResult, ImageSink, RunError, build_app, error_json, open_app};
use serde_json::json;

use crate::flow_test::RunArgs;
use crate::settings::Settings;
use crate::{Output, bundle_registry, flow_test, terminal};

const BUILD: &str = "flowcell.flow.build";
const RUN: &str = "flowcell.run";

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The flow's folder, or its flow.dag.yaml.
    #[arg(long, value_name = "DIR")]
    flow: PathBuf,
    /// The component to write, `app.wasm` for example. What is in it is written beside it, to `app.cdx.json`.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The bundle to run in, instead of the flow's own or the base bundle: name:version, or a registry's image, which is
    /// pulled if it is not there.
    #[arg(long, value_name = "IMAGE")]
    image: Option<ImageName>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t)]
    format: Output,
}

#[derive(Debug, Args)]
pub(crate) struct RunAppArgs {
    /// The app: what `flowcell flow build` has made.
    #[arg(value_name = "APP")]
    app: PathBuf,
    #[command(flatten)]
    run: RunArgs,
}

pub(crate) async fn build(settings: &Settings, args: BuildArgs) -> ExitCode {
    let written = match write(settings, &args).await {
        Ok(written) => written,
        Err(error) if args.format == Output::Json => {
            terminal::raw(&json!({ "error": error_json(&error) }).to_string());
            return ExitCode::FAILURE;
        }
        Err(error) => return terminal::fail_with(BUILD, &error),
    };
    for note in &written.notes {
        terminal::note(note);
    }
    if let Some(why) = &written.not_imported {
        terminal::note(&format!(
            "the app imports the flow's modules at each start: {why}"
        ));
    }
    if args.format == Output::Json {
        terminal::raw(
            &json!({
                "file": args.output,
                "bytes": written.bytes,
                "sbom": written.sbom,
                "packages": written.packages,
                "pre_initialised": written.not_imported.is_none(),
                "notes": written.notes,
            })
            .to_string(),
        );
    } else {
        terminal::line(&format!(
            "{} has {:.1} MiB; {} says what is in it",
            args.output.display(),
            written.bytes as f64 / f64::from(1 << 20),
            written.sbom.display()
        ));
    }
    ExitCode::SUCCESS
}

struct Written {
    bytes: usize,
    sbom: PathBuf,
    packages: Vec<String>,
    not_imported: Option<String>,
    notes: Vec<String>,
}

async fn write(settings: &Settings, args: &BuildArgs) -> Result<Written, RunError> {
    let sbom = args.output.with_extension("cdx.json");
    if sbom == args.output {
        return Err(RunError::usage(format!(
            "--output {}: name the component, app.wasm for example",
            args.output.display()
        )));
    }
    let host = settings.host()?;
    let image = match &args.image {
        Some(image) => Some(bundle_registry::there(host.store(), image).await?),
        None => None,
    };
    let options = settings.environment_options();
    let base = Settings::base_bundle();
    let built = build_app(&host, &args.flow, image.as_ref(), &base, &options).await?;
    write_whole(&sbom, &built.sbom)?;
    write_whole(&args.output, &built.app)?;
    Ok(Written {
        bytes: built.app.len(),
        packages: built.packages,
        not_imported: built.not_imported,
        notes: built.notes,
        sbom,
    })
}

/// Writes a file that appears whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let failed = |error: std::io::Error| {
        RunError::usage(format!("cannot write {}: {error}", path.display()))
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".flowcell-")
        // As any file that is written, and not as those that are nobody else's.
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

pub(crate) async fn run(settings: &Settings, args: RunAppArgs) -> ExitCode {
    let result = run_app(settings, &args).await;
    args.run.finish(RUN, result)
}

async fn run_app(settings: &Settings, args: &RunAppArgs) -> Result<FlowResult, RunError> {
    let mut options = args.run.options(settings)?;
    // There is no folder of the flow's that they could go to.
    options.images = ImageSink::Inline;
    let bytes = read(&args.app)?;
    let app = App::read(&args.app.display().to_string(), &bytes)?;
    let host = settings.host()?;
    let anew = options.variant.is_some() || !options.environment_variables.is_empty();
    let opened = open_app(&host, &app, anew).await?;
    drop(app);
    drop(bytes);
    for note in &opened.notes {
        terminal::note(note);
    }
    options.image = Some(opened.image);
    options.site = opened.site;
    let session = flow_test::opened(&host, opened.workspace, options).await?;
    args.run.execute(settings, &session).await
}

/// An app's file, up to the size that one may have.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, RunError> {
    let failed =
        |error: std::io::Error| RunError::usage(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length <= MAX_APP {
        file.take(MAX_APP + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    }
    if length > MAX_APP || bytes.len() as u64 > MAX_APP {
        return Err(RunError::usage(format!(
            "{} has more than {MAX_APP} bytes, and an app may have no more",
            path.display()
        )));
    }
    Ok(bytes)
}
