//! The storage of a simulated node: a log, metadata and rows that survive crashes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use forebay_engine::partition::{
    apply::{Applied, Reply, apply},
    state::PartitionState,
};
use forebay_messages::{
    Lsn, PartitionId, RecordSeq,
    command::{Command, OutboxMessage},
};
use forebay_storage::{
    Fault, Medium,
    fault::{FaultLog, StoreFaults},
    log::{LogStore, MemoryLog, RECORD_LEN_MAX},
    metadata::{BlockingMetadata, MemoryMetadata},
    partition::{Digest, Store, StoreError},
};

use crate::error::NodeError;

/// Name of the store; RocksDB wants an absolute path.
const STORE: &str = "/forebay";
/// Records replayed in one batch.
const REPLAY_RECORDS: usize = 64;

/// The storage of a simulated node, in memory. Cheap to clone.
///
/// A crash keeps what the log reported as written, all metadata, and flushed rows; the rest is
/// lost, as on a real disk.
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

/// The result of replaying the log of a partition.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Digest of the rows.
    pub digest: Digest,
    /// The messages that it put into its outbox, in order.
    pub sent: Vec<Arc<OutboxMessage>>,
    /// The indexes of the messages that it applied, by source and in order.
    pub received: BTreeMap<PartitionId, Vec<RecordSeq>>,
}

/// Log, metadata and rows of a node.
type Opened = (Arc<dyn LogStore>, Arc<dyn BlockingMetadata>, Arc<Store>);

impl Disk {
    /// Empty storage.
    ///
    /// # Errors
    /// When RocksDB cannot make files in memory.
    pub fn new() -> Result<Self, Fault> {
        Self::with_record_len_max(RECORD_LEN_MAX)
    }

    /// Empty storage whose log takes records of at most this many bytes.
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

    /// Storage for another node that shares log and metadata with this one, but has its own rows.
    ///
    /// # Errors
    /// When RocksDB cannot make files in memory.
    pub fn replica(&self) -> Result<Self, Fault> {
        let medium = Medium::crashing_memory()?;
        Ok(Self { medium, faults: Arc::default(), ..self.clone() })
    }

    /// The log, for planning faults of its appends.
    #[must_use]
    pub fn log(&self) -> &Arc<FaultLog<MemoryLog>> {
        &self.log
    }

    /// Faults of the commits of the running node (or of the next one).
    #[must_use]
    pub fn faults(&self) -> Arc<StoreFaults> {
        Arc::clone(&self.faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its log and its metadata.
    pub(super) fn ports(&self) -> (Arc<dyn LogStore>, Arc<dyn BlockingMetadata>) {
        (Arc::clone(&self.log) as _, Arc::clone(&self.metadata) as _)
    }

    /// Everything works again, with the data written so far.
    pub(super) fn restart(&self) {
        self.log.restart();
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// Opens it, as a starting node does; the previous node must be gone.
    pub(crate) fn open(&self) -> Result<Opened, StoreError> {
        let store = Store::open(&self.path, &self.medium)?;
        store.set_faults(self.faults());
        Ok((Arc::clone(&self.log) as _, Arc::clone(&self.metadata) as _, Arc::new(store)))
    }

    /// The result of a replay of the log from its start into empty rows.
    ///
    /// # Errors
    /// [`NodeError`]; also when the log was trimmed.
    pub fn replay(&self, partition: PartitionId) -> Result<Replayed, NodeError> {
        let rows = Store::open(&self.path, &Medium::memory()?)?.partition(partition)?;
        let mut state = PartitionState::load(&rows)?;
        let (mut sent, mut received) = (Vec::new(), BTreeMap::<_, Vec<RecordSeq>>::new());
        let mut next = Lsn(1);
        loop {
            let batch = self.log.inner().read(partition, next, REPLAY_RECORDS, usize::MAX)?;
            let Some((last, _)) = batch.last() else {
                return Ok(Replayed { digest: rows.digest()?, sent, received });
            };
            let (last, mut changes, mut applied) = (*last, rows.begin()?, Vec::new());
            for (lsn, record) in &batch {
                let reply = apply(&mut state, &mut changes, *lsn, record, &mut applied)?;
                if let (Some(Command::Deliver(deliver)), Reply::Changed(count)) =
                    (&record.command, reply)
                {
                    // Repeated messages are the first ones of a record.
                    let indexes = deliver.messages.iter().map(|message| message.index);
                    let repeated = deliver.messages.len().saturating_sub(count as usize);
                    received.entry(deliver.source).or_default().extend(indexes.skip(repeated));
                }
            }
            sent.extend(applied.into_iter().filter_map(|applied| match applied {
                Applied::OutboxAdded(message) => Some(message),
                _ => None,
            }));
            changes.commit(last)?;
            next = last.next();
        }
    }

    /// Another view of the flushed rows, while no node uses them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn rows(&self) -> Result<Store, StoreError> {
        Store::open(&self.path, &self.medium)
    }
}
