//! The process that is killed: this test binary again, running one test that does nothing unless
//! given a directory.
//!
//! It writes one trace, each line with one `O_APPEND` write:
//! `run N`, `acked N SCOPE KEY ID`, `start N SCOPE KEY`, `end N SCOPE KEY`,
//! `snapshot NAME`, and in the last run `outcome N HOW`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay::{
    ActError, Context, Drain, Entry, EntryId, FailureKind, HandlerError, Json, Limits, Outcome,
    Runtime, TrimLog,
};
use tokio::task::JoinSet;

/// Name of the test below in the test harness.
pub(super) const TEST: &str = "crash::embedded::child::killed_process";
/// Its directory; without it the test does nothing.
pub(super) const DIRECTORY: &str = "FOREBAY_CRASH_DIRECTORY";
/// Number of the run, from 1.
pub(super) const RUN: &str = "FOREBAY_CRASH_RUN";
/// Set for the last run, which ends everything instead of being killed.
pub(super) const IS_LAST: &str = "FOREBAY_CRASH_LAST";

/// Tasks that enqueue, each for its own keys.
const ENQUEUERS: u64 = 8;
const KEYS_EACH: u64 = 4;
/// Maximum limit of a scope.
pub(super) const LIMIT_MAX: u32 = 3;
/// Entries of this scope are sometimes canceled.
pub(super) const DOOMED: &str = "doomed";

#[derive(Clone)]
struct Trace(Arc<File>);

impl Trace {
    fn open(directory: &Path) -> Self {
        let path = directory.join("trace");
        Self(Arc::new(File::options().create(true).append(true).open(path).unwrap()))
    }

    /// One write: lines of a killed process are whole or missing.
    fn write_line(&self, line: &str) {
        (&*self.0).write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Job {
    n: u64,
    scope: String,
    key: String,
}

#[test]
fn killed_process() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (run, is_last) = (number(RUN), number(IS_LAST) == 1);
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    tokio.unwrap().block_on(live(directory, run, is_last));
}

async fn live(directory: PathBuf, run: u64, is_last: bool) {
    let trace = Trace::open(&directory);
    let acked = acked(&directory);
    trace.write_line(&format!("run {run}"));
    let trace_file = trace.clone();
    let runtime = Runtime::builder()
        .data_dir(directory.join("data"))
        .partitions(2)
        .trim_log(TrimLog::Never)
        .handler("step", move |_: Context, Json(job): Json<Job>| {
            let trace_file = trace_file.clone();
            async move {
                let Job { n, scope, key } = job;
                trace_file.write_line(&format!("start {n} {scope} {key}"));
                let end = Ends { trace_file, line: format!("end {n} {scope} {key}") };
                tokio::time::sleep(Duration::from_millis(n % 4)).await;
                drop(end);
                Ok::<_, HandlerError>(())
            }
        })
        .start()
        .await
        .unwrap();
    if is_last {
        return finish(&runtime, &trace, acked).await;
    }
    // Before the first entry: without a rule there is no limit.
    runtime.rules().upsert("*", Limits::concurrency(LIMIT_MAX)).await.unwrap();
    let next = Arc::new(AtomicU64::new(run << 32));
    let mut tasks = JoinSet::new();
    for worker in 0..ENQUEUERS {
        tasks.spawn(enqueue(runtime.clone(), trace.clone(), Arc::clone(&next), worker));
    }
    tasks.spawn(change_rules(runtime.clone()));
    tasks.spawn(take_snapshots(runtime.clone(), trace, directory, run));
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// Records the end of a handler when it returns or is dropped.
struct Ends {
    trace_file: Trace,
    line: String,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.trace_file.write_line(&self.line);
    }
}

/// Entries acknowledged in earlier runs.
fn acked(directory: &Path) -> BTreeMap<u64, EntryId> {
    let trace = fs::read_to_string(directory.join("trace")).unwrap_or_default();
    let acked = trace.lines().filter_map(|line| {
        let words: Vec<_> = line.strip_prefix("acked ")?.split(' ').collect();
        Some((words[0].parse().unwrap(), words[3].parse().unwrap()))
    });
    acked.collect()
}

/// Enqueues entries of its own keys, one after the other: their numbers give their order. Every
/// fifth one is in scope `doomed`, and some of these are canceled.
async fn enqueue(runtime: Runtime, trace: Trace, next: Arc<AtomicU64>, worker: u64) {
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let key = worker * KEYS_EACH + n % KEYS_EACH;
        let scope = if n.is_multiple_of(5) { DOOMED.to_owned() } else { format!("s{}", key % 3) };
        let key = format!("k{key}-{scope}");
        let job = Job { n, scope: scope.clone(), key: key.clone() };
        let entry = Entry::to("step").scope(&scope).key(&key).json(&job).unwrap();
        let stored = runtime.enqueue(entry).await.unwrap();
        trace.write_line(&format!("acked {n} {scope} {key} {}", stored.id()));
        if scope == DOOMED && n.is_multiple_of(2) {
            match stored.cancel().await {
                // The entry ended first.
                Ok(()) | Err(ActError::NotChanged(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // Only slightly faster than entries can run.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn change_rules(runtime: Runtime) {
    for turn in 0_u32.. {
        let limit = 1 + turn % LIMIT_MAX;
        runtime.rules().upsert("*", Limits::concurrency(limit)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

async fn take_snapshots(runtime: Runtime, trace: Trace, directory: PathBuf, run: u64) {
    for turn in 0_u32.. {
        let name = format!("snapshot-{run}-{turn}");
        runtime.snapshot(directory.join(&name)).await.unwrap();
        trace.write_line(&format!("snapshot {name}"));
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

/// Waits until everything has ended, and reports the outcomes.
async fn finish(runtime: &Runtime, trace: &Trace, acked: BTreeMap<u64, EntryId>) {
    for (n, id) in acked {
        let how = match runtime.attach(id).outcome().await.unwrap() {
            Outcome::Success(_) => "success".to_owned(),
            Outcome::Failure(failure) if failure.kind == FailureKind::Canceled => {
                "canceled".to_owned()
            }
            Outcome::Failure(failure) => format!("failed: {}", failure.message),
        };
        trace.write_line(&format!("outcome {n} {how}"));
    }
    runtime.shutdown(Drain::within(Duration::from_secs(20))).await.unwrap();
}
