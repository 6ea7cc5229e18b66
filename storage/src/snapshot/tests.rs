//! Taking and restoring snapshots, and damage to them.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use forebay_engine::partition::store::Tables;
use forebay_messages::{EntryId, Epoch, Record};

use super::*;
use crate::{
    DataDir,
    log::{Append, MemoryLog},
    metadata::{LocalMetadata, MemoryMetadata, MetaKey, Precondition},
};

const P: PartitionId = PartitionId(3);

/// A data directory whose rows are ten records behind its log.
struct Sample {
    root: tempfile::TempDir,
}

struct Open {
    _dir: DataDir,
    log: LocalLog,
    store: Store,
    metadata: LocalMetadata,
}

impl Open {
    fn source(&self) -> Source<'_> {
        Source { store: &self.store, log: &self.log, metadata: &self.metadata }
    }

    /// Appends records, applies all but the last ten and flushes the rows.
    fn write(&self, count: u64) {
        let end = self.log.end(P).0;
        for n in end + 1..=end + count {
            let created_at = Timestamp(n);
            let record = Record { keys: None, producer: None, created_at, command: None };
            let records = [Arc::new(record)];
            let append = Append { partition: P, epoch: Epoch(1), records: &records };
            self.log.append(&[append]).unwrap();
        }
        let rows = self.store.partition(P).unwrap();
        for n in rows.applied_lsn().unwrap().0 + 1..=(end + count).saturating_sub(10) {
            let mut txn = rows.begin().unwrap();
            let id = EntryId { uuid: [n as u8; 16], ..EntryId::default() };
            txn.put_payload(id, Bytes::from(n.to_string()));
            txn.commit(Lsn(n)).unwrap();
        }
        // As an orderly shutdown does; otherwise the next start would replay them.
        rows.flush().unwrap();
    }
}

