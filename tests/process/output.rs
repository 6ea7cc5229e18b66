//! Output of commands: complete, once, on the right stream; and the cost of waiting.

use std::{collections::BTreeSet, fs, time::Duration};

use super::{exec, numbers};
use crate::place::{Place, len, objects, until};

/// More than the 64 KiB kept in memory, and more than the capacity of a pipe.
const LONG_LINES: u64 = 3_000;
/// Maximum CPU time of an exec that waits for one command for three seconds.
const IDLE_CPU_MAX: Duration = Duration::from_millis(50);

/// Prints its item's number on many lines, not all at once.
fn long_script() -> String {
    format!(
        "i=0; while test $i -lt {LONG_LINES}; do echo \"{{}} $i xxxxxxxxxxxxxxxxxxxxxxxxx\"; \
         i=$((i+1)); done; echo \"{{}} end\" >&2"
    )
}

#[test]
fn outputs_are_whole_per_item() {
    let place = Place::new();
    place.write("items", numbers(16));
    let script = long_script();
    let done = place
        .run(&exec(&["--input", "items", "--jobs", "8", "--", "sh", "-c", &script]))
        .expect(0, &["16 succeeded"]);
    let mut blocks = BTreeSet::new();
    let mut expected = (String::new(), LONG_LINES);
    for line in done.text().lines() {
        let (item, rest) = line.split_once(' ').unwrap();
        let number: u64 = rest.split(' ').next().unwrap().parse().unwrap();
        if expected.1 == LONG_LINES {
            expected = (item.to_owned(), 0);
            assert!(blocks.insert(item.to_owned()), "{item} is printed twice");
        }
        assert_eq!((item, number), (expected.0.as_str(), expected.1), "outputs are mixed");
        expected.1 += 1;
    }
    assert_eq!((blocks.len(), expected.1), (16, LONG_LINES));
    assert_eq!(done.stderr.matches(" end\n").count(), 16);
}

#[test]
fn results_keep_large_outputs_in_files() {
    let place = Place::new();
    place.write("items", numbers(4));
    let script = long_script();
    let rest = ["--input", "items", "--results", "results", "--", "sh", "-c", &script];
    let done = place.run(&exec(&rest)).expect(0, &["4 succeeded"]);
    assert_eq!(done.text(), "", "results are kept instead of printed");
    let results = objects(&place.path("results/results.ndjson"));
    assert_eq!(results.len(), 4);
    for line in results {
        let bytes = line["stdout_bytes"].as_u64().unwrap();
        let file = line["stdout_file"].as_str().expect("a file holds it all");
        let path = place.path("results").join(file);
        assert_eq!(len(&path), bytes, "{line}");
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count() as u64, LONG_LINES);
        let item = line["line"].to_string();
        assert!(text.lines().all(|l| l.split(' ').next() == Some(&item)));
        assert_eq!(line["stderr"], format!("{item} end\n"));
    }
}

#[test]
fn results_have_one_line_per_item_even_when_it_is_killed() {
    let place = Place::new();
    place.write("items", numbers(300));
    let script = "head -c 3000 /dev/zero | tr '\\0' x; test $(({} % 50)) != 0";
    let rest = ["--input", "items", "--results", "results", "--", "sh", "-c", script];
    let arguments = exec(&rest);
    let path = place.path("results/results.ndjson");
    let mut torn = 0;
    for _ in 0..6 {
        let (mut running, before) = (place.start(&arguments), len(&path));
        until("results grow", || len(&path) > before + 20_000 || !running.is_running());
        running.kill();
        // A torn last line, as left by a power failure.
        let text = fs::read(&path).unwrap();
        if torn < 2 && text.len() > 5_000 {
            fs::write(&path, &text[..text.len() - 1_000]).unwrap();
            torn += 1;
        }
    }
    assert_eq!(torn, 2);
    place.run(&arguments).expect(1, &[" failed"]);
    let results = objects(&path);
    let mut items: Vec<_> = results.iter().map(|line| line["line"].as_u64().unwrap()).collect();
    items.sort_unstable();
    assert_eq!(items, (1..=300).collect::<Vec<_>>(), "one line per item");
    for line in &results {
        let failed = line["line"].as_u64().unwrap() % 50 == 0;
        assert_eq!(line["status"], if failed { "failed" } else { "succeeded" }, "{line}");
        assert_eq!(line["stdout"].as_str().unwrap().len(), 3_000);
    }
}

#[test]
fn json_is_one_object_per_line_with_a_summary_at_the_end() {
    let place = Place::new();
    place.write("items", numbers(3));
    let rest = ["--json", "--input", "items", "--", "sh", "-c", "printf '\\377 {}'; test {} != 2"];
    let done = place.run(&exec(&rest)).expect(1, &[]);
    place.write("stdout", &done.stdout);
    let lines = objects(&place.path("stdout"));
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["item", "item", "item", "summary"]);
    let summary = &lines[3];
    assert_eq!(
        (&summary["succeeded"], &summary["failed"], &summary["exit_code"]),
        (&2.into(), &1.into(), &1.into())
    );
}

/// User and system time of a process and all its threads.
fn cpu(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    let ticks: u64 = fields[12..=13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    // Linux has always counted 100 ticks per second for user space.
    Duration::from_millis(ticks * 10)
}

#[test]
fn waiting_uses_no_cpu() {
    let place = Place::new();
    place.write("items", "1\n");
    let script = "touch started; sleep 3.5";
    let running = place.start(&exec(&["--input", "items", "--", "sh", "-c", script]));
    until("it has started", || place.path("started").exists());
    std::thread::sleep(Duration::from_millis(300));
    let before = cpu(running.id());
    std::thread::sleep(Duration::from_secs(3));
    let used = cpu(running.id()) - before;
    running.end().expect(0, &["1 succeeded"]);
    assert!(used < IDLE_CPU_MAX, "{used:?} of CPU in three seconds of waiting");
}
