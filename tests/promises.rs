//! Promises of entries that are settled from outside, trees, restarts from outside: each wrong use
//! has its own error.

use std::time::{Duration, SystemTime};

use forebay::{
    ActError, Drain, Entry, EntryId, ErrorKind, PartitionKey, PromiseError, Runtime, Skip, Stage,
};

/// An id that no entry has.
const UNKNOWN: EntryId = EntryId { partition_key: PartitionKey(7), uuid: [7; 16] };

async fn start() -> Runtime {
    Runtime::builder().in_memory().partitions(2).payload_max(1_000).start().await.unwrap()
}

fn says(settled: Result<(), PromiseError>) -> (ErrorKind, String) {
    let error = settled.unwrap_err();
    (error.kind(), error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_is_settled_once_and_early() {
    let runtime = start().await;
    let order = runtime.enqueue(Entry::to("order")).await.unwrap().id();
    runtime.resolve(order, "approved", &true).await.unwrap();
    for again in [
        runtime.resolve(order, "approved", &false).await,
        runtime.reject(order, "approved", "no").await,
    ] {
        let (kind, text) = says(again);
        assert_eq!(kind, ErrorKind::Refused);
        assert!(text.starts_with("the promise `approved` of ent_"), "{text}");
        assert!(text.contains("was resolved or rejected before"), "{text}");
    }
    runtime.reject(order, "paid", "the card is blocked").await.unwrap();
    let (kind, _) = says(runtime.resolve(order, "paid", "yes").await);
    assert_eq!(kind, ErrorKind::Refused);
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_of_no_live_entry_is_an_error() {
    let runtime = start().await;
    let (kind, text) = says(runtime.resolve(UNKNOWN, "approved", &true).await);
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.starts_with(&format!("there is no entry {UNKNOWN}: ")), "{text}");
    let order = runtime.enqueue(Entry::to("order")).await.unwrap();
    order.kill().await.unwrap();
    let (kind, text) = says(runtime.reject(order.id(), "approved", "no").await);
    assert_eq!(kind, ErrorKind::Refused);
    assert!(text.contains("has ended"), "{text}");
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_values_and_numbers_of_promises_are_bounded() {
    let runtime = start().await;
    let order = runtime.enqueue(Entry::to("order")).await.unwrap().id();
    for name in [String::new(), "n".repeat(129)] {
        let (kind, text) = says(runtime.resolve(order, &name, &1).await);
        assert_eq!(kind, ErrorKind::BadInput);
        assert!(text.contains("1 to 128 bytes"), "{text}");
    }
    let large = "v".repeat(1_001);
    for refused in
        [runtime.resolve(order, "a", &large).await, runtime.reject(order, "a", &large).await]
    {
        assert!(matches!(refused, Err(PromiseError::TooLarge { len_max: 1_000, .. })));
    }
    for number in 0..1_024 {
        runtime.resolve(order, &format!("p{number}"), &number).await.unwrap();
    }
    let (kind, text) = says(runtime.resolve(order, "one more", &1).await);
    assert_eq!(kind, ErrorKind::Refused);
    assert!(text.contains("1024 promises"), "{text}");
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_names_an_operation_that_there_is() {
    let runtime = start().await;
    let later = SystemTime::now() + Duration::from_secs(3_600);
    let order = runtime.enqueue(Entry::to("order").run_at(later)).await.unwrap();
    order.restart().await.unwrap();
    let missing = order.restart_from("charge").await;
    assert!(matches!(missing, Err(ActError::NotChanged(Skip::NoSuchOperation))), "{missing:?}");
    let unknown = runtime.attach(UNKNOWN).restart_from("charge").await;
    assert!(matches!(unknown, Err(ActError::NotChanged(Skip::Unknown))), "{unknown:?}");
    // By filter: only what has not ended.
    assert_eq!(runtime.entries().service("order").restart().await.unwrap().changed, 1);
    order.kill().await.unwrap();
    assert_eq!(runtime.entries().service("order").restart().await.unwrap().changed, 0);
    order.restart().await.unwrap();
    assert_eq!(order.status().await.unwrap().stage, Stage::Inbox, "it is redriven");
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_of_an_unknown_entry_is_an_error() {
    let runtime = start().await;
    assert_eq!(runtime.tree(UNKNOWN).await.unwrap_err().kind(), ErrorKind::NotFound);
    runtime.shutdown(Drain::now()).await.unwrap();
}
