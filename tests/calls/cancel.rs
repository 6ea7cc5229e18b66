//! Entries that wait are canceled, killed and shut down.

use std::time::Duration;

use forebay::{
    Context, Drain, FailureKind, HandlerError, HandlerOptions, Runtime, Stage, testkit::TestRuntime,
};

use super::{HOUR, Seen, failure, order, stage, success};

fn start(seen: &Seen, suspend_after: Duration) -> TestRuntime {
    let seen = seen.clone();
    TestRuntime::start(move || {
        let seen = seen.clone();
        let suspend_after = Some(suspend_after);
        let options = HandlerOptions { suspend_after, ..HandlerOptions::default() };
        Runtime::builder().handler_with("order", options, move |context: Context, ()| {
            let seen = seen.clone();
            async move {
                seen.attempt();
                context.promise::<u32>("never").await?;
                Ok::<_, HandlerError>(())
            }
        })
    })
}

#[test]
fn an_entry_that_waits_is_canceled_whether_it_is_suspended_or_not() {
    for suspend_after in [Duration::from_secs(1), Duration::MAX] {
        let seen = Seen::default();
        let mut app = start(&seen, suspend_after);
        let entry = app.enqueue(order());
        app.advance(HOUR);
        let is_suspended = suspend_after != Duration::MAX;
        let expected = if is_suspended { Stage::Suspended } else { Stage::Running };
        assert_eq!(stage(&mut app, &entry), expected);
        let handle = app.runtime().attach(entry.id());
        app.run(handle.cancel()).unwrap();
        let (kind, message) = failure(app.outcome(&entry));
        assert_eq!(kind, FailureKind::Canceled, "{message}");
        assert_eq!(seen.attempts(), 1);
    }
}

#[test]
fn a_handler_that_checks_for_a_cancel_may_clean_up_with_operations() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let seen = of.clone();
        Runtime::builder().handler("order", move |context: Context, ()| {
            let seen = seen.clone();
            async move {
                tokio::select! {
                    biased;
                    () = context.canceled() => {}
                    _ = context.promise::<u32>("never") => {}
                }
                context.sleep("settle", Duration::from_secs(30)).await?;
                context.step("undo", |_| seen.fresh("undo")).await?;
                Err::<(), _>(HandlerError::canceled("undone"))
            }
        })
    });
    let entry = app.enqueue(order());
    app.advance(Duration::from_secs(1));
    let handle = app.runtime().attach(entry.id());
    app.run(handle.cancel()).unwrap();
    let (kind, message) = failure(app.outcome(&entry));
    assert_eq!(
        (kind, message.as_str(), seen.counted("undo")),
        (FailureKind::Canceled, "undone", 1)
    );
}

#[test]
fn a_suspended_entry_is_killed() {
    let seen = Seen::default();
    let mut app = start(&seen, Duration::from_secs(1));
    let entry = app.enqueue(order());
    app.advance(HOUR);
    let handle = app.runtime().attach(entry.id());
    assert_eq!((stage(&mut app, &entry), seen.attempts()), (Stage::Suspended, 1));
    app.run(handle.kill()).unwrap();
    assert_eq!(failure(app.outcome(&entry)).0, FailureKind::Killed);
}

#[test]
fn a_shutdown_ends_attempts_that_only_wait_and_they_continue_afterwards() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let seen = of.clone();
        let suspend_after = Some(Duration::MAX);
        let options = HandlerOptions { suspend_after, ..HandlerOptions::default() };
        Runtime::builder().handler_with("order", options, move |context: Context, ()| {
            let seen = seen.clone();
            async move {
                seen.attempt();
                context.sleep("nap", HOUR).await?;
                Ok::<_, HandlerError>(())
            }
        })
    });
    let entry = app.enqueue(order());
    app.advance(Duration::from_secs(60));
    let runtime = app.runtime();
    app.run(runtime.shutdown(Drain::within(Duration::from_secs(1)))).unwrap();
    drop(runtime);
    app.restart();
    success(app.outcome(&entry));
    assert_eq!(seen.attempts(), 2);
}
