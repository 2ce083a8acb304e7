//! Blobs from registries to files.

use std::path::Path;
use std::sync::{Arc, PoisonError, Weak};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};

use crate::access::Access;
use crate::client::{Blob, Client, Progress, wrong_digest};
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::{RegistryError, Trouble};
use crate::manifest::check_parts;
use crate::partial::Partial;
use crate::reference::ImageReference;
use crate::retry::{Failure, Tries};
use crate::transport::Request;

impl Client {
    /// Pulls a blob (end-2) into a file, which appears once it is whole, checked and on the disk. A file of the blob's size
    /// that has this name already is taken for it.
    ///
    /// What came of a pull that failed or was given up stays beside the file and is gone on from (`Range`), if the registry
    /// can do that. Whoever pulls to the same file at the same time, in this process or another, waits and shares the
    /// result.
    ///
    /// # Errors
    /// When there is no such blob, it is not permitted, it is too large or not what its descriptor says, the registry
    /// cannot be used, or the file cannot be written.
    pub async fn pull_blob(
        &self,
        reference: &ImageReference,
        blob: &Blob,
        target: &Path,
        credentials: &Credentials,
        progress: &Progress<'_>,
    ) -> Result<(), RegistryError> {
        let access = self.access(reference, credentials, false)?;
        check_parts(&access.place, self.settings(), 0, &[blob.size])?;
        let turn = self.turn(target);
        let _turn = turn.lock().await;
        let Some(partial) = Partial::open(target, blob.size).await? else {
            progress(&blob.digest, blob.size, blob.size);
            return Ok(());
        };
        // Those who wait for others take no place.
        let _place = self.inner.transfers.acquire().await;
        let work = self.fill(&access, blob, partial, progress);
        self.within(&access.place, work).await
    }

    /// Pulls blobs, some at the same time, each into the file that `target` names. The first failure ends all.
    ///
    /// # Errors
    /// As [`pull_blob`](Self::pull_blob); when they are too many, or too large together.
    pub async fn pull_blobs(
        &self,
        reference: &ImageReference,
        blobs: &[(Blob, &Path)],
        credentials: &Credentials,
        progress: &Progress<'_>,
    ) -> Result<(), RegistryError> {
        let access = self.access(reference, credentials, false)?;
        let sizes: Vec<u64> = blobs.iter().map(|(blob, _)| blob.size).collect();
        check_parts(&access.place, self.settings(), 0, &sizes)?;
        let pulls: Vec<_> = blobs
            .iter()
            .map(|(blob, target)| self.pull_blob(reference, blob, target, credentials, progress))
            .collect();
        stream::iter(pulls)
            .buffer_unordered(self.settings().max_transfers)
            .try_collect()
            .await
    }

    /// A config (end-2): a blob that is small enough for memory.
    ///
    /// # Errors
    /// As [`pull_blob`](Self::pull_blob).
    pub async fn config(
        &self,
        reference: &ImageReference,
        blob: &Blob,
        credentials: &Credentials,
    ) -> Result<Vec<u8>, RegistryError> {
        let access = self.access(reference, credentials, false)?;
        let place = &access.place;
        let limit = self.settings().max_config;
        if blob.size > limit {
            return Err(place.too_large("the config", limit, "bytes"));
        }
        let work = self.tries(place, || async {
            let response = get(&access, blob, 0).await?;
            if response.status() != StatusCode::OK {
                return Err(access.refuse(response, &what(blob)).await);
            }
            check_length(&access, blob, &response, blob.size)?;
            let body = self.inner.transport.body(response, blob.size).await?;
            let bytes =
                body.ok_or_else(|| wrong_size(&access, blob, blob.size.saturating_add(1), true))?;
            if bytes.len() as u64 != blob.size {
                return Err(wrong_size(&access, blob, bytes.len() as u64, false).into());
            }
            let found = Digest::of(&bytes);
            if found != blob.digest {
                return Err(wrong_digest(place, blob.digest, found).into());
            }
            Ok(bytes)
        });
        self.within(place, work).await
    }

    /// One at a time in this process, without a look at the disk.
    fn turn(&self, target: &Path) -> Arc<tokio::sync::Mutex<()>> {
        let targets = self.inner.targets.lock();
        let mut targets = targets.unwrap_or_else(PoisonError::into_inner);
        targets.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = targets.get(target).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        targets.insert(target.to_owned(), Arc::downgrade(&turn));
        turn
    }

