//! The replicas on a node, their state, and the state shared by their actors.
//!
//! Owns: the routing table, the replicas by partition, their roles, gauges and limiters. Must
//! always hold: nothing here starts or stops a replica, except in response to a failure. Must not
//! know: the requests to a replica, or their callers.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard},
};

use dashmap::DashMap;
use forebay_api::Event;
use forebay_engine::{
    leadership::{LeadershipInput, Role},
    limiter::{CapacityMode, Limiter},
    partition::machine::{Answer, Partition, PartitionInput, Phase, WorkCounts},
    shuffle::{Routes, ShuffleInput},
};
use forebay_messages::{
    Epoch, Incarnation, Lsn, NodeId, PartitionId, PartitionKey, Timestamp, actor::LimiterMessage,
    command::CheckedTable,
};
use forebay_storage::metadata::{
    BlockingMetadata, MetadataError, MetadataStore, last_epoch, next_epoch,
};
use rustc_hash::FxBuildHasher;
use tokio::sync::{oneshot, watch};

use crate::{
    access::replies::Replies,
    capacity::{Capacity, CapacityClient},
    cluster::SharedLog,
    down::Down,
    error::NodeError,
    events::{Events, role_event},
    host::Host,
    peers::ReplicaRows,
    rules::known::RuleBooks,
    shell::{Child, Clock, Look, Ref},
    slots::SlotPools,
    table::PartitionTable,
    unserved::Unserved,
};

/// The state of a partition, for display and for callers that wait for it to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Its role.
    pub role: Role,
    /// Why it stopped, if it did.
    pub stopped: Option<String>,
}

/// Numbers of a partition, as of its last message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionGauges {
    /// LSN of the last applied record.
    pub applied: Lsn,
    /// Number of active vqueues.
    pub active_vqueues: usize,
    /// Number of vqueues that wait for a permit without an actor.
    pub waiting_vqueues: usize,
    /// Number of messages that came too late.
    pub stale: u64,
    /// Attempts of earlier leaders are being returned.
    pub is_draining: bool,
    /// What it counted while it led.
    pub counts: WorkCounts,
}

/// Assigns epochs.
pub(crate) struct Epochs {
    own: Arc<dyn BlockingMetadata>,
}

impl Epochs {
    pub(crate) fn next(
        &self,
        partition: PartitionId,
        above: Epoch,
    ) -> Result<Epoch, MetadataError> {
        next_epoch(&*self.own, partition, above)
    }
}

/// The replica of a partition, for its node.
#[derive(Clone)]
pub(crate) struct ReplicaHandle {
    pub(crate) rows: ReplicaRows,
    /// The partition's actor.
    pub(crate) partition: Arc<Child<PartitionInput>>,
    /// The supervisor of its leadership.
    pub(crate) supervisor: Arc<Child<LeadershipInput>>,
}

/// Shared by the actors of all partitions on a node.
pub(crate) struct Registry {
    pub(crate) node: NodeId,
    clock: Arc<dyn Clock>,
    pub(crate) replies: Arc<Replies>,
    pub(crate) epochs: Epochs,
    /// Rules, aliases and the partition table; shared with the other nodes of a cluster.
    pub(crate) metadata: Arc<dyn MetadataStore>,
    /// What belongs to the log of this node: the epochs of its partitions, its snapshots.
    pub(crate) own: Arc<dyn BlockingMetadata>,
    pub(crate) replicas: DashMap<PartitionId, ReplicaHandle, FxBuildHasher>,
    gauges: DashMap<PartitionId, PartitionGauges, FxBuildHasher>,
    status: watch::Sender<HashMap<PartitionId, PartitionStatus>>,
    capacity: OnceLock<Capacity>,
    /// The slots of executors beside the handlers.
    pub(crate) slots: SlotPools,
    /// The shuffles of the partitions led here.
    shuffles: DashMap<PartitionId, Ref<ShuffleInput>, FxBuildHasher>,
    /// The limiters of the partitions led here, for inspection.
    limiters: DashMap<PartitionId, Ref<Look<Limiter>>, FxBuildHasher>,
    shared: Option<SharedLog>,
    /// The incarnation of restored partitions; the default if the data was never restored.
    pub(crate) incarnation: Incarnation,
    /// Maximum size of a record in the log, in bytes as stored.
    pub(crate) record_len_max: usize,
    pub(crate) rule_books: RuleBooks,
    pub(crate) events: Arc<Events>,
    /// Services with waiting entries and without a handler.
    pub(crate) unserved: Unserved,
    /// Locked while a rule book is changed, so that this node does not race with itself.
    pub(crate) rules_changing: tokio::sync::Mutex<()>,
    table: RwLock<PartitionTable>,
    pub(crate) down: Arc<Down>,
    /// The environment of the node.
    pub(crate) host: Host,
}

