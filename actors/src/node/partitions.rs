//! Starting and stopping partitions.

use std::{rc::Rc, sync::Arc};

use forebay_engine::{
    leadership::{Leadership, LeadershipInput, Role},
    partition::{
        machine::{Partition, PartitionConfig, PartitionInput},
        state::State,
    },
};
use forebay_messages::PartitionId;
use forebay_storage::partition::PartitionStore;
use tokio::sync::{Semaphore, oneshot};

use crate::{
    links::Links,
    log_writer::{LogCommand, LogHandle},
    partition::PartitionPerformer,
    shell::{Child, Death, World},
    supervisor::SupervisorPerformer,
    vqueue::VQueueShared,
};

use super::{
    Node, NodeError, NodeServices,
    ask::CREDITS_PER_PARTITION,
    services::PartitionEntry,
    table::{KeyRange, PartitionTable, Row},
};

/// What is carried to the thread that a partition is to live on.
struct Start {
    row: Row,
    store: PartitionStore,
    state: State,
    log: LogHandle,
    executor: Arc<crate::executor::Executor>,
    services: Arc<NodeServices>,
    refill: Arc<crate::refill::RefillPool>,
    dispatches: bool,
}

impl Node {
    /// Starts a partition of the table and waits until it leads.
    pub(super) async fn start_partition(&self, row: Row) -> Result<(), NodeError> {
        let store = self.store.partition(row.id)?;
        let state = State::load(&store.begin()?)?;
        let end = self.log_store.end(row.id);
        if state.applied_lsn > end {
            return Err(NodeError::StorageFailed(format!(
                "partition {} has applied LSN {}, but its log ends at {end}: records are missing; \
                 restore the log or the partition from a backup",
                row.id, state.applied_lsn
            )));
        }
        let (applied, log) = (state.applied_lsn, self.log_handle()?);
        let start = Start {
            row,
            store: store.clone(),
            state,
            log: log.clone(),
            executor: Arc::clone(&self.executor),
            services: Arc::clone(&self.services),
            refill: Arc::clone(&self.refill),
            dispatches: self.dispatches,
        };
        let (partition, supervisor) = self.spawn_actors(start).await?;
        let address = partition.address.clone();
        let range = (row.first, row.last);
        let run = supervisor.address.clone();
        let entry = PartitionEntry {
            range,
            address: address.clone(),
            store,
            actors: Arc::new((partition, supervisor)),
        };
        self.services.partitions.insert(row.id, entry);
        self.credits.insert(row.id, Arc::new(Semaphore::new(CREDITS_PER_PARTITION)));
        let (told, replayed) = oneshot::channel();
        let sent = log.send(LogCommand::Subscribe {
            partition: row.id,
            after: applied,
            to: address,
            done: Box::new(move |result| {
                // The node may have given up waiting.
                let _ = told.send(result);
            }),
        });
        if !sent {
            return Err(NodeError::ShutDown);
        }
        replayed.await.map_err(|_| NodeError::ShutDown)??;
        run.send(LeadershipInput::Run);
        self.wait_until_open(row.id).await
    }

    async fn spawn_actors(
        &self,
        start: Start,
    ) -> Result<(Child<PartitionInput>, Child<LeadershipInput>), NodeError> {
        let (sender, receiver) = oneshot::channel();
        let index = start.row.id.0 as usize;
        self.on_arbiter(index, move |world| {
            // The node may have given up waiting.
            let _ = sender.send(spawn(world, start));
        })?;
        receiver.await.map_err(|_| NodeError::ShutDown)
    }

    async fn wait_until_open(&self, partition: PartitionId) -> Result<(), NodeError> {
        let mut status = self.services.watch_status();
        let found = status
            .wait_for(|all| {
                all.get(&partition).is_some_and(|status| {
                    status.stopped.is_some()
                        || matches!(status.role, Role::Leader { open: true, .. })
                })
            })
            .await
            .map_err(|_| NodeError::ShutDown)?
            .get(&partition)
            .and_then(|status| status.stopped.clone());
        match found {
            Some(reason) => Err(NodeError::PartitionStopped { partition, reason }),
            None => Ok(()),
        }
    }

    /// Adds a partition for keys that nobody owns, and starts it.
    ///
    /// # Errors
    /// [`NodeError::RangeOverlaps`], [`NodeError::EmptyRange`] and storage errors.
    pub async fn spawn_partition(&self, range: KeyRange) -> Result<PartitionId, NodeError> {
        self.check_up()?;
        let row = self.change_table(|table| table.add(range))?;
        self.start_partition(row).await?;
        Ok(row.id)
    }

    /// Stops a partition and gives its keys free. Its rows are flushed and stay.
    ///
    /// # Errors
    /// [`NodeError::UnknownPartition`] and storage errors.
    pub async fn drop_partition(&self, partition: PartitionId) -> Result<(), NodeError> {
        self.check_up()?;
        self.change_table(|table| table.remove(partition))?;
        self.credits.remove(&partition);
        self.stop_partition(partition).await?;
        self.services.forget(partition);
        Ok(())
    }

    /// Changes the stored table and then the one in memory.
    fn change_table<T>(
        &self,
        change: impl FnOnce(&mut PartitionTable) -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        let mut present = self.table.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stored = PartitionTable::load(&*self.services.metadata)?;
        let (mut table, version) = match stored {
            Some((table, version)) => (table, Some(version)),
            None => (present.clone(), None),
        };
        let changed = change(&mut table)?;
        table.store(&*self.services.metadata, version)?;
        *present = table;
        Ok(changed)
    }
}

/// Spawns the actors of a partition on this thread.
fn spawn(world: &World, start: Start) -> (Child<PartitionInput>, Child<LeadershipInput>) {
    let Start { row, store, state, log, executor, services, refill, dispatches } = start;
    let id = row.id;
    let links = Rc::new(Links::default());
    let epoch = state.leader_epoch;
    let config = PartitionConfig {
        node: services.node,
        key_first: row.first,
        key_last: row.last,
        dispatches,
    };
    let machine = Partition::new(config, state.applied_lsn);
    let vqueues = Rc::new(VQueueShared {
        links: Rc::clone(&links),
        store: store.clone(),
        refill,
        timers: world.timers().clone(),
    });
    let performer = PartitionPerformer {
        id,
        world: world.clone(),
        links: Rc::clone(&links),
        store,
        state,
        log: log.clone(),
        executor,
        services: Arc::clone(&services),
        vqueues,
        wake: None,
        upkeep: None,
        applied: Vec::new(),
    };
    let gone = Arc::clone(&services);
    let on_death = Box::new(move |death| {
        let reason = match death {
            Death::Stopped => "it was stopped".to_owned(),
            Death::Panicked(reason) => format!("it panicked: {reason}"),
        };
        gone.partition_gone(id, &reason);
    });
    let partition = world.spawn("partition", machine, performer, on_death);
    let performer = SupervisorPerformer {
        partition: id,
        world: world.clone(),
        links: Rc::clone(&links),
        log,
        services: Arc::clone(&services),
    };
    let machine = Leadership::new(services.node, epoch);
    let led = partition.address.clone();
    let on_death = Box::new(move |death| {
        if let Death::Panicked(reason) = death {
            // Nobody could lead any more: the partition says so and goes.
            led.send(PartitionInput::StopLeading);
            services.partition_gone(id, &format!("its supervisor panicked: {reason}"));
        }
    });
    let supervisor = world.spawn("supervisor", machine, performer, on_death);
    links.set_partition(partition.address.clone());
    links.set_supervisor(supervisor.address.clone());
    (partition, supervisor)
}
