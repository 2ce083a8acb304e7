//! Errors as clients get them: problem details (RFC 9457).

use std::error::Error;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowcell_connection::ConnectionError;
use flowcell_executor::RunError;
use flowcell_session::machine::Refusal;
use flowcell_session::{
    AdmissionError, ArchiveError, CallError, ChangeError, CopyError, EditError, EnvironmentError,
    ForkError, HibernateError, IdentityError, InvalidCredential, InvalidName, InvalidPath,
    RegistryError, SessionInstallError, StoredConnectionError, TooLarge,
};
use flowcell_worker::WorkerError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// The media type of problems.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $slug:literal, $status:ident, $title:literal;)*) => {
        /// What kind of problem it is. The slugs are part of the API and never change their meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name in `type`.
            pub fn slug(self) -> &'static str {
                match self { $(Self::$kind => $slug,)* }
            }

            /// The status that it comes with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status,)* }
            }

            /// What it means, in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)* }
            }
        }
    };
}

kinds! {
    /// The request cannot be understood.
    BadRequest, "bad-request", BAD_REQUEST, "The request cannot be understood";
    /// The body is no JSON, or not of the right shape.
    InvalidBody, "invalid-body", BAD_REQUEST, "The body is not what this operation takes";
    /// No key or token, or not a good one.
    Unauthorized, "unauthorized", UNAUTHORIZED, "A valid API key or token is needed";
    /// The caller may not do this.
    Forbidden, "forbidden", FORBIDDEN, "This is not allowed to you";
    /// It does not exist, or belongs to another tenant.
    NotFound, "not-found", NOT_FOUND, "There is no such thing";
    /// The path exists, with other methods.
    MethodNotAllowed, "method-not-allowed", METHOD_NOT_ALLOWED, "This path does not take this method";
    /// No representation that the client accepts.
    NotAcceptable, "not-acceptable", NOT_ACCEPTABLE, "There is no answer of the type that you accept";
    /// The thing is not in a state for this.
    Conflict, "conflict", CONFLICT, "It is not in a state for this";
    /// Calls are under way.
    Busy, "busy", CONFLICT, "Calls are under way";
    /// Something of the session's memory cannot be stored: `reasons` says what.
    CannotStore, "cannot-store", CONFLICT, "Something of the session cannot be stored";
    /// What a flow asks for in packages cannot be had, or does not run here.
    Environment, "environment", UNPROCESSABLE_ENTITY, "The flow's requirements cannot be met";
    /// A quota is full.
    QuotaExceeded, "quota-exceeded", CONFLICT, "A quota is full";
    /// The host is full.
    HostFull, "host-full", SERVICE_UNAVAILABLE, "The host has no room for more";
    /// The host is not ready, or shutting down.
    Unavailable, "unavailable", SERVICE_UNAVAILABLE, "The host takes no requests at the moment";
    /// The worker process that ran a session has ended.
    WorkerLost, "worker-lost", SERVICE_UNAVAILABLE, "What ran the session has ended";
    /// `If-Match` does not match.
    Stale, "stale", PRECONDITION_FAILED, "Somebody else changed it meanwhile";
    /// Larger than allowed.
    TooLarge, "too-large", PAYLOAD_TOO_LARGE, "It is larger than allowed";
    /// Of a type that is not taken.
    UnsupportedMediaType, "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "A body of this type is not taken";
    /// The values contradict the rules.
    Invalid, "invalid", UNPROCESSABLE_ENTITY, "A value breaks a rule";
    /// An `Idempotency-Key` was used for another request.
    IdempotencyKeyReused, "idempotency-key-reused", UNPROCESSABLE_ENTITY, "This Idempotency-Key belongs to another request";
    /// Too many requests or calls.
    TooMany, "too-many", TOO_MANY_REQUESTS, "Too much at once";
    /// The call was canceled.
    Canceled, "canceled", CONFLICT, "The call was canceled";
    /// It took too long.
    Timeout, "timeout", GATEWAY_TIMEOUT, "It took too long";
    /// The disk is full.
    DiskFull, "disk-full", INSUFFICIENT_STORAGE, "The host's disk is full";
    /// A mistake in flowcell or a broken host.
    Internal, "internal", INTERNAL_SERVER_ERROR, "The host failed";
}

