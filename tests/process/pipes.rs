//! Standard output and standard error that are not read, closed, or full.

use std::{
    fs::{self, File},
    io::Read,
    process::{Command, Stdio},
};

use super::{exec, numbers, ran};
use crate::place::{Place, until};

/// Runs `forebay` in a shell: `FOREBAY` in the script is the binary.
fn in_shell(place: &Place, script: &str) -> crate::place::Done {
    let mut shell = Command::new("bash");
    let script = script.replace("FOREBAY", env!("CARGO_BIN_EXE_forebay"));
    shell.args(["-c", &script]).current_dir(place.path("")).stdin(Stdio::null());
    shell.env_remove("FOREBAY_DATA_DIR");
    place.start_command(shell).end()
}

/// Regression: the run ended silently after 6 of 200 items, as if it had succeeded.
#[test]
fn a_closed_reader_ends_the_run_and_leaves_the_rest() {
    for both in ["", "2>&1"] {
        let place = Place::new();
        place.write("items", numbers(200));
        let run = "FOREBAY exec --data-dir data -i items -- sh -c 'echo $1 >> ran; echo $1' _";
        let script = format!("{run} {both} | head -3; echo ${{PIPESTATUS[0]}} >> code");
        let done = in_shell(&place, &script);
        assert_eq!(place.lines("code"), ["141"], "it died of SIGPIPE: {done:?}");
        assert!(ran(&place, "ran").len() < 200, "it continued");
        if both.is_empty() {
            assert!(done.stderr.contains("the output was closed"), "{}", done.stderr);
            assert!(done.stderr.contains("left (the same command line continues)"));
        }
        in_shell(&place, run).expect(0, &[]);
        let mut items = ran(&place, "ran");
        items.sort_unstable();
        assert_eq!(items, (1..=200).collect::<Vec<_>>(), "each ran once");
    }
}

/// Unread progress and messages do not stop a run.
#[test]
fn a_run_continues_with_a_closed_standard_error() {
    let place = Place::new();
    place.write("items", numbers(20));
    let script = "exec 3>&1; FOREBAY exec --data-dir data -i items -- sh -c \
                  'test $1 != 3; code=$?; echo $1; exit $code' _ 2>&1 >&3 | true; \
                  echo ${PIPESTATUS[0]} >> code";
    let done = in_shell(&place, script);
    assert_eq!(place.lines("code"), ["1"], "one has failed");
    assert_eq!(done.text().lines().count(), 20, "{done:?}");
}

#[test]
fn failed_writes_are_reported() {
    let place = Place::new();
    place.write("items", numbers(3));
    let into_full = |arguments: &str| {
        in_shell(&place, &format!("FOREBAY {arguments} --data-dir data > /dev/full"))
    };
    let expected = ["error: cannot write standard output: No space left on device"];
    for run in ["", "--json "] {
        let script = format!("FOREBAY exec --data-dir data -i items {run}-- echo > /dev/full");
        in_shell(&place, &script).expect(2, &expected);
    }
    in_shell(&place, "FOREBAY exec --data-dir data -i items -- true").expect(0, &[]);
    for looks in ["entries", "queues", "status", "rules list", "--json entries", "man"] {
        into_full(looks).expect(2, &expected);
    }
    in_shell(&place, "FOREBAY exec -i items --dry-run -- echo > /dev/full").expect(2, &expected);
    into_full("completions bash").expect(2, &expected);
    let help = ["error: cannot write the help: No space left on device"];
    into_full("exec --help").expect(2, &help);
    for looks in ["entries", "queues", "man", "completions bash", "--help"] {
        let script = format!("FOREBAY {looks} --data-dir data | true; exit ${{PIPESTATUS[0]}}");
        in_shell(&place, &script).expect(0, &[]);
    }
}

/// Regression: while the reader of standard output was slow (`| less`), signals were ignored: new
/// items continued to start.
#[test]
fn signals_are_handled_while_the_output_is_not_read() {
    for has_both in [false, true] {
        let place = Place::new();
        place.write("items", numbers(60));
        let script = "echo {} >> ran; head -c 30000 /dev/zero; sleep 0.05";
        let rest = ["--input", "items", "--jobs", "2", "--grace", "1s", "--", "sh", "-c", script];
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = place.command(&exec(&rest));
        command.stdout(writer.try_clone().unwrap());
        match has_both {
            true => command.stderr(writer),
            false => {
                drop(writer);
                command.stderr(File::create(place.path("said")).unwrap())
            }
        };
        let mut running = command.spawn().unwrap();
        drop(command);
        // More than the pipe holds.
        until("the output is not read", || ran(&place, "ran").len() > 8);
        let signal = |name: &str| {
            assert!(place.system("kill", &[name, &running.id().to_string()]));
        };
        signal("-INT");
        std::thread::sleep(std::time::Duration::from_millis(500));
        let started = ran(&place, "ran").len();
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(ran(&place, "ran").len(), started, "new items continued to start");
        signal("-INT");
        until("it ends although the output is not read", || running.try_wait().unwrap().is_some());
        let status = running.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2), "{status}");
        if !has_both {
            let expected = fs::read_to_string(place.path("said")).unwrap();
            assert!(expected.contains("the output is not read"), "{expected}");
        }
        let mut printed = Vec::new();
        reader.read_to_end(&mut printed).unwrap();
        assert!(printed.len() < started * 30_000);
        place.run(&exec(&rest)).expect(0, &[]);
        let mut items = ran(&place, "ran");
        items.sort_unstable();
        items.dedup();
        assert_eq!(items, (1..=60).collect::<Vec<_>>());
    }
}

#[test]
fn without_a_search_path_programs_are_found_as_execvp_finds_them() {
    let place = Place::new();
    place.write("items", "1\n");
    let run = |path: Option<&str>, program: &str| {
        let mut command = place.command(&exec(&["--again", "--input", "items", "--", program]));
        match path {
            Some(path) => command.env("PATH", path),
            None => command.env_remove("PATH"),
        };
        place.start_command(command).end()
    };
    run(None, "true").expect(0, &["1 succeeded"]);
    run(None, "no-such-program").expect_refused(&["not found in PATH"]);
    // An empty path is the current directory.
    run(Some(""), "true").expect_refused(&["not found in PATH"]);
    place.write("mine", "#!/bin/sh\nexit 0\n");
    assert!(place.system("chmod", &["+x", "mine"]));
    run(Some(""), "mine").expect(0, &["1 succeeded"]);
    run(None, "mine").expect_refused(&["not found in PATH"]);
}
