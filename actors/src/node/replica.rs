//! One replica of a partition on its thread: the partition and its supervisor, started together
//! and, after a panic of either, rebuilt together from the rows.
//!
//! Must always hold: after a panic all pending questions are answered and every handler is asked to
//! stop before the replica is rebuilt, which waits for handlers that have not stopped; more
//! restarts than allowed leave it stopped for a while, and callers get the reason.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
};

use forebay_engine::{
    leadership::{BACKOFF_MAX_MS, Leadership, LeadershipInput, Restarts, Role},
    partition::{
        machine::{Answer, Partition, PartitionConfig, PartitionInput, VQueueLimits},
        state::PartitionState,
    },
    rules::BookVersion,
};
use forebay_messages::{Epoch, Lsn, Timestamp};
use forebay_storage::{log::LogError, partition::PartitionStore};
use tokio::sync::oneshot;

use crate::{
    error::NodeError,
    executor::Executor,
    log_writer::{Done, LogCommand, LogHandle, Subscription, WRITER_GONE},
    partition::{
        PartitionPerformer,
        links::Links,
        refill::RefillPool,
        supervisor::{SupervisorPerformer, look_at_lease},
        vqueue::VQueueShared,
    },
    peers::ReplicaRows,
    registry::{Registry, ReplicaHandle},
    shell::{Death, OnDeath, Ref, SteadyClock, World},
    table::Row,
};

/// Name of the actor that died, for display.
const PARTITION: &str = "the partition";

/// The parts of a replica that survive its actors.
pub(crate) struct Replica {
    pub(crate) row: Row,
    pub(crate) store: PartitionStore,
    pub(crate) log: LogHandle,
    pub(crate) executor: Arc<Executor>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) refill: Arc<RefillPool>,
    pub(crate) dispatches: bool,
    pub(crate) vqueues: VQueueLimits,
    pub(crate) outbox_per_target_max: usize,
    /// The last epoch before this process: its attempts ended with another process.
    pub(crate) lost_through: Epoch,
    /// Sent to the supervisor once everything is applied.
    pub(crate) stands: LeadershipInput,
}

impl Replica {
    /// The partition stops and no other actor replaces it: its handlers stop too, and return their
    /// slots of the node's capacity then.
    fn leave(&self) {
        let Self { row, executor, registry, .. } = self;
        let running = executor.abort_range(row.range());
        registry.leave_capacity(row.id, running);
        if running > 0 {
            let idle = executor.range_idle(row.range());
            let (registry, id) = (Arc::clone(registry), row.id);
            executor.host().spawn_as("leave", async move {
                idle.await;
                registry.leave_capacity(id, 0);
            });
        }
    }
}

/// A replica with the state of its thread.
struct LocalReplica {
    replica: Replica,
    /// This thread with the partition's time.
    world: World,
    clock: Arc<SteadyClock>,
    restarts: RefCell<Restarts>,
}

/// Starts a replica on this thread; `sender` is used when it has applied the log.
pub(crate) fn start(
    world: &World,
    replica: Replica,
    state: PartitionState,
    sender: oneshot::Sender<Result<(), NodeError>>,
) {
    let source = Arc::clone(replica.registry.clock());
    let clock = Arc::new(SteadyClock::new(source, state.latest_time()));
    let (world, restarts) = (world.with_clock(Arc::clone(&clock) as _), RefCell::default());
    let local = Rc::new(LocalReplica { replica, world, clock, restarts });
    local.spawn(state, move |replayed| {
        // The node may have stopped waiting.
        let _ = sender.send(replayed.map_err(NodeError::from));
    });
}

impl LocalReplica {
    /// Starts the actors of a replica over rows with this state.
    fn spawn(
        self: &Rc<Self>,
        state: PartitionState,
        replayed: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        let Replica { row, registry, store, .. } = &self.replica;
        let (id, applied, epoch) = (row.id, state.applied_lsn, state.leader_epoch);
        let links = Rc::new(Links::default());
        let progress = Arc::new(AtomicU64::new(applied.0));
        let clock = &self.clock;
        clock.raise(state.latest_time());
        let is_over = Rc::new(Cell::new(false));
        let config = PartitionConfig {
            node: registry.node,
            key_first: row.first,
            key_last: row.last,
            dispatches: self.replica.dispatches,
            vqueues: self.replica.vqueues,
            incarnation: registry.incarnation,
            outbox_per_target_max: self.replica.outbox_per_target_max,
            record_len_max: registry.record_len_max,
        };
        let performer = self.partition_performer(state, &links, &progress);
        let on_death = self.on_death(PARTITION, &is_over);
        // Attempts of a previous actor. They were aborted.
        let left = self.replica.executor.list(row.range());
        let machine = Partition::new(config, applied).with_stopping(left.clone());
        let partition = self.world.spawn("partition", machine, performer, on_death);
        self.replica.executor.hand_over(&left, &partition.address);
        let performer = SupervisorPerformer {
            partition: id,
            world: self.world.clone(),
            links: Rc::clone(&links),
            log: self.replica.log.clone(),
            registry: Arc::clone(registry),
        };
        let on_death = self.on_death("its supervisor", &is_over);
        let machine = Leadership::new(registry.node, epoch);
        let supervisor = self.world.spawn("supervisor", machine, performer, on_death);
        links.set_partition(partition.address.clone());
        links.set_supervisor(supervisor.address.clone());
        let (address, orders) = (partition.address.clone(), supervisor.address.clone());
        let replica = ReplicaHandle {
            rows: ReplicaRows {
                range: row.range(),
                store: store.clone(),
                clock: Arc::clone(clock),
            },
            partition: Arc::new(partition),
            supervisor: Arc::new(supervisor),
        };
        registry.replicas.insert(id, replica);
        registry.report_started(id);
        look_at_lease(&self.world, registry, id, &orders);
        self.subscribe(applied, progress, address, orders, replayed);
    }

