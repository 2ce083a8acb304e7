//! The tools of an environment, as promptflow's `/tool/package_tools` lists those of installed packages.

use flowcell_bundle::{Component, Digest, Store, Tool};
use flowcell_environment::Environments;
use flowcell_flow::{Json, JsonMap, python_loads};
use serde_json::json;

use crate::error::RunError;

/// All tools of a base image, and of what requirements have brought, by their identifiers. `image` is the image's name in
/// the store, `site` the environment's digest.
///
/// # Errors
/// When one of them is not in the store.
pub fn package_tools_json(
    store: &Store,
    image: &str,
    site: Option<&Digest>,
) -> Result<Json, RunError> {
    let manifest = store.manifest(&image.parse()?)?;
    let site = match site {
        Some(site) => Environments::find(store, site)?,
        None => None,
    };
    let packages = site.map(|site| site.components).unwrap_or_default();
    let own = manifest.components.iter();
    let own = own.map(|component| (component, manifest.version.as_str()));
    let brought = packages.iter();
    let brought = brought.map(|package| (&package.component, package.version.as_str()));
    let mut all = JsonMap::new();
    for (component, version) in own.chain(brought) {
        for tool in &component.tools {
            // The image's own come first: a package cannot take their place.
            let entry = all.entry(component.tool_id(tool));
            entry.or_insert_with(|| described(component, version, tool));
        }
    }
    Ok(Json::Object(all))
}

fn described(component: &Component, version: &str, tool: &Tool) -> Json {
    let inputs: JsonMap = tool
        .inputs
        .iter()
        .map(|input| {
            let mut entry = json!({ "type": input.types });
            if let Some(default) = input.default.as_deref().and_then(python_loads) {
                entry["default"] = default;
            }
            (input.name.clone(), entry)
        })
        .collect();
    json!({
        "name": tool.name,
        "type": "python",
        "description": tool.description,
        "inputs": inputs,
        "package": component.name,
        "package_version": version,
    })
}
