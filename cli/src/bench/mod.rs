//! `forebay bench`: how many entries this machine runs, compared with the best it could do.
//!
//! Owns: the order of a run (warm-up, then alternating rounds of the ideal queue and of forebay, so
//! that both see the same machine) and its measurements. Must always hold: everything uses the
//! public API, on disk and synced; a run that counts work it did not do fails ([`tracker`]); no
//! files are left behind.

mod histogram;
mod ideal;
mod report;
mod subject;
mod tracker;
mod usage;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use forebay::{
    Drain, EnqueueError, ResultError, RuntimeError, client::PAYLOAD_LEN_MAX, rules::RulesError,
    runtime::BATCH_LEN_MAX,
};
use thiserror::Error;

use super::args::{BenchArgs, Global};
use ideal::Ideal;
use report::{Report, Round};
use subject::Subject;
use tracker::{KEYS_MAX, PAYLOAD_LEN_MIN, Tracker};
use usage::{Usage, Used};

/// Minimum number of rounds of the ideal queue and forebay.
const ROUNDS_MIN: u32 = 5;
/// Maximum round of forebay: a long run is reported minute by minute.
const ROUND_MAX: Duration = Duration::from_mins(1);
/// The ideal queue gets one part in this many of the time of a round.
const IDEAL_PART: u32 = 3;
/// Maximum round of the ideal queue, and maximum warm-up.
const TURN_MAX: Duration = Duration::from_secs(3);
/// How long producers run before their work counts.
const RAMP: Duration = Duration::from_millis(100);
/// Maximum number of entries in flight.
const IN_FLIGHT_MAX: u32 = 65_536;
/// Maximum number of scopes and rules.
const SCOPES_MAX: u64 = 1_000_000;
/// Maximum time of a run's shutdown.
const DRAIN: Duration = Duration::from_secs(10);

