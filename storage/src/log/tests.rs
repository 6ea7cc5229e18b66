//! Both providers give the same answers; the local one survives crashes and finds damage.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use forebay_messages::{
    Epoch, Lsn, PartitionId, Record, Timestamp,
    command::{Command, UpsertRuleBook},
};
use proptest::prelude::*;

use super::{
    local::{FileSizes, SCRATCH_KEPT_MAX},
    *,
};
use crate::{FaultKind, Medium, fault::copy_dir};

const P: PartitionId = PartitionId(3);
const Q: PartitionId = PartitionId(4);

pub(crate) fn record(n: u64) -> Arc<Record> {
    let rule_book = Bytes::from(n.to_be_bytes().repeat(8));
    let command = Command::UpsertRuleBook(UpsertRuleBook {
        key_first: Default::default(),
        key_last: Default::default(),
        rule_book,
    });
    Arc::new(Record {
        keys: None,
        producer: None,
        created_at: Timestamp(n),
        command: Some(command),
    })
}

fn numbers(batch: &Batch) -> Vec<(u64, u64)> {
    batch.iter().map(|(lsn, record)| (lsn.0, record.created_at.0)).collect()
}

/// Files with one or two records each.
const TINY_FILES: FileSizes = FileSizes {
    memtable_bytes: 64 << 10,
    file_bytes: 64,
    young_files: 2,
    block_bytes: Some(64),
    journal: super::journal::SIZES,
};

fn append(
    log: &dyn LogStore,
    partition: PartitionId,
    epoch: u64,
    n: impl IntoIterator<Item = u64>,
) -> Appended {
    let records: Vec<_> = n.into_iter().map(record).collect();
    let append = Append { partition, epoch: Epoch(epoch), records: &records };
    log.append(&[append]).unwrap()[0]
}

fn all(log: &dyn LogStore, partition: PartitionId) -> Vec<(u64, u64)> {
    let from = log.trimmed(partition).next();
    numbers(&log.read(partition, from, usize::MAX, usize::MAX).unwrap())
}

/// Runs a test against every provider.
fn each(test: impl Fn(&dyn LogStore)) {
    test(&MemoryLog::new());
    test(&LocalLog::open(Path::new("/log"), &Medium::memory().unwrap()).unwrap());
    let dir = tempfile::tempdir().unwrap();
    test(&LocalLog::open(dir.path(), &Medium::disk()).unwrap());
}

#[test]
fn lsns_count_per_partition_from_one() {
    each(|log| {
        assert_eq!((log.end(P), log.trimmed(P)), (Lsn(0), Lsn(0)));
        assert_eq!(append(log, P, 1, 1..=3), Appended::At(Lsn(1)));
        assert_eq!(append(log, Q, 1, 9..=9), Appended::At(Lsn(1)));
        assert_eq!(append(log, P, 1, 4..=4), Appended::At(Lsn(4)));
        assert_eq!((log.end(P), log.end(Q)), (Lsn(4), Lsn(1)));
        assert_eq!(all(log, P), [(1, 1), (2, 2), (3, 3), (4, 4)]);
        assert_eq!(all(log, Q), [(1, 9)]);
    });
}

#[test]
fn one_call_is_one_fsync_for_all_partitions() {
    each(|log| {
        let (a, b) = ([record(1), record(2)], [record(3)]);
        let appends = [
            Append { partition: P, epoch: Epoch(1), records: &a },
            Append { partition: Q, epoch: Epoch(1), records: &b },
            Append { partition: P, epoch: Epoch(1), records: &b },
        ];
        let answers = log.append(&appends).unwrap();
        assert_eq!(answers, [1, 1, 3].map(|lsn| Appended::At(Lsn(lsn))));
        let stats = log.stats();
        assert_eq!((stats.fsyncs, stats.records), (1, 4));
        assert!(stats.bytes > 4 * 64, "{stats:?}");
        assert_eq!(log.append(&[]).unwrap(), []);
        assert_eq!(log.stats().fsyncs, 1, "no write, no sync");
    });
}

