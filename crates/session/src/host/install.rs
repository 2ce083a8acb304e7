//! Packages of a session that runs: installed beside what it has, and taken between calls.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::environments::{EnvironmentError, Environments, asked_digest};
use super::live::Live;
use super::{HappenError, Inner, Key, SessionEvent, SessionHost};
use crate::machine::Event;
use crate::name::UserName;
use crate::registry::Durability;
use crate::session::Packages;

/// Where the installation of a session's packages stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Installing {
    /// The step that is under way.
    pub step: Option<String>,
    /// When the last installation failed, and why. What the session had before, it has still.
    pub failed: Option<(Timestamp, String)>,
}

/// Packages that were not installed.
#[derive(Debug, thiserror::Error)]
pub enum SessionInstallError {
    /// The session takes none.
    #[error(transparent)]
    Call(#[from] super::CallError),
    /// It is at it already.
    #[error("session {0} is installing packages already; wait until that has ended")]
    Busy(String),
    /// The environment.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// What was installed could not be stored.
    #[error(transparent)]
    Happen(#[from] HappenError),
}

impl SessionHost {
    /// Installs what a session's flow asks for now. It goes on by itself when the handle is dropped; until it has ended, the
    /// session has what it had.
    ///
    /// # Errors
    /// When the session does not run, or is at it already.
    pub async fn install(
        &self,
        session: &Key,
        user: &UserName,
    ) -> Result<JoinHandle<Result<(), SessionInstallError>>, SessionInstallError> {
        let inner = Arc::clone(&self.inner);
        let live = inner.live(session).await?;
        if !live.begin_install() {
            return Err(SessionInstallError::Busy(session.1.to_string()));
        }
        inner.touch(session, &live);
        let (session, user) = (session.clone(), user.clone());
        Ok(tokio::spawn(async move {
            live.events.push(SessionEvent::InstallStarted {
                by: user.to_string(),
            });
            let installing = inner.install(&live, &session, &user);
            let ended = tokio::select! {
                biased;
                () = live.ending.cancelled() => Err(EnvironmentError::Failed("the session ended".to_owned()).into()),
                ended = installing => ended,
            };
            let why = ended.as_ref().err().map(ToString::to_string);
            live.end_install(why.clone().map(|why| (Timestamp::now(), why)));
            live.events.push(SessionEvent::InstallEnded {
                status: if why.is_none() { "Completed" } else { "Failed" },
                reason: why,
            });
            ended
        }))
    }

    /// Where the installation of a session's packages stands.
    pub fn installing(&self, session: &Key) -> Installing {
        let live = self.inner.live.get(session);
        live.map_or_else(Installing::default, |live| live.installing())
    }

    /// A session's lock: `pylock.toml`, as text.
    ///
    /// # Errors
    /// When it is gone from the store.
    pub async fn lock_text(&self, packages: &Packages) -> Result<String, EnvironmentError> {
        self.inner.environments.lock(packages).await
    }

    /// Whether a session's flow asks for other packages than the session has.
    ///
    /// # Errors
    /// When the flow's files cannot be read, or name what is not there.
    pub async fn is_outdated(
        &self,
        session: &crate::session::Session,
    ) -> Result<bool, EnvironmentError> {
        let ledger = Arc::clone(&self.inner.ledger);
        let (workspace, flow) = (session.workspace.clone(), session.flow.clone());
        let asked = Environments::asked(ledger, workspace, flow).await?;
        let asked = asked.as_ref().map(asked_digest).transpose()?;
        Ok(asked.as_ref() != session.packages.as_ref().map(|packages| &packages.asked))
    }
}

impl Inner {
    async fn install(
        self: &Arc<Self>,
        live: &Arc<Live>,
        key: &Key,
        user: &UserName,
    ) -> Result<(), SessionInstallError> {
        let session = self.session(key)?;
        let hear = |step: String| {
            live.install_step(step.clone());
            live.events.push(SessionEvent::InstallStep { step });
        };
        let packages = self.packages(&session, &session.image, &hear).await?;
        let site = packages.as_ref().and_then(|packages| packages.site.clone());
        let event = Event::Installed {
            session: key.1.clone(),
            generation: live.generation,
            packages,
            by: user.clone(),
        };
        // Stored first: a host that dies in between comes up with the new ones.
        self.happen(&key.0, event, Durability::Synced, |_| Vec::new())
            .await?;
        live.set_site(site);
        Ok(())
    }
}
