//! The wall clock steps forward and back, between two runs and under a running process. A preloaded
//! library shifts the clock of the real binary.

use std::{
    fs::OpenOptions,
    io::{Seek, SeekFrom, Write},
    process::Command,
    time::{Duration, Instant},
};

use super::{exec, numbers, ran};
use crate::place::{Done, Place, until};

const HOUR_MS: i64 = 3_600_000;

/// A directory whose `forebay` sees a shifted wall clock.
struct Shifted {
    place: Place,
    library: String,
}

impl Shifted {
    fn new() -> Self {
        let place = Place::new();
        let library = place.path("clock_shim.so").to_str().unwrap().to_owned();
        let source = crate::root().join("tests/process/clock_shim.c").display().to_string();
        assert!(
            place.system("cc", &["-shared", "-fPIC", "-O1", "-o", &library, &source]),
            "cc compiles the library that shifts the clock"
        );
        let shifted = Self { place, library };
        shifted.shift(0);
        shifted
    }

    /// Shifts the clock of all processes of this directory, including running ones.
    fn shift(&self, by_ms: i64) {
        let path = self.place.path("shift");
        // Overwritten in place, because it is mapped.
        let mut options = OpenOptions::new();
        let file = options.create(true).write(true).truncate(false).open(path);
        let mut file = file.unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&by_ms.to_ne_bytes()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(arguments);
        command.env("LD_PRELOAD", &self.library);
        command.env("FOREBAY_CLOCK_FILE", self.place.path("shift"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        self.place.start_command(self.command(arguments)).end()
    }
}

/// Checks that the shim works; otherwise the tests below test nothing.
#[test]
fn the_library_shifts_the_clock() {
    let shifted = Shifted::new();
    let run = |by_ms| {
        shifted.shift(by_ms);
        let mut date = Command::new("date");
        date.arg("+%s").env("LD_PRELOAD", &shifted.library);
        date.env("FOREBAY_CLOCK_FILE", shifted.place.path("shift"));
        let output = date.output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse::<i64>().unwrap()
    };
    let ahead = run(HOUR_MS) - run(0);
    assert!((3_590..=3_610).contains(&ahead), "{ahead}");
}

/// Regression: after a run with a clock that was an hour ahead, nothing started for an hour,
/// because the places of new items were in the future.
#[test]
fn items_run_after_a_clock_an_hour_ahead_is_corrected() {
    let shifted = Shifted::new();
    let script = ["--", "sh", "-c", "echo {} >> started"];
    shifted.place.write("early", numbers(4));
    shifted.shift(HOUR_MS);
    shifted.run(&exec(&[&["--input", "early"], &script[..]].concat())).expect(0, &["4 succeeded"]);

    shifted.shift(0);
    shifted.place.write("late", "11\n12\n13\n14\n");
    let begun = Instant::now();
    shifted.run(&exec(&[&["--input", "late"], &script[..]].concat())).expect(0, &["4 succeeded"]);
    assert_eq!(ran(&shifted.place, "started").len(), 8);
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());

    let status = shifted.run(&["status", "--data-dir", "data"]).expect(0, &[]);
    assert!(status.text().contains("ahead of this machine's clock"), "{}", status.text());
}

/// Items that waited when the clock was corrected start too, and retries wait for the correct time.
#[test]
fn waiting_items_run_after_the_clock_is_set_back() {
    let shifted = Shifted::new();
    shifted.place.write("items", numbers(6));
    shifted.shift(HOUR_MS);
    let script = "echo {} >> started; test -e quick || sleep 600";
    let arguments = exec(&["--input", "items", "--jobs", "1", "--", "sh", "-c", script]);
    let running = shifted.place.start_command(shifted.command(&arguments));
    until("one has started", || ran(&shifted.place, "started").len() == 1);
    running.kill();

    shifted.shift(0);
    shifted.place.write("quick", "");
    shifted.run(&arguments).expect(0, &["6 succeeded"]);
    assert_eq!(ran(&shifted.place, "started").len(), 7);
}

/// Regression: a running process whose clock was set back by a minute did nothing for that minute.
/// With retries, so that times in the near future are covered too.
#[test]
fn a_running_process_continues_when_its_clock_steps() {
    for step_ms in [-60_000, -HOUR_MS, HOUR_MS] {
        let shifted = Shifted::new();
        shifted.place.write("items", numbers(40));
        let script =
            "echo {} >> started; sleep 0.1; test -e failed-{} || { touch failed-{}; exit 1; }";
        let arguments =
            exec(&["--input", "items", "--jobs", "4", "--retries", "2", "--", "sh", "-c", script]);
        let running = shifted.place.start_command(shifted.command(&arguments));
        until("some have started", || ran(&shifted.place, "started").len() >= 6);
        shifted.shift(step_ms);
        let begun = Instant::now();
        running.end().expect(0, &["40 succeeded"]);
        assert!(begun.elapsed() < Duration::from_secs(50), "{step_ms}: {:?}", begun.elapsed());
        assert_eq!(ran(&shifted.place, "started").len(), 80);
    }
}
