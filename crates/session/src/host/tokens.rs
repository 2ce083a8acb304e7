//! Tokens for connections that sign in with the session's identity, kept until they are about to expire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use flowcell_connection::{Connection, ConnectionSet, Secret};
use flowcell_egress::{
    Auditor, Egress, EgressOptions, Exchange, Gate, Limits, Origin, Policy, Secrets, SystemLookup,
};
use flowcell_worker::{NetworkSpec, read_authorities};
use futures_util::FutureExt as _;
use tokio::sync::Semaphore;

use super::Inner;
use crate::credential::{CredentialHost, CredentialKind, CredentialSecret, Holder};
use crate::name::{Name, UserName};
use crate::session::{Identity, Session};
use crate::sign_in::{SignIn, Token};

/// What an authority's answer may have, in bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// How long an authority may take.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// A token is not used within this time of its end, or half the time that it holds: a call that has it must come to its own.
const MARGIN: Duration = Duration::from_secs(300);
/// Requests for tokens of one workspace that are under way at once.
const AT_ONCE: usize = 8;
/// How long it is remembered that there was none.
const REFUSED: Duration = Duration::from_secs(30);
/// Tokens that are kept.
const KEPT: usize = 10_000;

/// As whom a session signs in.
#[derive(Debug)]
pub(super) struct Signer {
    workspace: Name,
    user: UserName,
    identity: Identity,
}

impl Signer {
    /// As whom a session does by now.
    pub(super) fn of(session: &Session) -> Self {
        Self {
            workspace: session.workspace.clone(),
            user: session.user.clone(),
            identity: session.identity.clone(),
        }
    }
}

/// The tokens of a host's identities.
#[derive(Debug)]
pub(super) struct Tokens {
    network: NetworkSpec,
    way: OnceLock<Result<Arc<Egress>, String>>,
    kept: Mutex<HashMap<String, Arc<Kept>>>,
    /// Places for requests under way, of each workspace: authorities are whoever a workspace names, and can be slow.
    places: Mutex<HashMap<Name, Arc<Semaphore>>>,
}

/// A token, or why there is none; whoever asks while it is asked for waits for that.
#[derive(Debug, Default)]
struct Kept(tokio::sync::Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    token: Result<Secret, String>,
    asked: Instant,
    until: Instant,
}

/// Requests for tokens are nobody's but the host's: they are in its log.
#[derive(Debug)]
struct Log;

impl Auditor for Log {
    fn record(&self, exchange: Exchange) {
        tracing::info!(
            target: "flowcell::audit",
            to = exchange.to,
            status = exchange.status,
            error = exchange.error,
            "a request for a token"
        );
    }
}

impl Tokens {
    /// Asks authorities as the host's network settings say.
    pub(super) fn new(network: NetworkSpec) -> Self {
        Self {
            network,
            way: OnceLock::new(),
            kept: Mutex::default(),
            places: Mutex::default(),
        }
    }

    /// Whether a secret may go to a host as it is: only if it is encrypted on its way, or stays where the operator says.
    fn may_send(&self, origin: &Origin) -> bool {
        let mut private = self.network.private.iter();
        origin.is_https() || private.any(|pattern| pattern.matches(origin.host(), origin.port()))
    }

