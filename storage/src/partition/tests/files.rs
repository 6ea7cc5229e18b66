//! Crashes, damage, creating and deleting partitions, faults.

use std::fs;

use super::*;
use crate::{
    FaultKind,
    fault::{StoreFault, StoreFaults, copy_dir},
};

fn open(path: &Path) -> Store {
    Store::open(path, &Medium::disk()).unwrap()
}

#[test]
fn after_a_crash_the_log_restores_what_was_not_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    let store = open(&live).partition(P).unwrap();
    let name = VQueueName::service("s").with_object_key("k");
    let log: Vec<_> = (0..300).map(|n| enqueue(n, &name)).collect();
    catch_up(&store, &log[..100], 7);
    assert_eq!(store.durable_lsn().unwrap(), Lsn(0));
    assert_eq!(store.flush().unwrap(), Lsn(100));
    catch_up(&store, &log, 7);
    assert_eq!((store.applied_lsn().unwrap(), store.durable_lsn().unwrap()), (Lsn(300), Lsn(100)));

    copy_dir(&live, &copy).unwrap();
    let copied = open(&copy).partition(P).unwrap();
    assert_eq!(copied.applied_lsn().unwrap(), Lsn(100), "exactly what was reported as durable");
    assert_eq!(dump(&copied).entries.len(), 100);
    catch_up(&copied, &log, 13);
    assert_eq!(copied.digest().unwrap(), store.digest().unwrap());
}

#[test]
fn a_clean_close_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).partition(P).unwrap();
    let log: Vec<_> = (0..20).map(|n| enqueue(n, &VQueueName::service("s"))).collect();
    catch_up(&store, &log, 7);
    store.flush().unwrap();
    let before = store.digest().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.partitions(), [P]);
    assert_eq!(store.partition(P).unwrap().digest().unwrap(), before);
}

#[test]
fn partitions_can_be_created_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ids = [10, 2, 1].map(PartitionId);
    let mut stores = ids.map(|id| store.partition(id).unwrap());
    for (n, partition) in stores.iter_mut().enumerate() {
        let log: Vec<_> = (0..=n as u64).map(|n| enqueue(n, &VQueueName::service("s"))).collect();
        catch_up(partition, &log, 9);
    }
    assert_eq!(store.partitions(), [1, 2, 10].map(PartitionId));
    let counts = stores.each_ref().map(|store| dump(store).entries.len());
    assert_eq!(counts, [1, 2, 3], "rows of one partition are not another's");
    store.delete_partition(ids[0]).unwrap();
    let gone = stores[0].applied_lsn().unwrap_err();
    assert!(matches!(gone, StoreError::NoPartition { partition, .. } if partition == ids[0]));
    assert!(store.delete_partition(ids[0]).is_err());
    stores[1].flush().unwrap();
    drop((stores, store));
    let store = open(dir.path());
    assert_eq!(store.partitions(), [1, 2].map(PartitionId));
    let again = store.partition(ids[0]).unwrap();
    assert_eq!(again.applied_lsn().unwrap(), Lsn(0), "nothing of the deleted one returns");
}

#[test]
fn a_second_opener_learns_that_the_store_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let error = Store::open(dir.path(), &Medium::disk()).unwrap_err();
    assert!(matches!(&error, StoreError::Fault(f) if f.kind == FaultKind::InUse), "{error}");
}

/// A flushed store with some rows, closed.
fn closed(dir: &Path) {
    let store = open(dir).partition(P).unwrap();
    let log: Vec<_> = (0..200).map(|n| enqueue(n, &VQueueName::service("s"))).collect();
    catch_up(&store, &log, 50);
    store.flush().unwrap();
}

fn data_file(dir: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = files.filter(|f| f.extension().is_some_and(|e| e == "sst")).collect();
    files.sort_by_key(|file| fs::metadata(file).unwrap().len());
    files.pop().unwrap()
}

#[test]
fn a_damaged_data_file_is_an_error_that_names_the_table_and_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    let file = data_file(dir.path());
    let bytes = fs::read(&file).unwrap();
    let (mut found, step) = (0, bytes.len() / 60);
    for at in (0..bytes.len()).step_by(step) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(&file, &flipped).unwrap();
        let read = Store::open(dir.path(), &Medium::disk())
            .and_then(|store| store.partition(P))
            .and_then(|store| store.list_entries(&Default::default(), None, 9_999));
        match read {
            Err(error) => {
                assert!(error.is_corruption(), "byte {at}: {error}");
                let text = error.to_string();
                assert!(text.contains(&dir.path().display().to_string()), "{text}");
                found += usize::from(text.contains("table `entry`") || text.contains("open"));
            }
            // In a block that this read does not need.
            Ok(page) => assert_eq!(page.entries.len(), 200, "byte {at}: rows are missing"),
        }
    }
    assert!(found > 5, "found {found}");
    fs::write(&file, bytes).unwrap();
    assert_eq!(dump(&open(dir.path()).partition(P).unwrap()).entries.len(), 200);
}

#[test]
fn a_missing_data_file_and_a_damaged_manifest_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }
    fs::remove_file(data_file(&copy)).unwrap();
    let opened = Store::open(&copy, &Medium::disk()).and_then(|store| store.partition(P));
    assert!(opened.and_then(|store| store.digest()).is_err());

    let manifest = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
    let manifest = manifest.filter(|f| f.to_string_lossy().contains("MANIFEST-")).max().unwrap();
    let bytes = fs::read(&manifest).unwrap();
    for at in (0..bytes.len()).step_by(5) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x04;
        fs::write(&manifest, flipped).unwrap();
        let error = Store::open(dir.path(), &Medium::disk()).unwrap_err();
        assert!(error.is_corruption(), "byte {at}: {error}");
    }
}

