//! Which items a process runs, and their outcomes: command and directory identify a run, items that
//! are not named are left alone, outputs are printed once.

use std::{collections::BTreeMap, fs, time::Duration};

use super::{exec, numbers, ran};
use crate::place::{Place, Running, until};

/// Long enough for everything allowed to start.
const A_WHILE: Duration = Duration::from_millis(400);

/// Interrupts a run of slow items after some have started.
fn interrupted(place: &Place, arguments: &[&str]) {
    let running = place.start(arguments);
    until("some have started", || ran(place, "started").len() >= 2);
    running.interrupt();
    running.end();
}

fn slow() -> Vec<&'static str> {
    let script = "echo $1 >> started; sleep 0.3; echo said $1";
    exec(&["--input", "items", "-j1", "--", "sh", "-c", script, "_", "{}"])
}

#[test]
fn an_interrupted_run_is_not_continued_by_another_command() {
    let place = Place::new();
    place.write("items", numbers(9));
    interrupted(&place, &slow());
    let before = ran(&place, "started").len();
    place.write("other", "x\n");
    let done = place.run(&exec(&["--input", "other", "--", "echo"]));
    let done = done.expect(0, &["1 succeeded", "of another command wait", "forebay runs"]);
    assert_eq!(done.text(), "x\n");
    std::thread::sleep(A_WHILE);
    assert_eq!(ran(&place, "started").len(), before, "an item of the other command has run");

    let runs = place.json(&["runs", "--data-dir", "data"]);
    let runs = runs.as_array().unwrap();
    assert_eq!(runs.len(), 2, "{runs:?}");
    assert_eq!((&runs[0]["state"], &runs[1]["state"]), (&"waits".into(), &"done".into()));
    assert!(runs[0]["command"].as_str().unwrap().starts_with("sh -c 'echo $1"), "{runs:?}");

    let id = runs[0]["id"].as_str().unwrap();
    let done = place.run(&exec(&["-j1", "--resume", &id[..6]])).expect(0, &[" succeeded"]);
    assert_eq!(done.text().lines().count(), 9 - before);
    assert_eq!(ran(&place, "started"), (1..=9).collect::<Vec<_>>(), "in order, each once");
    place.run(&exec(&["--resume"])).expect(0, &["nothing waits"]);
    place.run(&exec(&["--resume", "nosuch"])).expect_refused(&["no run `nosuch`"]);
}

#[test]
fn items_no_longer_in_the_input_wait() {
    let place = Place::new();
    place.write("items", numbers(9));
    interrupted(&place, &slow());
    let before = ran(&place, "started").len();
    place.write("items", "9\n7\n");
    let left = format!("{} items of this command that are not in the input wait", 9 - before - 2);
    place.run(&slow()).expect(0, &["2 succeeded", &left, "--resume"]);
    let mut started = ran(&place, "started");
    assert_eq!(started.split_off(before), [7, 9], "in their places, and no others");
    // Items set aside twice are restored too, with the whole input.
    place.write("items", numbers(9));
    let done = place.run(&slow()).expect(0, &["were done before"]);
    assert!(!done.stderr.contains("not in the input"), "{done:?}");
    let mut started = ran(&place, "started");
    started.sort_unstable();
    assert_eq!(started, (1..=9).collect::<Vec<_>>());
}

#[test]
fn items_paused_by_a_user_stay_paused() {
    let place = Place::new();
    place.write("items", numbers(9));
    interrupted(&place, &slow());
    let waiting = place.json(&["entries", "--stage", "inbox", "--data-dir", "data"]);
    let id = waiting[0]["id"].as_str().unwrap().to_owned();
    place.run(&["pause", &id, "--data-dir", "data"]).expect(0, &[]);
    // All other items are set aside and restored.
    place.write("none", "");
    place.run(&[&exec(&["--input", "none"])[..], &slow()[5..]].concat()).expect(0, &[]);
    let running = place.start(&slow());
    let stage = |stage: &str| {
        let entries = ["entries", "--stage", stage, "--data-dir", "data"];
        place.json(&entries).as_array().unwrap().clone()
    };
    until("all others have ended", || stage("inbox").len() + stage("running").len() == 0);
    let paused = stage("paused");
    assert_eq!((paused.len(), &paused[0]["id"]), (1, &id.as_str().into()));
    place.run(&["resume", &id, "--data-dir", "data"]).expect(0, &[]);
    running.end().expect(0, &[]);
}

