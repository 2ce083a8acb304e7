//! A session begins as a copy of another one.
//!
//! The copy is made first, under the name that the new session's first life will have, while the other session keeps
//! still. The registry is told then, in one transaction with the new flow. A host that dies before finds a folder that
//! belongs to no session, and deletes it; one that dies after finds a session that starts, with all of its files.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions};
use flowcell_worker::{SessionSpec, WorkerError, disk_limits};
use tokio::task::JoinHandle;

use super::copy::{CopyError, WorkingCopy};
use super::hibernate::{CannotHibernate, Slept, ended};
use super::live::Live;
use super::{CallError, HappenError, Inner, Key, SessionHost, blocking};
use crate::ledger::ChangeError;
use crate::machine::{self, Event, Refusal, Step, Wish};
use crate::name::{Name, UserName};
use crate::registry::Durability;
use crate::session::SessionState;
use crate::state::Change;

/// What the copy of a session shall be.
#[derive(Debug, Clone, PartialEq)]
pub struct Fork {
    /// Whoever asks.
    pub user: UserName,
    /// The new flow.
    pub flow: Name,
    /// The new session's identifier.
    pub id: Name,
    /// The name of a serverless compute, should one have to be made.
    pub compute: Name,
    /// The settings.
    pub wish: Wish,
}

