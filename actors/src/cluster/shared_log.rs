//! A log and a metadata store used by several nodes of this process: each node has replicas of all
//! partitions, one of which leads.
//!
//! Owns: the log's writer, the leaders' leases, the list of nodes. Must always hold: leases only
//! say which leader seems alive and which node to ask; leadership is decided by epochs and the
//! fence of the log. Must not know: what a partition does.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use forebay_messages::{Epoch, NodeId, PartitionId};
use forebay_storage::{
    DataDir, Medium,
    log::{LocalLog, LogStore, MemoryLog},
    metadata::{BlockingMetadata, LocalMetadata, MemoryMetadata, last_epoch},
};

#[cfg(doc)]
use crate::shell::Clock;
use crate::{
    error::NodeError,
    log_writer::{LogHandle, LogWriter, TrimLog},
    peers::Peer,
};

use super::cut::Cuts;

/// How long a leader counts as alive without extending its lease.
pub const LEASE: Duration = Duration::from_secs(2);
/// Interval in milliseconds at which replicas check the lease and leaders extend it.
pub const LEASE_LOOK_MS: u64 = 200;

/// A log and metadata for several runtimes of this process. Cheap to clone; closed when the last
/// clone and the last runtime on them are gone.
#[derive(Clone)]
pub struct SharedLog(Arc<Inner>);

struct Inner {
    /// Joined first: the writer ends when nothing can reach it any more.
    writer: Mutex<LogWriter>,
    log: Arc<dyn LogStore>,
    metadata: Arc<dyn BlockingMetadata>,
    leases: DashMap<PartitionId, Lease>,
    /// The last epoch of each partition before this log was opened.
    lost_through: DashMap<PartitionId, Epoch>,
    nodes: DashMap<NodeId, Weak<dyn Peer>>,
    next_node: AtomicU32,
    cuts: Cuts,
    /// Dropped last: its lock guards the directory.
    _data_dir: Option<DataDir>,
}

impl Drop for Inner {
    /// After this the log can be opened again.
    fn drop(&mut self) {
        self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).join();
    }
}

/// The last known leader.
#[derive(Clone, Copy)]
struct Lease {
    node: NodeId,
    epoch: Epoch,
    /// By the monotonic clock of the process.
    until: Duration,
}

impl std::fmt::Debug for SharedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedLog").field("nodes", &self.0.nodes.len()).finish_non_exhaustive()
    }
}

impl SharedLog {
    /// A log and metadata in memory.
    ///
    /// # Errors
    /// [`NodeError::Thread`].
    pub fn in_memory() -> Result<Self, NodeError> {
        let (log, metadata) = (Arc::new(MemoryLog::new()), Arc::new(MemoryMetadata::new()));
        Self::over(log, metadata, TrimLog::default())
    }

