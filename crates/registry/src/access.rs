//! Requests of somebody: credentials, tokens, and what a refusal means.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::time::Instant;

use crate::challenge::{self, Challenge};
use crate::credentials::Credentials;
use crate::error::{RegistryError, Trouble, quoted};
use crate::place::{Origin, Place};
use crate::retry::Failure;
use crate::transport::{Authorization, Request, Transport};

/// Most bytes of a token server's answer.
const MAX_TOKEN: u64 = 256 << 10;
/// Most bytes that are read of what a registry says about a failure.
const MAX_REFUSAL: u64 = 16 << 10;
/// Most tokens that are kept.
const MAX_TOKENS: usize = 1_000;
/// How long a token is good when its server does not say it (token authentication specification, "Token Response Fields").
const TOKEN_TIME: u64 = 60;
/// Tokens are not used any more so long before they end.
const TOKEN_MARGIN: u64 = 10;
/// Longest time for which a token is kept.
const MAX_TOKEN_TIME: u64 = 3600;

/// What proved a client before.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<Key, (Authorization, Instant)>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    registry: String,
    repository: String,
    push: bool,
    who: [u8; 32],
}

impl Tokens {
    fn get(&self, key: &Key) -> Option<Authorization> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (authorization, until) = tokens.get(key)?;
        (*until > Instant::now()).then(|| authorization.clone())
    }

    fn put(&self, key: Key, authorization: Authorization, time: u64) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if tokens.len() >= MAX_TOKENS {
            tokens.retain(|_, (_, until)| *until > now);
        }
        if tokens.len() >= MAX_TOKENS {
            tokens.clear();
        }
        let until =
            now + Duration::from_secs(time.min(MAX_TOKEN_TIME).saturating_sub(TOKEN_MARGIN));
        tokens.insert(key, (authorization, until));
    }

    fn remove(&self, key: &Key) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.remove(key);
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tokens")
    }
}

/// Somebody who asks for something of an image.
#[derive(Debug)]
pub(crate) struct Access<'a> {
    pub(crate) transport: &'a Transport,
    pub(crate) tokens: &'a Tokens,
    pub(crate) place: Place,
    pub(crate) credentials: &'a Credentials,
    /// Whether to write.
    pub(crate) push: bool,
}

/// The answer of a token server. Other fields are of no use here.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What a registry says about failures (OCI distribution specification, "Error Codes").
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalError>,
}

