//! The rows of a node's partitions: one RocksDB, a column family per partition.
//!
//! Must always hold: the write-ahead log is off (the log is the source of truth: after a crash a
//! partition replays what its files lack); each commit contains the applied LSN in its batch, so
//! that rows and applied LSN never disagree.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use forebay_messages::PartitionId;
use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Options, ReadOptions,
    WriteOptions, checkpoint::Checkpoint,
};

use super::{PartitionStore, StoreError, resident::Resident};
use crate::{Fault, Medium, sync};

/// Maximum size of one partition's rows in memory before they are flushed, in bytes. Rows in memory
/// are replayed from the log after a crash.
const MEMTABLE_BYTES: usize = 32 << 20;
/// Number of memtables of one partition that may wait for their flush before commits wait.
const MEMTABLES_MAX: i32 = 4;
/// Rows of all partitions in memory, in bytes.
const MEMTABLES_BYTES_MAX: usize = 256 << 20;
/// Fraction of a memtable's memory used by its filter: most lookups by id find nothing.
const MEMTABLE_FILTER_RATIO: f64 = 0.05;
/// Bits per row of the filter of a file.
const FILTER_BITS: f64 = 10.0;
/// A file with this many deletions within this many consecutive rows is compacted: queues leave
/// tombstones at their front, which reads would have to skip.
const TOMBSTONES_WINDOW: usize = 1024;
const TOMBSTONES_TRIGGER: usize = 512;
const TOMBSTONES_RATIO: f64 = 0.5;
/// Name of a partition's column family, before its number.
const FAMILY_PREFIX: &str = "partition-";

/// The rows of a node's partitions. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

pub(super) struct Shared {
    pub(super) db: DB,
    pub(super) path: PathBuf,
    pub(super) read: ReadOptions,
    pub(super) write: WriteOptions,
    family_options: Options,
    /// Whether its files are on a disk.
    pub(super) is_durable: bool,
    /// The existing column families with their committed rows that are not in RocksDB yet; locked
    /// while a family is created or deleted.
    partitions: Mutex<BTreeMap<PartitionId, Arc<Mutex<Resident>>>>,
    #[cfg(any(test, feature = "testkit"))]
    pub(super) faults: std::sync::OnceLock<Arc<crate::fault::StoreFaults>>,
}

fn family_options(medium: &Medium) -> Options {
    let mut tables = medium.tables();
    // Filters and indexes stay with their open files (about 0.5 % of the data): the filter of a
    // large file does not fit a shard of the cache and would be read again for every lookup, and a
    // non-blocking refill must not miss them.
    tables.set_cache_index_and_filter_blocks(false);
    tables.set_bloom_filter(FILTER_BITS, false);
    let mut options = medium.options();
    options.set_block_based_table_factory(&tables);
    options.set_write_buffer_size(medium.write_buffer(MEMTABLE_BYTES));
    options.set_max_write_buffer_number(MEMTABLES_MAX);
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_RATIO);
    options.set_memtable_whole_key_filtering(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_bottommost_compression_type(DBCompressionType::Lz4);
    options.add_compact_on_deletion_collector_factory(
        TOMBSTONES_WINDOW,
        TOMBSTONES_TRIGGER,
        TOMBSTONES_RATIO,
    );
    options
}

fn db_options(medium: &Medium) -> Options {
    let mut options = family_options(medium);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_db_write_buffer_size(medium.write_buffer(MEMTABLES_BYTES_MAX));
    // Files are removed on a background thread, not on a partition's.
    options.set_avoid_unnecessary_blocking_io(true);
    options
}

/// For every commit: no write-ahead log.
fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

impl Store {
    /// Opens the store in a directory, creating it if necessary.
    ///
    /// # Errors
    /// [`StoreError::Fault`] if files cannot be used.
    pub fn open(path: &Path, medium: &Medium) -> Result<Self, StoreError> {
        medium.prepare(path)?;
        let options = db_options(medium);
        let families = Self::families(path, medium, &options)?;
        let partitions = families.iter().filter_map(|name| partition_of(name));
        let partitions = partitions.map(|id| (id, Arc::default())).collect();
        let descriptors = families
            .into_iter()
            .map(|name| ColumnFamilyDescriptor::new(name, family_options(medium)));
        let db = DB::open_cf_descriptors(&options, path, descriptors)
            .map_err(|error| Fault::from_rocksdb("open the partition store", path, error))?;
        Ok(Self {
            shared: Arc::new(Shared {
                db,
                path: path.to_owned(),
                read: ReadOptions::default(),
                write: unlogged(),
                family_options: family_options(medium),
                is_durable: medium.is_durable(),
                partitions: Mutex::new(partitions),
                #[cfg(any(test, feature = "testkit"))]
                faults: std::sync::OnceLock::new(),
            }),
        })
    }

