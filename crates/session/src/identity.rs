//! Identities of a workspace: who may use which, and what they hold. Pure, as the state machine is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::credential::{CredentialKey, CredentialSecret, Holder, StoredCredential, seal};
use crate::machine::Refusal;
use crate::name::{Name, UserName};
use crate::secrets::{SecretError, Secrets};
use crate::session::Identity;
use crate::state::{Change, State, Workspace};
use crate::tenancy::{Role, WorkspaceRecord};

/// Identities that a workspace may have.
pub const MAX_IDENTITIES: usize = 100;
/// Credentials that an identity may hold, and a user in a workspace.
pub const MAX_CREDENTIALS: usize = 50;
/// Users that may be allowed to assign an identity.
pub const MAX_GRANTS: usize = 1_000;
/// Longest client identifier that can be asked for, in characters.
const MAX_CLIENT_ID: usize = 64;

/// Whose an identity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// The workspace's own: what sessions have that name no other one.
    SystemAssigned,
    /// One of those that the workspace's owners have made.
    UserAssigned,
}

impl IdentityKind {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SystemAssigned => "system_assigned",
            Self::UserAssigned => "user_assigned",
        }
    }
}

/// An identity of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceIdentity {
    /// The workspace.
    pub workspace: Name,
    /// The name; `system` is the workspace's own.
    pub name: Name,
    /// Whose it is.
    pub kind: IdentityKind,
    /// What sessions name it by. Another one of the same name has another.
    pub client_id: String,
    /// Who has made it.
    pub created_by: UserName,
    /// When.
    pub created: Timestamp,
}

/// An operation on identities that was not done.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something could not be sealed.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// The own identity of a new workspace.
pub fn own_identity(record: &WorkspaceRecord, by: &UserName) -> Change {
    Change::PutIdentity(WorkspaceIdentity {
        workspace: record.name.clone(),
        name: Name::own_identity(),
        kind: IdentityKind::SystemAssigned,
        client_id: fresh_client_id(),
        created_by: by.clone(),
        created: record.created,
    })
}

fn fresh_client_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

impl Workspace {
    /// An identity by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn identity(&self, name: &Name) -> Result<&WorkspaceIdentity, Refusal> {
        self.identities.get(name).ok_or_else(|| Refusal::NotFound {
            what: "identity",
            name: name.to_string(),
        })
    }

    /// Whether a user may give an identity to their sessions: owners may, and whoever it was granted to.
    pub fn may_assign(&self, user: &UserName, identity: &Name) -> bool {
        self.roles.get(user) == Some(&Role::Owner)
            || self.grants.contains(&(identity.clone(), user.clone()))
    }

    /// Who holds the credentials of a user's session that has this identity.
    ///
    /// # Errors
    /// When the identity is not there, or the user may not assign it.
    pub fn holder(&self, user: &UserName, identity: &Identity) -> Result<Holder, Refusal> {
        let found = match identity {
            Identity::UserIdentity => return Ok(Holder::User(user.clone())),
            Identity::Managed { client_id: None } => {
                let own = self.identities.get(&Name::own_identity());
                own.ok_or_else(|| {
                    Refusal::Missing(
                        "the workspace has no identity of its own; an owner can make it (`flowcell identity create --system`), or name another one by its client_id".to_owned(),
                    )
                })?
            }
            Identity::Managed {
                client_id: Some(client_id),
            } => {
                let mut identities = self.identities.values();
                let found = identities.find(|one| one.client_id == *client_id);
                found.ok_or_else(|| {
                    Refusal::Missing(format!(
                        "there is no identity with the client_id '{}' in this workspace; `flowcell identity list` shows those that there are",
                        shown(client_id)
                    ))
                })?
            }
        };
        if !self.may_assign(user, &found.name) {
            return Err(Refusal::Forbidden(format!(
                "user {user} may not assign the identity '{}'; an owner of the workspace can allow it (`flowcell identity grant {} {user}`)",
                found.name, found.name
            )));
        }
        Ok(Holder::Identity(found.name.clone()))
    }

    /// The credentials of a holder, by kind and host.
    pub fn credentials_of<'a>(
        &'a self,
        holder: &'a Holder,
    ) -> impl Iterator<Item = &'a StoredCredential> {
        let all = self.credentials.values();
        all.filter(move |credential| credential.holder == *holder)
    }
}

/// A text of a request, for messages.
fn shown(text: &str) -> String {
    text.chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect()
}