#[derive(Deserialize)]
struct RefusalError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Access<'_> {
    /// Sends a request, with what proves the client if the registry wants that, and gives any answer but a 401.
    pub(crate) async fn call(&self, request: Request) -> Result<Response, Failure> {
        let known = self.authorization();
        let response = self
            .transport
            .send(&self.place, request.clone(), known)
            .await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        self.tokens.remove(&self.key());
        // Another host that this one led to may not say where credentials go.
        if Origin::of(response.url()) != self.place.origin() {
            return Err(self.refuse(response, "").await);
        }
        let challenges = challenges(response.headers());
        let Some(authorization) = self.authorize(&challenges).await? else {
            return Err(self.refuse(response, "").await);
        };
        let response = self
            .transport
            .send(&self.place, request, Some(authorization))
            .await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.tokens.remove(&self.key());
            return Err(self.refuse(response, "").await);
        }
        Ok(response)
    }

    /// What proves the client, as far as that is known without asking.
    pub(crate) fn authorization(&self) -> Option<Authorization> {
        match self.credentials.bearer_header() {
            Some(value) => Authorization::new(self.place.origin(), &value),
            None => self.tokens.get(&self.key()),
        }
    }

    /// Forgets it, when the registry does not want it any more.
    pub(crate) fn forget(&self) {
        self.tokens.remove(&self.key());
    }

    /// The error for an answer that is none of those that were hoped for. `what` is what was asked for.
    pub(crate) async fn refuse(&self, response: Response, what: &str) -> Failure {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = self.transport.body(response, MAX_REFUSAL).await;
        let message = match body {
            Ok(Some(body)) => refusal(&body),
            // The status says enough.
            Ok(None) | Err(_) => String::new(),
        };
        let reference = self.place.name.clone();
        let registry = self.place.registry().to_owned();
        match status.as_u16() {
            401 | 403 => Failure::Final(RegistryError::NotPermitted {
                reference,
                registry,
                anonymous: self.credentials.registry().is_none(),
                message,
            }),
            404 if !what.is_empty() => Failure::Final(RegistryError::NotFound {
                reference,
                what: what.to_owned(),
                message,
            }),
            408 | 429 | 500..=599 => Failure::Again(Trouble::Status {
                status: status.as_u16(),
                retry_after,
                message,
            }),
            status if message.is_empty() => self.place.answer(format!("status {status}")).into(),
            status => self
                .place
                .answer(format!("status {status}: {message}"))
                .into(),
        }
    }

    /// Gets what the registry wants to see; `None` if there is nothing that it would take.
    async fn authorize(&self, challenges: &[Challenge]) -> Result<Option<Authorization>, Failure> {
        let of = |scheme| challenges.iter().find(|one| one.scheme == scheme);
        // A token that was given has been refused, and nothing else is known.
        if self.credentials.bearer_header().is_some() {
            return Ok(None);
        }
        if let Some(challenge) = of("bearer") {
            return self.token(challenge).await.map(Some);
        }
        let Some(value) = of("basic").and(self.credentials.basic_header()) else {
            return Ok(None);
        };
        let authorization = Authorization::new(self.place.origin(), &value);
        if let Some(authorization) = &authorization {
            let authorization = authorization.clone();
            self.tokens.put(self.key(), authorization, MAX_TOKEN_TIME);
        }
        Ok(authorization)
    }

    /// Asks a token server, as in <https://distribution.github.io/distribution/spec/auth/token/>.
    async fn token(&self, challenge: &Challenge) -> Result<Authorization, Failure> {
        let realm = challenge.parameter("realm").unwrap_or_default();
        let Ok(mut url) = Url::parse(realm) else {
            return Err(self
                .place
                .answer("it wants a token from what is no address")
                .into());
        };
        let actions = if self.push { "pull,push" } else { "pull" };
        let repository = self.place.image.repository();
        if let Some(service) = challenge.parameter("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut()
            .append_pair("scope", &format!("repository:{repository}:{actions}"));
        let basic = self.credentials.basic_header();
        let authorization = basic.and_then(|value| Authorization::new(Origin::of(&url), &value));
        let request = Request::new(Method::GET, url);
        let response = self
            .transport
            .send(&self.place, request, authorization)
            .await?;
        if response.status() != StatusCode::OK {
            return Err(self.refuse(response, "").await);
        }
        let body = self.transport.body(response, MAX_TOKEN).await?;
        let token = body.and_then(|body| serde_json::from_slice::<Token>(&body).ok());
        let unusable = || self.place.answer("its token server gives no token");
        let token = token.ok_or_else(unusable)?;
        let time = token.expires_in.unwrap_or(TOKEN_TIME);
        let text = token.token.or(token.access_token);
        let text = text.filter(|text| !text.is_empty()).ok_or_else(unusable)?;
        let value = format!("Bearer {text}");
        let authorization = Authorization::new(self.place.origin(), &value);
        let authorization = authorization.ok_or_else(unusable)?;
        self.tokens.put(self.key(), authorization.clone(), time);
        Ok(authorization)
    }

    fn key(&self) -> Key {
        Key {
            registry: self.place.registry().to_owned(),
            repository: self.place.image.repository().to_owned(),
            push: self.push,
            who: self.credentials.fingerprint(),
        }
    }
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(challenge::parse).collect()
}

/// What a registry says, if it does so as specified; else how the answer begins.
fn refusal(body: &[u8]) -> String {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => {
            let said = refusal.errors.iter().map(|error| match &error.message {
                message if message.is_empty() => error.code.to_lowercase(),
                message => message.clone(),
            });
            quoted(&said.collect::<Vec<_>>().join("; "))
        }
        Err(_) => quoted(&String::from_utf8_lossy(body)),
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new();
    let until = date.parse_timestamp(text).ok()?;
    let seconds = until.as_second() - jiff::Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn how_long_to_wait_is_read() {
        let read = |text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            retry_after(&headers)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("0"), Some(Duration::ZERO));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let far = read("Wed, 06 Nov 2999 08:49:37 GMT");
        assert!(far.is_some_and(|far| far > Duration::from_secs(1_000_000)));
        assert_eq!(read("-1"), None);
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn what_a_registry_says_is_found() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\nway"},{"code":"UNKNOWN"}]}"#;
        assert_eq!(refusal(body), "no way; unknown");
        assert_eq!(refusal(b"<html>\xff"), "<html>\u{fffd}");
        assert_eq!(refusal(b""), "");
    }
}
