//! Acquiring permits, and withdrawing a request.

use forebay_messages::{
    VQueueHandle,
    actor::{Acquire, LockWish},
};

use super::{
    Effects, Limiter,
    client::{ClientIndex, Waits},
};

impl Limiter {
    /// Grants permits at once if possible; otherwise the client waits.
    pub(super) fn acquire(&mut self, mut ask: Acquire, effects: &mut Effects) {
        assert!(ask.count > 0, "{:?} asks for no permits", ask.handle);
        if ask.lock != LockWish::None {
            ask.count = 1;
        }
        let index = match self.clients.find(ask.handle) {
            None => self.admit(ask),
            Some(index) => {
                let client = &mut self.clients.slab[index];
                assert_eq!(client.vqueue, ask.vqueue, "one handle asks for two vqueues");
                (client.count, client.wish) = (ask.count, ask.lock);
                if client.waits != Waits::No {
                    return self.ask_again(index);
                }
                index
            }
        };
        let client = &mut self.clients.slab[index];
        client.since = self.now;
        let home = client.home;
        if self.locks.blocks(client.vqueue, client.wish) {
            return self.wait_for_lock(index);
        }
        if self.is_paused(&self.clients.slab[index]) {
            return self.wait_for_rules(index);
        }
        let client = &self.clients.slab[index];
        let slots = self.free_slots(client);
        if slots == 0 {
            return self.wait_for_slot(index);
        }
        // With capacity to spare no group is ready, so this overtakes no client.
        let free = self.lease.free().min(slots);
        let count = client.count.min(free).min(self.counters.room(home, self.now));
        if count > 0 {
            return self.grant(index, count, effects);
        }
        self.wait_for_counters(index);
        self.counters.update_ready(&self.clients.slab, home, self.now);
    }

    fn admit(&mut self, ask: Acquire) -> ClientIndex {
        let last = self.clients.last_home(&ask);
        let home = self.counters.home(&ask.name, last, &self.rules, self.now);
        self.counters.hold(home.index);
        self.clients.insert(ask, home)
    }

    /// A waiting client changed its request. It keeps its place, unless its lock request moves it
    /// to the other side of the lock.
    fn ask_again(&mut self, index: ClientIndex) {
        let client = &self.clients.slab[index];
        let (home, blocked) = (client.home, self.locks.blocks(client.vqueue, client.wish));
        match (client.waits, blocked) {
            (Waits::Lock, false) => {
                self.stop_waiting(index);
                self.wait_for_rules(index);
            }
            (Waits::Counter | Waits::Service | Waits::Slot, true) => {
                self.stop_waiting(index);
                self.wait_for_lock(index);
            }
            _ => return,
        }
        self.counters.update_ready(&self.clients.slab, home, self.now);
    }

    /// Takes a client out of the list it waits in. The caller updates the ready clients there.
    pub(super) fn stop_waiting(&mut self, index: ClientIndex) {
        let client = &mut self.clients.slab[index];
        match client.waits {
            Waits::No => {}
            Waits::Counter => self.counters.unqueue(&mut self.clients.slab, index),
            Waits::Service => {
                client.waits = Waits::No;
                let paused = self.pauses.get_mut(&client.name.service);
                let paused = paused.expect("a service with waiters is paused");
                paused.waiters.remove(&mut self.clients.slab, index);
            }
            Waits::Slot => {
                client.waits = Waits::No;
                self.slots.unqueue(&mut self.clients.slab, index);
            }
            Waits::Lock => {
                client.waits = Waits::No;
                let lock = self.locks.held.get_mut(&client.vqueue);
                let lock = lock.expect("a lock with waiters is held");
                lock.waiters.remove(&mut self.clients.slab, index);
            }
        }
    }

    /// Drops a client's request and takes back the permits it did not hand over.
    pub(super) fn withdraw(&mut self, handle: VQueueHandle, effects: &mut Effects) {
        let Some(index) = self.clients.find(handle) else { return };
        let home = self.clients.slab[index].home;
        if self.clients.slab[index].waits != Waits::No {
            self.stop_waiting(index);
            self.counters.update_ready(&self.clients.slab, home, self.now);
        }
        // Removing the last permit removes the client.
        let permits: Vec<_> = self.clients.slab[index].granted.iter(&self.permits.slab).collect();
        if permits.is_empty() {
            self.dismiss(index);
        }
        for permit in permits {
            self.stats.withdrawn += 1;
            self.give_back(permit, None, effects);
        }
    }

    /// Forgets a client that neither waits nor holds permits.
    pub(super) fn dismiss(&mut self, index: ClientIndex) {
        let client = &self.clients.slab[index];
        let home = client.home;
        assert!(
            client.waits == Waits::No && client.granted.is_empty(),
            "{client:?} still waits or holds permits"
        );
        self.clients.remove(index);
        self.counters.release_hold(home, self.now);
    }
}