/// A session that was not copied.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// It is at work.
    #[error(
        "session {0} has calls under way; it can be forked when they have ended, or were cancelled"
    )]
    Busy(Name),
    /// Something of it cannot be stored, so it cannot be copied either.
    #[error("session {session} holds something that cannot be copied: {}", .reasons.join("; "))]
    CannotStore {
        /// The session.
        session: Name,
        /// What, and why.
        reasons: Vec<String>,
    },
    /// It is not there, or takes no calls, or cannot be opened.
    #[error(transparent)]
    Session(#[from] CallError),
    /// Its files.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// What is stored of its memory.
    #[error("session {session} cannot be copied: {why}")]
    Memory {
        /// The session.
        session: Name,
        /// Why.
        why: String,
    },
    /// What is to copy its memory.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// It is refused, or cannot be stored.
    #[error(transparent)]
    Happen(#[from] HappenError),
}

impl SessionHost {
    /// Makes a flow with a session that go on from copies of another session's files and stored instances. The other
    /// session is hibernated for it, and goes on by itself. `more` and the handle are as for [`SessionHost::happen`].
    ///
    /// # Errors
    /// When calls are under way in the session, or something of it cannot be stored; when the new one would be refused.
    pub async fn fork(
        &self,
        from: &Key,
        fork: Fork,
        more: impl Fn(&Step) -> Vec<Change> + Send + 'static,
    ) -> Result<(Step, JoinHandle<()>), ForkError> {
        let (inner, from) = (Arc::clone(&self.inner), from.clone());
        // Goes on when whoever asks has gone, so that no half of a copy is left.
        ended(tokio::spawn(async move {
            let step = inner.fork(&from, fork, more).await?;
            let effects = step.effects.clone();
            let done = tokio::spawn(Arc::clone(&inner).carry_out(from.0, effects));
            Ok((step, done))
        }))
        .await
    }
}

impl Inner {
    async fn fork(
        self: &Arc<Self>,
        key: &Key,
        fork: Fork,
        more: impl Fn(&Step) -> Vec<Change> + Send + 'static,
    ) -> Result<Step, ForkError> {
        let live = self.live(key).await?;
        let workspace = &key.0;
        let event = Event::Fork {
            user: fork.user,
            from: live.id.clone(),
            generation: live.generation,
            flow: fork.flow,
            id: fork.id.clone(),
            compute: fork.compute,
            wish: fork.wish,
        };
        // Before anything is done for one that will be refused.
        self.foresee(workspace, &event)?;
        let busy = || ForkError::Busy(live.id.clone());
        let quiet = live.quiet().await.ok_or_else(busy)?;
        let keep = CannotHibernate::Keep;
        match self.put_to_sleep(&live, &quiet, None, keep).await? {
            Slept::Wholly => {}
            Slept::Partly => {
                return Err(ForkError::CannotStore {
                    session: live.id.clone(),
                    reasons: live.not_stored().kept.clone(),
                });
            }
            Slept::Busy => return Err(busy()),
        }
        let step = self.foresee(workspace, &event)?;
        let made = self.copy_life(&live, &step).await;
        let happened = match made {
            Ok(()) => self
                .happen(workspace, event, Durability::Synced, more)
                .await
                .map_err(Into::into),
            Err(error) => Err(error),
        };
        if happened.is_err() {
            self.remove_copy(workspace, &fork.id, 1).await;
        }
        happened
    }

    fn foresee(&self, workspace: &Name, event: &Event) -> Result<Step, ForkError> {
        let step = machine::step(&self.ledger.state(), self.context(), workspace, event);
        step.map_err(|refusal: Refusal| ForkError::Happen(ChangeError::Refused(refusal)))
    }

    /// Copies files and stored instances to where the session of a step will have them.
    async fn copy_life(self: &Arc<Self>, live: &Arc<Live>, step: &Step) -> Result<(), ForkError> {
        let (to, spec, bytes, files) = {
            let state = self.ledger.state();
            let over = || {
                ForkError::Happen(ChangeError::Refused(Refusal::Conflict(
                    "the session was changed meanwhile; try again".to_owned(),
                )))
            };
            let workspace = state.workspaces.get(&live.workspace).ok_or_else(over)?;
            let session = step.session().ok_or_else(over)?;
            let made = step.changes.iter().find_map(|change| match change {
                Change::PutCompute(compute) if compute.name == session.compute => Some(compute),
                _ => None,
            });
            let compute = made.or_else(|| workspace.computes.get(&session.compute));
            let compute = compute.ok_or_else(over)?;
            let flow = workspace.flows.get(&live.flow);
            let (bytes, files) = flow.map_or((0, 0), |flow| (flow.bytes, flow.files));
            let folder = self.folder(&session.workspace, &session.id, session.generation);
            let to = WorkingCopy::new(folder);
            let environment = (&*session.image, session.packages.as_deref());
            let network = self.network(workspace, session);
            let spec = self.spec(session, compute, &to, environment, network);
            (to, spec, bytes, files)
        };
        let (from, target) = (live.copy.clone(), to.clone());
        // What tools may write, beside what was uploaded.
        let (disk_bytes, disk_files) = disk_limits();
        let most = Most {
            bytes: disk_bytes.saturating_add(bytes),
            files: disk_files.saturating_add(files),
        };
        blocking(move || copy_files(&from, &target, most)).await?;
        self.copy_memory(live, spec).await?;
        let (from, target) = (live.copy.clone(), to);
        blocking(move || from.finish_as(&target)).await?;
        Ok(())
    }

    async fn copy_memory(&self, live: &Live, spec: SessionSpec) -> Result<(), ForkError> {
        let id = spec.id.clone();
        let copied = self.workers.fork(live.spec(), spec).await;
        // Its place is given to it when it is opened, with the compute that it has then.
        self.workers.end(&id).await;
        copied?.map_err(|why| ForkError::Memory {
            session: live.id.clone(),
            why,
        })?;
        Ok(())
    }

    /// Whether a session that is about to start has what it goes on from. It has, unless the machine lost its power.
    pub(super) fn is_whole(session: &crate::session::Session, copy: &WorkingCopy) -> bool {
        let is_first = session.state == SessionState::Starting && session.generation == 1;
        !is_first || session.forked_from.is_none() || copy.is_finished()
    }
}

/// The most that is copied.
#[derive(Debug, Clone, Copy)]
struct Most {
    bytes: u64,
    files: u64,
}

impl Most {
    fn take(&mut self, bytes: u64, files: u64) -> Result<(), CopyError> {
        let left = |have: u64, taken| have.checked_sub(taken).ok_or(CopyError::TooLarge);
        self.bytes = left(self.bytes, bytes)?;
        self.files = left(self.files, files)?;
        Ok(())
    }
}

/// Copies the folders that tools write to. They may hold anything, links that lead out included.
fn copy_files(from: &WorkingCopy, to: &WorkingCopy, mut most: Most) -> Result<(), CopyError> {
    for folder in WorkingCopy::FOLDERS {
        let target = to.folder().join(folder);
        std::fs::create_dir_all(&target)?;
        let source = Dir::open_ambient_dir(from.folder().join(folder), ambient_authority())?;
        let target = Dir::open_ambient_dir(target, ambient_authority())?;
        copy_tree(&source, &target, &mut most)?;
    }
    Ok(())
}

fn copy_tree(from: &Dir, to: &Dir, most: &mut Most) -> Result<(), CopyError> {
    let mut pending = vec![PathBuf::new()];
    while let Some(folder) = pending.pop() {
        let entries = if folder.as_os_str().is_empty() {
            from.entries()?
        } else {
            from.read_dir(&folder)?
        };
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type()?;
            most.take(0, 1)?;
            if kind.is_dir() {
                to.create_dir(&path)?;
                pending.push(path);
            } else if kind.is_symlink() {
                // As it is: it leads where it leads, and nobody follows it out.
                let leads_to = from.read_link_contents(&path)?;
                to.symlink_contents(leads_to, &path)?;
            } else if kind.is_file() {
                copy_file(from, to, &path, most)?;
            }
        }
    }
    Ok(())
}

