//! What sessions show to package indexes and registries: the credentials of their identity, opened when they are needed.

use flowcell_registry::Credentials as RegistryCredentials;
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
    ) -> Result<RegistryCredentials, CredentialsError> {
        let read = |workspace: &Workspace| {
            registry_credentials(workspace, self.secrets(), user, identity, registry)
        };
        self.inner.within(workspace, read)
    }
}

fn registry_credentials(
    workspace: &Workspace,
    secrets: &Secrets,
    user: &UserName,
    identity: &Identity,
    registry: &str,
) -> Result<RegistryCredentials, CredentialsError> {
    let holder = workspace.holder(user, identity)?;
    // What is no host holds nothing; whoever pulls says that it is none.
    let Ok(host) = CredentialHost::new(registry) else {
        return Ok(RegistryCredentials::anonymous());
    };
    let key = (holder, CredentialKind::Registry, host);
    let Some(stored) = workspace.credentials.get(&key) else {
        return Ok(RegistryCredentials::anonymous());
    };
    let shown = match open(workspace, secrets, stored)? {
        CredentialSecret::Token(token) => RegistryCredentials::bearer(registry, token),
        CredentialSecret::Password { username, password } => {
            RegistryCredentials::basic(registry, username, password)
        }
    };
    shown.map_err(|source| CredentialsError::Registry {
        host: stored.host.clone(),
        source,
    })
}

impl Inner {
    /// What a session shows to a registry; `reference` is an image's.
    pub(super) fn registry_credential(
        &self,
        session: &Session,
        reference: &str,
    ) -> Result<Option<Credential>, EnvironmentError> {
        let registry = reference.split_once('/').map(|(registry, _)| registry);
        let Some(Ok(host)) = registry.map(CredentialHost::new) else {
            return Ok(None);
        };
        let read = |workspace: &Workspace| {
            let holder = workspace.holder(&session.user, &session.identity)?;
            let key = (holder, CredentialKind::Registry, host);
            let stored = workspace.credentials.get(&key);
            let opened = stored.map(|stored| open(workspace, &self.settings.secrets, stored));
            Ok(opened.transpose()?.map(shown))
        };
        Ok(self.within(&session.workspace, read)?)
    }

    /// What a session shows to package indexes and to registries of component packages, each its own.
    pub(super) fn index_credentials(
        &self,
        session: &Session,
    ) -> Result<Credentials, EnvironmentError> {
        let read = |workspace: &Workspace| {
            let holder = workspace.holder(&session.user, &session.identity)?;
            let mut credentials = Credentials::default();
            let held = workspace.credentials_of(&holder);
            for stored in held {
                let credential = shown(open(workspace, &self.settings.secrets, stored)?);
                let (host, mark) = (stored.host.to_string(), stored.sealed.mark());
                match stored.kind {
                    CredentialKind::Index => credentials.add(host, credential, &mark),
                    CredentialKind::Registry => credentials.add_registry(host, credential, &mark),
                }
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
        let workspace = state
            .workspaces
            .get(name)
            .ok_or_else(|| Refusal::NotFound {
                what: "workspace",
                name: name.to_string(),
            })?;
        read(workspace)
    }
}

fn shown(secret: CredentialSecret) -> Credential {
    match secret {
        CredentialSecret::Token(token) => Credential::token(token),
        CredentialSecret::Password { username, password } => Credential { username, password },
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::credential::{Holder, credential_key};
    use crate::identity::{own_identity, put_credential};
    use crate::secrets::SecretKey;
    use crate::state::{Change, State};
    use crate::tenancy::{Role, WorkspaceRecord};

    #[test]
    fn a_registry_gets_what_the_identity_holds_for_it() {
        let (name, ana) = (Name::new("w").unwrap(), UserName::new("ana").unwrap());
        let ben = UserName::new("ben").unwrap();
        let secrets = Secrets::new(SecretKey::generate().unwrap(), Vec::new());
        let record = WorkspaceRecord {
            name: name.clone(),
            created: Timestamp::UNIX_EPOCH,
        };
        let mut state = State::default();
        state.apply(&Change::PutWorkspace(record.clone()));
        state.apply(&own_identity(&record, &ana));
        state.apply(&Change::PutRole {
            workspace: name.clone(),
            user: ana.clone(),
            role: Role::Owner,
        });
        let text = |text: &str| Some(text.to_owned());
        for (holder, kind, host, secret) in [
            (
                Holder::Identity(Name::own_identity()),
                "registry",
                "registry.example:5000",
                CredentialSecret::new(text("a-token"), None, None),
            ),
            (
                Holder::User(ben.clone()),
                "registry",
                "registry.example:5000",
                CredentialSecret::new(None, text("ben"), text("a password")),
            ),
            // For another use of the same host.
            (
                Holder::User(ana.clone()),
                "index",
                "registry.example:5000",
                CredentialSecret::new(text("another"), None, None),
            ),
        ] {
            let key = credential_key(holder, kind, host).unwrap();
            let by = (&ana, Timestamp::UNIX_EPOCH);
            let stored = put_credential(&state, &secrets, &name, key, &secret.unwrap(), by);
            state.apply(&Change::PutCredential(stored.unwrap()));
        }
        let workspace = &state.workspaces[&name];
        let found = |user: &UserName, identity: Identity, registry: &str| {
            registry_credentials(workspace, &secrets, user, &identity, registry)
        };
        let managed = || Identity::Managed { client_id: None };
        let registry = "registry.example:5000";
        let bearer = RegistryCredentials::bearer(registry, "a-token").unwrap();
        assert_eq!(found(&ana, managed(), registry).unwrap(), bearer);
        let basic = RegistryCredentials::basic(registry, "ben", "a password").unwrap();
        let own = Identity::UserIdentity;
        assert_eq!(found(&ben, own.clone(), registry).unwrap(), basic);
        for (user, identity, registry) in [
            (&ana, own, registry),
            (&ana, managed(), "registry.example"),
            (&ana, managed(), "other.example:5000"),
            (&ana, managed(), "no host"),
        ] {
            let none = RegistryCredentials::anonymous();
            assert_eq!(found(user, identity, registry).unwrap(), none);
        }
        let refused = found(&ben, managed(), registry);
        assert!(matches!(
            refused,
            Err(CredentialsError::Refused(Refusal::Forbidden(_)))
        ));
    }
}
