//! State that the handlers of a runtime share.
//!
//! Must always hold: it does not keep the runtime alive.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard},
};

use forebay_actors::{executor::Journals, shell::Clock};

use crate::handler::HandlerOptions;

/// Values from `Builder::state`, by type.
pub(crate) type States = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

/// Options of registered handlers, by service.
pub(crate) type Defaults = HashMap<String, HandlerOptions>;

/// State that the handlers of a runtime share.
pub(crate) struct Environment {
    pub(crate) states: States,
    defaults: RwLock<Defaults>,
    /// Maximum size of a payload, in bytes.
    pub(crate) payload_len_max: usize,
    pub(crate) clock: Arc<dyn Clock>,
    /// Set before the first handler is called.
    journals: OnceLock<Journals>,
}

impl Environment {
    pub(crate) fn new(states: States, payload_len_max: usize, clock: Arc<dyn Clock>) -> Self {
        let (defaults, journals) = (RwLock::default(), OnceLock::new());
        Self { states, defaults, payload_len_max, clock, journals }
    }

    /// Called once, before the node starts.
    pub(crate) fn set_journals(&self, journals: Journals) {
        // There is one start per environment, so nothing was set before.
        let _ = self.journals.set(journals);
    }

    /// Connects attempts to their journals.
    pub(crate) fn journals(&self) -> Journals {
        self.journals.get().cloned().unwrap_or_default()
    }

    /// Options of registered handlers, to be changed.
    pub(crate) fn change_defaults(&self) -> RwLockWriteGuard<'_, Defaults> {
        self.defaults.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Options of the handler of a service, if one is registered here.
    pub(crate) fn defaults(&self, service: &str) -> HandlerOptions {
        let defaults = self.defaults.read().unwrap_or_else(PoisonError::into_inner);
        defaults.get(service).copied().unwrap_or_default()
    }
}
