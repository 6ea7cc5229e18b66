//! Handlers that call and send.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use forebay::{
    Builder, Context, Entry, EntryId, FailureKind, HandlerError, HandlerOptions,
    JournalFailureKind, Json, Limits, OperationError, RetryPolicy, Runtime, Stage,
    testkit::TestRuntime,
};

use super::{HOUR, Seen, failure, order, stage, success};

/// `order` calls `ship`, which is `add` with one more each time.
fn shop(seen: &Seen) -> Builder {
    let (seen, ships) = (seen.clone(), seen.clone());
    let interruptions_max = Some(u32::MAX);
    let options = HandlerOptions { interruptions_max, ..HandlerOptions::default() };
    Runtime::builder()
        .partitions(4)
        .handler_with("order", options, move |context: Context, ()| {
            let seen = seen.clone();
            async move {
                seen.attempt();
                let mut sum = 0;
                for number in 0..3_u32 {
                    let child = Entry::to("ship").json(&number)?;
                    sum += context.call::<u32>("ship", child).await?;
                }
                Ok::<_, HandlerError>(Json(sum))
            }
        })
        .handler_with("ship", options, move |_: Context, Json(number): Json<u32>| {
            let seen = ships.clone();
            async move {
                seen.count(&format!("ship {number}"));
                tokio::time::sleep(Duration::from_secs(10)).await;
                Ok::<_, HandlerError>(Json(number + 100))
            }
        })
}

#[test]
fn a_call_gives_the_result_of_its_child() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || shop(&of));
    let entry = app.enqueue(order());
    assert_eq!(success(app.outcome(&entry)), "303");
    for number in 0..3 {
        assert_eq!(seen.counted(&format!("ship {number}")), 1);
    }
    assert_eq!(seen.attempts(), 4, "it was suspended three times");
}

#[test]
fn a_child_exists_once_over_crashes() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || shop(&of));
    let entry = app.enqueue(order());
    for seconds in [0, 1, 5, 11, 4, 12, 6, 3, 11, 2, 13] {
        app.advance(Duration::from_secs(seconds));
        app.restart();
    }
    assert_eq!(success(app.outcome(&entry)), "303");
    let runtime = app.runtime();
    let found = app.run(runtime.entries().service("ship").list(100)).unwrap();
    assert_eq!(found.len(), 3);
}

#[test]
fn a_parent_and_its_child_fit_under_a_limit_of_one() {
    for by_rule in [true, false] {
        let seen = Seen::default();
        let of = seen.clone();
        let mut app = TestRuntime::start(move || {
            let builder = Runtime::builder()
                .partitions(4)
                .handler("order", |context: Context, ()| async move {
                    let child = Entry::to("ship").scope("shop").json(&5)?;
                    Ok::<_, HandlerError>(Json(context.call::<u32>("ship", child).await?))
                })
                .handler("ship", {
                    let seen = of.clone();
                    move |_: Context, Json(number): Json<u32>| {
                        seen.attempt();
                        async move { Ok::<_, HandlerError>(Json(number)) }
                    }
                });
            if by_rule { builder } else { builder.max_running(1) }
        });
        if by_rule {
            let rules = app.runtime().rules();
            app.run(rules.upsert("shop", Limits::concurrency(1))).unwrap();
        }
        let entries: Vec<_> = (0..4).map(|_| app.enqueue(order().scope("shop"))).collect();
        for entry in &entries {
            assert_eq!(success(app.outcome(entry)), "5");
        }
        assert_eq!(seen.attempts(), 4);
    }
}

#[test]
fn children_run_at_a_time_and_their_results_have_a_place_each() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let seen = of.clone();
        Runtime::builder()
            .partitions(4)
            .handler("order", move |context: Context, ()| {
                seen.attempt();
                async move {
                    let calls: Vec<_> = (0..100_u64)
                        .map(|number| {
                            Ok(context.call::<u64>("part", Entry::to("part").json(&number)?))
                        })
                        .collect::<Result<_, HandlerError>>()?;
                    let parts: Vec<u64> =
                        context.join(calls).await.into_iter().collect::<Result<_, _>>()?;
                    Ok::<_, HandlerError>(Json(parts))
                }
            })
            .handler("part", |_: Context, Json(number): Json<u64>| async move {
                tokio::time::sleep(Duration::from_secs(number % 7 * 10)).await;
                Ok::<_, HandlerError>(Json(number * 2))
            })
    });
    let entry = app.enqueue(order());
    let doubled: Vec<u64> = (0..100).map(|number| number * 2).collect();
    assert_eq!(success(app.outcome(&entry)), serde_json::to_string(&doubled).unwrap());
    assert!(seen.attempts() > 1);
}

