//! Options of `forebay exec`: how the input is split, what is printed, what a dry run does.

use std::time::{Duration, Instant};

use super::{exec, numbers, ran};
use crate::place::{Place, until};

/// Sorted lines of a text.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn items_may_end_with_any_character() {
    let place = Place::new();
    let done = place.feed(&exec(&["-d", ",", "--", "echo"]), b"a,b c,d\n").expect(0, &[]);
    assert_eq!(sorted(&done.text()), ["a", "b c", "d"], "the final newline is not part of an item");
    let done = place.feed(&exec(&["-d", r"\t", "--", "echo", "x"]), b"1\t2").expect(0, &[]);
    assert_eq!(sorted(&done.text()), ["x 1", "x 2"]);
    place.run(&exec(&["-d", "ab", "--", "true"])).expect(2, &["`ab` is not a delimiter"]);
    place.run(&exec(&["-d", ",", "-0", "--", "true"])).expect(2, &["cannot be used with"]);
}

#[test]
fn several_items_may_share_a_command_and_a_second_run_has_nothing_to_do() {
    let place = Place::new();
    let arguments = exec(&["-n", "3", "--", "echo", "of", "{}", "end"]);
    let done = place.feed(&arguments, numbers(7).as_bytes()).expect(0, &["3 succeeded"]);
    assert_eq!(sorted(&done.text()), ["of 1 2 3 end", "of 4 5 6 end", "of 7 end"]);
    place.feed(&arguments, numbers(7).as_bytes()).expect(0, &["3 were done before"]);
    let done = place.feed(&exec(&["-n2", "--", "echo"]), b"a\nb\nc\n").expect(0, &[]);
    assert_eq!(sorted(&done.text()), ["a b", "c"], "appended");
    // Where a template needs one item, each one is reported.
    let base = exec(&["-n", "2", "--", "echo", "{/}"]);
    place.feed(&base, b"a\nb\nc\n").expect(1, &["line 1: COMMAND: the item has 2", "1 succeeded"]);
}

#[test]
fn windows_line_ends_are_reported_and_can_be_read() {
    let place = Place::new();
    let input = b"a\r\nb\r\n";
    let done = place.feed(&exec(&["--", "echo"]), input).expect(0, &["--crlf removes it"]);
    assert_eq!(done.stderr.matches("CR LF").count(), 1, "once: {}", done.stderr);
    assert_eq!(sorted(&done.text()).len(), 2);
    let done = place.feed(&exec(&["--crlf", "--", "echo", "x"]), input).expect(0, &[]);
    assert_eq!(sorted(&done.text()), ["x a", "x b"]);
    assert!(!done.stderr.contains("CR LF"), "{}", done.stderr);
}

#[test]
fn the_number_of_an_item_can_be_used() {
    let place = Place::new();
    let done = place.feed(&exec(&["--", "echo", "{#}:{}"]), b"a\n\nb\n").expect(0, &[]);
    assert_eq!(sorted(&done.text()), ["1:a", "3:b"]);
}

#[test]
fn outputs_can_be_tagged_line_by_line() {
    let place = Place::new();
    let script = r#"printf '1\n2'; echo e >&2"#;
    let done = place.feed(&exec(&["--tag", "--", "sh", "-c", script, "_", "{}"]), b"a\nb\n");
    let done = done.expect(0, &["a\te\n", "b\te\n"]);
    assert_eq!(sorted(&done.text()), ["a\t1", "a\t2", "b\t1", "b\t2"]);
}

#[test]
fn quiet_reports_only_errors() {
    let place = Place::new();
    let done = place.feed(&exec(&["--quiet", "--", "echo"]), b"1\n1\n").expect(0, &[]);
    assert_eq!((done.text().as_str(), done.stderr.as_str()), ("1\n", ""));
    let done = place.feed(&exec(&["-q", "--", "false"]), b"1\n").expect(1, &["failed: false 1"]);
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
}

#[test]
fn a_dry_run_prints_commands_and_leaves_nothing_behind() {
    let place = Place::new();
    let words = ["--scope", "{ext}", "--", "touch", "out/{}"];
    let arguments = exec(&[&["--dry-run"], &words[..]].concat());
    let input = b"a.b\na b\na.b\nit's\n";
    let done = place.feed(&arguments, input).expect(0, &["3 would run, 1 named twice"]);
    assert_eq!(done.text(), "touch out/a.b\ntouch 'out/a b'\ntouch 'out/it'\\''s'\n");
    let with_json = exec(&["--json", "--dry-run", "--scope", "{ext}", "--", "echo", "{}"]);
    let done = place.feed(&with_json, b"a.b\n").expect(0, &[]);
    let line: serde_json::Value = serde_json::from_str(&done.text()).unwrap();
    assert_eq!(
        (&line["scope"], &line["item"], &line["line"]),
        (&"b".into(), &"a.b".into(), &1.into())
    );
    place.feed(&exec(&["--dry-run", "--", "echo"]), b"a\0\nb\n").expect(1, &["line 1: a NUL"]);
    place
        .feed(&exec(&["--dry-run", "--strict", "--", "echo"]), b"a\0\n")
        .expect_refused(&["line 1"]);
    assert!(!place.path("data").exists() && !place.path("forebay-data").exists());
}

