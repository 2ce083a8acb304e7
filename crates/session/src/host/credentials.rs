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
}

/// What a user's session with an identity shows to a registry, `host` or `host:port`.
fn registry_credential(
    workspace: &Workspace,
    secrets: &Secrets,
    user: &UserName,
    identity: &Identity,
    registry: &str,
) -> Result<Option<Credential>, CredentialsError> {
    let holder = workspace.holder(user, identity)?;
    // What is no host holds nothing; whoever pulls says that it is none.
    let Ok(host) = CredentialHost::new(registry) else {
        return Ok(None);
    };
    let key = (holder, CredentialKind::Registry, host);
    let stored = workspace.credentials.get(&key);
    let opened = stored.map(|stored| open(workspace, secrets, stored));
    Ok(opened.transpose()?.and_then(shown))
}

impl Inner {
    /// What a session shows to a registry; `reference` is an image's.
    pub(super) fn registry_credential(
        &self,
        session: &Session,
        reference: &str,
    ) -> Result<Option<Credential>, EnvironmentError> {
        let Some((registry, _)) = reference.split_once('/') else {
            return Ok(None);
        };
        let (secrets, identity) = (&self.settings.secrets, &session.identity);
        let read = |workspace: &Workspace| {
            registry_credential(workspace, secrets, &session.user, identity, registry)
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
                if stored.kind == CredentialKind::Connection {
                    continue;
                }
                let opened = open(workspace, &self.settings.secrets, stored)?;
                let Some(credential) = shown(opened) else {
                    continue;
                };
                let (host, mark) = (stored.host.to_string(), stored.sealed.mark());
                match stored.kind {
                    CredentialKind::Index => credentials.add(host, credential, &mark),
                    CredentialKind::Registry => credentials.add_registry(host, credential, &mark),
                    CredentialKind::Connection => {}
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
        read(state.workspace(name)?)
    }
}

/// What is shown of it as it is.
fn shown(secret: CredentialSecret) -> Option<Credential> {
    match secret {
        CredentialSecret::Token(token) => Some(Credential::token(token)),
        CredentialSecret::Password { username, password } => {
            Some(Credential { username, password })
        }
        CredentialSecret::SignIn(_) => None,
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
            trace_content: false,
            network: Default::default(),
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
            registry_credential(workspace, &secrets, user, &identity, registry)
        };
        let managed = || Identity::Managed { client_id: None };
        let registry = "registry.example:5000";
        let token = Credential::token("a-token".to_owned());
        assert_eq!(found(&ana, managed(), registry).unwrap(), Some(token));
        let password = Credential {
            username: "ben".to_owned(),
            password: "a password".to_owned(),
        };
        let own = Identity::UserIdentity;
        assert_eq!(found(&ben, own.clone(), registry).unwrap(), Some(password));
        for (user, identity, registry) in [
            (&ana, own, registry),
            (&ana, managed(), "registry.example"),
            (&ana, managed(), "other.example:5000"),
            (&ana, managed(), "no host"),
        ] {
            assert_eq!(found(user, identity, registry).unwrap(), None);
        }
        let refused = found(&ben, managed(), registry);
        assert!(matches!(
            refused,
            Err(CredentialsError::Refused(Refusal::Forbidden(_)))
        ));
    }
}
