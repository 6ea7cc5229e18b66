//! A data directory left behind by a crash of an earlier version must replay to the rows and
//! outcomes of that version.
//!
//! Owns: `tests/data/old-log/`, with one archive and one dump per kept version. `VERSION.tar.gz` is
//! the directory of a process that aborted in the middle of its work: a clean stop has put the
//! first records into the store, the rest is only in the log. `VERSION.txt` lists the result of
//! replaying that log with the code of that version.
//!
//! To keep the log of another version, check that version out and run `FOREBAY_OLD_LOG_MAKE=VERSION
//! cargo test --all-features --test main old_log`. Never regenerate the files of a kept version: a
//! difference is a bug in the code, not in the dump.

mod child;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use forebay::{Context, Drain, Entry, EntryId, HandlerError, Outcome, Runtime, Stage};
use forebay_engine::partition::{rows::EntryRow, store::Rows};
use forebay_messages::Lsn;
use forebay_storage::{
    DataDir, Medium,
    log::{LocalLog, LogStore},
    partition::{PartitionStore, Store},
};

use crate::{place::Place, replay::replay_onto};

/// The version whose log is kept.
const KEPT: &str = "a213b51";
/// Keys of the partition's own slots that no kept version had. They are not compared.
/// `LatestRecordAt`: the lower bound of the partition's time.
const ADDED_SLOTS: [&[u8]; 1] = [b"fs\x00\x0b"];
/// Generates the files of a version.
const MAKE: &str = "FOREBAY_OLD_LOG_MAKE";
/// A dump with fewer rows would not prove much.
const ROWS_MIN: usize = 300;

fn kept(name: &str) -> PathBuf {
    crate::root().join("tests/data/old-log").join(name)
}

fn tar(arguments: &[&str]) {
    let status = Command::new("tar").args(arguments).status();
    assert!(status.expect("tar is installed").success(), "tar {arguments:?}");
}

fn unpacked(version: &str) -> Place {
    let place = Place::new();
    let archive = kept(&format!("{version}.tar.gz"));
    tar(&["-xzf", archive.to_str().unwrap(), "-C", place.path("").to_str().unwrap()]);
    place
}

/// All rows of a partition in hexadecimal, then the outcome of each entry.
fn dump(rows: &PartitionStore) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let raw = rows.raw_rows().unwrap();
    let mut text = format!("partition {}\n", rows.id());
    let is_added = |key: &[u8]| ADDED_SLOTS.contains(&key);
    for (key, row) in raw.iter().filter(|(key, _)| !is_added(key)) {
        let kind = std::str::from_utf8(&key[..2]).unwrap();
        writeln!(text, "{kind} {} {}", hex(&key[2..]), hex(row)).unwrap();
    }
    let view = rows.begin().unwrap();
    for (key, _) in raw.iter().filter(|(key, _)| key.starts_with(b"fi")) {
        let id = EntryId::from_bytes(key[2..].try_into().unwrap());
        let row = view.finished(id).unwrap().unwrap();
        let outcome = match row.outcome() {
            Outcome::Success(bytes) => format!("success, {} bytes", bytes.len()),
            Outcome::Failure(failure) => format!("{}: {}", failure.kind, failure.message),
        };
        writeln!(text, "{id} ended at attempt {}: {outcome}", row.attempts).unwrap();
    }
    text
}

/// The rows of a data directory after its log is replayed. Each partition is replayed twice: onto
/// the rows as found, and from the first record on.
fn replayed(data: &Path) -> String {
    let dir = DataDir::open_existing(data).unwrap();
    let log = LocalLog::open(&dir.log(), &Medium::disk()).unwrap();
    let store = Store::open(&dir.store(), &Medium::disk()).unwrap();
    let mut text = String::new();
    for id in store.partitions() {
        let rows = store.partition(id).unwrap();
        let before = rows.applied_lsn().unwrap();
        assert!(before > Lsn(0) && before < log.end(id), "partition {id} has an unapplied tail");
        replay_onto(&rows, &log, log.end(id));
        let found = dump(&rows);
        let memory = Store::open(Path::new("/replay"), &Medium::memory().unwrap()).unwrap();
        let fresh = memory.partition(id).unwrap();
        replay_onto(&fresh, &log, log.end(id));
        assert_eq!(dump(&fresh), found, "partition {id}, from the first record on");
        text += &found;
    }
    text
}

#[test]
fn an_old_log_replays_to_the_rows_and_outcomes_of_its_version() {
    if let Some(version) = std::env::var_os(MAKE) {
        child::make(version.to_str().unwrap());
    }
    let expected = fs::read_to_string(kept(&format!("{KEPT}.txt"))).unwrap();
    assert!(expected.lines().count() > ROWS_MIN, "the dump is whole");
    let found = replayed(&unpacked(KEPT).path("data"));
    for (at, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {} of the dump", at + 1);
    }
    assert_eq!(found.len(), expected.len(), "the dump has as many lines");
}

/// The unfinished entries, with their rows and whether they wait for something that does not happen
/// during the test.
fn open_entries(data: &Path) -> Vec<(EntryId, EntryRow, bool)> {
    let dir = DataDir::open_existing(data).unwrap();
    let log = LocalLog::open(&dir.log(), &Medium::disk()).unwrap();
    let store = Store::open(&dir.store(), &Medium::disk()).unwrap();
    let mut open = Vec::new();
    for id in store.partitions() {
        let rows = store.partition(id).unwrap();
        replay_onto(&rows, &log, log.end(id));
        let raw = rows.raw_rows().unwrap();
        let view = rows.begin().unwrap();
        for (key, _) in raw.iter().filter(|(key, _)| key.starts_with(b"en")) {
            let id = EntryId::from_bytes(key[2..].try_into().unwrap());
            let row = view.entry(id).unwrap().unwrap();
            let meta = view.vqueue_meta(row.vqueue).unwrap().unwrap();
            let rests = meta.is_paused || meta.name.service == *"snooze";
            open.push((id, row, rests));
        }
    }
    open
}

/// Work of the earlier version continues: running and waiting entries end, paused ones stay paused,
/// and idempotency keys still refer to their first entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_of_an_old_log_continues() {
    if std::env::var_os(MAKE).is_some() {
        return;
    }
    let place = unpacked(KEPT);
    let open = open_entries(&unpacked(KEPT).path("data"));
    let running = open.iter().filter(|(_, row, _)| row.stage == Stage::Running).count();
    assert!(running > 5, "{running} entries ran when the process died");
    let mut builder = Runtime::builder().data_dir(place.path("data"));
    for service in child::SERVICES {
        builder = builder.handler(service, |_: Context, payload: bytes::Bytes| async move {
            Ok::<_, HandlerError>(payload)
        });
    }
    let runtime = builder.start().await.unwrap();
    for (id, row, rests) in &open {
        if row.stage == Stage::Paused || *rests {
            continue;
        }
        let outcome = runtime.attach(*id).outcome().await.unwrap();
        // An entry that was asked to stop before the process died does not run again.
        let (is_canceled, stage) = (row.cancel_requested, row.stage);
        assert_eq!(outcome.is_success(), !is_canceled, "{id}, which was {stage}: {outcome:?}");
    }
    for (scope, key) in child::KEYED {
        let entry = Entry::to("keyed").scope(scope).key("object").idempotency_key(key);
        let again = runtime.enqueue(entry.payload(key)).await.unwrap();
        assert!(again.was_existing(), "the key {key} of {scope} is remembered");
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}
