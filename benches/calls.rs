//! The cost of steps and calls beside plain entries of the same run, on one node, on disk, synced:
//!
//! ```sh
//! make bench-calls
//! cargo bench --bench calls -- [SECONDS] [PARTITIONS[,PARTITIONS...]] [DIR]
//! ```
//!
//! The workloads run in turn, [`ROUNDS`] times, so that all see the same machine; each gets SECONDS
//! in all. Rates, appends (records in the log) and syncs are per unit: an entry, a step or a call.
//! Those of calls contain the whole life of the child, and a share of the parent's. `lives` is the
//! median latency compared with that of the closed loop of entries.
//!
//! Every result is checked, and so is the number of children that ran: a call that is lost, or runs
//! twice, ends the program with an error.

#![expect(clippy::print_stdout, reason = "a program for a terminal")]

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay::{Context, Drain, Entry, HandlerError, HandlerOptions, Json, Outcome, Runtime};
use tokio::task::JoinSet;

type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Seconds of a workload under plain `cargo bench`.
const SECONDS_DEFAULT: f64 = 3.0;
const PARTITIONS_DEFAULT: [u32; 3] = [2, 8, 64];
const ROUNDS: u32 = 3;
/// How long a workload runs before it is measured, as a part of a round.
const WARM_UP_PART: u32 = 5;
/// Bytes of the payload of a plain entry, as in `forebay bench`.
const PAYLOAD_BYTES: usize = 256;
/// Steps or calls of a parent, so that its own life hardly counts.
const UNITS: u64 = 100;

/// A service, and how many of its entries are in flight.
#[derive(Clone, Copy)]
struct Workload {
    name: &'static str,
    service: &'static str,
    /// Batches in flight.
    tasks: usize,
    /// Entries per batch.
    batch: usize,
    /// Units (steps or calls) per entry; an entry without any is a unit itself.
    units: u64,
    /// Whether the handler measures its units one by one; otherwise a batch is measured.
    is_timed_inside: bool,
}

const WORKLOADS: [Workload; 6] = [
    Workload::alone("entries, closed loop", "plain", 0),
    Workload::alone("steps in sequence", "steps", UNITS),
    Workload::alone("calls in sequence", "calls", UNITS),
    Workload::batches("4,096 entries in batches of 64", "plain", 64, 64, 0),
    Workload::batches("4,096 parents in batches of 64, a call each", "one", 64, 64, 1),
    Workload::batches("32 parents, a join of 100 calls each", "join", 32, 1, UNITS),
];

impl Workload {
    /// One entry at a time.
    const fn alone(name: &'static str, service: &'static str, units: u64) -> Self {
        Self { name, service, tasks: 1, batch: 1, units, is_timed_inside: units > 0 }
    }

    const fn batches(
        name: &'static str,
        service: &'static str,
        tasks: usize,
        batch: usize,
        units: u64,
    ) -> Self {
        Self { name, service, tasks, batch, units, is_timed_inside: false }
    }
}

/// Counts units and their latencies while a window is open.
#[derive(Default)]
struct Recorder {
    is_open: AtomicBool,
    is_over: AtomicBool,
    units: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
    /// Number of children that ran, and of calls that returned.
    children: AtomicU64,
    called: AtomicU64,
}

impl Recorder {
    fn record(&self, units: u64, latency: Duration) {
        if self.is_open.load(Ordering::Acquire) {
            self.units.fetch_add(units, Ordering::AcqRel);
            self.latencies.lock().unwrap_or_else(PoisonError::into_inner).push(latency);
        }
    }
}

/// What was measured of a workload, over all rounds.
#[derive(Default)]
struct Measured {
    units: u64,
    took: Duration,
    appends: u64,
    syncs: u64,
    latencies: Vec<Duration>,
}

impl Measured {
    /// In milliseconds; zero without any.
    fn quantile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = ((last as f64) * share).round() as usize;
        self.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }

    fn row(&self, partitions: u32, workload: &Workload, life_ms: f64) -> String {
        let units = self.units.max(1) as f64;
        let (p50, p99) = (self.quantile(0.5), self.quantile(0.99));
        let lives = match workload.tasks {
            1 if life_ms > 0.0 => format!("{:.2}", p50 / life_ms),
            _ => String::new(),
        };
        format!(
            "| {partitions} | {} | {:.0} | {p50:.2} ms | {p99:.2} ms | {lives} | {:.3} | {:.3} |",
            workload.name,
            units / self.took.as_secs_f64().max(f64::EPSILON),
            self.appends as f64 / units,
            self.syncs as f64 / units
        )
    }
}

fn call(context: &Context, number: u64) -> impl Future<Output = Result<u64, HandlerError>> + use<> {
    let context = context.clone();
    async move {
        let child = Entry::to("child").json(&number)?;
        let answer: u64 = context.call("child", child).await?;
        if answer != number + 1 {
            return Err(HandlerError::terminal(format!("call {number} has another answer")));
        }
        Ok(answer)
    }
}

async fn steps(context: Context, recorder: Arc<Recorder>) -> Result<(), HandlerError> {
    for number in 0..UNITS {
        let begun = Instant::now();
        let step = context.step("step", |_| async move { Ok::<_, HandlerError>(number) });
        if step.await? != number {
            return Err(HandlerError::terminal(format!("step {number} has another result")));
        }
        recorder.record(1, begun.elapsed());
    }
    Ok(())
}

async fn calls(context: Context, recorder: Arc<Recorder>) -> Result<(), HandlerError> {
    for number in 0..UNITS {
        let begun = Instant::now();
        call(&context, number).await?;
        recorder.record(1, begun.elapsed());
    }
    Ok(())
}