/// The bench cannot continue.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    #[error("--in-flight {0}: write a number from 1 to {IN_FLIGHT_MAX}")]
    InFlight(u32),
    #[error(
        "--batch {batch} with --in-flight {in_flight}: as many batches are in flight as fit; write a batch that divides it, at most {BATCH_LEN_MAX}"
    )]
    Batch { batch: u32, in_flight: u32 },
    #[error(
        "--payload {0}: write at least {PAYLOAD_LEN_MIN} bytes, for the number of the entry goes in it, and at most {PAYLOAD_LEN_MAX}"
    )]
    Payload(usize),
    #[error("--scopes {0}: write at most {SCOPES_MAX}")]
    Scopes(u64),
    #[error("--rules {0} without --scopes: rules govern scopes; add --scopes N")]
    RulesWithoutScopes(u32),
    #[error("--seconds: write at least one second")]
    Seconds,
    #[error("--partitions 0: write a number of at least one, or leave it out")]
    Partitions,
    #[error("{}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Result(#[from] ResultError),
    #[error(transparent)]
    Rules(#[from] RulesError),
    #[error(transparent)]
    Pattern(#[from] forebay_messages::rule::PatternError),
    #[error("the bench broke: {0}")]
    Broken(String),
    #[error("the counts of the bench are wrong ({count} findings): {first}")]
    Wrong { count: u64, first: String },
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// The workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Entries in flight.
    pub(super) in_flight: usize,
    /// Entries enqueued at once; divides `in_flight`.
    pub(super) batch: usize,
    /// Keys; 0 is none.
    pub(super) keys: u64,
    /// Scopes; 0 is none.
    pub(super) scopes: u64,
    /// Rules.
    pub(super) rules: u32,
    /// Bytes of a payload.
    pub(super) payload: usize,
}

impl Shape {
    fn read(args: &BenchArgs) -> Result<Self, BenchError> {
        let (in_flight, batch) = (args.in_flight, args.batch);
        if in_flight == 0 || in_flight > IN_FLIGHT_MAX {
            return Err(BenchError::InFlight(in_flight));
        }
        if batch == 0 || batch as usize > BATCH_LEN_MAX || in_flight % batch != 0 {
            return Err(BenchError::Batch { batch, in_flight });
        }
        if !(PAYLOAD_LEN_MIN..=PAYLOAD_LEN_MAX).contains(&args.payload) {
            return Err(BenchError::Payload(args.payload));
        }
        if args.scopes > SCOPES_MAX {
            return Err(BenchError::Scopes(args.scopes));
        }
        if args.rules > 0 && args.scopes == 0 {
            return Err(BenchError::RulesWithoutScopes(args.rules));
        }
        if args.time < Duration::from_secs(1) {
            return Err(BenchError::Seconds);
        }
        if args.partitions == Some(0) {
            return Err(BenchError::Partitions);
        }
        Ok(Self {
            in_flight: in_flight as usize,
            batch: batch as usize,
            keys: args.keys,
            scopes: args.scopes,
            rules: args.rules,
            payload: args.payload,
        })
    }

    /// Whether there are few enough keys to track each; with more, every entry gets its own key.
    pub(super) fn tracks_keys(&self) -> bool {
        self.keys <= KEYS_MAX
    }
}

/// A directory next to the data directory, removed when the bench ends.
struct Scratch(PathBuf);

impl Scratch {
    fn make(data_dir: &Path) -> Result<Self, BenchError> {
        let mut name = data_dir.as_os_str().to_owned();
        name.push(format!("-bench-{}", std::process::id()));
        let path = PathBuf::from(name);
        let made = std::fs::create_dir_all(&path);
        made.map_err(|source| BenchError::Directory { path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the bench's directory stays");
        }
    }
}

/// Runs the bench and prints the results.
///
/// # Errors
/// [`BenchError`]; for example when entries were counted that did not run.
pub(crate) async fn bench(global: &Global, args: &BenchArgs) -> Result<ExitCode, BenchError> {
    let shape = Shape::read(args)?;
    let scratch = Scratch::make(&global.data_dir)?;
    let ideal_path = scratch.0.join("ideal");
    let ideal = Ideal::start(&ideal_path, shape)?;
    let tracker = Arc::new(Tracker::new(shape));
    let data_dir = scratch.0.join("data");
    let mut subject = Subject::start(&data_dir, args.partitions, &tracker).await?;
    let measured = measure(args.time, &ideal, &tracker, &mut subject).await;
    let left = left_over(&subject).await;
    subject.runtime.shutdown(Drain::within(DRAIN)).await?;
    let rounds = measured?;
    if left != 0 {
        tracker.wrong(|| format!("{left} entries are left without a waiter"));
    }
    let report = Report::new(&tracker, &ideal, rounds);
    ideal.join(&ideal_path)?;
    let (count, first) = tracker.findings();
    if count > 0 {
        return Err(BenchError::Wrong { count, first: first.join("; ") });
    }
    report.print(global.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Entries that have not ended.
async fn left_over(subject: &Subject) -> u64 {
    let partitions = subject.runtime.node().inspect().list_partitions().await.unwrap_or_default();
    partitions.iter().map(|of| of.inbox + of.running + of.parked).sum()
}

/// Warm-up, then rounds.
async fn measure(
    time: Duration,
    ideal: &Ideal,
    tracker: &Tracker,
    subject: &mut Subject,
) -> Result<Vec<Round>, BenchError> {
    let minutes = time.as_secs().div_ceil(ROUND_MAX.as_secs());
    let turns = u32::try_from(minutes).unwrap_or(u32::MAX).max(ROUNDS_MIN);
    let turn = time / turns;
    let ideal_turn = (turn / IDEAL_PART).min(TURN_MAX);
    ideal_round(ideal, ideal_turn / 2, false).await;
    warm_up(subject, turn.min(TURN_MAX)).await?;
    let mut rounds = Vec::new();
    for _ in 0..turns {
        let (ideal_jobs, ideal_time) = ideal_round(ideal, ideal_turn, true).await;
        let mut round = forebay_round(tracker, subject, turn).await?;
        (round.ideal_jobs, round.ideal_time) = (ideal_jobs, ideal_time);
        rounds.push(round);
    }
    Ok(rounds)
}

async fn ideal_round(ideal: &Ideal, time: Duration, counts: bool) -> (u64, Duration) {
    let tasks = ideal.go();
    tokio::time::sleep(RAMP).await;
    let (before, began) = (ideal.ended(), Instant::now());
    ideal.set_window(counts);
    tokio::time::sleep(time).await;
    ideal.set_window(false);
    let (jobs, took) = (ideal.ended() - before, began.elapsed());
    ideal.stop(tasks).await;
    (jobs, took)
}

async fn warm_up(subject: &mut Subject, time: Duration) -> Result<(), BenchError> {
    subject.go();
    subject.watch(time).await?;
    subject.stop().await
}

async fn forebay_round(
    tracker: &Tracker,
    subject: &mut Subject,
    time: Duration,
) -> Result<Round, BenchError> {
    subject.go();
    subject.watch(RAMP).await?;
    let log_before = subject.runtime.node().log_stats();
    let (before, used_before, began) = (tracker.counted(), Usage::now(), Instant::now());
    tracker.set_window(true);
    subject.watch(time).await?;
    tracker.set_window(false);
    let (jobs, took) = (tracker.counted() - before, began.elapsed());
    let used: Used = Usage::now().since(&used_before);
    let log = subject.runtime.node().log_stats();
    subject.stop().await?;
    Ok(Round {
        jobs,
        took,
        used,
        fsyncs: log.fsyncs - log_before.fsyncs,
        log_bytes: log.bytes - log_before.bytes,
        log_records: log.records - log_before.records,
        rss_mib: usage::resident_mib().0,
        ideal_jobs: 0,
        ideal_time: Duration::ZERO,
    })
}
