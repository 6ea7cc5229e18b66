//! The log of one node on its own disk: one RocksDB for all partitions.
//!
//! | key | value |
//! |---|---|
//! | `f`, partition (4) | fence: epoch (8) |
//! | `i` | which log this is (16) |
//! | `j` | sequence of the last block of the journal that is in this database (8) |
//! | `r`, partition (4), LSN (8) | a frame (see the frame module) |
//! | `t`, partition (4) | trim point: LSN (8) |
//!
//! Numbers are big-endian. Other modules keep rows in the same database under keys with another
//! first byte (`c`: see `consensus`). Must always hold: one write batch and one fsync per append
//! call; positions in memory change only after their write.
//!
//! On disk, every batch first becomes a block of the journal (see `log/database.rs`); RocksDB's own
//! write-ahead log, which syncs more slowly, is off. A batch of appends is durable with its block
//! and enters the database afterwards: before the next block is written, and before anything is
//! read.

mod open;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, RwLock},
};

use bytes::Bytes;
use forebay_messages::{Epoch, Lsn, PartitionId};
use rocksdb::{ReadOptions, WriteBatch};

pub(super) use super::database::FileSizes;
use super::{
    Append, Appended, Batch, Damage, LogError, LogId, LogStats, LogStore, Position, RECORD_LEN_MAX,
    database::Database, frame, stats::Counters,
};
use crate::{Fault, Medium, sync};

use open::Opening;

const FENCE: u8 = b'f';
const IDENTITY: &[u8] = b"i";
const RECORD: u8 = b'r';
const TRIM: u8 = b't';
const KEY_LEN: usize = 13;

/// Maximum size of the encoding buffer kept between appends: a few large records must not hold
/// their memory permanently.
pub(super) const SCRATCH_KEPT_MAX: usize = 1 << 20;
type Positions = BTreeMap<PartitionId, Position>;

/// The log of one node on its own disk.
pub struct LocalLog {
    database: Arc<Database>,
    /// The durable positions. Changed only while holding the right to write.
    positions: RwLock<Positions>,
    counters: Counters,
    record_len_max: usize,
}

impl std::fmt::Debug for LocalLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalLog").field("path", &self.database.path()).finish_non_exhaustive()
    }
}

fn record_key(partition: PartitionId, lsn: Lsn) -> [u8; KEY_LEN] {
    let mut key = [RECORD; KEY_LEN];
    key[1..5].copy_from_slice(&partition.0.to_be_bytes());
    key[5..].copy_from_slice(&lsn.0.to_be_bytes());
    key
}

fn decode_record_key(key: &[u8]) -> Option<(PartitionId, Lsn)> {
    let key: &[u8; KEY_LEN] = key.try_into().ok()?;
    let (mut partition, mut lsn) = ([0; 4], [0; 8]);
    partition.copy_from_slice(&key[1..5]);
    lsn.copy_from_slice(&key[5..]);
    (key[0] == RECORD)
        .then_some((PartitionId(u32::from_be_bytes(partition)), Lsn(u64::from_be_bytes(lsn))))
}

fn row_key(kind: u8, partition: PartitionId) -> [u8; 5] {
    let mut key = [kind; 5];
    key[1..].copy_from_slice(&partition.0.to_be_bytes());
    key
}

#[cfg(test)]
impl LocalLog {
    /// Bytes that the encoding buffer holds between appends.
    pub(super) fn scratch_kept(&self) -> usize {
        self.database.begin().unwrap().scratch().capacity()
    }
}

impl LocalLog {
    /// Opens the log in a directory, creating it if necessary. Cuts a torn tail left by a crash.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if rows of it are damaged, [`LogError::Fault`] if files cannot be
    /// used.
    pub fn open(path: &Path, medium: &Medium) -> Result<Self, LogError> {
        Self::open_with(path, medium, FileSizes::default())
    }

    pub(super) fn open_with(
        path: &Path,
        medium: &Medium,
        sizes: FileSizes,
    ) -> Result<Self, LogError> {
        let database = Database::open(path, medium, sizes)?;
        let (db, name) = (database.db(), database.name());
        let positions = Opening { db, name, path }.positions()?;
        Ok(Self {
            database: Arc::new(database),
            positions: RwLock::new(positions),
            counters: Counters::default(),
            record_len_max: RECORD_LEN_MAX,
        })
    }

    /// Its database, for other modules whose rows must be durable with the same sync.
    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// As [`Self::open`], with files so small that a few kilobytes fill them.
    ///
    /// # Errors
    /// As of [`Self::open`].
    #[cfg(any(test, feature = "testkit"))]
    pub fn open_small(path: &Path, medium: &Medium) -> Result<Self, LogError> {
        let journal = super::journal::Sizes { first: 8 << 10, growth: 2, max: 32 << 10 };
        Self::open_with(path, medium, FileSizes { journal, ..FileSizes::default() })
    }