#[test]
fn the_same_name_in_another_directory_is_another_item() {
    let place = Place::new();
    for directory in ["x", "y"] {
        fs::create_dir(place.path(directory)).unwrap();
        place.write(&format!("{directory}/file"), directory);
    }
    let cat = |directory: &str, more: &[&str]| {
        let arguments = [&["exec", "--data-dir", "../data", "--input", "../items"], more].concat();
        let mut command = place.command(&arguments);
        command.current_dir(place.path(directory));
        place.start_command(command).end().expect(0, &[]).text()
    };
    place.write("items", "file\n");
    assert_eq!(["x", "y", "x"].map(|of| cat(of, &["--", "cat"])), ["x", "y", ""]);
    place.write("items", "{\"id\": 7, \"args\": [\"file\"]}\n");
    let by_id = ["x", "y", "x"].map(|of| cat(of, &["--ndjson", "--", "cat", "{}"]));
    assert_eq!(by_id, ["x", "y", ""]);
    // An `id` identifies the item, whatever command it is used with.
    assert_eq!(cat("x", &["--ndjson", "--", "head", "{}"]), "");
}

#[test]
fn an_item_is_found_whatever_scope_and_key_it_has_now() {
    let place = Place::new();
    place.write("items", numbers(3));
    let with = |options: &[&str], expected: &str| {
        let rest = ["--input", "items", "--", "sh", "-c", "echo {} >> started"];
        place.run(&[&exec(options)[..], &rest].concat()).expect(0, &[expected]);
    };
    with(&["--scope", "a"], "3 succeeded");
    with(&["--scope", "b", "--key", "{}"], "3 were done before");
    with(&[], "3 were done before");
    assert_eq!(ran(&place, "started").len(), 3);
}

#[test]
fn again_is_one_run_that_can_be_continued_by_name() {
    let place = Place::new();
    place.write("items", numbers(6));
    place.run(&slow()).expect(0, &["6 succeeded"]);
    fs::remove_file(place.path("started")).unwrap();
    let with = |again: &str| [&slow()[..3], &[again], &slow()[3..]].concat().join("\n");
    let line = with("--again");
    let arguments: Vec<&str> = line.split('\n').collect();
    let running = place.start(&arguments);
    until("some have started", || ran(&place, "started").len() >= 2);
    running.interrupt();
    let stderr = running.end().stderr;
    let name = stderr.split("--again=").nth(1).and_then(|rest| rest.split(' ').next());
    let line = with(&format!("--again={}", name.expect(&stderr)));
    let arguments: Vec<&str> = line.split('\n').collect();
    place.run(&arguments).expect(0, &["were done before"]);
    assert_eq!(ran(&place, "started"), (1..=6).collect::<Vec<_>>(), "each once more");
}

#[test]
fn items_start_in_input_order_and_can_be_printed_in_it() {
    let place = Place::new();
    place.write("items", numbers(200));
    let rest = ["--input", "items", "--", "echo"];
    let done = place.run(&[&exec(&["-j1"])[..], &rest].concat()).expect(0, &[]);
    assert_eq!(done.text(), numbers(200));
    place.write("items", numbers(12));
    let script = "test $1 = 2 && sleep 1; test $1 != 5; echo $1";
    let rest = ["--input", "items", "-j4", "-k", "--", "sh", "-c", script, "_", "{}"];
    let done = place.run(&exec(&rest)).expect(0, &[]);
    assert_eq!(done.text(), numbers(12));
}

