//! Pauses of suspended entries.

use std::time::Duration;

use forebay::{
    Builder, Context, Entry, FailureKind, HandlerError, Json, Runtime, Stage, testkit::TestRuntime,
};

use super::{HOUR, Seen, failure, order, stage, success};

/// `order` waits for an approval, then calls `ship`, which takes a day.
fn shop(seen: &Seen) -> Builder {
    let seen = seen.clone();
    Runtime::builder()
        .partitions(2)
        .handler("order", move |context: Context, ()| {
            seen.attempt();
            async move {
                let approved: u32 = context.promise("approved").await?;
                let ship = Entry::to("ship").json(&approved)?;
                Ok::<_, HandlerError>(Json(context.call::<u32>("ship", ship).await?))
            }
        })
        .handler("ship", |context: Context, Json(number): Json<u32>| async move {
            context.sleep("sail", 24 * HOUR).await?;
            Ok::<_, HandlerError>(Json(number + 1))
        })
}

fn start(seen: &Seen) -> TestRuntime {
    let of = seen.clone();
    TestRuntime::start(move || shop(&of))
}

#[test]
fn a_paused_entry_stores_its_answers_and_continues_when_it_is_resumed() {
    for restarts in [false, true] {
        let seen = Seen::default();
        let mut app = start(&seen);
        let entry = app.enqueue(order().key("k"));
        let next = app.enqueue(order().key("k"));
        app.advance(Duration::from_secs(60));
        let handle = app.runtime().attach(entry.id());
        app.run(handle.pause()).unwrap();
        let runtime = app.runtime();
        let explained = app.run(runtime.explain(entry.id())).unwrap().unwrap();
        let text = format!("{:?}", explained.blocked_by);
        assert!(text.contains("Paused") && text.contains("approved"), "{text}");
        drop(runtime);
        app.resolve(&entry, "approved", &7);
        if restarts {
            app.restart();
        }
        app.advance(HOUR);
        assert_eq!((stage(&mut app, &entry), seen.attempts()), (Stage::Paused, 1));
        assert_eq!(stage(&mut app, &next), Stage::Inbox, "the key is held");
        let handle = app.runtime().attach(entry.id());
        app.run(handle.resume()).unwrap();
        assert_eq!(success(app.outcome(&entry)), "8");
        app.resolve(&next, "approved", &1);
        assert_eq!(success(app.outcome(&next)), "2");
    }
}

#[test]
fn entries_are_paused_by_filter_and_suspended_again_without_running() {
    let seen = Seen::default();
    let mut app = start(&seen);
    let entries: Vec<_> = (0..20).map(|_| app.enqueue(order())).collect();
    app.advance(Duration::from_secs(60));
    let runtime = app.runtime();
    let report = app.run(runtime.entries().stage(Stage::Suspended).pause()).unwrap();
    assert_eq!((report.changed, report.skipped.len()), (20, 0));
    assert_eq!(stage(&mut app, &entries[3]), Stage::Paused);
    let report = app.run(runtime.entries().service("order").resume()).unwrap();
    assert_eq!(report.changed, 20);
    app.advance(HOUR);
    for entry in &entries {
        assert_eq!(stage(&mut app, entry), Stage::Suspended);
    }
    assert_eq!(seen.attempts(), 20, "none ran again");
    for entry in &entries {
        app.resolve(entry, "approved", &1);
        assert_eq!(success(app.outcome(entry)), "2");
    }
}

#[test]
fn a_paused_parent_that_is_canceled_or_killed_takes_its_child_along() {
    for kills in [false, true] {
        let mut app = start(&Seen::default());
        let entry = app.enqueue(order());
        app.resolve(&entry, "approved", &7);
        app.advance(HOUR);
        let runtime = app.runtime();
        let children = app.run(runtime.entries().service("ship").list(10)).unwrap();
        let child = runtime.attach(children[0].id);
        let handle = runtime.attach(entry.id());
        app.run(handle.pause()).unwrap();
        if kills {
            app.run(handle.kill()).unwrap();
        } else {
            app.run(handle.cancel()).unwrap();
        }
        let expected = if kills { FailureKind::Killed } else { FailureKind::Canceled };
        assert_eq!(failure(app.outcome(&entry)).0, expected);
        assert_eq!(failure(app.outcome(&child)).0, expected);
    }
}

#[test]
fn a_sleep_that_ends_during_a_pause_is_over_when_the_entry_is_resumed() {
    let mut app = start(&Seen::default());
    let child = app.enqueue(Entry::to("ship").payload("4"));
    app.advance(HOUR);
    let handle = app.runtime().attach(child.id());
    app.run(handle.pause()).unwrap();
    app.advance(48 * HOUR);
    assert_eq!(stage(&mut app, &child), Stage::Paused);
    app.run(handle.resume()).unwrap();
    app.advance(Duration::from_secs(1));
    assert_eq!(success(app.outcome(&child)), "5");
}
