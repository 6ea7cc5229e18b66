//! What a simulated node keeps: a log, metadata and rows that survive its crashes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use forebay_engine::partition::{apply::apply, state::State};
use forebay_messages::{Lsn, PartitionId};
use forebay_storage::{
    Fault, Medium,
    fault::{FaultLog, StoreFaults},
    log::{LogStore, MemoryLog, RECORD_LEN_MAX},
    metadata::{MemoryMetadata, MetadataStore},
    partition::{Digest, Store, StoreError},
};

use crate::error::NodeError;

/// Name of the store; RocksDB wants an absolute path.
const STORE: &str = "/forebay";
/// Records replayed in one batch.
const REPLAY_RECORDS: usize = 64;

/// The storage of a simulated node, in memory. Cheap to clone.
///
/// The log keeps what it answered as written, the metadata everything, the rows what
/// was flushed: the rest is lost when the node crashes, as on a real disk.
#[derive(Clone)]
pub struct Disk {
    log: Arc<FaultLog<MemoryLog>>,
    metadata: Arc<MemoryMetadata>,
    medium: Medium,
    path: PathBuf,
    faults: Arc<Mutex<Arc<StoreFaults>>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

/// Log, metadata and rows of a node.
type Opened = (Arc<dyn LogStore>, Arc<dyn MetadataStore>, Arc<Store>);

impl Disk {
    /// An empty one.
    ///
    /// # Errors
    /// When RocksDB cannot make files in memory.
    pub fn new() -> Result<Self, Fault> {
        Self::with_record_len_max(RECORD_LEN_MAX)
    }

    /// An empty one whose log takes records of at most so many bytes.
    ///
    /// # Errors
    /// When RocksDB cannot make files in memory.
    pub fn with_record_len_max(bytes: usize) -> Result<Self, Fault> {
        Ok(Self {
            log: Arc::new(FaultLog::new(MemoryLog::with_record_len_max(bytes))),
            metadata: Arc::default(),
            medium: Medium::crashing_memory()?,
            path: Path::new(STORE).to_owned(),
            faults: Arc::default(),
        })
    }

    /// The disk of another node that shares log and metadata with this one; its rows
    /// are its own.
    ///
    /// # Errors
    /// When RocksDB cannot make files in memory.
    pub fn replica(&self) -> Result<Self, Fault> {
        let medium = Medium::crashing_memory()?;
        Ok(Self { medium, faults: Arc::default(), ..self.clone() })
    }

    /// The log, to plan faults for its appends.
    #[must_use]
    pub fn log(&self) -> &Arc<FaultLog<MemoryLog>> {
        &self.log
    }

    /// Faults of the commits of the node that runs (or of the next one).
    #[must_use]
    pub fn faults(&self) -> Arc<StoreFaults> {
        Arc::clone(&self.faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its log and its metadata.
    pub(super) fn ports(&self) -> (Arc<dyn LogStore>, Arc<dyn MetadataStore>) {
        (Arc::clone(&self.log) as _, Arc::clone(&self.metadata) as _)
    }

    /// Everything works again, with what had been written.
    pub(super) fn restart(&self) {
        self.log.restart();
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// Opens it, as a starting node does; the node before must be gone.
    pub(crate) fn open(&self) -> Result<Opened, StoreError> {
        let store = Store::open(&self.path, &self.medium)?;
        store.set_faults(self.faults());
        Ok((Arc::clone(&self.log) as _, Arc::clone(&self.metadata) as _, Arc::new(store)))
    }

    /// What a replay of the log from its start gives, in fresh rows.
    ///
    /// # Errors
    /// [`NodeError`]; also when the log was trimmed.
    pub fn replay(&self, partition: PartitionId) -> Result<Digest, NodeError> {
        let rows = Store::open(&self.path, &Medium::memory()?)?.partition(partition)?;
        let mut state = State::load(&rows)?;
        let mut next = Lsn(1);
        loop {
            let batch = self.log.inner().read(partition, next, REPLAY_RECORDS, usize::MAX)?;
            let Some((last, _)) = batch.last() else { return Ok(rows.digest()?) };
            let (last, mut changes, mut applied) = (*last, rows.begin()?, Vec::new());
            for (lsn, record) in &batch {
                apply(&mut state, &mut changes, *lsn, record, &mut applied)?;
            }
            changes.commit(last)?;
            next = last.next();
        }
    }

    /// A second look at the rows that were flushed, while no node runs on them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn rows(&self) -> Result<Store, StoreError> {
        Store::open(&self.path, &self.medium)
    }
}
