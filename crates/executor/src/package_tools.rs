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
    let mut manifest = store.manifest(&image.parse()?)?;
    let site = match site {
        Some(site) => Environments::find(store, site)?,
        None => None,
    };
    let packages = site.map(|site| site.components).unwrap_or_default();
    let own = manifest.components.len();
    let added = packages.iter().map(|package| package.component.clone());
    manifest.components.extend(added);
    let version = |component: &Component| {
        let at = manifest.components.iter().position(|one| one == component);
        let package = at.and_then(|at| packages.get(at.checked_sub(own)?));
        package.map_or(&manifest.version, |package| &package.version)
    };
    let ids = manifest.tool_ids().into_iter();
    let tools = ids.filter_map(|id| {
        let (component, tool) = manifest.tool(&id)?;
        let entry = described(component, version(component), tool);
        Some((id, entry))
    });
    Ok(Json::Object(tools.collect()))
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
