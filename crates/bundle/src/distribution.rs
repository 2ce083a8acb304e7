//! Bundles between the store and registries.

use std::path::PathBuf;

use flowcell_registry::{Blob, Client, Credentials, Digest, ImageReference, Source};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::check::MAX_MANIFEST;
use crate::error::{BundleError, IoContext as _};
use crate::lease::Thing;
use crate::manifest::{Manifest, Start};
use crate::name::{ImageName, canonical};
use crate::names::Pulled;
use crate::oci::{self, Descriptor, IMAGE_MANIFEST, Image, Part};
use crate::programs::unpack_base;
use crate::store::Store;

/// A blob on its way, as whoever waits is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Transfer<'a> {
    /// What it is.
    pub title: &'a str,
    /// Its digest.
    pub digest: &'a Digest,
    /// Bytes that are there.
    pub done: u64,
    /// Bytes that it has.
    pub total: u64,
}

/// Is told of each step of a transfer.
pub type TransferProgress<'a> = dyn Fn(Transfer<'_>) + Send + Sync + 'a;

/// What was pushed or pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    /// The digest of the bundle's manifest, which names it in stores.
    pub bundle: Digest,
    /// The digest that the registry has it under.
    pub artifact: Digest,
}

/// Pushes a bundle. What the registry has already is not sent again; the tag comes last.
///
/// # Errors
/// When the bundle is not in the store or incomplete there, it is not permitted, or the registry cannot be used.
pub async fn push(
    store: &Store,
    client: &Client,
    bundle: &ImageName,
    target: &ImageReference,
    credentials: &Credentials,
    progress: &TransferProgress<'_>,
) -> Result<Transferred, BundleError> {
    let digest = store.resolve_name(bundle)?;
    let _lease = store.lease(Thing::Bundle(digest))?;
    let manifest = store.read_manifest(&digest)?;
    let mut parts = oci::parts(&manifest);
    let Some(first) = manifest.components.first() else {
        return Err(BundleError::Refused {
            reference: bundle.to_string(),
            problem: "it has no component, so no registry's client would know what it is"
                .to_owned(),
        });
    };
    // Behind the components: the first layer is one.
    let at = parts.iter().position(|part| part.size.is_none());
    parts.insert(
        at.unwrap_or(parts.len()).max(1),
        Part {
            digest,
            media_type: oci::MANIFEST,
            size: None,
            title: "bundle.json".to_owned(),
        },
    );
    let mut layers = Vec::new();
    let mut blobs = Vec::new();
    for part in &parts {
        let path = store.blob_path(&part.digest);
        let size = std::fs::metadata(&path).io("read", &path)?.len();
        layers.push(Descriptor::new(part, size));
        let blob = Blob {
            digest: part.digest,
            size,
        };
        blobs.push((blob, Source::File(path), part.title.as_str()));
    }
    let component = store.get(&first.digest)?;
    let damaged = |error: serde_json::Error| BundleError::Manifest {
        digest: digest.to_string(),
        message: error.to_string(),
    };
    let (config, image) = oci::documents(&manifest, &component, layers).map_err(damaged)?;
    let blob = Blob {
        digest: Digest::of(&config),
        size: config.len() as u64,
    };
    blobs.push((blob, Source::Bytes(config.into()), "config.json"));
    let pushes: Vec<_> = blobs
        .iter()
        .map(|(blob, source, title)| async move {
            let told = |digest: &Digest, done, total| {
                progress(Transfer {
                    title,
                    digest,
                    done,
                    total,
                });
            };
            client
                .push_blob(target, blob, source, credentials, &told)
                .await
        })
        .collect();
    stream::iter(pushes)
        .buffer_unordered(client.settings().max_transfers)
        .try_collect::<()>()
        .await?;
    let artifact = client
        .push_manifest(target, IMAGE_MANIFEST, image, credentials)
        .await?;
    Ok(Transferred {
        bundle: digest,
        artifact,
    })
}

