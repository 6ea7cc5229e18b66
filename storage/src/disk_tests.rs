//! Full and read-only disks, on a small file system of their own. Needs permission to mount one
//! (root on Linux); otherwise prints a note and passes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bytes::Bytes;
use forebay_engine::partition::store::Tables;
use forebay_messages::{
    EntryId, Epoch, Lsn, PartitionId, Record, Timestamp,
    command::{Command as LogCommand, UpsertRuleBook},
};

use crate::{
    DataDir, FaultKind, Medium, OpenError,
    log::{Append, LocalLog, LogError, LogStore},
    partition::{Store, StoreError},
};

const P: PartitionId = PartitionId(1);

/// A file system of a few MiB, removed when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Self(dir);
        let mounted = disk.mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]);
        if !mounted {
            eprintln!("skipped: no permission to mount a file system");
        }
        mounted.then_some(disk)
    }

    fn mount(&self, arguments: &[&str]) -> bool {
        let status = Command::new("mount").args(arguments).arg(self.0.path()).output();
        status.is_ok_and(|output| output.status.success())
    }

    fn remount(&self, options: &str) {
        assert!(self.mount(&["-o", &format!("remount,{options}")]), "remount {options}");
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0.path()).output());
    }
}

fn record(n: u64) -> Arc<Record> {
    let rule_book = Bytes::from(vec![n as u8; 64 << 10]);
    let (key_first, key_last) = Default::default();
    let command = LogCommand::UpsertRuleBook(UpsertRuleBook { key_first, key_last, rule_book });
    let created_at = Timestamp(n);
    Arc::new(Record { keys: None, producer: None, created_at, command: Some(command) })
}

fn append(log: &LocalLog, n: u64) -> Result<(), LogError> {
    let records = [record(n)];
    log.append(&[Append { partition: P, epoch: Epoch(1), records: &records }]).map(|_| ())
}

#[test]
fn a_full_disk_stops_the_log_and_loses_nothing() {
    let Some(disk) = SmallDisk::new(6) else { return };
    let dir = DataDir::open(disk.path()).unwrap();
    let log = LocalLog::open(&dir.log(), &Medium::disk()).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match append(&log, acknowledged + 1) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000, "6 MiB take more than 64 MB");
    };
    let LogError::Fault(fault) = &error else { panic!("{error}") };
    assert_eq!(fault.kind, FaultKind::DiskFull, "{fault}");
    assert!(acknowledged > 10);
    let error = append(&log, 1).unwrap_err();
    assert!(matches!(error, LogError::Broken { .. }), "{error}");
    drop(log);

    disk.remount("size=64m");
    let log = LocalLog::open(&dir.log(), &Medium::disk()).unwrap();
    let found = log.read(P, Lsn(1), usize::MAX, usize::MAX).unwrap();
    assert!(found.len() as u64 >= acknowledged, "{} of {acknowledged}", found.len());
    assert!(found.iter().all(|(lsn, record)| record.created_at.0 == lsn.0));
    append(&log, log.end(P).0 + 1).unwrap();
}

#[test]
fn a_full_disk_stops_the_store_and_keeps_what_was_durable() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let store = Store::open(&disk.path(), &Medium::disk()).unwrap().partition(P).unwrap();
    let put = |lsn: u64| {
        let mut txn = store.begin()?;
        let id = EntryId { uuid: [lsn as u8; 16], ..EntryId::default() };
        txn.put_payload(id, Bytes::from(vec![lsn as u8; 256 << 10]));
        txn.commit(Lsn(lsn))
    };
    put(1).unwrap();
    assert_eq!(store.flush().unwrap(), Lsn(1));
    (2..=60).try_for_each(|lsn| put(lsn).map(|_| ())).unwrap();
    let error = store.flush().unwrap_err();
    assert!(matches!(&error, StoreError::Fault(f) if f.kind == FaultKind::DiskFull), "{error}");
    assert_eq!(store.durable_lsn().unwrap(), Lsn(1), "nothing more is reported as durable");
    drop(store);
    disk.remount("size=64m");
    let store = Store::open(&disk.path(), &Medium::disk()).unwrap().partition(P).unwrap();
    let applied = store.applied_lsn().unwrap();
    assert!(applied == Lsn(1) || applied == Lsn(60), "a prefix of whole commits: {applied}");
}

#[test]
fn a_read_only_disk_is_refused_with_its_own_error() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let path = disk.path();
    let dir = DataDir::open(&path).unwrap();
    drop(LocalLog::open(&dir.log(), &Medium::disk()).unwrap());
    let log = dir.log();
    drop(dir);
    disk.remount("ro");
    let error = DataDir::open(&path).unwrap_err();
    assert!(matches!(&error, OpenError::ReadOnly { .. }), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    let error = LocalLog::open(&log, &Medium::disk()).unwrap_err();
    assert!(matches!(&error, LogError::Fault(f) if f.kind == FaultKind::ReadOnly), "{error}");
    assert_new_directory_is_refused(&path);
}

fn assert_new_directory_is_refused(path: &Path) {
    let error = DataDir::open(path.join("new")).unwrap_err();
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error}");
    assert!(fs::metadata(path.join("new")).is_err());
}