#[test]
fn what_is_sent_exists_once_and_is_on_its_own() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let seen = of.clone();
        Runtime::builder()
            .partitions(4)
            .handler("order", move |context: Context, ()| {
                let attempt = seen.attempt();
                async move {
                    let mail = Entry::to("mail").payload("hello");
                    let id = context.send("mail", mail).await?;
                    match attempt {
                        3 => Ok(Json(id)),
                        _ => Err(HandlerError::retry("once more")),
                    }
                }
            })
            .handler("mail", |_: Context, payload: Bytes| async move {
                tokio::time::sleep(HOUR).await;
                Ok::<_, HandlerError>(payload)
            })
    });
    let entry = app.enqueue(order());
    let id: EntryId = serde_json::from_str(&success(app.outcome(&entry))).unwrap();
    let mail = app.runtime().attach(id);
    assert_eq!(success(app.outcome(&mail)), "hello");
    let runtime = app.runtime();
    let found = app.run(runtime.entries().service("mail").list(100)).unwrap();
    assert_eq!(found.len(), 1);
}

/// `order` calls `ship` and says how that ended.
fn caller(ship: Builder) -> Builder {
    ship.handler("order", |context: Context, ()| async move {
        match context.call::<u32>("ship", Entry::to("ship").payload("null")).await {
            Ok(number) => Ok(Json(format!("{number}"))),
            Err(OperationError::Failed { kind, message, .. }) => {
                Ok(Json(format!("{kind:?}: {message}")))
            }
            Err(error) => Err(error.into()),
        }
    })
}

/// How a call of this child ends, for its parent.
fn answer_of(ship: fn() -> Builder) -> String {
    let mut app = TestRuntime::start(move || caller(ship()));
    let entry = app.enqueue(order());
    success(app.outcome(&entry))
}

#[test]
fn every_end_of_a_child_is_an_outcome() {
    let fails = || {
        Runtime::builder().handler("ship", |_: Context, ()| async {
            Err::<(), _>(HandlerError::terminal("no carrier"))
        })
    };
    assert_eq!(answer_of(fails), "\"Terminal: no carrier\"");
    let dead_letter = || {
        let once = HandlerOptions { retry: RetryPolicy::NONE, ..HandlerOptions::default() };
        Runtime::builder().handler_with("ship", once, |_: Context, ()| async {
            Err::<(), _>(HandlerError::retry("no line"))
        })
    };
    assert_eq!(answer_of(dead_letter), "\"Exhausted: no line\"");
    let succeeds = || {
        let seven = |_: Context, ()| async { Ok::<_, HandlerError>(Json(7)) };
        Runtime::builder().handler("ship", seven)
    };
    assert_eq!(answer_of(succeeds), "\"7\"");
}

fn waiting_child() -> Builder {
    caller(Runtime::builder().partitions(4).handler("ship", |_: Context, ()| async {
        tokio::time::sleep(1_000 * HOUR).await;
        Ok::<_, HandlerError>(Json(7))
    }))
}

#[test]
fn a_child_that_is_stopped_answers_its_parent() {
    for (kills, expected) in [(true, "Killed"), (false, "Canceled")] {
        let mut app = TestRuntime::start(waiting_child);
        let entry = app.enqueue(order());
        app.advance(HOUR);
        assert_eq!(stage(&mut app, &entry), Stage::Suspended);
        let runtime = app.runtime();
        let found = app.run(runtime.entries().service("ship").list(100)).unwrap();
        let child = runtime.attach(found[0].id);
        if kills {
            app.run(child.kill()).unwrap();
        } else {
            app.run(child.cancel()).unwrap();
            app.run(child.kill()).unwrap_or_default();
        }
        let outcome = success(app.outcome(&entry));
        assert!(outcome.contains("Killed") || outcome.contains(expected), "{outcome}");
    }
}

