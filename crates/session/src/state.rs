//! What the host knows at a moment, and the changes that lead from one moment to the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::compute::{Compute, Resources};
use crate::connection::StoredConnection;
use crate::credential::{CredentialHost, CredentialKey, CredentialKind, Holder, StoredCredential};
use crate::identity::WorkspaceIdentity;
use crate::machine::Refusal;
use crate::name::{Name, UserName};
use crate::quota::Used;
use crate::session::{Happening, Session};
use crate::tenancy::{Flow, Key, Role, User, WorkspaceRecord};

/// One change. A registry stores it, a [`State`] takes it in; nothing changes in any other way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// A user is made or changed.
    PutUser(User),
    /// A user is gone, with all keys, roles, grants and credentials.
    DeleteUser(UserName),
    /// A key is made.
    PutKey(Key),
    /// A key is revoked.
    DeleteKey(String),
    /// A workspace is made.
    PutWorkspace(WorkspaceRecord),
    /// A workspace is gone, with all that is in it.
    DeleteWorkspace(Name),
    /// A user gets a role in a workspace, instead of any other.
    PutRole {
        /// The workspace.
        workspace: Name,
        /// The user.
        user: UserName,
        /// The role.
        role: Role,
    },
    /// A user has no role in a workspace any more, and with it no grants and credentials there.
    DeleteRole {
        /// The workspace.
        workspace: Name,
        /// The user.
        user: UserName,
    },
    /// An identity is made.
    PutIdentity(WorkspaceIdentity),
    /// An identity is gone, with its grants and credentials.
    DeleteIdentity {
        /// The workspace.
        workspace: Name,
        /// The identity.
        identity: Name,
    },
    /// A user may assign an identity.
    PutGrant {
        /// The workspace.
        workspace: Name,
        /// The identity.
        identity: Name,
        /// The user.
        user: UserName,
    },
    /// A user may assign an identity no more.
    DeleteGrant {
        /// The workspace.
        workspace: Name,
        /// The identity.
        identity: Name,
        /// The user.
        user: UserName,
    },
    /// A credential is set.
    PutCredential(StoredCredential),
    /// A credential is gone.
    DeleteCredential {
        /// The workspace.
        workspace: Name,
        /// Who held it.
        holder: Holder,
        /// What it was for.
        kind: CredentialKind,
        /// Its host.
        host: CredentialHost,
    },
    /// A connection is made or changed.
    PutConnection(StoredConnection),
    /// A connection is gone.
    DeleteConnection {
        /// The workspace.
        workspace: Name,
        /// The connection.
        connection: String,
    },
    /// A flow is made or changed.
    PutFlow(Flow),
    /// A flow is gone, with its files.
    DeleteFlow {
        /// The workspace.
        workspace: Name,
        /// The flow.
        flow: Name,
    },
    /// A file of a flow has new content. Only the registry keeps it.
    PutFile {
        /// The workspace.
        workspace: Name,
        /// The flow.
        flow: Name,
        /// The path from the flow's folder.
        path: String,
        /// The content.
        #[serde(skip)]
        content: Bytes,
    },
    /// A flow without files gets those of another flow of its workspace, as they are. Only the registry keeps them.
    CopyFiles {
        /// The workspace.
        workspace: Name,
        /// The flow that has them.
        from: Name,
        /// The flow that gets them.
        to: Name,
    },
    /// A file of a flow is gone.
    DeleteFile {
        /// The workspace.
        workspace: Name,
        /// The flow.
        flow: Name,
        /// The path from the flow's folder.
        path: String,
    },
    /// A compute is made or changed.
    PutCompute(Compute),
    /// A compute is gone.
    DeleteCompute {
        /// The workspace.
        workspace: Name,
        /// The compute.
        compute: Name,
    },
    /// A session is made or changed.
    PutSession(Session),
    /// A session is gone, with its history.
    DeleteSession {
        /// The workspace.
        workspace: Name,
        /// The session.
        session: Name,
    },
    /// A line of a session's history. Only the registry keeps it.
    Happened {
        /// The workspace.
        workspace: Name,
        /// The session.
        session: Name,
        /// What happened.
        happening: Happening,
    },
    /// A creation was answered. Only the registry keeps it.
    Answered(Answered),
}

/// The answer to a request with an `Idempotency-Key`, for whoever sends it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Who asked.
    pub user: UserName,
    /// The key.
    pub key: String,
    /// A hash of the request: another request with the same key is an error.
    pub request: String,
    /// The answer's status.
    pub status: u16,
    /// The answer's `Location`.
    pub location: String,
    /// The answer's body; JSON text.
    pub body: String,
    /// When.
    pub at: jiff::Timestamp,
}

