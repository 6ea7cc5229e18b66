//! Who asks, and what they were given: clients (vqueues that wait, or hold permits
//! that they have not handed over) and permits.
//!
//! Must always hold: a permit's serial is never given twice; a permit that was not
//! handed over is in its client's list, any other in none.

use forebay_messages::{
    Timestamp, VQueueHandle, VQueueId,
    actor::{Acquire, LockWish},
};

use crate::machine::Map;

use super::{
    counter::CounterIndex,
    list::{Linked, Links, List},
    slab::{Index, Slab},
};

pub(super) type ClientIndex = Index<Client>;
pub(super) type PermitIndex = Index<Permit>;

/// The order in which clients came to wait. Never given twice.
pub(super) type Ticket = u64;

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nothing.
    No,
    /// Its vqueue's lock: it is in that lock's list.
    Lock,
    /// A counter or capacity: it is in the list of the counter it lives at.
    Counter,
}

/// An active vqueue that waits or holds permits it has not handed over.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) handle: VQueueHandle,
    pub(super) vqueue: VQueueId,
    /// The deepest counter of its name.
    pub(super) home: CounterIndex,
    pub(super) waits: Waits,
    /// What it waits for, in permits.
    pub(super) count: u32,
    pub(super) wish: LockWish,
    /// Since when it waits.
    pub(super) since: Timestamp,
    pub(super) ticket: Ticket,
    pub(super) links: Links<Self>,
    /// Permits that were granted and not handed over.
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
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) slab: Slab<Client>,
    pub(super) by_handle: Map<VQueueHandle, ClientIndex>,
}

impl Clients {
    pub(super) fn find(&self, handle: VQueueHandle) -> Option<ClientIndex> {
        self.by_handle.get(&handle).copied()
    }

    pub(super) fn insert(&mut self, ask: &Acquire, home: CounterIndex) -> ClientIndex {
        let handle = ask.handle;
        let index = self.slab.insert(Client {
            handle,
            vqueue: ask.vqueue,
            home,
            waits: Waits::No,
            count: ask.count,
            wish: ask.lock,
            since: Timestamp::default(),
            ticket: 0,
            links: Links::default(),
            granted: List::default(),
        });
        self.by_handle.insert(handle, index);
        index
    }

    pub(super) fn remove(&mut self, index: ClientIndex) {
        let client = self.slab.remove(index);
        self.by_handle.remove(&client.handle);
    }
}

/// The right to run one entry.
#[derive(Debug)]
pub(super) struct Permit {
    pub(super) serial: u64,
    pub(super) home: CounterIndex,
    /// Whom it was granted to, until it is handed over.
    pub(super) client: Option<ClientIndex>,
    /// The vqueue whose lock was taken with it.
    pub(super) lock: Option<VQueueId>,
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

/// The permits that are held, by serial.
#[derive(Debug, Default)]
pub(super) struct Permits {
    pub(super) slab: Slab<Permit>,
    by_serial: Map<u64, PermitIndex>,
    last_serial: u64,
}

impl Permits {
    /// The serial that the next permit gets.
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
    ) -> PermitIndex {
        self.last_serial += 1;
        let serial = self.last_serial;
        let index =
            self.slab.insert(Permit { serial, home, client, lock, links: Links::default() });
        self.by_serial.insert(serial, index);
        index
    }

    pub(super) fn remove(&mut self, index: PermitIndex) -> Permit {
        let permit = self.slab.remove(index);
        self.by_serial.remove(&permit.serial);
        permit
    }
}