    async fn fill(
        &self,
        access: &Access<'_>,
        blob: &Blob,
        mut partial: Partial,
        progress: &Progress<'_>,
    ) -> Result<(), RegistryError> {
        // What an earlier pull has left may be damaged: it was not synced.
        let mut is_inherited = partial.length() > 0;
        let mut tries = Tries::new(self.settings());
        loop {
            progress(&blob.digest, partial.length(), blob.size);
            match self.fetch(access, blob, &mut partial, progress).await {
                Ok(()) => {}
                Err(Failure::Final(error @ RegistryError::WrongSize { .. })) => {
                    partial.delete()?;
                    return Err(error);
                }
                Err(failure) => {
                    partial.flush().await?;
                    tries.again(&access.place, failure).await?;
                    continue;
                }
            }
            let found = partial.digest();
            if found == blob.digest {
                return partial.finish().await;
            }
            if !is_inherited {
                partial.delete()?;
                return Err(wrong_digest(&access.place, blob.digest, found));
            }
            is_inherited = false;
            partial.restart().await?;
        }
    }

    /// Gets what is missing, as far as it comes.
    async fn fetch(
        &self,
        access: &Access<'_>,
        blob: &Blob,
        partial: &mut Partial,
        progress: &Progress<'_>,
    ) -> Result<(), Failure> {
        if partial.length() == blob.size {
            return Ok(());
        }
        let mut response = get(access, blob, partial.length()).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if partial.length() > 0 => {
                check_range(access, blob, partial.length(), response.headers())?;
            }
            StatusCode::OK => {
                // The whole comes, whatever was asked for.
                if partial.length() > 0 {
                    partial.restart().await?;
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE if partial.length() > 0 => {
                partial.restart().await?;
                response = get(access, blob, 0).await?;
                if response.status() != StatusCode::OK {
                    return Err(access.refuse(response, &what(blob)).await);
                }
            }
            _ => return Err(access.refuse(response, &what(blob)).await),
        }
        check_length(access, blob, &response, blob.size - partial.length())?;
        while let Some(chunk) = self.inner.transport.chunk(&mut response).await? {
            let length = partial.length() + chunk.len() as u64;
            if length > blob.size {
                return Err(wrong_size(access, blob, length, true).into());
            }
            partial.write(&chunk).await?;
            progress(&blob.digest, length, blob.size);
        }
        if partial.length() < blob.size {
            return Err(Failure::Again(Trouble::CutOff {
                done: partial.length(),
                total: blob.size,
            }));
        }
        Ok(())
    }
}

async fn get(access: &Access<'_>, blob: &Blob, from: u64) -> Result<Response, Failure> {
    let url = access.place.url(&format!("blobs/{}", blob.digest))?;
    let mut request = Request::new(Method::GET, url);
    if from > 0
        && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
    {
        request.headers.insert(RANGE, range);
    }
    access.call(request).await
}

/// Whether what comes is what is missing: `bytes from-to/total` (RFC 9110, 14.4).
fn check_range(
    access: &Access<'_>,
    blob: &Blob,
    from: u64,
    headers: &HeaderMap,
) -> Result<(), RegistryError> {
    let text = headers.get(CONTENT_RANGE);
    let text = text
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let range = text.strip_prefix("bytes ").and_then(|text| {
        let (range, total) = text.split_once('/')?;
        let (first, _last) = range.split_once('-')?;
        Some((first.trim().parse::<u64>().ok()?, total.trim()))
    });
    let Some((first, total)) = range else {
        return Err(access
            .place
            .answer("it does not say which part it sends (Content-Range)"));
    };
    if first != from {
        return Err(access
            .place
            .answer(format!("it sends from byte {first} instead of {from}")));
    }
    match total.parse() {
        Ok(total) if total != blob.size => Err(wrong_size(access, blob, total, false)),
        _ => Ok(()),
    }
}

/// What is announced is known before any of it comes. Less than the rest can be sent of a range only.
fn check_length(
    access: &Access<'_>,
    blob: &Blob,
    response: &Response,
    rest: u64,
) -> Result<(), RegistryError> {
    let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
    match response.content_length() {
        Some(length) if length > rest || (length < rest && !is_part) => {
            let found = (blob.size - rest).saturating_add(length);
            Err(wrong_size(access, blob, found, false))
        }
        _ => Ok(()),
    }
}

fn wrong_size(access: &Access<'_>, blob: &Blob, found: u64, or_more: bool) -> RegistryError {
    RegistryError::WrongSize {
        reference: access.place.name.clone(),
        digest: blob.digest,
        expected: blob.size,
        found,
        or_more,
    }
}

/// A blob, as errors call it.
pub(crate) fn what(blob: &Blob) -> String {
    format!("blob as {}", blob.digest)
}
