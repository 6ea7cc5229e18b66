//! The node: threads, storage and partitions of one process.
//!
//! Owns: starting and stopping everything, the routing table. Must always hold: a partition's keys
//! have one owner; shutting down loses nothing. Must not know: what a command does.

mod follow_table;
mod machinery;
mod open;
mod partitions;
mod replica;
mod shutdown;
mod snapshot;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    num::NonZeroU32,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use forebay_engine::partition::machine::VQueueLimits;
use forebay_messages::{NodeId, PartitionId};
use forebay_storage::{
    DataDir,
    log::{LogStats, LogStore},
    metadata::Watch,
    partition::Store,
};
use tokio::sync::oneshot;

use crate::{
    access::Access,
    cluster::SharedLog,
    error::NodeError,
    events::EventStream,
    executor::Executor,
    handlers::Handlers,
    host::{FaultPlan, Spawned},
    inspect::Inspect,
    log_writer::TrimLog,
    registry::Registry,
    rules::Rules,
    tokens::TokenTable,
};

pub use crate::table::KeyRange;
pub use open::OpenedDir;
#[cfg(feature = "cluster")]
pub(crate) use open::cores;
pub use partitions::Partitions;

use machinery::Machinery;

/// Where a node keeps its data.
#[derive(Clone, Debug)]
pub enum DataPlace {
    /// In a directory, for this node alone.
    Directory(PathBuf),
    /// In memory; lost with the node.
    Memory,
    /// In a directory that a node of a cluster has opened.
    Opened(OpenedDir),
    /// On a disk of a simulation, which survives the node.
    #[cfg(feature = "testkit")]
    Disk(crate::sim::Disk),
}

/// The configuration of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where it keeps its data.
    pub place: DataPlace,
    /// How long to wait for a data directory that another process uses.
    pub in_use_wait: Duration,
    /// See [`forebay_storage::Medium::with_small_buffers`].
    pub small_buffers: bool,
    /// Partitions of a new data directory; absent means the stored table, or else one per core.
    pub partitions: Option<u32>,
    /// Threads for the partitions; absent means one per core, at most one per partition.
    pub threads: Option<usize>,
    /// Maximum number of entries that run at once; absent means that only the rules limit them.
    pub running_max: Option<u32>,
    /// Whether entries are started here; without it the node only accepts commands.
    pub dispatches: bool,
    /// A log and metadata shared with other nodes of this process, in place of its own; `place`
    /// then only applies to the rows.
    pub shared: Option<SharedLog>,
    /// Which records its log keeps beyond the ones that a restart needs; a shared log has its own
    /// setting.
    pub trim_log: TrimLog,
    /// When it leads by itself, with a shared log.
    pub candidacy: Candidacy,
    /// Limits for vqueues in memory, per partition.
    pub vqueues: VQueueLimits,
    /// With this many messages to one partition in the outbox of another, further calls wait.
    pub outbox_per_target_max: usize,
    /// Planned faults of tests.
    pub faults: FaultPlan,
}

/// When a node leads partitions by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Candidacy {
    /// As soon as there is no leader.
    #[default]
    First,
    /// When there is no leader and none of the first candidates leads.
    Standby,
    /// Never: it follows until an explicit request to lead.
    Never,
}

/// One node. Shared by all handles of a runtime.
pub struct Node {
    registry: Arc<Registry>,
    access: Arc<Access>,
    rules: Arc<Rules>,
    inspect: Inspect,
    handlers: Handlers,
    tokens: TokenTable,
    partitions: Arc<Partitions>,
    executor: Arc<Executor>,
    log_store: Arc<dyn LogStore>,
    store: Arc<Store>,
    machinery: Arc<Machinery>,
    dispatches: bool,
    /// A task that is dropped with the tokio runtime of the handlers.
    sentinel: OnceLock<Spawned>,
    /// Brings newer rule books to the partitions until it is dropped.
    _rule_books: Watch,
    /// Brings changed aliases to the executor until it is dropped.
    _aliases: Watch,
    /// Dropped last: its lock guards the directory.
    data_dir: Option<Arc<DataDir>>,
}

impl AsRef<Access> for Node {
    fn as_ref(&self) -> &Access {
        &self.access
    }
}

