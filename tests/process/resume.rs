//! How a second run continues the first one.

use std::time::Duration;

use super::{exec, numbers, ran};
use crate::place::{Place, until};

#[test]
fn ctrl_c_lets_running_items_end_and_the_next_run_does_the_rest() {
    let place = Place::new();
    place.write("items", numbers(30));
    let script = "echo {} >> started; sleep 0.3; echo {} >> ended";
    let arguments = exec(&["--input", "items", "--jobs", "2", "--", "sh", "-c", script]);
    let running = place.start(&arguments);
    until("four have started", || ran(&place, "started").len() >= 4);
    running.interrupt();
    let done = running.end().expect(-2, &["left (the same command line continues)"]);
    let (started, ended) = (ran(&place, "started"), ran(&place, "ended"));
    assert!(started.len() < 10, "it continued: {started:?}, {done:?}");
    assert_eq!(started.len(), ended.len(), "commands did not end: {done:?}");

    place.run(&arguments).expect(0, &[]);
    let (mut started, mut ended) = (ran(&place, "started"), ran(&place, "ended"));
    started.sort_unstable();
    ended.sort_unstable();
    assert_eq!(started, (1..=30).collect::<Vec<_>>(), "each is started once");
    assert_eq!(ended, started);
}

#[test]
fn ctrl_c_twice_ends_running_items_and_they_run_again() {
    let place = Place::new();
    place.write("items", "1\n");
    let script = "echo {} >> started; test -e quick || sleep 600; echo {} >> ended";
    let arguments = exec(&["--input", "items", "--", "sh", "-c", script]);
    let running = place.start(&arguments);
    until("it has started", || ran(&place, "started").len() == 1);
    running.interrupt();
    std::thread::sleep(Duration::from_millis(100));
    running.interrupt();
    running.end().expect(-2, &[]);
    place.write("quick", "");
    place.run(&arguments).expect(0, &["1 succeeded"]);
    assert_eq!((ran(&place, "started"), ran(&place, "ended")), (vec![1, 1], vec![1]));
}

/// Regression: the item was a dead letter after five kills, as if it had been the cause.
#[test]
fn an_item_runs_again_after_any_number_of_kills() {
    let place = Place::new();
    place.write("items", "1\n");
    let script = "echo {} >> started; test -e quick || sleep 60";
    let arguments = exec(&["--input", "items", "--", "sh", "-c", script]);
    for kills in 1..=8 {
        let running = place.start(&arguments);
        until("it has started", || ran(&place, "started").len() == kills);
        running.kill();
    }
    place.write("quick", "");
    place.run(&arguments).expect(0, &["1 succeeded"]);
}

#[test]
fn the_same_input_twice_runs_nothing_and_again_forces_it() {
    let place = Place::new();
    place.write("items", numbers(50));
    let rest = ["--input", "items", "--", "sh", "-c", "echo {} >> started"];
    let arguments = exec(&rest);
    place.run(&arguments).expect(0, &["50 succeeded"]);
    let done = place.run(&arguments).expect(0, &["50 were done before"]);
    assert_eq!(done.text(), "", "outputs are not printed again");
    assert_eq!(ran(&place, "started").len(), 50);
    // A longer input: only the new items run.
    place.write("items", numbers(60));
    place.run(&arguments).expect(0, &["10 succeeded"]);
    assert_eq!(ran(&place, "started").len(), 60);
    // The same item twice in one input is one item.
    place.write("items", format!("{}{}", numbers(61), numbers(61)));
    place.run(&arguments).expect(0, &["1 succeeded"]);
    assert_eq!(ran(&place, "started").len(), 61);
    // Another command makes other items.
    place.run(&exec(&["--input", "items", "--", "true"])).expect(0, &["61 succeeded"]);
    let entries = place.json(&["entries", "--data-dir", "data", "--limit", "1000"]);
    assert_eq!(entries.as_array().unwrap().len(), 122);
    place.run(&[&exec(&["--again"])[..], &rest].concat()).expect(0, &["61 succeeded"]);
    assert_eq!(ran(&place, "started").len(), 122);
}

