//! The node: threads, storage and partitions of one process, and the way to them.
//!
//! Owns: starting and stopping everything, the routing table. Must always hold: a
//! partition's keys have one owner; shutting down loses nothing. Must not know: what
//! a command does.

mod handlers;
mod open;
mod partitions;
mod replica;
mod shutdown;
mod snapshot;

use std::{
    num::NonZeroU32,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use forebay_engine::partition::machine::VQueueLimits;
use forebay_messages::{NodeId, PartitionId, PartitionKey};
use forebay_storage::{DataDir, log::LogStore, metadata::Watch, partition::Store};
use rustc_hash::FxBuildHasher;

use crate::{
    executor::Executor,
    host::{Arbiter, FaultPlan, Spawned},
    log_writer::{LogHandle, LogWriter, TrimLog},
    partition::refill::RefillPool,
    registry::NodeServices,
    shell::Clock,
    table::PartitionTable,
};

pub use crate::{
    access::*,
    cluster::{LEASE, LEASE_LOOK_MS, SharedLog},
    error::{FilterError, NodeError},
    inspect::*,
    registry::{PartitionGauges, PartitionStatus},
};
pub use forebay_storage::OpenError;

use shutdown::Down;

/// Where a node keeps its data.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a directory that it has for itself.
    Directory(PathBuf),
    /// In memory, gone with the node.
    Memory,
    /// In a simulation, which also runs the node.
    #[cfg(feature = "testkit")]
    Sim(crate::sim::Place),
}

/// What a node is to be.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where it keeps its data.
    pub place: Place,
    /// For how long a data directory that another process has is waited for.
    pub in_use_wait: Duration,
    /// Whether what is not in files yet takes a quarter of the usual memory.
    pub small_buffers: bool,
    /// Partitions of a new data directory; absent means the stored table, or else one
    /// per core.
    pub partitions: Option<u32>,
    /// Threads that partitions are spread over; absent means one per core, at most one
    /// per partition.
    pub threads: Option<usize>,
    /// Most entries that run at once; absent means no limit but the rules.
    pub running_max: Option<u32>,
    /// Whether entries are started here; without it the node only takes commands.
    pub dispatches: bool,
    /// A log and metadata that other nodes of this process use too, in place of its own;
    /// `place` is then where the rows are kept.
    pub shared: Option<SharedLog>,
    /// What its log keeps besides what a restart needs; a shared log has its own say.
    pub trim_log: TrimLog,
    /// When it leads by itself, where a log is shared.
    pub candidacy: Candidacy,
    /// What each partition keeps in memory of vqueues.
    pub vqueues: VQueueLimits,
    /// What goes wrong in tests.
    pub faults: FaultPlan,
}

/// When a node leads partitions without being told to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Candidacy {
    /// As soon as nobody leads.
    #[default]
    First,
    /// When nobody leads and none of those who go first does.
    Standby,
    /// Never: it follows until it is told to lead.
    Never,
}

/// Everything that is taken down in order.
pub(crate) struct Machinery {
    pub(crate) arbiters: Vec<Arbiter>,
    pub(crate) log: LogHandle,
    /// Absent when the log is shared.
    pub(crate) log_writer: Option<LogWriter>,
}

/// One node. Shared by all handles of a runtime.
pub struct Node {
    pub(crate) services: Arc<NodeServices>,
    pub(crate) executor: Arc<Executor>,
    pub(crate) log_store: Arc<dyn LogStore>,
    pub(crate) store: Arc<Store>,
    pub(crate) refill: Arc<RefillPool>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) table: RwLock<PartitionTable>,
    pub(crate) machinery: Mutex<Option<Machinery>>,
    pub(crate) credits: dashmap::DashMap<PartitionId, Arc<tokio::sync::Semaphore>, FxBuildHasher>,
    pub(crate) dispatches: bool,
    pub(crate) vqueues: VQueueLimits,
    pub(crate) candidacy: Candidacy,
    /// Nothing of it runs on other threads.
    pub(crate) is_simulated: bool,
    pub(crate) down: Arc<Down>,
    /// A task that is dropped with the tokio runtime of the handlers.
    pub(crate) sentinel: OnceLock<Spawned>,
    /// Held while partitions are started or dropped.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Other nodes' partitions are started and dropped here while it is kept.
    pub(crate) table_watch: OnceLock<Watch>,
    /// Newer rule books are brought to the partitions while it is kept.
    pub(crate) _rule_books: Watch,
    /// Changed aliases are brought to the executor while it is kept.
    pub(crate) _aliases: Watch,
    /// Dropped last: its lock guards the directory.
    pub(crate) data_dir: Option<DataDir>,
}

