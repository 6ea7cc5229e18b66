//! Damaged rows are errors that name them, and no bytes make a start panic.

use forebay_engine::consensus::{Group as Machine, Limits};
use omnipaxos::ballot_leader_election::Ballot;
use proptest::prelude::*;

use super::*;

/// Writes a group with a row of every kind, in files.
fn full(path: &Path) {
    let site = Site::open(path);
    site.groups.begin_group(1, segment(3), true).unwrap();
    let ballot = Ballot { config_id: 1, n: 1, priority: 0, pid: 2 };
    let mut writes = appends(0, RunningHash::default(), 5, 20);
    writes.extend([
        Write::Promise(ballot),
        Write::Round(ballot),
        Write::Adopted(2),
        Write::Decided(3),
        Write::Peer(memory(2, 3)),
    ]);
    site.commit(1, &writes);
    site.log.flush().unwrap();
}

/// Keys and values of the consensus rows.
fn rows(log: &LocalLog) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut rows = log.database().db().raw_iterator();
    rows.seek(b"c");
    while let Some((key, value)) = rows.item().filter(|(key, _)| key[0] == b'c') {
        found.push((key.to_vec(), value.to_vec()));
        rows.next();
    }
    found
}

/// Opens the directory after `change` to its rows: the data of a group, and the group itself.
fn open_after(path: &Path, change: impl FnOnce(&LocalLog)) -> Result<(), String> {
    let log = LocalLog::open_small(&path.join("log"), &Medium::disk()).unwrap();
    change(&log);
    log.flush().unwrap();
    drop(log);
    let full_text = |error: &dyn std::fmt::Display| error.to_string();
    let site = Site::try_open(path, &start(6)).map_err(|error| full_text(&error))?;
    for group in site.groups.groups() {
        let recovered = site.groups.recover(group).map_err(|error| full_text(&error))?;
        let identity = site.groups.node().identity(9, 1, group);
        Machine::open(identity, Limits::default(), recovered, 0)
            .map_err(|error| full_text(&error))?;
    }
    Ok(())
}

#[test]
fn every_row_of_a_newer_version_says_so() {
    let dir = tempfile::tempdir().unwrap();
    full(dir.path());
    let log = LocalLog::open_small(&dir.path().join("log"), &Medium::disk()).unwrap();
    let all = rows(&log);
    drop(log);
    assert_eq!(all.len(), 12, "the identity, five entries, and one row of each other kind");
    for (key, value) in all {
        let mut newer = value.clone();
        newer[0] += 1;
        let error = open_after(dir.path(), |log| {
            log.database().db().put(&key, newer).unwrap();
        });
        let error = error.unwrap_err();
        assert!(error.contains("format 2") && error.contains("use a newer forebay"), "{error}");
        // Restore the row: nothing else was changed.
        open_after(dir.path(), |log| log.database().db().put(&key, &value).unwrap()).unwrap();
    }
}

#[test]
fn a_missing_row_is_named() {
    let entry = |index| keys::numbered(keys::Kind::Entry, 1, index);
    let cases = [
        (entry(0), "entry 0 is damaged: it is missing"),
        (entry(2), "entry 2 is damaged: it is missing"),
        (keys::of_group(keys::Kind::Decided, 1), "the decided index is damaged: it is missing"),
    ];
    for (key, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        full(dir.path());
        let error = open_after(dir.path(), |log| log.database().db().delete(&key).unwrap());
        let error = error.unwrap_err();
        assert!(error.contains(expected) && error.contains("replace it"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    full(dir.path());
    let error = open_after(dir.path(), |log| {
        (2..5).for_each(|index| log.database().db().delete(entry(index)).unwrap());
    });
    let error = error.unwrap_err();
    assert!(error.contains("lost what it had synced"), "a missing end: {error}");
}

#[test]
fn an_entry_of_another_history_is_named() {
    let dir = tempfile::tempdir().unwrap();
    full(dir.path());
    let mut other = Vec::new();
    row(RunningHash(5), 20, 9).encode(&mut other);
    let key = keys::numbered(keys::Kind::Entry, 1, 3);
    let error = open_after(dir.path(), |log| log.database().db().put(&key, &other).unwrap());
    let error = error.unwrap_err();
    assert!(error.contains("entry 3 is damaged: it does not continue the one before"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Changed bytes are an error or another legal state, never a panic.
    #[test]
    fn spoiled_rows_never_panic(
        which: prop::sample::Index,
        at: prop::sample::Index,
        value: u8,
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        full(dir.path());
        let _ = open_after(dir.path(), |log| {
            let all = rows(log);
            let (key, mut bytes) = all[which.index(all.len())].clone();
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            log.database().db().put(key, bytes).unwrap();
        });
    }

    /// Rows under unknown keys do not panic either.
    #[test]
    fn any_row_never_panics(tail: Vec<u8>, bytes: Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        full(dir.path());
        let _ = open_after(dir.path(), |log| {
            let key = [b"c", &tail[..]].concat();
            log.database().db().put(key, bytes).unwrap();
        });
    }

    #[test]
    fn any_key_and_identity_never_panic(bytes: Vec<u8>) {
        let _ = keys::group_in(&bytes);
        let _ = keys::storage_in(&bytes);
        let _ = keys::number_in(keys::Kind::Entry, &bytes);
        if let Ok(node) = Node::decode(&bytes) {
            prop_assert_eq!(node.encode(), bytes);
        }
    }

    #[test]
    fn keys_come_back_and_sort_as_their_numbers(
        group: u32, number: u64, other_group: u32, other: u64, storage: u128,
    ) {
        let key = keys::numbered(keys::Kind::Entry, group, number);
        prop_assert_eq!(keys::group_in(&key), Some(group));
        prop_assert_eq!(keys::number_in(keys::Kind::Entry, &key), Some(number));
        prop_assert_eq!(keys::number_in(keys::Kind::Segment, &key), None);
        let other_key = keys::numbered(keys::Kind::Entry, other_group, other);
        prop_assert_eq!(key.cmp(&other_key), (group, number).cmp(&(other_group, other)));
        prop_assert!(key < keys::end_of_group(keys::Kind::Entry, group));
        let memory = keys::memory(group, StorageId(storage));
        prop_assert_eq!(keys::storage_in(&memory), Some(StorageId(storage)));
    }
}
