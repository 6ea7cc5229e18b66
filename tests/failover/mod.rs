//! Several runtimes over one log in this process: which one leads, what followers do, and what
//! happens to waiting callers when the leader changes.

mod in_flight;
mod late;
mod on_disk;
mod panic;
mod table;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use forebay::{
    Candidacy, Context, Drain, Entry, HandlerError, Json, Limits, PartitionId, Runtime,
    RuntimeError, SharedLog,
};

const P: PartitionId = PartitionId(0);
const TIMEOUT: Duration = Duration::from_secs(20);

/// How many entries each runtime ran, and how many ran at once over all of them.
#[derive(Default)]
struct Ran {
    by: [AtomicUsize; 3],
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A runtime of one partition over a shared log, whose handler takes some milliseconds.
async fn member(log: &SharedLog, index: usize, ran: &Arc<Ran>, candidacy: Candidacy) -> Runtime {
    member_on(log, None, index, ran, candidacy).await.unwrap()
}

/// The same, with its rows in a directory (or in memory).
async fn member_on(
    log: &SharedLog,
    rows: Option<&Path>,
    index: usize,
    ran: &Arc<Ran>,
    candidacy: Candidacy,
) -> Result<Runtime, RuntimeError> {
    let ran = Arc::clone(ran);
    let builder = Runtime::builder().shared_log(log);
    let builder = match rows {
        Some(rows) => builder.data_dir(rows),
        None => builder.in_memory(),
    };
    builder
        .partitions(1)
        .candidacy(candidacy)
        .handler("work", move |_: Context, Json(millis): Json<u64>| {
            let ran = Arc::clone(&ran);
            async move {
                ran.by[index].fetch_add(1, Ordering::SeqCst);
                let now = ran.now.fetch_add(1, Ordering::SeqCst) + 1;
                ran.most.fetch_max(now, Ordering::SeqCst);
                let guard = Leaves(ran);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                drop(guard);
                Ok::<_, HandlerError>(Json(millis))
            }
        })
        .start()
        .await
}

/// Counts a handler out when it ends or is dropped.
struct Leaves(Arc<Ran>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

fn work(millis: u64) -> Entry {
    Entry::to("work").scope("tenant-a").json(&millis).unwrap()
}

fn role(runtime: &Runtime) -> String {
    runtime.node().inspect().partition_views().unwrap()[0].role.to_string()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < TIMEOUT, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn same_rows(a: &Runtime, b: &Runtime) -> bool {
    a.node().inspect().digest(P).unwrap() == b.node().inspect().digest(P).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_applies_and_forwards_but_runs_nothing() {
    let log = SharedLog::in_memory().unwrap();
    let ran = Arc::new(Ran::default());
    let leader = member(&log, 0, &ran, Candidacy::First).await;
    let follower = member(&log, 1, &ran, Candidacy::First).await;
    assert_eq!((role(&leader), role(&follower)), ("leader".to_owned(), "follower".to_owned()));
    let mut entries = Vec::new();
    for n in 0..200 {
        let runtime = [&leader, &follower][n % 2];
        entries.push(runtime.enqueue(work(n as u64 % 3)).await.unwrap());
    }
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(entry.result::<u64>().await.unwrap(), n as u64 % 3);
    }
    assert_eq!(ran.by[0].load(Ordering::SeqCst), 200);
    assert_eq!(ran.by[1].load(Ordering::SeqCst), 0, "a follower dispatches nothing");
    until("the follower has applied what the leader has", || same_rows(&leader, &follower)).await;
    follower.shutdown(Drain::now()).await.unwrap();
    leader.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_asked_to_lead_takes_over_with_the_limits_in_force() {
    let log = SharedLog::in_memory().unwrap();
    let ran = Arc::new(Ran::default());
    let first = member(&log, 0, &ran, Candidacy::First).await;
    let second = member(&log, 1, &ran, Candidacy::Never).await;
    first.rules().upsert("tenant-a", Limits::concurrency(3)).await.unwrap();
    let mut entries = Vec::new();
    // Enough that the first one is not done before it is deposed, even if that is late.
    for _ in 0..900 {
        entries.push(first.enqueue(work(3)).await.unwrap());
    }
    until("it is running", || ran.by[0].load(Ordering::SeqCst) > 20).await;
    second.partitions().lead(P).await.unwrap();
    assert_eq!(role(&second), "leader");
    until("the first one has noticed", || role(&first) == "follower").await;
    // Through the deposed one.
    entries.push(first.enqueue(work(3)).await.unwrap());
    for entry in &entries {
        entry.result::<u64>().await.unwrap();
    }
    assert!(ran.by[1].load(Ordering::SeqCst) > 50, "the second one ran the rest");
    assert!(ran.most.load(Ordering::SeqCst) <= 3 + 3, "3 each; a deposed one's may still run");
    until("equal replicas", || same_rows(&first, &second)).await;
    second.shutdown(Drain::now()).await.unwrap();
    first.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_after_a_clean_exit_or_a_crash() {
    let log = SharedLog::in_memory().unwrap();
    let ran = Arc::new(Ran::default());
    let first = member(&log, 0, &ran, Candidacy::First).await;
    let second = member(&log, 1, &ran, Candidacy::Standby).await;
    let third = member(&log, 2, &ran, Candidacy::Standby).await;
    let slow = third.enqueue(work(60_000)).await.unwrap();
    until("it runs on the first", || ran.by[0].load(Ordering::SeqCst) == 1).await;
    // As in a crash: without notice.
    drop(first);
    until("one of the others leads", || [&second, &third].iter().any(|r| role(r) == "leader"))
        .await;
    until("it runs again", || ran.now.load(Ordering::SeqCst) == 1).await;
    let (leads, follows) =
        if role(&second) == "leader" { (second, third) } else { (third, second) };
    assert_eq!(role(&follows), "follower");
    leads.shutdown(Drain::now()).await.unwrap();
    until("the last one leads", || role(&follows) == "leader").await;
    follows.enqueue(work(1)).await.unwrap().result::<u64>().await.unwrap();
    assert!(!slow.was_existing());
    follows.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stepping_down_lets_running_entries_end_and_starts_nothing_new() {
    let log = SharedLog::in_memory().unwrap();
    let ran = Arc::new(Ran::default());
    let first = member(&log, 0, &ran, Candidacy::First).await;
    first.rules().upsert("tenant-a", Limits::concurrency(2)).await.unwrap();
    let mut entries = Vec::new();
    for _ in 0..10 {
        entries.push(first.enqueue(work(300)).await.unwrap());
    }
    until("two run", || ran.now.load(Ordering::SeqCst) == 2).await;
    first.partitions().step_down(P, TIMEOUT).await.unwrap();
    assert_eq!(role(&first), "follower");
    assert_eq!(ran.by[0].load(Ordering::SeqCst), 2, "nothing new started");
    let ended = first.node().inspect().partition_views().unwrap()[0].finished;
    assert_eq!(ended, 2, "running entries have ended");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(role(&first), "follower", "it does not run again on its own");
    first.partitions().lead(P).await.unwrap();
    for entry in &entries {
        entry.result::<u64>().await.unwrap();
    }
    assert_eq!(ran.by[0].load(Ordering::SeqCst), 10, "each ran once");
    first.shutdown(Drain::now()).await.unwrap();
}