#[test]
fn older_epochs_are_fenced_and_the_fence_never_moves_back() {
    each(|log| {
        append(log, P, 2, 1..=1);
        assert_eq!(log.fenced(P), Epoch(2), "an append of a newer epoch raises the fence");
        assert_eq!(append(log, P, 1, 2..=2), Appended::Fenced { current: Epoch(2) });
        assert_eq!(log.fence(P, Epoch(5)).unwrap(), Epoch(5));
        assert_eq!(log.fence(P, Epoch(4)).unwrap(), Epoch(5));
        assert_eq!(append(log, P, 4, 2..=2), Appended::Fenced { current: Epoch(5) });
        assert_eq!(append(log, Q, 1, 7..=7), Appended::At(Lsn(1)), "fences are per partition");
        assert_eq!(append(log, P, 5, 3..=3), Appended::At(Lsn(2)));
        assert_eq!(all(log, P), [(1, 1), (2, 3)]);
    });
}

#[test]
fn a_later_append_of_the_same_call_sees_the_fence_of_an_earlier_one() {
    each(|log| {
        let records = [record(1)];
        let at = |epoch| Append { partition: P, epoch: Epoch(epoch), records: &records };
        let answers = log.append(&[at(1), at(3), at(2)]).unwrap();
        let fenced = Appended::Fenced { current: Epoch(3) };
        assert_eq!(answers, [Appended::At(Lsn(1)), Appended::At(Lsn(2)), fenced]);
        assert_eq!(log.end(P), Lsn(2));
    });
}

#[test]
fn reads_are_limited_but_always_progress() {
    each(|log| {
        append(log, P, 1, 1..=10);
        let read = |from, records, bytes| {
            numbers(&log.read(P, Lsn(from), records, bytes).unwrap())
                .iter()
                .map(|(lsn, _)| *lsn)
                .collect::<Vec<_>>()
        };
        assert_eq!(read(0, 3, usize::MAX), [1, 2, 3]);
        assert_eq!(read(9, 3, usize::MAX), [9, 10]);
        assert_eq!(read(11, 3, usize::MAX), [0; 0]);
        assert_eq!(read(90, 3, usize::MAX), [0; 0]);
        assert_eq!(read(5, 3, 1), [5], "one record, however small the limit");
        assert_eq!(read(5, 3, 0).first(), Some(&5));
        assert_eq!(read(5, 0, usize::MAX), [5]);
    });
}

#[test]
fn trimming_drops_only_the_front() {
    each(|log| {
        append(log, P, 1, 1..=10);
        append(log, Q, 1, 1..=3);
        log.trim(P, Lsn(4)).unwrap();
        log.trim(P, Lsn(2)).unwrap();
        assert_eq!(log.trimmed(P), Lsn(4));
        assert_eq!(all(log, P).len(), 6);
        assert_eq!(all(log, Q).len(), 3);
        let error = log.read(P, Lsn(4), 10, usize::MAX).unwrap_err();
        assert!(matches!(error, LogError::Trimmed { first: Lsn(5), .. }), "{error}");
        let error = log.trim(P, Lsn(11)).unwrap_err();
        assert!(matches!(error, LogError::BeyondEnd { end: Lsn(10), .. }), "{error}");
        log.trim(P, Lsn(10)).unwrap();
        assert_eq!(append(log, P, 1, 11..=11), Appended::At(Lsn(11)), "LSNs are never reused");
    });
}

