//! `flowcell bundle list`, `show`, `rm` and `tag`: the bundles of the store.

use std::process::ExitCode;

use clap::Args;
use flowcell_bundle::{Digest, ImageName, Manifest, Named, Reference};
use flowcell_executor::{RunError, error_json};
use serde_json::json;

use crate::settings::Settings;
use crate::{Output, OutputArgs, terminal};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The bundle: name:version, or a registry's image that was pulled.
    bundle: ImageName,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The name: name:version, or a registry's image that was pulled.
    bundle: ImageName,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// The bundle: name:version, or a registry's image that was pulled.
    bundle: ImageName,
    /// Its other name, as name:version.
    name: Reference,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn list(settings: &Settings, args: &OutputArgs) -> ExitCode {
    let listed = settings.store().and_then(|store| Ok(store.list_names()?));
    match (listed, args.output) {
        (Ok(rows), Output::Json) => {
            let rows: Vec<_> = rows.iter().map(row).collect();
            terminal::raw(&json!({ "bundles": rows }).to_string());
            ExitCode::SUCCESS
        }
        (Ok(rows), Output::Text) => {
            for row in &rows {
                terminal::line(&format!("{}  {}", row.name, row.digest.short()));
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

fn row(named: &Named) -> serde_json::Value {
    let mut row = json!({ "reference": named.name, "digest": named.digest });
    if let ImageName::Local(reference) = &named.name {
        row["name"] = json!(reference.name);
        row["version"] = json!(reference.version);
    }
    if let Some(artifact) = &named.artifact {
        row["artifact"] = json!(artifact);
    }
    row
}

pub(crate) fn show(settings: &Settings, args: &ShowArgs) -> ExitCode {
    let shown = settings.store().and_then(|store| {
        let digest = store.resolve_name(&args.bundle)?;
        let manifest = match &args.bundle {
            ImageName::Local(reference) => store.manifest(reference)?,
            ImageName::Registry(_) => store.manifest_by_digest(&digest)?,
        };
        Ok((digest, manifest))
    });
    match (shown, args.output.output) {
        (Ok((digest, manifest)), Output::Json) => {
            terminal::raw(&json!({ "digest": digest, "bundle": manifest }).to_string());
            ExitCode::SUCCESS
        }
        (Ok((digest, manifest)), Output::Text) => {
            terminal::line(&format!("{} {digest}", args.bundle));
            describe(&manifest);
            ExitCode::SUCCESS
        }
        (Err(error), output) => failed("flowcell.bundle.show", &error, output),
    }
}

pub(crate) fn remove(settings: &Settings, args: &RemoveArgs) -> ExitCode {
    let removed = settings
        .store()
        .and_then(|store| Ok(store.remove(&args.bundle)?));
    match (removed, args.output.output) {
        (Ok(()), Output::Json) => {
            terminal::raw(&json!({ "removed": args.bundle }).to_string());
            ExitCode::SUCCESS
        }
        (Ok(()), Output::Text) => {
            terminal::line(&format!("removed {}", args.bundle));
            ExitCode::SUCCESS
        }
        (Err(error), output) => failed("flowcell.bundle.rm", &error, output),
    }
}

pub(crate) fn tag(settings: &Settings, args: &TagArgs) -> ExitCode {
    let tagged = settings.store().and_then(|store| {
        let digest: Digest = store.resolve_name(&args.bundle)?;
        store.tag(&digest, &args.name)?;
        Ok(digest)
    });
    match (tagged, args.output.output) {
        (Ok(digest), Output::Json) => {
            let name = args.name.to_string();
            terminal::raw(&json!({ "reference": name, "digest": digest }).to_string());
            ExitCode::SUCCESS
        }
        (Ok(digest), Output::Text) => {
            terminal::line(&format!("{} {digest}", args.name));
            ExitCode::SUCCESS
        }
        (Err(error), output) => failed("flowcell.bundle.tag", &error, output),
    }
}

pub(crate) fn describe(manifest: &Manifest) {
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
    for (name, value) in &manifest.environment {
        terminal::line(&format!("  variable {name}={value}"));
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

pub(crate) fn failed(command: &str, error: &RunError, output: Output) -> ExitCode {
    if output == Output::Json {
        terminal::raw(&json!({ "error": error_json(error) }).to_string());
        return ExitCode::FAILURE;
    }
    terminal::fail_with(command, error)
}