    fn places(&self, workspace: &Name) -> Arc<Semaphore> {
        let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, places| Arc::strong_count(places) > 1);
        let places = all.entry(workspace.clone());
        Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))))
    }

    fn way(&self) -> Result<&Arc<Egress>, String> {
        let made = self.way.get_or_init(|| {
            let tls = read_authorities(self.network.ca_file.as_deref());
            let tls = Arc::new(tls.map_err(|error| error.message)?);
            let gate = Gate::new(EgressOptions {
                policy: Policy {
                    rules: vec![("the server", self.network.host.clone())],
                    private: self.network.private.clone(),
                    private_endpoints: false,
                },
                limits: Limits {
                    concurrent: 10_000,
                    per_minute: 1_000_000,
                    response_bytes: MAX_ANSWER,
                    total_seconds: ANSWER_TIME.as_secs(),
                    ..Limits::default()
                },
                lookup: Arc::new(SystemLookup),
                tls,
                auditor: Arc::new(Log),
            });
            Ok(Egress::new(gate, Arc::new(Secrets::default())))
        });
        made.as_ref().map_err(Clone::clone)
    }

    /// The token of a workspace's client. `mark` tells it from others, and from what it was before it was set anew.
    async fn of(
        &self,
        workspace: &Name,
        mark: &str,
        sign_in: &SignIn,
        scope: &str,
    ) -> Result<Secret, String> {
        let address = sign_in.address().map_err(|error| error.to_string())?;
        if !Origin::of(&address).is_some_and(|origin| self.may_send(&origin)) {
            return Err(format!(
                "the authority {} is to be asked by https",
                address.host_str().unwrap_or_default()
            ));
        }
        let began = Instant::now();
        let kept = {
            let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= KEPT {
                all.retain(|_, kept| kept.is_of_use(began));
            }
            if all.len() >= KEPT {
                // Those that are asked for at this moment are held by whoever asks.
                all.retain(|_, kept| Arc::strong_count(kept) > 1);
            }
            let of = format!("{workspace} {mark} {scope}");
            Arc::clone(all.entry(of).or_default())
        };
        let mut known = kept.0.lock().await;
        if let Some(known) = &*known
            // What was asked for meanwhile is as good as what this would ask for.
            && (Instant::now() < known.until || known.asked >= began)
        {
            return known.token.clone();
        }
        let places = self.places(workspace);
        let _place = places.acquire().await.map_err(|error| error.to_string())?;
        let asked = Instant::now();
        let given = sign_in.token(scope, self.way()?).await;
        let (token, holds) = match given {
            Ok(Token { text, holds }) => (Ok(text), holds - MARGIN.min(holds / 2)),
            Err(error) => (Err(error.to_string()), REFUSED),
        };
        let now = Instant::now();
        *known = Some(Known {
            token: token.clone(),
            asked,
            // Nobody gives tokens for longer than clocks count.
            until: now.checked_add(holds).unwrap_or(now),
        });
        token
    }
}

impl Kept {
    fn is_of_use(&self, now: Instant) -> bool {
        // One that is held is being asked for.
        let Ok(known) = self.0.try_lock() else {
            return true;
        };
        known.as_ref().is_some_and(|known| now < known.until)
    }
}

impl Inner {
    /// Connections with the tokens of a session's identity, where they sign in with one.
    pub(super) async fn signed_in(
        &self,
        signer: &Signer,
        connections: ConnectionSet,
    ) -> ConnectionSet {
        if !connections.iter().any(|one| one.uses_identity()) {
            return connections;
        }
        let signed = connections
            .iter()
            .map(|one| self.with_token(signer, one).boxed());
        futures_util::future::join_all(signed)
            .await
            .into_iter()
            .collect()
    }

    async fn with_token(&self, signer: &Signer, connection: &Connection) -> Connection {
        if connection.uses_identity() {
            connection.with_token(self.token(signer, connection).await)
        } else {
            connection.clone()
        }
    }

    async fn token(&self, signer: &Signer, connection: &Connection) -> Result<Secret, String> {
        let name = connection.name();
        let signs_in = format!("connection '{name}' signs in with the session's identity");
        let origins = connection.origins();
        let (Some(scope), Some(origin)) = (connection.scope(), origins.first()) else {
            return Err(format!("{signs_in}, and has no address"));
        };
        if !self.tokens.may_send(origin) {
            return Err(format!(
                "{signs_in}, whose token goes out by https only; its address is {origin}"
            ));
        }
        let host = CredentialHost::new(&format!("{}:{}", origin.host(), origin.port()));
        let host = host.map_err(|error| format!("{signs_in}, and its address is none: {error}"))?;
        let held = {
            let state = self.ledger.state();
            let workspace = state
                .workspace(&signer.workspace)
                .map_err(|error| error.to_string())?;
            let holder = workspace
                .holder(&signer.user, &signer.identity)
                .map_err(|error| error.to_string())?;
            let whose = match &holder {
                Holder::Identity(name) => format!("identity {name}"),
                Holder::User(user) => format!("user {user}"),
            };
            let key = (holder, CredentialKind::Connection, host);
            let Some(stored) = workspace.credentials.get(&key) else {
                let host = &key.2;
                return Err(format!(
                    "{signs_in}, and {whose} has no credential for {host}; `flowcell credential set {host} --kind connection` sets one"
                ));
            };
            let opened = stored.open(workspace, &self.settings.secrets);
            opened.map(|opened| (opened, stored.sealed.mark()))
        };
        match held {
            Ok((CredentialSecret::Token(token), _)) => Ok(token.into()),
            Ok((CredentialSecret::SignIn(sign_in), mark)) => {
                let token = self.tokens.of(&signer.workspace, &mark, &sign_in, scope);
                let token = token.await;
                token.map_err(|error| format!("{signs_in}: {error}"))
            }
            Ok((CredentialSecret::Password { .. }, _)) => Err(format!(
                "{signs_in}, which needs a token, and there is a password"
            )),
            Err(error) => Err(format!(
                "{signs_in}, and its credential cannot be opened: {error}"
            )),
        }
    }
}
