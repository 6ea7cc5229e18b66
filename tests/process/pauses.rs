//! `forebay rules pause` and `rules resume`, on a directory not in use and on one in use.

use std::time::Duration;

use serde_json::Value;

use super::{exec, numbers};
use crate::place::{Place, until};

/// Long enough for everything allowed to start.
const A_WHILE: Duration = Duration::from_millis(300);

fn rules(place: &Place, words: &[&str]) -> Value {
    place.json(&[&["rules", "--data-dir", "data"], words].concat())
}

/// Whether the pattern has a rule, and whether it is paused.
fn paused(book: &Value, pattern: &str) -> Option<bool> {
    let rules = book["rules"].as_array().unwrap();
    let rule = rules.iter().find(|rule| rule["pattern"] == pattern)?;
    Some(rule["paused"].as_bool().unwrap())
}

#[test]
fn nothing_starts_under_a_pause_until_it_is_resumed() {
    let place = Place::new();
    place.write("first", "0\n");
    place.write("items", numbers(3));
    place.run(&exec(&["--input", "first", "--rule", "t=2", "--", "true"])).expect(0, &[]);
    // Not in use: stored for the next process.
    let book = rules(&place, &["pause", "t"]);
    assert_eq!(paused(&book, "t"), Some(true), "{book}");
    let rest = ["--input", "items", "--scope", "t", "--rule", "t=3", "--", "sh", "-c"];
    let running = place.start(&exec(&[&rest[..], &["echo {} >> ran"]].concat()));
    let limits = || place.json(&["limits", "--data-dir", "data"]);
    let waits = |key: &str| {
        let limits = limits();
        let rows = limits.as_array().unwrap().iter();
        let mut paused = rows.filter(|row| row["key"] == key && row["paused"] == key);
        paused.any(|row| row["waiters"].as_u64().unwrap() > 0)
    };
    until("the items wait behind the pause", || waits("t"));
    let entries = place.json(&["entries", "--stage", "inbox", "--data-dir", "data"]);
    let id = entries[0]["id"].as_str().unwrap().to_owned();
    let explain = || place.run(&["explain", &id, "--data-dir", "data"]).expect(0, &[]).text();
    let explanation = explain();
    assert!(explanation.contains("t is paused by rule `t` (rul_"), "{explanation}");

    // In use: a service too, and the pauses are independent.
    let book = rules(&place, &["pause", "service:exec"]);
    assert_eq!(paused(&book, "service:exec"), Some(true));
    let list = place.run(&["rules", "list", "--data-dir", "data"]).expect(0, &[]).text();
    assert!(list.contains("PAUSED") && list.contains("service:exec"), "{list}");
    let book = rules(&place, &["resume", "t"]);
    assert_eq!(paused(&book, "t"), Some(false), "its limit stays: {book}");
    until("the items wait behind the other pause", || waits("service:exec"));
    let explanation = explain();
    assert!(explanation.contains("is paused by rule `service:exec`"), "{explanation}");
    std::thread::sleep(A_WHILE);
    assert!(!place.path("ran").exists(), "nothing has started");
    let book = rules(&place, &["resume", "service:exec"]);
    assert_eq!(paused(&book, "service:exec"), None, "the rule only held the pause");
    running.end().expect(0, &["3 succeeded"]);
    let mut ran = place.lines("ran");
    ran.sort();
    assert_eq!(ran, ["1", "2", "3"]);
}

#[test]
fn invalid_commands_are_refused_with_advice() {
    let place = Place::new();
    place.write("items", "1\n");
    place.run(&exec(&["--input", "items", "--", "true"])).expect(0, &[]);
    let refused = |words: &[&str], explanation: &[&str]| {
        place.run(&[&["rules", "--data-dir", "data"], words].concat()).expect_refused(explanation);
    };
    refused(&["resume", "t"], &["`t` is not paused", "rules list"]);
    refused(&["pause", "t", "--if-version", "7"], &["expected version 7"]);
    refused(&["set", "service:exec", "--concurrency", "5"], &["a service can only be paused"]);
    refused(&["set", "t", "--rate", "1/10000h"], &["366 days"]);
    for (words, explanation) in [
        (&["pause", "a b"][..], "character ` `"),
        (&["pause", "service:*"], "a service is written"),
        (&["set", "t", "--concurrency", "0"], "rules pause"),
        (&["set", "t", "--rate", "0/s"], "rules pause"),
        (&["set", "t", "--backlog", "0"], "rules pause"),
    ] {
        place.run(&[&["rules", "--data-dir", "data"], words].concat()).expect(2, &[explanation]);
    }
    assert_eq!(rules(&place, &["list"])["version"], 0, "nothing was changed");
}
