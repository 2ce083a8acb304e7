//! Packages with compiled modules: those are left out, and what is left is imported in a sandbox to see whether it runs.

use flowcell_bundle::Manifest;

use crate::error::EnvironmentError;
use crate::layer::Layer;
use crate::python::Python;

/// The way out where a package cannot be used.
pub(crate) const ALTERNATIVES: &str = "Use another package or version that has a wheel of Python only (py3-none-any), a component package that does the same, or call it as a service";
/// Names of missing modules that a note lists.
const LISTED: usize = 6;

/// Imports the packages of an environment that had compiled modules; says which of these are missed.
///
/// # Errors
/// When one cannot be imported without them.
pub(crate) async fn prove(
    python: &Python<'_>,
    manifest: &Manifest,
    site: &std::path::Path,
    layers: &[Layer],
) -> Result<Vec<String>, EnvironmentError> {
    let mut notes = Vec::new();
    for layer in layers.iter().filter(|layer| !layer.native.is_empty()) {
        let unusable = |why: String| EnvironmentError::Package {
            package: layer.shown(),
            problem: format!(
                "it has only wheels with compiled modules ({}), and without these {why}. {ALTERNATIVES}",
                layer.wheel
            ),
        };
        if layer.modules.is_empty() {
            return Err(unusable("nothing of it is left".to_owned()));
        }
        // Names for a package's own use may well be there for its compiled modules alone.
        let public = layer.modules.iter().filter(|name| !name.starts_with('_'));
        let mut modules: Vec<&String> = public.collect();
        if modules.is_empty() {
            modules = layer.modules.iter().collect();
        }
        let failed = python.try_import(manifest, site, &modules).await?;
        if let Some(failed) = failed {
            return Err(unusable(format!("importing it fails: {failed}")));
        }
        let mut missed: Vec<&str> = layer
            .native
            .iter()
            .map(String::as_str)
            .filter(|name| {
                name.rsplit('.')
                    .next()
                    .is_some_and(|last| !last.starts_with('_') && !last.contains("__"))
            })
            .collect();
        let more = missed.len() > LISTED;
        missed.truncate(LISTED);
        if !missed.is_empty() {
            notes.push(format!(
                "{}: runs without its compiled modules; what needs {}{} fails",
                layer.shown(),
                missed.join(", "),
                if more { " and others" } else { "" }
            ));
        }
    }
    Ok(notes)
}
