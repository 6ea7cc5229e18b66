//! Listing entries: few rows are read for a page, and pages add up to all entries.

use std::time::Duration;

use forebay::{Context, Drain, Entry, EntryOutcome, FilterError, Runtime, Stage};

/// Kept results, of which one in a hundred belongs to the listed scope.
const RESULTS: usize = 20_000;

async fn with_results() -> Runtime {
    let runtime = Runtime::builder()
        .in_memory()
        .partitions(2)
        .handler("work", |_: Context, (): ()| async { Ok(()) })
        .start()
        .await
        .unwrap();
    let scopes = (0..RESULTS).map(|n| if n % 100 == 0 { "t1" } else { "t2" });
    let entries: Vec<_> = scopes.map(|scope| Entry::to("work").scope(scope)).collect();
    for some in entries.chunks(5_000) {
        let handles = runtime.enqueue_batch(some.to_vec()).await.unwrap();
        runtime.outcomes(&handles).await.unwrap();
    }
    runtime
}

/// Regression: every row of every partition was read, whatever the filter.
#[tokio::test]
async fn a_scope_is_listed_from_its_own_rows_only() {
    let runtime = with_results().await;
    let of_t1 = runtime.entries().scope("t1");
    let page = of_t1.page(10, None).await.unwrap();
    assert_eq!(page.entries.len(), 10);
    assert!(page.looked_at <= 12, "{} rows for 10 entries", page.looked_at);
    assert_eq!(of_t1.list(10).await.unwrap(), page.entries);

    let (mut all, mut cursor, mut looked_at) = (Vec::new(), None, 0);
    loop {
        let page = of_t1.page(30, cursor).await.unwrap();
        all.extend(page.entries.into_iter().map(|entry| entry.id));
        looked_at += page.looked_at;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(all.len(), RESULTS / 100);
    assert!(all.is_sorted(), "entries come in the order of their ids");
    assert!(looked_at < all.len() + 50, "{looked_at} rows");

    let none = runtime.entries().scope("unknown").page(10, None).await.unwrap();
    assert_eq!((none.entries.len(), none.looked_at), (0, 0));
    let waiting = of_t1.clone().stage(Stage::Inbox).page(10, None).await.unwrap();
    assert_eq!(waiting.entries.len(), 0);
    assert!(waiting.looked_at <= 1, "its counts say that none waits");
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn counts_come_from_vqueues_or_say_at_least() {
    let runtime = with_results().await;
    let counted = runtime.entries().scope("t2").count().await.unwrap();
    assert_eq!((counted.count, counted.is_exact), (RESULTS as u64 / 100 * 99, true));
    assert!(counted.looked_at <= 2, "{} rows", counted.looked_at);
    let all = runtime.entries().count().await.unwrap();
    assert_eq!((all.to_string(), all.looked_at), (RESULTS.to_string(), 2));
    let succeeded = runtime.entries().succeeded().count().await.unwrap();
    assert_eq!(succeeded.to_string(), "at least 10000");
    assert!(!succeeded.is_exact && succeeded.looked_at == 10_000);
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn a_cursor_is_refused_with_another_filter() {
    let runtime = Runtime::builder().in_memory().start().await.unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(3600);
    for scope in ["a", "a", "b"] {
        runtime.enqueue(Entry::to("mail").scope(scope).run_at(later)).await.unwrap();
    }
    let page = runtime.entries().scope("a").page(1, None).await.unwrap();
    let cursor = page.next.unwrap();
    let text = serde_json::to_string(&cursor).unwrap();
    assert_eq!(serde_json::from_str::<forebay::EntryCursor>(&text).unwrap(), cursor);
    let refused = runtime.entries().scope("b").page(1, Some(cursor)).await;
    assert_eq!(refused.unwrap_err().to_string(), FilterError::OtherFilter.to_string());
    let refused = runtime.entries().scope("a").succeeded().page(1, Some(cursor)).await;
    assert_eq!(refused.unwrap_err().to_string(), FilterError::OtherFilter.to_string());
    let second = runtime.entries().scope("a").page(1, Some(cursor)).await.unwrap();
    assert_eq!(second.entries.len(), 1);
    assert_ne!(second.entries[0].id, page.entries[0].id);
    assert_eq!((second.entries[0].stage, second.entries[0].outcome), (Stage::Inbox, None));
    let json = serde_json::to_value(&second.entries[0]).unwrap();
    assert_eq!(json["stage"], "inbox");
    let killed = runtime.entries().scope("b").kill().await.unwrap();
    assert_eq!(killed.changed, 1);
    let ended = runtime.entries().scope("b").list(0).await.unwrap();
    assert_eq!((ended[0].stage, ended[0].outcome), (Stage::Finished, Some(EntryOutcome::Killed)));
    runtime.shutdown(Drain::now()).await.unwrap();
}
