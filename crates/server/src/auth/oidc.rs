//! Tokens of an identity provider (OpenID Connect): JSON Web Tokens, checked with its published keys.

use std::sync::Arc;
use std::time::Duration;

use flowcell_session::UserName;
use jiff::Timestamp;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::OidcConfig;
use crate::problem::{Kind, Problem};

/// Keys are fetched anew for a token with an unknown key, but not more often than this.
const REFRESH: Duration = Duration::from_secs(10);
/// Keys are fetched anew when they are this old: one may have been withdrawn.
const STALE: Duration = Duration::from_secs(3_600);
/// The provider's answer must come within this time.
const FETCH_TIME: Duration = Duration::from_secs(10);
/// Largest key set, in bytes.
const MAX_JWKS: usize = 1 << 20;
/// Longest token, in bytes.
const MAX_TOKEN: usize = 16 << 10;
/// What a provider may sign with. Symmetric algorithms would make its public keys into secrets.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Checks tokens of one provider.
#[derive(Debug)]
pub struct Oidc {
    config: OidcConfig,
    client: reqwest::Client,
    keys: Mutex<Option<Fetched>>,
}

#[derive(Debug, Clone)]
struct Fetched {
    keys: Arc<JwkSet>,
    at: Instant,
}

impl Oidc {
    /// Checks tokens as configured.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(config: OidcConfig) -> Result<Self, reqwest::Error> {
        Ok(Self {
            config,
            client: reqwest::Client::builder()
                .timeout(FETCH_TIME)
                .redirect(reqwest::redirect::Policy::none())
                .build()?,
            keys: Mutex::default(),
        })
    }

    /// The user that a token names, and when the token ends.
    ///
    /// # Errors
    /// 401 when the token is not valid.
    pub async fn user_of(&self, token: &str) -> Result<(UserName, Option<Timestamp>), Problem> {
        let refused =
            |why: &str| Problem::new(Kind::Unauthorized, format!("the token is refused: {why}"));
        if token.len() > MAX_TOKEN {
            return Err(refused("it is too long"));
        }
        let header = decode_header(token).map_err(|_| refused("it is no JSON Web Token"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refused("its algorithm is not allowed"));
        }
        let id = header.kid.ok_or_else(|| refused("it names no key (kid)"))?;
        let keys = self.keys_with(&id).await?;
        let jwk = keys
            .find(&id)
            .ok_or_else(|| refused("the provider does not have its key"))?;
        // A key is for its own algorithm only, where it says one.
        let expected = jwk
            .common
            .key_algorithm
            .map(|algorithm| algorithm.to_string());
        if expected.is_some_and(|expected| expected != format!("{:?}", header.alg)) {
            return Err(refused("its algorithm is not its key's"));
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|_| refused("its key cannot be used"))?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        let token = decode::<Map<String, Value>>(token, &key, &validation)
            .map_err(|error| refused(&error.to_string()))?;
        let claim = &self.config.user_claim;
        let user = token
            .claims
            .get(claim)
            .and_then(Value::as_str)
            .ok_or_else(|| refused(&format!("it has no claim '{claim}'")))?;
        let user = UserName::new(format!("{}{user}", self.config.user_prefix))
            .map_err(|error| refused(&error.to_string()))?;
        let expires = token.claims.get("exp").and_then(Value::as_f64);
        let expires = expires.and_then(|seconds| Timestamp::from_second(seconds as i64).ok());
        Ok((user, expires))
    }

    /// The provider's keys; fetched when there are none, or none with this identifier, or they are old.
    async fn keys_with(&self, id: &str) -> Result<Arc<JwkSet>, Problem> {
        // Held while fetching: those who come meanwhile need the same answer.
        let mut kept = self.keys.lock().await;
        if let Some(fetched) = &*kept {
            let age = fetched.at.elapsed();
            let is_known = fetched.keys.find(id).is_some();
            if (is_known && age < STALE) || (!is_known && age < REFRESH) {
                return Ok(Arc::clone(&fetched.keys));
            }
        }
        let keys = match self.fetch().await {
            Ok(keys) => Arc::new(keys),
            Err(error) => {
                tracing::error!(
                    url = self.config.jwks_url,
                    error,
                    "the identity provider's keys cannot be fetched"
                );
                return match &*kept {
                    Some(fetched) => Ok(Arc::clone(&fetched.keys)),
                    None => Err(Problem::new(
                        Kind::Unauthorized,
                        "the identity provider's keys cannot be fetched at the moment",
                    )),
                };
            }
        };
        *kept = Some(Fetched {
            keys: Arc::clone(&keys),
            at: Instant::now(),
        });
        Ok(keys)
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let text = |error: reqwest::Error| error.to_string();
        let response = self
            .client
            .get(&self.config.jwks_url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(text)?;
        let mut body = Vec::new();
        let mut response = response;
        while let Some(chunk) = response.chunk().await.map_err(text)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_JWKS {
                return Err(format!("the key set has more than {MAX_JWKS} bytes"));
            }
        }
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }
}
