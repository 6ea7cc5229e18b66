//! The rule books known to a node: the newest version, and a change that is about to be stored.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use forebay_engine::rules::BookVersion;
use forebay_messages::PartitionId;

use crate::access::replies::Pending;

/// The pending answers of the partitions that a book was proposed to.
pub(crate) type Proposed = BTreeMap<PartitionId, Pending>;

/// The known rule books.
#[derive(Default)]
pub(crate) struct RuleBooks(Mutex<Known>);

#[derive(Default)]
pub(super) struct Known {
    pub(super) newest: BookVersion,
    /// The book that a change on this node is about to store, and the result.
    pub(super) expected: Option<(Bytes, Option<Proposed>)>,
}

impl RuleBooks {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller is about to store this book, and will call `take_expected`.
    pub(crate) fn expect(&self, book: Bytes) {
        self.known().expected = Some((book, None));
    }

    /// The partitions to which the expected book was proposed, if the metadata has reported it.
    pub(crate) fn take_expected(&self) -> Option<Proposed> {
        self.known().expected.take()?.1
    }
}
