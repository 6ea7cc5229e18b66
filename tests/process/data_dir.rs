//! Data directories that cannot be used, or not at the moment.

use std::time::Duration;

use forebay_storage::DataDir;

use super::{exec, numbers, ran};
use crate::place::{Place, say, until};

/// Enough for the stores' first files, and full soon after.
const SMALL_DISK: &str = "size=40m";

#[test]
fn a_directory_in_use_is_refused_and_the_first_run_continues() {
    let place = Place::new();
    place.write("items", numbers(3));
    let script = "echo {} >> started; while ! test -e go; do sleep 0.02; done";
    let rest = exec(&["--input", "items", "--jobs", "3", "--", "sh", "-c", script]);
    let running = place.start(&rest);
    until("all have started", || ran(&place, "started").len() == 3);
    let id = running.id().to_string();
    place
        .run(&exec(&["--input", "items", "--", "touch", "second"]))
        .expect_refused(&["in use by process", &id]);
    place.write("go", "");
    running.end().expect(0, &["3 succeeded"]);
    assert!(!place.path("second").exists());
    place.run(&exec(&["--input", "items", "--", "touch", "second"])).expect(0, &[]);
}

#[test]
fn exec_waits_for_a_directory_being_inspected() {
    let place = Place::new();
    place.write("items", numbers(2));
    place.run(&exec(&["--input", "items", "--", "true"])).expect(0, &[]);
    let inspect = || {
        let held = DataDir::open(place.path("data")).unwrap();
        move || {
            std::thread::sleep(Duration::from_millis(400));
            drop(held);
        }
    };
    for words in [&exec(&["--input", "items", "--", "true"])[..], &["status", "--data-dir", "data"]]
    {
        let leaves = std::thread::spawn(inspect());
        place.run(words).expect(0, &[]);
        leaves.join().unwrap();
    }
}

#[test]
fn an_unrelated_directory_is_refused_and_unchanged() {
    let place = Place::new();
    place.write("items", "1\n");
    std::fs::create_dir(place.path("other")).unwrap();
    place.write("other/precious", "text");
    let with = |dir: &'static str| {
        place.run(&["exec", "--data-dir", dir, "--input", "items", "--", "touch", "started"])
    };
    with("other").expect_refused(&["other is not a forebay data directory", "precious"]);
    assert_eq!(std::fs::read_dir(place.path("other")).unwrap().count(), 1);
    with("items").expect_refused(&["items cannot be used: items is a file"]);
    with("items/data").expect_refused(&["items/data cannot be used: items is a file"]);
    place.run(&["status", "--data-dir", "items"]).expect_refused(&["items is a file"]);
    for question in ["status", "entries", "queues"] {
        place.run(&[question, "--data-dir", "none"]).expect_refused(&["no data directory at none"]);
        place.run(&[question, "--data-dir", "other"]).expect_refused(&["not a forebay data dir"]);
    }
    assert!(!place.path("none").exists() && !place.path("started").exists());
    assert_eq!(place.lines("items"), ["1"]);
    // An empty directory may become one.
    std::fs::create_dir(place.path("empty")).unwrap();
    with("empty").expect(0, &["1 succeeded"]);
}

/// A mount that is undone when the test ends.
struct Mount<'a>(&'a Place, &'static str);

impl<'a> Mount<'a> {
    fn new(place: &'a Place, at: &'static str, arguments: &[&str]) -> Option<Self> {
        place.system("mount", &[arguments, &[at]].concat()).then_some(Self(place, at))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        self.0.system("umount", &["-l", self.1]);
    }
}

#[test]
fn a_read_only_directory_is_refused_until_it_is_writable() {
    let place = Place::new();
    place.write("items", numbers(5));
    place.run(&exec(&["--input", "items", "--", "true"])).expect(0, &["5 succeeded"]);
    let Some(mount) = Mount::new(&place, "data", &["--bind", "data"]) else {
        return say("no mounts for this user: a read-only data directory is not tested");
    };
    if !place.system("mount", &["-o", "remount,bind,ro", "data"]) {
        return say("no read-only mounts: a read-only data directory is not tested");
    }
    let rest = ["--input", "items", "--", "sh", "-c", "echo {} >> started"];
    place.run(&exec(&rest)).expect_refused(&["data", "Read-only file system"]);
    let text = place.run(&["status", "--data-dir", "data"]).expect(0, &[]).text();
    assert!(text.contains("no process has the data directory open"), "{text}");
    let rule = ["rules", "set", "t", "--concurrency", "1", "--data-dir", "data"];
    place.run(&rule).expect_refused(&["data", "Read-only file system"]);
    assert!(!place.path("started").exists());
    drop(mount);
    place.run(&exec(&rest)).expect(0, &["5 succeeded"]);
}

#[test]
fn a_full_disk_loses_nothing_accepted() {
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    let tmpfs = ["-t", "tmpfs", "-o", SMALL_DISK, "forebay-test"];
    let Some(_mount) = Mount::new(&place, "data", &tmpfs) else {
        return say("no mounts for this user: a full disk is not tested");
    };
    place.write("items", numbers(2_000));
    // Each stores some 29 KB as its result.
    let script = "echo {} >> started; head -c 8192 /dev/urandom | od -An -v -tx1";
    let rest = ["--input", "items", "--jobs", "4", "--", "sh", "-c", script];
    let running = place.start(&exec(&rest));
    until("some have started", || ran(&place, "started").len() >= 40);
    // `data` becomes full during the run.
    place.system("dd", &["if=/dev/zero", "of=data/ballast", "bs=64k"]);
    let done = running.end().expect(2, &["error: ", "No space left on device"]);
    assert!(!done.stdout.is_empty(), "ended items were not reported");
    // It is full at the start, too. Inspection needs no space.
    place.run(&exec(&rest)).expect_refused(&["No space left on device"]);
    let count = place.run(&["entries", "--count", "--data-dir", "data"]).expect(0, &[]).text();
    assert!(count.trim().parse::<u64>().unwrap() > 0, "{count}");

    std::fs::remove_file(place.path("data/ballast")).unwrap();
    let before = place.json(&["entries", "--data-dir", "data", "--limit", "5000"]);
    let accepted = before.as_array().unwrap().len();
    assert!(accepted > 0, "nothing was accepted before the disk was full");
    // The results of all do not fit even without the ballast.
    let has_grown = place.system("mount", &["-o", "remount,size=400m", "data"]);
    assert!(has_grown, "the disk cannot grow");
    let items_before: Vec<u64> = ran(&place, "started");
    place.run(&exec(&rest)).expect(0, &["succeeded"]);
    let mut items: Vec<u64> = ran(&place, "started");
    let finished = finished(&before);
    assert!(
        items.len() - items_before.len() <= 2_000 - finished,
        "finished items ran again: {finished} were, {} ran",
        items.len() - items_before.len()
    );
    items.sort_unstable();
    items.dedup();
    assert_eq!(items, (1..=2_000).collect::<Vec<_>>());
    let after = place.json(&["entries", "--data-dir", "data", "--limit", "5000"]);
    assert_eq!(after.as_array().unwrap().len(), 2_000);
}

fn finished(entries: &serde_json::Value) -> usize {
    let entries = entries.as_array().unwrap();
    entries.iter().filter(|entry| entry["stage"] == "finished").count()
}
