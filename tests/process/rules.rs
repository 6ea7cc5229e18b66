//! `forebay rules`, on a directory not in use and on one in use.

use super::{exec, numbers};
use crate::place::{Place, until};

#[test]
fn on_a_directory_at_rest() {
    let place = Place::new();
    place.write("items", "1\n");
    place.run(&exec(&["--input", "items", "--rule", "a=2", "--", "true"])).expect(0, &[]);
    all_commands(&place);
    // A run's own rules are added to the existing ones.
    place.run(&exec(&["--input", "items", "--rule", "b=2", "--", "true"])).expect(0, &[]);
    let book = rules(&place, &["list"]);
    assert_eq!(patterns(&book), ["a", "b"]);
}

#[test]
fn on_a_directory_in_use() {
    let place = Place::new();
    place.write("items", "1\n");
    let wait = "touch started; while ! test -e go; do sleep 0.02; done";
    let running =
        place.start(&exec(&["--input", "items", "--rule", "a=2", "--", "sh", "-c", wait]));
    until("it has started", || place.path("started").exists());
    all_commands(&place);
    place.write("go", "");
    running.end().expect(0, &[]);
    assert_eq!(patterns(&rules(&place, &["list"])), ["a"], "changes are kept");
}

/// `rules …` with `--json`.
fn rules(place: &Place, words: &[&str]) -> serde_json::Value {
    place.json(&[&["rules", "--data-dir", "data"], words].concat())
}

fn patterns(book: &serde_json::Value) -> Vec<&str> {
    let rules = book["rules"].as_array().unwrap();
    let mut patterns: Vec<_> = rules.iter().map(|rule| rule["pattern"].as_str().unwrap()).collect();
    patterns.sort_unstable();
    patterns
}

/// Starts from a book with `a=2` as version 1, ends with the same rules.
fn all_commands(place: &Place) {
    let ask = |words: &[&str]| rules(place, words);
    let refused = |words: &[&str], expected: &[&str]| {
        let words = [&["rules", "--data-dir", "data"], words].concat();
        place.run(&words).expect_refused(expected);
    };
    assert_eq!(ask(&["list"])["version"], 1);
    let book = ask(&["set", "*/x", "--concurrency", "5", "--description", "why"]);
    assert_eq!((&book["version"], patterns(&book)), (&2.into(), vec!["*/x", "a"]));
    let rule = |book: &serde_json::Value, pattern: &str| {
        let rules = book["rules"].as_array().unwrap();
        rules.iter().find(|rule| rule["pattern"] == pattern).unwrap().clone()
    };
    assert_eq!(rule(&book, "*/x")["concurrency"], 5);
    let book = ask(&["set", "*/x", "--concurrency", "none"]);
    let changed = rule(&book, "*/x");
    assert_eq!(
        (&changed["concurrency"], &changed["description"], &changed["version"]),
        (&serde_json::Value::Null, &"why".into(), &book["version"]),
        "only the given limits change"
    );
    assert_eq!(rule(&ask(&["disable", "a"]), "a")["disabled"], true);
    assert_eq!(rule(&ask(&["enable", "a"]), "a")["disabled"], false);
    refused(&["set", "a", "--concurrency", "1", "--if-version", "1"], &["expected version 1"]);
    refused(&["set", "a b", "--concurrency", "1"], &["a b"]);
    refused(&["set", "a"], &["--concurrency"]);
    refused(&["delete", "nothing"], &["no rule `nothing`"]);
    refused(&["rollback", "77"], &["version 77"]);
    let book = ask(&["delete", "a"]);
    assert_eq!((&book["version"], patterns(&book)), (&6.into(), vec!["*/x"]));
    let book = ask(&["rollback", "1"]);
    assert_eq!((&book["version"], patterns(&book)), (&7.into(), vec!["a"]));
    let history = ask(&["history"]);
    let versions: Vec<_> =
        history.as_array().unwrap().iter().map(|book| &book["version"]).collect();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6, 7]);
    let table = place.run(&["rules", "list", "--data-dir", "data"]).expect(0, &[]).text();
    assert!(table.contains("rule book version 7") && table.contains("PATTERN"), "{table}");
}

#[test]
fn a_run_waits_for_room_where_a_rule_limits_the_backlog() {
    let place = Place::new();
    place.write("items", "0\n");
    place.run(&exec(&["--input", "items", "--", "true"])).expect(0, &[]);
    let limits = ["--backlog", "3", "--concurrency", "1"];
    rules(&place, &[&["set", "*"], &limits[..]].concat());
    // Two scopes, in the same or different partitions; one item occurs twice.
    let items: String = (1..=40).map(|n| format!("{{\"n\":{n},\"s\":\"s{}\"}}\n", n % 2)).collect();
    place.write("items", items.clone() + items.lines().next().unwrap());
    let rest = ["--ndjson", "--input", "items", "--scope", "{s}", "--key", "k"];
    let script = "echo {n} >> trace; sleep 0.1";
    let arguments = exec(&[&rest[..], &["--", "sh", "-c", script]].concat());
    let mut running = place.start(&arguments);
    // Inspecting a directory not in use opens it, and would lock out the starting run.
    until("it runs", || !super::ran(&place, "trace").is_empty());
    let (mut most, mut is_shown) = (0, false);
    while running.is_running() {
        let queues = place.run(&["queues", "--json", "--data-dir", "data"]);
        let queues: serde_json::Value = serde_json::from_slice(&queues.stdout).unwrap_or_default();
        for queue in queues.as_array().into_iter().flatten() {
            most = most.max(queue["inbox"].as_u64().unwrap());
        }
        let limits = place.run(&["limits", "--json", "--data-dir", "data"]).text();
        is_shown |= limits.contains("\"backlog\":3,\"backlog_limit\":3");
    }
    let done = running.end().expect(0, &["40 succeeded", "waits for room", "rule `*` allows 3"]);
    assert!(!done.stderr.contains("earlier"), "all were stored by this run: {}", done.stderr);
    assert_eq!(most, 3, "exactly the maximum waited");
    assert!(is_shown, "`limits` shows the backlog");
    let ran = super::ran(&place, "trace");
    for scope in 0..2 {
        let of: Vec<_> = ran.iter().copied().filter(|n| n % 2 == scope).collect();
        assert!(of.is_sorted() && of.len() == 20, "in the order of the input: {of:?}");
    }
    place.run(&arguments).expect(0, &["40"]);
    assert_eq!(super::ran(&place, "trace").len(), 40, "nothing runs again");
}

