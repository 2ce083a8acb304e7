//! A bundle's form in registries: the CNCF's layout for Wasm components, with layers of our own behind the components.
//!
//! The config and the first layers are what other tools know (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>):
//! they see an artifact of components. The layer [`MANIFEST`] is the bundle's own manifest as it is in the store; each
//! other layer is a blob that it names. The same bundle gives the same bytes.

use flowcell_registry::Digest;
use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use crate::error::BundleError;
use crate::manifest::{Manifest, Start};

/// The artifact's type, by which registries list it.
pub(crate) const ARTIFACT: &str = "application/vnd.flowcell.bundle.v1";
/// OCI's image manifest.
pub(crate) const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The CNCF's config for Wasm.
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub(crate) const COMPONENT: &str = "application/wasm";
/// The bundle's own manifest.
pub(crate) const MANIFEST: &str = "application/vnd.flowcell.bundle.manifest.v1+json";
const SHELL: &str = "application/vnd.flowcell.bundle.shell.v1+wasm";
const MEMORY: &str = "application/vnd.flowcell.bundle.memory.v1+zstd";
const TREE: &str = "application/vnd.flowcell.bundle.tree.v1.tar+zstd";
/// When any bundle was made: the time of a build is no part of what was built.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// Names of imports and exports that a config lists.
const MAX_NAMES: usize = 1_000;

/// A blob that a bundle is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    pub(crate) media_type: &'static str,
    /// Bytes, where the manifest says how many.
    pub(crate) size: Option<u64>,
    /// What it is, for people.
    pub(crate) title: String,
}

/// What a manifest names, each blob once: components first, as the layout wants it.
pub(crate) fn parts(manifest: &Manifest) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut add = |digest: Digest, media_type, size, title: String| {
        if parts.iter().all(|part| part.digest != digest) {
            parts.push(Part {
                digest,
                media_type,
                size,
                title,
            });
        }
    };
    for component in &manifest.components {
        let title = format!("{}.wasm", component.name);
        add(component.digest, COMPONENT, Some(component.size), title);
    }
    for component in &manifest.components {
        if let Start::Image { shell, base, .. } = &component.start {
            let name = &component.name;
            add(*shell, SHELL, None, format!("{name}.shell.wasm"));
            add(*base, MEMORY, None, format!("{name}.memory.zst"));
        }
    }
    for tree in &manifest.trees {
        let title = format!("{}.tar.zst", tree.mount.trim_start_matches('/'));
        add(tree.digest, TREE, Some(tree.size), title);
    }
    parts
}

/// A descriptor, as far as it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    /// Text, since other algorithms' digests have to be read too.
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<Annotations>,
}

/// The annotations that are written and shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Annotations {
    #[serde(
        rename = "org.opencontainers.image.title",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) title: Option<String>,
    #[serde(
        rename = "org.opencontainers.image.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) version: Option<String>,
}

/// OCI's image manifest, as far as it is looked at.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Image {
    schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Descriptor>,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<Annotations>,
    /// An index has these in place of layers.
    #[serde(default, skip_serializing)]
    manifests: Option<serde::de::IgnoredAny>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    created: &'a str,
    architecture: &'a str,
    os: &'a str,
    layer_digests: Vec<&'a str>,
    component: World,
}

/// What the first component imports and exports.
#[derive(Default, Serialize)]
struct World {
    exports: Vec<String>,
    imports: Vec<String>,
    /// The world that it was made for, which components do not say.
    target: Option<String>,
}

/// The documents of an artifact with these layers, of which the first is `component`: the config, and the manifest.
pub(crate) fn documents(
    manifest: &Manifest,
    component: &[u8],
    layers: Vec<Descriptor>,
) -> Result<(Vec<u8>, Vec<u8>), serde_json::Error> {
    let config = serde_json::to_vec(&Config {
        created: CREATED,
        architecture: "wasm",
        os: "wasip2",
        layer_digests: layers.iter().map(|layer| layer.digest.as_str()).collect(),
        component: world(component),
    })?;
    let image = serde_json::to_vec(&Image {
        schema_version: 2,
        media_type: IMAGE_MANIFEST.to_owned(),
        artifact_type: Some(ARTIFACT.to_owned()),
        config: Some(Descriptor {
            media_type: CONFIG.to_owned(),
            digest: Digest::of(&config).to_string(),
            size: config.len() as u64,
            annotations: None,
        }),
        layers,
        annotations: Some(Annotations {
            title: Some(manifest.name.clone()),
            version: Some(manifest.version.clone()),
        }),
        manifests: None,
    })?;
    Ok((config, image))
}

impl Descriptor {
    pub(crate) fn new(part: &Part, size: u64) -> Self {
        Self {
            media_type: part.media_type.to_owned(),
            digest: part.digest.to_string(),
            size,
            annotations: Some(Annotations {
                title: Some(part.title.clone()),
                version: None,
            }),
        }
    }
}

impl Image {
    /// Reads a manifest. `media_type` is what the registry says that it is.
    pub(crate) fn parse(
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Self, BundleError> {
        let mut image: Self =
            serde_json::from_slice(bytes).map_err(|error| BundleError::NotABundle {
                reference: reference.to_owned(),
                what: format!("a manifest that cannot be read ({error})"),
            })?;
        if image.media_type.is_empty() {
            media_type.clone_into(&mut image.media_type);
        }
        Ok(image)
    }

    /// The layer with the bundle's manifest, of an artifact that is a bundle.
    ///
    /// # Errors
    /// What it is instead.
    pub(crate) fn bundle(&self) -> Result<&Descriptor, String> {
        let config = self
            .config
            .as_ref()
            .map(|config| config.media_type.as_str());
        let own = self
            .layers
            .iter()
            .find(|layer| layer.media_type == MANIFEST);
        if let (Some(own), Some(CONFIG)) = (own, config) {
            return Ok(own);
        }
        let kind = &self.media_type;
        if self.manifests.is_some() || kind.contains("index") || kind.contains("manifest.list") {
            return Err("an index of images for several platforms, as Docker's are".to_owned());
        }
        Err(match config {
            Some(
                "application/vnd.docker.container.image.v1+json"
                | "application/vnd.oci.image.config.v1+json",
            ) => "a Docker image (a container's)".to_owned(),
            Some(CONFIG) => "a Wasm component without a bundle around it".to_owned(),
            config => {
                let kind = self.artifact_type.as_deref().or(config);
                let kind: String = kind.unwrap_or("unknown").chars().take(100).collect();
                format!("an artifact of the type {kind:?}")
            }
        })
    }
}

/// The names at the outside of a component. One that cannot be read is found when it is compiled.
fn world(wasm: &[u8]) -> World {
    let mut world = World::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::ComponentImportSection(section)) if depth == 0 => {
                let names = section.into_iter().flatten();
                let names = names.map(|import| import.name.name.to_owned());
                world.imports.extend(names.take(MAX_NAMES));
            }
            Ok(Payload::ComponentExportSection(section)) if depth == 0 => {
                let names = section.into_iter().flatten();
                let names = names.map(|export| export.name.name.to_owned());
                world.exports.extend(names.take(MAX_NAMES));
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    world
}
