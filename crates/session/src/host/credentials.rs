//! What sessions show to package indexes and registries: the credentials of their identity, opened when they are needed.

use flowcell_worker::{Credential, Credentials};

use super::environments::EnvironmentError;
use super::{Inner, SessionHost};
use crate::credential::{CredentialHost, CredentialKind, CredentialSecret, StoredCredential};
use crate::machine::Refusal;
use crate::name::{Name, UserName};
use crate::secrets::{SecretError, Secrets};
use crate::session::{Identity, Session};
use crate::state::Workspace;

/// Credentials that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The identity is not there, or not for this user.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// One does not open.
    #[error("the credential for {host} cannot be opened")]
    Secret {
        /// Its host.
        host: CredentialHost,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// One is not for a registry.
    #[error("the credential for the registry {host} cannot be used")]
    Registry {
        /// Its host.
        host: CredentialHost,
        /// Why.
        #[source]
        source: flowcell_registry::RegistryError,
    },
}

impl From<CredentialsError> for EnvironmentError {
    fn from(error: CredentialsError) -> Self {
        match error {
            CredentialsError::Refused(refusal) => Self::Wrong(refusal.to_string()),
            error => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "credentials cannot be had"
                );
                Self::Failed(error.to_string())
            }
        }
    }
}

impl SessionHost {
    /// What seals the credentials of identities.
    pub fn secrets(&self) -> &Secrets {
        &self.inner.settings.secrets
    }

    /// What a user's session with this identity shows to a registry (`host` or `host:port`) to pull base images;
    /// anonymous if its identity holds nothing for it.
    ///
    /// # Errors
    /// When the identity is not there or the user may not assign it, or what it holds does not open.
    pub fn registry_credentials(
        &self,
        workspace: &Name,
        user: &UserName,
        identity: &Identity,
        registry: &str,
    ) -> Result<flowcell_registry::Credentials, CredentialsError> {
        use flowcell_registry::Credentials as Shown;
        // What is no host holds nothing; whoever pulls says that it is none.
        let Ok(registry) = CredentialHost::new(registry) else {
            return Ok(Shown::anonymous());
        };
        let find = |workspace: &Workspace| {
            let holder = workspace.holder(user, identity)?;
            let key = (holder, CredentialKind::Registry, registry.clone());
            let found = workspace.credentials.get(&key);
            found
                .map(|stored| open(workspace, self.secrets(), stored))
                .transpose()
        };
        let shown = match self.inner.within(workspace, find)? {
            None => return Ok(Shown::anonymous()),
            Some(CredentialSecret::Token(token)) => Shown::bearer(registry.as_str(), token),
            Some(CredentialSecret::Password { username, password }) => {
                Shown::basic(registry.as_str(), username, password)
            }
        };
        shown.map_err(|source| CredentialsError::Registry {
            host: registry,
            source,
        })
    }
}

impl Inner {
    /// What a session shows to package indexes, each its own.
    pub(super) fn index_credentials(
        &self,
        session: &Session,
    ) -> Result<Credentials, EnvironmentError> {
        let read = |workspace: &Workspace| {
            let holder = workspace.holder(&session.user, &session.identity)?;
            let mut credentials = Credentials::default();
            let held = workspace.credentials_of(&holder);
            for stored in held.filter(|stored| stored.kind == CredentialKind::Index) {
                let secret = open(workspace, &self.settings.secrets, stored)?;
                let credential = match secret {
                    CredentialSecret::Token(token) => Credential::token(token),
                    CredentialSecret::Password { username, password } => Credential {
                        username,
                        password,
                    },
                };
                credentials.add(stored.host.to_string(), credential, &stored.sealed.mark());
            }
            Ok(credentials)
        };
        Ok(self.within(&session.workspace, read)?)
    }

    fn within<T>(
        &self,
        name: &Name,
        read: impl FnOnce(&Workspace) -> Result<T, CredentialsError>,
    ) -> Result<T, CredentialsError> {
        let state = self.ledger.state();
        let workspace = state.workspaces.get(name).ok_or_else(|| Refusal::NotFound {
            what: "workspace",
            name: name.to_string(),
        })?;
        read(workspace)
    }
}

fn open(
    workspace: &Workspace,
    secrets: &Secrets,
    stored: &StoredCredential,
) -> Result<CredentialSecret, CredentialsError> {
    stored
        .open(workspace, secrets)
        .map_err(|source| CredentialsError::Secret {
            host: stored.host.clone(),
            source,
        })
}
