//! What the simulation has found: each bug has its test here, by name.

use std::time::Duration;

use forebay::{Builder, Context, Drain, Entry, HandlerError, Runtime, testkit::TestRuntime};

/// A service whose handler stops when it is asked to, and says so.
fn yielding() -> Builder {
    Runtime::builder().partitions(2).max_running(4).handler(
        "work",
        |context: Context, (): ()| async move {
            tokio::select! {
                () = context.canceled() => Err(HandlerError::canceled("as asked")),
                () = tokio::time::sleep(Duration::from_secs(3)) => Ok(()),
            }
        },
    )
}

/// The entry had ended as canceled for good, although nobody had canceled it.
#[test]
fn a_handler_that_gives_in_to_a_shutdown_runs_again() {
    let mut app = TestRuntime::start(yielding);
    let entry = app.enqueue(Entry::to("work"));
    app.settle();
    let runtime = app.runtime();
    app.run(runtime.shutdown(Drain::within(Duration::from_millis(100)))).unwrap();
    drop(runtime);
    app.restart();
    assert!(app.outcome(&entry).is_success());
}

/// Every limiter had waited for slots of a pool that was no more.
#[test]
fn a_node_goes_on_when_its_capacity_dies() {
    let mut app = TestRuntime::start(yielding);
    let entries: Vec<_> = (0..20).map(|_| app.enqueue(Entry::to("work"))).collect();
    app.advance(Duration::from_secs(4));
    assert_eq!(app.kill("capacity"), 1);
    for entry in &entries {
        assert!(app.outcome(entry).is_success());
    }
}
