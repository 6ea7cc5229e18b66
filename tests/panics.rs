//! Vqueue actors that die at random and refills that fail, while many entries run: no entry is lost
//! or handed out twice, and order and limits hold.
//!
//! Nothing else fails here, so the test can check *exactly once*: every handler runs once per
//! entry.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use forebay::{
    Drain, Entry, HandlerError, Limits, Runtime,
    testkit::{ActorFaults, FaultRates},
};

const ENTRIES: u32 = 8_000;
const ENTRIES_LONG: u32 = 200_000;
/// Vqueues with a lock, vqueues without one, and the one that gets most entries.
const KEYS: u32 = 40;
const SCOPES: u32 = 20;
const LIMIT: u32 = 3;
const BATCH: u32 = 250;
/// Faults of each kind that a run must have seen.
const FAULTS_MIN: u64 = 10;

/// What the handlers observed.
#[derive(Default)]
struct Observed {
    times: Vec<AtomicU32>,
    /// By scope: the number running.
    running: HashMap<String, AtomicUsize>,
    /// By key: the numbers in the order in which they started.
    by_key: Mutex<HashMap<String, Vec<u32>>>,
    overshoots: AtomicUsize,
}

fn entry(n: u32) -> Entry {
    let entry = Entry::to("work").payload(n.to_le_bytes().to_vec()).retention(Duration::ZERO);
    let scope = format!("s{}", n % SCOPES);
    match n % 4 {
        0 => entry.scope(&scope).key(&format!("k{}", n / 4 % KEYS)),
        1 => entry.scope(&scope),
        _ => entry.scope("big"),
    }
}

impl Observed {
    fn new(entries: u32) -> Arc<Self> {
        let scopes = (0..SCOPES).map(|n| format!("s{n}")).chain(["big".to_owned()]);
        Arc::new(Self {
            times: (0..entries).map(|_| AtomicU32::new(0)).collect(),
            running: scopes.map(|scope| (scope, AtomicUsize::new(0))).collect(),
            ..Self::default()
        })
    }

    async fn handle(&self, context: forebay::Context, payload: &[u8]) -> Result<(), HandlerError> {
        let n = u32::from_le_bytes(payload.try_into().unwrap());
        let name = context.vqueue();
        let running = &self.running[name.scope.as_deref().unwrap()];
        let before = running.fetch_add(1, Ordering::AcqRel);
        self.overshoots.fetch_add(usize::from(before >= LIMIT as usize), Ordering::AcqRel);
        self.times[n as usize].fetch_add(1, Ordering::AcqRel);
        if let Some(key) = &name.object_key {
            let lane = format!("{}/{key}", name.scope.as_deref().unwrap());
            self.by_key.lock().unwrap().entry(lane).or_default().push(n);
        }
        tokio::task::yield_now().await;
        running.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }
}

fn faults(seed: u64) -> Arc<ActorFaults> {
    let rates = FaultRates { vqueue_dies: 20, refill_blocks: 2, refill_fails: 5, worker_panics: 6 };
    Arc::new(ActorFaults::new(seed, rates))
}

async fn run(entries: u32, seed: u64) {
    let (observed, faults) = (Observed::new(entries), faults(seed));
    let dir = tempfile::tempdir().unwrap();
    let handler = Arc::clone(&observed);
    let runtime = Runtime::builder()
        .data_dir(dir.path())
        .partitions(2)
        // Few, so that vqueues are passivated and restarted all the time.
        .active_vqueues_max(8)
        .idle_vqueues_max(5)
        .actor_faults(Arc::clone(&faults))
        .handler("work", move |context, payload: bytes::Bytes| {
            let observed = Arc::clone(&handler);
            async move { observed.handle(context, &payload).await }
        })
        .start()
        .await
        .unwrap();
    runtime.rules().upsert("*", Limits::concurrency(LIMIT)).await.unwrap();
    let mut handles = Vec::new();
    for first in (0..entries).step_by(BATCH as usize) {
        let batch = (first..(first + BATCH).min(entries)).map(entry).collect();
        handles.extend(runtime.enqueue_batch(batch).await.unwrap());
    }
    let all_done = async {
        while observed.times.iter().any(|times| times.load(Ordering::Acquire) == 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let within = Duration::from_secs(60 + u64::from(entries) / 500);
    if tokio::time::timeout(within, all_done).await.is_err() {
        let lost = observed.times.iter().filter(|times| times.load(Ordering::Acquire) == 0).count();
        panic!("{lost} entries were never handed out; faults: {:?}, seed {seed}", faults.counts());
    }
    runtime.shutdown(Drain::within(Duration::from_secs(10))).await.unwrap();

    let twice = observed.times.iter().filter(|times| times.load(Ordering::Acquire) > 1).count();
    assert_eq!(twice, 0, "entries were handed out twice; seed {seed}");
    assert_eq!(observed.overshoots.load(Ordering::Acquire), 0, "more ran than the rule allows");
    for (lane, numbers) in &*observed.by_key.lock().unwrap() {
        assert!(numbers.is_sorted(), "{lane} ran out of order: {numbers:?}; seed {seed}");
    }
    let counts = faults.counts();
    assert!(counts.iter().all(|count| *count >= FAULTS_MIN), "too few faults: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_deaths_of_vqueue_actors_lose_and_duplicate_nothing() {
    let is_long = std::env::var_os("FOREBAY_TEST_LONG").is_some_and(|value| value == "1");
    if is_long {
        for seed in 1..=20 {
            run(ENTRIES, seed).await;
        }
        run(ENTRIES_LONG, 21).await;
    } else {
        run(ENTRIES, 1).await;
    }
}