/// The parts of a new registry.
pub(crate) struct RegistryParts {
    pub(crate) node: NodeId,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) own: Arc<dyn BlockingMetadata>,
    pub(crate) shared: Option<SharedLog>,
    pub(crate) incarnation: Incarnation,
    pub(crate) record_len_max: usize,
    pub(crate) table: PartitionTable,
    pub(crate) host: Host,
}

/// The routing table, which does not change while this is held. Not to be held across an await.
pub struct RoutingTable<'a>(RwLockReadGuard<'a, PartitionTable>);

impl RoutingTable<'_> {
    /// The partition that owns a key.
    ///
    /// # Errors
    /// [`NodeError::NoPartition`].
    pub fn owner(&self, key: PartitionKey) -> Result<PartitionId, NodeError> {
        self.0.owner(key).ok_or(NodeError::NoPartition(key))
    }
}

impl Registry {
    pub(crate) fn new(parts: RegistryParts) -> Self {
        let RegistryParts {
            node,
            clock,
            metadata,
            own,
            shared,
            incarnation,
            record_len_max,
            table,
            host,
        } = parts;
        Self {
            node,
            clock,
            replies: Arc::default(),
            epochs: Epochs { own: Arc::clone(&own) },
            metadata,
            own,
            replicas: DashMap::default(),
            gauges: DashMap::default(),
            status: watch::Sender::default(),
            capacity: OnceLock::new(),
            slots: SlotPools::default(),
            shuffles: DashMap::default(),
            limiters: DashMap::default(),
            shared,
            incarnation,
            record_len_max,
            rule_books: RuleBooks::default(),
            events: Arc::default(),
            unserved: Unserved::default(),
            rules_changing: tokio::sync::Mutex::default(),
            table: RwLock::new(table),
            down: Arc::default(),
            host,
        }
    }

    /// Fails once the node shuts down.
    pub(crate) fn check_up(&self) -> Result<(), NodeError> {
        self.down.check()
    }

