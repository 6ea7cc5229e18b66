//! `cancel`, `kill`, `pause`, `resume`, `reschedule`, `purge`, `redrive`, `restart`, `resolve` and
//! `tree`, on a directory in use and on one not in use.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{exec, ran};
use crate::place::{Done, Place, Running, objects, until};

/// Items 1 to 6 of scope `a`, 7 and 8 of `b`; 8 has a key.
const ITEMS: &str = r#"{"n":1,"scope":"a"}
{"n":2,"scope":"a"}
{"n":3,"scope":"a"}
{"n":4,"scope":"a"}
{"n":5,"scope":"a"}
{"n":6,"scope":"a"}
{"n":7,"scope":"b","limit_key":"x/y"}
{"n":8,"scope":"b","key":"k"}
"#;
/// A well-formed id of no entry.
const UNKNOWN_ID: &str = "ent_0DMI9oORqVM5I5G2Xq3JW7loIRUEovcLD";

fn command_line() -> Vec<&'static str> {
    let script = "echo {n} >> started; while ! test -e go; do sleep 0.02; done";
    exec(&["--ndjson", "--jobs", "2", "--input", "items", "--", "sh", "-c", script])
}

/// A run with two items that run until a file `go` exists; the others wait.
fn start(place: &Place) -> Running {
    place.write("items", ITEMS);
    place.write("started", "");
    let running = place.start(&command_line());
    until("two have started", || ran(place, "started").len() == 2);
    until("all are stored", || entries(place, &[]).len() == 8);
    running
}

/// The same, with running items of scope `a`.
fn start_with_a(place: &Place) -> Running {
    start(place).kill();
    says(place, &["pause", "--scope", "b"], 0, &["2 entries paused"]);
    let running = start(place);
    says(place, &["resume", "--scope", "b"], 0, &["2 entries resumed"]);
    running
}

fn run(place: &Place, words: &[&str]) -> Done {
    place.run(&[words, &["--data-dir", "data"]].concat())
}

/// Runs it; it must end with this exit code and print this on standard output.
#[track_caller]
fn says(place: &Place, words: &[&str], code: i32, expected: &[&str]) {
    let done = run(place, words).expect(code, &[]);
    let text = done.text();
    for expected in expected {
        assert!(text.contains(expected), "{words:?}: no `{expected}` in: {text}");
    }
}

fn entries(place: &Place, more: &[&str]) -> Vec<Value> {
    let all = place.json(&[&["entries", "--data-dir", "data"], more].concat());
    all.as_array().unwrap().clone()
}

fn ids(place: &Place, more: &[&str]) -> Vec<String> {
    let of = |entry: &Value| entry["id"].as_str().unwrap().to_owned();
    entries(place, more).iter().map(of).collect()
}

/// Number of entries by stage, finished ones by outcome.
fn stages(place: &Place) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for entry in entries(place, &[]) {
        let stage = entry["outcome"].as_str().or(entry["stage"].as_str()).unwrap();
        *counts.entry(stage.to_owned()).or_default() += 1;
    }
    counts
}

fn count(place: &Place, stage: &str) -> usize {
    stages(place).get(stage).copied().unwrap_or_default()
}