#[test]
fn a_parent_that_is_killed_or_canceled_takes_its_children_along() {
    for kills in [true, false] {
        let mut app = TestRuntime::start(waiting_child);
        let entry = app.enqueue(order());
        app.advance(HOUR);
        let runtime = app.runtime();
        let found = app.run(runtime.entries().service("ship").list(100)).unwrap();
        let child = runtime.attach(found[0].id);
        let handle = runtime.attach(entry.id());
        if kills {
            app.run(handle.kill()).unwrap();
            assert_eq!(failure(app.outcome(&child)).0, FailureKind::Killed);
        } else {
            app.run(handle.cancel()).unwrap();
            app.settle();
            let details = app.run(child.details(0)).unwrap();
            assert!(details.cancel_requested, "{details:?}");
        }
        let expected = if kills { FailureKind::Killed } else { FailureKind::Canceled };
        assert_eq!(failure(app.outcome(&entry)).0, expected);
    }
}

#[test]
fn a_call_for_a_key_of_an_ancestor_would_deadlock() {
    let mut app = TestRuntime::start(|| {
        Runtime::builder().handler("order", |context: Context, ()| async move {
            let itself = Entry::to("order").key("k").payload("null");
            match context.call::<()>("again", itself).await {
                Err(OperationError::Failed { kind, message, .. }) => {
                    assert_eq!(kind, JournalFailureKind::WouldDeadlock);
                    Ok(Json(message))
                }
                other => panic!("{other:?}"),
            }
        })
    });
    let entry = app.enqueue(Entry::to("order").key("k"));
    let message = success(app.outcome(&entry));
    assert!(message.contains("would deadlock: key `k` of service `order`"), "{message}");
}

#[test]
fn a_call_is_at_most_64_deep() {
    let mut app = TestRuntime::start(|| {
        let at_once = Some(Duration::from_millis(1));
        let options = HandlerOptions { suspend_after: at_once, ..HandlerOptions::default() };
        Runtime::builder().handler_with(
            "deep",
            options,
            |context: Context, Json(depth): Json<u32>| async move {
                let child = Entry::to("deep").json(&(depth + 1))?;
                match context.call::<u32>("down", child).await {
                    Err(OperationError::Failed {
                        kind: JournalFailureKind::CallTooDeep,
                        message,
                        ..
                    }) => {
                        assert!(message.contains("a call 65 deep"), "{message}");
                        Ok(Json(depth))
                    }
                    other => Ok::<_, HandlerError>(Json(other?)),
                }
            },
        )
    });
    let entry = app.enqueue(Entry::to("deep").json(&0).unwrap());
    assert_eq!(success(app.outcome(&entry)), "64");
}

#[test]
fn a_child_with_an_identity_of_its_own_is_refused() {
    let mut app = TestRuntime::start(|| {
        let once = HandlerOptions { retry: RetryPolicy::NONE, ..HandlerOptions::default() };
        Runtime::builder().payload_max(1_000).handler_with(
            "order",
            once,
            |context: Context, ()| async move {
                let mut texts = BTreeSet::new();
                for child in [
                    Entry::to("ship").idempotency_key("k"),
                    Entry::to("ship").uuid([7; 16]),
                    Entry::to("ship").payload(vec![1; 1_001]),
                    Entry::to(""),
                ] {
                    let error = context.send("ship", child).await.unwrap_err();
                    texts.insert(error.to_string());
                }
                Ok::<_, HandlerError>(Json(texts))
            },
        )
    });
    let entry = app.enqueue(order());
    let texts = success(app.outcome(&entry));
    assert!(texts.contains("`ship`: a child gets its id from its parent"), "{texts}");
    assert!(texts.contains("`ship`: the payload has 1001 bytes; at most 1000"), "{texts}");
    assert_eq!(serde_json::from_str::<Vec<String>>(&texts).unwrap().len(), 3);
}
