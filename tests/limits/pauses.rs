//! Pauses by rule, and refused limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use forebay::{
    Builder, Context, Drain, Entry, EntryHandle, HandlerError, Limits, PARTITIONS_MAX,
    RATE_PERIOD_MS_MAX, Rate, Runtime, THREADS_MAX, explain::Reason, rules::BookVersion,
};

use super::{Gate, TIMEOUT, enqueue, until};

/// Long enough for everything allowed to start.
const A_WHILE: Duration = Duration::from_millis(300);

async fn ended(entry: &EntryHandle) {
    tokio::time::timeout(TIMEOUT, entry.outcome()).await.expect("the entry ends").unwrap();
}

/// The pauses that block an entry: key or service, and pattern.
async fn paused_by(runtime: &Runtime, entry: &EntryHandle) -> Vec<String> {
    let explained = runtime.explain(entry.id()).await.unwrap().expect("it is stored");
    let word = |reason: &Reason| match reason {
        Reason::PausedByRule { key, pattern, .. } => Some(format!("{key} by {pattern}")),
        Reason::ServicePausedByRule { service, pattern, .. } => {
            Some(format!("{service} by {pattern}"))
        }
        _ => None,
    };
    explained.blocked_by.iter().filter_map(|block| word(&block.reason)).collect()
}

