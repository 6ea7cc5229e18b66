//! Signals: Ctrl-C once, twice, three times; SIGTERM and SIGHUP; ignored signals; Ctrl-Z. An
//! interrupted run dies of the signal.

use std::{
    fs,
    io::Write,
    process::Command,
    time::{Duration, Instant},
};

use super::{exec, numbers, ran};
use crate::place::{Place, Running, until};

const INT: i32 = -2;
const TERM: i32 = -15;
/// Ends only when it is killed.
const IGNORES_TERM: &str = "trap '' TERM; echo $FOREBAY_ATTEMPT >> ran; test -e quick && exit; \
                    while :; do sleep 0.05; done";

fn started(place: &Place, rest: &[&str], count: usize) -> Running {
    let running = place.start(&exec(&[&["--input", "items"], rest].concat()));
    until("commands have started", || ran(place, "ran").len() == count);
    running
}

#[test]
fn each_ctrl_c_escalates_and_announces_the_next_step() {
    let place = Place::new();
    place.write("items", numbers(3));
    let running = started(&place, &["--jobs", "2", "--", "sh", "-c", IGNORES_TERM], 2);
    let says = |text| until(text, || running.stderr().contains(text));
    running.signal("INT");
    says("stopping: 2 running; Ctrl-C again ends them (SIGTERM)");
    running.signal("INT");
    says("they got SIGTERM and are killed after 10s; Ctrl-C again kills them now");
    running.signal("INT");
    running.end().expect(INT, &["they are killed", "0 succeeded, 0 failed, 3 left"]);
    place.write("quick", "");
    place
        .run(&exec(&["--input", "items", "--", "sh", "-c", IGNORES_TERM]))
        .expect(0, &["3 succeeded"]);
    assert!(ran(&place, "ran").iter().all(|attempt| *attempt == 1), "a killed attempt was counted");
}

/// Items ended by a second Ctrl-C return uncounted, even if they report success.
#[test]
fn items_ended_with_the_run_run_again() {
    let place = Place::new();
    place.write("items", "1\n");
    let script = "echo $FOREBAY_ATTEMPT >> ran; test -e quick && exit; trap 'exit 0' TERM; \
                  while :; do sleep 0.05; done";
    let running = started(&place, &["--", "sh", "-c", script], 1);
    running.signal("INT");
    until("it noticed", || running.stderr().contains("stopping"));
    running.signal("INT");
    running.end().expect(INT, &["0 succeeded, 0 failed, 1 left"]);
    place.write("quick", "");
    let again = exec(&["--input", "items", "--", "sh", "-c", script]);
    place.run(&again).expect(0, &["1 succeeded"]);
    assert_eq!(ran(&place, "ran"), [1, 1]);
}

#[test]
fn one_sigterm_lets_commands_end_within_the_grace() {
    let place = Place::new();
    place.write("items", numbers(10));
    let script = "echo {} >> ran; sleep 0.7; echo {} >> ended";
    let running = started(&place, &["--jobs", "2", "--", "sh", "-c", script], 2);
    running.signal("TERM");
    running.end().expect(TERM, &["they have 10 s to end", "2 succeeded, 0 failed, 8 left"]);
    assert_eq!(ran(&place, "ended").len(), 2);

    for signal in ["TERM", "HUP"] {
        let place = Place::new();
        place.write("items", numbers(2));
        let rest = ["--jobs", "1", "--grace", "500ms", "--", "sh", "-c", IGNORES_TERM];
        let running = started(&place, &rest, 1);
        let begun = Instant::now();
        running.signal(signal);
        let code = if signal == "TERM" { TERM } else { -1 };
        running.end().expect(code, &["they got SIGTERM", "2 left"]);
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(60), "{took:?}");
    }
}

#[test]
fn signals_ignored_at_the_start_stay_ignored() {
    let place = Place::new();
    place.write("items", "1\n");
    let script = "echo {} >> ran; until test -e go; do sleep 0.02; done";
    let mut deaf = Command::new("sh");
    deaf.args(["-c", "trap '' HUP INT; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_forebay")]);
    deaf.args(exec(&["--input", "items", "--", "sh", "-c", script]));
    deaf.current_dir(place.path("")).stdin(std::process::Stdio::null());
    let running = place.start_command(deaf);
    until("it has started", || ran(&place, "ran").len() == 1);
    running.signal("HUP");
    running.signal("INT");
    std::thread::sleep(Duration::from_millis(200));
    place.write("go", "");
    let done = running.end().expect(0, &["1 succeeded"]);
    assert!(!done.stderr.contains("stopping"), "{}", done.stderr);
}