/// Regression: the log in memory accepted records of any length, so simulations did not cover the
/// limit. A refused call must leave nothing behind, neither records nor a fence.
#[test]
fn a_record_above_the_limit_is_refused_and_the_log_continues() {
    let dir = tempfile::tempdir().unwrap();
    let exact = record(1).stored_len();
    let small = |log: LocalLog| Box::new(log.with_record_len_max(exact)) as Box<dyn LogStore>;
    let logs = [
        Box::new(MemoryLog::with_record_len_max(exact)) as Box<dyn LogStore>,
        small(LocalLog::open(Path::new("/log"), &Medium::memory().unwrap()).unwrap()),
        small(LocalLog::open(dir.path(), &Medium::disk()).unwrap()),
    ];
    for log in logs {
        assert_eq!(log.record_len_max(), exact);
        append(&*log, P, 1, [1]);
        let (fits, too_large) = ([record(2)], [record(u64::MAX)]);
        let appends = [
            Append { partition: Q, epoch: Epoch(3), records: &fits },
            Append { partition: P, epoch: Epoch(3), records: &too_large },
        ];
        let error = log.append(&appends).unwrap_err();
        let len = too_large[0].stored_len();
        assert!(len > exact);
        let message = format!("partition {P} has {len} bytes, at most {exact} fit");
        assert!(error.to_string().contains(&message), "{error}");
        assert_eq!((log.end(P), log.end(Q), log.fenced(P)), (Lsn(1), Lsn(0), Epoch(1)));
        let fenced = Append { partition: P, epoch: Epoch(0), records: &too_large };
        assert_eq!(log.append(&[fenced]).unwrap(), [Appended::Fenced { current: Epoch(1) }]);
        assert_eq!(append(&*log, P, 1, [2]), Appended::At(Lsn(2)));
        assert_eq!(all(&*log, P), [(1, 1), (2, 2)]);
    }
}

/// Regression: trimming dropped files below the first level together with the record after the trim
/// point if a file ended with it. The log did not open again: its front was missing.
#[test]
fn trimming_keeps_the_next_record_in_every_level() {
    const RECORDS: u64 = 60;
    let medium = Medium::memory().unwrap();
    let path = Path::new("/log");
    let mut log = LocalLog::open_with(path, &medium, TINY_FILES).unwrap();
    append(&log, P, 1, 1..=RECORDS);
    append(&log, Q, 1, 1..=3);
    let files = log.compact();
    assert!(files > RECORDS as usize / 4, "{files} files: too few to end anywhere");
    for through in 1..RECORDS {
        log.trim(P, Lsn(through)).unwrap();
        let left: Vec<_> = (through + 1..=RECORDS).map(|n| (n, n)).collect();
        assert_eq!(all(&log, P), left, "trimmed through {through}");
        assert_eq!(all(&log, Q).len(), 3);
        if through % 7 == 0 {
            drop(log);
            log = LocalLog::open_with(path, &medium, TINY_FILES).unwrap();
            assert_eq!((log.trimmed(P), log.end(P)), (Lsn(through), Lsn(RECORDS)));
            log.compact();
        }
    }
}

/// Regression: a record of 64 MiB left a buffer of that size until the log was closed.
#[test]
fn a_large_record_leaves_no_large_buffer() {
    let log = LocalLog::open(Path::new("/log"), &Medium::memory().unwrap()).unwrap();
    let command = Command::UpsertRuleBook(UpsertRuleBook {
        key_first: Default::default(),
        key_last: Default::default(),
        rule_book: Bytes::from(vec![7; 8 << 20]),
    });
    let large = Arc::new(Record { command: Some(command), ..Record::clone(&record(1)) });
    log.append(&[Append { partition: P, epoch: Epoch(1), records: &[large] }]).unwrap();
    assert!(log.scratch_kept() <= SCRATCH_KEPT_MAX, "{} bytes are kept", log.scratch_kept());
    append(&log, P, 1, 2..=3);
    assert_eq!(log.end(P), Lsn(3));
}

#[test]
fn reopening_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Medium::disk();
    let log = LocalLog::open(dir.path(), &medium).unwrap();
    append(&log, P, 1, 1..=10);
    append(&log, Q, 7, 1..=2);
    append(&log, PartitionId(u32::MAX), 1, 1..=2);
    log.trim(P, Lsn(3)).unwrap();
    log.trim(Q, Lsn(2)).unwrap();
    log.fence(P, Epoch(6)).unwrap();
    drop(log);
    for flushed in [false, true] {
        let log = LocalLog::open(dir.path(), &medium).unwrap();
        assert_eq!((log.end(P), log.trimmed(P), log.fenced(P)), (Lsn(10), Lsn(3), Epoch(6)));
        assert_eq!((log.end(Q), log.trimmed(Q), log.fenced(Q)), (Lsn(2), Lsn(2), Epoch(7)));
        assert_eq!(log.end(PartitionId(u32::MAX)), Lsn(2));
        assert_eq!(all(&log, P).len(), 7);
        assert_eq!(append(&log, P, 5, 1..=1), Appended::Fenced { current: Epoch(6) });
        if !flushed {
            log.flush().unwrap();
        }
    }
}

