//! Changing the rule book: compare-and-swap in the metadata store, then through the log of every
//! partition that is led here.

use std::sync::Arc;

use bytes::Bytes;
use forebay_engine::{
    partition::{rows::FsmSlot, store::Rows},
    rules::{BookVersion, History, MAX_RULES_PER_BOOK, RuleBook, RuleChange, check_supported},
};
use forebay_messages::{PartitionId, record::RECORD_ROOM};
use forebay_storage::metadata::{MetaKey, MetadataError, MetadataStore, Precondition, Version};

use crate::{
    access::propose::answer_if_gone,
    error::{NodeError, refusal},
};

use super::{Rules, known::Proposed};

/// Attempts before a race with other writers is given up.
const TRIES_MAX: usize = 16;

fn stored_book(metadata: &dyn MetadataStore) -> Result<(RuleBook, Option<Version>), NodeError> {
    match metadata.get(&MetaKey::rule_book())? {
        None => Ok((RuleBook::default(), None)),
        Some(found) => Ok((RuleBook::decode(&found.value)?, Some(found.version))),
    }
}

fn stored_history(metadata: &dyn MetadataStore) -> Result<History, NodeError> {
    match metadata.get(&MetaKey::rule_book_history())? {
        None => Ok(History::default()),
        Some(found) => Ok(History::decode(&found.value)?),
    }
}

/// Stores a book and its history in one write, if the stored book still has this version.
fn store_book(
    metadata: &dyn MetadataStore,
    book: Bytes,
    history: &History,
    version: Option<Version>,
) -> Result<Version, MetadataError> {
    let precondition = version.map_or(Precondition::DoesNotExist, Precondition::MatchesVersion);
    let history_key = MetaKey::rule_book_history();
    let also = (&history_key, Bytes::from(history.encode()));
    metadata.put_with(&MetaKey::rule_book(), book, precondition, also)
}

