//! Changing the rule book: compare-and-swap in the metadata store, then through the log of every
//! partition that is led here.

use bytes::Bytes;
use forebay_engine::{
    partition::{rows::FsmSlot, store::Rows},
    rules::{BookVersion, History, MAX_RULES_PER_BOOK, RuleBook, RuleChange, check_supported},
};
use forebay_messages::{PartitionId, record::RECORD_ROOM};
use forebay_storage::metadata::{MetadataError, MetadataStore};

use crate::{error::NodeError, shell::Clock};

use super::{Rules, stored};

/// Attempts before a race with other writers is given up.
const TRIES_MAX: usize = 16;

impl Rules {
    /// The newest rule book, read from the metadata. Cancel-safe.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn newest(&self) -> Result<RuleBook, NodeError> {
        stored::book(&*self.registry.metadata).await
    }

    /// The book applied by the local replica of a partition, for tests. Blocks: it reads the rows.
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

    /// The earlier books, newest last. Cancel-safe.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn history(&self) -> Result<History, NodeError> {
        stored::history(&*self.registry.metadata).await
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
        self.swap_and_await(author, change).await
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
        self.swap_and_await(author, change).await
    }

    /// As [`Rules::swap_book`]; then waits until the partitions that are led here have applied the
    /// book. The watch of the metadata proposes it to them, also if this call is dropped.
    ///
    /// # Errors
    /// [`NodeError::RulesNotApplied`]: the book is stored and in force anyway.
    async fn swap_and_await(
        &self,
        author: &str,
        change: impl Fn(&RuleBook) -> Result<Option<RuleBook>, NodeError> + Send,
    ) -> Result<RuleBook, NodeError> {
        let led = self.registry.open_partitions();
        let book = self.swap_book(author, change).await?;
        let version = book.version();
        self.until_applied(led, version).await.map_err(|source| {
            let source = Box::new(source);
            NodeError::RulesNotApplied { version, source }
        })?;
        Ok(book)
    }

    /// Swaps the stored book, and with it the history, for the result of `change` (`None`: nothing
    /// to do).
    async fn swap_book(
        &self,
        author: &str,
        change: impl Fn(&RuleBook) -> Result<Option<RuleBook>, NodeError> + Send,
    ) -> Result<RuleBook, NodeError> {
        let _changing = self.registry.rules_changing.lock().await;
        let metadata = &*self.registry.metadata;
        // Every partition gets the whole book in one record.
        let len_max = self.registry.record_len_max.saturating_sub(RECORD_ROOM);
        let len_max = len_max.min(stored::book_len_max(metadata));
        swap(metadata, len_max, author, &**self.registry.clock(), change).await
    }

    /// Waits until every partition that is led here reports this version or a newer one. `led`:
    /// led here before the book was stored.
    async fn until_applied(
        &self,
        led: Vec<PartitionId>,
        version: BookVersion,
    ) -> Result<(), NodeError> {
        let mut applied = self.registry.rule_books.watch();
        let mut status = self.registry.watch_status();
        let mut ended = self.registry.down.ended.subscribe();
        loop {
            applied.mark_unchanged();
            status.mark_unchanged();
            if self.is_applied(&led, version)? {
                return Ok(());
            }
            self.registry.check_up()?;
            // The senders are in the registry: they do not end first.
            tokio::select! {
                biased;
                _ = applied.changed() => {}
                _ = status.changed() => {}
                _ = ended.changed() => {}
            }
        }
    }

    /// # Errors
    /// [`NodeError::PartitionStopped`] when one of `led` has stopped.
    fn is_applied(&self, led: &[PartitionId], version: BookVersion) -> Result<bool, NodeError> {
        for partition in led {
            let stopped = self.registry.status(*partition).and_then(|status| status.stopped);
            if let Some(reason) = stopped {
                return Err(NodeError::PartitionStopped { partition: *partition, reason });
            }
        }
        // A partition that is not open gets the book when it opens.
        let open = self.registry.open_partitions();
        let lacks = |partition| self.registry.rule_books.version_of(partition) < version;
        Ok(!open.into_iter().any(lacks))
    }
}

/// Swaps the stored book for the result of `change`, if that has at most `len_max` bytes.
///
/// Book and history are one write: no error follows a change that is already in force. The first
/// attempt begins with the book as this node knows it, which costs nothing: the precondition fails
/// if it is old. A refusal, or that there is nothing to do, follows only from the newest book.
pub(super) async fn swap(
    metadata: &dyn MetadataStore,
    len_max: usize,
    author: &str,
    clock: &dyn Clock,
    change: impl Fn(&RuleBook) -> Result<Option<RuleBook>, NodeError> + Send,
) -> Result<RuleBook, NodeError> {
    let mut known = stored::read_applied(metadata).await?;
    let mut tries = 0;
    loop {
        tries += 1;
        let (present, is_newest) = match known.take() {
            Some(known) => (known, false),
            None => (stored::read(metadata).await?, true),
        };
        let next = change(&present.book).and_then(|next| match next {
            Some(book) => encoded(book, len_max).map(Some),
            None => Ok(None),
        });
        let (book, bytes) = match next {
            Ok(Some(next)) => next,
            _ if !is_newest => continue,
            Ok(None) => return Ok(present.book),
            Err(error) => return Err(error),
        };
        match present.replace(metadata, &book, bytes, author, clock.now()).await {
            Ok(()) => return Ok(book),
            Err(MetadataError::PreconditionFailed { .. }) if tries < TRIES_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn encoded(book: RuleBook, len_max: usize) -> Result<(RuleBook, Bytes), NodeError> {
    let bytes = Bytes::from(book.encode());
    match bytes.len() {
        len if len > len_max => Err(NodeError::RuleBookTooLarge { len, len_max }),
        _ => Ok((book, bytes)),
    }
}
