//! Leaders that are deposed without noticing it: paused, cut off from the log, fenced in the middle
//! of their work. Their late actions have no effect; waiting callers are answered.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use forebay::{
    Candidacy, Drain, Entry, ErrorKind, Limits, Runtime, SharedLog, TrimLog,
    testkit::{FaultLog, LogFault, MemoryLog, MemoryMetadata},
};

use super::{P, Ran, member, role, same_rows, until, work};

/// Returns when ten entries run on `first` and many wait.
async fn busy(first: &Runtime, ran: &Ran) -> Vec<forebay::EntryHandle> {
    first.rules().upsert("tenant-a", Limits::concurrency(10)).await.unwrap();
    let entries = first.enqueue_batch((0..100).map(|_| work(50)).collect()).await.unwrap();
    until("ten run", || ran.most.load(Ordering::SeqCst) == 10).await;
    entries
}

async fn all_end(entries: &[forebay::EntryHandle]) {
    for entry in entries {
        let ended = tokio::time::timeout(super::TIMEOUT, entry.result::<u64>()).await;
        ended.expect("its end is reported").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_changes_nothing_when_it_wakes() {
    let log = SharedLog::in_memory().unwrap();
    let ran = Arc::new(Ran::default());
    let first = member(&log, 0, &ran, Candidacy::First).await;
    let second = member(&log, 1, &ran, Candidacy::Standby).await;
    let entries = busy(&first, &ran).await;
    let asleep = first.node().pause_threads();
    // Its handlers continue and end; their ends wait in its mailbox.
    let begun = Instant::now();
    until("the other one has noticed", || role(&second) == "leader").await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    second.enqueue(work(1)).await.unwrap();
    // Waits in the mailbox of the suspended leader, as does its client.
    let waits = tokio::spawn({
        let second = second.clone();
        async move { second.enqueue(work(1)).await }
    });
    drop(asleep);
    until("it has noticed", || role(&first) == "follower").await;
    waits.await.unwrap().unwrap();
    all_end(&entries).await;
    until("equal replicas", || same_rows(&first, &second)).await;
    first.shutdown(Drain::now()).await.unwrap();
    second.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_answers_its_callers_and_changes_nothing() {
    let log = SharedLog::in_memory().unwrap();
    let ran = Arc::new(Ran::default());
    let first = member(&log, 0, &ran, Candidacy::First).await;
    let second = member(&log, 1, &ran, Candidacy::Never).await;
    let entries = busy(&first, &ran).await;
    log.cut_off(first.node().id());
    let entry = work(1).uuid([7; 16]);
    let waits = tokio::spawn({
        let (first, entry) = (first.clone(), entry.clone());
        async move { first.enqueue(entry).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waits.is_finished(), "its record goes nowhere");
    second.partitions().lead(P).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), waits).await.unwrap().unwrap();
    let error = answer.expect_err("it went nowhere");
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    // The outcome was unknown: the same id may be enqueued again.
    assert!(!second.enqueue(entry.clone()).await.unwrap().was_existing());
    assert!(second.enqueue(entry).await.unwrap().was_existing());
    for id in entries.iter().map(forebay::EntryHandle::id) {
        let entry = second.attach(id);
        let ended = tokio::time::timeout(super::TIMEOUT, entry.outcome()).await;
        ended.expect("its end is reported").unwrap();
    }
    first.shutdown(Drain::now()).await.unwrap();
    second.shutdown(Drain::now()).await.unwrap();
}

/// The fence comes between the hand-over of decisions (or the end of handlers) and their records:
/// the log refuses the records, and every client is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_fenced_in_the_middle_runs_again_and_loses_nothing() {
    for nth in [1, 2, 3, 5, 8] {
        let inner = Arc::new(FaultLog::new(MemoryLog::new()));
        let metadata = Arc::new(MemoryMetadata::new());
        let log = SharedLog::over(inner.clone(), metadata, TrimLog::Flushed).unwrap();
        let ran = Arc::new(Ran::default());
        let only = member(&log, 0, &ran, Candidacy::First).await;
        let entries = busy(&only, &ran).await;
        let epoch = only.node().inspect().partition_views().unwrap()[0].epoch;
        // A rival fences it and dies before announcing itself.
        inner.plan(nth, LogFault::Fence(forebay_messages::Epoch(epoch + 1)));
        let mut unknown = Vec::new();
        until("the fence was met", || inner.planned() == 0).await;
        for n in 0..20_u8 {
            let entry: Entry = work(1).uuid([n; 16]);
            match only.enqueue(entry.clone()).await {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Retry | ErrorKind::Unknown) => {
                    unknown.push(entry);
                }
                Err(error) => panic!("{error}"),
            }
        }
        for entry in unknown {
            only.enqueue(entry).await.unwrap().result::<u64>().await.unwrap();
        }
        all_end(&entries).await;
        let after = only.node().inspect().partition_views().unwrap()[0].clone();
        assert!(after.role == forebay::ReplicaRole::Leader && after.epoch > epoch + 1, "{after:?}");
        only.shutdown(Drain::now()).await.unwrap();
    }
}

/// Waiting and running entries when another replica is asked to lead.
const WAITING: usize = 100_000;
const RUNNING: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_continues_at_once_with_a_hundred_thousand_entries_in_flight() {
    let log = SharedLog::in_memory().unwrap();
    let ran = Arc::new(Ran::default());
    let first = member(&log, 0, &ran, Candidacy::First).await;
    let second = member(&log, 1, &ran, Candidacy::Never).await;
    let limit = Limits::concurrency(u32::try_from(RUNNING).unwrap());
    first.rules().upsert("tenant-a", limit).await.unwrap();
    for _ in 0..WAITING / 10_000 {
        first.enqueue_batch((0..10_000).map(|_| work(600_000)).collect()).await.unwrap();
    }
    until("they run", || ran.by[0].load(Ordering::SeqCst) == RUNNING).await;
    until("the other one has applied it", || same_rows(&first, &second)).await;
    let begun = Instant::now();
    second.partitions().lead(P).await.unwrap();
    let leads = begun.elapsed();
    until("it starts entries", || ran.by[1].load(Ordering::SeqCst) > 0).await;
    let starts = begun.elapsed();
    crate::place::say(&format!("leads after {leads:?}, starts entries after {starts:?}"));
    let bound = if cfg!(debug_assertions) { 10 } else { 1 };
    assert!(starts < Duration::from_secs(bound), "it starts entries after {starts:?}");
    first.shutdown(Drain::now()).await.unwrap();
    second.shutdown(Drain::now()).await.unwrap();
}
