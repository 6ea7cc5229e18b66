//! Many handlers started together: each runs once, each end is reported once, none delays others,
//! and aborted ones do not start.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use forebay_messages::{
    Epoch, PartitionKey, Run, VQueueName,
    command::SuspendAttempt,
    journal::{JournalKind, KeyParts},
};
use tokio::sync::Notify;

use super::*;

/// How long some handlers keep their threads.
const LONG: Duration = Duration::from_millis(200);

/// A handler that follows its payload.
struct Script {
    calls: AtomicUsize,
    go: Arc<Notify>,
    /// Number of handlers that block their threads, and its maximum.
    blocking: Arc<(AtomicUsize, AtomicUsize)>,
    /// Where two handlers wait for each other without yielding.
    meets: Arc<std::sync::Barrier>,
}

impl Handler for Arc<Script> {
    fn call(&self, _: AttemptContext, payload: Bytes) -> HandlerFuture {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let (go, blocking) = (Arc::clone(&self.go), Arc::clone(&self.blocking));
        let meets = Arc::clone(&self.meets);
        Box::pin(async move {
            match &payload[..] {
                b"wait" => go.notified().await,
                b"block" => {
                    let now = blocking.0.fetch_add(1, Ordering::SeqCst) + 1;
                    blocking.1.fetch_max(now, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(20));
                    blocking.0.fetch_sub(1, Ordering::SeqCst);
                }
                b"meet" => drop(meets.wait()),
                b"long" => std::thread::sleep(LONG),
                b"hand over" => tokio::task::block_in_place(|| std::thread::sleep(LONG)),
                b"sleep" => tokio::time::sleep(Duration::from_millis(1)).await,
                b"panic" => panic!("as asked"),
                _ => {}
            }
            AttemptEnd::Success(payload)
        })
    }
}

/// Reported ends of attempts, by number.
type Reports = Arc<Mutex<Vec<(u64, Option<AttemptEnd>)>>>;

struct Bench {
    script: Arc<Script>,
    executor: Executor,
    /// `None`: the attempt was stopped.
    reports: Reports,
    reply_to: Ref<PartitionInput>,
}

impl Bench {
    fn new() -> Self {
        let script = Arc::new(Script {
            calls: AtomicUsize::default(),
            go: Arc::default(),
            blocking: Arc::default(),
            meets: Arc::new(std::sync::Barrier::new(2)),
        });
        let handler: Arc<dyn Handler> = Arc::new(Arc::clone(&script));
        let handlers = HashMap::from([("work".to_owned(), handler)]);
        let runtime = tokio::runtime::Handle::current();
        let executor = Executor::new(runtime, handlers, || 0);
        let reports = Reports::default();
        let received = Arc::clone(&reports);
        let reply_to = Ref::new(move |input| {
            let reports = match input {
                PartitionInput::Ended { token, ended, .. } => (token.seq, Some(ended)),
                PartitionInput::Stopped { token } => (token.seq, None),
                _ => return false,
            };
            received.lock().unwrap().push(reports);
            true
        });
        Self { script, executor, reports, reply_to }
    }