#[test]
fn a_row_that_does_not_decode_names_table_and_key() {
    let store = in_memory();
    let key = Entry::key_bytes(&entry_id(5));
    store.shared.db.put_cf(&store.family().unwrap(), &key, [0xff; 9]).unwrap();
    let error = store.entry(entry_id(5)).unwrap_err();
    let StoreError::Row { table: "entry", partition: P, key: text, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(text.len(), 2 * key.len());
    assert!(error.is_corruption());
    let error = store.begin().unwrap().entry(entry_id(5)).unwrap_err();
    assert!(error.to_string().contains("table `entry`"), "{error}");
    let stray = [b"in", &[1; 9][..]].concat();
    store.shared.db.put_cf(&store.family().unwrap(), stray, []).unwrap();
    let error = store.page::<Inbox>(None, 9).unwrap_err();
    assert!(matches!(error, StoreError::Row { table: "inbox", .. }), "{error}");
}

#[test]
fn planned_faults_happen_at_commits() {
    let store = Store::open(Path::new("/store"), &Medium::memory().unwrap()).unwrap();
    let faults = Arc::new(StoreFaults::new());
    store.set_faults(Arc::clone(&faults));
    let store = store.partition(P).unwrap();
    let commit = |lsn| store.begin().unwrap().commit(Lsn(lsn)).is_ok();
    faults.plan(2, StoreFault::Fail);
    faults.plan(3, StoreFault::FailAfterWrite);
    assert_eq!([1, 2, 3].map(commit), [true, false, false]);
    assert_eq!(store.applied_lsn().unwrap(), Lsn(3));
    faults.plan(1, StoreFault::CrashBeforeCommit);
    assert_eq!([4, 5].map(commit), [false, false]);
    assert!(faults.is_crashed());
    assert_eq!(store.applied_lsn().unwrap(), Lsn(3));
}

#[test]
fn rows_are_copied_completely_and_know_their_log() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (open(&dir.path().join("from")), open(&dir.path().join("to")));
    let log: Vec<_> = (0..500).map(|n| enqueue(n, &VQueueName::service("s"))).collect();
    let (source, stale) = (from.partition(P).unwrap(), to.partition(P).unwrap());
    catch_up(&source, &log[..400], 7);
    catch_up(&stale, &log[..30], 7);
    drop(stale);
    assert_eq!(to.take_over(&source).unwrap(), Lsn(400));
    let taken = to.partition(P).unwrap();
    assert_eq!(taken.durable_lsn().unwrap(), Lsn(400));
    assert_eq!(taken.digest().unwrap(), source.digest().unwrap());
    catch_up(&source, &log, 7);
    catch_up(&taken, &log, 13);
    assert_eq!(taken.digest().unwrap(), source.digest().unwrap());

    assert_eq!(to.log_id().unwrap(), None);
    to.set_log_id(crate::log::LogId(7)).unwrap();
    drop((taken, to));
    let to = open(&dir.path().join("to"));
    assert_eq!(to.log_id().unwrap(), Some(crate::log::LogId(7)));
    assert_eq!(to.partitions(), [P], "it is not a partition");
}

/// Regression: deletions stayed in memory until half a million rows had changed, and the files kept
/// the purged rows.
#[test]
fn disk_space_of_purged_results_is_freed() {
    const RESULTS: u64 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).partition(P).unwrap();
    let row = |n: u64| {
        // Incompressible data.
        let words =
            (0..256).map(|word| xxhash_rust::xxh3::xxh3_64(&(n * 256 + word).to_be_bytes()));
        let result: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
        let outcome = forebay_messages::Outcome::Success(result.into());
        FinishedRow {
            vqueue: vqueue_id(1),
            outcome: Some(outcome.into()),
            created_at: Timestamp(1),
            finished_at: Timestamp(2),
            expires_at: Timestamp::MAX,
            attempts: 1,
            idempotency_key: None,
            retry: None,
            retention_ms: None,
            started_at: Timestamp(1),
            extra: None,
        }
    };
    let mut txn = store.begin().unwrap();
    (0..RESULTS).for_each(|n| txn.put_finished(entry_id(n), row(n)));
    txn.commit(Lsn(1)).unwrap();
    store.flush().unwrap();
    let before = store.file_bytes().unwrap();
    assert!(before > RESULTS * 2_000, "{before}");
    assert!(!store.give_back(Timestamp(1)).unwrap(), "nothing was deleted");

    let mut txn = store.begin().unwrap();
    for n in 0..RESULTS {
        assert!(txn.finished(entry_id(n)).unwrap().is_some());
        txn.delete_finished(entry_id(n));
    }
    txn.commit(Lsn(2)).unwrap();
    assert!(store.give_back(Timestamp(2)).unwrap());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while store.file_bytes().unwrap() > before / 10 {
        assert!(std::time::Instant::now() < until, "{} bytes", store.file_bytes().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mut txn = store.begin().unwrap();
    txn.put_finished(entry_id(1), row(1));
    txn.commit(Lsn(3)).unwrap();
    store.flush().unwrap();
    let mut txn = store.begin().unwrap();
    txn.delete_finished(entry_id(1));
    txn.commit(Lsn(4)).unwrap();
    assert!(!store.give_back(Timestamp(GIVE_BACK_EVERY_MS)).unwrap(), "not so soon again");
    assert!(store.give_back(Timestamp(2 + GIVE_BACK_EVERY_MS)).unwrap());
}