/// The last appends may be in the journal only, and a copy has an empty journal.
#[test]
fn a_copy_has_the_last_acknowledged_records() {
    let dir = tempfile::tempdir().unwrap();
    let log = LocalLog::open(&dir.path().join("live"), &Medium::disk()).unwrap();
    for n in 1..=3 {
        append(&log, P, 1, [n]);
        let copy = dir.path().join(format!("copy-{n}"));
        log.checkpoint(&copy).unwrap();
        let copied = LocalLog::open(&copy, &Medium::disk()).unwrap();
        assert_eq!(copied.end(P), Lsn(n), "nothing was read since the append");
        assert_eq!(all(&copied, P), all(&log, P));
    }
}

/// After kill -9: the files as they are, nothing closed.
#[test]
fn every_acknowledged_record_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Medium::disk();
    let log = LocalLog::open(&dir.path().join("live"), &medium).unwrap();
    for round in 1..=5 {
        append(&log, P, round, round * 10..round * 10 + 7);
        let copy = dir.path().join(format!("copy-{round}"));
        copy_dir(&dir.path().join("live"), &copy).unwrap();
        let copied = LocalLog::open(&copy, &medium).unwrap();
        assert_eq!(all(&copied, P), all(&log, P), "round {round}");
        assert_eq!(copied.fenced(P), Epoch(round));
        if round == 3 {
            log.flush().unwrap();
            log.trim(P, Lsn(8)).unwrap();
        }
    }
}

fn journal(dir: &Path) -> std::path::PathBuf {
    dir.join("journal").join("0")
}

/// A journal of ten appends of one record each, none of them in the database's files.
fn crashed() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let log = LocalLog::open(&dir.path().join("live"), &Medium::disk()).unwrap();
    for n in 1..=10 {
        append(&log, P, 1, n..=n);
    }
    copy_dir(&dir.path().join("live"), &dir.path().join("crashed")).unwrap();
    let bytes = fs::read(journal(&dir.path().join("crashed"))).unwrap();
    (dir, bytes)
}

fn open_with_journal(dir: &Path, n: usize, bytes: &[u8]) -> Result<LocalLog, LogError> {
    let copy = dir.join(format!("copy-{n}"));
    copy_dir(&dir.join("crashed"), &copy).unwrap();
    fs::write(journal(&copy), bytes).unwrap();
    LocalLog::open(&copy, &Medium::disk())
}

/// A torn tail is cut at the end of a record; a prefix is left.
#[test]
fn a_torn_tail_is_cut() {
    let (dir, bytes) = crashed();
    let mut ends = Vec::new();
    for (n, len) in (0..6_000).step_by(301).enumerate() {
        let log = open_with_journal(dir.path(), n, &bytes[..len]).unwrap();
        let found = all(&log, P);
        let expected: Vec<_> = (1..=log.end(P).0).map(|i| (i, i)).collect();
        assert_eq!(found, expected);
        append(&log, P, 1, [log.end(P).0 + 1]);
        ends.push(log.end(P).0 - 1);
    }
    assert!(ends.is_sorted(), "{ends:?}");
    assert_eq!((ends[0], ends.last()), (0, Some(&10)));
}

