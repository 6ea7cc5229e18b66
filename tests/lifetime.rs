//! Start and end: shutdowns and changes whose calls are abandoned, handles that outlive a runtime,
//! a tokio runtime that ends first.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use forebay::{
    Builder, Context, Drain, Entry, ErrorKind, HandlerError, Limits, PartitionId, PartitionSpec,
    Runtime, RuntimeError,
};
use forebay_actors::error::NodeError;
use forebay_storage::OpenError;
use futures_util::FutureExt;
use tokio::runtime::Builder as Tokio;

const TIMEOUT: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const P: PartitionId = PartitionId(0);

/// `quick` ends at once, `hang` never.
fn builder(dir: &Path) -> Builder {
    Runtime::builder()
        .data_dir(dir)
        .partitions(1)
        .handler("quick", |_: Context, (): ()| async { Ok(()) })
        .handler("hang", |_: Context, (): ()| async {
            std::future::pending::<()>().await;
            Ok::<_, HandlerError>(())
        })
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < TIMEOUT, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Fails if the future does not complete in time.
async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(TIMEOUT, future).await;
    done.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// A runtime whose only handler hangs.
async fn hanging(dir: &Path) -> Runtime {
    let runtime = builder(dir).start().await.unwrap();
    runtime.enqueue(Entry::to("hang")).await.unwrap();
    until("it runs", || runtime.node().executor().running() == 1).await;
    runtime
}

async fn runs_a_job(runtime: &Runtime) {
    let entry = runtime.enqueue(Entry::to("quick")).await.unwrap();
    assert!(in_time("a job ends", entry.outcome()).await.unwrap().is_success());
}

fn is_closing(error: &RuntimeError) -> Option<bool> {
    let RuntimeError::Node(error) = error else { return None };
    match error.cause() {
        NodeError::Open(OpenError::InUseHere { is_closing, .. }) => {
            assert_eq!(error.kind(), ErrorKind::InUse);
            Some(*is_closing)
        }
        _ => None,
    }
}

/// Regression: the second call returned at once and did nothing, and the directory stayed locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_shutdown_continues_and_can_be_shortened() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = hanging(dir.path()).await;
    let given_up = runtime.shutdown(Drain::within(HOUR));
    tokio::time::timeout(Duration::from_millis(50), given_up).await.unwrap_err();
    let refused = runtime.enqueue(Entry::to("quick")).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Stopped);
    let error = builder(dir.path()).start().await.err().unwrap();
    assert_eq!(is_closing(&error), Some(true), "{error}");
    let waiting = {
        let runtime = runtime.clone();
        tokio::spawn(async move { runtime.shutdown(Drain::within(2 * HOUR)).await })
    };
    in_time("it is down", runtime.shutdown(Drain::now())).await.unwrap();
    in_time("the longer wait returns", waiting).await.unwrap().unwrap();
    in_time("a late call returns", runtime.shutdown(Drain::now())).await.unwrap();
    drop(runtime);
    let again = builder(dir.path()).start().await.unwrap();
    runs_a_job(&again).await;
    again.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_shutdown_releases_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = hanging(dir.path()).await;
    assert!(runtime.shutdown(Drain::now()).now_or_never().is_none());
    drop(runtime);
    let begun = Instant::now();
    let again = loop {
        match builder(dir.path()).start().await {
            Ok(runtime) => break runtime,
            Err(error) => assert_eq!(is_closing(&error), Some(true), "{error}"),
        }
        assert!(begun.elapsed() < TIMEOUT, "timed out: the directory is free");
    };
    runs_a_job(&again).await;
    again.shutdown(Drain::now()).await.unwrap();
}

/// Regression: it waited for its own end, and so did all other callers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_waiting_for_a_shutdown_is_dropped_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let own = Arc::new(Mutex::new(None::<Runtime>));
    let given = Arc::clone(&own);
    let runtime = builder(dir.path())
        .handler("stops", move |_: Context, (): ()| {
            let runtime = given.lock().unwrap().take();
            async move {
                match runtime {
                    Some(runtime) => runtime.shutdown(Drain::within(Duration::from_secs(1))).await,
                    None => Ok(()),
                }?;
                Ok(())
            }
        })
        .start()
        .await
        .unwrap();
    *own.lock().unwrap() = Some(runtime.clone());
    let entry = runtime.enqueue(Entry::to("stops")).await.unwrap().id();
    until("it goes down", || runtime.attach(entry).outcome().now_or_never().is_some()).await;
    in_time("it is down", runtime.shutdown(Drain::within(HOUR))).await.unwrap();
    drop(runtime);
    let again = builder(dir.path())
        .handler("stops", |_: Context, (): ()| async { Ok(()) })
        .start()
        .await
        .unwrap();
    let outcome = in_time("it runs again", again.attach(entry).outcome()).await.unwrap();
    assert!(outcome.is_success());
    again.shutdown(Drain::now()).await.unwrap();
}

/// Regression: the table had changed, but the partition still existed, or only half of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_dropped_and_spawned_even_if_the_calls_are_abandoned() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = hanging(dir.path()).await;
    let range = || PartitionSpec::range(0..=u64::MAX);
    let mut partition = P;
    for _ in 0..3 {
        assert!(runtime.drop_partition(partition).now_or_never().is_none());
        let again = in_time("it is dropped", runtime.drop_partition(partition)).await;
        if let Err(error) = again {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        until("its handler is gone", || runtime.node().executor().running() == 0).await;
        assert!(runtime.spawn_partition(range()).now_or_never().is_none());
        let again = in_time("it is spawned", runtime.spawn_partition(range())).await;
        partition = match again {
            Ok(partition) => partition,
            Err(RuntimeError::Node(error)) => match error.cause() {
                NodeError::RangeOverlaps { partition, .. } => *partition,
                error => panic!("{error}"),
            },
            Err(error) => panic!("{error}"),
        };
        runs_a_job(&runtime).await;
    }
    in_time("it is down", runtime.shutdown(Drain::now())).await.unwrap();
}

