//! What the actors of all partitions share on a node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use dashmap::DashMap;
use forebay_engine::{
    leadership::{LeadershipInput, Role},
    limiter::{CapacityMode, Limiter},
    partition::{
        machine::{Answer, Partition, PartitionInput, Phase},
        rows::FsmSlot,
        store::Rows,
    },
};
use forebay_messages::{
    Epoch, Lsn, NodeId, PartitionId,
    actor::LimiterMessage,
    command::{Command, UpsertRuleBook},
};
use forebay_storage::{
    metadata::{MetaKey, MetadataError, MetadataStore, last_epoch, next_epoch},
    partition::PartitionStore,
};
use rustc_hash::FxBuildHasher;
use tokio::sync::watch;

use crate::{
    access::replies::Replies,
    capacity::{Capacity, CapacityClient},
    cluster::SharedLog,
    error::NodeError,
    rules::publish::RuleBooks,
    shell::{Child, Clock, Look, Ref, SteadyClock},
    table::KeyRange,
    unserved::Unserved,
};

/// How a partition is, for people and for whoever waits for it to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Its role.
    pub role: Role,
    /// Why it stopped, when it did.
    pub stopped: Option<String>,
}

/// Numbers of a partition, as of its last message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionGauges {
    /// LSN of the last applied record.
    pub applied: Lsn,
    /// Vqueues that are active.
    pub active_vqueues: usize,
    /// Vqueues that wait for a permit and have no actor.
    pub waiting_vqueues: usize,
    /// Messages that came too late.
    pub stale: u64,
    /// Attempts of earlier leaders are on their way back.
    pub is_draining: bool,
}

/// Gives out epochs.
pub(crate) struct Epochs {
    metadata: Arc<dyn MetadataStore>,
}

impl Epochs {
    pub(crate) fn next(
        &self,
        partition: PartitionId,
        above: Epoch,
    ) -> Result<Epoch, MetadataError> {
        next_epoch(&*self.metadata, partition, above)
    }
}

/// One partition as the node reaches it.
#[derive(Clone)]
pub(crate) struct PartitionEntry {
    pub(crate) range: KeyRange,
    pub(crate) address: Ref<PartitionInput>,
    pub(crate) store: PartitionStore,
    /// The partition's time.
    pub(crate) clock: Arc<SteadyClock>,
    /// The partition and its supervisor, to be stopped.
    pub(crate) actors: Arc<(Child<PartitionInput>, Child<LeadershipInput>)>,
}

/// What the actors of all partitions share on a node.
pub(crate) struct NodeServices {
    pub(crate) node: NodeId,
    clock: Arc<dyn Clock>,
    pub(crate) replies: Arc<Replies>,
    pub(crate) epochs: Epochs,
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) partitions: DashMap<PartitionId, PartitionEntry, FxBuildHasher>,
    gauges: DashMap<PartitionId, PartitionGauges, FxBuildHasher>,
    status: watch::Sender<HashMap<PartitionId, PartitionStatus>>,
    capacity: OnceLock<Capacity>,
    /// The limiters of the partitions led here, to be looked at.
    limiters: DashMap<PartitionId, Ref<Look<Limiter>>, FxBuildHasher>,
    shared: Option<SharedLog>,
    /// Largest record that the log takes, in bytes as stored.
    pub(crate) record_len_max: usize,
    pub(crate) rule_books: RuleBooks,
    /// What waits for a handler.
    pub(crate) unserved: Unserved,
    /// Held while a rule book is changed, so that this node does not race itself.
    pub(crate) rules_changing: Mutex<()>,
}

impl NodeServices {
    pub(crate) fn new(
        node: NodeId,
        clock: Arc<dyn Clock>,
        metadata: Arc<dyn MetadataStore>,
        shared: Option<SharedLog>,
        record_len_max: usize,
    ) -> Self {
        Self {
            node,
            clock,
            replies: Arc::default(),
            epochs: Epochs { metadata: Arc::clone(&metadata) },
            metadata,
            partitions: DashMap::default(),
            gauges: DashMap::default(),
            status: watch::Sender::default(),
            capacity: OnceLock::new(),
            limiters: DashMap::default(),
            shared,
            record_len_max,
            rule_books: RuleBooks::default(),
            unserved: Unserved::default(),
            rules_changing: Mutex::new(()),
        }
    }

    /// The clocks of this machine.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The last epoch of a partition before this process opened its log: attempts of that
    /// epoch and of earlier ones ended with the process that ran them.
    ///
    /// # Errors
    /// [`NodeError`] when the metadata cannot be read.
    pub(crate) fn lost_through(&self, partition: PartitionId) -> Result<Epoch, NodeError> {
        match &self.shared {
            Some(shared) => shared.lost_through(partition),
            None => Ok(last_epoch(&*self.metadata, partition)?),
        }
    }

    /// The log and metadata that other nodes of this process use too.
    pub(crate) fn shared(&self) -> Option<&SharedLog> {
        self.shared.as_ref()
    }

