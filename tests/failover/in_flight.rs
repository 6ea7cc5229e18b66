//! A change of leaders while a hundred thousand entries run and others start and end: how soon the
//! new leader starts entries, and that all callers are answered.
//!
//! A hundred thousand entries and one second are for optimized builds; others run a hundredth and
//! have ten seconds. Log and rows are on disk. `make bench-failover` prints the times.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use forebay::{
    Candidacy, Context, Drain, Entry, ErrorKind, HandlerError, Json, Limits, Runtime, SharedLog,
    TrimLog,
};
use tokio::{sync::watch, task::JoinSet};

use super::{P, same_rows, until};

/// Entries whose handlers run when the leader changes.
const RUNNING: usize = if cfg!(debug_assertions) { 1_000 } else { 100_000 };
/// Entries that wait behind them for a limit.
const WAITING: usize = RUNNING / 10;
/// Maximum time until the new leader starts an entry and callers of the old one are answered.
const BOUND: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
/// How long the old leader has been silent when the other replica is asked to lead.
const STANDSTILL: Duration = Duration::from_millis(50);
/// Clients that enqueue short entries and wait for their ends, one after the other.
const CLIENTS: usize = 16;
/// Entries stored at a time.
const BATCH: usize = 100;
/// Scopes that the entries are spread over; one in ten also has its own key.
const SCOPES: usize = 100;

/// What happens to the leader before another one is asked to lead.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Nothing: it is fenced in the middle of its work.
    Lives,
    /// It can no longer reach the log, and receives nothing from it.
    CutOff,
    /// Its threads are paused.
    Paused,
}

/// Observations of the handlers of both runtimes.
struct Observed {
    running: AtomicUsize,
    /// Handlers started by the second runtime.
    started: AtomicUsize,
    first_start: watch::Sender<Option<Instant>>,
    /// Long entries end once this is set.
    may_end: watch::Sender<bool>,
}

async fn member(
    log: &SharedLog,
    dir: &std::path::Path,
    is_second: bool,
    observed: &Arc<Observed>,
) -> Runtime {
    let long = Arc::clone(observed);
    let short = Arc::clone(observed);
    let started = move |observed: &Observed| {
        if is_second && observed.started.fetch_add(1, Ordering::SeqCst) == 0 {
            observed.first_start.send_replace(Some(Instant::now()));
        }
    };
    Runtime::builder()
        .shared_log(log)
        .data_dir(dir)
        .partitions(1)
        .candidacy(if is_second { Candidacy::Never } else { Candidacy::First })
        .handler("long", move |_: Context, Json(n): Json<usize>| {
            let observed = Arc::clone(&long);
            async move {
                started(&observed);
                observed.running.fetch_add(1, Ordering::SeqCst);
                let mut may_end = observed.may_end.subscribe();
                // An error means that the test is over.
                let _ = may_end.wait_for(|may| *may).await;
                Ok::<_, HandlerError>(Json(n))
            }
        })
        .handler("short", move |_: Context, Json(n): Json<usize>| {
            let observed = Arc::clone(&short);
            async move {
                started(&observed);
                Ok::<_, HandlerError>(Json(n))
            }
        })
        .start()
        .await
        .unwrap()
}

fn long(n: usize) -> Entry {
    let entry = Entry::to("long").scope(&format!("tenant-{}", n % SCOPES)).json(&n).unwrap();
    if n.is_multiple_of(10) { entry.key(&format!("key-{n}")) } else { entry }
}

/// Enqueues short entries, one after the other, until `stop` is set; returns the longest wait for
/// an answer.
async fn client(runtime: Runtime, number: usize, stop: Arc<AtomicBool>) -> Duration {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::SeqCst) {
        let asked = Instant::now();
        let entry = Entry::to("short").scope("clients").json(&number).unwrap();
        let stored = runtime.enqueue(entry).await;
        longest = longest.max(asked.elapsed());
        match stored {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::Retry | ErrorKind::Unknown) => {}
            Err(error) => panic!("{error}"),
        }
    }
    longest
}

#[expect(clippy::too_many_lines, reason = "one scenario in its order")]
async fn takes_over(fate: Fate) {
    let dir = tempfile::tempdir().unwrap();
    let log = SharedLog::open(dir.path().join("log"), TrimLog::Flushed).unwrap();
    let observed = Arc::new(Observed {
        running: AtomicUsize::new(0),
        started: AtomicUsize::new(0),
        first_start: watch::Sender::new(None),
        may_end: watch::Sender::new(false),
    });
    let first = member(&log, &dir.path().join("1"), false, &observed).await;
    let second = member(&log, &dir.path().join("2"), true, &observed).await;
    let most = u32::try_from(RUNNING / SCOPES).unwrap();
    first.rules().upsert("*", Limits::concurrency(most)).await.unwrap();
    let mut entries = Vec::new();
    for batch in 0..(RUNNING + WAITING) / BATCH {
        let batch = (0..BATCH).map(|n| long(BATCH * batch + n)).collect();
        entries.extend(first.enqueue_batch(batch).await.unwrap());
    }
    until("they are running", || observed.running.load(Ordering::SeqCst) == RUNNING).await;
    until("the other one has applied it", || same_rows(&first, &second)).await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(first.clone(), number, Arc::clone(&stop)));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asleep = match fate {
        Fate::Lives => None,
        Fate::CutOff => {
            log.cut_off(first.node().id());
            None
        }
        Fate::Paused => Some(first.node().pause_threads()),
    };
    tokio::time::sleep(STANDSTILL).await;

    let begun = Instant::now();
    let mut first_start = observed.first_start.subscribe();
    second.partitions().lead(P).await.unwrap();
    let leads = begun.elapsed();
    let starts = first_start.wait_for(Option::is_some).await.unwrap().unwrap() - begun;
    crate::place::say(&format!("{fate:?}: leads after {leads:?}, starts entries after {starts:?}"));
    assert!(starts < BOUND, "it starts entries after {starts:?}");
    stop.store(true, Ordering::SeqCst);
    drop(asleep);
    let mut longest = Duration::ZERO;
    while let Some(waited) = clients.join_next().await {
        longest = longest.max(waited.unwrap());
    }
    crate::place::say(&format!("{fate:?}: no client waited for longer than {longest:?}"));
    assert!(longest < BOUND + STANDSTILL, "a client waited for {longest:?}");
    observed.may_end.send_replace(true);
    let after = Instant::now();
    for (n, entry) in entries.iter().enumerate() {
        let entry = second.attach(entry.id());
        let ended = tokio::time::timeout(super::TIMEOUT, entry.result::<usize>()).await;
        assert_eq!(ended.expect("its end is reported").unwrap(), n);
    }
    crate::place::say(&format!("{fate:?}: all have ended after {:?}", after.elapsed()));
    if fate != Fate::CutOff {
        until("equal replicas: its late actions changed nothing", || same_rows(&first, &second))
            .await;
    }
    first.shutdown(Drain::now()).await.unwrap();
    second.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_fenced_with_everything_in_flight_is_replaced_at_once() {
    takes_over(Fate::Lives).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_with_everything_in_flight_is_replaced_at_once() {
    takes_over(Fate::CutOff).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_paused_with_everything_in_flight_is_replaced_at_once() {
    takes_over(Fate::Paused).await;
}
