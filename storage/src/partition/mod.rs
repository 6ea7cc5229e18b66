//! The partition store: rows derived from the log.
//!
//! Owns: the tables' keys and rows as bytes, the write overlay ([`Txn`]) to which the state machine
//! applies records, and all other readers. Must always hold: rows and applied LSN change together;
//! the store never runs ahead of the log. Must not know: what a command does, which replica
//! leads.

mod copy;
mod error;
mod heads;
mod inbox;
mod journal_rows;
mod list;
mod overlay;
mod overlays;
mod resident;
mod rows;
mod scan;
mod store;
mod tables;
mod txn;

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use forebay_engine::partition::{
    rows::{EntryRow, FinishedRow, FsmSlot, RunningRow, VQueueMeta},
    store::Read,
};
use forebay_messages::{EntryId, Lsn, PartitionId, Timestamp, VQueueId};
use rocksdb::{BoundColumnFamily, FlushOptions, ReadOptions, ReadTier};

pub use error::StoreError;
pub use heads::Head;
pub use inbox::TryRefill;
pub use list::{
    BytesHead, Counted, Ended, EntryListing, FinishedListing, LISTED_ROWS_MAX, ListQuery, Listed,
    ListedEntry, ListedFinished, ListedRow, Listing,
};
pub use resident::GIVE_BACK_EVERY_MS;
pub use store::Store;
pub use txn::{Committed, Txn};

use crate::sync;
use overlays::ResidentTable;
use resident::{Duty, Resident};
use scan::{Span, merge};
use store::Shared;
use tables::{
    Table, entry::Entry, finished::Finished, fsm::Fsm, lock::Lock, payload::Payload, timer::Timer,
    vqueue_meta::VQueueMetas,
};

/// Hash over all rows of a partition: equal on replicas that applied the same records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The last record applied.
    pub applied: Lsn,
    /// Rows.
    pub rows: u64,
    /// xxh3-128 over length and bytes of every key and row, in key order.
    pub hash: u128,
}

/// Running attempts, by vqueue and entry.
pub type RunningRows = Vec<((VQueueId, EntryId), RunningRow)>;

/// Keys and rows as bytes, in key order.
#[cfg(any(test, feature = "testkit"))]
pub type RawRows = Vec<(Vec<u8>, Vec<u8>)>;

/// Consecutive rows of a table.
type Page<T> = Vec<(<T as Table>::Key, <T as Table>::Row)>;

/// The rows of one partition. Cheap to clone; reads may come from any thread, commits from one at a
/// time (the partition's). Also used for reads through the state machine's tables
/// ([`Rows`](forebay_engine::partition::store::Rows)).
#[derive(Clone)]
pub struct PartitionStore {
    shared: Arc<Shared>,
    id: PartitionId,
    family: Arc<str>,
    /// Shared by all handles to the partition.
    resident: Arc<Mutex<Resident>>,
}

impl std::fmt::Debug for PartitionStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionStore").field("id", &self.id).finish_non_exhaustive()
    }
}

