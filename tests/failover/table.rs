//! Partitions spawned and dropped by one of several runtimes.

use std::sync::Arc;

use forebay::{
    Candidacy, Drain, ErrorKind, PartitionSpec, SharedLog, TrimLog,
    testkit::{FaultLog, LogFault, MemoryLog, MemoryMetadata},
};

use super::{P, Ran, member, until, work};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_one_runtime_spawns_or_drops_are_seen_by_the_others() {
    let log = SharedLog::in_memory().unwrap();
    let ran = Arc::new(Ran::default());
    let first = member(&log, 0, &ran, Candidacy::First).await;
    let second = member(&log, 1, &ran, Candidacy::Standby).await;
    first.drop_partition(P).await.unwrap();
    until("the other one has dropped it", || {
        second.node().inspect().partition_views().unwrap().is_empty()
    })
    .await;
    let error = second.enqueue(work(1)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    let half = u64::MAX / 2;
    let low = first.spawn_partition(PartitionSpec::range(0..=half)).await.unwrap();
    let high = second.spawn_partition(PartitionSpec::range(half + 1..=u64::MAX)).await.unwrap();
    for runtime in [&first, &second] {
        until("both have both", || runtime.node().partitions().ids() == [low, high]).await;
    }
    // Scopes of either half, through either runtime.
    let mut entries = Vec::new();
    for n in 0..40 {
        let runtime = [&first, &second][n % 2];
        let entry = forebay::Entry::to("work").scope(&format!("s{n}")).json(&1).unwrap();
        entries.push(runtime.enqueue(entry).await.unwrap());
    }
    for entry in &entries {
        entry.result::<u64>().await.unwrap();
    }
    // The leader stops: the other one has them.
    drop(first);
    for partition in [low, high] {
        second.partitions().lead(partition).await.unwrap();
    }
    second.enqueue(work(1)).await.unwrap().result::<u64>().await.unwrap();
    second.shutdown(Drain::now()).await.unwrap();
}

/// Regression: it was in no list, requests for its keys were refused because no partition owned
/// them, and the search for stopped partitions did not find it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_of_another_runtime_that_stops_at_its_start_is_listed_as_stopped() {
    let inner = Arc::new(FaultLog::new(MemoryLog::new()));
    let log = SharedLog::over(inner.clone(), Arc::new(MemoryMetadata::new()), TrimLog::Never);
    let (log, ran) = (log.unwrap(), Arc::new(Ran::default()));
    let leads = member(&log, 0, &ran, Candidacy::First).await;
    let other = member(&log, 1, &ran, Candidacy::Never).await;
    other.drop_partition(P).await.unwrap();
    until("it is dropped", || leads.node().inspect().partition_views().unwrap().is_empty()).await;
    inner.plan(1, LogFault::Fail);
    // Its replica here may be notified too, and stop.
    let spawned = other.spawn_partition(PartitionSpec::range(0..=u64::MAX)).await;
    if spawned.is_err() {
        let status = other.node().inspect().status().unwrap();
        assert!(status.first().is_some_and(|partition| partition.stopped.is_some()), "{status:?}");
    }
    let stopped = || {
        let list = leads.node().inspect().partition_views().unwrap();
        list.first().is_some_and(|partition| partition.stopped.is_some())
    };
    until("it is listed as stopped", stopped).await;
    let error = leads.enqueue(work(1)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
}