#[test]
fn duplicate_items_are_reported_and_counted() {
    let place = Place::new();
    let done = place.feed(&exec(&["--", "echo"]), b"a\nb\na\na\na\na\n");
    let expected = ["item 3 came before", "item 5 came before in this input, too", "4 named twice"];
    let done = done.expect(0, &expected);
    assert!(!done.stderr.contains("item 6"), "{}", done.stderr);
    assert_eq!(sorted(&done.text()), ["a", "b"]);
}

#[test]
fn a_failed_item_waits_as_long_as_it_should() {
    let place = Place::new();
    let script = "date +%s.%N >> tries; exit 1";
    let retry = ["--retries", "2", "--retry-delay", "300ms", "--backoff", "3"];
    let arguments = exec(&[&retry[..], &["--", "sh", "-c", script]].concat());
    place.feed(&arguments, b"a\n").expect(1, &["1 failed"]);
    let times: Vec<f64> = place.lines("tries").iter().map(|at| at.parse().unwrap()).collect();
    let [first, second, third] = times[..] else { panic!("not three tries: {times:?}") };
    assert!(second - first >= 0.29 && third - second >= 0.89, "{times:?}");
    place.run(&exec(&["--retry-delay", "1", "--", "true"])).expect(2, &["--retries"]);
    let factor = exec(&["--retries", "1", "--backoff", "0.5", "--", "true"]);
    place.run(&factor).expect(2, &["`0.5` is not a factor"]);
}