    fn run_many(&self, payloads: &[&'static str]) {
        let run = |(number, payload): (usize, &&'static str)| {
            let run = attempt_of(number, number, VQueueName::service("work"));
            (run, Bytes::from_static(payload.as_bytes()))
        };
        let runs = payloads.iter().enumerate().map(run).collect();
        self.executor.run_many(runs, &self.reply_to);
    }

    /// Another attempt of an entry.
    fn run(&self, number: usize, of: usize, name: VQueueName, payload: &'static str) {
        let payload = Bytes::from_static(payload.as_bytes());
        self.executor.run(attempt_of(number, of, name), payload, self.reply_to.clone());
    }

    /// Attempts that ended, by number, and how many succeeded.
    fn ends(&self) -> (Vec<u64>, usize) {
        let reports = self.reports.lock().unwrap();
        let ended = reports.iter().filter(|(_, ended)| ended.is_some());
        let mut numbers: Vec<_> = ended.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        let well =
            reports.iter().filter(|(_, ended)| matches!(ended, Some(AttemptEnd::Success(_))));
        (numbers, well.count())
    }

    /// Attempts that were stopped, in order.
    fn stops(&self) -> Vec<u64> {
        let reports = self.reports.lock().unwrap();
        reports.iter().filter(|(_, ended)| ended.is_none()).map(|(number, _)| *number).collect()
    }

    fn calls(&self) -> usize {
        self.script.calls.load(Ordering::SeqCst)
    }
}

fn attempt_of(number: usize, of: usize, name: VQueueName) -> RunAttempt {
    RunAttempt {
        entry: entry(of),
        name: Arc::new(name),
        token: token(number),
        attempt: 1,
        last_failure: ByteString::new(),
        attempts_max: 1,
        interrupted: 0,
        decided_at: Timestamp::default(),
        journal: None,
    }
}

async fn until(what: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !what() {
        assert!(started.elapsed() < Duration::from_secs(20), "it never comes");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn entry(number: usize) -> EntryId {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&(number as u64).to_be_bytes());
    EntryId { partition_key: PartitionKey(number as u64), uuid }
}

fn token(number: usize) -> AttemptToken {
    AttemptToken { epoch: Epoch(1), seq: number as u64 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_many_run_once_and_are_reported_once() {
    let bench = Bench::new();
    let payloads: Vec<_> = (0..100)
        .map(|number| match number % 10 {
            3 => "wait",
            5 => "panic",
            7 if number < 30 => "block",
            _ => "",
        })
        .collect();
    bench.run_many(&payloads);
    // The end is reported after the attempt is removed.
    until(|| bench.ends().0.len() == 90).await;
    let (numbers, _) = bench.ends();
    let waits = |number: &u64| number % 10 == 3;
    assert_eq!(numbers, (0..100).filter(|number| !waits(number)).collect::<Vec<_>>());
    // All are polled by now, and may use their permits.
    while bench.executor.running() > 0 {
        bench.script.go.notify_waiters();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.executor.idle().await;
    assert_eq!(bench.ends(), ((0..100).collect(), 90));
    assert_eq!(bench.script.calls.load(Ordering::SeqCst), 100);
}

#[tokio::test]
async fn an_attempt_aborted_before_its_start_is_never_called() {
    let bench = Bench::new();
    // One thread: nothing runs before this test waits.
    bench.run_many(&["", "", ""]);
    bench.executor.abort(entry(1), token(1));
    bench.executor.idle().await;
    assert_eq!((bench.ends(), bench.stops()), ((vec![0, 2], 2), vec![1]));
    assert_eq!(bench.calls(), 2);
}

#[tokio::test]
async fn a_waiting_attempt_can_be_aborted() {
    let bench = Bench::new();
    bench.run_many(&["wait", "", "wait"]);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(bench.executor.running(), 2);
    bench.executor.abort(entry(0), token(0));
    bench.executor.abort(entry(2), token(7));
    until(|| bench.executor.running() == 1).await;
    assert_eq!(bench.stops(), [0], "another attempt is not meant");
    bench.script.go.notify_waiters();
    bench.executor.idle().await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!((bench.ends(), bench.stops()), ((vec![1, 2], 2), vec![0]));
    assert_eq!(Arc::strong_count(&bench.script.go), 1, "its future was dropped");
}

/// Attempts behind one that blocks its thread get their own tasks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_block_do_not_queue_behind_each_other() {
    let bench = Bench::new();
    bench.run_many(&["block"; 21]);
    bench.executor.idle().await;
    assert_eq!(bench.script.blocking.1.load(Ordering::SeqCst), 2, "threads that work at once");
    assert_eq!(bench.ends().1, 21);
}

/// Regression: one task polled them one after the other, and they never ended.
#[test]
fn two_that_start_together_may_wait_for_each_other() {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    for round in 0..50 {
        for payloads in [&["meet", "meet"][..], &["", "meet", "sleep", "meet", "", ""]] {
            let bench = tokio.block_on(async { Bench::new() });
            bench.run_many(payloads);
            let idle = async { tokio::time::timeout(20 * LONG, bench.executor.idle()).await };
            assert!(tokio.block_on(idle).is_ok(), "they hang, round {round}");
            assert_eq!(bench.ends().1, payloads.len());
        }
    }
}

/// Regression: attempts behind it waited for it, including ones that had been polled before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_handler_delays_none_while_a_thread_is_free() {
    for blocks in ["long", "hand over"] {
        for place in [0, 1, 15, 31] {
            let bench = Bench::new();
            let mut payloads = ["sleep"; 32];
            payloads[place] = blocks;
            payloads[(place + 9) % 32] = "";
            let begun = std::time::Instant::now();
            bench.run_many(&payloads);
            while bench.ends().1 < 31 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(begun.elapsed() < LONG / 2, "{blocks} at {place}: {:?}", begun.elapsed());
            bench.executor.idle().await;
            assert_eq!(bench.ends().1, 32);
        }
    }
}

/// All threads but one may be blocked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn as_many_as_there_are_threads_start_at_once() {
    let bench = Bench::new();
    bench.run_many(&["long"; 4]);
    tokio::time::timeout(LONG * 3 / 2, bench.executor.idle()).await.expect("at the same time");
    assert_eq!(bench.ends().1, 4);
}

/// Regression: the abort forgot it, which freed its slot and its lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_keeps_its_thread_has_not_stopped() {
    let bench = Bench::new();
    bench.run_many(&["long"]);
    until(|| bench.calls() == 1).await;
    let begun = std::time::Instant::now();
    bench.executor.abort_all();
    bench.executor.abort(entry(0), token(0));
    assert_eq!((bench.executor.running(), bench.stops()), (1, vec![]));
    bench.executor.idle().await;
    assert!(begun.elapsed() > LONG / 2, "{:?}", begun.elapsed());
    assert_eq!((bench.ends().0, bench.stops()), (vec![], vec![0]), "reported once");
}

/// No attempt of an entry or key starts while an aborted one has not stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_attempt_of_an_entry_or_key_waits_until_the_last_has_stopped() {
    let key = VQueueName { object_key: Some("k".into()), ..VQueueName::service("work") };
    let service = VQueueName::service("work");
    for (name, other) in [(&key, 8), (&service, 7)] {
        let bench = Bench::new();
        bench.run(1, 7, name.clone(), "long");
        until(|| bench.calls() == 1).await;
        bench.executor.abort(entry(7), token(1));
        // In the same partition, as all entries of a key are.
        let mut next = attempt_of(2, other, name.clone());
        next.entry.partition_key = entry(7).partition_key;
        bench.executor.run(next.clone(), Bytes::new(), bench.reply_to.clone());
        let mut third = next.clone();
        third.token = token(3);
        bench.executor.run_many(vec![(third, Bytes::new())], &bench.reply_to);
        bench.run(4, 9, service.clone(), "");
        until(|| bench.ends().0 == [4]).await;
        assert_eq!(bench.calls(), 2, "others do not wait");
        assert_eq!(bench.executor.shared.unstarted(), 0, "attempts that may not start are dropped");
        // A waiting attempt can be aborted, too.
        bench.executor.abort(next.entry, token(2));
        until(|| bench.stops() == [2]).await;
        assert_eq!(bench.calls(), 2);
        bench.executor.idle().await;
        assert_eq!((bench.ends().0, bench.stops()), (vec![3, 4], vec![2, 1]));
    }
}

