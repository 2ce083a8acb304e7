//! A session's way out.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::address::is_public;
use crate::body::{
    Begun, Body, BoxError, Chunks, Replacer, begun, limited, reason, with_begin,
    without_placeholders,
};
use crate::error::{EgressError, Part, Wait};
use crate::exchange::{Auditor, Record};
use crate::lookup::Lookup;
use crate::origin::Origin;
use crate::policy::{Policy, shown};
use crate::secrets::{Form, Keeper, Secrets};
use crate::tls::Tls;

/// Longest address, in bytes.
const MAX_URL: usize = 64 << 10;
/// How long a connection is kept that nobody uses: a session can have made thousands, each to another host.
const IDLE: Duration = Duration::from_secs(20);
/// Connections to one host that are kept for later requests.
const IDLE_OF_HOST: usize = 64;
/// Hosts to which connections are kept; those to others are closed after each answer.
const IDLE_HOSTS: usize = 16;

/// What a session's requests may take, each of them and together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests at the same time, 1 to 10,000; others wait.
    pub concurrent: usize,
    /// Requests a minute, 1 to 1,000,000; more are refused.
    pub per_minute: u32,
    /// Bytes of a request's body, up to 1 GiB.
    pub request_bytes: u64,
    /// Bytes of an answer's body, up to 4 GiB.
    pub response_bytes: u64,
    /// Seconds for a connection to be made, up to 600.
    pub connect_seconds: u64,
    /// Seconds for all of a request and its answer, up to 86,400.
    pub total_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent: 256,
            per_minute: 6_000,
            request_bytes: 32 << 20,
            response_bytes: 128 << 20,
            connect_seconds: 10,
            total_seconds: 600,
        }
    }
}

/// What a guest asks for beside the request: the longest that it waits. The session's own limits hold as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// For the connection.
    pub connect: Option<Duration>,
    /// For the answer to begin.
    pub first_byte: Option<Duration>,
    /// Between one part of the answer and the next.
    pub between_bytes: Option<Duration>,
}

/// How a session's way out is set up.
#[derive(Debug, Clone)]
pub struct EgressOptions {
    /// What may be asked.
    pub policy: Policy,
    /// Limits.
    pub limits: Limits,
    /// How names are looked up.
    pub lookup: Arc<dyn Lookup>,
    /// Whom TLS trusts. Sessions should share it.
    pub tls: Arc<Tls>,
    /// Who is told.
    pub auditor: Arc<dyn Auditor>,
}

/// What all requests of a session go through, whatever asks: its policy and its limits.
#[derive(Debug)]
pub struct Gate {
    policy: RwLock<Arc<Policy>>,
    limits: Limits,
    lookup: Arc<dyn Lookup>,
    tls: Arc<Tls>,
    auditor: Arc<dyn Auditor>,
    permits: Arc<Semaphore>,
    rate: DefaultDirectRateLimiter,
    /// Whether the last request was one too many.
    is_over: AtomicBool,
    /// The hosts to which connections are kept, and when each was asked last.
    kept: Mutex<HashMap<Origin, Instant>>,
    /// For hosts whose addresses must be public, and for those whose need not. They share no connection.
    clients: [OnceLock<reqwest::Client>; 2],
}

/// The way out of those who share secrets.
#[derive(Debug)]
pub struct Egress {
    gate: Arc<Gate>,
    keeper: Arc<dyn Keeper>,
}

impl Gate {
    /// A session's.
    pub fn new(options: EgressOptions) -> Arc<Self> {
        let EgressOptions {
            policy,
            limits,
            lookup,
            tls,
            auditor,
        } = options;
        let per_minute = NonZeroU32::new(limits.per_minute).unwrap_or(NonZeroU32::MIN);
        Arc::new(Self {
            policy: RwLock::new(Arc::new(policy)),
            permits: Arc::new(Semaphore::new(
                limits.concurrent.clamp(1, Semaphore::MAX_PERMITS),
            )),
            rate: RateLimiter::direct(Quota::per_minute(per_minute)),
            is_over: AtomicBool::new(false),
            kept: Mutex::default(),
            limits,
            lookup,
            tls,
            auditor,
            clients: Default::default(),
        })
    }

    /// Holds requests to another policy from now on. Those under way go on.
    pub fn set_policy(&self, policy: Policy) {
        let mut held = self.policy.write().unwrap_or_else(PoisonError::into_inner);
        if **held != policy {
            *held = Arc::new(policy);
        }
    }

    /// Counts a request, whether it will be allowed or not: who is refused tries again.
    fn admit(&self, record: &Mutex<Record>) -> Result<(), EgressError> {
        let is_over = self.rate.check().is_err();
        let was_over = self.is_over.swap(is_over, Ordering::Relaxed);
        if !is_over {
            return Ok(());
        }
        if was_over {
            record
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .untold();
        }
        Err(EgressError::TooMany {
            limit: self.limits.per_minute,
        })
    }