    fn partition_performer(
        &self,
        state: PartitionState,
        links: &Rc<Links>,
        progress: &Arc<AtomicU64>,
    ) -> PartitionPerformer {
        let Replica { row, store, log, executor, registry, refill, .. } = &self.replica;
        let vqueues = Rc::new(VQueueShared {
            links: Rc::clone(links),
            store: store.clone(),
            refill: Arc::clone(refill),
            timers: self.world.timers().clone(),
        });
        PartitionPerformer {
            id: row.id,
            world: self.world.clone(),
            clock: Arc::clone(&self.clock),
            warned_ahead: false,
            time_floor: state.latest_time(),
            links: Rc::clone(links),
            store: store.clone(),
            state,
            log: log.clone(),
            executor: executor.clone(),
            host: executor.host().clone(),
            registry: Arc::clone(registry),
            vqueues,
            lost_through: self.replica.lost_through,
            wake: None,
            upkeep: None,
            progress: Arc::clone(progress),
            reported: None,
            reported_rules: BookVersion::default(),
            applied: Vec::new(),
        }
    }

    /// Subscribes to the records that the rows lack; then the replica stands for leadership.
    fn subscribe(
        &self,
        after: Lsn,
        applied: Arc<AtomicU64>,
        to: Ref<PartitionInput>,
        orders: Ref<LeadershipInput>,
        replayed: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        let (partition, node) = (self.replica.row.id, self.replica.registry.node);
        let stands = self.replica.stands.clone();
        let done: Done<()> = Box::new(move |result| {
            if result.is_ok() {
                orders.send(stands);
            }
            replayed(result);
        });
        // Weak: the writer of a shared log does not keep that log open.
        let registry = Arc::downgrade(&self.replica.registry);
        let lost = Box::new(move |error: LogError| {
            if let Some(registry) = registry.upgrade() {
                registry.stop_failed(partition, &error.to_string());
            }
        });
        let subscription = Subscription { partition, node, after, applied, to, done, lost };
        if !self.replica.log.send(LogCommand::Subscribe(subscription)) {
            self.replica.registry.stop_failed(partition, WRITER_GONE);
        }
    }

    fn on_death(self: &Rc<Self>, who: &'static str, is_over: &Rc<Cell<bool>>) -> OnDeath {
        let (local, is_over) = (Rc::clone(self), Rc::clone(is_over));
        Box::new(move |death| match death {
            Death::Panicked(reason) if !is_over.replace(true) => {
                local.died(&format!("{who} panicked: {reason}"));
            }
            Death::Stopped if who == PARTITION && !is_over.get() => {
                local.replica.leave();
                let id = local.replica.row.id;
                local.replica.registry.partition_gone(id, "it was stopped");
            }
            _ => {}
        })
    }

    /// An actor panicked: the rest of the replica is stopped, and it is rebuilt.
    fn died(self: &Rc<Self>, reason: &str) {
        let Replica { row, registry, executor, .. } = &self.replica;
        let id = row.id;
        tracing::error!(partition = %id, reason, "a replica is rebuilt");
        if let Some(replica) = registry.replicas.get(&id).map(|replica| replica.clone()) {
            replica.supervisor.stop();
            replica.partition.stop();
        }
        let running = executor.abort_range(row.range());
        registry.leave_capacity(id, running);
        if let (Some(shared), Some(Role::Candidate { epoch } | Role::Leader { epoch, .. })) =
            (registry.shared(), registry.status(id).map(|status| status.role))
        {
            shared.free(id, epoch);
        }
        registry.replies.answer_all_of(id, &Answer::LostLeadership);
        let now = self.world.clock().now();
        if self.restarts.borrow_mut().may_restart(now) {
            return self.rebuild();
        }
        let reason = format!("{reason}; too often in a short time: it is started again in 10 s");
        registry.partition_gone(id, &reason);
        let local = Rc::clone(self);
        self.world.timers().set(Timestamp(now.0 + BACKOFF_MAX_MS), move || local.rebuild());
    }

    fn rebuild(self: &Rc<Self>) {
        let Replica { row, registry, store, .. } = &self.replica;
        let id = row.id;
        if !registry.replicas.contains_key(&id) {
            // It was dropped, or the node is gone.
            return;
        }
        match PartitionState::load(store) {
            Ok(state) => {
                let registry = Arc::clone(registry);
                self.spawn(state, move |replayed| {
                    if let Err(error) = replayed {
                        registry.stop_failed(id, &error.to_string());
                    }
                });
            }
            Err(error) => registry.partition_gone(id, &error.to_string()),
        }
    }
}
