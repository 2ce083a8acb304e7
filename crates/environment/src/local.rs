//! Wheels that are files of whoever builds a base image. Sessions take none of these: what they have comes from an index.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use flowcell_bundle::{Digest, Lease, Thing};
use uv_distribution_filename::WheelFilename;

use crate::environments::{Environments, Image};
use crate::error::{At as _, EnvironmentError};
use crate::fetch::keep_wheel;
use crate::lock::{Lock, LockedHere, LockedPackage, LockedWheel};

impl Environments<'_> {
    /// Adds wheels of the local disk to a lock, or makes one of them; each takes the place of a package of its name. They
    /// are taken as they are: what they require has to be in the lock or the image. They stay in the store until the leases
    /// are gone: no index brings them back.
    ///
    /// # Errors
    /// When one cannot be read, is too large, or has no wheel's name.
    pub fn with_wheels(
        &self,
        image: Image<'_>,
        lock: Option<Lock>,
        wheels: &[PathBuf],
    ) -> Result<(Lock, Vec<Lease>), EnvironmentError> {
        let python = image.manifest.python.as_ref();
        let version = python.map_or("", |python| python.version.as_str());
        let here = LockedHere {
            image: image.name.to_owned(),
            image_digest: *image.digest,
            requirements: None,
            components: Vec::new(),
        };
        let mut lock = lock.unwrap_or_else(|| Lock::new(version, Vec::new(), here));
        let mut leases = Vec::new();
        for wheel in wheels {
            let (package, lease) = self.keep(wheel)?;
            leases.push(lease);
            lock.packages.retain(|other| other.name != package.name);
            lock.packages.push(package);
        }
        Ok((lock, leases))
    }

    /// Puts a wheel where those are that were downloaded, so that it is found there by its digest.
    fn keep(&self, path: &Path) -> Result<(LockedPackage, Lease), EnvironmentError> {
        let shown = path.display().to_string();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        let filename =
            WheelFilename::from_str(name).map_err(|error| EnvironmentError::Package {
                package: shown.clone(),
                problem: format!(
                    "its name is no wheel's ({error}); `pip wheel` makes wheels of sources"
                ),
            })?;
        let limit = self.indexes.wheel_bytes;
        let mut bytes = Vec::new();
        let file = File::open(path).at("read", path)?;
        let reading = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        reading.at("read", path)?;
        if bytes.len() as u64 > limit {
            return Err(EnvironmentError::TooMuch {
                what: shown,
                limit,
                unit: "bytes",
            });
        }
        let digest = Digest::of(&bytes);
        let lease = self.store().lease(Thing::Wheel(digest))?;
        keep_wheel(self.store(), &digest, &bytes)?;
        let mut package = LockedPackage::named(filename.name.to_string());
        package.version = Some(filename.version.to_string());
        package.wheels.push(LockedWheel {
            name: name.to_owned(),
            url: String::new(),
            size: Some(bytes.len() as u64),
            hashes: [("sha256".to_owned(), digest.hex())].into(),
        });
        Ok((package, lease))
    }
}