/// Makes an identity: a user-assigned one of this name, or the workspace's own.
///
/// # Errors
/// When the name is taken or kept back, or there are too many.
pub fn create_identity(
    state: &State,
    workspace: &Name,
    name: Option<Name>,
    by: &UserName,
    now: Timestamp,
) -> Result<WorkspaceIdentity, Refusal> {
    let workspace = state.workspace(workspace)?;
    let (name, kind) = match name {
        Some(name) => (name, IdentityKind::UserAssigned),
        None => (Name::own_identity(), IdentityKind::SystemAssigned),
    };
    check_name(&name, kind)?;
    if workspace.identities.contains_key(&name) {
        return Err(Refusal::Conflict(format!(
            "there is an identity '{name}' already"
        )));
    }
    if workspace.identities.len() >= MAX_IDENTITIES {
        return Err(too_many_identities());
    }
    Ok(WorkspaceIdentity {
        workspace: workspace.record.name.clone(),
        name,
        kind,
        client_id: fresh_client_id(),
        created_by: by.clone(),
        created: now,
    })
}

fn check_name(name: &Name, kind: IdentityKind) -> Result<(), Refusal> {
    let own = Name::own_identity();
    if kind == IdentityKind::UserAssigned && name.as_str().eq_ignore_ascii_case(own.as_str()) {
        return Err(Refusal::Invalid {
            field: "name",
            problem: format!("'{own}' is the workspace's own identity; take another name"),
        });
    }
    Ok(())
}

fn too_many_identities() -> Refusal {
    Refusal::TooMany(format!(
        "a workspace may have {MAX_IDENTITIES} identities; delete some"
    ))
}

/// Deletes an identity, with its credentials and grants. Sessions that have it go on without them.
///
/// # Errors
/// When there is none.
pub fn delete_identity(state: &State, workspace: &Name, name: &Name) -> Result<Change, Refusal> {
    state.workspace(workspace)?.identity(name)?;
    Ok(Change::DeleteIdentity {
        workspace: workspace.clone(),
        identity: name.clone(),
    })
}

/// Lets a user assign an identity.
///
/// # Errors
/// When it is not there, the user has no role in the workspace, or there are too many.
pub fn grant(
    state: &State,
    workspace: &Name,
    identity: &Name,
    user: &UserName,
) -> Result<Change, Refusal> {
    let of = state.workspace(workspace)?;
    of.identity(identity)?;
    if !of.roles.contains_key(user) {
        return Err(Refusal::NotFound {
            what: "role of user",
            name: user.to_string(),
        });
    }
    let granted = of.grants.iter().filter(|(one, _)| one == identity);
    let is_new = !of.grants.contains(&(identity.clone(), user.clone()));
    if is_new && granted.count() >= MAX_GRANTS {
        return Err(Refusal::TooMany(format!(
            "{MAX_GRANTS} users may assign an identity; withdraw some"
        )));
    }
    Ok(Change::PutGrant {
        workspace: workspace.clone(),
        identity: identity.clone(),
        user: user.clone(),
    })
}

/// Lets a user assign an identity no more.
///
/// # Errors
/// When the user may not.
pub fn withdraw(
    state: &State,
    workspace: &Name,
    identity: &Name,
    user: &UserName,
) -> Result<Change, Refusal> {
    let of = state.workspace(workspace)?;
    of.identity(identity)?;
    if !of.grants.contains(&(identity.clone(), user.clone())) {
        return Err(Refusal::NotFound {
            what: "grant of user",
            name: user.to_string(),
        });
    }
    Ok(Change::DeleteGrant {
        workspace: workspace.clone(),
        identity: identity.clone(),
        user: user.clone(),
    })
}

/// Sets a credential, in place of any other of its holder for the same host.
///
/// # Errors
/// When the holder is not there, has too many, or the credential cannot be sealed.
pub fn put_credential(
    state: &State,
    secrets: &Secrets,
    workspace: &Name,
    key: CredentialKey,
    secret: &CredentialSecret,
    (by, now): (&UserName, Timestamp),
) -> Result<StoredCredential, IdentityError> {
    let of = state.workspace(workspace)?;
    check_holder(of, &key.0)?;
    if !of.credentials.contains_key(&key) && of.credentials_of(&key.0).count() >= MAX_CREDENTIALS {
        return Err(Refusal::TooMany(format!(
            "{MAX_CREDENTIALS} credentials can be held together; delete some"
        ))
        .into());
    }
    let sealed = seal(of, secrets, &key, secret)?;
    let (holder, kind, host) = key;
    Ok(StoredCredential {
        workspace: workspace.clone(),
        holder,
        kind,
        host,
        set_by: by.clone(),
        set: now,
        sealed,
    })
}

