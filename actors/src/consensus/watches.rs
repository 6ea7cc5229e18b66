//! Callbacks for changes of keys.
//!
//! Must always hold: a watch sees versions of its key in growing order, and the last one always.
//! A node that copies a snapshot skips versions in between.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use forebay_engine::metadata::{Changed, Row, State};

type OnChange = Box<dyn FnMut(&Row) + Send>;

struct Watching {
    key: String,
    /// The last reported version.
    reported: u64,
    on_change: OnChange,
}

#[derive(Default)]
struct Inner {
    next: u64,
    watching: BTreeMap<u64, Arc<Mutex<Watching>>>,
}

/// The watches of a node; they outlive the thread that drives the group.
#[derive(Clone, Default)]
pub(super) struct Watches(Arc<Mutex<Inner>>);

/// Ends a watch when dropped.
#[must_use = "dropping it ends the watch"]
pub struct MetadataWatch {
    inner: Weak<Mutex<Inner>>,
    id: u64,
}

impl Drop for MetadataWatch {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.lock().unwrap_or_else(PoisonError::into_inner).watching.remove(&self.id);
        }
    }
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, key: &str, on_change: OnChange) -> MetadataWatch {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        let watching = Watching { key: key.to_owned(), reported: 0, on_change };
        inner.watching.insert(id, Arc::new(Mutex::new(watching)));
        MetadataWatch { inner: Arc::downgrade(&self.0), id }
    }

    /// Called without the lock of the list, so that a callback may drop its own watch.
    fn each(&self, mut report: impl FnMut(&mut Watching)) {
        let all: Vec<_> = self.lock().watching.values().map(Arc::clone).collect();
        for watching in all {
            report(&mut watching.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Reports changes, after they were applied.
    pub(super) fn notify(&self, changes: &[Changed]) {
        if changes.is_empty() {
            return;
        }
        self.each(|watching| {
            for one in changes {
                if *one.key == watching.key {
                    watching.report(&one.row);
                }
            }
        });
    }

    /// Reports the present rows to the watches that have not seen them.
    pub(super) fn catch_up(&self, state: &State) {
        self.each(|watching| {
            if let Some(row) = state.get(&watching.key) {
                watching.report(row);
            }
        });
    }
}

impl Watching {
    fn report(&mut self, row: &Row) {
        if row.version > self.reported {
            self.reported = row.version;
            (self.on_change)(row);
        }
    }
}