async fn join(context: Context, _: Bytes) -> Result<(), HandlerError> {
    let calls: Vec<_> = (0..UNITS).map(|number| call(&context, number)).collect();
    context.join(calls).await.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
}

async fn start(dir: &Path, partitions: u32, recorder: &Arc<Recorder>) -> Done<Runtime> {
    let [in_steps, in_calls, in_child] = [(); 3].map(|()| Arc::clone(recorder));
    // Keeps no results, as `forebay bench`.
    let options = HandlerOptions { retention: Some(Duration::ZERO), ..HandlerOptions::default() };
    let builder = Runtime::builder()
        .data_dir(dir)
        .partitions(partitions)
        .handler_with("plain", options, |_: Context, _: Bytes| async { Ok::<(), HandlerError>(()) })
        .handler_with("steps", options, move |context, _: Bytes| {
            steps(context, Arc::clone(&in_steps))
        })
        .handler_with("calls", options, move |context, _: Bytes| {
            calls(context, Arc::clone(&in_calls))
        })
        .handler_with("one", options, |context: Context, _: Bytes| async move {
            call(&context, 1).await.map(drop)
        })
        .handler_with("join", options, join)
        .handler_with("child", options, move |_: Context, Json(number): Json<u64>| {
            in_child.children.fetch_add(1, Ordering::AcqRel);
            async move { Ok::<_, HandlerError>(Json(number + 1)) }
        });
    Ok(builder.start().await?)
}

/// Runs batches one after the other until the run is over.
async fn produce(runtime: Runtime, workload: Workload, recorder: Arc<Recorder>) -> Done {
    let payload = Bytes::from_static(&[b'x'; PAYLOAD_BYTES]);
    let (entries, calls) = (workload.batch as u64, workload.batch as u64 * workload.units);
    while !recorder.is_over.load(Ordering::Acquire) {
        let begun = Instant::now();
        let entry = || Entry::to(workload.service).payload(payload.clone());
        let handles = match workload.batch {
            1 => vec![runtime.enqueue(entry()).await?],
            batch => runtime.enqueue_batch((0..batch).map(|_| entry()).collect()).await?,
        };
        for outcome in runtime.outcomes(&handles).await? {
            // Without a result it ended before the query.
            if let Some(Outcome::Failure(failure)) = outcome {
                return Err(format!("{}: {}", workload.name, failure.message).into());
            }
        }
        if workload.service != "steps" {
            recorder.called.fetch_add(calls, Ordering::AcqRel);
        }
        if !workload.is_timed_inside {
            recorder.record(entries * workload.units.max(1), begun.elapsed());
        }
    }
    Ok(())
}

/// Runs a workload for one round.
async fn round(
    runtime: &Runtime,
    workload: Workload,
    recorder: &Arc<Recorder>,
    time: Duration,
    measured: &mut Measured,
) -> Done {
    recorder.is_over.store(false, Ordering::Release);
    let mut producers = JoinSet::new();
    for _ in 0..workload.tasks {
        producers.spawn(produce(runtime.clone(), workload, Arc::clone(recorder)));
    }
    tokio::time::sleep(time / WARM_UP_PART).await;
    let (before, begun) = (runtime.node().log_stats(), Instant::now());
    recorder.is_open.store(true, Ordering::Release);
    tokio::time::sleep(time).await;
    recorder.is_open.store(false, Ordering::Release);
    let (after, took) = (runtime.node().log_stats(), begun.elapsed());
    recorder.is_over.store(true, Ordering::Release);
    while let Some(ended) = producers.join_next().await {
        ended??;
    }
    let mut latencies = recorder.latencies.lock().unwrap_or_else(PoisonError::into_inner);
    measured.latencies.append(&mut latencies);
    measured.units += recorder.units.swap(0, Ordering::AcqRel);
    measured.took += took;
    measured.appends += after.records - before.records;
    measured.syncs += after.fsyncs - before.fsyncs;
    Ok(())
}

async fn run(root: &Path, partitions: u32, time: Duration) -> Done {
    let dir = tempfile::tempdir_in(root)?;
    let recorder = Arc::new(Recorder::default());
    let runtime = start(dir.path(), partitions, &recorder).await?;
    let mut all: Vec<_> = WORKLOADS.iter().map(|_| Measured::default()).collect();
    for _ in 0..ROUNDS {
        for (workload, measured) in WORKLOADS.into_iter().zip(&mut all) {
            round(&runtime, workload, &recorder, time / ROUNDS, measured).await?;
        }
    }
    runtime.shutdown(Drain::now()).await?;
    all.iter_mut().for_each(|measured| measured.latencies.sort_unstable());
    let life_ms = all[0].quantile(0.5);
    for (workload, measured) in WORKLOADS.iter().zip(&all) {
        println!("{}", measured.row(partitions, workload, life_ms));
    }
    let [children, called] =
        [&recorder.children, &recorder.called].map(|count| count.load(Ordering::Acquire));
    if children != called {
        return Err(format!("{called} calls returned, {children} children ran").into());
    }
    Ok(())
}

fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let seconds = args.first().map_or(Ok(SECONDS_DEFAULT), |text| text.parse())?;
    let time = Duration::try_from_secs_f64(seconds)?;
    let partitions = match args.get(1) {
        Some(text) => text.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?,
        None => PARTITIONS_DEFAULT.to_vec(),
    };
    let root = args.get(2).map_or_else(std::env::temp_dir, Into::into);
    let tokio =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("| partitions | workload | units/s | p50 | p99 | lives | appends | syncs |");
    println!("|---|---|---|---|---|---|---|---|");
    for partitions in partitions {
        tokio.block_on(run(&root, partitions, time))?;
    }
    Ok(())
}