    pub(crate) fn set_capacity(&self, capacity: Capacity) {
        // A node sets it once, before any partition starts.
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

    /// So many handlers of a partition without a limiter have not stopped.
    pub(crate) fn leave_capacity(&self, partition: PartitionId, running: u32) {
        self.the_capacity().leave(partition, running);
    }

    /// One of them has.
    pub(crate) fn return_capacity(&self, partition: PartitionId) {
        self.the_capacity().stopped(partition);
    }

    /// Most entries that run here at once; `u32::MAX` without a limit.
    pub(crate) fn running_max(&self) -> u32 {
        self.the_capacity().running_max()
    }

    /// So many may from now on; `false` when there is no limit to change.
    pub(crate) fn resize_capacity(&self, running_max: u32) -> bool {
        let capacity = self.the_capacity();
        if capacity.is_limited() {
            capacity.resize(running_max);
        }
        capacity.is_limited()
    }

    /// A fresh limiter may be looked at.
    pub(crate) fn limiter_started(&self, partition: PartitionId, looks: Ref<Look<Limiter>>) {
        self.limiters.insert(partition, looks);
    }

    pub(crate) fn limiter_stopped(&self, partition: PartitionId) {
        self.limiters.remove(&partition);
    }

    pub(crate) fn limiter(&self, partition: PartitionId) -> Option<Ref<Look<Limiter>>> {
        self.limiters.get(&partition).map(|looks| looks.clone())
    }

    pub(crate) fn report_role(&self, partition: PartitionId, role: Role) {
        self.status.send_modify(|status| {
            let before = status.get(&partition).and_then(|status| status.stopped.clone());
            status.insert(partition, PartitionStatus { role, stopped: before });
        });
    }

    /// Its actors are there (again); it follows.
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

    /// The node's capacity was made anew. Every partition led here gives its leadership up
    /// and runs again, for its limiter was leased slots by somebody who is gone; the others
    /// say what runs of them.
    pub(crate) fn capacity_is_new(&self) {
        let partitions: BTreeMap<PartitionId, PartitionEntry> =
            self.partitions.iter().map(|entry| (*entry.key(), entry.value().clone())).collect();
        let capacity = self.the_capacity();
        capacity.await_all(partitions.keys().copied().collect());
        for (partition, entry) in partitions {
            if !entry.address.send(PartitionInput::TellCapacity) {
                // It is gone, and so are its handlers soon.
                capacity.leave(partition, 0);
            }
            let reason = "the node's capacity died".to_owned();
            entry.actors.1.address.send(LeadershipInput::Refused { reason, fenced_by: None });
        }
    }

    /// The node is gone without a word: whoever still waits for it, on another node
    /// perhaps, is answered, and nothing here keeps its rows open.
    pub(crate) fn abandon(&self) {
        if let Some(shared) = &self.shared {
            shared.leave(self.node);
        }
        let gone: BTreeSet<PartitionId> =
            self.partitions.iter().map(|entry| *entry.key()).collect();
        for partition in gone {
            self.replies.answer_all_of(partition, &Answer::LostLeadership);
        }
        self.partitions.clear();
    }

    /// Storage failed under a partition: it stops, and says why.
    pub(crate) fn stop_failed(&self, partition: PartitionId, reason: &str) {
        tracing::error!(%partition, reason, "the partition stops");
        if let Some(entry) = self.partitions.get(&partition) {
            entry.actors.0.stop();
        }
        self.partition_gone(partition, reason);
    }

    /// The partition's actor is gone: whoever still waits for it is answered.
    pub(crate) fn partition_gone(&self, partition: PartitionId, reason: &str) {
        let known = self.status(partition).and_then(|status| status.stopped);
        let reason = known.unwrap_or_else(|| {
            self.report_stopped(partition, reason.to_owned());
            reason.to_owned()
        });
        self.replies.answer_all_of(partition, &Answer::StorageFailed(reason));
    }

    pub(crate) fn forget(&self, partition: PartitionId) {
        self.partitions.remove(&partition);
        self.limiters.remove(&partition);
        self.gauges.remove(&partition);
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

    /// `told` is what was told last: most messages change nothing of it.
    pub(crate) fn observe_partition(
        &self,
        partition: PartitionId,
        machine: &Partition,
        told: &mut Option<PartitionGauges>,
    ) {
        let stale = machine.stale();
        let gauges = PartitionGauges {
            applied: machine.applied(),
            active_vqueues: machine.active_vqueues(),
            waiting_vqueues: machine.waiting_vqueues(),
            stale: stale.vqueue + stale.attempt,
            is_draining: machine.is_draining(),
        };
        if *told == Some(gauges) {
            return;
        }
        if machine.phase() != Phase::Following || !self.gauges.contains_key(&partition) {
            self.gauges.insert(partition, gauges);
            *told = Some(gauges);
        }
    }

    pub(crate) fn gauges(&self, partition: PartitionId) -> PartitionGauges {
        self.gauges.get(&partition).map(|gauges| *gauges).unwrap_or_default()
    }

    /// Proposes the newest rule book to a partition that has just begun to lead, if it
    /// is not the one it has.
    pub(crate) fn publish_rule_book(&self, partition: PartitionId) {
        let Some(entry) = self.partitions.get(&partition).map(|entry| entry.clone()) else {
            return;
        };
        let newest = match self.metadata.get(&MetaKey::rule_book()) {
            Ok(Some(found)) => found.value,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%partition, %error, "the rule book cannot be read");
                return;
            }
        };
        let present = entry.store.fsm(FsmSlot::RuleBook).ok();
        if present.flatten().as_ref() == Some(&newest) {
            return;
        }
        drop(self.propose_book_to(partition, &entry, newest));
    }

    pub(crate) fn lock_rules(&self) -> std::sync::MutexGuard<'_, ()> {
        self.rules_changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command that brings a rule book to a partition.
pub(crate) fn upsert_rule_book(range: KeyRange, rule_book: bytes::Bytes) -> Command {
    let (key_first, key_last) = range;
    Command::UpsertRuleBook(UpsertRuleBook { key_first, key_last, rule_book })
}