/// A flipped bit never makes acknowledged records vanish: the log does not open.
#[test]
fn a_flipped_bit_is_found() {
    let (dir, bytes) = crashed();
    let (mut refused, mut whole, mut cut) = (0, 0, Vec::new());
    // Every 41st byte, another bit each time.
    for (n, at) in (0..7_000).step_by(41).enumerate() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (n % 8);
        let found = open_with_journal(dir.path(), n, &flipped)
            .and_then(|log| log.read(P, Lsn(1), usize::MAX, usize::MAX));
        match found {
            Err(LogError::Fault(fault)) => {
                assert_eq!(fault.kind, FaultKind::Corrupt, "{fault}");
                refused += 1;
            }
            Err(error) => {
                assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
                refused += 1;
            }
            Ok(found) if found.len() == 10 => whole += 1,
            Ok(found) => cut.push((at, found.len())),
        }
    }
    assert!(refused > 100 && whole > 10, "refused {refused}, whole {whole}, cut {cut:?}");
    assert!(cut.is_empty(), "acknowledged records vanished: {cut:?}");
}

/// A log of an earlier version, which used RocksDB's own write-ahead log.
#[test]
fn a_log_without_its_own_journal_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let db = rocksdb::DB::open(&Medium::disk().options(), dir.path()).unwrap();
    let mut frame = Vec::new();
    for lsn in 1..=3 {
        super::frame::encode(P, Lsn(lsn), &record(lsn), &mut frame);
        db.put([&b"r"[..], &P.0.to_be_bytes(), &lsn.to_be_bytes()].concat(), &frame).unwrap();
    }
    drop(db);
    for more in 4..=5 {
        let log = LocalLog::open(dir.path(), &Medium::disk()).unwrap();
        append(&log, P, 1, [more]);
        assert_eq!(all(&log, P).len() as u64, more);
    }
}

/// If it counted as missing, a journal without blocks would start over.
#[test]
fn an_invalid_mark_is_damage() {
    let (dir, bytes) = crashed();
    let db = rocksdb::DB::open(&Medium::disk().options(), dir.path().join("crashed")).unwrap();
    db.put(b"j", [0; 7]).unwrap();
    drop(db);
    let error = open_with_journal(dir.path(), 0, &bytes).unwrap_err();
    let message = Damage::Row { row: "mark", len: 7 };
    assert!(matches!(&error, LogError::Corrupt { damage, .. } if *damage == message), "{error}");
}

/// Damage below RocksDB's own checksums is found by our frame.
#[test]
fn a_damaged_frame_names_log_partition_and_lsn() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Medium::disk();
    let log = LocalLog::open(dir.path(), &medium).unwrap();
    append(&log, P, 1, 1..=5);
    log.damage(P, Lsn(3), |frame| {
        frame.map(|mut frame| {
            *frame.last_mut().unwrap() ^= 4;
            frame
        })
    });
    let read = |log: &LocalLog| log.read(P, Lsn(1), 10, usize::MAX).unwrap_err();
    let error = read(&log);
    let LogError::Corrupt { partition: P, lsn: Lsn(3), damage, .. } = &error else {
        panic!("{error}")
    };
    assert!(matches!(damage, Damage::Checksum { .. }));
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    assert_eq!(log.read(P, Lsn(1), 2, usize::MAX).unwrap().len(), 2);

    log.damage(P, Lsn(3), |_| None);
    assert!(matches!(read(&log), LogError::Corrupt { lsn: Lsn(3), damage: Damage::Missing, .. }));
    log.damage(P, Lsn(1), |_| None);
    assert!(matches!(read(&log), LogError::Corrupt { lsn: Lsn(1), damage: Damage::Missing, .. }));
    drop(log);
    let error = LocalLog::open(dir.path(), &medium).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { lsn: Lsn(1), .. }), "a lost front: {error}");
}

#[test]
fn a_second_opener_learns_that_the_log_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let _log = LocalLog::open(dir.path(), &Medium::disk()).unwrap();
    let LogError::Fault(fault) = LocalLog::open(dir.path(), &Medium::disk()).unwrap_err() else {
        panic!("not a fault")
    };
    assert_eq!(fault.kind, FaultKind::InUse, "{fault}");
}