    /// Runs something that blocks, outside of the application's threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        self.host.blocking(work).await
    }

    pub(crate) fn table(&self) -> RwLockReadGuard<'_, PartitionTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the routing table. [`Self::send_routes`] must follow.
    pub(crate) fn change_table(&self, change: impl FnOnce(&mut PartitionTable)) {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notifies partitions and shuffles of a changed routing table.
    pub(crate) fn send_routes(&self) {
        let routes = self.routes();
        for shuffle in &self.shuffles {
            shuffle.send(ShuffleInput::Routed(routes.clone()));
        }
        for replica in &self.replicas {
            replica.partition.address.send(PartitionInput::Rerouted);
        }
    }

    /// Which keys belong to which partition.
    pub(crate) fn routes(&self) -> Routes {
        self.table().routes()
    }

    /// The same, and what a partition stores when its calls were checked against it.
    pub(crate) fn checked_table(&self) -> (Routes, CheckedTable) {
        let table = self.table();
        (table.routes(), table.checked())
    }

    /// From here on a new shuffle is notified of changes of the routing table.
    pub(crate) fn shuffle_started(&self, partition: PartitionId, shuffle: Ref<ShuffleInput>) {
        self.shuffles.insert(partition, shuffle.clone());
        // The table may have changed since the shuffle was created.
        shuffle.send(ShuffleInput::Routed(self.routes()));
    }

    pub(crate) fn shuffle_stopped(&self, partition: PartitionId) {
        self.shuffles.remove(&partition);
    }

    /// The partitions, in the order of their ranges.
    pub(crate) fn partitions(&self) -> Vec<PartitionId> {
        self.table().rows.iter().map(|row| row.id).collect()
    }

    /// The partition that owns a key.
    pub(crate) fn route(&self, key: PartitionKey) -> Result<PartitionId, NodeError> {
        self.routing_table().owner(key)
    }

    /// The routing table, for many keys.
    pub(crate) fn routing_table(&self) -> RoutingTable<'_> {
        RoutingTable(self.table())
    }

    /// The local replica of a partition.
    pub(crate) fn replica(&self, partition: PartitionId) -> Result<ReplicaHandle, NodeError> {
        self.check_up()?;
        let found = self.replicas.get(&partition).map(|replica| replica.clone());
        found.ok_or(NodeError::UnknownPartition(partition))
    }

    /// The rows to read from: those of the leader, which has applied every command that was
    /// acknowledged; without a known leader, those here.
    pub(crate) fn newest_rows(&self, partition: PartitionId) -> Result<ReplicaRows, NodeError> {
        let own = self.replica(partition)?;
        let leader = self.shared().and_then(|shared| shared.leader(partition));
        Ok(leader.and_then(|leader| leader.read(partition)).unwrap_or(own.rows))
    }

    /// The replica to read from for every partition, in the order of their ranges.
    pub(crate) fn all_newest_rows(&self) -> Result<Vec<(PartitionId, ReplicaRows)>, NodeError> {
        self.partitions().into_iter().map(|id| Ok((id, self.newest_rows(id)?))).collect()
    }

    /// The local replicas, in the order of their partitions.
    pub(crate) fn replicas_here(&self) -> Vec<(PartitionId, ReplicaHandle)> {
        let all = self.replicas.iter();
        let mut replicas: Vec<_> =
            all.map(|replica| (*replica.key(), replica.value().clone())).collect();
        replicas.sort_unstable_by_key(|(partition, _)| *partition);
        replicas
    }

    /// Reads the state of the limiter of a partition; `None` when this node does not lead it (or
    /// its limiter is not seeded yet).
    pub(crate) async fn look_at_limiter<T: Send + 'static>(
        &self,
        partition: PartitionId,
        look: impl FnOnce(&Limiter, Timestamp) -> T + Send + 'static,
    ) -> Option<T> {
        let limiter = self.limiters.get(&partition).map(|looks| looks.clone())?;
        let (sender, reported) = oneshot::channel();
        let sent = limiter.send(Box::new(move |limiter, now| {
            if limiter.is_seeded() {
                // The caller may be gone.
                let _ = sender.send(look(limiter, now));
            }
        }));
        // A limiter that ends drops the question, and with it the sender.
        if sent { reported.await.ok() } else { None }
    }

    /// The clocks of this machine.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The last epoch of a partition before this process opened its log: attempts of that epoch and
    /// of earlier ones ended with the process that ran them.
    ///
    /// # Errors
    /// [`NodeError`] when the metadata cannot be read.
    pub(crate) fn lost_through(&self, partition: PartitionId) -> Result<Epoch, NodeError> {
        match &self.shared {
            Some(shared) => shared.lost_through(partition),
            None => Ok(last_epoch(&*self.own, partition)?),
        }
    }

    /// Whether others change the partition table: nodes of this process or of a cluster.
    pub(crate) fn table_is_shared(&self) -> bool {
        self.shared.is_some() || self.metadata.is_shared()
    }

    /// The log and metadata, if they are shared with other nodes of this process.
    pub(crate) fn shared(&self) -> Option<&SharedLog> {
        self.shared.as_ref()
    }

    pub(crate) fn set_capacity(&self, capacity: Capacity) {
        // Set once, before any partition starts.
        let _ = self.capacity.set(capacity);
    }

    fn the_capacity(&self) -> Capacity {
        self.capacity.get().cloned().unwrap_or_default()
    }

    pub(crate) fn capacity_mode(&self) -> CapacityMode {
        if self.the_capacity().is_limited() {
            CapacityMode::Leased
        } else {
            CapacityMode::Unlimited
        }
    }

    pub(crate) fn capacity(&self, partition: PartitionId) -> CapacityClient {
        self.the_capacity().client(partition)
    }

    pub(crate) fn join_capacity(
        &self,
        partition: PartitionId,
        limiter: &Ref<LimiterMessage>,
        running: u32,
    ) {
        self.the_capacity().join(partition, limiter, running);
    }

    /// This many handlers of a partition without a limiter have not stopped.
    pub(crate) fn leave_capacity(&self, partition: PartitionId, running: u32) {
        self.slots.leave(partition);
        self.the_capacity().leave(partition, running);
    }

    /// One of them has stopped.
    pub(crate) fn return_capacity(&self, partition: PartitionId) {
        self.the_capacity().stopped(partition);
    }

    /// Maximum number of entries that run here; `u32::MAX` without a limit.
    pub(crate) fn running_max(&self) -> u32 {
        self.the_capacity().running_max()
    }

    /// Changes that maximum; `false` when there is no limit to change.
    pub(crate) fn resize_capacity(&self, running_max: u32) -> bool {
        let capacity = self.the_capacity();
        if capacity.is_limited() {
            capacity.resize(running_max);
        }
        capacity.is_limited()
    }

    /// A new limiter can be inspected.
    pub(crate) fn limiter_started(&self, partition: PartitionId, looks: Ref<Look<Limiter>>) {
        self.limiters.insert(partition, looks);
    }

    pub(crate) fn limiter_stopped(&self, partition: PartitionId) {
        self.limiters.remove(&partition);
    }

    pub(crate) fn report_role(&self, partition: PartitionId, role: Role) {
        let kind = role_event(partition, &role);
        self.status.send_modify(|status| {
            let before = status.get(&partition).and_then(|status| status.stopped.clone());
            status.insert(partition, PartitionStatus { role, stopped: before });
        });
        if self.events.has_readers() {
            self.events.publish(Event { at: self.clock.now().0, kind });
        }
    }

    /// Its actors are running (again); it follows.
    pub(crate) fn report_started(&self, partition: PartitionId) {
        self.status.send_modify(|status| {
            let started = PartitionStatus { role: Role::Follower, stopped: None };
            status.insert(partition, started);
        });
    }

    pub(crate) fn report_stopped(&self, partition: PartitionId, reason: String) {
        self.status.send_modify(|status| {
            let stopped = Some(reason);
            status.insert(partition, PartitionStatus { role: Role::Follower, stopped });
        });
    }

    /// The node's capacity was restarted. Every partition led here gives up its leadership and runs
    /// again, because its limiter holds slots of a pool that is gone; the others report their
    /// running attempts.
    pub(crate) fn capacity_is_new(&self) {
        let replicas = self.replicas_here();
        let capacity = self.the_capacity();
        capacity.await_all(replicas.iter().map(|(partition, _)| *partition).collect());
        for (partition, replica) in replicas {
            if !replica.partition.address.send(PartitionInput::TellCapacity) {
                // It is gone, and its handlers will be gone soon.
                capacity.leave(partition, 0);
            }
            let reason = "the node's capacity died".to_owned();
            replica.supervisor.address.send(LeadershipInput::Refused { reason, fenced_by: None });
        }
    }

    /// The node is dropped without a shutdown: pending questions to it, perhaps from other nodes,
    /// are answered, and nothing here keeps its rows open.
    pub(crate) fn abandon(&self) {
        if let Some(shared) = &self.shared {
            shared.leave(self.node);
        }
        let gone: BTreeSet<PartitionId> =
            self.replicas.iter().map(|replica| *replica.key()).collect();
        for partition in gone {
            self.replies.answer_all_of(partition, &Answer::LostLeadership);
        }
        self.replicas.clear();
    }

    /// Storage failed under a partition: it stops with this reason.
    pub(crate) fn stop_failed(&self, partition: PartitionId, reason: &str) {
        tracing::error!(%partition, reason, "the partition stops");
        if let Some(replica) = self.replicas.get(&partition) {
            replica.partition.stop();
        }
        self.partition_gone(partition, reason);
    }

    /// The partition's actor is gone: pending questions to it are answered.
    pub(crate) fn partition_gone(&self, partition: PartitionId, reason: &str) {
        let known = self.status(partition).and_then(|status| status.stopped);
        let reason = known.unwrap_or_else(|| {
            self.report_stopped(partition, reason.to_owned());
            reason.to_owned()
        });
        self.replies.answer_all_of(partition, &Answer::StorageFailed(reason));
    }

    pub(crate) fn forget(&self, partition: PartitionId) {
        self.replicas.remove(&partition);
        self.limiters.remove(&partition);
        self.shuffles.remove(&partition);
        self.gauges.remove(&partition);
        self.rule_books.forget(partition);
        self.status.send_modify(|status| {
            status.remove(&partition);
        });
    }

    pub(crate) fn status(&self, partition: PartitionId) -> Option<PartitionStatus> {
        self.status.borrow().get(&partition).cloned()
    }

    pub(crate) fn watch_status(&self) -> watch::Receiver<HashMap<PartitionId, PartitionStatus>> {
        self.status.subscribe()
    }

    /// `reported`: the last reported gauges; most messages change none of them.
    pub(crate) fn observe_partition(
        &self,
        partition: PartitionId,
        machine: &Partition,
        reported: &mut Option<PartitionGauges>,
    ) {
        let stale = machine.stale();
        let gauges = PartitionGauges {
            applied: machine.applied(),
            active_vqueues: machine.active_vqueues(),
            waiting_vqueues: machine.waiting_vqueues(),
            stale: stale.vqueue + stale.attempt,
            is_draining: machine.is_draining(),
            counts: machine.counts(),
        };
        if *reported == Some(gauges) {
            return;
        }
        if machine.phase() != Phase::Following || !self.gauges.contains_key(&partition) {
            self.gauges.insert(partition, gauges);
            *reported = Some(gauges);
        }
    }

    pub(crate) fn gauges(&self, partition: PartitionId) -> PartitionGauges {
        self.gauges.get(&partition).map(|gauges| *gauges).unwrap_or_default()
    }
}
