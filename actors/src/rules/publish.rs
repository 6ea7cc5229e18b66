//! Bringing newer rule books to the partitions that are led here, from any source: this node,
//! another one over the same metadata, or a log that had it first.
//!
//! Must always hold: every newer book is proposed to a partition that leads here, either when the
//! metadata reports it, or when the partition begins to lead; a change of the book proposes nothing
//! itself. An older book does no harm: it is not applied. Must not know: the contents of a book.

use std::sync::Arc;

use bytes::Bytes;
use forebay_engine::{
    leadership::Role,
    partition::{machine::PartitionInput, rows::FsmSlot, store::fsm_number},
    rules::{BookVersion, RuleBook, barrier_before},
};
use forebay_messages::{
    PartitionId,
    command::{Command, UpsertRuleBook, VersionBarrier},
};
use forebay_storage::metadata::{Change, MetaKey, MetadataError, Watch};

use super::known::KnownBook;
use crate::{
    registry::{Registry, ReplicaHandle},
    table::KeyRange,
};

impl Registry {
    /// The newest rule book, if a partition that begins to lead has an older one: it applies from
    /// the first start on, not only once it has gone through the log.
    pub(crate) fn newer_rule_book(&self, than: BookVersion) -> Option<Arc<RuleBook>> {
        Some(self.rule_books.newest().book).filter(|book| book.version() > than)
    }

    /// Follows the rule book in the metadata until the watch is dropped. The present one is known
    /// when this returns.
    pub(crate) async fn watch_rule_book(self: &Arc<Self>) -> Result<Watch, MetadataError> {
        let registry = Arc::downgrade(self);
        let on_change = move |change: &Change| {
            if let (Some(registry), Some(book)) = (registry.upgrade(), &change.value) {
                registry.rule_book_stored(book);
            }
        };
        self.metadata.watch(&MetaKey::rule_book(), Box::new(on_change)).await
    }

    /// The metadata has another book.
    fn rule_book_stored(&self, bytes: &Bytes) {
        match RuleBook::decode(bytes) {
            Ok(book) => {
                let found = KnownBook { book: Arc::new(book), bytes: bytes.clone() };
                self.rule_books.found(found);
                self.propose_rule_book(bytes, None);
            }
            Err(error) => {
                tracing::error!(%error, "the rule book in the metadata does not decode");
            }
        }
    }

    /// A replica has applied a book from its log: the others get it too, if it was unknown here.
    pub(crate) fn rule_book_applied(&self, partition: PartitionId, book: &RuleBook) {
        if book.version() > self.rule_books.newest().book.version() {
            let bytes = Bytes::from(book.encode());
            let found = KnownBook { book: Arc::new(book.clone()), bytes: bytes.clone() };
            if self.rule_books.found(found) {
                self.propose_rule_book(&bytes, Some(partition));
            }
        }
        self.rule_books.applied(partition, book.version());
    }

    /// The partitions that accept commands here.
    pub(super) fn open_partitions(&self) -> Vec<PartitionId> {
        let is_open = |partition: &PartitionId| {
            let status = self.status(*partition);
            status.is_some_and(|status| matches!(status.role, Role::Leader { open: true, .. }))
        };
        self.replicas.iter().map(|replica| *replica.key()).filter(is_open).collect()
    }

    /// Proposes a book to the partitions that are led here.
    fn propose_rule_book(&self, book: &Bytes, but: Option<PartitionId>) {
        for replica in &self.replicas {
            let partition = *replica.key();
            let leads = self
                .status(partition)
                .is_some_and(|status| matches!(status.role, Role::Leader { .. }));
            if leads && but != Some(partition) {
                self.propose_book_to(partition, &replica, book.clone());
            }
        }
    }

    /// Proposes a book to a partition, after the barrier that it needs: a forebay that does not
    /// know pauses would continue under the previous book, and start paused work.
    fn propose_book_to(&self, partition: PartitionId, replica: &ReplicaHandle, book: Bytes) {
        let propose = |command| {
            // Nothing waits for the answer: the partition reports the version that it has applied.
            let reply = self.replies.open(partition).id();
            let command = Box::new(command);
            replica.partition.address.send(PartitionInput::Propose { command, reply });
        };
        if let Some(format_min) = barrier_before(&book)
            && fsm_number(&replica.rows.store, FsmSlot::MinVersion).unwrap_or(0)
                < u64::from(format_min)
        {
            // Both go into the log in this order.
            propose(Command::VersionBarrier(VersionBarrier { format_min }));
        }
        propose(upsert_rule_book(replica.rows.range, book));
    }

    /// Proposes the newest rule book to a partition that has just begun to lead, unless it already
    /// has it.
    pub(crate) fn publish_rule_book(&self, partition: PartitionId) {
        let newest = self.rule_books.newest();
        if self.rule_books.version_of(partition) >= newest.book.version() {
            return;
        }
        let replica = self.replicas.get(&partition).map(|replica| replica.clone());
        if let Some(replica) = replica {
            self.propose_book_to(partition, &replica, newest.bytes);
        }
    }
}

/// The command that brings a rule book to a partition.
fn upsert_rule_book(range: KeyRange, rule_book: bytes::Bytes) -> Command {
    let KeyRange { first: key_first, last: key_last } = range;
    Command::UpsertRuleBook(UpsertRuleBook { key_first, key_last, rule_book })
}
