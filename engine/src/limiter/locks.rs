//! Locks of vqueues with an object key: one holder each, waiters first in, first out.
//!
//! Must always hold: a free lock has no record; a client that waits for a lock cannot take it now.
//! When a lock is freed, all its waiters proceed to their counters (two incarnations of one vqueue
//! at most, in practice): the first one that gets a permit takes the lock, the others return. Must
//! not know: counters, capacity.

use forebay_messages::{EntryId, Timestamp, VQueueId, actor::LockWish};

use crate::machine::Map;

use super::{
    client::{Client, ClientIndex},
    list::List,
    slab::Slab,
};

/// The holder of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// The holder of this permit. `kept`: the entry that had kept the lock and runs under this
    /// permit; a permit that is returned unused leaves the lock to it.
    Permit { serial: u64, kept: Option<EntryId> },
    /// An entry that kept it from an earlier attempt and holds no permit.
    Entry(EntryId),
}

#[derive(Debug)]
pub(super) struct Lock {
    pub(super) holder: Holder,
    /// Since when it has been held.
    pub(super) since: Timestamp,
    pub(super) waiters: List<Client>,
}

/// The locks that are held.
#[derive(Debug, Default)]
pub(super) struct Locks {
    pub(super) held: Map<VQueueId, Lock>,
}

impl Locks {
    /// Whether a lock cannot be taken now.
    pub(super) fn blocks(&self, vqueue: VQueueId, wish: LockWish) -> bool {
        let holder = match wish {
            LockWish::None => return false,
            LockWish::Take | LockWish::Held(_) => self.held.get(&vqueue).map(|lock| lock.holder),
        };
        match (holder, wish) {
            (None, _) => false,
            (Some(Holder::Entry(holder)), LockWish::Held(entry)) => holder != entry,
            (Some(_), _) => true,
        }
    }

    /// An entry already holds the lock when the limiter starts.
    pub(super) fn seed(&mut self, vqueue: VQueueId, holder: Holder, now: Timestamp) {
        let lock = Lock { holder, since: now, waiters: List::default() };
        self.held.insert(vqueue, lock);
    }

    /// An entry holds a lock that may not have been in the seed.
    pub(super) fn learn(&mut self, vqueue: VQueueId, entry: EntryId, now: Timestamp) {
        if !self.held.contains_key(&vqueue) {
            self.seed(vqueue, Holder::Entry(entry), now);
        }
    }

    /// A permit takes the lock, which must be possible.
    pub(super) fn take(&mut self, vqueue: VQueueId, wish: LockWish, serial: u64, now: Timestamp) {
        assert!(!self.blocks(vqueue, wish), "the lock of {vqueue} was taken while it is held");
        match self.held.get_mut(&vqueue) {
            Some(lock) => {
                let Holder::Entry(entry) = lock.holder else {
                    unreachable!("only an entry's own lock does not block it");
                };
                lock.holder = Holder::Permit { serial, kept: Some(entry) };
            }
            None => self.seed(vqueue, Holder::Permit { serial, kept: None }, now),
        }
    }

    /// The permit with this serial is returned; `keep` holds the lock from now on, otherwise (with
    /// an unused permit) the entry that had kept it before. Clients that can proceed now are
    /// appended to `woken`.
    pub(super) fn give_back(
        &mut self,
        vqueue: VQueueId,
        permit: u64,
        keep: Option<EntryId>,
        unused: bool,
        woken: &mut Woken<'_>,
    ) {
        let Some(lock) = self.held.get_mut(&vqueue) else { return };
        let Holder::Permit { serial, kept } = lock.holder else { return };
        if serial != permit {
            return;
        }
        match keep.or(kept.filter(|_| unused)) {
            None => self.free(vqueue, woken),
            Some(entry) => {
                lock.holder = Holder::Entry(entry);
                let keeps = |client: &Client| client.wish == LockWish::Held(entry);
                woken.take_from(&mut lock.waiters, keeps);
            }
        }
    }

    /// An entry that kept the lock ended. A lock held by another is unchanged.
    pub(super) fn free_of(&mut self, vqueue: VQueueId, entry: EntryId, woken: &mut Woken<'_>) {
        let Some(lock) = self.held.get_mut(&vqueue) else { return };
        match &mut lock.holder {
            Holder::Entry(holder) if *holder == entry => self.free(vqueue, woken),
            // The permit is still held: the lock is freed when the permit is returned.
            Holder::Permit { kept, .. } if *kept == Some(entry) => *kept = None,
            _ => {}
        }
    }

    fn free(&mut self, vqueue: VQueueId, woken: &mut Woken<'_>) {
        let lock = self.held.remove(&vqueue);
        let mut lock = lock.expect("the lock was found just now");
        woken.take_from(&mut lock.waiters, |_| true);
    }
}

/// Collects clients that waited for a lock and can proceed.
pub(super) struct Woken<'a> {
    pub(super) clients: &'a mut Slab<Client>,
    /// Empty (and not allocated) most of the time.
    pub(super) indices: Vec<ClientIndex>,
}

impl Woken<'_> {
    fn take_from(&mut self, waiters: &mut List<Client>, keeps: impl Fn(&Client) -> bool) {
        let mut at = waiters.front();
        while let Some(index) = at {
            at = waiters.after(self.clients, index);
            if keeps(&self.clients[index]) {
                waiters.remove(self.clients, index);
                self.indices.push(index);
            }
        }
    }
}