/// Waiting entries: each way to select them, and the report about entries that a command does not
/// apply to.
fn all_commands(place: &Place) {
    let waiting = count(place, "inbox");
    let of_b = ids(place, &["--scope", "b"]);
    assert_eq!(of_b.len(), 2);

    // A dry run changes nothing.
    says(
        place,
        &["cancel", "--scope", "b", "--dry-run"],
        0,
        &["2 entries would be canceled", &of_b[0]],
    );
    says(place, &["kill", "--all", "--dry-run"], 0, &["8 entries would be killed"]);
    assert_eq!(count(place, "inbox"), waiting);

    // By id: each unchanged entry is reported, and affects the exit code.
    says(place, &["pause", &of_b[0]], 0, &["1 entry paused"]);
    let already = format!("not paused: {} is already paused", of_b[0]);
    let unknown = format!("not paused: {UNKNOWN_ID} is unknown or purged");
    let three = ["pause", &of_b[0], &of_b[1], UNKNOWN_ID];
    says(place, &three, 1, &["1 entry paused", &already, &unknown]);
    says(place, &["resume", &of_b[0]], 0, &["1 entry resumed"]);
    says(place, &["resume", &of_b[0]], 1, &["0 entries resumed", "is not paused"]);

    // By filter: entries it does not apply to are counted by reason.
    says(place, &["resume", "--scope", "b"], 0, &["1 entry resumed", "1 not resumed: not paused"]);
    says(place, &["pause", "--scope", "b", "--limit-key", "x"], 0, &["1 entry paused"]);
    says(place, &["resume", "--stage", "paused"], 0, &["1 entry resumed"]);
    says(place, &["pause", "--older-than", "1h"], 0, &["0 entries paused"]);
    says(place, &["pause", "--service", "other"], 0, &["0 entries paused"]);

    // A different start time.
    let run_at = |id: &str| {
        let all = entries(place, &[]);
        all.iter().find(|entry| entry["id"] == id).unwrap()["run_at"].as_u64().unwrap()
    };
    says(
        place,
        &["reschedule", "--at", "2100-01-01T00:00:00Z", "--scope", "b"],
        0,
        &["2 entries resch"],
    );
    assert_eq!(run_at(&of_b[0]), 4_102_444_800_000);
    let before = run_at(&of_b[1]);
    says(place, &["reschedule", "--in", "1h", &of_b[1]], 0, &["1 entry rescheduled"]);
    assert!(run_at(&of_b[1]) < before);
    says(place, &["reschedule", "--now", "--scope", "b"], 0, &["2 entries rescheduled"]);
    assert!(run_at(&of_b[1]) < before - 3_600_000);

    promises(place, &of_b[1]);

    // A canceled waiting entry has ended.
    says(place, &["cancel", &of_b[0]], 0, &["1 entry canceled"]);
    says(place, &["cancel", &of_b[0]], 1, &["0 entries canceled", "is already finished"]);
    says(place, &["kill", &of_b[1]], 0, &["1 entry killed"]);
    assert_eq!((count(place, "canceled"), count(place, "killed")), (1, 1));
    assert_eq!(ids(place, &["--outcome", "canceled"]), [of_b[0].clone()]);

    // Entries that a user ended are redriven only by id.
    says(place, &["redrive", "--scope", "b"], 0, &["0 entries redriven"]);
    says(place, &["redrive", &of_b[0], &of_b[1]], 0, &["2 entries redriven"]);
    says(place, &["redrive", &of_b[0]], 1, &["is not finished"]);
    says(place, &["kill", "--scope", "b"], 0, &["2 entries killed"]);
    says(place, &["purge", "--outcome", "success"], 0, &["0 entries purged"]);
    says(place, &["purge", &of_b[0]], 0, &["1 entry purged"]);
    says(place, &["purge", &of_b[0]], 1, &["unknown or purged"]);
    let purged = place.json(&["purge", "--outcome", "killed", "--data-dir", "data"]);
    assert_eq!(
        (&purged["changed"], &purged["changed_ids"][0]),
        (&1.into(), &of_b[1].as_str().into())
    );
    assert_eq!(ids(place, &["--scope", "b"]), [""; 0]);
}

/// Commands about the promises, children and journal of a waiting entry.
fn promises(place: &Place, entry: &str) {
    let resolved = format!("promise approved of {entry} resolved");
    says(place, &["resolve", entry, "approved", "--value", "true"], 0, &[&resolved]);
    let again = run(place, &["resolve", entry, "approved"]);
    again.expect_refused(&["was resolved or rejected before: that result stands"]);
    says(place, &["resolve", entry, "paid", "--reject", "no card"], 0, &["rejected"]);
    run(place, &["resolve", UNKNOWN_ID, "approved"]).expect_refused(&["there is no entry ent_"]);
    run(place, &["resolve", entry, ""]).expect_refused(&["1 to 128 bytes"]);
    let settled = place.json(&["resolve", entry, "third", "--data-dir", "data"]);
    assert_eq!((&settled["name"], &settled["is_rejected"]), (&"third".into(), &false.into()));

    says(place, &["tree", entry], 0, &[&format!("{entry} inbox exec")]);
    let tree = place.json(&["tree", entry, "--data-dir", "data"]);
    assert_eq!((&tree["entries"][0]["id"], &tree["is_cut"]), (&entry.into(), &false.into()));
    run(place, &["tree", UNKNOWN_ID]).expect_refused(&["there is no entry ent_"]);

    says(place, &["restart", entry], 0, &["1 entry restarted"]);
    let missing = ["0 entries restarted", "no such operation in its journal"];
    says(place, &["restart", entry, "--from", "charge"], 1, &missing);
    let two = run(place, &["restart", entry, UNKNOWN_ID, "--from", "charge"]);
    two.expect_refused(&["--from is an operation of one entry"]);
}