impl PartitionStore {
    /// The partition's id.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Begins a batch of changes; also used to read many rows as of one moment. All other readers
    /// wait until it is committed or dropped: its owner must read only through it.
    ///
    /// # Errors
    /// [`StoreError::NoPartition`] if the partition was deleted.
    pub fn begin(&self) -> Result<Txn<'_>, StoreError> {
        Txn::begin(self)
    }

    /// LSN of the last applied record, as committed; 0 if there was none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn applied_lsn(&self) -> Result<Lsn, StoreError> {
        if let Some(applied) = self.resident().applied() {
            return Ok(applied);
        }
        self.stored_lsn()
    }

    /// The LSN stored in RocksDB.
    fn stored_lsn(&self) -> Result<Lsn, StoreError> {
        self.lsn(&self.shared.read)
    }

    /// The greatest applied LSN in files, which survives a crash. The log may be trimmed through
    /// it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn durable_lsn(&self) -> Result<Lsn, StoreError> {
        // Without a write-ahead log, this read tier skips memtables.
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        self.lsn(&options)
    }

    fn lsn(&self, options: &ReadOptions) -> Result<Lsn, StoreError> {
        let key = Fsm::key_bytes(&FsmSlot::AppliedLsn);
        let found = self.shared.db.get_pinned_cf_opt(&self.family()?, &key, options);
        let found = found.map_err(|error| self.read_error::<Fsm>(error))?;
        let Some(bytes) = found else { return Ok(Lsn(0)) };
        let bytes: &[u8] = &bytes;
        bytes
            .try_into()
            .map(|bytes| Lsn(u64::from_be_bytes(bytes)))
            .map_err(|_| self.row_error::<Fsm>(&key, format!("{} bytes instead of 8", bytes.len())))
    }

    /// Flushes everything committed so far to files; returns the durable LSN. Blocks.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn flush(&self) -> Result<Lsn, StoreError> {
        self.spill_all()?;
        self.resident().flushed();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.shared
            .db
            .flush_cf_opt(&self.family()?, &options)
            .map_err(|error| self.shared.fault("flush the partition store", error))?;
        self.durable_lsn()
    }

    /// Frees disk space of purged results and used payloads: their deletions must reach files
    /// before RocksDB can drop the rows, and a quiet partition writes no files on its own. To be
    /// called periodically; it starts a flush in the background if there are deletions, at most
    /// every [`GIVE_BACK_EVERY_MS`]. Files with many deletions are then compacted in the
    /// background. Returns whether a flush was started.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn give_back(&self, now: Timestamp) -> Result<bool, StoreError> {
        // In memory there is no space to free, and simulations plan every flush.
        if !self.shared.is_durable {
            return Ok(false);
        }
        let mut resident = self.resident();
        if !resident.is_flush_due(now) {
            return Ok(false);
        }
        let family = self.family()?;
        self.spill(&mut resident, &family)?;
        resident.flushed();
        self.flush_later(&family)?;
        Ok(true)
    }

    /// Size of the files with the rows of this partition, in bytes.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn file_bytes(&self) -> Result<u64, StoreError> {
        let property = rocksdb::properties::TOTAL_SST_FILES_SIZE;
        let found = self.shared.db.property_int_value_cf(&self.family()?, property);
        let found = found.map_err(|error| self.shared.fault("measure the files", error))?;
        Ok(found.unwrap_or(0))
    }

    /// State of an entry that has not ended.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn entry(&self, id: EntryId) -> Result<Option<EntryRow>, StoreError> {
        self.get::<Entry>(&id)
    }

    /// The payload of an entry.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn payload(&self, id: EntryId) -> Result<Option<Bytes>, StoreError> {
        let attached = |resident: &Resident| {
            resident.overlay::<Entry>().borrow().attached(&id).and_then(|it| it.payload.clone())
        };
        let known = attached(&self.resident());
        if known.is_some() {
            return Ok(known);
        }
        self.get::<Payload>(&id)
    }

    /// The stored result of an ended entry.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn finished(&self, id: EntryId) -> Result<Option<FinishedRow>, StoreError> {
        self.get::<Finished>(&id)
    }

    /// Name and counts of a vqueue.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn vqueue(&self, id: VQueueId) -> Result<Option<VQueueMeta>, StoreError> {
        self.get::<VQueueMetas>(&id)
    }

    /// The holder of a vqueue's lock.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn lock(&self, vqueue: VQueueId) -> Result<Option<EntryId>, StoreError> {
        self.get::<Lock>(&vqueue)
    }

    /// Vqueues that have rows, in id order, after one, at most `limit`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn vqueues_after(
        &self,
        after: Option<VQueueId>,
        limit: usize,
    ) -> Result<Vec<(VQueueId, VQueueMeta)>, StoreError> {
        self.page::<VQueueMetas>(after.as_ref(), limit)
    }

    /// Finished entries whose results expire at or before a time, oldest first, at most
    /// `limit`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn expired(
        &self,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, EntryId)>, StoreError> {
        self.spill_all()?;
        let family = self.family()?;
        let rows = self.rows_in::<Timer>(&family, None).take(limit);
        rows.map(|row| row.map(|(key, ())| key))
            .take_while(|key| !matches!(key, Ok((at, _)) if *at > until))
            .collect()
    }

    /// When the next result expires.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn next_expiry(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.page::<Timer>(None, 1)?.first().map(|((at, _), ())| *at))
    }

    /// Hashes all rows, as of one moment. Reads everything: for comparing replicas.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn digest(&self) -> Result<Digest, StoreError> {
        rows::digest(self)
    }

    /// Reads every row as bytes, in key order: for tests that compare rows with a dump.
    ///
    /// # Errors
    /// See [`StoreError`].
    #[cfg(any(test, feature = "testkit"))]
    pub fn raw_rows(&self) -> Result<RawRows, StoreError> {
        rows::raw_rows(self)
    }

    fn family(&self) -> Result<Arc<BoundColumnFamily<'_>>, StoreError> {
        self.shared.family(self.id, &self.family)
    }

    fn get<T: ResidentTable>(&self, key: &T::Key) -> Result<Option<T::Row>, StoreError> {
        // A separate statement, so that the lock is not held while RocksDB is read.
        let known = self.resident().get::<T>(key);
        match known {
            Some(row) => Ok(row),
            None => self.get_stored::<T>(&self.family()?, key),
        }
    }

    fn page<T: Table>(&self, after: Option<&T::Key>, limit: usize) -> Result<Page<T>, StoreError> {
        self.spill_all()?;
        self.rows_in::<T>(&self.family()?, after).take(limit).collect()
    }

    /// The rows of a span, in key order, at most `limit`. Unlike [`Self::page`] it writes nothing
    /// to RocksDB: for reads while entries run.
    fn scan_span<T: ResidentTable>(
        &self,
        span: &Span<T>,
        limit: usize,
    ) -> Result<Page<T>, StoreError> {
        // Copied first: this copy hides rows that are written to RocksDB during the scan.
        let resident = self.resident();
        let overlay = resident.overlay::<T>().borrow();
        let written = overlay.written_after(span.after.as_ref());
        let (mut here, mut count) = (Vec::new(), 0);
        for (key, row) in written.take_while(|(key, _)| (span.is_within)(key)) {
            here.push((key.clone(), row.cloned()));
            count += usize::from(row.is_some());
            if count == limit {
                break;
            }
        }
        drop(overlay);
        drop(resident);
        let family = self.family()?;
        let stored = self.rows_before::<T>(&family, span.after.as_ref(), span.end.clone());
        merge::<T>(here.iter().map(|(key, row)| (key, row.as_ref())), stored, limit)
    }

    fn read_row<T: ResidentTable>(&self, key: &T::Key) -> Read<Option<T::Row>> {
        Ok(self.get::<T>(key)?)
    }

    fn read_span<T: ResidentTable>(&self, span: &Span<T>, limit: usize) -> Read<Page<T>> {
        Ok(self.scan_span(span, limit)?)
    }

    fn resident(&self) -> MutexGuard<'_, Resident> {
        sync::lock(&self.resident)
    }

    /// Does the work that is due after a commit; returns the number of bytes written to RocksDB.
    fn perform(
        &self,
        duty: Duty,
        resident: &mut Resident,
        family: &Arc<BoundColumnFamily<'_>>,
    ) -> Result<usize, StoreError> {
        let bytes = match duty {
            Duty::Nothing => 0,
            Duty::Spill | Duty::SpillAndFlush => self.spill(resident, family)?,
        };
        if duty == Duty::SpillAndFlush {
            resident.flushed();
            self.flush_later(family)?;
        }
        Ok(bytes)
    }

    /// Writes everything committed to RocksDB; scans call it first.
    fn spill_all(&self) -> Result<(), StoreError> {
        let mut resident = self.resident();
        if !resident.is_empty() {
            self.spill(&mut resident, &self.family()?)?;
        }
        Ok(())
    }

    /// Writes the resident rows in one batch (not synced: see the store).
    fn spill(
        &self,
        resident: &mut Resident,
        family: &Arc<BoundColumnFamily<'_>>,
    ) -> Result<usize, StoreError> {
        let batch = resident.emit(family);
        let bytes = batch.size_in_bytes();
        let written = self.shared.db.write_opt(batch, &self.shared.write);
        written.map_err(|error| self.shared.fault("write the partition store", error))?;
        // Only now: after a fault, readers must still find the committed rows.
        resident.clear();
        Ok(bytes)
    }

    /// Starts a flush in the background.
    fn flush_later(&self, family: &Arc<BoundColumnFamily<'_>>) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(false);
        let started = self.shared.db.flush_cf_opt(family, &options);
        Ok(started.map_err(|error| self.shared.fault("flush the partition store", error))?)
    }
}

#[cfg(test)]
impl PartitionStore {
    /// Flushes and compacts everything, down to the last level.
    fn compact(&self) {
        self.flush().unwrap();
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        let family = self.family().unwrap();
        self.shared.db.compact_range_cf_opt(&family, None::<&[u8]>, None::<&[u8]>, &options);
    }
}

#[cfg(test)]
mod tests;