/// Adds a service `mail` whose handlers end at once to `gate`.
fn with_mail(gate: &Gate) -> Builder {
    gate.builder().handler("mail", |_: Context, (): ()| async { Ok::<_, HandlerError>(()) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_tenant_starts_nothing_until_resumed_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let runtime = gate.builder().data_dir(dir.path()).partitions(2).start().await.unwrap();
    runtime.rules().upsert("*", Limits::concurrency(3)).await.unwrap();
    let runs = enqueue(&runtime, "acme/gold#1").await;
    gate.until_running(1).await;
    runtime.rules().pause("acme").await.unwrap();
    let waits = enqueue(&runtime, "acme/gold#2").await;
    let other = enqueue(&runtime, "other#1").await;
    gate.until_running(2).await;
    gate.open(2);
    ended(&runs).await;
    ended(&other).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(gate.running(), 0, "running entries continue, nothing starts");
    assert_eq!(paused_by(&runtime, &waits).await, ["acme by acme"]);
    let limits = runtime.limits().await.unwrap();
    let shown = limits.iter().find(|limit| limit.key == "acme").expect("it has waiters");
    assert_eq!((shown.paused.as_deref(), shown.limit), (Some("acme"), Some(3)));
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);

    let runtime = gate.builder().data_dir(dir.path()).start().await.unwrap();
    let later = enqueue(&runtime, "acme/gold#3").await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(gate.running(), 0, "the pause was read before anything started");
    assert_eq!(paused_by(&runtime, &later).await, ["acme by acme"]);
    assert!(runtime.rules().resume("acme").await.unwrap());
    gate.until_running(2).await;
    let book = runtime.rules().book().await.unwrap();
    assert_eq!(book.len(), 1, "a rule that only held the pause is deleted: {book:?}");
    assert!(!runtime.rules().resume("acme").await.unwrap(), "it is not paused any more");
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_service_starts_nothing_whatever_the_scope() {
    let gate = Gate::new();
    gate.open(1_000);
    let runtime = with_mail(&gate).in_memory().partitions(2).start().await.unwrap();
    runtime.rules().pause("service:mail").await.unwrap();
    runtime.rules().pause("service:mail").await.unwrap();
    let mut waits = Vec::new();
    for entry in [
        Entry::to("mail"),
        Entry::to("mail").scope("acme"),
        Entry::to("mail").scope("acme").limit_key("gold"),
        Entry::to("mail").key("object"),
    ] {
        waits.push(runtime.enqueue(entry).await.unwrap());
    }
    ended(&enqueue(&runtime, "acme/gold").await).await;
    for entry in &waits {
        assert_eq!(paused_by(&runtime, entry).await, ["mail by service:mail"]);
        let done = tokio::time::timeout(Duration::from_millis(50), entry.outcome()).await;
        assert!(done.is_err(), "it ran: {done:?}");
    }
    let limits = runtime.limits().await.unwrap();
    let shown = limits.iter().filter(|limit| limit.key == "service:mail");
    assert_eq!(shown.map(|limit| limit.waiters).sum::<u32>(), 4, "{limits:?}");
    assert!(runtime.rules().resume("service:mail").await.unwrap());
    for entry in &waits {
        ended(entry).await;
    }
    let refused = runtime.rules().upsert("service:mail", Limits::concurrency(1)).await;
    assert!(refused.unwrap_err().to_string().contains("can only be paused"));
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// Regression: `upsert` removed every limit that it was not given, unlike `forebay rules set`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upsert_keeps_other_limits_and_replace_removes_them() {
    let runtime = Gate::new().builder().in_memory().start().await.unwrap();
    let rules = runtime.rules();
    let limits = || async {
        let book = rules.book().await.unwrap();
        book.get(&"acme".parse().unwrap()).unwrap().limits
    };
    let rate = Rate { tokens: 5, period_ms: 1_000, burst: 5 };
    let only_rate = Limits { rate: Some(rate), ..Limits::default() };
    rules.upsert("acme", Limits::concurrency(2)).await.unwrap();
    rules.upsert("acme", only_rate).await.unwrap();
    let both = Limits { rate: Some(rate), ..Limits::concurrency(2) };
    assert_eq!(limits().await, both);
    rules.upsert("acme", Limits::default().paused()).await.unwrap();
    rules.upsert("acme", Limits::concurrency(3)).await.unwrap();
    assert_eq!(limits().await, Limits { rate: Some(rate), ..Limits::concurrency(3) }.paused());
    rules.replace("acme", only_rate).await.unwrap();
    assert_eq!(limits().await, only_rate);
    rules.rollback("", BookVersion(3)).await.unwrap();
    assert_eq!(limits().await, both.paused(), "pauses are part of the history");
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// Regression: a zero was taken as one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_zero_is_refused_with_advice() {
    let runtime = Gate::new().builder().in_memory().start().await.unwrap();
    let rate = |tokens, period_ms, burst| Limits {
        rate: Some(Rate { tokens, period_ms, burst }),
        ..Limits::default()
    };
    for limits in [Limits::concurrency(0), rate(0, 1, 1), rate(1, 0, 1), rate(1, 1, 0)] {
        for refused in
            [runtime.rules().upsert("s", limits).await, runtime.rules().replace("s", limits).await]
        {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("pause"), "{limits:?}: {error}");
        }
    }
    let error = runtime.rules().upsert("s", rate(1, RATE_PERIOD_MS_MAX + 1, 1)).await;
    assert!(error.unwrap_err().to_string().contains("366 days"));
    assert_eq!(runtime.rules().book().await.unwrap().version(), BookVersion(0), "nothing was set");
    runtime.shutdown(Drain::now()).await.unwrap();

    let builder = || Gate::new().builder().in_memory();
    for (builder, advice) in [
        (builder().max_running(0), "max_running(0): at least 1"),
        (builder().threads(0), "threads(0): use 1 to"),
        (builder().threads(THREADS_MAX + 1), "threads(1025): use 1 to 1024"),
        (builder().threads(100_000), "use 1 to 1024"),
        (builder().partitions(0), "at least one partition"),
        (builder().partitions(PARTITIONS_MAX + 1), "use 1 to 4096"),
    ] {
        let error = builder.start().await.err().expect("it is refused").to_string();
        assert!(error.contains(advice), "no `{advice}` in {error}");
    }
}

/// Regression: a change that was in force was reported as an error if the history could not be
/// written after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_refused_because_of_the_history_is_not_in_force() {
    use forebay_storage::{
        DataDir, Medium,
        metadata::{BlockingMetadata, LocalMetadata, MetaKey, Precondition},
    };
    let dir = tempfile::tempdir().unwrap();
    let start = || Gate::new().builder().data_dir(dir.path()).partitions(1).start();
    let runtime = start().await.unwrap();
    runtime.rules().upsert("s", Limits::concurrency(2)).await.unwrap();
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    let data_dir = DataDir::open_within(dir.path(), TIMEOUT).unwrap();
    let metadata = LocalMetadata::open(&data_dir.metadata(), &Medium::disk()).unwrap();
    let damaged = bytes::Bytes::from_static(&[99]);
    metadata.put(&MetaKey::rule_book_history(), damaged, Precondition::None).unwrap();
    drop((metadata, data_dir));

    let runtime = start().await.unwrap();
    let before = runtime.rules().book().await.unwrap();
    let error = runtime.rules().upsert("s", Limits::concurrency(5)).await.unwrap_err();
    assert!(error.to_string().contains("history"), "{error}");
    assert_eq!(runtime.rules().book().await.unwrap(), before, "an error, so nothing was changed");
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// A scope routed to a partition.
fn scope_of(runtime: &Runtime, at: usize) -> String {
    let partition = runtime.node().partitions().ids()[at];
    let scopes = (0..).map(|n| format!("scope-{n}"));
    let here = |scope: &String| {
        let name = forebay::VQueueName::service("gate").with_scope(scope);
        runtime.node().access().route(name.partition_key(None, &[0; 16])).unwrap() == partition
    };
    scopes.into_iter().find(here).expect("one of the scopes is routed there")
}

/// Regression: only the partition with most slots was asked to give one up. Its entries never
/// ended, and another partition kept its slot for its own work: the third partition got none until
/// that work was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_gets_a_slot_even_if_entries_of_another_never_end() {
    const QUICK: usize = 2_000;
    let gate = Gate::new();
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    let quick = move |_: Context, (): ()| {
        let count = Arc::clone(&count);
        async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, HandlerError>(())
        }
    };
    let builder = gate.builder().handler("quick", quick).in_memory();
    let runtime = builder.partitions(3).max_running(6).start().await.unwrap();
    let [stuck, busy, last] = [0, 1, 2].map(|at| scope_of(&runtime, at));
    for n in 0..5 {
        enqueue(&runtime, &format!("{stuck}#{n}")).await;
    }
    gate.until_running(5).await;
    let entries = (0..QUICK).map(|_| Entry::to("quick").scope(&busy)).collect();
    runtime.enqueue_batch(entries).await.unwrap();
    until("the second partition has the last slot", || ran.load(Ordering::SeqCst) > 10).await;
    let entry = runtime.enqueue(Entry::to("quick").scope(&last)).await.unwrap();
    ended(&entry).await;
    let before = ran.load(Ordering::SeqCst);
    assert!(before < QUICK, "the third partition ran only after all {before} of the second");
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// The format required by each partition of a closed directory.
fn formats_needed(path: &std::path::Path) -> Vec<u64> {
    use forebay_engine::partition::{rows::FsmSlot, store::fsm_number};
    use forebay_messages::PartitionId;
    let dir = forebay_storage::DataDir::open_within(path, TIMEOUT).unwrap();
    let medium = forebay_storage::Medium::disk();
    let store = forebay_storage::partition::Store::open(&dir.store(), &medium).unwrap();
    let needed = [0, 1].map(|id| {
        let rows = store.partition(PartitionId(id)).unwrap();
        fsm_number(&rows, FsmSlot::MinVersion).unwrap()
    });
    needed.to_vec()
}

/// An older forebay must refuse to apply a book with pauses; otherwise it would continue without
/// the pauses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_book_with_pauses_follows_a_barrier() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Gate::new().builder().data_dir(dir.path()).partitions(2).start();
    let runtime = start().await.unwrap();
    runtime.rules().upsert("s", Limits::concurrency(2)).await.unwrap();
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    assert_eq!(formats_needed(dir.path()), [0, 0]);
    let runtime = start().await.unwrap();
    runtime.rules().pause("service:mail").await.unwrap();
    runtime.rules().resume("service:mail").await.unwrap();
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    assert_eq!(formats_needed(dir.path()), [2, 2]);
    start().await.unwrap().shutdown(Drain::now()).await.unwrap();
}