    /// Sets the planned faults of its journal.
    #[cfg(any(test, feature = "testkit"))]
    pub fn set_journal_faults(&self, faults: &Arc<crate::fault::JournalFaults>) {
        self.database.set_faults(faults);
    }

    /// Sets another limit for its records, for tests.
    #[cfg(any(test, feature = "testkit"))]
    #[must_use]
    pub fn with_record_len_max(mut self, bytes: usize) -> Self {
        self.record_len_max = bytes;
        self
    }

    /// Writes its memory to files, so that the next start replays nothing.
    ///
    /// # Errors
    /// [`LogError::Fault`].
    pub fn flush(&self) -> Result<(), LogError> {
        self.database.flush()
    }

    fn position(&self, partition: PartitionId) -> Position {
        sync::read(&self.positions).get(&partition).copied().unwrap_or_default()
    }

    fn fault(&self, action: &'static str, error: rocksdb::Error) -> Fault {
        self.database.fault(action, error)
    }

    fn corrupt(&self, partition: PartitionId, lsn: Lsn, damage: Damage) -> LogError {
        LogError::Corrupt { log: self.database.name().to_owned(), partition, lsn, damage }
    }

    /// Adds an append to the batch and advances `position`; returns the number of bytes added.
    fn stage(
        &self,
        append: &Append<'_>,
        position: &mut Position,
        scratch: &mut Vec<u8>,
        batch: &mut WriteBatch,
    ) -> Result<usize, LogError> {
        let partition = append.partition;
        if append.epoch > position.fence {
            position.fence = append.epoch;
            batch.put(row_key(FENCE, partition), append.epoch.0.to_be_bytes());
        }
        let mut bytes = 0;
        for record in append.records {
            position.end = position.end.next();
            frame::encode(partition, position.end, record, scratch);
            if scratch.len() > self.record_len_max {
                let (len, len_max) = (scratch.len(), self.record_len_max);
                *scratch = Vec::new();
                return Err(LogError::TooLarge { partition, len, len_max });
            }
            bytes += scratch.len();
            batch.put(record_key(partition, position.end), &scratch);
        }
        Ok(bytes)
    }
}

impl LogStore for LocalLog {
    fn identity(&self) -> Result<Option<LogId>, LogError> {
        let found = self.database.db().get(IDENTITY);
        let found = found.map_err(|error| self.fault("read the log", error))?;
        Ok(found.as_deref().and_then(LogId::read))
    }

    fn identify(&self, id: LogId) -> Result<LogId, LogError> {
        let mut writing = self.database.begin()?;
        if let Some(known) = self.identity()? {
            return Ok(known);
        }
        let mut batch = WriteBatch::default();
        batch.put(IDENTITY, id.bytes());
        writing.write(batch, "name the log")?;
        Ok(id)
    }

