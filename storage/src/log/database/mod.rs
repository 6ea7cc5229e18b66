//! The database of a node's log behind its journal: one sync for everything written at once.
//!
//! Owns: the database, its journal, and the batch that is only in the journal. Must always hold: a
//! batch enters the journal before the database, and the database before the next batch enters the
//! journal and before anything is read; after a failed write nothing more is written (RocksDB may
//! or may not have the batch, and a later batch could mix with its remains). Must not know: the
//! meaning of a row.
//!
//! Modules whose rows must be durable with the same sync share it: the records of the log
//! (`log/local.rs`) and consensus (`consensus`). The first byte of a key distinguishes them.
//!
//! RocksDB is tuned for records that are written once, read rarely and trimmed from the front: new
//! files are not merged or compressed early, because most records are trimmed before that; trimming
//! writes one range tombstone, and drops whole files of the levels above the first at once.

mod open;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use rocksdb::{
    DB, DBCompressionType, DBRecoveryMode, Options, WriteBatch, WriteOptions,
    checkpoint::Checkpoint,
};

use super::{
    LogError,
    journal::{self, Journal},
};
use crate::{Fault, Medium, direct, sync};

use open::open_journal;

/// Key of the sequence of the last block of the journal that is in the database.
const MARK: &[u8] = b"j";

/// Name of the journal's directory within the log's.
const JOURNAL: &str = "journal";

/// Records in memory before they are flushed to files, unless the journal asks for it earlier.
const MEMTABLE_BYTES: usize = 64 << 20;
/// Number of memtables that may wait for their flush before appends wait too.
const MEMTABLES_MAX: i32 = 3;
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
/// Maximum number of bytes reserved for the next batch.
const BATCH_RESERVED_MAX: usize = 1 << 20;

/// Sizes of the database's files. Tests use small files, to reach the lower levels with a few
/// records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileSizes {
    /// See [`MEMTABLE_BYTES`].
    pub(crate) memtable_bytes: usize,
    /// See [`FILE_BYTES`].
    pub(crate) file_bytes: u64,
    /// See [`YOUNG_FILES`].
    pub(crate) young_files: i32,
    /// Bytes of a block of a file; `None`: as in the other databases.
    pub(crate) block_bytes: Option<usize>,
    /// Files of the journal.
    pub(crate) journal: journal::Sizes,
}

impl Default for FileSizes {
    fn default() -> Self {
        Self {
            memtable_bytes: MEMTABLE_BYTES,
            file_bytes: FILE_BYTES,
            young_files: YOUNG_FILES,
            block_bytes: None,
            journal: journal::SIZES,
        }
    }
}

/// The database of a log, behind its journal.
pub(crate) struct Database {
    name: String,
    path: PathBuf,
    /// Shared with the journal, which flushes it from its own thread.
    db: Arc<DB>,
    /// Held while writing.
    writer: Mutex<Writer>,
    /// Whether the writer has a batch that is durable but not in the database.
    has_deferred: AtomicBool,
}