#[test]
fn the_data_directory_is_not_an_item() {
    let place = Place::new();
    place.write("items", "a\n./data\ndata/LOCK\n./data/../data/LOCK\ndata-x\n");
    let done = place.run(&exec(&["--input", "items", "-j1", "--", "echo"]));
    let done = done.expect(0, &["2 succeeded", "3 items are in the data directory"]);
    assert_eq!(done.text(), "a\ndata-x\n");
}

#[test]
fn unprinted_output_is_printed_by_the_next_run() {
    let place = Place::new();
    place.write("items", numbers(5));
    let arguments = exec(&["--input", "items", "-j1", "--", "echo", "said"]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = place.command(&arguments);
    command.stdout(full.unwrap()).stderr(std::process::Stdio::null());
    assert_eq!(command.status().unwrap().code(), Some(2), "no output was written");
    let done = place.run(&arguments).expect(0, &[]);
    let mut lines: Vec<_> = done.text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["said 1", "said 2", "said 3", "said 4", "said 5"]);
    assert_eq!(place.run(&arguments).expect(0, &["5 were done before"]).text(), "");
}

/// Regression: they stayed in the data directory until that was removed.
#[test]
fn long_outputs_of_purged_entries_are_removed_by_the_next_run() {
    let place = Place::new();
    place.write("items", "1\n");
    let long = "head -c 100000 /dev/zero";
    let long = exec(&["--input", "items", "--", "sh", "-c", long, "_"]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = place.command(&long);
    command.stdout(full.unwrap()).stderr(std::process::Stdio::null());
    assert_eq!(command.status().unwrap().code(), Some(2), "it was not printed");
    let kept = || fs::read_dir(place.path("data/exec/kept/output")).unwrap().count();
    assert_eq!(kept(), 1);
    let other = exec(&["--input", "items", "--", "echo"]);
    place.run(&other).expect(0, &[]);
    assert_eq!(kept(), 1, "it is to be printed still");
    place.run(&["purge", "--all", "--data-dir", "data"]).expect(0, &[]);
    place.run(&other).expect(0, &[]);
    assert_eq!(kept(), 0);
}

/// Regression: `--resume` skipped runs with only unprinted output, and did not know their items.
#[test]
fn resume_prints_the_remaining_output_of_an_ended_run() {
    for (form, expected) in [("--tag", "1\tsaid 1\n"), ("--json", r#""argv":["echo","said","1"]"#)]
    {
        let place = Place::new();
        place.write("items", "1\n");
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let mut command = place.command(&exec(&["--input", "items", "--", "echo", "said"]));
        command.stdout(full.unwrap()).stderr(std::process::Stdio::null());
        assert_eq!(command.status().unwrap().code(), Some(2));
        let done = place.run(&exec(&["--resume", form])).expect(0, &[]);
        assert!(done.text().contains(expected), "{done:?}");
        place.run(&exec(&["--resume"])).expect(0, &["nothing waits"]);
    }
}

#[test]
fn an_item_canceled_before_it_ran_has_no_output() {
    let place = Place::new();
    place.write("items", numbers(9));
    interrupted(&place, &slow());
    let waiting = place.json(&["entries", "--stage", "inbox", "--data-dir", "data"]);
    let id = waiting[0]["id"].as_str().unwrap();
    let output = ["output", "--data-dir", "data", id];
    place.run(&output).expect_refused(&["is no item of exec that has ended"]);
    place.run(&["cancel", id, "--data-dir", "data"]).expect(0, &[]);
    place.run(&output).expect(0, &["has no output: canceled before it ran"]);
}

#[test]
fn stored_outputs_are_printed_on_demand() {
    let place = Place::new();
    place.write("items", numbers(3));
    let script = "echo said $1; echo wrong $1 >&2; test $1 != 2";
    let rest = ["--input", "items", "--", "sh", "-c", script, "_", "{}"];
    let done = place.run(&exec(&rest)).expect(1, &[]);
    let runs = place.json(&["runs", "--data-dir", "data"]);
    let id = runs[0]["id"].as_str().unwrap();
    let printed = place.run(&["output", "--data-dir", "data", "--run", &id[..8]]);
    let printed = printed.expect(0, &["wrong 1\nwrong 2\nwrong 3\n"]);
    assert_eq!(printed.text(), "said 1\nsaid 2\nsaid 3\n");
    let entry = done.stderr.split("(ent_").nth(1).and_then(|rest| rest.split(')').next());
    let entry = format!("ent_{}", entry.unwrap());
    let printed = place.run(&["output", "--data-dir", "data", &entry]).expect(0, &["wrong 2"]);
    assert_eq!(printed.text(), "said 2\n");
    let none = ["output", "--data-dir", "data", "--run", "nosuch"];
    place.run(&none).expect_refused(&["no run `nosuch`"]);
    // A long output that was printed is not stored a second time.
    place.write("items", "1\n");
    let long = ["--input", "items", "--", "sh", "-c", "head -c 100000 /dev/zero"];
    place.run(&exec(&long)).expect(0, &[]);
    let runs = place.json(&["runs", "--data-dir", "data"]);
    let id = runs[1]["id"].as_str().unwrap();
    let printed = place.run(&["output", "--data-dir", "data", "--run", id]);
    let printed = printed.expect(1, &["only the first 65536 of 100000 bytes are stored"]);
    assert_eq!(printed.stdout.len(), 65_536);
}

/// Prints its number, then this many bytes.
const SAYS: &str = "n=$(($1 * 7919 % 300000)); echo \"<$1 $n\"; head -c $n /dev/zero | tr '\\0' x; \
                    echo \">\"";

/// How often each item was printed completely.
fn printed(outputs: &[Vec<u8>]) -> BTreeMap<u64, u64> {
    let mut printed = BTreeMap::new();
    for output in outputs {
        // The last write of a killed process may be cut.
        for part in output.split(|byte| *byte == b'<').skip(1) {
            let Some(line) = part.iter().position(|byte| *byte == b'\n') else { continue };
            let head = String::from_utf8_lossy(&part[..line]).into_owned();
            let (item, len) = head.split_once(' ').unwrap();
            let (item, len): (u64, usize) = (item.parse().unwrap(), len.parse().unwrap());
            if part.len() == line + 1 + len + 2 && part.ends_with(b">\n") {
                *printed.entry(item).or_default() += 1;
            }
        }
    }
    printed
}

/// Regression: ten of 3,000 outputs were never printed.
#[test]
fn kills_lose_no_output_and_repeat_at_most_the_last() {
    let is_long = std::env::var_os("FOREBAY_TEST_LONG").is_some();
    let (rounds, items) = if is_long { (30, 2_000) } else { (5, 120) };
    let place = Place::new();
    place.write("items", numbers(items));
    let arguments = exec(&["--input", "items", "-j4", "--", "sh", "-c", SAYS, "_", "{}"]);
    let mut outputs = Vec::new();
    let mut wait = Duration::from_millis(300);
    for _ in 0..rounds {
        let running: Running = place.start(&arguments);
        std::thread::sleep(wait);
        outputs.push(running.kill().stdout);
        // A different moment of the run each time.
        wait = Duration::from_millis(200 + (wait.as_millis() as u64 * 37) % 900);
    }
    outputs.push(place.run(&arguments).expect(0, &[]).stdout);
    let printed = printed(&outputs);
    let lost: Vec<u64> = (1..=items).filter(|item| !printed.contains_key(item)).collect();
    assert_eq!(lost, Vec::<u64>::new(), "were never printed whole");
    let twice = printed.values().filter(|times| **times > 1).count();
    assert!(twice <= rounds, "{twice} were printed twice by {rounds} kills");
    let entries = ["entries", "--data-dir", "data", "--stage", "finished", "--count"];
    assert_eq!(place.run(&entries).expect(0, &[]).text().trim(), items.to_string());
    let kept = fs::read_dir(place.path("data/exec/kept/output")).unwrap();
    assert_eq!(kept.count(), 0, "long outputs that were printed are removed");
}
