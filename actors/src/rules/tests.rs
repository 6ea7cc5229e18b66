//! Changes of the rule book of a cluster, at a node that may be behind.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use forebay_engine::rules::{
    BookVersion, ChangeError, LimitsPatch, MAX_RULES_PER_BOOK, Precondition, RuleBook, RulePatch,
};
use forebay_messages::{
    Timestamp,
    rule::{Limits, Pattern},
};
use forebay_storage::metadata::{
    KeyWrite, MemoryMetadata, MetaKey, MetadataFuture, MetadataStore, OnChange, Version, Versioned,
    Watch,
};

use super::change::swap;
use crate::{OwnMetadata, error::NodeError, shell::Clock};

#[derive(Debug)]
struct Fixed;

impl Clock for Fixed {
    fn wall(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// The metadata of a cluster, at a node that applies changes when the test says so.
struct Cluster {
    own: OwnMetadata,
    /// The book as this node has applied it.
    applied: Mutex<Option<Versioned>>,
    /// Reads and changes that went through the cluster's log.
    calls: AtomicUsize,
}

impl MetadataStore for Cluster {
    fn get_all<'a>(&'a self, keys: &'a [MetaKey]) -> MetadataFuture<'a, Vec<Option<Versioned>>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.own.get_all(keys)
    }

    fn get_applied<'a>(&'a self, _: &'a MetaKey) -> MetadataFuture<'a, Option<Versioned>> {
        let applied = self.applied.lock().unwrap().clone();
        Box::pin(async move { Ok(applied) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> MetadataFuture<'a, Vec<(MetaKey, Versioned)>> {
        self.own.list(prefix)
    }

    fn put_all(&self, writes: Vec<KeyWrite>) -> MetadataFuture<'_, Vec<Version>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.own.put_all(writes)
    }

    fn watch<'a>(&'a self, key: &'a MetaKey, on_change: OnChange) -> MetadataFuture<'a, Watch> {
        self.own.watch(key, on_change)
    }

    fn write_bytes_max(&self) -> usize {
        1 << 20
    }

    fn is_shared(&self) -> bool {
        true
    }
}

impl Cluster {
    fn new() -> Self {
        let host = tokio::runtime::Handle::current().into();
        let own = OwnMetadata::new(Arc::new(MemoryMetadata::new()), host);
        Self { own, applied: Mutex::default(), calls: AtomicUsize::new(0) }
    }

    /// The node applies everything.
    async fn apply(&self) {
        let present = self.own.get(&MetaKey::rule_book()).await.unwrap();
        *self.applied.lock().unwrap() = present;
    }

    /// Sets a limit, under a condition; also returns the number of calls.
    async fn set(&self, slots: u32, only_if: Precondition) -> (Result<u64, NodeError>, usize) {
        let before = self.calls.load(Ordering::Relaxed);
        let pattern: Pattern = "tenant".parse().unwrap();
        let limits = LimitsPatch::keeping_others(Limits::concurrency(slots));
        let patch = RulePatch { limits, ..RulePatch::default() };
        let change = |book: &RuleBook| {
            let change = book.upsert(pattern.clone(), patch.clone()).only_if(only_if);
            let applied = book.apply(&[change], Timestamp(1), MAX_RULES_PER_BOOK)?;
            Ok(applied.changed.then_some(applied.book))
        };
        let book = swap(self, 1 << 20, "test", &Fixed, change).await;
        (book.map(|book| book.version().0), self.calls.load(Ordering::Relaxed) - before)
    }
}

/// A read of the newest book costs a sync on a majority, as a change does.
#[tokio::test]
async fn a_change_at_a_node_that_is_up_to_date_reads_nothing_first() {
    let cluster = Cluster::new();
    for version in 1..4_u64 {
        let (set, calls) = cluster.set(version as u32, Precondition::None).await;
        assert_eq!((set.unwrap(), calls), (version, 1));
        cluster.apply().await;
    }
}

#[tokio::test]
async fn a_node_that_is_behind_changes_the_newest_book() {
    let cluster = Cluster::new();
    cluster.set(1, Precondition::None).await.0.unwrap();
    cluster.apply().await;
    cluster.set(2, Precondition::None).await.0.unwrap();
    // It knows version 1: that change is refused, then the newest book is read and changed.
    let (set, calls) = cluster.set(3, Precondition::None).await;
    assert_eq!((set.unwrap(), calls), (3, 3));
}

#[tokio::test]
async fn a_refusal_follows_from_the_newest_book_only() {
    let cluster = Cluster::new();
    cluster.set(1, Precondition::None).await.0.unwrap();
    cluster.apply().await;
    cluster.set(2, Precondition::None).await.0.unwrap();
    // By the applied book: refused. By the newest one: possible.
    let newest = Precondition::Matches(BookVersion(2));
    assert_eq!(cluster.set(3, newest).await.0.unwrap(), 3);
    // By the applied book: possible. By the newest one: refused.
    let (refused, _) = cluster.set(4, Precondition::Matches(BookVersion(1))).await;
    let refused = refused.unwrap_err();
    let expected = Some(BookVersion(3));
    assert!(
        matches!(&refused, NodeError::Rules(ChangeError::PreconditionFailed { found, .. })
            if *found == expected),
        "{refused:?}"
    );
    // By the applied book: nothing to do. By the newest one: a change.
    assert_eq!(cluster.set(1, Precondition::None).await.0.unwrap(), 4);
}