/// Everything but the contents of files, histories and old answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// All users.
    pub users: BTreeMap<UserName, User>,
    /// All keys, by their public part.
    pub keys: HashMap<String, Key>,
    /// All workspaces.
    pub workspaces: BTreeMap<Name, Workspace>,
    /// Resources of all computes that are not stopped.
    pub reserved: Resources,
}

/// A workspace, and what is in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Workspace {
    /// The workspace itself.
    pub record: WorkspaceRecord,
    /// Who has which role.
    pub roles: BTreeMap<UserName, Role>,
    /// Its identities.
    pub identities: BTreeMap<Name, WorkspaceIdentity>,
    /// Who may assign which identity, beside the owners.
    pub grants: BTreeSet<(Name, UserName)>,
    /// What its identities and users hold, sealed.
    pub credentials: BTreeMap<CredentialKey, StoredCredential>,
    /// Its connections, their secrets sealed.
    pub connections: BTreeMap<String, StoredConnection>,
    /// Its flows.
    pub flows: BTreeMap<Name, Flow>,
    /// Its computes.
    pub computes: BTreeMap<Name, Compute>,
    /// Its sessions, stopped ones included.
    pub sessions: BTreeMap<Name, Session>,
    /// The session of each flow that has one.
    pub session_of: HashMap<Name, Name>,
    /// The sessions that are not stopped, of each compute that has any.
    pub on_compute: HashMap<Name, BTreeSet<Name>>,
    /// What is used in all.
    pub used: Used,
    /// What each user uses.
    pub used_by: HashMap<UserName, Used>,
}

impl State {
    /// A workspace by name.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn workspace(&self, name: &Name) -> Result<&Workspace, Refusal> {
        self.workspaces.get(name).ok_or_else(|| Refusal::NotFound {
            what: "workspace",
            name: name.to_string(),
        })
    }

    /// Takes in a change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::PutUser(user) => {
                self.users.insert(user.name.clone(), user.clone());
            }
            Change::DeleteUser(user) => {
                self.users.remove(user);
                self.keys.retain(|_, key| key.user != *user);
                for workspace in self.workspaces.values_mut() {
                    workspace.forget(user);
                }
            }
            Change::PutKey(key) => {
                self.keys.insert(key.id.clone(), key.clone());
            }
            Change::DeleteKey(id) => {
                self.keys.remove(id);
            }
            Change::PutWorkspace(record) => {
                self.workspaces
                    .entry(record.name.clone())
                    .or_insert_with(|| Workspace::new(record.clone()))
                    .record = record.clone();
            }
            Change::DeleteWorkspace(name) => {
                if let Some(workspace) = self.workspaces.remove(name) {
                    self.reserved = self.reserved.minus(&workspace.used.resources);
                }
            }
            Change::PutRole {
                workspace,
                user,
                role,
            } => self.within(workspace, |workspace| {
                workspace.roles.insert(user.clone(), *role);
            }),
            Change::DeleteRole { workspace, user } => self.within(workspace, |workspace| {
                workspace.forget(user);
            }),
            Change::PutIdentity(identity) => self.within(&identity.workspace, |workspace| {
                let name = identity.name.clone();
                workspace.identities.insert(name, identity.clone());
            }),
            Change::DeleteIdentity {
                workspace,
                identity,
            } => self.within(workspace, |workspace| {
                let holder = Holder::Identity(identity.clone());
                workspace.identities.remove(identity);
                workspace.grants.retain(|(granted, _)| granted != identity);
                workspace
                    .credentials
                    .retain(|(held, ..), _| *held != holder);
            }),
            Change::PutGrant {
                workspace,
                identity,
                user,
            } => self.within(workspace, |workspace| {
                workspace.grants.insert((identity.clone(), user.clone()));
            }),
            Change::DeleteGrant {
                workspace,
                identity,
                user,
            } => self.within(workspace, |workspace| {
                workspace.grants.remove(&(identity.clone(), user.clone()));
            }),
            Change::PutCredential(credential) => self.within(&credential.workspace, |workspace| {
                let key = credential.key();
                workspace.credentials.insert(key, credential.clone());
            }),
            Change::DeleteCredential {
                workspace,
                holder,
                kind,
                host,
            } => self.within(workspace, |workspace| {
                let key = (holder.clone(), *kind, host.clone());
                workspace.credentials.remove(&key);
            }),
            Change::PutConnection(connection) => self.within(&connection.workspace, |workspace| {
                let name = connection.name.clone();
                workspace.connections.insert(name, connection.clone());
            }),
            Change::DeleteConnection {
                workspace,
                connection,
            } => self.within(workspace, |workspace| {
                workspace.connections.remove(connection);
            }),
            Change::PutFlow(flow) => self.within(&flow.workspace, |workspace| {
                workspace.flows.insert(flow.name.clone(), flow.clone());
            }),
            Change::DeleteFlow { workspace, flow } => self.within(workspace, |workspace| {
                workspace.flows.remove(flow);
            }),
            Change::PutCompute(compute) => self.within(&compute.workspace, |workspace| {
                workspace.put_compute(Some(compute), &compute.name);
            }),
            Change::DeleteCompute { workspace, compute } => self.within(workspace, |workspace| {
                workspace.put_compute(None, compute);
            }),
            Change::PutSession(session) => self.within(&session.workspace, |workspace| {
                workspace.put_session(Some(session), &session.id);
            }),
            Change::DeleteSession { workspace, session } => self.within(workspace, |workspace| {
                workspace.put_session(None, session);
            }),
            Change::PutFile { .. }
            | Change::CopyFiles { .. }
            | Change::DeleteFile { .. }
            | Change::Happened { .. }
            | Change::Answered(_) => {}
        }
    }

    /// Changes a workspace; one that is gone needs no change.
    fn within(&mut self, name: &Name, change: impl FnOnce(&mut Workspace)) {
        if let Some(workspace) = self.workspaces.get_mut(name) {
            let before = workspace.used.resources;
            change(workspace);
            self.reserved = self.reserved.minus(&before).plus(&workspace.used.resources);
        }
    }
}

