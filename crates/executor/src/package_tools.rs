//! The tools of an image, as promptflow's `/tool/package_tools` lists those of installed packages.

use flowcell_bundle::Manifest;
use flowcell_flow::{Json, JsonMap, python_loads};
use serde_json::json;

/// All tools of the image by their identifiers.
pub fn package_tools_json(manifest: &Manifest) -> Json {
    let ids = manifest.tool_ids().into_iter();
    let tools = ids.filter_map(|id| {
        let (component, tool) = manifest.tool(&id)?;
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
        let entry = json!({
            "name": tool.name,
            "type": "python",
            "description": tool.description,
            "inputs": inputs,
            "package": component.name,
            "package_version": manifest.version,
        });
        Some((id, entry))
    });
    Json::Object(tools.collect())
}
