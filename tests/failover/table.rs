//! Partitions that one of several runtimes spawns and drops.

use std::sync::Arc;

use forebay::{Candidacy, Drain, EnqueueError, PartitionSpec, SharedLog, error::NodeError};

use super::{P, Ran, member, until, work};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_one_runtime_spawns_or_drops_are_seen_by_the_others() {
    let log = SharedLog::in_memory().unwrap();
    let ran = Arc::new(Ran::default());
    let first = member(&log, 0, &ran, Candidacy::First).await;
    let second = member(&log, 1, &ran, Candidacy::Standby).await;
    first.drop_partition(P).await.unwrap();
    until("the other one has dropped it", || second.partitions().list().unwrap().is_empty()).await;
    let nobody = second.enqueue(work(1)).await.err().unwrap();
    assert!(matches!(nobody, EnqueueError::Node(NodeError::NoPartition(_))), "{nobody}");

    let half = u64::MAX / 2;
    let low = first.spawn_partition(PartitionSpec::range(0..=half)).await.unwrap();
    let high = second.spawn_partition(PartitionSpec::range(half + 1..=u64::MAX)).await.unwrap();
    for runtime in [&first, &second] {
        until("both have both", || runtime.node().partitions() == [low, high]).await;
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
    // Whoever led them goes: the other one has them.
    drop(first);
    for partition in [low, high] {
        second.partitions().lead(partition).await.unwrap();
    }
    second.enqueue(work(1)).await.unwrap().result::<u64>().await.unwrap();
    second.shutdown(Drain::now()).await.unwrap();
}