    /// A log and metadata in a directory, for this process alone. Created if it does not exist.
    /// `trim`: which records the log keeps beyond the ones that a restart of its replicas needs.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn open(path: impl AsRef<Path>, trim: TrimLog) -> Result<Self, NodeError> {
        let data_dir = DataDir::open(path)?;
        let medium = Medium::disk();
        let log = Arc::new(LocalLog::open(&data_dir.log(), &medium)?);
        let metadata = Arc::new(LocalMetadata::open(&data_dir.metadata(), &medium)?);
        Self::new(log, metadata, trim, Some(data_dir))
    }

    /// A shared log over the given stores, for tests: for example a log that injects failures.
    ///
    /// # Errors
    /// [`NodeError::Thread`].
    pub fn over(
        log: Arc<dyn LogStore>,
        metadata: Arc<dyn BlockingMetadata>,
        trim: TrimLog,
    ) -> Result<Self, NodeError> {
        Self::new(log, metadata, trim, None)
    }

    fn new(
        log: Arc<dyn LogStore>,
        metadata: Arc<dyn BlockingMetadata>,
        trim: TrimLog,
        data_dir: Option<DataDir>,
    ) -> Result<Self, NodeError> {
        let writer = LogWriter::start_with(Arc::clone(&log), trim).map_err(NodeError::Thread)?;
        Ok(Self::written_by(writer, log, metadata, data_dir))
    }

    /// A shared log over the given stores, with a running writer.
    pub(crate) fn written_by(
        writer: LogWriter,
        log: Arc<dyn LogStore>,
        metadata: Arc<dyn BlockingMetadata>,
        data_dir: Option<DataDir>,
    ) -> Self {
        Self(Arc::new(Inner {
            writer: Mutex::new(writer),
            log,
            metadata,
            leases: DashMap::new(),
            lost_through: DashMap::new(),
            nodes: DashMap::new(),
            next_node: AtomicU32::new(1),
            cuts: Cuts::default(),
            _data_dir: data_dir,
        }))
    }

    pub(crate) fn log(&self) -> Arc<dyn LogStore> {
        Arc::clone(&self.0.log)
    }

    pub(crate) fn metadata(&self) -> Arc<dyn BlockingMetadata> {
        Arc::clone(&self.0.metadata)
    }

    /// The last epoch of a partition before this log was opened. The first call for a partition
    /// must come before any node leads it.
    pub(crate) fn lost_through(&self, partition: PartitionId) -> Result<Epoch, NodeError> {
        if let Some(known) = self.0.lost_through.get(&partition) {
            return Ok(*known);
        }
        let last = last_epoch(&*self.0.metadata, partition)?;
        Ok(*self.0.lost_through.entry(partition).or_insert(last))
    }

    /// The writer, through the node's connection to it.
    pub(crate) fn writer(&self, node: NodeId) -> LogHandle {
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).handle();
        self.0.cuts.through(node, writer)
    }

    /// Cuts the connection between a node and the log, in both directions.
    #[cfg(feature = "testkit")]
    pub fn cut_off(&self, node: NodeId) {
        self.0.cuts.cut(node);
    }

    /// An id that no other node of this log has had.
    pub(crate) fn next_node(&self) -> NodeId {
        NodeId(self.0.next_node.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a node reachable for other nodes.
    pub(crate) fn join(&self, peer: Weak<dyn Peer>, node: NodeId) {
        self.0.nodes.insert(node, peer);
    }

    pub(crate) fn leave(&self, node: NodeId) {
        self.0.nodes.remove(&node);
        self.0.leases.retain(|_, lease| lease.node != node);
    }

    /// The node that leads a partition, or did when it last extended its lease.
    pub(crate) fn leader(&self, partition: PartitionId) -> Option<Arc<dyn Peer>> {
        let node = self.0.leases.get(&partition)?.node;
        self.0.nodes.get(&node)?.upgrade()
    }

    /// The other live nodes, in order.
    pub(crate) fn others(&self, but: NodeId) -> Vec<Arc<dyn Peer>> {
        let nodes = self.0.nodes.iter().filter(|node| *node.key() != but);
        let mut found: Vec<_> = nodes.filter_map(|node| node.value().upgrade()).collect();
        found.sort_by_key(|peer| peer.node());
        found
    }

    /// The epoch of the leader with an unexpired lease. `now`: [`Clock::monotonic`].
    pub(crate) fn held(&self, partition: PartitionId, now: Duration) -> Option<Epoch> {
        let lease = self.0.leases.get(&partition)?;
        (lease.until > now).then_some(lease.epoch)
    }

    /// Extends the lease of a leader. `now`: [`Clock::monotonic`].
    pub(crate) fn hold(&self, partition: PartitionId, node: NodeId, epoch: Epoch, now: Duration) {
        let fresh = Lease { node, epoch, until: now + LEASE };
        let mut lease = self.0.leases.entry(partition).or_insert(fresh);
        if epoch >= lease.epoch {
            *lease = fresh;
        }
    }

    pub(crate) fn free(&self, partition: PartitionId, epoch: Epoch) {
        self.0.leases.remove_if(&partition, |_, lease| lease.epoch <= epoch);
    }
}