impl Workspace {
    fn new(record: WorkspaceRecord) -> Self {
        Self {
            record,
            roles: BTreeMap::new(),
            identities: BTreeMap::new(),
            grants: BTreeSet::new(),
            credentials: BTreeMap::new(),
            connections: BTreeMap::new(),
            flows: BTreeMap::new(),
            computes: BTreeMap::new(),
            sessions: BTreeMap::new(),
            session_of: HashMap::new(),
            on_compute: HashMap::new(),
            used: Used::default(),
            used_by: HashMap::new(),
        }
    }

    /// The sessions that are not stopped on a compute.
    pub fn sessions_on(&self, compute: &Name) -> impl Iterator<Item = &Session> {
        let ids = self.on_compute.get(compute);
        ids.into_iter()
            .flatten()
            .filter_map(|id| self.sessions.get(id))
    }

    fn put_compute(&mut self, compute: Option<&Compute>, name: &Name) {
        if let Some(old) = self.computes.remove(name) {
            self.account(&old.user, |used| {
                used.computes = used.computes.saturating_sub(1);
                if old.holds_resources() {
                    used.resources = used.resources.minus(&old.resources);
                }
            });
        }
        if let Some(compute) = compute {
            self.account(&compute.user, |used| {
                used.computes += 1;
                if compute.holds_resources() {
                    used.resources = used.resources.plus(&compute.resources);
                }
            });
            self.computes.insert(name.clone(), compute.clone());
        }
    }

    fn put_session(&mut self, session: Option<&Session>, id: &Name) {
        if let Some(old) = self.sessions.remove(id) {
            self.session_of.remove(&old.flow);
            if old.state.is_live() {
                self.account(&old.user, |used| {
                    used.sessions = used.sessions.saturating_sub(1);
                });
                if let Some(sessions) = self.on_compute.get_mut(&old.compute) {
                    sessions.remove(id);
                    if sessions.is_empty() {
                        self.on_compute.remove(&old.compute);
                    }
                }
            }
        }
        if let Some(session) = session {
            self.session_of.insert(session.flow.clone(), id.clone());
            if session.state.is_live() {
                self.account(&session.user, |used| used.sessions += 1);
                self.on_compute
                    .entry(session.compute.clone())
                    .or_default()
                    .insert(id.clone());
            }
            self.sessions.insert(id.clone(), session.clone());
        }
    }

    /// Takes everything from a user that rests on a role.
    fn forget(&mut self, user: &UserName) {
        let holder = Holder::User(user.clone());
        self.roles.remove(user);
        self.grants.retain(|(_, granted)| granted != user);
        self.credentials.retain(|(held, ..), _| *held != holder);
    }

    fn account(&mut self, user: &UserName, change: impl Fn(&mut Used)) {
        change(&mut self.used);
        let used = self.used_by.entry(user.clone()).or_default();
        change(used);
        if *used == Used::default() {
            self.used_by.remove(user);
        }
    }
}
