//! The client of all registries, and what it does with manifests.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};

use crate::access::{Access, Tokens};
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::manifest::{self, Manifest};
use crate::place::Place;
use crate::reference::ImageReference;
use crate::retry::{Failure, Tries};
use crate::settings::Settings;
use crate::transport::{Request, Transport};

/// The header in which a registry names a manifest's digest.
const DIGEST_HEADER: &str = "docker-content-digest";
/// What a request for a manifest asks for, as errors call it.
const MANIFEST: &str = "image or tag";

/// Some bytes in a registry: their digest and how many they are, as a manifest's descriptors have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blob {
    /// The digest of its content.
    pub digest: Digest,
    /// The size in bytes.
    pub size: u64,
}

/// Is told of each step of a transfer: which blob, how many of its bytes are done, and how many there are. When a transfer
/// has to begin again, fewer are done than before.
pub type Progress<'a> = dyn Fn(&Digest, u64, u64) + Send + Sync + 'a;

/// A client of registries. Clones are the same client: they share connections, tokens and limits.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) transport: Transport,
    pub(crate) tokens: Tokens,
    pub(crate) transfers: tokio::sync::Semaphore,
    /// Files that are being pulled.
    pub(crate) targets: Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>,
}

impl Client {
    /// A client with these settings.
    ///
    /// # Errors
    /// When the settings allow nothing, a root certificate cannot be read, or TLS cannot be set up.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        settings.check()?;
        let transport = Transport::new(&settings)?;
        let permits = settings
            .max_transfers
            .min(tokio::sync::Semaphore::MAX_PERMITS);
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                transport,
                tokens: Tokens::default(),
                transfers: tokio::sync::Semaphore::new(permits),
                targets: Mutex::default(),
            }),
        })
    }

    /// What it may do.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The digest that a tag points to now (`HEAD`, end-3), or the reference's own digest if the registry has it. For a tag
    /// this is what the registry says; [`manifest`](Self::manifest) checks it.
    ///
    /// # Errors
    /// When there is no such image, it is not permitted, or the registry cannot be used.
    pub async fn resolve(
        &self,
        reference: &ImageReference,
        credentials: &Credentials,
    ) -> Result<Digest, RegistryError> {
        let access = self.access(reference, credentials, false)?;
        let work = self.tries(&access.place, || async {
            let request = manifest_request(&access.place, Method::HEAD)?;
            let response = access.call(request).await?;
            if response.status() != StatusCode::OK {
                return Err(access.refuse(response, MANIFEST).await);
            }
            let named = named_digest(&access.place, &response)?;
            match (reference.digest(), named) {
                (Some(expected), Some(found)) if expected != found => {
                    Err(wrong_digest(&access.place, expected, found).into())
                }
                (Some(expected), _) => Ok(expected),
                (None, Some(found)) => Ok(found),
                // Not all registries name it. Then only the content tells.
                (None, None) => Ok(self.get_manifest(&access).await?.digest),
            }
        });
        self.within(&access.place, work).await
    }

    /// A manifest (`GET`, end-3): bytes that have the digest which was asked for, or which the registry names.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve); when the bytes have another digest, are too many, are not a JSON object, or name more
    /// than the limits allow.
    pub async fn manifest(
        &self,
        reference: &ImageReference,
        credentials: &Credentials,
    ) -> Result<Manifest, RegistryError> {
        let access = self.access(reference, credentials, false)?;
        let work = self.tries(&access.place, || self.get_manifest(&access));
        self.within(&access.place, work).await
    }

    /// Pushes a manifest (`PUT`, end-7) under the reference's tag, or under its digest if the reference has one, and gives
    /// its digest. What it names must be there already.
    ///
    /// # Errors
    /// When it is too large or names too much, when the reference has another digest, it is not permitted, or the registry
    /// cannot be used.
    pub async fn push_manifest(
        &self,
        reference: &ImageReference,
        media_type: &str,
        bytes: impl Into<Bytes>,
        credentials: &Credentials,
    ) -> Result<Digest, RegistryError> {
        let bytes = bytes.into();
        let access = self.access(reference, credentials, true)?;
        let settings = self.settings();
        if bytes.len() as u64 > settings.max_manifest {
            let limit = settings.max_manifest;
            return Err(access.place.too_large("the manifest", limit, "bytes"));
        }
        manifest::check(&access.place, settings, &bytes)?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = reference.digest()
            && expected != digest
        {
            return Err(wrong_digest(&access.place, expected, digest));
        }
        let media_type = HeaderValue::from_str(media_type).map_err(|_| {
            RegistryError::Settings("a media type must have visible ASCII characters".to_owned())
        })?;
        let work = self.tries(&access.place, || async {
            let url = access
                .place
                .url(&format!("manifests/{}", reference.manifest_name()))?;
            let mut request = Request::new(Method::PUT, url);
            request.headers.insert(CONTENT_TYPE, media_type.clone());
            request.body = Some(bytes.clone());
            let response = access.call(request).await?;
            if !response.status().is_success() {
                return Err(access.refuse(response, "repository or upload").await);
            }
            match named_digest(&access.place, &response)? {
                Some(found) if found != digest => {
                    Err(wrong_digest(&access.place, digest, found).into())
                }
                _ => Ok(digest),
            }
        });
        self.within(&access.place, work).await
    }

    async fn get_manifest(&self, access: &Access<'_>) -> Result<Manifest, Failure> {
        let place = &access.place;
        let request = manifest_request(place, Method::GET)?;
        let response = access.call(request).await?;
        if response.status() != StatusCode::OK {
            return Err(access.refuse(response, MANIFEST).await);
        }
        let named = named_digest(place, &response)?;
        let media_type = media_type(response.headers());
        let limit = self.settings().max_manifest;
        let body = self.inner.transport.body(response, limit).await?;
        let bytes = body.ok_or_else(|| place.too_large("the manifest", limit, "bytes"))?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = place.image.digest().or(named)
            && expected != digest
        {
            return Err(wrong_digest(place, expected, digest).into());
        }
        manifest::check(place, self.settings(), &bytes)?;
        Ok(Manifest {
            digest,
            media_type,
            bytes,
        })
    }

    /// Somebody who asks for something of an image, if that is allowed.
    pub(crate) fn access<'a>(
        &'a self,
        reference: &ImageReference,
        credentials: &'a Credentials,
        push: bool,
    ) -> Result<Access<'a>, RegistryError> {
        let place = Place::of(reference)?;
        let settings = self.settings();
        if let Some(allowed) = settings
            .registries
            .as_ref()
            .filter(|_| !settings.allows(reference))
        {
            return Err(RegistryError::NotAllowed {
                reference: place.name,
                registry: reference.registry().to_owned(),
                allowed: allowed.iter().map(ToString::to_string).collect(),
            });
        }
        if let Some(registry) = credentials.registry()
            && registry != reference.registry()
        {
            return Err(RegistryError::OtherCredentials {
                reference: place.name,
                registry: registry.to_owned(),
            });
        }
        Ok(Access {
            transport: &self.inner.transport,
            tokens: &self.inner.tokens,
            place,
            credentials,
            push,
        })
    }

    /// Tries it until it succeeds, or would not the next time.
    pub(crate) async fn tries<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        place: &Place,
        work: impl Fn() -> F,
    ) -> Result<T, RegistryError> {
        let mut tries = Tries::new(self.settings());
        loop {
            match work().await {
                Ok(done) => return Ok(done),
                Err(failure) => tries.again(place, failure).await?,
            }
        }
    }

    /// Limits the time of a call.
    pub(crate) async fn within<T>(
        &self,
        place: &Place,
        work: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let limit = self.settings().whole_timeout;
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(RegistryError::TimedOut {
                reference: place.name.clone(),
                limit,
            }),
        }
    }
}

fn manifest_request(place: &Place, method: Method) -> Result<Request, RegistryError> {
    let url = place.url(&format!("manifests/{}", place.image.manifest_name()))?;
    let mut request = Request::new(method, url);
    request
        .headers
        .insert(ACCEPT, HeaderValue::from_static(manifest::ACCEPTED));
    Ok(request)
}

/// The digest that an answer names. Those of other algorithms cannot be checked here and count as none.
fn named_digest(place: &Place, response: &Response) -> Result<Option<Digest>, RegistryError> {
    let Some(value) = response.headers().get(DIGEST_HEADER) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    if !text.starts_with("sha256:") {
        return Ok(None);
    }
    let digest = text.parse();
    digest
        .map(Some)
        .map_err(|_| place.answer("it names a digest that is none (Docker-Content-Digest)"))
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE);
    let text = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_owned()
}

pub(crate) fn wrong_digest(place: &Place, expected: Digest, found: Digest) -> RegistryError {
    RegistryError::WrongDigest {
        reference: place.name.clone(),
        expected,
        found,
    }
}
