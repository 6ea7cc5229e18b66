//! Canceling, killing, pausing, rescheduling, redriving and purging entries through the library;
//! heartbeats; payload limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use forebay::{
    ActError, Builder, Context, Drain, EnqueueError, Entry, EntryHandle, ErrorKind, FailureKind,
    FilterError, HandlerError, HandlerOptions, ResultError, RetryPolicy, Runtime, RuntimeError,
    Skip, Stage,
};
use tokio::sync::Semaphore;

const HOUR: Duration = Duration::from_secs(3600);
const ONCE: HandlerOptions = HandlerOptions {
    retry: RetryPolicy::NONE,
    timeout: None,
    heartbeat: None,
    interruptions_max: None,
    retention: None,
    suspend_after: None,
    mismatch: forebay::MismatchPolicy::Pause,
};

/// A handler that waits until it is released or canceled, and counts its outcomes.
#[derive(Clone)]
struct Gate {
    go: Arc<Semaphore>,
    started: Arc<AtomicU32>,
    dropped: Arc<AtomicU32>,
}

struct CountDrop(Arc<AtomicU32>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Gate {
    fn new() -> Self {
        let (started, dropped) = Default::default();
        Self { go: Arc::new(Semaphore::new(0)), started, dropped }
    }

    fn builder(&self) -> Builder {
        let gate = self.clone();
        Runtime::builder().handler_with("gate", ONCE, move |context: Context, (): ()| {
            let gate = gate.clone();
            async move {
                gate.started.fetch_add(1, Ordering::SeqCst);
                let _dropped = CountDrop(Arc::clone(&gate.dropped));
                tokio::select! {
                    _ = gate.go.acquire() => Ok(()),
                    () = context.canceled() => {
                        Err(HandlerError::canceled("tidied up").with_detail("half"))
                    }
                }
            }
        })
    }

    async fn until_started(&self, count: u32) {
        while self.started.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn later() -> SystemTime {
    SystemTime::now() + HOUR
}

async fn waiting(runtime: &Runtime, scope: &str, count: usize) -> Vec<EntryHandle> {
    let entry = || Entry::to("gate").scope(scope).run_at(later());
    runtime.enqueue_batch((0..count).map(|_| entry()).collect()).await.unwrap()
}

async fn stages(runtime: &Runtime) -> Vec<Stage> {
    let mut all: Vec<_> =
        runtime.entries().list(0).await.unwrap().into_iter().map(|entry| entry.stage).collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_running_entry_is_canceled_by_its_handler_and_killed_without_it() {
    let gate = Gate::new();
    let runtime = gate.builder().in_memory().start().await.unwrap();
    let canceled = runtime.enqueue(Entry::to("gate")).await.unwrap();
    let killed = runtime.enqueue(Entry::to("gate")).await.unwrap();
    gate.until_started(2).await;
    canceled.cancel().await.unwrap();
    match canceled.result_bytes().await {
        Err(ResultError::Failed { kind: FailureKind::Canceled, message, detail }) => {
            assert_eq!((&*message, &*detail), ("tidied up", &b"half"[..]));
        }
        other => panic!("{other:?}"),
    }
    let waiter = killed.clone();
    let waiter = tokio::spawn(async move { waiter.result_bytes().await });
    killed.kill().await.unwrap();
    let ended = waiter.await.unwrap();
    assert!(
        matches!(ended, Err(ResultError::Failed { kind: FailureKind::Killed, .. })),
        "waiters get a typed answer: {ended:?}"
    );
    while gate.dropped.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(runtime.node().executor().running(), 0);
    for refused in [killed.kill().await, killed.cancel().await, killed.pause().await] {
        assert!(matches!(refused, Err(ActError::NotChanged(Skip::Finished))), "{refused:?}");
    }
    runtime.shutdown(Drain::now()).await.unwrap();
    assert_eq!(killed.kill().await.unwrap_err().kind(), ErrorKind::Stopped);
}

#[tokio::test]
async fn an_entry_interrupted_by_a_shutdown_is_not_canceled() {
    // Regression: its handler cannot tell a shutdown from a cancel, and the entry ended
    // permanently.
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let runtime = gate.builder().data_dir(dir.path()).start().await.unwrap();
    let id = runtime.enqueue(Entry::to("gate")).await.unwrap().id();
    gate.until_started(1).await;
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    let runtime = gate.builder().data_dir(dir.path()).start().await.unwrap();
    gate.until_started(2).await;
    gate.go.add_permits(1);
    runtime.attach(id).result_bytes().await.unwrap();
    assert_eq!(runtime.entries().list(1).await.unwrap()[0].attempts, 1);
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn one_entry_is_paused_resumed_and_rescheduled() {
    let gate = Gate::new();
    let runtime = gate.builder().in_memory().start().await.unwrap();
    let entry = waiting(&runtime, "a", 1).await.remove(0);
    entry.pause().await.unwrap();
    assert!(matches!(entry.pause().await, Err(ActError::NotChanged(Skip::AlreadyPaused))));
    entry.reschedule(SystemTime::now()).await.unwrap();
    assert_eq!(stages(&runtime).await, [Stage::Paused]);
    entry.resume().await.unwrap();
    assert!(entry.resume().await.is_err());
    gate.until_started(1).await;
    let refused = entry.reschedule(later()).await;
    assert!(matches!(refused, Err(ActError::NotChanged(Skip::Running))), "{refused:?}");
    assert!(matches!(entry.purge().await, Err(ActError::NotChanged(Skip::NotFinished))));
    gate.go.add_permits(1);
    entry.result_bytes().await.unwrap();
    assert!(matches!(entry.redrive().await, Err(ActError::NotChanged(Skip::Succeeded))));
    entry.purge().await.unwrap();
    assert!(matches!(entry.purge().await, Err(ActError::NotChanged(Skip::Unknown))));
    assert!(matches!(entry.outcome().await, Err(ResultError::Unknown(_))));
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn many_entries_are_reached_by_filter_in_bounded_steps() {
    let gate = Gate::new();
    let runtime = gate.builder().in_memory().partitions(3).start().await.unwrap();
    // More than one record can change.
    let count = 2_500;
    waiting(&runtime, "many", count).await;
    waiting(&runtime, "few", 2).await;
    let many = runtime.entries().scope("many");
    let would = many.clone().dry_run().pause().await.unwrap();
    assert_eq!((would.changed, would.changed_named.len()), (count as u64, 1_000));
    assert_eq!(many.pause().await.unwrap().changed, count as u64);
    let again = many.pause().await.unwrap();
    assert_eq!(again.skipped.get(&Skip::AlreadyPaused), Some(&(count as u64)));
    assert_eq!(runtime.entries().stage(Stage::Paused).list(0).await.unwrap().len(), count);
    assert_eq!(runtime.entries().stage(Stage::Paused).cancel().await.unwrap().changed, 2_500);
    assert_eq!(runtime.entries().created_until(later()).kill().await.unwrap().changed, 2);
    // Entries that a user ended are redriven only on explicit request.
    assert_eq!(runtime.entries().all().redrive().await.unwrap().changed, 0);
    let killed = runtime.entries().failed_as(FailureKind::Killed);
    assert_eq!(killed.list(0).await.unwrap().len(), 2);
    assert_eq!(killed.redrive().await.unwrap().changed, 2);
    gate.go.add_permits(2);
    while runtime.entries().succeeded().list(0).await.unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(runtime.entries().scope("few").purge().await.unwrap().changed, 2);
    assert_eq!(runtime.entries().all().purge().await.unwrap().changed, count as u64);
    assert!(stages(&runtime).await.is_empty());
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn empty_and_invalid_filters_are_refused() {
    let gate = Gate::new();
    let runtime = gate.builder().in_memory().start().await.unwrap();
    waiting(&runtime, "a", 2).await;
    let refused = runtime.entries().kill().await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::BadInput);
    assert_eq!(refused.to_string(), FilterError::Empty.to_string());
    for refused in [
        runtime.entries().stage(Stage::Finished).kill().await,
        runtime.entries().stage(Stage::Inbox).purge().await,
        runtime.entries().succeeded().cancel().await,
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::BadInput);
        assert!(refused.to_string().contains("the filter takes others"), "{refused}");
    }
    assert_eq!(stages(&runtime).await, [Stage::Inbox, Stage::Inbox]);
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn a_whole_vqueue_starts_nothing_while_it_is_paused() {
    let gate = Gate::new();
    let runtime = gate.builder().in_memory().start().await.unwrap();
    let entry = || Entry::to("gate").scope("a");
    let first = runtime.enqueue(entry()).await.unwrap();
    let queue = runtime.vqueue(entry().vqueue().id_for(first.id()));
    gate.until_started(1).await;
    queue.pause().await.unwrap();
    assert!(matches!(queue.pause().await, Err(ActError::NotChanged(Skip::AlreadyPaused))));
    gate.go.add_permits(1);
    first.result_bytes().await.unwrap();
    let second = runtime.enqueue(entry()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(gate.started.load(Ordering::SeqCst), 1);
    queue.resume().await.unwrap();
    assert!(matches!(queue.resume().await, Err(ActError::NotChanged(Skip::NotPaused))));
    gate.go.add_permits(1);
    second.result_bytes().await.unwrap();
    let unknown = runtime.vqueue(forebay::VQueueId::default());
    assert!(matches!(unknown.pause().await, Err(ActError::NotChanged(Skip::Unknown))));
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn a_dead_letter_keeps_its_last_error_and_gets_all_its_attempts_again() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let twice = RetryPolicy { attempts_max: 2, backoff_first_ms: 1, ..RetryPolicy::default() };
    let options = HandlerOptions { retry: twice, ..ONCE };
    let runtime = Runtime::builder()
        .in_memory()
        .handler_with("flaky", options, move |context: Context, (): ()| {
            let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                match call {
                    1..4 => Err(HandlerError::retry(format!("call {call}"))),
                    _ => {
                        assert_eq!((context.attempt(), context.last_failure()), (2, "call 3"));
                        Ok(())
                    }
                }
            }
        })
        .start()
        .await
        .unwrap();
    let entry = runtime.enqueue(Entry::to("flaky")).await.unwrap();
    assert!(entry.result_bytes().await.is_err());
    let dead = runtime.entries().failed_as(FailureKind::Exhausted).list(0).await.unwrap();
    assert_eq!((dead[0].attempts, dead[0].failure.as_deref()), (2, Some("call 2")));
    assert_eq!(runtime.entries().service("flaky").redrive().await.unwrap().changed, 1);
    entry.result_bytes().await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn without_a_heartbeat_in_time_an_attempt_fails() {
    let options = HandlerOptions { heartbeat: Some(Duration::from_millis(200)), ..ONCE };
    let beats = |context: Context| async move {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            context.heartbeat()?;
        }
        Ok(())
    };
    let runtime = Runtime::builder()
        .in_memory()
        .handler_with("alive", options, move |context: Context, (): ()| beats(context))
        .handler_with("silent", options, |_: Context, (): ()| async move {
            tokio::time::sleep(HOUR).await;
            Ok(())
        })
        .handler_with("endless", options, |context: Context, (): ()| async move {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                context.heartbeat()?;
            }
            #[expect(unreachable_code, reason = "gives the loop its type")]
            Ok(())
        })
        .start()
        .await
        .unwrap();
    let alive = runtime.enqueue(Entry::to("alive")).await.unwrap();
    let silent = runtime.enqueue(Entry::to("silent")).await.unwrap();
    let endless = runtime.enqueue(Entry::to("endless")).await.unwrap();
    match silent.result_bytes().await {
        Err(ResultError::Failed { kind: FailureKind::Exhausted, message, .. }) => {
            assert_eq!(message, "no heartbeat for 200ms");
        }
        other => panic!("{other:?}"),
    }
    alive.result_bytes().await.unwrap();
    endless.cancel().await.unwrap();
    match endless.result_bytes().await {
        Err(ResultError::Failed { kind: FailureKind::Canceled, message, .. }) => {
            assert!(message.contains("heartbeat"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn a_payload_may_be_as_large_as_the_builder_says() {
    for wrong in [0, (64 << 20) + 1] {
        let refused = Runtime::builder().in_memory().payload_max(wrong).start().await;
        assert!(matches!(refused.err(), Some(RuntimeError::PayloadMax { .. })));
    }
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let runtime = gate.builder().data_dir(dir.path()).payload_max(20 << 20).start().await.unwrap();
    let large = Entry::to("gate").run_at(later()).payload(vec![7; 20 << 20]);
    let id = runtime.enqueue(large.clone()).await.unwrap().id();
    let refused = runtime.enqueue(large.payload(vec![7; (20 << 20) + 1])).await;
    let Err(EnqueueError::PayloadTooLarge { len, len_max }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((len, len_max), ((20 << 20) + 1, 20 << 20));
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    // Stored entries stay valid, whatever the limit is now.
    let runtime = gate.builder().data_dir(dir.path()).payload_max(1).start().await.unwrap();
    assert_eq!(runtime.node().inspect().payload(id).unwrap().unwrap().len(), 20 << 20);
    runtime.shutdown(Drain::now()).await.unwrap();
}
