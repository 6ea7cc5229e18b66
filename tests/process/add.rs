//! `forebay add`: adds items to a running run.

use std::{collections::BTreeSet, io::Write, process::Stdio};

use super::{exec, numbers};
use crate::place::{Done, Place, Running, until};

const DATA: [&str; 2] = ["--data-dir", "data"];

fn add<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["add"], &DATA[..], arguments].concat()
}

/// Fails unless it ended with this code and printed all of this on standard output.
#[track_caller]
fn expect_printed(done: &Done, code: i32, texts: &[&str]) {
    assert_eq!(done.code, code, "{done:?}");
    for text in texts {
        assert!(done.text().contains(text), "no `{text}` in: {}", done.text());
    }
}

/// A run of `items` whose commands record their item and wait for the file `go`.
fn waiting(place: &Place, options: &[&str]) -> Running {
    let script = r#"echo "$1 $FOREBAY_SEQ" >> started; while ! test -e go; do sleep 0.02; done"#;
    let rest = ["--jobs", "2", "--", "sh", "-c", script, "_"];
    place.start(&exec(&[&["-i", "items"], options, &rest].concat()))
}

fn started(place: &Place) -> Vec<String> {
    let word = |line: String| line.split(' ').next().unwrap_or_default().to_owned();
    let mut words: Vec<String> = place.lines("started").into_iter().map(word).collect();
    words.sort();
    words
}

#[test]
fn a_run_ends_when_the_added_items_have_ended_too() {
    let place = Place::new();
    place.write("items", "a\nb\n");
    let running = waiting(&place, &[]);
    until("both run", || started(&place).len() == 2);
    expect_printed(
        &place.run(&add(&["--", "c", "-i", "d\ne"])),
        0,
        &["3 added to run ", "(sh -c "],
    );
    expect_printed(&place.run(&add(&["a", "c", "f"])), 0, &["1 added ", "2 named before"]);
    expect_printed(&place.feed(&add(&[]), b"g\nh\n\ng\n"), 0, &["2 added ", "1 named before"]);
    let done = place.feed(&add(&["--json", "-0"]), b"i j\0k\nl\0").expect(0, &[]);
    let line: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&line["kind"], &line["added"]), (&"added".into(), &2.into()));
    assert_eq!(started(&place), ["a", "b"], "two at a time, those of the input first");
    place.write("go", "");
    let done = running.end().expect(0, &["10 succeeded", "8 added while it ran"]);
    assert!(!done.stderr.contains("came before"), "the adding command reports it: {}", done.stderr);
    // In the file, the second line of an item is a separate line.
    let all = ["a", "b", "c", "-i", "d", "e", "f", "g", "h", "i", "k", "l"];
    let all: BTreeSet<String> = all.map(str::to_owned).into();
    assert_eq!(BTreeSet::from_iter(started(&place)), all);
    let numbers = place.lines("started");
    let numbers: Vec<&str> = numbers.iter().filter_map(|line| line.rsplit(' ').next()).collect();
    let numbers: BTreeSet<u32> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers.len(), 10, "each has a number of its own");
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let place = Place::new();
    place.write("items", "1\n2\n");
    let running = waiting(&place, &[]);
    until("both run", || started(&place).len() == 2);
    place.write("more", (3..=300).map(|n| format!("{n}\n")).collect::<String>());
    expect_printed(&place.run(&add(&["-i", "more"])), 0, &["298 added"]);
    running.kill();
    place.write("go", "");
    // The input does not contain them: they wait, and a line reports it.
    let rest = waiting(&place, &[]).end();
    rest.expect(0, &["2 succeeded", "298 items of this command that are not in the input wait"]);
    place.run(&exec(&["--resume"])).expect(0, &["298 succeeded"]);
    let numbers = started(&place).into_iter().filter_map(|word| word.parse().ok());
    let numbers: BTreeSet<u32> = numbers.collect();
    assert_eq!(numbers, (1..=300).collect());
}

