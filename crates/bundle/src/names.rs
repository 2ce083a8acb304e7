//! What names in a store point to. A name is a pointer to the digest of a manifest; it can be pointed to another.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use flowcell_registry::{Digest, ImageReference};
use serde::{Deserialize, Serialize};

use crate::error::{BundleError, IoContext as _};
use crate::lease::Thing;
use crate::manifest::{BY_DIGEST, Manifest, Reference};
use crate::name::{ImageName, canonical};
use crate::store::{Store, names};

/// A name, and what it points to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// The name.
    pub name: ImageName,
    /// The digest of the bundle's manifest.
    pub digest: Digest,
    /// The digest that the registry has it under, if it was pulled.
    pub artifact: Option<Digest>,
}

/// An image of a registry, as it was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub reference: ImageReference,
    /// The digest that the registry has it under.
    pub artifact: Digest,
    /// The digest of the bundle's manifest.
    pub bundle: Digest,
}

/// The same in its file.
#[derive(Serialize, Deserialize)]
struct PulledFile {
    reference: String,
    artifact: Digest,
    bundle: Digest,
}

impl Store {
    /// Keeps a manifest and lets its name and version point to it.
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<Digest, BundleError> {
        let digest = self.keep_manifest(manifest)?;
        self.tag(&digest, &manifest.reference())?;
        Ok(digest)
    }

    /// Keeps a manifest, to be found by its digest.
    pub(crate) fn keep_manifest(&self, manifest: &Manifest) -> Result<Digest, BundleError> {
        let damaged = |message: String| BundleError::Manifest {
            digest: manifest.reference().to_string(),
            message,
        };
        manifest.check().map_err(damaged)?;
        let text =
            serde_json::to_vec_pretty(manifest).map_err(|error| damaged(error.to_string()))?;
        let digest = self.put(&text)?;
        self.mark_manifest(&digest)?;
        Ok(digest)
    }

    /// Lets a name of this store point to a bundle's manifest.
    ///
    /// # Errors
    /// When the manifest is not there, or the name is a digest.
    pub fn tag(&self, digest: &Digest, name: &Reference) -> Result<(), BundleError> {
        if name.name == BY_DIGEST {
            // What a digest names is its content, and nothing else.
            return Err(BundleError::Reference(name.to_string()));
        }
        // What has no name yet may be collected until it has this one.
        let _lease = self.lease(Thing::Bundle(*digest))?;
        self.read_manifest(digest)?;
        let pointer = self.pointer(name);
        if let Some(folder) = pointer.parent() {
            fs::create_dir_all(folder).io("make the folder", folder)?;
        }
        self.write_whole(&pointer, digest.to_string().as_bytes())
    }

    /// Lets a registry's image point to a bundle's manifest that is in the store, with all that it names.
    pub(crate) fn put_pulled(&self, pulled: &Pulled) -> Result<(), BundleError> {
        self.mark_manifest(&pulled.bundle)?;
        let file = PulledFile {
            reference: pulled.reference.to_string(),
            artifact: pulled.artifact,
            bundle: pulled.bundle,
        };
        let path = self.pulled_pointer(&pulled.reference);
        let text = serde_json::to_vec(&file).map_err(|error| BundleError::Damaged {
            path: path.clone(),
            found: error.to_string(),
        })?;
        self.write_whole(&path, &text)
    }

    pub(crate) fn mark_manifest(&self, digest: &Digest) -> Result<(), BundleError> {
        self.write_whole(&self.root().join("manifests").join(digest.hex()), b"")
    }

