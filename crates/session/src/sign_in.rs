//! Tokens of identities: what connections show that have no key (`auth_mode: meid_token`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flowcell_connection::Secret;
use flowcell_egress::{Egress, EgressError, Times};
use http::header::CONTENT_LENGTH;
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use oauth2::basic::BasicClient;
use oauth2::{AuthType, ClientId, ClientSecret, Scope, TokenResponse as _, TokenUrl};
use serde::{Deserialize, Serialize};

/// Who gives tokens, if nothing else is said: Microsoft Entra ID.
pub const AUTHORITY: &str = "https://login.microsoftonline.com";
/// Characters of what an authority says of a refusal that are told.
const MAX_REASON: usize = 300;
/// How long a token is taken to hold whose authority does not say.
const USUAL: Duration = Duration::from_secs(300);

/// A client of an authority, by OAuth 2.0's client credentials (RFC 6749, 4.4): what Entra calls a service principal.
/// Printing it shows no secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The tenant, by name or number.
    pub tenant: String,
    /// The client's number.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: String,
    /// The authority's address; [`AUTHORITY`], if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// What the token is for; what the connection's type needs, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("******")
    }
}

/// A token, and how long it holds.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token.
    pub text: Secret,
    /// From when it was given.
    pub holds: Duration,
}

/// No token. No variant holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// The authority's address is none.
    #[error("'{0}' is no address of an authority and a tenant")]
    Address(String),
    /// The authority has refused, or did not answer as OAuth 2.0 says.
    #[error("{authority} gives no token: {reason}")]
    Refused {
        /// The authority.
        authority: String,
        /// Why.
        reason: String,
    },
}

impl SignIn {
    /// Where tokens come from, by Entra's convention (OAuth 2.0, version 2).
    ///
    /// # Errors
    /// When authority or tenant cannot be part of an address.
    pub fn address(&self) -> Result<url::Url, SignInError> {
        let authority = self.authority.as_deref().unwrap_or(AUTHORITY);
        let wrong = || SignInError::Address(authority.to_owned());
        let mut url = url::Url::parse(authority).map_err(|_| wrong())?;
        let is_plain = url.query().is_none() && url.fragment().is_none();
        let is_web = matches!(url.scheme(), "https" | "http") && url.has_host();
        let has_user = !url.username().is_empty() || url.password().is_some();
        if !is_plain || !is_web || has_user || self.tenant.is_empty() {
            return Err(wrong());
        }
        let mut path = url.path_segments_mut().map_err(|()| wrong())?;
        path.pop_if_empty();
        path.extend([&self.tenant, "oauth2", "v2.0", "token"]);
        drop(path);
        Ok(url)
    }

    /// Asks the authority for a token, by a way out whose policy lets it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn token(&self, scope: &str, way: &Arc<Egress>) -> Result<Token, SignInError> {
        let address = self.address()?;
        let authority = address.host_str().unwrap_or_default().to_owned();
        let refused = |reason: String| SignInError::Refused {
            authority: authority.clone(),
            reason,
        };
        let wrong = || SignInError::Address(authority.clone());
        let url = TokenUrl::new(address.to_string()).map_err(|_| wrong())?;
        let client = BasicClient::new(ClientId::new(self.client_id.clone()))
            .set_client_secret(ClientSecret::new(self.client_secret.clone()))
            .set_token_uri(url)
            .set_auth_type(AuthType::RequestBody);
        let ask = |request: oauth2::HttpRequest| {
            let way = Arc::clone(way);
            async move {
                let mut request = request.map(|body| Full::new(Bytes::from(body)));
                let length = request.body().size_hint().exact().unwrap_or_default();
                request.headers_mut().insert(CONTENT_LENGTH, length.into());
                let sent = way.send(request, None, Times::default());
                let (parts, body) = sent.await?.into_parts();
                let body = body.collect().await?.to_bytes();
                let answer = oauth2::HttpResponse::from_parts(parts, body.into());
                Ok::<_, EgressError>(answer)
            }
        };
        let scope = Scope::new(self.scope.as_deref().unwrap_or(scope).to_owned());
        let asked = client.exchange_client_credentials().add_scope(scope);
        let answer = asked.request_async(&ask).await.map_err(|error| {
            refused(match error {
                // What an authority says of a refusal names the client, the tenant and a number to look for.
                oauth2::RequestTokenError::ServerResponse(said) => {
                    let what = said.error_description().map_or("", String::as_str);
                    let line = what.lines().next().unwrap_or_default();
                    let told = format!("{} {line}", said.error());
                    let shown = told.chars().filter(|c| !c.is_control());
                    shown.take(MAX_REASON).collect::<String>().trim().to_owned()
                }
                oauth2::RequestTokenError::Request(error) => error.to_string(),
                oauth2::RequestTokenError::Parse(..) | oauth2::RequestTokenError::Other(_) => {
                    "its answer is no token".to_owned()
                }
            })
        })?;
        let text = answer.access_token().secret();
        if text.is_empty()
            || text.len() > crate::credential::MAX_SECRET
            || !text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(refused("its answer is no token".to_owned()));
        }
        Ok(Token {
            text: text.clone().into(),
            holds: answer.expires_in().unwrap_or(USUAL),
        })
    }
}