#[test]
fn an_interrupted_run_says_how_to_continue_with_added_items() {
    let place = Place::new();
    place.write("items", "1\n2\n");
    let running = waiting(&place, &[]);
    until("both run", || started(&place).len() == 2);
    expect_printed(&place.run(&add(&["3", "4"])), 0, &["2 added"]);
    running.interrupt();
    until("it stops", || running.stderr().contains("stopping"));
    place.run(&add(&["5"])).expect_refused(&["no run takes items in data"]);
    place.write("go", "");
    let stopped = running.end();
    assert!(stopped.stderr.contains("2 left (forebay exec --resume continues)"), "{stopped:?}");
    place.run(&exec(&["--resume"])).expect(0, &["2 succeeded"]);
    assert_eq!(ran_numbers(&place), [1, 2, 3, 4]);
}

fn ran_numbers(place: &Place) -> Vec<u64> {
    let mut numbers: Vec<u64> =
        started(place).iter().filter_map(|word| word.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn without_a_run_that_takes_items_it_says_what_to_do() {
    let place = Place::new();
    let nothing = ["no run takes items in data", "forebay exec"];
    place.run(&add(&["a"])).expect_refused(&nothing);
    place.write("items", "1\n2\n3\n");
    let running = waiting(&place, &[]);
    until("two run", || started(&place).len() == 2);
    let wrong = ["run `zzz` is not running here, but ", "sh -c"];
    place.run(&add(&["--run", "zzz", "a"])).expect_refused(&wrong);
    let runs = place.json(&["runs", "--data-dir", "data"]);
    let id = runs[0]["id"].as_str().unwrap();
    expect_printed(&place.run(&add(&["--run", &id[..8], "4"])), 0, &["1 added"]);
    // A socket left by a killed run counts as no socket.
    running.kill();
    place.run(&add(&["a"])).expect_refused(&nothing);
    place.write("go", "");
    waiting(&place, &[]).end().expect(0, &["3 succeeded", "not in the input wait"]);
    place.run(&add(&["a"])).expect_refused(&nothing);
}

#[test]
fn items_are_written_as_in_the_input_unless_options_say_otherwise() {
    let place = Place::new();
    place.write("items", "{\"args\":[\"a\"]}\n");
    let running = waiting(&place, &["--ndjson"]);
    until("it runs", || started(&place).len() == 1);
    let object = "{\"args\":\n[\"b\"],\"scope\":\"s\"}";
    expect_printed(&place.run(&add(&[object])), 0, &["1 added"]);
    let bad = place.run(&add(&["[1]", "{\"args\":[\"c\"]}"]));
    expect_printed(&bad, 1, &["1 added", "1 bad ones skipped"]);
    bad.expect(1, &["error: line 1: JSON, but not an object", "; skipped"]);
    expect_printed(&place.feed(&add(&["-d,"]), b"d,e\n"), 0, &["2 added"]);
    place.write("go", "");
    running.end().expect(0, &["5 succeeded"]);
    assert_eq!(started(&place), ["a", "b", "c", "d", "e"]);
}

/// A line cut in the middle would otherwise run as an item that was never named.
#[test]
fn what_a_killed_client_has_half_sent_is_no_item() {
    let place = Place::new();
    place.write("items", "1\n");
    let running = waiting(&place, &[]);
    until("it runs", || started(&place).len() == 1);
    let mut command = place.command(&add(&[]));
    let mut client = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(b"2\n12345").unwrap();
    until("2 runs", || started(&place).contains(&"2".to_owned()));
    client.kill().unwrap();
    client.wait().unwrap();
    drop(input);
    place.write("go", "");
    running.end().expect(0, &["2 succeeded", "1 added"]);
    assert_eq!(ran_numbers(&place), [1, 2]);
}

#[test]
fn adding_waits_for_room_under_a_backlog_rule() {
    let place = Place::new();
    place.write("items", numbers(2));
    let rule = ["--scope", "s", "--rule", "s=1,backlog=2"];
    let running = waiting(&place, &rule);
    until("one runs", || started(&place).len() == 1);
    let adding = place.start(&add(&["3", "4", "5", "6", "7"]));
    until("it is said that it waits", || running.stderr().contains("waits for room"));
    place.write("go", "");
    expect_printed(&adding.end(), 0, &["5 added"]);
    running.end().expect(0, &["7 succeeded"]);
    assert_eq!(ran_numbers(&place), (1..=7).collect::<Vec<u64>>());
}