#[test]
fn retries_then_final_failure_until_retry_failed() {
    let place = Place::new();
    place.write("items", numbers(4));
    let script =
        "echo {} >> started; test {} != 3 || test -e repaired || { echo why >&2; exit 7; }";
    let with = |more: &[&'static str]| {
        [&exec(more)[..], &["--input", "items", "--retries", "2", "--", "sh", "-c", script]]
            .concat()
    };
    let count = |item: u64| ran(&place, "started").iter().filter(|n| **n == item).count();
    place
        .run(&with(&["--results", "results"]))
        .expect(1, &["3 succeeded, 1 failed", "exit code 7: why"]);
    assert_eq!((count(3), count(1)), (3, 1));
    let results = crate::place::objects(&place.path("results/results.ndjson"));
    let failed = results.iter().find(|line| line["line"] == 3).unwrap();
    assert_eq!(
        (&failed["status"], &failed["exit_code"], &failed["attempts"]),
        (&"failed".into(), &7.into(), &3.into()),
        "{failed}"
    );
    // Final, and still a failure of the run.
    place.run(&with(&[])).expect(1, &["1 had failed before"]);
    assert_eq!(count(3), 3);
    place.run(&with(&["--retry-failed"])).expect(1, &["1 failed"]);
    assert_eq!(count(3), 6, "it gets all its attempts again");
    place.write("repaired", "");
    place.run(&with(&["--retry-failed"])).expect(0, &["1 succeeded"]);
    place.run(&with(&[])).expect(0, &[]);
    assert_eq!((count(3), count(1)), (7, 1));
}

#[test]
fn a_retry_that_succeeds_is_a_success_and_keeps_the_order_of_its_key() {
    let place = Place::new();
    place.write("items", numbers(3));
    let script = "echo {} >> started; test {} != 1 || test $(grep -c 1 started) = 3";
    let rest = ["--key", "k", "--retries", "5", "--input", "items", "--", "sh", "-c", script];
    place.run(&exec(&rest)).expect(0, &["3 succeeded"]);
    assert_eq!(ran(&place, "started"), [1, 1, 1, 2, 3], "retries included");
}

#[test]
fn orphans_of_a_killed_run_are_ended_before_the_next_starts() {
    let place = Place::new();
    place.write("items", "1\n");
    // The child leaves its process group's leader and keeps running.
    let script = "echo {} >> started; test -e quick && exit; \
                  (sleep 1.5; echo 9 >> late) & sleep 1.5; echo 9 >> late";
    let arguments = exec(&["--input", "items", "--", "sh", "-c", script]);
    let running = place.start(&arguments);
    until("it has started", || ran(&place, "started").len() == 1);
    running.kill();
    place.write("quick", "");
    place.run(&arguments).expect(0, &["1 succeeded"]);
    std::thread::sleep(Duration::from_millis(1700));
    assert_eq!(ran(&place, "late"), Vec::<u64>::new(), "an orphan continued");
    assert_eq!(ran(&place, "started"), [1, 1]);
}

/// Regression: items left by a killed run were run again at once, whether named or not.
#[test]
fn items_of_a_killed_run_start_again_when_named() {
    let place = Place::new();
    place.write("items", "1\n");
    let script = "echo {} >> started; test -e quick && echo said && exit; sleep 5";
    let running = place.start(&exec(&["--input", "items", "--", "sh", "-c", script]));
    until("it has started", || ran(&place, "started").len() == 1);
    running.kill();
    place.write("quick", "");
    assert!(place.system("mkfifo", &["later"]));
    let running = place.start(&exec(&["--input", "later", "--", "sh", "-c", script]));
    let mut later = std::fs::OpenOptions::new().write(true).open(place.path("later")).unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(ran(&place, "started").len(), 1, "it is not in the input so far");
    std::io::Write::write_all(&mut later, b"1\n").unwrap();
    drop(later);
    let done = running.end().expect(0, &["1 succeeded"]);
    assert_eq!(String::from_utf8_lossy(&done.stdout), "said\n");
}
