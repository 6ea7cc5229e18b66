//! Finished operations are not repeated: after a failure, a crash, a change of leader.

use std::time::Duration;

use forebay::{
    Builder, Context, Entry, FailureKind, HandlerError, HandlerOptions, JournalFailureKind, Json,
    MismatchPolicy, OneOf2, OperationError, RetryPolicy, Runtime, Stage, testkit::TestRuntime,
};

use super::{HOUR, Seen, failure, order, stage, success};

fn runtime<Fut>(
    call: impl Fn(Context, Seen) -> Fut + Clone + Send + Sync + 'static,
    seen: &Seen,
) -> Builder
where
    Fut: Future<Output = Result<Json<serde_json::Value>, HandlerError>> + Send + 'static,
{
    let seen = seen.clone();
    Runtime::builder()
        .partitions(2)
        .handler("order", move |context, ()| call(context, seen.clone()))
}

#[test]
fn a_step_is_not_run_again_after_a_failure_and_keeps_its_id() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let call = |context: Context, seen: Seen| async move {
            let attempt = seen.attempt();
            let charge = context.step("charge", |_| seen.fresh("charge")).await?;
            let flaky = context.step("ship", |id| {
                seen.note(id.to_string());
                let seen = seen.clone();
                async move {
                    match seen.count("ship") {
                        1 => Err(HandlerError::retry("no carrier")),
                        count => Ok(count),
                    }
                }
            });
            let ship = flaky.await?;
            if attempt == 2 {
                return Err("the handler fails after its steps".into());
            }
            Ok(Json(serde_json::json!([charge, ship])))
        };
        runtime(call, &of)
    });
    let entry = app.enqueue(order());
    assert_eq!(success(app.outcome(&entry)), "[1,2]");
    assert_eq!((seen.attempts(), seen.counted("charge"), seen.counted("ship")), (3, 1, 2));
    let ids = seen.noted();
    assert!(ids.len() == 2 && ids[0] == ids[1] && ids[0].starts_with("stp_"), "{ids:?}");
}

#[test]
fn a_step_is_not_run_again_after_a_crash_or_a_change_of_leader() {
    for nodes in [1, 2] {
        let seen = Seen::default();
        let of = seen.clone();
        let mut app = TestRuntime::builder().nodes(nodes).start(move || {
            let call = |context: Context, seen: Seen| async move {
                seen.attempt();
                let mut results = Vec::new();
                for number in ["0", "1", "2", "3"] {
                    results.push(context.step("part", |_| seen.fresh(number)).await?);
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
                Ok(Json(serde_json::json!(results)))
            };
            runtime(call, &of)
        });
        let entry = app.enqueue(order());
        for _ in 0..2 {
            app.advance(Duration::from_secs(15));
            if nodes == 1 {
                app.restart()
            } else {
                app.fail_over()
            }
            if nodes == 2 {
                break;
            }
        }
        assert_eq!(success(app.outcome(&entry)), "[1,1,1,1]");
        assert!(seen.attempts() > 1);
        let counts: Vec<_> = (0..4).map(|number| seen.counted(&number.to_string())).collect();
        assert_eq!(counts, [1; 4], "{nodes} nodes");
    }
}

#[test]
fn a_step_with_its_own_policy_is_repeated_within_the_attempt() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let call = |context: Context, seen: Seen| async move {
            seen.attempt();
            let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
            let lost = context.step_with("lost", policy, |_| {
                seen.count("lost");
                async { Err::<u32, _>(HandlerError::retry("no line")) }
            });
            let Err(OperationError::Failed { kind, message, .. }) = lost.await else {
                return Err(HandlerError::terminal("it succeeded"));
            };
            assert_eq!(kind, JournalFailureKind::Exhausted);
            let found = context.step_with("found", policy, |_| {
                let count = seen.count("found");
                async move { if count < 3 { Err(HandlerError::retry("busy")) } else { Ok(count) } }
            });
            let count = found.await?;
            if seen.attempts() == 1 {
                return Err("once more".into());
            }
            Ok(Json(serde_json::json!([message, count])))
        };
        runtime(call, &of)
    });
    let entry = app.enqueue(order());
    assert_eq!(success(app.outcome(&entry)), "[\"no line\",3]");
    assert_eq!((seen.attempts(), seen.counted("lost"), seen.counted("found")), (2, 3, 3));
}