impl Sample {
    fn new() -> Self {
        let sample = Self { root: tempfile::tempdir().unwrap() };
        let open = sample.open("data");
        open.write(50);
        let value = Bytes::from_static(b"x");
        open.metadata.put(&MetaKey::node_id(), value, Precondition::None).unwrap();
        drop(open);
        sample
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn open(&self, name: &str) -> Open {
        let dir = DataDir::open(self.path(name)).unwrap();
        let medium = Medium::disk();
        Open {
            log: LocalLog::open(&dir.log(), &medium).unwrap(),
            store: Store::open(&dir.store(), &medium).unwrap(),
            metadata: LocalMetadata::open(&dir.metadata(), &medium).unwrap(),
            _dir: dir,
        }
    }

    /// A snapshot of `data` in `snapshot`.
    fn taken(&self) -> Manifest {
        create(&self.path("snapshot"), self.open("data").source(), Timestamp(7)).unwrap()
    }

    fn restored(&self, log_of: Option<&Path>) -> Result<Manifest, SnapshotError> {
        restore(&self.path("snapshot"), &self.path("new"), log_of)
    }
}

#[test]
fn a_snapshot_is_restored_row_by_row_and_record_by_record() {
    let sample = Sample::new();
    let manifest = sample.taken();
    let partition = &manifest.partitions[0];
    assert_eq!((partition.id, partition.applied, partition.log_end), (3, 40, 50));
    assert_eq!(verify(&sample.path("snapshot")).unwrap(), manifest);
    assert_eq!(sample.restored(None).unwrap(), manifest);
    let (old, new) = (sample.open("data"), sample.open("new"));
    let digest = |open: &Open| open.store.partition(P).unwrap().digest().unwrap();
    assert_eq!(digest(&old), digest(&new));
    assert_eq!(
        old.log.read(P, Lsn(1), 100, usize::MAX).unwrap(),
        new.log.read(P, Lsn(1), 100, usize::MAX).unwrap()
    );
    assert!(new.metadata.get(&MetaKey::node_id()).unwrap().is_some());
    new.write(1);
}

#[test]
fn with_the_old_log_everything_acknowledged_is_restored() {
    let sample = Sample::new();
    sample.taken();
    sample.open("data").write(30);
    // The rows are lost, the log is not.
    fs::remove_dir_all(sample.path("data/store")).unwrap();
    sample.restored(Some(&sample.path("data"))).unwrap();
    let new = sample.open("new");
    assert_eq!(new.log.end(P), Lsn(80));
    assert_eq!(new.store.partition(P).unwrap().applied_lsn().unwrap(), Lsn(40));
}

#[test]
fn a_gap_between_snapshot_and_log_is_refused_before_anything_is_copied() {
    let sample = Sample::new();
    sample.taken();
    let open = sample.open("data");
    open.write(30);
    open.log.trim(P, Lsn(41)).unwrap();
    drop(open);
    let error = sample.restored(Some(&sample.path("data"))).unwrap_err();
    assert!(
        matches!(error, SnapshotError::Gap { applied: Lsn(40), first: Lsn(42), .. }),
        "{error}"
    );
    assert!(!sample.path("new").exists());
    drop(DataDir::open(sample.path("other")).unwrap());
    let error = sample.restored(Some(&sample.path("other"))).unwrap_err();
    assert!(matches!(error, SnapshotError::OtherLog { end: Lsn(0), .. }), "{error}");
    let error = sample.restored(Some(&sample.path("nowhere"))).unwrap_err();
    assert!(matches!(error, SnapshotError::Open(_)), "{error}");
    assert!(!sample.path("nowhere").exists());
}

#[test]
fn every_flipped_byte_and_every_lost_file_is_found() {
    let sample = Sample::new();
    let manifest = sample.taken();
    for file in manifest.files.iter().map(|file| file.path.as_str()).chain([manifest::MANIFEST]) {
        let path = sample.path("snapshot").join(file);
        let whole = fs::read(&path).unwrap();
        let places =
            if whole.is_empty() { vec![] } else { vec![0, whole.len() / 2, whole.len() - 1] };
        for at in places {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            // A copy shares its files with the database: they must not be written to.
            fs::remove_file(&path).unwrap();
            fs::write(&path, &flipped).unwrap();
            let error = verify(&sample.path("snapshot")).expect_err(file);
            assert!(
                matches!(error, SnapshotError::Damaged { .. } | SnapshotError::Newer { .. }),
                "{file}, byte {at}: {error}"
            );
            assert!(sample.restored(None).is_err(), "{file}, byte {at}");
            assert!(!sample.path("new/FORMAT").exists());
            drop(fs::remove_dir_all(sample.path("new")));
        }
        fs::remove_file(&path).unwrap();
        assert!(verify(&sample.path("snapshot")).is_err(), "{file} is gone");
        fs::write(&path, &whole).unwrap();
    }
    sample.restored(None).unwrap();
}

#[test]
fn a_non_empty_target_is_refused() {
    let sample = Sample::new();
    sample.taken();
    let error = create(&sample.path("snapshot"), sample.open("data").source(), Timestamp(8));
    assert!(matches!(error, Err(SnapshotError::NotEmpty { .. })));
    let to = sample.path("data");
    let error = restore(&sample.path("snapshot"), &to, None).unwrap_err();
    assert!(error.to_string().contains("choose a new or an empty directory"), "{error}");
}

#[test]
fn interrupted_and_newer_snapshots_are_refused() {
    let sample = Sample::new();
    sample.taken();
    let path = sample.path("snapshot").join(manifest::MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("version 1,", "version 9,", 1)).unwrap();
    let error = sample.restored(None).unwrap_err();
    assert!(matches!(error, SnapshotError::Newer { found: 9, .. }), "{error}");
    fs::remove_file(&path).unwrap();
    let error = sample.restored(None).unwrap_err();
    assert!(matches!(error, SnapshotError::NotASnapshot { .. }), "{error}");
}

#[test]
fn in_memory_data_has_no_snapshot() {
    let sample = Sample::new();
    let open = sample.open("data");
    let (log, metadata) = (MemoryLog::new(), MemoryMetadata::new());
    let source = Source { log: &log, ..open.source() };
    let error = create(&sample.path("a"), source, Timestamp(1)).unwrap_err();
    assert!(error.to_string().contains("in memory"), "{error}");
    let source = Source { metadata: &metadata, ..open.source() };
    assert!(create(&sample.path("b"), source, Timestamp(1)).is_err());
}
