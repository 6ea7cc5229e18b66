//! Callbacks for changes of keys.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
};

use super::{Change, MetaKey};
use crate::sync;

/// Called with every change of a watched key.
pub type OnChange = Box<dyn Fn(&Change) + Send + Sync>;

type Watching = BTreeMap<MetaKey, BTreeMap<u64, Arc<OnChange>>>;

/// The callbacks, by key. The store calls [`Self::notify`] under the lock that orders its changes,
/// so all watchers see them in version order.
#[derive(Clone, Default)]
pub(super) struct Watchers(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    next_id: u64,
    watching: Watching,
}

/// Ends a watch when dropped. A call in progress on another thread may still finish after that.
#[must_use = "dropping it ends the watch"]
pub struct Watch {
    key: MetaKey,
    _guard: Box<dyn Any + Send + Sync>,
}

impl Watch {
    /// A watch that ends when a guard of its provider is dropped.
    pub fn new(key: MetaKey, guard: impl Any + Send + Sync) -> Self {
        Self { key, _guard: Box::new(guard) }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watch").field(&self.key).finish()
    }
}

/// Removes a callback when dropped.
struct Guard {
    inner: Weak<Mutex<Inner>>,
    key: MetaKey,
    id: u64,
}

impl Watchers {
    /// Adds a watcher and reports the current state to it.
    pub(super) fn add(&self, key: &MetaKey, on_change: OnChange, now: Option<Change>) -> Watch {
        if let Some(now) = now {
            on_change(&now);
        }
        let mut inner = sync::lock(&self.0);
        let id = inner.next_id;
        inner.next_id += 1;
        inner.watching.entry(key.clone()).or_default().insert(id, Arc::new(on_change));
        Watch::new(key.clone(), Guard { inner: Arc::downgrade(&self.0), key: key.clone(), id })
    }

    /// Reports a durable change.
    pub(super) fn notify(&self, change: &Change) {
        // Called without the lock, so that a watcher may drop its own watch.
        let watching: Vec<_> = {
            let inner = sync::lock(&self.0);
            inner.watching.get(&change.key).into_iter().flatten().map(|(_, f)| f.clone()).collect()
        };
        for on_change in watching {
            on_change(change);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let mut inner = sync::lock(&inner);
        if let Some(watching) = inner.watching.get_mut(&self.key) {
            watching.remove(&self.id);
            if watching.is_empty() {
                inner.watching.remove(&self.key);
            }
        }
    }
}