#[test]
fn a_permanent_failure_of_a_step_is_remembered_and_fails_the_entry() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let call = |context: Context, seen: Seen| async move {
            let declined = |_| {
                seen.count("charge");
                async { Err::<u32, _>(HandlerError::terminal("declined")) }
            };
            let charge = context.step("charge", declined).await?;
            Ok(Json(serde_json::json!(charge)))
        };
        runtime(call, &of)
    });
    let entry = app.enqueue(order());
    let (kind, message) = failure(app.outcome(&entry));
    assert_eq!(kind, FailureKind::Terminal);
    assert!(message.contains("`charge` failed: declined"), "{message}");
    assert_eq!(seen.counted("charge"), 1);
}

#[test]
fn a_result_that_is_too_large_is_a_failure_with_its_size() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let call = |context: Context, _: Seen| async move {
            let large = |_| async { Ok::<_, HandlerError>("x".repeat(2_000)) };
            context.step("large", large).await?;
            Ok(Json(serde_json::Value::Null))
        };
        runtime(call, &of).payload_max(1_000)
    });
    let entry = app.enqueue(order());
    let (kind, message) = failure(app.outcome(&entry));
    assert_eq!(kind, FailureKind::Terminal);
    assert!(message.contains("the step's result has 2002 bytes as JSON; 1000 are"), "{message}");
}

#[test]
fn bad_use_is_said_clearly() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let call = |context: Context, seen: Seen| async move {
            let step = |_| async { Ok::<_, HandlerError>(1) };
            let both = futures_util::future::join(
                context.step("twice", step),
                context.step("twice", step),
            );
            if let (_, Err(error)) = both.await {
                seen.note(error.to_string());
            }
            let spawned = context.clone();
            let outside = tokio::spawn(async move { spawned.step("outside", step).await });
            seen.note(outside.await?.unwrap_err().to_string());
            let inner = context.clone();
            let inside = context.step("outer", |_| {
                let inner = inner.clone();
                async move { inner.sleep("inner", HOUR).await }
            });
            if let Err(error) = tokio::time::timeout(Duration::from_secs(1), inside).await {
                seen.note(error.to_string());
            }
            Ok(Json(serde_json::Value::Null))
        };
        let seen = of.clone();
        let options = HandlerOptions { retry: RetryPolicy::NONE, ..HandlerOptions::default() };
        Runtime::builder()
            .handler_with("order", options, move |context, ()| call(context, seen.clone()))
    });
    let entry = app.enqueue(order());
    let (_, message) = failure(app.outcome(&entry));
    let noted = seen.noted();
    assert!(noted[0].contains("two operations named `twice` are unfinished"), "{noted:?}");
    assert!(noted[1].contains("`outside` was awaited outside of its handler"), "{noted:?}");
    assert!(message.contains("`inner` was awaited inside of a step"), "{message}");
}

#[test]
fn time_random_numbers_and_ids_are_the_same_in_every_attempt() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let call = |context: Context, seen: Seen| async move {
            let attempt = seen.attempt();
            let begun = context.now();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(context.now(), begun);
            let first = (context.random()?, context.uuid()?);
            context.step("a", |_| seen.fresh("a")).await?;
            assert!(context.now() >= begun.after(Duration::from_secs(1)));
            let second = (context.random()?, context.uuid()?);
            assert!(first.0 != second.0 && first.1 != second.1);
            seen.note(format!("{begun:?} {first:?} {:?} {second:?}", context.now()));
            match attempt {
                3 => Ok(Json(serde_json::Value::Null)),
                _ => Err("once more".into()),
            }
        };
        runtime(call, &of)
    });
    let entry = app.enqueue(order());
    success(app.outcome(&entry));
    let noted = seen.noted();
    assert!(noted.len() == 3 && noted.iter().all(|all| *all == noted[0]), "{noted:#?}");
}

