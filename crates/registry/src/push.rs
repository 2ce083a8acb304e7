//! Blobs from files and memory to registries.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Method, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use crate::access::Access;
use crate::client::{Blob, Client, Progress};
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::{IoContext as _, RegistryError, Trouble};
use crate::manifest::check_parts;
use crate::pull::what;
use crate::reference::ImageReference;
use crate::retry::Failure;
use crate::transport::{Request, location};

/// Bytes that are read from a file at once.
const CHUNK: usize = 256 << 10;

/// Where the content of a blob is that is pushed.
#[derive(Debug, Clone)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// In memory.
    Bytes(Bytes),
}

impl Client {
    /// Pushes a blob in one piece (`POST`, then `PUT`: end-4a and end-6), unless the registry has it (`HEAD`, end-2). Content
    /// that is not what `blob` says is not completed.
    ///
    /// # Errors
    /// When it is too large, it is not permitted, the registry cannot be used, or the content cannot be read or is not what
    /// `blob` says.
    pub async fn push_blob(
        &self,
        reference: &ImageReference,
        blob: &Blob,
        source: &Source,
        credentials: &Credentials,
        progress: &Progress<'_>,
    ) -> Result<(), RegistryError> {
        let access = self.access(reference, credentials, true)?;
        check_parts(&access.place, self.settings(), 0, &[blob.size])?;
        let _place = self.inner.transfers.acquire().await;
        let work = self.tries(&access.place, || async {
            if !has(&access, blob).await? {
                self.upload(&access, blob, source, progress).await?;
            }
            Ok(())
        });
        self.within(&access.place, work).await?;
        progress(&blob.digest, blob.size, blob.size);
        Ok(())
    }

    async fn upload(
        &self,
        access: &Access<'_>,
        blob: &Blob,
        source: &Source,
        progress: &Progress<'_>,
    ) -> Result<(), Failure> {
        progress(&blob.digest, 0, blob.size);
        let content = Content::open(access, blob, source).await?;
        let mut begin = Request::new(Method::POST, access.place.url("blobs/uploads/")?);
        begin
            .headers
            .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let response = access.call(begin).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(access.refuse(response, "repository").await);
        }
        let mut url = location(&access.place, &response)?;
        url.query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());
        let mut request = Request::new(Method::PUT, url);
        let headers = &mut request.headers;
        headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );

        let fault = Arc::clone(&content.fault);
        let (sent, watched) = watch::channel(0);
        let body = Body::wrap_stream(content.stream(sent));
        let authorization = access.authorization();
        let sending = self
            .inner
            .transport
            .upload(&access.place, request, body, authorization);
        let response = self.watch(blob, sending, watched, progress).await;
        if let Some(message) = fault.get() {
            return Err(Failure::Final(RegistryError::Source {
                reference: access.place.name.clone(),
                digest: blob.digest,
                message: message.clone(),
            }));
        }
        let response = response?;
        match response.status() {
            StatusCode::CREATED => Ok(()),
            // What was good when the upload began may have ended since. The next try asks for another.
            StatusCode::UNAUTHORIZED if access.credentials.bearer_header().is_none() => {
                access.forget();
                Err(Failure::Again(Trouble::Status {
                    status: 401,
                    retry_after: None,
                    message: String::new(),
                }))
            }
            _ => Err(access.refuse(response, "upload").await),
        }
    }

    /// Waits for the answer as long as something is taken.
    async fn watch(
        &self,
        blob: &Blob,
        sending: impl Future<Output = Result<Response, Failure>>,
        mut watched: watch::Receiver<u64>,
        progress: &Progress<'_>,
    ) -> Result<Response, Failure> {
        let idle = self.inner.transport.idle();
        let mut sending = std::pin::pin!(sending);
        loop {
            let is_moving = async {
                if watched.changed().await.is_err() {
                    // All is sent, or nothing more will be. What is waited for is the answer.
                    std::future::pending::<()>().await;
                }
            };
            let step = async {
                tokio::select! {
                    response = &mut sending => Some(response),
                    () = is_moving => None,
                }
            };
            match tokio::time::timeout(idle, step).await {
                Ok(Some(response)) => return response,
                Ok(None) => progress(&blob.digest, *watched.borrow_and_update(), blob.size),
                Err(_) => return Err(Failure::Again(Trouble::Silent(idle))),
            }
        }
    }
}

/// Whether the registry has a blob.
async fn has(access: &Access<'_>, blob: &Blob) -> Result<bool, Failure> {
    let url = access.place.url(&format!("blobs/{}", blob.digest))?;
    let response = access.call(Request::new(Method::HEAD, url)).await?;
    match response.status() {
        StatusCode::OK => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        _ => Err(access.refuse(response, &what(blob)).await),
    }
}

/// Content that is checked while it is sent.
struct Content {
    rest: Rest,
    blob: Blob,
    done: u64,
    hasher: Sha256,
    /// Why it was not sent to its end.
    fault: Arc<OnceLock<String>>,
}

enum Rest {
    File(tokio::fs::File),
    Bytes(Bytes),
}

impl Content {
    async fn open(
        access: &Access<'_>,
        blob: &Blob,
        source: &Source,
    ) -> Result<Self, RegistryError> {
        let (rest, size) = match source {
            Source::File(path) => {
                let file = tokio::fs::File::open(path).await.io("read", path)?;
                let size = file.metadata().await.io("read", path)?.len();
                (Rest::File(file), size)
            }
            Source::Bytes(bytes) => (Rest::Bytes(bytes.clone()), bytes.len() as u64),
        };
        if size != blob.size {
            return Err(RegistryError::Source {
                reference: access.place.name.clone(),
                digest: blob.digest,
                message: format!("it has {size} bytes and should have {}", blob.size),
            });
        }
        Ok(Self {
            rest,
            blob: *blob,
            done: 0,
            hasher: Sha256::new(),
            fault: Arc::default(),
        })
    }

    /// The content, piece by piece, and how far it has come.
    fn stream(
        self,
        sent: watch::Sender<u64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::try_unfold((self, sent), async |(mut content, sent)| {
            match content.next().await {
                Ok(Some(piece)) => {
                    sent.send_replace(content.done);
                    Ok(Some((piece, (content, sent))))
                }
                Ok(None) => Ok(None),
                Err(message) => {
                    // Set once: nothing comes after it.
                    let _ = content.fault.set(message.clone());
                    Err(io::Error::other(message))
                }
            }
        })
    }

    /// The next piece. The last one is given out once the whole is known to be right.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let left = self.blob.size - self.done;
        if left == 0 {
            return Ok(None);
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
        let piece = match &mut self.rest {
            Rest::Bytes(bytes) => bytes.split_to(most),
            Rest::File(file) => {
                let mut buffer = vec![0; most];
                let read = file.read(&mut buffer).await;
                let read = read.map_err(|error| format!("it cannot be read: {error}"))?;
                buffer.truncate(read);
                buffer.into()
            }
        };
        if piece.is_empty() {
            return Err(format!("it ends after {} bytes", self.done));
        }
        self.hasher.update(&piece);
        self.done += piece.len() as u64;
        if self.done == self.blob.size {
            let found = Digest::finish(self.hasher.clone());
            if found != self.blob.digest {
                return Err(format!("its content is {found}"));
            }
        }
        Ok(Some(piece))
    }
}
