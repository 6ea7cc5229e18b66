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
//! Numbers are big-endian. Must always hold: one write batch and one fsync per append call;
//! positions in memory change only after their write; after a failed write nothing more is written
//! (RocksDB may or may not have the batch, and a later batch on top of it could mix with its
//! remains).
//!
//! On disk, every batch first becomes a block of the journal (see the journal's module); RocksDB's
//! own write-ahead log, which syncs more slowly, is off. A batch of appends is durable with its
//! block and enters the database afterwards: before the next block is written, and before anything
//! is read.
//!
//! RocksDB is tuned for records that are written once, read rarely and trimmed from the front: new
//! files are not merged or compressed early, because most records are trimmed before that; trimming
//! writes one range tombstone, and drops whole files of the levels above the first at once.

mod open;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use forebay_messages::{Epoch, Lsn, PartitionId};
use rocksdb::{
    DB, DBCompressionType, DBRecoveryMode, Options, ReadOptions, WriteBatch, WriteOptions,
    checkpoint::Checkpoint,
};

use super::{
    Append, Appended, Batch, Damage, LogError, LogId, LogStats, LogStore, Position, RECORD_LEN_MAX,
    frame,
    journal::{self, Journal},
    stats::Counters,
};
use crate::{Fault, Medium, direct, sync};

use open::{Opening, open_journal};

const FENCE: u8 = b'f';
const IDENTITY: &[u8] = b"i";
const MARK: &[u8] = b"j";
const RECORD: u8 = b'r';
const TRIM: u8 = b't';
const KEY_LEN: usize = 13;

/// Name of the journal's directory within the log's.
const JOURNAL: &str = "journal";

/// Records in memory before they are flushed to files, unless the journal asks for it earlier.
const MEMTABLE_BYTES: usize = 64 << 20;
/// Number of memtables that may wait for their flush before appends wait too.
const MEMTABLES_MAX: i32 = 3;
/// Maximum size of the encoding buffer kept between appends: a few large records must not hold
/// their memory permanently.
pub(super) const SCRATCH_KEPT_MAX: usize = 1 << 20;
/// Size of a data file of the log, and so the granularity at which trimming frees disk space.
const FILE_BYTES: u64 = 64 << 20;
/// Number of files before they are merged and trimmed records disappear. By then most are trimmed:
/// at full load the log is trimmed every few seconds, and several files are written per second.
const YOUNG_FILES: i32 = 24;
/// Number of files before appends are slowed down, and before they wait.
const YOUNG_FILES_SLOW: i32 = 2 * YOUNG_FILES;
const YOUNG_FILES_MAX: i32 = 3 * YOUNG_FILES;
/// Levels of files; those of the first two are not compressed: most records are trimmed before they
/// get further.
const LEVELS: i32 = 4;

type Positions = BTreeMap<PartitionId, Position>;

/// The log of one node on its own disk.
pub struct LocalLog {
    name: String,
    path: PathBuf,
    /// Shared with the journal, which flushes it from its own thread.
    db: Arc<DB>,
    /// Held while writing; contains the scratch buffer for encoding.
    writer: Mutex<Writer>,
    /// What is durable. Changed only while holding `writer`.
    positions: RwLock<Positions>,
    /// The writer has a batch that is durable but not in the database.
    has_deferred: AtomicBool,
    counters: Counters,
    record_len_max: usize,
}

#[derive(Default)]
struct Writer {
    /// `None` in memory, where RocksDB's own is used.
    journal: Option<Journal>,
    scratch: Vec<u8>,
    /// In the journal but not in the database yet.
    deferred: Option<WriteBatch>,
    /// The first write that failed.
    broken: Option<Fault>,
}

impl std::fmt::Debug for LocalLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalLog").field("path", &self.path).finish_non_exhaustive()
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

/// How much goes into a file of the database. Tests use small files, to reach the lower levels with
/// a few records.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileSizes {
    /// See [`MEMTABLE_BYTES`].
    pub(super) memtable_bytes: usize,
    /// See [`FILE_BYTES`].
    pub(super) file_bytes: u64,
    /// See [`YOUNG_FILES`].
    pub(super) young_files: i32,
    /// Bytes of a block of a file; `None`: as in the other databases.
    pub(super) block_bytes: Option<usize>,
}

impl Default for FileSizes {
    fn default() -> Self {
        Self {
            memtable_bytes: MEMTABLE_BYTES,
            file_bytes: FILE_BYTES,
            young_files: YOUNG_FILES,
            block_bytes: None,
        }
    }
}

