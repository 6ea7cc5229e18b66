//! Handlers that fail badly: they panic when dropped, are abandoned, or ask to be called again at
//! once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use forebay::{
    Context, Drain, Entry, EntryHandle, FailureKind, HandlerError, HandlerOptions, Json, Limits,
    Outcome, RetryPolicy, Runtime, testkit::TestRuntime,
};

const SECOND: Duration = Duration::from_secs(1);
/// Retries at once, without end.
const AT_ONCE: RetryPolicy = RetryPolicy {
    attempts_max: 0,
    backoff_first_ms: 0,
    backoff_max_ms: 60_000,
    growth_percent: 200,
    jitter_percent: 0,
};

/// Panics when dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "the bomb went off");
    }
}

/// A panic payload that panics when dropped.
struct Shrapnel;

impl Drop for Shrapnel {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "the shrapnel went off");
    }
}

/// Handlers with a destructor that panics: `wait` ends when asked to stop, `hang` never ends,
/// `throw` panics with a payload that panics when dropped; `next` is quick.
fn bombs(options: HandlerOptions) -> forebay::Builder {
    let options = HandlerOptions { retry: RetryPolicy::NONE, ..options };
    Runtime::builder().partitions(1).handler_with(
        "work",
        options,
        |context: Context, Json(kind): Json<String>| async move {
            match kind.as_str() {
                "next" => return Ok(()),
                "throw" => std::panic::panic_any(Shrapnel),
                _ => {}
            }
            let _bomb = Bomb;
            match kind.as_str() {
                "wait" => context.canceled().await,
                _ => std::future::pending().await,
            }
            Ok(())
        },
    )
}

fn of_key(kind: &str) -> Entry {
    Entry::to("work").scope("s").key("k").json(&kind).unwrap()
}

/// The failure of an entry.
fn failure(app: &mut TestRuntime, entry: &EntryHandle) -> (FailureKind, String) {
    match app.outcome(entry) {
        Outcome::Failure(failure) => (failure.kind, failure.message.to_string()),
        Outcome::Success(_) => panic!("it succeeded"),
    }
}

/// Regression: the entry stayed `running`, and its key, its slot and its permit were never
/// released.
#[test]
fn a_panicking_destructor_ends_the_attempt_and_frees_its_resources() {
    let timeout = HandlerOptions { timeout: Some(SECOND), ..HandlerOptions::default() };
    let heartbeat = HandlerOptions { heartbeat: Some(SECOND), ..HandlerOptions::default() };
    for (options, why) in [(timeout, "timed out after 1s"), (heartbeat, "no heartbeat for 1s")] {
        let mut app = TestRuntime::start(move || bombs(options).max_running(1));
        let runtime = app.runtime();
        app.run(runtime.rules().upsert("s", Limits::concurrency(1))).unwrap();
        let (entry, next) = (app.enqueue(of_key("hang")), app.enqueue(of_key("next")));
        let (kind, text) = failure(&mut app, &entry);
        assert_eq!(kind, FailureKind::Exhausted);
        assert!(text.contains(why) && text.contains("the bomb went off"), "{text}");
        assert!(app.outcome(&next).is_success());
        assert_eq!(runtime.node().executor().running(), 0);
    }
}

