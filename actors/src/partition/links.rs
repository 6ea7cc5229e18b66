//! The addresses of the actors of one partition, which share a thread.
//!
//! Must always hold: only the partition's performer spawns and stops vqueues and the shuffle, only
//! the supervisor's the limiter.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use forebay_engine::{
    leadership::LeadershipInput,
    partition::{machine::PartitionInput, read, store::Read},
    shuffle::ShuffleInput,
};
use forebay_messages::{
    VQueueHandle,
    actor::{Acquire, LimiterMessage, Permits, VQueueMessage},
};
use forebay_storage::partition::PartitionStore;

use crate::shell::{Child, Ref};

/// An active vqueue, in the slot of its handle.
type ActiveVQueue = (VQueueHandle, Child<VQueueMessage>);

/// The addresses of a partition's actors.
#[derive(Default)]
pub(crate) struct Links {
    partition: RefCell<Option<Ref<PartitionInput>>>,
    supervisor: RefCell<Option<Ref<LeadershipInput>>>,
    limiter: RefCell<Option<Child<LimiterMessage>>>,
    /// Limiters that were started and wait for their seed, in the order in which the partition will
    /// be asked to seed them.
    started: RefCell<VecDeque<Child<LimiterMessage>>>,
    vqueues: RefCell<Vec<Option<ActiveVQueue>>>,
    shuffle: RefCell<Option<Child<ShuffleInput>>>,
    /// The limiter was not seeded with all locks.
    looks_up_locks: Cell<bool>,
}

impl Links {
    pub(crate) fn set_partition(&self, address: Ref<PartitionInput>) {
        *self.partition.borrow_mut() = Some(address);
    }

    pub(crate) fn set_supervisor(&self, address: Ref<LeadershipInput>) {
        *self.supervisor.borrow_mut() = Some(address);
    }

    /// Sends to the partition; ignored before it exists.
    pub(crate) fn to_partition(&self, input: PartitionInput) {
        if let Some(partition) = &*self.partition.borrow() {
            partition.send(input);
        }
    }

    pub(crate) fn to_supervisor(&self, input: LeadershipInput) {
        if let Some(supervisor) = &*self.supervisor.borrow() {
            supervisor.send(input);
        }
    }

    /// Sends to the limiter. The message is dropped if no limiter is seeded: the next one is seeded
    /// from the state at that time.
    pub(crate) fn to_limiter(&self, message: LimiterMessage) {
        if let Some(limiter) = &*self.limiter.borrow() {
            limiter.address.send(message);
        }
    }

    /// The limiter is seeded with all locks, or they are looked up for each request.
    pub(crate) fn set_looks_up_locks(&self, looks_up: bool) {
        self.looks_up_locks.set(looks_up);
    }

    /// Sends a request to the limiter, after the lock that it is about if the limiter may not know
    /// it.
    pub(crate) fn acquire(&self, store: &PartitionStore, ask: Acquire) -> Read<()> {
        if self.looks_up_locks.get()
            && let Some(held) = read::lock_of(store, ask.vqueue, ask.lock)?
        {
            self.to_limiter(held);
        }
        self.to_limiter(LimiterMessage::Acquire(ask));
        Ok(())
    }

    /// A limiter was started; it gets no messages before its seed.
    pub(crate) fn limiter_started(&self, limiter: Child<LimiterMessage>) {
        self.started.borrow_mut().push_back(limiter);
    }

    /// Installs the limiter that was started first (even if it has died since: its successor has
    /// its own request to be seeded).
    pub(crate) fn place_limiter(&self) -> Option<Ref<LimiterMessage>> {
        let limiter = self.started.borrow_mut().pop_front()?;
        let address = limiter.address.clone();
        if let Some(before) = self.limiter.borrow_mut().replace(limiter) {
            before.stop();
        }
        Some(address)
    }

    /// Stops the limiter, and limiters that wait for their seed.
    pub(crate) fn stop_limiter(&self) {
        let started = self.started.take();
        for limiter in started.into_iter().chain(self.limiter.take()) {
            limiter.stop();
        }
    }

    pub(crate) fn put_vqueue(&self, handle: VQueueHandle, child: Child<VQueueMessage>) {
        let mut vqueues = self.vqueues.borrow_mut();
        let slot = handle.slot as usize;
        if vqueues.len() <= slot {
            vqueues.resize_with(slot + 1, || None);
        }
        vqueues[slot] = Some((handle, child));
    }

    /// Passes permits to a vqueue, or to the partition if the vqueue has no actor.
    pub(crate) fn grant(&self, handle: VQueueHandle, permits: Permits) {
        let vqueues = self.vqueues.borrow();
        match vqueues.get(handle.slot as usize) {
            Some(Some((present, child))) if *present == handle => {
                child.address.send(VQueueMessage::Granted(permits));
            }
            _ => {
                drop(vqueues);
                self.to_partition(PartitionInput::Granted { handle, permits });
            }
        }
    }

    /// Sends to a vqueue if that incarnation is the current one.
    pub(crate) fn to_vqueue(&self, handle: VQueueHandle, message: VQueueMessage) {
        if let Some(Some((present, child))) = self.vqueues.borrow().get(handle.slot as usize)
            && *present == handle
        {
            child.address.send(message);
        }
    }

    pub(crate) fn stop_vqueue(&self, handle: VQueueHandle) {
        let mut vqueues = self.vqueues.borrow_mut();
        if let Some(place) = vqueues.get_mut(handle.slot as usize)
            && place.as_ref().is_some_and(|(present, _)| *present == handle)
            && let Some((_, child)) = place.take()
        {
            child.stop();
        }
    }

    /// Sends to the shuffle; gives the message back if there is none.
    pub(crate) fn to_shuffle(&self, input: ShuffleInput) -> Result<(), ShuffleInput> {
        match &*self.shuffle.borrow() {
            None => Err(input),
            Some(shuffle) => {
                // If it has died, its partition steps down.
                shuffle.address.send(input);
                Ok(())
            }
        }
    }

    pub(crate) fn has_shuffle(&self) -> bool {
        self.shuffle.borrow().is_some()
    }

    pub(crate) fn put_shuffle(&self, shuffle: Child<ShuffleInput>) {
        *self.shuffle.borrow_mut() = Some(shuffle);
    }

    pub(crate) fn stop_shuffle(&self) {
        if let Some(shuffle) = self.shuffle.take() {
            shuffle.stop();
        }
    }

    /// Stops all actors: the partition ends.
    pub(crate) fn stop_all(&self) {
        self.stop_limiter();
        self.stop_shuffle();
        for (_, child) in self.vqueues.borrow_mut().drain(..).flatten() {
            child.stop();
        }
    }
}
