//! Progress of a run without a terminal for a progress bar.

use super::{exec, numbers, ran};
use crate::place::{Place, Running, until};

/// Waits until a progress line contains this.
#[track_caller]
fn says(running: &Running, text: &str) {
    until(text, || running.stderr().contains(text));
}

#[test]
fn the_progress_shows_what_most_items_wait_for() {
    let place = Place::new();
    let script = r#"echo "$1" >> started; while ! test -e go; do sleep 0.02; done"#;
    let items: String = (1..=60)
        .map(|n| {
            let scope = if n < 10 {
                ""
            } else if n < 40 {
                "acme"
            } else {
                "other"
            };
            format!("{{\"args\":[\"{n}\"],\"scope\":\"{scope}\"}}\n")
        })
        .collect();
    place.write("items", items);
    place.run(&["rules", "pause", "other", "--data-dir", "data"]).expect(0, &[]);
    let rest = ["--ndjson", "-i", "items", "--jobs", "12", "--rule", "acme=3"];
    let running = place.start(&exec(&[&rest[..], &["--", "sh", "-c", script, "_", "{}"]].concat()));
    // Of 30 items of acme three run, and all 9 without a scope.
    until("twelve run", || ran(&place, "started").len() == 12);
    says(&running, "0/60 done, 12 running, 27 wait for acme=3, 21 paused\n");
    place.run(&["rules", "resume", "other", "--data-dir", "data"]).expect(0, &[]);
    says(&running, "27 wait for acme=3, 21 wait for --jobs\n");
    place.write("go", "");
    running.end().expect(0, &["60 succeeded"]);
}

#[test]
fn items_waiting_for_a_retry_or_their_key_are_reported() {
    let place = Place::new();
    place.write("items", numbers(5));
    let script = r#"test -e go || exit 1"#;
    let rest = ["-i", "items", "--jobs", "8", "--retries", "9", "--retry-delay", "1000"];
    let running = place.start(&exec(&[&rest[..], &["--", "sh", "-c", script, "_"]].concat()));
    says(&running, "0 running, 5 wait for their time");
    place.write("go", "");
    place.run(&["reschedule", "--all", "--now", "--data-dir", "data"]).expect(0, &[]);
    running.end().expect(0, &["5 succeeded"]);

    let script = "while ! test -e went; do sleep 0.02; done";
    let rest = ["-i", "items", "--jobs", "8", "--key", "k"];
    let running = place.start(&exec(&[&rest[..], &["--", "sh", "-c", script, "_"]].concat()));
    says(&running, "1 running, 4 wait for their --key");
    place.write("went", "");
    running.end().expect(0, &["5 succeeded"]);
}

/// Regression: nothing was shown while items arrived faster than they could be stored.
#[test]
fn reading_the_input_is_reported_from_the_first_second() {
    let place = Place::new();
    place.write("items", numbers(1_000_000));
    let running = place.start(&exec(&["-i", "items", "--jobs", "1", "--", "sleep", "1"]));
    says(&running, "reading input: ");
    let first = running.stderr();
    let line = first.lines().find(|line| line.contains("reading input: ")).unwrap();
    assert!(line.contains("/") && line.contains("done, reading input: "), "{line}");
    assert!(line.contains("1 running"), "and items already read run: {line}");
    running.kill();
}

#[test]
fn canceled_and_killed_items_are_counted_separately() {
    let place = Place::new();
    place.write("items", numbers(3));
    let script = r#"touch "at$1"; while ! test -e go; do sleep 0.02; done"#;
    let rest = ["-i", "items", "--jobs", "3", "--scope", "s{}", "--"];
    let running = place.start(&exec(&[&rest[..], &["sh", "-c", script, "_", "{}"]].concat()));
    until("all run", || (1..=3).all(|n| place.path(&format!("at{n}")).exists()));
    place.run(&["cancel", "--scope", "s1", "--data-dir", "data"]).expect(0, &[]);
    place.run(&["kill", "--scope", "s2", "--data-dir", "data"]).expect(0, &[]);
    says(&running, "killed: sh -c");
    says(&running, "canceled: sh -c");
    place.write("go", "");
    running.end().expect(1, &["1 succeeded, 0 failed, 1 canceled, 1 killed; "]);
}
