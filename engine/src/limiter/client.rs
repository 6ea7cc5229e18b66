//! Clients (vqueues that wait, or hold permits they have not handed over) and their permits.
//!
//! Must always hold: a permit's serial is never reused; a permit that was not handed over is in its
//! client's list, any other in none.

use std::sync::Arc;

use forebay_messages::{
    Generation, Timestamp, VQueueHandle, VQueueId, VQueueName,
    actor::{Acquire, LockWish},
};

use crate::machine::Map;

use super::{
    counter::{CounterIndex, Home},
    list::{Linked, Links, List},
    slab::{Index, Slab},
    slots::SlotIndex,
};

pub(super) type ClientIndex = Index<Client>;
pub(super) type PermitIndex = Index<Permit>;

/// The order in which clients began to wait. Never reused.
pub(super) type Ticket = u64;

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nothing.
    No,
    /// Its vqueue's lock: it is in that lock's list.
    Lock,
    /// Its service, which is paused: it is in that service's list.
    Service,
    /// A slot of the executors of its service: it is in that service's list.
    Slot,
    /// A counter or capacity: it is in the list of the counter it lives at.
    Counter,
}

/// An active vqueue that waits or holds permits it has not handed over.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) handle: VQueueHandle,
    pub(super) vqueue: VQueueId,
    pub(super) name: Arc<VQueueName>,
    /// The deepest counter of its name.
    pub(super) home: CounterIndex,
    pub(super) waits: Waits,
    /// How many permits it waits for.
    pub(super) count: u32,
    pub(super) wish: LockWish,
    /// Since when it waits.
    pub(super) since: Timestamp,
    pub(super) ticket: Ticket,
    pub(super) links: Links<Self>,
    /// Permits that were granted but not handed over.
    pub(super) granted: List<Permit>,
}

impl Linked for Client {
    fn links(&self) -> &Links<Self> {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.links
    }
}

/// The clients, by handle.
///
/// Handle slots are reused, and the data of a slot's vqueue is stored at the slot's number: no hash
/// lookup, no access to the vqueue's name.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) slab: Slab<Client>,
    slots: Vec<Slot>,
    /// Clients whose slot is taken by another client: overlapping incarnations.
    others: Map<VQueueHandle, ClientIndex>,
}

/// The last client of a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    vqueue: VQueueId,
    /// Its counter, which may be gone now.
    home: Home,
    client: Option<(Generation, ClientIndex)>,
}

impl Clients {
    fn slot(&self, handle: VQueueHandle) -> Option<&Slot> {
        self.slots.get(handle.slot as usize)
    }

    pub(super) fn find(&self, handle: VQueueHandle) -> Option<ClientIndex> {
        match self.slot(handle)?.client {
            Some((generation, client)) if generation == handle.generation => Some(client),
            _ => self.others.get(&handle).copied(),
        }
    }

    /// The last known counter of the requesting vqueue, if any.
    pub(super) fn last_home(&self, ask: &Acquire) -> Option<Home> {
        self.slot(ask.handle).filter(|slot| slot.vqueue == ask.vqueue).map(|slot| slot.home)
    }

    pub(super) fn insert(&mut self, ask: Acquire, home: Home) -> ClientIndex {
        let Acquire { handle, vqueue, name, count, lock: wish } = ask;
        let index = self.slab.insert(Client {
            handle,
            vqueue,
            name,
            home: home.index,
            waits: Waits::No,
            count,
            wish,
            since: Timestamp::default(),
            ticket: 0,
            links: Links::default(),
            granted: List::default(),
        });
        let number = handle.slot as usize;
        if number >= self.slots.len() {
            let nowhere = Home { stamp: 0, ..home };
            let free = Slot { vqueue: VQueueId::default(), home: nowhere, client: None };
            self.slots.resize(number + 1, free);
        }
        let slot = &mut self.slots[number];
        if slot.client.is_some() {
            self.others.insert(handle, index);
        } else {
            *slot = Slot { vqueue, home, client: Some((handle.generation, index)) };
        }
        index
    }

    /// Number of clients that can be found by handle.
    pub(super) fn found_len(&self) -> usize {
        let with_client = self.slots.iter().filter(|slot| slot.client.is_some());
        with_client.count() + self.others.len()
    }

    pub(super) fn remove(&mut self, index: ClientIndex) {
        let handle = self.slab.remove(index).handle;
        let slot = &mut self.slots[handle.slot as usize];
        if slot.client.is_some_and(|(_, client)| client == index) {
            slot.client = None;
        } else {
            self.others.remove(&handle);
        }
    }
}

/// The right to run one entry.
#[derive(Debug)]
pub(super) struct Permit {
    pub(super) serial: u64,
    pub(super) home: CounterIndex,
    /// The client it was granted to, until it is handed over.
    pub(super) client: Option<ClientIndex>,
    /// The vqueue whose lock was taken with it.
    pub(super) lock: Option<VQueueId>,
    /// The service whose slot was taken with it.
    pub(super) slot: Option<SlotIndex>,
    pub(super) links: Links<Self>,
}

impl Linked for Permit {
    fn links(&self) -> &Links<Self> {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.links
    }
}

/// The held permits, by serial.
#[derive(Debug, Default)]
pub(super) struct Permits {
    pub(super) slab: Slab<Permit>,
    by_serial: Map<u64, PermitIndex>,
    last_serial: u64,
}

impl Permits {
    /// The serial of the next permit.
    pub(super) fn next_serial(&self) -> u64 {
        self.last_serial + 1
    }

    pub(super) fn find(&self, serial: u64) -> Option<PermitIndex> {
        self.by_serial.get(&serial).copied()
    }

    pub(super) fn insert(
        &mut self,
        home: CounterIndex,
        client: Option<ClientIndex>,
        lock: Option<VQueueId>,
        slot: Option<SlotIndex>,
    ) -> PermitIndex {
        self.last_serial += 1;
        let serial = self.last_serial;
        let index =
            self.slab.insert(Permit { serial, home, client, lock, slot, links: Links::default() });
        self.by_serial.insert(serial, index);
        index
    }

    pub(super) fn remove(&mut self, index: PermitIndex) -> Permit {
        let permit = self.slab.remove(index);
        self.by_serial.remove(&permit.serial);
        permit
    }
}
