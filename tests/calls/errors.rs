//! Errors of bad use: each says what is wrong and what to do.

use std::time::Duration;

use forebay::{
    Builder, Context, Entry, EntryId, ErrorKind, FailureKind, HandlerError, HandlerOptions,
    JournalFailureKind, Json, MismatchPolicy, OperationError, RetryPolicy, Runtime, Stage,
    testkit::TestRuntime,
};

use super::{HOUR, Seen, failure, order, stage, success};

/// A runtime whose handler `order` does this, without retries.
fn once<Fut, Out>(call: impl Fn(Context) -> Fut + Clone + Send + Sync + 'static) -> Builder
where
    Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    Out: serde::Serialize + Send + 'static,
{
    let options = HandlerOptions { retry: RetryPolicy::NONE, ..HandlerOptions::default() };
    Runtime::builder().partitions(2).handler_with("order", options, move |context, ()| {
        let result = call(context);
        async move { result.await.map(Json) }
    })
}

/// How an entry whose handler does this fails.
fn failure_of<Fut, Out>(
    call: impl Fn(Context) -> Fut + Clone + Send + Sync + 'static,
) -> (FailureKind, String)
where
    Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    Out: serde::Serialize + Send + 'static,
{
    let mut app = TestRuntime::start(move || once(call.clone()));
    let entry = app.enqueue(order());
    failure(app.outcome(&entry))
}

const FULL: &str = "split the work into children or end the run with continue_with";

#[test]
fn a_journal_with_too_many_operations_ends_the_entry() {
    let (kind, message) = failure_of(|context: Context| async move {
        let steps = (0..10_001_u32).map(|number| {
            context.step("part", move |_| async move { Ok::<_, HandlerError>(number) })
        });
        context.join(steps.collect::<Vec<_>>()).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(())
    });
    assert_eq!(kind, FailureKind::Terminal);
    assert!(message.contains("journal full: a run may have 10000 operations"), "{message}");
    assert!(message.contains(FULL), "{message}");
}

#[test]
fn a_journal_with_too_many_bytes_ends_the_entry() {
    let mut app = TestRuntime::start(|| {
        once(|context: Context| async move {
            for _ in 0..9 {
                let large = |_| async { Ok::<_, HandlerError>("x".repeat(8 << 20)) };
                context.step("large", large).await?;
            }
            Ok(())
        })
        .payload_max((8 << 20) + 2)
    });
    let entry = app.enqueue(order());
    let (kind, message) = failure(app.outcome(&entry));
    assert_eq!(kind, FailureKind::Terminal);
    let expected = "journal full: a run may have 67108864 bytes of keys and results";
    assert!(message.contains(expected) && message.contains(FULL), "{message}");
}

#[test]
fn an_entry_with_too_many_promises_ends_or_gets_no_more() {
    let (kind, message) = failure_of(|context: Context| async move {
        let promises: Vec<_> =
            (0..1_025).map(|number| context.promise::<()>(&format!("p{number}"))).collect();
        context.join(promises).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(())
    });
    assert_eq!(kind, FailureKind::Terminal);
    assert!(message.contains("journal full: a run may have 1024 promises"), "{message}");

    let mut app = TestRuntime::start(|| once(|_| async { Ok(()) }));
    let entry = app.enqueue(order().run_at(app.now().after(HOUR)));
    for number in 0..1_024 {
        app.resolve(&entry, &format!("p{number}"), &());
    }
    let runtime = app.runtime();
    let error = app.run(runtime.resolve(entry.id(), "one more", &())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("has 1024 promises, no more are allowed"), "{error}");
}

/// Of a call that fails: its kind and its message.
fn called(result: Result<(), OperationError>) -> Result<(String, String), HandlerError> {
    match result {
        Err(OperationError::Failed { kind, message, .. }) => Ok((format!("{kind:?}"), message)),
        other => Err(HandlerError::terminal(format!("{other:?}"))),
    }
}

#[test]
fn a_call_for_a_key_of_a_grandparent_names_all_keys_on_the_way() {
    let mut app = TestRuntime::start(|| {
        Runtime::builder()
            .partitions(3)
            .handler("order", |context: Context, ()| async move {
                let ship = Entry::to("ship").key("parcel").payload("null");
                Ok::<_, HandlerError>(Json(context.call::<(String, String)>("ship", ship).await?))
            })
            .handler("ship", |context: Context, ()| async move {
                let back = Entry::to("order").key("customer").payload("null");
                Ok(Json(called(context.call::<()>("ask back", back).await)?))
            })
    });
    let entry = app.enqueue(order().key("customer"));
    let (kind, message): (String, String) =
        serde_json::from_str(&success(app.outcome(&entry))).unwrap();
    assert_eq!(kind, format!("{:?}", JournalFailureKind::WouldDeadlock));
    assert!(message.contains("key `customer` of service `order` is held"), "{message}");
    assert!(message.contains("send instead of calling, or use another key"), "{message}");
    assert!(message.matches("vq_").count() == 2 && message.contains(" -> "), "{message}");
}

#[test]
fn an_entry_may_send_to_its_own_key_but_not_call_it_even_if_it_releases_the_key() {
    let seen = Seen::default();
    let of = seen.clone();
    let mut app = TestRuntime::start(move || {
        let seen = of.clone();
        Runtime::builder().handler("order", move |context: Context, Json(is_first): Json<bool>| {
            let seen = seen.clone();
            async move {
                if is_first {
                    let next = || Entry::to("order").key("k").json(&false);
                    context.release_key();
                    context.sleep("the key is released", HOUR).await?;
                    let (kind, _) = called(context.call("again", next()?).await)?;
                    assert_eq!(kind, "WouldDeadlock");
                    context.send("as the message says", next()?).await?;
                }
                seen.note(if is_first { "first" } else { "sent" });
                Ok::<_, HandlerError>(())
            }
        })
    });
    let entry = app.enqueue(Entry::to("order").key("k").json(&true).unwrap());
    success(app.outcome(&entry));
    app.advance(HOUR);
    assert_eq!(seen.noted(), ["first", "sent"]);
}

#[test]
fn a_promise_of_an_unknown_entry_or_a_second_value_is_refused() {
    let mut app = TestRuntime::start(|| {
        once(|context: Context| async move { Ok(context.promise::<u32>("approved").await?) })
            .payload_max(1_000)
    });
    let entry = app.enqueue(order());
    let runtime = app.runtime();
    let unknown = EntryId { uuid: [9; 16], ..entry.id() };
    let error = app.run(runtime.resolve(unknown, "approved", &7)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    assert!(text.contains(&format!("there is no entry {unknown}: it was purged, or ")), "{text}");

    let error = app.run(runtime.resolve(entry.id(), "", &7)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadInput);
    assert!(error.to_string().contains("has 1 to 128 bytes; this one has 0"), "{error}");
    let error = app.run(runtime.resolve(entry.id(), "approved", &"x".repeat(999))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadInput);
    assert!(error.to_string().contains("or raise Builder::payload_max"), "{error}");

    app.run(runtime.resolve(entry.id(), "approved", &7)).unwrap();
    let error = app.run(runtime.resolve(entry.id(), "approved", &7)).unwrap_err();
    // The handler may have ended meanwhile: then the entry says so.
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(success(app.outcome(&entry)), "7");
    let error = app.run(runtime.reject(entry.id(), "approved", "no")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("has ended: nothing waits for its promises"), "{error}");
}

#[test]
fn a_second_value_of_a_promise_is_refused_while_the_entry_waits() {
    let mut app = TestRuntime::start(|| once(|_| async { Ok(()) }));
    let entry = app.enqueue(order().run_at(app.now().after(HOUR)));
    let runtime = app.runtime();
    app.run(runtime.resolve(entry.id(), "approved", &7)).unwrap();
    for error in [
        app.run(runtime.resolve(entry.id(), "approved", &7)).unwrap_err(),
        app.run(runtime.reject(entry.id(), "approved", "no")).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Refused);
        let text = error.to_string();
        let expected = "that result stands; another value needs a promise of another name";
        assert!(text.contains("`approved` of ") && text.contains(expected), "{text}");
    }
}

#[test]
fn two_unfinished_operations_of_one_name_are_refused_whatever_they_do() {
    let (_, message) = failure_of(|context: Context| async move {
        let sleep = context.sleep("a", HOUR);
        let promise = context.promise::<()>("a");
        let (sleep, promise) = futures_util::future::join(sleep, promise).await;
        sleep?;
        Ok(promise?)
    });
    assert!(message.contains("two operations named `a` are unfinished"), "{message}");
    assert!(message.contains("give them different names, or put each in a branch"), "{message}");
}

#[test]
fn an_operation_in_another_thread_is_refused() {
    let (_, message) = failure_of(|context: Context| async move {
        let thread = std::thread::spawn(move || {
            let outside = context.promise::<()>("answer");
            futures_util::FutureExt::now_or_never(outside)
        });
        let ended = thread.join().map_err(|_| "the thread ended in a panic")?;
        Ok(ended.ok_or("it waits")??)
    });
    assert!(message.contains("`answer` was awaited outside of its handler's own"), "{message}");
    assert!(message.contains("await it in the handler; `join` and `branch` do"), "{message}");
}

#[test]
fn names_without_a_place_in_the_journal_are_refused() {
    let (_, message) = failure_of(|context: Context| async move {
        let mut texts = Vec::new();
        for name in ["", &"n".repeat(129)] {
            texts.push(context.sleep(name, HOUR).await.unwrap_err().to_string());
        }
        let key = "k".repeat(129);
        texts.push(context.branch(&key, context.sleep("a", HOUR)).await.unwrap_err().to_string());
        Err::<(), _>(HandlerError::terminal(texts.join("; ")))
    });
    for expected in [
        "is empty; it needs 1 to 128 bytes",
        "promise has 129 bytes; 128 are allowed",
        "the key of a branch has 129 bytes; 128 are allowed",
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

/// Calls `ship` with a payload that differs in the second attempt, or sends to another target.
fn changed(policy: MismatchPolicy, seen: &Seen) -> Builder {
    let seen = seen.clone();
    let options = HandlerOptions { mismatch: policy, ..HandlerOptions::default() };
    Runtime::builder()
        .handler_with("order", options, move |context: Context, ()| {
            let seen = seen.clone();
            async move {
                let attempt = seen.attempt();
                let number = u32::from(attempt == 2);
                let child = Entry::to("ship").json(&number)?;
                let shipped: u32 = context.call("ship", child).await?;
                match attempt {
                    1 => Err(HandlerError::retry("once more")),
                    _ => Ok(Json(shipped)),
                }
            }
        })
        .handler("ship", |_: Context, Json(number): Json<u32>| async move {
            Ok::<_, HandlerError>(Json(number))
        })
}

#[test]
fn a_call_with_another_payload_does_not_match_the_journal() {
    let text = "at `ship` it has a call, the code does a call with another target or payload; \
                redeploy the code that began this run, or restart the entry";
    for policy in [MismatchPolicy::Pause, MismatchPolicy::Fail, MismatchPolicy::Restart] {
        let seen = Seen::default();
        let of = seen.clone();
        let mut app = TestRuntime::start(move || changed(policy, &of));
        let entry = app.enqueue(order());
        let runtime = app.runtime();
        match policy {
            MismatchPolicy::Fail => {
                let (kind, message) = failure(app.outcome(&entry));
                assert_eq!(kind, FailureKind::Terminal);
                assert!(message.contains(text), "{message}");
            }
            MismatchPolicy::Restart => {
                assert_eq!(success(app.outcome(&entry)), "0", "the call of a new run");
                assert_eq!(seen.attempts(), 3);
            }
            _ => {
                app.advance(Duration::from_secs(60));
                assert_eq!(stage(&mut app, &entry), Stage::Paused);
                let view = app.run(runtime.explain(entry.id())).unwrap().unwrap();
                assert!(format!("{view:?}").contains(text), "{view:?}");
                // As the message says.
                app.run(runtime.attach(entry.id()).restart()).unwrap();
                assert_eq!(success(app.outcome(&entry)), "0");
            }
        }
    }
}