/// A problem, as it is sent.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem; stable. As an address it leads to a description.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not-found")]
    pub kind: String,
    /// The kind in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong here, and the way out.
    pub detail: String,
    /// promptflow's error class, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Further members, by kind: `quota` of a full quota, `field` of an invalid value.
    #[serde(flatten)]
    pub more: Map<String, Value>,
    #[serde(skip)]
    retry_after: Option<u64>,
}

impl Problem {
    /// A problem of a kind.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/problems/{}", kind.slug()),
            title: kind.title().to_owned(),
            status: kind.status().as_u16(),
            detail: detail.into(),
            code: None,
            more: Map::new(),
            retry_after: None,
        }
    }

    /// Something of this workspace that is not there.
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::new(Kind::NotFound, format!("there is no {what} '{name}' here"))
    }

    /// A failure that is the host's. Its cause goes to the log, not to the client.
    pub fn internal(error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        Self::new(
            Kind::Internal,
            "the host could not do this; its log says why",
        )
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Adds promptflow's error class.
    #[must_use]
    pub fn code(mut self, class: &str) -> Self {
        self.code = Some(class.to_owned());
        self
    }

    /// Says when to try again, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds.max(1));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"flowcell\""),
            );
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::NotFound { .. } | Refusal::Missing(_) => Self::new(Kind::NotFound, detail),
            Refusal::NotYours { .. } | Refusal::Forbidden(_) => Self::new(Kind::Forbidden, detail),
            Refusal::Conflict(_) => Self::new(Kind::Conflict, detail),
            Refusal::Invalid { field, .. } => Self::new(Kind::Invalid, detail).with("field", field),
            Refusal::TooManyFlows(_) | Refusal::TooMany(_) => Self::new(Kind::QuotaExceeded, detail),
            Refusal::Quota(quota) => Self::new(Kind::QuotaExceeded, detail).with(
                "quota",
                json!({ "of": quota.whose, "wanted": quota.wanted, "used": quota.used, "free": quota.free }),
            ),
            Refusal::HostFull { .. } => Self::new(Kind::HostFull, detail).retry_after(60),
            Refusal::Stale { current, .. } => {
                Self::new(Kind::Stale, detail).with("revision", current)
            }
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Full(_) => {
                tracing::error!(error = &error as &dyn Error, "the disk is full");
                Self::new(
                    Kind::DiskFull,
                    "the host's disk is full; nothing was stored",
                )
            }
            error => Self::internal(&error),
        }
    }
}

impl<E: Into<Problem>> From<ChangeError<E>> for Problem {
    fn from(error: ChangeError<E>) -> Self {
        match error {
            ChangeError::Refused(refused) => refused.into(),
            ChangeError::Registry(error) => error.into(),
        }
    }
}

impl From<CopyError> for Problem {
    fn from(error: CopyError) -> Self {
        if matches!(error, CopyError::TooLarge) {
            Self::new(Kind::TooLarge, error.to_string())
        } else if error.is_full() {
            tracing::error!(error = &error as &dyn Error, "the disk is full");
            Self::new(Kind::DiskFull, "the host's disk is full")
        } else {
            Self::internal(&error)
        }
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let detail = error.to_string();
        match error {
            CallError::NotFound(_) => Self::new(Kind::NotFound, detail),
            CallError::NotRunning { .. } => Self::new(Kind::Conflict, detail),
            CallError::Admission(AdmissionError::TooMany { .. }) => {
                Self::new(Kind::TooMany, detail).retry_after(1)
            }
            CallError::Admission(AdmissionError::Duplicate(_)) => Self::new(Kind::Conflict, detail),
            CallError::Canceled => Self::new(Kind::Canceled, detail),
            CallError::Copy(error) => error.into(),
            CallError::Environment(_) => Self::new(Kind::Conflict, detail),
            CallError::Worker(error) => error.into(),
            CallError::Happen(error) => error.into(),
        }
    }
}

impl From<EnvironmentError> for Problem {
    fn from(error: EnvironmentError) -> Self {
        if error.is_users() {
            return Self::new(Kind::Environment, error.to_string());
        }
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "an environment could not be made"
        );
        Self::new(Kind::Unavailable, error.to_string()).retry_after(10)
    }
}

