//! The rule books known to a node: the newest one, and the versions that the replicas here have
//! applied. In memory, so that no actor reads the metadata.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use forebay_engine::rules::{BookVersion, RuleBook};
use forebay_messages::PartitionId;
use tokio::sync::watch;

/// A rule book and its bytes.
#[derive(Clone, Default)]
pub(super) struct KnownBook {
    pub(super) book: Arc<RuleBook>,
    pub(super) bytes: Bytes,
}

/// The known rule books.
#[derive(Default)]
pub(crate) struct RuleBooks {
    newest: Mutex<KnownBook>,
    applied: watch::Sender<BTreeMap<PartitionId, BookVersion>>,
}

impl RuleBooks {
    fn lock(&self) -> MutexGuard<'_, KnownBook> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn newest(&self) -> KnownBook {
        self.lock().clone()
    }

    /// A book was found; whether it is the newest.
    pub(super) fn found(&self, found: KnownBook) -> bool {
        let mut newest = self.lock();
        let is_newer = found.book.version() > newest.book.version();
        if is_newer {
            *newest = found;
        }
        is_newer
    }

    /// A replica has applied a book of this version.
    pub(crate) fn applied(&self, partition: PartitionId, version: BookVersion) {
        self.applied.send_modify(|applied| {
            applied.insert(partition, version);
        });
    }

    /// The replica is gone.
    pub(crate) fn forget(&self, partition: PartitionId) {
        self.applied.send_modify(|applied| {
            applied.remove(&partition);
        });
    }

    /// The version that a replica has applied.
    pub(crate) fn version_of(&self, partition: PartitionId) -> BookVersion {
        self.applied.borrow().get(&partition).copied().unwrap_or_default()
    }

    /// Reports every change of [`RuleBooks::version_of`].
    pub(super) fn watch(&self) -> watch::Receiver<BTreeMap<PartitionId, BookVersion>> {
        self.applied.subscribe()
    }
}