    /// Whether connections to a host are kept: a session can ask thousands of them, and each connection is an open file.
    fn keeps(&self, to: &Origin) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if kept.len() >= IDLE_HOSTS && !kept.contains_key(to) {
            // What is this old has been closed.
            kept.retain(|_, asked| now.duration_since(*asked) < IDLE * 2);
        }
        let is_kept = kept.len() < IDLE_HOSTS || kept.contains_key(to);
        if is_kept {
            kept.insert(to.clone(), now);
        }
        is_kept
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn client(&self, may_be_private: bool) -> Result<&reqwest::Client, EgressError> {
        let [public, private] = &self.clients;
        let place = if may_be_private { private } else { public };
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let resolver = Checked {
            lookup: Arc::clone(&self.lookup),
            may_be_private,
        };
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.config()?)
            .dns_resolver(Arc::new(resolver))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_OF_HOST)
            .connect_timeout(Duration::from_secs(self.limits.connect_seconds))
            .build()
            .map_err(|error| EgressError::Setup(error.to_string()))?;
        Ok(place.get_or_init(|| client))
    }
}

impl Egress {
    /// A way through a session's gate; `keeper` knows the secrets.
    pub fn new(gate: Arc<Gate>, keeper: Arc<dyn Keeper>) -> Arc<Self> {
        Arc::new(Self { gate, keeper })
    }

    /// Makes a request for a node. Dropping the future, or the answer's body, ends it.
    ///
    /// # Errors
    /// Why it was not made, or has no answer.
    pub async fn send<B>(
        &self,
        request: Request<B>,
        node: Option<&str>,
        times: Times,
    ) -> Result<Response<Body>, EgressError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let gate = &self.gate;
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        let url = if url.len() > MAX_URL {
            Err(EgressError::TooLarge {
                what: Part::Address,
                limit: MAX_URL as u64,
            })
        } else {
            Url::parse(&url).map_err(|error| EgressError::Address(error.to_string()))
        };
        let to = url.as_ref().ok().and_then(Origin::of).map_or_else(
            || url.as_ref().map_or_else(|_| "?".to_owned(), shown),
            |origin| origin.to_string(),
        );
        let auditor = Arc::clone(&gate.auditor);
        let record = Record::new(node, parts.method.as_str(), &to, auditor);
        let record = Arc::new(Mutex::new(record));
        let whole = Duration::from_secs(gate.limits.total_seconds);
        let deadline = (Instant::now() + whole, whole);
        let sent = async {
            gate.admit(&record)?;
            let body = limited(body, gate.limits.request_bytes, &record);
            self.checked(
                parts.method,
                url?,
                parts.headers,
                body,
                times,
                deadline,
                &record,
            )
            .await
        };
        let sent = timeout_at(deadline.0, sent).await.unwrap_or({
            Err(EgressError::Timeout {
                what: Wait::Whole,
                limit: whole,
            })
        });
        if let Err(error) = &sent {
            record
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .failed(error);
        }
        sent
    }

    /// Holds a request to the rules, and makes it.
    #[expect(clippy::too_many_arguments, reason = "a request is that much")]
    async fn checked(
        &self,
        method: Method,
        mut url: Url,
        mut headers: HeaderMap,
        body: Chunks,
        times: Times,
        deadline: (Instant, Duration),
        record: &Arc<Mutex<Record>>,
    ) -> Result<Response<Body>, EgressError> {
        let gate = &self.gate;
        let policy = gate.policy();
        let secrets = Arc::new(self.keeper.secrets());
        let to = policy.check(&method, &url, &secrets)?;
        let permit = Arc::clone(&gate.permits).acquire_owned().await;
        let permit = permit.map_err(|error| EgressError::Setup(error.to_string()))?;
        // The client says it, by the address.
        headers.remove(HOST);
        secrets.reveal_headers(&mut headers, &to)?;
        secrets.reveal_url(&mut url, &to)?;
        if secrets.has(&to) {
            // What is compressed cannot be searched for secrets that come back.
            headers.remove(ACCEPT_ENCODING);
        }
        if !gate.keeps(&to) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let is_empty = headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length == "0");
        let body = self.body(&mut headers, body, &to, &secrets).await?;
        let mut request = gate
            .client(policy.may_be_private(&to, &secrets))?
            .request(method, url)
            .headers(headers);
        if !is_empty {
            request = request.body(body);
        }
        let first = times.first_byte.unwrap_or(deadline.1).min(deadline.1);
        let connect = times.connect.map(|connect| connect + first);
        let answer = tokio::time::timeout(connect.unwrap_or(first), request.send()).await;
        let answer = answer.map_err(|_| EgressError::Timeout {
            what: Wait::Answer,
            limit: first,
        })?;
        let answer = answer.map_err(|error| self.failed(&error, &to))?;
        let (mut parts, body) = Response::<reqwest::Body>::from(answer).into_parts();
        record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answered(parts.status.as_u16());
        let hidden = secrets.hidden(&to);
        hide(&mut parts.headers, &hidden);
        if !hidden.is_empty() {
            // It may get longer or shorter.
            parts.headers.remove(CONTENT_LENGTH);
        }
        let pause = times.between_bytes.unwrap_or(deadline.1).min(deadline.1);
        let body = Body::new(
            body,
            Replacer::new(hidden),
            gate.limits.response_bytes,
            pause,
            deadline,
            (Arc::clone(record), permit),
        );
        Ok(Response::from_parts(parts, body))
    }

    /// The body with its secrets, if it may have any.
    async fn body(
        &self,
        headers: &mut HeaderMap,
        mut chunks: Chunks,
        to: &Origin,
        secrets: &Arc<Secrets>,
    ) -> Result<reqwest::Body, EgressError> {
        let scanned = |chunks| {
            let scanned = without_placeholders(chunks, Arc::clone(secrets), to.clone());
            reqwest::Body::wrap_stream(scanned)
        };
        let form = headers.get(CONTENT_TYPE).and_then(form_of);
        let (true, Some(form)) = (secrets.has(to), form) else {
            return Ok(scanned(chunks));
        };
        let whole = match begun(&mut chunks).await? {
            Begun::Part(part) => return Ok(scanned(with_begin(part, chunks))),
            Begun::Whole(whole) => whole,
        };
        let revealed = secrets.reveal(&whole, to, form)?;
        let whole = revealed.map_or(whole, Bytes::from);
        headers.insert(CONTENT_LENGTH, whole.len().into());
        Ok(whole.into())
    }

    fn failed(&self, error: &reqwest::Error, to: &Origin) -> EgressError {
        // The rules' own errors come wrapped: from the look-up of the name, or from the request's body.
        let mut source: Option<&dyn std::error::Error> = Some(error);
        while let Some(cause) = source {
            if let Some(own) = cause.downcast_ref::<EgressError>() {
                return own.clone();
            }
            source = cause.source();
        }
        if error.is_connect() && error.is_timeout() {
            return EgressError::Timeout {
                what: Wait::Connection,
                limit: Duration::from_secs(self.gate.limits.connect_seconds),
            };
        }
        EgressError::Connection {
            host: to.host().to_owned(),
            reason: reason(error),
            is_connect: error.is_connect(),
        }
    }
}

