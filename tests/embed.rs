//! Embedding the runtime as applications do, in memory and on disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use forebay::{
    Context, Drain, Entry, ErrorKind, FailureKind, HandlerError, HandlerOptions, Json, Limits,
    PartitionSpec, ResultError, RetryPolicy, Runtime,
};

const QUICK: RetryPolicy = RetryPolicy {
    attempts_max: 3,
    backoff_first_ms: 5,
    backoff_max_ms: 20,
    growth_percent: 200,
    jitter_percent: 20,
};

fn quick() -> HandlerOptions {
    HandlerOptions { retry: QUICK, ..HandlerOptions::default() }
}

fn double() -> forebay::Builder {
    Runtime::builder()
        .handler("double", |_: Context, Json(n): Json<u64>| async move { Ok(Json(n * 2)) })
}

#[tokio::test]
async fn an_entry_is_run_and_its_result_awaited() {
    let runtime = double().in_memory().partitions(2).start().await.unwrap();
    let entry = runtime.enqueue(Entry::to("double").json(&21).unwrap()).await.unwrap();
    assert_eq!(entry.result::<u64>().await.unwrap(), 42);
    let later = runtime.attach(entry.id());
    assert_eq!(later.result::<u64>().await.unwrap(), 42, "the result is kept");
    runtime.shutdown(Drain::within(Duration::from_secs(5))).await.unwrap();
    let refused = runtime.enqueue(Entry::to("double").json(&1).unwrap()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_keeps_its_order_and_everything_ends() {
    let runtime = double().in_memory().partitions(3).start().await.unwrap();
    let entries = (0..1_000_u64)
        .map(|n| Entry::to("double").key(&format!("key-{}", n % 50)).json(&n).unwrap())
        .collect();
    let handles = runtime.enqueue_batch(entries).await.unwrap();
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(handle.result::<u64>().await.unwrap(), n as u64 * 2);
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn the_same_idempotency_key_yields_the_first_entry() {
    let runtime = double().in_memory().start().await.unwrap();
    let entry = |n: u64| Entry::to("double").idempotency_key("once").json(&n).unwrap();
    let first = runtime.enqueue(entry(1)).await.unwrap();
    let second = runtime.enqueue(entry(2)).await.unwrap();
    assert!(!first.was_existing() && second.was_existing());
    assert_eq!(first.id(), second.id());
    assert_eq!(second.result::<u64>().await.unwrap(), 2, "the first one's result");
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn a_panicking_or_failing_handler_is_retried_and_then_a_dead_letter() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let runtime = Runtime::builder()
        .in_memory()
        .handler_with("flaky", quick(), move |context: Context, (): ()| {
            let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                assert_eq!(context.attempt(), call);
                assert!(call != 1, "the first call panics");
                if call == 2 {
                    assert!(context.last_failure().contains("the first call panics"));
                    return Err(HandlerError::retry("not yet"));
                }
                assert_eq!(context.last_failure(), "not yet");
                Ok(())
            }
        })
        .handler_with("hopeless", quick(), |_: Context, (): ()| async move {
            Err::<(), _>(HandlerError::retry("always"))
        })
        .handler_with("terminal", quick(), |_: Context, (): ()| async move {
            Err::<(), _>(HandlerError::terminal("never mind"))
        })
        .start()
        .await
        .unwrap();
    let flaky = runtime.enqueue(Entry::to("flaky")).await.unwrap();
    flaky.result_bytes().await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    for (service, expected) in
        [("hopeless", FailureKind::Exhausted), ("terminal", FailureKind::Terminal)]
    {
        let entry = runtime.enqueue(Entry::to(service)).await.unwrap();
        match entry.result_bytes().await {
            Err(ResultError::Failed { kind, .. }) => assert_eq!(kind, expected),
            other => panic!("{service}: {other:?}"),
        }
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn a_timeout_counts_as_an_attempt_and_a_snooze_does_not() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let options = HandlerOptions { timeout: Some(Duration::from_millis(30)), ..quick() };
    let runtime = Runtime::builder()
        .in_memory()
        .handler_with("sleepy", quick(), move |context: Context, (): ()| {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert_eq!(context.attempt(), 1);
                if call < 5 {
                    return Err(HandlerError::snooze(Duration::from_millis(5)));
                }
                Ok(())
            }
        })
        .handler_with("slow", options, |_: Context, (): ()| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(())
        })
        .start()
        .await
        .unwrap();
    runtime.enqueue(Entry::to("sleepy")).await.unwrap().result_bytes().await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 6);
    let slow = runtime.enqueue(Entry::to("slow")).await.unwrap();
    match slow.result_bytes().await {
        Err(ResultError::Failed { kind: FailureKind::Exhausted, message, .. }) => {
            assert!(message.contains("timed out"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// Runs `count` entries of one scope and returns the maximum number that ran at once.
async fn most_at_once(runtime: &Runtime, high: &Arc<Gauge>, count: usize) -> usize {
    high.most.store(0, Ordering::SeqCst);
    let entries = (0..count)
        .map(|n| Entry::to("work").scope("tenant-a").limit_key(&format!("user-{}", n % 7)))
        .collect();
    for handle in runtime.enqueue_batch(entries).await.unwrap() {
        handle.result_bytes().await.unwrap();
    }
    high.most.load(Ordering::SeqCst)
}

#[derive(Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Gauge {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

fn gauged(gauge: &Arc<Gauge>) -> forebay::Builder {
    let gauge = Arc::clone(gauge);
    Runtime::builder().handler("work", move |_: Context, (): ()| {
        let gauge = Arc::clone(&gauge);
        async move {
            gauge.enter();
            tokio::time::sleep(Duration::from_millis(3)).await;
            gauge.leave();
            Ok(())
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_limit_running_entries_and_can_be_changed_meanwhile() {
    let gauge = Arc::new(Gauge::default());
    let runtime = gauged(&gauge).in_memory().partitions(2).start().await.unwrap();
    runtime.rules().upsert("tenant-a", Limits::concurrency(5)).await.unwrap();
    assert_eq!(most_at_once(&runtime, &gauge, 100).await, 5);
    runtime.rules().upsert("tenant-a/*", Limits::concurrency(1)).await.unwrap();
    runtime.rules().upsert("tenant-a", Limits::concurrency(3)).await.unwrap();
    assert_eq!(most_at_once(&runtime, &gauge, 60).await, 3);
    assert!(runtime.rules().delete("tenant-a").await.unwrap());
    assert!(!runtime.rules().delete("tenant-a").await.unwrap());
    assert_eq!(most_at_once(&runtime, &gauge, 60).await, 7, "one for each of seven users");
    assert!(runtime.rules().upsert("bad pattern", Limits::concurrency(1)).await.is_err());
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_after_a_restart_without_any_rule_command() {
    let dir = tempfile::tempdir().unwrap();
    let gauge = Arc::new(Gauge::default());
    let runtime = gauged(&gauge).data_dir(dir.path()).partitions(1).start().await.unwrap();
    runtime.rules().upsert("tenant-a", Limits::concurrency(2)).await.unwrap();
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    let runtime = gauged(&gauge).data_dir(dir.path()).start().await.unwrap();
    assert_eq!(most_at_once(&runtime, &gauge, 40).await, 2);
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_entries_run_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let stuck = Runtime::builder()
        .data_dir(dir.path())
        .handler("double", |_: Context, Json(_): Json<u64>| {
            std::future::pending::<Result<Json<u64>, HandlerError>>()
        })
        .start()
        .await
        .unwrap();
    let mut ids = Vec::new();
    for n in 0..50_u64 {
        let entry = Entry::to("double").key("one").json(&n).unwrap();
        ids.push(stuck.enqueue(entry).await.unwrap().id());
    }
    stuck.shutdown(Drain::within(Duration::from_millis(50))).await.unwrap();
    drop(stuck);
    let runtime = double().data_dir(dir.path()).start().await.unwrap();
    for (n, id) in ids.into_iter().enumerate() {
        assert_eq!(runtime.attach(id).result::<u64>().await.unwrap(), n as u64 * 2);
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn an_entry_waits_for_its_time() {
    let runtime = double().in_memory().start().await.unwrap();
    let at = SystemTime::now() + Duration::from_millis(120);
    let entry = Entry::to("double").json(&1).unwrap().run_at(at);
    let entry = runtime.enqueue(entry).await.unwrap();
    entry.result::<u64>().await.unwrap();
    let late = SystemTime::now().duration_since(at).expect("not before its time");
    assert!(late < Duration::from_secs(2), "{late:?}");
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn partitions_are_spawned_and_dropped_by_range() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = double().data_dir(dir.path()).partitions(1).start().await.unwrap();
    let overlap = runtime.spawn_partition(PartitionSpec::range(0..=10)).await;
    let overlap = overlap.unwrap_err();
    assert_eq!(overlap.kind(), ErrorKind::BadInput);
    assert!(overlap.to_string().contains("overlap partition"), "{overlap}");
    let only = runtime.node().partitions().ids()[0];
    runtime.drop_partition(only).await.unwrap();
    let unknown = runtime.enqueue(Entry::to("double").json(&1).unwrap()).await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
    let half = u64::MAX / 2;
    runtime.spawn_partition(PartitionSpec::range(0..=half)).await.unwrap();
    runtime.spawn_partition(PartitionSpec::range(half + 1..=u64::MAX)).await.unwrap();
    let entry = runtime.enqueue(Entry::to("double").json(&4).unwrap()).await.unwrap();
    assert_eq!(entry.result::<u64>().await.unwrap(), 8);
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    let wrong = double().data_dir(dir.path()).partitions(7).start().await;
    let wrong = wrong.err().expect("it has two");
    assert_eq!(wrong.kind(), ErrorKind::BadInput);
    assert!(wrong.to_string().contains("has 2 partitions, 7 were asked for"), "{wrong}");
}

#[tokio::test]
async fn bad_entries_are_refused_before_they_are_stored() {
    let runtime = double().in_memory().start().await.unwrap();
    for entry in [
        Entry::to("double").scope("white space"),
        Entry::to("double").scope(""),
        Entry::to("double").limit_key("a"),
        Entry::to("double").scope("s").limit_key("a/b/c"),
        Entry::to("double").key(""),
        Entry::to("double").idempotency_key(""),
        Entry::to("double").payload(vec![0; (1 << 20) + 1]),
        Entry::to(""),
    ] {
        let refused = runtime.enqueue(entry.clone()).await;
        assert!(refused.is_err(), "{entry:?}");
    }
    assert!(runtime.node().inspect().entries(&Default::default()).unwrap().is_empty());
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn a_data_directory_is_for_one_runtime_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = double().data_dir(dir.path()).start().await.unwrap();
    let second = double().data_dir(dir.path()).start().await;
    let text = second.err().expect("it is in use").to_string();
    assert!(text.contains("in use"), "{text}");
    first.shutdown(Drain::now()).await.unwrap();
}