#[test]
fn a_crash_of_the_memory_log_loses_unsynced_records() {
    let log = MemoryLog::new();
    append(&log, P, 1, 1..=3);
    log.withhold_sync(true);
    append(&log, P, 2, 4..=6);
    assert_eq!(log.end(P), Lsn(6));
    log.crash();
    assert_eq!((log.end(P), log.fenced(P)), (Lsn(3), Epoch(1)));
    append(&log, P, 3, 4..=4);
    log.trim(P, Lsn(2)).unwrap();
    log.withhold_sync(false);
    log.crash();
    assert_eq!(all(&log, P), [(3, 3), (4, 4)]);
}

/// Steps of the model test.
#[derive(Clone, Debug)]
enum Step {
    Append { partition: u32, epoch: u64, count: usize },
    Fence { partition: u32, epoch: u64 },
    Trim { partition: u32, part: u64 },
    Read { partition: u32, part: u64, records: usize },
    Reopen,
    Flush,
    Compact,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3u32, 0..6u64, 0..5usize)
            .prop_map(|(partition, epoch, count)| Step::Append { partition, epoch, count }),
        1 => (0..3u32, 0..6u64).prop_map(|(partition, epoch)| Step::Fence { partition, epoch }),
        1 => (0..3u32, 0..120u64).prop_map(|(partition, part)| Step::Trim { partition, part }),
        2 => (0..3u32, 0..120u64, 0..9usize)
            .prop_map(|(partition, part, records)| Step::Read { partition, part, records }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Flush),
        2 => Just(Step::Compact),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// The local log answers every sequence of calls as the memory log does.
    #[test]
    fn the_local_log_equals_the_memory_log(steps in steps()) {
        let medium = Medium::memory().unwrap();
        let path = Path::new("/log");
        let model = MemoryLog::new();
        let mut log = LocalLog::open_with(path, &medium, TINY_FILES).unwrap();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append { partition, epoch, count } => {
                    let n = n as u64 * 100..n as u64 * 100 + count as u64;
                    let partition = PartitionId(partition);
                    let answer = append(&log, partition, epoch, n.clone());
                    prop_assert_eq!(answer, append(&model, partition, epoch, n));
                }
                Step::Fence { partition, epoch } => {
                    let (partition, epoch) = (PartitionId(partition), Epoch(epoch));
                    let fence = log.fence(partition, epoch).unwrap();
                    prop_assert_eq!(fence, model.fence(partition, epoch).unwrap());
                }
                Step::Trim { partition, part } => {
                    let partition = PartitionId(partition);
                    let through = Lsn(model.end(partition).0 * part / 100);
                    let done = log.trim(partition, through).is_ok();
                    prop_assert_eq!(done, model.trim(partition, through).is_ok());
                }
                Step::Read { partition, part, records } => {
                    let partition = PartitionId(partition);
                    let from = Lsn(model.end(partition).0 * part / 100);
                    let found = log.read(partition, from, records, 200).ok();
                    let expected = model.read(partition, from, records, 200).ok();
                    prop_assert_eq!(found, expected);
                }
                Step::Reopen => {
                    drop(log);
                    log = LocalLog::open_with(path, &medium, TINY_FILES).unwrap();
                }
                Step::Flush => log.flush().unwrap(),
                Step::Compact => drop(log.compact()),
            }
            for partition in (0..3).map(PartitionId) {
                prop_assert_eq!(log.position_of(partition), Position {
                    fence: model.fenced(partition),
                    end: model.end(partition),
                    trimmed: model.trimmed(partition),
                });
                prop_assert_eq!(all(&log, partition), all(&model, partition));
            }
        }
    }
}

#[test]
fn a_log_is_identified_once() {
    each(|log| {
        assert_eq!(log.identity().unwrap(), None);
        assert_eq!(log.identify(LogId(7)).unwrap(), LogId(7));
        assert_eq!(log.identify(LogId(8)).unwrap(), LogId(7), "it already has one");
        append(log, P, 1, 0..3);
        assert_eq!((log.identity().unwrap(), log.end(P)), (Some(LogId(7)), Lsn(3)));
    });
    let dir = tempfile::tempdir().unwrap();
    let open = || LocalLog::open(dir.path(), &Medium::disk()).unwrap();
    open().identify(LogId(9)).unwrap();
    assert_eq!(open().identity().unwrap(), Some(LogId(9)));
}