fn copy_file(from: &Dir, to: &Dir, path: &Path, most: &mut Most) -> Result<(), CopyError> {
    let mut source: File = from.open(path)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut target = to.open_with(path, &options)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                most.take(count as u64, 0)?;
                target.write_all(buffer.get(..count).unwrap_or_default())?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn copies() -> (tempfile::TempDir, WorkingCopy, WorkingCopy) {
        let folder = tempfile::tempdir().unwrap();
        let from = WorkingCopy::new(folder.path().join("from"));
        let to = WorkingCopy::new(folder.path().join("to"));
        std::fs::create_dir_all(from.folder().join("flow/a/b")).unwrap();
        std::fs::create_dir_all(from.folder().join("tmp")).unwrap();
        std::fs::write(from.folder().join("flow/a/b/c.txt"), "deep").unwrap();
        std::fs::write(from.folder().join("tmp/t.txt"), "temporary").unwrap();
        std::fs::write(from.folder().join("files.json"), "{}").unwrap();
        (folder, from, to)
    }

    const MOST: Most = Most {
        bytes: 1_000,
        files: 10,
    };

    #[test]
    fn all_files_are_copied_and_links_as_links() {
        let (folder, from, to) = copies();
        let outside = folder.path().join("outside");
        std::fs::write(&outside, "secret").unwrap();
        std::os::unix::fs::symlink(&outside, from.folder().join("flow/link")).unwrap();
        std::os::unix::fs::symlink("a", from.folder().join("flow/inside")).unwrap();
        copy_files(&from, &to, MOST).unwrap();
        assert!(!to.is_finished());
        from.finish_as(&to).unwrap();
        assert!(to.is_finished());
        let read = |path: &str| std::fs::read_to_string(to.folder().join(path)).unwrap();
        assert_eq!(read("flow/a/b/c.txt"), "deep");
        assert_eq!(read("flow/inside/b/c.txt"), "deep");
        assert_eq!(read("tmp/t.txt"), "temporary");
        let link = std::fs::read_link(to.folder().join("flow/link")).unwrap();
        assert_eq!(link, outside);
        std::fs::write(to.folder().join("flow/a/b/c.txt"), "other").unwrap();
        let source = std::fs::read_to_string(from.folder().join("flow/a/b/c.txt"));
        assert_eq!(source.unwrap(), "deep");
    }

    #[test]
    fn no_more_is_copied_than_a_session_may_have() {
        for (bytes, files) in [(12, 10), (1_000, 3)] {
            let (_folder, from, to) = copies();
            let refused = copy_files(&from, &to, Most { bytes, files });
            assert!(matches!(refused, Err(CopyError::TooLarge)), "{refused:?}");
        }
    }
}
