//! `flowcell bundle …`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use flowcell_bundle::{Manifest, Recipe, Reference};
use flowcell_executor::{RunError, error_json};
use serde_json::json;

use crate::settings::Settings;
use crate::{Output, OutputArgs, terminal};

/// Where the base bundle's sources are, in a checkout of flowcell.
const BASE_SOURCES: &str = "bundles/promptflow";

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The bundle's folder, or its bundle.toml.
    #[arg(long, value_name = "DIR", default_value = BASE_SOURCES)]
    source: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The bundle, as name:version.
    bundle: Reference,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn build(settings: &Settings, args: &BuildArgs) -> ExitCode {
    let built = async {
        let recipe = Recipe::read(&args.source)?;
        let host = settings.host()?;
        let report = flowcell_bundle::build(
            &recipe,
            host.store(),
            host.sandbox(),
            host.programs(),
            host.progress(),
        )
        .await?;
        Ok(report)
    };
    match built.await {
        Ok(report) if args.output.output == Output::Json => {
            terminal::raw(
                &json!({ "digest": report.digest, "bundle": report.manifest }).to_string(),
            );
            ExitCode::SUCCESS
        }
        Ok(report) => {
            terminal::line(&format!(
                "{} {}",
                report.manifest.reference(),
                report.digest
            ));
            describe(&report.manifest);
            ExitCode::SUCCESS
        }
        Err(error) => failed("flowcell.bundle.build", &error, args.output.output),
    }
}

pub(crate) fn list(settings: &Settings, args: &OutputArgs) -> ExitCode {
    let listed = settings.store().and_then(|store| {
        let mut rows = Vec::new();
        for reference in store.list()? {
            rows.push((store.resolve(&reference)?, reference));
        }
        Ok(rows)
    });
    match (listed, args.output) {
        (Ok(rows), Output::Json) => {
            let rows: Vec<_> = rows
                .iter()
                .map(|(digest, reference)| json!({ "name": reference.name, "version": reference.version, "digest": digest }))
                .collect();
            terminal::raw(&json!({ "bundles": rows }).to_string());
            ExitCode::SUCCESS
        }
        (Ok(rows), Output::Text) => {
            for (digest, reference) in &rows {
                terminal::line(&format!("{reference}  {}", digest.short()));
            }
            if rows.is_empty() {
                terminal::note(
                    "there are no bundles; `flowcell bundle build` makes the base bundle",
                );
            }
            ExitCode::SUCCESS
        }
        (Err(error), output) => failed("flowcell.bundle.list", &error, output),
    }
}

pub(crate) fn show(settings: &Settings, args: &ShowArgs) -> ExitCode {
    let shown = settings
        .store()
        .and_then(|store| Ok((store.resolve(&args.bundle)?, store.manifest(&args.bundle)?)));
    match (shown, args.output.output) {
        (Ok((digest, manifest)), Output::Json) => {
            terminal::raw(&json!({ "digest": digest, "bundle": manifest }).to_string());
            ExitCode::SUCCESS
        }
        (Ok((digest, manifest)), Output::Text) => {
            terminal::line(&format!("{} {digest}", manifest.reference()));
            describe(&manifest);
            ExitCode::SUCCESS
        }
        (Err(error), output) => failed("flowcell.bundle.show", &error, output),
    }
}

fn describe(manifest: &Manifest) {
    for component in &manifest.components {
        let size = component.size.div_ceil(1024);
        terminal::line(&format!(
            "  component {}  {}  {size} KiB",
            component.name,
            component.digest.short()
        ));
        for tool in &component.tools {
            terminal::line(&format!("    tool {}: {}", tool.name, tool.description));
        }
    }
    for tree in &manifest.trees {
        let size = tree.size.div_ceil(1024);
        terminal::line(&format!(
            "  tree {}  {}  {size} KiB",
            tree.mount,
            tree.digest.short()
        ));
    }
    if let Some(python) = &manifest.python {
        terminal::line(&format!("  CPython {}", python.version));
        for package in &python.packages {
            terminal::line(&format!("    package {} {}", package.name, package.version));
        }
    }
}

fn failed(command: &str, error: &RunError, output: Output) -> ExitCode {
    if output == Output::Json {
        terminal::raw(&json!({ "error": error_json(error) }).to_string());
        return ExitCode::FAILURE;
    }
    terminal::fail_with(command, error)
}
