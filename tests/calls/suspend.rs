//! Waits that occupy nothing.

use std::time::Duration;

use forebay::{
    Builder, Context, HandlerError, HandlerOptions, Limits, PartitionKey, Runtime, Stage,
    testkit::TestRuntime,
};

use super::{HOUR, Seen, order, stage, success};

fn sleeper(seen: &Seen, options: HandlerOptions) -> Builder {
    let seen = seen.clone();
    let call = move |context: Context, ()| {
        let seen = seen.clone();
        async move {
            seen.attempt();
            context.step("before", |_| seen.fresh("before")).await?;
            context.sleep("cool down", 24 * HOUR).await?;
            context.step("after", |_| seen.fresh("after")).await?;
            Ok::<_, HandlerError>(())
        }
    };
    Runtime::builder().partitions(2).handler_with("order", options, call)
}

#[test]
fn a_sleep_lasts_over_a_restart_of_the_runtime() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || sleeper(&of, HandlerOptions::default()));
    let entry = app.enqueue(order());
    app.advance(Duration::from_secs(4));
    assert_eq!(stage(&mut app, &entry), Stage::Running);
    app.advance(Duration::from_secs(2));
    assert_eq!(stage(&mut app, &entry), Stage::Suspended);
    app.advance(10 * HOUR);
    app.restart();
    app.advance(13 * HOUR);
    assert_eq!((stage(&mut app, &entry), seen.attempts()), (Stage::Suspended, 1));
    app.advance(HOUR);
    success(app.outcome(&entry));
    let counted = (seen.attempts(), seen.counted("before"), seen.counted("after"));
    assert_eq!(counted, (2, 1, 1));
}

#[test]
fn a_sleep_ends_while_the_process_is_down() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || sleeper(&of, HandlerOptions::default()));
    let entry = app.enqueue(order());
    app.advance(HOUR);
    app.crash();
    app.advance(48 * HOUR);
    app.restart();
    app.settle();
    assert!(app.outcome_now(&entry).is_some());
    assert_eq!(seen.attempts(), 2);
}

#[test]
fn a_short_sleep_is_not_suspended() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let seen = of.clone();
        Runtime::builder().handler("order", move |context: Context, ()| {
            let seen = seen.clone();
            async move {
                seen.attempt();
                for _ in 0..3 {
                    context.sleep("nap", Duration::from_secs(4)).await?;
                }
                Ok::<_, HandlerError>(())
            }
        })
    });
    let entry = app.enqueue(order());
    let from = app.now();
    success(app.outcome(&entry));
    assert_eq!(seen.attempts(), 1);
    let took = app.now().0 - from.0;
    assert!((12_000..12_100).contains(&took), "{took} ms");
}

#[test]
fn an_attempt_may_keep_its_place_while_it_waits() {
    let seen = Seen::default();
    let of = seen.clone();
    let never = HandlerOptions { suspend_after: Some(Duration::MAX), ..HandlerOptions::default() };
    let mut app = TestRuntime::start(move || sleeper(&of, never));
    let entry = app.enqueue(order());
    app.advance(23 * HOUR);
    assert_eq!(stage(&mut app, &entry), Stage::Running);
    app.advance(HOUR);
    success(app.outcome(&entry));
    assert_eq!(seen.attempts(), 1);
}

#[test]
fn a_wait_is_no_timeout_and_needs_no_heartbeat() {
    let seen = Seen::default();
    let of = seen.clone();
    let second = Duration::from_secs(1);
    let strict = HandlerOptions {
        timeout: Some(4 * second),
        heartbeat: Some(second),
        ..HandlerOptions::default()
    };
    let mut app = TestRuntime::start(move || sleeper(&of, strict));
    let entry = app.enqueue(order());
    app.advance(3 * second);
    assert_eq!(stage(&mut app, &entry), Stage::Suspended);
    success(app.outcome(&entry));
    assert_eq!(seen.attempts(), 2);
}