/// Deletes a credential.
///
/// # Errors
/// When it is not there.
pub fn delete_credential(
    state: &State,
    workspace: &Name,
    (holder, kind, host): CredentialKey,
) -> Result<Change, Refusal> {
    let of = state.workspace(workspace)?;
    check_holder(of, &holder)?;
    let key = (holder, kind, host);
    if !of.credentials.contains_key(&key) {
        return Err(Refusal::NotFound {
            what: "credential for",
            name: key.2.to_string(),
        });
    }
    let (holder, kind, host) = key;
    Ok(Change::DeleteCredential {
        workspace: workspace.clone(),
        holder,
        kind,
        host,
    })
}

fn check_holder(workspace: &Workspace, holder: &Holder) -> Result<(), Refusal> {
    match holder {
        Holder::Identity(name) => workspace.identity(name).map(|_| ()),
        Holder::User(_) => Ok(()),
    }
}

/// The identities that a workspace shall have, in the form of `az ml workspace update`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedIdentities {
    /// Whether it shall have its own.
    pub system: bool,
    /// The user-assigned ones, with the client identifiers that they shall have, where that matters.
    pub user_assigned: BTreeMap<Name, Option<String>>,
}

/// Makes the identities that are wanted and not there, and deletes those that are there and not wanted.
///
/// # Errors
/// When one would be deleted that holds credentials, a client identifier contradicts, or there are too many.
pub fn set_identities(
    state: &State,
    workspace: &Name,
    wanted: &WantedIdentities,
    by: &UserName,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    let of = state.workspace(workspace)?;
    let mut all: BTreeMap<Name, (IdentityKind, Option<String>)> = BTreeMap::new();
    if wanted.system {
        all.insert(Name::own_identity(), (IdentityKind::SystemAssigned, None));
    }
    for (name, client_id) in &wanted.user_assigned {
        check_name(name, IdentityKind::UserAssigned)?;
        all.insert(
            name.clone(),
            (IdentityKind::UserAssigned, client_id.clone()),
        );
    }
    if all.len() > MAX_IDENTITIES {
        return Err(too_many_identities());
    }
    let mut changes = Vec::new();
    for name in of.identities.keys().filter(|name| !all.contains_key(*name)) {
        let held = of.credentials_of(&Holder::Identity(name.clone())).count();
        if held > 0 {
            return Err(Refusal::Conflict(format!(
                "identity '{name}' is not among those that the workspace shall have, and holds {held} credentials; name it, or delete it first (`flowcell identity delete {name}`)"
            )));
        }
        changes.push(Change::DeleteIdentity {
            workspace: workspace.clone(),
            identity: name.clone(),
        });
    }
    let mut client_ids = BTreeSet::new();
    for (name, (kind, client_id)) in all {
        if let Some(client_id) = &client_id {
            check_client_id(&name, client_id)?;
        }
        let is_taken = |client_id: &String, client_ids: &BTreeSet<String>| {
            client_ids.contains(client_id)
                || of
                    .identities
                    .values()
                    .any(|one| one.name != name && one.client_id == *client_id)
        };
        let there = of.identities.get(&name);
        let client_id = match (there, client_id) {
            (Some(there), Some(asked)) if there.client_id != asked => {
                return Err(Refusal::Conflict(format!(
                    "identity '{name}' has the client_id {}, not '{asked}'; leave it out, or delete the identity first",
                    there.client_id
                )));
            }
            (Some(_), _) => continue,
            (None, Some(asked)) if is_taken(&asked, &client_ids) => {
                return Err(Refusal::Conflict(format!(
                    "the client_id '{asked}' of identity '{name}' is another identity's"
                )));
            }
            (None, asked) => asked.unwrap_or_else(fresh_client_id),
        };
        client_ids.insert(client_id.clone());
        changes.push(Change::PutIdentity(WorkspaceIdentity {
            workspace: workspace.clone(),
            name,
            kind,
            client_id,
            created_by: by.clone(),
            created: now,
        }));
    }
    Ok(changes)
}

fn check_client_id(name: &Name, client_id: &str) -> Result<(), Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if client_id.is_empty() || client_id.len() > MAX_CLIENT_ID || !client_id.chars().all(fits) {
        return Err(Refusal::Invalid {
            field: "identity",
            problem: format!(
                "the client_id of '{name}' is not 1 to {MAX_CLIENT_ID} letters, digits, '-', '_' and '.'"
            ),
        });
    }
    Ok(())
}
