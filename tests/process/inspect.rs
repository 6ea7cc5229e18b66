//! `entries`, `queues` and `status`, on a directory at rest and on one in use.

use serde_json::Value;

use super::{exec, ran};
use crate::place::{Place, until};

const ITEMS: &str = r#"{"n":1,"scope":"a","key":"k"}
{"n":2,"scope":"a","key":"k"}
{"n":3,"scope":"b","key":"l","limit_key":"m"}
{"n":4}
"#;

fn ask(place: &Place, words: &[&str]) -> Value {
    place.json(&[words, &["--data-dir", "data"]].concat())
}

fn count(place: &Place, words: &[&str]) -> usize {
    ask(place, words).as_array().unwrap().len()
}

#[test]
fn both_ways_tell_the_same_things() {
    let place = Place::new();
    place.write("items", ITEMS);
    let script = "echo {n} >> started; while ! test -e go; do sleep 0.02; done; test {n} != 4";
    let running = place
        .start(&exec(&["--ndjson", "--jobs", "4", "--input", "items", "--", "sh", "-c", script]));
    until("all have started that can", || ran(&place, "started").len() == 3);

    assert_eq!(ask(&place, &["status"])["pid"], running.id());
    assert_eq!(ask(&place, &["status"])["running"], 3);
    assert_eq!(count(&place, &["entries"]), 4);
    assert_eq!(count(&place, &["entries", "--stage", "running"]), 3);
    assert_eq!(count(&place, &["entries", "--stage", "inbox", "--scope", "a"]), 1);
    assert_eq!(count(&place, &["entries", "--limit", "2"]), 2);
    let queues = ask(&place, &["queues", "--scope", "a"]);
    assert_eq!((&queues[0]["inbox"], &queues[0]["running"]), (&1.into(), &1.into()), "{queues}");
    for words in ["status", "entries", "queues"] {
        let text = place.run(&[words, "--data-dir", "data"]).expect(0, &[]).text();
        assert!(text.lines().count() >= 3, "{words}: {text}");
    }

    place.write("go", "");
    running.end().expect(1, &["3 succeeded, 1 failed"]);
    let status = ask(&place, &["status"]);
    assert_eq!(status["running"], 0);
    for partition in status["partitions"].as_array().unwrap() {
        assert_eq!(partition["stopped"], Value::Null, "{status}");
    }
    assert_eq!(count(&place, &["entries", "--stage", "finished"]), 4);
    assert_eq!(count(&place, &["entries", "--stage", "running"]), 0);
    let entries = ask(&place, &["entries"]);
    let failed: Vec<_> =
        entries.as_array().unwrap().iter().filter(|e| e["outcome"] != "success").collect();
    assert_eq!(failed.len(), 1, "{entries}");
    assert!(failed[0]["failure"].as_str().unwrap().contains("exit code 1"), "{}", failed[0]);
    assert_eq!((&failed[0]["scope"], &failed[0]["attempts"]), (&Value::Null, &1.into()));
    let queues = ask(&place, &["queues", "--scope", "b"]);
    assert_eq!(
        (&queues[0]["limit_key"], &queues[0]["finished"], &queues[0]["running"]),
        (&"m".into(), &1.into(), &0.into())
    );
    assert_eq!(count(&place, &["entries", "--service", "other"]), 0);
}

#[test]
fn a_socket_left_by_a_killed_run_is_not_in_the_way() {
    let place = Place::new();
    place.write("items", "1\n");
    let arguments =
        exec(&["--input", "items", "--", "sh", "-c", "test -e quick || { touch on; sleep 60; }"]);
    let running = place.start(&arguments);
    until("it has started", || place.path("on").exists());
    running.kill();
    assert_eq!(count(&place, &["entries"]), 1);
    assert_eq!(ask(&place, &["status"])["running"], 0, "asking starts nothing");
    place.write("quick", "");
    place.run(&arguments).expect(0, &["1 succeeded"]);
}