    fn families(path: &Path, medium: &Medium, options: &Options) -> Result<Vec<String>, Fault> {
        // For memory, the only way to find out is to try.
        if medium.is_durable() && !path.join("CURRENT").exists() {
            return Ok(Vec::new());
        }
        match DB::list_cf(options, path) {
            Ok(families) => Ok(families),
            Err(_) if !medium.is_durable() => Ok(Vec::new()),
            Err(error) => Err(Fault::from_rocksdb("list the partitions of the store", path, error)),
        }
    }

    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The partitions with rows here, in order.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        sync::lock(&self.shared.partitions).keys().copied().collect()
    }

    /// The store of one partition, created if missing.
    ///
    /// # Errors
    /// [`StoreError::Fault`].
    pub fn partition(&self, id: PartitionId) -> Result<PartitionStore, StoreError> {
        let shared = &self.shared;
        let mut partitions = sync::lock(&shared.partitions);
        if !partitions.contains_key(&id) {
            shared
                .db
                .create_cf(family_name(id), &shared.family_options)
                .map_err(|error| shared.fault("make a partition's store", error))?;
        }
        let resident = Arc::clone(partitions.entry(id).or_default());
        drop(partitions);
        Ok(self.handle(id, resident))
    }

    fn handle(&self, id: PartitionId, resident: Arc<Mutex<Resident>>) -> PartitionStore {
        let family = family_name(id).into();
        PartitionStore { shared: Arc::clone(&self.shared), id, family, resident }
    }

    /// Flushes all partitions and copies their files into a database in a directory that does not
    /// exist yet, as of one moment. Blocks; commits continue meanwhile.
    /// # Errors
    /// [`StoreError::InMemory`] or [`StoreError::Fault`].
    pub fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        // Resident rows are not in the database's files; each partition's rows are of one moment,
        // given by its applied LSN.
        let partitions = sync::lock(&self.shared.partitions).clone();
        for (id, resident) in partitions {
            match self.handle(id, resident).spill_all() {
                // It was deleted in the meantime: not part of the copy.
                Err(StoreError::NoPartition { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        Checkpoint::new(&self.shared.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(to))
            .map_err(|error| Fault::from_rocksdb("copy the rows", to, error))?;
        // Rows in memory are copied to another path in memory.
        if to.join("CURRENT").exists() { Ok(()) } else { Err(StoreError::InMemory) }
    }

    /// Deletes all rows of a partition. Its handles return [`StoreError::NoPartition`] from then
    /// on.
    ///
    /// # Errors
    /// [`StoreError::NoPartition`] or [`StoreError::Fault`].
    pub fn delete_partition(&self, id: PartitionId) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut partitions = sync::lock(&shared.partitions);
        let Some(resident) = partitions.get(&id) else {
            let path = shared.path.clone();
            return Err(StoreError::NoPartition { path, partition: id });
        };
        sync::lock(resident).clear();
        shared
            .db
            .drop_cf(&family_name(id))
            .map_err(|error| shared.fault("delete a partition's store", error))?;
        partitions.remove(&id);
        Ok(())
    }

    /// Sets faults for planned commits. Once per store.
    #[cfg(any(test, feature = "testkit"))]
    pub fn set_faults(&self, faults: Arc<crate::fault::StoreFaults>) {
        assert!(self.shared.faults.set(faults).is_ok(), "the store already has faults");
    }
}

fn family_name(id: PartitionId) -> String {
    format!("{FAMILY_PREFIX}{id}")
}

fn partition_of(family: &str) -> Option<PartitionId> {
    family.strip_prefix(FAMILY_PREFIX)?.parse().ok().map(PartitionId)
}

impl Shared {
    pub(super) fn family(
        &self,
        partition: PartitionId,
        name: &str,
    ) -> Result<Arc<BoundColumnFamily<'_>>, StoreError> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| StoreError::NoPartition { path: self.path.clone(), partition })
    }

    /// Whether the coming commit must fail after it is done.
    #[cfg(any(test, feature = "testkit"))]
    pub(super) fn before_commit(&self) -> Result<bool, Fault> {
        self.faults.get().map_or(Ok(false), |faults| faults.before_commit(&self.path))
    }

    #[cfg(any(test, feature = "testkit"))]
    pub(super) fn after_commit(&self, must_fail: bool) -> Result<(), Fault> {
        self.faults.get().map_or(Ok(()), |faults| faults.after_commit(must_fail, &self.path))
    }

    pub(super) fn fault(&self, action: &'static str, error: rocksdb::Error) -> Fault {
        Fault::from_rocksdb(action, &self.path, error)
    }
}
