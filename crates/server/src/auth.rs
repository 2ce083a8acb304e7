//! Who asks: API keys and tokens.

mod keys;
mod oidc;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flowcell_session::{Name, Role, UserName};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use jiff::Timestamp;

pub(crate) use self::keys::NewKey;
pub(crate) use self::oidc::Oidc;
use crate::app::App;
use crate::config::ServerConfig;
use crate::problem::{Kind, Problem};

/// Wrong keys that one address may send in a second; an API key cannot be guessed anyway, but the log can be filled.
const FAILURES_PER_SECOND: NonZero<u32> = NonZero::new(10).unwrap();
/// Addresses and keys that the limiters remember before they forget those that are no longer limited.
const REMEMBERED: usize = 10_000;

/// Whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user: UserName,
    /// Whether the user administers the host.
    pub admin: bool,
    /// The public part of the API key that the caller came with; none for a token.
    pub key: Option<String>,
    /// From when on the key or token is refused.
    pub expires: Option<Timestamp>,
}

impl Caller {
    /// Whether the key or token is still good, for what goes on after the request was let in.
    pub fn is_still_known(&self, app: &App) -> bool {
        let is_there = |key: &String| app.ledger().state().keys.contains_key(key);
        let has_expired = self.expires.is_some_and(|at| at <= Timestamp::now());
        self.key.as_ref().is_none_or(is_there) && !has_expired
    }

    /// Asserts that the caller administers the host.
    ///
    /// # Errors
    /// 403 if not.
    pub fn require_admin(&self) -> Result<(), Problem> {
        if self.admin {
            Ok(())
        } else {
            Err(Problem::new(
                Kind::Forbidden,
                format!("user {} does not administer this host", self.user),
            ))
        }
    }

    /// The caller's role in a workspace.
    ///
    /// # Errors
    /// 404 when there is no such workspace or the caller has no role there: a tenant's workspace does not exist for
    /// others.
    pub fn role(&self, app: &App, workspace: &Name) -> Result<Role, Problem> {
        let state = app.ledger().state();
        state
            .workspaces
            .get(workspace)
            .and_then(|workspace| workspace.roles.get(&self.user))
            .copied()
            .ok_or_else(|| Problem::not_found("workspace", workspace.as_str()))
    }

    /// Asserts that the caller has at least this role in a workspace.
    ///
    /// # Errors
    /// 404 as for [`Caller::role`]; 403 when the role is a lesser one.
    pub fn require(&self, app: &App, workspace: &Name, least: Role) -> Result<Role, Problem> {
        let role = self.role(app, workspace)?;
        if role >= least {
            Ok(role)
        } else {
            Err(Problem::new(
                Kind::Forbidden,
                format!(
                    "this needs the role {}; user {} is {} in workspace {workspace}",
                    least.as_str(),
                    self.user,
                    role.as_str()
                ),
            ))
        }
    }
}

/// Keeps anybody from asking too much.
#[derive(Debug)]
pub struct Limits {
    requests: DefaultKeyedRateLimiter<UserName>,
    failures: DefaultKeyedRateLimiter<IpAddr>,
}

impl Limits {
    /// Limits as configured.
    pub fn new(config: &ServerConfig) -> Self {
        let at_least_one = |number: u32| NonZero::new(number).unwrap_or(NonZero::<u32>::MIN);
        let requests = Quota::per_second(at_least_one(config.requests_per_second))
            .allow_burst(at_least_one(config.request_burst));
        Self {
            requests: RateLimiter::keyed(requests),
            failures: RateLimiter::keyed(Quota::per_second(FAILURES_PER_SECOND)),
        }
    }

    fn request(&self, user: &UserName) -> Result<(), Problem> {
        forget(&self.requests);
        self.requests.check_key(user).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            Problem::new(
                Kind::TooMany,
                format!("user {user} sends more requests than allowed"),
            )
            .retry_after(wait.as_secs() + 1)
        })
    }

    fn failure(&self, address: IpAddr) -> Result<(), Problem> {
        forget(&self.failures);
        self.failures.check_key(&address).map_err(|_| {
            Problem::new(
                Kind::TooMany,
                "too many requests with wrong keys come from this address",
            )
            .retry_after(1)
        })
    }
}

/// Bounds what a limiter remembers.
fn forget<K: std::hash::Hash + Eq + Clone>(limiter: &DefaultKeyedRateLimiter<K>) {
    if limiter.len() > REMEMBERED {
        limiter.retain_recent();
    }
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = match authenticate(parts, app).await {
            Ok(caller) => caller,
            Err(problem) => {
                if let Some(ConnectInfo(address)) =
                    parts.extensions.get::<ConnectInfo<SocketAddr>>()
                {
                    app.limits().failure(address.ip())?;
                }
                return Err(problem);
            }
        };
        app.limits().request(&caller.user)?;
        Ok(caller)
    }
}

async fn authenticate(parts: &Parts, app: &App) -> Result<Caller, Problem> {
    let refused = |detail: &str| Problem::new(Kind::Unauthorized, detail);
    let header = parts
        .headers
        .get(AUTHORIZATION)
        .ok_or_else(|| refused("send 'Authorization: Bearer KEY', with an API key or a token"))?;
    let credential = credential(header)
        .ok_or_else(|| refused("the Authorization header is not 'Bearer KEY'"))?;
    let credential = credential.trim();
    if credential.starts_with(keys::PREFIX) {
        return keys::check(&app.ledger().state(), credential);
    }
    match app.oidc() {
        Some(oidc) => {
            let (user, expires) = oidc.user_of(credential).await?;
            let state = app.ledger().state();
            let admin = state.users.get(&user).is_some_and(|user| user.admin);
            Ok(Caller {
                user,
                admin,
                key: None,
                expires,
            })
        }
        None => Err(refused(
            "this is no API key, and the host takes no other tokens",
        )),
    }
}

/// The key or token of an `Authorization` header. Clients that only take an address have the key as its password:
/// `http://user:KEY@host/` (the user does not count).
fn credential(header: &HeaderValue) -> Option<Cow<'_, str>> {
    let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Cow::Borrowed(rest));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    Some(Cow::Owned(password.to_owned()))
}