#[test]
fn a_join_and_a_select_take_the_same_way_in_a_replay() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let call = |context: Context, seen: Seen| async move {
            let attempt = seen.attempt();
            let slow = |seconds, value: u32| {
                move |_| async move {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    Ok::<_, HandlerError>(value)
                }
            };
            let both = (context.step("a", slow(2, 1)), context.step("a", slow(1, 2)));
            let (a, b) = context.join(both).await;
            // In the first attempt the second one wins. Later it takes longer, which changes
            // nothing.
            let seconds = if attempt == 1 { (3, 1) } else { (1, 3) };
            let first = context.step("b", slow(seconds.0, 3));
            let second = context.step("c", slow(seconds.1, 4));
            let won = match context.select((first, second)).await {
                OneOf2::First(first) => ("first", first?),
                OneOf2::Second(second) => ("second", second?),
            };
            let list = (0..3).map(|n| context.step("d", slow(3 - n, u32::try_from(n).unwrap())));
            let list: Vec<_> = context.join(list.collect::<Vec<_>>()).await;
            let list: Vec<_> = list.into_iter().collect::<Result<_, _>>()?;
            let branch = context.branch("eve", context.step("b", slow(0, 9))).await?;
            if attempt < 3 {
                return Err("once more".into());
            }
            Ok(Json(serde_json::json!([a?, b?, won, list, branch])))
        };
        runtime(call, &of)
    });
    let entry = app.enqueue(order());
    assert_eq!(success(app.outcome(&entry)), r#"[1,2,["second",4],[0,1,2],9]"#);
    assert_eq!(seen.attempts(), 3);
}

#[test]
fn code_that_does_not_fit_the_journal_pauses_fails_or_restarts_the_entry() {
    for policy in [MismatchPolicy::Pause, MismatchPolicy::Fail, MismatchPolicy::Restart] {
        let seen = Seen::default();
        let of = seen.clone();
        let mut app = TestRuntime::start(move || {
            let seen = of.clone();
            let options = HandlerOptions { mismatch: policy, ..HandlerOptions::default() };
            Runtime::builder().handler_with("order", options, move |context: Context, ()| {
                let seen = seen.clone();
                async move {
                    let attempt = seen.attempt();
                    if attempt == 2 || attempt == 3 && policy == MismatchPolicy::Restart {
                        context.sleep("a", Duration::from_secs(1)).await?;
                    } else {
                        context.step("a", |_| seen.fresh("a")).await?;
                    }
                    match attempt {
                        1 => Err(HandlerError::retry("once more")),
                        _ => Ok(()),
                    }
                }
            })
        });
        let entry = app.enqueue(order());
        let text =
            "the code does not match the journal: at `a` it has a step, the code does a sleep";
        match policy {
            MismatchPolicy::Pause => {
                app.advance(HOUR);
                assert_eq!(stage(&mut app, &entry), Stage::Paused);
                let runtime = app.runtime();
                let view = app.run(runtime.explain(entry.id())).unwrap().unwrap();
                assert!(format!("{view:?}").contains(text), "{view:?}");
                let runtime = app.runtime();
                app.run(runtime.attach(entry.id()).resume()).unwrap();
                success(app.outcome(&entry));
                assert_eq!(seen.counted("a"), 1, "the run continues");
            }
            MismatchPolicy::Restart => {
                success(app.outcome(&entry));
                assert_eq!((seen.attempts(), seen.counted("a")), (3, 1));
            }
            _ => {
                let (kind, message) = failure(app.outcome(&entry));
                assert!(kind == FailureKind::Terminal && message.contains(text), "{message}");
            }
        }
    }
}

#[test]
fn a_run_continues_with_another_payload_and_an_empty_journal() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let seen = of.clone();
        Runtime::builder().handler("round", move |context: Context, Json(round): Json<u32>| {
            let seen = seen.clone();
            async move {
                context
                    .step("look", |id| {
                        seen.note(id.to_string());
                        seen.fresh("look")
                    })
                    .await?;
                if round == 3 {
                    return Ok(Json(round));
                }
                context.continue_with(Json(round + 1))
            }
        })
    });
    let entry = app.enqueue(Entry::to("round").json(&0).unwrap());
    assert_eq!(success(app.outcome(&entry)), "3");
    let ids: std::collections::BTreeSet<_> = seen.noted().into_iter().collect();
    assert_eq!((seen.counted("look"), ids.len()), (4, 4), "each run has ids of its own");
}
