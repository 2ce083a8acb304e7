//! Manifests, as far as this crate looks into them: how much they name.

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::RegistryError;
use crate::place::Place;
use crate::settings::Settings;

/// What this crate asks for: manifests and lists of them, in OCI's and Docker's names.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// A manifest as the registry has it. Its bytes are those that its digest names, are a JSON object, and what they name is
/// within the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The digest of its bytes.
    pub digest: Digest,
    /// The media type by the registry's `Content-Type`, without parameters. The manifest's own `mediaType` may differ.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What of a manifest is looked at.
#[derive(Deserialize)]
struct Outline {
    config: Option<Part>,
    #[serde(default)]
    layers: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    size: u64,
}

/// Whether a manifest can be read, and whether what it names is within the limits.
pub(crate) fn check(place: &Place, settings: &Settings, bytes: &[u8]) -> Result<(), RegistryError> {
    let damaged = |message: String| RegistryError::Manifest {
        reference: place.name.clone(),
        message,
    };
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(damaged("it is not a JSON object".to_owned()));
    }
    let outline: Outline =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if let Some(config) = &outline.config
        && config.size > settings.max_config
    {
        return Err(place.too_large("the config", settings.max_config, "bytes"));
    }
    let sizes: Vec<u64> = outline.layers.iter().map(|part| part.size).collect();
    let config = outline.config.map_or(0, |part| part.size);
    check_parts(place, settings, config, &sizes)
}

/// Whether so many blobs of these sizes, and what comes on top, are within the limits.
pub(crate) fn check_parts(
    place: &Place,
    settings: &Settings,
    besides: u64,
    sizes: &[u64],
) -> Result<(), RegistryError> {
    if sizes.len() > settings.max_layers {
        let limit = settings.max_layers as u64;
        return Err(place.too_large("the image", limit, "layers"));
    }
    if sizes.iter().any(|size| *size > settings.max_blob) {
        return Err(place.too_large("a layer", settings.max_blob, "bytes"));
    }
    let total = sizes
        .iter()
        .try_fold(besides, |sum, size| sum.checked_add(*size));
    if total.is_none_or(|total| total > settings.max_artifact) {
        return Err(place.too_large("the image", settings.max_artifact, "bytes"));
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn look(text: &str) -> Result<(), RegistryError> {
        let place = Place::of(&"registry.example.com/a:1".parse().unwrap()).unwrap();
        let settings = Settings {
            max_config: 10,
            max_blob: 20,
            max_artifact: 30,
            max_layers: 3,
            ..Settings::default()
        };
        check(&place, &settings, text.as_bytes())
    }

    #[test]
    fn what_it_names_is_within_the_limits() {
        look("{}").unwrap();
        look(r#"{"manifests": [{"size": 1000}]}"#).unwrap();
        look(r#"{"config": {"size": 10}, "layers": [{"size": 20}]}"#).unwrap();
        look(r#" {"layers": [{"size": 20}, {"size": 10}, {"size": 0, "digest": 1}]}"#).unwrap();
        for (text, expected) in [
            (
                r#"{"config": {"size": 11}}"#,
                "the config is too large: this host takes 10 bytes",
            ),
            (
                r#"{"layers": [{"size": 21}]}"#,
                "a layer is too large: this host takes 20 bytes",
            ),
            (
                r#"{"config": {"size": 1}, "layers": [{"size": 20}, {"size": 10}]}"#,
                "the image is too large: this host takes 30 bytes",
            ),
            (
                r#"{"layers": [{"size": 0}, {"size": 0}, {"size": 0}, {"size": 0}]}"#,
                "the image is too large: this host takes 3 layers",
            ),
            (
                r#"{"layers": [{"size": 18446744073709551615}]}"#,
                "a layer is too large",
            ),
        ] {
            let error = look(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn sums_do_not_overflow() {
        let place = Place::of(&"registry.example.com/a:1".parse().unwrap()).unwrap();
        let settings = Settings {
            max_blob: u64::MAX,
            ..Settings::default()
        };
        assert!(check_parts(&place, &settings, 1, &[u64::MAX, u64::MAX]).is_err());
    }

    #[test]
    fn what_is_not_a_manifest_is_refused() {
        let deep = format!("{{\"a\": {}", "[".repeat(100_000));
        for text in [
            "",
            "<html>",
            "[]",
            "[null, []]",
            "null",
            "{",
            r#"{"layers": 1}"#,
            r#"{"layers": [{"size": -1}]}"#,
            r#"{"layers": [{}]}"#,
            r#"{"layers": [], "layers": []}"#,
            &deep,
        ] {
            let error = look(text).unwrap_err();
            assert!(matches!(error, RegistryError::Manifest { .. }), "{error}");
        }
    }
}