#[test]
fn a_suspended_entry_holds_no_permit_and_comes_before_new_work() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let seen = of.clone();
        Runtime::builder().max_running(1).handler(
            "order",
            move |context: Context, payload: bytes::Bytes| {
                let seen = seen.clone();
                let name = String::from_utf8(payload.to_vec()).unwrap();
                async move {
                    seen.note(format!("{name} begins"));
                    if name == "sleeper" {
                        context.sleep("nap", HOUR).await?;
                    } else {
                        tokio::time::sleep(2 * HOUR).await;
                    }
                    seen.note(format!("{name} ends"));
                    Ok::<_, HandlerError>(())
                }
            },
        )
    });
    let order = || order().partition_key(PartitionKey(7));
    let sleeping = app.enqueue(order().payload("sleeper"));
    app.advance(Duration::from_secs(10));
    assert_eq!(stage(&mut app, &sleeping), Stage::Suspended);
    let others: Vec<_> = (0..3).map(|n| app.enqueue(order().payload(format!("{n}")))).collect();
    for other in others.iter().chain([&sleeping]) {
        success(app.outcome(other));
    }
    let noted = seen.noted();
    assert_eq!(noted[..3], ["sleeper begins", "0 begins", "0 ends"]);
    assert_eq!(noted[3..5], ["sleeper begins", "sleeper ends"], "{noted:?}");
}

#[test]
fn a_suspended_entry_keeps_its_key_unless_it_releases_it() {
    for releases in [false, true] {
        let seen = Seen::default();
        let of = seen.clone();
        let mut app = TestRuntime::start(move || {
            let seen = of.clone();
            Runtime::builder().handler("order", move |context: Context, payload: bytes::Bytes| {
                let seen = seen.clone();
                async move {
                    if payload == "sleeper" {
                        if releases {
                            context.release_key();
                        }
                        context.sleep("nap", HOUR).await?;
                    }
                    seen.note(String::from_utf8(payload.to_vec()).unwrap());
                    Ok::<_, HandlerError>(())
                }
            })
        });
        let entries = ["sleeper", "other"].map(|name| app.enqueue(order().key("k").payload(name)));
        for entry in &entries {
            success(app.outcome(entry));
        }
        let order = if releases { ["other", "sleeper"] } else { ["sleeper", "other"] };
        assert_eq!(seen.noted(), order);
    }
}

#[test]
fn limits_do_not_count_suspended_entries() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || sleeper(&of, HandlerOptions::default()));
    let rules = app.runtime().rules();
    app.run(rules.upsert("tenant", Limits::concurrency(2))).unwrap();
    let entries: Vec<_> = (0..20).map(|_| app.enqueue(order().scope("tenant"))).collect();
    app.advance(Duration::from_secs(60));
    for entry in &entries {
        assert_eq!(stage(&mut app, entry), Stage::Suspended, "two at a time, five seconds each");
    }
    for entry in &entries {
        success(app.outcome(entry));
    }
    assert_eq!((seen.counted("before"), seen.counted("after")), (20, 20));
}

#[test]
fn an_entry_that_was_suspended_is_not_blamed_for_the_deaths_before() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let seen = of.clone();
        Runtime::builder().handler("order", move |context: Context, ()| {
            let seen = seen.clone();
            async move {
                seen.attempt();
                for _ in 0..8 {
                    context.sleep("nap", HOUR).await?;
                }
                Ok::<_, HandlerError>(())
            }
        })
    });
    let entry = app.enqueue(order());
    for _ in 0..8 {
        app.advance(Duration::from_secs(1));
        assert_eq!(stage(&mut app, &entry), Stage::Running);
        app.restart();
        app.advance(HOUR - Duration::from_secs(1));
    }
    success(app.outcome(&entry));
    assert_eq!(seen.attempts(), 17, "each sleep began once and was repeated once");
}
