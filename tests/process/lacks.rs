//! Resources that forebay itself lacks (descriptors, processes, disk space, its spawner) are never
//! charged to an item: it waits for them or ends the run, and the item runs again as if it had
//! never started. A preloaded library simulates the shortage.

use std::{fs, process::Command, time::Duration};

use super::{exec, numbers, ran};
use crate::place::{Place, until};

/// A directory whose `forebay` can be made to lack a resource.
struct Starved {
    place: Place,
    library: String,
}

impl Starved {
    fn new() -> Self {
        let place = Place::new();
        let library = place.path("lack_shim.so").to_str().unwrap().to_owned();
        let source = crate::root().join("tests/process/lack_shim.c").display().to_string();
        assert!(
            place.system("cc", &["-shared", "-fPIC", "-O1", "-o", &library, &source, "-ldl"]),
            "cc compiles the library that takes things away"
        );
        Self { place, library }
    }

    /// A command of this directory; it lacks `what` while the file `lack` exists.
    fn command(&self, what: (&str, &str), arguments: &[&str]) -> Command {
        let mut command = self.place.command(arguments);
        command.env("LD_PRELOAD", &self.library).env(what.0, what.1);
        command.env("FOREBAY_LACK", self.place.path("lack"));
        command
    }
}

/// Regression: 183 of these 200 items failed permanently with "Too many open files".
#[test]
fn few_descriptors_make_a_run_slower_and_no_item_fails() {
    let place = Place::new();
    place.write("items", numbers(200));
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_forebay")]);
    let long = "head -c 70000 /dev/zero; echo {} >> ran";
    limited.args(exec(&["--input", "items", "--jobs", "64", "--", "sh", "-c", long]));
    limited.current_dir(place.path("")).stdin(std::process::Stdio::null());
    let done = place.start_command(limited).end();
    let done = done.expect(0, &["200 succeeded", "the others wait: at most 64 files"]);
    assert_eq!((done.stdout.len(), ran(&place, "ran").len()), (200 * 70_000, 200));
}

#[test]
fn it_waits_for_processes_that_cannot_be_created() {
    let starved = Starved::new();
    starved.place.write("items", numbers(20));
    starved.place.write("lack", "");
    let arguments = exec(&["--input", "items", "--", "sh", "-c", "echo {} >> ran"]);
    let without = starved.command(("FOREBAY_NO_FORK", "1"), &arguments);
    let mut running = starved.place.start_command(without);
    until("it says what it waits for", || running.stderr().contains("temporarily unavailable"));
    assert!(running.is_running() && ran(&starved.place, "ran").is_empty());
    fs::remove_file(starved.place.path("lack")).unwrap();
    running.end().expect(0, &["20 succeeded"]);
    assert_eq!(ran(&starved.place, "ran").len(), 20);
}

#[test]
fn a_lasting_lack_of_processes_ends_the_run_without_failing_items() {
    let starved = Starved::new();
    starved.place.write("items", numbers(4));
    starved.place.write("lack", "");
    let script = "echo $FOREBAY_ATTEMPT >> ran";
    let arguments = exec(&["--input", "items", "--", "sh", "-c", script]);
    let without = starved.command(("FOREBAY_NO_FORK", "1"), &arguments);
    let done = starved.place.start_command(without).end();
    done.expect(2, &["no command can be started", "run the same command line again"]);
    starved.place.run(&arguments).expect(0, &["4 succeeded"]);
    assert_eq!(ran(&starved.place, "ran"), [1, 1, 1, 1], "first attempts, all of them");
}

/// Regression: overlong output was cut, and the item counted as done with exit code 0.
#[test]
fn output_that_does_not_fit_ends_the_run_and_is_complete_in_the_next() {
    let starved = Starved::new();
    starved.place.write("items", numbers(2));
    starved.place.write("lack", "");
    let script = "echo $FOREBAY_ATTEMPT >> ran; head -c 300000 /dev/zero";
    for stream in ["", " >&2"] {
        let script = format!("{script}{stream}");
        let arguments = exec(&["--input", "items", "--jobs", "1", "--", "sh", "-c", &script]);
        let full = starved.command(("FOREBAY_FULL", "/exec/output/"), &arguments);
        let done = starved.place.start_command(full).end();
        let expected = ["does not fit", "exec/output", "No space left", "same command line again"];
        let done = done.expect(2, &expected);
        assert_eq!(done.stdout.len(), 0, "a part of it was printed");
        let done = starved.place.run(&arguments).expect(0, &["2 succeeded"]);
        assert!(done.stdout.len() + done.stderr.len() >= 600_000);
    }
    assert!(ran(&starved.place, "ran").iter().all(|attempt| *attempt == 1), "they were counted");
}

#[test]
fn results_and_lists_that_do_not_fit_end_the_run_and_are_named() {
    let starved = Starved::new();
    starved.place.write("items", numbers(2));
    starved.place.write("lack", "");
    let arguments = exec(&["--input", "items", "--results", "kept", "--", "echo"]);
    for (full, expected) in
        [("results.ndjson", "kept/results.ndjson"), ("exec/running", "exec/running")]
    {
        let full = starved.command(("FOREBAY_FULL", full), &arguments);
        let done = starved.place.start_command(full).end();
        done.expect(2, &["error: ", expected, "No space left on device"]);
    }
    starved.place.run(&arguments).expect(0, &[]);
    let lines = crate::place::objects(&starved.place.path("kept/results.ndjson"));
    assert_eq!(lines.len(), 2);
}

