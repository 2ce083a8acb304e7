//! What a user may name as an image.

use std::fmt;
use std::str::FromStr;

use flowcell_registry::{Digest, ImageReference};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::BundleError;
use crate::manifest::Reference;

/// The tag that is meant where a registry's image has neither tag nor digest.
const DEFAULT_TAG: &str = "latest";

/// A bundle as users name it: one of this store (`promptflow:0.1.0`), or one in a registry
/// (`registry.example.com/team/image:1.2`, `…@sha256:…`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageName {
    /// `name:tag` in this store, or `sha256:…`.
    Local(Reference),
    /// An image in a registry; it can be used once it was pulled.
    Registry(ImageReference),
}

impl FromStr for ImageName {
    type Err = BundleError;

    /// What has a `/` is a registry's: no local name does.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('/') {
            let reference: ImageReference = text
                .parse()
                .map_err(flowcell_registry::RegistryError::from)?;
            return Ok(Self::Registry(canonical(reference)));
        }
        Ok(Self::Local(text.parse()?))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(reference) => reference.fmt(formatter),
            Self::Registry(reference) => reference.fmt(formatter),
        }
    }
}

impl From<Reference> for ImageName {
    fn from(reference: Reference) -> Self {
        Self::Local(reference)
    }
}

impl From<ImageReference> for ImageName {
    fn from(reference: ImageReference) -> Self {
        Self::Registry(canonical(reference))
    }
}

impl From<Digest> for ImageName {
    fn from(digest: Digest) -> Self {
        Self::Local(Reference::from(digest))
    }
}

impl Serialize for ImageName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// One text for all that mean the same: with the default tag, or with the digest alone where there is one.
pub(crate) fn canonical(reference: ImageReference) -> ImageReference {
    let (registry, repository) = (reference.registry(), reference.repository());
    let text = match (reference.digest(), reference.tag()) {
        (Some(digest), Some(_)) => format!("{registry}/{repository}@{digest}"),
        (None, None) => format!("{registry}/{repository}:{DEFAULT_TAG}"),
        _ => return reference,
    };
    // It was made of parts of a reference, so it is one, unless the tag has made it too long.
    text.parse().unwrap_or(reference)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn local_names_and_those_of_registries() {
        let hex = "a".repeat(64);
        for (text, shown) in [
            ("promptflow:0.1.0", "promptflow:0.1.0"),
            ("localhost/a", "localhost/a:latest"),
            (
                "Registry.example.com/team/a:1",
                "registry.example.com/team/a:1",
            ),
            (
                &format!("127.0.0.1:5000/a:1@sha256:{hex}"),
                &format!("127.0.0.1:5000/a@sha256:{hex}"),
            ),
        ] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!(name.to_string(), shown);
            assert_eq!(name.to_string().parse::<ImageName>().unwrap(), name);
            let is_local = matches!(name, ImageName::Local(_));
            assert_eq!(is_local, !text.contains('/'));
        }
    }

    #[test]
    fn what_names_nothing_says_what_would() {
        for (text, words) in [
            ("promptflow", "name:version"),
            ("", "name:version"),
            ("team/image:1", "names no registry"),
            ("registry.example.com/Team:1", "lowercase"),
            ("registry.example.com/a@sha256:12", "image reference"),
        ] {
            let error = text.parse::<ImageName>().unwrap_err();
            let error = format!("{error}");
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_digest_is_a_local_name() {
        let digest = Digest::of(b"manifest");
        let name: ImageName = digest.to_string().parse().unwrap();
        assert_eq!(name, ImageName::from(digest));
        let ImageName::Local(reference) = name else {
            return;
        };
        assert_eq!(reference.digest(), Some(digest));
    }
}
