//! When rules take effect: from the first start on, at once, and independent of which node changed
//! them.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay::testkit::{MemoryLog, MemoryMetadata};
use forebay::{
    Candidacy, Drain, Limits, PartitionId, Rate, Runtime, SharedLog, TrimLog,
    rules::{BookVersion, Change, Precondition, RuleBook, RuleChange, RulePatch, RulesError},
};
use forebay_messages::command::{Command, UpsertRuleBook};
use forebay_storage::metadata::{
    BlockingMetadata, Change as Changed, KeyWrite, MetaKey, MetadataError, OnChange,
    Precondition as Required, Version, Versioned, Watch,
};

use super::{Gate, TIMEOUT, enqueue, entry, until};

/// Long enough for everything allowed to start.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_from_the_first_start_after_a_restart_without_any_rule_command() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let runtime = gate.builder().data_dir(dir.path()).partitions(1).start().await.unwrap();
    runtime.rules().upsert("s", Limits::concurrency(2)).await.unwrap();
    for n in 0..10 {
        enqueue(&runtime, &format!("s#{n}")).await;
    }
    gate.until_running(2).await;
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);

    let gate = Gate::new();
    let runtime = gate.builder().data_dir(dir.path()).start().await.unwrap();
    gate.until_running(2).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(gate.running(), 2, "the rule book was read before anything started");
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raising_a_limit_wakes_at_once_and_lowering_it_drains() {
    let gate = Gate::new();
    let runtime = gate.builder().in_memory().start().await.unwrap();
    runtime.rules().upsert("s", Limits::concurrency(100)).await.unwrap();
    for n in 0..130 {
        enqueue(&runtime, &format!("s#{n}")).await;
    }
    gate.until_running(100).await;
    runtime.rules().upsert("s", Limits::concurrency(1)).await.unwrap();
    gate.open(100);
    // The hundred end; no second entry may start while the next one runs.
    gate.until_running(1).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(gate.running(), 1);
    let begun = Instant::now();
    runtime.rules().upsert("s", Limits::concurrency(30)).await.unwrap();
    gate.until_running(30).await;
    crate::place::say(&format!("29 more run {:?} after the call", begun.elapsed()));
    assert!(begun.elapsed() < TIMEOUT / 10, "{:?}", begun.elapsed());
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_delays_starts_and_is_changed_live() {
    let gate = Gate::new();
    gate.open(1000);
    let runtime = gate.builder().in_memory().start().await.unwrap();
    let rate = |tokens, period_ms| Limits {
        rate: Some(Rate { tokens, period_ms, burst: 1 }),
        ..Limits::default()
    };
    runtime.rules().upsert("s/*", rate(1, 100)).await.unwrap();
    let begun = Instant::now();
    let mut entries = Vec::new();
    for n in 0..6 {
        entries.push(enqueue(&runtime, &format!("s/a#{n}")).await);
    }
    for entry in &entries {
        entry.outcome().await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    runtime.rules().upsert("s/*", rate(1, 3_600_000)).await.unwrap();
    let last = runtime.enqueue(entry("s/a")).await.unwrap();
    let waits = tokio::time::timeout(A_WHILE, last.outcome()).await;
    assert!(waits.is_err(), "no token for an hour");
    runtime.rules().upsert("s/*", rate(1000, 1000)).await.unwrap();
    tokio::time::timeout(TIMEOUT, last.outcome()).await.unwrap().unwrap();
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_later_of_two_editors_learns_what_changed() {
    let runtime = Gate::new().builder().in_memory().start().await.unwrap();
    runtime.rules().upsert("s", Limits::concurrency(1)).await.unwrap();
    let book = runtime.rules().book().await.unwrap();
    let pattern: forebay::Pattern = "s".parse().unwrap();
    let version = book.get(&pattern).unwrap().version;
    let edit = |limit| {
        let patch = RulePatch::limits(Limits::concurrency(limit));
        RuleChange::new(pattern.clone(), Change::Patch(patch))
            .only_if(Precondition::Matches(version))
    };
    let first = runtime.rules().change("ann", vec![edit(5)]).await.unwrap();
    let error = runtime.rules().change("bob", vec![edit(7)]).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, RulesError::Node(_)), "{text}");
    for part in ["rule `s`", "expected version 1", "found version 2", "look at it again"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    assert_eq!(runtime.rules().book().await.unwrap(), first, "nothing was changed");
    let history = runtime.rules().history().await.unwrap();
    let authors: Vec<_> = history.iter().map(|entry| entry.author.to_string()).collect();
    assert_eq!(authors, ["", "ann"]);
    let back = runtime.rules().rollback("bob", BookVersion(1)).await.unwrap();
    assert_eq!(back.get(&pattern).unwrap().limits, Limits::concurrency(1));
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// The version of the book applied by a partition.
fn applied(runtime: &Runtime, partition: PartitionId) -> BookVersion {
    runtime.node().rules().applied_rule_book(partition).unwrap().version()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_gets_the_book_that_another_runtime_changed() {
    let log = SharedLog::in_memory().unwrap();
    let gate = Gate::new();
    let member = |candidacy| {
        gate.builder().in_memory().partitions(2).shared_log(&log).candidacy(candidacy).start()
    };
    let leader = member(Candidacy::First).await.unwrap();
    let follower = member(Candidacy::Never).await.unwrap();
    for n in 0..4 {
        enqueue(&leader, &format!("s#{n}")).await;
    }
    gate.until_running(4).await;
    let book = follower.rules().change("", vec![create("s", 1)]).await.unwrap();
    for partition in leader.node().partitions().ids() {
        for runtime in [&leader, &follower] {
            until("every replica has it", || applied(runtime, partition) == book.version()).await;
        }
    }
    gate.open(4);
    gate.until_running(0).await;
    enqueue(&leader, "s#8").await;
    enqueue(&leader, "s#9").await;
    gate.until_running(1).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(gate.running(), 1, "the leader's limiter knows the rule");
    follower.shutdown(Drain::now()).await.unwrap();
    leader.shutdown(Drain::now()).await.unwrap();
}

fn create(pattern: &str, limit: u32) -> RuleChange {
    let patch = RulePatch::limits(Limits::concurrency(limit));
    RuleChange::new(pattern.parse().unwrap(), Change::Create(patch))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_book_first_known_from_one_partitions_log_reaches_the_others() {
    let runtime = Gate::new().builder().in_memory().partitions(3).start().await.unwrap();
    let book = RuleBook::default().apply(&[create("s", 1)], forebay::Timestamp(1), 9);
    let book = book.unwrap().book;
    let (key_first, key_last) = Default::default();
    let rule_book = book.encode().into();
    let command = UpsertRuleBook { key_first, key_last, rule_book };
    let command = Command::UpsertRuleBook(command);
    runtime.node().access().propose_to(PartitionId(1), command).await.unwrap();
    for partition in runtime.node().partitions().ids() {
        until("it has the book", || applied(&runtime, partition) == book.version()).await;
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// A change with the watcher to which it is reported.
type Held = (Arc<OnChange>, Changed);

/// Metadata whose changes are reported when the test says so.
#[derive(Default)]
struct LateMetadata {
    inner: MemoryMetadata,
    held: Arc<Mutex<Vec<Held>>>,
}

impl LateMetadata {
    fn report(&self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        held.into_iter().for_each(|(on_change, change)| on_change(&change));
    }
}

impl BlockingMetadata for LateMetadata {
    fn get(&self, key: &MetaKey) -> Result<Option<Versioned>, MetadataError> {
        self.inner.get(key)
    }

    fn put(
        &self,
        key: &MetaKey,
        value: Bytes,
        required: Required,
    ) -> Result<Version, MetadataError> {
        self.inner.put(key, value, required)
    }

    fn list(&self, prefix: &str) -> Result<Vec<(MetaKey, Versioned)>, MetadataError> {
        self.inner.list(prefix)
    }

    fn put_all(&self, writes: &[KeyWrite]) -> Result<Vec<Version>, MetadataError> {
        self.inner.put_all(writes)
    }

    fn delete(&self, key: &MetaKey, required: Required) -> Result<(), MetadataError> {
        self.inner.delete(key, required)
    }

    fn watch(&self, key: &MetaKey, on_change: OnChange) -> Result<Watch, MetadataError> {
        let (on_change, all) = (Arc::new(on_change), Arc::clone(&self.held));
        let held = move |change: &Changed| {
            all.lock().unwrap().push((Arc::clone(&on_change), change.clone()));
        };
        self.inner.watch(key, Box::new(held))
    }
}

/// A change proposes nothing itself: it waits until the metadata has reported the book and the
/// partitions have applied it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_for_a_watch_that_is_late() {
    let metadata = Arc::new(LateMetadata::default());
    let (log, ports) = (Arc::new(MemoryLog::new()), Arc::clone(&metadata));
    let log = SharedLog::over(log, ports, TrimLog::default()).unwrap();
    let builder = Gate::new().builder().in_memory().partitions(2).shared_log(&log);
    let runtime = builder.start().await.unwrap();
    let rules = runtime.rules();
    let mut changing = pin!(rules.change("", vec![create("s", 1)]));
    let early = tokio::time::timeout(A_WHILE, changing.as_mut()).await;
    assert!(early.is_err(), "no partition has it: {early:?}");
    metadata.report();
    let book = tokio::time::timeout(TIMEOUT, changing).await.unwrap().unwrap();
    for partition in runtime.node().partitions().ids() {
        assert_eq!(applied(&runtime, partition), book.version());
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}