/// Regression: the exit code was 0, and a surrounding shell loop continued.
#[test]
fn a_run_interrupted_while_reading_its_input_dies_of_the_signal() {
    for (signal, code) in [("INT", INT), ("TERM", TERM)] {
        let place = Place::new();
        assert!(place.system("mkfifo", &["items"]));
        let mut options = fs::OpenOptions::new();
        let mut silent = options.read(true).write(true).open(place.path("items")).unwrap();
        std::io::Write::write_all(&mut silent, b"1\n").unwrap();
        let running = started(&place, &["--", "sh", "-c", "echo {} >> ran"], 1);
        running.signal(signal);
        running.end().expect(code, &["succeeded"]);
    }
    let place = Place::new();
    place.write("items", numbers(2));
    let rest = ["--json", "--jobs", "1", "--", "sh", "-c", "echo {} >> ran; sleep 0.5"];
    let running = started(&place, &rest, 1);
    running.signal("INT");
    let done = running.end().expect(INT, &[]);
    assert!(done.text().contains("\"exit_code\":130"), "{}", done.text());
}

/// The state of a process: R, S, T, …
fn state(id: u64) -> char {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let after = stat.rfind(')').map_or("", |at| &stat[at..]);
    after.chars().nth(2).unwrap_or('?')
}

/// Runs until a file `go` exists; `ran` contains its process id.
const UNTIL_GO: &str = "echo $$ >> ran; until test -e go; do sleep 0.02; done";

fn stop(running: &Running, command: u64) {
    running.signal("TSTP");
    let forebay = u64::from(running.id());
    until("both are stopped", || state(command) == 'T' && state(forebay) == 'T');
}

#[test]
fn ctrl_z_stops_and_continues_the_commands_too() {
    let place = Place::new();
    place.write("items", "1\n");
    let running = started(&place, &["--", "sh", "-c", UNTIL_GO], 1);
    let command = ran(&place, "ran")[0];
    let forebay = u64::from(running.id());
    for _ in 0..3 {
        stop(&running, command);
        running.signal("CONT");
        until("both continue", || state(command) != 'T' && state(forebay) != 'T');
    }
    place.write("go", "");
    running.end().expect(0, &["1 succeeded"]);
}

#[test]
fn a_timeout_does_not_count_suspended_time() {
    let place = Place::new();
    place.write("items", "1\n");
    let running = started(&place, &["--timeout", "8s", "--", "sh", "-c", UNTIL_GO], 1);
    stop(&running, ran(&place, "ran")[0]);
    std::thread::sleep(Duration::from_secs(9));
    place.write("go", "");
    running.signal("CONT");
    running.end().expect(0, &["1 succeeded"]);
}

/// Regression: items that ended after Ctrl-C were printed out of order with `--keep-order`, and not
/// at all with `--json`.
#[test]
fn items_ending_after_ctrl_c_are_reported_in_order_and_in_every_format() {
    for form in ["--keep-order", "--json", "--tag"] {
        let place = Place::new();
        place.write("items", numbers(30));
        let script = "echo $1 >> ran; while ! test -e go; do sleep 0.02; done; echo said $1";
        let rest = ["--jobs", "8", form, "--", "sh", "-c", script, "_", "{}"];
        let running = started(&place, &rest, 8);
        running.signal("INT");
        until("it noticed", || running.stderr().contains("stopping"));
        place.write("go", "");
        let done = running.end().expect(INT, &[]);
        let text = done.text();
        let mut lines: Vec<&str> = text.lines().collect();
        match form {
            "--keep-order" => {}
            _ => lines.sort_unstable(),
        }
        for item in 1..=8 {
            let expected = match form {
                "--keep-order" => format!("said {item}"),
                "--tag" => format!("{item}\tsaid {item}"),
                _ => format!("said {item}\\n\""),
            };
            assert!(lines.iter().any(|line| line.contains(&expected)), "{expected}: {done:?}");
        }
        if form == "--keep-order" {
            assert_eq!(lines, (1..=8).map(|item| format!("said {item}")).collect::<Vec<_>>());
        }
        let json = r#""succeeded":8,"failed":0"#;
        let summary = if form == "--json" { &text } else { &done.stderr };
        assert!(summary.contains("8 succeeded, 0 failed, 22 left") || summary.contains(json));
    }
}

/// Regression: interrupted while storing its input, it failed with `the runtime is shut down` and
/// exit code 2.
#[test]
fn ctrl_c_while_storing_the_input_is_not_a_failure() {
    let place = Place::new();
    let set = ["rules", "set", "s", "--concurrency", "1", "--data-dir", "data"];
    place.run(&set).expect(0, &[]);
    place.run(&["rules", "pause", "s", "--data-dir", "data"]).expect(0, &[]);
    for round in 0..4 {
        // Nothing runs, and the input does not end: the interrupt hits the storing of items.
        let mut command = place.command(&exec(&["--scope", "s", "--", "true"]));
        let (reader, mut writer) = std::io::pipe().unwrap();
        command.stdin(reader);
        let running = place.start_command(command);
        let feeding = std::thread::spawn(move || {
            let mut number = round * 100_000_000_u64;
            while writer.write_all(format!("{number}\n").as_bytes()).is_ok() {
                number += 1;
            }
        });
        let entries = ["entries", "--data-dir", "data", "--count"];
        let count = || place.run(&entries).text().trim().parse().unwrap_or(0_u64);
        let before = count();
        until("items are stored", || count() > before + 200);
        running.signal("INT");
        running.end().expect(INT, &[" left (the same command line continues)"]);
        feeding.join().unwrap();
    }
}