/// Whole queues, of those with waiting entries.
fn queues(place: &Place) {
    let queues = place.json(&["queues", "--data-dir", "data", "--scope", "a"]);
    let queue = queues[0]["id"].as_str().unwrap();
    says(place, &["resume", "--queue", queue], 1, &["0 queues resumed", "is not paused"]);
    says(place, &["pause", "--queue", queue, "--dry-run"], 0, &["1 queue would be paused"]);
    says(place, &["pause", "--queue", queue], 0, &["1 queue paused"]);
    says(place, &["pause", "--queue", queue], 1, &["is already paused"]);
    let queues = place.json(&["queues", "--data-dir", "data", "--scope", "a"]);
    assert_eq!(queues[0]["is_paused"], true);
    says(place, &["resume", "--queue", queue], 0, &["1 queue resumed"]);
}

#[test]
fn on_a_directory_in_use() {
    let place = Place::new();
    let running = start_with_a(&place);
    all_commands(&place);
    queues(&place);

    // A paused queue starts nothing even if there is room.
    let queues = place.json(&["queues", "--data-dir", "data", "--scope", "a"]);
    let queue = queues[0]["id"].as_str().unwrap().to_owned();
    says(&place, &["pause", "--queue", &queue], 0, &[]);
    let [first, second] = &ids(&place, &["--stage", "running"])[..] else { panic!("not two") };
    says(&place, &["pause", first], 1, &["0 entries paused", "is running"]);
    says(&place, &["kill", first], 0, &["1 entry killed"]);
    says(&place, &["cancel", second], 0, &["1 entry canceled"]);
    until("the command that was asked to stop has ended", || count(&place, "canceled") == 1);
    assert_eq!((count(&place, "killed"), count(&place, "inbox")), (1, 4));
    assert_eq!(ran(&place, "started").len(), 2);
    says(&place, &["cancel", first, second], 1, &["0 entries canceled"]);

    // They are redriven, and now everything may run.
    says(&place, &["redrive", first], 0, &["1 entry redriven"]);
    says(&place, &["resume", "--queue", &queue], 0, &["1 queue resumed"]);
    place.write("go", "");
    // It does not wait for items already reported; the same command line does.
    running.end().expect(1, &["2 canceled, 2 killed"]);
    // It has never seen the purged ones.
    place.run(&command_line()).expect(1, &[]);
    assert_eq!((count(&place, "success"), count(&place, "canceled")), (7, 1));
}

#[test]
fn on_a_directory_at_rest() {
    let place = Place::new();
    start(&place).kill();
    all_commands(&place);
    queues(&place);
    says(&place, &["cancel", "--scope", "a", "--stage", "inbox"], 0, &["6 entries canceled"]);
    assert_eq!(stages(&place), BTreeMap::from([("canceled".to_owned(), 6)]));
    says(&place, &["purge", "--all"], 0, &["6 entries purged"]);
    assert!(stages(&place).is_empty());
    assert_eq!(ran(&place, "started").len(), 2, "commands start nothing");
}

#[test]
fn a_dead_letter_is_listed_with_its_last_error_and_redriven_with_all_its_attempts() {
    let place = Place::new();
    place.write("items", "1\n2\n");
    // A succeeding command takes long enough to be seen running by the waiting command line.
    let script = "echo {} >> started; \
        test {} = 2 || { test -e fixed && sleep 0.5; } || { echo broken >&2; exit 3; }";
    let rest = exec(&["--input", "items", "--retries", "1", "--", "sh", "-c", script]);
    place.run(&rest).expect(1, &["1 succeeded, 1 failed"]);
    let dead = entries(&place, &["--outcome", "dead-letter"]);
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(
        (&dead[0]["attempts"], &dead[0]["failure"]),
        (&2.into(), &"exit code 3: broken".into())
    );
    says(&place, &["redrive", "--service", "exec"], 0, &["1 entry redriven"]);
    place.run(&rest).expect(1, &["0 succeeded, 1 failed", "1 were done before"]);
    let ones = ran(&place, "started").into_iter().filter(|n| *n == 1).count();
    assert_eq!(ones, 4, "two attempts again");
    says(&place, &["redrive", "--all"], 0, &["1 entry redriven"]);
    place.write("fixed", "");
    place.run(&rest).expect(0, &["1 succeeded, 0 failed, 1 were done before"]);
    assert_eq!(ids(&place, &["--outcome", "dead-letter"]).len(), 0);
}