/// `is_direct`: its files can be written past the page cache.
fn options(medium: &Medium, sizes: FileSizes, is_direct: bool) -> Options {
    let mut options = medium.options();
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(medium.is_durable());
    options.set_write_buffer_size(medium.write_buffer(sizes.memtable_bytes));
    options.set_max_write_buffer_number(MEMTABLES_MAX);
    options.set_target_file_size_base(sizes.file_bytes);
    options.set_num_levels(LEVELS);
    options.set_level_zero_file_num_compaction_trigger(sizes.young_files);
    // The size of new files counts too; without this, 256 MiB of them are merged.
    options.set_max_bytes_for_level_base(sizes.young_files as u64 * sizes.file_bytes);
    options.set_level_zero_slowdown_writes_trigger(YOUNG_FILES_SLOW);
    options.set_level_zero_stop_writes_trigger(YOUNG_FILES_MAX);
    options.set_compression_per_level(&[
        DBCompressionType::None,
        DBCompressionType::None,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
    ]);
    let mut tables = medium.tables();
    if let Some(bytes) = sizes.block_bytes {
        tables.set_block_size(bytes);
    }
    options.set_block_based_table_factory(&tables);
    // A file is written several times per second at full load, and hardly ever read: copying it
    // into the page cache took a tenth of all processor time.
    options.set_use_direct_io_for_flush_and_compaction(is_direct);
    options
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// For data that is in the journal, or need not survive a crash.
fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

#[cfg(test)]
impl LocalLog {
    /// Bytes that the encoding buffer holds between appends.
    pub(super) fn scratch_kept(&self) -> usize {
        sync::lock(&self.writer).scratch.capacity()
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
        medium.prepare(path)?;
        let is_direct = medium.is_durable() && direct::is_possible(path);
        let db = DB::open(&options(medium, sizes, is_direct), path)
            .map_err(|error| Fault::from_rocksdb("open the log", path, error))?;
        let db = Arc::new(db);
        let name = path.display().to_string();
        let journal = medium.is_durable().then(|| open_journal(&db, path)).transpose()?;
        let positions = Opening { db: &db, name: &name, path }.positions()?;
        let writer = Mutex::new(Writer { journal, ..Writer::default() });
        Ok(Self {
            name,
            path: path.to_owned(),
            db,
            writer,
            positions: RwLock::new(positions),
            has_deferred: AtomicBool::new(false),
            counters: Counters::default(),
            record_len_max: RECORD_LEN_MAX,
        })
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
        self.finish_appends()?;
        self.db.flush().map_err(|error| self.fault("flush the log", error).into())
    }

    fn position(&self, partition: PartitionId) -> Position {
        sync::read(&self.positions).get(&partition).copied().unwrap_or_default()
    }

    fn fault(&self, action: &'static str, error: rocksdb::Error) -> Fault {
        Fault::from_rocksdb(action, &self.path, error)
    }

    fn check_unbroken(&self, writer: &Writer) -> Result<(), LogError> {
        match &writer.broken {
            None => Ok(()),
            Some(first) => Err(LogError::Broken { log: self.name.clone(), first: first.clone() }),
        }
    }

    /// Writes a batch and waits until it is on disk; a failure breaks the log.
    fn write(
        &self,
        writer: &mut Writer,
        batch: WriteBatch,
        action: &'static str,
    ) -> Result<(), LogError> {
        self.log(writer, batch, action)?;
        self.apply_deferred(writer, action)
    }

    /// Like [`Self::write`], but the batch enters the database later.
    fn log(
        &self,
        writer: &mut Writer,
        mut batch: WriteBatch,
        action: &'static str,
    ) -> Result<(), LogError> {
        // Once a journal file is full, the database must have its contents.
        self.apply_deferred(writer, action)?;
        let Some(journal) = &mut writer.journal else {
            let written = self.put(batch, &synced(), action);
            return written.map_err(|fault| Self::break_off(writer, fault));
        };
        batch.put(MARK, journal.next().to_be_bytes());
        // Whatever the journal was doing, this is the action that failed.
        let failed = |fault| Fault { action, path: self.path.clone(), ..fault };
        let logged = journal.append(batch.data()).map_err(failed);
        logged.map_err(|fault| Self::break_off(writer, fault))?;
        writer.deferred = Some(batch);
        self.has_deferred.store(true, Ordering::Release);
        Ok(())
    }

    /// Puts the batch that is only in the journal into the database; a failure breaks the log.
    fn apply_deferred(&self, writer: &mut Writer, action: &'static str) -> Result<(), LogError> {
        let Some(batch) = writer.deferred.take() else { return Ok(()) };
        let written = self.put(batch, &unlogged(), action);
        written.map_err(|fault| Self::break_off(writer, fault))?;
        self.has_deferred.store(false, Ordering::Release);
        Ok(())
    }

    fn break_off(writer: &mut Writer, fault: Fault) -> LogError {
        writer.broken = Some(fault.clone());
        fault.into()
    }

    fn put(
        &self,
        batch: WriteBatch,
        options: &WriteOptions,
        action: &'static str,
    ) -> Result<(), Fault> {
        self.db.write_opt(batch, options).map_err(|error| self.fault(action, error))
    }

    fn corrupt(&self, partition: PartitionId, lsn: Lsn, damage: Damage) -> LogError {
        LogError::Corrupt { log: self.name.clone(), partition, lsn, damage }
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
        let found = self.db.get(IDENTITY);
        let found = found.map_err(|error| self.fault("read the log", error))?;
        Ok(found.as_deref().and_then(LogId::read))
    }

    fn identify(&self, id: LogId) -> Result<LogId, LogError> {
        let mut writer = sync::lock(&self.writer);
        self.check_unbroken(&writer)?;
        if let Some(known) = self.identity()? {
            return Ok(known);
        }
        let mut batch = WriteBatch::default();
        batch.put(IDENTITY, id.bytes());
        self.write(&mut writer, batch, "name the log")?;
        Ok(id)
    }

    fn append(&self, appends: &[Append<'_>]) -> Result<Vec<Appended>, LogError> {
        let mut writer = sync::lock(&self.writer);
        self.check_unbroken(&writer)?;
        let mut staged = Positions::new();
        let mut batch = WriteBatch::default();
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
            bytes += self.stage(append, position, &mut writer.scratch, &mut batch)?;
            records += append.records.len();
        }
        if batch.is_empty() {
            return Ok(answers);
        }
        self.log(&mut writer, batch, "append to the log")?;
        writer.scratch.clear();
        writer.scratch.shrink_to(SCRATCH_KEPT_MAX);
        sync::write(&self.positions).extend(staged);
        self.counters.wrote(records as u64, bytes as u64);
        Ok(answers)
    }

    fn finish_appends(&self) -> Result<(), LogError> {
        if !self.has_deferred.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut writer = sync::lock(&self.writer);
        self.check_unbroken(&writer)?;
        self.apply_deferred(&mut writer, "append to the log")
    }

    fn fence(&self, partition: PartitionId, epoch: Epoch) -> Result<Epoch, LogError> {
        let mut writer = sync::lock(&self.writer);
        self.check_unbroken(&writer)?;
        let current = self.fenced(partition);
        if epoch <= current {
            return Ok(current);
        }
        let mut batch = WriteBatch::default();
        batch.put(row_key(FENCE, partition), epoch.0.to_be_bytes());
        self.write(&mut writer, batch, "fence the log")?;
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
        let mut rows = self.db.raw_iterator_opt(options);
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
        let mut writer = sync::lock(&self.writer);
        self.check_unbroken(&writer)?;
        let Position { end, trimmed, .. } = self.position(partition);
        if through > end {
            let log = self.name.clone();
            return Err(LogError::BeyondEnd { log, partition, requested: through, end });
        }
        if through <= trimmed {
            return Ok(());
        }
        let (first, after) = (record_key(partition, Lsn(0)), record_key(partition, through.next()));
        let mut batch = WriteBatch::default();
        batch.delete_range(first, after);
        batch.put(row_key(TRIM, partition), through.0.to_be_bytes());
        // On disk before the files are dropped: a missing front that is not trimmed is damage.
        self.write(&mut writer, batch, "trim the log")?;
        sync::write(&self.positions).entry(partition).or_default().trimmed = through;
        // Frees whole files now; the rest disappears when they are compacted. Here both ends belong
        // to the range, unlike in `delete_range`: the record after `through` must stay.
        self.db
            .delete_file_in_range(first, record_key(partition, through))
            .map_err(|error| self.fault("drop trimmed files of the log", error).into())
    }

    fn trimmed(&self, partition: PartitionId) -> Lsn {
        self.position(partition).trimmed
    }

    fn checkpoint(&self, to: &Path) -> Result<(), LogError> {
        self.finish_appends()?;
        // Flushes memory to files: the copy needs no block of the journal.
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(to))
            .map_err(|error| Fault::from_rocksdb("copy the log", to, error))?;
        Ok(journal::leave_empty(&to.join(JOURNAL))?)
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
        LogError::Trimmed { log: self.name.clone(), partition, requested, first }
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
        self.db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
        let files = self.db.live_files().unwrap();
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
        match change(self.db.get(key).unwrap()) {
            Some(frame) => self.db.put(key, frame).unwrap(),
            None => self.db.delete(key).unwrap(),
        }
    }
}
