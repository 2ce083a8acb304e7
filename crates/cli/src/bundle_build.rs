//! `flowcell bundle build`: a recipe, and what it asks for that is not in its folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use flowcell_bundle::{
    BuildReport, Ingredients, Lease, Manifest, PythonRecipe, Recipe, Reference, Used,
};
use flowcell_environment::{Image, Requirements, Site};
use flowcell_executor::{Host, RunError};
use serde_json::json;

use crate::bundle::{describe, failed};
use crate::settings::Settings;
use crate::{Output, OutputArgs, bundle_registry, terminal};

/// Where the base bundle's sources are, in a checkout of flowcell.
const BASE_SOURCES: &str = "bundles/promptflow";
/// Locks that are made here are in no file; messages name this one.
const RECIPE: &str = "bundle.toml";

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The bundle's folder, or its bundle.toml.
    #[arg(long, value_name = "DIR", default_value = BASE_SOURCES)]
    source: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn build(settings: &Settings, args: &BuildArgs) -> ExitCode {
    match make(settings, &args.source).await {
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

async fn make(settings: &Settings, source: &Path) -> Result<BuildReport, RunError> {
    let recipe = Recipe::read(source)?;
    let host = settings.host()?;
    let (ingredients, _leases) = ingredients(settings, &host, &recipe).await?;
    let built = flowcell_bundle::build(
        &recipe,
        &ingredients,
        host.store(),
        host.sandbox(),
        host.programs(),
        host.progress(),
    );
    Ok(built.await?)
}

/// What the recipe asks for, which stays in the store until the leases are gone.
async fn ingredients(
    settings: &Settings,
    host: &Host,
    recipe: &Recipe,
) -> Result<(Ingredients, Vec<Lease>), RunError> {
    let Some(from) = &recipe.from else {
        return Ok(Default::default());
    };
    let reference = bundle_registry::there(host.store(), from).await?;
    let from = host.store().use_bundle(&reference)?;
    let site = match &recipe.python {
        Some(python) if python.adds() => {
            packages(settings, host, recipe, python, (&reference, &from)).await?
        }
        _ => None,
    };
    let mut leases = vec![from.lease];
    leases.extend(site.iter().map(|site| site.lease.clone()));
    let ingredients = Ingredients {
        from: Some(Manifest {
            name: recipe.name.clone(),
            version: recipe.version.clone(),
            ..from.manifest
        }),
        packages: site.map(|site| site.folder),
    };
    Ok((ingredients, leases))
}

/// Installs what a recipe adds to its base image's packages, as a session's requirements are.
async fn packages(
    settings: &Settings,
    host: &Host,
    recipe: &Recipe,
    python: &PythonRecipe,
    (reference, from): (&Reference, &Used),
) -> Result<Option<Site>, RunError> {
    let options = settings.environment_options();
    let environments = host.environments(&options.indexes);
    let name = reference.to_string();
    let image = Image {
        name: &name,
        digest: &from.digest,
        manifest: &from.manifest,
    };
    let mut notes = Vec::new();
    let lock = match &python.requirements {
        None => None,
        Some(file) => {
            let read = |name: &str| read(&recipe.folder.join(name));
            let requirements = Requirements::gather(&file.to_string_lossy(), &read)?;
            let (variables, credentials) = (&options.variables, &options.credentials);
            let locked = environments.lock(image, &requirements, variables, credentials);
            let locked = locked.await?;
            notes.extend(locked.notes);
            Some(locked.lock)
        }
    };
    let wheels: Vec<PathBuf> = python
        .wheels
        .iter()
        .map(|wheel| recipe.folder.join(wheel))
        .collect();
    let (lock, _leases) = environments.with_wheels(image, lock, &wheels)?;
    let site = environments.install(image, RECIPE, &lock, &options.credentials);
    let site = site.await?;
    if let Some(site) = &site {
        notes.extend(site.notes.iter().cloned());
    }
    for note in &notes {
        terminal::note(note);
    }
    Ok(site)
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("it cannot be read: {error}")),
    }
}
