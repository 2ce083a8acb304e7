//! What all requests share.

use std::sync::Arc;

use dashmap::DashMap;
use flowcell_session::{Change, Durability, Ledger, SessionHost, State, UserName};
use tokio_util::sync::CancellationToken;

use crate::api::executor::Batches;
use crate::auth::{Limits, Oidc};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::problem::Problem;

/// The server's state.
#[derive(Debug)]
pub struct App {
    config: Config,
    sessions: SessionHost,
    limits: Limits,
    oidc: Option<Oidc>,
    metrics: Metrics,
    /// `Idempotency-Key`s of requests under way.
    pub(crate) creating: DashMap<(UserName, String), ()>,
    /// Batches of the executor service's interface.
    pub(crate) batches: Batches,
    /// Set when the server shuts down: event streams end.
    pub(crate) ending: CancellationToken,
}

impl App {
    /// A server's state over running sessions.
    ///
    /// # Errors
    /// When the client for the identity provider cannot be made.
    pub fn new(config: Config, sessions: SessionHost) -> Result<Arc<Self>, reqwest::Error> {
        let oidc = config.auth.oidc.clone().map(Oidc::new).transpose()?;
        Ok(Arc::new(Self {
            limits: Limits::new(&config.server),
            metrics: Metrics::new(),
            config,
            sessions,
            oidc,
            creating: DashMap::new(),
            batches: Batches::default(),
            ending: CancellationToken::new(),
        }))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The sessions.
    pub fn sessions(&self) -> &SessionHost {
        &self.sessions
    }

    /// The ledger.
    pub fn ledger(&self) -> &Arc<Ledger> {
        self.sessions.ledger()
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The identity provider, if one is configured.
    pub fn oidc(&self) -> Option<&Oidc> {
        self.oidc.as_ref()
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Decides on changes by the state and stores them.
    ///
    /// # Errors
    /// The decision's problem, or one of the registry.
    pub async fn change<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let ledger = Arc::clone(self.ledger());
        blocking(move || ledger.change(Durability::Synced, decide))
            .await?
            .map_err(Problem::from)
    }

    /// Reads from the registry.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Ledger) -> Result<T, flowcell_session::RegistryError> + Send + 'static,
    ) -> Result<T, Problem> {
        let ledger = Arc::clone(self.ledger());
        blocking(move || read(&ledger))
            .await?
            .map_err(Problem::from)
    }
}

/// Runs what blocks on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Problem::internal(&error))
}
