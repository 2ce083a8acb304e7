//! The state in memory and the registry behind it, with one writer at a time.

use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::registry::{Durability, Registry, RegistryError};
use crate::state::{Change, State};

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// It was refused.
    #[error(transparent)]
    Refused(E),
    /// It could not be stored; the state is as it was.
    #[error(transparent)]
    Registry(RegistryError),
}

/// The state, as it is stored.
pub struct Ledger {
    registry: Box<dyn Registry>,
    state: RwLock<State>,
    // Held from the decision until the change is stored and taken in; readers go on meanwhile.
    writing: Mutex<()>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Ledger {
    /// The state that a registry holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(registry: impl Registry) -> Result<Self, RegistryError> {
        let mut state = State::default();
        for change in registry.load()? {
            state.apply(&change);
        }
        Ok(Self {
            registry: Box::new(registry),
            state: RwLock::new(state),
            writing: Mutex::new(()),
        })
    }

    /// The state at this moment. Do not hold it while waiting for anything.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept beside the state.
    pub fn registry(&self) -> &dyn Registry {
        &*self.registry
    }

    /// Decides on changes by the state, stores them, and takes them in; gives what the decision gave beside them.
    /// Blocks for as long as the disk needs.
    ///
    /// # Errors
    /// When the decision is a refusal, or the registry fails. Nothing has changed then.
    pub fn change<T, E>(
        &self,
        durability: Durability,
        decide: impl FnOnce(&State) -> Result<(Vec<Change>, T), E>,
    ) -> Result<T, ChangeError<E>> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (changes, decided) = decide(&self.state()).map_err(ChangeError::Refused)?;
        if !changes.is_empty() {
            self.registry
                .commit(&changes, durability)
                .map_err(ChangeError::Registry)?;
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for change in &changes {
                state.apply(change);
            }
        }
        Ok(decided)
    }
}