/// Maximum number of open `s` and `e` lines, after the line `from`.
fn open_max(lines: &[String], from: usize) -> usize {
    let (mut open, mut max) = (0_usize, 0);
    for (at, line) in lines.iter().enumerate() {
        match line.as_str() {
            "s" => open += 1,
            _ => open -= 1,
        }
        if at >= from {
            max = max.max(open);
        }
    }
    max
}

#[test]
fn lowering_a_rule_takes_effect_on_the_running_process_and_so_does_raising() {
    let place = Place::new();
    place.write("items", numbers(200));
    // The order of the lines of one file is a possible order of events.
    let script = "echo s >> trace; sleep 0.05; echo e >> trace";
    let rest = ["--input", "items", "--jobs", "6", "--scope", "t", "--rule", "*=4"];
    let running = place.start(&exec(&[&rest[..], &["--", "sh", "-c", script]].concat()));
    until("some have run", || place.lines("trace").len() > 30);
    rules(&place, &["set", "*", "--concurrency", "1"]);
    let lowered = place.lines("trace").len();
    until("some have run one by one", || place.lines("trace").len() > lowered + 40);
    rules(&place, &["set", "*", "--concurrency", "6"]);
    let raised = place.lines("trace").len();
    running.end().expect(0, &["200 succeeded"]);

    let lines = place.lines("trace");
    assert_eq!(open_max(&lines[..lowered], 0), 4, "four at first");
    // At most four ran when it was lowered, and one more end may have been in progress.
    let settled = lowered + 8;
    assert_eq!(open_max(&lines[..raised - 6], settled), 1, "one while the rule said so");
    assert_eq!(open_max(&lines, raised), 6, "six at the end");
}

#[test]
fn testing_rules_shows_their_effect_and_changes_nothing() {
    let place = Place::new();
    let items: String = (0..10).map(|n| format!("{{\"n\":{n},\"l\":{}}}\n", n % 2)).collect();
    place.write("items", items);
    let rest = ["--ndjson", "--input", "items", "--scope", "t", "--limit-key", "l{l}"];
    let arguments = exec(
        &[&rest[..], &["--rule", "t=2", "--", "sh", "-c", "touch on; test -e go || sleep 60"]]
            .concat(),
    );
    let running = place.start(&arguments);
    until("it has started", || place.path("on").exists());
    until("two run", || place.json(&["status", "--data-dir", "data"])["running"] == 2);

    let test = |words: &[&str]| rules(&place, &[&["test"], words].concat());
    let impact = test(&["t=6", "*/*=2", "--key", "t/l1"]);
    let patterns: Vec<_> = impact["governs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|level| (&level["key"], &level["now"]["pattern"], &level["then"]["concurrency"]))
        .collect();
    let (t, l1, six, two) = ("t".into(), "t/l1".into(), 6.into(), 2.into());
    assert_eq!(patterns, [(&t, &t, &six), (&l1, &serde_json::Value::Null, &two)], "{impact}");
    let numbers = |impact: &serde_json::Value| {
        ["running", "waiting", "start_now", "start_then"].map(|name| impact[name].as_u64().unwrap())
    };
    assert_eq!(numbers(&impact), [2, 8, 0, 2], "two at each of two keys, two run: {impact}");
    assert_eq!(numbers(&test(&["t=none"])), [2, 8, 0, 8]);
    let lowered = test(&["t=1"]);
    assert_eq!((numbers(&lowered), &lowered["keys"][0]["over_then"]), ([2, 8, 0, 0], &1.into()));
    assert_eq!(test(&["t=none", "--limit", "1"])["keys"].as_array().unwrap().len(), 1);
    let expected = place.run(&["rules", "test", "t=6", "--key", "t", "--data-dir", "data"]);
    let expected = expected.expect(0, &[]).text();
    let governs = "t: governed by `t` (concurrency 2) now, by `t` (concurrency 6) then";
    for part in [governs, "2 run, 8 wait; of those could start now 0, then 4", "START THEN"] {
        assert!(expected.contains(part), "no `{part}` in {expected}");
    }
    assert_eq!(rules(&place, &["list"])["version"], 1, "nothing changed");
    let refused = |words: &[&str], expected: &str| {
        let done = place.run(&[&["rules", "test", "--data-dir", "data"], words].concat());
        done.expect(2, &[expected]);
    };
    refused(&["t=1", "--key", "t/*"], "a key has no `*`");
    refused(&["t"], "PATTERN=N");
    refused(&[], "PATTERN=N");
    refused(&["t=0"], "`0` is not a limit");

    running.kill();
    let at_rest = test(&["t=6"]);
    assert_eq!(at_rest["waiting"].as_u64().unwrap() + at_rest["running"].as_u64().unwrap(), 10);
}