#[test]
fn invalid_combinations_are_refused() {
    let place = Place::new();
    run(&place, &["kill", "--all"]).expect_refused(&["no data directory at data"]);
    place.write("items", "1\n");
    place.run(&exec(&["--input", "items", "--", "true"])).expect(0, &[]);
    for words in [
        &["cancel"][..],
        &["cancel", "ent_x"],
        &["kill", "--all", "--service", "exec"],
        &["pause", "--queue", UNKNOWN_ID],
        &["pause", "--queue", "vq_x"],
        &["reschedule", "--all"],
        &["reschedule", "--all", "--in", "-1s"],
        &["purge", "--older-than", "yesterday"],
        &["redrive", "--outcome", "bad"],
    ] {
        let done = run(&place, words);
        assert_eq!((done.code, &*done.stdout), (2, &b""[..]), "{words:?}: {}", done.stderr);
        assert!(done.stderr.starts_with("error: "), "{words:?}: {}", done.stderr);
    }
    assert_eq!(count(&place, "success"), 1);
}

#[test]
fn canceled_entries_are_distinguished_from_failed_ones() {
    let place = Place::new();
    place.write("items", "1\n2\n3\n4\n");
    let script = "echo said {}; echo {} >> started; while ! test -e go; do sleep 0.02; done; \
                  test {} != 4";
    let rest =
        exec(&["--input", "items", "--jobs", "2", "--results", "out", "--", "sh", "-c", script]);
    let running = place.start(&rest);
    until("two have started", || ran(&place, "started").len() == 2);
    until("all are stored", || entries(&place, &[]).len() == 4);
    let [first, second] = &ids(&place, &["--stage", "running"])[..] else { panic!("not two") };
    let waiting = ids(&place, &["--stage", "inbox"]);
    says(&place, &["pause", &waiting[1]], 0, &[]);
    says(&place, &["kill", first], 0, &[]);
    says(&place, &["cancel", second, &waiting[1]], 0, &["2 entries canceled"]);
    until("the command that was asked to stop has ended", || count(&place, "canceled") == 2);
    place.write("go", "");
    let done = running.end().expect(1, &["2 canceled, 1 killed", "canceled before it ran"]);
    assert!(!done.stderr.contains("3 failed"), "{}", done.stderr);
    let lines = objects(&place.path("out/results.ndjson"));
    let line = |id: &str| lines.iter().find(|line| line["id"] == id).unwrap();
    assert_eq!(
        (&line(first)["status"], &line(first)["error"]),
        (&"killed".into(), &"killed".into())
    );
    let canceled = line(second);
    assert_eq!(canceled["status"], "canceled");
    assert!(canceled["error"].as_str().unwrap().contains("asked to stop"), "{canceled}");
    assert!(canceled["stdout"].as_str().unwrap().starts_with("said "), "its report is kept");
    assert_eq!(canceled["signal"], 15);
    let never = line(&waiting[1]);
    assert_eq!((&never["status"], &never["started_at"]), (&"canceled".into(), &Value::Null));
    assert!(never["ended_at_ms"].as_u64().unwrap() > 0);

    // Another run reports the same, and writes no line twice.
    place.run(&rest).expect(1, &["had failed before"]);
    assert_eq!(objects(&place.path("out/results.ndjson")).len(), 4);
}

/// A filter with one slash too many matched nothing and reported nothing, so that a typing error
/// looked like an empty queue.
#[test]
fn a_filter_that_no_entry_can_match_is_refused_and_changes_nothing() {
    let place = Place::new();
    let running = start(&place);
    for words in [
        &["entries", "--scope", "b", "--limit-key", "x/"][..],
        &["entries", "--scope", "b", "--limit-key", "", "--count"],
        &["kill", "--scope", "b", "--limit-key", "x/"],
        &["kill", "--scope", "b", "--limit-key", "x/y/z", "--dry-run"],
        &["purge", "--service", ""],
        &["queues", "--scope", "a b"],
    ] {
        run(&place, words).expect_refused(&["the filter takes no entry: "]);
    }
    assert_eq!(entries(&place, &[]).len(), 8);
    says(&place, &["kill", "--scope", "b", "--limit-key", "x"], 0, &["1 entry killed"]);
    drop(running);
}
