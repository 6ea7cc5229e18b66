//! Entries whose service has no handler in the process: they wait at no cost, and run once a
//! handler is registered or an alias names one.

use std::time::Duration;

use forebay::{
    Context, Drain, Entry, ErrorKind, Json, Limits, Rate, Runtime, RuntimeError,
    aliases::AliasError,
    explain::{BlockView, Reason},
};
use forebay_actors::error::NodeError;

use crate::place::Place;

/// Longer than anything here takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

async fn service_of(context: Context, (): ()) -> Result<Json<String>, forebay::HandlerError> {
    Ok(Json(context.vqueue().service.to_string()))
}

async fn blocks(runtime: &Runtime, entry: &forebay::EntryHandle) -> Vec<BlockView> {
    runtime.explain(entry.id()).await.unwrap().unwrap().blocked_by
}

/// Waits until the entry's vqueue was activated and found to have no handler.
async fn until_noticed(runtime: &Runtime, entry: &forebay::EntryHandle) {
    let noticed =
        async {
            while !blocks(runtime, entry).await.iter().any(|block| {
                matches!(block.reason, Reason::NoHandler { .. }) && block.since.is_some()
            }) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
    tokio::time::timeout(TIMEOUT, noticed).await.expect("it is found to have no handler");
}

async fn ran(entry: &forebay::EntryHandle) -> String {
    tokio::time::timeout(TIMEOUT, entry.result::<String>()).await.expect("it runs").unwrap()
}

/// Regression: entries without a handler were started and failed for lack of one, and each start
/// took a token of their tenant's rate, so that entries with a handler waited for tokens.
#[tokio::test]
async fn entries_without_a_handler_leave_their_tenants_tokens_to_others() {
    let runtime = Runtime::builder()
        .in_memory()
        .partitions(1)
        .handler("live", service_of)
        .start()
        .await
        .unwrap();
    let rate = Some(Rate { tokens: 1, period_ms: 3_600_000, burst: 20 });
    runtime.rules().upsert("t", Limits { rate, ..Limits::default() }).await.unwrap();
    let batch = |service: &'static str| (0..20).map(move |_| Entry::to(service).scope("t"));
    let ghosts = runtime.enqueue_batch(batch("ghost").collect()).await.unwrap();
    until_noticed(&runtime, &ghosts[0]).await;
    let live = runtime.enqueue_batch(batch("live").collect()).await.unwrap();
    for entry in &live {
        assert_eq!(ran(entry).await, "live");
    }
    let reasons = blocks(&runtime, &ghosts[0]).await;
    let no_handler =
        |block: &BlockView| block.reason == Reason::NoHandler { service: "ghost".to_owned() };
    assert!(reasons.iter().any(no_handler), "{reasons:?}");
    assert!(!reasons.iter().any(|block| matches!(block.reason, Reason::RunAt { .. })));
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn waiting_entries_run_when_their_handler_is_registered() {
    let runtime = Runtime::builder().in_memory().partitions(3).start().await.unwrap();
    let entries = (0..30).map(|n| Entry::to("late").key(&format!("key-{n}"))).collect();
    let entries = runtime.enqueue_batch(entries).await.unwrap();
    for entry in &entries {
        until_noticed(&runtime, entry).await;
    }
    runtime.register("late", service_of).unwrap();
    for entry in &entries {
        assert_eq!(ran(entry).await, "late");
        assert_eq!(blocks(&runtime, entry).await, []);
    }
    let second = runtime.register("late", service_of);
    assert!(matches!(second, Err(RuntimeError::TwoHandlers { .. })), "{second:?}");
    let bad = runtime.register("no spaces", service_of);
    assert!(matches!(bad, Err(RuntimeError::Name(_))), "{bad:?}");
    runtime.shutdown(Drain::now()).await.unwrap();
    let down = runtime.register("other", service_of);
    assert_eq!(down.unwrap_err().kind(), ErrorKind::Stopped);
}

/// Regression: each of them was decided and returned every five seconds, with two records each
/// time: log and disk usage grew while there was no handler.
#[test]
fn waiting_for_a_handler_writes_no_records() {
    let mut app = forebay::testkit::TestRuntime::start(|| {
        Runtime::builder().partitions(1).handler("live", service_of)
    });
    let ghosts: Vec<_> =
        (0..10).map(|n| app.enqueue(Entry::to("ghost").key(&format!("{n}")))).collect();
    app.settle();
    let end = |app: &forebay::testkit::TestRuntime| {
        app.runtime().node().inspect().status().unwrap().iter().map(|of| of.log_end).max()
    };
    let before = end(&app);
    app.advance(Duration::from_secs(600));
    assert_eq!(end(&app), before, "ten minutes of waiting leave no record");
    app.runtime().register("ghost", service_of).unwrap();
    for ghost in &ghosts {
        assert!(app.outcome(ghost).is_success());
    }
}

#[tokio::test]
async fn an_alias_lets_another_handler_serve_a_service_until_removed() {
    let place = Place::new();
    let start = || {
        let builder = Runtime::builder().data_dir(place.path("data")).partitions(2);
        builder.handler("new", service_of).start()
    };
    let runtime = start().await.unwrap();
    let entry = runtime.enqueue(Entry::to("old").key("k")).await.unwrap();
    until_noticed(&runtime, &entry).await;
    runtime.aliases().set("old", "new").await.unwrap();
    assert_eq!(ran(&entry).await, "old", "the entry keeps its service");
    let refused = runtime.aliases().set("new", "old").await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::BadInput);
    assert!(matches!(refused.cause(), NodeError::Alias(AliasError::Cycle { .. })), "{refused}");
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);

    let runtime = start().await.unwrap();
    let listed = runtime.aliases().list().await.unwrap();
    assert_eq!(listed, [("old".to_owned(), "new".to_owned())], "it outlives the process");
    let entry = runtime.enqueue(Entry::to("old").key("k")).await.unwrap();
    assert_eq!(ran(&entry).await, "old");
    runtime.aliases().remove("old").await.unwrap();
    let entry = runtime.enqueue(Entry::to("old").key("k")).await.unwrap();
    until_noticed(&runtime, &entry).await;
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_sets_lists_and_removes_aliases() {
    let place = Place::new();
    let builder = Runtime::builder().data_dir(place.path("data")).partitions(1);
    let runtime = builder.handler("new", service_of).start().await.unwrap();
    let entry = runtime.enqueue(Entry::to("old")).await.unwrap();
    until_noticed(&runtime, &entry).await;
    let id = entry.id().to_string();
    let explained = place.run(&["explain", &id, "--data-dir", "data"]).expect(0, &[]).text();
    assert!(explained.contains("no handler for service old here"), "{explained}");

    let set = place.run(&["alias", "old", "new", "--data-dir", "data"]).expect(0, &[]).text();
    assert!(set.contains("old") && set.contains("new"), "{set}");
    assert_eq!(ran(&entry).await, "old");
    place.run(&["alias", "new", "old", "--data-dir", "data"]).expect(2, &[]);
    place.run(&["alias", "old", "--data-dir", "data"]).expect(2, &[]);
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);

    let listed = place.json(&["alias", "--data-dir", "data"]);
    assert_eq!(listed, serde_json::json!([{ "service": "old", "handler": "new" }]));
    place.run(&["alias", "--remove", "old", "--data-dir", "data"]).expect(0, &[]);
    assert_eq!(place.json(&["alias", "--data-dir", "data"]), serde_json::json!([]));
    place.run(&["alias", "--remove", "old", "--data-dir", "data"]).expect(2, &[]);
}
