//! A registry that outlives its host, and that can be full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flowcell_session::{
    Answered, Change, Durability, FileInfo, Happening, MemoryRegistry, Name, Registry,
    RegistryError, UserName,
};
use jiff::Timestamp;

#[derive(Default)]
struct Kept {
    registry: MemoryRegistry,
    is_full: AtomicBool,
}

/// What is left of a host that died.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Kept>);

impl Disk {
    pub(crate) fn set_full(&self, is_full: bool) {
        self.0.is_full.store(is_full, Ordering::Relaxed);
    }
}

impl Registry for Disk {
    fn load(&self) -> Result<Vec<Change>, RegistryError> {
        self.0.registry.load()
    }

    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), RegistryError> {
        if self.0.is_full.load(Ordering::Relaxed) {
            return Err(RegistryError::Full("the simulation says so".into()));
        }
        self.0.registry.commit(changes, durability)
    }

    fn files(&self, workspace: &Name, flow: &Name) -> Result<Vec<FileInfo>, RegistryError> {
        self.0.registry.files(workspace, flow)
    }

    fn file(
        &self,
        workspace: &Name,
        flow: &Name,
        path: &str,
    ) -> Result<Option<Bytes>, RegistryError> {
        self.0.registry.file(workspace, flow, path)
    }

    fn history(
        &self,
        workspace: &Name,
        session: &Name,
        before: Option<u64>,
        most: u64,
    ) -> Result<Vec<(u64, Happening)>, RegistryError> {
        self.0.registry.history(workspace, session, before, most)
    }

    fn answered(&self, user: &UserName, key: &str) -> Result<Option<Answered>, RegistryError> {
        self.0.registry.answered(user, key)
    }

    fn forget_answers(&self, before: Timestamp) -> Result<(), RegistryError> {
        self.0.registry.forget_answers(before)
    }
}
