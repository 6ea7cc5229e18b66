//! Actors that panic: the replica is rebuilt, and all waiting callers are answered.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use forebay::{Candidacy, Drain, ErrorKind, SharedLog};

use super::{P, Ran, member, role, until, work};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panicking_partition_or_supervisor_is_rebuilt() {
    for breaks_supervisor in [false, true] {
        let log = SharedLog::in_memory().unwrap();
        let ran = Arc::new(Ran::default());
        let only = member(&log, 0, &ran, Candidacy::First).await;
        let mut entries = Vec::new();
        for _ in 0..50 {
            entries.push(only.enqueue(work(200)).await.unwrap());
        }
        until("they run", || ran.now.load(Ordering::SeqCst) > 10).await;
        let epoch = only.node().inspect().partition_views().unwrap()[0].epoch;
        only.node().break_replica(P, breaks_supervisor).unwrap();
        until("it leads again", || {
            only.node().inspect().partition_views().unwrap()[0].epoch > epoch
        })
        .await;
        until("it is open", || only.node().inspect().partition_views().unwrap()[0].open).await;
        only.enqueue(work(1)).await.unwrap();
        for entry in &entries {
            let ended = tokio::time::timeout(super::TIMEOUT, entry.result::<u64>()).await;
            ended.expect("its end is reported").unwrap();
        }
        assert_eq!(ran.now.load(Ordering::SeqCst), 0, "no earlier handler is left");
        only.shutdown(Drain::now()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_panics_too_often_stops_and_reports_why() {
    let log = SharedLog::in_memory().unwrap();
    let ran = Arc::new(Ran::default());
    let first = member(&log, 0, &ran, Candidacy::First).await;
    for _ in 0..4 {
        until("it leads", || role(&first) == "leader").await;
        let epoch = first.node().inspect().partition_views().unwrap()[0].epoch;
        first.node().break_replica(P, false).unwrap();
        let changed = || {
            let view = first.node().inspect().partition_views().unwrap()[0].clone();
            view.stopped.is_some() || view.epoch > epoch
        };
        until("it was rebuilt, or stopped", changed).await;
    }
    let view = first.node().inspect().partition_views().unwrap()[0].clone();
    assert!(view.stopped.is_some_and(|why| why.contains("panicked")), "{}", view.role);
    let error = first.enqueue(work(1)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Stopped, "clear at once: {error}");
    // Another candidate takes over without waiting for it.
    let second = member(&log, 1, &ran, Candidacy::First).await;
    assert_eq!(role(&second), "leader");
    second.enqueue(work(1)).await.unwrap().result::<u64>().await.unwrap();
    until("the first one is back, and follows", || role(&first) == "follower").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(role(&second), "leader", "it does not take over from the leader");
    first.shutdown(Drain::now()).await.unwrap();
    second.shutdown(Drain::now()).await.unwrap();
}
