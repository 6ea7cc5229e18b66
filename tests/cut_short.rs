//! Attempts that are canceled during the last attempt or interrupted by the end of their process,
//! and the guarantees of idempotency keys.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use bytes::Bytes;
use forebay::{
    Context, Drain, EnqueueError, Entry, FailureKind, HandlerError, HandlerOptions, Outcome,
    RetryPolicy, Runtime, TrimLog,
};

use crate::place::Place;

/// The test that runs as a separate process, and its directory.
const TEST: &str = "cut_short::process_to_interrupt";
const DIRECTORY: &str = "FOREBAY_CUT_SHORT_DIRECTORY";
const TURN: &str = "FOREBAY_CUT_SHORT_TURN";
/// Number of process starts after which a job that ends its process must be a dead letter: the
/// first death may leave no row, five more are counted.
const STARTS_MAX: u32 = 7;
const ORDERLY_STOPS: u32 = 20;

/// Regression: the entry ended as a dead letter, and a redrive of dead letters ran it again.
#[tokio::test]
async fn a_cancel_during_the_last_attempt_is_not_lost() {
    let options = HandlerOptions { retry: RetryPolicy::NONE, ..HandlerOptions::default() };
    let runtime = Runtime::builder()
        .in_memory()
        .handler_with("half", options, |context: Context, is_terminal: Bytes| async move {
            context.canceled().await;
            match is_terminal.is_empty() {
                true => Err::<(), _>(HandlerError::retry("half way")),
                false => Err(HandlerError::terminal("half way")),
            }
        })
        .start()
        .await
        .unwrap();
    for payload in ["", "terminal"] {
        let entry = runtime.enqueue(Entry::to("half").payload(payload)).await.unwrap();
        while runtime.entries().stage(forebay::Stage::Running).list(1).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        entry.cancel().await.unwrap();
        let outcome = entry.outcome().await.unwrap();
        let Outcome::Failure(failure) = outcome else { panic!("{outcome:?}") };
        assert_eq!(failure.kind, FailureKind::Canceled, "{payload}");
    }
    let dead = runtime.entries().failed_as(FailureKind::Exhausted);
    assert_eq!(dead.redrive().await.unwrap().changed, 0);
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// Regression: entries with different object keys went to different partitions, and each ran.
#[tokio::test]
async fn an_idempotency_key_with_an_object_key_needs_a_scope() {
    for partitions in [1, 4] {
        let builder = Runtime::builder().in_memory().partitions(partitions);
        let runtime = builder.handler("work", |_: Context, (): ()| async { Ok(()) });
        let runtime = runtime.start().await.unwrap();
        let entry = |object: &str| Entry::to("work").key(object).idempotency_key("once");
        let refused = |error: &EnqueueError| matches!(error, EnqueueError::IdempotencyNeedsScope);
        let error = runtime.enqueue(entry("a")).await.unwrap_err();
        assert!(refused(&error) && error.to_string().contains("add a scope"), "{error}");
        assert!(refused(&runtime.try_enqueue(entry("a")).await.unwrap_err()));
        assert!(refused(&runtime.enqueue_batch(vec![entry("a")]).await.unwrap_err()));
        let first = runtime.enqueue(entry("a").scope("s")).await.unwrap();
        for n in 0..20 {
            let again = runtime.enqueue(entry(&format!("b{n}")).scope("s")).await.unwrap();
            assert_eq!((again.id(), again.was_existing()), (first.id(), true));
        }
        runtime.enqueue(Entry::to("work").key("a")).await.unwrap();
        runtime.enqueue(Entry::to("work").idempotency_key("once")).await.unwrap();
        runtime.shutdown(Drain::now()).await.unwrap();
    }
}

#[tokio::test]
async fn another_payload_under_the_same_idempotency_key_is_reported() {
    let runtime = Runtime::builder().in_memory().partitions(2).start().await.unwrap();
    let entry = |payload: &'static str| Entry::to("work").idempotency_key("k").payload(payload);
    let first = runtime.enqueue(entry("one")).await.unwrap();
    assert_eq!((first.was_existing(), first.payload_differs()), (false, Some(false)));
    let same = runtime.enqueue(entry("one")).await.unwrap();
    assert_eq!((same.was_existing(), same.payload_differs()), (true, Some(false)));
    let batch = runtime.enqueue_batch(vec![entry("other")]).await.unwrap();
    assert_eq!((batch[0].id(), batch[0].payload_differs()), (first.id(), Some(true)));
    assert_eq!(runtime.attach(first.id()).payload_differs(), None);
    runtime.shutdown(Drain::now()).await.unwrap();
}

fn run_once(directory: &Path, turn: &str) -> ExitStatus {
    let output =
        fs::File::options().create(true).append(true).open(directory.join("said")).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(DIRECTORY, directory)
        .env(TURN, turn)
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status()
        .unwrap()
}

fn output(place: &Place) -> String {
    let lines = place.lines("said");
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Runs the process until it ends well; returns how often the job ended it before.
fn deaths(place: &Place, first: &str, then: &str) -> u32 {
    let mut starts = 0;
    while !run_once(&place.path(""), if starts == 0 { first } else { then }).success() {
        starts += 1;
        assert!(starts <= STARTS_MAX, "it never stops ending its process: {}", output(place));
    }
    starts
}

/// Regression: it ran at every start of the process, each time as attempt 1.
#[test]
fn a_job_that_ends_its_process_is_a_dead_letter_after_five_interruptions() {
    let place = Place::new();
    let starts = deaths(&place, "first", "abort");
    let outcome = fs::read_to_string(place.path("outcome")).unwrap();
    assert!(outcome.starts_with("dead letter: the process died 5 times"), "{outcome}");
    assert!(starts >= 5, "{starts} starts");
}

/// Regression: the limit of a handler added after the start was not known when a death was counted,
/// so the default of five applied.
#[test]
fn the_limit_of_a_handler_added_late_applies() {
    let place = Place::new();
    deaths(&place, "late-first", "late-abort");
    let outcome = fs::read_to_string(place.path("outcome")).unwrap();
    assert!(outcome.starts_with("dead letter: the process died 3 times"), "{outcome}");

    let place = Place::new();
    assert!(!run_once(&place.path(""), "any-first").success(), "{}", output(&place));
    for _ in 0..STARTS_MAX {
        assert!(!run_once(&place.path(""), "any-abort").success(), "{}", output(&place));
    }
    assert!(run_once(&place.path(""), "any-end").success(), "{}", output(&place));
    assert_eq!(fs::read_to_string(place.path("outcome")).unwrap(), "success");
}

#[test]
fn orderly_stops_are_not_counted_as_interruptions() {
    let place = Place::new();
    for turn in 0..ORDERLY_STOPS {
        let turn = if turn == 0 { "stop-first" } else { "stop" };
        assert!(run_once(&place.path(""), turn).success(), "{}", output(&place));
    }
    assert!(run_once(&place.path(""), "end").success(), "{}", output(&place));
    assert_eq!(fs::read_to_string(place.path("outcome")).unwrap(), "success");
}

/// The child process: it enqueues a job at its first start and then waits for the job's end. The
/// turn determines what the job does.
#[test]
fn process_to_interrupt() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let turn = std::env::var(TURN).unwrap();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    tokio.unwrap().block_on(run(directory, turn));
}

async fn run(directory: PathBuf, turn: String) {
    let started = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let (started_too, what) = (started.clone(), turn.clone());
    let job = move |_: Context, (): ()| {
        let (started_too, what) = (started_too.clone(), what.clone());
        async move {
            started_too.add_permits(1);
            match what.rsplit('-').next().unwrap() {
                "end" => Ok::<_, HandlerError>(()),
                _ if what.starts_with("stop") => std::future::pending().await,
                _ => std::process::abort(),
            }
        }
    };
    let builder = Runtime::builder()
        .data_dir(directory.join("data"))
        .trim_log(TrimLog::Never)
        .handler("other", |_: Context, (): ()| async { Ok(()) });
    let limit = match turn.split('-').next().unwrap() {
        "late" => Some(3),
        "any" => Some(u32::MAX),
        _ => None,
    };
    let options = HandlerOptions { interruptions_max: limit, ..HandlerOptions::default() };
    let runtime = match limit {
        None => builder.handler("job", job).start().await.unwrap(),
        Some(_) => {
            let runtime = builder.start().await.unwrap();
            runtime.register_with("job", options, job).unwrap();
            runtime
        }
    };
    let id = if turn.ends_with("first") {
        // The id is known before the job can run.
        let uuid = *uuid::Uuid::new_v4().as_bytes();
        let later = std::time::SystemTime::now() + Duration::from_millis(300);
        let job = Entry::to("job").scope("s").key("k").uuid(uuid).run_at(later);
        let job = runtime.enqueue(job).await.unwrap();
        fs::write(directory.join("id"), job.id().to_string()).unwrap();
        job.id()
    } else {
        fs::read_to_string(directory.join("id")).unwrap().parse().unwrap()
    };
    if turn.starts_with("stop") {
        drop(started.acquire().await.unwrap());
        // The running row must be durable too: the handler may start before its decision is
        // applied.
        while runtime.entries().stage(forebay::Stage::Running).list(1).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        return runtime.shutdown(Drain::now()).await.unwrap();
    }
    let text = match runtime.attach(id).outcome().await.unwrap() {
        Outcome::Success(_) => "success".to_owned(),
        Outcome::Failure(failure) => format!("{}: {}", failure.kind, failure.message),
    };
    fs::write(directory.join("outcome"), text).unwrap();
    // Other work continues, also with the same key.
    let other = runtime.enqueue(Entry::to("other").scope("s").key("k")).await.unwrap();
    assert!(other.outcome().await.unwrap().is_success());
    runtime.shutdown(Drain::now()).await.unwrap();
}
