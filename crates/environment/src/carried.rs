//! Wheels and component packages that travel with a flow: taken out of the store with their lock, and put into another one.

use std::fs;
use std::path::{Path, PathBuf};

use flowcell_bundle::{Digest, Lease};
use tokio::sync::OnceCell;

use crate::components::{self, ComponentIndexes};
use crate::environments::{Environments, Image, choose};
use crate::error::EnvironmentError;
use crate::fetch::{self, Wheel};
use crate::index::Credentials;
use crate::layer;
use crate::lock::Lock;

/// A wheel of a lock.
#[derive(Debug, Clone)]
pub struct CarriedWheel {
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The wheel's file name.
    pub file: String,
    /// Its digest.
    pub digest: Digest,
    /// Where it is.
    pub path: PathBuf,
    /// Keeps it there.
    _wheel: Wheel,
}

/// A component package of a lock.
#[derive(Debug)]
pub struct CarriedComponent {
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The component's digest.
    pub digest: Digest,
    /// Where it is.
    pub path: PathBuf,
    _lease: Lease,
}

impl Environments<'_> {
    /// The component packages that a lock asks for, pulled if they are not here.
    ///
    /// # Errors
    /// As when the lock is installed.
    pub async fn carried_components(
        &self,
        lock: &Lock,
        credentials: &Credentials,
    ) -> Result<Vec<CarriedComponent>, EnvironmentError> {
        let mut carried = Vec::new();
        for locked in lock.components() {
            let indexes = ComponentIndexes::new(self.indexes(), credentials)?;
            let (path, lease) = indexes.fetch(locked, self.store()).await?;
            carried.push(CarriedComponent {
                package: locked.name.clone(),
                version: locked.version.clone(),
                digest: locked.component,
                path,
                _lease: lease,
            });
        }
        Ok(carried)
    }

    /// The wheels that a lock asks for over an image, downloaded if they are not here. The lock gets the SHA-256 of each, by
    /// which it is found again without an index.
    ///
    /// # Errors
    /// As when the lock is installed.
    pub async fn carried(
        &self,
        image: Image<'_>,
        file: &str,
        lock: &mut Lock,
        credentials: &Credentials,
    ) -> Result<Vec<CarriedWheel>, EnvironmentError> {
        let (chosen, _) = choose(image, file, lock)?;
        let mut wheels = Vec::new();
        let indexes = OnceCell::new();
        for chosen in chosen {
            let wheel = self.wheel(&chosen, &indexes, credentials).await?;
            lock.note_sha256(&chosen.wheel, &wheel.sha256);
            let digest = format!("sha256:{}", wheel.sha256).parse();
            wheels.push(CarriedWheel {
                package: chosen.filename.name.to_string(),
                version: chosen.filename.version.to_string(),
                file: chosen.filename.to_string(),
                digest: digest.map_err(|_| {
                    EnvironmentError::Host(format!("{} has no digest", chosen.filename))
                })?,
                path: wheel.path.clone(),
                _wheel: wheel,
            });
        }
        Ok(wheels)
    }

    /// Which of the wheels and component packages that a lock asks for over an image are not here, by file name, or by name and
    /// version.
    ///
    /// # Errors
    /// When the lock asks for what cannot be used here.
    pub fn missing(
        &self,
        image: Image<'_>,
        file: &str,
        lock: &Lock,
    ) -> Result<Vec<String>, EnvironmentError> {
        let (chosen, _) = choose(image, file, lock)?;
        let mut missing = Vec::new();
        for one in chosen {
            if fetch::kept(&one, self.store())?.is_none() {
                missing.push(one.filename.to_string());
            }
        }
        for locked in lock.components() {
            if !components::kept(self.store(), &locked.component).exists() {
                missing.push(locked.shown());
            }
        }
        Ok(missing)
    }
}

/// The licenses that the packages of a folder name themselves, by normalized name; those that name none are left out.
pub fn licenses(packages: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(packages).into_iter().flatten().flatten() {
        let folder = entry.file_name();
        let name = folder
            .to_str()
            .and_then(|name| name.strip_suffix(".dist-info"));
        let name = name.and_then(|name| name.split_once('-'));
        let metadata = fs::read(entry.path().join("METADATA")).ok();
        let license = metadata.and_then(|metadata| layer::license(&metadata));
        if let (Some((name, _)), Some(license)) = (name, license) {
            found.push((name.to_lowercase().replace(['_', '.'], "-"), license));
        }
    }
    found
}