    /// The digest of the manifest that a bundle's name points to, or that it is.
    ///
    /// # Errors
    /// When there is no such bundle; which there are.
    pub fn resolve(&self, reference: &Reference) -> Result<Digest, BundleError> {
        if let Some(digest) = reference.digest() {
            // Not any blob: only of a manifest it is known that what it names belongs to it.
            let is_manifest = self.root().join("manifests").join(digest.hex()).exists();
            return if is_manifest {
                Ok(digest)
            } else {
                Err(self.not_found(reference.to_string())?)
            };
        }
        let pointer = self.pointer(reference);
        let text = match fs::read_to_string(&pointer) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(self.not_found(reference.to_string())?);
            }
            Err(error) => return Err(error).io("read", &pointer),
        };
        text.trim().parse().map_err(|_| BundleError::Damaged {
            path: pointer,
            found: text.chars().take(80).collect(),
        })
    }

    /// The digest of the manifest that a name points to, of this store or of a registry's image that was pulled. An image
    /// by its digest is found if it was pulled by any tag.
    ///
    /// # Errors
    /// When there is no such bundle here.
    pub fn resolve_name(&self, name: &ImageName) -> Result<Digest, BundleError> {
        match name {
            ImageName::Local(reference) => self.resolve(reference),
            ImageName::Registry(reference) => match self.find_pulled(reference)? {
                Some(pulled) => Ok(pulled.bundle),
                None => Err(self.not_found(name.to_string())?),
            },
        }
    }

    /// What was pulled as this image.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find_pulled(&self, reference: &ImageReference) -> Result<Option<Pulled>, BundleError> {
        let reference = canonical(reference.clone());
        let path = self.pulled_pointer(&reference);
        match fs::read(&path) {
            Ok(bytes) => {
                let found = parse(&bytes).filter(|pulled| pulled.reference == reference);
                let damaged = || BundleError::Damaged {
                    path,
                    found: "no pointer of an image".to_owned(),
                };
                return found.map(Some).ok_or_else(damaged);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).io("read", &path),
        }
        let Some(digest) = reference.digest() else {
            return Ok(None);
        };
        let place = |one: &ImageReference| (one.registry().to_owned(), one.repository().to_owned());
        let all = self.all_pulled()?;
        Ok(all
            .into_iter()
            .find(|one| one.artifact == digest && place(&one.reference) == place(&reference)))
    }

    /// A bundle's manifest, under the name that it was asked for.
    ///
    /// # Errors
    /// When it is not there, damaged, or no manifest that can be used.
    pub fn manifest(&self, reference: &Reference) -> Result<Manifest, BundleError> {
        let manifest = self.read_manifest(&self.resolve(reference)?)?;
        Ok(Manifest {
            name: reference.name.clone(),
            version: reference.version.clone(),
            ..manifest
        })
    }

    /// The manifest of this digest, under the name that it was made with.
    ///
    /// # Errors
    /// As [`Store::manifest`].
    pub fn manifest_by_digest(&self, digest: &Digest) -> Result<Manifest, BundleError> {
        self.read_manifest(&self.resolve(&Reference::from(*digest))?)
    }

    pub(crate) fn read_manifest(&self, digest: &Digest) -> Result<Manifest, BundleError> {
        let damaged = |message: String| BundleError::Manifest {
            digest: digest.to_string(),
            message,
        };
        let manifest: Manifest = serde_json::from_slice(&self.get(digest)?)
            .map_err(|error| damaged(error.to_string()))?;
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    /// All bundles of this store's own, by name and version.
    pub fn list(&self) -> Result<Vec<Reference>, BundleError> {
        let mut found = Vec::new();
        let bundles = self.root().join("bundles");
        for name in names(&bundles)? {
            for version in names(&bundles.join(&name))? {
                // Anything else in there is not ours: a temporary file, an editor's backup.
                if let Ok(reference) = format!("{name}:{version}").parse() {
                    found.push(reference);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// All names, with what they point to: the store's own, then the registries'.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list_names(&self) -> Result<Vec<Named>, BundleError> {
        let mut found = Vec::new();
        for reference in self.list()? {
            found.push(Named {
                digest: self.resolve(&reference)?,
                name: reference.into(),
                artifact: None,
            });
        }
        found.extend(self.all_pulled()?.into_iter().map(|pulled| Named {
            name: pulled.reference.into(),
            digest: pulled.bundle,
            artifact: Some(pulled.artifact),
        }));
        found.sort();
        Ok(found)
    }

    /// Removes a name. What it points to stays.
    ///
    /// # Errors
    /// When there is no such name; a digest is none.
    pub fn remove(&self, name: &ImageName) -> Result<(), BundleError> {
        let path = match name {
            ImageName::Local(reference) => self.pointer(reference),
            ImageName::Registry(reference) => self.pulled_pointer(reference),
        };
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(self.not_found(name.to_string())?)
            }
            Err(error) => Err(error).io("delete", &path),
        }
    }

    pub(crate) fn all_pulled(&self) -> Result<Vec<Pulled>, BundleError> {
        let folder = self.root().join("pulled");
        let mut found = Vec::new();
        for name in names(&folder)? {
            let path = folder.join(name);
            match fs::read(&path) {
                // Anything else in there is not ours.
                Ok(bytes) => found.extend(parse(&bytes)),
                // Removed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).io("read", &path),
            }
        }
        Ok(found)
    }

    fn not_found(&self, reference: String) -> Result<BundleError, BundleError> {
        let available = self.list_names()?;
        Ok(BundleError::NotFound {
            reference,
            store: self.root().display().to_string(),
            available: available.iter().map(|one| one.name.to_string()).collect(),
        })
    }

    fn pointer(&self, reference: &Reference) -> PathBuf {
        let bundles = self.root().join("bundles");
        bundles.join(&reference.name).join(&reference.version)
    }

    /// References are longer than names of files may be.
    fn pulled_pointer(&self, reference: &ImageReference) -> PathBuf {
        let text = canonical(reference.clone()).to_string();
        let name = Digest::of(text.as_bytes()).hex();
        self.root().join("pulled").join(name)
    }
}

fn parse(bytes: &[u8]) -> Option<Pulled> {
    let file: PulledFile = serde_json::from_slice(bytes).ok()?;
    Some(Pulled {
        reference: file.reference.parse().ok()?,
        artifact: file.artifact,
        bundle: file.bundle,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("store")).unwrap();
        (folder, store)
    }

    fn name(text: &str) -> ImageName {
        text.parse().unwrap()
    }

    #[test]
    fn a_bundle_has_many_names() {
        let (_folder, store) = store();
        let digest = store.put_manifest(&Manifest::new("name", "1")).unwrap();
        store.tag(&digest, &"name:latest".parse().unwrap()).unwrap();
        let pulled = Pulled {
            reference: "localhost:5000/team/name:1".parse().unwrap(),
            artifact: Digest::of(b"artifact"),
            bundle: digest,
        };
        store.put_pulled(&pulled).unwrap();
        let by_artifact = format!("localhost:5000/team/name@{}", pulled.artifact);
        for text in [
            "name:1",
            "name:latest",
            "localhost:5000/team/name:1",
            &by_artifact,
            &digest.to_string(),
        ] {
            assert_eq!(store.resolve_name(&name(text)).unwrap(), digest, "{text}");
        }
        let listed = store.list_names().unwrap();
        let listed: Vec<String> = listed.iter().map(|one| one.name.to_string()).collect();
        assert_eq!(
            listed,
            ["name:1", "name:latest", "localhost:5000/team/name:1"]
        );
        // The name that was asked for is the one that it has.
        let latest: Reference = "name:latest".parse().unwrap();
        assert_eq!(store.manifest(&latest).unwrap().reference(), latest);
        let own = store.manifest_by_digest(&digest).unwrap();
        assert_eq!(own, Manifest::new("name", "1"));

        for text in ["name:1", "localhost:5000/team/name:1"] {
            store.remove(&name(text)).unwrap();
            let error = store.remove(&name(text)).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            store.resolve_name(&name(text)).unwrap_err();
        }
        assert_eq!(store.resolve_name(&name("name:latest")).unwrap(), digest);
    }

    #[test]
    fn a_digest_names_nothing_but_manifests() {
        let (_folder, store) = store();
        let text = serde_json::to_vec(&Manifest::new("name", "1")).unwrap();
        // A layer of a stranger can have any content.
        let digest = store.put(&text).unwrap();
        store.resolve_name(&ImageName::from(digest)).unwrap_err();
        let bundle = store.put_manifest(&Manifest::new("name", "1")).unwrap();
        let error = store.tag(&bundle, &Reference::from(bundle)).unwrap_err();
        assert!(matches!(error, BundleError::Reference(_)), "{error}");
        store.remove(&ImageName::from(bundle)).unwrap_err();
    }

    #[test]
    fn what_was_not_pulled_says_how() {
        let (_folder, store) = store();
        let missing = name("localhost:5000/team/name:1");
        let error = store.resolve_name(&missing).unwrap_err().to_string();
        assert!(
            error.contains("flowcell bundle pull localhost:5000/team/name:1"),
            "{error}"
        );
    }
}
