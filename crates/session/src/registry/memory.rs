//! A registry that is gone with its process; for tests, and for simulations of a host that dies.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;

use super::{Durability, FileInfo, MAX_HISTORY, Registry, RegistryError};
use crate::digest::sha256;
use crate::name::{Name, UserName};
use crate::session::Happening;
use crate::state::{Answered, Change, State};

/// Keeps everything in memory.
#[derive(Debug, Default)]
pub struct MemoryRegistry {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    state: State,
    files: BTreeMap<(Name, Name, String), Bytes>,
    histories: HashMap<(Name, Name), BTreeMap<u64, Happening>>,
    answers: HashMap<(UserName, String), Answered>,
    next: u64,
}

impl MemoryRegistry {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn take(&mut self, change: &Change) {
        self.state.apply(change);
        match change {
            Change::PutFile {
                workspace,
                flow,
                path,
                content,
            } => {
                let key = (workspace.clone(), flow.clone(), path.clone());
                self.files.insert(key, content.clone());
            }
            Change::CopyFiles {
                workspace,
                from,
                to,
            } => {
                let of_flow = self.files.iter().filter(|((of_workspace, of_flow, _), _)| {
                    of_workspace == workspace && of_flow == from
                });
                let copies: Vec<_> = of_flow
                    .map(|((workspace, _, path), content)| {
                        let key = (workspace.clone(), to.clone(), path.clone());
                        (key, content.clone())
                    })
                    .collect();
                self.files.extend(copies);
            }
            Change::DeleteFile {
                workspace,
                flow,
                path,
            } => {
                let key = (workspace.clone(), flow.clone(), path.clone());
                self.files.remove(&key);
            }
            Change::DeleteFlow { workspace, flow } => {
                self.files.retain(|(of_workspace, of_flow, _), _| {
                    of_workspace != workspace || of_flow != flow
                })
            }
            Change::DeleteSession { workspace, session } => {
                self.histories.remove(&(workspace.clone(), session.clone()));
            }
            Change::DeleteWorkspace(workspace) => {
                self.files.retain(|(of, _, _), _| of != workspace);
                self.histories.retain(|(of, _), _| of != workspace);
            }
            Change::Happened {
                workspace,
                session,
                happening,
            } => {
                self.next += 1;
                let number = self.next;
                let history = self
                    .histories
                    .entry((workspace.clone(), session.clone()))
                    .or_default();
                history.insert(number, happening.clone());
                if history.len() as u64 > MAX_HISTORY {
                    history.pop_first();
                }
            }
            Change::Answered(answered) => {
                let key = (answered.user.clone(), answered.key.clone());
                self.answers.insert(key, answered.clone());
            }
            _ => {}
        }
    }
}

impl Registry for MemoryRegistry {
    fn load(&self) -> Result<Vec<Change>, RegistryError> {
        let kept = self.lock();
        let state = &kept.state;
        let mut changes: Vec<Change> = state.users.values().cloned().map(Change::PutUser).collect();
        changes.extend(state.keys.values().cloned().map(Change::PutKey));
        for workspace in state.workspaces.values() {
            changes.push(Change::PutWorkspace(workspace.record.clone()));
            changes.extend(workspace.roles.iter().map(|(user, role)| Change::PutRole {
                workspace: workspace.record.name.clone(),
                user: user.clone(),
                role: *role,
            }));
            let identities = workspace.identities.values().cloned();
            changes.extend(identities.map(Change::PutIdentity));
            let grants = workspace.grants.iter();
            changes.extend(grants.map(|(identity, user)| Change::PutGrant {
                workspace: workspace.record.name.clone(),
                identity: identity.clone(),
                user: user.clone(),
            }));
            let credentials = workspace.credentials.values().cloned();
            changes.extend(credentials.map(Change::PutCredential));
            let connections = workspace.connections.values().cloned();
            changes.extend(connections.map(Change::PutConnection));
            changes.extend(workspace.flows.values().cloned().map(Change::PutFlow));
            changes.extend(workspace.computes.values().cloned().map(Change::PutCompute));
            changes.extend(workspace.sessions.values().cloned().map(Change::PutSession));
        }
        Ok(changes)
    }

    fn commit(&self, changes: &[Change], _durability: Durability) -> Result<(), RegistryError> {
        let mut kept = self.lock();
        for change in changes {
            kept.take(change);
        }
        Ok(())
    }

    fn files(&self, workspace: &Name, flow: &Name) -> Result<Vec<FileInfo>, RegistryError> {
        let kept = self.lock();
        let of_flow = kept
            .files
            .iter()
            .filter(|((of_workspace, of_flow, _), _)| of_workspace == workspace && of_flow == flow);
        Ok(of_flow
            .map(|((_, _, path), content)| FileInfo {
                path: path.clone(),
                size: content.len() as u64,
                digest: sha256(content),
            })
            .collect())
    }

    fn file(
        &self,
        workspace: &Name,
        flow: &Name,
        path: &str,
    ) -> Result<Option<Bytes>, RegistryError> {
        let key = (workspace.clone(), flow.clone(), path.to_owned());
        Ok(self.lock().files.get(&key).cloned())
    }

    fn history(
        &self,
        workspace: &Name,
        session: &Name,
        before: Option<u64>,
        most: u64,
    ) -> Result<Vec<(u64, Happening)>, RegistryError> {
        let kept = self.lock();
        let Some(history) = kept.histories.get(&(workspace.clone(), session.clone())) else {
            return Ok(Vec::new());
        };
        Ok(history
            .range(..before.unwrap_or(u64::MAX))
            .rev()
            .take(usize::try_from(most).unwrap_or(usize::MAX))
            .map(|(number, happening)| (*number, happening.clone()))
            .collect())
    }

    fn answered(&self, user: &UserName, key: &str) -> Result<Option<Answered>, RegistryError> {
        let key = (user.clone(), key.to_owned());
        Ok(self.lock().answers.get(&key).cloned())
    }

    fn forget_answers(&self, before: Timestamp) -> Result<(), RegistryError> {
        self.lock()
            .answers
            .retain(|_, answered| answered.at >= before);
        Ok(())
    }
}
