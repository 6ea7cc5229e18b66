//! Executors beside the handlers of a process: attempts reach them, their ends count, and losing
//! them loses nothing.

use std::time::Duration;

use forebay::{
    Drain, Entry, EntryHandle, Executor, ExecutorOptions, FailureKind, HandlerError, Json, Outcome,
    Runtime, Stage, executor::AttemptGone, explain::Reason,
};

const LONG: Duration = Duration::from_secs(30);

async fn start() -> Runtime {
    Runtime::builder().in_memory().partitions(2).start().await.unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("it takes less than half a minute")
}

async fn outcome(handle: &EntryHandle) -> Outcome {
    within(handle.outcome()).await.unwrap()
}

/// An executor with slots for one service.
fn executor(runtime: &Runtime, service: &str, slots: u32) -> Executor {
    let executor = runtime.executor(ExecutorOptions::default()).unwrap();
    executor.set_slots(service, slots).unwrap();
    executor
}

#[tokio::test]
async fn an_executor_takes_attempts_and_ends_them() {
    let runtime = start().await;
    let waiting = runtime.enqueue(Entry::to("mail").payload("first")).await.unwrap();
    let worker = executor(&runtime, "mail", 1);
    let attempt = within(worker.next()).await.unwrap();
    assert_eq!((attempt.entry, attempt.attempt), (waiting.id(), 1));
    assert_eq!(&attempt.payload[..], b"first");
    assert_eq!(worker.running(), [(attempt.entry, attempt.token)]);
    worker.complete(attempt.entry, attempt.token, "sent").await.unwrap();
    assert_eq!(outcome(&waiting).await, Outcome::Success("sent".into()));
    let late = worker.complete(attempt.entry, attempt.token, "again").await;
    assert_eq!(late, Err(AttemptGone));

    let failing = runtime.enqueue(Entry::to("mail")).await.unwrap();
    let first = within(worker.next()).await.unwrap();
    worker.fail(first.entry, first.token, HandlerError::retry("no")).await.unwrap();
    let second = within(worker.next()).await.unwrap();
    assert_eq!((second.attempt, second.last_failure.as_str()), (2, "no"));
    worker.snooze(second.entry, second.token, Duration::ZERO).await.unwrap();
    let third = within(worker.next()).await.unwrap();
    assert_eq!(third.attempt, 2, "a snooze does not count");
    worker.fail(third.entry, third.token, HandlerError::terminal("never")).await.unwrap();
    let Outcome::Failure(failure) = outcome(&failing).await else { panic!() };
    assert_eq!((failure.kind, &*failure.message), (FailureKind::Terminal, "never"));
    runtime.shutdown(Drain::now()).await.unwrap();
    assert!(within(worker.next()).await.is_none());
}

#[tokio::test]
async fn a_handler_of_the_process_comes_first() {
    let runtime = start().await;
    let worker = executor(&runtime, "mail", 10);
    let here = |_: forebay::Context, (): ()| async { Ok(Json("here")) };
    runtime.register("mail", here).unwrap();
    let entry = runtime.enqueue(Entry::to("mail")).await.unwrap();
    assert_eq!(within(entry.result::<String>()).await.unwrap(), "here");
    assert!(worker.try_next().is_none());
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn attempts_of_a_lost_executor_run_elsewhere() {
    let runtime = start().await;
    let entry = runtime.enqueue(Entry::to("mail").scope("a").key("k")).await.unwrap();
    let lost = executor(&runtime, "mail", 1);
    let attempt = within(lost.next()).await.unwrap();
    drop(lost);
    let closed = executor(&runtime, "mail", 1);
    let again = within(closed.next()).await.unwrap();
    assert!(again.token > attempt.token);
    assert_eq!(again.attempt, 1, "neither end counts as an attempt");
    closed.close();
    let last = executor(&runtime, "mail", 1);
    let again = within(last.next()).await.unwrap();
    assert_eq!(again.attempt, 1);
    last.complete(again.entry, again.token, "done").await.unwrap();
    assert!(outcome(&entry).await.is_success());
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn an_entry_that_loses_its_executor_again_and_again_is_a_dead_letter() {
    let runtime = start().await;
    let entry = runtime.enqueue(Entry::to("mail")).await.unwrap();
    for _ in 0..forebay_actors::executor::INTERRUPTIONS_MAX {
        let worker = executor(&runtime, "mail", 1);
        within(worker.next()).await.unwrap();
    }
    let Outcome::Failure(failure) = outcome(&entry).await else { panic!() };
    assert_eq!(failure.kind, FailureKind::Exhausted);
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn an_executor_that_is_silent_for_its_lease_is_lost() {
    let runtime = start().await;
    let options = ExecutorOptions::default().lease(Duration::from_millis(300));
    let silent = runtime.executor(options).unwrap();
    silent.set_slots("mail", 1).unwrap();
    let entry = runtime.enqueue(Entry::to("mail")).await.unwrap();
    let attempt = within(silent.next()).await.unwrap();
    let other = executor(&runtime, "mail", 1);
    let again = within(other.next()).await.unwrap();
    assert_eq!(again.entry, attempt.entry);
    assert!(silent.heartbeat().is_err());
    assert!(within(silent.next()).await.is_none());
    let late = silent.complete(attempt.entry, attempt.token, "late").await;
    assert_eq!(late, Err(AttemptGone));
    other.complete(again.entry, again.token, "done").await.unwrap();
    assert_eq!(outcome(&entry).await, Outcome::Success("done".into()));
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn a_killed_attempt_keeps_its_key_until_its_executor_has_ended_it() {
    let runtime = start().await;
    let worker = executor(&runtime, "mail", 2);
    let first = runtime.enqueue(Entry::to("mail").key("k")).await.unwrap();
    let attempt = within(worker.next()).await.unwrap();
    let second = runtime.enqueue(Entry::to("mail").key("k")).await.unwrap();
    within(first.kill()).await.unwrap();
    within(attempt.canceled()).await;
    assert_eq!(worker.heartbeat().unwrap(), [(attempt.entry, attempt.token)]);
    assert!(tokio::time::timeout(Duration::from_millis(200), worker.next()).await.is_err());
    worker.complete(attempt.entry, attempt.token, "too late").await.unwrap();
    let next = within(worker.next()).await.unwrap();
    assert_eq!(next.entry, second.id());
    worker.complete(next.entry, next.token, "").await.unwrap();
    assert!(outcome(&second).await.is_success());
    assert!(!outcome(&first).await.is_success());
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn no_more_entries_run_than_executors_have_slots() {
    let runtime = start().await;
    let worker = executor(&runtime, "mail", 0);
    let mut entries = Vec::new();
    for number in 0..40 {
        let entry = Entry::to("mail").scope(&format!("tenant-{number}"));
        entries.push(runtime.enqueue(entry).await.unwrap());
    }
    let waits = async {
        loop {
            let explained = runtime.explain(entries[0].id()).await.unwrap().unwrap();
            let reasons = explained.blocked_by.iter().map(|block| &block.reason);
            if reasons.into_iter().any(|reason| matches!(reason, Reason::NoSlot { .. })) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(waits).await;
    worker.set_slots("mail", 2).unwrap();
    for _ in 0..40 {
        let attempt = within(worker.next()).await.unwrap();
        assert!(worker.running().len() <= 2);
        let running = runtime.entries().stage(Stage::Running).list(100).await.unwrap();
        assert!(running.len() <= 2, "{}", running.len());
        worker.complete(attempt.entry, attempt.token, "").await.unwrap();
    }
    for entry in &entries {
        assert!(outcome(entry).await.is_success());
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}
