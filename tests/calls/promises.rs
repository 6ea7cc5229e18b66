//! Promises: resolved early, late, once; rejected.

use std::time::Duration;

use forebay::{
    Builder, Context, ErrorKind, FailureKind, HandlerError, Json, Runtime, Stage,
    testkit::TestRuntime,
};

use super::{HOUR, Seen, failure, order, stage, success};

fn approval(seen: &Seen) -> Builder {
    let seen = seen.clone();
    Runtime::builder().partitions(2).handler("order", move |context: Context, ()| {
        let seen = seen.clone();
        async move {
            seen.attempt();
            context.sleep("wait a little", Duration::from_secs(1)).await?;
            let approved: bool = context.promise("approved").await?;
            let again: bool = context.promise("approved").await?;
            Ok::<_, HandlerError>(Json((approved, again)))
        }
    })
}

#[test]
fn a_promise_is_resolved_early_late_and_over_a_restart() {
    for wait in [Duration::ZERO, Duration::from_secs(2), HOUR] {
        let seen = Seen::default();
        let of = seen.clone();
        let mut app = TestRuntime::start(move || approval(&of));
        let entry = app.enqueue(order());
        app.advance(wait);
        if wait == HOUR {
            assert_eq!(stage(&mut app, &entry), Stage::Suspended);
            app.restart();
            app.advance(HOUR);
        }
        let runtime = app.runtime();
        app.run(runtime.resolve(entry.id(), "approved", &true)).unwrap();
        assert_eq!(success(app.outcome(&entry)), "[true,true]");
        assert_eq!(seen.attempts(), if wait == HOUR { 2 } else { 1 });
    }
}

#[test]
fn a_rejected_promise_fails_with_its_reason_and_the_first_result_stands() {
    let mut app = TestRuntime::start(|| approval(&Seen::default()));
    let entry = app.enqueue(order());
    let runtime = app.runtime();
    app.run(runtime.reject(entry.id(), "approved", "too expensive")).unwrap();
    let again = app.run(runtime.resolve(entry.id(), "approved", &true)).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Refused);
    let (kind, message) = failure(app.outcome(&entry));
    assert_eq!(kind, FailureKind::Terminal);
    assert!(message.contains("`approved` rejected: too expensive"), "{message}");
}

#[test]
fn a_value_of_another_type_is_an_error_that_names_the_promise() {
    let mut app = TestRuntime::start(|| approval(&Seen::default()));
    let entry = app.enqueue(order().retry(forebay::RetryPolicy::NONE));
    let runtime = app.runtime();
    app.run(runtime.resolve(entry.id(), "approved", "yes")).unwrap();
    let (_, message) = failure(app.outcome(&entry));
    assert!(message.contains("the result of `approved` does not have the type"), "{message}");
}
