//! Content-addressed artifacts between OCI registries and the local disk.
//!
//! A registry is a stranger: everything it answers is bounded and checked, what it sends is compared with its digest
//! before it gets its name, and what it learns is no more than it must. The interface is that of the OCI distribution
//! specification 1.1 (<https://github.com/opencontainers/distribution-spec>); its operations are quoted as `end-…`.
//!
//! This crate knows nothing about what the artifacts mean.
//!
//! ```no_run
//! # use std::path::Path;
//! # use flowcell_registry::{Blob, Client, Credentials, ImageReference, RegistryError, Settings};
//! # async fn pull(blob: Blob, store: &Path) -> Result<(), RegistryError> {
//! let client = Client::new(Settings::default())?;
//! let reference: ImageReference = "registry.example.com/team/tools:1.2".parse()?;
//! let manifest = client.manifest(&reference, &Credentials::anonymous()).await?;
//! println!("{reference} is {}", manifest.digest);
//! client
//!     .pull_blob(&reference, &blob, &store.join(blob.digest.hex()), &Credentials::anonymous(), &|_, _, _| {})
//!     .await
//! # }
//! ```

mod access;
mod challenge;
mod client;
mod credentials;
mod digest;
mod error;
mod manifest;
mod partial;
mod place;
mod pull;
mod push;
mod reference;
mod retry;
mod settings;
mod tags;
mod transport;

pub use client::{Blob, Client, Progress};
pub use credentials::Credentials;
pub use digest::{Digest, DigestError};
pub use error::{RegistryError, Trouble};
pub use manifest::Manifest;
pub use push::Source;
pub use reference::{ImageReference, ReferenceError};
pub use settings::Settings;
pub use tags::Tags;
