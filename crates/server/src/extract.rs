//! What requests hold, with problems in our own words when they hold something else.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_session::{Answered, Change, UserName, sha256};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::auth::Caller;
use crate::problem::{Kind, Problem};

/// Longest `Idempotency-Key`.
const MAX_KEY: usize = 255;

/// The names in a path. What is no name names nothing, so the answer is 404.
#[derive(Debug)]
pub struct At<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(names) = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::new(Kind::NotFound, error.body_text()))?;
        Ok(Self(names))
    }
}

/// The parameters after the '?'.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(parameters) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::new(Kind::BadRequest, error.body_text()))?;
        Ok(Self(parameters))
    }
}

/// A JSON body.
#[derive(Debug)]
pub struct Body<T> {
    /// What it says.
    pub value: T,
    /// What it is.
    pub bytes: Bytes,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if let Some(content_type) = content_type {
            let text = content_type.to_str().unwrap_or_default();
            let media = text.split(';').next().unwrap_or_default().trim();
            let media = media.to_ascii_lowercase();
            if media != "application/json" && !media.ends_with("+json") {
                return Err(Problem::new(
                    Kind::UnsupportedMediaType,
                    format!("this operation takes application/json, not '{media}'"),
                ));
            }
        }
        let bytes = Bytes::from_request(request, state).await.map_err(of_body)?;
        let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            let detail = if path == "." {
                format!("the body: {inner}")
            } else {
                format!("'{path}' in the body: {inner}")
            };
            Problem::new(Kind::InvalidBody, detail)
        })?;
        deserializer
            .end()
            .map_err(|error| Problem::new(Kind::InvalidBody, format!("the body: {error}")))?;
        Ok(Self { value, bytes })
    }
}

/// The problem of a body that cannot be read.
pub(crate) fn of_body(error: BytesRejection) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Problem::new(
            Kind::TooLarge,
            "the body is larger than this operation takes; the host's configuration says how much",
        )
    } else {
        Problem::new(Kind::BadRequest, error.body_text())
    }
}

/// The revision in `If-Match`; none when it is absent or `*`.
///
/// # Errors
/// When it is no entity tag of this API.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let revision = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .and_then(|text| text.parse().ok());
    revision.map(Some).ok_or_else(|| {
        Problem::new(
            Kind::BadRequest,
            "If-Match is not an entity tag of this API, such as \"3\"",
        )
    })
}

/// The entity tag of a revision.
pub(crate) fn entity_tag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// A request that creates something, and is answered once however often it is sent.
#[derive(Debug)]
pub(crate) struct Creation {
    user: UserName,
    key: Option<String>,
    request: String,
    app: Arc<App>,
}

impl Creation {
    /// Begins a creation; `what` is the method and path, `body` all that counts besides.
    ///
    /// # Errors
    /// The answer that was given already, as a response; or a problem: the key is not one, belongs to another request,
    /// or a request with it is under way.
    pub(crate) async fn begin(
        app: &Arc<App>,
        caller: &Caller,
        headers: &HeaderMap,
        what: &str,
        body: &[u8],
    ) -> Result<Self, Response> {
        let mut creation = Self {
            user: caller.user.clone(),
            key: None,
            request: String::new(),
            app: Arc::clone(app),
        };
        let Some(header) = headers.get("idempotency-key") else {
            return Ok(creation);
        };
        let key = header.to_str().unwrap_or_default().to_owned();
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Problem::new(
                Kind::BadRequest,
                format!("Idempotency-Key must be 1 to {MAX_KEY} visible ASCII characters"),
            )
            .into_response());
        }
        creation.request = sha256(format!("{what}\n{}", sha256(body)).as_bytes());
        let slot = (creation.user.clone(), key.clone());
        if app.creating.insert(slot, ()).is_some() {
            return Err(Problem::new(
                Kind::Conflict,
                "a request with this Idempotency-Key is under way; wait for its answer",
            )
            .into_response());
        }
        // From here on dropping the creation frees the slot.
        creation.key = Some(key.clone());
        let user = creation.user.clone();
        let answered = app
            .read(move |ledger| ledger.registry().answered(&user, &key))
            .await
            .map_err(IntoResponse::into_response)?;
        match answered {
            None => Ok(creation),
            Some(answered) if answered.request == creation.request => Err(replay(answered)),
            Some(_) => Err(Problem::new(
                Kind::IdempotencyKeyReused,
                "this Idempotency-Key was used for another request; use a new key for each",
            )
            .into_response()),
        }
    }

    /// The change that keeps this answer for whoever sends the request again.
    pub(crate) fn answered(
        &self,
        status: StatusCode,
        location: &str,
        body: &impl Serialize,
    ) -> Option<Change> {
        Some(Change::Answered(Answered {
            user: self.user.clone(),
            key: self.key.clone()?,
            request: self.request.clone(),
            status: status.as_u16(),
            location: location.to_owned(),
            body: serde_json::to_string(body).ok()?,
            at: Timestamp::now(),
        }))
    }
}

impl Drop for Creation {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.app.creating.remove(&(self.user.clone(), key));
        }
    }
}

fn replay(answered: Answered) -> Response {
    let status = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::OK);
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::LOCATION, answered.location.as_str()),
    ];
    let mut response = (status, headers, answered.body).into_response();
    response.headers_mut().insert(
        "idempotency-replayed",
        axum::http::HeaderValue::from_static("true"),
    );
    response
}
