//! The medium of RocksDB: files on disk or in memory only; and the options that all databases of a
//! node share.
//!
//! Must always hold: databases of one medium share one block cache, so that one number bounds a
//! node's memory.

use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, Env, LogLevel, LruCacheOptions, Options};

use crate::{Fault, FaultKind, wal_check};

/// Factor by which small write buffers are smaller.
const SMALL_BUFFERS: usize = 8;
/// Memory for blocks read from files, shared by a node's databases, in bytes.
pub const BLOCK_CACHE_BYTES: usize = 64 << 20;
/// The cache is divided into 2^4 shards of 4 MiB, so that the largest block (one row with the
/// largest payload) fits many times.
const BLOCK_CACHE_SHARD_BITS: i32 = 4;
/// The same if memory is scarce: 2^2 of these shards.
const SMALL_CACHE_BYTES: usize = 16 << 20;
const SMALL_CACHE_SHARD_BITS: i32 = 2;
/// Bytes of a data block before compression.
const BLOCK_BYTES: usize = 16 << 10;
/// Number of files of one database that are kept open.
const OPEN_FILES_MAX: i32 = 512;
/// RocksDB's own text log is rotated at this size, and this many are kept.
const INFO_LOG_BYTES_MAX: usize = 1 << 20;
const INFO_LOGS_MAX: usize = 2;
/// RocksDB hands written bytes to the disk in portions of this size instead of all at the end,
/// because the log's syncs wait behind them. (The log's own files bypass the page cache if
/// possible.)
const BYTES_PER_SYNC: u64 = 1 << 20;
/// Concurrent flushes and compactions of one database.
const BACKGROUND_JOBS: i32 = 2;

/// Where databases keep their files. Cheap to clone.
#[derive(Clone)]
pub struct Medium {
    env: Option<Env>,
    cache: Cache,
    /// Closing a database flushes its memory to files, as RocksDB does by default.
    flushes_on_close: bool,
    /// See [`Self::with_small_buffers`].
    has_small_buffers: bool,
}

impl std::fmt::Debug for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.env.is_some() { "Medium::memory" } else { "Medium::disk" })
    }
}

fn block_cache(bytes: usize, shard_bits: i32) -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(bytes);
    options.set_num_shard_bits(shard_bits);
    Cache::new_lru_cache_opts(&options)
}

impl Medium {
    /// The disk.
    #[must_use]
    pub fn disk() -> Self {
        Self {
            env: None,
            cache: block_cache(BLOCK_CACHE_BYTES, BLOCK_CACHE_SHARD_BITS),
            flushes_on_close: true,
            has_small_buffers: false,
        }
    }

    /// Memory: the files are gone when the last clone and the last database on it are dropped.
    /// Paths are only names there.
    ///
    /// # Errors
    /// If RocksDB cannot create the environment.
    pub fn memory() -> Result<Self, Fault> {
        let env = Env::mem_env().map_err(|error| {
            Fault::from_rocksdb("make an in-memory file system", Path::new("(memory)"), error)
        })?;
        Ok(Self { env: Some(env), ..Self::disk() })
    }

    /// Memory in which dropping a database simulates a crash: unflushed data is lost, as after a
    /// power failure.
    ///
    /// # Errors
    /// If RocksDB cannot create the environment.
    #[cfg(any(test, feature = "testkit"))]
    pub fn crashing_memory() -> Result<Self, Fault> {
        Ok(Self { flushes_on_close: false, ..Self::memory()? })
    }

    /// Databases keep an eighth of the usual memory for rows that are not in files yet, and a
    /// quarter for blocks of files: at most about 75 MiB in all instead of 510. Their files are
    /// smaller and are merged more often.
    #[must_use]
    pub fn with_small_buffers(mut self) -> Self {
        self.has_small_buffers = true;
        self.cache = block_cache(SMALL_CACHE_BYTES, SMALL_CACHE_SHARD_BITS);
        self
    }

    /// The size of a write buffer that is normally this large.
    pub(crate) fn write_buffer(&self, bytes: usize) -> usize {
        if self.has_small_buffers { bytes / SMALL_BUFFERS } else { bytes }
    }

    /// A disk on which dropping a database simulates a crash: unflushed data is lost, as after kill
    /// -9.
    #[cfg(any(test, feature = "testkit"))]
    #[must_use]
    pub fn crashing_disk() -> Self {
        Self { flushes_on_close: false, ..Self::disk() }
    }

    /// Whether files survive the process.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.env.is_none()
    }

    /// Options of a database, before those particular to it.
    pub(crate) fn options(&self) -> Options {
        let mut options = Options::default();
        if !self.flushes_on_close {
            // There is no setter for this option.
            options = options
                .get_options_from_string("avoid_flush_during_shutdown=true")
                .expect("RocksDB knows this option");
        }
        if let Some(env) = &self.env {
            options.set_env(env);
        }
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_max_background_jobs(BACKGROUND_JOBS);
        options.set_bytes_per_sync(BYTES_PER_SYNC);
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
        options.set_keep_log_file_num(INFO_LOGS_MAX);
        // Otherwise a thread would wake up to write unread statistics; an idle process must sleep.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options
    }

    /// Options of data files, before those particular to a database.
    pub(crate) fn tables(&self) -> BlockBasedOptions {
        let mut tables = BlockBasedOptions::default();
        tables.set_block_cache(&self.cache);
        tables.set_block_size(BLOCK_BYTES);
        tables.set_format_version(6);
        tables
    }

    /// Before opening a database: creates its directory and parents (RocksDB creates only the last
    /// one), and checks existing journals.
    pub(crate) fn prepare(&self, path: &Path) -> Result<(), Fault> {
        if !self.is_durable() {
            return Ok(());
        }
        std::fs::create_dir_all(path)
            .map_err(|error| Fault::from_io("create the directory", path, error))?;
        wal_check::check(path)
    }
}

/// Whether an error says that the answer needs a read from disk.
pub(crate) fn would_block(error: &rocksdb::Error) -> bool {
    error.kind() == rocksdb::ErrorKind::Incomplete
}

impl Fault {
    /// Whether the files themselves are damaged.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        self.kind == FaultKind::Corrupt
    }
}
