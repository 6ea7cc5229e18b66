//! The main promise: after kill -9 at any time, the same command line continues, and nothing is
//! lost, run twice without need, reordered or run beyond the rule.
//!
//! The commands write one trace to one file, each line with one `O_APPEND` write: the order of the
//! lines is a possible order of events, independent of the clocks.

mod check;
mod embedded;
mod orders;
mod random;
mod trace;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use self::{
    check::check,
    random::Random,
    trace::{ITEMS, Line, read},
};
use crate::place::{Place, len, objects, say};

/// Number of kills in a normal run; [`KILLS_LONG`] with `FOREBAY_TEST_LONG=1`.
const KILLS: u64 = 28;
const KILLS_LONG: u64 = 150;
/// The required minimum.
const KILLS_MIN: u64 = 25;
/// Approximate size of a trace without repeated starts, in bytes.
const TRACE_BYTES: u64 = ITEMS * 2 * 45;
/// Latest time of a kill that is meant to hit the start, in milliseconds after it.
const EARLY_MS_MAX: u64 = 400;

const SCRIPT: &str = r#"
echo "s $RUN $1 $2 $3 $$ $(date +%s%N)" >> trace
sleep 0.00$(( $1 % 4 + 1 ))
echo "e $RUN $1 $2 $3 $$ $(date +%s%N)" >> trace
"#;

const ARGUMENTS: &[&str] = &[
    "exec",
    "--data-dir",
    "data",
    "--input",
    "items",
    "--ndjson",
    "--key",
    "{k}",
    "--scope",
    "{s}",
    "--rule",
    "*=3",
    "--jobs",
    "8",
    "--results",
    "results",
    "--",
    "sh",
    "-c",
    SCRIPT,
    "sh",
    "{n}",
    "{k}",
    "{s}",
];

/// Items that were reported as ended before a kill.
#[derive(Default)]
struct Reported {
    /// By run (the one killed then), the items' numbers.
    by_results: Vec<(u64, BTreeSet<u64>)>,
    /// By run, the entries' ids.
    by_entries: Vec<(u64, BTreeSet<String>)>,
}

#[test]
fn kill_9_at_random_points_loses_nothing() {
    let mut random = Random::from_environment();
    let is_long = std::env::var_os("FOREBAY_TEST_LONG").is_some_and(|value| value == "1");
    let kills = if is_long { KILLS_LONG } else { KILLS };
    let place = Place::new();
    place.write("items", trace::items(&mut random));
    let begun = Instant::now();
    let mut reported = Reported::default();
    let mut killed = 0;
    while killed < kills {
        let run = killed + 1;
        if !run_and_kill(&place, &mut random, run, kills) {
            break;
        }
        killed += 1;
        record_ended(&place, run, &mut reported, run % 6 == 0);
    }
    let run = killed + 1;
    let mut command = place.command(ARGUMENTS);
    command.env("RUN", run.to_string());
    place.start_command(command).end().expect(0, &[]);
    assert!(killed >= KILLS_MIN, "it was done after {killed} kills");

    let lines = read(&place.path("trace"));
    let killed_lines = lines.iter().filter(|line| line.run < run).count();
    say(&format!(
        "{killed} kills, {killed_lines} of {} lines before the last run, {:?}",
        lines.len(),
        begun.elapsed()
    ));
    assert!(killed_lines > lines.len() / 3, "the kills hit too little work");
    check(&lines);
    check_results(&place, &lines, &reported);
}

/// Whether the run was killed before it had ended.
fn run_and_kill(place: &Place, random: &mut Random, run: u64, kills: u64) -> bool {
    let mut command = place.command(ARGUMENTS);
    command.env("RUN", run.to_string());
    let (trace, started) = (place.path("trace"), Instant::now());
    let before = len(&trace);
    let mut running = place.start_command(command);
    // Every third kill hits the start (opening, recovery, ending orphans, reading the input); the
    // others hit the work and are spread over it.
    let is_early = random.below(3) == 0;
    let early = Duration::from_millis(random.below(EARLY_MS_MAX));
    let share = TRACE_BYTES.saturating_sub(before) / (kills - run + 2);
    let growth = 1 + random.below(2 * share + 1);
    let late = Duration::from_micros(random.below(5_000));
    loop {
        if !running.is_running() {
            let done = running.end();
            assert_eq!(done.code, 0, "{done:?}");
            return false;
        }
        if is_early && started.elapsed() >= early || len(&trace) >= before + growth {
            break;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    std::thread::sleep(late);
    let done = running.kill();
    assert_eq!(done.code, -9, "it ended before the kill: {done:?}");
    true
}

/// Records the items that are reported as ended after a kill; also by `entries`, if requested.
fn record_ended(place: &Place, run: u64, reported: &mut Reported, with_entries: bool) {
    let results = objects(&place.path("results/results.ndjson"));
    let items = results.iter().map(|line| line["line"].as_u64().unwrap());
    reported.by_results.push((run, items.collect()));
    if with_entries && place.path("data/FORMAT").exists() {
        let limit = (2 * ITEMS).to_string();
        let entries = place.json(&[
            "entries",
            "--data-dir",
            "data",
            "--stage",
            "finished",
            "--limit",
            &limit,
        ]);
        let ids = entries.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap());
        reported.by_entries.push((run, ids.map(str::to_owned).collect()));
    }
}

/// One line for every item, and no item that was reported as ended was started later.
fn check_results(place: &Place, lines: &[Line], reported: &Reported) {
    let results = objects(&place.path("results/results.ndjson"));
    let mut items = BTreeSet::new();
    for line in &results {
        assert_eq!(line["status"], "succeeded", "{line}");
        assert!(items.insert(line["line"].as_u64().unwrap()), "two lines of one item: {line}");
    }
    assert_eq!(items, (1..=ITEMS).collect(), "results.ndjson has other items");

    let started_after = |item: u64, run: u64| {
        lines.iter().any(|line| line.is_start && line.item == item && line.run > run)
    };
    for (run, items) in &reported.by_results {
        for item in items {
            assert!(!started_after(*item, *run), "{item} had a result in run {run} and ran again");
        }
    }
    let mut listed = 0;
    for (run, ids) in &reported.by_entries {
        for line in results.iter().filter(|line| ids.contains(line["id"].as_str().unwrap())) {
            let item = line["line"].as_u64().unwrap();
            assert!(!started_after(item, *run), "{item} was finished in run {run} and ran again");
            listed += 1;
        }
    }
    assert!(listed > 0, "`forebay entries` never listed a finished item");
}