#[test]
fn a_handler_that_panics_on_kill_or_cancel_frees_its_resources() {
    let mut app = TestRuntime::start(|| bombs(HandlerOptions::default()).max_running(1));
    let entries = [of_key("hang"), of_key("wait"), of_key("throw"), of_key("next")];
    let [hang, wait, throw, next] = entries.map(|entry| app.enqueue(entry));
    app.settle();
    let killed = hang.clone();
    app.run(async move { killed.kill().await }).unwrap();
    assert_eq!(failure(&mut app, &hang).0, FailureKind::Killed);
    app.settle();
    let canceled = wait.clone();
    app.run(async move { canceled.cancel().await }).unwrap();
    assert_eq!(failure(&mut app, &wait).0, FailureKind::Canceled);
    let (_, text) = failure(&mut app, &throw);
    assert!(text.contains("the handler panicked"), "{text}");
    assert!(app.outcome(&next).is_success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_panics_on_drop_does_not_delay_a_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let start = || bombs(HandlerOptions::default()).data_dir(dir.path()).start();
    let runtime = start().await.unwrap();
    runtime.enqueue(of_key("hang")).await.unwrap();
    let next = runtime.enqueue(of_key("next")).await.unwrap().id();
    while runtime.node().executor().running() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    let runtime = start().await.unwrap();
    while runtime.node().executor().running() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    runtime.entries().service("work").kill().await.unwrap();
    assert!(!runtime.attach(next).outcome().await.unwrap().is_success(), "it was killed as well");
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// Regression: the timeout started after the first poll, so a handler that blocked its thread got
/// more time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_counts_from_the_start_of_the_first_poll() {
    let (timeout, blocks, waits) = (1_000, 1_300, 700);
    let options = HandlerOptions {
        timeout: Some(Duration::from_millis(timeout)),
        retry: RetryPolicy::NONE,
        ..HandlerOptions::default()
    };
    let builder = Runtime::builder().in_memory().partitions(1);
    let builder = builder.handler_with("work", options, move |_: Context, (): ()| async move {
        std::thread::sleep(Duration::from_millis(blocks));
        tokio::time::sleep(Duration::from_millis(waits)).await;
        Ok(())
    });
    let runtime = builder.start().await.unwrap();
    let outcome = runtime.enqueue(Entry::to("work")).await.unwrap().outcome().await.unwrap();
    assert!(format!("{outcome:?}").contains("timed out after 1s"), "{outcome:?}");
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// A service whose handler counts its calls and then fails as configured.
fn failing(
    options: HandlerOptions,
    calls: &Arc<AtomicU32>,
    fail: impl Fn() -> HandlerError + Clone + Send + Sync + 'static,
) -> TestRuntime {
    let calls = Arc::clone(calls);
    TestRuntime::start(move || {
        let (calls, fail) = (Arc::clone(&calls), fail.clone());
        Runtime::builder().handler_with("work", options, move |_: Context, (): ()| {
            calls.fetch_add(1, Ordering::Relaxed);
            let error = fail();
            async move { Err::<(), _>(error) }
        })
    })
}

/// Regression: it was called again at once, endlessly: nothing else ran, and `settle` of the test
/// kit never returned.
#[test]
fn a_handler_that_always_snoozes_lets_time_pass() {
    let calls = Arc::default();
    let snooze = || HandlerError::snooze(Duration::ZERO);
    let mut app = failing(HandlerOptions::default(), &calls, snooze);
    app.enqueue(Entry::to("work"));
    app.settle();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    app.advance(SECOND);
    assert!((50..=101).contains(&calls.load(Ordering::Relaxed)), "{calls:?}");
}

/// The same with retries; also, from attempt 1,026 on a delay of zero became one minute.
#[test]
fn a_handler_that_always_fails_at_once_lets_time_pass() {
    let calls = Arc::default();
    let options = HandlerOptions { retry: AT_ONCE, ..HandlerOptions::default() };
    let mut app = failing(options, &calls, || HandlerError::retry("no"));
    let past = app.now();
    app.advance(SECOND);
    app.enqueue(Entry::to("work").run_at(past));
    app.settle();
    assert_eq!(calls.load(Ordering::Relaxed), 17, "a few follow at once");
    app.advance(12 * SECOND);
    assert!((1_100..=1_300).contains(&calls.load(Ordering::Relaxed)), "{calls:?}");
}

/// The longest durations mean "no limit"; they neither panic nor become zero.
#[test]
fn the_longest_durations_mean_forever() {
    let ever = HandlerOptions {
        timeout: Some(Duration::MAX),
        heartbeat: Some(Duration::MAX),
        retention: Some(Duration::MAX),
        suspend_after: Some(Duration::MAX),
        interruptions_max: None,
        mismatch: forebay::MismatchPolicy::default(),
        retry: RetryPolicy { backoff_first_ms: u64::MAX, backoff_max_ms: u64::MAX, ..AT_ONCE },
    };
    for snoozes in [true, false] {
        let calls = Arc::default();
        let mut app = failing(ever, &calls, move || match snoozes {
            true => HandlerError::snooze(Duration::MAX),
            false => HandlerError::retry("no"),
        });
        let entry = app.enqueue(Entry::to("work"));
        app.advance(10 * 86_400 * SECOND);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let runtime = app.runtime();
        for partition in runtime.node().partitions().ids() {
            app.run(runtime.node().partitions().step_down(partition, Duration::MAX)).unwrap();
            app.run(runtime.node().partitions().lead(partition)).unwrap();
        }
        let killed = entry.clone();
        app.run(async move { killed.kill().await }).unwrap();
        app.advance(10 * 86_400 * SECOND);
        assert_eq!(failure(&mut app, &entry).0, FailureKind::Killed, "its result is kept");
    }
}