#[test]
fn a_command_in_one_word_and_a_missing_dash_dash_are_explained() {
    let place = Place::new();
    place.write("items", numbers(2));
    let refused = |words: &[&str], expected: &[&str]| {
        place.run(&exec(&[&["-i", "items"], words].concat())).expect_refused(expected);
        assert!(!place.path("data").exists(), "{words:?}");
    };
    refused(&["--", "cat {} | wc"], &["is one word", r#"sh -c 'cat "$1" | wc' _ {}"#]);
    refused(&["--", "echo {}"], &["is one word", "-- echo {}"]);
    refused(&["echo", "{}"], &["put `--` before the command", "-- echo {}"]);
    refused(&["-j4", "gzip"], &["put `--` before the command", "-- gzip"]);
}

/// Regression: it was one record of 300 MiB, which no log accepts.
#[test]
fn a_batch_of_long_items_is_stored() {
    let place = Place::new();
    let args: Vec<String> = (0..8).map(|n| format!("{n}").repeat(120 * 1024)).collect();
    let input: String = (0..80)
        .map(|id| {
            let line = serde_json::json!({"args": args, "id": id.to_string()});
            format!("{line}\n")
        })
        .collect();
    place.write("items", input);
    let arguments = exec(&["--ndjson", "-i", "items", "--", "true"]);
    place.run(&arguments).expect(0, &["80 succeeded"]);
}

#[test]
fn a_too_long_item_is_reported_and_the_others_run() {
    let place = Place::new();
    let long: Vec<String> = (0..5).map(|n| format!("{n}").repeat(120 * 1024)).collect();
    let line = |args: &[String]| format!("{}\n", serde_json::json!({ "args": args }));
    let long_word = "x".repeat(200 * 1024);
    let input = [line(&["a".to_owned()]), line(&long), line(&[long_word]), line(&["b".to_owned()])];
    place.write("items", input.concat());
    // Seven arguments of 600 KiB.
    let seven = ["{}"; 7];
    let arguments = exec(&[&["--ndjson", "-i", "items", "--", "true"], &seven[..]].concat());
    let expected =
        ["line 2: its command has", "line 3: argument 1 has", "2 succeeded", "2 bad lines"];
    place.run(&arguments).expect(1, &expected);
    // Regression: two items of 600 KiB were above the limit of one entry.
    place.write("items", line(&long));
    place.run(&exec(&["--ndjson", "-i", "items", "--", "true", "{}", "{}"])).expect(0, &[]);
}

#[test]
fn jobs_can_be_changed_while_it_runs() {
    let place = Place::new();
    place.write("items", numbers(40));
    let script = r#"echo "$1" >> started; while ! test -e go; do sleep 0.02; done"#;
    let rest = ["-i", "items", "--jobs", "2", "--", "sh", "-c", script, "_", "{}"];
    let running = place.start(&exec(&rest));
    let jobs = |words: &[&str]| place.run(&[&["jobs", "--data-dir", "data"], words].concat());
    until("two run", || ran(&place, "started").len() == 2);
    let done = jobs(&["5"]).expect(0, &[]);
    assert!(done.text().contains("at most 5 may (2 before)"), "{}", done.text());
    until("five run", || ran(&place, "started").len() == 5);
    assert!(jobs(&["3"]).text().contains("running ones continue"));
    let jobs_shown = place.json(&["jobs", "--data-dir", "data"]);
    assert_eq!((&jobs_shown["running"], &jobs_shown["running_max"]), (&5.into(), &3.into()));
    assert_eq!(ran(&place, "started").len(), 5, "none was started, none was ended");
    jobs(&["0"]).expect(2, &["0 is not in 1..=4096"]);
    place.write("go", "");
    running.end().expect(0, &["40 succeeded"]);
    jobs(&["3"]).expect_refused(&["no process has the data directory open", "--jobs"]);
}

/// A lower number of jobs limits running items even if a rule allows more.
#[test]
fn fewer_jobs_apply_beside_a_rule() {
    let place = Place::new();
    place.write("items", numbers(60));
    std::fs::create_dir(place.path("now")).unwrap();
    let script = r#"touch "now/$1"; ls now | wc -l >> seen; sleep 0.1; rm "now/$1""#;
    let rest = ["-i", "items", "--jobs", "6", "--scope", "s", "--rule", "s=4"];
    let running = place.start(&exec(&[&rest[..], &["--", "sh", "-c", script, "_", "{}"]].concat()));
    until("many ran", || ran(&place, "seen").len() >= 12);
    place.run(&["jobs", "--data-dir", "data", "2"]).expect(0, &[]);
    // After this many further starts, the items that ran before have ended.
    let before = ran(&place, "seen").len() + 8;
    running.end().expect(0, &["60 succeeded"]);
    let counts = ran(&place, "seen");
    assert!(counts.iter().all(|count| *count <= 4), "the rule: {counts:?}");
    assert!(counts[before..].iter().all(|count| *count <= 2), "the jobs: {counts:?}");
    assert!(counts.len() == 60 && counts.contains(&4), "{counts:?}");
}

#[test]
fn rules_may_exist_before_the_first_run() {
    let place = Place::new();
    let set = ["rules", "set", "acme", "--concurrency", "1", "--data-dir", "data"];
    place.run(&["rules", "list", "--data-dir", "data"]).expect_refused(&["no data directory"]);
    place.run(&set).expect(0, &["made a new data directory at data"]);
    place.run(&set).expect(0, &[]);
    let rest = ["--scope", "acme", "--rule", "acme=weight=3,rate=100/s,backlog=50"];
    let done = place.feed(&exec(&[&rest[..], &["--", "echo"]].concat()), b"1\n2\n");
    done.expect(0, &["2 succeeded"]);
    let book = place.json(&["rules", "list", "--data-dir", "data"]);
    let rule = &book["rules"][0];
    assert_eq!((&rule["concurrency"], &rule["weight"]), (&1.into(), &3.into()), "{book}");
    assert_eq!((&rule["backlog"], &rule["rate"]["tokens"]), (&50.into(), &100.into()), "{book}");
}

/// The input is read while the commands run.
#[test]
fn a_slow_input_runs_each_group_of_items_when_complete() {
    let place = Place::new();
    let script = r#"(echo 1; echo 2; sleep 1; echo 3) | "$0" exec -n 2 --data-dir data -- sh -c 'echo "$@" >> said' _"#;
    let begun = Instant::now();
    let binary = env!("CARGO_BIN_EXE_forebay");
    assert!(place.system("sh", &["-c", script, binary]));
    assert_eq!(place.lines("said"), ["1 2", "3"]);
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[test]
fn seconds_may_have_decimals() {
    let place = Place::new();
    place.write("items", "1\n");
    let rest = ["--input", "items", "--timeout", "0.2", "--grace", "0.5", "--", "sleep", "60"];
    let retries = ["--retries", "1", "--retry-delay", "0.01"];
    let done = place.run(&exec(&[&retries[..], &rest].concat()));
    done.expect(1, &["timed out after 200ms", "1 failed"]);
    let wrong = exec(&["--input", "items", "--timeout", "0.0", "--", "true"]);
    place.run(&wrong).expect_refused(&["is not a duration"]);
}
