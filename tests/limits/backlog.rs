//! Backlog limits.

use std::num::NonZeroU32;

use forebay::{Drain, EnqueueError, Limits, error::BacklogFull};

use super::{Gate, enqueue, entry};

fn at_most(waiting: u32, running: u32) -> Limits {
    Limits { backlog: NonZeroU32::new(waiting), ..Limits::concurrency(running) }
}

fn full<T: std::fmt::Debug>(result: Result<T, EnqueueError>) -> BacklogFull {
    match result {
        Err(EnqueueError::BacklogFull(full)) => *full,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_full_backlog_is_a_typed_error_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let runtime = gate.builder().data_dir(dir.path()).partitions(2).start().await.unwrap();
    runtime.rules().upsert("*", at_most(2, 1)).await.unwrap();
    let first = enqueue(&runtime, "s/a#k").await;
    gate.until_running(1).await;
    enqueue(&runtime, "s/a#k").await;
    let third = entry("s/b").idempotency_key("third");
    let stored = runtime.enqueue(third.clone()).await.unwrap();
    let refused = full(runtime.enqueue(entry("s")).await);
    assert_eq!(
        (&*refused.key, refused.waiting, refused.limit, refused.pattern.to_string()),
        ("s", 2, 2, "*".to_owned())
    );
    assert!(refused.to_string().contains("raise its backlog"), "{refused}");
    full(runtime.try_enqueue(entry("s")).await);
    let again = runtime.enqueue(third).await.unwrap();
    assert_eq!((again.id(), again.was_existing()), (stored.id(), true));
    // Another scope and work without a scope have room; a batch is refused as a whole.
    full(runtime.enqueue_batch(vec![entry("t"), entry("t"), entry("t")]).await);
    let limits = runtime.limits().await.unwrap();
    let s = limits.iter().find(|limit| limit.key == "s").unwrap();
    assert_eq!((s.usage, s.backlog, s.backlog_limit), (1, Some(2), Some(2)));
    assert!(!limits.iter().any(|limit| limit.key == "t"), "{limits:?}");
    enqueue(&runtime, "").await;
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);

    // The running entry runs again; two wait as before.
    let gate = Gate::new();
    let runtime = gate.builder().data_dir(dir.path()).start().await.unwrap();
    gate.until_running(2).await;
    full(runtime.enqueue(entry("s")).await);
    runtime.rules().upsert("*", at_most(3, 1)).await.unwrap();
    enqueue(&runtime, "s").await;
    full(runtime.enqueue(entry("s")).await);
    runtime.rules().delete("*").await.unwrap();
    enqueue(&runtime, "s").await;
    gate.open(100);
    first.outcome().await.unwrap_err();
    runtime.attach(first.id()).outcome().await.unwrap();
    runtime.shutdown(Drain::now()).await.unwrap();
}
