//! The tags of a repository.

use reqwest::header::LINK;
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use crate::access::Access;
use crate::client::Client;
use crate::credentials::Credentials;
use crate::error::RegistryError;
use crate::place::Origin;
use crate::reference::{ImageReference, is_tag};
use crate::retry::Failure;
use crate::transport::Request;

/// Tags that are asked for at once.
const PAGE: usize = 1_000;
/// Most bytes of one answer.
const MAX_PAGE: u64 = 4 << 20;

/// The tags of a repository, in the registry's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags {
    /// Their names.
    pub tags: Vec<String>,
    /// Whether these are all. Otherwise there are more than [`Settings::max_tags`](crate::Settings::max_tags).
    pub complete: bool,
}

#[derive(Deserialize)]
struct Page {
    // Registries in Go say `null` when there are none.
    tags: Option<Vec<String>>,
}

impl Client {
    /// The tags of the reference's repository (end-8a and end-8b); its tag and digest do not matter.
    ///
    /// # Errors
    /// When there is no such repository, it is not permitted, or the registry cannot be used.
    pub async fn tags(
        &self,
        reference: &ImageReference,
        credentials: &Credentials,
    ) -> Result<Tags, RegistryError> {
        let access = self.access(reference, credentials, false)?;
        let work = async {
            let mut next = Some(access.place.url(&format!("tags/list?n={PAGE}"))?);
            let mut tags = Vec::new();
            while let Some(url) = next {
                let page = self.tries(&access.place, || page(&access, url.clone()));
                let (more, following) = page.await?;
                // Each page brings tags, so the limit of tags also limits the pages.
                if more.is_empty() && following.is_some() {
                    return Err(access.place.answer("a page of its list of tags is empty"));
                }
                tags.extend(more);
                next = following;
                if tags.len() > self.settings().max_tags
                    || (tags.len() == self.settings().max_tags && next.is_some())
                {
                    tags.truncate(self.settings().max_tags);
                    return Ok(Tags {
                        tags,
                        complete: false,
                    });
                }
            }
            Ok(Tags {
                tags,
                complete: true,
            })
        };
        self.within(&access.place, work).await
    }
}

/// One page, and where the next one is.
async fn page(access: &Access<'_>, url: Url) -> Result<(Vec<String>, Option<Url>), Failure> {
    let response = access.call(Request::new(Method::GET, url)).await?;
    if response.status() != StatusCode::OK {
        return Err(access.refuse(response, "repository").await);
    }
    let place = &access.place;
    let next = next_page(&response).transpose();
    let next = next.map_err(|()| place.answer("its list of tags goes on at what is no address"))?;
    if next
        .as_ref()
        .is_some_and(|next| Origin::of(next) != place.origin())
    {
        return Err(place
            .answer("its list of tags goes on at another host")
            .into());
    }
    let body = access.transport.body(response, MAX_PAGE).await?;
    let body = body.ok_or_else(|| place.too_large("the list of tags", MAX_PAGE, "bytes"))?;
    let page: Page = serde_json::from_slice(&body)
        .map_err(|error| place.answer(format!("its list of tags is damaged: {error}")))?;
    let tags = page.tags.unwrap_or_default();
    if !tags.iter().all(|tag| is_tag(tag)) {
        return Err(place.answer("its list of tags has what is no tag").into());
    }
    Ok((tags, next))
}

/// `Link: <address>; rel="next"` (RFC 8288).
fn next_page(response: &Response) -> Option<Result<Url, ()>> {
    let link = response.headers().get(LINK)?.to_str().ok()?;
    let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters
        .split(';')
        .any(|one| matches!(one.trim(), "rel=\"next\"" | "rel=next"));
    is_next.then(|| response.url().join(address).map_err(|_| ()))
}
