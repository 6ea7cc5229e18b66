//! `forebay snapshot`: taken from a running process, restored elsewhere.

use super::{exec, numbers, ran};
use crate::place::{Place, until};

const SLOW: &str = "echo {} >> started; sleep 0.05; echo {} >> ended";

#[test]
fn a_snapshot_of_a_running_process_is_restored_and_continues() {
    let place = Place::new();
    place.write("items", numbers(60));
    let arguments = exec(&["--jobs", "2", "--input", "items", "--", "sh", "-c", SLOW]);
    let running = place.start(&arguments);
    until("some have ended", || ran(&place, "ended").len() > 10);
    let manifest = place.json(&["snapshot", "create", "copy", "--data-dir", "data"]);
    let copied = ran(&place, "ended").len();
    assert!(manifest["partitions"][0]["applied"].as_u64().unwrap() > 0, "{manifest}");
    running.kill();
    assert!(copied < 60, "it was taken while items ran");

    place.run(&["snapshot", "verify", "copy"]).expect(0, &[]);
    let restore = ["snapshot", "restore", "copy", "--data-dir", "new"];
    let report = place.run(&restore).expect(0, &[]).text();
    assert!(report.contains("rows as of LSN"), "{report}");
    place.run(&restore).expect_refused(&["not empty", "choose a new or an empty directory"]);
    place.run(&["snapshot", "restore", "items", "--data-dir", "n2"]).expect_refused(&["items"]);
    let finished = place.json(&["entries", "--stage", "finished", "--data-dir", "new"]);
    let finished = finished.as_array().unwrap().len();
    assert!((10..=copied).contains(&finished), "{finished} of {copied}");

    place.write("started", "");
    let again = ["exec", "--data-dir", "new", "--jobs", "2", "--input", "items", "--"];
    let again = [&again[..], &["sh", "-c", SLOW]].concat();
    place.run(&again).expect(0, &["0 failed", "were done before"]);
    assert_eq!(ran(&place, "started").len(), 60 - finished, "ended items are not run again");
}

#[test]
fn lost_rows_are_restored_from_a_snapshot_and_the_log() {
    let place = Place::new();
    place.write("items", numbers(20));
    let trim = ["--trim-log", "snapshotted"];
    let run = |input: &'static str| {
        exec(&[&trim[..], &["--input", input, "--", "sh", "-c", "echo {} >> ended"]].concat())
    };
    place.run(&run("items")).expect(0, &["20 succeeded"]);
    place.run(&["snapshot", "create", "copy", "--data-dir", "data"]).expect(0, &[]);
    place.write("more", (21..=40).map(|n| format!("{n}\n")).collect::<String>());
    place.run(&run("more")).expect(0, &["20 succeeded"]);

    std::fs::remove_dir_all(place.path("data/store")).unwrap();
    let refused = place.run(&["entries", "--data-dir", "data"]);
    refused.expect_refused(&["the records between are gone", "restore a snapshot"]);
    let restore = ["snapshot", "restore", "copy", "--log-of", "data", "--data-dir", "new"];
    place.run(&restore).expect(0, &[]);
    let entries = place.json(&["entries", "--stage", "finished", "--data-dir", "new"]);
    assert_eq!(entries.as_array().unwrap().len(), 40, "nothing acknowledged is lost");
}