/// How a body's type writes texts; `None` for types that secrets are not put into.
fn form_of(content_type: &http::HeaderValue) -> Option<Form> {
    let text = content_type.to_str().ok()?;
    let kind = text.split(';').next()?.trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Some(Form::Json),
        "application/x-www-form-urlencoded" => Some(Form::Url),
        kind if kind.starts_with("application/") && kind.ends_with("+json") => Some(Form::Json),
        _ => None,
    }
}

/// Hides what an answer's headers have of secrets.
fn hide(headers: &mut HeaderMap, hidden: &[(Vec<u8>, Vec<u8>)]) {
    for value in headers.values_mut() {
        let mut replacer = Replacer::new(hidden.to_vec());
        let mut shown = replacer
            .push(Bytes::copy_from_slice(value.as_bytes()))
            .to_vec();
        shown.extend_from_slice(&replacer.end());
        if shown != value.as_bytes() {
            // Placeholders have no character that a header could not have.
            *value = http::HeaderValue::from_bytes(&shown)
                .unwrap_or(http::HeaderValue::from_static("******"));
        }
    }
}

/// Looks names up, and keeps back what is not public: what it gives is what is connected to.
struct Checked {
    lookup: Arc<dyn Lookup>,
    may_be_private: bool,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (lookup, may_be_private) = (Arc::clone(&self.lookup), self.may_be_private);
        Box::pin(async move {
            let host = name.as_str();
            let found = lookup.lookup(host).await;
            let found = found.map_err(|error| EgressError::Unknown {
                host: host.to_owned(),
                reason: error.to_string(),
            })?;
            // One that is not public is enough: whoever gives such an address for a name means no good, or means others.
            if !may_be_private && !found.iter().copied().all(is_public) {
                return Err(EgressError::Private {
                    host: host.to_owned(),
                }
                .into());
            }
            let found: Vec<SocketAddr> = found.into_iter().map(|ip| (ip, 0).into()).collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