    fn append(&self, appends: &[Append<'_>]) -> Result<Vec<Appended>, LogError> {
        let mut writing = self.database.begin()?;
        let mut staged = Positions::new();
        // As large as the last one, so that it does not grow step by step.
        let mut batch = WriteBatch::with_capacity_bytes(writing.last_len());
        let mut answers = Vec::with_capacity(appends.len());
        let (mut records, mut bytes) = (0, 0);
        for append in appends {
            let position =
                staged.entry(append.partition).or_insert_with(|| self.position(append.partition));
            if append.epoch < position.fence {
                answers.push(Appended::Fenced { current: position.fence });
                continue;
            }
            answers.push(Appended::At(position.end.next()));
            bytes += self.stage(append, position, writing.scratch(), &mut batch)?;
            records += append.records.len();
        }
        if batch.is_empty() {
            return Ok(answers);
        }
        writing.log(batch, "append to the log")?;
        writing.scratch().clear();
        writing.scratch().shrink_to(SCRATCH_KEPT_MAX);
        sync::write(&self.positions).extend(staged);
        self.counters.wrote(records as u64, bytes as u64);
        Ok(answers)
    }

    fn finish_appends(&self) -> Result<(), LogError> {
        self.database.finish_writes()
    }

    fn fence(&self, partition: PartitionId, epoch: Epoch) -> Result<Epoch, LogError> {
        let mut writing = self.database.begin()?;
        let current = self.fenced(partition);
        if epoch <= current {
            return Ok(current);
        }
        let mut batch = WriteBatch::default();
        batch.put(row_key(FENCE, partition), epoch.0.to_be_bytes());
        writing.write(batch, "fence the log")?;
        sync::write(&self.positions).entry(partition).or_default().fence = epoch;
        self.counters.wrote(0, 0);
        Ok(epoch)
    }

    fn fenced(&self, partition: PartitionId) -> Epoch {
        self.position(partition).fence
    }

    fn read(
        &self,
        partition: PartitionId,
        from: Lsn,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Batch, LogError> {
        let Position { end, trimmed, .. } = self.position(partition);
        let from = from.max(Lsn(1));
        let mut records = Batch::new();
        if from <= trimmed {
            return Err(self.trimmed_error(partition, from));
        }
        if from > end {
            return Ok(records);
        }
        self.finish_appends()?;
        let mut options = ReadOptions::default();
        options.set_iterate_range(record_key(partition, from)..record_key(partition, end.next()));
        options.fill_cache(false);
        let mut rows = self.database.db().raw_iterator_opt(options);
        rows.seek_to_first();
        let (mut expected, mut bytes) = (from, 0);
        while let Some((key, value)) = rows.item() {
            if records.len() >= limit_records.max(1) || (bytes >= limit_bytes && bytes > 0) {
                return Ok(records);
            }
            if decode_record_key(key) != Some((partition, expected)) {
                break;
            }
            bytes += value.len();
            let record = frame::decode(partition, expected, Bytes::copy_from_slice(value))
                .map_err(|damage| self.corrupt(partition, expected, damage))?;
            records.push((expected, Arc::new(record)));
            expected = expected.next();
            rows.next();
        }
        rows.status().map_err(|error| self.read_error(partition, expected, error))?;
        if expected <= end {
            // A gap: unless it was trimmed while we read, records are lost.
            return Err(match self.position(partition).trimmed >= expected {
                true => self.trimmed_error(partition, expected),
                false => self.corrupt(partition, expected, Damage::Missing),
            });
        }
        Ok(records)
    }

    fn end(&self, partition: PartitionId) -> Lsn {
        self.position(partition).end
    }

    fn trim(&self, partition: PartitionId, through: Lsn) -> Result<(), LogError> {
        let mut writing = self.database.begin()?;
        let Position { end, trimmed, .. } = self.position(partition);
        if through > end {
            let log = self.database.name().to_owned();
            return Err(LogError::BeyondEnd { log, partition, requested: through, end });
        }
        if through <= trimmed {
            return Ok(());
        }
        let (first, after) = (record_key(partition, Lsn(0)), record_key(partition, through.next()));
        let mut batch = WriteBatch::default();
        batch.delete_range(first, after);
        batch.put(row_key(TRIM, partition), through.0.to_be_bytes());
        // This must be on disk before the files are dropped: a missing front that is not trimmed is
        // damage.
        writing.write(batch, "trim the log")?;
        sync::write(&self.positions).entry(partition).or_default().trimmed = through;
        // Deletes whole files now; compaction removes the rest. Unlike in `delete_range`, both ends
        // of this range are inclusive: the record after `through` must stay.
        self.database
            .db()
            .delete_file_in_range(first, record_key(partition, through))
            .map_err(|error| self.fault("drop trimmed files of the log", error).into())
    }

    fn trimmed(&self, partition: PartitionId) -> Lsn {
        self.position(partition).trimmed
    }

    fn checkpoint(&self, to: &Path) -> Result<(), LogError> {
        self.database.checkpoint(to)
    }

    fn record_len_max(&self) -> usize {
        self.record_len_max
    }

    fn stats(&self) -> LogStats {
        self.counters.read()
    }
}

impl LocalLog {
    fn trimmed_error(&self, partition: PartitionId, requested: Lsn) -> LogError {
        let first = self.position(partition).trimmed.next();
        LogError::Trimmed { log: self.database.name().to_owned(), partition, requested, first }
    }

    fn read_error(&self, partition: PartitionId, lsn: Lsn, error: rocksdb::Error) -> LogError {
        let fault = self.fault("read the log", error);
        match fault.is_corruption() {
            true => {
                let reason = fault.cause.to_string();
                self.corrupt(partition, lsn, Damage::Database { reason })
            }
            false => fault.into(),
        }
    }
}

#[cfg(test)]
impl LocalLog {
    pub(super) fn position_of(&self, partition: PartitionId) -> Position {
        self.position(partition)
    }

    /// Moves everything into files below the first level and returns the number of files there.
    pub(super) fn compact(&self) -> usize {
        self.flush().unwrap();
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        self.database.db().compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
        let files = self.database.db().live_files().unwrap();
        files.iter().filter(|file| file.level > 0).count()
    }

    /// Rewrites (or, with `None`, removes) a stored frame behind the log's back.
    pub(super) fn damage(
        &self,
        partition: PartitionId,
        lsn: Lsn,
        change: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>>,
    ) {
        self.finish_appends().unwrap();
        let key = record_key(partition, lsn);
        match change(self.database.db().get(key).unwrap()) {
            Some(frame) => self.database.db().put(key, frame).unwrap(),
            None => self.database.db().delete(key).unwrap(),
        }
    }
}