#[test]
fn handlers_dropped_with_their_runtime_are_reported() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let bench = tokio.block_on(async { Bench::new() });
    bench.run_many(&["wait", "wait"]);
    let started = std::time::Instant::now();
    while bench.calls() < 2 && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(tokio);
    bench.run_many(&["wait"]);
    let mut stops = bench.stops();
    stops.sort_unstable();
    assert_eq!((stops, bench.executor.running()), (vec![0, 0, 1], 0));
}

/// The notifications of an attempt, by the number of the key's name.
#[derive(Default)]
struct Received(Mutex<Vec<u32>>);

impl Listen for Received {
    fn tell(&self, news: AttemptNews) {
        let AttemptNews::WriteRefused { key, .. } = news else { panic!("not refused: {news:?}") };
        self.0.lock().unwrap().push(key.parts().occurrence);
    }
}

#[tokio::test]
async fn an_attempt_gets_all_notifications_of_its_journal_in_order() {
    let bench = Bench::new();
    bench.run_many(&["wait"]);
    let tell = |number| {
        let key = KeyParts::named("a", number).key().unwrap();
        bench.executor.tell(
            entry(0),
            token(0),
            AttemptNews::WriteRefused { key, found: JournalKind::Step },
        );
    };
    tell(0);
    tell(1);
    let received = Arc::<Received>::default();
    bench.executor.journals().listen(entry(0), token(0), Arc::clone(&received) as Arc<dyn Listen>);
    tell(2);
    assert_eq!(*received.0.lock().unwrap(), [0, 1, 2]);
    bench.executor.abort(entry(0), token(0));
    bench.executor.idle().await;
    tell(3);
    assert_eq!(received.0.lock().unwrap().len(), 3, "it is gone");
}

#[tokio::test]
async fn an_aborted_attempt_writes_nothing() {
    let bench = Bench::new();
    let written = Arc::new(AtomicUsize::default());
    let counted = Arc::clone(&written);
    let reply_to = Ref::new(move |input| {
        let is_write = matches!(input, PartitionInput::Journal { .. } | PartitionInput::Suspend(_));
        counted.fetch_add(usize::from(is_write), Ordering::SeqCst);
        true
    });
    let attempt = attempt_of(0, 0, VQueueName::service("work"));
    bench.executor.run(attempt, Bytes::from_static(b"wait"), reply_to);
    let journals = bench.executor.journals();
    let ask = || {
        journals.write((entry(0), token(0)), Run::default(), Vec::new());
        journals.suspend(SuspendAttempt { entry: entry(0), token: token(0), ..Default::default() });
    };
    ask();
    assert_eq!(written.load(Ordering::SeqCst), 2);
    bench.executor.abort(entry(0), token(0));
    ask();
    bench.executor.idle().await;
    ask();
    assert_eq!(written.load(Ordering::SeqCst), 2);
}