#[derive(Default)]
struct Writer {
    /// `None` in memory, where RocksDB's own journal is used.
    journal: Option<Journal>,
    /// In the journal but not in the database yet.
    deferred: Option<WriteBatch>,
    /// The first write that failed.
    broken: Option<Fault>,
    scratch: Vec<u8>,
    /// Length of the last batch in the journal, at most [`BATCH_RESERVED_MAX`].
    last_len: usize,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
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

impl Database {
    /// Opens the database in a directory, creating it if necessary, and applies the blocks of the
    /// journal that it does not have in files. Cuts a torn tail left by a crash.
    pub(super) fn open(path: &Path, medium: &Medium, sizes: FileSizes) -> Result<Self, LogError> {
        medium.prepare(path)?;
        let is_direct = medium.is_durable() && direct::is_possible(path);
        let db = DB::open(&options(medium, sizes, is_direct), path)
            .map_err(|error| Fault::from_rocksdb("open the log", path, error))?;
        let db = Arc::new(db);
        let is_durable = medium.is_durable();
        let journal = is_durable.then(|| open_journal(&db, path, sizes.journal)).transpose()?;
        Ok(Self {
            name: path.display().to_string(),
            path: path.to_owned(),
            db,
            writer: Mutex::new(Writer { journal, ..Writer::default() }),
            has_deferred: AtomicBool::new(false),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For reads. It contains all writes after [`Self::finish_writes`].
    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    pub(crate) fn fault(&self, action: &'static str, error: rocksdb::Error) -> Fault {
        Fault::from_rocksdb(action, &self.path, error)
    }

    /// Takes the right to write, which one caller has at a time.
    ///
    /// # Errors
    /// [`LogError::Broken`].
    pub(crate) fn begin(&self) -> Result<Writing<'_>, LogError> {
        let writer = sync::lock(&self.writer);
        match &writer.broken {
            None => Ok(Writing { database: self, writer }),
            Some(first) => Err(LogError::Broken { log: self.name.clone(), first: first.clone() }),
        }
    }

    /// Puts the batch that is only in the journal into the database.
    ///
    /// # Errors
    /// [`LogError::Broken`] or [`LogError::Fault`].
    pub(crate) fn finish_writes(&self) -> Result<(), LogError> {
        if !self.has_deferred.load(Ordering::Acquire) {
            return Ok(());
        }
        self.begin()?.apply_deferred("append to the log")
    }

    /// Writes its memory to files, so that the next start replays nothing.
    pub(super) fn flush(&self) -> Result<(), LogError> {
        self.finish_writes()?;
        self.db.flush().map_err(|error| self.fault("flush the log", error).into())
    }

    /// See [`super::LogStore::checkpoint`].
    pub(super) fn checkpoint(&self, to: &Path) -> Result<(), LogError> {
        self.finish_writes()?;
        // Flushes memory to files: the copy needs no block of the journal.
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(to))
            .map_err(|error| Fault::from_rocksdb("copy the log", to, error))?;
        Ok(journal::leave_empty(&to.join(JOURNAL))?)
    }

    /// Sets the planned faults of its journal.
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn set_faults(&self, faults: &Arc<crate::fault::JournalFaults>) {
        if let Some(journal) = &mut sync::lock(&self.writer).journal {
            journal.set_faults(Arc::clone(faults));
        }
    }

    fn put(
        &self,
        batch: WriteBatch,
        options: &WriteOptions,
        action: &'static str,
    ) -> Result<(), Fault> {
        self.db.write_opt(batch, options).map_err(|error| self.fault(action, error))
    }
}

/// The right to write to a database, which no write has broken.
pub(crate) struct Writing<'a> {
    database: &'a Database,
    writer: MutexGuard<'a, Writer>,
}

impl Writing<'_> {
    /// A buffer that is kept between writes.
    pub(super) fn scratch(&mut self) -> &mut Vec<u8> {
        &mut self.writer.scratch
    }

    /// Length of the last batch that entered the journal, at most [`BATCH_RESERVED_MAX`].
    pub(super) fn last_len(&self) -> usize {
        self.writer.last_len
    }

    /// Writes a batch and waits until it is on disk and can be read; a failure breaks the database.
    pub(crate) fn write(
        &mut self,
        batch: WriteBatch,
        action: &'static str,
    ) -> Result<(), LogError> {
        self.log(batch, action)?;
        self.apply_deferred(action)
    }

    /// Like [`Self::write`], but the batch enters the database later.
    pub(crate) fn log(
        &mut self,
        mut batch: WriteBatch,
        action: &'static str,
    ) -> Result<(), LogError> {
        // Once a journal file is full, the database must have its contents.
        self.apply_deferred(action)?;
        let database = self.database;
        let Some(journal) = &mut self.writer.journal else {
            let written = database.put(batch, &synced(), action);
            return written.map_err(|fault| self.break_off(fault));
        };
        batch.put(MARK, journal.next().to_be_bytes());
        // The journal may have failed at another step; the error names this action.
        let failed = |fault| Fault { action, path: database.path.clone(), ..fault };
        let logged = journal.append(batch.data()).map_err(failed);
        self.writer.last_len = batch.size_in_bytes().min(BATCH_RESERVED_MAX);
        logged.map_err(|fault| self.break_off(fault))?;
        self.writer.deferred = Some(batch);
        database.has_deferred.store(true, Ordering::Release);
        Ok(())
    }

    /// Puts the batch that is only in the journal into the database; a failure breaks the database.
    fn apply_deferred(&mut self, action: &'static str) -> Result<(), LogError> {
        let Some(batch) = self.writer.deferred.take() else { return Ok(()) };
        let written = self.database.put(batch, &unlogged(), action);
        written.map_err(|fault| self.break_off(fault))?;
        self.database.has_deferred.store(false, Ordering::Release);
        Ok(())
    }

    fn break_off(&mut self, fault: Fault) -> LogError {
        self.writer.broken = Some(fault.clone());
        fault.into()
    }
}
