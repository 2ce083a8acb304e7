//! Single components: in registries, in the CNCF's layout, where other tools publish them (`wkg`, `oras`) without a bundle;
//! and which tools one has.

use flowcell_registry::{Blob, Client, Credentials, Digest, ImageReference};
use flowcell_sandbox::{Environment, Instance, Limits, Program, Sandbox};

use crate::error::BundleError;
use crate::manifest::Tool;
use crate::oci::{COMPONENT, CONFIG, Image};

/// A component in a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComponentArtifact {
    /// The digest that the registry has it under.
    pub digest: Digest,
    /// Its bytes.
    pub component: Blob,
}

/// Looks at a component in a registry.
///
/// # Errors
/// When there is none, it is something else or more than one component, or the registry cannot be used.
pub async fn component_artifact(
    client: &Client,
    reference: &ImageReference,
    credentials: &Credentials,
) -> Result<ComponentArtifact, BundleError> {
    let found = client.manifest(reference, credentials).await?;
    let name = reference.to_string();
    let image = Image::parse(&name, &found.media_type, &found.bytes)?;
    let refused = |problem: &str| BundleError::Refused {
        reference: name.clone(),
        problem: problem.to_owned(),
    };
    let config = image
        .config
        .as_ref()
        .map(|config| config.media_type.as_str());
    if config != Some(CONFIG) {
        return Err(refused("it is no WebAssembly component"));
    }
    let [layer] = image.layers.as_slice() else {
        return Err(refused("it is not one component: it has several layers"));
    };
    if layer.media_type != COMPONENT {
        return Err(refused("its layer is no WebAssembly component"));
    }
    let digest = layer.digest.parse();
    Ok(ComponentArtifact {
        digest: found.digest,
        component: Blob {
            digest: digest.map_err(|error| refused(&format!("its layer: {error}")))?,
            size: layer.size,
        },
    })
}

/// Asks a component for its tools, in a sandbox; `name` is for messages.
///
/// # Errors
/// When it does not start, or does not answer as it should.
pub async fn describe(
    name: &str,
    sandbox: &Sandbox,
    program: &Program,
) -> Result<Vec<Tool>, BundleError> {
    let environment = Environment::new(Vec::new(), Vec::new(), Limits::default());
    let mut instance = Instance::start(sandbox, program, &environment, None).await?;
    let described = instance.describe().await.result;
    let tools = described.map_err(|fault| BundleError::fault(name, &fault))?;
    Ok(tools.into_iter().map(Tool::from).collect())
}