impl Rules {
    /// The newest rule book. Blocks: it reads the metadata.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn rule_book(&self) -> Result<RuleBook, NodeError> {
        Ok(stored_book(&*self.registry.metadata)?.0)
    }

    /// As [`Rules::rule_book`], without blocking the caller. Cancel-safe.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn newest(&self) -> Result<RuleBook, NodeError> {
        let registry = Arc::clone(&self.registry);
        let read = move || stored_book(&*registry.metadata).map(|(book, _)| book);
        self.registry.blocking(read).await?
    }

    /// The book applied by the local replica of a partition.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn applied_rule_book(&self, partition: PartitionId) -> Result<RuleBook, NodeError> {
        let replica = self.registry.replica(partition)?;
        match replica.rows.store.fsm(FsmSlot::RuleBook)? {
            None => Ok(RuleBook::default()),
            Some(bytes) => Ok(RuleBook::decode(&bytes)?),
        }
    }

    /// The earlier books, newest last. Blocks: it reads the metadata.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn rule_book_history(&self) -> Result<History, NodeError> {
        stored_history(&*self.registry.metadata)
    }

    /// As [`Rules::rule_book_history`], without blocking the caller. Cancel-safe.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn history(&self) -> Result<History, NodeError> {
        let registry = Arc::clone(&self.registry);
        self.registry.blocking(move || stored_history(&*registry.metadata)).await?
    }

    /// Changes the rule book and returns once every partition led here has applied it. `make` gets
    /// the current book and may be called again after a race with another change.
    ///
    /// # Errors
    /// [`NodeError::Rules`] when a change or its precondition is refused. Nothing was changed then,
    /// nor after any other error but [`NodeError::RulesNotApplied`].
    pub async fn change_rules(
        &self,
        author: &str,
        make: impl Fn(&RuleBook) -> Vec<RuleChange> + Send,
    ) -> Result<RuleBook, NodeError> {
        self.registry.check_up()?;
        let now = self.registry.clock().now();
        let change = move |book: &RuleBook| {
            let changes = make(book);
            check_supported(&changes)?;
            let applied = book.apply(&changes, now, MAX_RULES_PER_BOOK)?;
            Ok(applied.changed.then_some(applied.book))
        };
        let (book, told) = self.swap_book(author, change).await?;
        self.bring_book(&book, told).await?;
        Ok(book)
    }

    /// Puts the rules of an earlier version into force again, as a new version.
    ///
    /// # Errors
    /// [`NodeError::Rollback`] when that version is no longer kept.
    pub async fn rollback_rules(
        &self,
        author: &str,
        version: BookVersion,
    ) -> Result<RuleBook, NodeError> {
        self.registry.check_up()?;
        let now = self.registry.clock().now();
        let history = self.history().await?;
        let change = move |book: &RuleBook| {
            let applied = history.rollback(book, version, now)?;
            Ok(applied.changed.then_some(applied.book))
        };
        let (book, told) = self.swap_book(author, change).await?;
        self.bring_book(&book, told).await?;
        Ok(book)
    }

    /// Swaps the stored book, and with it the history, for the result of `change` (`None`:
    /// nothing to do). Returns the partitions to which the new one was proposed, if the metadata
    /// reported it at once.
    ///
    /// Both are one write, on a thread that may block: no error follows a change that is
    /// already in force.
    async fn swap_book(
        &self,
        author: &str,
        change: impl Fn(&RuleBook) -> Result<Option<RuleBook>, NodeError> + Send,
    ) -> Result<(RuleBook, Option<Proposed>), NodeError> {
        let _changing = self.registry.rules_changing.lock().await;
        let mut tries = 0;
        loop {
            tries += 1;
            let registry = Arc::clone(&self.registry);
            let read = move || -> Result<_, NodeError> {
                let metadata = &*registry.metadata;
                Ok((stored_book(metadata)?, stored_history(metadata)?))
            };
            let ((present, version), mut history) = self.registry.blocking(read).await??;
            let Some(book) = change(&present)? else {
                return Ok((present, None));
            };
            history.record(book.clone(), author, self.registry.clock().now());
            let bytes = Bytes::from(book.encode());
            // Every partition gets the whole book in one record.
            let len_max = self.registry.record_len_max.saturating_sub(RECORD_ROOM);
            if bytes.len() > len_max {
                return Err(NodeError::RuleBookTooLarge { len: bytes.len(), len_max });
            }
            self.registry.rule_books.expect(bytes.clone());
            let registry = Arc::clone(&self.registry);
            let put = move || store_book(&*registry.metadata, bytes, &history, version);
            match self.registry.blocking(put).await? {
                Ok(_) => return Ok((book, self.registry.rule_books.take_expected())),
                Err(MetadataError::PreconditionFailed { .. }) if tries < TRIES_MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until every partition led here has applied a book.
    ///
    /// # Errors
    /// [`NodeError::RulesNotApplied`]: the book is stored and in force anyway.
    async fn bring_book(&self, book: &RuleBook, told: Option<Proposed>) -> Result<(), NodeError> {
        self.until_applied(book, told).await.map_err(|source| {
            let version = book.version();
            NodeError::RulesNotApplied { version, source: Box::new(source) }
        })
    }

    async fn until_applied(
        &self,
        book: &RuleBook,
        told: Option<Proposed>,
    ) -> Result<(), NodeError> {
        let proposed = told
            .unwrap_or_else(|| self.registry.propose_rule_book(&Bytes::from(book.encode()), None));
        for (partition, pending) in proposed {
            answer_if_gone(&self.registry, partition, [pending.id()]);
            match refusal(pending.await) {
                // A later leader has read the book when it began to lead.
                Ok(_) | Err(NodeError::NotLeading | NodeError::LostLeadership) => {}
                Err(NodeError::StorageFailed(reason)) => {
                    return Err(NodeError::PartitionStopped { partition, reason });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
