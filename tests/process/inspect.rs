//! `entries`, `queues` and `status`, on a directory not in use and on one in use.

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
fn both_ways_give_the_same_answers() {
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
    assert_eq!((&status["running"], &status["pid"]), (&0.into(), &Value::Null));
    let text = place.run(&["status", "--data-dir", "data"]).expect(0, &[]).text();
    assert!(text.contains("no process has the data directory open"), "{text}");
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
    assert_eq!(count(&place, &["queues"]), 0, "none has anything to do");
    let queues = ask(&place, &["queues", "--all", "--scope", "b"]);
    assert_eq!(
        (&queues[0]["limit_key"], &queues[0]["finished"], &queues[0]["running"]),
        (&"m".into(), &1.into(), &0.into())
    );
    assert_eq!(count(&place, &["entries", "--service", "other"]), 0);
}

#[test]
fn a_socket_left_by_a_killed_run_does_not_matter() {
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

#[test]
fn explain_and_limits_on_a_directory_in_use_and_at_rest() {
    let place = Place::new();
    place.write("items", "1\n2\n3\n");
    let script = "touch on; while ! test -e go; do sleep 0.02; done";
    let arguments = ["--input", "items", "--scope", "t", "--key", "k", "--rule", "t=1"];
    let arguments = exec(&[&arguments[..], &["--", "sh", "-c", script]].concat());
    let running = place.start(&arguments);
    until("it has started", || place.path("on").exists());
    let id = |stage: &str, at: usize| {
        let entries = ask(&place, &["entries", "--stage", stage]);
        entries[at]["id"].as_str().unwrap().to_owned()
    };
    let places = |stage: &str| -> Vec<Value> {
        let found = ask(&place, &["entries", "--stage", stage]);
        let ids = found.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap());
        ids.map(|id| ask(&place, &["explain", id])).collect()
    };
    let is = |block: &Value, reason: &str| block["reason"] == reason;
    until("the others wait", || {
        let waiting = places("inbox");
        waiting.len() == 2
            && waiting.iter().all(|explained| {
                let blocked = explained["blocked_by"].as_array().unwrap();
                blocked.iter().any(|block| is(block, "concurrency"))
                    && blocked.iter().any(|block| is(block, "lock"))
            })
    });
    let mut ahead: Vec<_> = places("inbox").iter().map(|one| one["ahead"].as_u64()).collect();
    ahead.sort_unstable();
    assert_eq!(ahead, [Some(0), Some(1)]);
    let text = |words: &[&str]| {
        place.run(&[words, &["--data-dir", "data"]].concat()).expect(0, &[]).text()
    };
    let explanation = text(&["explain", &id("inbox", 0)]);
    for part in ["waits", "t is full: 1 of 1 run, by rule `t` (rul_", "is held by ent_"] {
        assert!(explanation.contains(part), "no `{part}` in {explanation}");
    }
    assert!(text(&["explain", &id("running", 0)]).contains("runs since"));
    let limits = ask(&place, &["limits", "--scope", "t"]);
    assert_eq!((&limits[0]["usage"], &limits[0]["limit"]), (&1.into(), &1.into()), "{limits}");
    assert_eq!(count(&place, &["limits", "--scope", "u"]), 0);
    assert!(text(&["limits"]).contains("WAITING VQUEUES"));
    let unknown = "ent_000000000000000000000000000000000";
    place.run(&["explain", unknown, "--data-dir", "data"]).expect_refused(&[unknown]);

    running.kill();
    let explained = ask(&place, &["explain", &id("inbox", 0)]);
    let blocked = explained["blocked_by"].as_array().unwrap();
    assert!(blocked.iter().any(|block| is(block, "not_led")), "{explained}");
    assert_eq!(explained["rules"][0]["pattern"], "t");
    assert!(text(&["explain", &id("inbox", 0)]).contains("no process leads partition"));
    place.write("go", "");
    place.run(&arguments).expect(0, &["3 succeeded"]);
    assert!(text(&["explain", &id("finished", 0)]).contains("has ended: success"));
}
