//! Like `crash`, with an embedded runtime: entries are enqueued one by one, rules change, entries
//! are canceled and snapshots are taken, all at the same time, until kill -9.
//!
//! After every third kill the rows equal a fresh replay of the log. At the end every acknowledged
//! entry has ended, nothing ran beyond a limit, twice at a time or out of order, and the newest
//! snapshot with the log gives the same rows again.

mod child;
mod verify;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use forebay_storage::{
    DataDir, Medium,
    log::{LocalLog, LogStore},
    partition::Store,
    snapshot,
};

use super::random::Random;
use crate::{
    place::{Place, len, say},
    replay,
};

/// Number of kills in a normal run; [`KILLS_LONG`] with `FOREBAY_TEST_LONG=1`.
const KILLS: u64 = 30;
const KILLS_LONG: u64 = 200;
/// Maximum growth of the trace before a kill, in bytes.
const GROWTH_MAX: u64 = 12_000;
/// The rows are compared after this many kills, because it takes longer than a run.
const CHECK_EVERY: u64 = 3;
/// Every fourth kill hits the process while it takes a snapshot, after a complete one.
const SNAPSHOT_EVERY: u64 = 4;
/// Longest wait for a snapshot.
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(20);
/// Maximum wait for that growth; after it, the kill hits the start.
const WAIT_MAX: Duration = Duration::from_millis(900);

#[test]
fn kill_9_of_an_embedding_process_loses_nothing() {
    let mut random = Random::from_environment();
    let is_long = std::env::var_os("FOREBAY_TEST_LONG").is_some_and(|value| value == "1");
    let kills = if is_long { KILLS_LONG } else { KILLS };
    let place = Place::new();
    let begun = Instant::now();
    let mut records = 0;
    for run in 1..=kills {
        run_and_kill(&place, &mut random, run);
        if run % CHECK_EVERY == 0 && place.path("data/store/CURRENT").exists() {
            records = replay::check_rows(&place.path("data"));
        }
    }
    let mut last = start(&place, kills + 1, true);
    assert!(last.wait().unwrap().success(), "the last run: {}", output(&place));
    let whole = replay::check_rows(&place.path("data"));
    assert!(whole >= records);
    let trace = fs::read_to_string(place.path("trace")).unwrap();
    let counts = verify::check(&trace);
    let snapshots = check_snapshot(&place);
    say(&format!(
        "{kills} kills, {whole} records, {counts}, {snapshots} snapshots, {:?}",
        begun.elapsed()
    ));
    assert!(snapshots >= kills / SNAPSHOT_EVERY, "{snapshots} snapshots were taken");
}

fn start(place: &Place, run: u64, is_last: bool) -> std::process::Child {
    let file = |name| fs::File::options().create(true).append(true).open(place.path(name)).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child::TEST, "--nocapture"])
        .env(child::DIRECTORY, place.path(""))
        .env(child::RUN, run.to_string())
        .env(child::IS_LAST, if is_last { "1" } else { "0" })
        .stdin(Stdio::null())
        .stdout(file("said"))
        .stderr(file("said"))
        .spawn()
        .unwrap()
}

fn output(place: &Place) -> String {
    let text = fs::read_to_string(place.path("said")).unwrap();
    text.lines().rev().take(30).collect::<Vec<_>>().join("\n")
}

fn run_and_kill(place: &Place, random: &mut Random, run: u64) {
    let trace = place.path("trace");
    let before = len(&trace);
    let growth = random.below(GROWTH_MAX);
    let late = Duration::from_micros(random.below(60_000));
    let mut child = start(place, run, false);
    let started = Instant::now();
    let is_done = || match run % SNAPSHOT_EVERY {
        0 => {
            let output = fs::read_to_string(&trace).unwrap_or_default();
            output.contains(&format!("snapshot snapshot-{run}-"))
                || started.elapsed() > SNAPSHOT_WAIT_MAX
        }
        _ => len(&trace) >= before + growth || started.elapsed() > WAIT_MAX,
    };
    while !is_done() {
        if let Some(ended) = child.try_wait().unwrap() {
            panic!("run {run} ended before the kill, {ended}: {}", output(place));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(late);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Checks that the newest complete snapshot, restored with the log of the directory, has the same
/// rows once the log is replayed. Returns the number of complete snapshots.
fn check_snapshot(place: &Place) -> u64 {
    let trace = fs::read_to_string(place.path("trace")).unwrap();
    let taken: Vec<_> = trace.lines().filter_map(|line| line.strip_prefix("snapshot ")).collect();
    let newest = place.path(taken.last().expect("a snapshot was taken"));
    let (data, restored) = (place.path("data"), place.path("restored"));
    snapshot::restore(&newest, &restored, Some(&data)).unwrap();
    let found = digests(&restored, true);
    assert_eq!(found, digests(&data, false), "restored rows");
    taken.len() as u64
}

fn digests(data_dir: &Path, with_replay: bool) -> Vec<forebay_storage::partition::Digest> {
    let dir = DataDir::open_existing(data_dir).unwrap();
    let log = LocalLog::open(&dir.log(), &Medium::disk()).unwrap();
    let store = Store::open(&dir.store(), &Medium::disk()).unwrap();
    let digest = |id| {
        let rows = store.partition(id).unwrap();
        if with_replay {
            replay::replay_onto(&rows, &log, log.end(id));
        }
        rows.digest().unwrap()
    };
    store.partitions().into_iter().map(digest).collect()
}
