//! Bringing newer rule books to the partitions that are led here, whoever made them:
//! this node, another one over the same metadata, or a log that told of one first.
//!
//! Owns: the newest version that is known here. Must always hold: a partition that leads
//! here is proposed every book that is newer than those before it, either by the change
//! that made it, or when it begins to lead. An older one does no harm: it is not applied.
//! Must not know: what a book says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use forebay_engine::{
    leadership::Role,
    partition::{machine::PartitionInput, rows::FsmSlot, store::fsm_number},
    rules::{BookVersion, RuleBook, barrier_before},
};
use forebay_messages::{
    PartitionId,
    command::{Command, VersionBarrier},
};
use forebay_storage::metadata::{Change, MetaKey, MetadataError, Watch};

use crate::{
    access::replies::Pending,
    registry::{NodeServices, PartitionEntry, upsert_rule_book},
};

/// The answers to come of the partitions that a book was proposed to.
pub(crate) type Proposed = BTreeMap<PartitionId, Pending>;

/// What is known of rule books.
#[derive(Default)]
pub(crate) struct RuleBooks(Mutex<Known>);

#[derive(Default)]
struct Known {
    newest: BookVersion,
    /// The book that a change on this node is about to store, and what became of it.
    expected: Option<(Bytes, Option<Proposed>)>,
}

impl RuleBooks {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This book is about to be stored by whoever asks for it afterwards.
    pub(crate) fn expect(&self, book: Bytes) {
        self.known().expected = Some((book, None));
    }

    /// To whom the expected book was proposed, if the metadata has told of it.
    pub(crate) fn take_expected(&self) -> Option<Proposed> {
        self.known().expected.take()?.1
    }
}

impl NodeServices {
    /// Follows the rule book in the metadata until the watch is dropped.
    pub(crate) fn watch_rule_book(self: &Arc<Self>) -> Result<Watch, MetadataError> {
        let services = Arc::downgrade(self);
        let on_change = move |change: &Change| {
            if let (Some(services), Some(book)) = (services.upgrade(), &change.value) {
                services.rule_book_stored(book);
            }
        };
        self.metadata.watch(&MetaKey::rule_book(), Box::new(on_change))
    }

    /// The metadata has another book.
    fn rule_book_stored(&self, bytes: &Bytes) {
        let version = match RuleBook::decode(bytes) {
            Ok(book) => book.version(),
            Err(error) => {
                tracing::error!(%error, "the rule book in the metadata does not decode");
                return;
            }
        };
        let mut known = self.rule_books.known();
        known.newest = known.newest.max(version);
        let proposed = self.propose_rule_book(bytes, None);
        if let Some((expected, told)) = &mut known.expected
            && expected == bytes
        {
            *told = Some(proposed);
        }
    }

    /// A partition has applied a book that its log told of: the others get it too, if
    /// nobody here knew of it.
    pub(crate) fn rule_book_applied(&self, partition: PartitionId, book: &RuleBook) {
        let mut known = self.rule_books.known();
        if book.version() > known.newest {
            known.newest = book.version();
            self.propose_rule_book(&Bytes::from(book.encode()), Some(partition));
        }
    }

    /// Proposes a book to the partitions that are led here.
    pub(crate) fn propose_rule_book(&self, book: &Bytes, but: Option<PartitionId>) -> Proposed {
        let mut proposed = Proposed::new();
        for entry in &self.partitions {
            let partition = *entry.key();
            let leads = self
                .status(partition)
                .is_some_and(|status| matches!(status.role, Role::Leader { .. }));
            if !leads || but == Some(partition) {
                continue;
            }
            proposed.insert(partition, self.propose_book_to(partition, &entry, book.clone()));
        }
        proposed
    }

    /// Proposes a book to a partition, and before it the barrier that it needs: a forebay
    /// that does not know pauses would go on under the book before, and start what is
    /// paused.
    pub(crate) fn propose_book_to(
        &self,
        partition: PartitionId,
        entry: &PartitionEntry,
        book: Bytes,
    ) -> Pending {
        let propose = |command| {
            let pending = self.replies.open(partition);
            let (command, reply) = (Box::new(command), pending.id());
            entry.address.send(PartitionInput::Propose { command, reply });
            pending
        };
        if let Some(format_min) = barrier_before(&book)
            && fsm_number(&entry.store, FsmSlot::MinVersion).unwrap_or(0) < u64::from(format_min)
        {
            // Both go into the log in this order; nobody waits for the first.
            drop(propose(Command::VersionBarrier(VersionBarrier { format_min })));
        }
        propose(upsert_rule_book(entry.range, book))
    }
}