impl From<SessionInstallError> for Problem {
    fn from(error: SessionInstallError) -> Self {
        match error {
            SessionInstallError::Busy(_) => Self::new(Kind::Busy, error.to_string()).retry_after(1),
            SessionInstallError::Call(error) => error.into(),
            SessionInstallError::Environment(error) => error.into(),
            SessionInstallError::Happen(error) => error.into(),
        }
    }
}

impl From<HibernateError> for Problem {
    fn from(error: HibernateError) -> Self {
        match error {
            HibernateError::Busy(_) => Self::new(Kind::Busy, error.to_string()).retry_after(1),
            HibernateError::Session(error) => error.into(),
            HibernateError::Happen(error) => error.into(),
        }
    }
}

impl From<ForkError> for Problem {
    fn from(error: ForkError) -> Self {
        let detail = error.to_string();
        match error {
            ForkError::Busy(_) => Self::new(Kind::Busy, detail).retry_after(1),
            ForkError::CannotStore { reasons, .. } => {
                Self::new(Kind::CannotStore, detail).with("reasons", reasons)
            }
            ForkError::Session(error) => error.into(),
            ForkError::Copy(error) => error.into(),
            ForkError::Memory { .. } => Self::new(Kind::Conflict, detail),
            ForkError::Worker(error) => error.into(),
            ForkError::Happen(error) => error.into(),
        }
    }
}

impl From<WorkerError> for Problem {
    fn from(error: WorkerError) -> Self {
        let detail = error.to_string();
        match error {
            WorkerError::Lost { .. } => Self::new(Kind::WorkerLost, detail).retry_after(1),
            WorkerError::Resting { seconds, .. } => {
                Self::new(Kind::Unavailable, detail).retry_after(seconds)
            }
            WorkerError::Start { .. } => {
                tracing::error!(error = &error as &dyn Error, "a worker cannot be started");
                Self::new(Kind::Unavailable, detail).retry_after(1)
            }
            WorkerError::TooLong { .. } => Self::new(Kind::TooLarge, detail),
        }
    }
}

impl From<InvalidCredential> for Problem {
    fn from(error: InvalidCredential) -> Self {
        Self::new(Kind::Invalid, error.to_string())
    }
}

impl From<IdentityError> for Problem {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Refused(refusal) => refusal.into(),
            IdentityError::Secret(error) => Self::internal(&error),
        }
    }
}

impl From<ConnectionError> for Problem {
    fn from(error: ConnectionError) -> Self {
        let mut detail = error.to_string();
        if let Some(help) = error.help() {
            detail = format!("{detail} ({help})");
        }
        Self::new(Kind::Invalid, detail).code(error.class())
    }
}

impl From<StoredConnectionError> for Problem {
    fn from(error: StoredConnectionError) -> Self {
        match error {
            StoredConnectionError::Refused(refusal) => refusal.into(),
            StoredConnectionError::Connection(error) => error.into(),
            StoredConnectionError::Secret(error) => Self::internal(&error),
        }
    }
}

impl From<InvalidName> for Problem {
    fn from(error: InvalidName) -> Self {
        Self::new(Kind::Invalid, error.to_string())
    }
}

impl From<InvalidPath> for Problem {
    fn from(error: InvalidPath) -> Self {
        Self::new(Kind::Invalid, error.to_string())
    }
}

impl From<TooLarge> for Problem {
    fn from(error: TooLarge) -> Self {
        Self::new(Kind::TooLarge, error.to_string())
    }
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Self {
        match error {
            EditError::TooLarge(error) => error.into(),
            EditError::InTheWay { .. } => Self::new(Kind::Conflict, error.to_string()),
        }
    }
}

impl From<ArchiveError> for Problem {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::TooLarge(error) => error.into(),
            error => Self::new(Kind::Invalid, error.to_string()),
        }
    }
}

impl From<RunError> for Problem {
    fn from(error: RunError) -> Self {
        let mut detail = error.message.clone();
        if let Some(help) = &error.help {
            detail.push_str("; ");
            detail.push_str(help);
        }
        Self::new(Kind::Invalid, detail).code(&error.class)
    }
}
