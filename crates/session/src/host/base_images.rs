//! Base images of sessions that a registry has: fetched by processes of their own, once for all that ask together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowcell_bundle::{Digest, DigestError, ImageName, Reference, Store};
use flowcell_worker::{Credential, Installer, PullJob, Pulled, RegistrySettings};

use super::environments::EnvironmentError;
use super::once::Once;
use crate::session::{Image, NamedBy};

/// How long what a tag means is not asked again by somebody who only looks at a session.
const LOOKED: Duration = Duration::from_secs(60);
pub(super) struct BaseImages {
    store: Store,
    installer: Arc<Installer>,
    registries: RegistrySettings,
    known: Once<Result<Pulled, EnvironmentError>>,
}

impl BaseImages {
    pub(super) fn new(
        store: Store,
        installer: Arc<Installer>,
        registries: RegistrySettings,
    ) -> Self {
        Self {
            store,
            installer,
            registries,
            known: Once::default(),
        }
    }

    /// Makes sure that the store has an image. Gives it with its digests where these were not known yet.
    /// `credential` is asked for only where the registry is.
    pub(super) async fn bring(
        &self,
        image: &Image,
        credential: impl FnOnce() -> Result<Option<Credential>, EnvironmentError>,
        default: &Reference,
    ) -> Result<Option<Image>, EnvironmentError> {
        if let Some(digest) = &image.digest {
            return self.restore(image, digest, credential).await.map(|()| None);
        }
        let reference = &image.reference;
        match self.pull(reference, credential()?).await? {
            Pulled::Bundle { bundle, artifact } => Ok(Some(Image {
                digest: Some(bundle),
                artifact: Some(artifact),
                ..image.clone()
            })),
            // Flows made for Azure name Docker images, which mean nothing here.
            Pulled::NoBundle { what } if image.named_by == NamedBy::Flow => {
                let digest = self.store.resolve(default);
                let digest = digest.map_err(|error| EnvironmentError::Failed(error.to_string()))?;
                Ok(Some(Image {
                    reference: default.to_string(),
                    digest: Some(digest.to_string()),
                    artifact: None,
                    named_by: NamedBy::Default,
                    note: Some(format!(
                        "the flow's image {reference} is {what}, and no flowcell bundle; {default} takes its place"
                    )),
                }))
            }
            Pulled::NoBundle { what } => Err(EnvironmentError::Wrong(format!(
                "base image {reference} is {what}, and no flowcell bundle; name one that `flowcell bundle push` has made"
            ))),
            Pulled::Found { .. } => Err(EnvironmentError::Failed(format!(
                "base image {reference} was looked for and not pulled"
            ))),
        }
    }

    /// Brings back an image that has gone from the store since.
    async fn restore(
        &self,
        image: &Image,
        digest: &str,
        credential: impl FnOnce() -> Result<Option<Credential>, EnvironmentError>,
    ) -> Result<(), EnvironmentError> {
        let failed = |error: &dyn std::error::Error| EnvironmentError::Failed(error.to_string());
        let known: Digest = digest.parse().map_err(|error| failed(&error))?;
        let found = self.store.manifest_by_digest(&known);
        let (Err(error), Some(artifact)) = (&found, &image.artifact) else {
            return found.map(|_| ()).map_err(|error| failed(&error));
        };
        tracing::info!(image = image.reference, %error, "a session's image is gone from the store, and is pulled again");
        let name: ImageName = image.reference.parse().map_err(|error| failed(&error))?;
        let ImageName::Registry(name) = name else {
            return Err(failed(error));
        };
        let artifact = artifact
            .parse()
            .map_err(|error: DigestError| failed(&error))?;
        let by_digest = name.with_digest(artifact).to_string();
        match self.pull(&by_digest, credential()?).await? {
            Pulled::Bundle { bundle, .. } if bundle == digest => Ok(()),
            _ => Err(EnvironmentError::Failed(format!(
                "base image {by_digest} is another one now; reset the session to another image"
            ))),
        }
    }

    async fn pull(
        &self,
        reference: &str,
        credential: Option<Credential>,
    ) -> Result<Pulled, EnvironmentError> {
        self.ask(reference, credential, false, Instant::now()).await
    }

    /// The digest that a registry has an image under by now. An answer of the last minute will do.
    pub(super) async fn look(
        &self,
        reference: &str,
        credential: Option<Credential>,
    ) -> Result<Option<String>, EnvironmentError> {
        let now = Instant::now();
        let since = now.checked_sub(LOOKED).unwrap_or(now);
        match self.ask(reference, credential, true, since).await? {
            Pulled::Found { artifact } => Ok(Some(artifact)),
            Pulled::Bundle { .. } | Pulled::NoBundle { .. } => Ok(None),
        }
    }

    /// What a registry says, not longer ago than `since`. Others who ask with the same credentials get the same answer:
    /// what a registry gives to one of them is none of the others' business.
    async fn ask(
        &self,
        reference: &str,
        credential: Option<Credential>,
        look: bool,
        since: Instant,
    ) -> Result<Pulled, EnvironmentError> {
        let slot = self.known.slot(&(reference, &credential, look))?;
        let mut slot = slot.lock().await;
        if let Some((at, answer)) = slot.as_ref().filter(|(at, _)| *at >= since) {
            tracing::trace!(reference, age = ?at.elapsed(), "a registry's answer is used again");
            return answer.clone();
        }
        let job = PullJob {
            store: self.store.root().to_owned(),
            image: reference.to_owned(),
            registries: self.registries.clone(),
            credential,
            look,
        };
        let answer = self.installer.pull(job, &|_| {}).await.map_err(Into::into);
        *slot = Some((Instant::now(), answer.clone()));
        answer
    }
}