/// Pulls a bundle: the tag is looked up once, and everything else comes by its digest. What the store has is not pulled
/// again. The image's name points to it once all of it is there and checked.
///
/// # Errors
/// When there is no such image, it is no bundle, it has what no bundle may have, or the registry cannot be used.
pub async fn pull(
    store: &Store,
    client: &Client,
    reference: &ImageReference,
    credentials: &Credentials,
    progress: &TransferProgress<'_>,
) -> Result<Transferred, BundleError> {
    let reference = canonical(reference.clone());
    let found = client.manifest(&reference, credentials).await?;
    let name = reference.to_string();
    let image = Image::parse(&name, &found.media_type, &found.bytes)?;
    let layer = image.bundle().map_err(|what| BundleError::NotABundle {
        reference: name.clone(),
        what,
    })?;
    let refused = |problem: String| BundleError::Refused {
        reference: name.clone(),
        problem,
    };
    let own = blob_of(layer).map_err(&refused)?;
    if own.size > MAX_MANIFEST {
        return Err(refused(format!(
            "its bundle's manifest has {} bytes, and {MAX_MANIFEST} are allowed",
            own.size
        )));
    }
    let by_digest = reference.with_digest(found.digest);
    let text = client.config(&by_digest, &own, credentials).await?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| refused(format!("its bundle's manifest cannot be read: {error}")))?;
    let checked = manifest.check();
    checked.map_err(|problem| refused(format!("its bundle's manifest is wrong: {problem}")))?;
    // What is there already need not belong to anything that has a name.
    let _lease = store.lease(Thing::AllBlobs)?;
    let parts = oci::parts(&manifest);
    let mut blobs: Vec<(Blob, PathBuf)> = Vec::new();
    for part in &parts {
        let blob = layer_of(&image, part).map_err(&refused)?;
        blobs.push((blob, store.blob_path(&blob.digest)));
    }
    let told = |digest: &Digest, done, total| {
        let part = parts.iter().find(|part| part.digest == *digest);
        progress(Transfer {
            title: part.map_or("blob", |part| part.title.as_str()),
            digest,
            done,
            total,
        });
    };
    let targets: Vec<_> = blobs
        .iter()
        .map(|(blob, path)| (*blob, path.as_path()))
        .collect();
    client
        .pull_blobs(&by_digest, &targets, credentials, &told)
        .await?;
    let bundle = {
        let store = store.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            check_content(&store, &manifest)?;
            store.put(&text)
        });
        let unpacked = unpacking
            .await
            .map_err(|_| refused("it cannot be unpacked".to_owned()))?;
        unpacked.map_err(|error| match error {
            BundleError::Tree { .. } | BundleError::Damaged { .. } => refused(error.to_string()),
            other => other,
        })?
    };
    store.put_pulled(&Pulled {
        reference: reference.clone(),
        artifact: found.digest,
        bundle,
    })?;
    Ok(Transferred {
        bundle,
        artifact: found.digest,
    })
}

/// The layer that is a part of a bundle.
fn layer_of(image: &Image, part: &Part) -> Result<Blob, String> {
    let title = &part.title;
    let digest = part.digest.to_string();
    let layer = image.layers.iter().find(|layer| layer.digest == digest);
    let layer = layer.ok_or_else(|| {
        format!("its bundle's manifest names {title} as {digest}, which is none of its layers")
    })?;
    if layer.media_type != part.media_type {
        return Err(format!(
            "its layer {digest} is of the type {:?}, and should be {title}, which has the type {}",
            layer.media_type, part.media_type
        ));
    }
    if let Some(size) = part.size
        && size != layer.size
    {
        return Err(format!(
            "its layer {digest} has {} bytes, and {size} by its bundle's manifest",
            layer.size
        ));
    }
    blob_of(layer)
}

fn blob_of(layer: &Descriptor) -> Result<Blob, String> {
    let digest: Result<Digest, _> = layer.digest.parse();
    Ok(Blob {
        digest: digest.map_err(|error| error.to_string())?,
        size: layer.size,
    })
}

/// Unpacks what is an archive, within its limits: what cannot be unpacked is no bundle.
fn check_content(store: &Store, manifest: &Manifest) -> Result<(), BundleError> {
    for component in &manifest.components {
        if let Start::Image {
            base,
            memory,
            pages,
            ..
        } = &component.start
        {
            unpack_base(store, base, *memory, pages)?;
        }
    }
    for tree in &manifest.trees {
        store.tree(&tree.digest)?;
    }
    Ok(())
}

/// An artifact in a registry, as it can be seen without pulling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// The digest that the registry has it under.
    pub digest: Digest,
    /// What it is instead of a bundle, if it is none.
    pub not_a_bundle: Option<String>,
    /// The name and version that it says to have.
    pub title: Option<String>,
    /// The same.
    pub version: Option<String>,
    /// Its layers.
    pub layers: Vec<Layer>,
    /// The tags of its repository; `None` where the registry does not tell.
    pub tags: Option<Vec<String>>,
}

/// A layer of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What it says that it is.
    pub media_type: String,
    /// Its digest, by any algorithm.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// A name for people.
    pub title: Option<String>,
}

/// Looks at an image in a registry. Texts are the registry's, and may be anything.
///
/// # Errors
/// When there is no such image, it is not permitted, or the registry cannot be used.
pub async fn inspect(
    client: &Client,
    reference: &ImageReference,
    credentials: &Credentials,
) -> Result<Inspected, BundleError> {
    let reference = canonical(reference.clone());
    let found = client.manifest(&reference, credentials).await?;
    let image = Image::parse(&reference.to_string(), &found.media_type, &found.bytes)?;
    let tags = client.tags(&reference, credentials).await;
    let not_a_bundle = image.bundle().err();
    let annotations = image.annotations.unwrap_or_default();
    let layer = |layer: Descriptor| Layer {
        media_type: layer.media_type,
        digest: layer.digest,
        size: layer.size,
        title: layer.annotations.and_then(|annotations| annotations.title),
    };
    Ok(Inspected {
        digest: found.digest,
        not_a_bundle,
        title: annotations.title,
        version: annotations.version,
        layers: image.layers.into_iter().map(layer).collect(),
        tags: tags.ok().map(|tags| tags.tags),
    })
}