/// Regression: a repeated call with the same deadline dropped the handlers at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_steps_down_even_if_the_call_is_abandoned() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = hanging(dir.path()).await;
    let partitions = runtime.partitions();
    assert!(partitions.step_down(P, HOUR).now_or_never().is_none());
    let repeated = partitions.step_down(P, 2 * HOUR);
    tokio::time::timeout(Duration::from_millis(200), repeated).await.unwrap_err();
    assert_eq!(runtime.node().executor().running(), 1, "its time is not over");
    in_time("it steps down", partitions.step_down(P, Duration::ZERO)).await.unwrap();
    until("its handler is gone", || runtime.node().executor().running() == 0).await;
    in_time("it leads", partitions.lead(P)).await.unwrap();
    runs_a_job(&runtime).await;
    in_time("it is down", runtime.shutdown(Drain::now())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_rules_and_batches_can_be_abandoned_and_repeated() {
    let (dir, ran) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU32::new(0)));
    let counting = Arc::clone(&ran);
    let runtime = builder(&dir.path().join("data"))
        .handler("count", move |_: Context, (): ()| {
            counting.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();

    drop(runtime.snapshot(dir.path().join("given-up")).now_or_never());
    let whole = dir.path().join("whole");
    in_time("a snapshot is taken", runtime.snapshot(&whole)).await.unwrap();

    let limits = Limits::concurrency(3);
    drop(runtime.rules().upsert("tenant", limits).now_or_never());
    in_time("the rule is set", runtime.rules().upsert("tenant", limits)).await.unwrap();
    let book = runtime.node().rules().applied_rule_book(P).unwrap();
    assert_eq!(book.get(&"tenant".parse().unwrap()).unwrap().limits, limits);

    let ids: Vec<[u8; 16]> = (1..=100_u128).map(u128::to_be_bytes).collect();
    let batch = || ids.iter().map(|id| Entry::to("count").uuid(*id)).collect::<Vec<_>>();
    drop(runtime.enqueue_batch(batch()).now_or_never());
    let handles = in_time("it is stored", runtime.enqueue_batch(batch())).await.unwrap();
    for handle in &handles {
        assert!(in_time("it ends", handle.outcome()).await.unwrap().is_success());
    }
    assert_eq!(ran.load(Ordering::Relaxed), 100, "each once");
    in_time("it is down", runtime.shutdown(Drain::now())).await.unwrap();
}

/// Regression: the wait kept the runtime alive, and with it the directory locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_an_outcome_does_not_keep_a_dropped_runtime_alive() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = builder(dir.path()).start().await.unwrap();
    let entry = runtime.enqueue(Entry::to("hang")).await.unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let entry = entry.clone();
            tokio::spawn(async move { entry.outcome().await })
        })
        .collect();
    until("it runs", || runtime.node().executor().running() == 1).await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    drop(runtime);
    for task in waiting {
        let result = in_time("it gets an error", task).await.unwrap();
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Stopped);
    }
    let again = builder(dir.path()).start().await.unwrap();
    runs_a_job(&again).await;
    again.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_by_another_runtime_of_the_process_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = builder(dir.path()).start().await.unwrap();
    let error = builder(dir.path()).start().await.err().unwrap();
    assert_eq!(is_closing(&error), Some(false), "{error}");
    assert!(error.to_string().contains("another runtime of this process"), "{error}");
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// Regression: `enqueue` succeeded, and the entry was "running" permanently although nothing could
/// run it.
#[test]
fn without_its_tokio_runtime_every_call_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (app, other) = (Tokio::new_multi_thread(), Tokio::new_current_thread());
    let [app, other] = [app, other].map(|mut tokio| tokio.enable_all().build().unwrap());
    let runtime = app.block_on(hanging(dir.path()));
    let waiting = app.block_on(runtime.enqueue(Entry::to("hang"))).unwrap();
    drop(app);
    other.block_on(async {
        let refused = in_time("it gets an error", runtime.enqueue(Entry::to("quick"))).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Stopped);
        assert!(refused.to_string().contains("tokio runtime"), "{refused}");
        let result = in_time("it gets an error", waiting.outcome()).await;
        assert_eq!(result.unwrap_err().to_string(), refused.to_string());
        in_time("it is down", runtime.shutdown(Drain::within(HOUR))).await.unwrap();
        drop(runtime);
        // Interrupted entries wait, and run again when possible.
        let again = builder(dir.path()).start().await.unwrap();
        until("both run", || again.node().executor().running() == 2).await;
        runs_a_job(&again).await;
        again.shutdown(Drain::now()).await.unwrap();
    });
}

/// Regression: it panicked.
#[test]
fn a_tokio_runtime_without_timers_or_io_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let bare = Tokio::new_current_thread().build().unwrap();
    let error = bare.block_on(Runtime::builder().in_memory().start()).err().unwrap();
    assert!(matches!(error, RuntimeError::NoTimers), "{error}");
    assert!(error.to_string().contains("enable_all"), "{error}");
    let timed = Tokio::new_current_thread().enable_time().build().unwrap();
    let error = timed.block_on(builder(dir.path()).start()).err().unwrap();
    assert!(matches!(error, RuntimeError::NoIo), "{error}");
    timed.block_on(async {
        let runtime = Runtime::builder().in_memory().start().await.unwrap();
        runtime.shutdown(Drain::now()).await.unwrap();
    });
}