impl Node {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.registry.node
    }

    /// Commands to partitions, and waiting for results.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The rule book.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The views for display.
    #[must_use]
    pub fn inspect(&self) -> &Inspect {
        &self.inspect
    }

    /// Its handlers and their aliases.
    #[must_use]
    pub fn handlers(&self) -> &Handlers {
        &self.handlers
    }

    /// Its tokens for the HTTP server.
    #[must_use]
    pub fn tokens(&self) -> &TokenTable {
        &self.tokens
    }

    /// Its events from now on. Reading them costs two reads of rows for each attempt that starts
    /// and each entry that ends.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.registry.events.subscribe()
    }

    /// Its partitions, and their leaders.
    #[must_use]
    pub fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    /// Runs the handlers.
    #[must_use]
    pub fn executor(&self) -> &Arc<Executor> {
        &self.executor
    }

    /// The log's counters since it was opened.
    #[must_use]
    pub fn log_stats(&self) -> LogStats {
        self.log_store.stats()
    }

    /// Maximum number of entries that run here at once; `None` without a limit.
    #[must_use]
    pub fn running_max(&self) -> Option<u32> {
        Some(self.registry.running_max()).filter(|most| *most != u32::MAX)
    }

    /// Changes the maximum number of entries that run here at once. Running entries continue: a
    /// lower number is reached as they end.
    ///
    /// # Errors
    /// [`NodeError::NoRunningMax`] when this node was started without a limit.
    pub fn set_running_max(&self, running_max: NonZeroU32) -> Result<(), NodeError> {
        self.registry.check_up()?;
        match self.registry.resize_capacity(running_max.get()) {
            true => Ok(()),
            false => Err(NodeError::NoRunningMax),
        }
    }

    /// Whether it runs entries, or only serves reads.
    #[must_use]
    pub fn dispatches(&self) -> bool {
        self.dispatches
    }

    /// Adds a partition for keys without an owner, and starts it. If it does not start, it is not
    /// added; but with a shared log it stays, because others may have started it. Cancel-safe: once
    /// called, it is completed.
    ///
    /// # Errors
    /// [`NodeError::RangeOverlaps`], [`NodeError::EmptyRange`] and storage errors.
    pub async fn spawn_partition(
        self: &Arc<Self>,
        range: KeyRange,
    ) -> Result<PartitionId, NodeError> {
        let spawning = move |node: Arc<Self>| async move { node.partitions.spawn(range).await };
        self.to_its_end("spawn", spawning).await
    }

    /// Stops a partition and releases its keys. Its rows are flushed and stay. Cancel-safe: once
    /// called, it is completed.
    ///
    /// # Errors
    /// [`NodeError::UnknownPartition`] when there is none; storage errors when it is
    /// stopped and its rows could not be flushed.
    pub async fn drop_partition(self: &Arc<Self>, partition: PartitionId) -> Result<(), NodeError> {
        let dropping =
            move |node: Arc<Self>| async move { node.partitions.remove(partition).await };
        self.to_its_end("drop", dropping).await
    }

    /// Runs a future in a separate task, so that it is completed even if the caller gives up.
    async fn to_its_end<T, F>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, NodeError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, NodeError>> + Send + 'static,
    {
        let (sender, done) = oneshot::channel();
        let working = work(Arc::clone(self));
        self.executor.host().spawn_as(name, async move {
            // The caller may be gone.
            let _ = sender.send(working.await);
        });
        match done.await {
            Ok(result) => result,
            Err(_) => {
                self.registry.check_up()?;
                Err(NodeError::Unexpected(format!("the task \"{name}\" was lost")))
            }
        }
    }
}

/// Threads of a node that are stopped until this is dropped.
#[cfg(feature = "testkit")]
#[must_use = "they continue when it is dropped"]
#[derive(Debug)]
pub struct Paused(
    #[expect(dead_code, reason = "its end is the signal")] Vec<std::sync::mpsc::Sender<()>>,
);

#[cfg(feature = "testkit")]
impl Node {
    /// Stops the actor threads, as SIGSTOP or a long pause of a virtual machine does. Handlers and
    /// the log continue.
    pub fn pause_threads(&self) -> Paused {
        let count = self.machinery.arbiters();
        let pause = |index| {
            let (sleeper, wake) = std::sync::mpsc::channel::<()>();
            // An error is the signal to continue.
            let sent = self.machinery.on_arbiter(index, move |_| while wake.recv().is_ok() {});
            sent.is_ok().then_some(sleeper)
        };
        Paused((0..count).filter_map(pause).collect())
    }

    /// Enables planned faults of commits of the rows. Once per node.
    pub fn set_store_faults(&self, faults: Arc<forebay_storage::fault::StoreFaults>) {
        self.store.set_faults(faults);
    }

    /// Makes the local partition's actor, or its supervisor, break an invariant, so that it panics.
    ///
    /// # Errors
    /// [`NodeError::UnknownPartition`].
    pub fn break_replica(&self, partition: PartitionId, supervisor: bool) -> Result<(), NodeError> {
        use forebay_engine::{
            leadership::{LeadershipInput, Role},
            partition::machine::PartitionInput,
        };

        let replica = self.registry.replica(partition)?;
        let role = self.registry.status(partition).map(|status| status.role);
        if let (true, Some(Role::Leader { epoch, .. })) = (supervisor, role) {
            let twice = LeadershipInput::Announced { node: self.id(), epoch };
            replica.supervisor.address.send(twice);
        } else {
            let first = forebay_messages::Lsn(u64::MAX >> 1);
            replica
                .partition
                .address
                .send(PartitionInput::Committed { first, records: Vec::new() });
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
        if self.machinery.is_up() {
            tracing::warn!(
                "the last handle of a runtime was dropped without shutdown: everything stops at \
                 once; acknowledged entries are kept"
            );
            self.executor.abort_all();
            self.machinery.take_down(&self.registry);
            self.registry.abandon();
        }
    }
}