impl Node {
    /// Who this node is.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.services.node
    }

    /// What runs handlers here.
    #[must_use]
    pub fn executor(&self) -> &Arc<Executor> {
        &self.executor
    }

    /// The log's counters since it was opened.
    #[must_use]
    pub fn log_stats(&self) -> forebay_storage::log::LogStats {
        self.log_store.stats()
    }

    /// Which partition owns a key.
    ///
    /// # Errors
    /// [`NodeError::NoPartition`].
    pub fn route(&self, key: PartitionKey) -> Result<PartitionId, NodeError> {
        self.table().owner(key).ok_or(NodeError::NoPartition(key))
    }

    /// As [`Node::route`] for many keys, in their order.
    ///
    /// # Errors
    /// [`NodeError::NoPartition`].
    pub fn route_all(
        &self,
        keys: impl IntoIterator<Item = PartitionKey>,
    ) -> Result<Vec<PartitionId>, NodeError> {
        let table = self.table();
        let owner = |key| table.owner(key).ok_or(NodeError::NoPartition(key));
        keys.into_iter().map(owner).collect()
    }

    /// The partitions, in the order of their ranges.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.table().rows.iter().map(|row| row.id).collect()
    }

    /// Most entries that run here at once; `None` without a limit.
    #[must_use]
    pub fn running_max(&self) -> Option<u32> {
        Some(self.services.running_max()).filter(|most| *most != u32::MAX)
    }

    /// Lets so many entries run here at once from now on. What runs goes on: a lower
    /// number is reached as it ends.
    ///
    /// # Errors
    /// [`NodeError::NoRunningMax`] when this node was started without a limit.
    pub fn set_running_max(&self, running_max: NonZeroU32) -> Result<(), NodeError> {
        self.check_up()?;
        match self.services.resize_capacity(running_max.get()) {
            true => Ok(()),
            false => Err(NodeError::NoRunningMax),
        }
    }

    pub(crate) fn table(&self) -> RwLockReadGuard<'_, PartitionTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it runs entries, or only looks.
    #[must_use]
    pub fn dispatches(&self) -> bool {
        self.dispatches
    }

    pub(crate) fn check_up(&self) -> Result<(), NodeError> {
        self.down.check()
    }
}

/// Threads of a node that stand still until this is dropped.
#[cfg(feature = "testkit")]
#[must_use = "they go on when it is dropped"]
#[derive(Debug)]
pub struct Paused(
    #[expect(dead_code, reason = "its end is the signal")] Vec<std::sync::mpsc::Sender<()>>,
);

#[cfg(feature = "testkit")]
impl Node {
    /// Has the threads of actors stand still, as SIGSTOP or a long pause of a virtual
    /// machine does. Handlers and the log go on.
    pub fn pause_threads(&self) -> Paused {
        let count = self.machinery().as_ref().map_or(0, |machinery| machinery.arbiters.len());
        let pause = |index| {
            let (sleeper, wake) = std::sync::mpsc::channel::<()>();
            // An error is the signal to go on.
            let sent = self.on_arbiter(index, move |_| while wake.recv().is_ok() {});
            sent.is_ok().then_some(sleeper)
        };
        Paused((0..count).filter_map(pause).collect())
    }

    /// Lets planned faults happen at commits of the rows. Once per node.
    pub fn set_store_faults(&self, faults: Arc<forebay_storage::fault::StoreFaults>) {
        self.store.set_faults(faults);
    }

    /// Has the partition's actor here, or its supervisor, break an invariant, so that it
    /// panics.
    ///
    /// # Errors
    /// [`NodeError::UnknownPartition`].
    pub fn break_replica(&self, partition: PartitionId, supervisor: bool) -> Result<(), NodeError> {
        use forebay_engine::{
            leadership::{LeadershipInput, Role},
            partition::machine::PartitionInput,
        };

        let entry = self.entry_of(partition)?;
        let role = self.services.status(partition).map(|status| status.role);
        if let (true, Some(Role::Leader { epoch, .. })) = (supervisor, role) {
            let twice = LeadershipInput::Announced { node: self.id(), epoch };
            entry.actors.1.address.send(twice);
        } else {
            let first = forebay_messages::Lsn(u64::MAX >> 1);
            entry.address.send(PartitionInput::Committed { first, records: Vec::new() });
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.sentinel.get().into_iter().for_each(Spawned::abort);
        if let Some(data_dir) = &self.data_dir {
            data_dir.closes();
        }
        let left = self.machinery.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(machinery) = left {
            tracing::warn!(
                "the last handle of a runtime was dropped without shutdown: everything stops at \
                 once; what was acknowledged is kept"
            );
            self.executor.abort_all();
            self.take_down(machinery);
            self.services.abandon();
        }
    }
}
