//! Bringing newer rule books to the partitions that are led here, from any source: this node,
//! another one over the same metadata, or a log that had it first.
//!
//! Owns: the newest version that is known here. Must always hold: every newer book is proposed to a
//! partition that leads here, either by the change that made it, or when the partition begins to
//! lead. An older book does no harm: it is not applied. Must not know: the contents of a book.

use std::sync::Arc;

use bytes::Bytes;
use forebay_engine::{
    leadership::Role,
    partition::{
        machine::PartitionInput,
        rows::FsmSlot,
        store::{Rows, fsm_number},
    },
    rules::{BookVersion, RuleBook, barrier_before},
};
use forebay_messages::{
    PartitionId,
    command::{Command, UpsertRuleBook, VersionBarrier},
};
use forebay_storage::metadata::{Change, MetaKey, MetadataError, Watch};

use super::known::Proposed;
use crate::{
    access::replies::Pending,
    error::NodeError,
    registry::{Registry, ReplicaHandle},
    table::KeyRange,
};

impl Registry {
    /// The newest rule book, if a partition that begins to lead has an older one: it applies from
    /// the first start on, not only once it has gone through the log.
    pub(crate) fn newer_rule_book(
        &self,
        partition: PartitionId,
        than: BookVersion,
    ) -> Option<RuleBook> {
        let newest = self.metadata.get(&MetaKey::rule_book()).map_err(NodeError::from);
        let decoded = newest.and_then(|found| {
            let book = found.map(|found| RuleBook::decode(&found.value)).transpose();
            book.map_err(NodeError::from)
        });
        match decoded {
            Ok(book) => book.filter(|book| book.version() > than),
            Err(error) => {
                tracing::error!(%partition, %error, "the newest rule book cannot be read");
                None
            }
        }
    }
}

impl Registry {
    /// Follows the rule book in the metadata until the watch is dropped.
    pub(crate) fn watch_rule_book(self: &Arc<Self>) -> Result<Watch, MetadataError> {
        let registry = Arc::downgrade(self);
        let on_change = move |change: &Change| {
            if let (Some(registry), Some(book)) = (registry.upgrade(), &change.value) {
                registry.rule_book_stored(book);
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

    /// A partition has applied a book from its log: the others get it too, if it was unknown here.
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
        for replica in &self.replicas {
            let partition = *replica.key();
            let leads = self
                .status(partition)
                .is_some_and(|status| matches!(status.role, Role::Leader { .. }));
            if !leads || but == Some(partition) {
                continue;
            }
            proposed.insert(partition, self.propose_book_to(partition, &replica, book.clone()));
        }
        proposed
    }

    /// Proposes a book to a partition, after the barrier that it needs: a forebay that does not
    /// know pauses would continue under the previous book, and start paused work.
    pub(crate) fn propose_book_to(
        &self,
        partition: PartitionId,
        replica: &ReplicaHandle,
        book: Bytes,
    ) -> Pending {
        let propose = |command| {
            let pending = self.replies.open(partition);
            let (command, reply) = (Box::new(command), pending.id());
            replica.partition.address.send(PartitionInput::Propose { command, reply });
            pending
        };
        if let Some(format_min) = barrier_before(&book)
            && fsm_number(&replica.rows.store, FsmSlot::MinVersion).unwrap_or(0)
                < u64::from(format_min)
        {
            // Both go into the log in this order; the first answer is ignored.
            drop(propose(Command::VersionBarrier(VersionBarrier { format_min })));
        }
        propose(upsert_rule_book(replica.rows.range, book))
    }

    /// Proposes the newest rule book to a partition that has just begun to lead, unless it already
    /// has it.
    pub(crate) fn publish_rule_book(&self, partition: PartitionId) {
        let Some(replica) = self.replicas.get(&partition).map(|replica| replica.clone()) else {
            return;
        };
        let newest = match self.metadata.get(&MetaKey::rule_book()) {
            Ok(Some(found)) => found.value,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%partition, %error, "the rule book cannot be read");
                return;
            }
        };
        let present = replica.rows.store.fsm(FsmSlot::RuleBook).ok();
        if present.flatten().as_ref() == Some(&newest) {
            return;
        }
        drop(self.propose_book_to(partition, &replica, newest));
    }
}

/// The command that brings a rule book to a partition.
fn upsert_rule_book(range: KeyRange, rule_book: bytes::Bytes) -> Command {
    let (key_first, key_last) = range;
    Command::UpsertRuleBook(UpsertRuleBook { key_first, key_last, rule_book })
}