#[test]
fn a_dead_spawner_ends_the_run_without_failing_items() {
    let place = Place::new();
    place.write("items", numbers(2));
    let script = "echo $FOREBAY_ATTEMPT >> ran; test -e quick || sleep 600";
    let arguments = exec(&["--input", "items", "--jobs", "2", "--", "sh", "-c", script]);
    let running = place.start(&arguments);
    until("both have started", || ran(&place, "ran").len() == 2);
    let id = running.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let children: Vec<_> = children.split_whitespace().collect();
    assert!(place.system("kill", &[&["-9"], &children[..]].concat()));
    running.end().expect(2, &["the process that starts commands has ended"]);
    place.write("quick", "");
    place.run(&arguments).expect(0, &["2 succeeded"]);
    assert_eq!(ran(&place, "ran"), [1; 4]);
}

/// Regression: the target of a symbolic link in place of a spool file was emptied.
#[test]
fn a_symbolic_link_in_place_of_a_file_is_not_followed() {
    for name in ["data/exec/running", "data/exec/probe", "kept/results.ndjson"] {
        let place = Place::new();
        place.write("items", "1\n");
        place.write("precious", "text");
        let path = place.path(name);
        fs::create_dir_all(place.path("kept")).unwrap();
        place.run(&exec(&["--input", "/dev/null", "--", "true"])).expect(0, &[]);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(place.path("precious"), &path).unwrap();
        let arguments = exec(&["--input", "items", "--results", "kept", "--", "true"]);
        place.run(&arguments).expect(2, &["error: ", "symbolic link"]);
        assert_eq!(place.lines("precious"), ["text"], "{name}");
    }
}

#[test]
fn a_timeout_is_a_failed_attempt() {
    let place = Place::new();
    place.write("items", "1\n2\n");
    let script = "echo {} >> ran; test {} = 1 || exit 0; trap 'echo bye; exit 0' TERM; \
                  while :; do sleep 0.05; done";
    let rest = ["--timeout", "300ms", "--retries", "1", "--input", "items", "--", "sh", "-c"];
    let done = place.run(&exec(&[&rest[..], &[script]].concat()));
    done.expect(1, &["1 succeeded, 1 failed", "timed out after 300ms, exit code 0"]);
    let mut items = ran(&place, "ran");
    items.sort_unstable();
    assert_eq!(items, [1, 1, 2], "it is retried");
    let ignores_term = "trap '' TERM; while :; do sleep 0.05; done";
    let rest = ["--timeout", "0.1s", "--grace", "200ms", "--input", "items", "--", "sh", "-c"];
    let done = place.run(&exec(&[&rest[..], &[ignores_term]].concat()));
    done.expect(1, &["2 failed", "timed out after 100ms, ended by signal 9"]);
}

#[test]
fn a_halt_ends_the_run_and_leaves_the_rest() {
    let place = Place::new();
    place.write("items", numbers(30));
    let script = "echo {} >> ran; test {} -gt 3 && exit; sleep 0.3; exit 1";
    let with = |halt: &'static str| {
        let rest = ["--halt", halt, "--jobs", "1", "--input", "items", "--key", "k", "--"];
        place.run(&exec(&[&rest[..], &["sh", "-c", script]].concat()))
    };
    with("soon,fail=2").expect(1, &["0 succeeded", "halted: 2 failed", " left"]);
    assert!((2..=3).contains(&ran(&place, "ran").len()), "it continued");
    // Earlier failures do not count again.
    with("now,fail=2").expect(1, &["27 succeeded", " had failed before"]);
    with("later,fail=1").expect(2, &["write `now,fail=N` or `soon,fail=N`"]);

    let place = Place::new();
    place.write("items", numbers(30));
    let script = "test {} != 2 || exit 1; echo $FOREBAY_ATTEMPT >> ran; test -e quick || sleep 600";
    let rest =
        ["--halt", "now,fail=1", "--jobs", "30", "--input", "items", "--", "sh", "-c", script];
    let begun = std::time::Instant::now();
    place.run(&exec(&rest)).expect(1, &["0 succeeded, 1 failed", "29 left"]);
    assert!(begun.elapsed() < Duration::from_secs(60), "it waited for running items");
    place.write("quick", "");
    place.run(&exec(&rest)).expect(1, &["29 succeeded", "1 had failed before"]);
    assert!(ran(&place, "ran").iter().all(|attempt| *attempt == 1), "the ended one was counted");
}

#[test]
fn commands_run_in_chdir_and_know_their_item() {
    let place = Place::new();
    place.write("items", "a\nb c\nnone\n");
    for dir in ["a", "b c"] {
        fs::create_dir(place.path(dir)).unwrap();
        place.write(&format!("{dir}/tool"), "#!/bin/sh\necho $FOREBAY_SEQ,$FOREBAY_ITEM > ran\n");
        assert!(place.system("chmod", &["+x", &format!("{dir}/tool")]));
    }
    let run = |chdir: &str| {
        place.run(&exec(&["--chdir", chdir, "--input", "items", "--", "./tool", "x"]))
    };
    run("{}").expect(1, &["2 succeeded, 1 failed", "there is no directory", "none"]);
    assert_eq!(
        (place.lines("a/ran"), place.lines("b c/ran")),
        (vec!["1,a".into()], vec!["2,b c".into()])
    );
    // In another directory it is different work; in the same one it is done.
    run("{}").expect(1, &["2 were done before"]);
    run("./{}").expect(1, &["2 succeeded"]);
}
